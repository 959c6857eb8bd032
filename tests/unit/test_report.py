"""What the report says, and what happens where it cannot be written."""

import html
import re
from html.parser import HTMLParser

import pytest
from conftest import run_program
from hypothesis import given
from hypothesis import strategies as st
from report_runs import HOSTILE, RARE_EVENTS, compared, event, make_run, run_events, summary

from shared.settings import Settings
from trainer.report.comparison import T95, arms, differences_chart, interval, scores_chart
from trainer.report.facts import candidates, command, costs, tiles
from trainer.report.live import LivePage
from trainer.report.page import render, write_report
from trainer.report.plot import Dot, Series, line_chart, ticks
from trainer.report.run import Run
from trainer.report.text import MASK, setting, visible


def words_of(page):
    return " ".join(html.unescape(re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL)).split())


def test_a_finished_run_is_shown_in_the_order_of_the_questions(tmp_path):
    page = write_report(make_run(tmp_path / "run", run_events(), summary(), baseline=True)).read_text()
    headings = re.findall(r"<h[12]>(.*?)</h", page)
    assert headings == [
        "run",
        "Development loss",
        "Lineage in words",
        "What the gradient asked for",
        "Candidates",
        "Cost",
        "Settings",
    ]
    text = words_of(page)
    assert "1.200 → 0.650" in text
    assert "1 of 2" in text  # adopted of tried
    assert "20 lane-steps, median" in text
    assert "2.5 s 150 tokens" in text
    assert "gain +0.150" in text
    assert "refund" in text
    assert 5_000 < len(page) < 50_000


def test_candidates_say_their_fate_and_those_tried_come_first(tmp_path):
    rows = candidates(Run(make_run(tmp_path / "run", run_events())))
    assert [row.outcome for row in rows] == ["adopted", "dropped", "waiting", "outscored", "duplicate"]
    assert rows[0].gain == 0.15


def test_costs_count_the_lane_steps_of_lanes_that_were_dropped(tmp_path):
    rows = dict(costs(Run(make_run(tmp_path / "run", run_events()))))
    assert rows["lane-steps on lanes that were not adopted"] == "10 of 50 (20%)"
    assert rows["scoring"] == "4 candidates in 0.2 s"
    assert rows["tokens"] == "100 in, 50 out"


@pytest.mark.parametrize("cut", [0, 1, 2, 3, 10, 24, 28, 35])
def test_a_run_that_is_not_finished_is_not_blank(tmp_path, cut):
    page = words_of(render([Run(make_run(tmp_path / "run", run_events()[:cut]))]))
    assert "of 60 lane-steps" in page
    assert "Development loss" in page


def test_a_stopped_run_says_where_it_stopped(tmp_path):
    run = Run(make_run(tmp_path / "run", [*run_events(), event("stopped", 50)]))
    assert "stopped at 50 of 60 lane-steps" in words_of(render([run]))


def test_a_directory_without_anything_but_a_history_has_a_report(tmp_path):
    (tmp_path / "history.jsonl").write_text("garbage\n{}\n")
    assert "lines of the history could not be read" in words_of(write_report(tmp_path).read_text())


def test_text_from_elsewhere_stays_text(tmp_path):
    config = {"task": {"description": HOSTILE, "labels": {HOSTILE: HOSTILE}}, "prompt": {"words": HOSTILE}}
    run = Run(make_run(tmp_path / "run", run_events(HOSTILE), summary(HOSTILE), **config))
    page = render([run])
    assert "<img" not in page
    assert "<script" not in page
    assert "\u202e" not in page
    assert "⟨U+202E⟩" in page
    assert "⟨U+0007⟩" in page
    assert "{{7*7}}" in words_of(page)
    assert "<img" not in render([run, run])


def hostile(value):
    """`value` with every text and every key in it replaced."""
    match value:
        case str():
            return HOSTILE
        case list():
            return [hostile(one) for one in value]
        case dict():
            return {key: hostile(one) for key, one in value.items()} | {HOSTILE: HOSTILE}
    return value


def test_hostile_text_in_every_field_of_every_file_makes_no_element(tmp_path):
    events = [{**hostile(one), "kind": one["kind"]} for one in [*run_events(), *RARE_EVENTS]]
    settings = hostile(Settings().model_dump(mode="json"))
    run = Run(make_run(tmp_path / "run", events, hostile(summary()), **settings))
    plain = Run(make_run(tmp_path / "plain", run_events(), summary()))
    for page, calm in ((render([run]), render([plain])), (render([run, run]), render([plain, plain]))):
        assert elements(page) <= elements(calm) | {"li", "ul", "small"}
        assert not [char for char in page if not char.isprintable() and char not in "\n"]
        assert "&lt;img src=x onerror=alert(1)&gt;" in page


