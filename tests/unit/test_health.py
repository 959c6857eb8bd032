"""Metrics, /healthz and the log lines, over real HTTP and in real processes."""

import gzip
import http.client
import json
import logging
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from bus.channel import Counts
from proposer.metrics import ProposerMetrics, RequestOutcome, State
from shared import health as health_module
from shared.errors import UserError
from shared.health import Health, Server, start
from shared.settings import MetricsSettings
from trainer.runs.metrics import LEASE_OUTCOMES, OUTCOMES, REJECT_REASONS, TrainerMetrics
from trainer.search.events import Stepped

ROOT = Path(__file__).resolve().parents[2]


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def trainer():
    return TrainerMetrics(recipe="demo", run="demo-s1")


@pytest.fixture
def proposer():
    return ProposerMetrics(recipe="demo", model="embedded")


@pytest.fixture
def serve(monkeypatch):
    """Start servers that the test's end closes."""
    monkeypatch.delenv("PORT", raising=False)
    servers = []

    def begin(registry=None, health=None, port=0):
        settings = MetricsSettings(port=port)
        server = start(settings, registry or CollectorRegistry(), health or Health(settings.stale_seconds))
        if server is not None:
            servers.append(server)
        return server

    yield begin
    for server in servers:
        server.close()


def ask(server: Server, path: str, method: str = "GET", headers: dict[str, str] | None = None):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    connection.request(method, path, headers=headers or {})
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response, body


def values(body: bytes) -> dict[tuple[str, ...], float]:
    """Sample name and label values to value."""
    families = text_string_to_metric_families(body.decode())
    return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}


def closes(connection: socket.socket) -> bool:
    connection.settimeout(20)
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def is_open(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) != b""
    except BlockingIOError:
        return True


def test_trainer_metrics_are_served_as_observed(serve, trainer):
    trainer(stepped(2, Counts(3, 1, {"settled": 4, "gone": 0}, {"malformed": 2})))
    trainer(stepped(1, Counts(3, 1, {"settled": 5, "gone": 1}, {"malformed": 2})))
    trainer.dev_loss.set(0.5)
    trainer.digests.inc()
    trainer.candidates.inc("adopted")
    trainer.candidates.inc("something an LLM said")
    trainer.trial_gain.observe(-0.2)
    trainer.trial_gain.observe(0.02)
    trainer.staleness.observe(7)
    response, body = ask(serve(trainer.registry), "/metrics")
    assert response.status == 200
    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    found = values(body)
    expected = {
        ("steps_total",): 2,
        ("lane_steps_total",): 3,
        ("lanes",): 1,
        ("step_seconds_count",): 2,
        ("step_seconds_bucket", "0.01"): 0,
        ("step_seconds_bucket", "0.02"): 2,
        ("bus_seconds_bucket", "2e-06"): 0,
        ("bus_seconds_bucket", "5e-06"): 2,
        ("loss", "dev"): 0.5,
        ("digests_total",): 1,
        ("candidates_total", "adopted"): 1,
        ("candidates_total", "other"): 1,
        ("trial_margin_bucket", "0.1", "incumbent"): 0,
        ("trial_margin_bucket", "0.3", "incumbent"): 1,
        ("trial_margin_sum", "incumbent"): 0.2,
        ("trial_margin_sum", "challenger"): 0.02,
        ("staleness_steps_sum",): 7,
        ("peers",): 3,
        ("leases_live",): 1,
        ("leases_total", "settled"): 5,
        ("leases_total", "gone"): 1,
        ("rejected_frames_total", "malformed"): 2,
    }
    for (name, *labels), value in expected.items():
        assert found["tandem_trainer_" + name, *labels] == value, name
    assert found["tandem_trainer_loss", "train"] == 0.7
    assert found["process_resident_memory_bytes",] > 0
    assert any(key[0] == "tandem_trainer_info" and {"demo", "demo-s1"} < set(key) for key in found)


def test_proposer_metrics_are_served_as_observed(serve, proposer):
    proposer.request("ok", 1.5, tokens_in=300, tokens_out=40)
    proposer.request("timeout", 60.0)
    proposer.request("no such outcome", 1.0)
    proposer.candidates.inc(8)
    proposer.busy_seconds.inc(61.5)
    proposer.state_changes.inc("asking")
    proposer.connected_trainers.set(2)
    found = values(ask(serve(proposer.registry), "/metrics")[1])
    expected = {
        ("llm_requests_total", "ok"): 1,
        ("llm_requests_total", "timeout"): 1,
        ("llm_requests_total", "other"): 1,
        ("llm_request_seconds_sum", "ok"): 1.5,
        ("llm_request_seconds_count", "other"): 1,
        ("tokens_total", "in"): 300,
        ("tokens_total", "out"): 40,
        ("candidates_total",): 8,
        ("busy_seconds_total",): 61.5,
        ("state_changes_total", "asking"): 1,
        ("connected_trainers",): 2,
    }
    for (name, *labels), value in expected.items():
        assert found["tandem_proposer_" + name, *labels] == value, name


