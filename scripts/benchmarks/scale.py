"""Time and peak memory of a step and of scoring as classes, lanes, tokens, rows and candidates grow.

Each line is a process of its own, because memory that a process has touched once counts to its peak for good.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

START = {"classes": 50, "lanes": 1, "tokens": 4, "rows": 32, "candidates": 0}
GROWTH = {
    "classes": (10, 100, 300),
    "lanes": (2, 4),
    "tokens": (16, 32),
    "rows": (512, 8192),
    "candidates": (4, 16),
}
TARGET = {"classes": 1000, "lanes": 4, "tokens": 16, "rows": 32, "candidates": 0}


def measure(options: argparse.Namespace) -> None:
    """Measure START, then each of GROWTH, or only the sizes asked for."""
    if options.sizes:
        sizes = [{**START, **json.loads(options.sizes)}]
    else:
        sizes = [START, *({**START, axis: value} for axis, values in GROWTH.items() for value in values)]
        sizes += [TARGET] if options.target else []
    print(f"CLIP ViT-B/16's text tower, random weights, float32, {options.threads} threads")
    print("".join(f"{name:>12}" for name in [*START, "seconds", "peak MiB"]), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        save_clip(Path(folder), {})
        for each in sizes:
            given = json.dumps({**each, "folder": folder, "threads": options.threads})
            command = [sys.executable, "-m", "scripts.benchmarks.scale", given]
            done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            numbers = [str(value) for value in each.values()] + [f"{found['seconds']:.2f}", f"{found['peak']:.0f}"]
            print("".join(f"{number:>12}" for number in numbers), flush=True)


def save_clip(folder: Path, sizes: dict[str, Any]) -> None:
    """A CLIP with the text tower of ViT-B/16, or of other `sizes`, and a vision tower of one layer, which no step uses.

    Its tokens are letters.
    """
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    signs = [chr(code) for code in range(33, 127)]
    words = ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate([*signs, *(f"{sign}</w>" for sign in signs), *words])}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[])
    text = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id, **sizes}
    config = CLIPConfig(text_config=text, vision_config={"num_hidden_layers": 1, "patch_size": 16})
    for part in (CLIPModel(config), tokenizer, CLIPImageProcessorPil()):
        part.save_pretrained(folder)


def measure_one(sizes: dict[str, Any]) -> dict[str, float]:
    """Seconds of one step, or of scoring `candidates` where there are any, and this process's peak in MiB."""
    import torch

    from shared.config import load
    from shared.logs import quiet_libraries
    from trainer.backbones.dual_encoder import DualEncoder, EmbeddedExamples
    from trainer.search.evaluation import EncodedSplit

    quiet_libraries()
    torch.set_num_threads(sizes["threads"])
    values = {
        "task": {"format": "image"},
        "backbone": {"path": sizes["folder"], "family": "dual_encoder"},
        "prompt": {"num_tokens": sizes["tokens"], "init": "random"},
        "optimizer": {"batch_size": sizes["rows"]},
        "restarts": {"policy": "none"},
    }
    settings = load(values, "the benchmark")
    labels = [f"{number:03x}" for number in range(sizes["classes"])]
    backbone = DualEncoder(settings.backbone, settings.prompt, labels, torch.device("cpu"))
    rows = EmbeddedExamples([], torch.nn.functional.normalize(torch.randn(sizes["rows"], 512), dim=-1))
    split = EncodedSplit(rows, torch.randint(sizes["classes"], (sizes["rows"],)))
    starts = 0.02 * torch.randn(max(sizes["lanes"], sizes["candidates"]), sizes["tokens"], 512)
    descent, evaluator, lanes = open_loop(settings, backbone, split, list(starts[: sizes["lanes"]]))
    began = time.monotonic()
    if sizes["candidates"]:
        evaluator.score(list(starts))
    else:
        descent.step(lanes)
    seconds = time.monotonic() - began
    return {"seconds": seconds, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def open_loop(settings: Any, backbone: Any, split: Any, starts: list[Any]) -> tuple[Any, Any, Any]:
    """Descent and evaluator of a run on one split, and its lanes, which begin at `starts` [tokens, dim]."""
    from trainer.descent import Descent
    from trainer.evaluator import Evaluator
    from trainer.runs.signals import StopSignals
    from trainer.search.evaluation import EvalResult
    from trainer.search.lanes import open_lane
    from trainer.search.pool import Pool
    from trainer.search.restarts import Restarts
    from trainer.search.state import RunState
    from trainer.search.trajectory import Trajectory

    head = backbone.new_head(1)
    lanes = [open_lane(number, start, head, (), settings) for number, start in enumerate(starts)]
    restarts = Restarts(settings.restarts, settings.steps)
    state = RunState(lanes, EvalResult(0.0, 0.0), Trajectory(), restarts, Pool())
    signals = StopSignals()
    return Descent(settings, backbone, split, state, signals), Evaluator(backbone, split, state, signals), lanes


if __name__ == "__main__":
    print(json.dumps(measure_one(json.loads(sys.argv[1]))))
