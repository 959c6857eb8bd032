"""A step of a dual encoder as classes and lanes grow, and what scoring, an evaluation and a digest cost."""

import argparse
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor

from scripts.benchmarks.step import CLOCKS
from shared.config import load
from shared.settings import Settings
from trainer.backbones import choose_device, load_family
from trainer.backbones.stack import stack
from trainer.search.digest import DigestWriter
from trainer.search.evaluation import evaluate, losses
from trainer.search.lanes import backward, open_lane, optimizer_step, stack_lanes, zero_grad
from trainer.search.trajectory import Trajectory
from trainer.tasks.examples import Example

CLASSES = (4, 10, 100)
TOKENS, BATCH, DEV, CANDIDATES = 8, 32, 120, 16
BOUNDS = {"2 lanes": 1.6, "4 lanes": 2.6, f"score {CANDIDATES}": 4.0, "evaluate": 2.0, "digest": 1.0}
"""Times of a step that each may take."""
SECONDS = 0.5
"""Of each way in a round, at least."""


def ways_of(classes: int, settings: Settings, device: torch.device) -> dict[str, Callable[[], Any]]:
    """What is measured, on random texts and labels of one and two words."""
    generator = torch.Generator().manual_seed(classes)
    seed = load_family(settings.backbone, settings.prompt, ["one", "two"], "text", device).vocabulary
    labels = [seed.sample(1 + number % 2, generator) for number in range(classes)]
    backbone: Any = load_family(settings.backbone, settings.prompt, labels, "text", device)
    words = backbone.vocabulary

    def texts(count: int) -> Any:
        return backbone.prepare([Example(choices=((words.sample(9, generator),),)) for _ in range(count)], "", int)

    batch, dev = texts(BATCH), texts(DEV)
    targets, dev_targets = (torch.randint(classes, (count,), generator=generator).to(device) for count in (BATCH, DEV))
    lanes = [
        open_lane(number, words.embed(words.sample(TOKENS, generator), TOKENS), {}, (), settings) for number in range(4)
    ]
    # Candidates are phrases of any length up to the prompt's.
    candidates = [
        words.embed(words.sample(3 + number % (TOKENS - 2), generator), TOKENS) for number in range(CANDIDATES)
    ]

    def step(count: int) -> None:
        zero_grad(lanes[:count])
        backward(losses(backbone.logits(stack_lanes(lanes[:count]), batch, training=True), targets))
        optimizer_step(lanes[:count], settings.optimizer.lr)

    @torch.no_grad()
    def measure(prompts: list[Tensor]) -> None:
        evaluate(backbone.logits(stack(prompts), dev), dev_targets)

    writer = DigestWriter("run", "a task", labels, 600, words, settings.prompt, settings.restarts)

    def digest() -> None:
        writer.write(Trajectory(), 1, lanes[0].prompt, lanes[0].prompt.grad)

    return {
        "a step": lambda: step(1),
        "2 lanes": lambda: step(2),
        "4 lanes": lambda: step(4),
        f"score {CANDIDATES}": lambda: measure(candidates),
        "evaluate": lambda: measure([lanes[0].prompt]),
        "digest": digest,
    }


def measure(options: argparse.Namespace) -> None:
    """Milliseconds of each, in turns within one run, and how many steps that is."""
    device = choose_device(options.device)
    values = {"backbone": {"path": options.model}, "prompt": {"num_tokens": TOKENS}}
    settings = load(values, "scripts/bench")
    every = {classes: ways_of(classes, settings, device) for classes in CLASSES}
    taken: dict[tuple[int, str], list[float]] = {(classes, name): [] for classes in CLASSES for name in every[classes]}
    for _ in range(options.rounds):
        for (classes, name), found in taken.items():
            found.append(1e3 * _seconds(every[classes][name], CLOCKS[options.clock]))
    print(f"{options.model} on {device.type}, {torch.get_num_threads()} threads, {TOKENS} prompt tokens, {BATCH} rows")
    print(f"{options.clock} time, medians of {options.rounds} rounds, and times of a step")
    for classes in CLASSES:
        one = median(taken[classes, "a step"])
        print(f"{classes:4} classes: a step {one:.1f} ms")
        for name, bound in BOUNDS.items():
            ratio = median(
                found / step for found, step in zip(taken[classes, name], taken[classes, "a step"], strict=True)
            )
            holds = "holds" if ratio <= bound else "DOES NOT HOLD"
            print(
                f"      {name:10} {median(taken[classes, name]):7.1f} ms {ratio:6.2f}, required <= {bound:g}: {holds}"
            )


def _seconds(run: Callable[[], Any], clock: Callable[[], float]) -> float:
    run()
    times, end = [], clock() + SECONDS
    while not times or clock() < end:
        began = clock()
        run()
        times.append(clock() - began)
    return median(times)
