"""Takes leases from trainers, has the LLM asked, and answers.

One thread talks to the bus; requests to the LLM wait in threads of their own. Nothing here ends the
process but a stop that is asked for: trainers and LLMs come, go and fail as they like.
"""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from bus.client import BusClient
from bus.messages import Bye, Message, Outcome, Proposal, Reject, Usage, Work
from proposer.backoff import Backoff
from proposer.chain import Answer, ProposalChain
from proposer.llm_errors import describe, is_timeout
from proposer.memory import Memory
from proposer.metrics import ProposerMetrics
from shared.health import Health
from shared.settings import ProposerSettings
from shared.text import cut

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.25
"""The loop comes round at least this often."""


@dataclass(eq=False)
class Job:
    """A lease in hand."""

    endpoint: str
    work: Work
    began: float
    answer: Future[Answer]
    void: bool = False
    """The trainer no longer waits for it, but the LLM is still at it."""


class Agent:
    """The loop of a proposer."""

    def __init__(
        self, settings: ProposerSettings, chain: ProposalChain, end: BusClient, metrics: ProposerMetrics, health: Health
    ) -> None:
        self._settings = settings
        self._asker = chain
        self._end = end
        self._metrics = metrics
        self._health = health
        self._memory = Memory(settings.memory)
        self._backoff = Backoff()
        self._pool = ThreadPoolExecutor(settings.max_concurrency, thread_name_prefix="llm")
        self._jobs: list[Job] = []
        self._connected: set[str] = set()
        self._state = ""
        self._trouble = ""
        self._looked = time.monotonic()
        self._stopping = threading.Event()

    def stop(self) -> None:
        """End the loop soon. May be called from a signal handler."""
        self._stopping.set()
        self._end.wake()

    def run(self) -> None:
        """Serve until `stop`; requests under way are left to themselves."""
        while not self._stopping.is_set():
            self._end.ready(self._credits(), self._holding())
            for endpoint, message in self._end.receive(LOOK_SECONDS):
                self._handle(endpoint, message)
            self._void_expired()
            self._collect()
            self._observe()
        self._health.ending = True
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _credits(self) -> int:
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
            case Outcome():
                self._memory.note(message.run, message.fates)
            case Reject(reason="lease", lease=str(lease)):
                self._void(lambda job: job.endpoint == endpoint and job.work.lease == lease)
            case Bye():
                self._void(lambda job: job.endpoint == endpoint)
                if message.run:
                    self._memory.forget(message.run)

    def _take(self, endpoint: str, work: Work) -> None:
        """Start on a lease, or give it back: another trainer may have taken the slot that was offered to both."""
        if self._credits() < 1:
            self._end.reject(endpoint, Reject(reason="busy", lease=work.lease))
            return
        now = time.monotonic()
        self._memory.note(work.digest.run, work.digest.fates)
        deadline = now + self._settings.timeout_seconds
        answer = self._pool.submit(self._asker.ask, work.digest, self._memory.recall(work.digest.run), deadline)
        answer.add_done_callback(lambda _: self._end.wake())
        self._jobs.append(Job(endpoint, work, now, answer))

    def _void_expired(self) -> None:
        now = time.monotonic()
        self._void(lambda job: now > job.began + job.work.seconds)

    def _void(self, concerned: Callable[[Job], bool]) -> None:
        for job in self._jobs:
            if concerned(job):
                job.void = True

    def _collect(self) -> None:
        """Settle the leases whose answers are there."""
        done = [job for job in self._jobs if job.answer.done()]
        self._jobs = [job for job in self._jobs if job not in done]
        for job in done:
            error = job.answer.exception()
            if error is None:
                self._answer(job, job.answer.result())
            else:
                self._fail(job, error)

    def _answer(self, job: Job, answer: Answer) -> None:
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
        usage = Usage(seconds=answer.seconds, tokens_in=answer.tokens_in, tokens_out=answer.tokens_out)
        proposal = Proposal(
            lease=job.work.lease, model=cut(self._settings.model, 200), candidates=answer.candidates, usage=usage
        )
        if self._end.propose(job.endpoint, proposal):
            self._metrics.candidates.inc(len(answer.candidates))

    def _fail(self, job: Job, error: BaseException) -> None:
        """Give the lease back and leave the LLM alone for a while."""
        now = time.monotonic()
        self._metrics.request("timeout" if is_timeout(error) else "failed", now - job.began)
        trouble = describe(error, self._settings.model)
        self._metrics.backoff_seconds.set(self._backoff.failed(now))
        if trouble != self._trouble:
            self._trouble = trouble
            log.warning("LLM unreachable: %s; trying again", trouble)
        if not job.void:
            self._end.reject(job.endpoint, Reject(reason="failed", detail=cut(trouble, 200), lease=job.work.lease))

    def _observe(self) -> None:
        """Say and count how things stand."""
        self._health.beat()
        now = time.monotonic()
        spent = self._metrics.busy_seconds if self._jobs else self._metrics.idle_seconds
        spent.inc(now - self._looked)
        self._looked = now
        connected = self._end.connected
        for endpoint in sorted(connected - self._connected):
            log.info("connected to %s", endpoint)
        for endpoint in sorted(self._connected - connected):
            log.info("no trainer at %s; waiting for one", endpoint)
        self._connected = set(connected)
        self._metrics.connected_trainers.set(len(connected))
        state = "asking" if self._jobs else "waiting" if self._credits() else "backoff"
        if state != self._state:
            self._state = state
            self._metrics.state_changes.inc(state)


def _outcome(job: Job, answer: Answer) -> str:
    if job.void:
        return "timeout"
    return "ok" if answer.candidates else "empty"


def _report(model: str, job: Job, answer: Answer) -> str:
    dropped = f", {answer.dropped} dropped" if answer.dropped else ""
    late = "; too late, nobody waits for it" if job.void else ""
    return (
        f"asked {model} at step {job.work.digest.step}: {len(answer.candidates)} candidates{dropped} "
        f"in {answer.seconds:.1f} s{late}"
    )
