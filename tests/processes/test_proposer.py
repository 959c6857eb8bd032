"""Real proposer processes against a real trainer's end, with the embedded model and with a server on loopback."""

import signal
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from forks import Fork
from llm_requests import DIGEST, KEY, needs_embedded

from bus.channel import Answer
from bus.messages import CandidateOutcome, Outcomes
from bus.server import BusServer
from scripts.harness.llm_server import CANDIDATES, LLMServer
from scripts.harness.processes import Process, free_port
from shared.settings import BusSettings

ROOT = Path(__file__).resolve().parents[2]


def until(check, seconds=30.0):
    """What `check` gives as soon as it is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if result := check():
            return result
        time.sleep(0.01)
    raise AssertionError(f"waited {seconds} s in vain")


QUICK = {"TANDEM_BUS__READY_SECONDS": "0.2"}


class Proposer(Fork):
    def __init__(self, log, *arguments, **environment):
        super().__init__(log, "proposer", *arguments, **{**QUICK, **environment})


class FreshProposer(Process):
    """One that loads its libraries itself."""

    def __init__(self, log, *arguments, **environment):
        super().__init__(log, sys.executable, "-m", "proposer", *arguments, **{**QUICK, **environment})


class Trainer:
    """The trainer's end of the bus and the little of a trainer that it takes to use it."""

    def __init__(self, bind="tcp://127.0.0.1:*", **settings):
        self.end = BusServer(BusSettings(bind=bind, ready_seconds=0.2, **settings), "r")
        self.answers = []

    @property
    def endpoint(self):
        return self.end.endpoint

    def poll(self):
        self.answers += [event for event in self.end.poll() if isinstance(event, Answer)]

    def lease(self):
        return until(self.try_lease)

    def try_lease(self):
        self.poll()
        return next(iter(self.end.lease(DIGEST, 1)), None)

    def answer(self):
        def arrived():
            self.poll()
            return self.answers

        return until(arrived).pop().proposal

    def ended(self, how, times=1):
        def counted():
            self.poll()
            return self.end.counts().ended[how] >= times

        return until(counted)


@pytest.fixture
def started(tmp_path):
    """Starts things that are stopped when the test ends."""
    things = []

    def start(kind, *arguments, **options):
        log = [tmp_path / f"{len(things)}.log"] if issubclass(kind, Process) else []
        things.append(kind(*log, *arguments, **options))
        return things[-1]

    yield start
    for thing in reversed(things):
        if isinstance(thing, Process):
            thing.clear()
        elif isinstance(thing, Trainer):
            thing.end.close()
        else:
            thing.stop()


def ollama(server, trainer):
    """Arguments for a proposer between the two."""
    endpoint = trainer if isinstance(trainer, str) else trainer.endpoint
    return ("--model", "ollama:m", "--proposer.base_url", server.url, "--bus.connect", endpoint)


@needs_embedded
def test_the_embedded_model_answers_leases_and_learns_outcomes(started):
    trainer = started(Trainer)
    port = free_port()
    proposer = started(Proposer, "--bus.connect", trainer.endpoint, PORT=str(port))
    lease = trainer.lease()
    proposal = trainer.answer()
    assert proposal.lease == lease.id
    assert proposal.model == "embedded"
    assert 1 <= len(proposal.candidates) <= DIGEST.num_candidates
    assert proposal.usage.input_tokens > proposal.usage.output_tokens > 0
    trainer.end.tell(
        Outcomes(
            run="r",
            lease=lease.id,
            step=9,
            outcomes=[CandidateOutcome(words=proposal.candidates[0], outcome="dropped", gain=-0.1)],
        )
    )
    trainer.lease()
    assert proposal.candidates[0] not in trainer.answer().candidates
    assert f"connected to {trainer.endpoint}" in proposer.text
    until(lambda: "asked embedded at step 0: " in proposer.text)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz") as reply:
        assert reply.status == 200
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as reply:
        text = reply.read().decode()
    assert 'tandem_proposer_llm_requests_total{outcome="ok"} 2.0' in text
    assert "tandem_proposer_connected_trainers 1.0" in text
    proposer.send(signal.SIGTERM)
    assert proposer.wait() == 0
    assert not [line for line in proposer.text.splitlines() if "Traceback" in line or "warning" in line]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_the_midst_of_a_request(number, started):
    trainer, server = started(Trainer), started(LLMServer)
    server.delay = 60.0
    proposer = started(Proposer, *ollama(server, trainer))
    trainer.lease()
    until(lambda: server.requests)
    sent = time.monotonic()
    proposer.send(number)
    assert proposer.wait() == 0
    assert time.monotonic() - sent < 5  # far less than the request takes
    assert trainer.ended("gone")  # it said bye, so that its lease is free at once


