"""CURVE: who is admitted, who is refused, and the command that makes keys."""

import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import zmq
from conftest import run_process, run_program

from bus import keys
from bus.admission import secure_server
from bus.client import BusClient
from bus.messages import Digest, Proposal, Usage, Work
from bus.server import BusServer
from shared.errors import UserError
from shared.settings import BusSettings

ROOT = Path(__file__).resolve().parents[2]

DIGEST = Digest(
    run="r", sequence=0, step=0, budget=10, task="t", labels=["a", "b"], num_tokens=4, num_candidates=2,
    trajectory=[], substitutions=[], slope=None, best=[], outcomes=[],
)  # fmt: skip


def until(condition, seconds=15.0):
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.005)
    return result


def command(folder, *arguments):
    return run_program(keys.main, "--folder", folder / "keys", *arguments)


def public(folder, name):
    return (folder / "keys" / f"{name}.public").read_text().split()[0]


@pytest.fixture
def folder(tmp_path):
    """Keys of a trainer and of two proposers, the first of which is admitted."""
    for role, name in [("trainer", "t"), ("proposer", "a"), ("proposer", "b")]:
        assert command(tmp_path, "new", role, name).status == 0
    assert command(tmp_path, "allow", "a").status == 0
    return tmp_path


@pytest.fixture
def start(folder):
    """Starts ends of the bus that are closed when the test ends."""
    ends = []

    def make(kind, **settings):
        if kind is BusServer:
            values = {"bind": "tcp://127.0.0.1:*", "secret_key": f"{folder}/keys/t.secret"}
            values |= {"allowed_keys": f"{folder}/keys/allowed", "ready_seconds": 0.1}
            ends.append(BusServer(BusSettings(**{**values, **settings}), run="r"))
        else:
            ends.append(BusClient(BusSettings(ready_seconds=0.1, **settings), name="p", model="m"))
            ends[-1].ready(1, {})
        return ends[-1]

    yield make
    for end in reversed(ends):
        end.close()


def client(start, folder, server, name, trainer="t"):
    return start(
        BusClient,
        connect=[server.endpoint],
        secret_key=f"{folder}/keys/{name}.secret",
        trainer_keys=[public(folder, trainer)],
    )


def work(server, peer):
    """Lease a digest to `peer`, and what it receives."""
    until(lambda: peer.receive(0.01) or server.can_lease())
    assert server.lease(DIGEST, 1)
    return until(lambda: [message for _, message in peer.receive(0.01) if isinstance(message, Work)])[0]


def refused(server, peer, caplog, words):
    """`peer` says that it is refused, in these words, and the trainer never hears of it."""
    until(lambda: peer.receive(0.01) or words in caplog.text)
    assert server.counts().peers == 0
    assert not server.can_lease()
    assert not peer.connected


def test_a_listed_proposer_works(start, folder):
    server = start(BusServer)
    peer = client(start, folder, server, "a")
    lease = work(server, peer).lease
    peer.propose(server.endpoint, Proposal(lease=lease, model="m", candidates=["w"], usage=Usage(seconds=0)))
    (answer,) = until(server.poll)
    assert answer.proposal.candidates == ["w"]


def test_an_unlisted_key_is_refused_until_it_is_allowed(start, folder, caplog, monkeypatch):
    monkeypatch.setattr("bus.client.RETRY_SECONDS", 0.3)
    server = start(BusServer)
    peer = client(start, folder, server, "b")
    refused(server, peer, caplog, f"python -m bus.keys allow p '{public(folder, 'b')}'")
    until(lambda: peer.receive(0.01) or server.counts().rejected.get("key", 0) >= 2)  # it tries again
    assert caplog.text.count("does not admit this proposer") == 1  # and says so once
    assert command(folder, "allow", "b").status == 0
    assert work(server, peer)


def test_no_key_is_refused(start, caplog):
    server = start(BusServer)
    refused(server, start(BusClient, connect=[server.endpoint]), caplog, "demands a key; set bus.secret_key")


def test_a_wrong_trainer_key_is_refused(start, folder, caplog):
    server = start(BusServer)
    peer = client(start, folder, server, "a", trainer="b")
    refused(server, peer, caplog, "compare bus.trainer_keys with the trainer's public key")


