"""What `countersign doctor` finds of a database and a bucket that are not in the data folder: both are tried, as the service would."""

import asyncio
import os
import secrets as random

from countersign.adapters.objects import TROUBLE, Bucket
from countersign.adapters.settings import Settings
from countersign.cli.findings import Finding, missing, note, ok
from countersign.cli.schema import versions
from countersign.core.errors import CountersignError

WITHIN = 20.0  # seconds for all that is tried of one of them


async def database(settings: Settings) -> Finding:
    """The server answers, keeps what it was given, and has a schema this version knows."""
    from countersign.adapters.store import postgres

    url = settings.database_url
    if not postgres.is_postgres(url):
        return note("database", "another SQLite file than that of the data folder")
    try:
        async with asyncio.timeout(WITHIN):
            seen = await asyncio.to_thread(postgres.look, url)
    except TimeoutError:
        return missing("database", f"{postgres.shown(url)} does not answer", "start it, or correct `database`")
    except CountersignError as away:
        return missing("database", away.message, "correct `database` or COUNTERSIGN_DATABASE; see README, On Postgres")
    place = f"{postgres.shown(url)}, Postgres {seen.server}"
    newest = versions()[-1]
    if seen.version is not None and seen.version not in versions():
        return missing("database", f"{place}: schema {seen.version}, newer than {newest}", "run the newer Countersign, or name another")
    if not seen.durable:
        return missing("database", f"{place}: fsync is off, so power loss forgets approvals", "set fsync = on in postgresql.conf")
    if seen.version is None and not seen.may_create:
        return missing("database", f"{place}: no schema, and this user may not make it", "run `countersign migrate` as one who may")
    if seen.version != newest:
        told = f"{place}: schema {seen.version or 'none yet'}; {newest} will be made"
        return note("database", told, "the next `countersign up`, or `countersign migrate`, brings it up to date")
    return ok("database", f"{place}, schema {newest}")


async def artifacts(settings: Settings) -> Finding:
    """One object is written, read and removed."""
    assert settings.artifacts is not None
    path, data = f"doctor/{random.token_hex(8)}", os.urandom(64)
    try:
        bucket = Bucket(settings.artifacts, endpoint=settings.artifacts_endpoint)
    except CountersignError as wrong:
        return missing("artifacts", wrong.message, "correct `artifacts`")
    try:
        async with asyncio.timeout(WITHIN):
            await bucket.store.put_async(path, data)
            read = bytes(await (await bucket.store.get_async(path)).bytes_async())
            await bucket.store.delete_async(path)
    except TimeoutError:
        return missing("artifacts", f"{bucket.shown} does not answer", "look at its network, or correct `artifacts`")
    except TROUBLE as failed:
        return missing("artifacts", bucket.why(failed), "credentials come from the environment (AWS_…, GOOGLE_…) or from the machine")
    if read != data:
        return missing("artifacts", f"{bucket.shown} gives back something else than it was given", "use another bucket")
    return ok("artifacts", f"{bucket.shown}: written, read and removed")
