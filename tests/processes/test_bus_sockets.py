"""Both ends over real sockets, with real processes where it matters."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import msgpack
import pytest
import zmq

from bus.channel import Answer
from bus.client import BusClient
from bus.codec import decode, encode
from bus.messages import Bye, CandidateOutcome, Digest, Outcomes, Proposal, Ready, Reject, Usage, Work
from bus.server import BusServer
from shared.errors import UserError
from shared.settings import BusSettings

ROOT = Path(__file__).resolve().parents[2]
ANY_PORT = "tcp://127.0.0.1:*"
LIMIT = 262_144
READY_SECONDS = 0.1

PROPOSER = """
    import sys, time
    from bus.messages import Proposal, Usage, Work
    from bus.client import BusClient
    from shared.settings import BusSettings

    endpoint, delay = sys.argv[1], float(sys.argv[2])
    end = BusClient(BusSettings(connect=[endpoint], ready_seconds=0.1), name="p", model="echo")
    end.ready(1, {})
    while True:
        for endpoint, message in end.receive(1.0):
            print(message.kind, flush=True)
            if isinstance(message, Work):
                end.ready(0, {endpoint: [message.lease]})
                time.sleep(delay)
                words = [f"for step {message.digest.step}"]
                end.propose(endpoint, Proposal(lease=message.lease, model="echo", candidates=words, usage=Usage(seconds=delay)))
                end.ready(1, {})
"""  # noqa: E501

TRAINER = """
    import sys, time
    from bus.channel import Answer
    from bus.messages import Digest
    from bus.server import BusServer
    from shared.settings import BusSettings

    end = BusServer(BusSettings(bind=sys.argv[1], ready_seconds=0.1, lease_seconds=2.0), run="r")
    print(end.endpoint, flush=True)
    step = 0
    while True:
        step += 1
        for event in end.poll():
            if isinstance(event, Answer):
                print(time.monotonic(), flush=True)
        if end.can_lease():
            end.lease(Digest(run="r", sequence=step, step=step, budget=10**9, task="t", labels=["a", "b"], num_tokens=4,
                num_candidates=2, trajectory=[], substitutions=[], slope=None, best=[], outcomes=[]), 1)
        time.sleep(0.01)
"""


def digest(step=0):
    return Digest(
        run="r", sequence=step, step=step, budget=10, task="t", labels=["a", "b"], num_tokens=4, num_candidates=2,
        trajectory=[], substitutions=[], slope=None, best=[], outcomes=[],
    )  # fmt: skip


@contextmanager
def trainer(bind=ANY_PORT, lease_seconds=20.0, ready_seconds=READY_SECONDS, **keys):
    end = BusServer(BusSettings(bind=bind, lease_seconds=lease_seconds, ready_seconds=ready_seconds, **keys), run="r")
    try:
        yield end
    finally:
        end.close()


@contextmanager
def proposer(*endpoints, **keys):
    end = BusClient(BusSettings(connect=list(endpoints), ready_seconds=READY_SECONDS, **keys), name="p", model="m")
    try:
        yield end
    finally:
        end.close()


@contextmanager
def process(program, *arguments):
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


@contextmanager
def stranger(endpoint):
    """A bare DEALER."""
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.connect(endpoint)
    try:
        yield dealer
    finally:
        context.destroy(linger=0)


def until(condition, seconds=15.0):
    """Call `condition` until it gives something true, which is returned."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.002)
    return result


def answers(end):
    """Wait for answers, leasing to whoever is free."""

    def step():
        got = [event for event in end.poll() if isinstance(event, Answer)]
        if end.can_lease():
            end.lease(digest(), 1)
        return got

    return until(step)


def pump(*peers):
    """Let proposers' ends of this process do what they do by themselves."""
    for peer in peers:
        peer.receive(0)


def leased(end, *peers):
    """Wait until somebody can take work, and lease it."""
    until(lambda: pump(*peers) or end.can_lease())
    (lease,) = end.lease(digest(), 1)
    return lease


def received(end, kind):
    """Wait until a proposer's end receives a message of `kind`."""

    def look():
        return [message for _, message in end.receive(0.01) if isinstance(message, kind)]

    return until(look)[0]


def replied(end, dealer):
    """What the trainer answers to a bare DEALER, letting the answers to ready pass."""

    until(lambda: dealer.poll(1))
    message = decode(dealer.recv(), LIMIT)
    return replied(end, dealer) if message.kind == "ack" else message


