"""Three models of real shapes on a GPU: steps a second against PEFT and CoOp under transformers' Trainer, and the rest.

Weights are random and texts are drawn, so nothing is downloaded. A step is that of the training loop itself. The
Trainer reads padded examples, in float32 and in bfloat16 by autocast.
"""

import argparse
import gc
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from random import Random
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import Dataset
from peft import PromptTuningConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    Qwen3Config,
    RobertaConfig,
    default_data_collator,
)
from transformers.utils.logging import disable_progress_bar

from scripts.benchmarks.scale import ROOT, open_loop, save_clip
from scripts.benchmarks.step import LARGE, STEPS, trainer_seconds, verdict
from shared.config import load
from shared.errors import UserError
from shared.settings import BackboneSettings, Settings
from trainer.backbones import choose_device, load_family
from trainer.backbones.cuda_graphs import without_graphs
from trainer.backbones.dual_encoder import EmbeddedExamples
from trainer.backbones.image_towers import looking_up
from trainer.backbones.model_options import frozen_dtype
from trainer.search.digest import DigestWriter
from trainer.search.evaluation import EncodedSplit
from trainer.search.lanes import open_lane
from trainer.search.trajectory import Trajectory
from trainer.tasks.examples import Example

LABELS = ["yes", "no"]
CLASSES = 100
TOKENS, CLIP_TOKENS = 8, 16
"""Of a prompt."""
LONGEST = 128
"""Tokens of a text, to which the other side pads."""
BATCH = 16
ROWS = STEPS * BATCH
"""One epoch is the steps of a round, so each round sees every length."""
CANDIDATES = 12
"""Of one request, scored together on `DEV` rows."""
DEV = 64
ROUNDS = 3
WARM_EPOCHS = 3
"""After which nearly all lengths have been seen, and have their graphs."""
AT_LEAST = {"float32": 8.0, "bfloat16": 3.0}
"""How many times the padded Trainer's steps a second ours are to be."""
LLM_TOKENS = 32
"""Tokens of one answer of the LLM that runs alongside."""

QWEN = {
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151_936,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}
"""Qwen3-0.6B."""
SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
SMALL_QWEN = {**QWEN, **SMALL, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 2000}


@dataclass
class Model:
    """One of the three models as both sides train it."""

    name: str
    settings: Settings
    labels: list[str]
    backbone: Any
    train: EncodedSplit
    dev: EncodedSplit
    other: Callable[[], tuple[nn.Module, Dataset]]
    """What the Trainer gets."""


def measure(options: argparse.Namespace) -> None:
    """Measure each model in turn and print whether the steps a second are what is required."""
    device = choose_device(options.device)
    if device.type == "cpu" and options.device != "cpu":
        raise UserError(
            "scripts/bench gpu: this machine has no GPU that torch can use; --device cpu --small takes the same way "
            "with tiny models, to see that it works"
        )
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UserError(
            "scripts/bench gpu: this GPU has no bfloat16, in which both sides are measured; take a newer one"
        )
    disable_progress_bar()
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"{gpu}, torch {torch.__version__}; {'tiny' if options.small else 'real'} shapes, random weights")
    peak = _matmul_peak(device, options.small)
    print(f"limit: {peak / 1e12:.2f} TFLOP/s in a product of {_dtype_name(device)} matrices", flush=True)
    with TemporaryDirectory() as folder:
        for make in (_roberta, _clip, _qwen):
            _measure_model(make(Path(folder), device, options.small), Path(folder), device, peak)
        _overlap(_roberta(Path(folder), device, options.small), Path(folder), device, options)


