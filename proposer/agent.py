"""Takes leases from trainers, asks the LLM, and answers.

One thread talks to the bus; requests to the LLM are tasks of an event loop in another thread. Only a stop that was
asked for ends the process: trainers and LLMs come, go and fail.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from bus.client import BusClient
from bus.messages import Bye, Message, Outcomes, Proposal, Reject, Usage, Work
from proposer.backoff import Backoff
from proposer.chain import Answer, ProposalChain
from proposer.chat_models import one_line
from proposer.ledger import BudgetReached, Ledger
from proposer.llm_errors import describe, is_timeout
from proposer.memory import Memory
from proposer.metrics import ProposerMetrics
from shared.health import Health
from shared.settings import ProposerSettings
from shared.text import cut

log = logging.getLogger(__name__)

Result = TypeVar("Result")

LOOK_SECONDS = 0.25
"""Longest time between two iterations of the loop."""

OVERDUE_SECONDS = 30.0
"""A request that is this much older than `timeout_seconds` hangs: nothing in this process ends it."""

THREADS = 128
"""For models whose library has no asynchronous client: a request given up keeps its thread until it ends."""


@dataclass(eq=False)
class Job:
    """A lease in hand."""

    endpoint: str
    work: Work
    began: float
    answer: Future[Answer]
    void: bool = False
    """The trainer no longer waits for the answer, but the request still runs."""


class Agent:
    """The loop of a proposer."""

    def __init__(
        self,
        settings: ProposerSettings,
        chain: ProposalChain,
        end: BusClient,
        metrics: ProposerMetrics,
        health: Health,
        *,
        prepare: Callable[[], Coroutine[Any, Any, str | None]],
        ledger: Ledger | None = None,
    ) -> None:
        """`prepare` runs before the first lease is taken; it returns a warning, or None."""
        self._settings = settings
        self._chain = chain
        self._end = end
        self._metrics = metrics
        self._health = health
        self._ledger = ledger
        self._memory = Memory(settings.memory)
        self._backoff = Backoff()
        self._requests = _start_event_loop()
        self._preparation: Future[str | None] | None = self._submit(prepare())
        self._jobs: list[Job] = []
        self._connected: set[str] = set()
        self._runs: dict[str, str] = {}
        """The run that each endpoint last sent work for."""
        self._refused: set[str | None] = set()
        """Runs whose budget is used up, and None for all runs."""
        self._state = ""
        self._trouble = ""
        self._looked = time.monotonic()
        self._stopping = threading.Event()

    def stop(self) -> None:
        """End the loop soon. May be called from a signal handler."""
        self._stopping.set()
        self._end.wake()

    def run(self) -> None:
        """Serve until `stop`, then cancel the requests under way."""
        while not self._stopping.is_set():
            self._look_at_budget()
            self._end.ready(self._credits(), self._holding(), self._closed())
            for endpoint, message in self._end.receive(LOOK_SECONDS):
                self._handle(endpoint, message)
            self._void_expired()
            self._collect()
            self._observe()
        self._health.ending = True
        for job in self._jobs:
            job.answer.cancel()

    def _submit(self, task: Coroutine[Any, Any, Result]) -> Future[Result]:
        """Run a task in the event loop; its end wakes this thread."""
        future = asyncio.run_coroutine_threadsafe(task, self._requests)
        future.add_done_callback(lambda _: self._end.wake())
        return future

    def _look_at_budget(self) -> None:
        """Learn which runs may not ask any more, and log each once."""
        if self._ledger is None:
            return
        runs, refused = sorted(set(self._runs.values())), set[str | None]()
        self._metrics.budget_left.set(self._ledger.left(runs))
        for run in [None, *runs]:
            refusal = self._ledger.refusal(run)
            if refusal is None or (run is not None and None in refused):
                continue
            refused.add(run)
            if run not in self._refused:
                log.warning("budget reached: %s; not asking %s", refusal, self._settings.model)
        if None in self._refused and None not in refused:
            log.info("within the budget; asking %s again", self._settings.model)
        self._refused = refused

    def _closed(self) -> set[str]:
        """Trainers whose run has used up its budget."""
        return {endpoint for endpoint, run in self._runs.items() if run in self._refused}

    def _credits(self) -> int:
        if self._preparation is not None or None in self._refused:
            return 0
        return self._backoff.credits(self._settings.max_concurrency - len(self._jobs), time.monotonic())

    def _holding(self) -> dict[str, list[str]]:
        held: dict[str, list[str]] = {}
        for job in self._jobs:
            if not job.void:
                held.setdefault(job.endpoint, []).append(job.work.lease)
        return held

    def _handle(self, endpoint: str, message: Message) -> None:
        match message:
            case Work():
                self._take(endpoint, message)
            case Outcomes():
                self._memory.note(message.run, message.outcomes)
            case Reject(reason="lease", lease=str(lease)):
                self._void(lambda job: job.endpoint == endpoint and job.work.lease == lease)
            case Bye():
                self._void(lambda job: job.endpoint == endpoint)
                self._runs.pop(endpoint, None)
                if message.run:
                    self._memory.forget(message.run)

    def _take(self, endpoint: str, work: Work) -> None:
        """Start on a lease, or give it back: another trainer may have taken the slot that was offered to both."""
        run = work.digest.run
        self._runs[endpoint] = run
        self._look_at_budget()
        if self._credits() < 1 or run in self._refused:
            self._end.reject(endpoint, Reject(reason="busy", lease=work.lease))
            return
        now = time.monotonic()
        self._memory.note(run, work.digest.outcomes)
        deadline = now + self._settings.timeout_seconds
        answer = self._submit(self._chain.ask(work.digest, self._memory.recall(run), deadline))
        self._jobs.append(Job(endpoint, work, now, answer))

    def _void_expired(self) -> None:
        now = time.monotonic()
        self._void(lambda job: now > job.began + job.work.seconds)

    def _void(self, concerned: Callable[[Job], bool]) -> None:
        for job in self._jobs:
            if concerned(job):
                job.void = True

    def _collect(self) -> None:
        """Settle the leases whose answers have arrived."""
        if self._preparation is not None and self._preparation.done():
            self._prepared(self._preparation)
            self._preparation = None
        done = [job for job in self._jobs if job.answer.done()]
        self._jobs = [job for job in self._jobs if job not in done]
        for job in done:
            error = job.answer.exception()
            if error is None:
                self._answer(job, job.answer.result())
            else:
                self._fail(job, error)

    def _prepared(self, preparation: Future[str | None]) -> None:
        error = preparation.exception()
        trouble = preparation.result() if error is None else one_line(error)
        if trouble:
            log.warning("%s", trouble)

    def _answer(self, job: Job, answer: Answer) -> None:
        self._metrics.cost.inc(self._settings.budget.price(answer.tokens_in or 0, answer.tokens_out or 0))
        self._metrics.request(_outcome(job, answer), answer.seconds, answer.tokens_in, answer.tokens_out)
        if self._backoff.succeeded():
            self._trouble = ""
            self._metrics.backoff_seconds.set(0)
            log.info("LLM answers again")
        if not answer.candidates:
            self._metrics.parse_failures.inc()
        log.info("%s", _report(self._settings.model, job, answer))
        if job.void:
            return
        usage = Usage(seconds=answer.seconds, input_tokens=answer.tokens_in, output_tokens=answer.tokens_out)
        proposal = Proposal(
            lease=job.work.lease, model=cut(self._settings.model, 200), candidates=answer.candidates, usage=usage
        )
        if self._end.propose(job.endpoint, proposal):
            self._metrics.candidates.inc(len(answer.candidates))

    def _fail(self, job: Job, error: BaseException) -> None:
        """Give the lease back and pause before the next request."""
        if isinstance(error, BudgetReached):  # another proposer with the same budget was faster
            self._end.reject(job.endpoint, Reject(reason="busy", lease=job.work.lease))
            return
        now = time.monotonic()
        self._metrics.request("timeout" if is_timeout(error) else "failed", now - job.began)
        trouble = describe(error, self._settings)
        self._metrics.backoff_seconds.set(self._backoff.failed(now))
        if trouble != self._trouble:
            self._trouble = trouble
            log.warning("LLM unreachable: %s; trying again", trouble)
        if not job.void:
            self._end.reject(job.endpoint, Reject(reason="failed", detail=cut(trouble, 200), lease=job.work.lease))

    def _observe(self) -> None:
        """Log and count the present state."""
        now = time.monotonic()
        if all(now - job.began < self._settings.timeout_seconds + OVERDUE_SECONDS for job in self._jobs):
            self._health.beat()
        seconds = self._metrics.busy_seconds if self._jobs else self._metrics.idle_seconds
        seconds.inc(now - self._looked)
        self._looked = now
        connected = self._end.connected
        for endpoint in sorted(connected - self._connected):
            log.info("connected to %s", endpoint)
        for endpoint in sorted(self._connected - connected):
            log.info("no trainer at %s; waiting for one", endpoint)
            self._runs.pop(endpoint, None)  # the next trainer there may have another run
        self._connected = set(connected)
        self._metrics.connected_trainers.set(len(connected))
        self._metrics.busy_share.set(len(self._jobs) / self._settings.max_concurrency)
        state = self._now()
        if state != self._state:
            self._state = state
            self._metrics.state_changes.inc(state)

    def _now(self) -> str:
        """The state, as metrics name it."""
        if self._preparation is not None:
            return "preparing"
        if self._jobs:
            return "asking"
        if self._refused:
            return "budget"
        return "waiting" if self._credits() else "backoff"


def _start_event_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_default_executor(ThreadPoolExecutor(THREADS, thread_name_prefix="llm"))
    threading.Thread(target=loop.run_forever, name="requests", daemon=True).start()
    return loop


def _outcome(job: Job, answer: Answer) -> str:
    if job.void:
        return "timeout"
    if answer.candidates:
        return "ok"
    return "cut" if answer.cut else "empty"


def _report(model: str, job: Job, answer: Answer) -> str:
    dropped = f", {answer.dropped} dropped" if answer.dropped else ""
    shortened = "; the reply was cut at its maximum length: raise proposer.max_tokens or lower proposer.thinking"
    late = "; too late, nobody waits for it" if job.void else ""
    return (
        f"asked {model} at step {job.work.digest.step}: {len(answer.candidates)} candidates{dropped} "
        f"in {answer.seconds:.1f} s{shortened if answer.cut else ''}{late}"
    )
