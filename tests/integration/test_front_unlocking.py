"""Breaking a lock by hand, by a real MCP client: only our own, of an attempt that is fenced and dead, with its name typed."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from countersign.adapters.store import state
from countersign.adapters.store.database import stamp
from countersign.adapters.store.records import StackRow
from countersign.adapters.store.schema import attempts, states
from countersign.core.fencing import Head, lock_of
from tests.integration.front import CLAUDE, Caller, FrontService, User, front_service
from tests.postgres import BOTH, database_of
from tests.requirements import requirement

pytestmark = pytest.mark.anyio

LOCK = {"ID": "lock-1", "Operation": "OperationTypeApply", "Who": "worker@h", "Created": "2026-01-01T00:00:00Z"}
NAME = "acme/dev/main"


@pytest.fixture(params=BOTH)
async def it(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[FrontService]:
    with database_of(request) as database:
        async with front_service(tmp_path, database=database) as running:
            yield running


@pytest.fixture
async def agent(it: FrontService) -> AsyncIterator[Caller]:
    async with it.as_(CLAUDE, "platform") as caller:
        yield caller


async def locked(it: FrontService, *, mode: str = "apply", fenced: bool = True, dead: bool = True) -> StackRow:
    """A workspace whose state an attempt of ours has locked, and what became of that attempt."""
    stack, store = await it.stack(), it.front.store
    async with store.begin() as tx:
        facts: dict[str, Any] = {"org": it.org, "stack_id": stack.id, "run_id": "run_lost", "credential_id": "att_lost", "mode": mode}
        epoch = (await state.head(tx, it.org, stack.id)).epoch
        await state.grant(tx, **facts, epoch=epoch, expires_at=store.now().replace(year=2100))
        if mode == "apply":
            row = {"run_id": "run_lost", "stack_id": stack.id, "plan_digest": "d", "epoch": epoch, "host": "h", "boot_id": "b"}
            ended = {"ended_at": stamp(store.now())} if dead else {}
            await tx.execute(attempts.insert().values(org_id=it.org, id="att_lost", opened_at=stamp(store.now()), **row, **ended))
        credential = await state.credential_of(tx, it.org, "att_lost")
        assert credential is not None
        assert await state.lock(tx, credential, lock_of(json.dumps(LOCK).encode()), now=store.now()) is None
    if fenced:
        async with store.begin() as tx:
            await state.raise_epoch(tx, it.org, stack.id)
    return stack


async def head(it: FrontService, stack: StackRow) -> Head:
    async with it.front.store.read() as conn:
        return await state.head(conn, it.org, stack.id)


@requirement("I5", "promise:destroying-asks")
async def test_the_lock_of_a_dead_attempt_goes_by_the_typed_name_and_is_audited(it: FrontService, agent: Caller) -> None:
    stack = await locked(it)
    for name in (None, "main"):
        error = await agent.refused("terraform_force_unlock", env="dev", lock_id="lock-1", confirm_name=name)
        assert (error["code"], error["field"]) == ("confirmation_required", "confirm_name")
    tried = await agent.call("terraform_force_unlock", env="dev", lock_id="lock-1", dry_run=True)
    assert (await head(it, stack)).lock is not None
    done = await agent.call("terraform_force_unlock", env="dev", lock_id="lock-1", confirm_name=NAME, idempotency_key="break-it-1")
    again = await agent.call("terraform_force_unlock", env="dev", lock_id="lock-1", confirm_name=NAME, idempotency_key="break-it-1")
    gone = await agent.refused("terraform_force_unlock", env="dev", lock_id="lock-1", confirm_name=NAME)

    assert (tried["data"]["dry_run"], done["data"]["lock"]["who"], again["replayed"]) == (True, "worker@h", True)
    assert (await head(it, stack)).lock is None
    assert gone["code"] == "failed_precondition"
    [row] = [r for r in await it.audited() if r["action"] == "terraform_force_unlock" and r["outcome"] == "ok"]
    assert (row["by"], row["run_id"], "lock-1" in json.dumps(row)) == ("agent:claude", "run_lost", True)


@requirement("I5")
@pytest.mark.parametrize(
    ("given", "lock_id", "says"),
    [
        ({}, "lock-2", "the state is locked under another id: lock lock-1 of worker@h"),
        ({"fenced": False}, "lock-1", "is held by run_lost, whose attempt is not fenced: it may be at work"),
        ({"dead": False}, "lock-1", "is held by the apply of run_lost, and nothing proves yet that it is dead"),
    ],
)
async def test_any_other_lock_stays_and_its_holder_is_named(
    it: FrontService, agent: Caller, given: dict[str, Any], lock_id: str, says: str
) -> None:
    stack = await locked(it, **given)
    error = await agent.refused("terraform_force_unlock", env="dev", lock_id=lock_id, confirm_name=NAME)

    assert error["code"] == "locked"
    assert says in error["message"]
    assert (await head(it, stack)).lock is not None


@requirement("I5")
async def test_a_foreign_lock_is_never_broken(it: FrontService, agent: Caller) -> None:
    stack = await locked(it)
    async with it.front.store.begin() as tx:
        await tx.execute(states.update().values(lock=json.dumps({**LOCK, "Created": "2026-01-02T00:00:00Z"})))
    error = await agent.refused("terraform_force_unlock", env="dev", lock_id="lock-1", confirm_name=NAME)

    assert (error["code"], "not one that an attempt of ours recorded" in error["message"]) == ("locked", True)
    assert (await head(it, stack)).lock is not None


@requirement("ask:the-person-types")
async def test_where_the_client_can_ask_the_person_types_the_name_and_is_asked_only_about_what_can_be_done(it: FrontService) -> None:
    stack = await locked(it)
    user = User({"confirm_name": NAME})
    async with it.as_(CLAUDE, "platform", user=user) as agent:
        refused = await agent.refused("terraform_force_unlock", env="dev", lock_id="lock-2")
        assert (refused["code"], user.questions) == ("locked", [])
        await agent.call("terraform_force_unlock", env="dev", lock_id="lock-1")

    assert user.questions[0].startswith(f"Break the lock lock-1 on the state of {NAME}?")
    assert (await head(it, stack)).lock is None
