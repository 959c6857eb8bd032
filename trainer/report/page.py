"""The report: one HTML file that reads without a script and asks for nothing."""

import base64
import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from shared.errors import UserError
from trainer.report import comparison, facts
from trainer.report.run import Run
from trainer.report.text import visible

REPORT = "report.html"
WIDE, NARROW = (900, 340), (400, 300)
"""Pixels of a chart on a screen and on a phone."""
MOST_MULTIPLES = 60
LEGEND = (
    ("adopted", "incumbents"),
    ("trying", "on trial"),
    ("dropped", "dropped"),
    ("baseline", "plain prompt tuning"),
    ("mark", "adopted"),
    ("wait", "asked to answered"),
)
"""Meanings of what a chart of the development loss may have, by class."""


def write_report(run_directory: Path) -> Path:
    """Write `report.html` into a run's directory, whole or not at all; its path.

    Raises:
        UserError: the file cannot be written.
    """
    return write(run_directory / REPORT, render([Run(run_directory)]))


def write(path: Path, page: str) -> Path:
    """Write `page` to `path`; readers see the old file or the new one.

    Raises:
        UserError: it cannot be written.
    """
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(page, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None
    return path


def render(runs: Sequence[Run]) -> str:
    """The report of one run, or of several side by side."""
    title = visible(runs[0].name) if len(runs) == 1 else f"{len(runs)} runs"
    return _page(title, sections(runs), "")


def render_live(run: Run) -> str:
    """The report with the script that keeps it up to date."""
    return _page(visible(run.name), sections([run]), script())


def script() -> str:
    """What keeps the live page up to date."""
    return _asset("live.js")


def sections(runs: Sequence[Run]) -> Markup:
    """All sections of the page."""
    if len(runs) == 1:
        return _render("run.html", **_run_values(runs[0]))
    return _render("runs.html", **_runs_values(runs))


def policy(code: str) -> str:
    """The Content-Security-Policy of a page: its own style and script, its own address for the script, no more."""
    rules = ["default-src 'none'", f"style-src '{_digest(_asset('style.css'))}'", "img-src data:"]
    if code:
        rules += [f"script-src '{_digest(code)}'", "connect-src 'self'"]
    return "; ".join([*rules, "base-uri 'none'", "form-action 'none'"])


def _page(title: str, body: Markup, code: str) -> str:
    style = Markup(_asset("style.css"))
    return _render("page.html", title=title, body=body, style=style, script=Markup(code), policy=Markup(policy(code)))


def _run_values(run: Run) -> dict[str, Any]:
    changed, rest = facts.settings_rows(run)
    shown, digests = facts.substitutions(run)
    rows = facts.candidates(run)
    about, task = run.about, run.config.get("task")
    description = about.task or (task.get("description") if isinstance(task, dict) else None)
    return {
        "run": run,
        "name": visible(run.name),
        "task": visible(description or ""),
        "labels": [visible(label, 100) for label in about.labels],
        "state": run.state(),
        "progress": facts.progress(run),
        "share": min(1.0, run.view.lane_steps / run.budget) if run.budget else 0.0,
        "tiles": facts.tiles(run),
        "results": facts.results(run),
        "measure": visible(run.summary.get("measure") or "accuracy", 40),
        "loss_charts": _charts(facts.loss_chart, run),
        "legend": LEGEND,
        "training_charts": _charts(facts.training_chart, run),
        "lineage": facts.lineage(run),
        "nearest": facts.nearest(run),
        "members": facts.members(run),
        "digests": shown,
        "all_digests": digests,
        "candidates": rows[: facts.MOST_CANDIDATES],
        "left_out": max(0, len(rows) - facts.MOST_CANDIDATES),
        "costs": facts.costs(run),
        "changed": changed,
        "rest": rest,
        "command": facts.command(run),
        "versions": sorted(about.versions.items()),
        "unreadable": run.view.unreadable,
    }


def _runs_values(runs: Sequence[Run]) -> dict[str, Any]:
    rows = comparison.arms(runs)
    by_recipe: dict[str, list[comparison.Arm]] = {}
    for arm in rows:
        by_recipe.setdefault(arm.recipe, []).append(arm)
    return {
        "recipes": [
            {
                "name": name,
                "arms": arms,
                "scores": _forests(comparison.scores_chart, arms),
                "differences": _forests(comparison.differences_chart, arms),
                "multiples": comparison.multiples([run for arm in arms for run in arm.runs.values()][:MOST_MULTIPLES]),
            }
            for name, arms in by_recipe.items()
        ],
        "runs": [
            {
                "name": visible(run.name),
                "state": run.state(),
                "progress": facts.progress(run),
                "tiles": facts.tiles(run),
                "adopted": "{} of {}".format(*facts.adopted_of_tried(run)),
            }
            for run in runs
        ],
    }


def _charts(draw: Any, run: Run) -> list[tuple[str, Any]]:
    """The same chart for a screen and for a phone."""
    sizes = {"wide": WIDE, "narrow": NARROW}
    return [(kind, chart) for kind, (width, height) in sizes.items() if (chart := draw(run, width, height))]


def _forests(
    draw: Callable[[Sequence[comparison.Arm], int], comparison.Forest | None], arms: Sequence[comparison.Arm]
) -> list[tuple[str, comparison.Forest]]:
    """The same chart for a screen and for a phone."""
    sizes = {"wide": WIDE[0], "narrow": NARROW[0]}
    return [(kind, chart) for kind, width in sizes.items() if (chart := draw(arms, width))]


def _render(template: str, **values: Any) -> Markup:
    return Markup(_environment().get_template(template).render(**values))


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("trainer.report"),
        auto_reload=False,  # a live page stays that of the code that serves it
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": facts.number,
        "signed": facts.signed,
        "percent": facts.percent,
        "visible": visible,
    }
    environment.globals["outcomes"] = facts.OUTCOMES
    return environment


@lru_cache(maxsize=4)
def _asset(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8").strip()


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
