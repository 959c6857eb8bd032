"""CLIP and SigLIP as dual encoder: words give what the model gives, images are encoded once or seen in random views."""

import io
import json
import shutil
from random import Random

import pytest
import torch
from conftest import ROOT
from PIL import Image
from small_clip import LABELS, save_clip, save_siglip
from torch.nn.functional import normalize
from transformers import (
    AutoModel,
    AutoTokenizer,
    CLIPImageProcessorPil,
    CLIPModel,
)

from shared.errors import UserError
from shared.settings import BackboneSettings, PromptSettings
from trainer.backbones.augment import random_view
from trainer.backbones.dual_encoder import DualEncoder
from trainer.backbones.stack import stack
from trainer.tasks.examples import Example

CIFAR = ROOT.parent / "shared" / "data" / "cifar10" / "test"


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("clip"))


def open_model(folder, labels=LABELS, prompt=None, **values):
    settings = BackboneSettings(path=str(folder), **values)
    return DualEncoder(settings, prompt or PromptSettings(), labels, torch.device("cpu"))


@torch.no_grad()
def text_features(folder, texts, **padding):
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(texts, return_tensors="pt", **padding)
    return model.get_text_features(input_ids=tokens["input_ids"]).pooler_output


def vectors_of(backbone, *words):
    return backbone.class_embeddings(stack([backbone.vocabulary.embed(text, 16) for text in words]))


TEXTS = {
    "end": lambda label: [f"a photo of the {label}.", f"cat {label}."],
    "middle": lambda label: [f"a photo {label} of the.", f"{label} cat."],
    "front": lambda label: [f"{label} a photo of the.", f"{label} cat."],
}


@pytest.mark.parametrize("position", TEXTS)
def test_a_prompt_in_words_gives_clips_own_text_features(clip_folder, position):
    backbone = open_model(clip_folder, label_position=position)
    lanes = vectors_of(backbone, "a photo of the", "cat")
    for lane in range(2):
        texts = [TEXTS[position](label)[lane] for label in LABELS]
        expected = normalize(text_features(clip_folder, texts, padding=True), dim=-1)
        torch.testing.assert_close(lanes[lane], expected, atol=1e-5, rtol=0)


def test_a_model_with_the_old_number_of_the_end_token_gives_the_same(tmp_path):
    folder = save_clip(tmp_path, eos_token_id=2)  # as OpenAI's own models say in their config
    expected = normalize(text_features(folder, ["a photo of dog.", "a photo of cat."], padding=True), dim=-1)
    torch.testing.assert_close(
        vectors_of(open_model(folder, ["dog", "cat"]), "a photo of")[0], expected, atol=1e-5, rtol=0
    )


def test_a_prompt_in_words_gives_siglips_own_text_features(tmp_path):
    folder = save_siglip(tmp_path)
    lanes = vectors_of(open_model(folder), "a photo of the", "cat")
    for prompt, lane in zip(("a photo of the", "cat"), lanes, strict=True):
        texts = [f"{prompt} {label}" for label in LABELS]
        expected = normalize(text_features(folder, texts, padding="max_length", max_length=20), dim=-1)
        torch.testing.assert_close(lane, expected, atol=1e-5, rtol=0)


def test_each_class_of_clip_reads_its_own_prompt(clip_folder):
    backbone = open_model(clip_folder, ["dog", "cat"], PromptSettings(per_class=True))
    lane = torch.cat([backbone.vocabulary.embed(words, 16) for words in ("a photo", "of the")])
    expected = normalize(text_features(clip_folder, ["a photo dog.", "of the cat."], padding=True), dim=-1)
    torch.testing.assert_close(backbone.class_embeddings(stack([lane]))[0], expected, atol=1e-5, rtol=0)


def test_only_the_prompt_learns(clip_folder):
    backbone = open_model(clip_folder)
    prompt = backbone.vocabulary.embed("a photo of", 16).requires_grad_()
    backbone.class_embeddings(stack([prompt]))[0, 0, 0].backward()
    assert prompt.grad.abs().amax(1).min() > 0
    assert not backbone.vocabulary.embeddings.requires_grad


