"""Whether what is, or is planned now, agrees with what was approved: everything known then is equal, and nothing was added.

What was unknown at approval is settled at apply; the approver was told so. A mark of sensitivity may not get lost.
"""

from collections.abc import Mapping

from countersign.core.terraform.document import Side, marked
from countersign.core.terraform.semantic import tagged


def agrees(approved: Side, now: Side) -> bool:
    if marked(approved.sensitive) and not marked(now.sensitive):
        return False
    if approved.unknown is True:
        return True
    if now.unknown is True:
        return False
    if approved.absent or now.absent:
        return approved.absent and now.absent
    kind = _kind(approved)
    if kind != _kind(now):
        return False
    if kind == "map":
        return not differing(approved, now)
    if kind == "list":
        length = approved.length()
        return length == now.length() and all(agrees(approved.child(i), now.child(i)) for i in range(length))
    return same_value(approved.value, now.value)


def differing(approved: Side, now: Side) -> list[str]:
    """Names below which the two do not agree."""
    names = sorted({*approved.names(), *now.names()})
    return [name for name in names if not agrees(approved.child(name), now.child(name))]


def same_value(one: object, other: object) -> bool:
    return tagged(one) == tagged(other)


def _kind(side: Side) -> str:
    shape = side.unknown if side.value is None else side.value
    return "map" if isinstance(shape, Mapping) else "list" if isinstance(shape, list) else "leaf"
