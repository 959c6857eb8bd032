"""The in-process bus, the record of a run, and the replay of a record."""

import gc
import json
import os
import weakref

import pytest

from bus.channel import Answer, LeaseEnded
from bus.client import BusClient
from bus.in_process import InProcessChannel
from bus.messages import CandidateOutcome, Digest, Outcomes, Proposal, Usage
from bus.record import Entry, Leased, RecordingChannel, read
from bus.replay import ReplayChannel
from bus.server import BusServer
from shared.errors import UserError
from shared.settings import BusSettings


def digest(step):
    return Digest(
        run="r", sequence=step, step=step, budget=20, task="t", labels=["a", "b"], num_tokens=4, num_candidates=2,
        trajectory=[], substitutions=[], slope=None, best=[], outcomes=[],
    )  # fmt: skip


def outcome(step):
    return Outcomes(run="r", lease="l", step=step, outcomes=[])


def echo(seen):
    """A proposer that fails at step 8."""
    return None if seen.step == 8 else [f"words for {seen.step}", "caf\N{LATIN SMALL LETTER E WITH ACUTE}\n"]


class Clock:
    """The lane-steps of a run."""

    def __init__(self, step=0):
        self.step = step

    def __call__(self):
        return self.step


class Script(InProcessChannel):
    """A channel whose leases end when a test says so."""

    def __init__(self, free=1):
        super().__init__(lambda _: None, model="m")
        self._leases.ready(b"in process", free, [], now=0.0)
        self.events = []

    def lease(self, digest, proposals):
        return [self._leases.grant(digest, now=0.0) for _ in range(min(proposals, self._leases.free_credits))]

    def poll(self):
        events, self.events = self.events, []
        return events

    def answer(self, lease):
        proposal = Proposal(lease=lease.id, model="m", candidates=["w"], usage=Usage(seconds=0.0))
        self.events.append(Answer(proposal, lease.digest))

    def end(self, lease, how):
        self.events.append(LeaseEnded(lease.id, lease.digest, how))


def run(channel, clock, steps=range(20), every=4):
    """A loop as the trainer's: what it sees of the bus, with the steps."""
    seen = []
    for clock.step in steps:
        for event in channel.poll():
            if isinstance(event, LeaseEnded):
                seen.append((clock.step, event.how, event.digest.step))
                continue
            seen.append((clock.step, event.proposal.candidates, event.digest.step))
            outcomes = [
                CandidateOutcome(words=words, outcome="outscored", score=1.0) for words in event.proposal.candidates
            ]
            channel.tell(Outcomes(run="r", lease=event.proposal.lease, step=clock.step, outcomes=outcomes))
        if clock.step % every == 0 and channel.can_lease():
            seen.append((clock.step, "lease", len(channel.lease(digest(clock.step), 1))))
    return seen


def hold_round(channel, seen):
    """A round of sync mode without a deadline: asks until it is answered, or until the channel says that none comes."""
    asked = ""
    while True:
        if not asked and channel.can_lease():
            (lease,) = channel.lease(digest(0), 1)
            asked = lease.id
            seen.append("asked")
        if not channel.wait(10.0) and (asked or not channel.can_lease()):
            seen.append("unanswered")
            return
        for event in channel.poll():
            if isinstance(event, Answer):
                seen.append("answered")
                return
            seen.append(event.how)
            asked = ""


@pytest.fixture
def recorded(tmp_path):
    path = tmp_path / "bus.jsonl"
    clock = Clock()
    channel = RecordingChannel(InProcessChannel(echo, model="m"), path, clock)
    seen = run(channel, clock)
    channel.close()
    return path, seen


def test_in_process_a_lease_is_answered_at_the_next_poll():
    heard = []
    channel = InProcessChannel(echo, model="m", hear=heard.append)
    assert channel.can_lease()
    assert not channel.wait(10.0)
    (lease,) = channel.lease(digest(3), 5)
    assert not channel.can_lease()
    assert channel.lease(digest(3), 1) == []
    assert channel.wait(10.0)
    (answer,) = channel.poll()
    assert (answer.proposal.lease, answer.digest) == (lease.id, digest(3))
    assert channel.poll() == []
    assert channel.can_lease()
    channel.tell(outcome(3))
    assert heard == [outcome(3)]
    assert channel.counts().ended["settled"] == 1


def test_in_process_no_digest_is_kept():
    channel = InProcessChannel(echo, model="m")
    kept = []
    for _ in range(3):
        asked = digest(4)
        kept.append(weakref.ref(asked))
        channel.lease(asked, 1)
        channel.poll()
    del asked
    gc.collect()
    assert [ref() for ref in kept] == [None] * 3


