"""The parser against what LLMs really send, and against anything at all."""

import json
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proposer.candidate import LONGEST, key
from proposer.parsing import parse_continuations, parse_list
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
    "commas behind a word": f"Prompts: {', '.join(THREE)}.",
    "commas in a sentence": f"Sure! Here are three prompts: {', '.join(THREE[:2])}, and {THREE[2]}.",
    "a comment below one line": f"Here are the templates:\n{'; '.join(THREE)}\nPlease tell me if you need more.",
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


RECORDED = {
    "Qwen2.5-Coder-1.5B, losses of its own": (
        "1. this text is about {label} (loss 1.36)\n2. this author is about {label} (loss 1.22)\n"
        "3. someone wants {label} (loss 1.18)\n4. I want {label} (loss 1.17)",
        ["this text is about", "this author is about", "someone wants", "I want"],
    ),
    "Qwen2.5-Coder-1.5B, the label within": (
        "1. the author feels {label}\n2. I think {label} is good\n3. the reviewer says {label} is worth watching\n"
        "4. {label} review is about this\n5. the movie review is {label}",
        ["the author feels", "I think", "the reviewer says", "the movie review is"],
    ),
    "Qwen2.5-Coder-1.5B, the label twice": (
        "- this order is for a {label} {label}\n- this person is asking for a {label} {label}",
        ["this order is for a", "this person is asking for a"],
    ),
    "Qwen2.5-Coder-1.5B, round brackets": (
        "1. the customer felt upset about (label)\n2. the order was delivered at (label)\n"
        "3. the customer asked for (label)",
        ["the customer felt upset about", "the order was delivered at", "the customer asked for"],
    ),
    "Qwen2.5-Coder-1.5B, one label in all": (
        "1. This text is about {billing}\n2. Someone was interested in {billing}\n3. This text is about {delivery}\n"
        "4. Someone was interested in {delivery}",
        ["This text is about", "Someone was interested in"],
    ),
    "Qwen2.5-Coder-1.5B, numbers alone in its own order": (
        "3 this text is about {label}\n2 the author wants {label}\n1 they want {label}\n4 this is the topic of {label}",
        ["this text is about", "the author wants", "they want", "this is the topic of"],
    ),
    "Qwen2.5-Coder-1.5B, cut in the label": (
        "1. I was having trouble with {label} (loss 0.25)\n2. I needed support with {label} (loss 0.19)\n"
        "3. I needed help with {label",
        ["I was having trouble with", "I needed support with", "I needed help with"],
    ),
    "Qwen2.5-Coder-1.5B, cut in the loss": (
        "1. the reason for this purchase (loss 1.124)\n2. the reason for this transaction (",
        ["the reason for this purchase", "the reason for this transaction"],
    ),
    "Qwen2.5-Coder-0.5B, in a loop": (
        "this text\nthe author\nsomeone\nwe want\nI\nwe want\nI\nwe want\nI\nthis text\nthe author",
        ["this text", "the author", "someone", "we want", "I"],
    ),
    "Gemma-3-270M, a base model in a chat format": (
        "<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n<|im_start|>user\n<|im_end|>user\n<|im_",
        [],
    ),
}
"""Replies to the meta-prompt `instruct`, shortened, and their candidates."""


@pytest.mark.parametrize("name", RECORDED)
def test_reads_recorded_replies(name):
    reply, candidates = RECORDED[name]
    assert parse_list(reply, 12).candidates == candidates


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


def numbered(phrases, form="{}. {}", first=1):
    return "\n".join(form.format(number, phrase) for number, phrase in enumerate(phrases, first))


def each(form):
    return lambda phrases: "\n".join(form.format(phrase) for phrase in phrases)


def objects(phrases, name="prompt", **more):
    return [{**more, name: phrase} for phrase in phrases]


def table(phrases, header="| # | Prompt | Why |", rule="|---|:---|---|"):
    rows = [f"| {number} | {phrase} | it names the kind of text |" for number, phrase in enumerate(phrases, 1)]
    return "\n".join(["Here is a table:", "", header, rule, *rows, "", "I hope this helps!"])


def trailing_comma(phrases):
    return json.dumps(phrases, indent=1).replace('"\n]', '",\n]')


def single_quotes(phrases):
    return "[" + ", ".join(f"'{phrase}'" for phrase in phrases) + "]"


ORDINALS = ["First", "Second", "Third", "Fourth", "Fifth", "Sixth", "Seventh", "Eighth"]
HAN = "一二三四五六七八"
LISTED = "1. not this one\n2. nor that\n"

