"""Messages to bytes and back; whatever bytes come in, only a BadFrame comes out."""

import math

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from bus.codec import MAX_FIELDS, MAX_LIST, BadFrame, Malformed, TooLong, UnknownVersion, decode, encode
from bus.messages import (
    Ack,
    Bye,
    CandidateOutcome,
    Digest,
    Measured,
    Outcomes,
    Point,
    Proposal,
    Ready,
    Reject,
    Slope,
    Substitution,
    Usage,
    Work,
)

LIMIT = 262_144

texts = st.text(max_size=30)
counts = st.integers(0, 2**53)
floats = st.floats(allow_nan=False, allow_infinity=False)
seconds = st.floats(0, 1e6)
outcomes = st.builds(
    CandidateOutcome,
    words=texts,
    outcome=st.sampled_from(
        ["adopted", "dropped", "outscored", "duplicate", "empty", "late", "diverged", "unfinished"]
    ),
    score=st.none() | floats,
    gain=st.none() | floats,
)
points = st.builds(
    Point,
    step=counts,
    words=texts,
    cosine=floats,
    train_loss=st.none() | floats,
    dev_loss=floats,
    dev_accuracy=floats,
)
digests = st.builds(
    Digest,
    run=texts,
    sequence=counts,
    step=counts,
    budget=counts,
    task=texts,
    labels=st.lists(texts, max_size=5),
    num_tokens=st.integers(1, 256),
    num_candidates=st.integers(1, 64),
    trajectory=st.lists(points, max_size=3),
    substitutions=st.lists(
        st.builds(Substitution, position=counts, word=texts, replacements=st.lists(texts, max_size=3)), max_size=3
    ),
    slope=st.none() | st.builds(Slope, loss_per_step=floats, gradient_norm=floats, plateau=st.booleans()),
    best=st.lists(st.builds(Measured, words=texts, loss=floats, accuracy=floats), max_size=3),
    outcomes=st.lists(outcomes, max_size=3),
)
usages = st.builds(Usage, seconds=seconds, input_tokens=st.none() | counts, output_tokens=st.none() | counts)
messages = st.one_of(
    st.builds(Ready, name=texts, model=texts, credits=st.integers(0, 64), holding=st.lists(texts, max_size=4)),
    st.builds(Ack, run=texts),
    st.builds(Work, lease=texts, seconds=st.floats(0.1, 1e6), digest=digests),
    st.builds(Proposal, lease=texts, model=texts, candidates=st.lists(texts, max_size=5), usage=usages),
    st.builds(Outcomes, run=texts, lease=texts, step=counts, outcomes=st.lists(outcomes, max_size=3)),
    st.builds(Reject, reason=st.sampled_from(["version", "malformed", "lease", "busy", "failed"]), detail=texts),
    st.builds(Bye, run=st.none() | texts),
)

READY = {"v": 2, "kind": "ready", "name": "n", "model": "m", "credits": 1, "holding": []}


def read(fields):
    return decode(msgpack.packb(fields), LIMIT)


def survives(frame):
    """Decoding gives a message that encodes again, or a BadFrame."""
    try:
        message = decode(frame, LIMIT)
    except BadFrame as error:
        assert error.answer().reason == error.reason
    else:
        encode(message, LIMIT)


@given(messages)
def test_a_message_comes_back_as_it_was(message):
    assert decode(encode(message, LIMIT), LIMIT) == message


@given(st.binary(max_size=200))
def test_any_bytes(frame):
    survives(frame)


@given(messages, st.data())
def test_damaged_messages(message, data):
    frame = bytearray(encode(message, LIMIT))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(frame)))
        cut = data.draw(st.integers(0, 3))
        frame[at : at + cut] = data.draw(st.binary(max_size=3))
    survives(bytes(frame))


scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | texts | st.binary(max_size=5)
trees = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts | st.integers(0, 9), inner, max_size=4)
)


@given(trees)
def test_any_msgpack(tree):
    survives(msgpack.packb(tree))


