"""A Postgres of the tests' own: a throw-away cluster that can be killed and started again, and an empty database for each test.

The server runs as the user `postgres` where the tests run as root, because it refuses to be root. What a test needs is a `Cluster`
(`start`, `kill`, `stop`, `url`), from `running`; the fixtures `cluster` and `postgres_url` give what is shared by a test session.
"""

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

PATIENCE = 30.0  # seconds; every wait is bounded
USER, PASSWORD = "countersign", "pg-canary-7f3a91c25d"  # looked for where no password may be
# Power is not lost in tests, and a kill -9 loses nothing that was handed to the kernel.
FAST = {"fsync": "off", "full_page_writes": "off", "autovacuum": "off", "max_connections": "200", "shared_buffers": "32MB"}
TEMPLATE = "migrated"
_numbers = itertools.count(1)


def binaries() -> Path:
    """The folder of Debian's server programs. A missing server fails the test: `tools/packages.sh` installs it."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3].partition(".")[0]))
    at = found[-1] if found else Path(shutil.which("initdb") or "")
    assert at.name == "initdb", "no Postgres server here; tools/packages.sh installs Debian's"
    return at.parent


@dataclass
class Cluster:
    """One server. `settings` are those of postgresql.conf, over `FAST`."""

    settings: dict[str, str] = field(default_factory=dict)
    folder: Path = field(init=False)
    port: int = field(init=False)
    _server: "subprocess.Popen[bytes] | None" = None
    _template: bool = False
    _returned: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Not pytest's folder: the server's user could not reach into it.
        self.folder = Path(tempfile.mkdtemp(prefix="countersign-postgres-"))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._as: dict[str, Any] = {}
        if os.getuid() == 0:
            owner = pwd.getpwnam("postgres")
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
            self._as = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        how = ("--no-sync", "--no-instructions", "-A", "scram-sha-256", "-E", "UTF8", "--locale=C.UTF-8")
        self._run("initdb", "-D", self.data, "-U", USER, "--pwfile", secret, *how)
        lines = {"listen_addresses": "127.0.0.1", "unix_socket_directories": str(self.folder), **FAST, **self.settings}
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.writelines(f"{name} = '{value}'\n" for name, value in lines.items())

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def url(self, database: str = "postgres", *, password: bool = True) -> str:
        who = f"{USER}:{PASSWORD}" if password else USER
        return f"postgresql+psycopg://{who}@127.0.0.1:{self.port}/{database}"

    @property
    def pid(self) -> int | None:
        """The server's process; its children are those of its connections."""
        return self._server.pid if self._server is not None and self._server.poll() is None else None

    # Its life

    def start(self) -> "Cluster":
        """Start it, or start it again after a kill; it answers when this returns."""
        assert self.pid is None, "it runs"
        until = time.monotonic() + PATIENCE
        while True:
            with (self.folder / "log").open("ab") as log:
                # It ends with us, also where we are killed; it starts with the same process id.
                command = ["setpriv", "--pdeathsig", "QUIT", str(binaries() / "postgres"), "-D", str(self.data), "-p", str(self.port)]
                self._server = subprocess.Popen(
                    command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.folder, start_new_session=True, **self._as
                )
            while self.pid is not None:
                with contextlib.suppress(psycopg.OperationalError):
                    self._connect().close()
                    return self
                assert time.monotonic() < until, self.log()
                time.sleep(0.02)
            assert time.monotonic() < until, self.log()  # after a kill -9 the old one's memory may still be in use
            time.sleep(0.05)

    def kill(self) -> None:
        """kill -9 of the server and of all its processes, at once."""
        assert self._server is not None
        pids = [self._server.pid, *_children(self._server.pid)]
        os.kill(self._server.pid, signal.SIGSTOP)  # it must not begin to clean up
        for pid in reversed(pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._server.wait(PATIENCE)

    def stop(self, *, how: signal.Signals = signal.SIGINT) -> None:
        """In order. SIGINT cuts connections off, SIGTERM waits for them, SIGQUIT is a crash."""
        if self._server is not None and self.pid is not None:
            self._server.send_signal(how)
            self._server.wait(PATIENCE)

    def freeze(self) -> None:
        """Stop all of it in its tracks: connections stay open, and nothing answers."""
        assert self._server is not None
        for pid in (self._server.pid, *_children(self._server.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._server is not None
        for pid in (self._server.pid, *_children(self._server.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def close(self) -> None:
        if self.pid is not None:
            self.thaw()
            self.stop(how=signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-4000:]

    # Its databases

    def create(self, name: str | None = None, *, template: str | None = None) -> str:
        """A new database; returns its name."""
        name = name or f"d{os.getpid()}_{next(_numbers)}"
        words = [sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))]
        if template is not None:
            words.append(sql.SQL("TEMPLATE {}").format(sql.Identifier(template)))
        self.execute(sql.SQL(" ").join(words))
        return name

    def migrated(self) -> str:
        """The URL of an empty database that has the schema: one that was given back, or a copy, which is quicker than migrating."""
        if self._returned:
            return self._returned.pop()
        if not self._template:
            from countersign.adapters.store.database import migrate

            migrate(self.url(self.create(TEMPLATE)))
            self._template = True
        return self.url(self.create(template=TEMPLATE))

    def give_back(self, url: str) -> None:
        """The database of `migrated`, for the next test: nobody is connected, its rows are gone, and numbers begin anew."""
        from countersign.adapters.store.schema import metadata

        name = url.rsplit("/", 1)[1]
        everybody = sql.SQL("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = {}").format(sql.Literal(name))
        empty = [sql.SQL("DELETE FROM {}").format(sql.Identifier(table)) for table in metadata.tables]
        anew = sql.SQL("SELECT setval(seqrelid::regclass, 1, false) FROM pg_sequence")
        self.execute(everybody)
        self.execute(sql.SQL("; ").join([*empty, anew]), database=name)
        self._returned.append(url)

    def drop(self, url: str) -> None:
        """For a database that nobody can use any more."""
        self.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(url.rsplit("/", 1)[1])))

    def execute(self, words: sql.Composable | str, *, database: str = "postgres") -> list[Any]:
        with self._connect(database) as connection:
            done = connection.execute(words)  # type: ignore[arg-type]
            return done.fetchall() if done.description else []

    def _connect(self, database: str = "postgres") -> "psycopg.Connection[Any]":
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user=USER, password=PASSWORD, dbname=database, autocommit=True, connect_timeout=5
        )

    def _run(self, program: str, *words: object) -> None:
        command = [str(binaries() / program), *map(str, words)]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=60, check=False, **self._as)
        assert done.returncode == 0, done.stdout + done.stderr


def _children(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                    found.append(int(entry.name))
    return found


@contextlib.contextmanager
def running(**settings: str) -> Iterator[Cluster]:
    """A cluster that a test may kill."""
    made = Cluster(settings=settings)
    try:
        yield made.start()
    finally:
        made.close()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The server of this test session, started by whoever needs it first. Leave it as it is; to kill one, take `running`."""
    with running() as made:
        yield made


BOTH = ("sqlite", "postgres")


@contextlib.contextmanager
def database_of(request: pytest.FixtureRequest) -> Iterator[str | None]:
    """The setting `database` for a fixture with `params=BOTH`: None for SQLite in the data folder, or an empty Postgres of its own."""
    if request.param == "sqlite":
        yield None
        return
    cluster: Cluster = request.getfixturevalue("cluster")
    url = cluster.migrated()
    try:
        yield url
    finally:
        cluster.give_back(url)


@pytest.fixture
def postgres_url(cluster: Cluster) -> Iterator[str]:
    """An empty store on Postgres."""
    url = cluster.migrated()
    yield url
    cluster.give_back(url)