FORMS = {
    "numbered": numbered,
    "numbered with a bracket": lambda phrases: numbered(phrases, "{}) {}"),
    "numbered in brackets": lambda phrases: numbered(phrases, "({}) {}"),
    "numbered in square brackets": lambda phrases: numbered(phrases, "[{}] {}"),
    "numbered from zero": lambda phrases: numbered(phrases, first=0),
    "numbered and quoted": lambda phrases: numbered(phrases, '{}. "{}"'),
    "numbered and bold": lambda phrases: numbered(phrases, "**{}.** **{}**"),
    "numbered and bracketed": lambda phrases: numbered(phrases, "{}. [{}]"),
    "numbered as in Chinese": lambda phrases: numbered(phrases, "{}、{}"),
    "full-width numbers": lambda phrases: numbered(phrases, "{}\uff0e{}"),
    "circled numbers": lambda phrases: numbered(map(" ".join, zip("①②③④⑤⑥⑦⑧", phrases, strict=False)), "{1}"),
    "keycaps": lambda phrases: numbered(phrases, "{}\ufe0f\u20e3 {}"),
    "number and text on two lines": lambda phrases: numbered(phrases, "{}.\n{}"),
    "named headings": lambda phrases: numbered(phrases, "### Prompt {}\n\n{}\n"),
    "one line": lambda phrases: " ".join(f"{number}. {phrase}" for number, phrase in enumerate(phrases, 1)),
    "letters": lambda phrases: "\n".join(
        f"{letter}. {text}" for letter, text in zip("abcdefgh", phrases, strict=False)
    ),
    "letters in brackets": lambda phrases: "\n".join(
        f"({letter}) {text}" for letter, text in zip("ABCDEFGH", phrases, strict=False)
    ),
    "Roman numbers": lambda phrases: "\n".join(
        f"{letter}. {text}"
        for letter, text in zip(("i", "ii", "iii", "iv", "v", "vi", "vii", "viii"), phrases, strict=False)
    ),
    "dashes": each("- {}"),
    "asterisks": each("* {}"),
    "dots": each("• {}"),
    "dots without a space": each("•{}"),
    "bracketed lines": each("[{}]"),
    "bracketed lines in prose": lambda phrases: f"These may work better.\n{each('[{}]')(phrases)}\nThey differ.",
    "named": lambda phrases: numbered(phrases, "Prompt {}: {}"),
    "named and bold": lambda phrases: numbered(phrases, "**Prompt {}:** {}"),
    "rows with losses": each("Loss: 0.75 Phrase: {}"),
    "rows with losses after": each("Phrase: {} (Loss: 0.75)"),
    "numbered rows with losses": lambda phrases: numbered(phrases, "{}. Loss: 0.75, {}"),
    "JSON": json.dumps,
    "JSON over lines": lambda phrases: json.dumps(phrases, indent=2),
    "JSON with a trailing comma": trailing_comma,
    "JSON in prose": lambda phrases: f"I suggest {json.dumps(phrases)} because they are short.",
    "JSON without an end": lambda phrases: json.dumps(phrases)[:-1],
    "JSON by number": lambda phrases: json.dumps({str(number): text for number, text in enumerate(phrases, 1)}),
    "JSON by name": lambda phrases: json.dumps({f"prompt_{number}": text for number, text in enumerate(phrases, 1)}),
    "JSON under a name": lambda phrases: json.dumps({"prompts": phrases}),
    "JSON under names": lambda phrases: json.dumps({"response": {"new_prompts": objects(phrases, "text")}}),
    "JSON objects": lambda phrases: json.dumps(objects(phrases)),
    "JSON objects with more": lambda phrases: json.dumps(objects(phrases, "phrase", why="it is short", loss=0.7)),
    "JSON objects in lines": lambda phrases: "\n".join(map(json.dumps, objects(phrases, "phrase", loss=0.7))),
    "JSON objects in a numbered list": lambda phrases: numbered(map(json.dumps, objects(phrases))),
    "JSON with reasoning": lambda phrases: json.dumps({"reasoning": ["they are short", "plain"], "prompts": phrases}),
    "JSON reasoning, then a list": lambda phrases: f'{{"reasoning": ["short words"]}}\n\n{numbered(phrases)}',
    "named lists": lambda phrases: f'Reasoning: ["short words"]\nPrompts: {json.dumps(phrases)}',
    "JSON with comments": lambda phrases: "[\n" + "".join(f"  {json.dumps(t)}, // short\n" for t in phrases) + "]",
    "JavaScript": lambda phrases: "{prompts: " + json.dumps(phrases) + "}",
    "Python list": repr,
    "Python list in single quotes": single_quotes,
    "Python code in a fence": lambda phrases: f"```python\nprompts = {phrases!r}\n```",
    "JSON in a fence": lambda phrases: f"Here you go:\n```json\n{json.dumps(phrases, indent=2)}\n```\nDone.",
    "fence that never closes": lambda phrases: f"Here you go:\n```json\n{json.dumps(phrases)}\n",
    "list in a fence that never closes": lambda phrases: f"Here you go:\n\n```\n{numbered(phrases)}",
    "lines in a fence": lambda phrases: f"They are short\n~~~text\n{each('{}')(phrases)}\n~~~\nand plain",
    "fences on one line": each("```{}```"),
    "prompt tags": each("<prompt>{}</prompt>"),
    "prompt tags over lines": each("<prompt>\n{}\n</prompt>"),
    "INS tags": each("I would try this one.\n<INS>{}</INS>"),
    "XML": lambda phrases: "<prompts>" + "".join(f"<prompt><text>{t}</text><why>short</why></prompt>" for t in phrases),
    "list in a tag": lambda phrases: f"<answer>\n{numbered(phrases)}\n</answer>",
    "table": table,
    "table with other columns": lambda phrases: table(phrases, "| Nr | New phrase | Rationale |"),
    "table without a header": lambda phrases: table(phrases, "|  |  |  |"),
    "DSPy": lambda phrases: (
        f"[[ ## reasoning ## ]]\n{LISTED}\n[[ ## prompts ## ]]\n{numbered(phrases)}\n\n[[ ## completed ## ]]"
    ),
    "DSPy with JSON": lambda phrases: f"[[ ## prompts ## ]]\n{json.dumps(phrases)}\n\n[[ ## completed ## ]]\n",
    "DSPy, a section each": lambda phrases: numbered(phrases, "[[ ## prompt_{} ## ]]\n{}\n"),
    "quoted lines": lambda phrases: f"These may work better.\n{each('“{}”,')(phrases)}",
    "lines alone": each("{}"),
    "Arabic digits": lambda phrases: (
        numbered(phrases, "{}. {}").translate({48 + n: 0x660 + n for n in range(10)})
        if not any(map(str.isdecimal, "".join(phrases)))
        else numbered(phrases)
    ),
    "hash and number": lambda phrases: numbered(phrases, "#{}: {}"),
    "No. and number": lambda phrases: numbered(phrases, "No. {}: {}"),
    "any word and number": lambda phrases: numbered(phrases, "Variant {}: {}"),
    "number and bar": lambda phrases: numbered(phrases, "{} | {}"),
    "escaped numbers": lambda phrases: numbered(phrases, "{}\\. {}"),
    "words for numbers": lambda phrases: "\n".join(
        f"{word}: {text}" for word, text in zip(ORDINALS, phrases, strict=False)
    ),
    "Chinese numbers": lambda phrases: "\n".join(f"{sign}、{text}" for sign, text in zip(HAN, phrases, strict=False)),
    "option letters": lambda phrases: "\n".join(
        f"Option {letter}: {text}" for letter, text in zip("ABCDEFGH", phrases, strict=False)
    ),
    "emoji": each("\u2705 {}"),
    "pointing hands": lambda phrases: f"These may work better!\n\n{each('👉 {}')(phrases)}\n\nGood luck.",
    "check boxes": each("- [ ] {}"),
    "LaTeX": lambda phrases: "\n".join(["\\begin{itemize}", *(f"\\item {text}" for text in phrases), "\\end{itemize}"]),
    "YAML": lambda phrases: f"prompts:\n{each('  - {}')(phrases)}",
    "YAML keys": lambda phrases: numbered(phrases, "prompt_{}: {}"),
    "YAML objects": each('- text: "{}"\n  loss: 0.5'),
    "tags with attributes": lambda phrases: numbered(phrases, '<prompt id="{}" lang="en">{}</prompt>'),
    "HTML": lambda phrases: '<ol class="x">' + "".join(f"<li><b>{text}</b></li>" for text in phrases) + "</ol>",
    "CDATA": each("<prompt><![CDATA[{}]]></prompt>"),
    "fence with a title": lambda phrases: f'```json title="prompts.json"\n{json.dumps(phrases)}\n```',
    "JSON with comments at the end": lambda phrases: (
        "[/* short */\n" + ",\n".join(map(json.dumps, phrases)) + " # x\n]"
    ),
    "list in backticks": lambda phrases: "[" + ", ".join(f"`{phrase}`" for phrase in phrases) + "]",
    "dictionary by number": lambda phrases: repr(dict(enumerate(phrases, 1))),
    "tuple": lambda phrases: repr(tuple(phrases)),
    "quoted on one line": lambda phrases: ", ".join(map(json.dumps, phrases)),
    "quoted with semicolons": lambda phrases: "; ".join(f'"{phrase}"' for phrase in phrases),
    "one line behind a word": lambda phrases: "Sure: " + numbered(phrases).replace("\n", " "),
    "one line in brackets": lambda phrases: numbered(phrases, "({}) {}").replace("\n", " "),
    "bold rows with losses": each("**Loss:** 0.41 **Phrase:** {}"),
    "rows with equals signs": each("loss=0.41, prompt={}"),
    "semicolons": "; ".join,
    "semicolons behind a word": lambda phrases: f"Prompts: {'; '.join(phrases)}.",
    "semicolons in prose": lambda phrases: f"Here are some prompts:\n\n{'; '.join(phrases)}\n\nI hope this helps!",
    "bars": " | ".join,
    "slashes": " / ".join,
    "dots on one line": lambda phrases: " ".join(f"\u2022 {phrase}" for phrase in phrases),
    "attributes": lambda phrases: "\n".join(
        ["<prompts>", *(f'  <prompt text="{text}" loss="0.5"/>' for text in phrases), "</prompts>"]
    ),
    "attributes of empty pairs": each("<candidate id='1' prompt=\"{}\"></candidate>"),
    "boxes": each("$\\boxed{{\\text{{{}}}}}$"),
    "a list in a box": lambda phrases: f"So the answer is:\n$$\\boxed{{{'; '.join(phrases)}}}$$",
    "numbered in a box": lambda phrases: f"\\boxed{{\n{numbered(phrases)}\n}}",
    "two digits on one line": lambda phrases: numbered(phrases, "{:02}. {}").replace("\n", " "),
    "letters on one line": lambda phrases: " ".join(
        f"({letter}) {phrase}" for letter, phrase in zip("abcdefgh", phrases, strict=False)
    ),
    "numbers in square brackets on one line": lambda phrases: numbered(phrases, "[{}] {}").replace("\n", " "),
    "names on one line": lambda phrases: numbered(phrases, "Prompt {}: {}").replace("\n", "; "),
    "quoted with or": lambda phrases: " or ".join(f'"{phrase}"' for phrase in phrases),
    "templates on one line": lambda phrases: ", ".join(f"{phrase} {{label}}" for phrase in phrases),
    "breaks of HTML": "<br>".join,
    "named templates": lambda phrases: numbered(phrases, "{}. Template: {}"),
    "JSON of templates": lambda phrases: json.dumps(objects(phrases, "template", why="it is short")),
    "corner brackets": each("「{}」"),
    "low quotes": lambda phrases: numbered(phrases, "{}. „{}“"),
    "carriage returns": lambda phrases: numbered(phrases).replace("\n", "\r\n"),
}

