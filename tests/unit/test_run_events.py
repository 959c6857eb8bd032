"""What the history and the metrics of whole runs in this process say."""

import errno
import json
import os
from types import SimpleNamespace

import pytest
from conftest import make_settings
from prometheus_client import generate_latest

from bus.channel import Answer
from bus.in_process import InProcessChannel
from bus.messages import Proposal, Usage
from shared.append_log import AppendLog
from shared.settings import BudgetSettings
from trainer.runs.directory import RunDirectory
from trainer.runs.metrics import TrainerMetrics
from trainer.runs.reporting import History
from trainer.runs.signals import StopSignals
from trainer.search.events import ProposalReceived
from trainer.tuning import tune


def test_a_history_says_with_which_settings_and_versions_a_run_began(runs):
    runs.tune("begun", stop_after=2)
    runs.tune("begun")
    runs.tune("begun-otherwise", seed=2, steps=2, num_evals=1)
    (began,), (resumed,) = runs.events("begun", "started"), runs.events("begun", "resumed")
    (other,) = runs.events("begun-otherwise", "started")
    assert began["settings"] == resumed["settings"] != other["settings"]
    assert set(began["versions"]) == {"python", "torch", "transformers"}


def test_an_outcome_has_the_loss_by_which_it_was_judged(runs):
    runs.tune("judged", restarts={"policy": "trial", "source": "vocabulary", "patience": 0, "trial_steps": 5}, steps=60)
    judged = [event for event in runs.events("judged", "outcome") if event["gain"] is not None]
    losses = {event["step"]: event["dev_loss"] for event in runs.events("judged", "evaluation")}
    compared = [event for event in judged if event["outcome"] == "adopted" and event["step"] in losses]
    assert judged and all(event["dev_loss"] > 0 for event in judged)
    for event in compared:
        assert event["dev_loss"] == pytest.approx(losses[event["step"]], rel=1e-5)


@pytest.mark.parametrize(("tokens", "cost"), [((1000, 200), 0.006), ((None, 200), None)])
def test_an_answer_has_its_price_where_tokens_and_prices_are_known(tmp_path, tokens, cost):
    usage = Usage(seconds=1.0, input_tokens=tokens[0], output_tokens=tokens[1])
    proposal = Proposal(lease="l", model="m", candidates=["a b"], usage=usage)
    received = ProposalReceived(Answer(proposal, SimpleNamespace(step=3)), lane_steps=9, new=1)
    for name, prices in (("priced", BudgetSettings(price_in=3, price_out=15)), ("free", BudgetSettings())):
        lines = AppendLog(tmp_path / name)
        History(lines, prices)(received)
        lines.close()
    (priced,), (free,) = (map(json.loads, (tmp_path / name).read_text().splitlines()) for name in ("priced", "free"))
    assert priced["cost"] == pytest.approx(cost) if cost else priced["cost"] is None
    assert free["cost"] is None and free["asked"] == 3


def measured(context, folder, bus=None, **values):
    """The metrics of a run, by name and labels."""
    settings = make_settings(folder=str(folder), name="measured", **values)
    metrics, directory = TrainerMetrics(recipe="demo", run="measured"), RunDirectory.create(settings)
    tune(settings, context, directory, StopSignals(), listeners=[metrics], bus=bus)
    directory.close()
    lines = generate_latest(metrics.registry).decode().splitlines()
    return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))


class NobodyFree(InProcessChannel):
    """Connected, and busy for ever."""

    def can_lease(self):
        return False


@pytest.mark.parametrize(("kind", "waits"), [(NobodyFree, "1.0"), (InProcessChannel, "0.0")])
def test_a_digest_waits_where_nobody_is_free(context, tmp_path, kind, waits):
    bus = kind(lambda _: ["refund payment", "parcel late"], model="script")
    trials = {"policy": "trial", "source": "bus", "trial_steps": 2}
    samples = measured(context, tmp_path, bus, restarts=trials, steps=19, num_evals=1)
    assert samples["tandem_trainer_digest_waiting"] == waits


def test_writes_that_the_disk_does_not_take_are_counted(context, tmp_path, monkeypatch):
    real, left = os.pwrite, [3]

    def pwrite(*arguments):
        if left[0]:
            left[0] -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments)

    monkeypatch.setattr(os, "pwrite", pwrite)
    samples = measured(context, tmp_path)
    assert samples['tandem_trainer_write_errors_total{file="history"}'] == "3.0"
    assert samples['tandem_trainer_write_errors_total{file="checkpoint"}'] == "0.0"
    assert (tmp_path / "measured" / "history.jsonl").read_text().count("\n") > 20