def test_a_trainer_without_keys_is_not_trusted_by_a_proposer_with_keys(start, folder, caplog):
    server = start(BusServer, secret_key=None, allowed_keys=BusSettings().allowed_keys)
    refused(server, client(start, folder, server, "a"), caplog, "see that the trainer has bus.secret_key")


def test_without_a_handler_everybody_is_refused(start, folder):
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    secure_server(router, keys.read_secret(f"{folder}/keys/t.secret", "x")[1])
    router.bind("tcp://127.0.0.1:*")
    peer = start(
        BusClient,
        connect=[router.getsockopt_string(zmq.LAST_ENDPOINT)],
        secret_key=f"{folder}/keys/a.secret",
        trainer_keys=[public(folder, "t")],
    )
    deadline = time.monotonic() + 1.0
    while time.monotonic() < deadline:
        peer.receive(0.05)
    assert not router.poll(0)
    context.destroy(linger=0)


def test_revoking_cuts_a_live_connection_at_its_next_message(start, folder, caplog):
    server = start(BusServer)
    peer = client(start, folder, server, "a")
    lease = work(server, peer).lease
    assert command(folder, "revoke", "a").status == 0
    peer.propose(server.endpoint, Proposal(lease=lease, model="m", candidates=["w"], usage=Usage(seconds=0)))
    (event,) = until(server.poll)
    assert (event.lease, event.how) == (lease, "gone")
    refused(server, peer, caplog, "does not admit this proposer")


def test_keys_may_come_from_the_environment(start, folder, monkeypatch):
    for variable, file in {"T_SECRET": "t.secret", "T_ALLOWED": "allowed", "A": "a.secret", "T": "t.public"}.items():
        monkeypatch.setenv(variable, (folder / "keys" / file).read_text())
    server = start(BusServer, secret_key="env:T_SECRET", allowed_keys="env:T_ALLOWED")
    assert work(server, start(BusClient, connect=[server.endpoint], secret_key="env:A", trainer_keys=["env:T"]))


def test_an_ipc_socket_is_for_its_user_alone(tmp_path):
    server = BusServer(BusSettings(bind=f"ipc://{tmp_path}/bus"), run="r")
    assert stat.S_IMODE((tmp_path / "bus").stat().st_mode) & 0o077 == 0
    server.close()


def test_keys_are_private_and_nothing_is_overwritten(folder):
    assert stat.S_IMODE((folder / "keys").stat().st_mode) == 0o700
    for name in ("t.secret", "a.secret", "allowed"):
        assert stat.S_IMODE((folder / "keys" / name).stat().st_mode) == 0o600
    before = {path: path.read_bytes() for path in (folder / "keys").iterdir()}
    for arguments in (
        ["new", "proposer", "a"],
        ["new", "proposer", "../a"],
        ["new", "judge", "j"],
        ["allow", "nobody"],
        ["allow", "c", "short"],
        ["allow", "c", public(folder, "a")],
        ["allow", "a", public(folder, "b")],
        ["revoke", "b"],
        ["dance"],
        [],
    ):
        assert command(folder, *arguments).refused()
    assert {path: path.read_bytes() for path in (folder / "keys").iterdir()} == before


def test_the_list_names_keys_and_the_admitted(folder):
    listed = command(folder, "list").out
    assert listed.count("key ") == 3
    assert listed.count("allowed ") == 1
    assert (folder / "keys" / "a.secret").read_text().strip() not in listed


def test_it_runs_as_a_module(tmp_path):
    assert run_process("bus.keys", "new", "trainer", "t", cwd=tmp_path).status == 0
    assert "nothing was changed" in run_process("bus.keys", "new", "trainer", "t", cwd=tmp_path).refused()
    (tmp_path / "keys").chmod(0o755)
    assert "chmod 700 keys" in run_process("bus.keys", "new", "trainer", "u", cwd=tmp_path).refused()


