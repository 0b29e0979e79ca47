"""`countersign up`: start everything, say where it is, stay until told to end."""

import asyncio
from functools import cache
from typing import TYPE_CHECKING

from countersign.adapters.process import Zygote
from countersign.adapters.settings import Settings
from countersign.cli.exits import Exit
from countersign.cli.service import Service, running, running_applies, signals

if TYPE_CHECKING:
    from countersign.cli.board import Board


@cache
def _board(*, as_json: bool) -> "Board":
    from countersign.cli.board import Board  # what draws is loaded while the parts start, not before

    return Board(as_json=as_json)


async def up(settings: Settings, *, as_json: bool, zygote: Zygote | None = None) -> Exit:
    with signals() as (stop, hurry):
        async with running(
            settings,
            tell=lambda event: _board(as_json=as_json).told(event),
            leaving=lambda runs: _board(as_json=as_json).leaving(runs),
            stop=stop,
            hurry=hurry,
            zygote=zygote,
        ) as service:
            board = _board(as_json=as_json)
            await _first(stop, board, service)
            board.ending()
        board.ended(running_applies(settings.data))
    return Exit.OK


async def _first(stop: asyncio.Event, board: "Board", service: Service) -> None:
    """Tell when it is ready, and return when it is to end."""
    ready, stopped = asyncio.ensure_future(service.ready()), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({ready, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            board.ready(service, ready.result())
        await stopped
    finally:
        ready.cancel()
        stopped.cancel()
