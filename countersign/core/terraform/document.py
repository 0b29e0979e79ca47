"""Reading `show -json`: exact numbers, marks beside values, and the attributes of one change before and after.

Terraform writes sensitive values in clear and says only beside them (`*_sensitive`, `after_unknown`) what they are, so
nothing else in this package looks at a value without its marks.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, NamedTuple

from countersign.core.errors import ProviderError
from countersign.core.redaction import SHORTEST, strings_in

DEPTH = 200  # of lists and objects in each other; what judges them calls itself that often
_TOO_DEEP = f"the plan holds values nested more than {DEPTH} deep, which nobody can review; make the configuration's values flatter"
_NODES = (dict, list)
_DECIMAL = re.compile(r"^(-?)(\d+)(?:\.(\d+))?(?:[eE]([+-]?\d+))?\Z")


class Number(str):
    """A number as it was written: 1e400 and thirty digits survive, and no float ever rounds one."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        """By value, and never equal to a text: 3 is 3.0, and not "3"."""
        return isinstance(other, Number) and (str.__eq__(self, other) or self.normal == other.normal)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self.normal)

    @property
    def normal(self) -> str:
        """Sign, digits without zeros at the ends, exponent: 3, 3.0 and 30e-1 are equal."""
        parts = _DECIMAL.match(self)
        if parts is None:
            return str(self)
        sign, whole, fraction, exponent = parts.group(1), parts.group(2), parts.group(3) or "", int(parts.group(4) or 0)
        digits = (whole + fraction).lstrip("0")
        power = exponent - len(fraction)
        bare = digits.rstrip("0")
        return f"{sign}{bare}e{power + len(digits) - len(bare)}" if bare else "0"


class Settled(dict[str, Any]):
    """A document that nobody changes any more: its changes are asked for many times, and made out once."""

    @cached_property
    def changes(self) -> tuple["ResourceChange", ...]:
        return tuple(_change(entry) for entry in self.get("resource_changes") or ())


def parse(data: bytes | str) -> dict[str, Any]:
    """The document of `show -json`. Raises ProviderError where it is none this version understands."""
    try:
        document = json.loads(data, parse_int=Number, parse_float=Number, parse_constant=_refused)
    except ValueError:
        raise ProviderError("the engine's plan document is no JSON; plan again, and report this if it stays") from None
    except RecursionError:
        raise ProviderError(_TOO_DEEP) from None
    if not isinstance(document, dict) or not str(document.get("format_version", "")).startswith("1."):
        raise ProviderError("the engine writes plans in a format this version does not know; use a supported engine version")
    level: list[Any] = [document]
    for _ in range(DEPTH):
        level = [item for node in level for item in (node.values() if type(node) is dict else node) if type(item) in _NODES]
    if level:
        raise ProviderError(_TOO_DEEP)
    return document


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


def refuse_unfinished(document: Mapping[str, Any], *, partial: bool) -> None:
    """Raise ProviderError for a plan that must not be compared or approved. `partial`: the caller asked for targets."""
    if document.get("errored"):
        raise ProviderError("the plan ended in errors, so it cannot be applied; correct the configuration and plan again")
    if document.get("deferred_changes") or document.get("deferred_action_invocations"):
        raise ProviderError("the plan defers changes to a later one, so it cannot be approved as a whole; plan without deferring")
    if document.get("complete") is False and not partial:
        raise ProviderError("the plan is incomplete (a target or an exclusion), so it cannot be approved; plan the whole stack")


def marked(marks: object) -> bool:
    """Whether anything in a tree of marks is true."""
    if marks is True or not marks:
        return marks is True
    if isinstance(marks, dict):
        return any(marked(m) for m in marks.values())
    return isinstance(marks, list) and any(marked(m) for m in marks)


def below(marks: object, key: str | int) -> object:
    """The marks of one child; a true mark covers everything below it."""
    if marks is True or not marks:
        return marks is True
    if isinstance(marks, dict):
        return marks.get(key, False)
    if isinstance(marks, list) and isinstance(key, int) and key < len(marks):
        return marks[key]
    return False


def pruned(marks: object) -> object:
    """What of a tree of marks is true: engines write false marks for one side of a change and leave them out for the other."""
    if isinstance(marks, _NODES):
        items = marks.items() if isinstance(marks, dict) else enumerate(marks)
        return {key: below for key, mark in items if (below := pruned(mark))}
    return marks is True


class Side(NamedTuple):
    """A value with its marks; `unknown` only ever is set on the side after."""

    value: Any = None
    unknown: Any = False
    sensitive: Any = False

    @property
    def absent(self) -> bool:
        return self.value is None and not (self.unknown and marked(self.unknown))

    def child(self, key: str | int) -> "Side":
        # Most sides have no mark at all, or are not there: a plan of a thousand changes has ten thousand of these.
        whole, unknown, sensitive = self
        value: Any = None
        if isinstance(whole, dict):
            value = whole.get(key)
        elif isinstance(whole, list) and isinstance(key, int) and key < len(whole):
            value = whole[key]
        elif not unknown and not sensitive:
            return NOTHING
        return Side(value, below(unknown, key) if unknown else False, below(sensitive, key) if sensitive else False)

    def children(self, keys: Iterable[str]) -> list["Side"]:
        """`child` of each: most objects have all their values on this side."""
        whole, unknown, sensitive = self
        if not isinstance(whole, dict):
            return [self.child(key) for key in keys]
        if not unknown and not sensitive:
            return [Side(whole.get(key)) for key in keys]
        marks = unknown if isinstance(unknown, dict) else {}
        if not sensitive and marks is unknown:
            return [Side(whole.get(key), marks.get(key, False)) for key in keys]
        return [self.child(key) for key in keys]

    def names(self) -> list[str]:
        return sorted(self.name_set())

    def name_set(self) -> set[str]:
        value, unknown, _ = self
        names: set[str] = set(value) if isinstance(value, dict) else set()  # keys of JSON are texts
        return names.union(unknown) if isinstance(unknown, dict) else names

    def length(self) -> int:
        value, unknown, _ = self
        return max(len(value) if isinstance(value, list) else 0, len(unknown) if isinstance(unknown, list) else 0)


NOTHING = Side()


def differ(before: Side, after: Side) -> bool:
    """Whether a change changes this value, or what is known or kept secret of it."""
    if before.value != after.value or (after.unknown and marked(after.unknown)):
        return True
    # An empty tree of marks says what no mark says.
    return bool(before.sensitive or after.sensitive) and (pruned(before.sensitive) or False) != (pruned(after.sensitive) or False)


class ResourceChange(NamedTuple):
    """One entry of `resource_changes`."""

    address: str
    previous_address: str | None
    mode: str
    type: str
    provider: str
    deposed: str | None
    actions: tuple[str, ...]
    before: Side
    after: Side
    replace_paths: tuple[str, ...]
    importing: Mapping[str, Any] | None
    generated_config: str | None
    identity: Mapping[str, Any] | None  # of the object before
    reason: str | None
    made_out: dict[str, Any]  # what was said of it already: action and classes are asked for six times each

    @property
    def moved(self) -> bool:
        return self.previous_address is not None and self.previous_address != self.address

    @property
    def bare_no_op(self) -> bool:
        return self.actions == ("no-op",) and not self.moved and self.importing is None

    def attributes(self) -> tuple[tuple[str, Side, Side], ...]:
        """Top-level attributes that the change is about: (name, before, after), by name.

        Of an update those that change; of everything else all there are before or after.
        """
        known: tuple[tuple[str, Side, Side], ...] | None = self.made_out.get("attributes")
        if known is None:
            known = self.made_out["attributes"] = self._attributes()
        return known

    def _attributes(self) -> tuple[tuple[str, Side, Side], ...]:
        counts = differ if self.actions == ("update",) else _there
        before, after = self.before, self.after
        if before == NOTHING and counts is _there:  # what is created has one side
            names = sorted(after.name_set())
            return tuple([(name, NOTHING, side) for name, side in zip(names, after.children(names), strict=True) if not side.absent])
        names = sorted(before.name_set() | after.name_set())
        sides = zip(names, before.children(names), after.children(names), strict=True)
        return tuple([told for told in sides if counts(told[1], told[2])])

    def changing(self) -> tuple[tuple[str, Side, Side], ...]:
        """Those of `attributes` that are not the same afterwards: what a reviewer looks for in a replacement or a move."""
        if self.actions == ("update",) or self.before == NOTHING:  # whatever is there was not there before
            return self.attributes()
        known: tuple[tuple[str, Side, Side], ...] | None = self.made_out.get("changing")
        if known is None:
            known = self.made_out["changing"] = tuple([told for told in self.attributes() if differ(told[1], told[2])])
        return known


def _there(before: Side, after: Side) -> bool:
    return not (before.absent and after.absent)


def changes(document: Mapping[str, Any]) -> tuple[ResourceChange, ...]:
    """Every entry of `resource_changes`, no-ops included, as the engine ordered them."""
    return (document if isinstance(document, Settled) else Settled(document)).changes


def _change(entry: Mapping[str, Any]) -> ResourceChange:
    change = entry.get("change") or {}
    get = change.get
    return ResourceChange(
        str(entry.get("address", "")),
        entry.get("previous_address"),
        str(entry.get("mode", "managed")),
        str(entry.get("type", "")),
        str(entry.get("provider_name", "")),
        entry.get("deposed"),
        tuple(map(str, get("actions") or ())),
        Side(get("before"), False, get("before_sensitive", False)),
        Side(get("after"), get("after_unknown", False), get("after_sensitive", False)),
        tuple(sorted(map(spelled, paths))) if (paths := get("replace_paths")) else (),
        get("importing"),
        get("generated_config"),
        get("before_identity"),
        entry.get("action_reason"),
        {},
    )


def outputs(document: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, ...], Side, Side]]:
    """Changed outputs: (name, actions, before, after), by name."""
    for name, change in sorted((document.get("output_changes") or {}).items()):
        actions = tuple(str(a) for a in change.get("actions") or ())
        if actions == ("no-op",):
            continue
        before = Side(value=change.get("before"), sensitive=change.get("before_sensitive", False))
        after = Side(value=change.get("after"), unknown=change.get("after_unknown", False), sensitive=change.get("after_sensitive", False))
        yield name, actions, before, after


def spelled(path: Iterable[str | int]) -> str:
    """A path of the plan as people write it: `rule[0].port`."""
    text = ""
    for part in path:
        if isinstance(part, Number | int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else str(part)
    return text


def secrets_of(document: Mapping[str, Any]) -> set[str]:
    """Every text of at least SHORTEST characters that stands under a sensitive mark or in a variable declared sensitive."""
    found: set[str] = set()
    for change in (*changes(document), *map(_change, document.get("resource_drift") or ())):
        _collect(change.before.value, change.before.sensitive, found)
        _collect(change.after.value, change.after.sensitive, found)
    for output in (document.get("output_changes") or {}).values():
        _collect(output.get("before"), output.get("before_sensitive"), found)
        _collect(output.get("after"), output.get("after_sensitive"), found)
    for invocation in document.get("action_invocations") or ():
        _collect(invocation.get("config_values"), invocation.get("config_sensitive"), found)
    prior = (document.get("prior_state") or {}).get("values") or {}
    for values in (document.get("planned_values") or {}, prior):
        for output in (values.get("outputs") or {}).values():
            _collect(output.get("value"), output.get("sensitive"), found)
        _collect_module(values.get("root_module") or {}, found)
    declared = ((document.get("configuration") or {}).get("root_module") or {}).get("variables") or {}
    for name, variable in (document.get("variables") or {}).items():
        _collect(variable.get("value"), bool((declared.get(name) or {}).get("sensitive")), found)
    return found


def _collect_module(module: Mapping[str, Any], found: set[str]) -> None:
    for resource in module.get("resources") or ():
        _collect(resource.get("values"), resource.get("sensitive_values"), found)
    for child in module.get("child_modules") or ():
        _collect_module(child, found)


def _collect(value: object, marks: object, found: set[str]) -> None:
    if marks is True:
        # A Number of six digits is a secret too where it is marked: account numbers, codes.
        found.update(text for text in strings_in(value) if len(text) >= SHORTEST)
    elif isinstance(marks, dict) and isinstance(value, dict):
        for key, mark in marks.items():
            _collect(value.get(key), mark, found)
    elif isinstance(marks, list) and isinstance(value, list):
        for item, mark in zip(value, marks, strict=False):
            _collect(item, mark, found)
