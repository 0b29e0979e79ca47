"""Reading a state, version 4: what the service must know of each snapshot, and what people may see of one.

A state keeps every secret in clear. Nothing here gives a value away whose path is marked sensitive, whose name or type looks
secret, or that occurs under such a mark anywhere else in the same state. Marks are paths beside the values; one that cannot be
followed hides what it leads into.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from countersign.core.errors import FailedPrecondition, InvalidArgument, NotFound, ProviderError
from countersign.core.redaction import HIDDEN, LINE_SHORTEST, SHORTEST, Redactor, cut, looks_secret, strings_in
from countersign.core.terraform.document import Number, spelled

SERIAL_MAX = 2**31 - 1  # what every database keeps; one apply counts a handful
ITEMS = 100  # shown of a list or an object; the rest is counted
DEPTH = 20
NAMED = 5  # addresses in one sentence

# Resources that exist to hold a secret: `random_password`, `kubernetes_secret_v1`, `tls_private_key`, `local_sensitive_file`.
_SECRET_TYPE = re.compile(
    r"(?:^|_)(?:secrets?|password|passphrase|sensitive|credentials?|tokens?|(?:private|access|api|account)_key)(?:_|$)"
)
# What of those is still shown: names and places, so that one can be told from another.
_NAMES = frozenset({"name", "namespace", "project", "location", "region", "labels", "tags", "arn", "self_link"})

Path = tuple[str | int, ...]


@dataclass(frozen=True, kw_only=True)
class Header:
    """What makes a snapshot the successor of another."""

    lineage: str
    serial: int
    encrypted: bool = False  # OpenTofu's envelope: it has no version, and its resources cannot be read here


def header_of(data: bytes) -> Header:
    """Lineage and serial of a snapshot that may be stored. Raises InvalidArgument saying what is wrong with it."""
    return _header(_document(data))


def with_serial(data: bytes, serial: int) -> bytes:
    """The same state under another serial: a history goes on, and an old plan never fits again. Raises InvalidArgument."""
    document = _document(data)
    _header(document)
    return written(document | {"serial": Number(str(serial))}).encode()


def written(value: object) -> str:
    """JSON with its numbers as they were."""
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{json.dumps(key)}:{written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(written, value)) + "]"
    return json.dumps(value)


def _document(data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data, parse_int=Number, parse_float=Number)
    except (ValueError, RecursionError):
        raise InvalidArgument("a state is a JSON object, and this is none; it may have been cut short on its way") from None
    if not isinstance(document, dict):
        raise InvalidArgument("a state is a JSON object, and this is none")
    return document


def _header(document: Mapping[str, Any]) -> Header:
    version, lineage, serial = document.get("version"), document.get("lineage"), document.get("serial")
    encrypted = version is None and "encrypted_data" in document
    if not encrypted and version != Number("4"):
        raise InvalidArgument(
            f"the state has the version {_short(version)}, and only version 4 is stored here; use Terraform 0.12 or newer", field="version"
        )
    if not isinstance(lineage, str) or isinstance(lineage, Number) or not 0 < len(lineage) <= 80:
        raise InvalidArgument("the state has no lineage, so nobody can tell which history it continues", field="lineage")
    if not isinstance(serial, Number) or not serial.isdigit() or len(serial) > 10 or int(serial) > SERIAL_MAX:
        raise InvalidArgument(f"the serial of the state is {_short(serial)}, and not a whole number up to {SERIAL_MAX}", field="serial")
    return Header(lineage=lineage, serial=int(serial), encrypted=encrypted)


def _short(value: object) -> str:
    return "missing" if value is None else cut(str(value) if isinstance(value, Number) else json.dumps(value), 40)


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One object of a state as it lies there. Its values are in clear: show `StateDocument.resource` instead."""

    address: str
    type: str
    entry: Mapping[str, Any] = field(repr=False)  # the resource it belongs to
    own: Mapping[str, Any] = field(repr=False)
    attributes: Mapping[str, Any] = field(repr=False)
    hidden: frozenset[Path]  # where the sensitive marks lead

    @property
    def deposed(self) -> str | None:
        return self.own.get("deposed") or None


