"""The run's page in the Temporal UI: what it tells, and that nobody else's text can take it over."""

import json
import re
import unicodedata
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from countersign.core.details import change_line, details, plain, plan_block, who_must_agree
from countersign.core.plan import Change, ChangeClass, Counts, Plan
from countersign.core.policy import Need, Requirement
from countersign.core.principal import Kind, Principal
from countersign.core.run import RunState
from tests.requirements import requirement

DIGEST = "sha256:" + "d" * 64
CLAUDE = Principal(id="agent:claude", kind=Kind.AGENT, acts_for="person:ana")
SIZE = 20_000  # bytes that a page may have (reference/temporal-python.md)


def change(address: str, action: str = "create", change_class: ChangeClass = ChangeClass.CREATE, **more: Any) -> Change:
    return Change(address=address, type="t", action=action, change_class=change_class, **more)


def plan(*changes: Change, counts: Counts | None = None, **more: Any) -> Plan:
    return Plan(engine="terraform", engine_build="b", changes=changes, counts=counts or Counts(create=len(changes)), **more)


def page(**facts: Any) -> str:
    return details(
        **{
            "run_id": "run_1",
            "stack_path": "acme/dev/net",
            "run_type": "apply_terraform",
            "requester": CLAUDE,
            "message": None,
            "decides_here": True,
            "state": RunState.AWAITING_APPROVAL,
            "reason": None,
            "plan": None,
            "plan_digest": None,
            "requirement": None,
            "expires_at": None,
            **facts,
        }
    )


def needs(need: Need, name: str | None = None, rule: str = "policy: any change in * needs person") -> Requirement:
    return Requirement(need=need, people=1, confirm_name=name, rule=rule)


# What it tells.


@requirement("details:what-to-send")
def test_the_page_of_a_waiting_run_says_everything_one_needs_to_decide() -> None:
    text = page(
        plan=plan(
            change("terraform_data.old", "delete", ChangeClass.DELETE),
            change("terraform_data.new"),
            counts=Counts(create=1, delete=1),
            change_class=ChangeClass.DELETE,
            risks=("1 object would be destroyed: terraform_data.old.",),
        ),
        plan_digest=DIGEST,
        requirement=needs(Need.PERSON, "acme/dev/net"),
        message="make room",
        expires_at=datetime(2026, 3, 2, 12, 30, tzinfo=UTC),
    )

    assert (
        text
        == f"""## Waiting for approval: `acme/dev/net`

`apply_terraform` asked for by `agent:claude` for `person:ana`
why: `make room`

**1 to add, 1 to destroy** · class **delete**
⚠ `1 object would be destroyed: terraform_data.old.`

`- terraform_data.old`
`+ terraform_data.new`

### Decide by 2026-03-02 12:30 UTC

Needs **a person** (`policy: any change in * needs person`).

To agree: *More Actions*, *Send an Update*, `approve`, with

`{{"plan_digest": "{DIGEST}", "confirm_name": "…"}}`

It destroys something: type its name, the one on top, in place of the dots.

To end the run before any change: *More Actions*, *Send an Update*, `reject`, with

`{{"reason": "…"}}`

*Send a Signal* takes the same names and data and gives no answer: a refusal is told here, after pressing *R*."""
    )


@requirement("details:what-to-send")
@requirement("git:planned-commit")
def test_the_page_says_which_commit_was_planned() -> None:
    told = page(plan=plan(change("a.b"), source="commit 0123456789ab of refs/heads/main, https://git.example.com/acme/live, stacks/shop"))

    assert "from `commit 0123456789ab of refs/heads/main, https://git.example.com/acme/live, stacks/shop`" in told


def test_where_nothing_is_destroyed_no_name_is_asked_for() -> None:
    text = page(plan_digest=DIGEST, requirement=needs(Need.PERSON))

    assert [json.loads(data) for data in to_paste(text)] == [{"plan_digest": DIGEST}, {"reason": "…"}]
    assert "confirm_name" not in text
    assert "### Decide\n" in text


@requirement("details:what-to-send", "ui:protected")
@pytest.mark.parametrize("need", [Need.OTHER, Need.TWO])
def test_where_a_named_person_is_needed_the_page_asks_for_no_agreement_in_the_ui_and_says_what_works(need: Need) -> None:
    text = page(run_id="run_7", plan_digest=DIGEST, requirement=needs(need))

    assert "`countersign approve run_7`" in text
    assert f"`{DIGEST}`" in text
    assert [json.loads(data) for data in to_paste(text)] == [{"reason": "…"}]


