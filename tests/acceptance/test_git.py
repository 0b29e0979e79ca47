"""A stack that comes from a private repository, from its registration to a ref that was moved back, as people and agents see it."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.acceptance.installed import Installed, call, refused, until
from tests.integration.git_server import GitServer, git_server
from tests.requirements import requirement

pytestmark = pytest.mark.anyio
MAIN = 'module "net" {\n  source = "../../modules/net"\n}\n'
NET = 'resource "terraform_data" "net" {\n  input = "NAME"\n}\n'
TOKEN = "token-of-the-forge-nobody-may-read"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    with git_server(tmp_path / "forge") as running:
        running.users["/acme/"] = ("x-access-token", TOKEN)
        yield running


@pytest.fixture
async def up(tmp_path: Path, server: GitServer) -> AsyncIterator[Installed]:
    settings = {
        "COUNTERSIGN_GIT__REPOSITORIES": json.dumps([f"{server.address}/acme/*"]),
        "COUNTERSIGN_GIT__CREDENTIALS": json.dumps({f"{server.address}/acme/*": "forge-token"}),
        "COUNTERSIGN_GIT__CA_BUNDLE": str(server.certificate),
    }
    it = Installed(data=tmp_path / "data", settings=settings)
    it.start()
    try:
        await it.ready()
        yield it
    finally:
        it.stop()


@requirement("git:planned-commit", "git:credentials", "bad:moved-back-ref")
async def test_a_stack_of_a_private_repository_is_registered_planned_applied_and_warned_about(up: Installed, server: GitServer) -> None:
    repository = server.repository("acme/live.git")
    first = repository.commit({"stacks/shop/main.tf": MAIN, "modules/net/main.tf": NET})
    second = repository.commit({"modules/net/main.tf": NET.replace("NAME", "other")})
    url = server.url("acme/live.git")
    up.cli("secret", "set", "forge-token", stdin=TOKEN)

    said = up.cli("stack", "register", "dev/shop", "--repo", url, "--path", "stacks/shop", "--ref", "main")
    told = up.cli("plan", "dev/shop")
    older = json.loads(up.cli("plan", "dev/shop", "--commit", first[:10], "--json"))

    assert "local/dev/shop is registered" in said
    assert f"commit {second[:12]} of refs/heads/main, {url}, stacks/shop" in told and "+ module.net.terraform_data.net" in told
    assert older["plan"]["commit"] == first and "is 1 commit(s) behind refs/heads/main" in " ".join(older["plan"]["risks"])

    async with up.client(up.key("claude", acts_for="person:ana")) as agent, up.client(up.key("ana", kind="person", role="admin")) as ana:
        run_id = (await call(agent, "apply_terraform", env="dev", workspace="shop"))["run"]["run_id"]
        waits = await until(agent, run_id, "awaiting_approval")
        shown = await call(agent, "run_get", run_id=run_id)
        assert shown["data"]["from"] == {"commit": second, "repository": url, "ref": "refs/heads/main", "path": "stacks/shop"}
        server.users["/acme/"] = ("nobody", "gets in any more")
        await call(ana, "run_approve", run_id=run_id, plan_digest=waits["run"]["plan_digest"])
        await until(agent, run_id, "applied")
        assert (await call(agent, "terraform_get_workspace", env="dev", workspace="shop"))["data"]["applied_commit"] == second

        server.users["/acme/"] = ("x-access-token", TOKEN)
        repository.git("reset", "-q", "--hard", first)
        repository.push()
        again = (await call(agent, "apply_terraform", env="dev", workspace="shop"))["run"]["run_id"]
        await until(agent, again, "awaiting_approval")
        plan = await call(agent, "run_plan", run_id=again)
        (risk,) = [r for r in plan["data"]["risks"] if "moved back" in r]
        assert risk.startswith(f"Commit {second[:12]}, which was applied last, is not part of the history of {first[:12]}")
        pinned = (await call(agent, "run_rerun", run_id=run_id))["run"]["run_id"]
        await call(ana, "run_reject", run_id=again, reason="moved back")
        ended = await until(agent, pinned, "errored")
        assert f"commit {second} is not part of refs/heads/main" in json.dumps(ended)

    assert TOKEN not in "".join(file.read_text(errors="replace") for file in (up.data / "logs").iterdir())


async def test_what_the_operator_does_not_list_is_refused_at_the_door(up: Installed, server: GitServer) -> None:
    async with up.client(up.key("claude", acts_for="person:ana")) as agent:
        foreign = {"repo": "https://git.example.com/x", "path": "a", "git_ref": "main"}
        denied = await refused(agent, "terraform_register_workspace", env="dev", workspace="x", source=foreign)
        option = {**foreign, "repo": server.url("acme/live.git"), "git_ref": "--upload-pack=touch"}
        strange = await refused(agent, "terraform_register_workspace", env="dev", workspace="x", source=option)

    assert (denied["code"], denied["field"]) == ("policy_denied", "source.repo")
    assert f"allowed are {server.address}/acme/*" in denied["message"]
    assert (strange["code"], strange["field"]) == ("invalid_argument", "source.git_ref")