def elements(page):
    """Kinds of elements, and of attributes, that a page has."""
    found = ElementFinder()
    found.feed(page)
    return found.kinds


class ElementFinder(HTMLParser):
    def __init__(self):
        super().__init__()
        self.kinds = set()

    def handle_starttag(self, tag, attrs):
        self.kinds |= {tag, *(f"{tag} {name}" for name, _ in attrs if name.startswith("on") or name in ("src", "href"))}


@given(st.text())
def test_what_is_shown_has_no_character_that_does_not_show(text):
    shown = visible(text)
    assert all(char == " " or char.isprintable() for char in shown)
    if all(char.isprintable() for char in text) and MASK not in shown and len(text) < 100:
        assert shown == text


@pytest.mark.parametrize(
    "secret",
    ["sk-proj-abcdefghijklmnop1234", "hf_abcdefghijklmnopqrstuv", "https://user:hunter22@host", "Bearer abcdef123456"],
)
def test_keys_are_masked(secret):
    shown = visible(f"before {secret} after")
    assert MASK in shown
    assert secret not in shown
    assert shown.startswith("before ") and shown.endswith(" after")


@pytest.mark.parametrize("name", ["proposer.api_key", "bus.secret_key", "token", "x.password"])
def test_settings_that_are_secret_by_name_are_masked(name):
    assert setting(name, "value") == MASK
    assert setting("num_tokens", 8) == "8"
    assert setting("prompt.num_tokens", 8) == "8"


def test_nan_is_a_gap(tmp_path):
    dots = [Dot(0, 1.0), Dot(1, float("nan")), Dot(2, 2.0), Dot(3, float("inf")), Dot(4, 1.5), Dot(5, 1.2)]
    chart = line_chart("x", [Series("adopted", dots)], 400, 300, steps=5)
    assert re.sub("[^ML]", "", chart.lines[0].path) == "MMML"
    assert "nan" not in render([Run(make_run(tmp_path / "run", run_events(), summary()))]).lower()
    assert line_chart("x", [Series("adopted", [Dot(0, float("nan"))])], 400, 300, steps=5) is None


@given(st.floats(-1e6, 1e6), st.floats(1e-9, 1e6), st.integers(2, 10))
def test_ticks_are_few_and_within(low, span, most):
    found = ticks(low, low + span, most)
    assert len(found) <= most + 1
    assert all(low - span * 1e-6 <= tick <= low + span * (1 + 1e-6) for tick in found)


def test_the_interval_is_students():
    assert interval([]) is None
    assert interval([3.0]).half is None
    found = interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found.mean == 3.0
    assert found.half == pytest.approx(2.776 * (2.5 / 5) ** 0.5)
    assert list(T95) == sorted(T95, reverse=True) and len(T95) == 30


def test_arms_are_compared_seed_by_seed(tmp_path):
    compared(tmp_path)
    plain, llm = arms([Run(path) for path in sorted((tmp_path / "demo").iterdir())])
    assert (plain.name, llm.name) == ("plain", "llm")
    assert plain.difference is None
    assert llm.difference.mean == pytest.approx(5.0)
    assert llm.difference.half == pytest.approx(0.0, abs=1e-9)
    assert llm.total.mean == pytest.approx(68.0)
    assert llm.differences == {seed: pytest.approx(5.0) for seed in range(1, 6)}
    assert differences_chart([plain], 900) is None
    chart = differences_chart([plain, llm], 900)
    (row,) = chart.rows
    assert row.name == "llm" and row.mean > chart.zero
    assert [title for _, title in row.dots] == [f"seed {seed}: +5.0" for seed in range(1, 6)]
    assert [row.name for row in scores_chart([plain, llm], 900).rows] == ["plain", "llm"]


@pytest.mark.parametrize("other", ["plain-lr0.001", "head"])
def test_of_several_arms_of_plain_tuning_the_one_named_plain_is_compared_with(tmp_path, other):
    for arm in (other, "plain"):
        make_run(tmp_path / f"{arm}-s1", run_events(), summary(), restarts={"policy": "none"})
    runs = [Run(tmp_path / f"{arm}-s1") for arm in (other, "plain")]
    assert [arm.name for arm in arms(runs)] == ["plain", other]


def program(*arguments):
    from trainer.report.__main__ import main

    return run_program(main, *arguments)


def test_the_program_writes_a_report_of_a_run_or_of_a_folder_of_runs(tmp_path):
    compared(tmp_path / "compare")
    assert program(tmp_path / "compare").status == 0
    page = (tmp_path / "compare" / "report.html").read_text()
    assert page.count("<figure>") == 10
    assert "+5.0" in page
    assert program("demo", "--folder", tmp_path / "compare", "--out", tmp_path / "x.html").status == 0
    assert (tmp_path / "x.html").exists()
    one = tmp_path / "compare" / "demo" / "llm-s1"
    assert program(one).out.strip() == str(one / "report.html")