THOUGHTS = {
    "tags": "<think>\n{}</think>\n\n",
    "tags without a beginning": "{}</think>\n",
    "tags in tags": "<think>{}<think>{}</think>{}</think>",
    "Magistral": "[THINK]{}[/THINK]",
    "Kimi": "◁think▷{}◁/think▷",
    "Command A": "<|START_THINKING|>{}<|END_THINKING|><|START_RESPONSE|>",
    "Seed": "<seed:think>{}<seed:cot_budget_reflect>x</seed:cot_budget_reflect>{}</seed:think>",
    "MedGemma": "<unused94>thought\n{}<unused95>",
    "OpenThinker": "<|begin_of_thought|>{}<|end_of_thought|>\n<|begin_of_solution|>\n",
    "gpt-oss": "<|channel|>analysis<|message|>{}<|end|><|start|>assistant<|channel|>final<|message|>",
    "gpt-oss with a begun header": "analysis<|message|>{}<|end|><|start|>assistant<|channel|>final<|message|>",
    "gpt-oss with a format": "<|channel|>analysis<|message|>{}<|channel|>final <|constrain|>json<|message|>",
    "gpt-oss without marks": "analysis{}assistantfinal",
    "Gemma": "<|channel>thought\n{}<channel|>",
    "Gemma with an answer's channel": "<|channel>thought\n{}<channel|><|channel>final\n",
    "long": "<think>" + "{}" * 2000 + "</think>",
}

