"""Workspaces, their states, and what `core` tells, by a real MCP client over a real store."""

import json
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from countersign.adapters.artifacts import Artifacts
from countersign.adapters.keyring import Keyring
from countersign.adapters.settings import GitSettings
from countersign.adapters.store import keys, secrets, state
from countersign.adapters.store.records import StackRow
from countersign.adapters.store.schema import artifacts, snapshots, states
from countersign.core import fencing
from countersign.core.principal import SYSTEM
from countersign.core.run import RunState
from mcp_front.auth import KeyVerifier
from tests.integration.front import ANA, BO, CLAUDE, OTTO, Caller, FrontService, front_service
from tests.postgres import BOTH, database_of
from tests.requirements import requirement

pytestmark = pytest.mark.anyio
SOURCE = {"path": "demo"}
IN_GIT = {"repo": "https://git.example.com/acme/live", "path": "stacks/shop", "git_ref": "main"}


@pytest.fixture(params=BOTH)
async def it(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[FrontService]:
    with database_of(request) as database:
        async with front_service(tmp_path, database=database, git=GitSettings(repositories=("https://git.example.com/acme/*",))) as running:
            running.engine.want(("a", "create"))
            yield running


@pytest.fixture
async def agent(it: FrontService) -> AsyncIterator[Caller]:
    async with it.as_(CLAUDE, "platform") as caller:
        yield caller


async def put_state(it: FrontService, stack: StackRow, resources: list[Mapping[str, Any]], *, serial: int = 1) -> None:
    """A snapshot as the state service leaves one."""
    store, data = it.front.store, it.front.settings.data
    document = {"version": 4, "terraform_version": "1.11.4", "serial": serial, "lineage": "l-1", "outputs": {}, "resources": resources}
    kept = Artifacts(store, Keyring.open(data, role="state"), data / "artifacts")
    written = await kept.write(
        org=it.org, stack_id=stack.id, run_id=None, kind="state", name=f"state-{serial}", data=json.dumps(document).encode(), readable=False
    )
    head = {"serial": serial, "lineage": "l-1", "sha256": written.sha256, "size": written.size, "seq": serial}
    async with store.begin() as tx:
        await kept.record(tx, written)
        await state.raise_epoch(tx, it.org, stack.id)
        await tx.execute(update(states).where(states.c.stack_id == stack.id).values(**head))
        by = {"org_id": it.org, "stack_id": stack.id, "artifact_id": written.id, "credential_id": "att_1", "run_id": "run_1"}
        await tx.execute(snapshots.insert().values(**head, **by, at="2026-01-31T12:00:00.000000Z"))


def resource(name: str, **attributes: Any) -> dict[str, Any]:
    return {
        "mode": "managed",
        "type": "terraform_data",
        "name": name,
        "provider": 'provider["terraform.io/builtin/terraform"]',
        "instances": [{"schema_version": 0, "attributes": {"id": f"id-{name}", **attributes}}],
    }


# -- registering ----------------------------------------------------------------------------------------------------------


async def test_a_workspace_is_registered_changed_and_listed(agent: Caller) -> None:
    made = await agent.call("terraform_register_workspace", env="dev", source=SOURCE, engine="tofu", vars={"size": "small"})
    changed = await agent.call("terraform_register_workspace", env="acme/dev", source=SOURCE, vars={"size": "large"})
    same = await agent.call("terraform_register_workspace", env="dev", source=SOURCE)
    listed = await agent.call("terraform_list_workspaces", env="dev", text="main")
    shown = await agent.call("terraform_get_workspace", env="dev")

    assert (made["data"]["created"], made["data"]["workspace"]["ref"]) == (True, "acme/dev/main")
    assert changed["data"]["changed"] == {"vars": {"before": {"size": "small"}, "after": {"size": "large"}}}
    assert changed["data"]["workspace"]["engine"] == "tofu"  # what is left out stays
    assert (same["data"]["changed"], same["data"]["workspace"]["version"]) == ({}, 2)
    assert [row["ref"] for row in listed["data"]["workspaces"]] == ["acme/dev/main"]
    assert (shown["data"]["state"]["serial"], shown["data"]["engine"]) == (0, "tofu")


async def test_trying_it_out_writes_nothing(agent: Caller) -> None:
    tried = await agent.call("terraform_register_workspace", env="dev", source=SOURCE, dry_run=True)
    error = await agent.refused("terraform_get_workspace", env="dev")

    assert (tried["data"]["created"], tried["data"]["dry_run"]) == (True, True)
    assert error["code"] == "not_found"


@requirement("promise:asking-twice")
async def test_the_same_key_registers_once_and_other_values_under_it_are_named(agent: Caller) -> None:
    once = await agent.call("terraform_register_workspace", env="dev", source=SOURCE, idempotency_key="register-1")
    await agent.call("terraform_register_workspace", env="dev", source={"path": "elsewhere"})
    again = await agent.call("terraform_register_workspace", env="dev", source=SOURCE, idempotency_key="register-1")
    other = await agent.refused("terraform_register_workspace", env="dev", source={"path": "other"}, idempotency_key="register-1")
    shown = await agent.call("terraform_get_workspace", env="dev")

    assert again["replayed"] is True
    assert again["data"] == once["data"]
    assert (other["code"], other["field"]) == ("idempotency_mismatch", "source")
    assert shown["data"]["source"] == {"path": "elsewhere"}


@requirement("git:allow-list")
async def test_a_workspace_of_an_allowed_repository_is_registered_and_says_where_it_comes_from(agent: Caller) -> None:
    made = await agent.call("terraform_register_workspace", env="dev", source=IN_GIT)
    listed = await agent.call("terraform_list_workspaces", env="dev")

    assert (made["data"]["workspace"]["source"], made.get("warnings", [])) == (IN_GIT, [])
    (row,) = listed["data"]["workspaces"]
    assert (row["source"], row["repo"], row["git_ref"]) == ("stacks/shop", IN_GIT["repo"], "main")


async def test_a_record_that_moved_answers_with_both_versions(agent: Caller) -> None:
    await agent.call("terraform_register_workspace", env="dev", source=SOURCE)
    error = await agent.refused("terraform_register_workspace", env="dev", source={"path": "x"}, expected_version=7)

    assert (error["code"], "version 1" in error["message"], "7" in error["message"]) == ("conflict", True, True)


@pytest.mark.parametrize(
    ("arguments", "code", "field"),
    [
        ({"source": {**IN_GIT, "repo": "https://example.com/x.git"}}, "policy_denied", "source.repo"),
        ({"source": {**IN_GIT, "repo": "file:///srv/git/x"}}, "invalid_argument", "source.repo"),
        ({"source": {**IN_GIT, "git_ref": "-x"}}, "invalid_argument", "source.git_ref"),
        ({"source": {"repo": IN_GIT["repo"], "path": "x"}}, "invalid_argument", "source.git_ref"),
        ({"source": {**IN_GIT, "path": "../x"}}, "invalid_argument", "source.path"),
        ({"source": {"path": "../demo"}}, "invalid_argument", "source.path"),
        ({"source": {"path": "/etc"}}, "invalid_argument", "source.path"),
        ({"source": SOURCE, "env": "nowhere"}, "not_found", "env"),
        ({"source": SOURCE, "env": "other/dev"}, "not_found", "env"),
        ({"source": SOURCE, "workspace": "Not A Slug"}, "invalid_argument", "workspace"),
        ({"source": SOURCE, "vars": {"p": {"secret": "no slug!"}}}, "invalid_argument", "vars.p"),
        ({"source": SOURCE, "drift_every": "often"}, "invalid_argument", "drift_every"),
        ({"source": SOURCE, "reads": ["dev/nothing"]}, "invalid_argument", "reads"),
        ({"source": SOURCE, "plan_credential": "NO!"}, "invalid_argument", "plan_credential"),
    ],
)
async def test_what_cannot_be_registered_is_refused_by_field(agent: Caller, arguments: dict[str, Any], code: str, field: str) -> None:
    error = await agent.refused("terraform_register_workspace", **{"env": "dev", **arguments})

    assert (error["code"], error["field"]) == (code, field)


async def test_what_is_named_and_missing_is_a_warning(it: FrontService, agent: Caller) -> None:
    keyring = Keyring.open(it.front.settings.data, role="operator")
    await secrets.put(it.front.store, keyring, org=it.org, slug="set", value="hunter2-hunter2", by=ANA)
    await agent.call("terraform_register_workspace", env="dev", workspace="net", source=SOURCE)
    answer = await agent.call(
        "terraform_register_workspace",
        env="dev",
        source=SOURCE,
        vars={"a": {"secret": "set"}, "b": {"secret": "unset"}},
        plan_credential="cloud",
        reads=["dev/net"],
        drift_every="1d",
        version="1.11",
    )

    assert [w.split(" is ")[0] for w in answer["warnings"]] == ["the secret cloud", "the secret unset"]
    assert "hunter2" not in json.dumps(answer)


@requirement("engine:version")
async def test_a_version_is_registered_as_engines_write_it_and_taken_back(agent: Caller) -> None:
    where = {"env": "dev", "source": SOURCE}

    error = await agent.refused("terraform_register_workspace", **where, version="latest")
    made = await agent.call("terraform_register_workspace", **where, version="~> 1.11")
    changed = await agent.call("terraform_register_workspace", **where, version="any")

    assert (error["code"], error["field"]) == ("invalid_argument", "version")
    assert made["data"]["workspace"]["engine_version"] == "~> 1.11"
    assert "engine_version" not in changed["data"]["workspace"]


@requirement("reads:protected")
async def test_outputs_of_a_protected_environment_are_read_in_protected_ones_only(agent: Caller) -> None:
    await agent.call("terraform_register_workspace", env="prod", workspace="net", source=SOURCE)
    await agent.call("terraform_register_workspace", env="dev", workspace="net", source=SOURCE)

    error = await agent.refused("terraform_register_workspace", env="dev", workspace="app", source=SOURCE, reads=["prod/net"])
    assert (error["code"], error["field"]) == ("policy_denied", "reads")

    for env in ("prod", "dev"):
        made = await agent.call("terraform_register_workspace", env="prod", workspace=f"app-{env}", source=SOURCE, reads=[f"{env}/net"])
        assert made["data"]["created"] is True


@requirement("bad:unknown-stack")
async def test_an_unknown_workspace_is_refused_with_what_comes_near(agent: Caller) -> None:
    await agent.call("terraform_register_workspace", env="dev", workspace="network", source=SOURCE)
    for tool in ("apply_terraform", "terraform_get_workspace", "terraform_get_state", "terraform_forget_workspace"):
        error = await agent.refused(tool, env="dev", workspace="netwrok")
        assert (error["code"], "did you mean network?" in error["message"]) == ("not_found", True)


# -- forgetting -----------------------------------------------------------------------------------------------------------


@requirement("promise:destroying-asks")
async def test_a_workspace_is_forgotten_by_its_typed_name_only(it: FrontService, agent: Caller) -> None:
    await it.stack()
    for name in (None, "main", "acme/prod/main"):
        error = await agent.refused("terraform_forget_workspace", env="dev", confirm_name=name)
        assert (error["code"], error["field"]) == ("confirmation_required", "confirm_name")
        assert "acme/dev/main" in error["message"]
    tried = await agent.call("terraform_forget_workspace", env="dev", dry_run=True)
    gone = await agent.call("terraform_forget_workspace", env="dev", confirm_name="acme/dev/main", idempotency_key="forget-1")
    again = await agent.call("terraform_forget_workspace", env="dev", confirm_name="acme/dev/main", idempotency_key="forget-1")
    other = await agent.refused("terraform_forget_workspace", env="dev", confirm_name="acme/dev/main")

    assert (tried["data"]["dry_run"], gone["data"]["forgotten"], again["replayed"]) == (True, "acme/dev/main", True)
    assert other["code"] == "not_found"
    assert [row["outcome"] for row in await it.audited() if row["action"] == "terraform_forget_workspace"] == [
        *["confirmation_required"] * 3,
        "ok",
    ]


async def test_a_state_that_holds_something_is_never_forgotten_and_an_emptied_one_is(it: FrontService, agent: Caller) -> None:
    stack = await it.stack()
    await put_state(it, stack, [resource("a")])
    error = await agent.refused("terraform_forget_workspace", env="dev", confirm_name="acme/dev/main")
    assert (error["code"], error["next"]) == ("failed_precondition", ["destroy_terraform"])

    await put_state(it, stack, [], serial=2)
    await agent.call("terraform_forget_workspace", env="dev", confirm_name="acme/dev/main")


async def test_a_workspace_with_an_open_run_is_not_forgotten(it: FrontService, agent: Caller) -> None:
    await it.stack()
    await agent.call("apply_terraform", env="dev", wait_seconds=20)
    error = await agent.refused("terraform_forget_workspace", env="dev", confirm_name="acme/dev/main")

    assert (error["code"], error["next"]) == ("failed_precondition", ["run_get", "run_cancel"])


# -- states ---------------------------------------------------------------------------------------------------------------


async def test_a_state_is_read_by_address_with_sensitive_values_hidden(it: FrontService, agent: Caller) -> None:
    stack = await it.stack()
    none = await agent.call("terraform_get_state", env="dev")
    await put_state(it, stack, [resource("a", input="first")])
    await put_state(it, stack, [resource("a", input="second", db_password="hunter2-hunter2"), resource("b")], serial=2)
    every = await agent.call("terraform_get_state", env="dev")
    one = await agent.call("terraform_get_state", env="dev", address="terraform_data.a")
    earlier = await agent.call("terraform_get_state", env="dev", address="terraform_data.a", serial=1)
    below = await agent.call("terraform_get_state", env="dev", address="terraform_data")
    missing = await agent.refused("terraform_get_state", env="dev", address="terraform_data.c")
    no_serial = await agent.refused("terraform_get_state", env="dev", serial=9)

    assert (none["data"]["serial"], none["data"]["addresses"]) == (0, [])
    assert (every["data"]["addresses"], every["data"]["untrusted"]) == (["terraform_data.a", "terraform_data.b"], True)
    assert [s["serial"] for s in every["data"]["snapshots"]] == [2, 1]
    assert one["data"]["resource"]["attributes"]["input"] == "second"
    assert "hunter2" not in json.dumps(one)
    assert earlier["data"]["resource"]["attributes"]["input"] == "first"
    assert below["data"]["total"] == 2
    assert missing["code"] == "not_found"
    assert (no_serial["field"], "the newest are 2, 1" in no_serial["message"]) == ("serial", True)


async def test_a_workspace_tells_who_holds_its_lock_and_whether_they_live(it: FrontService, agent: Caller) -> None:
    stack = await it.stack()
    asked = fencing.lock_of(json.dumps({"ID": "l1", "Operation": "OperationTypeApply", "Who": "ci@host\u202e", "Created": "now"}).encode())
    async with it.front.store.begin() as tx:
        now = it.front.store.now()
        where = {"org": it.org, "stack_id": stack.id, "credential_id": "att_1"}
        password = await state.grant(tx, **where, run_id="run_1", mode="plan", epoch=0, expires_at=now + timedelta(hours=1))
        found = await state.authenticate(tx, **where, password=password)
        assert found is not None
        assert await state.lock(tx, found[0], asked, now=now) is None
    held = (await agent.call("terraform_get_workspace", env="dev"))["data"]["lock"]
    async with it.front.store.begin() as tx:
        await tx.execute(update(state.credentials).values(revoked_at="2026-01-31T12:00:00.000000Z"))
    dead = (await agent.call("terraform_get_workspace", env="dev"))["data"]["lock"]

    assert (held["id"], held["who"], held["operation"], held["run_id"]) == ("l1", "ci@host", "OperationTypeApply", "run_1")
    assert (held["lives"], dead["lives"], dead["why"]) == (True, False, "the credential was revoked")


async def test_outputs_are_those_of_the_last_apply(it: FrontService, agent: Caller) -> None:
    await it.stack()
    run = (await agent.call("apply_terraform", env="dev", wait_seconds=20))["run"]
    async with it.as_(ANA, "approver") as ana:
        await ana.call("run_approve", run_id=run["run_id"], plan_digest=run["plan_digest"])
    await it.reaches(run["run_id"], RunState.APPLIED)
    shown = (await agent.call("terraform_get_workspace", env="dev"))["data"]

    assert shown["outputs"] == {"untrusted": True, "source": f"outputs of {run['run_id']}", "values": {"made": {"value": 1}}}
    assert (shown["engine_build"], shown["runs"][0]["state"]) == ("toy 1", "applied")


# -- starting runs --------------------------------------------------------------------------------------------------------


async def test_a_folder_has_no_commits(it: FrontService, agent: Caller) -> None:
    await it.stack()
    for tool in ("terraform_plan", "terraform_validate", "apply_terraform"):
        error = await agent.refused(tool, env="dev", commit="0" * 40)
        assert (error["code"], error["field"]) == ("failed_precondition", "commit")


async def test_a_plan_to_adopt_is_stale_and_the_answer_says_how_to_go_on(it: FrontService, agent: Caller) -> None:
    await it.stack()
    error = await agent.refused("apply_terraform", env="dev", plan_digest="sha256:" + "0" * 64)

    assert (error["code"], error["field"], error["next"]) == ("plan_stale", "plan_digest", ["apply_terraform"])
    assert "without plan_digest" in error["message"]
    assert it.temporal.starts == []


async def test_auto_approve_says_what_it_is_worth(it: FrontService, agent: Caller) -> None:
    await it.stack()
    answer = await agent.call("apply_terraform", env="dev", auto_approve=True, wait_seconds=20)

    assert answer["run"]["state"] == "awaiting_approval"
    assert "changes nothing here" in answer["warnings"][0]


async def test_auto_approve_counts_where_policy_lists_the_class_and_never_for_deletes(tmp_path: Path) -> None:
    from countersign.core.plan import ChangeClass
    from countersign.core.policy import Policy

    async with front_service(tmp_path, policy=Policy(auto_approve=(ChangeClass.CREATE, ChangeClass.DELETE))) as it:
        await it.stack()
        async with it.as_(CLAUDE, "platform") as agent:
            it.engine.want(("a", "create"))
            created = await agent.call("apply_terraform", env="dev", auto_approve=True)
            await it.reaches(created["run"]["run_id"], RunState.APPLIED)
            it.engine.want(("a", "delete"))
            deleted = await agent.call("apply_terraform", env="dev", auto_approve=True, idempotency_key="delete-it", wait_seconds=20)

    assert "create, delete" in deleted["warnings"][0]
    assert deleted["run"]["state"] == "awaiting_approval"


@pytest.mark.parametrize("target", ["-out=x", " a", "a\nb", ""])
async def test_a_target_is_an_address_and_never_a_flag(it: FrontService, agent: Caller, target: str) -> None:
    await it.stack()
    error = await agent.refused("terraform_plan", env="dev", targets=[target])

    assert (error["code"], error["field"]) == ("invalid_argument", "targets.0")


async def test_validating_starts_a_run_that_only_validates(it: FrontService, agent: Caller) -> None:
    await it.stack()
    run = (await agent.call("terraform_validate", env="dev", wait_seconds=20))["run"]

    assert run["state"] == "planned_and_finished"
    assert str((await it.run(run["run_id"])).mode) == "validate"


# -- core -----------------------------------------------------------------------------------------------------------------


async def test_whoami_tells_identity_and_rights_and_no_token(it: FrontService) -> None:
    async with it.as_(CLAUDE, "ci") as agent:
        answer = await agent.call("whoami")

    data = answer["data"]
    assert (data["principal"], data["acts_for"], data["role"], data["kind"]) == ("agent:claude", "person:ana", "ci", "agent")
    assert data["permissions"] == [
        "core:read",
        "helm:read",
        "helm:write",
        "runs:read own",
        "runs:write own",
        "terraform:read",
        "terraform:write",
    ]
    assert data["environments"] == ["acme/dev", "acme/prod"]
    assert "cs_" not in json.dumps(answer)


async def test_environments_tell_protection_rules_and_open_runs(it: FrontService, agent: Caller) -> None:
    await it.stack()
    await agent.call("apply_terraform", env="dev", wait_seconds=20)
    listed = await agent.call("list_environments")
    prod = await agent.call("get_environment", ref="acme/prod")
    dev = await agent.call("get_environment", ref="dev")
    async with it.as_(OTTO, "dev") as other:
        theirs = await other.call("get_environment", ref="dev")
    wrong = await agent.refused("get_environment", ref="prdo")

    assert [(e["ref"], e["protected"], e["open_runs"]) for e in listed["data"]["environments"]] == [
        ("acme/dev", False, 1),
        ("acme/prod", True, 0),
    ]
    assert any("other than the requester" in floor for floor in prod["data"]["floors"])
    assert (len(dev["data"]["runs"]), dev["data"]["deployed"]) == (1, {"workspaces": ["main"], "total": 1})
    assert (theirs["data"]["runs"], theirs["data"]["open_runs"]) == ([], 0)
    assert "did you mean acme/prod?" in wrong["message"]


async def test_another_organization_is_not_there(agent: Caller) -> None:
    mine = await agent.call("list_organizations")
    shown = await agent.call("get_organization", ref="acme")
    for tool, argument in (("get_organization", "ref"), ("list_environments", "org")):
        assert (await agent.refused(tool, **{argument: "other"}))["code"] == "not_found"

    assert [org["slug"] for org in mine["data"]["organizations"]] == ["acme"]
    assert shown["data"]["settings"]["policy"]["approval_hours"] == 24


async def test_tools_are_found_by_meaning_and_only_those_one_may_use(it: FrontService) -> None:
    async with it.as_(CLAUDE, "ops") as ops:
        found = await ops.call("search_tools", text="destroy a workspace", limit=3)
        unlisted = await ops.call("terraform_list_workspaces")
    async with it.as_(CLAUDE, "viewer") as viewer:
        hidden = await viewer.call("search_tools", text="destroy everything", server="terraform")

    best = found["data"]["tools"][0]
    assert (best["name"], best["listed"]) == ("destroy_terraform", False)
    assert best["arguments"]["required"] == ["env"]
    assert found["page"]["returned"] == 3
    assert unlisted["data"]["workspaces"] == []
    assert "destroy_terraform" not in [tool["name"] for tool in hidden["data"]["tools"]]


async def test_bundles_and_states_are_never_read_as_artifacts(it: FrontService, agent: Caller) -> None:
    stack = await it.stack()
    await put_state(it, stack, [resource("a")])
    await agent.call("apply_terraform", env="dev", wait_seconds=20)
    async with it.front.store.read() as conn:
        kept = {row.kind: row.id for row in await conn.execute(artifacts.select().where(artifacts.c.readable.is_(False)))}

    assert set(kept) == {"state", "plan_bundle", "plan_json"}
    for artifact_id in kept.values():
        assert (await agent.refused("read_artifact", artifact_id=artifact_id))["code"] == "not_found"


# -- keys -----------------------------------------------------------------------------------------------------------------


async def test_a_key_opens_nothing_once_it_is_revoked_expired_or_of_a_role_its_kind_cannot_have(it: FrontService) -> None:
    store = it.front.store
    verifier = KeyVerifier(store)
    row, token = await keys.create_key(store, org=it.org, principal=CLAUDE, role="platform", by=SYSTEM)
    _, late = await keys.create_key(store, org=it.org, principal=CLAUDE, role="platform", by=SYSTEM, expires_at=store.now())
    _, no_role = await keys.create_key(store, org=it.org, principal=CLAUDE, role="nonsense", by=SYSTEM)
    _, agent_approver = await keys.create_key(store, org=it.org, principal=CLAUDE, role="approver", by=SYSTEM)
    _, person_approver = await keys.create_key(store, org=it.org, principal=BO, role="approver", by=SYSTEM)
    found = await verifier.verify_token(token)
    await keys.revoke_key(store, org=it.org, key_id=row.id, by=BO)

    assert found is not None
    assert token not in found.model_dump_json()
    assert await verifier.verify_token(person_approver) is not None
    for dead in (token, late, no_role, agent_approver, "cs_x", "", token[:-1] + "0"):
        assert await verifier.verify_token(dead) is None