def test_in_process_a_lease_may_be_given_back():
    channel = InProcessChannel(echo, model="m")
    (lease,) = channel.lease(digest(8), 1)
    assert channel.poll() == [LeaseEnded(lease.id, digest(8), "released")]
    assert channel.can_lease()
    assert channel.counts().ended["released"] == 1


def test_a_record_holds_everything_in_order(recorded):
    path, _ = recorded
    entries = list(read(path))
    assert [entry.sequence for entry in entries] == list(range(len(entries)))
    kinds = [(entry.step, entry.event.kind) for entry in entries]
    assert kinds[:4] == [(0, "leased"), (1, "proposal"), (1, "outcomes"), (4, "leased")]
    assert [entry.step for entry in entries if isinstance(entry.event, Leased)] == [0, 4, 8, 12, 16]
    assert [entry.step for entry in entries if isinstance(entry.event, Proposal)] == [1, 5, 13, 17]
    assert [entry.step for entry in entries if entry.event.kind == "ended"] == [9]
    assert all(len(json.loads(line)) == 3 for line in path.read_text(encoding="utf-8").splitlines())


def test_a_replay_says_the_same_at_the_same_steps(recorded):
    path, seen = recorded
    clock = Clock()
    channel = ReplayChannel(path, clock)
    assert run(channel, clock) == seen
    counts = channel.counts()
    assert counts.ended == {"settled": 4, "released": 1, "expired": 0, "gone": 0}
    assert counts.live == 0


def test_a_replay_answers_a_lease_only_after_it_was_asked_again(recorded):
    path, _ = recorded
    channel = ReplayChannel(path, Clock(1))
    with pytest.raises(UserError, match=r"line 1: the recorded run leased a digest after 0 lane-steps"):
        channel.poll()
    channel = ReplayChannel(path, clock := Clock(0))
    assert channel.poll() == []
    channel.lease(digest(0), 1)
    assert channel.poll() == []
    clock.step = 1
    assert len(channel.poll()) == 1


@pytest.mark.parametrize("how", ["released", "expired", "gone"])
def test_rounds_of_sync_mode_replay_without_waiting(tmp_path, how):
    """One answered, one asked again after its lease ended, one never answered in its round, one without proposers."""
    clock, script, seen = Clock(), Script(free=4), []
    channel = RecordingChannel(script, tmp_path / "bus.jsonl", clock)
    (first,) = channel.lease(digest(0), 1)
    script.answer(first)
    channel.poll()
    clock.step = 10
    (second,) = channel.lease(digest(10), 1)
    script.end(second, how)
    channel.poll()
    (third,) = channel.lease(digest(10), 1)
    script.answer(third)
    channel.poll()
    clock.step = 20
    (fourth,) = channel.lease(digest(20), 1)
    channel.poll()
    clock.step = 25
    script.end(fourth, "expired")
    channel.poll()

    clock = Clock()
    channel = ReplayChannel(tmp_path / "bus.jsonl", clock)
    for clock.step in (0, 10, 20, 30):
        hold_round(channel, seen)
        seen.append(sorted(channel.counts().ended.items()))
        assert min(channel.counts().ended.values()) >= 0
        if clock.step == 20:
            clock.step = 25
            assert [event.how for event in channel.poll()] == ["expired"]
    words = [word for word in seen if isinstance(word, str)]
    assert words == ["asked", "answered", "asked", how, "asked", "answered", "asked", "unanswered", "unanswered"]
    assert channel.counts().live == 0


def test_a_replay_grants_as_many_leases_as_were_recorded(tmp_path):
    script = Script(free=3)
    channel = RecordingChannel(script, tmp_path / "bus.jsonl", Clock())
    leases = channel.lease(digest(0), 2)
    assert len(leases) == 2
    replay = ReplayChannel(tmp_path / "bus.jsonl", Clock())
    assert [lease.id for lease in replay.lease(digest(0), 9)] == [lease.id for lease in leases]
    assert replay.counts().live == 2
    assert not replay.can_lease()
    assert replay.lease(digest(0), 1) == []


def test_every_line_is_written_before_the_run_goes_on(tmp_path):
    path = tmp_path / "bus.jsonl"
    channel = RecordingChannel(InProcessChannel(echo, model="m"), path, lambda: 0)
    channel.lease(digest(0), 1)
    assert len(list(read(path))) == 1
    channel.poll()
    assert len(list(read(path))) == 2
    assert channel.offset() == path.stat().st_size


def test_leases_that_end_with_the_channel_are_recorded(tmp_path):
    path = tmp_path / "bus.jsonl"
    server = BusServer(BusSettings(bind="tcp://127.0.0.1:*", ready_seconds=0.1), run="r")
    channel = RecordingChannel(server, path, lambda: 0)
    client = BusClient(BusSettings(connect=[server.endpoint], ready_seconds=0.1), name="p", model="m")
    client.ready(1, {})
    while not channel.can_lease():
        client.receive(0.01)
    (lease,) = channel.lease(digest(0), 1)
    channel.close()
    channel.close()
    client.close()
    last = list(read(path))[-1].event
    assert (last.lease, last.how) == (lease.id, "gone")


