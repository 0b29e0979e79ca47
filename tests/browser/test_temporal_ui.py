"""The Temporal Web UI is enough to decide: everything an operator has to know stands there, and what they send counts or is
refused with a reason they can read."""

import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.installed import call, eventually
from tests.browser.conftest import Place, Visit
from tests.browser.temporal_ui import TemporalUi
from tests.requirements import requirement

pytestmark = pytest.mark.anyio

COLUMNS = ("CsStack", "CsEnv", "CsChangeClass", "CsRequester")
OTHER_DIGEST = "sha256:" + "0" * 64


# What it shows.


@requirement("ui:list")
async def test_the_list_of_what_waits_shows_stack_environment_change_class_and_requester_and_opens_nothing(
    trusted: Place, visit: Visit
) -> None:
    await trusted.register("listed", env="prod")
    run = await trusted.ask("listed", env="prod")
    await trusted.register("done")
    await trusted.applied("done")
    ui = await visit(trusted)

    await ui.runs_that_wait()
    await ui.show_columns(*COLUMNS, instead_of=("Run ID", "Type", "End"))

    row = await ui.row_of(run["run_id"])
    assert {column: row[column] for column in COLUMNS[:3]} == {
        "CsStack": "local/prod/listed",
        "CsEnv": "local/prod",
        "CsChangeClass": "create",
    }
    assert re.fullmatch(r"agent_[0-9a-f]{12}", row["CsRequester"])
    assert all(row["CsStack"] != "local/dev/done" for row in await ui.rows())
    await ui.open(run["run_id"])
    assert f"in lists of runs: {row['CsRequester']}" in await ui.standing_details()
    await ui.runs_that_wait()  # the browser keeps view and columns
    assert (await ui.row_of(run["run_id"]))["CsStack"] == "local/prod/listed"


@requirement("ui:page", "details:what-to-send")
async def test_the_page_of_a_run_shows_what_it_destroys_first_then_the_risks_the_digest_and_what_to_send_where(
    trusted: Place, visit: Visit
) -> None:
    await trusted.register("shown", "names")
    await trusted.applied("shown", names=["old", "stays"])
    run = await trusted.ask("shown", vars={"names": ["born", "stays"], "born": "tuesday"}, message="spring cleaning, see OPS-7")
    ui = await visit(trusted)
    await ui.open(run["run_id"])

    said = await ui.details("Waiting for approval")

    lines = said.split("\n")
    assert lines[0] == "Waiting for approval: local/dev/shown"
    assert "apply_terraform asked for by agent:claude for person:ana" in said
    assert "why: spring cleaning, see OPS-7" in said
    assert "1 to add, 1 to replace, 1 to destroy · class delete" in said
    assert any(line.startswith("⚠") and "destroyed" in line for line in lines)
    assert [line.strip() for line in lines if "terraform_data.thing[" in line and not line.startswith("⚠")] == [
        '- terraform_data.thing["old"]',
        '-/+ terraform_data.thing["stays"] (because of triggers_replace)',
        '+ terraform_data.thing["born"]',
    ]
    assert f'{{"plan_digest": "{run["plan_digest"]}", "confirm_name": "…"}}' in said
    assert '{"reason": "…"}' in said
    assert "Needs a person" in said
    for part in ("destroyed", '- terraform_data.thing["old"]', "Decide by", "To agree"):
        assert said.index(part) < said.index(run["plan_digest"])


async def test_the_dialogs_offer_what_a_run_takes_and_say_what_each_is(trusted: Place, visit: Visit) -> None:
    await trusted.register("offered")
    run = await trusted.ask("offered")
    ui = await visit(trusted)
    await ui.open(run["run_id"])

    updates = await ui.offers("Send an Update")
    signals = await ui.offers("Send a Signal")

    assert {"approve", "reject"} <= set(updates)
    assert "plan_digest" in updates["approve"] and "reason" in updates["reject"]
    assert {"approve", "reject", "cancel", "resume", "wake"} <= set(signals)
    assert all(signals[name] for name in ("approve", "reject", "cancel", "resume", "wake"))


# What is sent.