def test_work_goes_out_and_its_answer_comes_back():
    with trainer() as end, proposer(end.endpoint) as peer:
        peer.ready(1, {})
        lease = leased(end, peer)
        work = received(peer, Work)
        assert work.lease == lease.id
        assert work.digest == digest()
        assert peer.propose(
            end.endpoint, Proposal(lease=work.lease, model="m", candidates=["words"], usage=Usage(seconds=0.1))
        )
        (answer,) = until(end.poll)
        assert answer.proposal.candidates == ["words"]
        assert answer.digest == digest()
        assert end.counts().ended["settled"] == 1


def test_news_says_when_to_look():
    """A turn of the loop without news costs one look, so news must not be missed, nor be there always."""
    with trainer() as end, proposer(end.endpoint) as peer:
        assert not end.news
        peer.ready(1, {})
        until(lambda: pump(peer) or end.news)
        assert end.can_lease()
        assert end.poll() == [] and not end.news
        peer.ready(1, {})
        pump(peer)
        work = received(peer, Work) if end.lease(digest(), 1) else None
        assert not end.news  # nobody is free, and nothing has come
        peer.propose(end.endpoint, Proposal(lease=work.lease, model="m", candidates=[], usage=Usage(seconds=0)))
        until(lambda: end.news)
        assert end.poll() and not end.news


def test_outcomes_and_bye_reach_everyone():
    outcome = Outcomes(
        run="r", lease="l", step=3, outcomes=[CandidateOutcome(words="w", outcome="adopted", score=1.0, gain=0.1)]
    )
    with trainer() as end, proposer(end.endpoint) as one, proposer(end.endpoint) as two:
        one.ready(1, {})
        two.ready(0, {})
        until(lambda: pump(one, two) or end.counts().peers == 2)
        end.tell(outcome)
        assert received(one, Outcomes) == outcome
        assert received(two, Outcomes) == outcome


def test_a_leaving_trainer_says_bye():
    with trainer() as end, process(PROPOSER, end.endpoint, 0) as child:
        until(lambda: end.counts().peers == 1)
        end.close()
        until(lambda: child.stdout.readline() == "bye\n")


def test_a_proposer_knows_who_hears_it():
    with trainer() as end, proposer(end.endpoint, "tcp://127.0.0.1:1") as peer:
        peer.ready(0, {})

        assert until(lambda: peer.receive(0.01) or peer.connected) == {end.endpoint}
        end.close()
        until(lambda: peer.receive(0.01) == [] and not peer.connected)


def test_a_proposer_may_be_there_first():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        endpoint = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    with process(PROPOSER, endpoint, 0):
        time.sleep(0.5)
        with trainer(bind=endpoint) as end:
            assert answers(end)


def test_several_trainers_share_one_proposer():
    with (
        trainer(ready_seconds=5.0) as one,  # the proposer of this process says nothing while the other one starts
        trainer(ready_seconds=5.0) as two,
        process(PROPOSER, one.endpoint, 0),
        proposer(one.endpoint, two.endpoint) as peer,
    ):
        peer.ready(1, {})
        leased(two, peer)
        work = received(peer, Work)
        peer.ready(0, {two.endpoint: [work.lease]})
        assert answers(one)  # by the other process
        peer.reject(two.endpoint, Reject(reason="busy", lease=work.lease))
        until(lambda: two.counts().ended["released"] == 1)


def test_wake_ends_a_wait_from_another_thread():
    with proposer("tcp://127.0.0.1:1") as peer:
        timer = threading.Timer(0.1, peer.wake)
        timer.start()
        started = time.monotonic()
        assert peer.receive(20.0) == []
        assert time.monotonic() - started < 10.0
        timer.join()
    peer.wake()  # closed: harmless


def test_a_leaving_proposer_takes_its_leases_along():
    with trainer() as end:
        with proposer(end.endpoint) as peer:
            peer.ready(1, {})
            leased(end, peer)
        until(lambda: end.counts().ended["gone"] == 1)
        assert end.counts().peers == 0


def test_an_answer_too_long_for_a_frame_frees_its_lease():
    with trainer() as end, proposer(end.endpoint) as peer:
        peer.ready(1, {})
        leased(end, peer)
        work = received(peer, Work)
        huge = Proposal(lease=work.lease, model="m", candidates=["\N{SNOWMAN}" * 2000] * 64, usage=Usage(seconds=0))
        peer.propose(end.endpoint, huge)
        until(lambda: end.counts().ended["released"] == 1)