def handles_signals(process):
    """Whether a process has installed a handler for SIGTERM; before that, Python itself is still starting."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")), 16)
    return caught & (1 << (signal.SIGTERM - 1))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to see when handlers are installed")
@pytest.mark.parametrize("model", ["embedded", "ollama:m", "openai:m"])
def test_a_signal_while_it_starts_ends_it_quietly(model, started):
    for delay, number in zip((0.0, 0.1, 0.3, 0.6, 1.0, 2.0), [signal.SIGTERM, signal.SIGINT] * 3, strict=True):
        proposer = started(FreshProposer, "--model", model, OPENAI_API_KEY=KEY)
        until(lambda process=proposer.process: handles_signals(process))
        time.sleep(delay)
        proposer.send(number)
        assert proposer.wait() == 0, (delay, proposer.text.splitlines())
        assert not [line for line in proposer.text.splitlines() if "Traceback" in line or "Error" in line], delay


def test_a_server_that_drips_holds_neither_lease_nor_slot(started):
    pytest.importorskip("langchain_openai")
    trainer, server = started(Trainer), started(LLMServer)
    server.drip = 0.2  # a byte now and then, so that no single read takes long
    arguments = ("--model", "openai:m", "--proposer.base_url", f"{server.url}/v1", "--bus.connect", trainer.endpoint)
    proposer = started(Proposer, *arguments, "--proposer.timeout_seconds", "1")
    for times in (1, 2):
        trainer.lease()
        assert trainer.ended("released", times)
    until(lambda: "no answer in time" in proposer.text)
    server.drip = 0.0
    trainer.lease()
    assert trainer.answer().candidates == CANDIDATES


def test_a_reply_that_was_cut_is_said(started):
    trainer, server = started(Trainer), started(LLMServer)
    server.is_cut, server.reply = True, "<think>1. not this"
    port = free_port()
    proposer = started(Proposer, *ollama(server, trainer), PORT=str(port))
    trainer.lease()
    assert trainer.answer().candidates == []
    until(lambda: "0 candidates" in proposer.text and "cut at its maximum length" in proposer.text)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as reply:
        assert 'tandem_proposer_llm_requests_total{outcome="cut"} 1.0' in reply.read().decode()


def test_ollama_is_looked_at_before_the_first_lease(started):
    trainer, server = started(Trainer), started(LLMServer)
    server.models = []
    proposer = started(Proposer, *ollama(server, trainer))
    until(lambda: "ollama pull m" in proposer.text)
    trainer.lease()
    assert trainer.answer().candidates == CANDIDATES  # it was pulled by hand meanwhile
    down = started(LLMServer)
    down.stop()
    proposer = started(Proposer, *ollama(down, trainer))
    until(lambda: "start it with: ollama serve" in proposer.text)
    assert not proposer.ended
    down.start()


def test_a_missing_model_is_pulled_once_ollama_is_there(started):
    trainer, server = started(Trainer), started(LLMServer)
    server.models = []
    server.stop()
    proposer = started(Proposer, *ollama(server, trainer), "--proposer.pull")
    until(lambda: "waiting for it" in proposer.text)
    server.start()
    trainer.lease()
    assert trainer.answer().candidates == CANDIDATES
    assert [path for path, _, _ in server.requests] == ["/api/pull", "/api/chat"]
    assert "pulling m: 50%" in proposer.text


def test_at_its_limit_it_asks_no_more_also_after_a_restart(started, tmp_path):
    trainer, server = started(Trainer), started(LLMServer)
    port = free_port()
    prices = {"TANDEM_PROPOSER__BUDGET__PRICE_IN": "1", "TANDEM_PROPOSER__BUDGET__PRICE_OUT": "2"}
    arguments = (*ollama(server, trainer), "--proposer.budget.requests", "2", "--folder", str(tmp_path))
    proposer = started(Proposer, *arguments, PORT=str(port), **prices)
    for _ in range(2):
        trainer.lease()
        assert trainer.answer().candidates == CANDIDATES
    until(lambda: "budget reached: 2 of 2 requests for run r" in proposer.text)
    until(lambda: trainer.poll() or not trainer.end.can_lease())  # it offers nothing any more
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as reply:
        text = reply.read().decode()
    assert "tandem_proposer_cost_total 0.00022" in text
    assert 'tandem_proposer_tokens_total{direction="in"} 140.0' in text
    proposer.send(signal.SIGKILL)
    proposer.wait()
    again = started(Proposer, *arguments, **prices)
    trainer.lease()  # it learns the run from its first lease
    assert trainer.ended("released")
    until(lambda: "budget reached" in again.text)
    other = DIGEST.model_copy(update={"run": "other"})
    trainer.end.close()
    second = started(Trainer, bind=trainer.endpoint)
    until(lambda: [second.poll(), second.end.lease(other, time.monotonic())][1])
    assert second.answer().candidates == CANDIDATES
    assert len(server.requests) == 3
    for process in (proposer, again):
        assert sum("budget reached" in line for line in process.text.splitlines()) == 1


def test_a_damaged_budget_file_ends_it_with_one_line(started, tmp_path):
    file = tmp_path / "counts.json"
    file.write_text("{")
    arguments = ("--model", "ollama:m", "--proposer.budget.requests", "2", "--proposer.budget.file", str(file))
    proposer = started(Proposer, *arguments)
    assert proposer.wait() == 2
    (line,) = proposer.text.splitlines()
    assert "counts.json is damaged" in line
    assert file.read_text() == "{"


def test_an_llm_that_is_down_is_waited_for(started):
    trainer, server = started(Trainer), started(LLMServer)
    server.stop()
    proposer = started(Proposer, *ollama(server, trainer))
    trainer.lease()
    assert trainer.ended("released")
    until(lambda: "LLM unreachable: no connection" in proposer.text)
    server.start()
    trainer.lease()
    assert trainer.answer().candidates == CANDIDATES
    until(lambda: "LLM answers again" in proposer.text)


@pytest.mark.parametrize(("status", "words"), [(500, "it went wrong"), (429, "429"), (404, "ollama pull m")])
def test_an_llm_that_refuses_is_asked_again(status, words, started):
    trainer, server = started(Trainer), started(LLMServer)
    server.status = status
    proposer = started(Proposer, *ollama(server, trainer))
    trainer.lease()
    assert trainer.ended("released")
    until(lambda: "LLM unreachable" in proposer.text and words in proposer.text)
    trainer.lease()  # the same again makes no second line
    assert trainer.ended("released", 2)
    server.status = 200
    trainer.lease()
    assert trainer.answer().candidates == CANDIDATES
    until(lambda: "LLM answers again" in proposer.text)
    assert sum("LLM unreachable" in line for line in proposer.text.splitlines()) == 1


def test_an_answer_that_nobody_waits_for_is_kept_back(started):
    trainer, server = started(Trainer, lease_seconds=0.5), started(LLMServer)
    server.delay = 1.5
    proposer = started(Proposer, *ollama(server, trainer))
    trainer.lease()
    assert trainer.ended("expired")
    until(lambda: "too late" in proposer.text)
    assert "lease" not in trainer.end.counts().rejected
    server.delay = 0.0
    trainer.lease()
    assert trainer.answer().candidates == CANDIDATES


def test_an_answer_without_candidates_settles_the_lease(started):
    trainer, server = started(Trainer), started(LLMServer)
    server.reply = "..."
    started(Proposer, *ollama(server, trainer))
    trainer.lease()
    assert trainer.answer().candidates == []


def test_it_waits_for_a_trainer_and_for_the_next_one(started):
    server = started(LLMServer)
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    proposer = started(Proposer, *ollama(server, endpoint))
    until(lambda: "waits for work" in proposer.text)
    for times in (1, 2):
        trainer = Trainer(bind=endpoint)
        trainer.lease()
        assert trainer.answer().candidates == CANDIDATES
        trainer.end.close()
        until(lambda times=times: proposer.text.count("no trainer at") >= times)
    assert not proposer.ended


def test_two_trainers_share_one_slot(started):
    first, second, server = started(Trainer), started(Trainer), started(LLMServer)
    server.delay = 0.3
    proposer = started(Proposer, *ollama(server, first), "--bus.connect", second.endpoint)
    until(lambda: [trainer.poll() for trainer in (first, second)] and first.end.can_lease() and second.end.can_lease())
    proposer.send(signal.SIGSTOP)  # else it may tell the second that its slot is taken
    assert first.try_lease()
    assert second.try_lease()
    proposer.send(signal.SIGCONT)

    def one_answer_one_back():
        first.poll()
        second.poll()
        back = first.end.counts().ended["released"] + second.end.counts().ended["released"]
        return back == 1 and len(first.answers) + len(second.answers) == 1

    assert until(one_answer_one_back)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "nobody:x"], "no known provider"),
        (["--proposer.max_concurrency", "0"], "proposer.max_concurrency"),
        (["--bus.connect", "tcp://nowhere"], "bus.connect"),
        (["--model", "embedded:/no/such.gguf"], "/no/such.gguf"),
        (["--model", "ollama:m", "--proposer.base_url", "http://127.0.0.1:11434/v1"], "write http://127.0.0.1:11434,"),
        (["--proposer.budget.cost", "1"], "price_in"),
    ],
)
def test_what_cannot_pass_ends_it_with_one_line(arguments, words, started):
    proposer = started(Proposer, *arguments)
    assert proposer.wait() == 2
    (line,) = proposer.text.splitlines()
    assert words in line


def test_a_proxy_that_cannot_be_used_is_one_line(started):
    proposer = started(FreshProposer, "--model", "ollama:m", ALL_PROXY="socks5://127.0.0.1:1")
    assert proposer.wait() == 2
    (line,) = proposer.text.splitlines()
    assert "ALL_PROXY" in line


def test_a_key_never_comes_out(started):
    pytest.importorskip("langchain_openai")
    trainer, server = started(Trainer), started(LLMServer)
    server.status = 401
    server.error = f"Incorrect API key provided: {KEY}."
    arguments = ("--model", "openai:m", "--proposer.base_url", f"{server.url}/v1", "--bus.connect", trainer.endpoint)
    proposer = started(Proposer, *arguments, OPENAI_API_KEY=KEY)
    trainer.lease()
    assert trainer.ended("released")
    until(lambda: "check OPENAI_API_KEY" in proposer.text)
    assert KEY in str(server.requests)
    proposer.send(signal.SIGTERM)
    assert proposer.wait() == 0
    assert KEY not in proposer.text


def test_help_explains_the_settings(started):
    proposer = started(Proposer, "--help")
    assert proposer.wait() == 0
    text = " ".join(proposer.text.split())
    assert "--model" in text
    assert "The LLM's sampling temperature" in text