@requirement("ui:approve-by-update", "promise:approved-is-what-runs")
async def test_the_json_of_the_page_pasted_into_an_update_applies_exactly_that_plan(trusted: Place, visit: Visit) -> None:
    await trusted.register("pasted")
    run = await trusted.ask("pasted")
    ui = await visit(trusted)
    await ui.open(run["run_id"])
    await ui.details("Waiting for approval")

    await ui.copy_json("plan_digest")
    refused = await ui.update("approve", None)

    assert refused is None
    said = await ui.details("Applied: local/dev/pasted")
    assert "Agreed: person:temporal-ui." in said
    got = await trusted.get(run["run_id"], include=("approvals", "resources"))
    assert got["run"]["state"] == "applied"
    (approval,) = got["data"]["approvals"]
    assert (approval["by"], approval["channel"], approval["plan_digest"]) == ("person:temporal-ui", "temporal_ui", run["plan_digest"])
    assert len(got["data"]["resources"]["items"]) == 2


@requirement("ui:approve-by-update")
async def test_a_rejection_by_update_ends_the_run_with_its_reason_and_changes_nothing(trusted: Place, visit: Visit) -> None:
    await trusted.register("rejected")
    run = await trusted.ask("rejected")
    ui = await visit(trusted)
    await ui.open(run["run_id"])
    await ui.details("Waiting for approval")

    await ui.copy_json("reason")
    assert await ui.update("reject", json.dumps({"reason": "not on a Friday"})) is None

    assert "not on a Friday" in await ui.details("Rejected: local/dev/rejected")
    got = await trusted.get(run["run_id"])
    assert (got["run"]["state"], got["data"]["reason"]["text"]) == ("rejected", "not on a Friday")


@requirement("bad:wrong-digest", "bad:wrong-typed-name", "promise:destroying-asks")
async def test_a_wrong_digest_and_a_missing_name_are_refused_in_the_dialog_and_the_right_ones_destroy(trusted: Place, visit: Visit) -> None:
    await trusted.register("named")
    await trusted.applied("named")
    run = await trusted.ask("named", tool="destroy_terraform")
    digest = run["plan_digest"]
    ui = await visit(trusted)
    await ui.open(run["run_id"])
    await ui.details("Waiting for approval")

    assert await ui.update("approve", json.dumps({"plan_digest": OTHER_DIGEST})) == f"that is another plan; the current one is {digest}"
    asks = "this destroys something: type 'local/dev/named' as confirm_name"
    assert await ui.update("approve", json.dumps({"plan_digest": digest})) == f"{asks} (no name was given)"
    await ui.copy_json("plan_digest")
    assert await ui.update("approve", None) == f"{asks} (another name was given)"  # the dots are nobody's name
    said = await ui.details("Refused", asks)
    assert said.startswith("Waiting for approval")
    assert (await trusted.get(run["run_id"]))["run"]["state"] == "awaiting_approval"

    assert await ui.update("approve", json.dumps({"plan_digest": digest, "confirm_name": "local/dev/named"})) is None
    await ui.details("Applied: local/dev/named")


@requirement("bad:malformed-signal", "ui:approve-by-signal")
async def test_signals_answer_nothing_so_each_refusal_stands_in_the_details_until_a_right_one_applies(trusted: Place, visit: Visit) -> None:
    await trusted.register("signaled")
    run = await trusted.ask("signaled")
    ui = await visit(trusted)
    await ui.open(run["run_id"])
    await ui.details("Waiting for approval")

    for data in ("", "{}", json.dumps({"plan_digest": OTHER_DIGEST})):
        assert await ui.signal("approve", data) is None

    said = await ui.details("Refused", "that is another plan", "Refused signals", "wrong or missing: plan_digest")
    assert "approve: send exactly one JSON object, not 0" in said
    assert said.startswith("Waiting for approval")
    assert (await trusted.get(run["run_id"]))["run"]["state"] == "awaiting_approval"
    await ui.copy_json("plan_digest")
    assert await ui.signal("approve", None) is None
    await ui.details("Applied: local/dev/signaled")


