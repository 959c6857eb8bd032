"""Removes keys and passwords from text before it is logged or sent."""

import os
import re

from shared.text import hide_credentials

SECRET_NAME = re.compile(r"(?:KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS?)$", re.IGNORECASE)
SHORTEST = 6
"""Characters. Shorter values are not secrets, and hiding them would hide words."""

KEY_LIKE = re.compile(r"\b(?:(?:sk|pk|gsk|xai|hf)[-_]|AIza)[A-Za-z0-9*_.-]{6,}")
BEARER = re.compile(r"(?i)\b(bearer|x-api-key:?)\s+\S+")

HIDDEN = "[hidden]"


def redact(text: str) -> str:
    """The text without the values of secret environment variables and without what looks like a key."""
    secrets = {value for name, value in os.environ.items() if SECRET_NAME.search(name) and len(value) >= SHORTEST}
    for secret in sorted(secrets, key=len, reverse=True):  # a long one may hold a short one
        text = text.replace(secret, HIDDEN)
    text = hide_credentials(text)
    text = BEARER.sub(rf"\1 {HIDDEN}", text)
    return KEY_LIKE.sub(HIDDEN, text)
