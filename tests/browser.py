"""Debian's Chromium, driven by playwright in a context that has no network."""

import shutil
from contextlib import contextmanager

import pytest

CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync"
)


def need_browser():
    """Skip, loudly, where there is no Chromium or no playwright."""
    pytest.importorskip("playwright.sync_api", reason="NO BROWSER TEST RAN: pip install playwright")
    if CHROMIUM is None:
        pytest.skip("NO BROWSER TEST RAN: apt-get install chromium")


@contextmanager
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        program = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        try:
            yield program
        finally:
            program.close()


@contextmanager
def opened(program, url, *, width=1000, dark=False, offline=True):
    """A page with what it asked for and what it said on the console."""
    scheme = "dark" if dark else "light"
    context = program.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, offline=offline)
    page = context.new_page()
    requests, messages = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.goto(url)
    try:
        yield page, requests, messages
    finally:
        context.close()
