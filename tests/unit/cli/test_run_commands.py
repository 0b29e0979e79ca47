"""Runs from the command line: what is asked of the front, what people and programs are told, and with which exit code."""

import json
from pathlib import Path
from typing import Any

import pytest

from countersign.cli import output
from countersign.core.errors import (
    ConfirmationRequired,
    CountersignError,
    IdempotencyMismatch,
    InvalidArgument,
    Locked,
    NotFound,
    PermissionDenied,
    PolicyDenied,
    Unauthenticated,
    Unavailable,
)
from tests.requirements import requirement
from tests.unit.cli.conftest import Invoke, document
from tests.unit.cli.fronts import DIGEST, NAME, RUN_ID, FakeFront, change, plan


def test_apply_where_nobody_can_be_asked_shows_the_plan_and_leaves_with_what_to_run(invoke: Invoke, fake: FakeFront) -> None:
    result = invoke("apply", "dev/shop")

    assert result.exit_code == 3
    assert "terraform_data.a" in result.stdout
    assert f"countersign approve {RUN_ID} --digest {DIGEST}" in result.stdout
    assert fake.asked("apply_terraform") == [{"env": "dev", "workspace": "shop"}]
    assert fake.asked("run_approve") == []


def test_apply_that_nobody_has_to_agree_to_ends_well_and_shows_results(invoke: Invoke, fake: FakeFront) -> None:
    fake.states = ["planning", "approved", "applying", "applied"]
    fake.extra = {
        "resources": {"total": 1, "items": [{"address": "terraform_data.a", "action": "create", "ok": True, "id": "id-1"}]},
        "outputs": {"values": {"url": {"value": "https://x"}}},
    }

    result = invoke("apply", "dev/shop")

    assert result.exit_code == 0
    assert "✓ terraform_data.a" in result.stdout
    assert "https://x" in result.stdout


@pytest.mark.parametrize(
    ("state", "code"), [("errored", 1), ("partially_applied", 1), ("rejected", 1), ("expired", 1), ("canceled", 1), ("needs_operator", 7)]
)
def test_a_run_that_stops_elsewhere_says_why_and_where_to_read_on(invoke: Invoke, fake: FakeFront, state: str, code: int) -> None:
    fake.states = ["planning", state]
    fake.extra = {"reason": {"text": "the bucket is taken", "untrusted": True}, "code": "provider_error"}

    result = invoke("apply", "dev/shop")

    assert result.exit_code == code
    assert "the bucket is taken" in result.stdout
    if state in ("errored", "partially_applied", "needs_operator"):
        assert f"countersign logs {RUN_ID}" in result.stdout


def test_plan_shows_what_would_change_and_asks_nobody(invoke: Invoke, fake: FakeFront) -> None:
    fake.states = ["planning", "planned_and_finished"]

    result = invoke("plan", "dev/shop", "--target", "module.a", "--destroy", "--commit", "abcdef1")

    assert result.exit_code == 0
    assert "terraform_data.a" in result.stdout
    assert f"countersign apply {NAME} --plan {DIGEST}" in " ".join(result.stdout.split())
    assert fake.asked("terraform_plan") == [
        {"env": "dev", "workspace": "shop", "targets": ["module.a"], "destroy": True, "commit": "abcdef1"}
    ]


def test_values_of_files_come_below_those_that_are_typed(invoke: Invoke, fake: FakeFront, tmp_path: Path) -> None:
    first, second, odd = (tmp_path / name for name in ("first.tfvars.json", "second.tfvars.json", "prod.tfvars"))
    first.write_text('{"size": 1, "zones": ["a"], "on": true}')
    second.write_text('{"size": 2}')
    odd.write_text("size = 1")
    fake.states = ["planned_and_finished"]

    invoke("plan", "dev/shop", "--var-file", str(first), "--var-file", str(second), "--var", "on=false")
    refused = invoke("plan", "dev/shop", "--var-file", str(odd))
    missing = invoke("plan", "dev/shop", "--var-file", str(tmp_path / "gone.json"))

    assert fake.asked("terraform_plan")[0]["vars"] == {"size": 2, "zones": ["a"], "on": False}
    assert (refused.exit_code, missing.exit_code) == (2, 2)
    assert "env/ENVIRONMENT.tfvars" in " ".join(refused.stderr.split())


