"""The site of docs/ builds with every link checked, and its pages ask nobody else for anything."""

import os
import re
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from browser import browser, need_browser, opened

ROOT = Path(__file__).resolve().parents[2]


def build(site, root=ROOT):
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(site)],
        cwd=root,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    built = build(folder)
    assert built.returncode == 0, built.stderr
    return folder


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.mark.slow
def test_every_page_loads_without_the_network(site):
    need_browser()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    here = f"http://127.0.0.1:{server.server_port}/"
    try:
        with browser() as program:
            for page in sorted(site.glob("*.html")):
                with opened(program, here + page.name, offline=False) as (tab, requests, messages):
                    tab.wait_for_load_state("networkidle")
                    broken = tab.evaluate("[...document.images].filter(i => !i.naturalWidth).map(i => i.src)")
                assert [url for url in requests if not url.startswith((here, "data:", "blob:"))] == []
                assert broken == []
                if page.name != "404.html":
                    assert messages == []
    finally:
        server.shutdown()
        server.server_close()


def test_every_page_is_in_the_index(site):
    index = (site / "index.html").read_text(encoding="utf-8")
    pages = {page.name for page in site.glob("*.html")} - {"index.html", "404.html"}
    assert {name for name in pages if f'href="{name}"' in index.split("<article")[1]} == pages


@pytest.mark.parametrize("link", ["absent.md", "glossary.md#absent", "../absent.py", "images/absent.svg"])
def test_a_broken_link_fails_the_build(tmp_path, link):
    for part in ("docs", "scripts", "bus"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    assert build(tmp_path / "good", tmp_path).returncode == 0
    with (tmp_path / "docs" / "glossary.md").open("a", encoding="utf-8") as page:
        page.write(f"\n[here]({link})\n")
    built = build(tmp_path / "bad", tmp_path)
    assert built.returncode != 0
    assert "glossary.md" in built.stderr


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/README.md"])
def test_links_of_pages_outside_the_site_lead_to_files(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith("http")]
    assert [link for link in links if link and not (ROOT / name).parent.joinpath(link).exists()] == []


def test_every_page_of_docs_is_in_the_readme():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    pages = [page.name for page in (ROOT / "docs").glob("*.md") if page.name != "README.md"]
    assert [page for page in pages if f"docs/{page}" not in text] == []
