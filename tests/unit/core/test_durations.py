"""Durations as people write them, and nothing that only looks like one."""

from datetime import timedelta

import pytest

from countersign.core.durations import duration
from countersign.core.errors import InvalidArgument


@pytest.mark.parametrize(
    ("text", "is_"),
    [("90s", timedelta(seconds=90)), ("5m", timedelta(minutes=5)), ("2h", timedelta(hours=2)), ("7d", timedelta(days=7))],
)
def test_a_number_and_a_unit(text: str, is_: timedelta) -> None:
    assert duration(text) == is_


@pytest.mark.parametrize("text", ["", "5", "h", "0h", "-5m", "1.5h", "5 m", "5m\n", "1w", "9999999s"])
def test_anything_else_is_none(text: str) -> None:
    with pytest.raises(InvalidArgument, match="90s, 2h or 7d") as wrong:
        duration(text, field="drift_every")
    assert wrong.value.field == "drift_every"