def test_scores_are_those_of_the_model(clip_folder):
    pictures = [noise_picture(seed) for seed in range(3)]
    backbone = open_model(clip_folder)
    rows = backbone.prepare([Example(image=encoded(picture)) for picture in pictures], "pictures", lambda: None)
    scores = backbone.logits(stack([backbone.vocabulary.embed("a photo of", 16)]), rows)[0]
    model, tokenizer = CLIPModel.from_pretrained(clip_folder).eval(), AutoTokenizer.from_pretrained(clip_folder)
    tokens = tokenizer([f"a photo of {label}." for label in LABELS], padding=True, return_tensors="pt")
    pixels = CLIPImageProcessorPil.from_pretrained(clip_folder)(images=pictures, return_tensors="pt")
    with torch.no_grad():
        expected = model(input_ids=tokens["input_ids"], **pixels).logits_per_image
    torch.testing.assert_close(scores, expected, atol=1e-3, rtol=0)


def test_a_temperature_that_is_set_wins(clip_folder):
    rows, prompt = [Example(image=encoded(noise_picture(0)))], "a photo of"
    backbones = [open_model(clip_folder, temperature=value) for value in (0.5, 0.25)]
    warm, cold = (
        backbone.logits(
            stack([backbone.vocabulary.embed(prompt, 16)]), backbone.prepare(rows, "pictures", lambda: None)
        )
        for backbone in backbones
    )
    torch.testing.assert_close(2 * warm, cold)