def test_a_killed_proposer_costs_one_lease():
    with trainer(lease_seconds=0.3, ready_seconds=1.0) as end:
        with process(PROPOSER, end.endpoint, 60) as child:
            leased(end)
            assert child.stdout.readline() == "work\n"
            os.kill(child.pid, signal.SIGSTOP)
            time.sleep(0.2)  # a ready read after its death could not be answered: the lease would end as gone
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
            until(lambda: end.counts().ended["expired"] == 1)
        with process(PROPOSER, end.endpoint, 0):
            assert answers(end)


def test_a_stopped_proposer_is_forgotten_and_comes_back():
    with trainer(lease_seconds=0.3) as end, process(PROPOSER, end.endpoint, 0.2) as child:
        leased(end)
        assert child.stdout.readline() == "work\n"
        os.kill(child.pid, signal.SIGSTOP)
        until(lambda: end.counts().peers == 0)
        assert end.counts().ended["settled"] == 0
        assert not end.can_lease()
        os.kill(child.pid, signal.SIGCONT)
        assert answers(end)


def test_both_sides_go_on_after_a_stop_longer_than_tcp_waits():
    with (
        process(TRAINER, ANY_PORT) as one,
        process(TRAINER, ANY_PORT) as two,
        process(PROPOSER, one.stdout.readline().strip(), 0.05) as partner,
        process(PROPOSER, two.stdout.readline().strip(), 0.05) as stopped,
    ):
        for child in (one, two):
            assert child.stdout.readline()
        for child in (one, stopped):
            os.kill(child.pid, signal.SIGSTOP)
        time.sleep(8)
        went_on = time.monotonic()
        for child in (one, stopped):
            os.kill(child.pid, signal.SIGCONT)
        for child in (one, two):
            until(lambda child=child: float(child.stdout.readline()) > went_on + 0.5)
        assert partner.poll() is None


LEASING = """
    import sys
    from bus.messages import Digest
    from bus.server import BusServer
    from shared.settings import BusSettings

    server = BusServer(BusSettings(bind=sys.argv[1], ready_seconds=0.5, lease_seconds=60.0), run="r")
    print(server.endpoint, flush=True)
    digest = Digest(run="r", sequence=0, step=0, budget=1, task="t", labels=["a", "b"], num_tokens=4,
        num_candidates=2, trajectory=[], substitutions=[], slope=None, best=[], outcomes=[])
    while not server.lease(digest, 1):
        server.wait(1.0)
    while not (events := server.poll()):
        server.wait(1.0)
    print(type(events[0]).__name__, flush=True)
"""


def test_no_time_passes_while_the_trainer_is_suspended():
    """Stopped for longer than a peer may be silent: the lease is still settled."""
    with process(LEASING, ANY_PORT) as child:
        endpoint = child.stdout.readline().strip()
        with proposer(endpoint) as peer:
            peer.ready(1, {})
            work = received(peer, Work)
            os.kill(child.pid, signal.SIGSTOP)
            time.sleep(3.5)  # the peer sends nothing; it may be silent for 2.5 s
            os.kill(child.pid, signal.SIGCONT)
            peer.ready(0, {endpoint: [work.lease]})
            peer.propose(endpoint, Proposal(lease=work.lease, model="m", candidates=[], usage=Usage(seconds=0)))
            assert child.stdout.readline() == "Answer\n"


READY = {"v": 2, "kind": "ready", "name": "n", "model": "m", "credits": 1, "holding": []}

MISUSES = {
    "garbage": ([b"\x00garbage"], "malformed"),
    "empty frame": ([b""], "malformed"),
    "two frames": ([msgpack.packb(READY), b"more"], "malformed"),
    "a thousand frames": ([b""] * 1000, "malformed"),
    "as REQ sends it": ([b"", msgpack.packb(READY)], "malformed"),
    "another version": ([msgpack.packb({**READY, "v": 1})], "version"),
    "a trainer's message": ([msgpack.packb({"v": 2, "kind": "ack", "run": "r"})], "malformed"),
    "an unknown lease": (
        [encode(Proposal(lease="x", model="m", candidates=[], usage=Usage(seconds=0)), LIMIT)],
        "lease",
    ),
}


@pytest.mark.parametrize(("frames", "reason"), MISUSES.values(), ids=MISUSES)
def test_what_cannot_be_used_is_rejected(frames, reason):
    with trainer() as end, stranger(end.endpoint) as dealer:
        dealer.send_multipart(frames)
        assert replied(end, dealer).reason == reason
        until(lambda: end.counts().rejected == {reason: 1})


