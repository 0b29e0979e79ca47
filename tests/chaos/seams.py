"""Gates in our own processes: the product's own calls, each asking the fake cloud before and after whether it is to be held.

Nothing else is changed: where no hook is set a gate is one request on the loopback. A gate that is held is a process that has
done all that comes before it, committed and synced, and nothing of what comes after.
"""

import asyncio
import contextlib
import importlib
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import wraps
from typing import Any

from tests.fakecloud.calls import CloudError, Connection

# Threads of their own: those of the event loop do the product's work meanwhile.
_HELD = ThreadPoolExecutor(128, thread_name_prefix="gate")


@dataclass(frozen=True, kw_only=True)
class Seam:
    """One function of the product, by where it is looked up when it is called."""

    module: str
    path: str  # "function" or "Class.method"
    op: str | Callable[..., str]
    of: Callable[..., str]  # its arguments → the run, or the stack where there is no run yet
    first: Callable[..., Awaitable[Any]] | None = None  # what has to be done before it may be held


async def _body_first(*args: Any) -> None:
    """A request whose sender is gone is read no more; one that was read is done."""
    await args[-1].body()


def _credentials(wish: str) -> Callable[..., str]:
    return lambda _, credential, *__: f"{wish}.{credential.mode}"


def _run_of_credential(_: Any, credential: Any, *__: Any) -> str:
    return str(credential.run_id)


def _state(method: str, wish: str) -> Seam:
    return Seam(
        module="countersign.state_api.app",
        path=f"StateService.{method}",
        op=_credentials(wish),
        of=_run_of_credential,
        first=_body_first,
    )


def _worker(module: str, path: str, op: str, of: Callable[..., str]) -> Seam:
    return Seam(module=module, path=path, op=op, of=of)


SEAMS: dict[str, tuple[Seam, ...]] = {
    "front": (
        Seam(module="mcp_front.gateway", path="request_run", op="ask", of=lambda _, asking, **__: asking.stack.path),
        Seam(module="mcp_front.gateway", path="Gateway.ensure_started", op="start", of=lambda _, run, **__: run.id),
        Seam(module="mcp_front.gateway", path="Gateway.approve", op="approve", of=lambda _, __, run, **___: run.id),
    ),
    "worker": (
        _worker("activities.planning", "Planning.plan", "plan", lambda _, ref, *__: ref.run_id),
        _worker("activities.planning", "Planning._begun", "turn", lambda _, ref, *__: ref.run_id),
        _worker("activities.planning", "Planning._record_plan", "record", lambda _, run, *__: run.id),
        _worker("activities.ledger", "decide", "decide", lambda _, asked, **__: asked.run_id),
        _worker("countersign.adapters.store.claim", "claim", "claim", lambda *_, run_id, **__: run_id),
        _worker("activities.applying", "Applying._launch", "launch", lambda _, run, *__: run.id),
        _worker("activities.applying", "Applying._record_outcome", "outcome", lambda _, run, *__: run.id),
        _worker("activities.reconciling", "Reconciling._remains", "remains", lambda _, run, *__: run.id),
        _worker("activities.reconciling", "Reconciling._job", "job", lambda _, run, *__: run.id),
        _worker("activities.reconciling", "Reconciling._concluded", "conclude", lambda _, run, *__: run.id),
    ),
    "state": (_state("_lock", "lock"), _state("_write", "write"), _state("_unlock", "unlock")),
}


def install(part: str, address: str) -> None:
    """Put the gates into this process. A function that is not where it was is an error: no boundary is left out in silence."""
    gates = Connection(address=address, marker=part)
    for seam in SEAMS[part]:
        owner: Any = importlib.import_module(seam.module)
        *outer, name = seam.path.split(".")
        for one in outer:
            owner = getattr(owner, one)
        setattr(owner, name, _gated(getattr(owner, name), seam, gates))


def _gated(call: Callable[..., Awaitable[Any]], seam: Seam, gates: Connection) -> Callable[..., Awaitable[Any]]:
    @wraps(call)
    async def gated(*args: Any, **kwargs: Any) -> Any:
        op = seam.op if isinstance(seam.op, str) else seam.op(*args, **kwargs)
        name = seam.of(*args, **kwargs)
        if seam.first is not None:
            await seam.first(*args, **kwargs)
        await _pass(gates, op, "before", name)
        result = await call(*args, **kwargs)
        await _pass(gates, op, "after", name)
        return result

    return gated


async def _pass(gates: Connection, op: str, when: str, name: str) -> None:
    with contextlib.suppress(CloudError):  # the cloud ends first
        asked = {"op": op, "when": when, "name": name}
        await asyncio.get_running_loop().run_in_executor(_HELD, gates.call, "POST", "/gates", asked)
