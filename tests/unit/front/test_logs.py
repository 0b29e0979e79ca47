"""A piece of a log: its end without a cursor, what comes next with one, and never more than fits."""

import pytest

from mcp_front.logs import CHARACTERS, _level, _piece

TEXT = [f"line {n}" for n in range(250)]


def test_without_a_cursor_the_end_is_shown_and_the_cursor_stands_behind_it() -> None:
    assert _piece(TEXT, begin=None, lines=100, level=None) == (150, 250, TEXT[150:])


def test_with_a_cursor_it_goes_on_from_there() -> None:
    assert _piece(TEXT, begin=0, lines=100, level=None) == (0, 100, TEXT[:100])
    assert _piece(TEXT, begin=200, lines=100, level=None) == (200, 250, TEXT[200:])


def test_at_the_end_there_is_nothing_and_the_cursor_stays() -> None:
    assert _piece(TEXT, begin=250, lines=100, level=None) == (250, 250, [])
    assert _piece([], begin=None, lines=100, level=None) == (0, 0, [])


def test_reading_on_gives_every_line_once_whatever_their_length() -> None:
    text = [f"{n} " + "x" * (n * 37 % 1900) for n in range(400)]
    seen: list[str] = []
    at = 0
    while at < len(text):
        _, at, piece = _piece(text, begin=at, lines=1000, level=None)
        assert sum(map(len, piece)) <= CHARACTERS
        seen += piece

    assert seen == text


def test_a_level_leaves_out_what_is_harmless_and_reading_on_still_ends() -> None:
    text = ["Error: no", "fine", "Warning: hm", "fine"] * 10

    assert _piece(text, begin=None, lines=100, level="error")[2] == ["Error: no"] * 10
    assert _piece(text, begin=None, lines=3, level="warning")[2] == ["Warning: hm", "Error: no", "Warning: hm"]
    first, end, piece = _piece(text, begin=0, lines=2, level="error")
    assert (first, end, piece) == (0, 5, ["Error: no", "Error: no"])
    assert _piece(text, begin=37, lines=2, level="error") == (37, 40, [])


def test_a_line_that_is_too_long_is_cut_and_says_so() -> None:
    _, _, (line,) = _piece(["x" * 5000], begin=None, lines=1, level=None)

    assert line.endswith("… (5000 characters)")
    assert len(line) < 2100


@pytest.mark.parametrize(
    ("line", "level"),
    [
        ("Error: no such thing", "error"),
        ("│ Error: no such thing", "error"),
        ("Warning: deprecated", "warning"),
        ('{"@level":"error","@message":"x"}', "error"),
        ('{"@level":"warn","@message":"x"}', "warning"),
        ('{"@level":"info","@message":"Error: x"}', "info"),
        ("{ no json", "info"),
        ("[1]", "info"),
        ("terraform_data.a: Creating...", "info"),
    ],
)
def test_the_level_of_a_line_is_its_mark_or_how_it_begins(line: str, level: str) -> None:
    assert _level(line) == level