def test_rejects_are_not_answered():
    with trainer() as end, stranger(end.endpoint) as dealer:
        dealer.send(msgpack.packb({"v": 1, "kind": "reject", "reason": "version"}))
        dealer.send(msgpack.packb({"v": 2, "kind": "reject", "reason": "whatever"}))
        dealer.send(b"garbage")
        assert replied(end, dealer).reason == "malformed"
        until(lambda: end.counts().rejected == {"version": 1, "malformed": 2})
        assert dealer.poll(100) == 0


def test_a_lease_is_settled_by_its_holder_alone():
    with trainer() as end, proposer(end.endpoint) as peer, stranger(end.endpoint) as thief:
        peer.ready(1, {})
        lease = leased(end, peer)
        proposal = Proposal(lease=lease.id, model="m", candidates=["mine"], usage=Usage(seconds=0))
        thief.send(encode(proposal, LIMIT))
        assert replied(end, thief) == Reject(reason="lease", lease=lease.id)
        peer.propose(end.endpoint, proposal)
        assert until(end.poll)


def test_a_late_answer_is_rejected():
    with trainer(lease_seconds=0.1) as end, proposer(end.endpoint) as peer:
        peer.ready(1, {})
        leased(end, peer)
        work = received(peer, Work)
        until(lambda: end.counts().ended["expired"] == 1)
        late = Proposal(lease=work.lease, model="m", candidates=[], usage=Usage(seconds=0))
        peer.propose(end.endpoint, late)
        until(lambda: end.counts().rejected == {"lease": 1})
        assert received(peer, Reject).reason == "lease"


def test_a_proposer_survives_a_strange_trainer(caplog):
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.bind(ANY_PORT)
    endpoint = router.getsockopt_string(zmq.LAST_ENDPOINT)
    with proposer(endpoint) as peer:
        peer.ready(1, {})
        until(lambda: peer.receive(0.01) or router.poll(1))
        name, ready = router.recv_multipart()
        assert decode(ready, LIMIT) == Ready(name="p", model="m", credits=1, holding=[])
        for frames in [b"garbage"], [b"", b""], [msgpack.packb({"v": 1, "kind": "ack"})], [encode(Bye(), LIMIT)]:
            router.send_multipart([name, *frames])
        assert received(peer, Bye) == Bye()
        assert peer.bad_frames == {"malformed": 2, "version": 1}
        assert peer.connected == set()
    assert "another version" in caplog.text
    context.destroy(linger=0)


def test_a_huge_frame_only_hurts_its_sender():
    with trainer() as end, stranger(end.endpoint) as dealer, process(PROPOSER, end.endpoint, 0):
        dealer.send(b"x" * (LIMIT + 1))
        assert answers(end)
        assert end.counts().rejected == {}


def test_a_flood_does_not_starve_the_others():
    with trainer() as end, stranger(end.endpoint) as dealer, process(PROPOSER, end.endpoint, 0):
        stop = threading.Event()

        def flood():
            while not stop.is_set():
                for frames in range(1, 4):
                    if dealer.poll(10, zmq.POLLOUT):
                        dealer.send_multipart([os.urandom(50)] * frames, zmq.NOBLOCK)

        thread = threading.Thread(target=flood)
        thread.start()
        try:
            until(lambda: end.counts().rejected.get("malformed", 0) > 1000)
            for _ in range(5):
                assert answers(end)
        finally:
            stop.set()
            thread.join()


def test_readies_that_wait_together_get_one_answer():
    ready = encode(Ready(name="n", model="m", credits=0, holding=[]), LIMIT)
    with process(LEASING, ANY_PORT) as child, stranger(child.stdout.readline().strip()) as dealer:
        dealer.send(ready)
        until(lambda: dealer.poll(1))
        assert decode(dealer.recv(), LIMIT).kind == "ack"
        os.kill(child.pid, signal.SIGSTOP)
        for _ in range(60):
            dealer.send(ready)
        time.sleep(0.3)  # they are in the trainer's buffers
        os.kill(child.pid, signal.SIGCONT)
        acks = 0
        while dealer.poll(1000):
            dealer.recv()
            acks += 1
        assert 1 <= acks < 20