def test_two_registries_in_one_process_do_not_mix(serve, trainer, proposer):
    of_trainer = ask(serve(trainer.registry), "/metrics")[1]
    of_proposer = ask(serve(proposer.registry), "/metrics")[1]
    assert b"tandem_trainer_" in of_trainer and b"tandem_proposer_" not in of_trainer
    assert b"tandem_proposer_" in of_proposer and b"tandem_trainer_" not in of_proposer


@pytest.mark.parametrize("side", ["trainer", "proposer"])
def test_names_and_types_follow_the_rules(side, request, serve):
    _, body = ask(serve(request.getfixturevalue(side).registry), "/metrics")
    assert b"_created" not in body
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", body.decode(), re.MULTILINE):
        assert name.startswith((f"tandem_{side}_", "process_")), name
        assert name.endswith("_total") == (kind == "counter"), name
        assert not re.search(r"_(ms|millis|milliseconds|kb|mb|percent)\b", name), name


def stepped(lanes, counts):
    """One step of `lanes` lanes."""
    return Stepped(2, [None] * lanes, [0.7] * lanes, step_seconds=0.015, bus_seconds=4e-6, counts=counts)


def observe_everything(metrics):
    """Give every metric of a process a value, so that each sample it can serve is on the page."""
    if isinstance(metrics, TrainerMetrics):
        metrics(stepped(2, Counts(3, 1, dict.fromkeys(LEASE_OUTCOMES, 4), dict.fromkeys(REJECT_REASONS, 2))))
        metrics.dev_loss.set(0.5)
        metrics.digests.inc()
        for gain in (-2.0, -0.2, 0.0, 0.2, 20.0):
            metrics.trial_gain.observe(gain)
        metrics.staleness.observe(7)
        for outcome in (*OUTCOMES, 'odd "outcome"\n'):
            metrics.candidates.inc(outcome)
    else:
        for outcome in (*get_args(RequestOutcome), "odd"):
            metrics.request(outcome, 1.5, tokens_in=300, tokens_out=40)
        metrics.state_changes.inc("asking")
        metrics.backoff_seconds.set(1.5)


@pytest.mark.parametrize("side", ["trainer", "proposer"])
def test_the_librarys_own_parsers_read_both_formats(side, request, serve):
    metrics = request.getfixturevalue(side)
    server = serve(metrics.registry)
    for observe in (lambda _: None, observe_everything):
        observe(metrics)
        response, body = ask(server, "/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
        assert response.headers["Content-Type"].startswith("application/openmetrics-text")
        assert body.endswith(b"# EOF\n")
        strict = {(s.name, *s.labels.values()): s.value for f in parse_openmetrics(body.decode()) for s in f.samples}
        plain = values(ask(server, "/metrics")[1])
        assert {key for key in strict if key[0].startswith("tandem_")} == {
            k for k in plain if k[0].startswith("tandem_")
        }


def test_gzip_on_request(serve, trainer):
    response, body = ask(serve(trainer.registry), "/metrics", headers={"Accept-Encoding": "gzip"})
    assert response.headers["Content-Encoding"] == "gzip"
    assert values(gzip.decompress(body))


def test_healthz_follows_the_beat(serve):
    clock = Clock()
    health = Health(60.0, clock)
    server = serve(health=health)

    def state():
        response, body = ask(server, "/healthz")
        return response.status, json.loads(body)["status"]

    assert state() == (200, "ok")
    clock.now += 60.0
    assert state() == (200, "ok")
    clock.now += 0.1
    assert state() == (503, "stale")
    health.beat()
    assert state() == (200, "ok")
    health.ending = True
    assert state() == (503, "ending")


def test_other_paths_and_methods(serve, trainer):
    server = serve(trainer.registry)
    for path in ("/", "/metrics/", "/healthz/x", "/favicon.ico"):
        assert ask(server, path)[0].status == 404, path
    assert ask(server, "/metrics?x=1")[0].status == 200
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "BREW"):
        response, _ = ask(server, "/metrics", method)
        assert response.status == 405 and response.headers["Allow"] == "GET, HEAD", method
    for path, status in (("/metrics", 200), ("/healthz", 200), ("/", 404)):
        response, body = ask(server, path, "HEAD")
        assert response.status == status and body == b"" and int(response.headers["Content-Length"]) > 0


def test_garbage_does_not_end_the_server(serve, capfd):
    server = serve()
    for garbage in (
        b"\0\xff\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET " + b"/" * 70_000 + b"\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(garbage)
    assert ask(server, "/healthz")[0].status == 200
    assert capfd.readouterr() == ("", "")


def test_silent_clients_do_not_block_others_and_are_dropped(serve, monkeypatch):
    monkeypatch.setattr(health_module._Handler, "timeout", 2.0)
    server = serve()
    silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(5)]
    assert ask(server, "/healthz")[0].status == 200
    assert any(map(is_open, silent)), "it answered only when they were gone"
    assert all(closes(connection) for connection in silent)
    for connection in silent:
        connection.close()


