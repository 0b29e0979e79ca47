"""A plan as people and policy see it: counts, what each change is, and the sentences a reviewer reads first."""

from typing import Any

import pytest

from countersign.core.plan import ChangeClass, Plan
from countersign.core.redaction import HIDDEN, Redactor
from countersign.core.terraform import document as doc
from countersign.core.terraform.plan import change_of, counts_of, plan_of
from tests.requirements import requirement
from tests.unit.core.terraform.plans import RECORDED, entry, one, recorded, written


def planned(document: dict[str, Any], secrets: set[str] | None = None) -> Plan:
    return plan_of(document, engine="terraform", semantic_digest="sha256:x", redactor=Redactor(secrets or ()))


def risks(*changes: dict[str, Any], **more: Any) -> list[str]:
    return list(planned(written(*changes, **more)).risks)


@requirement("plan:counts-and-risks")
@pytest.mark.parametrize(
    ("name", "counts", "change_class"),
    [
        ("demo_create", "13 to add", "create"),
        ("demo_change", "3 to add, 3 to change, 1 to replace, 5 to destroy", "delete"),
        ("demo_target", "1 to add", "create"),
        ("destroy", "1 to destroy", "delete"),
        ("gates_create", "5 to add", "create"),
        ("kinds", "1 to add, 3 to change, 1 to destroy, 1 to import, 2 to move, 1 to forget", "delete"),
        ("no_change", "no changes", "none"),
    ],
)
def test_real_plans_are_counted_and_classed(name: str, counts: str, change_class: str) -> None:
    plan = planned(recorded(name))

    assert (str(plan.counts), plan.change_class) == (counts, change_class)
    assert plan.changes_anything is (name != "no_change")
    assert (plan.engine, plan.engine_build, plan.semantic_digest) == ("terraform", "terraform 1.11.4", "sha256:x")


@requirement("plan:counts-and-risks")
def test_the_changes_of_a_real_plan_worst_first() -> None:
    shown = [
        (c.action, c.address, c.change_class, c.attributes, c.replace_paths, c.previous_address) for c in planned(recorded("kinds")).changes
    ]

    assert shown == [
        ("delete", "terraform_data.gone", "delete", ("id", "input", "output"), (), None),
        ("forget", "terraform_data.left_behind", "forget", ("id", "input", "output"), (), None),
        ("move", "terraform_data.new_name", "move", (), (), "terraform_data.old_name"),
        ("update", "terraform_data.renamed", "move", ("input", "output+"), (), "terraform_data.renamed_and_changed"),
        ("import", "terraform_data.imported", "import", (), (), None),
        ("create", "terraform_data.fresh", "create", ("id+", "input", "output+"), (), None),
        ("update", "terraform_data.changed", "update", ("input+", "output+"), (), None),
        ("update", "terraform_data.retyped", "update", ("input", "output+"), (), None),
        ("read", "data.terraform_remote_state.late", "none", ("backend", "config+", "outputs+"), (), None),
    ]


def test_every_class_of_a_plan_is_told_mildest_first() -> None:
    classes = planned(recorded("kinds")).classes

    assert [str(c) for c in classes] == ["none", "update", "create", "import", "move", "forget", "delete"]
    assert planned(recorded("no_change")).classes == ()


def test_a_replacement_names_only_what_changes_and_why() -> None:
    change = change_of(
        one("delete,create", before={"id": "1", "a": 1, "b": 1}, after={"a": 2, "b": 1}, unknown={"id": True}, replace_paths=[["a"]]),
        Redactor(),
    )

    assert (change.attributes, change.replace_paths) == (("a", "id+"), ("a",))


def test_what_a_change_carries_is_bounded() -> None:
    many = {f"a{n:03}": n for n in range(50)}
    change = change_of(
        one(after=many, replace_paths=[[f"p{n:03}"] for n in range(50)], address="x" * 999, previous_address="y" * 999), Redactor()
    )

    assert (len(change.attributes), len(change.replace_paths)) == (20, 20)
    assert len(change.address) < 300
    assert len(change.previous_address or "") < 300


@requirement("bad:control-characters", "plan:view-hides")
def test_what_a_change_carries_is_clean_and_redacted() -> None:
    change = change_of(
        one(
            after={"attr\u202e": 1},
            type="th\x1b[31ming",
            address='thing.a["the-secret\u200b"]',
            previous_address='thing.b["the-secret"]',
            replace_paths=[["the-secret"]],
        ),
        Redactor(["the-secret"]),
    )

    assert change.address == f'thing.a["{HIDDEN}"]'
    assert (change.type, change.attributes, change.replace_paths) == ("thing", ("attr",), (HIDDEN,))
    assert change.previous_address == f'thing.b["{HIDDEN}"]'


