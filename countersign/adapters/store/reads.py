"""Outputs of other stacks: read for a plan, and compared with what a plan was made with."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from countersign.adapters.artifacts import Artifacts
from countersign.adapters.store import records, state
from countersign.adapters.store.records import StackRow
from countersign.core.engine import Read, StackConfig
from countersign.core.errors import FailedPrecondition, NotFound, NotYet
from countersign.core.terraform.reads import outputs_of

EARLIER = 20  # states that are looked through for the last outputs of a stack that was destroyed


async def reads_of(conn: AsyncConnection, artifacts: Artifacts, stack: StackConfig, *, destroying: bool) -> tuple[Read, ...]:
    """What the stack reads, as it is now. Raises FailedPrecondition where one of them has no state yet.

    What destroys is planned with what there was last: the other stack may be gone before.
    """
    found: list[Read] = []
    for ref in stack.reads:
        try:
            other = await records.get_stack(conn, stack.org, ref)
        except NotFound:
            raise FailedPrecondition(
                f"{stack.path} reads the outputs of {ref}, which is not registered any more; change its reads",
                field="reads",
                next=["terraform_register_workspace"],
            ) from None
        if other.config.released and not destroying:
            raise FailedPrecondition(f"{stack.path} reads the outputs of {other.path}: {records.why_released(other.config)}", field="reads")
        snapshot = await state.snapshot(conn, stack.org, other.id)
        if snapshot is None and not destroying:
            raise NotYet(
                f"{stack.path} reads the outputs of {other.path}, which has no state yet; apply {other.path} first",
                field="reads",
                next=["apply_terraform"],
                details={"needs": other.id},
            )
        outputs = await _outputs(conn, artifacts, other, earlier=destroying)
        at = (snapshot.lineage, snapshot.serial) if snapshot is not None else (None, 0)
        found.append(Read(stack_id=other.id, path=other.path, lineage=at[0], serial=at[1], outputs=outputs))
    return tuple(found)


async def _outputs(conn: AsyncConnection, artifacts: Artifacts, stack: StackRow, *, earlier: bool) -> dict[str, Mapping[str, Any]]:
    """Of the newest state, or with `earlier` of the newest one that had any."""
    for snapshot in await state.snapshots(conn, stack.org, stack.id, limit=EARLIER if earlier else 1):
        data = await artifacts.read(conn, org=stack.org, artifact_id=snapshot.artifact_id)
        if (outputs := outputs_of(data, stack.path)) or not earlier:
            return outputs
    return {}


async def moved(conn: AsyncConnection, org: str, inputs: Mapping[str, Any]) -> Sequence[str]:
    """Of the stacks a plan has read, those whose state is another one now, each in a sentence."""
    found = []
    for read in inputs.get("reads") or ():
        head = await state.head(conn, org, read["stack_id"])
        if (head.lineage, head.serial) != (read["lineage"], read["serial"]):
            found.append(f"{read['stack']} moved from serial {read['serial']} to {head.serial}")
    return found
