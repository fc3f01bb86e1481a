"""Types of arguments."""

from __future__ import annotations

from datetime import timedelta

import click
import pytest

from pgmem.cli.options import DURATION, POSITION


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("1.5h", 5400), ("15m", 900), ("7d", 604_800), ("2w", 1_209_600), ("0s", 0)],
)
def test_duration_is_a_number_and_a_unit(text, seconds):
    assert DURATION.convert(text, None, None) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text", ["", "30", "s", "-1s", "1 s", "1y", "1S", "1h30m", "nan", "1e3s", "٣s", "999999999999d"]
)
def test_other_text_is_not_a_duration(text):
    with pytest.raises(click.BadParameter, match="is not a number with a unit") as caught:
        DURATION.convert(text, None, None)
    assert repr(text) in caught.value.message


def test_position_is_a_number_or_now():
    assert POSITION.convert("0", None, None) == 0
    assert POSITION.convert("12", None, None) == 12
    assert POSITION.convert("now", None, None) == "now"
    for text in ("-1", "soon", "", "1.5", "٣"):
        with pytest.raises(click.BadParameter, match="is not a position"):
            POSITION.convert(text, None, None)