@requirement("details:what-to-send", "ui:off")
def test_where_the_ui_does_not_decide_the_page_asks_for_nothing_there_and_says_what_works() -> None:
    text = page(run_id="run_7", plan_digest=DIGEST, requirement=needs(Need.PERSON), decides_here=False)

    assert "`countersign approve run_7`, `countersign reject run_7`" in text
    assert f"`{DIGEST}`" in text
    assert "Send an Update" not in text
    assert to_paste(text) == []


@requirement("promise:destroying-asks")
def test_the_name_to_type_cannot_be_copied_from_the_json() -> None:
    text = page(stack_path="the stack", plan_digest=DIGEST, requirement=needs(Need.PERSON, "acme/dev/net", rule="r"))

    assert "acme/dev/net" not in text


@pytest.mark.parametrize("state", [s for s in RunState if s is not RunState.AWAITING_APPROVAL])
def test_nobody_is_asked_to_decide_about_a_run_that_does_not_wait(state: RunState) -> None:
    assert "approve`" not in page(state=state, plan_digest=DIGEST, requirement=needs(Need.PERSON))


@pytest.mark.parametrize("missing", ["plan_digest", "requirement"])
def test_a_run_that_waits_without_a_plan_asks_for_nothing(missing: str) -> None:
    facts = {"plan_digest": DIGEST, "requirement": needs(Need.PERSON), missing: None}

    assert "approve`" not in page(**facts)


@pytest.mark.parametrize(
    ("need", "people"),
    [
        (Need.CONFIRM, "the requester again, or a person"),
        (Need.PERSON, "a person"),
        (Need.OTHER, "a person other than the requester's"),
        (Need.TWO, "two people other than the requester's"),
        (Need.AUTO, "nobody"),
        (Need.DENY, "nobody"),
    ],
)
def test_who_must_agree_in_words(need: Need, people: str) -> None:
    assert who_must_agree(needs(need)) == people


@pytest.mark.parametrize(
    ("state", "headline"),
    [
        (RunState.AWAITING_APPROVAL, "Waiting for approval"),
        (RunState.NEEDS_OPERATOR, "Needs an operator"),
        (RunState.PENDING, "Waiting for its turn"),
        (RunState.PLANNED_AND_FINISHED, "Planned and finished"),
        (RunState.APPLIED, "Applied"),
    ],
)
def test_the_headline_says_where_the_run_stands(state: RunState, headline: str) -> None:
    assert page(state=state).startswith(f"## {headline}: `acme/dev/net`\n")


def test_who_agreed_so_far_is_told_once_each() -> None:
    text = page(plan_digest=DIGEST, requirement=needs(Need.TWO), agreed=["person:bo", "person:bo", "person:cy"])

    assert "Agreed so far: `person:bo`, `person:cy`." in text


def test_who_agreed_is_told_when_the_run_has_gone_on() -> None:
    assert "Agreed: `person:bo`." in page(state=RunState.APPLIED, agreed=["person:bo"])


def test_an_approved_run_says_where_its_progress_stands_and_what_stops_it() -> None:
    text = page(state=RunState.APPROVED)

    assert "*Pending Activities*" in text
    assert "*Terminate* ends no apply that runs" in text


def test_a_run_that_needs_an_operator_says_what_to_send() -> None:
    assert "*Send a Signal*, `resume`" in page(state=RunState.NEEDS_OPERATOR)


def test_who_asked_and_why_is_told_without_what_looks_like_a_credential() -> None:
    text = page(requester=Principal(id="machine:ci", kind=Kind.MACHINE), message="with ghp_" + "a" * 36)

    assert "asked for by `machine:ci`\nwhy: `with (redacted)`\n" in text + "\n"


def test_the_deadline_is_told_in_utc() -> None:
    elsewhere = datetime(2026, 3, 2, 14, 30, tzinfo=timezone(timedelta(hours=2)))

    assert "by 2026-03-02 12:30 UTC" in page(plan_digest=DIGEST, requirement=needs(Need.PERSON), expires_at=elsewhere)


def test_a_reason_is_told_line_by_line_and_the_last_five_refusals() -> None:
    text = page(state=RunState.NEEDS_OPERATOR, reason="first\n2. second", refusals=[f"refusal {n}" for n in range(7)])

    assert "\n\n`first`\n`2. second`\n\n" in text
    assert text.endswith("### Refused\n\n`refusal 2`\n`refusal 3`\n`refusal 4`\n`refusal 5`\n`refusal 6`")


def test_a_plan_without_changes_is_not_shown() -> None:
    assert "class" not in page(state=RunState.PLANNED_AND_FINISHED, plan=plan())


