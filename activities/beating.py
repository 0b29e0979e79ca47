"""Heartbeats and cancellation, the same for every step that takes longer than a breath.

Temporal tells a step of a cancel only as the answer to a heartbeat, and several very different things arrive as one: a person
cancels, the worker shuts down, the workflow is reset or gone. Only the first means that the tool must be interrupted.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from typing import TypeVar

from temporalio import activity

T = TypeVar("T")

BEAT_EVERY = 1.0  # seconds; the timeout is 5, and a cancel should arrive within one
_TOLD: ContextVar[list[str]] = ContextVar("told")  # by the heartbeats of this step


@contextlib.asynccontextmanager
async def heartbeating() -> AsyncIterator[None]:
    """Beat for as long as the block runs, whatever it waits for."""
    told: list[str] = []
    _TOLD.set(told)

    async def beat() -> None:
        while True:
            await asyncio.sleep(BEAT_EVERY)  # that it began, the server knows
            activity.heartbeat(*told)

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def tell(progress: str) -> None:
    """Let the heartbeats say this from now on: it is what the Temporal UI shows of a step under way."""
    _TOLD.get()[:] = [progress]


def asked_to_cancel() -> bool:
    """Whether the cancellation that just arrived is somebody's wish, and not the end of this worker or workflow run."""
    details = activity.cancellation_details()
    return details is not None and details.cancel_requested


async def until_done(work: Awaitable[T], *, on_cancel: Callable[[], Awaitable[None]]) -> T:
    """Wait for `work`. A wish to cancel is passed to `on_cancel`, once, and the waiting goes on: the work tells its own end.

    Anything else that ends this step leaves the work's tool running and raises CancelledError.
    """
    task = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(activity.wait_for_worker_shutdown())
    asked = False
    try:
        while True:
            try:
                if asked:  # whoever was told of a cancel is not told that the worker shuts down
                    await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
                    if not task.done():
                        raise asyncio.CancelledError
                return await asyncio.shield(task)
            except asyncio.CancelledError:
                if task.done() and not task.cancelled():
                    return task.result()
                if not asked and not task.cancelled() and asked_to_cancel():
                    asked = True  # a second cancellation is another thing
                    await on_cancel()
                    continue
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
                raise
    finally:
        leaving.cancel()
