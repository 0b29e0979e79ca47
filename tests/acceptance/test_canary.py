"""One secret of each kind is sent through everything, and then looked for everywhere.

It may be found in plan bundle, plan JSON and state, and there it must be: a search that finds nothing anywhere proves nothing.
"""

import base64
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client as Temporal
from temporalio.client import WorkflowExecution

from countersign.adapters.artifacts import Artifacts
from countersign.adapters.keyring import Keyring
from countersign.adapters.store.database import Store
from countersign.adapters.store.schema import artifacts
from tests.acceptance.conftest import STACKS
from tests.acceptance.installed import Installed, call, eventually, until
from tests.requirements import requirement

pytestmark = pytest.mark.anyio

# The core is what is looked for; around it stand characters that JSON, URLs, shells and Go escape differently.
CORES = {"variable": "c4naryVar1able77", "credential": "c4naryCredent1al77", "environment": "c4naryEnv1ronment77"}
PASSWORD = f'pw"&<{CORES["variable"]}>/+é'
CREDENTIAL = f"tok.{CORES['credential']}=="
ALLOWED = frozenset({"plan_bundle", "plan_json", "state"})


def spellings(core: str) -> list[bytes]:
    """The core as it is, and inside base64 at each offset."""
    data = core.encode()
    inner = [base64.b64encode(b"\0" * offset + data)[(0, 2, 3)[offset] : -4] for offset in range(3)]
    return [data, *inner]


NEEDLES = {kind: spellings(core) for kind, core in CORES.items()}


def found_in(data: bytes) -> list[str]:
    return [kind for kind, needles in NEEDLES.items() if any(needle in data for needle in needles)]


@requirement("promise:no-secrets", "I6")
async def test_a_secret_is_found_only_where_it_must_be(tmp_path: Path) -> None:
    it = Installed(
        data=tmp_path / "data", stacks=STACKS, settings={"AWS_SECRET_ACCESS_KEY": CORES["environment"], "TF_VAR_password": "c4nary"}
    )
    it.start()
    try:
        await it.ready()
        told = await everything_told(it)
        histories = [text async for text in decoded_histories(it, runs_of(it.data))]
    finally:
        it.stop()

    leaks = {f"tool result {number}": kinds for number, text in enumerate(told) if (kinds := found_in(text))}
    leaks |= {f"history of {name}": kinds for name, text in histories if (kinds := found_in(text))}
    leaks |= {name: kinds for name, data in files(it.data) if (kinds := found_in(data))}
    leaks |= {name: kinds for name, data in rows(it.data) if (kinds := found_in(data))}
    if kinds := found_in(it.log().encode()):
        leaks["log of up"] = kinds
    kept = await decrypted(it.data)
    leaks |= {f"artifact {kind} {name}": kinds for kind, name, data in kept if kind not in ALLOWED and (kinds := found_in(data))}

    assert leaks == {}
    assert len(histories) >= 3 and len(told) > 25
    holding = {kind for kind, _, data in kept if "variable" in found_in(data)}
    assert holding == ALLOWED
    assert not any("environment" in found_in(data) for _, _, data in kept), "the worker's own environment reached an engine"


