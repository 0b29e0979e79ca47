"""Manifests are read as the API server reads them, and what nobody could agree to is refused by name."""

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from countersign.core.helm import manifests
from countersign.core.helm.manifests import BrokenManifest, Hook, Key, load, parse
from tests.unit.core.helm.charts import SECRET, WEB, of, one


def refusal(text: str) -> str:
    with pytest.raises(BrokenManifest) as refused:
        parse(text, namespace="shop")
    return refused.value.message


def test_objects_are_told_apart_as_helm_tells_them_apart() -> None:
    web, secret, role = parse(
        WEB + SECRET + "---\nkind: ClusterRole\napiVersion: rbac.authorization.k8s.io/v1\nmetadata: {name: r}\n", namespace="shop"
    )

    assert (web.key.address, web.api_version, web.source) == ("Deployment.apps/shop/web", "apps/v1", "shop/templates/web.yaml")
    assert secret.key == Key(group="", kind="Secret", namespace="shop", name="db")
    assert role.key.address == "ClusterRole.rbac.authorization.k8s.io/r"


def test_a_namespace_of_its_own_wins_and_a_newer_version_of_the_api_is_the_same_object() -> None:
    old, new = (one(f"apiVersion: batch/{v}\nkind: CronJob\nmetadata: {{name: n, namespace: other}}") for v in ("v1beta1", "v1"))

    assert old.key == new.key
    assert old.key.namespace == "other"


def test_only_the_cluster_knows_where_kinds_of_others_live() -> None:
    text = "apiVersion: acme.dev/v1\nkind: Zone\nmetadata: {name: z}"

    assert parse(text, namespace="shop")[0].key.address == "Zone.acme.dev/shop/z"
    assert parse(text, namespace="shop", cluster_scoped={("acme.dev", "Zone")})[0].key.address == "Zone.acme.dev/z"


def test_a_list_is_what_is_in_it_and_empty_documents_are_nothing() -> None:
    listed = "apiVersion: v1\nkind: ConfigMapList\nitems:\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: a}}\n"
    text = f"---\n---\n# only a comment\n---\n{listed}"

    assert [m.key.name for m in parse(text, namespace="shop")] == ["a"]


def test_hooks_tell_when_they_run() -> None:
    hook = of("Job", api="batch/v1", annotations={"helm.sh/hook": "pre-upgrade, post-install,pre-upgrade", "helm.sh/hook-weight": " -5"})
    test = of("Pod", annotations={"helm.sh/hook": "test", "helm.sh/hook-delete-policy": "hook-succeeded", "helm.sh/hook-weight": "heavy"})

    assert hook.hook == Hook(events=("pre-upgrade", "post-install"), weight=-5, delete_policies=("before-hook-creation",))
    assert test.hook == Hook(events=("test",), weight=0, delete_policies=("hook-succeeded",))
    assert (hook.hook.is_test, test.hook.is_test) == (False, True)


def test_a_hook_may_leave_its_name_to_the_server() -> None:
    text = "apiVersion: v1\nkind: Pod\nmetadata: {generateName: check-, annotations: {helm.sh/hook: test}}"

    assert one(text).key.name == "check-*"
    assert "Pod without metadata.name" in refusal(text.replace(", annotations: {helm.sh/hook: test}", ""))


def test_what_is_kept_and_what_defines_kinds() -> None:
    assert of("ConfigMap", annotations={"helm.sh/resource-policy": " Keep "}).kept
    assert not of("ConfigMap").kept
    assert of("CustomResourceDefinition", api="apiextensions.k8s.io/v1").is_crd
    assert not of("CustomResourceDefinition", api="acme.dev/v1").is_crd


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("22:22", "22:22"),
        ("2020-01-01", "2020-01-01"),
        ("0644", 420),
        ("0o17", 15),
        ("0x1F", 31),
        ("0b11", 3),
        ("-07", -7),
        ("+5", 5),
        ("1_000", 1000),
        ("08", 8.0),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("9e999", "9e999"),
        (".inf", ".inf"),
        ("yes", True),
        ("Off", False),
        ("y", "y"),
        ("~", None),
        ("", None),
        ("!!binary aGk=", "aGk="),
        ("!!timestamp 2020-01-01", "2020-01-01"),
        ('"1"', "1"),
    ],
)
def test_values_are_read_as_go_reads_them(text: str, value: object) -> None:
    read = load(f"it: {text}", what="values.yaml")["it"]

    assert (read, type(read)) == (value, type(value))


