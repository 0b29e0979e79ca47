"""What an upgrade would do to each object, how bad that is, and what a reviewer reads first."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from countersign.core.helm.diff import (
    Conflict,
    Difference,
    Leaf,
    Looked,
    Removed,
    change_of,
    client_side,
    compared,
    drift_of,
    drifted,
    is_rights,
    is_stateful,
    normal,
    plan_of,
    record_of,
    sides,
    taken_away,
    view_of,
)
from countersign.core.helm.manifests import Manifest
from countersign.core.helm.redaction import Veil, secret_texts
from countersign.core.plan import ChangeClass, Counts, Plan
from tests.requirements import requirement
from tests.unit.core.helm.charts import FINGERPRINTS, SECRET, WEB, live, of, one

VEIL = Veil(FINGERPRINTS, scope="st_1")


def edited(manifest: Manifest, path: str, value: object) -> dict[str, Any]:
    """Live, with one field changed; `a.0.b` goes through lists."""
    body = copy.deepcopy(live(manifest))
    at: Any = body
    *way, last = path.split(".")
    for step in way:
        at = at[int(step)] if step.isdigit() else at.setdefault(step, {})
    if value is None:
        del at[last]
    else:
        at[int(last) if last.isdigit() else last] = value
    return body


def upgraded(manifest: Manifest, path: str, value: object, **more: Any) -> Difference:
    (found,) = compared([Looked(manifest=manifest, live=live(manifest), predicted=edited(manifest, path, value), **more)])
    return found


def plan(*differences: Difference, **more: Any) -> Plan:
    return plan_of(differences, engine_build="helm 4.2.4", veil=VEIL, **more)


def told(difference: Difference) -> list[tuple[str, str | None, str | None]]:
    return [(leaf.name, *sides(leaf, VEIL, difference.key.address)) for leaf in difference.leaves]


# What differs.


def test_what_servers_write_is_no_change() -> None:
    web = one(WEB)
    (found,) = compared([Looked(manifest=web, live=live(web), predicted=live(web, status={"ready": 0}))])

    assert (found.action, found.classes, plan(found).changes_anything) == ("no-op", (ChangeClass.NONE,), False)
    assert normal({"metadata": "odd"}) == {"metadata": {}}
    assert normal({"metadata": {"uid": "u", "annotations": {"deployment.kubernetes.io/revision": "4"}}, "status": 1}) == {"metadata": {}}


def test_an_update_names_what_changes_from_what_to_what() -> None:
    assert told(upgraded(one(WEB), "spec.replicas", 3)) == [("spec.replicas", "2", "3")]
    assert told(upgraded(one(WEB), "spec.template.spec.containers.0.image", "shop/web:2")) == [
        ("spec.template.spec.containers[web].image", "shop/web:1", "shop/web:2")
    ]
    assert told(upgraded(one(WEB), "spec.paused", True)) == [("spec.paused", None, "true")]
    assert told(upgraded(one(WEB), "spec.replicas", {"odd": []})) == [("spec.replicas", "2", '{"odd": []}')]


def test_variables_are_told_by_name_wherever_they_move() -> None:
    env = [{"name": "FIRST", "value": "1"}, {"name": "MODE", "value": "slow"}, {"name": "DB_PASSWORD", "value": "hunter2hunter2"}]
    assert told(upgraded(one(WEB), "spec.template.spec.containers.0.env", env)) == [
        ("spec.template.spec.containers[web].env[MODE].value", "fast", "slow"),
        ("spec.template.spec.containers[web].env[FIRST].name", None, "FIRST"),
        ("spec.template.spec.containers[web].env[FIRST].value", None, "1"),
    ]


def test_lists_without_names_are_told_by_place() -> None:
    ports = of("Service", spec={"ports": [{"port": 80}, {"port": 81}], "names": [{"name": "a"}, {"name": "a"}]})

    assert told(upgraded(ports, "spec.ports", [{"port": 80}])) == [("spec.ports[1].port", "81", None)]
    assert told(upgraded(ports, "spec.ports", [])) == [("spec.ports[0].port", "80", None), ("spec.ports[1].port", "81", None)]
    assert told(upgraded(ports, "spec.names", [{"name": "b"}])) == [("spec.names[0].name", "a", "b"), ("spec.names[1].name", "a", None)]


def test_one_is_not_true_and_is_one_point_zero() -> None:
    assert [leaf.name for leaf in upgraded(of("ConfigMap", n=1), "n", True).leaves] == ["n"]
    assert upgraded(of("ConfigMap", n=1), "n", 1.0).leaves == ()
    assert [leaf.name for leaf in upgraded(of("ConfigMap", n=[]), "n", {}).leaves] == ["n"]
    assert upgraded(of("ConfigMap", n={}), "n", {}).leaves == ()


def test_a_secret_changes_and_nobody_sees_to_what() -> None:
    secret = of("Secret", data={"password": "b2xk"})
    (leaf,) = upgraded(secret, "data.password", "bmV3").leaves
    before, after = sides(leaf, VEIL, secret.key.address)

    assert leaf.hidden
    assert before != after
    assert str(before).startswith("(sensitive fp:")
    assert str(after).startswith("(sensitive fp:")


def test_a_secret_that_stays_is_no_change() -> None:
    secret = of("Secret", data={"password": {"odd": "b2xk"}, "other": "eA=="})

    assert [leaf.name for leaf in upgraded(secret, "data.other", "eQ==").leaves] == ["data.other"]


def test_a_password_in_a_container_is_hidden_on_both_sides() -> None:
    (row,) = told(upgraded(one(WEB), "spec.template.spec.containers.0.env.1.value", "another-password"))

    assert row[0] == "spec.template.spec.containers[web].env[DB_PASSWORD].value"
    assert all(str(side).startswith("(sensitive fp:") for side in row[1:])


def test_of_long_texts_the_lines_that_differ_are_told() -> None:
    config = of("ConfigMap", data={"f": "a\nb\nc\nd\ne"})

    assert told(upgraded(config, "data.f", "a\nb\nX\nd\ne")) == [("data.f", "… 2 lines alike …\nc", "… 2 lines alike …\nX")]
    assert told(upgraded(config, "data.f", "Y\nb\nc\nd\ne")) == [("data.f", "a", "Y")]
    assert told(upgraded(config, "data.f", "a\nb")) == [("data.f", "… 2 lines alike …\nc\nd\ne", "… 2 lines alike …\n")]
    assert str(told(upgraded(config, "data.f", "x" * 600))[0][2]).endswith("… (600 characters)")


def test_a_difference_that_redaction_hides_is_told_as_one() -> None:
    config = of("ConfigMap", data={"f": "user ghp_" + "a" * 36})
    ((_, before, after),) = told(upgraded(config, "data.f", "user ghp_" + "b" * 36))

    assert before != after
    assert "ghp_" not in f"{before}{after}"


def test_of_a_new_object_its_image_is_told_first_and_its_labels_last() -> None:
    web = one(WEB)
    (found,) = compared([Looked(manifest=web, predicted=edited(web, "spec.template.spec.containers.0.imagePullPolicy", "Always"))])

    names = [leaf.name for leaf in found.told]
    assert names[:3] == [
        "spec.template.spec.containers[web].image",
        "spec.replicas",
        "spec.template.spec.containers[web].env[MODE].name",
    ]
    assert names[-2:] == ["spec.template.spec.containers[web].imagePullPolicy", "metadata.labels.app"]
    assert {"kind", "metadata.name"} <= {leaf.name for leaf in found.leaves}


# What that makes of an object.


def test_what_is_not_there_is_created_as_the_cluster_would_have_it() -> None:
    web = one(WEB)
    found, unchecked = compared(
        [
            Looked(manifest=web, predicted=live(web, extra="defaulted")),
            Looked(manifest=web, unchecked="its namespace does not exist yet"),
        ]
    )

    assert (found.action, found.classes) == ("create", (ChangeClass.CREATE,))
    assert change_of(found, VEIL).attributes == ("spec", "extra", "metadata")
    assert "extra" not in change_of(unchecked, VEIL).attributes
    assert plan(unchecked).risks == ("The cluster could not be asked about Deployment.apps/shop/web: its namespace does not exist yet.",)


def test_what_the_cluster_could_not_say_is_what_is_declared_over_what_is_there() -> None:
    web = one(WEB)
    there = edited(web, "spec.template.spec.containers", [{"name": "side", "image": "s"}, {"name": "web", "image": "old", "extra": 1}])
    (found,) = compared([Looked(manifest=web, live=there, unchecked="no answer")])

    assert [leaf.name for leaf in found.leaves if leaf.name.endswith("image")] == ["spec.template.spec.containers[web].image"]
    assert not [leaf.name for leaf in found.leaves if "side" in leaf.name or "extra" in leaf.name]


def test_only_labels() -> None:
    assert upgraded(one(WEB), "metadata.labels", {"app": "shop"}).classes == (ChangeClass.LABELS,)
    assert upgraded(one(WEB), "metadata.annotations", {"a": "b"}).classes == (ChangeClass.LABELS,)
    assert upgraded(one(WEB), "spec.template.metadata.labels", {"a": "b"}).classes == (ChangeClass.UPDATE,)


def test_what_the_cluster_does_not_let_change_is_replaced_or_nothing() -> None:
    volumes = of("StatefulSet", "db", api="apps/v1", spec={"serviceName": "a"})
    found = upgraded(volumes, "spec.serviceName", "b", immutable=(".spec.serviceName",))
    view = json.loads(view_of([found], mode="apply", engine_build="helm 4.2.4", veil=VEIL))

    assert (found.action, found.classes) == ("replace", (ChangeClass.STATEFUL_REPLACE,))
    assert upgraded(one(WEB), "spec.replicas", 1, immutable=("spec.selector",)).classes == (ChangeClass.REPLACE,)
    assert change_of(found, VEIL).replace_paths == (".spec.serviceName",)
    assert view["changes"][0]["attributes"] == [
        {"name": "spec.serviceName", "before": "a", "after": "b", "forces_replacement": True},
    ]


@pytest.mark.parametrize(
    ("there", "before", "after", "left"),
    [
        ({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 2}, {"a": 1}, {"a": 1, "c": 3}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 2}}, {"a": {"c": 2}}, {"a": {"c": 2}}),
        ({"a": 1}, {"a": {"b": 1}}, {"a": 1}, {"a": 1}),
        ({"finalizers": ["a", "b", "c"]}, {"finalizers": ["a", "b"]}, {"finalizers": ["a"]}, {"finalizers": ["a", "c"]}),
        (
            {"env": [{"name": "a", "value": "1"}, {"name": "b", "value": "2"}, {"name": "injected"}]},
            {"env": [{"name": "a", "value": "1"}, {"name": "b"}]},
            {"env": [{"name": "a"}]},
            {"env": [{"name": "a"}, {"name": "injected"}]},
        ),
        (
            {"ports": [{"port": 53, "protocol": "TCP", "nodePort": 3}, {"port": 53, "protocol": "UDP"}]},
            {"ports": [{"port": 53}, {"port": 53, "protocol": "UDP"}]},
            {"ports": [{"port": 53}]},
            {"ports": [{"port": 53, "protocol": "TCP", "nodePort": 3}]},
        ),
        (
            {"rules": [{"verbs": ["get"]}]},
            {"rules": [{"verbs": ["get", "list"]}]},
            {"rules": [{"verbs": ["get"]}]},
            {"rules": [{"verbs": ["get"]}]},
        ),
        (
            {"volumes": [{"name": "a"}, {"name": "a"}]},
            {"volumes": [{"name": "a"}]},
            {"volumes": []},
            {"volumes": [{"name": "a"}, {"name": "a"}]},
        ),
    ],
)
def test_what_a_chart_declares_no_more_is_taken_away_and_what_others_added_stays(
    there: dict[str, Any], before: dict[str, Any], after: dict[str, Any], left: dict[str, Any]
) -> None:
    found = taken_away(
        {"metadata": {"namespace": "shop"}, **there}, {"metadata": {"namespace": "shop"}, **before}, {"metadata": {}, **after}
    )

    assert found == {"metadata": {"namespace": "shop"}, **left}


@pytest.mark.parametrize(
    ("managed", "client"),
    [
        ([("helm", "Update", "")], True),
        ([("helm", "Update", ""), ("kubectl", "Apply", "")], True),
        ([("helm", "Apply", "")], False),
        ([("helm", "Update", ""), ("helm", "Apply", "")], False),
        ([("helm", "Update", "scale"), ("kubectl", "Update", "")], False),
        ([], False),
    ],
)
def test_the_server_tells_how_helm_applied_an_object(managed: list[tuple[str, str, str]], client: bool) -> None:
    fields = [{"manager": manager, "operation": way, "subresource": part} for manager, way, part in managed]

    assert client_side({"metadata": {"managedFields": fields}}) is client
    assert client_side({}) is False


@pytest.mark.parametrize(
    ("declared", "there", "uninstalled", "action"),
    [
        (True, False, False, "delete"),
        (False, True, False, "keep"),
        (True, False, True, "keep"),
        (False, True, True, "delete"),
    ],
)
def test_an_uninstall_goes_by_the_chart_and_an_upgrade_by_the_live_object(
    declared: bool, there: bool, uninstalled: bool, action: str
) -> None:
    free, kept = of("PersistentVolumeClaim", "data"), of("PersistentVolumeClaim", "data", annotations={"helm.sh/resource-policy": "keep"})
    one = Removed(manifest=kept if declared else free, live=live(kept if there else free), uninstalled=uninstalled)

    assert [found.action for found in compared([], [one])] == [action]


def test_what_the_release_has_no_more_is_deleted_unless_it_is_kept_or_gone() -> None:
    web, claim = one(WEB), of("PersistentVolumeClaim", "data")
    kept = of("ConfigMap", "kept", annotations={"helm.sh/resource-policy": "keep"})
    found = compared(
        [],
        [
            Removed(manifest=web, live=live(web)),
            Removed(manifest=claim, live=live(claim)),
            Removed(manifest=kept, live=live(kept)),
            Removed(manifest=of("Pod", "gone")),
        ],
    )

    assert [(one.action, one.classes[-1]) for one in found] == [
        ("delete", ChangeClass.DELETE),
        ("delete", ChangeClass.STATEFUL_DELETE),
        ("keep", ChangeClass.FORGET),
        ("no-op", ChangeClass.NONE),
    ]
    assert plan(*found).counts == Counts(delete=2, forgotten=1)
    assert [(c.address, c.action) for c in plan(*found).changes] == [
        ("PersistentVolumeClaim/shop/data", "delete"),
        ("Deployment.apps/shop/web", "delete"),
        ("ConfigMap/shop/kept", "forget"),
    ]


def test_what_exists_already_comes_under_the_release() -> None:
    same, changed = (
        compared([Looked(manifest=one(WEB), live=live(one(WEB)), predicted=p, taken_over=True)])[0]
        for p in (live(one(WEB)), edited(one(WEB), "spec.replicas", 9))
    )

    assert same.classes == (ChangeClass.IMPORT,)
    assert changed.classes == (ChangeClass.UPDATE, ChangeClass.IMPORT)
    assert [c.action for c in plan(same, changed).changes] == ["import", "update"]
    assert plan(same).counts == Counts(imported=1)
    assert json.loads(view_of([same], mode="apply", engine_build="h", veil=VEIL))["total"] == 1


@pytest.mark.parametrize(
    ("kind", "api", "stateful"),
    [
        ("Namespace", "v1", True),
        ("CustomResourceDefinition", "apiextensions.k8s.io/v1", True),
        ("Secret", "v1", True),
        ("Cluster", "postgresql.cnpg.io/v1", True),
        ("PostgresCluster", "postgres-operator.crunchydata.com/v1", True),
        ("ClusterRole", "rbac.authorization.k8s.io/v1", False),
        ("ConfigMap", "v1", False),
        ("ServiceMonitor", "monitoring.coreos.com/v1", False),
    ],
)
def test_what_holds_data(kind: str, api: str, stateful: bool) -> None:
    assert is_stateful(of(kind, api=api).key) is stateful


def test_what_grants_rights() -> None:
    assert is_rights(of("RoleBinding", api="rbac.authorization.k8s.io/v1").key)
    assert not is_rights(of("Deployment", api="apps/v1").key)


# What people are told first.


def gone(kind: str, name: str, api: str = "v1") -> Difference:
    manifest = of(kind, name, api=api)
    return compared([], [Removed(manifest=manifest, live=live(manifest))])[0]


@requirement("helm:plan-of-a-release")
def test_the_worst_is_told_first() -> None:
    web = one(WEB)
    hook = of("Job", "migrate", api="batch/v1", annotations={"helm.sh/hook": "pre-upgrade"})
    late = of("Job", "late", api="batch/v1", annotations={"helm.sh/hook": "post-upgrade", "helm.sh/hook-weight": "5"})
    found = plan(
        gone("Namespace", "n"),
        gone("CustomResourceDefinition", "things.acme.dev", "apiextensions.k8s.io/v1"),
        gone("ConfigMap", "c"),
        gone("Service", "s"),
        upgraded(one(WEB.replace("name: web, l", "name: fixed, l")), "spec.paused", True, immutable=("spec.selector",)),
        upgraded(web, "spec.replicas", 0, conflicts=(Conflict(manager="ops", field=".spec.replicas"),)),
        upgraded(of("Role", "r", api="rbac.authorization.k8s.io/v1", rules=[]), "rules", [{"verbs": ["*"]}]),
        upgraded(of("Pod", "p", spec={}), "spec", {"hostNetwork": True}),
        upgraded(of("Pod", "q", spec={"hostPID": True}), "spec", {"hostPID": False}),
        upgraded(of("CustomResourceDefinition", "d", api="apiextensions.k8s.io/v1", spec={}), "spec", {"hostNetwork": {"type": "boolean"}}),
        compared([Looked(manifest=one(SECRET), live=live(one(SECRET)), predicted=live(one(SECRET)), taken_over=True)])[0],
        hooks=[late, hook, of("Pod", "no-hook")],
        risks=["What the engine found."],
    )

    assert found.risks == (
        "Data may be lost: Namespace/n, CustomResourceDefinition.apiextensions.k8s.io/things.acme.dev would be deleted or replaced.",
        "With a CustomResourceDefinition every object of its kind is deleted: "
        "CustomResourceDefinition.apiextensions.k8s.io/things.acme.dev.",
        "With a Namespace everything in it is deleted, whoever put it there: Namespace/n.",
        "2 objects would be deleted: ConfigMap/shop/c, Service/shop/s.",
        "The cluster does not let spec.selector change: Deployment.apps/shop/fixed would have to be deleted and made again.",
        "Would run no more, scaled to zero: Deployment.apps/shop/web.",
        "What the engine found.",
        "Fields that ops manages would be taken over by force: Deployment.apps/shop/web .spec.replicas.",
        "Existing objects would come under this release's control: Secret/shop/db.",
        "Changes who may do what: Role.rbac.authorization.k8s.io/shop/r.",
        "Gets rights on the machines it runs on (privileged, or the host's files or network): Pod/shop/p.",
        "Hooks run while applying: Job.batch/shop/migrate (pre-upgrade), Job.batch/shop/late (post-upgrade). "
        "A plan cannot show what they do.",
    )
    assert found.change_class == ChangeClass.STATEFUL_DELETE
    assert found.classes == tuple(sorted(set(found.classes), key=lambda c: c.rank))


def test_what_is_left_behind_and_what_is_many() -> None:
    kept = of("ConfigMap", "kept", annotations={"helm.sh/resource-policy": "keep"})
    many = [gone("ConfigMap", f"c{n}") for n in range(7)]
    found = plan(*compared([], [Removed(manifest=kept, live=live(kept))]), *many)

    assert found.risks == (
        "7 objects would be deleted: "
        "ConfigMap/shop/c0, ConfigMap/shop/c1, ConfigMap/shop/c2, ConfigMap/shop/c3, ConfigMap/shop/c4 and 2 more.",
        "Left behind, running and unmanaged, for its resource-policy is keep: ConfigMap/shop/kept.",
    )
    assert plan(gone("ConfigMap", "c")).risks == ("1 object would be deleted: ConfigMap/shop/c.",)


# Views and records.


def test_the_view_is_bounded_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    big = of("ConfigMap", data={f"k{n:03}": "v" for n in range(150)})
    (found,) = compared([Looked(manifest=big)])
    (change,) = json.loads(view_of([found], mode="apply", engine_build="helm 4.2.4", veil=VEIL))["changes"]

    assert (len(change["attributes"]), change["attributes_left_out"]) == (100, 50)
    assert len(change_of(upgraded(big, "data", {}), VEIL).attributes) == 20
    monkeypatch.setattr("countersign.core.helm.diff.SIZE", 100)
    small = json.loads(view_of([found], mode="apply", engine_build="helm 4.2.4", veil=VEIL))
    assert (small["total"], small["shown"], small["truncated"]) == (1, 0, True)


def test_the_view_has_hooks_and_what_was_not_asked() -> None:
    hook = of("Job", "m", api="batch/v1", annotations={"helm.sh/hook": "pre-upgrade"})
    secret = one(SECRET)
    veil = Veil(FINGERPRINTS, secret_texts([secret]))
    found = compared([Looked(manifest=secret, unchecked="no hunter2hunter2 answer")])
    text = view_of(found, mode="apply", engine_build="helm 4.2.4", veil=veil, hooks=[hook, one(WEB)])
    view = json.loads(text)

    assert b"hunter2" not in text
    assert view["changes"][0]["unchecked"] == "no (redacted) answer"
    assert view["hooks"] == [
        {"address": "Deployment.apps/shop/web", "source": "shop/templates/web.yaml"},
        {"address": "Job.batch/shop/m", "source": "", "events": ["pre-upgrade"], "weight": 0, "delete_policies": ["before-hook-creation"]},
    ]
    assert all(row["sensitive"] for row in view["changes"][0]["attributes"] if row["name"].startswith("stringData"))


def test_records_are_equal_where_plans_mean_the_same_and_hold_no_value() -> None:
    change = upgraded(one(WEB), "spec.replicas", 3, conflicts=(Conflict(manager="ops", field=".spec.replicas"),))
    again = upgraded(one(WEB), "spec.replicas", 3, conflicts=(Conflict(manager="ops", field=".spec.replicas"),))
    other = upgraded(one(WEB), "spec.replicas", 4)

    assert record_of(change, FINGERPRINTS) == record_of(again, FINGERPRINTS) != record_of(other, FINGERPRINTS)
    assert record_of(change, FINGERPRINTS)["conflicts"] == ["ops .spec.replicas"]
    assert "hunter2" not in json.dumps(record_of(compared([Looked(manifest=one(SECRET))])[0], FINGERPRINTS))
    assert record_of(gone("ConfigMap", "c"), FINGERPRINTS)["attributes"]["kind"] == [
        record_of(gone("ConfigMap", "c"), FINGERPRINTS)["attributes"]["kind"][0],
        None,
    ]


# Drift.


@requirement("helm:drift")
def test_drift_is_told_from_what_is_declared_to_what_is_there() -> None:
    web, config = one(WEB), of("ConfigMap", "c", data={"a": "b"})
    found = drifted(
        [
            Looked(manifest=web, live=edited(web, "spec.replicas", 9), predicted=live(web)),
            Looked(manifest=config, predicted=live(config)),
            Looked(manifest=one(SECRET), live=live(one(SECRET)), predicted=live(one(SECRET))),
        ]
    )
    plan = drift_of(found, engine_build="helm 4.2.4", veil=VEIL)

    assert [(one.key.name, one.action) for one in found] == [("web", "update"), ("c", "delete"), ("db", "no-op")]
    assert told(found[0]) == [("spec.replicas", "2", "9")]
    assert (plan.drift, plan.in_words) == (True, "1 changed, 1 gone")
    assert plan.risks == (
        "Gone, and made again by the next deploy: ConfigMap/shop/c.",
        "Changed outside of this release; the next deploy changes back what the chart says otherwise: Deployment.apps/shop/web.",
    )
    assert drift_of(found[2:], engine_build="h", veil=VEIL).risks == ()
    assert drift_of(found[:1], engine_build="h", veil=VEIL).changes_anything


LEAF = st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from(["a", "b"])
BODY = st.recursive(
    LEAF,
    lambda inner: (
        st.dictionaries(st.sampled_from("pqr"), inner, max_size=3)
        | st.lists(inner, max_size=3)
        | st.lists(st.builds(lambda name, item: {"name": name, "x": item}, st.sampled_from("mno"), inner), max_size=3)
    ),
    max_leaves=12,
)


@settings(max_examples=300)
@given(BODY, BODY)
def test_whatever_differs_is_told_and_nothing_else(before: Any, after: Any) -> None:
    manifest = of("ConfigMap")
    sides = ({**live(manifest), "it": before}, {**live(manifest), "it": after})
    (found,) = compared([Looked(manifest=manifest, live=sides[0], predicted=sides[1])])
    (same,) = compared([Looked(manifest=manifest, live=sides[0], predicted=copy.deepcopy(sides[0]))])

    assert same.leaves == ()
    names = [leaf.name for leaf in found.leaves]
    assert len(set(names)) == len(names)
    if not found.leaves:
        assert _bare(before) == _bare(after)


def _bare(value: Any) -> Any:
    """Without nulls and what holds nothing else, and lists in one order: what Kubernetes takes for the same."""
    if isinstance(value, dict):
        kept = {k: _bare(v) for k, v in value.items()}
        return {k: v for k, v in kept.items() if v is not None} or None
    if isinstance(value, list):
        parts = [part for v in value if (part := _bare(v)) is not None]
        return sorted(parts, key=lambda p: json.dumps(p, sort_keys=True)) or None
    return value


def test_a_leaf_is_named_as_people_write_it() -> None:
    assert Leaf(path=("a", "[b]", 0, "c"), before=None, after=1, hidden=False).name == "a[b][0].c"
