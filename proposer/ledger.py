"""A budget whose counts are in a file, so that they survive a restart and proposers on one host share them."""

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock
from pydantic import RootModel, ValidationError

from proposer.budget import Budget, Reservation, State
from shared.errors import UserError
from shared.settings import BudgetSettings

log = logging.getLogger(__name__)

LOCK_SECONDS = 10.0
"""A file locked by another proposer for longer cannot be used."""


class BudgetReached(Exception):
    """A limit forbids a request; the text says which."""


class Models(RootModel[dict[str, State]]):
    """The file: counts by model, as JSON."""


class Ledger:
    """Charges one model's requests. Where the file cannot be read or written, no request starts.

    Raises:
        UserError: the file is damaged or cannot be used; it is left unchanged.
    """

    def __init__(
        self, settings: BudgetSettings, path: Path, model: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._settings = settings
        self._path = path
        self._model = model
        self._clock = clock
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unusable(error) from None
        self._lock = FileLock(f"{path}.lock", timeout=LOCK_SECONDS)
        with self._budget():
            pass

    def refusal(self, run: str | None = None) -> str | None:
        """Why a request may not start, for a run or for any; None if it may."""
        try:
            return Budget(self._settings, self._read().root.get(self._model)).refusal(run, self._clock())
        except UserError as error:
            return str(error)

    def left(self, runs: Iterable[str]) -> float:
        """The smallest share left of any limit, of `runs` or within an hour; 0 where the file cannot be read."""
        try:
            return Budget(self._settings, self._read().root.get(self._model)).left(runs, self._clock())
        except UserError:
            return 0.0

    def start(self, run: str) -> Reservation:
        """Charge a request that starts now.

        Raises:
            BudgetReached: it may not.
        """
        try:
            with self._budget() as budget:
                refused = budget.refusal(run, self._clock())
                if refused:
                    raise BudgetReached(refused)
                return budget.start(run, self._clock())
        except UserError as error:
            raise BudgetReached(str(error)) from None

    def settle(self, reservation: Reservation, tokens_in: int, tokens_out: int) -> None:
        """Charge what a request cost in the end. If that cannot be written, its reservation stays charged."""
        try:
            with self._budget() as budget:
                budget.settle(reservation, tokens_in, tokens_out)
        except UserError as error:
            log.warning("%s", error)

    @contextmanager
    def _budget(self) -> Iterator[Budget]:
        """The budget as the file has it; written back afterwards."""
        try:
            with self._lock:
                models = self._read()
                budget = Budget(self._settings, models.root.setdefault(self._model, State()))
                yield budget
                self._write(models)
        except OSError as error:  # a lock that cannot be had is one, too
            raise self._unusable(error) from None

    def _read(self) -> Models:
        try:
            return Models.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return Models({})
        except OSError as error:
            raise self._unusable(error) from None
        except ValidationError:
            raise UserError(
                f"proposer.budget.file {self._path} is damaged; repair it, or remove it to count from zero"
            ) from None

    def _write(self, models: Models) -> None:
        """Replace the file in one step."""
        draft = self._path.with_name(f"{self._path.name}.new")
        with draft.open("w", encoding="utf-8") as file:
            file.write(models.model_dump_json(indent=1))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._path)

    def _unusable(self, error: OSError) -> UserError:
        return UserError(f"proposer.budget.file {self._path} cannot be used ({error.strerror or error})")
