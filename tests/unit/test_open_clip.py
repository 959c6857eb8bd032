"""Models of open_clip as dual encoder: parity with its own `encode_text` and `encode_image`, and what is refused."""

import io
import json
import re
import shutil

import pytest
import torch
from conftest import follow_readme, run_program, tiny_tokenizer
from PIL import Image
from small_clip import LABELS
from small_encoders import SIZES
from torch.nn.functional import normalize
from transformers import BertConfig

import trainer
from shared.errors import UserError
from shared.settings import BackboneSettings, PromptSettings, Settings
from trainer.backbones.dual_encoder import DualEncoder
from trainer.backbones.stack import stack
from trainer.command import main
from trainer.tasks.examples import Example

try:
    import open_clip
except Exception as error:  # torchvision raises RuntimeError beside another torch than its own
    open_clip, WHY = None, f"open_clip does not import: {type(error).__name__}"
else:
    WHY = ""
needs_open_clip = pytest.mark.skipif(open_clip is None, reason=WHY)

TEXT = {"context_length": 40, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
VISION = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16}
CUSTOM = {"embed_dim": 24, "vision_cfg": VISION, "custom_text": True}
SMALL = {
    "clip": {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT},
    "resnet": {"embed_dim": 24, "vision_cfg": {**VISION, "layers": [1, 1, 1, 1], "patch_size": None}, "text_cfg": TEXT},
    "end of text": {**CUSTOM, "text_cfg": {**TEXT, "pool_type": "eos", "eos_id": 49407}},
    "not causal": {**CUSTOM, "text_cfg": {**TEXT, "no_causal_mask": True, "pool_type": "last"}},
    "bert": {**CUSTOM, "text_cfg": {"context_length": 40, "hf_pooler_type": "mean_pooler", "hf_proj_type": "mlp"}},
    "coca": {
        "embed_dim": 24,
        "vision_cfg": {**VISION, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        "text_cfg": {**TEXT, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {"context_length": 40, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
        "custom_text": True,
    },
}


def save_small(folder, kind="clip"):
    """A folder as open_clip pushes it to the hub, with random weights."""
    folder.mkdir(parents=True)
    config = json.loads(json.dumps(SMALL[kind]))
    if kind == "bert":  # a text tower and a tokenizer of transformers
        tokenizer = tiny_tokenizer([*["a", "photo", "of", "the", "dog", "fire", "truck", "cat"]])
        tokenizer.save_pretrained(folder)
        BertConfig(**{**SIZES, "vocab_size": len(tokenizer)}).save_pretrained(folder)
        config["text_cfg"] |= {"hf_model_name": str(folder), "hf_tokenizer_name": str(folder)}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    torch.manual_seed(1)
    model_name = f"small-{kind.replace(' ', '-')}"
    (folder / f"{model_name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / f"{model_name}.json")
    model = open_clip.create_model(model_name, pretrained_text=False)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.startswith("text_decoder."):  # open_clip leaves some of it as it finds the memory
                torch.nn.init.normal_(value)
            elif value.ndim > 1:  # weights as small as open_clip draws them hide differences
                value.mul_(3)
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    (folder / f"{model_name}.json").unlink()
    return folder


def open_model(labels=LABELS, prompt=None, **values):
    settings = BackboneSettings(library="open_clip", features=None, **values)
    return DualEncoder(settings, prompt or PromptSettings(), labels, torch.device("cpu"))


def noise_picture(seed):
    pixels = torch.randint(256, (40, 50, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def png(picture):
    buffer = io.BytesIO()
    picture.save(buffer, "png")
    return buffer.getvalue()


@torch.no_grad()
def difference(backbone, name, weights=None):
    """The largest between our unit vectors and open_clip's own, of class texts and of images."""
    model, transform = open_clip.create_model_from_pretrained(name, weights)
    tokenizer, prompts = open_clip.get_tokenizer(name), ("a photo of the", "cat")
    end = "." if hasattr(tokenizer, "bpe_ranks") else ""  # CLIP's
    texts = [f"{prompt} {label}{end}" for prompt in prompts for label in LABELS]
    expected = normalize(model.eval().encode_text(tokenizer(texts)), dim=-1)
    found = backbone.class_embeddings(stack([backbone.vocabulary.embed(prompt, 8) for prompt in prompts]))
    pictures = [noise_picture(seed) for seed in range(3)]
    seen = normalize(model.encode_image(torch.stack([transform(picture) for picture in pictures])), dim=-1)
    ours = backbone.prepare([Example(image=png(picture)) for picture in pictures], "", int).vectors
    assert (expected[0] - expected[1]).abs().max() > 1e-3
    return max(float((found.flatten(0, 1) - expected).abs().max()), float((ours - seen).abs().max()))


@needs_open_clip
@pytest.mark.parametrize("kind", SMALL)
def test_words_and_images_give_open_clips_own_vectors(tmp_path, kind):
    folder = save_small(tmp_path / "model", kind)
    assert difference(open_model(path=str(folder)), f"local-dir:{folder}") < 1e-5


@needs_open_clip
@pytest.mark.slow
@pytest.mark.parametrize("name", ["RN50-quickgelu", "ViT-B-16"])
def test_models_of_real_size_give_open_clips_own_vectors(tmp_path, name, record_property):
    torch.manual_seed(1)
    torch.save(open_clip.create_model(name).state_dict(), tmp_path / "weights.pt")
    weights = str(tmp_path / "weights.pt")
    found = difference(open_model(hub=name, pretrained=weights), name, weights)
    record_property("difference", found)
    print(f"{name}: the vectors differ by at most {found:.1e}")
    assert found < 1e-5


@needs_open_clip
def test_a_prompt_learns_and_half_precision_and_checkpointing_give_the_same(tmp_path):
    folder, found = save_small(tmp_path / "model", "resnet"), []
    for settings in ({}, {"checkpointing": True}, {"dtype": "bfloat16"}):
        backbone = open_model(path=str(folder), **settings)
        prompt = backbone.vocabulary.embed("a photo of", 8).requires_grad_()
        rows = backbone.prepare([Example(image=png(noise_picture(1)))], "", int)
        scores = backbone.logits(stack([prompt]), rows, training=True)
        (gradient,) = torch.autograd.grad(scores[0, 0, 0], prompt)
        assert scores.dtype == gradient.dtype == torch.float32 and gradient.abs().amax(1).min() > 0
        found.append(torch.cat([scores.detach().flatten(), gradient.flatten()]))
    torch.testing.assert_close(found[1], found[0])
    torch.testing.assert_close(found[2], found[0], atol=0.1 * float(found[0].abs().max()), rtol=0.1)


@needs_open_clip
@pytest.mark.slow
def test_a_run_on_a_resnet_trains_reports_resumes_and_labels(tmp_path):
    """Of the real size, because the README that a run leaves is to work for it."""
    weights, data = tmp_path / "weights.pt", tmp_path / "data"
    torch.manual_seed(1)
    torch.save(open_clip.create_model("RN50-quickgelu").state_dict(), weights)
    for split, each in (("train", 8), ("test", 3)):
        for colour in ("red", "blue"):
            (data / split / colour).mkdir(parents=True)
            for number in range(each):
                image = Image.effect_noise((40, 40), 20 + number).convert("RGB")
                image.paste(colour, (0, 0, 40, 25))
                image.save(data / split / colour / f"{number}.png")
    run = tmp_path / "run"
    given = ["--backbone.library", "open_clip", "--backbone.hub", "RN50-quickgelu", "--backbone.pretrained", weights]
    given += ["--task.path", data, "--folder", tmp_path, "--name", "run", "--threads", "2", "--restarts.policy", "none"]
    given += [
        "--backbone.features",
        tmp_path / "features",
        "--backbone.num_workers",
        "0",
        "--optimizer.batch_size",
        "4",
    ]
    given += ["--task.shots", "4", "--task.dev_shots", "4"]
    ended = run_program(main, "cifar10-coop", *given, "--steps", "4", "--num_evals", "2")
    assert ended.status == 0, ended
    assert json.loads((run / "summary.json").read_text())["test"]["accuracy"] >= 0
    from trainer import predict
    from trainer.report.__main__ import main as report

    picture = data / "test" / "red" / "0.png"
    label = trainer.load(str(run)).predict([picture])[0].label
    said = run_program(predict.main, run, picture)
    assert said.status == 0 and said.out.startswith(label), said
    assert run_program(report, run).status == 0
    assert follow_readme(run / "best", "image.jpg", str(picture)) == str([label])


def refusal(**values):
    with pytest.raises(UserError) as caught:
        open_model(**values)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_without_the_package_one_line_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr("trainer.backbones.open_clip_towers.find_spec", lambda _: None)
    assert "pip install open-clip-torch" in refusal(hub="RN50", pretrained="openai")


@needs_open_clip
def test_names_that_open_clip_does_not_have_are_refused(tmp_path):
    assert "did you mean" in refusal(hub="RN-50", pretrained="openai")
    assert "hf-hub:OWNER/NAME" in refusal(hub="sentence-transformers/all-MiniLM-L6-v2")
    assert re.search("set backbone.pretrained to .*openai", refusal(hub="RN50"))
    assert re.search("no such file.* tag .*openai", refusal(hub="RN50", pretrained="nosuch"))
    assert "set backbone.hub to RN50-quickgelu" in refusal(hub="RN50", pretrained="openai")
    assert "remove it" in refusal(hub="hf-hub:a/b", pretrained="openai")
    assert "hf-hub:nobody/nothing" in refusal(hub="hf-hub:nobody/nothing")
    assert "backbone.path" in refusal(path=str(tmp_path / "nowhere"))
    assert "open_clip_config.json" in refusal(path=str(tmp_path))


@needs_open_clip
def test_weights_that_are_damaged_or_of_another_model_are_refused(tmp_path):
    folder = save_small(tmp_path / "model")
    weights = folder / "open_clip_pytorch_model.bin"
    other = save_small(tmp_path / "other", "not causal")
    whole = torch.load(weights)
    said = refusal(hub="RN50", pretrained=str(weights))
    assert said.startswith("backbone.hub = ") and len(said) < 700, said
    for damage in (
        lambda: weights.write_bytes(weights.read_bytes()[:1000]),
        lambda: weights.write_text("<html>not found</html>"),
        lambda: weights.write_text("version https://git-lfs.github.com/spec/v1\nsize 12"),
        lambda: torch.save([1, 2], weights),
        lambda: torch.jit.script(torch.nn.Linear(2, 2)).save(weights),  # a program, as OpenAI publishes its models
        lambda: torch.save({}, weights),
        lambda: torch.save({**whole, "token_embedding.weight": whole["token_embedding.weight"] * torch.nan}, weights),
        lambda: torch.save({name: value for name, value in whole.items() if "visual" in name}, weights),
        lambda: shutil.copy(other / weights.name, weights),
        weights.unlink,
    ):
        damage()
        said = refusal(path=str(folder))
        assert said.startswith("backbone.path = ") and len(said) < 700, said


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"quantization": "int8"}, "backbone.quantization"),
        ({"device_map": "auto"}, "backbone.device_map"),
        ({"attention": "sdpa"}, "backbone.attention"),
        ({"library": "transformers", "pretrained": "openai"}, "backbone.pretrained"),
        ({"path": "folder", "pretrained": "openai"}, "backbone.pretrained"),
        ({"family": "encoder"}, "backbone.library"),
    ],
)
def test_settings_without_effect_are_refused(given, name):
    with pytest.raises(UserError, match=rf"{name} .* has no effect .*remove it") as caught:
        Settings(recipe="cifar10-coop", backbone={"library": "open_clip", **given})
    assert "\n" not in str(caught.value)