def test_drift_is_looked_for_and_shown_as_what_happened(invoke: Invoke, fake: FakeFront) -> None:
    fake.states = ["planning", "planned_and_finished"]
    fake.shown_plan = {**plan(change("terraform_data.a", "update", attributes=["size: 1 → 2"])), "mode": "drift"}

    result = invoke("drift", "dev/shop")

    assert result.exit_code == 0
    assert f"Drift, looked for by {RUN_ID}" in result.stdout
    assert "size: 1 → 2" in result.stdout
    assert fake.asked("terraform_detect_drift") == [{"env": "dev", "workspace": "shop"}]


def test_an_import_is_planned_and_asks_like_an_apply(invoke: Invoke, fake: FakeFront) -> None:
    fake.states = ["planning", "awaiting_approval"]

    result = invoke("import", "dev/shop", "terraform_data.a", "id-7")

    assert result.exit_code == 3
    assert fake.asked("terraform_import") == [{"env": "dev", "workspace": "shop", "address": "terraform_data.a", "external_id": "id-7"}]


def test_findings_of_a_broken_configuration_come_with_file_and_line(invoke: Invoke, fake: FakeFront) -> None:
    fake.states = ["planning", "errored"]
    fake.shown_plan = plan(findings=[{"severity": "error", "summary": "Invalid block", "file": "main.tf", "line": 3}])

    result = invoke("plan", "dev/shop")

    assert result.exit_code == 1
    assert "Invalid block  main.tf:3" in result.stdout


def test_variables_are_json_or_text_and_secrets_go_by_name(invoke: Invoke, fake: FakeFront) -> None:
    invoke("apply", "dev/shop", "--var", "size=3", "--var", "name=a b", "--var", 'list=["x"]', "--secret-var", "password=db-password")

    assert fake.asked("apply_terraform")[0]["vars"] == {
        "size": 3,
        "name": "a b",
        "list": ["x"],
        "password": {"secret": "db-password"},
    }


@pytest.mark.parametrize("words", [("--var", "novalue"), ("--var", "=x"), ("--var", "a=1", "--secret-var", "a=b")])
def test_a_variable_that_cannot_be_read_is_a_usage_error(invoke: Invoke, fake: FakeFront, words: tuple[str, ...]) -> None:
    assert invoke("apply", "dev/shop", *words).exit_code == 2
    assert fake.calls == []


def test_the_digest_of_an_earlier_plan_message_and_key_go_along(invoke: Invoke, fake: FakeFront) -> None:
    invoke("apply", "local/dev/shop", "--plan", DIGEST, "-m", "why", "--idempotency-key", "k" * 8, "--auto-approve")

    assert fake.asked("apply_terraform") == [
        {
            "env": "local/dev",
            "workspace": "shop",
            "plan_digest": DIGEST,
            "auto_approve": True,
            "message": "why",
            "idempotency_key": "k" * 8,
        }
    ]


def test_a_bare_name_is_understood_where_there_is_one_environment(invoke: Invoke, fake: FakeFront) -> None:
    invoke("apply", "shop")

    assert fake.asked("apply_terraform") == [{"env": "local/dev", "workspace": "shop"}]


def test_a_bare_name_is_asked_back_where_there_are_several(invoke: Invoke, fake: FakeFront) -> None:
    fake.environments = ("local/dev", "local/prod")

    result = invoke("apply", "shop")

    assert result.exit_code == 2
    assert "local/dev/shop, local/prod/shop" in result.stderr


def test_without_waiting_the_run_is_told_and_left_alone(invoke: Invoke, fake: FakeFront) -> None:
    result = invoke("apply", "dev/shop", "--no-wait")

    assert result.exit_code == 0
    assert RUN_ID in result.stdout
    assert fake.asked("run_wait") == []


