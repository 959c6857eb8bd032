"""Models as they come: damaged, foreign, of any architecture or type; each works as meant or is one line."""

import itertools
import json
import pickle
import re
import shutil
import struct

import pytest
import torch
from conftest import FRUIT, tiny_tokenizer
from small_clip import LABELS as CLIP_LABELS
from small_clip import save_clip
from small_decoders import TEMPLATE, bytes_tokenizer, save_small_decoder, tiny_model, write_gguf
from small_encoders import pair_tokenizer, save_small_encoder

from shared.errors import UserError
from shared.settings import BackboneSettings, PromptSettings
from trainer.backbones import load_family
from trainer.backbones.stack import stack
from trainer.tasks.examples import Example

CPU = torch.device("cpu")
FAMILIES = ["dual_encoder", "encoder", "decoder"]


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    encoder = save_small_encoder("bert", root)
    save_bert(root / "bert body")
    save_clip(root / "clip")
    decoder = save_small_decoder("llama", root)
    return {"dual_encoder": root / "bert body", "encoder": encoder, "decoder": decoder, "clip": root / "clip"}


def save_bert(folder, **config):
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    model = BertModel(BertConfig(vocab_size=22, max_position_embeddings=66, initializer_range=0.3, **sizes, **config))
    model.save_pretrained(folder)
    tiny_tokenizer(FRUIT).save_pretrained(folder)


@pytest.fixture
def copied(originals, tmp_path):
    def copy(kind):
        folder = tmp_path / "model"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(originals[kind], folder)
        return folder

    copy.folder = tmp_path / "model"
    return copy


def load(kind, folder, labels=None, **values):
    labels = labels or {"decoder": ["good", "bad"], "clip": CLIP_LABELS}.get(kind, ["apple", "plum pear"])
    settings = {"family": "dual_encoder" if kind == "clip" else kind, "path": str(folder), "max_tokens": 40, **values}
    if kind == "decoder":
        settings["template"] = TEMPLATE
    return load_family(BackboneSettings(**settings), PromptSettings(), labels, "text", CPU)


def refusal(kind, folder, **values):
    with pytest.raises(UserError) as refused:
        load(kind, folder, **values)
    line = str(refused.value)
    assert "\n" not in line and line.startswith(("backbone.path = ", "labels ", "label ")), line
    return line


def scores(model, text="apple plum"):
    head = model.new_head(1)
    rows = model.prepare([Example(((text,),), {"text": text})], "texts", lambda: None)
    return model.logits(stack([model.vocabulary.embed("apple", 4)], [head]), rows)


# The config and the weights


@pytest.mark.parametrize("kind", [*FAMILIES, "clip"])
@pytest.mark.parametrize("change", [{"vocab_size": 500}, {"max_position_embeddings": 99}, {"hidden_size": 48}])
def test_a_config_that_does_not_fit_the_weights_is_refused_by_the_name_of_the_weight(copied, kind, change):
    folder = copied(kind)
    if kind == "decoder" and "max_position_embeddings" in change:
        change = {"intermediate_size": 64}  # rotary positions have no weights
    config = json.loads((folder / "config.json").read_text())
    (config["text_config"] if kind == "clip" else config).update(change)
    (folder / "config.json").write_text(json.dumps(config))
    line = refusal(kind, folder)
    assert "config.json" in line and any(part in line for part in ("embed", "mlp", "weight")), line


@pytest.mark.parametrize("kind", [*FAMILIES, "clip"])
def test_more_layers_than_there_are_weights_are_refused(copied, kind):
    folder = copied(kind)
    config = json.loads((folder / "config.json").read_text())
    (config["text_config"] if kind == "clip" else config)["num_hidden_layers"] = 3
    config.pop("layer_types", None)
    (folder / "config.json").write_text(json.dumps(config))
    assert "lacks weights of its frozen part" in refusal(kind, folder)


@pytest.mark.parametrize("kind", [*FAMILIES, "clip"])
def test_fewer_layers_than_there_are_weights_are_refused(copied, kind):
    folder = copied(kind)
    config = json.loads((folder / "config.json").read_text())
    (config["text_config"] if kind == "clip" else config)["num_hidden_layers"] = 1
    config.pop("layer_types", None)
    (folder / "config.json").write_text(json.dumps(config))
    assert "config.json asks for fewer layers than the weights have" in refusal(kind, folder)


@pytest.mark.parametrize("kind", [*FAMILIES, "clip"])
def test_weights_that_are_not_finite_are_named(copied, kind):
    name = change_weights(copied(kind), lambda value: value.index_fill(0, torch.tensor([len(value) - 1]), torch.nan))
    assert f"{name} has values that are NaN or infinite" in refusal(kind, copied.folder)