@pytest.mark.parametrize("content", [None, "", "short", "x" * 41, "\x00" * 40])
def test_a_bad_secret_is_named_and_never_quoted(folder, content):
    path = folder / "keys" / "bad.secret"
    if content is not None:
        path.write_text(content)
        path.chmod(0o600)
    with pytest.raises(UserError, match=r"bus\.secret_key: .*bad\.secret") as caught:
        BusServer(
            BusSettings(bind="tcp://127.0.0.1:*", secret_key=str(path), allowed_keys=f"{folder}/keys/allowed"), "r"
        )
    assert not content or content not in str(caught.value)


def test_a_key_in_place_of_its_file_is_not_quoted(folder):
    _, secret = zmq.curve_keypair()
    with pytest.raises(UserError, match="not the key itself") as caught:
        BusServer(BusSettings(secret_key=secret.decode(), allowed_keys=f"{folder}/keys/allowed"), run="r")
    assert secret.decode() not in str(caught.value)


def test_a_list_of_allowed_keys_without_a_key_is_refused(folder):
    with pytest.raises(UserError, match=r"bus\.allowed_keys needs bus\.secret_key"):
        BusServer(BusSettings(allowed_keys=f"{folder}/keys/allowed"), run="r")


def test_a_secret_that_everybody_can_read_is_refused(folder):
    (folder / "keys" / "a.secret").chmod(0o644)
    with pytest.raises(UserError, match="can be read by everybody"):
        BusClient(BusSettings(secret_key=f"{folder}/keys/a.secret"), name="p", model="m")


def test_a_bad_list_of_allowed_keys_is_named(folder):
    (folder / "keys" / "allowed").write_text("not-a-key a\n")
    with pytest.raises(UserError, match=r"allowed, line 1: not a KEY"):
        BusServer(
            BusSettings(
                secret_key=f"{folder}/keys/t.secret", allowed_keys=f"{folder}/keys/allowed", bind="tcp://127.0.0.1:*"
            ),
            run="r",
        )


IN_NAMESPACE = """
    import sys
    from bus.client import BusClient
    from bus.messages import Proposal, Usage, Work
    from shared.settings import BusSettings

    endpoint, secret, trainer = sys.argv[1:]
    settings = BusSettings(connect=[endpoint], ready_seconds=0.1, secret_key=secret, trainer_keys=[trainer])
    client = BusClient(settings, name="far", model="m")
    client.ready(1, {})
    while True:
        for endpoint, message in client.receive(1.0):
            if isinstance(message, Work):
                usage = Usage(seconds=0)
                client.propose(endpoint, Proposal(lease=message.lease, model="m", candidates=["far"], usage=usage))
"""

TRAINER_IN_NAMESPACE = """
    import sys
    from bus.server import BusServer
    from bus.messages import Digest
    from shared.settings import BusSettings

    endpoint, secret, allowed = sys.argv[1:]
    server = BusServer(BusSettings(bind=endpoint, secret_key=secret, allowed_keys=allowed, ready_seconds=0.1), run="r")
    digest = Digest.model_validate_json(sys.stdin.read())
    while True:
        if server.can_lease():
            server.lease(digest, 1)
        server.wait(0.1)
        for event in server.poll():
            print(event.proposal.candidates[0], flush=True)
"""


def test_a_proposer_on_another_host_works_and_an_unlisted_one_is_refused(two_hosts, folder):
    here, there = two_hosts.names

    def run(name, program, *arguments, **options):
        line = [*two_hosts.at(name), sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)]
        return subprocess.Popen(line, cwd=ROOT, text=True, **options)

    endpoint = f"tcp://{two_hosts.address}:5777"
    trainer = run(
        here, TRAINER_IN_NAMESPACE, endpoint, folder / "keys/t.secret", folder / "keys/allowed",
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    trainer.stdin.write(DIGEST.model_dump_json())
    trainer.stdin.close()
    children = [trainer]
    try:
        stranger = run(
            there, IN_NAMESPACE, endpoint, folder / "keys/b.secret", public(folder, "t"), stderr=subprocess.PIPE
        )
        children.append(stranger)
        assert "does not admit this proposer" in stranger.stderr.readline()
        children.append(run(there, IN_NAMESPACE, endpoint, folder / "keys/a.secret", public(folder, "t")))
        assert trainer.stdout.readline() == "far\n"
    finally:
        for child in children:
            child.kill()
            child.wait()
        trainer.stdout.close()
        stranger.stderr.close()
