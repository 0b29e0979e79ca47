"""The server that the tools of Helm belong to, the arguments that several of them take, and which release they mean.

The front reaches no cluster: what lives in one is known to the worker alone.
"""

import re
from typing import Annotated

from pydantic import Field

from countersign.adapters.store import records
from countersign.adapters.store.records import StackRow
from countersign.core.engine import Release
from countersign.core.errors import FailedPrecondition, InvalidArgument, NotFound
from mcp_front import lookup
from mcp_front.call import Call
from mcp_front.domain import Domain

HELM = Domain("helm")

# Checked here and not by the schema: a pattern costs whoever loads the tools more than it tells them.
_LABEL = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
NAMESPACE = re.compile(rf"{_LABEL}\Z")
RELEASE_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\Z")
Env = Annotated[str | None, Field(max_length=130)]
Namespace = Annotated[str, Field(max_length=63)]
ReleaseName = Annotated[str, Field(max_length=53)]


def named(namespace: str, name: str) -> Release:
    """Raises InvalidArgument for what Kubernetes or Helm would not take as a name."""
    _check("namespace", namespace, NAMESPACE)
    _check("release_name", name, RELEASE_NAME)
    return Release(namespace=namespace, name=name)


def _check(field: str, name: str, shape: re.Pattern[str]) -> None:
    if not shape.match(name):
        raise InvalidArgument(f"{name!r} is no name: lower case letters, digits and -, beginning and ending with none of -", field=field)


def environment(call: Call, env: str | None) -> str:
    """The "org/env" that is meant, which has a cluster. Raises NotFound, InvalidArgument naming those there are, FailedPrecondition."""
    settings = call.front.settings
    if env is not None:
        path = lookup.environment(call, env)
        if settings.cluster(path) is None:
            raise FailedPrecondition(f"{path} has no cluster: the operator names one in countersign.toml ([[clusters]])", field="env")
        return path
    able = [path for path in lookup.environments(call) if settings.cluster(path) is not None]
    if not able:
        raise FailedPrecondition("no environment has a cluster: the operator names them in countersign.toml ([[clusters]])", field="env")
    if len(able) > 1:
        raise InvalidArgument(f"say which environment: {', '.join(able)}", field="env", next=["list_environments"])
    return able[0]


async def release_of(call: Call, env: str | None, namespace: str | None, name: str) -> StackRow:
    """The release that is meant. One that nobody asked for here yet is taken in where its namespace is named.

    Raises InvalidArgument with the candidates where several have the name, NotFound where none has it.
    """
    path = environment(call, env)
    _check("release_name", name, RELEASE_NAME)
    if namespace is not None:
        return await taken_in(call, path, named(namespace, name))
    async with call.front.store.read() as conn:
        known = await records.releases_of(conn, call.org, path, name=name)
    if len(known) > 1:
        where = ", ".join(str(one.release) for one in known[:10])
        raise InvalidArgument(f"{name} is the name of several releases in {path}: {where}; say which namespace", field="namespace")
    if not known:
        raise NotFound(
            f"no release {name} was ever asked for in {path}; name its namespace, if it was made elsewhere",
            field="release_name",
            next=["list_environments"],
        )
    return known[0]


async def taken_in(call: Call, env: str, release: Release) -> StackRow:
    """The record that runs on the release hang on."""
    return await records.register_release(call.front.store, env=env, release=release, by=call.caller.principal)
