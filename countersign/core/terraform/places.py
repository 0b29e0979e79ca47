"""What the state has at each address, as far as it matters after a lost apply: which objects, in use or deposed."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from countersign.core.terraform.state import StateDocument


@dataclass(frozen=True, kw_only=True)
class Place:
    """One address. As long as the state has anything there, the engine passes over an import to it."""

    at: str | None = None  # where it lies; None: there is nothing
    current: bool = False  # there is an object in use, not only deposed ones
    id: str | None = None  # of the object in use
    tainted: bool = False
    deposed: frozenset[str] = frozenset()  # ids; "" for what has none


def places_in(state: StateDocument | None) -> dict[str, Place]:
    found: dict[str, Place] = {}
    for instance in state.instances if state else ():
        place = found.get(instance.address, Place(at=instance.address))
        id = id_in(instance.attributes)
        if instance.deposed is not None:
            place = dataclasses.replace(place, deposed=place.deposed | {id or ""})
        else:
            place = dataclasses.replace(place, current=True, id=id, tainted=instance.own.get("status") == "tainted")
        found[instance.address] = place
    return found


def id_in(value: object) -> str | None:
    """The id among an object's attributes."""
    id = value.get("id") if isinstance(value, Mapping) else None
    return None if id is None else str(id)
