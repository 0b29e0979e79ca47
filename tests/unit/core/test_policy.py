"""Who must agree: rules as data, and the floors no rule goes below."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from countersign.core.plan import ChangeClass
from countersign.core.policy import DEFAULT_RULES, Need, Policy, Requirement, Rule, required
from tests.requirements import requirement

# In the order of severity, as design §2 has them.
HARMLESS = ["none", "labels", "update", "create", "import", "move", "forget"]
DESTROYING = ["replace", "delete", "stateful_replace", "stateful_delete", "unknown"]
ORDER = ["auto", "confirm", "person", "other", "two", "deny"]


def need_of(policy: Policy, change_class: str, *, env: str = "acme/dev", **asked: bool) -> str:
    return required(policy, env=env, change_class=ChangeClass(change_class), name="acme/dev/net", **asked).need


def only(*rules: Rule, **more: Any) -> Policy:
    return Policy(rules=rules, **more)


def everything(need: Need, **more: Any) -> Policy:
    return only(Rule(need=need), **more)


def test_needs_stand_in_the_order_of_what_they_ask() -> None:
    assert [str(n) for n in sorted(Need, key=lambda n: n.rank)] == ORDER


@pytest.mark.parametrize(
    ("need", "protected", "expected"),
    [
        (Need.AUTO, False, "person"),
        (Need.CONFIRM, False, "person"),
        (Need.PERSON, False, "person"),
        (Need.TWO, False, "two"),
        (Need.AUTO, True, "other"),
    ],
)
def test_what_rewrites_the_record_of_a_state_asks_a_person_whatever_the_rules_are(need: Need, protected: bool, expected: str) -> None:
    policy = everything(need, protected=("acme/dev",) if protected else (), auto_approve=(ChangeClass.UPDATE,))

    assert need_of(policy, "update", by_person=True) == expected
    assert need_of(policy, "update", by_person=True, auto_approve=True) == expected


@pytest.mark.parametrize("change_class", HARMLESS + DESTROYING)
def test_by_default_everything_but_nothing_asks_a_person_and_the_unknown_is_denied(change_class: str) -> None:
    expected = {"none": "auto", "unknown": "deny"}.get(change_class, "person")

    assert need_of(Policy(), change_class) == expected


def test_the_default_rules_are_the_policy_of_nobody_who_wrote_one() -> None:
    assert Policy().rules == DEFAULT_RULES
    assert (Policy().protected, Policy().auto_approve, Policy().approval_hours) == ((), (), 24)


def test_the_first_rule_that_matches_decides() -> None:
    policy = only(Rule(env="acme/dev", need=Need.CONFIRM), Rule(need=Need.TWO))

    assert need_of(policy, "update") == "confirm"
    assert need_of(policy, "update", env="acme/prod") == "two"
    assert need_of(only(*reversed(policy.rules)), "update") == "two"


@pytest.mark.parametrize(
    ("pattern", "env", "matches"),
    [
        ("*", "acme/dev", True),
        ("acme/*", "acme/dev", True),
        ("acme/dev", "acme/dev", True),
        ("acme/dev", "acme/dev2", False),
        ("*/prod", "acme/prod", True),
        ("*/prod", "acme/preprod", False),
        ("acme/[dp]ev", "acme/pev", True),
        ("ACME/dev", "acme/dev", False),
    ],
)
def test_environments_are_matched_by_glob_with_case(pattern: str, env: str, matches: bool) -> None:
    assert Rule(env=pattern, need=Need.AUTO).matches(env, ChangeClass.UPDATE) is matches
    assert Policy(protected=(pattern,)).is_protected(env) is matches


def test_a_rule_without_classes_is_for_all_and_one_with_classes_for_those() -> None:
    assert [c for c in ChangeClass if Rule(need=Need.AUTO).matches("e", c)] == list(ChangeClass)
    assert [c for c in ChangeClass if Rule(classes=(ChangeClass.MOVE,), need=Need.AUTO).matches("e", c)] == [ChangeClass.MOVE]


@requirement("policy:floors")
def test_what_no_rule_names_is_denied() -> None:
    requirement_ = required(
        only(Rule(env="acme/prod", need=Need.AUTO)), env="acme/dev", change_class=ChangeClass.UPDATE, name="acme/dev/net"
    )

    assert requirement_ == Requirement(need=Need.DENY, people=0, confirm_name=None, rule="no policy rule covers update in acme/dev")


@requirement("policy:floors", "promise:destroying-asks")
@pytest.mark.parametrize("change_class", DESTROYING)
@pytest.mark.parametrize(
    ("rule", "expected"), [("auto", "person"), ("confirm", "person"), ("person", "person"), ("other", "other"), ("two", "two")]
)
def test_what_destroys_asks_at_least_a_person_who_types_the_name(change_class: str, rule: str, expected: str) -> None:
    asked = required(everything(Need(rule)), env="acme/dev", change_class=ChangeClass(change_class), name="acme/dev/net")

    assert (asked.need, asked.confirm_name) == (expected, "acme/dev/net")
    assert asked.people == (2 if rule == "two" else 1)


@pytest.mark.parametrize("change_class", HARMLESS)
def test_what_does_not_destroy_asks_for_no_name(change_class: str) -> None:
    asked = required(everything(Need.PERSON), env="acme/dev", change_class=ChangeClass(change_class), name="acme/dev/net")

    assert asked.confirm_name is None


@requirement("policy:floors", "promise:destroying-asks")
@pytest.mark.parametrize("change_class", HARMLESS)
@pytest.mark.parametrize("protected", [False, True])
def test_a_run_that_destroys_everything_asks_whatever_its_plan_looks_like(change_class: str, protected: bool) -> None:
    policy = everything(Need.AUTO, protected=("*",) if protected else (), auto_approve=tuple(ChangeClass))

    asked = required(policy, env="e", change_class=ChangeClass(change_class), name="acme/dev/net", destroy=True, auto_approve=True)

    assert (asked.need, asked.confirm_name) == ("other" if protected else "person", "acme/dev/net")


@requirement("policy:floors")
@pytest.mark.parametrize("change_class", [c for c in HARMLESS + DESTROYING if c != "none"])
@pytest.mark.parametrize(
    ("rule", "expected"), [("auto", "other"), ("confirm", "other"), ("person", "other"), ("other", "other"), ("two", "two")]
)
def test_a_protected_environment_asks_at_least_another_person(change_class: str, rule: str, expected: str) -> None:
    assert need_of(everything(Need(rule), protected=("acme/dev",)), change_class) == expected


def test_nothing_to_change_needs_nobody_in_a_protected_environment_either() -> None:
    assert need_of(Policy(protected=("*",)), "none") == "auto"


def test_a_denial_is_never_softened() -> None:
    policy = everything(Need.DENY, protected=("*",), auto_approve=tuple(ChangeClass))

    for change_class in ChangeClass:
        for destroy in (False, True):
            asked = required(policy, env="e", change_class=change_class, name="n", auto_approve=True, destroy=destroy)
            assert (asked.need, asked.people, asked.confirm_name) == (Need.DENY, 0, None)


# The caller's auto_approve.


@pytest.mark.parametrize("change_class", HARMLESS)
def test_auto_approve_counts_only_for_the_classes_policy_lists(change_class: str) -> None:
    policy = everything(Need.PERSON, auto_approve=(ChangeClass.LABELS, ChangeClass.CREATE))
    listed = change_class in ("labels", "create")

    assert need_of(policy, change_class, auto_approve=True) == ("auto" if listed else "person")
    assert need_of(policy, change_class) == "person"


@requirement("promise:destroying-asks")
@pytest.mark.parametrize("change_class", DESTROYING)
def test_auto_approve_never_counts_for_what_destroys(change_class: str) -> None:
    assert need_of(everything(Need.PERSON, auto_approve=tuple(ChangeClass)), change_class, auto_approve=True) == "person"


@pytest.mark.parametrize("rule", ["other", "two", "deny"])
def test_auto_approve_never_replaces_another_person(rule: str) -> None:
    assert need_of(everything(Need(rule), auto_approve=tuple(ChangeClass)), "labels", auto_approve=True) == rule


def test_auto_approve_does_not_count_in_a_protected_environment() -> None:
    policy = everything(Need.PERSON, auto_approve=tuple(ChangeClass), protected=("*",))

    assert need_of(policy, "labels", auto_approve=True) == "other"


@pytest.mark.parametrize(("rule", "people"), [("auto", 0), ("confirm", 1), ("person", 1), ("other", 1), ("two", 2), ("deny", 0)])
def test_how_many_people_a_need_asks(rule: str, people: int) -> None:
    asked = required(everything(Need(rule)), env="e", change_class=ChangeClass.UPDATE, name="n")

    assert (asked.people, asked.automatic) == (people, rule == "auto")


# Floors for any rules at all.

RULES = st.lists(
    st.builds(
        Rule,
        env=st.sampled_from(["*", "acme/dev", "acme/*", "other/*", "?"]),
        classes=st.lists(st.sampled_from(ChangeClass), max_size=3).map(tuple),
        need=st.sampled_from(Need),
    ),
    max_size=4,
).map(tuple)
POLICIES = st.builds(
    Policy,
    rules=RULES,
    protected=st.lists(st.sampled_from(["*", "acme/dev", "acme/prod"]), max_size=2).map(tuple),
    auto_approve=st.lists(st.sampled_from(ChangeClass), max_size=12).map(tuple),
)


@requirement("policy:floors")
@given(POLICIES, st.sampled_from(ChangeClass), st.booleans(), st.booleans())
def test_the_floors_hold_for_any_policy(policy: Policy, change_class: ChangeClass, auto_approve: bool, destroy: bool) -> None:
    asked = required(policy, env="acme/dev", change_class=change_class, name="acme/dev/net", auto_approve=auto_approve, destroy=destroy)
    destroys = destroy or str(change_class) in DESTROYING
    protected = bool({"*", "acme/dev"} & set(policy.protected))

    assert asked.people == {"auto": 0, "confirm": 1, "person": 1, "other": 1, "two": 2, "deny": 0}[asked.need]
    assert asked.automatic is (asked.need == "auto")
    assert asked.rule
    if asked.need == "deny":
        return
    assert any(r.matches("acme/dev", change_class) for r in policy.rules)
    if destroys:
        assert ORDER.index(asked.need) >= ORDER.index("person")
        assert asked.confirm_name == "acme/dev/net"
    if protected and (destroys or change_class != "none"):
        assert ORDER.index(asked.need) >= ORDER.index("other")


@given(POLICIES, st.sampled_from(ChangeClass), st.booleans())
def test_a_protection_or_a_destroy_never_asks_less(policy: Policy, change_class: ChangeClass, auto_approve: bool) -> None:
    bare = policy.model_copy(update={"protected": ()})
    before = need_of(bare, change_class, auto_approve=auto_approve)

    for after in (
        need_of(bare.model_copy(update={"protected": ("*",)}), change_class, auto_approve=auto_approve),
        need_of(bare, change_class, auto_approve=auto_approve, destroy=True),
    ):
        assert ORDER.index(after) >= ORDER.index(before)


@pytest.mark.parametrize(
    ("policy", "asked", "words"),
    [
        (Policy(), {}, "policy: any change in * needs person"),
        (only(Rule(env="acme/*", classes=(ChangeClass.UPDATE,), need=Need.TWO)), {}, "policy: update in acme/* needs two"),
        (everything(Need.AUTO, protected=("*",)), {}, "acme/dev is protected"),
        (everything(Need.AUTO), {"destroy": True}, "what destroys always asks a person"),
        # Where the rule asks as much by itself, it is the reason.
        (everything(Need.PERSON), {"destroy": True}, "policy: any change in * needs person"),
        (
            everything(Need.PERSON, auto_approve=tuple(ChangeClass)),
            {"destroy": True, "auto_approve": True},
            "policy: any change in * needs person",
        ),
        (everything(Need.OTHER, protected=("*",)), {}, "policy: any change in * needs other"),
        (Policy(auto_approve=(ChangeClass.UPDATE,)), {"auto_approve": True}, "policy lets callers approve update themselves"),
    ],
)
def test_a_requirement_says_why_in_words(policy: Policy, asked: dict[str, bool], words: str) -> None:
    assert required(policy, env="acme/dev", change_class=ChangeClass.UPDATE, name="n", **asked).rule == words


# The version that approvals name.


@pytest.mark.parametrize(
    "changed",
    [
        {"rules": (Rule(need=Need.AUTO),)},
        {"protected": ("acme/prod",)},
        {"approval_hours": 12},
        {"auto_approve": (ChangeClass.LABELS,)},
    ],
)
def test_every_part_of_a_policy_is_in_its_version(changed: dict[str, Any]) -> None:
    assert Policy(**changed).version != Policy().version


def test_the_version_of_a_policy_is_a_digest_that_only_depends_on_what_it_says() -> None:
    one = Policy(rules=(Rule(env="*", classes=(), need=Need.TWO),))

    assert one.version == Policy.model_validate_json(one.model_dump_json()).version
    assert one.version.startswith("sha256:")


# A plan of several classes.


@requirement("policy:floors")
def test_a_milder_class_that_asks_more_is_not_hidden_behind_a_worse_one_that_asks_less() -> None:
    policy = only(Rule(classes=(ChangeClass.CREATE,), need=Need.AUTO), Rule(need=Need.PERSON))

    def asked(*classes: ChangeClass) -> Requirement:
        return required(policy, env="acme/dev", change_class=ChangeClass.CREATE, classes=classes, name="acme/dev/net")

    assert asked(ChangeClass.CREATE).need == "auto"
    assert asked(ChangeClass.NONE, ChangeClass.CREATE).need == "auto"
    assert asked(ChangeClass.UPDATE, ChangeClass.CREATE).need == "person"
    assert asked(ChangeClass.UPDATE, ChangeClass.CREATE).rule == "policy: any change in * needs person"


def test_auto_approve_counts_only_where_every_class_of_the_plan_is_listed() -> None:
    policy = everything(Need.PERSON, auto_approve=(ChangeClass.CREATE,))

    for others, expected in (((), "auto"), ((ChangeClass.NONE,), "auto"), ((ChangeClass.LABELS,), "person")):
        asked = required(policy, env="e", change_class=ChangeClass.CREATE, classes=others, name="n", auto_approve=True)
        assert asked.need == expected


@given(POLICIES, st.sampled_from(ChangeClass), st.sets(st.sampled_from(ChangeClass)), st.booleans())
def test_more_classes_never_ask_less(policy: Policy, change_class: ChangeClass, classes: set[ChangeClass], auto: bool) -> None:
    alone = required(policy, env="acme/dev", change_class=change_class, name="n", auto_approve=auto)
    together = required(policy, env="acme/dev", change_class=change_class, classes=classes, name="n", auto_approve=auto)
    each = [required(policy, env="acme/dev", change_class=c, name="n", auto_approve=auto) for c in classes - {ChangeClass.NONE}]

    assert ORDER.index(together.need) >= max(ORDER.index(one.need) for one in (alone, *each))
    assert together.need == "deny" or (together.confirm_name is None) is not any(c.destroys for c in (change_class, *classes))
