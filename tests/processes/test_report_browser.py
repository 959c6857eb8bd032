"""The report and the live page in a real browser without a network."""

import signal

import pytest
from browser import browser, need_browser, opened
from forks import Household
from report_runs import HOSTILE, compared, make_run, run_events, summary

from scripts.harness.processes import SMALL, free_port, until
from trainer.report.__main__ import main as report_main
from trainer.report.page import write_report

need_browser()


@pytest.fixture(scope="module")
def chromium():
    with browser() as program:
        yield program


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """One run, a hostile one, an unfinished one, and thirty."""
    root = tmp_path_factory.mktemp("report")
    hostile = {"task": {"description": HOSTILE}, "prompt": {"init": "words", "words": HOSTILE}}
    one = write_report(make_run(root / "one", run_events(), summary()))
    bad = write_report(
        make_run(root / HOSTILE.replace("/", "|").replace("\0", ""), run_events(HOSTILE), summary(HOSTILE), **hostile)
    )
    begun = write_report(make_run(root / "begun", run_events()[:9]))
    compared(root / "thirty", seeds=15)
    from conftest import run_program

    assert run_program(report_main, root / "thirty").status == 0
    return {"one": one, "hostile": bad, "begun": begun, "thirty": root / "thirty" / "report.html"}


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1000])
@pytest.mark.parametrize("name", ["one", "hostile", "begun", "thirty"])
def test_a_page_asks_for_nothing_says_nothing_and_fits(chromium, pages, name, width, dark):
    with opened(chromium, pages[name].as_uri(), width=width, dark=dark) as (page, requests, messages):
        assert [url for url in requests if not url.startswith("data:")] == [pages[name].as_uri()]
        assert messages == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator("h1").count() == 1
        assert page.evaluate("[...document.querySelectorAll('svg')].every(svg => svg.getAttribute('aria-label'))")
        levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3')].map(one => +one.tagName[1])")
        assert all(after <= before + 1 for before, after in zip([0, *levels], levels, strict=False))


def test_a_hostile_run_makes_no_element(chromium, pages):
    count = "document.querySelectorAll('script,img,iframe,object,a,form,input').length"
    kinds = "[...new Set([...document.querySelectorAll('*')].map(one => one.tagName))].sort()"
    with opened(chromium, pages["hostile"].as_uri()) as (page, _, _):
        assert page.evaluate(count) == 0
        assert "⟨U+202E⟩" in page.inner_text("body")
        found = page.evaluate(kinds)
    with opened(chromium, pages["one"].as_uri()) as (page, _, _):
        assert page.evaluate(kinds) == found


def test_colours_differ_in_the_dark_and_the_plot_is_the_phones_on_a_phone(chromium, pages):
    colour = "getComputedStyle(document.body).backgroundColor"
    seen = []
    for dark in (False, True):
        with opened(chromium, pages["one"].as_uri(), dark=dark, width=390) as (page, _, _):
            seen.append(page.evaluate(colour))
            assert page.locator("#loss > svg.narrow").is_visible()
            assert not page.locator("#loss > svg.wide").is_visible()
    assert seen[0] != seen[1]


def test_the_plot_marks_what_happened(chromium, pages):
    with opened(chromium, pages["one"].as_uri()) as (page, _, _):
        wide = page.locator("#loss > svg.wide")
        assert wide.locator("g.adopted").count() == 2
        assert wide.locator("g.dropped").count() == 1
        assert wide.locator("path.mark").count() == 1
        assert wide.locator("rect.wait").count() == 1
        assert "a prompt" in wide.locator("g.adopted circle title").first.text_content()


@pytest.mark.timeout(300)
def test_the_live_page_grows_while_a_trainer_trains_and_says_when_it_is_gone(chromium, tmp_path):
    with Household(tmp_path, **SMALL) as home:
        steps = ["--steps", "100000", "--num_evals", "5000", "--restarts.source", "vocabulary"]
        port = free_port()
        trainer = home.trainer("demo", "--name", "live", *steps, PORT=str(port))
        trainer.wait_for(r"step \d\d+/")
        url = f"http://127.0.0.1:{port}/"
        with opened(chromium, url, offline=False) as (page, requests, messages):
            done = "+document.querySelector('.state').textContent.replaceAll(',', '').match(/[0-9]+/)[0]"
            page.locator("#settings-2 summary").click()
            page.evaluate("scrollTo(0, 700)")
            top = page.evaluate("scrollY")
            first = page.evaluate(done)
            until(lambda: page.evaluate(done) > first or page.wait_for_timeout(100), "the page shows new steps")
            second = page.evaluate(done)
            until(lambda: page.evaluate(done) > second or page.wait_for_timeout(100), "the page goes on")
            assert page.locator("#settings-2").get_attribute("open") is not None
            assert abs(page.evaluate("scrollY") - top) < 100
            assert {request.removeprefix(url) for request in requests if request.startswith("http")} == {"", "data"}
            assert messages == []
            assert page.inner_text("#live") == "live"
            trainer.send(signal.SIGTERM)
            assert trainer.wait() == 143, trainer.text
            until(lambda: "gone" in page.locator("#live").get_attribute("class") or page.wait_for_timeout(100), "gone")
            assert "does not answer" in page.inner_text("#live")
            assert page.locator("h1").inner_text() == "live"
