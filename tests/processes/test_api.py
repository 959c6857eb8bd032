"""The Python API: a run is a function call that leaves the process as it was."""

import inspect
import json
import logging
import signal
import subprocess
import sys
import threading
from contextlib import closing

import nbformat
import pytest
from nbclient import NotebookClient

import trainer
from bus.client import BusClient
from bus.messages import Proposal, Usage, Work
from trainer import Hooks, RunResult, Settings, Stopped, UserError, replay, resume, run
from trainer.backbones import load_backbone
from trainer.search.events import Stepped

BAR = "from trainer.progress import step_bar; bar = step_bar(10, 0); bar.update(3); bar.refresh(); bar.close()"


def small(folder, **more):
    task = {"shots": 4, "dev_shots": 4, "test_rows": 20}
    restarts = {"source": "vocabulary", "trial_steps": 4, "patience": 0, "candidates": 2}
    return Settings(
        **{"recipe": "demo", "steps": 12, "baseline": False, "folder": str(folder), "threads": 1}
        | {"task": task, "restarts": restarts}
        | more
    )


def test_every_public_name_is_there_and_documented():
    for name in trainer.__all__:
        assert inspect.getdoc(getattr(trainer, name)), name
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = trainer.no_such_name


def test_a_run_twice_in_one_process_gives_the_same_and_leaves_the_process_as_it_was(tmp_path, capsys):
    logger = logging.getLogger()
    before = [*logger.handlers], logger.level, signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    first, second = run(small(tmp_path)), run(small(tmp_path))
    after = [*logger.handlers], logger.level, signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert before == after
    assert first.directory != second.directory
    assert (first.dev, first.test, first.words) == (second.dev, second.test, second.words)
    assert capsys.readouterr().out == ""


def test_a_run_in_a_thread(tmp_path):
    results = []
    thread = threading.Thread(target=lambda: results.append(run(small(tmp_path))))
    thread.start()
    thread.join()
    assert isinstance(results[0], RunResult)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_run_that_resume_continues(tmp_path, number):
    whole = run(small(tmp_path, name="whole"))
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    def stop(event):
        if isinstance(event, Stepped) and event.lane_steps >= 5:
            signal.raise_signal(number)

    with pytest.raises(Stopped):
        run(small(tmp_path, name="cut"), hooks=Hooks(listeners=[stop]))
    assert handlers == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    continued = resume(str(tmp_path / "cut"))
    assert (continued.dev, continued.test) == (whole.dev, whole.test)


def test_a_run_from_noise_has_its_first_words_before_its_first_step(tmp_path):
    address = f"ipc://{tmp_path}/bus"
    settings = small(
        tmp_path,
        prompt={"init": "random"},
        restarts={"source": "bus", "trial_steps": 40},
        bus={"bind": address, "connect": [address], "ready_seconds": 0.1},
    )
    asked, over, digests = threading.Event(), threading.Event(), []

    def propose():
        with closing(BusClient(settings.bus, name="p", model="m")) as client:
            client.ready(1, {})
            while not over.is_set():
                for endpoint, message in client.receive(0.1):
                    if isinstance(message, Work):
                        digests.append(message.digest)
                        client.ready(0, {endpoint: [message.lease]})
                        words = ["a customer message about"]
                        usage = Usage(seconds=0.0)
                        client.propose(
                            endpoint, Proposal(lease=message.lease, model="m", candidates=words, usage=usage)
                        )
                        asked.set()

    def load(settings, task):
        assert asked.wait(60), "nobody was asked while the model was loaded"
        return load_backbone(settings, task)

    proposer = threading.Thread(target=propose)
    proposer.start()
    try:
        result = run(settings, hooks=Hooks(load=load))
    finally:
        over.set()
        proposer.join()
    events = [json.loads(line) for line in (result.directory / "history.jsonl").read_text().splitlines()]
    kinds = [event["kind"] for event in events]
    adopted = next(event for event in events if event.get("outcome") == "adopted")
    assert kinds.index("outcome") < kinds.index("step") and adopted["step"] == 0
    assert digests[0].labels and not digests[0].trajectory and len(digests) == 1
    again = replay(str(result.directory))
    assert (again.dev, again.test) == (result.dev, result.test)


def test_what_the_user_can_fix_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        run(small(tmp_path, task={"path": str(tmp_path / "absent")}))
    with pytest.raises(UserError, match="absent"):
        resume("absent")
    with pytest.raises(UserError, match=r"optimizer\.lr"):
        small(tmp_path, optimizer={"lr": -1})


def test_a_notebook_shows_the_figures_of_a_result(tmp_path):
    result = run(small(tmp_path))
    assert repr(result) == f"RunResult({str(result.directory)!r})"
    from IPython.lib.pretty import pretty

    assert pretty(result) == str(result)


def test_a_bar_shows_in_a_notebook():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(BAR)])
    NotebookClient(notebook, timeout=60).execute()
    assert "lane-step" in str(notebook.cells[0].outputs) or "widget" in str(notebook.cells[0].outputs)


def test_no_bar_shows_where_output_is_not_a_terminal():
    assert subprocess.run([sys.executable, "-c", BAR], capture_output=True, check=True).stderr == b""
