"""A stop while the trainer starts: quiet, with the signal's status, whatever is being imported or loaded."""

import random
import signal
import time

import pytest

from scripts.harness.processes import SMALL, Household


@pytest.mark.parametrize(
    ("number", "delay"),
    [*zip([signal.SIGTERM, signal.SIGINT] * 3, [0.2, 0.5, 1.0, 1.5, 2.5, 4.0], strict=True)],
)
def test_a_stop_while_it_starts_ends_the_trainer_quietly(tmp_path, number, delay):
    with Household(tmp_path, **SMALL, TANDEM_RESTARTS__SOURCE="vocabulary") as home:
        trainer = home.trainer("--name", "early")
        time.sleep(delay * random.uniform(0.8, 1.2))
        trainer.send(number)
        assert trainer.wait() in (128 + number, -number), trainer.text  # -: before Python reached our first line
        assert "Traceback" not in trainer.text and "error" not in trainer.text.lower()