@requirement("bad:malformed-update")
async def test_a_malformed_update_changes_nothing_and_the_dialog_says_what_is_wrong_with_it(trusted: Place, visit: Visit) -> None:
    await trusted.register("malformed")
    run = await trusted.ask("malformed")
    ui = await visit(trusted)
    await ui.open(run["run_id"])

    assert await ui.update("approve", "") == "send exactly one JSON object, not 0"
    assert await ui.update("approve", "[1]") == "what was sent is no JSON object"
    assert await ui.update("approve", '{"plan_digest": "yes"}') == "plan_digest must be sha256: and 64 hex digits, as shown with the plan"
    assert await ui.update("approve", f'{{"plan_digest": "{run["plan_digest"]}", "name": "x"}}') == "unknown: name"
    assert await ui.update("reject", '{"reason": " "}') == "a rejection needs a reason"
    assert "Input must be valid JSON" in (await ui.update("approve", "{oops") or "")

    assert "Refused" not in await ui.details("Waiting for approval")
    got = await trusted.get(run["run_id"], include=("approvals", "timeline"))
    assert got["run"]["state"] == "awaiting_approval"
    assert got["data"]["approvals"] == [] and all(e["kind"] != "refused" for e in got["data"]["timeline"])


# Whom it lets decide.


@requirement("ui:off")
async def test_where_the_ui_is_not_trusted_its_decisions_are_refused_and_the_page_names_what_works(untrusted: Place, visit: Visit) -> None:
    await untrusted.register("elsewhere")
    run = await untrusted.ask("elsewhere")
    ui = await visit(untrusted)
    await ui.open(run["run_id"])

    said = await ui.details("Waiting for approval", f"countersign approve {run['run_id']}", run["plan_digest"])
    assert "To agree" not in said
    agreed = json.dumps({"plan_digest": run["plan_digest"]})
    why = "decisions from the Temporal UI are not accepted here (ui_approvals); "
    why += "use `countersign approve`, its page (`countersign open`), or an MCP client"
    assert await ui.update("approve", agreed) == why
    assert await ui.update("reject", '{"reason": "no"}') == why
    assert await ui.signal("approve", agreed) is None
    said = await ui.details("Refused", "machine:unknown")
    assert said.count("are not accepted here (ui_approvals)") == 3
    assert (await untrusted.get(run["run_id"]))["run"]["state"] == "awaiting_approval"

    await call(untrusted.person, "run_approve", run_id=run["run_id"], plan_digest=run["plan_digest"])
    await ui.details("Applied: local/dev/elsewhere", "Agreed: person:bo")


@requirement("ui:protected")
async def test_the_unnamed_person_of_the_ui_approves_nothing_in_a_protected_environment_but_may_stop_it(
    trusted: Place, visit: Visit
) -> None:
    await trusted.register("guarded", env="prod")
    run = await trusted.ask("guarded", env="prod")
    ui = await visit(trusted)
    await ui.open(run["run_id"])

    said = await ui.details("Waiting for approval", "Needs a person other than the requester's", run["plan_digest"])
    assert f"countersign approve {run['run_id']}" in said and "`approve`" not in said
    refused = await ui.update("approve", json.dumps({"plan_digest": run["plan_digest"]}))
    assert refused is not None and refused.startswith("a decision from the Temporal UI names nobody")
    assert await ui.signal("approve", json.dumps({"plan_digest": run["plan_digest"]})) is None
    await ui.details("Refused", "person:temporal-ui: a decision from the Temporal UI names nobody")
    assert (await trusted.get(run["run_id"]))["run"]["state"] == "awaiting_approval"

    assert await ui.update("reject", '{"reason": "not yet"}') is None
    await ui.details("Rejected: local/prod/guarded", "not yet")


# What else that UI can do to a run.


@requirement("bad:reset-after-approval", "bad:reset-mid-apply", "I3")
async def test_a_reset_in_mid_apply_and_another_when_it_is_done_apply_nothing_twice(trusted: Place, visit: Visit, tmp_path: Path) -> None:
    world = tmp_path / "world"
    ui, run_id = await applying(trusted, visit, "again", world)
    pids = trusted.engines()
    assert len(pids) == 1

    await ui.reset("what does this button do")

    assert trusted.engines() == pids
    (world / "1.open").touch()
    await ui.details("Applied: local/dev/again")
    await ui.ends("completed")
    await ui.reset("and of what is done")
    await ui.details("Applied: local/dev/again")
    await ui.ends("completed")
    assert await attempts(trusted, run_id) == 1
    assert trusted.engines() == []


