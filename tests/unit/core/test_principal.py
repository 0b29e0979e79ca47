"""Who asks, and which person stands behind."""

import pytest
from pydantic import ValidationError

from countersign.core.principal import SYSTEM, UNNAMED_PERSON, Kind, Principal
from tests.requirements import requirement


@requirement("I7")
@pytest.mark.parametrize(
    ("principal", "person"),
    [
        (Principal(id="person:ana", kind=Kind.PERSON), "person:ana"),
        (Principal(id="person:ana", kind=Kind.PERSON, acts_for="person:bo"), "person:ana"),
        (Principal(id="agent:claude", kind=Kind.AGENT, acts_for="person:ana"), "person:ana"),
        (Principal(id="agent:claude", kind=Kind.AGENT), None),
        (Principal(id="machine:ci", kind=Kind.MACHINE, acts_for="person:ana"), "person:ana"),
        (Principal(id="machine:ci", kind=Kind.MACHINE), None),
        (UNNAMED_PERSON, "person:temporal-ui"),
        (SYSTEM, None),
    ],
)
def test_the_person_behind_a_principal(principal: Principal, person: str | None) -> None:
    assert principal.person == person


def test_a_principal_cannot_be_edited_afterwards() -> None:
    with pytest.raises(ValidationError):
        SYSTEM.kind = Kind.PERSON  # type: ignore[misc]


def test_the_service_itself_is_no_person() -> None:
    assert SYSTEM.kind is Kind.MACHINE