def test_too_many_clients_are_hung_up_on(serve):
    server = serve()
    silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(health_module.CLIENTS)]
    with socket.create_connection(("127.0.0.1", server.port)) as one_more:
        assert closes(one_more)
    for connection in silent:
        connection.close()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            assert ask(server, "/healthz")[0].status == 200
            return
        except (ConnectionError, http.client.HTTPException):
            time.sleep(0.02)
    pytest.fail("the places were not freed")


def test_close_waits_for_no_client_and_frees_the_port(serve):
    server = serve()
    with socket.create_connection(("127.0.0.1", server.port)) as silent:
        assert ask(server, "/healthz")[0].status == 200  # so the silent one before it has its thread
        server.close()
        assert is_open(silent)
    assert serve(port=server.port) is not None


def test_a_port_in_use_leaves_a_warning(serve, caplog):
    first = serve()
    assert serve(port=first.port) is None
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and str(first.port) in record.getMessage()
    assert ask(first, "/healthz")[0].status == 200


def test_a_port_in_use_does_not_end_a_real_process(serve):
    taken = serve().port
    code = (
        "from shared import health, logs; from shared.settings import MetricsSettings\n"
        "from prometheus_client import CollectorRegistry\n"
        "logs.set_up()\n"
        "print(health.start(MetricsSettings(), CollectorRegistry(), health.Health(1)))"
    )
    done = run_python(code, PORT=str(taken))
    assert (done.returncode, done.stderr) == (0, "")
    warning, result = done.stdout.splitlines()
    assert warning.startswith(f"warning: metrics: cannot serve on 127.0.0.1 port {taken} ") and result == "None"


def test_the_port_comes_from_the_settings_then_from_the_environment(monkeypatch):
    def begin(**settings):
        return start(MetricsSettings(**settings), CollectorRegistry(), Health(60))

    monkeypatch.delenv("PORT", raising=False)
    assert begin() is None
    monkeypatch.setenv("PORT", "")
    assert begin() is None
    monkeypatch.setenv("PORT", "0")
    server = begin()
    assert server is not None and server.server_address[0] == "127.0.0.1"
    server.close()
    for bad in ("abc", "-1", "65536", "5000 ", "\N{ARABIC-INDIC DIGIT FIVE}"):
        monkeypatch.setenv("PORT", bad)
        with pytest.raises(UserError, match="PORT"):
            begin()
    server = begin(port=0)  # the setting wins, so the bad value does not matter
    assert server is not None
    server.close()


@pytest.mark.parametrize("side", ["trainer", "proposer"])
def test_the_page_names_every_metric_and_label(side, request, serve):
    page = (ROOT / "docs" / "metrics.md").read_text()
    body = ask(serve(request.getfixturevalue(side).registry), "/metrics")[1].decode()
    named = set(re.findall(r"`(\w+)[`{]", page))
    served = set(re.findall(r"^# TYPE (\S+)", body, re.MULTILINE))
    assert served <= named
    assert {name for name in named if name.startswith(f"tandem_{side}_")} <= served, "the page names a metric of old"
    values = {*OUTCOMES, *LEASE_OUTCOMES, *REJECT_REASONS, *get_args(RequestOutcome), *get_args(State)}
    assert values <= named


def test_log_lines_are_plain_and_harmless():
    done = run_python(
        "import logging, warnings\n"
        "from shared import logs\n"
        "logs.set_up()\n"
        "log = logging.getLogger('trainer.loop')\n"
        "log.info('step %d', 40)\n"
        "log.debug('hidden')\n"
        "logging.getLogger('httpx').info('hidden')\n"
        "log.warning('words: %s', 'a\\x1b[2Jb\\nc \\U0001F600')\n"
        "try: open('/nowhere')\n"
        "except OSError: log.warning('went wrong', exc_info=True)\n"
        "warnings.warn('old\\nthing', FutureWarning)\n",
        PYTHONIOENCODING="ascii",
    )
    assert (done.returncode, done.stderr) == (0, "")
    step, words, wrong, old = done.stdout.splitlines()
    assert step == "step 40"
    assert words == "warning: words: a [2Jb c \\U0001f600"
    assert wrong.startswith("warning: went wrong (FileNotFoundError: ")
    assert "old thing" in old


def test_log_lines_come_at_once_and_a_reader_that_leaves_does_not_end_the_process():
    code = (
        "import logging, sys\n"
        "from shared import logs\n"
        "logs.set_up()\n"
        "log = logging.getLogger('trainer')\n"
        "log.info('first')\n"
        "sys.stdin.readline()\n"
        "for _ in range(100): log.info('more')\n"
        "sys.stderr.write('done'); sys.stderr.flush()\n"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdout.readline() == b"first\n"
        process.stdout.close()
        process.stdin.write(b"\n")
        process.stdin.close()
        assert process.stderr.read().startswith(b"done")


def run_python(code: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", **environ},
        capture_output=True,
        text=True,
        timeout=30,
    )
