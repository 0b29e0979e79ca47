"""kill -9 of any part: what waits goes on waiting, what applies goes on applying, and nothing is applied twice."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import STACKS
from tests.acceptance.installed import Installed, call, eventually, processes, until
from tests.gates import close, held, open_for_good
from tests.requirements import requirement

pytestmark = pytest.mark.anyio


async def agent_and_person(it: Installed) -> tuple[str, str]:
    return it.key("agent:claude", acts_for="person:ana"), it.key("person:bo", kind="person", role="approver")


@requirement("promise:crash-costs-nothing")
async def test_a_run_that_waits_for_approval_survives_the_kill_of_front_worker_and_temporal(own: Installed) -> None:
    agent_key, person_key = await agent_and_person(own)
    async with own.client(agent_key) as agent:
        await call(agent, "terraform_register_workspace", env="dev", workspace="survivor", source={"path": "small"})
        waiting = await call(agent, "apply_terraform", env="dev", workspace="survivor", wait_seconds=25)
    run = waiting["run"]
    assert run["state"] == "awaiting_approval"

    for part in ("front", "worker", "temporal"):
        await own.kill(part)
    await own.ready()

    async with own.client(agent_key) as agent, own.client(person_key) as person:

        async def approved() -> bool:
            result = await person.call_tool("run_approve", {"run_id": run["run_id"], "plan_digest": run["plan_digest"]})
            error = (result.structured_content or {}).get("error")
            assert error is None or error["retryable"], error
            return error is None

        await eventually(approved, "the approval to be taken after the kills")
        await until(agent, run["run_id"], "applied")


@requirement("promise:crash-costs-nothing", "I3")
@pytest.mark.parametrize("victim", ["worker", "front", "temporal"])
async def test_the_kill_of_a_part_in_mid_apply_lets_the_apply_finish_and_the_run_end_applied(
    own: Installed, tmp_path: Path, victim: str
) -> None:
    world = tmp_path / "world"
    world.mkdir()
    agent_key, person_key = await agent_and_person(own)
    async with own.client(agent_key) as agent, own.client(person_key) as person:
        await call(
            agent, "terraform_register_workspace", env="dev", workspace="gated", source={"path": "gates"}, vars={"world": str(world)}
        )
        waiting = await call(agent, "apply_terraform", env="dev", workspace="gated", wait_seconds=25)
        await call(person, "run_approve", run_id=waiting["run"]["run_id"], plan_digest=waiting["run"]["plan_digest"])
        await reached(world)
        applies = engines(own)
        assert len(applies) == 1

    await own.kill(victim)
    await own.ready()
    assert engines(own) == applies, "the apply goes on without whoever died"
    (world / "1.open").touch()

    async with own.client(agent_key) as agent:
        await until(agent, waiting["run"]["run_id"], "applied")
        got = await call(agent, "run_get", run_id=waiting["run"]["run_id"], include=["timeline", "resources"])
        created = [r["address"] for r in got["data"]["resources"]["items"]]
        assert sorted(created) == [
            "terraform_data.after[0]",
            "terraform_data.after[1]",
            "terraform_data.after[2]",
            "terraform_data.before",
            "terraform_data.gate",
        ]


@requirement("promise:crash-costs-nothing", "reconcile:by-itself", "I2", "I5")
async def test_the_kill_of_worker_and_terraform_and_of_the_worker_while_it_reconciles_ends_applied_by_itself(tmp_path: Path) -> None:
    world = tmp_path / "world"
    world.mkdir()
    open_for_good(world / "before.gate")
    close(world / "between.gate")
    it = Installed(data=tmp_path / "data", stacks=STACKS, settings={"COUNTERSIGN_TERRAFORM__DENIED_DATA_SOURCES": "[]"})
    it.start()
    try:
        await it.ready()
        agent_key, person_key = await agent_and_person(it)
        async with it.client(agent_key) as agent, it.client(person_key) as person:
            await call(
                agent, "terraform_register_workspace", env="dev", workspace="lost", source={"path": "lost"}, vars={"world": str(world)}
            )
            waiting = await call(agent, "apply_terraform", env="dev", workspace="lost", wait_seconds=25)
            await call(person, "run_approve", run_id=waiting["run"]["run_id"], plan_digest=waiting["run"]["plan_digest"])
            async with held(world / "between.gate", eventually):
                close(world / "before.gate")  # the plan of what is left waits there
                [apply] = engines(it)
                await asyncio.gather(it.kill("worker"), killed(apply))

            async with held(world / "before.gate", eventually):
                [reconciling] = engines(it, "plan")
                await it.kill("worker")
                open_for_good(world / "before.gate")  # for the next one: this one waits on, and holds the lock
                await until(agent, waiting["run"]["run_id"], "applied")
                assert not is_running(reconciling)
    finally:
        it.stop()

    assert [len((world / f"{name}.made").read_text().split()) for name in ("one", "two")] == [1, 1]


def is_running(pid: int) -> bool:
    """Whether it still does something: of a dead process a line may be left until its parent looks."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "XZ"
    except FileNotFoundError:
        return False


