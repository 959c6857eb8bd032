"""Ranks: the processes of one training, which `torchrun` or `accelerate launch` starts; a run needs neither.

All ranks run the same code on the same state, each on its share of the rows. What may differ between them passes
through this module: what arrived (`broadcast`), sums over rows (`all_reduce`), and errors (`agreed`). Without other
ranks every function returns at once what it was given, and torch.distributed is not imported.

Every rank must make the same calls in the same order. Code that may fail on one rank alone therefore runs inside
`agreed`, where each exchange begins with a test whether all ranks still follow.
"""

import os
import pickle
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from shared.errors import UserError, first_line
from shared.handlers import handling

if TYPE_CHECKING:  # this module is imported before torch is loaded
    from torch import Tensor

TIMEOUT = timedelta(minutes=10)
"""A rank that does not answer within it is lost."""

T = TypeVar("T")


class LostRank(UserError):
    """Another rank ended or does not answer."""

    def __init__(self, text: str, is_mine_to_report: bool = True) -> None:
        """`is_mine_to_report` is true on one of the ranks that notice."""
        super().__init__(text)
        self.is_mine_to_report = is_mine_to_report

    def continued(self, run: Path) -> "LostRank":
        """The same with how to go on with the run in the directory `run`."""
        return LostRank(f"{self}; continue with: python -m trainer --resume {run}", self.is_mine_to_report)


@dataclass
class _Group:
    """The ranks that have joined."""

    rank: int
    size: int
    store: Any
    """Key-value pairs that all ranks see, by torch.distributed."""
    depth: int = 0
    """Blocks of `agreed` around the code that runs."""
    exchanging: bool = False

    def claims(self, what: str) -> bool:
        """Whether this rank is the first to claim `what`."""
        try:
            return int(self.store.add(what, 1)) == 1
        except Exception:  # the store went with the process that served it
            return True


_group: _Group | None = None


def is_follower() -> bool:
    """Whether a launcher started this process as another rank than the first, which owns the run."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and int(os.environ.get("RANK", "0")) > 0


def join() -> None:
    """Wait for the other ranks that the launcher started, and give each a CUDA device of its own where there are any.

    Raises:
        LostRank: they did not come.
    """
    global _group
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return
    import torch
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    try:
        # At once, since Python's handlers have to wait while torch waits for other processes.
        with handling(signal.SIG_DFL):
            store, rank, size = next(iter(rendezvous("env://", timeout=TIMEOUT)))
            # Gloo also between GPUs: what is exchanged is small, and is needed on the processor.
            dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    except (RuntimeError, ValueError, OSError) as error:
        raise LostRank(f"the other ranks cannot be reached: {first_line(error)}") from None
    _group = _Group(rank, size, store)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", rank)) % torch.cuda.device_count())


def leave() -> None:
    """Go on alone. Idempotent."""
    global _group
    if _group is not None:
        import torch.distributed as dist

        _group = None
        dist.destroy_process_group()


def count() -> int:
    """The number of ranks."""
    return _group.size if _group else 1


def is_main() -> bool:
    """Whether this is rank 0, which owns bus, record, run directory, metrics and terminal."""
    return _group is None or _group.rank == 0


def number() -> int:
    """The number of this rank, from 0."""
    return _group.rank if _group else 0


def is_exchanging() -> bool:
    """Whether this rank is in the middle of an exchange, which a signal must not break off."""
    return _group is not None and _group.exchanging


def share(rows: int) -> tuple[slice, float]:
    """This rank's part of `rows` rows, and the part's weight in their mean.

    Every `count()`-th row, because neighbours are of similar length. A rank without a row takes the first with
    weight 0, so that it makes the same calls as the others.
    """
    if _group is None:
        return slice(None), 1.0
    rank, size = _group.rank, _group.size
    if rank >= rows:
        return slice(0, 1), 0.0
    return slice(rank, None, size), len(range(rank, rows, size)) / rows


def all_reduce(tensors: Sequence["Tensor"]) -> None:
    """Replace each of `tensors`, floating point, by its sum over the ranks, the same bits on each."""
    if _group is None:
        return
    import torch

    flat = torch.cat([tensor.detach().flatten().cpu() for tensor in tensors])
    with _exchange() as dist:
        dist.all_reduce(flat)
    for tensor, part in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
        tensor.detach().copy_(part.view_as(tensor))


def gather(part: "Tensor", rows: int) -> "Tensor":
    """All `rows` rows, of which `part` are this rank's `share`. Gradients flow back to the rank of each row."""
    if _group is None:
        return part
    import torch

    taken, weight = share(rows)
    at = torch.arange(rows, device=part.device)[taken][: None if weight else 0]
    part = part[: len(at)]
    whole = part.new_zeros(rows, *part.shape[1:])
    whole[at] = part.detach()
    all_reduce([whole])
    if not part.requires_grad:
        return whole
    whole = whole.index_copy(0, at, part)
    whole.register_hook(_summed)  # type: ignore[no-untyped-call]
    return whole


def _summed(gradient: "Tensor") -> "Tensor":
    total = gradient.clone()
    all_reduce([total])
    return total


def broadcast(value: T) -> T:
    """The `value` of rank 0."""
    if _group is None:
        return value
    values = [value]
    with _exchange() as dist:
        dist.broadcast_object_list(values)
    return values[0]


@contextmanager
def agreed() -> Iterator[None]:
    """Where the block fails on one rank, it fails on all, with the error of the first that failed."""
    if _group is None:
        yield
        return
    _group.depth += 1
    try:
        yield
        fault = None
    except BaseException as error:  # a stop is no Exception, and must come on all ranks too
        if isinstance(error, LostRank) or hasattr(error, "agreed"):
            raise
        fault = error
    finally:
        _group.depth -= 1
    _agree(fault)


def _agree(fault: BaseException | None = None) -> None:
    """Raise on every rank what one has raised."""
    assert _group is not None
    import torch

    failed = torch.tensor([fault is not None], dtype=torch.uint8)
    with _exchange(agrees=False) as dist:
        dist.all_reduce(failed, op=dist.ReduceOp.MAX)
    if not failed.item():
        return
    faults: list[BaseException | None] = [None] * _group.size
    with _exchange(agrees=False) as dist:
        dist.all_gather_object(faults, _portable(fault))
    rank, error = next((rank, error) for rank, error in enumerate(faults) if error is not None)
    if rank == _group.rank and fault is not None:
        error = fault
    elif rank and type(error) is UserError:
        error = UserError(f"rank {rank}: {error}")
    error.agreed = True  # type: ignore[attr-defined]  # so that the blocks around do not agree on it once more
    raise error


def _portable(error: BaseException | None) -> BaseException | None:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(first_line(error) if error else "")
    return error


@contextmanager
def _exchange(agrees: bool = True) -> Iterator[Any]:
    """One exchange between the ranks, with torch.distributed.

    Raises:
        LostRank: a rank has ended or does not answer.
    """
    assert _group is not None
    import torch.distributed as dist

    around, _group.exchanging = _group.exchanging, True
    try:
        if agrees and _group.depth:
            _agree()
        yield dist
    except RuntimeError as error:
        if hasattr(error, "agreed"):
            raise
        minutes = TIMEOUT.total_seconds() / 60
        is_first = _group.claims("lost")
        raise LostRank(f"another rank ended, or did not answer for {minutes:g} minutes", is_first) from error
    finally:
        _group.exchanging = around
