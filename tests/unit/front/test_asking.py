"""What a person is asked: bounded, in one line per thing, and only where their client shows it."""

from datetime import UTC, datetime
from typing import Any

import pytest
from mcp import types

from countersign.adapters.store.plans import PlanRow
from countersign.adapters.store.runs import RunRow
from countersign.core.plan import Change, ChangeClass, Counts, Plan
from countersign.core.policy import Need, Requirement
from countersign.core.principal import Kind, Principal
from countersign.core.run import Mode, RunState
from mcp_front import asking

MOMENT = datetime(2026, 1, 31, tzinfo=UTC)
DIGEST = "sha256:" + "a" * 64
RUN = "run_" + "0" * 26


def run(**given: Any) -> RunRow:
    values: dict[str, Any] = {
        "id": RUN,
        "org": "acme",
        "type": "destroy_terraform",
        "engine": "terraform",
        "mode": Mode.DESTROY,
        "stack_id": "st_1",
        "stack_path": "acme/dev/main",
        "env": "acme/dev",
        "state": RunState.AWAITING_APPROVAL,
        "requester": Principal(id="agent:claude", kind=Kind.AGENT, acts_for="person:ana"),
        "request": {},
        "message": "tidy up",
        "reason": None,
        "code": None,
        "plan_number": 1,
        "plan_digest": DIGEST,
        "change_class": "delete",
        "requirement": Requirement(need=Need.OTHER, people=1, confirm_name="acme/dev/main", rule="acme/dev is protected"),
        "expires_at": None,
        "done": 0,
        "total": 0,
        "current": "",
        "outputs": None,
        "resources": (),
        "created_at": MOMENT,
        "updated_at": MOMENT,
        "ended_at": None,
        "cursor": 1,
    }
    return RunRow(**{**values, **given})


def plan(count: int, *, risks: int = 0, address: str = "module.x.thing.of") -> PlanRow:
    changes = tuple(
        Change(address=f"{address}[{n}]", type="thing", action="delete", change_class=ChangeClass.DELETE) for n in range(min(count, 50))
    )
    summary = Plan(
        engine="terraform",
        engine_build="terraform 1.11.4",
        counts=Counts(delete=count),
        change_class=ChangeClass.DELETE,
        changes=changes,
        risks=tuple(f"risk {n}" for n in range(risks)),
    )
    return PlanRow(
        run_id=RUN,
        number=1,
        plan_digest=DIGEST,
        document=None,
        semantic_digest="",
        summary=summary,
        inputs={},
        findings=(),
        lineage=None,
        serial=1,
        created_at=MOMENT,
    )


def test_a_small_plan_is_asked_about_word_for_word() -> None:
    question = asking.agreement(run(), plan(2, risks=1), comment="as agreed")

    assert question.message.splitlines() == [
        "Approve this plan of destroy_terraform on acme/dev/main? Exactly it is applied then.",
        "2 to destroy; class delete",
        "  - module.x.thing.of[0]",
        "  - module.x.thing.of[1]",
        "Risk: risk 0",
        "Asked for by agent:claude for person:ana: tidy up",
        f"Needs a person other than the requester's; plan {DIGEST} of {RUN}",
        "Comment given with the call, recorded unless another is typed: as agreed",
        "This destroys. To approve it, type acme/dev/main",
    ]
    assert question.schema is asking.TypedConsent


def test_what_destroys_nothing_has_no_name_to_type() -> None:
    need = Requirement(need=Need.PERSON, people=1, rule="policy: any change in * needs person")

    assert asking.agreement(run(requirement=need), plan(1)).schema is asking.Consent


def test_a_large_plan_is_counted_and_not_listed() -> None:
    question = asking.agreement(run(message="m" * 500), plan(1000, risks=20, address="a" * 400))

    assert "    … and 992 more" in question.message
    assert "… and 16 more risks" in question.message
    assert len(question.message) < 4000


def test_a_question_is_the_same_whenever_it_is_asked() -> None:
    assert asking.agreement(run(updated_at=MOMENT), plan(2)).message == asking.agreement(run(cursor=9, done=3), plan(2)).message


FORM, URL = types.FormElicitationCapability(), types.UrlElicitationCapability()


@pytest.mark.parametrize(
    ("declared", "shows"),
    [
        (None, False),
        (types.ClientCapabilities(), False),
        (types.ClientCapabilities(elicitation=types.ElicitationCapability()), True),  # as clients said it before there were two ways
        (types.ClientCapabilities(elicitation=types.ElicitationCapability(form=FORM)), True),
        (types.ClientCapabilities(elicitation=types.ElicitationCapability(form=FORM, url=URL)), True),
        (types.ClientCapabilities(elicitation=types.ElicitationCapability(url=URL)), False),
    ],
)
def test_who_shows_forms_says_so(declared: types.ClientCapabilities | None, shows: bool) -> None:
    assert asking.shows_forms(declared) is shows
