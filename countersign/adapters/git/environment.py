"""What git gets to know: nothing of this machine's configuration, no terminal to ask at, and keys only by files of one attempt.

Repositories are other people's. Their configuration, hooks, filters and submodules are never read: there is no work tree. What
git is told stands in its environment (`GIT_CONFIG_…`), so that the processes it starts know it too, and in no argument.
"""

import json
import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from countersign.adapters.process import MARKER
from countersign.core.engine import Reveal
from countersign.core.errors import FailedPrecondition, InvalidArgument
from countersign.core.repository import LOCAL, Repositories, host_of

# What old tools left in histories of honest repositories; nothing that is read here depends on it. Heeded from git 2.44 on.
_HARMLESS = (
    "badDate",
    "badEmail",
    "badName",
    "badTimezone",
    "missingEmail",
    "missingNameBeforeEmail",
    "missingSpaceBeforeDate",
    "missingSpaceBeforeEmail",
    "zeroPaddedDate",
    "zeroPaddedFilemode",
)
_CONFIGURATION = {
    "protocol.allow": "never",
    "core.hooksPath": os.devnull,
    "core.fsmonitor": "false",
    "core.symlinks": "false",
    "core.askPass": "",
    "credential.helper": "",
    "credential.useHttpPath": "true",
    "submodule.recurse": "false",
    "fetch.recurseSubmodules": "false",
    "transfer.fsckObjects": "true",
    **{f"fetch.fsck.{fault}": "ignore" for fault in _HARMLESS},
    "fetch.unpackLimit": "1",  # packs only: what was half fetched is one file, and no object of it counts
    "gc.auto": "0",
    "maintenance.auto": "false",
    "http.followRedirects": "false",  # a redirect may lead to what nobody allowed
    "http.lowSpeedLimit": "100",  # bytes a second
    "http.lowSpeedTime": "60",
    "advice.detachedHead": "false",
}
_SSH = (
    "BatchMode yes",
    "StrictHostKeyChecking yes",
    "GlobalKnownHostsFile /dev/null",
    "UpdateHostKeys no",
    "IdentitiesOnly yes",
    "IdentityFile none",  # of this machine; those of the attempt come before
    "IdentityAgent none",
    "PreferredAuthentications publickey",
    "ForwardAgent no",
    "ClearAllForwardings yes",
    "PermitLocalCommand no",
    "ControlMaster no",
    "ControlPath none",
    "ConnectTimeout 15",
    "ServerAliveInterval 10",
    "ServerAliveCountMax 3",
)


@dataclass(frozen=True, kw_only=True)
class Remotes:
    """What the operator says about Git. Nothing here is a secret."""

    repositories: Repositories = field(default_factory=Repositories)
    executable: Path | None = None
    known_hosts: Path | None = None  # of ssh: whoever is not in it is not talked to
    ca_bundle: Path | None = None  # of https, beside what the system trusts
    local: Path | None = None  # folder of bare repositories, named local:NAME
    timeout: float = 600.0  # seconds for one command
    size: int = 2 << 30  # bytes one fetch may bring
    check_objects: bool = True
    passed: Mapping[str, str] = field(default_factory=dict)  # proxies

    def url(self, address: str) -> str:
        """What git connects to. Raises FailedPrecondition for a folder that is not there."""
        if not address.startswith(LOCAL):
            return address
        if self.local is None:
            raise FailedPrecondition("no folder of repositories is configured; ask the operator (git.local)", field="source.repo")
        root = self.local.resolve()
        found = (root / address.removeprefix(LOCAL)).resolve()
        if not found.is_relative_to(root) or not (found / "objects").is_dir():
            raise FailedPrecondition(f"there is no bare repository {address} in the operator's folder of them", field="source.repo")
        return found.as_uri()