@requirement("ui:terminate")
async def test_a_workflow_terminated_before_the_apply_leaves_a_canceled_run_with_the_reason_given(trusted: Place, visit: Visit) -> None:
    await trusted.register("ended")
    run = await trusted.ask("ended")
    ui = await visit(trusted)
    await ui.open(run["run_id"])
    await ui.details("Waiting for approval")

    await ui.terminate("the change window is over")

    await ui.ends("terminated")
    got = await reaches(trusted, run["run_id"], "canceled")
    assert "before anything was changed: the change window is over" in got["data"]["reason"]["text"]
    await shows(ui, run["run_id"], "Canceled: local/dev/ended", "the change window is over")
    again = await trusted.ask("ended")  # nothing is blocked by it
    assert again["run_id"] != run["run_id"]


@requirement("ui:terminate", "promise:crash-costs-nothing")
async def test_a_workflow_terminated_in_mid_apply_stops_no_apply_and_the_record_says_applied(
    trusted: Place, visit: Visit, tmp_path: Path
) -> None:
    world = tmp_path / "world"
    ui, run_id = await applying(trusted, visit, "midway", world)
    pids = trusted.engines()

    await ui.terminate("stop it")

    await ui.ends("terminated")
    assert trusted.engines() == pids
    (world / "1.open").touch()
    await reaches(trusted, run_id, "applied")
    assert await attempts(trusted, run_id) == 1
    await shows(ui, run_id, "Applied: local/dev/midway")


async def test_a_cancellation_requested_in_the_ui_ends_a_run_that_waits(trusted: Place, visit: Visit) -> None:
    await trusted.register("canceled")
    run = await trusted.ask("canceled")
    ui = await visit(trusted)
    await ui.open(run["run_id"])

    await ui.request_cancellation()

    await ui.details("Canceled: local/dev/canceled", "cancellation requested in Temporal")
    assert (await trusted.get(run["run_id"]))["run"]["state"] == "canceled"


# Means.


async def applying(place: Place, visit: Callable[[Place], Awaitable[TemporalUi]], slug: str, world: Path) -> tuple[TemporalUi, str]:
    """A run whose apply, agreed to in the UI, has come to its gate."""
    world.mkdir()
    place.gates.append(world / "1.open")
    await place.register(slug, "gates", world=str(world))
    run = await place.ask(slug)
    ui = await visit(place)
    await ui.open(run["run_id"])
    assert await ui.update("approve", json.dumps({"plan_digest": run["plan_digest"]})) is None

    async def there() -> bool:
        return (world / "1.reached").exists()

    await eventually(there, "the apply to reach its gate")
    said = await ui.details("local/dev/" + slug, "Agreed: person:temporal-ui.")
    assert "To agree" not in said
    await ui.under_way("terraform.apply", "1 of 5 done, in the works: terraform_data.gate")
    return ui, run["run_id"]


async def shows(ui: TemporalUi, run_id: str, *words: str) -> None:
    """What Temporal shows of the run when its page is opened anew, once the newest workflow has ended by itself."""

    async def completed() -> bool:
        await ui.open(run_id)
        return await ui.status() == "completed"

    await eventually(completed, f"a workflow of {run_id} that ended by itself", 30.0)
    await ui.details(*words)


async def reaches(place: Place, run_id: str, state: str) -> dict[str, Any]:
    async def there() -> dict[str, Any] | None:
        got = await place.get(run_id)
        return got if got["run"]["state"] == state else None

    got: dict[str, Any] = await eventually(there, f"{run_id} to be {state}")
    return got


async def attempts(place: Place, run_id: str) -> int:
    timeline = (await place.get(run_id, include=("timeline",)))["data"]["timeline"]
    return sum(e["kind"] == "state" and e["state"] == "applying" for e in timeline)
