"""A proposer process for the runs of a comparison, whose LLM may be slow."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def proposer(jobs: int, delay: int | None, extra: list[str]) -> Iterator[list[str]]:
    """An address for each of `jobs` trainers, with one proposer connected to all of them.

    Args:
        jobs: trainers at a time.
        delay: seconds that the LLM sleeps before it answers; None: no proposer is needed.
        extra: settings.

    Raises:
        UserError: the proposer ended early.
    """
    with tempfile.TemporaryDirectory() as folder:
        endpoints = [f"ipc://{folder}/bus-{job}" for job in range(jobs)]
        if delay is None:
            yield endpoints
            return
        module = ["comparison.slow_proposer", str(delay)]
        command = [sys.executable, "-m", *module, "--bus.connect", json.dumps(endpoints), *extra]
        paths = {"PYTHONPATH": f"{ROOT}:{ROOT / 'scripts'}"}
        with (Path(folder) / "log").open("w+") as output:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **paths},
                start_new_session=True,
            )
            try:
                yield endpoints
            finally:
                ended = process.poll()
                process.terminate()
                process.wait()
            if ended is not None:
                output.seek(0)
                raise UserError(f"the proposer ended during the comparison: {output.read().strip()[-500:]}")
