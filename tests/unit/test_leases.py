"""The lease machine: what it promises, and that no order of events breaks it."""

import copy
import sys
from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from bus.leases import Ended, Leases
from bus.messages import Digest

DIGEST = Digest(
    run="r", sequence=0, step=0, budget=10, task="t", labels=["a", "b"], num_tokens=4, num_candidates=2,
    trajectory=[], substitutions=[], slope=None, best=[], outcomes=[],
)  # fmt: skip


@pytest.fixture
def leases():
    return Leases(lease_seconds=10.0, forget_seconds=5.0)


def granted(leases, now=0.0):
    lease = leases.grant(DIGEST, now)
    assert lease is not None
    return lease


def test_no_credit_no_lease(leases):
    assert leases.grant(DIGEST, 0.0) is None
    leases.ready(b"a", 0, [], 0.0)
    assert not leases.free_credits
    assert leases.grant(DIGEST, 0.0) is None


def test_a_repeated_ready_brings_no_second_lease(leases):
    leases.ready(b"a", 1, [], 0.0)
    granted(leases)
    leases.ready(b"a", 1, [], 0.1)  # said before the lease arrived
    assert not leases.free_credits


def test_a_held_lease_does_not_count_against_further_credits(leases):
    leases.ready(b"a", 1, [], 0.0)
    lease = granted(leases)
    leases.ready(b"a", 1, [lease.id], 0.1)
    assert leases.free_credits


def test_peers_take_turns(leases):
    for peer in (b"a", b"b", b"c"):
        leases.ready(peer, 2, [], 0.0)
    assert [granted(leases).peer for _ in range(6)] == [b"a", b"b", b"c"] * 2


def test_a_repeated_ready_does_not_jump_the_queue(leases):
    leases.ready(b"a", 9, [], 0.0)
    leases.ready(b"b", 9, [], 0.0)
    assert granted(leases).peer == b"a"
    leases.ready(b"a", 9, [], 0.1)
    assert granted(leases).peer == b"b"


def test_only_the_holder_settles_and_only_once(leases):
    leases.ready(b"a", 1, [], 0.0)
    leases.ready(b"b", 1, [], 0.0)
    lease = granted(leases)
    assert leases.settle(lease.id, b"b") is None
    assert leases.settle(lease.id, b"a") == lease
    assert leases.settle(lease.id, b"a") is None
    assert leases.ended == {"settled": 1, "released": 0, "expired": 0, "gone": 0}


def test_a_lease_that_ran_out_cannot_be_settled(leases):
    leases.ready(b"a", 1, [], 0.0)
    lease = granted(leases)
    leases.expire(9.9)
    leases.expire(10.0)
    assert leases.settle(lease.id, b"a") is None


def test_the_ends_of_leases_are_taken_once_in_their_order(leases):
    for peer in (b"a", b"b", b"c", b"d"):
        leases.ready(peer, 1, [], 0.0)
    a, b, c, d = (granted(leases, now) for now in (0.0, 1.0, 1.0, 2.0))
    leases.release(c.id, b"c")
    leases.settle(b.id, b"b")
    leases.gone(b"d")
    leases.ready(b"a", 0, [a.id], 9.0)
    leases.expire(10.0)
    assert leases.take_ended() == [Ended(c, "released"), Ended(b, "settled"), Ended(d, "gone"), Ended(a, "expired")]
    assert leases.take_ended() == []


def test_the_next_expiry_is_that_of_the_oldest_lease_or_of_the_longest_silent_peer(leases):
    assert leases.next_expiry is None
    leases.ready(b"a", 2, [], 0.0)
    assert leases.next_expiry == 5.0
    granted(leases, 1.0)
    granted(leases, 2.0)
    leases.ready(b"a", 2, [], 8.0)
    assert leases.next_expiry == 11.0
    leases.heard(b"a", 9.0)
    leases.expire(12.0)
    assert leases.next_expiry == 14.0


def test_an_expired_lease_frees_its_credit_at_the_next_ready(leases):
    leases.ready(b"a", 1, [], 0.0)
    granted(leases)
    leases.ready(b"a", 1, [], 9.9)
    assert not leases.free_credits
    leases.expire(10.0)
    leases.ready(b"a", 1, [], 10.1)
    assert leases.free_credits


def test_a_silent_peer_is_forgotten_with_its_leases(leases):
    leases.ready(b"a", 2, [], 0.0)
    leases.ready(b"b", 1, [], 4.0)
    granted(leases)
    leases.expire(5.0)
    assert list(leases.peers) == [b"b"]
    assert not leases.live
    assert leases.ended["gone"] == 1


def test_lease_names_cannot_be_guessed(leases):
    leases.ready(b"a", 64, [], 0.0)
    names = {granted(leases).id for _ in range(64)}
    assert len(names) == 64
    assert all(len(bytes.fromhex(name)) == 16 for name in names)


def lines_run(work):
    """The lines and calls of Python that `work` runs."""
    lines = 0

    def count(*_):
        nonlocal lines
        lines += 1
        return count

    sys.settrace(count)
    try:
        work()
    finally:
        sys.settrace(None)
    return lines