def test_the_program_refuses_in_one_line(tmp_path):
    run = make_run(tmp_path / "run", run_events())
    (tmp_path / "empty").mkdir()
    assert "no run 'nowhere'" in program("nowhere").refused()
    assert "history.jsonl" in program(tmp_path / "empty").refused()
    assert "--out" in program(run, tmp_path).refused()
    assert "cannot be written" in program(run, "--out", tmp_path / "no" / "such.html").refused()
    assert "--help" in program().refused()


def test_the_command_repeats_the_settings(finished):
    folder, _ = finished
    text = command(Run(folder))
    assert text.startswith("python -m trainer demo --steps 24")
    assert "--restarts.source vocabulary" in text
    assert "--no-baseline" in text
    assert "--restarts.max_challengers" not in text  # a default


def test_a_real_run_has_a_report(finished):
    folder, _ = finished
    page = words_of(write_report(folder).read_text())
    assert f"{Run(folder).summary['proposals']['trials']}" in tiles(Run(folder))[2].value
    assert "finished" in page


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


HOST = {"Host": "localhost:5000"}


def test_the_live_page_renders_once_for_all_and_again_when_there_is_news(tmp_path):
    folder, clock = make_run(tmp_path / "run", run_events()[:20]), Clock()
    page = LivePage(folder, "127.0.0.1", clock)
    first = page.respond("/data", HOST)
    for _ in range(20):
        assert page.respond("/data", HOST).body == first.body
    assert page.renderings == 1
    again = page.respond("/data?x", {**HOST, "If-None-Match": first.headers["ETag"]})
    assert (again.status, again.body) == (304, b"")
    with (folder / "history.jsonl").open("a") as file:
        file.write('{"kind": "evaluation", "step": 30, "dev_loss": 0.123, "lanes": [{"lane": 0, "loss": 0.123}]}\n')
    assert page.respond("/data", {**HOST, "If-None-Match": first.headers["ETag"]}).status == 304
    clock.now += 5
    fresh = page.respond("/data", {**HOST, "If-None-Match": first.headers["ETag"]})
    assert fresh.status == 200 and b"0.123" in fresh.body
    assert page.renderings == 2


def test_the_live_page_rests_by_the_processor_time_of_a_rendering_and_not_by_its_duration(tmp_path):
    folder, clock, cost = make_run(tmp_path / "run", run_events()[:20]), Clock(), iter([0.0, 0.05, 0.05, 0.06])
    page = LivePage(folder, "127.0.0.1", clock, lambda: next(cost))
    page.respond("/data", HOST)
    for seconds, renderings in ((9.0, 1), (1.5, 2), (1.5, 2)):
        with (folder / "history.jsonl").open("a") as file:
            file.write(f'{{"kind": "evaluation", "step": {clock.now + seconds}, "dev_loss": 0.1}}\n')
        clock.now += seconds
        page.respond("/data", HOST)
        assert page.renderings == renderings


@pytest.mark.parametrize(
    "host", ["", "evil.example", "evil.example:5000", "127.0.0.1.evil.example", "localhost.evil:1"]
)
def test_a_foreign_host_name_is_refused(tmp_path, host):
    page = LivePage(make_run(tmp_path / "run", run_events()), "127.0.0.1")
    answer = page.respond("/data", {"Host": host})
    assert answer.status == 403
    assert b"section" not in answer.body


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:5000", "[::1]:5000", "[::1]", "192.168.1.7:80", "GPU-box:1"])
def test_addresses_and_the_servers_own_name_are_served(tmp_path, host):
    answer = LivePage(make_run(tmp_path / "run", run_events()), "gpu-box").respond("/", {"Host": host})
    assert answer.status == 200
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


def test_other_paths_are_left_to_the_server(tmp_path):
    assert LivePage(make_run(tmp_path / "run", run_events()), "localhost").respond("/metrics", HOST) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)
CONFIG_KEYS = ["recipe", "seed", "steps", "task", "prompt", "restarts", "metrics", "name"]
SUMMARY_KEYS = ["dev", "test", "measure", "others", "members", "lineage", "result", "steps", "seed", "recipe"]


@given(st.dictionaries(st.sampled_from(CONFIG_KEYS), JSON), st.dictionaries(st.sampled_from(SUMMARY_KEYS), JSON))
def test_files_that_another_program_changed_break_no_page(tmp_path_factory, config, found):
    folder = tmp_path_factory.mktemp("odd")
    run = Run(make_run(folder / "run", run_events()[:4], found, **config))
    assert "Development loss" in render([run])
    assert "compared" in render([run, run])