UNENDING = ["<think>{}", "[THINK]{}", "◁think▷{}", "<|START_THINKING|>{}", "<seed:think>{}", "<|channel>thought\n{}"]
UNENDING += ["<|channel|>analysis<|message|>{}"]

word = st.text("abcdefghijklmnopqrstuvwxyzéßдлж新聞", min_size=2, max_size=9) | st.sampled_from(
    ["what's", "e-mail", "customers'", "news,", "24", "3.5", "a", "U.S.", "C++", "AT&T", "50%"]
)
# "loss" with a number is a row's loss, not a phrase's word
phrase = st.lists(word.filter(lambda text: text != "loss"), min_size=1, max_size=4).map(
    lambda words: " ".join(["text", *words, "about"])
)
phrases = st.lists(phrase, min_size=2, max_size=8, unique_by=key)


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=20)
@given(listed=phrases)
def test_every_form_of_a_list_gives_its_phrases(form, listed):
    assert parse_list(FORMS[form](listed), 8).candidates == listed


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=10)
@given(listed=phrases)
def test_every_form_of_a_list_of_templates_gives_the_words_before_the_label(form, listed):
    assert parse_list(FORMS[form]([f"{text} {{label}}" for text in listed]), 8).candidates == listed


@pytest.mark.parametrize("thought", THOUGHTS)
@pytest.mark.parametrize("form", [numbered, json.dumps, each("<prompt>{}</prompt>")])
def test_thoughts_are_not_candidates(thought, form):
    for inside in (
        LISTED,
        '["not this one", "nor that"]\n',
        "<prompt>not this one</prompt>",
        "I think of these words. ",
    ):
        assert parse_list(THOUGHTS[thought].replace("{}", inside) + form(THREE), 8).candidates == THREE


