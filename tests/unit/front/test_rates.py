"""How much one principal may ask, and how deep a document may be."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_front import rates
from mcp_front.door import deeper
from mcp_front.rates import AtOnce, Rates
from tests.requirements import requirement


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@requirement("door:bounds")
def test_a_minute_of_requests_may_come_at_once_and_then_they_come_at_their_rate() -> None:
    clock = Clock()
    limited = Rates(60, clock=clock)

    assert [limited.wait("ana") for _ in range(60)] == [0.0] * 60
    assert limited.wait("ana") == pytest.approx(1.0)
    assert limited.wait("bo") == 0.0
    clock.now = 0.5
    assert limited.wait("ana") == pytest.approx(0.5)
    clock.now = 1.0
    assert limited.wait("ana") == 0.0
    assert limited.wait("ana") == pytest.approx(1.0)


def test_what_weighs_more_takes_more_and_nothing_is_too_heavy_for_ever() -> None:
    clock = Clock()
    limited = Rates(6, clock=clock)

    assert limited.wait("ana", 4.0) == 0.0
    assert limited.wait("ana", 100.0) == pytest.approx(40.0)
    clock.now = 40.0
    assert limited.wait("ana", 100.0) == 0.0


def test_who_has_not_come_for_long_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "MOST", 3)
    clock = Clock()
    limited = Rates(60, clock=clock)
    for who in ("a", "b", "c"):
        limited.wait(who, 30.0)
    clock.now = 15.0
    limited.wait("c", 30.0)
    clock.now = 31.0

    limited.wait("d")

    assert set(limited._buckets) == {"c", "d"}


def test_places_are_given_back_however_a_request_ends() -> None:
    at_once = AtOnce(1)

    with pytest.raises(ZeroDivisionError), at_once.one("ana") as first:
        assert first
        with at_once.one("ana") as second, at_once.one("bo") as other:
            assert (second, other) == (False, True)
        raise ZeroDivisionError
    with at_once.one("ana") as again:
        assert again
    assert at_once._open == {}


def depth_of(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth_of, inner), default=0)


DOCUMENTS = st.recursive(
    st.text() | st.integers() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=40
)


@requirement("door:bounds")
@given(DOCUMENTS, st.integers(min_value=0, max_value=6))
def test_depth_is_counted_as_json_nests_whatever_its_texts_hold(document: Any, allowed: int) -> None:
    for text in (json.dumps(document), json.dumps(document, ensure_ascii=False)):
        assert deeper(text.encode(errors="surrogatepass"), allowed) is (depth_of(document) > allowed)