@given(st.sampled_from(sorted(READY)), trees)
def test_any_value_in_a_field(key, value):
    survives(msgpack.packb({**READY, key: value}))


@pytest.mark.parametrize("version", [0, 1, 3, -1, 2**40])
def test_an_unknown_version_is_an_error_of_its_own(version):
    with pytest.raises(UnknownVersion) as caught:
        read({"v": version, "kind": "something", "new": [1, 2]})
    assert caught.value.answer().reason == "version"
    assert caught.value.answerable


@pytest.mark.parametrize("fields", [{"v": 1, "kind": "reject"}, {"v": 2, "kind": "reject"}, {"kind": "reject"}])
def test_a_reject_is_never_answered(fields):
    with pytest.raises(BadFrame) as caught:
        read(fields)
    assert not caught.value.answerable


BAD = {
    "empty": b"",
    "no map": msgpack.packb([1]),
    "two objects": msgpack.packb(READY) * 2,
    "no version": msgpack.packb({k: v for k, v in READY.items() if k != "v"}),
    "version true": msgpack.packb({**READY, "v": True}),
    "version 1.0": msgpack.packb({**READY, "v": 2.0}),
    "no kind": msgpack.packb({k: v for k, v in READY.items() if k != "kind"}),
    "unknown kind": msgpack.packb({**READY, "kind": "dance"}),
    "unknown field": msgpack.packb({**READY, "extra": 1}),
    "number as text": msgpack.packb({**READY, "credits": "1"}),
    "bytes as text": msgpack.packb({**READY, "name": b"n"}),
    "bytes as key": msgpack.packb({**READY, b"extra": 1}),
    "number as key": msgpack.packb({**READY, 7: 1}),
    "list as key": b"\x81\x90\x01",
    "below zero": msgpack.packb({**READY, "credits": -1}),
    "nan": msgpack.packb({"v": 2, "kind": "work", "lease": "l", "seconds": math.nan, "digest": {}}),
    "infinity": msgpack.packb({"v": 2, "kind": "work", "lease": "l", "seconds": math.inf, "digest": {}}),
    "text too long": msgpack.packb({**READY, "name": "n" * 9000}),
    "list too long": msgpack.packb({**READY, "holding": [""] * (MAX_LIST + 1)}),
    "too many fields": msgpack.packb({**READY, **{f"k{i}": 1 for i in range(MAX_FIELDS)}}),
    "too deep": b"\x91" * 200_000 + b"\x01",
    "deep": b"\x91" * 400 + b"\x01",
    "list of four billion": b"\xdd\xff\xff\xff\xff",
    "text of four billion": b"\xdb\xff\xff\xff\xff",
    "broken utf-8": b"\x81\xa1\xff\x01",
    "ext": msgpack.packb({**READY, "name": msgpack.ExtType(5, b"x")}),
    "empty ext": msgpack.packb({**READY, "name": msgpack.ExtType(5, b"")}),
    "timestamp": msgpack.packb({**READY, "name": msgpack.Timestamp(1)}),
}


@pytest.mark.parametrize("frame", BAD.values(), ids=BAD)
def test_what_is_not_a_message_is_malformed(frame):
    with pytest.raises(Malformed):
        decode(frame, LIMIT)


def test_a_long_frame_is_refused_unread():
    frame = encode(Bye(), LIMIT)
    with pytest.raises(Malformed):
        decode(frame, len(frame) - 1)


def test_an_answer_does_not_repeat_what_came_in():
    with pytest.raises(Malformed) as caught:
        read({**READY, "secret-key": "secret-value", "name": 3})
    assert "secret" not in caught.value.answer().detail


def test_what_does_not_fit_is_not_sent():
    with pytest.raises(TooLong, match="max_frame_bytes"):
        encode(Ack(run="r" * 100), 64)


def test_a_message_cannot_hold_nan():
    with pytest.raises(ValidationError):
        Usage(seconds=math.nan)


def test_text_that_is_not_unicode_never_reaches_the_wire():
    with pytest.raises(ValidationError):
        Ack(run="\ud800")