def test_apply_for_a_program_is_one_document_with_run_and_plan(invoke: Invoke, fake: FakeFront) -> None:
    result = invoke("apply", "dev/shop", "--json")

    told = document(result)
    assert result.exit_code == 3
    assert told["run"]["state"] == "awaiting_approval"
    assert told["run"]["plan_digest"] == DIGEST
    assert told["plan"]["changes"]["total"] == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidArgument("no"), 2),
        (NotFound("no"), 6),
        (Unavailable("no"), 4),
        (Locked("no"), 4),
        (PermissionDenied("no"), 5),
        (PolicyDenied("no"), 5),
        (IdempotencyMismatch("no"), 1),
    ],
)
def test_a_refusal_is_told_with_its_code(invoke: Invoke, fake: FakeFront, error: CountersignError, code: int) -> None:
    fake.refuses["apply_terraform"] = error

    result = invoke("apply", "dev/shop")

    assert result.exit_code == code
    assert result.stderr.strip() == f"error {error.code}: no"
    told = document(invoke("apply", "dev/shop", "--json"))
    assert told == {"error": {"code": error.code, "message": "no", "retryable": error.retryable}}


def test_the_text_of_a_refusal_is_no_markup(invoke: Invoke, fake: FakeFront) -> None:
    fake.refuses["apply_terraform"] = NotFound("no workspace [red]x[/red] \x1b[2J")

    assert invoke("apply", "dev/shop").stderr.strip() == "error not_found: no workspace [red]x[/red]"


# Agreeing


def test_approve_names_the_digest_and_follows_the_apply(invoke: Invoke, fake: FakeFront) -> None:
    result = invoke("approve", RUN_ID, "--digest", DIGEST, "--comment", "read it")

    assert result.exit_code == 0
    assert fake.asked("run_approve") == [{"run_id": RUN_ID, "plan_digest": DIGEST, "comment": "read it"}]
    assert "applied" in result.stdout


@requirement("bad:wrong-digest")
def test_approving_another_digest_says_which_one_is_current(invoke: Invoke, fake: FakeFront) -> None:
    result = invoke("approve", RUN_ID, "--digest", "sha256:" + "0" * 64)

    assert result.exit_code == 1
    assert DIGEST in result.stderr


def test_approve_without_a_digest_asks_nobody_where_nobody_is(invoke: Invoke, fake: FakeFront) -> None:
    result = invoke("approve", RUN_ID)

    assert result.exit_code == 3
    assert fake.asked("run_approve") == []
    assert f"countersign show {RUN_ID}" in " ".join(result.stderr.split())


def test_a_missing_name_is_not_permitted_and_never_filled_in(invoke: Invoke, fake: FakeFront) -> None:
    fake.confirm_name = NAME
    fake.refuses["run_approve"] = ConfirmationRequired(f"this destroys something: type {NAME!r} as confirm_name")

    result = invoke("approve", RUN_ID, "--digest", DIGEST)

    assert result.exit_code == 5
    assert fake.asked("run_approve") == [{"run_id": RUN_ID, "plan_digest": DIGEST}]