@pytest.mark.parametrize(
    ("action", "symbol"),
    [
        ("create", "  +"),
        ("update", "  ~"),
        ("replace", "-/+"),
        ("delete", "  -"),
        ("forget", "  x"),
        ("import", " =>"),
        ("move", " ->"),
        ("read", " <="),
        ("something new", "  ?"),
    ],
)
def test_each_action_has_its_symbol(action: str, symbol: str) -> None:
    assert change_line(change("a.b", action)) == f"{symbol} a.b"


def test_a_line_says_what_forces_a_replacement_and_what_holds_data() -> None:
    line = change_line(change("db.main", "replace", ChangeClass.STATEFUL_REPLACE, replace_paths=("size", "zone")))

    assert line == "-/+ db.main  (because of size, zone)  ! holds data"
    assert change_line(change("db.main", "delete", ChangeClass.STATEFUL_DELETE)) == "  - db.main  ! holds data"
    assert change_line(change("vm.main", "delete", ChangeClass.DELETE)) == "  - vm.main"


def test_what_holds_data_is_said_however_long_the_address_is() -> None:
    assert change_line(change("x" * 300, "delete", ChangeClass.STATEFUL_DELETE)).endswith("  ! holds data")


def test_forty_changes_are_shown_in_their_order_and_the_rest_is_counted() -> None:
    changes = [change("gone", "delete", ChangeClass.DELETE), *(change(f"a{n}") for n in range(49))]
    lines = plan_block(plan(*changes, counts=Counts(delete=1, create=120))).splitlines()

    assert lines[:2] == ["`- gone`", "`+ a0`"]
    assert len(lines) == 41
    assert lines[-1] == "… and 81 more"


def test_nothing_is_said_to_be_left_out_where_all_is_shown() -> None:
    # An import that also updates counts as both, and is one line.
    both = plan(change("a", "update", ChangeClass.IMPORT), counts=Counts(update=1, imported=1))

    assert "more" not in plan_block(both)
    assert "more" not in plan_block(plan(*(change(f"a{n}") for n in range(40))))


def test_what_is_left_out_is_counted_by_what_is_known_of_it() -> None:
    reads = [change(f"data.d{n}", "read", ChangeClass.NONE) for n in range(9)]

    assert "… and 4 more" in plan_block(plan(*(change(f"a{n}") for n in range(35)), *reads, counts=Counts(create=35)))


def test_changed_outputs_are_named() -> None:
    assert plan_block(plan(outputs_changed=("endpoint", "zone"))) == "outputs: `endpoint, zone`"


def to_paste(text: str) -> list[str]:
    """The paragraphs that are nothing but JSON."""
    return re.findall(r"(?<=\n\n)`(\{.*\})`(?=\n\n|$)", text)


# What others write.


def outside(text: str) -> str:
    """What a Markdown reader takes for Markdown: without code spans, none of which goes over the end of a line."""
    assert all(line.count("`") % 2 == 0 for line in text.split("\n"))
    return re.sub(r"`[^`\n]+`", "`…`", text)


EVIL = [
    "`",
    "``` ````",
    "\n````\n# Approved",
    "\r````\r",
    "\u2028````\u2028",
    "<img src=x onerror=alert(1)>",
    "[click](javascript:alert(1))",
    "**bold** _it_ ~~no~~ | a | b |",
    "![x](http://evil/)",
    "http://evil.example/",
    "\x1b[31mred",
    "left\u202eright",
    "zero\u200bwidth",
    "\u3164",
    "&lt;b&gt;",
    "# heading",
    "\ud800",
    "",
    "𝔘𝔫𝔦" * 90,
]
FOREIGN = st.one_of(st.sampled_from(EVIL), st.text(max_size=40), st.lists(st.sampled_from(EVIL), min_size=2, max_size=6).map("".join))
CHANGES = st.builds(
    Change,
    address=FOREIGN,
    type=FOREIGN,
    action=st.sampled_from(["create", "delete", "replace", "strange"]),
    change_class=st.sampled_from(ChangeClass),
    replace_paths=st.lists(FOREIGN, max_size=3).map(tuple),
)
PAGES = st.fixed_dictionaries(
    {
        "stack_path": FOREIGN,
        "requester": st.builds(Principal, id=FOREIGN, kind=st.just(Kind.AGENT), acts_for=st.none() | FOREIGN),
        "message": st.none() | FOREIGN,
        "decides_here": st.booleans(),
        "reason": st.none() | FOREIGN,
        "state": st.sampled_from(RunState),
        "plan": st.builds(
            Plan,
            engine=st.just("terraform"),
            engine_build=st.just("b"),
            counts=st.builds(Counts, create=st.integers(0, 99)),
            changes=st.lists(CHANGES, max_size=4).map(tuple),
            risks=st.lists(FOREIGN, max_size=3).map(tuple),
            outputs_changed=st.lists(FOREIGN, max_size=3).map(tuple),
        ),
        "plan_digest": st.just(DIGEST),
        "requirement": st.builds(
            Requirement, need=st.sampled_from(Need), people=st.just(1), confirm_name=st.none() | FOREIGN, rule=FOREIGN
        ),
        "agreed": st.lists(FOREIGN, max_size=3),
        "refusals": st.lists(FOREIGN, max_size=3),
    }
)
OURS = re.compile(r"[^<>\[\]!|~&]*")  # none of what begins a link, an image, HTML, an entity or a table


