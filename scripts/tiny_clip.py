"""Make a small CLIP of our own, and pictures to tune prompts on.

    scripts/tiny_clip --out FOLDER

Renders coloured shapes with captions and trains a CLIPModel on them from nothing. FOLDER/model is
then what a hub folder is. FOLDER/{colours,shapes,warmth,outline}/{train,test}/CLASS/*.png are
pictures it has not seen, sorted in four ways; its captions named colours and shapes, but never
what is warm or cold, round or angular. Then, for example:

    python -m trainer cifar10-coop --backbone.path FOLDER/model --task.path FOLDER/warmth
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

import torch  # noqa: E402 - the checkout must be found first
from contrastive import train_clip  # noqa: E402
from shapes import LABELLINGS, write_pictures  # noqa: E402
from transformers.utils.logging import disable_progress_bar  # noqa: E402

from shared import logs  # noqa: E402
from shared.errors import UserError, run_command  # noqa: E402
from shared.settings import BackboneSettings, PromptSettings, TaskSettings  # noqa: E402
from trainer.backbones.dual_encoder import DualEncoder  # noqa: E402
from trainer.backbones.stack import stack  # noqa: E402
from trainer.search.evaluation import evaluate  # noqa: E402
from trainer.tasks import load_task  # noqa: E402

SPLITS = {"train": 48, "test": 50}
"""Pictures of each class."""
WORDS = "a picture of a"
"""Stands before the class in the texts that zero-shot accuracy is measured with."""


def main() -> int:
    """Train, write the pictures, and say how well names alone sort them."""
    parser = argparse.ArgumentParser(
        prog="scripts/tiny_clip", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("tiny_clip"), help="folder to write (default: tiny_clip)")
    parser.add_argument("--seed", type=int, default=1, help="draws pictures, captions and weights (default: 1)")
    parser.add_argument("--pictures", type=_count, default=8000, help="pictures to train on (default: 8000)")
    parser.add_argument("--steps", type=_count, default=2500, help="steps of 64 pictures (default: 2500)")
    options = parser.parse_args()
    logs.set_up()
    disable_progress_bar()
    torch.set_num_threads(1)  # more threads make tensors this small slower
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {options.out}: cannot be made: {error.strerror}") from None
    if any(options.out.iterdir()):
        raise UserError(f"--out {options.out}: there is something in it; name a new folder")
    train_clip(options.out / "model", options.pictures, options.steps, options.seed)
    for labelling in LABELLINGS:
        for number, (split, each) in enumerate(SPLITS.items(), 1):
            write_pictures(options.out / labelling / split, labelling, each, 1000 * options.seed + number)
    accuracies = [f"{labelling} {zero_shot(options.out, labelling):.0%}" for labelling in LABELLINGS]
    print(f"{options.out}: zero-shot accuracy of {WORDS!r} on {', '.join(accuracies)}")
    return 0


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 10:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 10")
    return int(text)


def zero_shot(folder: Path, labelling: str) -> float:
    """Accuracy on the test pictures of one labelling, from 0 to 1."""
    task = load_task(TaskSettings(format="image", path=str(folder / labelling)), seed=1)
    settings = BackboneSettings(path=str(folder / "model"))
    backbone = DualEncoder(settings, PromptSettings(), task.labels, torch.device("cpu"))
    test = backbone.prepare(task.test.examples, labelling, lambda: None)
    words = stack([backbone.vocabulary.embed(WORDS, max_tokens=8)])
    return evaluate(backbone.logits(words, test), task.test.targets)[0].accuracy


if __name__ == "__main__":
    run_command(main)