@pytest.mark.parametrize("operation", ["ready", "grant", "settle", "gone", "heard", "expire one", "expire none"])
def test_the_cost_of_an_operation_does_not_grow_with_the_peers(operation):
    """10 and 10,000 peers, each with a lease: the same lines run. The bench times the same."""

    def cost(number):
        leases = Leases(lease_seconds=10.0, forget_seconds=1e9)
        peers = [peer.to_bytes(4) for peer in range(number)]
        for peer in peers:
            leases.ready(peer, 2, [], 0.0)
        held = [granted(leases, 1e-4 * index) for index in range(number)]
        middle = held[number // 2]
        leases.ready(peers[0], 1, [], 0.5)
        return lines_run(
            {
                "ready": lambda: leases.ready(middle.peer, 1, [middle.id], 1.0),
                "grant": lambda: leases.grant(DIGEST, 1.0),
                "settle": lambda: leases.settle(middle.id, middle.peer),
                "gone": lambda: leases.gone(middle.peer),
                "heard": lambda: leases.heard(middle.peer, 1.0),
                "expire one": lambda: leases.expire(10.0),
                "expire none": lambda: leases.expire(9.0),
            }[operation]
        )

    assert cost(10) == cost(10_000)


class Peer:
    """A proposer as the protocol wants it, with a wire of its own each way."""

    def __init__(self, name, slots):
        self.name = name
        self.slots = slots
        self.reset()

    def reset(self):
        self.holding = set()
        self.inbox = deque()
        self.outbox = deque()


class AnyOrder(RuleBasedStateMachine):
    """Readies and leases cross on their wires, time passes, peers fail: the promises hold."""

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.granted = set()
        self.settled = 0
        self.reported = 0
        self.released = 0
        self.leases = Leases(lease_seconds=4.0, forget_seconds=6.0)
        self.peers = {name: Peer(name, slots) for name, slots in [(b"a", 1), (b"b", 2), (b"c", 3)]}

    peer = st.sampled_from([b"a", b"b", b"c"])

    @rule(name=peer)
    def say_ready(self, name):
        peer = self.peers[name]
        peer.outbox.append(("ready", peer.slots - len(peer.holding), sorted(peer.holding)))

    @rule(name=peer, pick=st.randoms(use_true_random=False), kind=st.sampled_from(["settle", "release"]))
    def end_one(self, name, pick, kind):
        peer = self.peers[name]
        if peer.holding:
            lease = pick.choice(sorted(peer.holding))
            peer.holding.remove(lease)
            peer.outbox.append((kind, lease))

    @rule(name=peer)
    def reach_trainer(self, name):
        outbox = self.peers[name].outbox
        match outbox.popleft() if outbox else None:
            case "ready", credits, holding:
                self.leases.ready(name, credits, holding, self.now)
            case "settle", lease:
                self.settled += self.leases.settle(lease, name) is not None
            case "release", lease:
                self.released += self.leases.release(lease, name) is not None

    @rule()
    def grant(self):
        credits = self.leases.free_credits
        lease = self.leases.grant(DIGEST, self.now)
        assert self.leases.free_credits == credits - (lease is not None)
        assert (lease is not None) == (credits > 0)
        if lease is not None:
            assert lease.id not in self.granted
            self.granted.add(lease.id)
            self.peers[lease.peer].inbox.append(lease.id)

    @rule(name=peer)
    def reach_peer(self, name):
        peer = self.peers[name]
        if peer.inbox:
            lease = peer.inbox.popleft()
            if len(peer.holding) < peer.slots:
                peer.holding.add(lease)
            else:  # only a void lease can stand in the way of a live one
                live = {lease.id for lease in self.leases.live}
                assert not peer.holding <= live
                peer.outbox.append(("release", lease))

    @rule(thief=peer, name=peer)
    def steal(self, thief, name):
        for lease in self.leases.live:
            if lease.peer == name != thief:
                assert self.leases.settle(lease.id, thief) is None

    @rule(seconds=st.floats(0.1, 3.0))
    def pass_time(self, seconds):
        self.now += seconds
        self.leases.expire(self.now)

    @rule(name=peer)
    def fail(self, name):
        self.peers[name].reset()
        self.leases.gone(name)
        assert not any(lease.peer == name for lease in self.leases.live)

    @invariant()
    def each_lease_lives_or_has_ended_once(self):
        ended = self.leases.ended
        assert len(self.leases.live) + sum(ended.values()) == len(self.granted)
        assert (ended["settled"], ended["released"]) == (self.settled, self.released)

    @invariant()
    def every_end_is_reported_once(self):
        self.reported += len(self.leases.take_ended())
        assert self.reported == sum(self.leases.ended.values())

    @invariant()
    def nobody_gets_more_than_it_has_slots(self):
        future = copy.deepcopy(self.leases)  # spend every credit there is
        while future.grant(DIGEST, self.now):
            pass
        for name, peer in self.peers.items():
            assert sum(lease.peer == name for lease in future.live) <= peer.slots

    def teardown(self):
        self.leases.expire(self.now + 100.0)
        assert not self.leases.live
        assert not self.leases.peers
        assert sum(self.leases.ended.values()) == len(self.granted)


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
