"""Outputs of other stacks, as a stack that reads them gets them: in two variables, one of which is sensitive.

`var.reads` is an object of objects: `var.reads.network.subnet_id`, keyed by the slug of the stack, or by `env/slug` where it is of
another environment. What the other stack calls sensitive comes in `var.reads_sensitive` alone, of the same shape, and only where the
configuration declares that variable, as sensitive. Values as they are go into the frozen inputs of a plan, so whoever agrees to it
agrees to them.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from countersign.core.engine import Read
from countersign.core.errors import FailedPrecondition, InvalidArgument

PLAIN, SENSITIVE = "reads", "reads_sensitive"


def outputs_of(state: bytes, path: str) -> dict[str, Mapping[str, Any]]:
    """Name → {value, sensitive} of the outputs in a state. Raises FailedPrecondition where they cannot be read."""
    document = json.loads(state)
    if "encrypted_data" in document:
        raise FailedPrecondition(f"the state of {path} is encrypted by its engine, so its outputs cannot be read for another stack")
    outputs = document.get("outputs") or {}
    return {name: {"value": one.get("value"), "sensitive": bool(one.get("sensitive"))} for name, one in outputs.items()}


def variables_of(
    reads: Sequence[Read], *, env: str, given: Collection[str], declared: Collection[str], sensitive: Collection[str]
) -> dict[str, object]:
    """Values of the two variables. Raises InvalidArgument saying what the configuration has to declare."""
    if not reads:
        return {}
    for name in (PLAIN, SENSITIVE):
        if name in given:
            raise InvalidArgument(f"the variable {name} has the outputs of other stacks in it, so nobody can set it", field=f"vars.{name}")
    if PLAIN not in declared:
        named = ", ".join(read.path for read in reads)
        raise InvalidArgument(
            f'the workspace reads the outputs of {named}, and its configuration does not declare variable "{PLAIN}" (with type = any)',
            field="reads",
        )
    values: dict[str, object] = {PLAIN: {_key(read, env): _some(read, sensitive=False) for read in reads}}
    if SENSITIVE in declared:
        if SENSITIVE not in sensitive:
            why = f'variable "{SENSITIVE}" gets sensitive outputs of other stacks; declare it with sensitive = true'
            raise InvalidArgument(why, field="reads")
        values[SENSITIVE] = {_key(read, env): _some(read, sensitive=True) for read in reads}
    return values


def _key(read: Read, env: str) -> str:
    of, _, slug = read.path.rpartition("/")
    return slug if of == env else f"{of.partition('/')[2]}/{slug}"


def _some(read: Read, *, sensitive: bool) -> dict[str, object]:
    return {name: output["value"] for name, output in read.outputs.items() if output["sensitive"] is sensitive}
