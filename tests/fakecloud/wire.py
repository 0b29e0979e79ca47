"""The wire of Terraform's plugin protocol 6: the few messages the fake provider speaks, and values in msgpack.

Written out because the whole protocol is 22 messages too many: a table of fields and forty lines of protobuf.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import msgpack

# Message → {field: (number, kind)}; kind is a scalar or a message, "*" before it: repeated. A map is a repeated {key, value}.
_VALUE = {"msgpack": (1, "bytes"), "json": (2, "bytes")}
MESSAGES: Mapping[str, Mapping[str, tuple[int, str]]] = {
    "Value": _VALUE,
    "RawState": {"json": (1, "bytes")},
    "Step": {"attribute_name": (1, "str")},
    "Path": {"steps": (1, "*Step")},
    "Diagnostic": {"severity": (1, "int"), "summary": (2, "str"), "detail": (3, "str")},
    "Diagnostics": {"diagnostics": (1, "*Diagnostic")},
    "Diagnostics2": {"diagnostics": (2, "*Diagnostic")},
    "Attribute": {
        "name": (1, "str"), "type": (2, "bytes"), "required": (4, "bool"), "optional": (5, "bool"), "computed": (6, "bool"),
        "sensitive": (7, "bool"),
    },
    "Block": {"version": (1, "int"), "attributes": (2, "*Attribute")},
    "Schema": {"version": (1, "int"), "block": (2, "Block")},
    "SchemaEntry": {"key": (1, "str"), "value": (2, "Schema")},
    "Capabilities": {"plan_destroy": (1, "bool"), "get_provider_schema_optional": (2, "bool")},
    "Empty": {},
    "GetProviderSchema.Response": {
        "provider": (1, "Schema"), "resource_schemas": (2, "*SchemaEntry"), "data_source_schemas": (3, "*SchemaEntry"),
        "server_capabilities": (6, "Capabilities"),
    },
    "Config.Request": {"type_name": (1, "str"), "config": (2, "Value")},
    "UpgradeResourceState.Request": {"type_name": (1, "str"), "raw_state": (3, "RawState")},
    "UpgradeResourceState.Response": {"upgraded_state": (1, "Value"), "diagnostics": (2, "*Diagnostic")},
    "ReadResource.Request": {"type_name": (1, "str"), "current_state": (2, "Value")},
    "ReadResource.Response": {"new_state": (1, "Value"), "diagnostics": (2, "*Diagnostic")},
    "PlanResourceChange.Request": {
        "type_name": (1, "str"), "prior_state": (2, "Value"), "proposed_new_state": (3, "Value"), "config": (4, "Value"),
    },
    "PlanResourceChange.Response": {
        "planned_state": (1, "Value"), "requires_replace": (2, "*Path"), "diagnostics": (4, "*Diagnostic"),
    },
    "ApplyResourceChange.Request": {
        "type_name": (1, "str"), "prior_state": (2, "Value"), "planned_state": (3, "Value"), "config": (4, "Value"),
    },
    "ApplyResourceChange.Response": {"new_state": (1, "Value"), "diagnostics": (3, "*Diagnostic")},
    "ImportResourceState.Request": {"type_name": (1, "str"), "id": (2, "str")},
    "ImportedResource": {"type_name": (1, "str"), "state": (2, "Value")},
    "ImportResourceState.Response": {"imported_resources": (1, "*ImportedResource"), "diagnostics": (2, "*Diagnostic")},
    "ReadDataSource.Response": {"state": (1, "Value"), "diagnostics": (2, "*Diagnostic")},
}  # fmt: skip


def encode(message: str, values: Mapping[str, Any]) -> bytes:
    out = bytearray()
    for name, value in values.items():
        number, kind = MESSAGES[message][name]
        for item in value if kind.startswith("*") else (value,):
            out += _field(number, kind.lstrip("*"), item)
    return bytes(out)


def _field(number: int, kind: str, value: Any) -> bytes:
    if kind in ("int", "bool"):
        return _varint(number << 3) + _varint(int(value))
    data = value.encode() if kind == "str" else value if kind == "bytes" else encode(kind, value)
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode(message: str, data: bytes) -> dict[str, Any]:
    """The fields that the table names; all others are skipped."""
    known = {number: (name, kind) for name, (number, kind) in MESSAGES[message].items()}
    out: dict[str, Any] = {}
    for number, value in _fields(data):
        if number not in known:
            continue
        name, kind = known[number]
        bare = kind.lstrip("*")
        if isinstance(value, bytes) and bare != "bytes":
            value = value.decode() if bare == "str" else decode(bare, value)
        if kind.startswith("*"):
            out.setdefault(name, []).append(value)
        else:
            out[name] = value
    return out


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        key = varint()
        match key & 7:
            case 0:
                yield key >> 3, varint()
            case 2:
                size = varint()
                yield key >> 3, data[at : at + size]
                at += size
            case 1 | 5:
                at += 8 if key & 7 == 1 else 4
            case other:
                raise ValueError(f"no wire type {other}")


# Values


class Unknown:
    """A value that is known after apply."""

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN = Unknown()


def pack(value: Any) -> dict[str, bytes]:
    """A DynamicValue."""
    return {"msgpack": msgpack.packb(value, default=lambda _: msgpack.ExtType(0, b"\0"))}


def unpack(value: Mapping[str, bytes] | None) -> Any:
    if not value:
        return None
    if "json" in value:
        import json

        return json.loads(value["json"])
    return msgpack.unpackb(value["msgpack"], ext_hook=lambda code, data: UNKNOWN, strict_map_key=False)