def _measure_model(model: Model, folder: Path, device: torch.device, peak: float) -> None:
    _reset_peak(device)
    epoch, restart = _loop(model)
    recording = _seconds(epoch, device)
    for _ in range(WARM_EPOCHS):
        epoch()
    ours_peak = _peak_memory(device)

    def kernel_by_kernel() -> None:
        with without_graphs():
            epoch()

    with FlopCounterMode(display=False, custom_mapping=_onednn_flops()) as counted:
        kernel_by_kernel()
    before = _allocated(device)
    tuned, data = model.other()
    tuned.to(device)
    ways: dict[str, Callable[[int], float]] = {
        "ours": lambda _: _seconds(epoch, device) / STEPS,
        "kernel by kernel": lambda _: _seconds(kernel_by_kernel, device) / STEPS,
    }
    for dtype in AT_LEAST:
        ways[dtype] = _trainer_way(tuned, data, folder, device, dtype == "bfloat16")
    taken: dict[str, list[float]] = {name: [] for name in ways}
    peaks: dict[str, float] = {}
    for number, (name, way) in product(range(ROUNDS), ways.items()):
        _reset_peak(device)
        taken[name].append(way(number))
        peaks[name] = _peak_memory(device) - before
    restarts = [_seconds(restart, device) for _ in range(ROUNDS)]
    ours = median(taken["ours"])
    print(f"\n{model.name}, batch {BATCH}; medians of {ROUNDS} rounds")
    print(f"  Tandem, {_dtype_name(device):18} {1 / ours:8.2f} steps/s   peak {_gib(ours_peak)}")
    if device.type == "cuda":
        print(f"  the same kernel by kernel  {1 / median(taken['kernel by kernel']):8.2f} steps/s")
        print(f"  the first epoch of {STEPS} steps, which records the graphs: {recording:.2f} s")
    for dtype in AT_LEAST:
        print(f"  Trainer, padded, {dtype:9} {1 / median(taken[dtype]):8.2f} steps/s   peak {_gib(peaks[dtype])}")
    print(f"  share of the limit: {counted.get_total_flops() / STEPS / ours / peak:.0%}")
    print(
        f"  a restart ({CANDIDATES} candidates scored on {DEV} rows, a digest, a lane opened): "
        f"{1e3 * median(restarts):.0f} ms, {median(restarts) / ours:.1f} steps"
    )
    if device.type == "cpu":
        print("  these bounds are for a GPU and real shapes:")
    for dtype, bound in AT_LEAST.items():
        verdict(
            f"  steps a second over the padded {dtype} Trainer's", median(taken[dtype]) / ours, bound, at_least=True
        )
    sys.stdout.flush()


def _loop(model: Model) -> tuple[Callable[[], None], Callable[[], None]]:
    """An epoch of the loop with one lane, and all that a restart adds to it."""
    words, tokens = model.backbone.vocabulary, model.settings.prompt.num_tokens
    generator = torch.Generator().manual_seed(1)
    starts = [words.embed(words.sample(tokens, generator), tokens) for _ in range(1 + CANDIDATES)]
    descent, _, lanes = open_loop(model.settings, model.backbone, model.train, starts[:1])
    _, evaluator, _ = open_loop(model.settings, model.backbone, model.dev, starts[:1])
    writer = DigestWriter(
        "run", "a task", model.labels, model.settings.steps, words, model.settings.prompt, model.settings.restarts
    )

    def epoch() -> None:
        for _ in range(STEPS):
            descent.step(lanes)

    def restart() -> None:
        writer.write(Trajectory(), 1, lanes[0].prompt, lanes[0].prompt.grad)
        evaluator.score(starts[1:])
        open_lane(1, starts[1], lanes[0].head, (), model.settings)

    return epoch, restart


def _trainer_way(
    tuned: nn.Module, data: Dataset, folder: Path, device: torch.device, bf16: bool
) -> Callable[[int], float]:
    def now() -> float:
        _wait(device)
        return time.perf_counter()

    options = {"bf16": bf16, "dataloader_pin_memory": device.type == "cuda"}
    return lambda number: trainer_seconds(tuned, data, default_data_collator, folder, now, number, device, **options)


# The three models


def _roberta(folder: Path, device: torch.device, small: bool) -> Model:
    config = RobertaConfig(**{**LARGE.to_dict(), **(SMALL if small else {})})
    path = _save(folder / "roberta", AutoModelForSequenceClassification, config, device)
    backbone = {"family": "encoder", "path": path, "max_tokens": LONGEST}
    settings, pairs = _settings(backbone, "text", TOKENS), _pairs(ROWS + DEV)
    examples = [Example(choices=(pair,)) for pair in pairs]

    def other() -> tuple[nn.Module, Dataset]:
        model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=len(LABELS), dtype=torch.float32)
        tuned = get_peft_model(model, PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=TOKENS))
        found = _padded(path, *zip(*pairs[:ROWS], strict=True))
        return tuned, Dataset.from_dict({**found, "labels": _targets(ROWS, len(LABELS)).tolist()})

    return _model("RoBERTa-large", settings, LABELS, "rte", examples, device, other)


def _qwen(folder: Path, device: torch.device, small: bool) -> Model:
    config = Qwen3Config(**(SMALL_QWEN if small else QWEN))
    path = _save(folder / "qwen", AutoModelForCausalLM, config, device)
    backbone = {"family": "decoder", "path": path, "max_tokens": LONGEST, "template": "{text} answer"}
    settings, texts = _settings(backbone, "text", TOKENS), [" ".join(pair) for pair in _pairs(ROWS + DEV)]
    examples = [Example(((text,),), {"text": text}) for text in texts]

    def other() -> tuple[nn.Module, Dataset]:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        tuned = get_peft_model(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=TOKENS))
        answers = [LABELS[target] for target in _targets(ROWS, len(LABELS)).tolist()]
        found = _padded(path, [f"{text} answer {word}" for text, word in zip(texts, answers, strict=False)])
        lengths = [sum(mask) for mask in found["attention_mask"]]
        labels = [
            [token if at == length - 1 else -100 for at, token in enumerate(ids)]
            for ids, length in zip(found["input_ids"], lengths, strict=True)
        ]
        return tuned, Dataset.from_dict({**found, "labels": labels})

    return _model("Causal LM of 0.6B", settings, LABELS, "text", examples, device, other)


