"""Asking twice is asking once, for tools that start no run: the answer is kept under the caller's key.

What these tools do is safe to repeat (a merge, a removal, a signal), so the receipt is written after it: a crash in between
means that it is done again, and never that something is answered that was not done.
"""

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, select

from countersign.adapters.store.database import stamp
from countersign.adapters.store.requests import RECEIPTS_LIVE, fingerprints, receipt
from countersign.adapters.store.schema import receipts
from mcp_front.call import Call
from mcp_front.envelope import Answer


async def replayed(call: Call, arguments: Mapping[str, Any]) -> Answer | None:
    """The answer of an earlier call with the same key. Raises IdempotencyMismatch naming the arguments that differ."""
    key = call.given.idempotency_key
    if key is None or call.given.dry_run:
        return None
    mine = {"org": call.org, "principal": call.caller.principal.id, "tool": call.tool.name, "key": key}
    async with call.front.store.read() as conn:
        await receipt(conn, **mine, arguments=arguments)  # refuses a key that was used for something else
        kept = (await conn.execute(select(receipts.c.result).where(_mine(call, key)))).first()
    return Answer.model_validate_json(kept.result).model_copy(update={"replayed": True}) if kept else None


async def kept(call: Call, arguments: Mapping[str, Any], answer: Answer) -> Answer:
    """The answer, kept for a later call with the same key."""
    key = call.given.idempotency_key
    if key is None or call.given.dry_run:
        return answer
    store = call.front.store
    async with store.begin() as tx:
        if (await tx.execute(select(receipts.c.key).where(_mine(call, key)))).first() is None:
            now = store.now()
            row = {
                "org_id": call.org,
                "principal": call.caller.principal.id,
                "tool": call.tool.name,
                "key": key,
                "arguments": json.dumps(fingerprints(arguments)),
                "result": answer.model_dump_json(),
                "created_at": stamp(now),
                "expires_at": stamp(now + RECEIPTS_LIVE),
            }
            await tx.execute(receipts.insert().values(**row))
    return answer


def _mine(call: Call, key: str) -> ColumnElement[bool]:
    return (
        (receipts.c.org_id == call.org)
        & (receipts.c.principal == call.caller.principal.id)
        & (receipts.c.tool == call.tool.name)
        & (receipts.c.key == key)
    )
