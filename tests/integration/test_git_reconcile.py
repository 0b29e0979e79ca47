"""A lost apply of a stack from a repository: what is left is planned from what was approved, whatever the repository has become."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from temporalio.client import Client

from countersign.adapters.git import Remotes
from countersign.adapters.store import plans, records
from countersign.core.repository import Repositories
from countersign.core.run import RunState
from tests.integration.git_server import Repository
from tests.integration.lost_applies import lost
from tests.requirements import requirement
from tests.service import ANA, temporal_server

pytestmark = pytest.mark.anyio
NET = 'module "net" {\n  source = "../../modules/net"\n}\n'


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[Client]:
    async with temporal_server() as running:
        yield running


@requirement("git:apply-without-git", "reconcile:same-inputs", "git:pinned-commit")
async def test_a_lost_apply_is_finished_from_its_commit_while_the_repository_is_gone(client: Client, tmp_path: Path) -> None:
    repository = Repository.made(tmp_path / "forge", "live.git")
    remotes = Remotes(repositories=Repositories(allowed=("local:*",)), local=tmp_path / "forge" / "served")
    async with lost(client, tmp_path, engine={"remotes": remotes}) as it:
        source = {"repo": "local:live.git", "path": "stacks/demo", "git_ref": "main"}
        env, slug = it.stack.env.split("/")[1], it.stack.slug
        it.stack = (await records.register_stack(it.it.store, org=it.it.org, env=env, slug=slug, by=ANA, source=source)).row
        files = {
            "stacks/demo/main.tf": it.world.chain(3, gates=[1], before=NET),
            "modules/net/main.tf": 'resource "terraform_data" "net" {}\n',
        }
        commit = repository.commit(dict(files))
        run = await it.applying()
        repository.commit({"modules/net/main.tf": "not even HCL"})
        gone = repository.bare.with_name("gone")
        repository.bare.rename(gone)
        async with it.world.held(1):
            await it.kill(run)

        applied = await it.it.reaches(run.id, RunState.APPLIED)

        gone.rename(repository.bare)
        async with it.it.store.read() as conn:
            plan = await plans.get_plan(conn, it.it.org, applied.id)
        assert plan is not None and plan.number == 2
        assert (plan.inputs["commit"], plan.inputs["ref"], plan.inputs["repository"]) == (commit, "refs/heads/main", "local:live.git")
        repository.commit(dict(files))
        await it.is_settled()
