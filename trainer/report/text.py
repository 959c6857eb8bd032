"""Text from elsewhere made visible: control and bidirectional characters as their code, keys masked."""

import re
import unicodedata

KEYS = re.compile(
    r"\b(?:sk|pk|rk|hf|gsk|xai|ghp|gho|glpat|AIza|AKIA|pypi|tvly)[-_]?[A-Za-z0-9_\-]{16,}"
    r"|(?<=://)[^/\s@]+:[^/\s@]+(?=@)"
    r"|(?i:(?<=bearer )\S{8,})"
)
"""Keys of providers, user and password in an address, bearer tokens."""

SECRET_NAMES = re.compile(r"(?i)(?:^|[._-])(?:api_?)?(?:key|secret|token|password|passwd|credentials?)$")
"""Names of settings whose values are never shown."""

MASK = "••••"
LONGEST = 2_000
"""Characters shown of one text."""


def visible(value: object, longest: int = LONGEST) -> str:
    """`value` as one line of text that shows every character and no key."""
    text = KEYS.sub(MASK, str(value))
    shown = text if len(text) <= longest else text[:longest] + "…"
    return "".join(char if _is_plain(char) else f"⟨U+{ord(char):04X}⟩" for char in shown)


def setting(name: str, value: object) -> str:
    """The value of a setting, masked where its name says that it is secret."""
    if value is not None and value != "" and SECRET_NAMES.search(name):
        return MASK
    return visible(value)


def _is_plain(char: str) -> bool:
    """Whether a character shows as itself. Not so: controls, format characters (bidi), surrogates, odd spaces."""
    return char == " " or unicodedata.category(char)[0] not in "CZ"