@dataclass(frozen=True, kw_only=True)
class StateDocument:
    """A whole state, to be asked for addresses and for one resource at a time."""

    header: Header
    engine_version: str
    instances: Sequence[Instance] = field(repr=False)
    redactor: Redactor = field(repr=False)  # knows what is secret anywhere in this state
    outputs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)  # in clear, as they lie there

    @property
    def addresses(self) -> list[str]:
        """Every object, as `terraform state list` writes it, in the order of the state; deposed ones say so."""
        return [self.redactor.line(f"{i.address} (deposed {i.deposed})" if i.deposed else i.address, limit=1000) for i in self.instances]

    def resource(self, address: str) -> dict[str, Any]:
        """One object, redacted and bounded. Raises NotFound naming instances that begin like `address`."""
        found = [i for i in self.instances if i.address == address]
        if not found:
            near = [i.address for i in self.instances if i.address.startswith((f"{address}[", f"{address}."))]
            shown = ", ".join(self.redactor.line(a) for a in near[:NAMED])
            offer = f"; there is {shown}" + (f" and {len(near) - NAMED} more" if len(near) > NAMED else "") if near else ""
            raise NotFound(f"no {self.redactor.line(address)} in this state{offer}", field="address")
        one = min(found, key=lambda i: i.deposed or "")
        line = self.redactor.line
        return {
            "address": line(one.address, limit=1000),
            "type": line(one.type),
            "provider": line(str(one.entry.get("provider", ""))),
            "tainted": one.own.get("status") == "tainted",
            "deposed": [i.deposed for i in found if i.deposed],
            "depends_on": [line(str(d)) for d in (one.own.get("dependencies") or ())[:ITEMS]],
            "attributes": self._attributes(one),
        }

    def _attributes(self, one: Instance) -> dict[str, Any]:
        vault = _SECRET_TYPE.search(one.type) is not None
        shown: dict[str, Any] = {}
        for name, value in sorted(one.attributes.items())[:ITEMS]:
            secret = vault and name not in _NAMES and not isinstance(value, Number | bool) and bool(value)
            shown[self.redactor.line(name)] = HIDDEN if secret else self._shown(value, (name,), one.hidden)
        if len(one.attributes) > ITEMS:
            shown["…"] = f"{len(one.attributes) - ITEMS} more attributes"
        return shown

    def _shown(self, value: Any, path: Path, hidden: frozenset[Path]) -> Any:
        if value is None:
            return None
        if path in hidden or () in hidden:
            return HIDDEN
        if isinstance(value, bool):
            return value
        if isinstance(path[-1], str) and looks_secret(path[-1]):
            return HIDDEN
        if isinstance(value, Number):
            shown = self.redactor.line(str(value))
            return int(value) if shown == str(value) and value.lstrip("-").isdigit() and len(value) < 16 else shown
        if isinstance(value, str):
            return self.redactor.line(value)
        if len(path) > DEPTH:
            return "(nested too deep to be shown)"
        if isinstance(value, Mapping):
            below = {self.redactor.line(k): self._shown(v, (*path, k), hidden) for k, v in sorted(value.items())[:ITEMS]}
            return {**below, "…": f"{len(value) - ITEMS} more"} if len(value) > ITEMS else below
        items = [self._shown(v, (*path, n), hidden) for n, v in enumerate(value[:ITEMS])]
        return [*items, f"… {len(value) - ITEMS} more"] if len(value) > ITEMS else items


