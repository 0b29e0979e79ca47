"""The environment of the engine's child processes: an allow-list, never our own.

What the child has in its environment every command of a configuration can read, so it gets what this attempt needs and
nothing else; `TF_CLI_ARGS`, `TF_VAR_…`, `TF_LOG` and the like of whoever started the worker never reach it.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from countersign.adapters.process import MARKER
from countersign.core.engine import Reveal, StateAccess
from countersign.core.errors import InvalidArgument
from countersign.core.terraform.providers import REGISTRIES

_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,127}")
# The password of a declared http backend has no other name. For our own backend ours counts, whatever a credential says.
_RESERVED = re.compile(
    r"(?:TF_(?!HTTP_(?:USERNAME|PASSWORD)$)|LD_|PYTHON|GIT_|BASH|COUNTERSIGN_|GODEBUG$|GOTRACEBACK$|PATH$|HOME$|TMPDIR$|IFS$|ENV$|SHELL$)"
)
_RETRIES = {"TF_HTTP_RETRY_MAX": "4", "TF_HTTP_RETRY_WAIT_MIN": "1", "TF_HTTP_RETRY_WAIT_MAX": "8"}  # tries at 0, 1, 3, 7 and 15 seconds
_NO_SECRET = re.compile(r".*_(?:REGION|ZONE|LOCATION|PROJECT|PROJECT_ID|REGION_NAME)")


def child_environment(
    *,
    attempt: str,
    home: Path,
    temporary: Path,
    search_path: str,
    cli_config: Path,
    passed: Mapping[str, str],
    credential: Mapping[str, str],
    state: StateAccess | None,
) -> dict[str, str]:
    """`passed` is the operator's (proxies, CA bundles, Go settings); `credential` is the stack's, already checked."""
    environment = {
        **passed,
        **credential,
        "PATH": search_path,
        "HOME": str(home),
        "TMPDIR": str(temporary),
        "LANG": "C.UTF-8",
        "TF_IN_AUTOMATION": "1",
        "TF_INPUT": "0",
        "CHECKPOINT_DISABLE": "1",
        "TF_CLI_CONFIG_FILE": str(cli_config),
        MARKER: attempt,
    }
    if state is not None:
        environment |= {
            "TF_HTTP_ADDRESS": state.address,
            "TF_HTTP_LOCK_ADDRESS": state.address,  # without these there is no locking; the method tells them apart
            "TF_HTTP_UNLOCK_ADDRESS": state.address,
            "TF_HTTP_USERNAME": state.username,
            "TF_HTTP_PASSWORD": state.password,
            **_RETRIES,
        }
    return environment


async def credential_environment(slug: str | None, reveal: Reveal) -> dict[str, str]:
    """The variables of a credential: a sealed JSON object {NAME: text}. Raises InvalidArgument without telling any value."""
    if slug is None:
        return {}
    try:
        values = json.loads(await reveal(slug))
    except ValueError:
        values = None
    if not isinstance(values, dict) or not all(isinstance(v, str) and "\0" not in v for v in values.values()):
        hint = f"set it again with `countersign secret set {slug}`"
        raise InvalidArgument(
            f"the credential {slug} must be a JSON object of environment variables, each a text; {hint}", field="credential"
        )
    for name in values:
        if not _NAME.fullmatch(name) or _RESERVED.match(name):
            raise InvalidArgument(
                f"the credential {slug} sets the variable {name[:64]!r}, which is not one a provider reads; remove it", field="credential"
            )
    return values


def secrets_of_credential(credential: Mapping[str, str]) -> frozenset[str]:
    """What of a credential is hidden: all of it but where it leads to, or every address in a plan would lose its region."""
    return frozenset(value for name, value in credential.items() if not _NO_SECRET.fullmatch(name))


def absolute_only(search_path: str) -> str:
    """`search_path` without entries that mean the working folder: that one holds the configuration, which must not bring commands."""
    return ":".join(entry for entry in search_path.split(":") if entry.startswith("/"))


def write_cli_config(path: Path, *, mirror: Path | None, network_mirror: str | None = None) -> None:
    """Our own CLI configuration: no credentials, and with a mirror no registry is asked. It must exist, or the engines warn."""
    text = "disable_checkpoint = true\n"
    methods = [("filesystem_mirror", "path", str(mirror.absolute()))] if mirror is not None else []
    methods += [("network_mirror", "url", network_mirror)] if network_mirror is not None else []
    if methods:
        blocks = "".join(f"  {kind} {{\n    {name} = {_quoted(value)}\n  }}\n" for kind, name, value in methods)
        text += f"provider_installation {{\n{blocks}}}\n"
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        temporary.write_text(text)
        temporary.replace(path)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("${", "$${").replace("%{", "%%{")


def origin_of_providers(*, mirror: Path | None, network_mirror: str | None) -> str:
    """Where provider packages come from, in words; the operator's folder has no name that concerns anybody."""
    network = f"the mirror {network_mirror}" if network_mirror else ""
    folder = "the operator's folder of providers" if mirror else ""
    return " or ".join(filter(None, (folder, network))) or REGISTRIES
