"""docs/protocol.md says what the code does, and its example works."""

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args

from bus.codec import MAX_FIELDS, MAX_LIST, MAX_TEXT_BYTES
from bus.messages import VERSION, Digest, Message
from bus.server import BusServer
from shared.settings import BusSettings

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")


def test_the_example_is_a_proposer(tmp_path):
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "example.py").write_text(example, encoding="utf-8")
    end = BusServer(BusSettings(bind="tcp://127.0.0.1:*"), run="r")
    child = subprocess.Popen([sys.executable, "example.py", end.endpoint], cwd=tmp_path)
    digest = Digest(
        run="r", sequence=0, step=0, budget=10, task="Sort the mail.", labels=["ham", "spam"], num_tokens=4,
        num_candidates=2, trajectory=[], substitutions=[], slope=None, best=[], outcomes=[],
    )  # fmt: skip
    answers = []
    try:
        deadline = time.monotonic() + 15
        while len(answers) < 2:
            assert time.monotonic() < deadline
            answers += end.poll()
            if end.can_lease():
                assert end.lease(digest, 1)
            end.wait(0.01)
    finally:
        child.kill()
        child.wait()
        end.close()
    assert answers[0].proposal.candidates == ["is this ham or spam", "Sort the mail."]
    assert end.counts().rejected == {}


def test_every_message_and_field_is_on_the_page():
    for message in get_args(Message):
        kind = message.model_fields["kind"].default
        section = PAGE.split(f"\n`{kind}`, ")[1].split("\n`")[0]
        for field in set(message.model_fields) - {"v", "kind"}:
            assert re.search(rf"^\| {field}\??(?= \|)", section, re.MULTILINE), f"{kind}.{field}"
    digest = PAGE.split("### The digest")[1].split("\n## ")[0]
    for field in Digest.model_fields:
        assert re.search(rf"^\|[^|]*\b{field}\b", digest, re.MULTILINE), field


def test_the_numbers_on_the_page_are_those_of_the_code():
    assert f"Version {VERSION}." in PAGE
    for number in (MAX_TEXT_BYTES, MAX_LIST, BusSettings().max_frame_bytes):
        assert f"{number:,}" in PAGE
    assert f"{MAX_FIELDS} fields" in PAGE
    assert BusSettings().ready_seconds == 2.0
