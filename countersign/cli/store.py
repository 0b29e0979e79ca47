"""Opening the store from the command line, by several processes at once and with a key for whoever runs them."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path

from countersign.adapters.settings import Settings
from countersign.adapters.store.database import Store
from countersign.adapters.store.keys import create_key, find_key
from countersign.cli.schema import locked
from countersign.cli.session import KEY_FILE, local_person
from countersign.core.errors import FailedPrecondition
from countersign.core.principal import Principal


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Store]:
    """The store, its schema made or migrated first."""
    async with locked(settings.data):
        store = await Store.open(settings.database_url)
    try:
        yield store
    finally:
        await store.close()


def organization(settings: Settings, named: str | None = None) -> str:
    """The organization that is meant: the named one, else the first. Raises FailedPrecondition."""
    known = [org.slug for org in settings.organizations]
    if named is not None and named not in known:
        raise FailedPrecondition(f"no organization {named!r}; there are {', '.join(known)}", field="org")
    return named or known[0]


async def local_key(settings: Settings, store: Store, *, role: str = "admin") -> Path:
    """The file with a live key of whoever runs this, made where it is missing or its key has ended."""
    file = settings.data / KEY_FILE
    if file.exists():
        async with store.read() as conn:
            if await find_key(conn, file.read_text(encoding="ascii", errors="replace").strip(), now=store.now()) is not None:
                file.chmod(0o600)
                return file
    person = local_person()
    _, token = await create_key(store, org=organization(settings), principal=person, role=role, by=person)
    write_secret(file, token)
    return file


def write_secret(file: Path, text: str, *, new: bool = False) -> None:
    """A file only we can read, never for an instant anybody else's. With `new`, raises FailedPrecondition where it exists."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    fd = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, f"{text}\n".encode())
        os.fsync(fd)
    finally:
        os.close(fd)
    try:
        if new:
            os.link(temporary, file)
        else:
            temporary.replace(file)
    except FileExistsError:
        raise FailedPrecondition(f"{file} exists; name another file", field="to") from None
    finally:
        temporary.unlink(missing_ok=True)


async def agent_key(settings: Settings, store: Store, *, agent: Principal, role: str, until: datetime | None) -> str:
    """A key for an agent of the local person; the token."""
    _, token = await create_key(store, org=organization(settings), principal=agent, role=role, by=local_person(), expires_at=until)
    return token