def test_an_address_that_only_repeats_itself_is_no_previous_one() -> None:
    assert change_of(one(previous_address="thing.a"), Redactor()).previous_address is None


def test_a_deposed_object_is_told_from_the_one_that_lives() -> None:
    assert change_of(one("delete", deposed="00aa00aa"), Redactor()).address == "thing.a (deposed object 00aa00aa)"


@requirement("plan:counts-and-risks")
@pytest.mark.parametrize(
    ("actions", "more", "counts"),
    [
        ("create", {}, {"create": 1}),
        ("update", {}, {"update": 1}),
        ("delete,create", {}, {"replace": 1}),
        ("create,delete", {}, {"replace": 1}),
        ("delete", {}, {"delete": 1}),
        ("forget", {}, {"forgotten": 1}),
        ("create,forget", {}, {"forgotten": 1}),
        ("no-op", {"importing": {"id": "x"}}, {"imported": 1}),
        ("no-op", {"previous_address": "thing.b"}, {"moved": 1}),
        ("update", {"importing": {"id": "x"}}, {"update": 1, "imported": 1}),
        ("update", {"previous_address": "thing.b"}, {"update": 1, "moved": 1}),
        ("read", {"mode": "data"}, {}),
        ("read", {}, {}),
        ("create", {"mode": "data"}, {}),
        ("something-new", {}, {"update": 1}),
    ],
)
def test_each_change_is_counted_as_what_it_is(actions: str, more: dict[str, Any], counts: dict[str, int]) -> None:
    found = counts_of([one(actions, **more)]).model_dump()

    assert {kind: n for kind, n in found.items() if n} == counts


def test_changed_outputs_alone_are_an_update() -> None:
    plan = planned(written(output_changes={"the-secret": {"actions": ["create"], "after": "x"}}), {"the-secret"})

    assert (plan.change_class, plan.classes, plan.outputs_changed) == (ChangeClass.UPDATE, (ChangeClass.UPDATE,), (HIDDEN,))
    assert plan.changes_anything


def test_changed_outputs_do_not_hide_what_is_worse_nor_make_it_worse() -> None:
    outputs = {"o": {"actions": ["create"], "after": "x"}}

    assert planned(written(entry("delete"), output_changes=outputs)).classes == (ChangeClass.DELETE,)
    assert planned(written(entry("update", before={"tags": 1}, after={"tags": 2}), output_changes=outputs)).classes == (ChangeClass.LABELS,)
    assert planned(written(entry("read", mode="data"), output_changes=outputs)).change_class is ChangeClass.UPDATE


@requirement("plan:classes")
def test_invoked_actions_are_unknown_whatever_else_is_planned() -> None:
    assert planned(written(action_invocations=[{"address": "action.x"}])).change_class is ChangeClass.UNKNOWN
    assert planned(written(entry("delete"), action_invocations=[{"address": "action.x"}])).change_class is ChangeClass.UNKNOWN


def test_the_operators_list_of_what_holds_data_counts() -> None:
    document = written(entry("delete", type="acme_ledger"))

    plan = plan_of(document, engine="tofu", semantic_digest="", redactor=Redactor(), stateful=iter(["acme_*"]))
    assert plan.change_class is ChangeClass.STATEFUL_DELETE
    assert "Data may be lost" in plan.risks[0]
    assert planned(document).change_class is ChangeClass.DELETE


# The sentences.


@requirement("plan:counts-and-risks")
@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            [entry("something-new")],
            "This version does not know what would be done to thing.a: denied unless policy says otherwise.",
        ),
        ([entry("delete", type="google_sql_database")], "Data may be lost: thing.a would be destroyed or replaced."),
        ([entry("delete,create", type="aws_s3_bucket")], "Data may be lost: thing.a would be destroyed or replaced."),
        ([entry("delete")], "1 object would be destroyed: thing.a."),
        ([entry("delete", deposed="00aa")], "1 object would be destroyed: thing.a (deposed object 00aa)."),
        ([entry("delete", address=f"thing.a[{n}]") for n in range(7)],
         "7 objects would be destroyed: thing.a[0], thing.a[1], thing.a[2], thing.a[3], thing.a[4] and 2 more."),
        ([entry("delete,create")], "1 object would be destroyed and created again: thing.a."),
        (
            [entry("create,delete", replace_paths=[["zone"], ["disk", 0, "size"]])],
            "1 object would be destroyed and created again: thing.a, because of disk[0].size, zone.",
        ),
        ([entry("forget")], "Left behind, running and unmanaged: thing.a."),
        ([entry("create,forget")], "Left behind, running and unmanaged: thing.a."),
        ([entry("create", type="google_project_iam_member", after={"member": "x"})], "Changes who may do what: thing.a."),
        ([entry("no-op", importing={"id": "x"})], "Existing objects would come under this stack's control: thing.a."),
        ([entry("read", mode="data", address="data.thing.a")], "Read only while applying, after the approval: data.thing.a."),
    ],
)  # fmt: skip
def test_each_kind_of_change_has_its_sentence(changes: list[dict[str, Any]], sentence: str) -> None:
    assert risks(*changes) == [sentence]