@pytest.mark.parametrize("thought", UNENDING)
def test_a_thought_that_never_ends_has_no_candidates(thought):
    assert parse_list(thought.format(LISTED), 8).candidates == []
    assert parse_list(numbered(THREE) + "\n" + thought.format(LISTED), 8).candidates in (THREE, [])


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
@example("|```A")
@example("good / bad")
@example("<|00000000000000000000000000000000A     0\rA|>")
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


LONG = [
    "\n",
    " ",
    "</",
    "<",
    "[",
    "{",
    '"',
    "'",
    '["',
    '["a" ',
    '{"a": ',
    "[[ ## ",
    "<a ",
    "<a></b>",
    "<think>",
    "</think>",
    "`",
]
LONG += [
    "```\n",
    "``` ",
    "|",
    "|-",
    "| a |\n",
    "1. ",
    "1. a prompt ",
    "(",
    "((1",
    "loss ",
    "- - ",
    "_",
    "*",
    "a\u0301\u0323",
    "\u0301\u0323",
]
LONG += [
    "\\boxed{",
    "\\text{{}",
    "$$\\boxed{a}",
    "one; ",
    '<a text="',
    '<a text="b"/>',
]
LONG += [
    "<|",
    "<|a",
    "<|channel|>",
    "<|channel|>a<|message|>",
    "<|channel>",
    "◁",
    "\\",
    '["a\\',
    "//",
    "[//",
    "[#",
    "\u2460",
    ": [a",
    "\u201c",
    "[/*",
    "[`",
    '", "',
    "\u2705 ",
    "(1) ",
    "1 | ",
    "<b>",
    "<![CDATA[",
    "\\item ",
    "First: ",
]


def seconds(read, text):
    """Processor time of this thread; the least of a few turns, because other work can only add to it."""
    turns = []
    for _ in range(3):
        began = time.thread_time()
        read(text)
        turns.append(time.thread_time() - began)
    return min(turns)


@pytest.mark.parametrize("piece", LONG)
@pytest.mark.parametrize("before", ["", "1. a prompt\n", '["a prompt", '])
def test_the_cost_grows_with_the_length_alone(piece, before, monkeypatch):
    """Eight times the text, at most sixteen times the cost: what is quadratic costs sixty-four times as much."""
    monkeypatch.setattr("proposer.parsing.LONGEST_ANSWER", 10**9)
    for read in (lambda text: parse_list(text, 8), clean):
        short, long = (seconds(read, before + piece * (length // len(piece))) for length in (5_000, 40_000))
        assert long < 16 * short + 0.01