def noise_picture(seed, size=(20, 16)):
    pixels = torch.randint(256, (size[1], size[0], 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def encoded(picture):
    buffer = io.BytesIO()
    picture.save(buffer, "png")
    return buffer.getvalue()


# Reading


@pytest.mark.skipif(not CIFAR.is_dir(), reason="the images of ../shared/data/cifar10 are not there")
def test_real_images_are_read_from_files_and_from_bytes(clip_folder):
    files = sorted(CIFAR.glob("*/*.jpg"))[::97]
    backbone, beats = open_model(clip_folder), []
    from_files = backbone.prepare([Example(image=path) for path in files], "images", lambda: beats.append(1))
    from_bytes = backbone.prepare([Example(image=path.read_bytes()) for path in files], "images", lambda: None)
    assert len(from_files) == len(files) > 5 and beats
    torch.testing.assert_close(from_files.vectors, from_bytes.vectors, atol=1e-5, rtol=0)
    assert (from_files.vectors[0] - from_files.vectors[1]).abs().max() > 1e-3


def test_any_kind_of_picture_is_read(clip_folder, tmp_path):
    picture, examples = noise_picture(1), []
    for mode, kind in (("L", "png"), ("RGBA", "png"), ("P", "gif"), ("1", "bmp"), ("CMYK", "jpeg"), ("I;16", "png")):
        path = tmp_path / f"{mode.replace(';', '')}.{kind}"
        (Image.new("I;16", (9, 9), 700) if mode == "I;16" else picture.convert(mode)).save(path)
        examples.append(Example(image=path))
    assert open_model(clip_folder).prepare(examples, "images", lambda: None).vectors.isfinite().all()


def test_an_image_processor_as_openai_saved_it_does_the_same(clip_folder, tmp_path):
    shutil.copytree(clip_folder, tmp_path / "old")
    file = tmp_path / "old" / "preprocessor_config.json"
    old = {
        key: value
        for key, value in json.loads(file.read_text()).items()
        if key.startswith(("do_", "image_m", "image_s"))
    }
    old = {key: value for key, value in old.items() if key not in ("do_rescale", "do_convert_rgb")}
    old |= {"feature_extractor_type": "CLIPFeatureExtractor", "crop_size": 16, "size": 16, "resample": 3}
    file.write_text(json.dumps(old))
    examples = [Example(image=encoded(noise_picture(seed, (30, 20)))) for seed in range(3)]
    new, same = (
        open_model(folder).prepare(examples, "images", lambda: None) for folder in (clip_folder, tmp_path / "old")
    )
    torch.testing.assert_close(new.vectors, same.vectors)


def refused(backbone, example):
    with pytest.raises(UserError) as caught:
        backbone.prepare([example], "images", lambda: None)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_that_is_not_an_image_is_refused_by_name(clip_folder, tmp_path):
    backbone = open_model(clip_folder)
    whole = encoded(noise_picture(2, (64, 64)))
    for name, content in (("text.png", b"no image"), ("cut.png", whole[:300]), ("empty.png", b"")):
        (tmp_path / name).write_bytes(content)
        assert name in refused(backbone, Example(image=tmp_path / name))
    assert "nosuch.png" in refused(backbone, Example(image=tmp_path / "nosuch.png"))
    assert "an image of 8 bytes" in refused(backbone, Example(image=b"no image"))


def test_texts_are_refused(clip_folder):
    assert "reads images" in refused(open_model(clip_folder), Example((("a dog",),)))


def test_a_label_too_long_for_clip_is_refused(tmp_path):
    folder = save_clip(tmp_path, positions=15)
    with pytest.raises(UserError, match=r"label 'fire truck' \(task.labels\).* room for 4"):
        open_model(folder, prompt=PromptSettings(num_tokens=8), labels=["dog", "fire truck"])


def test_a_folder_without_image_processor_is_refused(tmp_path):
    folder = save_clip(tmp_path)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match=r"backbone.path"):
        open_model(folder)


# Random views


def two_halves():
    """Red on the left, blue on the right."""
    picture = Image.new("RGB", (60, 40), (255, 0, 0))
    picture.paste((0, 0, 255), (30, 0, 60, 40))
    return picture


def test_views_are_crops_of_all_sizes_half_of_them_mirrored():
    views = [random_view(two_halves(), 12, Random(number)) for number in range(300)]
    assert all(view.size == (12, 12) for view in views)
    edges = [(view.getpixel((0, 6)), view.getpixel((11, 6))) for view in views]
    kept = sum(left[0] > 200 and right[2] > 200 for left, right in edges)
    mirrored = sum(left[2] > 200 and right[0] > 200 for left, right in edges)
    one_colour = sum(left == right for left, right in edges)
    assert kept > 60 and mirrored > 60 and one_colour > 30


def test_views_follow_their_draw():
    picture = noise_picture(3)
    views = [random_view(picture, 8, Random(number)).tobytes() for number in (1, 1, 2, 3)]
    assert views[0] == views[1]
    assert len(set(views)) == 3


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (400, 3)])
def test_views_of_odd_pictures_have_their_size(size):
    picture = Image.new("RGB", size)
    assert {random_view(picture, 8, Random(number)).size for number in range(20)} == {(8, 8)}


def test_training_sees_new_views_and_evaluation_the_plain_image(clip_folder):
    backbone = open_model(clip_folder, augment=True)
    examples = [Example(image=encoded(noise_picture(seed, (40, 40)))) for seed in range(4)]
    rows = backbone.prepare(examples, "images", lambda: None)
    prompt = stack([backbone.vocabulary.embed("a photo of", 16).requires_grad_()])
    batch = torch.tensor([3, 1])

    first, second = backbone.views(rows, iter([(0, batch), (1, batch)]), seed=1)
    seen = [backbone.logits(prompt, one, training=True) for one in (first, second)]
    plain = backbone.logits(prompt, rows[batch])
    torch.testing.assert_close(plain, open_model(clip_folder).logits(prompt, rows[batch]))
    for one, other in ((seen[0], seen[1]), (seen[0], plain), (seen[1], plain)):
        assert (one - other).abs().max() > 1e-3
    seen[0].sum().backward()