class Terminal:
    """Somebody at a terminal, who answers what is prepared."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: str) -> None:
        self.questions: list[str] = []
        self._answers = list(answers)
        monkeypatch.setattr("countersign.cli.deciding.asked", self._asked)
        monkeypatch.setattr(output, "asked", self._asked)
        monkeypatch.setattr(output.Console, "is_terminal", True)

    async def _asked(self, question: str) -> str:
        self.questions.append(question)
        return self._answers.pop(0)


def test_at_a_terminal_a_person_reads_the_plan_and_agrees_to_its_digest(
    invoke: Invoke, fake: FakeFront, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal(monkeypatch, "y")

    result = invoke("apply", "dev/shop")

    assert terminal.questions == [f"Countersign {DIGEST}? [y/N]"]
    assert fake.asked("run_approve") == [{"run_id": RUN_ID, "plan_digest": DIGEST}]
    assert result.exit_code == 0


@pytest.mark.parametrize("answer", ["", "n", "no", "yep"])
def test_anything_but_yes_decides_nothing(invoke: Invoke, fake: FakeFront, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    Terminal(monkeypatch, answer)

    assert invoke("apply", "dev/shop").exit_code == 3
    assert fake.asked("run_approve") == []


def test_what_destroys_asks_for_the_name_and_forwards_what_was_typed(
    invoke: Invoke, fake: FakeFront, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.confirm_name, fake.shown_plan = NAME, plan(change("terraform_data.a", "delete"))
    terminal = Terminal(monkeypatch, "local/dev/other")

    invoke("destroy", "dev/shop")

    assert NAME in terminal.questions[0]
    assert fake.asked("run_approve") == [{"run_id": RUN_ID, "plan_digest": DIGEST, "confirm_name": "local/dev/other"}]


def test_a_key_of_an_agent_is_never_asked_to_agree(invoke: Invoke, fake: FakeFront, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.kind = "agent"
    terminal = Terminal(monkeypatch)

    assert invoke("apply", "dev/shop").exit_code == 3
    assert terminal.questions == []


# Reading


def test_runs_stacks_and_logs_are_tables_without_control_characters(invoke: Invoke, fake: FakeFront) -> None:
    assert RUN_ID in invoke("runs", "--state", "open", "--stack", "dev/shop").stdout
    assert fake.asked("run_list") == [{"target": "dev/shop", "state": "open", "limit": 20}]
    assert "locked" in invoke("stack", "list").stdout
    assert invoke("logs", RUN_ID, "-n", "5").stdout == "line one\nline two\n"


def test_show_has_every_attribute_and_watch_the_exit_code_of_what_it_saw(invoke: Invoke, fake: FakeFront) -> None:
    fake.shown_plan = plan(change("terraform_data.a", attributes=["input: (none) → 1"]))

    assert "input: (none) → 1" in invoke("show", RUN_ID).stdout
    assert invoke("watch", RUN_ID).exit_code == 3


@pytest.mark.parametrize(
    "words",
    [
        ("plan", "dev/shop"),
        ("apply", "dev/shop"),
        ("destroy", "dev/shop"),
        ("approve", RUN_ID, "--digest", DIGEST),
        ("reject", RUN_ID, "--reason", "no"),
        ("cancel", RUN_ID),
        ("runs",),
        ("show", RUN_ID),
        ("watch", RUN_ID),
        ("logs", RUN_ID),
        ("stack", "list"),
        ("stack", "register", "dev/shop", "--source", "shop"),
    ],
)
def test_every_command_answers_a_program_with_one_document(invoke: Invoke, fake: FakeFront, words: tuple[str, ...]) -> None:
    assert document(invoke(*words, "--json"))


# Keys and addresses


def test_the_local_key_is_shown_to_the_local_front(invoke: Invoke, fake: FakeFront, data: Path) -> None:
    invoke("runs")

    assert fake.asked("connect") == [{"url": "http://127.0.0.1:8700/mcp", "token": (data / "local.key").read_text().strip()}]


def test_a_named_key_and_address_count_more_than_the_environment(
    invoke: Invoke, fake: FakeFront, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    file.write_text("cs_from_file\n")
    monkeypatch.setenv("COUNTERSIGN_KEY", "cs_from_environment")
    monkeypatch.setenv("COUNTERSIGN_URL", "http://elsewhere:1")

    invoke("runs")
    invoke("runs", "--key-file", str(file), "--url", "https://named/mcp")

    assert fake.asked("connect") == [
        {"url": "http://elsewhere:1/mcp", "token": "cs_from_environment"},
        {"url": "https://named/mcp", "token": "cs_from_file"},
    ]


def test_without_any_key_it_says_where_one_comes_from(invoke: Invoke, fake: FakeFront, data: Path) -> None:
    (data / "local.key").unlink()

    result = invoke("runs")

    assert result.exit_code == 5
    assert "countersign up" in " ".join(result.stderr.split())


@pytest.mark.parametrize(("error", "code"), [(Unavailable("it does not answer"), 4), (Unauthenticated("unknown key"), 5)])
def test_a_front_that_is_away_or_does_not_know_the_key_has_its_own_code(
    invoke: Invoke, fake: FakeFront, error: CountersignError, code: int
) -> None:
    fake.refuses["connect"] = error

    assert invoke("runs").exit_code == code


def test_a_stack_is_registered_with_what_was_given_and_no_more(invoke: Invoke, fake: FakeFront) -> None:
    result = invoke("stack", "register", "dev/shop", "--source", "shop", "--secret-var", "p=slug", "--engine", "tofu")

    wanted: dict[str, Any] = {"env": "dev", "workspace": "shop", "source": {"path": "shop"}, "engine": "tofu"}
    assert fake.asked("terraform_register_workspace") == [{**wanted, "vars": {"p": {"secret": "slug"}}}]
    assert "countersign apply local/dev/shop" in result.stdout
    invoke("stack", "register", "dev/shop", "--source", "shop", "--reads", "dev/net", "--drift-every", "2h")
    more = {"env": "dev", "workspace": "shop", "source": {"path": "shop"}, "reads": ["dev/net"], "drift_every": "2h"}
    assert fake.asked("terraform_register_workspace")[1] == more


def test_a_stack_is_forgotten_and_a_lock_broken_by_the_name_given(invoke: Invoke, fake: FakeFront) -> None:
    forgotten = invoke("stack", "forget", "dev/shop", "--name", NAME)
    unlocked = invoke("stack", "unlock", "dev/shop", "lock-1", "--name", NAME)

    where = {"env": "dev", "workspace": "shop"}
    assert fake.asked("terraform_forget_workspace") == [{**where, "confirm_name": NAME}]
    assert fake.asked("terraform_force_unlock") == [{**where, "lock_id": "lock-1", "confirm_name": NAME}]
    assert (f"{NAME} is forgotten" in forgotten.stdout, f"{NAME} is unlocked" in unlocked.stdout) == (True, True)


def test_at_a_terminal_the_name_is_asked_after_it_is_known_to_be_possible(
    invoke: Invoke, fake: FakeFront, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal(monkeypatch, NAME)
    invoke("stack", "unlock", "dev/shop", "lock-1")

    where = {"env": "dev", "workspace": "shop", "lock_id": "lock-1"}
    assert fake.asked("terraform_force_unlock") == [{**where, "dry_run": True}, {**where, "confirm_name": NAME}]
    assert terminal.questions == ["This breaks the lock lock-1. Type the path of the stack, org/env/slug, or nothing to leave:"]


def test_settings_that_cannot_be_read_are_a_usage_error_for_people_and_programs(
    invoke: Invoke, fake: FakeFront, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COUNTERSIGN_FRONT_PORT", "abc")

    assert invoke("runs").exit_code == 2
    told = invoke("doctor", "--json")
    assert told.exit_code == 2
    assert document(told)["error"]["field"] == "front_port"


STEPS = [{"type": "apply_terraform", "input": {"env": "dev", "workspace": "net"}}]


@pytest.mark.parametrize("written", [STEPS, {"steps": STEPS}])
def test_compose_asks_for_the_steps_of_a_file_as_one_run(invoke: Invoke, fake: FakeFront, tmp_path: Path, written: Any) -> None:
    file = tmp_path / "shop.json"
    file.write_text(json.dumps(written))
    fake.extra = {
        "steps_of_it": [
            {"step": 1, "type": "apply_terraform", "workspace": "local/dev/net", "state": "applied", "run_id": "run_1"},
            {
                "step": 2,
                "type": "apply_terraform",
                "workspace": "local/dev/app",
                "state": "pending",
                "planned_later": {"text": "no state yet", "untrusted": True},
            },
        ]
    }

    result = invoke("compose", str(file), "--message", "the shop")
    told = invoke("show", RUN_ID)

    assert result.exit_code == 3
    assert fake.asked("run_start") == [{"type": "composite", "input": {"steps": STEPS}, "message": "the shop"}]
    assert "1 ● applied  apply_terraform local/dev/net  run_1" in told.stdout
    assert "planned later: no state yet" in " ".join(told.stdout.split())


@pytest.mark.parametrize("text", ["{}", "[", '"steps"'])
def test_a_file_that_holds_no_steps_is_refused_with_what_it_should_hold(invoke: Invoke, fake: FakeFront, tmp_path: Path, text: str) -> None:
    file = tmp_path / "shop.json"
    file.write_text(text)

    result = invoke("compose", str(file))

    assert result.exit_code == 2
    assert "holds no list of steps" in " ".join(result.stderr.split())
    assert invoke("compose", str(tmp_path / "none.json")).exit_code == 2
    assert fake.calls == []
