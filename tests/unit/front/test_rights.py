"""Who may use what: written out, role by role, and the edges where a right ends."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from countersign.adapters.store.runs import RunRow
from countersign.core.errors import InvalidArgument
from countersign.core.principal import Kind, Principal
from countersign.core.run import Mode, RunState
from mcp_front.auth import local_agent
from mcp_front.domain import Access
from mcp_front.rights import Caller, allowed, checked_role, listed, permissions
from mcp_front.tools import toolset

TOOLS = toolset().tools
ANA = Principal(id="person:ana", kind=Kind.PERSON)
CLAUDE = Principal(id="agent:claude", kind=Kind.AGENT, acts_for="person:ana")
CI = Principal(id="machine:ci", kind=Kind.MACHINE)
MOMENT = datetime(2026, 1, 31, tzinfo=UTC)

CORE = {"whoami", "list_organizations", "get_organization", "list_environments", "get_environment", "search_tools", "read_artifact"}
CARRIED = {"run_get", "run_wait", "run_plan", "run_logs", "run_cancel"}  # of one's own runs, whatever the role
RUNS_R = {"run_get", "run_list", "run_wait", "run_plan", "run_logs", "run_evidence"}
RUNS_W = {"run_start", "run_cancel", "run_resume", "run_rerun"}
RUNS_A = {"run_approve", "run_reject"}
TERRAFORM_R = {"terraform_list_workspaces", "terraform_get_workspace", "terraform_get_state"}
TERRAFORM_W = {
    "terraform_register_workspace",
    "terraform_validate",
    "terraform_plan",
    "terraform_detect_drift",
    "terraform_import",
    "apply_terraform",
}
TERRAFORM_D = {"terraform_forget_workspace", "terraform_force_unlock", "destroy_terraform"}

HELM_R = {"helm_search_charts", "helm_get_chart", "helm_list_releases", "helm_get_release"}
HELM_W, HELM_D = {"helm_deploy"}, {"helm_rollback", "helm_uninstall"}

# What exists for an agent of each role; "approver" is for people.
AGENTS_MAY = {
    "dev": CORE | RUNS_R | RUNS_W,
    "ops": CORE | RUNS_R | RUNS_W | TERRAFORM_R | TERRAFORM_W | TERRAFORM_D | HELM_R | HELM_W | HELM_D,
    "admin": CORE | RUNS_R | RUNS_W | RUNS_A | TERRAFORM_R | TERRAFORM_W | TERRAFORM_D | HELM_R | HELM_W | HELM_D,
    "ui": CORE | RUNS_R | CARRIED,
    "viewer": CORE | RUNS_R | CARRIED | TERRAFORM_R | HELM_R,
    "platform": CORE | RUNS_R | RUNS_W | TERRAFORM_R | TERRAFORM_W | TERRAFORM_D | HELM_R | HELM_W | HELM_D,
    "sre": CORE | RUNS_R | RUNS_W | TERRAFORM_R | HELM_R | HELM_W,
    "security": CORE | RUNS_R | CARRIED | TERRAFORM_R | HELM_R,
    "ci": CORE | RUNS_R | RUNS_W | TERRAFORM_R | TERRAFORM_W | HELM_R | HELM_W,
    "worker": CORE | RUNS_R | RUNS_W,
}
LISTED = {
    "dev": CORE | CARRIED,
    "ops": CORE | CARRIED,
    "admin": CORE | CARRIED,
    "ui": CORE | CARRIED,
    "viewer": CORE | CARRIED | RUNS_R,
    "platform": CORE | CARRIED | RUNS_R | RUNS_W | TERRAFORM_R | TERRAFORM_W | TERRAFORM_D | HELM_R | HELM_W | HELM_D,
    "sre": CORE | CARRIED | RUNS_R | RUNS_W,
    "security": CORE | CARRIED | RUNS_R,
    "ci": CORE | CARRIED | RUNS_R | RUNS_W,
    "worker": CORE | CARRIED,
}


def caller(principal: Principal, role: str, **facts: Any) -> Caller:
    return Caller(principal=principal, org="acme", role=role, **facts)


def run_of(requester: Principal, env: str = "acme/dev") -> RunRow:
    return RunRow(
        id="run_" + "0" * 26,
        org="acme",
        type="apply_terraform",
        engine="terraform",
        mode=Mode.APPLY,
        stack_id="st_1",
        stack_path=f"{env}/main",
        env=env,
        state=RunState.AWAITING_APPROVAL,
        requester=requester,
        request={},
        message=None,
        reason=None,
        code=None,
        plan_number=1,
        plan_digest="sha256:" + "0" * 64,
        change_class="create",
        requirement=None,
        expires_at=None,
        done=0,
        total=1,
        current="",
        outputs=None,
        resources=(),
        created_at=MOMENT,
        updated_at=MOMENT,
        ended_at=None,
        cursor=1,
    )


@pytest.mark.parametrize("role", AGENTS_MAY)
def test_an_agent_may_use_exactly_what_its_role_gives(role: str) -> None:
    assert {name for name, spec in TOOLS.items() if allowed(caller(CLAUDE, role), spec)} == AGENTS_MAY[role]


@pytest.mark.parametrize("role", LISTED)
def test_a_role_loads_what_the_catalogue_prints_bold(role: str) -> None:
    assert {name for name, spec in TOOLS.items() if listed(caller(CLAUDE, role), spec)} == LISTED[role]


def test_a_role_nobody_wrote_down_gives_nothing() -> None:
    assert not any(allowed(caller(ANA, "root"), spec) for spec in TOOLS.values())


def test_asking_for_servers_loads_what_is_allowed_and_nothing_else() -> None:
    loaded = {name for name, spec in TOOLS.items() if listed(caller(CLAUDE, "viewer"), spec, frozenset({"terraform"}))}

    assert loaded == TERRAFORM_R


def test_asking_for_core_keeps_what_core_carries() -> None:
    loaded = {name for name, spec in TOOLS.items() if listed(caller(CLAUDE, "dev"), spec, frozenset({"core"}))}

    assert loaded == CORE | CARRIED


def test_a_dev_reaches_the_runs_it_asked_for_and_those_of_nobody_else() -> None:
    dev = caller(CLAUDE, "dev")

    assert allowed(dev, TOOLS["run_cancel"], run=run_of(CLAUDE))
    assert not allowed(dev, TOOLS["run_get"], run=run_of(Principal(id="agent:otto", kind=Kind.AGENT, acts_for="person:bo")))


def test_a_person_owns_the_runs_of_their_agent_and_not_the_other_way_round() -> None:
    assert allowed(caller(ANA, "dev"), TOOLS["run_get"], run=run_of(CLAUDE))
    assert not allowed(caller(CLAUDE, "dev"), TOOLS["run_get"], run=run_of(ANA))


def test_a_viewer_sees_every_run_and_cancels_only_their_own() -> None:
    viewer = caller(CLAUDE, "viewer")

    assert allowed(viewer, TOOLS["run_get"], run=run_of(CI))
    assert not allowed(viewer, TOOLS["run_cancel"], run=run_of(CI))


def test_a_person_of_any_role_may_confirm_their_own_run_and_no_other() -> None:
    for role in ("dev", "viewer", "ui"):
        assert allowed(caller(ANA, role), TOOLS["run_approve"], run=run_of(CLAUDE))
        assert not allowed(caller(ANA, role), TOOLS["run_approve"], run=run_of(CI))
        assert not allowed(caller(ANA, role), TOOLS["run_reject"], run=run_of(CLAUDE))


def test_only_people_decide_about_protected_environments() -> None:
    run = run_of(CI, env="acme/prod")

    assert allowed(caller(CLAUDE, "admin"), TOOLS["run_approve"], run=run, protected=False)
    assert not allowed(caller(CLAUDE, "admin"), TOOLS["run_approve"], run=run, protected=True)
    assert allowed(caller(ANA, "approver"), TOOLS["run_approve"], run=run, protected=True)


def test_over_stdio_nobody_decides_whatever_the_role() -> None:
    local = local_agent("ana", org="acme", role="admin")

    assert (local.principal.kind, local.principal.acts_for) == (Kind.AGENT, "person:ana")
    assert not [name for name, spec in TOOLS.items() if spec.access is Access.DECIDE and allowed(local, spec)]
    assert "runs:approve" not in permissions(local, frozenset({"runs"}))
    assert not allowed(replace(local, principal=ANA), TOOLS["run_approve"], run=run_of(ANA))


@pytest.mark.parametrize(
    ("user", "person"),
    [
        ("ana", "person:ana"),
        ("DOMAIN\\ana", "person:DOMAIN-ana"),
        ("../../x", "person:x"),
        ("", "person:local"),
        ("a" * 300, "person:" + "a" * 90),
    ],
)
def test_a_local_users_name_becomes_a_principal_whatever_it_holds(user: str, person: str) -> None:
    assert local_agent(user, org="acme", role="platform").principal.acts_for == person


def test_the_role_of_approvers_is_for_people() -> None:
    assert checked_role("approver", Kind.PERSON) == "approver"
    for kind in (Kind.AGENT, Kind.MACHINE):
        with pytest.raises(InvalidArgument, match="for people"):
            checked_role("approver", kind)


def test_an_unknown_role_is_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidArgument, match="dev, ops, admin"):
        checked_role("root", Kind.PERSON)


def test_permissions_are_told_in_the_words_of_the_catalogue() -> None:
    assert permissions(caller(CLAUDE, "ci"), frozenset({"core", "runs", "terraform"})) == [
        "core:read",
        "runs:read own",
        "runs:write own",
        "terraform:read",
        "terraform:write",
    ]
