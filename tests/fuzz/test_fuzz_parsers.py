"""Every parser of peers' bytes with inputs of its own words: see ``targets``."""

from __future__ import annotations

import pytest
from fuzz.targets import TARGETS, WORDS
from fuzz.test_fuzz_protocol import fuzz
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize("name", TARGETS)
def test_any_input_gives_a_result_or_a_documented_error(name):
    pieces = st.one_of(st.sampled_from(WORDS[name]), st.binary(max_size=4))
    inputs = st.one_of(st.lists(pieces, max_size=40).map(b"".join), st.binary(max_size=300))
    fuzz(given(inputs)(TARGETS[name]))()
