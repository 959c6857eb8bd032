"""The bus in memory, its record, and the replay of a record."""

import json

import pytest

from bus.in_process import InProcessChannel
from bus.messages import Digest, Fate, Outcome, Proposal, Work
from bus.record import Entry, RecordingChannel, read
from bus.replay import ReplayChannel
from shared.errors import UserError


def digest(step):
    return Digest(
        run="r", sequence=step, step=step, budget=20, task="t", labels=["a", "b"], tokens=4, wanted=2,
        trajectory=[], pushes=[], slope=None, best=[], fates=[],
    )  # fmt: skip


def echo(seen):
    """A proposer that fails at step 8."""
    return None if seen.step == 8 else [f"words for {seen.step}", "caf\N{LATIN SMALL LETTER E WITH ACUTE}\n"]


class Clock:
    """The lane-steps of a run."""

    def __init__(self):
        self.step = 0

    def __call__(self):
        return self.step


def run(end, clock, steps=20, every=4):
    """A loop as the trainer's: what it sees of the bus, with the steps."""
    seen = []
    for clock.step in range(steps):
        for answer in end.poll(float(clock.step)):
            seen.append((clock.step, answer.proposal.candidates, answer.digest.step))
            fates = [Fate(words=words, fate="outscored", score=1.0) for words in answer.proposal.candidates]
            end.tell(Outcome(run="r", lease=answer.proposal.lease, step=clock.step, fates=fates))
        if clock.step % every == 0 and end.can_lease():
            lease = end.lease(digest(clock.step), float(clock.step))
            seen.append((clock.step, "lease", lease is not None))
    return seen


@pytest.fixture
def recorded(tmp_path):
    path = tmp_path / "bus.jsonl"
    clock = Clock()
    end = RecordingChannel(InProcessChannel(echo, model="m"), path, clock)
    seen = run(end, clock)
    end.close()
    return path, seen


def test_memory_answers_a_lease_at_the_next_poll():
    heard = []
    end = InProcessChannel(echo, model="m", hear=heard.append)
    assert end.can_lease()
    lease = end.lease(digest(3), 0.0)
    assert not end.can_lease()
    assert end.lease(digest(3), 0.0) is None
    assert end.counts().live == 1
    (answer,) = end.poll(1.0)
    assert (answer.proposal.lease, answer.digest) == (lease.id, digest(3))
    assert end.poll(2.0) == []
    assert end.can_lease()
    outcome = Outcome(run="r", lease=lease.id, step=3, fates=[])
    end.tell(outcome)
    assert heard == [outcome]
    assert end.counts().ended["settled"] == 1


def test_memory_takes_no_for_an_answer():
    end = InProcessChannel(echo, model="m")
    assert end.lease(digest(8), 0.0)
    assert end.poll(1.0) == []
    assert end.can_lease()
    assert end.counts().ended["released"] == 1


def test_a_record_holds_everything_in_order(recorded):
    path, _ = recorded
    entries = list(read(path))
    kinds = [(entry.step, entry.message.kind) for entry in entries]
    assert kinds[:4] == [(0, "work"), (1, "proposal"), (1, "outcome"), (4, "work")]
    assert [entry.step for entry in entries if isinstance(entry.message, Work)] == [0, 4, 8, 12, 16]
    assert [entry.step for entry in entries if isinstance(entry.message, Proposal)] == [1, 5, 13, 17]
    assert all(len(json.loads(line)) == 2 for line in path.read_text(encoding="utf-8").splitlines())


def test_a_replay_says_the_same_at_the_same_steps(recorded):
    path, seen = recorded
    clock = Clock()
    end = ReplayChannel(path, clock)
    assert run(end, clock) == seen
    counts = end.counts()
    assert (counts.ended["settled"], counts.ended["expired"], counts.live) == (4, 1, 0)


def test_every_line_is_there_before_the_run_goes_on(tmp_path):
    path = tmp_path / "bus.jsonl"
    end = RecordingChannel(InProcessChannel(echo, model="m"), path, lambda: 0)
    end.lease(digest(0), 0.0)
    assert len(list(read(path))) == 1
    end.poll(1.0)
    assert len(list(read(path))) == 2


def test_a_torn_last_line_is_left_out_and_cut_by_a_resumed_run(recorded):
    path, _ = recorded
    whole = list(read(path))
    path.write_bytes(path.read_bytes()[:-7])
    assert list(read(path)) == whole[:-1]
    RecordingChannel(InProcessChannel(echo, model="m"), path, lambda: 20).tell(
        Outcome(run="r", lease="l", step=20, fates=[])
    )
    assert list(read(path)) == [*whole[:-1], Entry(step=20, message=Outcome(run="r", lease="l", step=20, fates=[]))]


@pytest.mark.parametrize(
    "line", [b"{", b"[]", b'{"step": -1}', b"\xff\xfe", b"", b'{"step": 1, "message": {"kind": "x"}}']
)
def test_a_broken_line_is_named(recorded, line):
    path, _ = recorded
    lines = path.read_bytes().split(b"\n")
    lines[2] = line
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(UserError, match=r"bus\.jsonl, line 3: "):
        ReplayChannel(path, Clock())


def test_an_answer_without_a_lease_is_named(recorded):
    path, _ = recorded
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join(lines[1:]))
    with pytest.raises(UserError, match=r"bus\.jsonl, line 1: answers a lease"):
        ReplayChannel(path, Clock())


def test_a_missing_record_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nothing\.jsonl: cannot be read"):
        ReplayChannel(tmp_path / "nothing.jsonl", Clock())
