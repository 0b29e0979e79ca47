"""Versions of engines that stacks ask for."""

import pytest

from countersign.core.errors import InvalidArgument
from countersign.core.terraform.versions import allowed, asked, best
from tests.requirements import requirement


@requirement("engine:version")
@pytest.mark.parametrize(
    ("text", "yes", "no"),
    [
        ("1.11.4", ["1.11.4"], ["1.11.5", "1.11.4-beta1", "unknown"]),
        ("= 1.11.4", ["1.11.4"], ["1.11.3"]),
        ("~> 1.11", ["1.11.0", "1.15.5"], ["1.10.9", "2.0.0"]),
        ("~> 1.11.2", ["1.11.2", "1.11.9"], ["1.11.1", "1.12.0"]),
        ("~>1", ["1.0.0", "1.99.0"], ["2.0.0", "0.15.5"]),
        (">= 1.9, < 2", ["1.9.0", "1.15.5"], ["1.8.5", "2.0.0"]),
        ("> 1.9, <= 1.11, != 1.10.0", ["1.9.1", "1.11.0"], ["1.9.0", "1.11.1", "1.10.0"]),
        ("1.12.0-beta1", ["1.12.0-beta1"], ["1.12.0", "1.12.0-beta2"]),
        (">= 1.11", ["1.12.0"], ["1.12.0-beta1"]),
        ("!= 1.12.0-beta1", [], ["1.12.0-beta1"]),
    ],
)
def test_a_version_fits_as_the_engines_read_it(text: str, yes: list[str], no: list[str]) -> None:
    assert [version for version in (*yes, *no) if allowed(text, version)] == yes


@requirement("engine:version")
@pytest.mark.parametrize("text", ["", "latest", "1.11.4.2", "=> 1.11", "~> 1.x", "1.11,", "1.11 1.12"])
def test_what_is_no_version_is_refused_in_words(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"write it like 1.11.4, ~> 1.11 or >= 1.9, < 2"):
        asked(text)


def test_the_newest_that_fits_is_taken() -> None:
    assert best("~> 1.9", ["1.9.8", "1.11.4", "2.0.0", "1.10.0", "no version"]) == "1.11.4"
    assert best("~> 3.0", ["1.9.8"]) is None
