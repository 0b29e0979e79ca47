"""The types of the fake provider, as data: what may be changed in place, what replaces, what is secret or only known later."""

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Attribute:
    type: Any = "string"
    required: bool = False
    optional: bool = False
    computed: bool = False
    sensitive: bool = False
    replaces: bool = False  # a change of it needs another object
    changes_always: bool = False  # computed, and another after every update

    def message(self, name: str) -> dict[str, Any]:
        flags = {flag: True for flag in ("required", "optional", "computed", "sensitive") if getattr(self, flag)}
        return {"name": name, "type": json.dumps(self.type).encode(), **flags}


@dataclass(frozen=True, kw_only=True)
class Type:
    attributes: dict[str, Attribute] = field(default_factory=dict)

    def message(self) -> dict[str, Any]:
        return {"version": 0, "block": {"attributes": [a.message(n) for n, a in sorted(self.attributes.items())]}}


_THING = {
    "name": Attribute(required=True, replaces=True),
    "project": Attribute(optional=True, computed=True, replaces=True),  # the provider's, unless it says otherwise
    "size": Attribute(type="number", optional=True),
    "kind": Attribute(optional=True, replaces=True),
    "secret": Attribute(optional=True, sensitive=True),
    "labels": Attribute(type=["map", "string"], optional=True),
    "id": Attribute(computed=True),
    "etag": Attribute(computed=True, changes_always=True),
}
PROVIDER = Type(attributes={"address": Attribute(optional=True), "project": Attribute(optional=True)})
RESOURCES = {
    "fake_thing": Type(attributes=_THING),
    "fake_database": Type(attributes=_THING),  # holds data, by its name
    "fake_server": Type(attributes={**_THING, "created_at": Attribute(computed=True)}),  # tells when it was made, so it can be looked up
    "fake_slow": Type(attributes={**_THING, "delay": Attribute(type="number", optional=True)}),  # seconds its creation takes
}
DATA = {
    "fake_lookup": Type(
        attributes={
            "type": Attribute(required=True),
            "name": Attribute(required=True),
            "project": Attribute(optional=True, computed=True),
            "id": Attribute(computed=True),  # null where there is none, or more than one
            "found": Attribute(type="number", computed=True),
        }
    )
}