def test_keys_are_texts_and_merges_give_way_to_what_is_written() -> None:
    assert load("1: a\ntrue: b\n~: c\nd: {<<: {x: 1, y: 2}, x: 3}", what="values.yaml") == {
        "1": "a",
        "true": "b",
        "null": "c",
        "d": {"x": 3, "y": 2},
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1\nb:\n  c: 1\n  c: 2", "document 1 is no YAML that can be read, line 4: a key is written twice"),
        ("# Source: x/t.yaml\na: [", "document 1 (x/t.yaml) is no YAML that can be read, line 3"),
        ("a: *gone", "found undefined alias"),
        ("a: !ours 1", "a tag of its own has no meaning here"),
        ("? [x]\n: 1", "a key is no text"),
        ("a: \x01", "it holds characters that YAML does not allow"),
        ("a: &a [*a]", "recursive"),
        ("a: " + "9" * 5000, "a number that is too long"),
        ("just a text", "no object of Kubernetes"),
        ("kind: Pod\nmetadata: {name: a}", "has no apiVersion"),
        ("apiVersion: v1\nkind: 7\nmetadata: {name: a}", "has no kind"),
        ("apiVersion: v1\nkind: Pod", "Pod without metadata.name"),
        ("apiVersion: v1\nkind: Pod\nmetadata: [a]", "Pod without metadata.name"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: 7}", "or its name is no text"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: a, annotations: {helm.sh/hook: someday}}", "Helm does not know"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: a, annotations: {helm.sh/hook: ' , '}}", "Helm does not know"),
        (WEB + WEB, "document 2 (shop/templates/web.yaml) writes Deployment.apps/shop/web once more, as shop/templates/web.yaml does"),
    ],
)
def test_what_nobody_could_agree_to_is_refused(text: str, says: str) -> None:
    assert says in refusal(text)


def test_an_error_does_not_quote_what_stands_there() -> None:
    assert "hunter2" not in refusal("a: 'hunter2\nb: @hunter2")
    assert "hunter2" not in refusal("a: &x\n*hunter2: 1")


def test_what_is_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9))
    pods = "".join(f"---\napiVersion: v1\nkind: Pod\nmetadata: {{name: p{n}}}\n" for n in range(3))
    monkeypatch.setattr(manifests, "OBJECTS", 2)

    assert "more than 500000 values" in refusal(bomb)
    assert "nested more than 100 deep" in refusal("[" * 150 + "]" * 150)
    assert "nested more than 100 deep" in refusal("[" * 900 + "]" * 900)
    assert "nested more than 100 deep" in refusal("{a: " * 900 + "}" * 900)
    assert "nesting" in refusal("[" * 20_000 + "]" * 20_000)
    assert "more than 2 objects" in refusal(pods)
    monkeypatch.setattr(manifests, "SIZE", 20)
    assert "more than 20" in refusal(pods)
    with pytest.raises(BrokenManifest, match=r"values\.yaml has 21 characters"):
        load("a" * 21, what="values.yaml", most=(20, 9))
    with pytest.raises(BrokenManifest, match=r"values\.yaml stands for more than 3 values"):
        load("[1, 2, 3, 4]", what="values.yaml", most=(20, 3))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=20) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_json_is_read_as_what_it_is(value: object) -> None:
    written = json.dumps(value)

    if "\\u" in written or "\\" in written:  # a surrogate alone is no text of YAML
        return
    assert load(written, what="it") == value


@given(st.text(alphabet="ab:-{}[]&*!|>'\"#%@ \n\t0123456789.", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse(text, namespace="shop")
    except BrokenManifest as refused:
        assert refused.message


@given(JSON)
def test_what_pyyaml_writes_is_read_back(value: object) -> None:
    text = yaml.safe_dump({"it": value}, allow_unicode=True)

    assert load(text, what="it") is not None
