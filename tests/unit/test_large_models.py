"""Memory is bounded by settings, and a model is loaded as they say, whatever its family."""

import sqlite3
from contextlib import contextmanager
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
from autograd import kept_bytes
from conftest import FRUIT, make_settings
from PIL import Image
from small_clip import LABELS, save_clip
from small_decoders import decoder, prepare, save_small_decoder
from small_encoders import save_small_encoder, save_small_sentences

from shared.errors import UserError
from shared.settings import BackboneSettings, PromptSettings
from trainer.backbones import load_family
from trainer.backbones.stack import stack
from trainer.backbones.vocabulary import Vocabulary
from trainer.descent import Descent
from trainer.result.finalize import _majority
from trainer.runs.signals import StopSignals
from trainer.search.evaluation import EncodedSplit, by_example
from trainer.search.lanes import open_lane
from trainer.tasks.examples import Example, Split
from trainer.tasks.metrics import task_metrics

PAIRS = [Example(((" ".join(FRUIT[:length]), "plum"),)) for length in (1, 5, 9, 3, 16, 2, 7)]


@pytest.fixture(scope="module")
def open_family(tmp_path_factory, device):
    """A small model of a family on each device, in float32 unless settings say otherwise, with rows for it."""
    root = tmp_path_factory.mktemp("models")
    sentences = save_small_sentences(root)
    clip = save_clip(root / "clip")

    def open_one(kind, **settings):
        settings = {"dtype": "float32", **settings}
        match kind:
            case "encoder":
                path, labels, format, family = save_small_encoder("bert", root), ["yes", "no"], "rte", "encoder"
                rows = PAIRS
            case "decoder":
                model = decoder(save_small_decoder("llama", root), device=device, **settings)
                return model, prepare(model, "a good film", "bad", "a very bad film, and not at all a good one")
            case "sentences":
                path, labels, format, family = sentences, ["apple", "plum pear"], "text", "dual_encoder"
                rows = [Example(((text,),)) for text in ("apple pear", "fig", "lime lime date")]
            case _:
                path, labels, format, family = clip, LABELS, "image", "dual_encoder"
                settings = {"features": None, **settings}
                rows = [Example(image=paint(root, number)) for number in range(3)]
        values = BackboneSettings(path=str(path), family=family, **settings)
        model = load_family(values, PromptSettings(num_tokens=8), labels, format, device)
        return model, model.prepare(rows, "rows", lambda: None)

    return open_one


FAMILIES = ["encoder", "decoder", "sentences", "clip"]


def paint(folder, number):
    path = folder / f"{number}.png"
    if not path.exists():
        Image.effect_noise((20, 24), 40 + 20 * number).save(path)
    return path


def scores(model, rows, training=False, moved=0.0):
    """Scores, and the gradient of a prompt."""
    dim = model.vocabulary.embeddings.shape[1]
    prompt = 0.3 * torch.randn(4, dim, generator=torch.Generator().manual_seed(3)).to(model.device)
    prompt = (prompt + moved).requires_grad_()
    found = model.logits(stack([prompt], [model.new_head(1)]), rows, training)
    (gradient,) = torch.autograd.grad(weighted(found), prompt)
    return found.detach(), gradient


def weighted(found):
    return (found * torch.linspace(-1, 1, found.shape[-1]).to(found)).sum()


@pytest.mark.parametrize("kind", FAMILIES)
def test_each_family_loads_as_its_settings_say(open_family, kind):
    model, rows = open_family(kind)
    plain = scores(model, rows)
    for settings in ({"attention": "eager"}, {"device_map": "auto"}):
        torch.testing.assert_close(scores(*open_family(kind, **settings)), plain, atol=1e-4, rtol=1e-3)
    for dtype in ("bfloat16", *["auto"] * (model.device.type == "cuda")):
        half = scores(*open_family(kind, dtype=dtype))
        assert half[0].dtype == half[1].dtype == torch.float32
        assert not torch.equal(half[0], plain[0])
        torch.testing.assert_close(half[0], plain[0], atol=0.1 * float(plain[0].abs().max()), rtol=0.1)


@pytest.mark.parametrize("kind", FAMILIES)
def test_checkpointing_keeps_less_and_gives_the_same_gradient(open_family, kind):
    found = []
    for checkpointing in (False, True):
        model, rows = open_family(kind, checkpointing=checkpointing, cuda_graphs=False)  # which keep all out of sight
        with kept_bytes() as sizes:
            found.append((scores(model, rows, training=True), sum(sizes)))
    (plain, much), (again, little) = found
    torch.testing.assert_close(again, plain)
    assert little < 0.7 * much