def read(data: bytes) -> StateDocument:
    """A stored snapshot. Raises FailedPrecondition for an encrypted one, ProviderError for one nobody can read."""
    try:
        document = _document(data)
        header = _header(document)
    except InvalidArgument as broken:
        raise ProviderError(broken.message) from None
    if header.encrypted:
        raise FailedPrecondition(
            "this state is encrypted by OpenTofu, and its key is only in the configuration; read it with `tofu state show`"
        )
    outputs = document.get("outputs") or {}
    try:
        instances = tuple(_instances(document.get("resources") or ()))
        found = _secrets_of(instances, outputs)
    except (AttributeError, TypeError, KeyError, ValueError, RecursionError):
        raise ProviderError("the resources of this state are not written as version 4 has them; nothing of it is shown") from None
    return StateDocument(
        header=header,
        engine_version=str(document.get("terraform_version", "")),
        instances=instances,
        redactor=Redactor(found),
        outputs=dict(outputs),
    )


def _instances(resources: Iterable[Mapping[str, Any]]) -> Iterator[Instance]:
    for entry in resources:
        kind = str(entry.get("type", ""))
        parts = [entry.get("module"), "data" if entry.get("mode") == "data" else None, kind, entry.get("name")]
        address = ".".join(str(part) for part in parts if part)
        for own in entry.get("instances") or ():
            attributes = own.get("attributes") or own.get("attributes_flat") or {}
            yield Instance(
                address=address + _key(own.get("index_key")),
                type=kind,
                entry=entry,
                own=own,
                attributes=attributes,
                hidden=frozenset(_followed(attributes, mark) for mark in own.get("sensitive_attributes") or ()),
            )


def _key(key: object) -> str:
    if key is None:
        return ""
    return spelled((key,)) if isinstance(key, Number) else f"[{quoted(str(key))}]"


def quoted(text: str) -> str:
    """`text` as Terraform writes it in an address: quotes, template marks and what cannot be printed escaped."""
    short = {"\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"', "\\": "\\\\"}
    letters = []
    for at, letter in enumerate(text):
        if letter in short:
            letters.append(short[letter])
        elif letter in "$%" and text[at + 1 : at + 2] == "{":
            letters.append(letter * 2)
        elif letter.isprintable():
            letters.append(letter)
        else:
            letters.append(f"\\u{ord(letter):04x}" if ord(letter) < 0x10000 else f"\\U{ord(letter):08x}")
    return f'"{"".join(letters)}"'


def _followed(value: object, mark: Iterable[Mapping[str, Any]]) -> Path:
    """Where a mark leads, or the last place on its way that exists: a set's elements, for one, are found by nobody."""
    path: list[str | int] = []
    for step in mark:
        key = step.get("value")
        if isinstance(key, Mapping):
            key = key.get("value")
        if isinstance(value, Mapping) and str(key) in value:
            path.append(str(key))
            value = value[str(key)]
        elif isinstance(value, list) and isinstance(key, Number) and key.isdigit() and int(key) < len(value):
            path.append(int(key))
            value = value[int(key)]
        else:
            break
    return tuple(path)


def _secrets_of(instances: Iterable[Instance], outputs: Mapping[str, Any]) -> set[str]:
    found: set[str] = set()
    for instance in instances:
        for path in instance.hidden:
            value: Any = instance.attributes
            for key in path:
                value = value[key]
            found.update(text for text in strings_in(value) if len(text) >= SHORTEST)
        found.update(_named_secrets(instance.attributes))
    for name, output in outputs.items():
        if output.get("sensitive"):
            found.update(text for text in strings_in(output.get("value")) if len(text) >= SHORTEST)
        elif looks_secret(name):
            found.update(text for text in strings_in(output.get("value")) if len(text) >= LINE_SHORTEST)
    return found


def _named_secrets(value: object) -> Iterator[str]:
    """What stands below a name that looks secret, where it is long enough to be no common word."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            if looks_secret(str(name)):
                yield from (text for text in strings_in(item) if len(text) >= LINE_SHORTEST)
            else:
                yield from _named_secrets(item)
    elif isinstance(value, list):
        for item in value:
            yield from _named_secrets(item)