def test_a_resumed_run_goes_on_where_its_checkpoint_was_saved(recorded):
    """Entries after the checkpoint are cut, live leases end as gone, and the replay says the same as the whole run."""
    path, _ = recorded
    whole = path.read_bytes()
    path.unlink()
    clock = Clock()
    channel = RecordingChannel(InProcessChannel(echo, model="m"), path, clock)
    seen = run(channel, clock, range(13))  # leased at 12, not yet answered
    offset = channel.offset()
    run(channel, clock, range(13, 20))  # killed after these
    channel.close()
    assert path.stat().st_size > offset

    channel = RecordingChannel(InProcessChannel(echo, model="m"), path, clock, truncate_to=offset)
    assert path.stat().st_size == offset
    assert channel.wait(10.0)
    seen += run(channel, clock, range(13, 20))
    assert (13, "gone", 12) in seen
    entries = list(read(path))
    assert [entry.sequence for entry in entries] == list(range(len(entries)))
    clock = Clock()
    assert run(ReplayChannel(path, clock), clock) == seen
    assert path.read_bytes() != whole


def test_a_record_that_does_not_reach_its_checkpoint_is_named(recorded):
    path, _ = recorded
    content = path.read_bytes()
    for offset in (len(content) + 1, 5):
        with pytest.raises(UserError, match=rf"bus\.jsonl: has no entry that ends at byte {offset}"):
            RecordingChannel(InProcessChannel(echo, model="m"), path, Clock(), truncate_to=offset)
    assert path.read_bytes() == content
    RecordingChannel(InProcessChannel(echo, model="m"), path, Clock(), truncate_to=0)
    assert path.read_bytes() == b""


def test_a_torn_last_line_is_left_out_and_cut_by_a_resumed_run(recorded):
    path, _ = recorded
    whole = list(read(path))
    path.write_bytes(path.read_bytes()[:-7])
    assert list(read(path)) == whole[:-1]
    RecordingChannel(InProcessChannel(echo, model="m"), path, lambda: 20).tell(outcome(20))
    assert list(read(path)) == [*whole[:-1], Entry(sequence=len(whole) - 1, step=20, event=outcome(20))]


def test_training_outlives_a_full_disk(tmp_path, monkeypatch, caplog):
    """Half a line fits, then nothing; once there is room again, every entry is written once."""
    path, real, room = tmp_path / "bus.jsonl", os.pwrite, [10]
    channel = RecordingChannel(InProcessChannel(echo, model="m"), path, lambda: 0)

    def write(file, content, offset):
        if not room[0]:
            raise OSError(28, "No space left on device")
        written = real(file, bytes(content[: room[0]]), offset)
        room[0] -= written
        return written

    monkeypatch.setattr(os, "pwrite", write)
    for step in range(3):
        channel.tell(outcome(step))
    assert caplog.text.count("No space left on device") == 1
    with pytest.raises(OSError, match="No space"):
        channel.offset()
    assert path.stat().st_size == 10
    room[0] = 10**6
    assert channel.offset() == path.stat().st_size
    assert [entry.event for entry in read(path)] == [outcome(step) for step in range(3)]


@pytest.mark.parametrize(
    "line", [b"{", b"[]", b'{"step": -1}', b"\xff\xfe", b"", b'{"sequence": 2, "step": 1, "event": {"kind": "x"}}']
)
def test_a_broken_line_is_named(recorded, line):
    path, _ = recorded
    lines = path.read_bytes().split(b"\n")
    lines[2] = line
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(UserError, match=r"bus\.jsonl, line 3: "):
        ReplayChannel(path, Clock())


def test_a_missing_line_is_named(recorded):
    path, _ = recorded
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join(lines[1:]))
    with pytest.raises(UserError, match=r"bus\.jsonl, line 1: entry 1 stands where entry 0 should"):
        ReplayChannel(path, Clock())


def test_a_lease_that_ends_twice_is_named(recorded):
    path, _ = recorded
    entries = list(read(path))
    again = entries[1].model_copy(update={"sequence": len(entries)})
    with path.open("a") as file:
        file.write(again.model_dump_json() + "\n")
    with pytest.raises(UserError, match=rf"line {len(entries) + 1}: ends a lease that is not live"):
        ReplayChannel(path, Clock())


def test_a_missing_record_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nothing\.jsonl: cannot be read"):
        ReplayChannel(tmp_path / "nothing.jsonl", Clock())
