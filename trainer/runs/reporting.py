"""What a run tells: lines for people, events for the history."""

import logging
import time
from dataclasses import asdict

from bus.channel import Answer
from bus.messages import CandidateOutcome, Digest, Point
from trainer.progress import step_bar
from trainer.runs.directory import RunDirectory
from trainer.search.evaluation import EvalResult
from trainer.search.lanes import Lane
from trainer.search.restarts import Candidate

log = logging.getLogger(__name__)


class Reporter:
    """Tells of one run."""

    def __init__(self, folder: RunDirectory, budget: int, lane_steps: int) -> None:
        self._folder = folder
        self._budget = budget
        self._bar = step_bar(budget, lane_steps)

    def step(self, lane_steps: int, lanes: list[Lane], train_losses: list[float], bus_seconds: float) -> None:
        """One gradient step of `lanes`, after so much bus work. With the time, so that a run's pace can be studied."""
        self._folder.log(
            "step",
            time=round(time.time(), 6),
            step=lane_steps,
            lanes=[lane.number for lane in lanes],
            train_losses=train_losses,
            bus_seconds=round(bus_seconds, 7),
        )
        self._bar.update(len(lanes))

    def point(self, point: Point, lanes: list[Lane], found: list[EvalResult], seconds: float) -> None:
        """The development split was measured on all lanes."""
        self._folder.log(
            "evaluation",
            **point.model_dump(),
            lanes=[
                {"lane": lane.number, "age": lane.age, **asdict(dev)} for lane, dev in zip(lanes, found, strict=True)
            ],
        )
        self._folder.flush()
        train = "" if point.train_loss is None else f"train {point.train_loss:.3f}  "
        pace = f"  {point.step / seconds:.0f} lane-steps/s" if seconds and point.step else ""
        log.info(
            "step %d/%d  %s  %sdev %.3f, %.1f%%%s  %r",
            point.step,
            self._budget,
            "1 lane" if len(lanes) == 1 else f"{len(lanes)} lanes",
            train,
            point.dev_loss,
            100 * point.dev_accuracy,
            pace,
            point.words,
        )

    def asked(self, digest: Digest) -> None:
        """A digest was leased."""
        self._folder.log("digest", step=digest.step, sequence=digest.sequence, wanted=digest.num_candidates)
        log.info("step %d  asked for %d prompts", digest.step, digest.num_candidates)

    def unanswered(self, seconds: float) -> None:
        """A round of sync mode went by without an answer."""
        log.warning("no proposal within %g s; going on without (is a proposer running?)", seconds)

    def proposal(self, answer: Answer, lane_steps: int, new: int) -> None:
        """A proposal arrived; so many of its candidates are to be measured."""
        proposal, asked = answer.proposal, answer.digest.step
        told, model = len(proposal.candidates), proposal.model
        self._folder.log(
            "proposal", step=lane_steps, asked=asked, lease=proposal.lease, model=model, told=told, new=new
        )
        log.info(
            "step %d  %s answered what was asked at step %d: %d prompts, %d new", lane_steps, model, asked, told, new
        )

    def scored(self, candidates: list[Candidate], lane_steps: int) -> None:
        """Candidates were measured."""
        self._folder.log("candidates", step=lane_steps, scored=[asdict(candidate) for candidate in candidates])
        for candidate in sorted(candidates, key=lambda candidate: candidate.score or 0.0):
            log.info("         dev %.3f  %r", candidate.score, candidate.words)

    def held(self, waiting: int, lane_steps: int) -> None:
        """So many measured candidates do not start yet."""
        log.info("step %d  %d wait until the incumbent stops improving", lane_steps, waiting)

    def opened(self, lane: Lane, candidate: Candidate, incumbent: EvalResult, lane_steps: int) -> None:
        """A challenger begins its trial."""
        self._folder.log("trial", step=lane_steps, lane=lane.number, words=candidate.words, score=candidate.score)
        log.info(
            "step %d  lane %d starts from %r (dev %.3f, incumbent %.3f)",
            lane_steps,
            lane.number,
            candidate.words,
            candidate.score,
            incumbent.loss,
        )

    def judged(self, lane: Lane, fate: CandidateOutcome, lane_steps: int) -> None:
        """A trial ended, or a candidate replaced the incumbent."""
        self._folder.log("outcome", step=lane_steps, lane=lane.number, **fate.model_dump())
        log.info(
            "step %d  lane %d %s, dev loss %.3f %s: %r",
            lane_steps,
            lane.number,
            fate.outcome,
            abs(fate.gain or 0.0),
            "lower" if (fate.gain or 0.0) > 0 else "higher",
            fate.words,
        )

    def passed_over(self, fates: list[CandidateOutcome], lane_steps: int) -> None:
        """Candidates that no lane tries, and why."""
        for fate in fates:
            self._folder.log("outcome", step=lane_steps, **fate.model_dump())
        for reason in dict.fromkeys(fate.outcome for fate in fates):
            words = ", ".join(repr(fate.words) for fate in fates if fate.outcome == reason)
            log.info("step %d  %s: %s", lane_steps, reason, words)

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()
