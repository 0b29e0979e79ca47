"""`countersign migrate`: the schema of the store, brought up to date by itself, before the parts that need it are rolled out."""

from countersign.adapters.settings import Settings
from countersign.adapters.store.database import SCHEMA_HEAD
from countersign.cli.exits import Exit
from countersign.cli.output import console, emit, safe
from countersign.cli.store import opened


async def migrate(settings: Settings, *, as_json: bool) -> Exit:
    """Bring the schema up to date, alone. What a newer version wrote is refused and left alone."""
    async with opened(settings) as store:
        place = store.shown
    if as_json:
        emit({"database": place, "schema": SCHEMA_HEAD})
    else:
        console().print(safe(f"{place} has schema {SCHEMA_HEAD}"))
    return Exit.OK
