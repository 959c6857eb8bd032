"""A trainer and four proposers under random trouble: scripts/soak --minutes 20.

Proposers are killed, suspended, stopped and revoked; their LLM hangs, drips, fails and answers with garbage; strangers
and a mad proposer send anything; the trainer is suspended, stopped, killed and resumed, and its disk fills up. At the
end all lane-steps must be done, memory be flat, every lease ended once, history and record agree, and a replay give
the same weights. Prints a line a minute and a table; ends with status 1 on a finding.
"""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts.harness.processes import Household  # noqa: E402 - the checkout must be found first
from scripts.soaking.system import PROPOSERS, System  # noqa: E402
from scripts.soaking.troubles import Remedy, Trouble, restarts_of_the_trainer, troubles  # noqa: E402
from shared.errors import run_command  # noqa: E402

LONGEST_PAUSE_SECONDS = 8.0
"""Between the beginnings of two troubles."""

LOOK_SECONDS = 2.0
QUIET_SECONDS = 5.0
"""Without trouble, at the beginning and at the end."""


class Schedule:
    """Draws troubles and ends them in time. Every kind comes once before any comes again."""

    def __init__(self, system: System, dice: random.Random, seconds: float) -> None:
        self._dice = dice
        self._kinds = troubles(system, dice)
        restarts = max(1, round(seconds / 600))
        self._restarts = restarts_of_the_trainer(system) * restarts
        self._restart_every = seconds / (restarts + 1)
        self._next_restart = self._next = 0.0
        self._pause = min(LONGEST_PAUSE_SECONDS, seconds / (len(self._kinds) + 4))
        self._deck: list[Trouble] = []
        self._now: list[tuple[float, Trouble, Remedy]] = []
        self.counts: Counter[str] = Counter()

    def start(self, now: float) -> None:
        """Leave everything alone for a while."""
        self._next_restart = now + self._restart_every
        self._next = now + QUIET_SECONDS

    def step(self) -> None:
        """End what is over and begin what is due."""
        now = time.monotonic()
        for entry in [entry for entry in self._now if entry[0] <= now]:
            self._now.remove(entry)
            entry[2]()
        if now >= self._next_restart and self._begin(self._restarts[0]):
            self._restarts.append(self._restarts.pop(0))
            self._next_restart = now + self._restart_every
        if now >= self._next:
            self._deck = self._deck or self._dice.sample(self._kinds, len(self._kinds))
            for trouble in self._deck:  # the first that can begin
                if self._begin(trouble):
                    self._deck.remove(trouble)
                    self._next = now + self._dice.uniform(0.5, 1.5) * self._pause
                    break

    def end(self) -> None:
        """End all that is going on."""
        for _, _, remedy in self._now:
            remedy()
        self._now = []

    def _begin(self, trouble: Trouble) -> bool:
        taken = {name for _, other, _ in self._now for name in other.needs}
        if taken & set(trouble.needs):
            return False
        remedy = trouble.begin()
        self._now.append((time.monotonic() + self._dice.uniform(*trouble.seconds), trouble, remedy))
        self.counts[trouble.name] += 1
        return True


def soak(minutes: float, seed: int) -> int:
    """Run for `minutes`; 1 if anything was found."""
    with tempfile.TemporaryDirectory() as name, Household(Path(name)) as home:
        folder = Path(name)
        system = System(folder, home, minutes)
        schedule = Schedule(system, random.Random(seed), 60 * minutes)
        try:
            _trouble(system, schedule, 60 * minutes)
            system.finish()
            checks = check(system)
        except AssertionError as error:
            system.find(str(error))
            checks = []
        finally:
            system.close()
    if not system.has_disk:
        print("a full disk was not tried: only root may mount a small one")
    print("\n".join(f"{count:4} x {name}" for name, count in schedule.counts.most_common()))
    for what, holds, figure in checks:
        print(f"{'holds' if holds else 'DOES NOT HOLD':14}{what}: {figure}")
    failed = [what for what, holds, _ in checks if not holds] + system.findings
    print(f"{len(failed)} findings")
    return 1 if failed else 0


def _trouble(system: System, schedule: Schedule, seconds: float) -> None:
    """Make trouble for `seconds`, with a line a minute."""
    system.processes["trainer"].wait_for(r"step 0/")
    began = time.monotonic()
    schedule.start(began)
    minute, look = 1, began
    while (now := time.monotonic()) < began + seconds - QUIET_SECONDS:
        schedule.step()
        if now >= look:
            system.look()
            look = now + LOOK_SECONDS
        if now >= began + 60 * minute:
            _report(system, schedule, minute, now - began)
            minute += 1
        time.sleep(0.1)
    schedule.end()
    _report(system, schedule, minute, time.monotonic() - began)


def _report(system: System, schedule: Schedule, minute: int, seconds: float) -> None:
    counters = system.counters()
    counted = "  ".join(f"{name} {count}" for name, count in sorted(counters.items()))
    memory = "/".join(f"{lives[-1][-1][1]:.0f}" for lives in system.memory.values() if lives[-1])
    share = system.cpu_seconds() / seconds
    print(
        f"minute {minute}: {sum(schedule.counts.values())} troubles  {counted}  MiB {memory}  {share:.2f} cores",
        flush=True,
    )


def check(system: System) -> list[tuple[str, bool, str]]:
    """Everything that is checked at the end."""
    from scripts.soaking.checks import check_health, check_memory, check_replay, check_run  # loads torch

    return [
        *check_run(system.run, system.budget),
        check_replay(system),
        check_health(system.silent),
        *check_memory(system.memory),
    ]


def main() -> int:
    """Read the command line and soak."""
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="how long trouble goes on")
    parser.add_argument("--seed", type=int, default=1, help="draws the troubles")
    options = parser.parse_args()
    print(f"a trainer and {PROPOSERS} proposers for {options.minutes:g} minutes, seed {options.seed}", flush=True)
    return soak(options.minutes, options.seed)


if __name__ == "__main__":
    run_command(main)
