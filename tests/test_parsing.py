"""The parser against what LLMs really send, and against anything at all."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proposer.parsing import LONGEST, key, parse_continuations, parse_list
from shared.text import clean, cut

THREE = ["a news story about", "this article covers", "headlines from the world of"]

REPLIES = {
    "numbered": "1. a news story about\n2. this article covers\n3. headlines from the world of",
    "numbered with brackets": "1) a news story about\n2) this article covers\n(3) headlines from the world of",
    "bulleted": "- a news story about\n* this article covers\n• headlines from the world of",
    "quoted": "1. \"a news story about\"\n2. “this article covers”\n3. 'headlines from the world of'",
    "backticks": "1. `a news story about`\n2. `this article covers`\n3. `headlines from the world of`",
    "bold": "1. **a news story about**\n2. **this article covers**\n3. **headlines from the world of**",
    "bold numbers": "**1.** a news story about\n**2.** this article covers\n**3.** headlines from the world of",
    "chatter": "Sure! Here are three prompts:\n\n1. a news story about\n2. this article covers\n"
    "3. headlines from the world of\n\nLet me know if you would like more of them!",
    "chatter around plain lines": "Here are the prompts:\n\na news story about\nthis article covers\n"
    "headlines from the world of\n\nI hope this helps!",
    "explained": '1. "a news story about" - names the kind of text\n'
    '2. "this article covers" (a verb that asks for a topic)\n3. "headlines from the world of": short',
    "explained below": "1. a news story about\n   - It names the kind of text.\n2. this article covers\n"
    "   - It asks for a topic.\n3. headlines from the world of\n   - Short.",
    "names": "Prompt 1: a news story about\nPrompt 2: this article covers\nPrompt 3: headlines from the world of",
    "placeholders": "1. a news story about [label]\n2. this article covers ___\n"
    "3. headlines from the world of <topic>.",
    "losses": "1. a news story about (loss 0.41)\n2. this article covers - loss: 0.40\n"
    "3. headlines from the world of, Loss = 0.39",
    "json": json.dumps(THREE),
    "json of objects": json.dumps([{"prompt": text, "why": "it is short"} for text in THREE]),
    "json with a name": json.dumps({"prompts": THREE}),
    "json lines": "\n".join(json.dumps({"phrase": text}) for text in THREE),
    "json in a fence": "Here you go:\n```json\n"
    + json.dumps({"candidates": [{"text": t} for t in THREE]}, indent=2)
    + "\n```",
    "list in a fence": "```\n1. a news story about\n2. this article covers\n3. headlines from the world of\n```",
    "thinking": "<think>The user wants prompts.\n1. no\n2. not this</think>\n\n1. a news story about\n"
    "2. this article covers\n3. headlines from the world of",
    "thinking without a beginning": "1. no\n2. not this</think>\n1. a news story about\n2. this article covers\n"
    "3. headlines from the world of",
    "chat tokens": "1. a news story about<|im_end|>\n2. this article covers</s>\n"
    "3. <|assistant|>headlines from the world of",
    "control characters": "1. a news\x00 story\tabout\r\n2. this\u200b article\x1b covers\r\n"
    "3. headlines\u00a0from the world of",
    "full width": "1. \uff41 news story about\n2. this article covers\n3. headlines from the world of",
    "repeated": "1. a news story about\n2. A news  story about.\n3. this article covers\n4. \n"
    "5. headlines from the world of",
    "too many": "1. a news story about\n2. this article covers\n3. headlines from the world of\n4. one more",
}

NOTHING = {
    "empty": "",
    "space": " \n\t\n",
    "refusal in prose": "As an AI language model I cannot do this. " * 20,
    "thinking without an end": "<think>1. one\n2. two\n3. three",
    "ramble": "the prompts could be better and better and so on and on " * 180,
    "numbers": "1. 2021\n2. 500000\n3. 0.61",
    "marks": '1. ...\n2. ---\n3. ""',
    "json of numbers": "[1, 2, 3]",
    "an open fence": "```",
}


@pytest.mark.parametrize("name", REPLIES)
def test_reads_what_models_send(name):
    assert parse_list(REPLIES[name], 3).candidates == THREE


@pytest.mark.parametrize("name", NOTHING)
def test_finds_nothing_where_there_is_nothing(name):
    assert parse_list(NOTHING[name], 8).candidates == []


def test_keeps_other_languages():
    reply = "1. eine Nachricht über\n2. 这篇新闻是关于\n3. новость про"
    assert parse_list(reply, 8).candidates == ["eine Nachricht über", "这篇新闻是关于", "новость про"]


def test_cuts_too_long_at_a_word():
    (candidate,) = parse_list("1. " + "word " * 100, 8).candidates
    assert len(candidate) <= LONGEST
    assert set(candidate.split()) == {"word"}


def test_counts_what_it_drops():
    parsed = parse_list("1. one\n2. ONE\n3. two\n4. ...\n5. three", 8, tried={key("Two")})
    assert parsed.candidates == ["one", "three"]
    assert (parsed.empty, parsed.repeated) == (1, 2)


def test_continuations_give_one_candidate_each():
    replies = [
        " the news of\nLoss: 0.31 Phrase: other",
        "here is a story about",
        "",
        "  the News of ",
        "a tale loss: 0.4",
    ]
    parsed = parse_continuations(replies, 8)
    assert parsed.candidates == ["the news of", "here is a story about", "a tale"]
    assert (parsed.empty, parsed.repeated) == (1, 1)


def test_survives_deep_json():
    assert parse_list("[" * 100_000, 8).candidates == []


PIECES = [
    "1. ",
    "- ",
    '"',
    "\n",
    "```json\n",
    "[",
    "]",
    "{",
    '{"prompt": ',
    "<think>",
    "</think>",
    "Loss: 0.3",
    "word",
    "Phrase: ",
    "**",
    "_",
    "a)",
    "[x]",
    " ",
    ".",
    "<",
    ">",
]
PIECES += ["|", "<|", "|>", "e\u0301", "\ud800", "\u2028", "\x00", "\ufe0f", "'"]

anything = st.one_of(
    st.text(max_size=3000),
    st.lists(
        st.sampled_from(PIECES),
        max_size=60,
    ).map("".join),
)


@given(anything, st.integers(1, 64))
@example("1. " + "<" * 50 + "|>" * 50, 8)
def test_anything_gives_clean_distinct_candidates(text, wanted):
    for parsed in (parse_list(text, wanted), parse_continuations([text, text], wanted)):
        candidates = parsed.candidates
        assert len(candidates) <= wanted
        assert len({key(candidate) for candidate in candidates}) == len(candidates)
        for candidate in candidates:
            assert 0 < len(candidate) <= LONGEST
            assert candidate.isprintable()
            assert candidate == candidate.strip()
            candidate.encode()


@given(anything)
def test_a_list_of_its_own_output_is_read_back(text):
    candidates = parse_list(text, 64).candidates
    again = "\n".join(f"{number}. {candidate}" for number, candidate in enumerate(candidates, 1))
    assert parse_list(again, 64).candidates == candidates


@given(anything)
def test_clean_is_one_plain_line_and_stays(text):
    line = clean(text)
    assert line.isprintable()
    assert clean(line) == line


@given(st.text(st.characters(codec="ascii", exclude_categories=["C"])), st.integers(1, 40))
def test_cut_keeps_words_whole(text, longest):
    short = cut(text, longest)
    assert len(short) <= longest
    assert text.startswith(short)