FLOOD = """
    import sys, time
    import zmq

    context, sockets = zmq.Context(), []
    for _ in range(40):
        sockets.append(context.socket(zmq.DEALER))
        sockets[-1].setsockopt(zmq.RCVHWM, 1)
        sockets[-1].connect(sys.argv[1])
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        for socket in sockets:
            try:
                socket.send(b"x" * 50, zmq.NOBLOCK)
            except zmq.Again:
                pass
    print("sent", flush=True)
    time.sleep(60)
"""


def test_those_that_flood_may_die():
    """Connections that break while their messages are unread, as the trainer reads a flood slowly."""
    with process(TRAINER, ANY_PORT) as child:
        endpoint = child.stdout.readline().strip()
        with process(FLOOD, endpoint) as flood:
            assert flood.stdout.readline() == "sent\n"
        time.sleep(3)  # libzmq does what is due on broken connections
        with process(PROPOSER, endpoint, 0):
            assert child.stdout.readline()


def test_who_reads_nothing_blocks_nobody():
    outcome = Outcomes(
        run="r", lease="l", step=1, outcomes=[CandidateOutcome(words="w" * 2000, outcome="dropped")] * 64
    )
    with trainer() as end, stranger(end.endpoint) as dealer:
        dealer.send(encode(Ready(name="deaf", model="m", credits=0, holding=[]), LIMIT))
        until(lambda: end.counts().peers == 1)
        for _ in range(2000):
            end.tell(outcome)
        until(lambda: end.counts().peers == 0)


@pytest.mark.parametrize(
    "bind",
    [
        "tcp://0.0.0.0:5555",
        "tcp://*:5555",
        "tcp://192.0.2.1:5555",
        "tcp://[::]:5555",
        "tcp://eth0:5555",
        "tcp://127.0.0.1.example:5555",
        "tcp://localhost.example:5555",
    ],
)
def test_a_bind_open_to_other_hosts_is_refused(bind):
    with pytest.raises(UserError, match="CURVE") as caught:
        BusServer(BusSettings(bind=bind), run="r")
    for words in ("127.0.0.1", "SSH", "python -m bus.keys new trainer", "python -m bus.keys allow"):
        assert words in str(caught.value)


@pytest.mark.parametrize("bind", [ANY_PORT, "tcp://127.1.2.3:*", "tcp://localhost:*", "tcp://[::1]:*", "ipc://{}/bus"])
def test_loopback_will_do(bind, tmp_path):
    if "[" in bind and not Path("/proc/net/if_inet6").exists():
        pytest.skip("no IPv6 here")
    with trainer(bind=bind.format(tmp_path)) as end, proposer(end.endpoint) as peer:
        peer.ready(1, {})
        leased(end, peer)


def test_a_port_in_use_is_one_line():
    with trainer() as end, pytest.raises(UserError, match="in use"):
        BusServer(BusSettings(bind=end.endpoint), run="r")


def test_what_is_at_the_path_of_an_ipc_socket_stays(tmp_path):
    notes, bus, link = tmp_path / "notes", tmp_path / "bus", tmp_path / "link"
    notes.write_text("dear diary")
    link.symlink_to(notes)
    for path in (notes, link, tmp_path):
        with pytest.raises(UserError, match="not a socket"):
            BusServer(BusSettings(bind=f"ipc://{path}"), run="r")
    assert notes.read_text() == "dear diary" and link.is_symlink()
    with trainer(bind=f"ipc://{bus}") as end, proposer(end.endpoint) as peer:
        with pytest.raises(UserError, match="in use"):
            BusServer(BusSettings(bind=f"ipc://{bus}"), run="r")
        peer.ready(1, {})
        leased(end, peer)


def test_the_socket_of_a_trainer_that_was_killed_is_replaced(tmp_path):
    with process(TRAINER, f"ipc://{tmp_path}/bus") as child:
        assert child.stdout.readline()
    assert (tmp_path / "bus").is_socket()
    with trainer(bind=f"ipc://{tmp_path}/bus") as end, proposer(end.endpoint) as peer:
        peer.ready(1, {})
        leased(end, peer)


def test_a_socket_without_a_file_is_open_to_other_users():
    with pytest.raises(UserError, match="every user of this machine"):
        BusServer(BusSettings(bind="ipc://@tandem"), run="r")


def test_bad_addresses_are_named():
    with pytest.raises(UserError, match=r"bus\.bind"):
        BusServer(BusSettings(bind="tcp://127.0.0.1:99999"), run="r")
    with pytest.raises(UserError, match=r"bus\.connect"), proposer("tcp://nowhere"):
        pass
