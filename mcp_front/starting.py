"""What every tool that starts or continues a run shares: how it answers, at once or after a short wait."""

from typing import Annotated

from pydantic import Field

from countersign.adapters.store.runs import RunRow
from countersign.core.run import ENDS
from mcp_front import shown
from mcp_front.call import Call
from mcp_front.envelope import Answer
from mcp_front.gateway import WAITS

RunId = Annotated[str, Field(pattern=r"^run_[0-9a-z]{26}$")]
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]


SETTLED = ENDS | WAITS


def settled(run: RunRow) -> bool:
    """What `wait_seconds` waits for: it ended, or waits for a person."""
    return run.state in SETTLED


async def started(call: Call, run: RunRow, *, replayed: bool = False, warnings: tuple[str, ...] = ()) -> Answer:
    """The answer of every `*` tool: at once, or after at most `wait_seconds`."""
    if call.given.wait_seconds:
        run = await call.front.gateway.wait(call.org, run.id, settled, seconds=call.given.wait_seconds, states=SETTLED)
    return await shown.answer(call, run, replayed=replayed, warnings=warnings, fresh=bool(call.given.wait_seconds))
