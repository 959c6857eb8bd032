"""Lanes in passes that fit into memory."""

import logging
from collections.abc import Callable
from typing import TypeVar

from shared.errors import UserError, first_line
from trainer import ranks
from trainer.search.state import RunState

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")


def in_passes(state: RunState, items: list[T], run: Callable[[list[T]], list[R]]) -> list[R]:
    """What `run` gives for `items`, at most `state.lanes_per_pass` of them at a time.

    Where a pass runs out of memory on any rank, it and all later ones take half as many: lanes are independent of each
    other. A pass that fails on one rank fails on all.

    Raises:
        UserError: one item alone does not fit.
    """
    results: list[R] = []
    while len(results) < len(items):
        part = items[len(results) : len(results) + state.lanes_per_pass]
        try:
            with ranks.agreed():
                found = run(part)
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            if len(part) == 1:
                raise UserError(
                    "one lane alone does not fit into memory; lower optimizer.batch_size, backbone.max_tokens or "
                    f"prompt.num_tokens ({first_line(error)})"
                ) from None
            state.lanes_per_pass = len(part) // 2
            log.warning("out of memory with %d lanes in one pass; passes now take %d", len(part), state.lanes_per_pass)
        else:
            results += found
    return results


def _is_out_of_memory(error: RuntimeError) -> bool:
    from accelerate.utils.memory import should_reduce_batch_size  # knows what each device says

    return bool(should_reduce_batch_size(error))