async def everything_told(it: Installed) -> list[bytes]:
    """Run it all, well and badly, and ask every tool for all it can tell."""
    it.cli("secret", "set", "db-password", stdin=PASSWORD)
    it.cli("secret", "set", "cloud", stdin=json.dumps({"CLOUD_TOKEN": CREDENTIAL}))
    told: list[bytes] = []
    async with it.client(it.key("agent:claude")) as agent, it.client(it.key("person:bo", kind="person", role="admin")) as person:
        more: dict[str, Any] = {"plan_credential": "cloud", "apply_credential": "cloud", "vars": {"password": {"secret": "db-password"}}}
        await call(agent, "terraform_register_workspace", env="dev", workspace="canary", source={"path": "canary"}, **more)
        ended: list[str] = []
        for arguments, state in (({}, "applied"), ({"vars": {"fail": True}}, "partially_applied")):
            asked = await call(agent, "apply_terraform", env="dev", workspace="canary", wait_seconds=25, **arguments)
            run = asked["run"]
            await call(person, "run_approve", run_id=run["run_id"], plan_digest=run["plan_digest"])
            told.append(json.dumps(await until(agent, run["run_id"], state), ensure_ascii=False).encode())
            ended.append(run["run_id"])
        for tool, arguments in (("terraform_plan", {}), ("terraform_validate", {})):
            asked = await call(agent, tool, env="dev", workspace="canary", wait_seconds=25, **arguments)
            ended.append(asked["run"]["run_id"])

        async def tell(name: str, **arguments: Any) -> dict[str, Any]:
            result = await person.call_tool(name, arguments)
            told.append(json.dumps(result.model_dump(mode="json"), ensure_ascii=False).encode())
            return result.structured_content or {}

        for run_id in ended:
            include = ["steps", "inputs", "outputs", "resources", "approvals", "timeline"]
            await tell("run_get", run_id=run_id, include=include)
            await tell("run_wait", run_id=run_id, **{"from": "0"}, timeout_seconds=1)
            await tell("run_plan", run_id=run_id)
            await tell("run_logs", run_id=run_id, lines=1000)
            await tell("run_evidence", run_id=run_id)
        await tell("terraform_get_workspace", env="dev", workspace="canary")
        state = await tell("terraform_get_state", env="dev", workspace="canary")
        assert "terraform_data.database" in json.dumps(state)
        for address in ("terraform_data.database", "terraform_data.copy"):
            await tell("terraform_get_state", env="dev", workspace="canary", address=address)
        for tool in ("run_list", "terraform_list_workspaces", "list_environments", "whoami"):
            await tell(tool)
        for artifact_id in readable(it.data):
            await tell("read_artifact", artifact_id=artifact_id, lines=1000)
    commands = (("runs",), ("show", ended[0]), ("logs", ended[1]), ("secret", "list"), ("stack", "list", "--json"))
    return [*told, *(it.cli(*command, code=None).encode() for command in commands)]


def readable(data: Path) -> list[str]:
    with sqlite3.connect(data / "countersign.db") as connection:
        return [row[0] for row in connection.execute("SELECT id FROM artifacts WHERE readable")]


def runs_of(data: Path) -> frozenset[str]:
    with sqlite3.connect(data / "countersign.db") as connection:
        return frozenset(row[0] for row in connection.execute("SELECT id FROM runs"))


async def decoded_histories(it: Installed, runs: frozenset[str] = frozenset()) -> Any:
    """Of every workflow, those of `runs` among them: Temporal lists a new one a second or two late."""
    client = await Temporal.connect(f"127.0.0.1:{it.temporal_port}")

    async def listed() -> list[WorkflowExecution] | None:
        found = [workflow async for workflow in client.list_workflows()]
        return found if runs <= {workflow.id for workflow in found} else None

    for workflow in await eventually(listed, f"the workflows of {len(runs)} runs to be listed"):
        history = await client.get_workflow_handle(workflow.id, run_id=workflow.run_id).fetch_history()
        document = json.loads(history.to_json())
        yield workflow.id, b"\n".join(pieces(document))


def pieces(node: Any) -> Iterator[bytes]:
    """Every text of a history, and what it is where it is base64."""
    if isinstance(node, dict):
        for item in node.values():
            yield from pieces(item)
    elif isinstance(node, list):
        for item in node:
            yield from pieces(item)
    elif isinstance(node, str):
        yield node.encode()
        try:
            yield base64.b64decode(node, validate=True)
        except ValueError:
            return


def files(data: Path) -> Iterator[tuple[str, bytes]]:
    """Everything below the data folder as it lies on the disk: logs, both databases, sealed objects, work folders."""
    for path in sorted(data.rglob("*")):
        if path.is_file():
            yield path.relative_to(data).as_posix(), path.read_bytes()


def rows(data: Path) -> Iterator[tuple[str, bytes]]:
    with sqlite3.connect(data / "countersign.db") as connection:
        for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for row in connection.execute(f'SELECT * FROM "{table}"'):
                yield f"row of {table}", b"\n".join(v if isinstance(v, bytes) else str(v).encode() for v in row)


async def decrypted(data: Path) -> list[tuple[str, str, bytes]]:
    """Every artifact in clear: kind, name, bytes."""
    keyring = Keyring.open(data, role="all")
    store = await Store.open(f"sqlite+aiosqlite:///{data / 'countersign.db'}")
    try:
        kept = Artifacts(store, keyring, data / "artifacts")
        async with store.read() as conn:
            found = (await conn.execute(artifacts.select())).all()
            return [(r.kind, r.name, await kept.read(conn, org=r.org_id, artifact_id=r.id)) for r in found]
    finally:
        await store.close()