async def killed(engine: int) -> None:
    """The whole group of an apply."""
    os.killpg(os.getpgid(engine), signal.SIGKILL)


@requirement("I2", "I3", "reconcile:zombie")
async def test_a_worker_that_was_frozen_and_replaced_changes_nothing_when_it_wakes_up(own: Installed, tmp_path: Path) -> None:
    world = tmp_path / "world"
    world.mkdir()
    agent_key, person_key = await agent_and_person(own)
    async with own.client(agent_key) as agent, own.client(person_key) as person:
        await call(
            agent, "terraform_register_workspace", env="dev", workspace="frozen", source={"path": "gates"}, vars={"world": str(world)}
        )
        waiting = await call(agent, "apply_terraform", env="dev", workspace="frozen", wait_seconds=25)
        run_id = waiting["run"]["run_id"]
        await call(person, "run_approve", run_id=run_id, plan_digest=waiting["run"]["plan_digest"])
        await reached(world)
        frozen = own.pid_of("worker")
        assert frozen is not None
        os.kill(frozen, signal.SIGSTOP)
        try:
            with own.another("worker"):
                (world / "1.open").touch()
                await until(agent, run_id, "applied")
                before = await call(agent, "run_get", run_id=run_id, include=["timeline", "resources"])
                os.kill(frozen, signal.SIGCONT)
                again = await call(agent, "terraform_plan", env="dev", workspace="frozen")
                await until(agent, again["run"]["run_id"], "planned_and_finished")
        finally:
            os.kill(frozen, signal.SIGCONT)
        last = await call(agent, "terraform_plan", env="dev", workspace="frozen", idempotency_key="by-the-old-worker")
        await until(agent, last["run"]["run_id"], "planned_and_finished")
        after = await call(agent, "run_get", run_id=run_id, include=["timeline", "resources"])
        plan = await call(agent, "run_plan", run_id=last["run"]["run_id"])

    assert own.pid_of("worker") == frozen, "it lives, and works on"
    assert after == before
    assert len([step for step in after["data"]["timeline"] if step["kind"] == "state" and step["state"] == "applied"]) == 1
    assert plan["data"]["changes"]["total"] == 0


async def test_a_stop_in_mid_apply_leaves_the_apply_alone_and_the_next_start_finds_it(own: Installed, tmp_path: Path) -> None:
    world = tmp_path / "world"
    world.mkdir()
    agent_key, person_key = await agent_and_person(own)
    async with own.client(agent_key) as agent, own.client(person_key) as person:
        await call(
            agent, "terraform_register_workspace", env="dev", workspace="gated", source={"path": "gates"}, vars={"world": str(world)}
        )
        waiting = await call(agent, "apply_terraform", env="dev", workspace="gated", wait_seconds=25)
        await call(person, "run_approve", run_id=waiting["run"]["run_id"], plan_digest=waiting["run"]["plan_digest"])
        await reached(world)

    own.stop()
    assert len(engines(own)) == 1
    own.start()
    await own.ready()
    (world / "1.open").touch()

    async with own.client(agent_key) as agent:
        await until(agent, waiting["run"]["run_id"], "applied")


def engines(it: Installed, command: str = "apply") -> list[int]:
    """Terraform processes that apply, or do something else, for this data folder."""
    return [pid for pid, argv in processes() if command in argv and any(str(it.data) in part for part in argv) and "/bin/sh" not in argv]


async def reached(world: Any) -> None:
    async def there() -> bool:
        return (world / "1.reached").exists()

    await eventually(there, "the apply to reach its gate")