@requirement("plan:counts-and-risks")
def test_the_worst_is_said_first() -> None:
    said = risks(
        entry("forget", address="thing.f"),
        entry("delete", address="thing.d"),
        entry("delete,create", address="thing.r"),
        entry("delete", address="db.d", type="aws_db_instance"),
        entry("nonsense", address="thing.n"),
        action_invocations=[{}, {}],
    )

    assert said == [
        "This version does not know what would be done to thing.n: denied unless policy says otherwise.",
        "2 actions would be invoked beside the resources; what an action does cannot be shown.",
        "Data may be lost: db.d would be destroyed or replaced.",
        "1 object would be destroyed: thing.d.",
        "1 object would be destroyed and created again: thing.r.",
        "Left behind, running and unmanaged: thing.f.",
    ]


def test_a_harmless_plan_has_no_risks() -> None:
    assert risks(entry("update", before={"a": 1}, after={"a": 2}), entry("no-op", previous_address="thing.b")) == []


def test_what_is_granted_later_is_said() -> None:
    said = risks(entry("create", type="aws_iam_policy", after={"name": "n"}, unknown={"policy": True, "id": True}))

    assert said == [
        "Changes who may do what: thing.a.",
        "What is granted is known only after apply: thing.a.",
        "2 values will be known only after apply; the view lists them.",
    ]


@pytest.mark.parametrize("actions", ["no-op", "read", "forget"])
def test_rights_that_do_not_change_are_not_mentioned(actions: str) -> None:
    assert not any("who may do what" in said for said in risks(entry(actions, type="aws_iam_role", before={"id": "1"}, after={"id": "1"})))


EXPOSED = "Values that were sensitive would be shown in clear from now on: thing.a."


@requirement("plan:counts-and-risks")
@pytest.mark.parametrize("actions", ["update", "delete,create"])
@pytest.mark.parametrize(
    ("value", "was_sensitive", "sensitive", "exposed"),
    [
        ({"a": "x"}, {"a": True}, {}, True),
        ({"a": "x"}, {"a": True}, {"a": True}, False),
        ({"a": "x"}, {}, {"a": True}, False),
        ({"a": "x"}, True, {}, True),
        ({"a": {"b": "x", "c": "y"}}, {"a": {"b": True, "c": True}}, {"a": {"b": True}}, True),
        ({"a": {"b": "x", "c": "y"}}, {"a": {"b": True}}, {"a": True}, False),
        ({"a": ["x", "y"]}, {"a": [True, True]}, {"a": [True, False]}, True),
        ({"a": ["x", "y"]}, {"a": [True, False]}, {"a": [True, True]}, False),
        ({"a": {"b": "x"}}, {"a": True}, {"a": {"b": True}}, False),
    ],
)
def test_values_that_lose_their_mark_are_named(actions: str, value: Any, was_sensitive: Any, sensitive: Any, exposed: bool) -> None:
    said = risks(entry(actions, before=value, after=value, was_sensitive=was_sensitive, sensitive=sensitive))

    assert (EXPOSED in said) is exposed


def test_what_is_gone_is_not_shown_in_clear() -> None:
    assert EXPOSED not in risks(entry("delete", before={"a": "x"}, was_sensitive={"a": True}, sensitive=False))
    assert EXPOSED not in risks(entry("update", before={"a": "x", "b": 1}, after={"a": None, "b": 2}, was_sensitive={"a": True}))


def test_an_output_that_loses_its_mark_is_named() -> None:
    outputs = {"token": {"actions": ["update"], "before": "x", "after": "x", "before_sensitive": True, "after_sensitive": False}}

    assert risks(output_changes=outputs) == ["Values that were sensitive would be shown in clear from now on: output token."]


CONFIGURED = {
    "root_module": {
        "resources": [
            {"address": "thing.a", "provisioners": [{"type": "remote-exec"}, {"type": "local-exec"}, {"type": "local-exec"}]},
            {"address": "thing.plain"},
        ],
        "module_calls": {
            "m": {"module": {"resources": [{"address": "thing.b", "provisioners": [{"type": "file"}]}], "module_calls": {"n": {}}}},
        },
    }
}


