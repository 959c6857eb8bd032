"""deploy/prometheus and deploy/grafana against a real Prometheus that scrapes a real run."""

import json
import math
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import quote

import pytest
import yaml
from forks import Household

from scripts.harness.processes import SMALL, FreshLLM, free_port, get, until

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy" / "prometheus"
NAMESPACE = "    metric_relabel_configs: [{target_label: namespace, replacement: tandem}]\n"
"""What a PodMonitor adds."""

PROMTOOL, PROMETHEUS = shutil.which("promtool"), shutil.which("prometheus")

if not (PROMTOOL and PROMETHEUS):
    pytest.skip("NO PROMETHEUS TEST RAN: apt-get install prometheus", allow_module_level=True)


def promtool(*arguments):
    done = subprocess.run([PROMTOOL, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_scrape_config_and_the_rules_are_valid():
    promtool("check", "config", DEPLOY / "prometheus.yml")


def test_alerts_are_raised_in_trouble_and_only_then():
    promtool("test", "rules", DEPLOY / "tests" / "alerts.yml")


def test_every_alert_is_tested():
    alerts = re.findall(r"- alert: (\w+)", (DEPLOY / "rules" / "alerts.yml").read_text())
    tested = (DEPLOY / "tests" / "alerts.yml").read_text()
    assert alerts and all(tested.count(alert) == 2 for alert in alerts)


def dashboard_expressions():
    board = json.loads((ROOT / "deploy" / "grafana" / "tandem.json").read_text())
    targets = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    return [expression.replace("$__rate_interval", "1m") for expression in targets]


def annotation_expressions():
    board = json.loads((ROOT / "deploy" / "grafana" / "tandem.json").read_text())
    return [entry["expr"].replace("$__rate_interval", "1m") for entry in board["annotations"]["list"]]


def scaler_queries():
    """What KEDA asks, by the trigger's name; the namespace in them is the label that `scraped` gives."""
    (scaler,) = yaml.safe_load_all((ROOT / "deploy" / "kubernetes" / "operators" / "autoscaler.yaml").read_text())
    return {trigger["name"]: trigger["metadata"]["query"] for trigger in scaler["spec"]["triggers"]}


def documented_metrics():
    """Names of docs/metrics.md; of a histogram its count."""
    page = (ROOT / "docs" / "metrics.md").read_text()
    lines = re.findall(r"^(?:- )?((?:`(?:tandem|process)_\w+(?:\{[^}]*\})?`(?: and )?)+)[^\n]*", page, re.MULTILINE)
    whole = re.findall(r"^(?:- )?(?:`(?:tandem|process)_[^\n]*)", page, re.MULTILINE)
    found = []
    for names, line in zip(lines, whole, strict=True):
        for name in re.findall(r"`(\w+)", names):
            found.append(f"{name}_count" if ": histogram" in line else name)
    return found


def test_the_page_of_metrics_is_read():
    names = documented_metrics()
    assert "tandem_trainer_step_seconds_count" in names
    assert "process_max_fds" in names
    assert "tandem_proposer_info" in names
    assert len(names) > 25


@pytest.fixture(scope="module")
def scraped(tmp_path_factory):
    """Asks a Prometheus that scrapes a trainer and a proposer for the value of an expression."""
    folder = tmp_path_factory.mktemp("prometheus")
    trainer_port, proposer_port, port = free_port(), free_port(), free_port()
    config = (DEPLOY / "prometheus.yml").read_text()
    config = config.replace("5000", str(trainer_port)).replace("5100", str(proposer_port))
    config = re.sub(r"interval: 5s", "interval: 1s", config).replace("rules/", f"{DEPLOY}/rules/")
    config = config.replace("    static_configs", f"{NAMESPACE}    static_configs")
    (folder / "prometheus.yml").write_text(config)
    llm = FreshLLM()
    environment = {**SMALL, "TANDEM_STEPS": "100000", "TANDEM_NUM_EVALS": "2000"}
    with Household(folder, **environment) as home:
        home.start(
            PROMETHEUS,
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        )
        home.trainer("demo", PORT=str(trainer_port))
        home.asking(llm, PORT=str(proposer_port))

        def ask(expression):
            status, body = get(port, f"/api/v1/query?query={quote(expression)}")
            if not status:
                return []
            answer = json.loads(body)
            assert answer["status"] == "success", f"{expression}: {body}"
            return [float(series["value"][1]) for series in answer["data"]["result"]]

        until(lambda: sum(ask('tandem_trainer_candidates_total{outcome="dropped"}')) > 3, "trials judged", 100)
        yield ask
    llm.stop()


def finite(values):
    return bool(values) and all(map(math.isfinite, values))


@pytest.mark.parametrize("expression", dashboard_expressions())
def test_every_expression_of_the_dashboard_has_a_finite_value(scraped, expression):
    until(lambda: finite(scraped(expression)), f"a finite value of {expression}", 30)


def test_every_metric_of_the_page_has_a_finite_value(scraped):
    for name in documented_metrics():
        assert finite(scraped(f"{name}{{job=~'tandem-.+'}}")), name


@pytest.mark.parametrize("expression", annotation_expressions())
def test_annotations_can_be_asked(scraped, expression):
    scraped(expression)


@pytest.mark.parametrize("name", ["busy", "waiting"])
def test_the_autoscaler_gets_one_number_between_none_and_the_proposers(scraped, name):
    def look():
        return scraped(scaler_queries()[name])

    (value,) = until(lambda: finite(found := look()) and found, name, 30)
    assert 0 <= value <= 1


SCALER_TESTS = """
rule_files: []
evaluation_interval: 15s
tests:
  - name: three proposers, one of which is gone, and those of another namespace
    interval: 15s
    input_series:
      - {series: 'tandem_proposer_busy_share{namespace="tandem", pod="a"}', values: "1x40"}
      - {series: 'tandem_proposer_busy_share{namespace="tandem", pod="b"}', values: "0 1 0 1x37"}
      - {series: 'tandem_proposer_busy_share{namespace="tandem", pod="c"}', values: "1x36 stale"}
      - {series: 'tandem_proposer_busy_share{namespace="other", pod="d"}', values: "1x40"}
      - {series: 'tandem_trainer_digest_waiting{namespace="tandem", pod="t"}', values: "0x20 1x20"}
      - {series: 'tandem_trainer_digest_waiting{namespace="other", pod="t"}', values: "1x40"}
    promql_expr_test:
      - {expr: '%(busy)s', eval_time: 9m, exp_samples: [{labels: "{}", value: 3}]}
      - {expr: '%(busy)s', eval_time: 9m45s, exp_samples: [{labels: "{}", value: 2}]}
      - {expr: '%(waiting)s', eval_time: 5m, exp_samples: [{labels: "{}", value: 0}]}
      - {expr: '%(waiting)s', eval_time: 10m, exp_samples: [{labels: "{}", value: 1}]}
  - name: no trainer and no proposer
    interval: 15s
    input_series: []
    promql_expr_test:
      - {expr: '%(busy)s', eval_time: 5m, exp_samples: []}
      - {expr: '%(waiting)s', eval_time: 5m, exp_samples: []}
"""


def test_the_autoscaler_counts_busy_proposers_of_its_namespace_that_are_alive(tmp_path):
    (tmp_path / "scaler.yml").write_text(SCALER_TESTS % scaler_queries())
    promtool("test", "rules", tmp_path / "scaler.yml")


def test_rules_are_evaluated_and_a_run_that_is_well_raises_no_alert(scraped):
    recorded = re.findall(r"record: (\S+)", (DEPLOY / "rules" / "recording.yml").read_text())
    assert recorded
    for name in recorded:
        until(lambda name=name: finite(scraped(name)), name, 30)
    critical = scraped('ALERTS{alertstate="firing", severity="critical"}')
    assert critical == []
