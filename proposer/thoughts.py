"""Removes a thinking model's thoughts from its reply. Linear in the reply's length."""

import re

_WORDS = r"think|thinking|thought|thoughts|reasoning|reason|reflection|scratchpad|analysis|seed:think"

OPENS = (
    rf"<(?:{_WORDS})>|\[THINK\]|◁think▷|<\|START_THINKING\|>|<\|begin_of_thought\|>|<\|inner_prefix\|>|<\|think\|>"
    r"|<unused94>|<\|channel>(?!\s*(?:final|response))"
)
CLOSES = (
    rf"</(?:{_WORDS})>|\[/THINK\]|◁/think▷|<\|END_THINKING\|>|<\|end_of_thought\|>|<\|inner_suffix\|>|<\|/think\|>"
    r"|<unused95>|<channel\|>"
)
THOUGHT = re.compile(rf"(?P<opens>{OPENS})|(?P<closes>{CLOSES})", re.IGNORECASE)
"""What begins and ends thoughts: DeepSeek, Qwen and others, Magistral, Kimi, Command A, Seed-OSS, MedGemma, Gemma 4."""

HARMONY = re.compile(r"<\|(start|channel|message|constrain|end|return|call)\|>")
"""The marks of gpt-oss: <|channel|>NAME<|message|>BODY<|end|>."""

HARMONY_BARE = re.compile(r"\A\s*analysis.*?assistant\s?final", re.DOTALL | re.IGNORECASE)
"""The same where a server dropped the marks."""

ANSWERS = ("final", "response", "answer")
"""Channels whose body is the answer."""


def strip_thoughts(reply: str) -> str:
    """The reply without thoughts.

    A thought that never ends takes the rest of the reply with it; one whose beginning is missing, because the chat
    template had it, takes all that came before its end.
    """
    text = _answer_channels(reply) if HARMONY.search(reply) else HARMONY_BARE.sub("", reply, count=1)
    kept: list[str] = []
    since = 0
    thinking = False
    for mark in THOUGHT.finditer(text):
        if mark["opens"]:
            if not thinking:
                kept.append(text[since : mark.start()])
            thinking = True
        else:
            if not thinking:
                kept.clear()
            thinking = False
            since = mark.end()
    if not thinking:
        kept.append(text[since:])
    return "".join(kept)


def _answer_channels(reply: str) -> str:
    """The bodies of the answer's channels, and text outside of all channels."""
    first, *rest = HARMONY.split(reply)
    pieces = list(zip(rest[::2], rest[1::2], strict=True))
    marks = [mark for mark, _ in pieces]
    channel = first.strip() if marks[0] == "message" else ""  # the chat template may have begun the header
    kept = [] if channel else [first]
    for (mark, text), following in zip(pieces, [*marks[1:], "end"], strict=True):
        body = text
        if mark == "channel":
            channel, _, body = text.strip().partition(" ")
            if following in ("message", "constrain"):
                continue
        elif mark != "message":
            channel = ""
        if mark not in ("start", "constrain") and (not channel or channel.lower().startswith(ANSWERS)):
            kept.append(body)
    return "".join(kept)
