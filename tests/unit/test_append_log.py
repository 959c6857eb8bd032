"""Append-only files: whole lines, cut to a checkpoint, and a full disk that loses nothing."""

import resource
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.append_log import AppendLog

lines = st.lists(
    st.text(st.characters(blacklist_characters="\n", blacklist_categories=["Cs"]), max_size=20), max_size=8
)


@given(kept=lines, lost=lines, torn=st.binary(max_size=8), after=lines)
def test_a_file_is_cut_to_its_checkpoint_and_goes_on(tmp_path_factory, kept, lost, torn, after):
    path = tmp_path_factory.mktemp("log") / "log"
    log = AppendLog(path)
    for line in kept:
        log.append(line)
    size = log.sync()
    for line in lost:
        log.append(line)
    log.close()
    with path.open("ab") as file:
        file.write(torn)
    log = AppendLog(path, keep=size)
    for line in after:
        log.append(line)
    log.close()
    assert path.read_bytes() == "".join(f"{line}\n" for line in [*kept, *after]).encode()


@pytest.mark.parametrize("torn", [b"", b"half", b"x" * 200_000])
def test_an_unfinished_last_line_is_dropped(tmp_path, torn):
    (tmp_path / "log").write_bytes(b"one\ntwo\n" + torn)
    log = AppendLog(tmp_path / "log")
    log.append("three")
    log.close()
    log.close()
    assert (tmp_path / "log").read_text() == "one\ntwo\nthree\n"


def test_lines_wait_while_the_disk_takes_none_and_come_whole_when_it_does(tmp_path, caplog):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then a write beyond the limit fails, as on a full disk
    log = AppendLog(tmp_path / "log")
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
        for number in range(4):
            log.append(f"line {number}")
            assert log.flush() == (number < 1)
        assert log.errors >= 3 and caplog.text.count("cannot be written") == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert log.sync() == 28
    log.close()
    assert (tmp_path / "log").read_text() == "line 0\nline 1\nline 2\nline 3\n"
