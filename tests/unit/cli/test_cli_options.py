"""What the commands read from their command lines."""

from __future__ import annotations

from datetime import timedelta

import pytest

from pgmem.cli.options import duration
from pgmem.errors import InvalidOption


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("1.5h", 5400), ("15m", 900), ("7d", 604_800), ("2w", 1_209_600), ("0s", 0)],
)
def test_a_duration(text, seconds):
    assert duration(text, "--ttl") == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text", ["", "30", "s", "-1s", "1 s", "1y", "1S", "1h30m", "nan", "1e3s", "٣s", "999999999999d"]
)
def test_what_is_no_duration_is_told(text):
    with pytest.raises(InvalidOption, match="--ttl takes a number and a unit") as caught:
        duration(text, "--ttl")
    assert repr(text) in str(caught.value)
