"""A small CLIP trained here: it knows what captions say, and prompts teach it what they leave out."""

import json
import re
import sys
from functools import cache
from random import Random
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, follow_readme, run_program

import trainer
from shared.settings import BackboneSettings, PromptSettings, Settings, TaskSettings
from trainer import predict
from trainer.backbones.dual_encoder import DualEncoder
from trainer.backbones.stack import stack
from trainer.search.batches import batch_indices
from trainer.search.evaluation import evaluate, losses
from trainer.search.lanes import backward, open_lane, optimizer_step, stack_lanes, zero_grad
from trainer.tasks import load_task

CPU = torch.device("cpu")
SETTINGS = Settings(optimizer={"lr": 1e-2})

sys.path.append(str(ROOT / "scripts"))

import tiny_clip  # noqa: E402 - of the folder just named
from shapes import LABELLINGS, SYNONYMS, caption, examples, random_scene  # noqa: E402


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder that a short run of `scripts/tiny_clip` leaves, and what it said."""
    folder = tmp_path_factory.mktemp("tiny")
    ended = run_program(tiny_clip.main, "--out", folder, "--pictures", 1500, "--steps", 120)
    assert ended.status == 0, ended
    return folder, ended.out


@pytest.fixture(scope="module")
def tiny(made):
    """Task, model and encoded splits of one way to sort the pictures."""
    folder, _ = made

    @cache
    def load(labelling):
        task = load_task(TaskSettings(format="image", path=str(folder / labelling)), seed=1)
        backbone = DualEncoder(BackboneSettings(path=str(folder / "model")), PromptSettings(), task.labels, CPU)
        rows = {
            name: (backbone.prepare(split.examples, name, lambda: None), split.targets)
            for name, split in (("train", task.train), ("dev", task.dev), ("test", task.test))
        }
        return SimpleNamespace(task=task, backbone=backbone, **rows)

    return load


def score(context, split, *prompts):
    rows, targets = getattr(context, split)
    return evaluate(context.backbone.logits(stack(list(prompts)), rows), targets)


def words(context, text):
    return context.backbone.vocabulary.embed(text, 16)


def noise(context, seed):
    """As long as the prompts that CoOp starts at random."""
    embeddings = context.backbone.vocabulary.embeddings
    drawn = torch.randn(16, embeddings.shape[1], generator=torch.Generator().manual_seed(seed))
    return drawn * embeddings.std() + embeddings.mean(0)


def tune(context, *starts, steps=60):
    lanes = [open_lane(number, start, {}, (), SETTINGS) for number, start in enumerate(starts)]
    rows, targets = context.train
    for step in range(steps):
        batch = batch_indices(step, 16, len(rows), seed=1)
        scores = context.backbone.logits(stack_lanes(lanes), rows[batch], training=True)
        zero_grad(lanes)
        backward(losses(scores, targets[batch]))
        optimizer_step(lanes, SETTINGS.optimizer.lr)
    return [lane.prompt.detach() for lane in lanes]


def test_names_alone_sort_what_the_captions_say(tiny):
    context = tiny("colours")
    assert context.task.labels == ["blue", "cyan", "green", "orange", "pink", "purple", "red", "yellow"]
    (dealt,) = score(context, "test", words(context, "a picture of a"))
    assert dealt.accuracy > 0.6  # by chance 0.125


def test_a_tuned_prompt_sorts_what_no_caption_says(tiny):
    context = tiny("warmth")
    start = words(context, "a picture of a")
    (before,), (after,) = score(context, "test", start), score(context, "test", *tune(context, start))
    assert after.accuracy > max(0.85, before.accuracy + 0.05)


def test_words_the_model_understands_are_a_better_start_than_noise(tiny):
    context = tiny("colours")
    spoken = score(context, "dev", words(context, "a picture of a"), words(context, "this is a"))
    drawn = score(context, "dev", *(noise(context, seed) for seed in range(8)))
    assert max(one.loss for one in spoken) < sum(one.loss for one in drawn) / len(drawn)


def test_every_word_of_the_captions_is_one_token(tiny):
    vocabulary = tiny("colours").backbone.vocabulary
    said = {word for names in SYNONYMS.values() for name in names for word in name.split()}
    assert len(said) > 60
    for word in said:
        assert len(vocabulary.encode(word, 9)) == 1 and vocabulary.decode(vocabulary.encode(word, 9)) == word
    assert vocabulary.decode(vocabulary.encode("quixotic jazz", 99)) == "quixotic jazz"


def test_captions_are_true_and_never_name_the_hidden_labels():
    draw = Random(5)
    for _ in range(500):
        scene = random_scene(draw)
        said = set(caption(scene, draw).rstrip(".").split())
        for name in ("red", "blue", "circle", "star", "black", "gray"):
            if said & set(SYNONYMS[name]):
                assert name in (scene.colour, scene.shape, scene.ground)
        assert not said & {"warm", "cold", "round", "angular"}


def test_pictures_follow_the_seed():
    first, again, other = (list(examples(3, seed)) for seed in (1, 1, 2))
    assert first == again and first != other


def test_pictures_are_sorted_into_folders(made):
    classes = {"colours": 8, "shapes": 8, "warmth": 2, "outline": 2}
    assert classes.keys() == LABELLINGS.keys()
    for labelling, count in classes.items():
        for split, each in tiny_clip.SPLITS.items():
            sizes = [len(list(path.glob("*.png"))) for path in (made[0] / labelling / split).iterdir()]
            assert sizes == [each] * count


def test_training_and_test_pictures_differ(made):
    train, test = (
        {path.read_bytes() for path in (made[0] / "shapes" / split).rglob("*.png")} for split in tiny_clip.SPLITS
    )
    assert len(train) == 8 * 48 and len(test) == 8 * 50 and not train & test


def test_the_script_ends_with_one_line_of_accuracies(made):
    folder, out = made
    (line,) = out.splitlines()
    assert line.startswith(str(folder)) and all(f"{labelling} " in line for labelling in LABELLINGS)
    assert int(re.search(r"colours (\d+)%", line)[1]) > 60


@pytest.mark.parametrize("inside", [".", "model/config.json"])
def test_a_folder_that_is_taken_is_refused(made, inside):
    assert "--out" in run_program(tiny_clip.main, "--out", made[0] / inside).refused()


# What a run on it leaves


@pytest.fixture(scope="module")
def finished(made, tmp_path_factory):
    """The folder of a short run of the recipe, with pictures seen from anew at each step."""
    from trainer.command import main

    folder, root = made[0], tmp_path_factory.mktemp("finished")
    places = ["--backbone.path", folder / "model", "--task.path", folder / "warmth", "--folder", root, "--name", "run"]
    short = ["--steps", "12", "--num_evals", "2", "--restarts.policy", "none", "--threads", "1"]
    ended = run_program(main, "warmth-tinyclip", *places, *short, "--backbone.augment")
    assert ended.status == 0, ended
    return root / "run"


def test_a_run_labels_image_files_as_its_summary_says(made, finished):
    test = load_task(TaskSettings(format="image", path=str(made[0] / "warmth")), seed=1).test
    files = [example.image for example in test.examples]
    classifier = trainer.load(str(finished))
    found = [classifier.labels.index(prediction.label) for prediction in classifier.predict(files)]
    hits = sum(a == b for a, b in zip(found, test.targets.tolist(), strict=True))
    assert hits / len(found) == pytest.approx(json.loads((finished / "summary.json").read_text())["test"]["accuracy"])
    ended = run_program(predict.main, finished, *files[:3])
    assert [line.split("  ")[0] for line in ended.out.splitlines()] == [classifier.labels[at] for at in found[:3]]
    assert "nowhere.png" in run_program(predict.main, finished, "nowhere.png").refused()


def test_the_lines_next_to_the_result_label_as_it_does(made, finished):
    file = sorted((made[0] / "warmth" / "test" / "warm").iterdir())[0]
    said = follow_readme(finished / "best", "image.jpg", str(file))
    assert said == str([trainer.load(str(finished)).predict([file])[0].label])