@requirement("details:foreign-text")
@given(PAGES)
def test_no_foreign_text_leaves_its_code_span_or_begins_markup(facts: dict[str, Any]) -> None:
    text = page(**facts)

    seen = outside(text)
    assert OURS.fullmatch(seen), seen
    assert "http" not in seen
    assert "javascript" not in seen
    assert {line for line in seen.splitlines() if line.startswith("#")} <= {
        seen.splitlines()[0],
        "### Refused",
        "### Decide",
    }


@requirement("details:foreign-text", "bad:control-characters")
@given(PAGES)
def test_no_control_bidi_or_invisible_character_reaches_the_page(facts: dict[str, Any]) -> None:
    text = page(**facts).replace("\n", "")

    assert [c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")] == []
    assert "\u3164" not in text


@requirement("details:foreign-text", "bad:huge-plan")
@pytest.mark.parametrize("letter", ["x", "é", "𝔘"])
def test_a_page_has_a_bounded_size_and_always_says_what_to_send(letter: str) -> None:
    long = letter * 5000
    text = page(
        stack_path=long,
        requester=Principal(id=long, kind=Kind.AGENT, acts_for=long),
        message=long,
        reason="\n".join([long] * 500),
        plan=plan(
            *(change(long, replace_paths=(long,) * 20) for _ in range(50)),
            counts=Counts(create=20_000),
            risks=(long,) * 50,
            outputs_changed=(long,) * 100,
        ),
        plan_digest=DIGEST,
        requirement=needs(Need.PERSON, long, rule=long),
        agreed=[f"{n}{long}" for n in range(500)],
        refusals=[long] * 500,
    )

    assert len(text.encode()) <= SIZE
    assert '{"reason": "…"}' in text
    assert "more" in text


@given(FOREIGN)
def test_plain_is_one_line_that_ends_no_code(text: str) -> None:
    shown = plain(text)

    assert len(shown) <= 160
    assert "`" not in shown
    assert len(shown.splitlines()) <= 1
    assert shown.isprintable()


def test_plain_shows_that_something_was_taken_away() -> None:
    assert plain("a`b\x1b[31m\u202ec\ud800\u3164") == "a'b�[31m�c��"
    assert plain("acme/dev/net — é 世界") == "acme/dev/net — é 世界"


@requirement("guard:alarm")
def test_an_alarm_stands_above_everything_else_and_cannot_leave_its_line() -> None:
    told = page(alarms=["a.b: its delete `was` begun", *(f"n{n}" for n in range(6))], reason="why").split("\n\n")

    assert told[2].splitlines() == [
        "**ALARM: the apply does what nobody approved**",
        "⚠ `a.b: its delete 'was' begun`",
        *(f"⚠ `n{n}`" for n in range(4)),
        "and 2 more",
    ]
    assert "ALARM" not in page()
    assert "more" not in page(alarms=["one"])


def test_who_destroys_a_release_is_told_that_its_own_name_is_typed() -> None:
    gone = plan(change("Service/shop/web", "delete", ChangeClass.DELETE), change_class=ChangeClass.DELETE)
    text = page(plan=gone.model_copy(update={"engine": "helm"}), plan_digest=DIGEST, requirement=needs(Need.PERSON, "web"))

    assert "type the release's own name, what follows the first dot of the one on top, in place of the dots" in text


def test_who_destroys_by_a_composite_is_told_to_type_every_name() -> None:
    of_a_composite = plan(change("1/terraform_data.old", "delete", ChangeClass.DELETE)).model_copy(update={"engine": "composite"})
    text = page(plan=of_a_composite, plan_digest=DIGEST, requirement=needs(Need.PERSON, name="acme/dev/a, acme/dev/b"))

    assert "type the name of everything it destroys, in the order of its steps, with a comma and a space in between" in text


def test_a_step_of_a_composite_points_to_the_whole_and_shows_nothing_to_send() -> None:
    text = page(plan=plan(change("terraform_data.new")), plan_digest=DIGEST, requirement=needs(Need.PERSON), step_of=(2, "run_whole"))

    assert "Step 2 of `run_whole`: decisions, and wishes to cancel, are about the whole and go there." in text
    assert "### Decide" not in text and DIGEST not in text