@pytest.mark.parametrize("kind", FAMILIES)
def test_quantization_without_its_package_is_one_line(open_family, kind, monkeypatch):
    monkeypatch.setattr("trainer.backbones.model_options.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"backbone.quantization = 'nf4' needs the package bitsandbytes"):
        open_family(kind, quantization="nf4")


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.parametrize("quantization", ["int8", "nf4"])
@pytest.mark.parametrize("kind", FAMILIES)
def test_a_quantized_model_scores_and_learns_nearly_as_the_whole_one(open_family, kind, quantization):
    plain, gradient = scores(*open_family(kind))
    model, rows = open_family(kind, quantization=quantization)
    found, similar = scores(model, rows)
    assert found.dtype == similar.dtype == torch.float32 and not torch.equal(found, plain)
    assert (found - plain).abs().max() < {"int8": 0.5, "nf4": 3}[quantization] * plain.std()
    if quantization == "int8":
        assert torch.cosine_similarity(gradient.flatten(), similar.flatten(), dim=0) > 0.95
    else:  # of small models four bits change much, but the gradient is that of what they compute
        step = 1e-2 * similar / similar.norm()
        up, down = (weighted(scores(model, rows, moved=moved)[0]) for moved in (step, -step))
        torch.testing.assert_close((up - down) / 2e-2, similar.norm(), rtol=0.05, atol=1e-3)


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_vocabulary_is_the_models_own_table(open_family, kind):
    model, _ = open_family(kind, dtype="bfloat16")
    table = model.vocabulary.embeddings
    parts = [model._towers] if hasattr(model, "_towers") else [model]
    modules = [value for part in parts for value in vars(part).values() if isinstance(value, torch.nn.Module)]
    places = {weight.data_ptr() for module in modules for weight in module.parameters()}
    assert table.dtype == torch.bfloat16 and table.data_ptr() in places


def test_words_are_found_in_chunks_of_a_table_of_any_type(fruit, monkeypatch):
    vectors = torch.randn(9, 6, generator=torch.Generator().manual_seed(1))
    whole = [fruit.nearest(vectors, metric) for metric in ("cosine", "l2")], fruit.hotflip_candidates(vectors, 3)
    moments = fruit.moments()
    torch.testing.assert_close(moments, (fruit.embeddings.mean(0), fruit.embeddings.std()))
    for name in ("ROWS", "VECTORS"):
        monkeypatch.setattr(f"trainer.backbones.vocabulary.{name}", 4)
    chunked = Vocabulary(fruit._tokenizer, fruit.embeddings)
    found = [chunked.nearest(vectors, metric) for metric in ("cosine", "l2")], chunked.hotflip_candidates(vectors, 3)
    assert [words for words, _ in found[0]] == [words for words, _ in whole[0]] and found[1] == whole[1]
    half = Vocabulary(fruit._tokenizer, fruit.embeddings.bfloat16())
    assert half.nearest(half.vectors(list(half.words)[:5]))[0] == list(half.words.values())[:5]


@contextmanager
def counted(model):
    """The rows of each pass in training."""
    passes, logits = [], model.logits

    def count(prompts, rows, training=False):
        passes.append(len(rows))
        return logits(prompts, rows, training)

    model.logits = count
    try:
        yield passes
    finally:
        del model.logits


def step(model, rows, **optimizer):
    """A step of two lanes on all rows: their losses and prompts."""
    settings = make_settings(
        backbone={"family": "encoder"},
        optimizer={"batch_size": len(rows), "name": "sgd", "lr": 0.1, **optimizer},
        restarts={"policy": "none"},
    )
    split = EncodedSplit(rows, torch.arange(len(rows), device=model.device) % 2, model.lengths(rows))
    dim = model.vocabulary.embeddings.shape[1]
    starts = 0.3 * torch.randn(2, 4, dim, generator=torch.Generator().manual_seed(3)).to(model.device)
    lanes = [open_lane(number, start, model.new_head(1), (), settings) for number, start in enumerate(starts)]
    state = SimpleNamespace(iterations=0, lane_steps=0, lanes_per_pass=16, trajectory=SimpleNamespace(step=id))
    values = Descent(settings, model, split, state, StopSignals()).step(lanes)
    return torch.tensor(values), [lane.prompt.detach() for lane in lanes]


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_the_gradients_of_micro_batches_add_up_to_that_of_the_batch(open_family, kind):
    model, rows = open_family(kind)
    with counted(model) as passes:
        whole = step(model, rows)
        assert passes == [len(rows)]
        parts = step(model, rows, micro_batch=2)
        assert passes[1:] == [2] * (len(rows) // 2) + [len(rows) % 2]
        model._memory_positions = 60
        fitting = step(model, rows)
        assert len(passes) > 2 + len(rows) // 2
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(fitting, whole)


def test_a_thousand_class_texts_keep_no_more_than_a_chunk_of_them(open_family):
    model, _ = open_family("sentences", cuda_graphs=False)
    start = torch.randn(4, 32, generator=torch.Generator().manual_seed(1)).to(model.device)
    words = stack([start.clone().requires_grad_() for _ in range(4)])
    found = []
    for positions in (10**9, 40):
        model._positions = positions
        with kept_bytes() as sizes:
            vectors = model.class_embeddings(words)
        found.append((vectors, sum(sizes)))
    (whole, much), (parts, little) = found
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-5)
    assert little * 10 < much


def test_the_majority_class_is_counted():
    targets = torch.tensor([2, 0, 2, 1, 2, 0])
    for format in ("image", "mrpc"):
        classes = 3 if format == "image" else 2
        split = Split([Example()] * 6, targets.clamp(max=classes - 1))
        task = SimpleNamespace(format=format, labels=["x"] * classes, test=split)
        always = [task_metrics(format, torch.eye(classes)[at].expand(6, -1), split) for at in range(classes)]
        best = max(always, key=lambda found: next(iter(found.values())))
        assert _majority(SimpleNamespace(task=task)) == pytest.approx(best)


def views(model, rows, workers, seed=1, start=0):
    model.settings = model.settings.model_copy(update={"num_workers": workers})
    batches = ((number, torch.tensor([number % 3, 2])) for number in range(start, 4))
    return [one.vectors for one in model.views(rows, batches, seed)]


def test_views_are_the_same_whatever_the_number_of_workers(open_family):
    model, rows = open_family("clip", augment=True)
    plain = views(model, rows, 0)
    assert len(plain) == 4 and not torch.equal(plain[0][1], plain[1][1])  # one row in two iterations
    assert all(map(torch.equal, views(model, rows, 2), plain))
    assert all(map(torch.equal, views(model, rows, 0, start=2), plain[2:]))  # after a resume
    assert not torch.equal(views(model, rows, 0, seed=2)[0], plain[0])


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_vanished_is_one_line_from_any_process(open_family, tmp_path, workers):
    model, _ = open_family("clip", augment=True)
    rows = model.prepare([Example(image=paint(tmp_path, number)) for number in range(3)], "rows", lambda: None)
    (tmp_path / "2.png").unlink()
    with pytest.raises(UserError, match=r"2.png cannot be read as an image") as raised:
        views(model, rows, workers)
    assert "\n" not in str(raised.value)


def test_an_image_is_encoded_once_for_all_runs_until_it_changes(open_family, tmp_path):
    kept = tmp_path / "features"
    images = [Example(image=paint(tmp_path, number)) for number in range(3)]

    def encoded():
        """Images that go through the model, and their vectors."""
        model, _ = open_family("clip", features=str(kept))
        passed, encode = [], model._towers.encode
        model._towers.encode = lambda found: passed.append(len(found)) or encode(found)
        vectors = model.prepare(images, "rows", lambda: None).vectors
        return sum(passed), vectors

    first, vectors = encoded()
    again, same = encoded()
    assert (first, again) == (3, 0) and torch.equal(same, vectors)
    Image.new("RGB", (9, 9), "red").save(tmp_path / "1.png")
    changed, others = encoded()
    assert changed == 1 and torch.equal(others[0], vectors[0]) and not torch.equal(others[1], vectors[1])
    (table,) = kept.glob("*.sqlite")
    with sqlite3.connect(table) as connection:
        (count,) = connection.execute("SELECT COUNT(*) FROM features").fetchone()
    assert count > 3


def test_a_place_for_vectors_that_cannot_be_used_is_a_warning(open_family, tmp_path, caplog):
    (tmp_path / "taken").write_text("a file")
    model, rows = open_family("clip", features=str(tmp_path / "taken"))
    assert len(rows) == 3 and model._features is not None
    assert "images are encoded again" in caplog.text and (tmp_path / "taken").is_file()


def test_scores_of_many_rows_are_measured_in_parts(open_family, monkeypatch):
    model, rows = open_family("sentences")
    split = EncodedSplit(rows, torch.tensor([0, 1, 1], device=model.device))
    starts = [torch.randn(4, 32, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    words = stack([start.to(model.device) for start in starts])
    whole = by_example(model, words, split)
    sizes, classify = [], model.classify
    monkeypatch.setattr("trainer.search.evaluation.LOGITS", 4)
    monkeypatch.setattr(model, "classify", lambda vectors, part: sizes.append(len(part)) or classify(vectors, part))
    torch.testing.assert_close(by_example(model, words, split), whole)
    assert sizes == [1, 1, 1] and whole.shape == (2, 2, 3)