@requirement("plan:counts-and-risks")
@pytest.mark.parametrize(
    ("actions", "address", "sentence"),
    [
        ("create", "thing.a", "Commands run while applying (local-exec, remote-exec): thing.a. A plan cannot show what they do."),
        (
            "delete,create",
            "thing.a[0]",
            "Commands run while applying (local-exec, remote-exec): thing.a[0]. A plan cannot show what they do.",
        ),
        (
            "delete",
            'thing.a["x]y"]',
            'Commands run while applying (local-exec, remote-exec): thing.a["x]y"]. A plan cannot show what they do.',
        ),
        (
            "create",
            'module.m["k.\\"]"].thing.b',
            'Commands run while applying (file): module.m["k.\\"]"].thing.b. A plan cannot show what they do.',
        ),
        ("update", "thing.a", None),
        ("create", "thing.plain", None),
        ("create", "module.m.thing.a", None),
        ("create", "thing.b", None),
    ],
)
def test_commands_that_run_while_applying_are_named(actions: str, address: str, sentence: str | None) -> None:
    said = [s for s in risks(entry(actions, address=address), configuration=CONFIGURED) if s.startswith("Commands")]

    assert said == ([sentence] if sentence else [])


def test_drift_and_failing_checks_are_told() -> None:
    checks = [
        {"address": {"to_display": "check.reachable"}, "status": "fail"},
        {"address": {"to_display": "thing.a"}, "status": "error"},
        {"status": "error"},
        {"address": {"to_display": "check.fine"}, "status": "pass"},
        {"address": {"to_display": "check.later"}, "status": "unknown"},
    ]

    assert risks(resource_drift=[entry("update")], checks=checks) == [
        "1 object changed outside of this stack since the last apply; the plan takes that into account.",
        "The configuration's own checks fail: check.reachable, thing.a, ?.",
    ]
    assert risks(resource_drift=[entry("update")] * 2)[0].startswith("2 objects changed outside")


@requirement("plan:counts-and-risks")
def test_the_sentences_of_a_real_plan() -> None:
    assert planned(recorded("kinds")).risks == (
        "1 object would be destroyed: terraform_data.gone.",
        "Left behind, running and unmanaged: terraform_data.left_behind.",
        "Values that were sensitive would be shown in clear from now on: terraform_data.changed.",
        "Read only while applying, after the approval: data.terraform_remote_state.late.",
        "Existing objects would come under this stack's control: terraform_data.imported.",
        "The configuration's own checks fail: check.reachable.",
        "8 values will be known only after apply; the view lists them.",
    )
    assert planned(recorded("gates_create")).risks[0] == (
        "Commands run while applying (local-exec): terraform_data.gate. A plan cannot show what they do."
    )


@requirement("plan:view-hides", "bad:control-characters")
def test_a_sentence_is_clean_redacted_and_short() -> None:
    (said,) = risks(entry("forget", address='thing.a["the-secret\x1b[31m\u202e"]' + "x" * 600))

    assert said.startswith('Left behind, running and unmanaged: thing.a["the-secret"]xxx')
    assert len(said) < 530
    hidden = planned(written(entry("forget", address='thing.a["the-secret"]')), {"the-secret"})
    assert hidden.risks == (f'Left behind, running and unmanaged: thing.a["{HIDDEN}"].',)


@requirement("plan:view-hides")
@pytest.mark.parametrize("name", RECORDED)
def test_a_stored_plan_holds_no_value(name: str) -> None:
    document = recorded(name)
    stored = planned(document, doc.secrets_of(document)).model_dump_json()

    for text in ("only-for-the-demo", "rotated-since", "open sesame", "t0ken-of-the-test", "10.0.1.0/24", "example.internal", "an-id-from"):
        assert text not in stored


@requirement("bad:huge-plan")
def test_a_plan_of_thousands_of_changes_is_summarised_within_bounds() -> None:
    kinds = [("delete", "aws_db_instance"), ("delete", "thing"), ("delete,create", "thing"), ("create", "thing")]
    changes = [
        entry(actions, type=type_, address=f"thing.a[{n}]", before={"id": str(n)}, after={"a": n})
        for n in range(1200)
        for actions, type_ in [kinds[n % 4]]
    ]

    plan = planned(written(*changes))

    assert str(plan.counts) == "300 to add, 300 to replace, 600 to destroy"
    assert [c.change_class for c in plan.changes] == ["stateful_delete"] * 50
    assert len(plan.model_dump_json()) < 32_000