class Keys:
    """Keys for some addresses, in files of one attempt (0600) that `forget` removes."""

    def __init__(self, folder: Path, remotes: Remotes) -> None:
        self._folder, self._remotes = folder, remotes
        self._texts: dict[str, str] = {}  # glob over addresses → secret
        self.secrets: frozenset[str] = frozenset()  # what has to be hidden in everything git says

    async def add(self, pattern: str, slug: str, reveal: Reveal) -> None:
        """The key of an entry of the operator's list. Raises InvalidArgument without telling any of it."""
        ssh = pattern.startswith("ssh://")
        self._texts[pattern] = secret = checked_key(slug, await reveal(slug), ssh=ssh)
        self.secrets |= {secret, *(() if ssh else _pair(secret).values())}

    def environment(self) -> tuple[dict[str, str], dict[str, str]]:
        """What git is told to use them: configuration and variables. The files are written now."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        cases, hosts = [], dict[str, list[str]]()
        for number, (pattern, secret) in enumerate(self._texts.items()):
            file = self._folder / f"key-{number}"
            if pattern.startswith("ssh://"):
                _private(file, f"{secret.rstrip()}\n")
                hosts.setdefault(host_of(pattern).partition(":")[0], []).append(f'  IdentityFile "{file}"')
            else:
                _private(file, "".join(f"{name}={value}\n" for name, value in _pair(secret).items()))
                # The characters of patterns are checked: in a `case` they mean what they mean to the operator.
                cases.append(f"{pattern}) exec cat {shlex.quote(str(file))} ;;")
        config = _private(self._folder / "ssh", _ssh_configuration(hosts, self._remotes.known_hosts))
        script = _private(self._folder / "helper", _HELPER.format(cases="\n".join(cases)), mode=0o700)
        helper = {"credential.helper": f"!{shlex.quote(str(script))}"} if cases else {}
        return helper, {"GIT_SSH_COMMAND": f"ssh -F {shlex.quote(str(config))}", "GIT_SSH_VARIANT": "ssh"}

    def forget(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def _ssh_configuration(hosts: Mapping[str, Sequence[str]], known_hosts: Path | None) -> str:
    """Whoever is not in `known_hosts` is not talked to, and no key is shown that is not for that host."""
    lines = [f"Host {host}\n" + "\n".join(files) for host, files in hosts.items()]
    every = "\n".join(f"  {option}" for option in _SSH)
    return "\n".join([*lines, "Host *", f'  UserKnownHostsFile "{known_hosts or os.devnull}"', every, ""])


_HELPER = """#!/bin/sh
# Gives git the key of one attempt for the addresses it is for, and keeps nothing.
[ "$1" = get ] || exit 0
while IFS= read -r line && [ -n "$line" ]; do
  case $line in
  protocol=*) protocol=${{line#*=}} ;;
  host=*) host=${{line#*=}} ;;
  path=*) path=${{line#*=}} ;;
  esac
done
case $path in *..*) exit 0 ;; esac
case $protocol://$host/$path in
{cases}
esac
"""


def checked_key(slug: str, secret: str, *, ssh: bool) -> str:
    """A secret that can be a key. Raises InvalidArgument without telling any of it."""
    if ssh:
        if not secret.lstrip().startswith("-----BEGIN "):
            raise InvalidArgument(f"the secret {slug} is no private key; set it again: `countersign secret set {slug} <FILE`")
        return secret.strip()
    pair = _pair(secret)
    if not all(isinstance(value, str) and value and not set(value) & {"\n", "\r", "\0"} for value in pair.values()):
        raise InvalidArgument(
            f"the secret {slug} is neither a token, which is one line, nor a JSON object of username and password; "
            f"set it again: `countersign secret set {slug}`"
        )
    return secret.strip()


def _pair(secret: str) -> dict[str, str]:
    """What a credential helper says: a token opens what it opens whatever the name beside it."""
    try:
        given = json.loads(secret)
    except ValueError:
        given = None
    if isinstance(given, dict):
        return {"username": given.get("username", ""), "password": given.get("password", "")}
    return {"username": "x-access-token", "password": secret.strip()}


def environment(
    remotes: Remotes, *, home: Path, search_path: str, attempt: str, keys: Keys, configuration: Mapping[str, str], protocols: Sequence[str]
) -> dict[str, str]:
    """Of a git process, and of what it starts; `protocols` are those it may use."""
    helper, ssh = keys.environment()
    told = {
        **_CONFIGURATION,
        **{f"protocol.{name}.allow": "always" for name in protocols},
        **({"http.sslCAInfo": str(remotes.ca_bundle)} if remotes.ca_bundle else {}),
        **({} if remotes.check_objects else {"transfer.fsckObjects": "false"}),
        **configuration,
    }
    pairs = [*told.items(), *helper.items()]  # a helper after the empty one, which forgets those before it
    variables = {f"GIT_CONFIG_{part}_{number}": pair[i] for number, pair in enumerate(pairs) for i, part in enumerate(("KEY", "VALUE"))}
    return {
        **remotes.passed,
        **ssh,
        **variables,
        "GIT_CONFIG_COUNT": str(len(pairs)),
        "PATH": search_path,
        "HOME": str(home),
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_LITERAL_PATHSPECS": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_PROTOCOL_FROM_USER": "0",
        "GIT_LFS_SKIP_SMUDGE": "1",
        MARKER: attempt,
    }


def _private(path: Path, text: str, mode: int = 0o600) -> Path:
    fd = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(text)
    return path