def _clip(folder: Path, device: torch.device, small: bool) -> Model:
    path = folder / "clip"
    if not path.exists():
        save_clip(path, SMALL if small else {})
    backbone = {"family": "dual_encoder", "path": str(path), "features": None}
    settings = _settings(backbone, "image", CLIP_TOKENS)
    labels = [f"{number:03x}" for number in range(CLASSES)]
    model: Any = load_family(settings.backbone, settings.prompt, labels, "image", device)
    vectors = normalize(torch.randn(ROWS + DEV, 512, generator=torch.Generator().manual_seed(1)), dim=-1)
    targets = _targets(ROWS + DEV, CLASSES)
    train, dev = (
        EncodedSplit(EmbeddedExamples([], vectors[part].to(device)), targets[part].to(device))
        for part in (slice(ROWS), slice(ROWS, None))
    )

    def other() -> tuple[nn.Module, Dataset]:
        rows = {"vectors": vectors[:ROWS].tolist(), "labels": targets[:ROWS].tolist()}
        return CoOp(path, labels), Dataset.from_dict(rows)

    name = f"CLIP ViT-B/16, {CLASSES} classes; Trainer: CoOp's texts of 77 tokens, images encoded once on both sides"
    return Model(name, settings, labels, model, train, dev, other)


class CoOp(nn.Module):
    """A soft prompt in class texts that are padded to all 77 positions, as in CoOp's own code."""

    def __init__(self, path: Path, labels: list[str]) -> None:
        """Load a CLIP in float32."""
        super().__init__()
        self.clip = AutoModel.from_pretrained(path, dtype=torch.float32).eval().requires_grad_(False)
        tokenizer = AutoTokenizer.from_pretrained(path)
        texts = [" ".join(["x"] * CLIP_TOKENS) + f" {label} ." for label in labels]
        self.register_buffer(
            "ids", tokenizer(texts, padding="max_length", max_length=77, return_tensors="pt")["input_ids"]
        )
        self.prompt = nn.Parameter(0.02 * torch.randn(CLIP_TOKENS, self.clip.config.text_config.hidden_size))

    def forward(self, vectors: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The loss of images given by their vectors [rows, dim]."""
        table = self.clip.text_model.get_input_embeddings()
        words = table(self.ids)
        prompt = self.prompt.expand(len(words), -1, -1)
        embeds = torch.cat([words[:, :1], prompt, words[:, 1 + CLIP_TOKENS :]], dim=1)
        with looking_up(table, embeds):
            classes = normalize(self.clip.get_text_features(input_ids=self.ids).pooler_output, dim=-1)
        logits = vectors.to(classes.dtype) @ classes.T * self.clip.logit_scale.exp()
        return {"loss": cross_entropy(logits, labels), "logits": logits}


def _save(path: Path, kind: Any, config: Any, device: torch.device) -> str:
    """A model with random weights, made once, and a tokenizer of words of four letters."""
    if not path.exists():
        with torch.device(device):
            kind.from_config(config).save_pretrained(path)
        _tokenizer().save_pretrained(path)
    return str(path)


def _words() -> list[str]:
    return ["".join(letters) for letters in product("bdfg", "aeio", "klmn", "aeio")]


def _tokenizer() -> PreTrainedTokenizerFast:
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    tokens = [*special, *LABELS, "answer", *_words()]
    inner = Tokenizer(models.WordLevel({token: index for index, token in enumerate(tokens)}, "<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A </s> $B", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    names = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), special, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=inner, cls_token="<s>", sep_token="</s>", **names)


def _pairs(count: int) -> list[tuple[str, str]]:
    """Pairs of texts about as long as RTE's: 45 words in the median and ten."""
    draw, words = Random(1), _words()

    def text(length: int) -> str:
        return " ".join(draw.choices(words, k=length))

    lengths = [(min(100, max(10, int(draw.lognormvariate(3.8, 0.55)))), draw.randint(5, 15)) for _ in range(count)]
    return [(text(first), text(second)) for first, second in lengths]


def _padded(path: str, *texts: Any) -> dict[str, Any]:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(path)
    found = tokenizer(*map(list, texts), truncation=True, max_length=LONGEST, padding="max_length")
    return {name: found[name] for name in ("input_ids", "attention_mask")}


def _targets(count: int, classes: int) -> Tensor:
    return torch.randint(classes, (count,), generator=torch.Generator().manual_seed(2))


def _settings(backbone: dict[str, Any], format: str, tokens: int) -> Settings:
    values = {
        "task": {"format": format},
        "backbone": backbone,
        "prompt": {"num_tokens": tokens},
        "optimizer": {"batch_size": BATCH},
        "restarts": {"candidates": CANDIDATES},
    }
    return load(values, "scripts/bench gpu")


def _model(
    name: str,
    settings: Settings,
    labels: list[str],
    format: Any,
    examples: list[Example],
    device: torch.device,
    other: Callable[[], tuple[nn.Module, Dataset]],
) -> Model:
    backbone: Any = load_family(settings.backbone, settings.prompt, labels, format, device)
    targets = _targets(len(examples), len(labels)).to(device)
    splits = []
    for part in (slice(ROWS), slice(ROWS, None)):
        inputs = backbone.prepare(examples[part], "rows", lambda: None)
        splits.append(EncodedSplit(inputs, targets[part], backbone.lengths(inputs)))
    return Model(name, settings, labels, backbone, *splits, other)


# An LLM alongside


def _overlap(model: Model, folder: Path, device: torch.device, options: argparse.Namespace) -> None:
    """Steps a second while an LLM answers all the time, over those while it is stopped, in turns."""
    epoch, _ = _loop(model)
    epoch()
    elsewhere = "cuda:1" if torch.cuda.device_count() > 1 else "cpu"
    print(f"\n{model.name} while a causal LM of 0.6B writes without a pause, over its steps/s alone")
    for place in dict.fromkeys([str(device), elsewhere]):
        command = [sys.executable, "-m", "scripts.benchmarks.gpu", str(folder / "qwen"), place]
        llm = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        try:
            assert llm.stdout is not None
            if llm.stdout.readline() != "ready\n":
                raise AssertionError(f"the LLM on {place} did not start")
            ratios = []
            for _ in range(ROUNDS):
                rates = []
                for number in (signal.SIGSTOP, signal.SIGCONT):
                    llm.send_signal(number)
                    time.sleep(0.5)  # what it has queued on the device runs out
                    rates.append(_rate(epoch, device, options.seconds))
                ratios.append(rates[1] / rates[0])
            print(f"  LLM on {place:8} {median(ratios):.2f}   (rounds: {' '.join(f'{one:.2f}' for one in ratios)})")
        finally:
            llm.kill()
            llm.wait()


def _rate(epoch: Callable[[], None], device: torch.device, seconds: float) -> float:
    """Epochs a second over at least `seconds`."""
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        epoch()
        count += 1
    _wait(device)
    return count / (time.perf_counter() - began)


def _write_without_a_pause(path: str, device: str) -> None:
    """The LLM's process: says ready after its first answer."""
    disable_progress_bar()
    dtype = _dtype(torch.device(device))
    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=dtype).to(device).eval()
    prompt = torch.ones(1, 64, dtype=torch.long, device=device)
    options = {"max_new_tokens": LLM_TOKENS, "min_new_tokens": LLM_TOKENS, "do_sample": False, "pad_token_id": 0}
    answered = 0
    while True:
        model.generate(prompt, attention_mask=torch.ones_like(prompt), **options)
        answered += 1
        if answered == 1:
            print("ready", flush=True)