@pytest.mark.parametrize("kind", [*FAMILIES, "clip"])
def test_whole_numbers_in_the_place_of_weights_are_refused(copied, kind):
    name = change_weights(copied(kind), lambda value: (100 * value).to(torch.int8))
    assert f"has whole numbers in {name}" in refusal(kind, copied.folder)


def change_weights(folder, change):
    """Change the embeddings of tokens in the files of a model; their name."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if re.search(r"(word_embeddings|embed_tokens|token_embedding)\.weight", name))
    save_file({**weights, name: change(weights[name]).contiguous()}, folder / "model.safetensors", {"format": "pt"})
    return name


def test_a_sentence_encoder_may_lack_the_pooler_that_nothing_reads(copied):
    from safetensors.torch import load_file, save_file

    folder = copied("dual_encoder")
    weights = load_file(folder / "model.safetensors")
    whole = scores(load("dual_encoder", folder))
    save_file(
        {name: value for name, value in weights.items() if "pooler" not in name},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    assert torch.equal(scores(load("dual_encoder", folder)), whole)


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_prompt_and_head_are_float32_whatever_the_weights_are_stored_in(copied, kind, dtype):
    from safetensors.torch import load_file, save_file

    folder = copied(kind)
    expected = scores(load(kind, folder))
    weights = {name: value.to(dtype) for name, value in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": str(dtype).removeprefix("torch.")}))
    model = load(kind, folder)
    prompt = model.vocabulary.embed("apple", 4)
    assert {prompt.dtype, *(value.dtype for value in model.new_head(1).values())} == {torch.float32}
    found = scores(model)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.5)


# Damaged files


WRONG = [None, [], {}, "x", 7, -1, [{}], {"a": 7}]


@pytest.mark.parametrize("kind", [*FAMILIES, "clip"])
def test_json_of_another_form_loads_the_same_model_or_is_one_line(copied, kind):
    folder = copied(kind)
    expected = None if kind == "clip" else scores(load(kind, folder))
    for file in sorted(folder.rglob("*.json")):
        whole = json.loads(file.read_text())
        keys = ["model", "added_tokens"] if file.name == "tokenizer.json" else sorted(whole)[:: 1 + len(whole) // 6]
        for key, wrong in zip([None, *keys], itertools.cycle(WRONG), strict=False):
            file.write_text(json.dumps(wrong if key is None else {**whole, key: wrong}))
            try:
                model = load(kind, folder)
            except UserError as error:
                assert "\n" not in str(error) and str(error).startswith("backbone.path = "), error
            else:
                assert expected is None or scores(model).shape == expected.shape
        file.write_text(json.dumps(whole))


def pointer(file):
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def no_json(file):
    file.write_text("{ no json")


def empty(file):
    file.write_bytes(b"")


def newer_tokenizer(file):
    inner = json.loads(file.read_text())
    inner["model"]["type"] = "Newer"
    file.write_text(json.dumps(inner))


DAMAGE = [
    (pointer, "model.safetensors"),
    (cut, "model.safetensors"),
    (empty, "model.safetensors"),
    (no_json, "config.json"),
    (cut, "config.json"),
    (empty, "config.json"),
    (cut, "tokenizer.json"),
    (newer_tokenizer, "tokenizer.json"),
    (no_json, "tokenizer_config.json"),
]


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize(("damage", "name"), DAMAGE)
def test_a_damaged_file_is_one_line(copied, kind, damage, name):
    folder = copied(kind)
    damage(folder / name)
    line = refusal(kind, folder)
    assert name in line or (damage is newer_tokenizer and "tokenizer" in line), line
    assert "copy" in line


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("damage", [pointer, cut, empty, lambda file: file.write_bytes(pickle.dumps({"a": print}))])
def test_a_damaged_pickle_is_one_line(copied, kind, damage):
    from safetensors.torch import load_file

    folder = copied(kind)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    damage(folder / "pytorch_model.bin")
    refusal(kind, folder)


@pytest.mark.parametrize("content", ["no json", "[]", '{"pooling_mode": "unheard of"}'])
def test_damaged_pooling_is_one_line(copied, content):
    folder = copied("dual_encoder")
    save_modules(folder)
    (folder / "1_Pooling" / "config.json").write_text(content)
    refusal("dual_encoder", folder)


def test_a_module_that_a_prompt_cannot_enter_is_one_line(copied):
    folder = copied("dual_encoder")
    save_modules(folder, kinds=["BoW"])
    (folder / "0_BoW").mkdir()
    (folder / "0_BoW" / "config.json").write_text(json.dumps({"vocab": FRUIT, "word_weights": {}}))
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = "0_BoW"
    (folder / "modules.json").write_text(json.dumps(modules[:1]))
    assert "BoW" in refusal("dual_encoder", folder)


def save_modules(folder, kinds=("Transformer", "Pooling")):
    modules = [
        {
            "idx": at,
            "name": str(at),
            "path": f"{at}_{kind}" if at else "",
            "type": f"sentence_transformers.models.{kind}",
        }
        for at, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()


@pytest.mark.parametrize("kept", [4, 20, 200, 20_000])
def test_a_gguf_file_that_is_cut_is_one_line(tmp_path, kept):
    pytest.importorskip("gguf")
    write_gguf(tmp_path / "whole.gguf", tiny_model("llama"), bytes_tokenizer())
    content = (tmp_path / "whole.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(content[:kept])
    refusal("decoder", tmp_path / "cut.gguf")
    (tmp_path / "cut.gguf").write_bytes(content[:8] + struct.pack("<Q", 2**62) + content[16:])
    refusal("decoder", tmp_path / "cut.gguf")


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "unheard-of"])
def test_quantised_weights_whose_library_is_absent_are_one_line(copied, kind, method):
    folder = copied(kind)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": method, "bits": 4, "group_size": 32, "load_in_4bit": True}
    (folder / "config.json").write_text(json.dumps(config))
    refusal(kind, folder)


@pytest.mark.parametrize("kind", FAMILIES)
def test_code_that_comes_with_a_model_is_not_run(copied, kind, capsys):
    folder = copied(kind)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "theirs", "auto_map": {"AutoConfig": "theirs.Config", "AutoModel": "theirs.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "theirs.py").write_text("raise SystemExit('was run')")
    refusal(kind, folder)
    assert capsys.readouterr().out == ""


# The tokenizer and the model


@pytest.mark.parametrize("kind", FAMILIES)
def test_added_tokens_without_embeddings_are_refused(copied, kind):
    from transformers import AutoTokenizer

    folder = copied(kind)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"newword{number}" for number in range(20)])
    tokenizer.save_pretrained(folder)
    line = refusal(kind, folder)
    assert "'newword" in line and "embeddings for" in line


@pytest.mark.parametrize("kind", ["dual_encoder", "encoder"])
def test_a_tokenizer_without_whole_words_is_refused(copied, kind):
    folder = copied(kind)
    tiny_tokenizer([f"##{word}" for word in FRUIT]).save_pretrained(folder)
    assert "is a whole word" in refusal(kind, folder)


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_tokenizer_without_padding_token_does(copied, kind):
    folder = copied(kind)
    texts = ["apple", "apple plum pear and lemon"]
    found = []
    for _ in range(2):
        model = load(kind, folder)
        rows = model.prepare([Example(((text,),), {"text": text}) for text in texts], "texts", lambda: None)
        found.append(model.logits(stack([model.vocabulary.embed("apple", 4)], [model.new_head(1)]), rows))
        config = json.loads((folder / "tokenizer_config.json").read_text())
        config.pop("pad_token", None)
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("kind", FAMILIES)
def test_texts_longer_than_the_positions_are_cut_to_fit(copied, kind):
    model = load(kind, copied(kind), max_tokens=100_000)
    assert scores(model, "apple plum " * 3000).isfinite().all()


@pytest.mark.parametrize(
    ("kind", "labels"),
    [
        *((kind, ["apple", "apple "]) for kind in FAMILIES),
        *((kind, ["plum\tpear", "plum pear", "fig"]) for kind in ("dual_encoder", "encoder")),
        *((kind, ["Apple", "apple"]) for kind in ("dual_encoder", "encoder")),
    ],
)
def test_labels_that_are_the_same_to_the_model_are_refused_by_name(copied, kind, labels):
    line = refusal(kind, copied(kind), labels=labels)
    assert repr(labels[0]) in line and repr(labels[1]) in line and "task.labels" in line


# Architectures

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 130,
}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
GROUPED = {"num_key_value_heads": 2, "head_dim": 16}
PER_LAYER = {**GROUPED, "vocab_size_per_layer_input": 400, "hidden_size_per_layer_input": 8}
DRIVEN, REFUSED = True, False
ARCHITECTURES = [
    ("dual_encoder", "longformer", {**SIZES, "attention_window": 4}, DRIVEN),
    ("encoder", "longformer", {**SIZES, "attention_window": 4}, REFUSED),
    ("encoder", "luke", {**SIZES, "entity_vocab_size": 10, "entity_emb_size": 16}, REFUSED),
    ("dual_encoder", "canine", SIZES, REFUSED),
    ("encoder", "canine", SIZES, REFUSED),
    ("dual_encoder", "fnet", SIZES, REFUSED),
    ("encoder", "fnet", SIZES, REFUSED),
    ("encoder", "nystromformer", SIZES, REFUSED),
    ("dual_encoder", "ibert", SIZES, REFUSED),
    ("encoder", "deberta-v2", SIZES, DRIVEN),
    ("encoder", "big_bird", SIZES, DRIVEN),
    ("encoder", "nomic_bert", SIZES, DRIVEN),
    ("dual_encoder", "mpnet", SIZES, DRIVEN),
    ("encoder", "modernbert", {**SIZES, "pad_token_id": 0, "bos_token_id": 3, "eos_token_id": 4}, DRIVEN),
    ("dual_encoder", "t5", {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}, DRIVEN),
    ("dual_encoder", "xlnet", {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48}, DRIVEN),
    (
        "dual_encoder",
        "funnel",
        {
            "d_model": 32,
            "block_sizes": [1, 1],
            "n_head": 4,
            "d_head": 8,
            "d_inner": 48,
            "architectures": ["FunnelModel"],
        },
        None,
    ),
    ("dual_encoder", "gemma3_text", {**SIZES, **GROUPED}, DRIVEN),
    ("decoder", "gemma3_text", {**SIZES, **GROUPED}, DRIVEN),
    ("decoder", "gemma2", {**SIZES, **GROUPED}, DRIVEN),
    ("decoder", "gemma4_text", {**SIZES, **PER_LAYER}, REFUSED),
    ("decoder", "gemma3n_text", {**SIZES, **PER_LAYER, "laurel_rank": 4, "num_kv_shared_layers": 0}, REFUSED),
    ("decoder", "falcon", {**SIZES, "alibi": True}, REFUSED),
    ("decoder", "falcon", {**SIZES, "alibi": False}, DRIVEN),
    ("decoder", "bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}, REFUSED),
    ("decoder", "opt", {**SIZES, "ffn_dim": 48, "word_embed_proj_dim": 32}, DRIVEN),
    ("decoder", "mamba", {"hidden_size": 32, "state_size": 4, "num_hidden_layers": 2}, REFUSED),
    ("decoder", "rwkv", {"hidden_size": 32, "attention_hidden_size": 32, "num_hidden_layers": 2}, REFUSED),
    ("decoder", "gptj", {**GPT, "rotary_dim": 4}, DRIVEN),
    ("decoder", "gpt_neox", SIZES, DRIVEN),
    ("decoder", "granite", {**SIZES, "num_key_value_heads": 2, "embedding_multiplier": 12.0}, DRIVEN),
    ("decoder", "mpt", {"d_model": 32, "n_layers": 2, "n_heads": 4}, None),
]


@pytest.mark.parametrize(("family", "kind", "sizes", "driven"), ARCHITECTURES)
def test_an_architecture_reads_a_prompt_of_words_as_words_or_is_refused_in_a_line(
    family, kind, sizes, driven, tmp_path
):
    import transformers

    loaders = {"dual_encoder": "AutoModel", "encoder": "AutoModelForSequenceClassification"}
    loader = getattr(transformers, loaders.get(family, "AutoModelForCausalLM"))
    tokenizer = bytes_tokenizer() if family == "decoder" else pair_tokenizer()
    torch.manual_seed(0)
    described = transformers.AutoConfig.for_model(kind, vocab_size=len(tokenizer) + 8, **sizes)
    model = loader.from_config(described)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    try:
        backbone = load(family, tmp_path, labels=["good", "not good", "bad"] if family == "decoder" else None)
    except UserError as error:
        assert driven is not DRIVEN and "\n" not in str(error) and "choose" in str(error), error
        return
    assert driven is not REFUSED
    prompt = backbone.vocabulary.embed("apple good plum", 4)
    prompt = (prompt + 0.1 * torch.randn_like(prompt)).requires_grad_()
    rows = backbone.prepare([Example(((text,),), {"text": text}) for text in ("fig", "lime date")], "x", lambda: None)
    found = backbone.logits(stack([prompt, prompt[:1]], [backbone.new_head(1)] * 2), rows)
    alone = backbone.logits(stack([prompt[:1]], [backbone.new_head(1)]), rows)
    torch.testing.assert_close(found[1], alone[0], atol=1e-4, rtol=1e-4)
    (found[0] * torch.tensor([1.0, -1.0, 0.5][: found.shape[-1]])).sum().backward()
    assert prompt.grad.isfinite().all() and prompt.grad.any()