# The device


def _dtype(device: torch.device) -> torch.dtype:
    """What our weights are kept in, and so what the limit and the LLM are measured in."""
    return frozen_dtype(BackboneSettings(), device)


def _dtype_name(device: torch.device) -> str:
    return str(_dtype(device)).removeprefix("torch.")


def _matmul_peak(device: torch.device, small: bool) -> float:
    """FLOP/s of a large product in the type that our weights have."""
    side = 512 if small else 8192
    one, other = (torch.randn(side, side, device=device, dtype=_dtype(device)) for _ in range(2))

    def multiply() -> None:
        for _ in range(10):
            one @ other

    return 20 * side**3 / min(_seconds(multiply, device) for _ in range(3))


def _seconds(run: Callable[[], None], device: torch.device) -> float:
    _wait(device)
    began = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        gc.collect()  # the Trainer's objects refer to each other
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _peak_memory(device: torch.device) -> float:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0.0


def _allocated(device: torch.device) -> float:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0.0


def _gib(memory: float) -> str:
    return f"{memory / 2**30:.2f} GiB" if memory else "not measured on a processor"


def _onednn_flops() -> dict[Any, Any]:
    """How to count the products of `FrozenLinear`, which torch's counter does not know."""
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return {}

    def count(rows: Any, weight: Any, *_: Any, **__: Any) -> int:
        return int(2 * rows[0] * rows[1] * weight[0])

    return {torch.ops.mkldnn._linear_pointwise: count}


if __name__ == "__main__":
    _write_without_a_pause(*sys.argv[1:])
