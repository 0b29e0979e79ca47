"""Of secrets people see that they are there and whether they change, wherever they turn up."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from countersign.core.helm.manifests import parse
from countersign.core.helm.redaction import Veil, by_schema, is_secret, sealed_paths, secret_texts, tree, written
from tests.requirements import requirement
from tests.unit.core.helm.charts import FINGERPRINTS, SECRET, WEB, of, one

FP = "(sensitive fp:"


def veil(secrets: frozenset[str] | set[str] = frozenset()) -> Veil:
    return Veil(FINGERPRINTS, secrets, scope="st_1/shop/web")


def shown_values(values: Any, **more: Any) -> Any:
    return veil().values(values, **more)


def test_a_secret_shows_its_keys_and_no_value() -> None:
    shown = veil().manifest(one(SECRET))

    assert set(shown["stringData"]) == {"password", "username"}
    assert all(value.startswith(FP) for value in shown["stringData"].values())
    assert shown["metadata"] == {"name": "db"}


def test_a_live_secret_hides_what_kubectl_noted_of_it() -> None:
    secret = of("Secret", annotations={"kubectl.kubernetes.io/last-applied-configuration": '{"data": 1}'}, data={"p": "aGk="})

    assert veil().manifest(secret)["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"].startswith(FP)
    assert veil().manifest(secret, {"apiVersion": "v1", "kind": "Secret", "data": {"p": "eW8="}})["data"]["p"].startswith(FP)


@requirement("helm:secrets")
def test_the_same_text_elsewhere_is_hidden_too() -> None:
    both = parse(WEB + SECRET, namespace="shop")
    found = secret_texts(both)
    config = of(
        "ConfigMap", data={"url": "db://hunter2hunter2@host", "image": "postgres:16", "b64": base64.b64encode(b"hunter2hunter2").decode()}
    )
    shown = json.dumps([Veil(FINGERPRINTS, found).manifest(m) for m in (*both, config)])

    assert "hunter2hunter2" in found
    assert "hunter2" not in shown
    assert base64.b64encode(b"hunter2hunter2").decode() not in shown
    assert "postgres:16" in shown, "a user name is the name of an image as well"


def test_a_secret_in_bytes_is_looked_for_as_it_is_written() -> None:
    raw = base64.b64encode(b"\xff\xfe\x00binary-data").decode()
    assert secret_texts([of("Secret", data={"key.bin": raw, "number": 5})]) == {raw}


def test_short_texts_are_hidden_in_their_place_alone() -> None:
    assert secret_texts([of("Secret", stringData={"password": "abc"})]) == frozenset()


def test_no_secret_is_taken_for_one_of_another_group() -> None:
    assert is_secret(one(SECRET))
    assert not is_secret(of("Secret", api="acme.dev/v1"))


def test_variables_of_containers_are_hidden_by_their_names() -> None:
    env = veil().manifest(one(WEB))["spec"]["template"]["spec"]["containers"][0]["env"]

    assert env[0] == {"name": "MODE", "value": "fast"}
    assert env[1]["name"] == "DB_PASSWORD"
    assert env[1]["value"].startswith(FP)


def test_where_a_secret_lies_is_no_secret() -> None:
    pod = of(
        "Pod",
        spec={
            "imagePullSecrets": [{"name": "registry"}],
            "volumes": [{"name": "v", "secret": {"secretName": "db", "optional": True, "items": [{"key": "a", "path": "b"}]}}],
            "containers": [{"name": "c", "env": [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "db", "key": "token"}}}]}],
            "automountServiceAccountToken": False,
        },
    )

    assert veil().manifest(pod) == pod.body


def test_what_only_names_secrets_is_shown_and_what_was_made_of_one_is_not() -> None:
    schema = {"properties": {"password": {"type": "string", "description": "The word of the database"}}}
    crd = of("CustomResourceDefinition", api="apiextensions.k8s.io/v1", spec=schema)
    pod = of("Pod", annotations={"checksum/secret": "a" * 64, "note": "b"})

    assert veil().manifest(crd) == crd.body
    assert veil().manifest(pod)["metadata"]["annotations"]["checksum/secret"].startswith(FP)
    assert veil().manifest(pod)["metadata"]["annotations"]["note"] == "b"


def test_values_are_hidden_by_name_and_below_it() -> None:
    shown = shown_values(
        {
            "image": "shop:1",
            "dbPassword": "hunter2",
            "pin_token": 12345,
            "secrets": {"API": "abc", "list": ["x"], "enabled": True, "name": "db"},
            "auth": {"username": "ana", "database": "shop", "existingSecret": "db", "password": None},
            "existingSecret": "db",
        }
    )

    assert shown["image"] == "shop:1"
    assert shown["dbPassword"].startswith(FP)
    assert shown["pin_token"].startswith(FP)
    assert shown["secrets"]["API"].startswith(FP)
    assert shown["secrets"]["list"][0].startswith(FP)
    assert (shown["secrets"]["enabled"], shown["secrets"]["name"]) == (True, "db")
    assert shown["auth"]["username"] == "ana"
    assert (shown["auth"]["existingSecret"], shown["auth"]["password"], shown["existingSecret"]) == ("db", None, "db")


SCHEMA = {
    "$defs": {"pw": {"type": "string", "writeOnly": True}, "loop": {"$ref": "#/$defs/loop"}},
    "properties": {
        "pin": {"format": "password"},
        "users": {"items": {"properties": {"word": {"$ref": "#/$defs/pw"}}}},
        "extra": {"additionalProperties": {"allOf": [{"$ref": "#/$defs/pw"}, True]}},
        "loop": {"$ref": "#/$defs/loop"},
        "away": {"$ref": "https://example.com/schema"},
        "nowhere": {"$ref": "#/$defs/none/deeper"},
        "odd": {"anyOf": "no list"},
    },
}


def test_values_are_hidden_by_schema() -> None:
    values = {
        "pin": "1234",
        "users": [{"word": "w", "name": "ana"}],
        "extra": {"a": "b"},
        "loop": 1,
        "away": 2,
        "nowhere": 3,
        "odd": 4,
        "free": 5,
    }

    assert {written(path) for path in by_schema(values, SCHEMA)} == {"pin", "users[0].word", "extra.a"}
    shown = shown_values(values, schema=SCHEMA)
    assert shown["users"][0]["name"] == "ana"
    assert shown["users"][0]["word"].startswith(FP)
    assert shown["extra"]["a"].startswith(FP)


def test_what_a_schema_calls_secret_is_hidden_in_manifests() -> None:
    found = secret_texts(
        values={"pin": "word-like", "deep": {"x": "long-secret-1"}, "n": 5}, schema=SCHEMA, paths=[("deep",), ("n",), ("none", 0)]
    )

    assert found == {"long-secret-1"}, "a plain word under a harmless name is hidden in its place alone"
    assert secret_texts(values={"password": "wordlike"}) == {"wordlike"}


def test_sealed_values_are_hidden_where_they_were_asked_for() -> None:
    asked = {"db": {"user": "ana", "word": {"secret": "db-word"}}, "list": [{"secret": "other"}, 1]}

    assert [(written(path), slug) for path, slug in sealed_paths(asked)] == [("db.word", "db-word"), ("list[0]", "other")]
    assert shown_values({"db": {"user": "ana", "word": "opened"}}, paths=[("db", "word")])["db"]["word"].startswith(FP)


def test_assignments_in_files_are_hidden() -> None:
    config = of(
        "ConfigMap", data={"app.properties": 'db.password = "hunter two"\nmode: fast\ntoken=$TOKEN\napi_key: abc123\n', "plain": "word"}
    )
    text = veil().manifest(config)["data"]["app.properties"]

    assert "hunter" not in text
    assert "abc123" not in text
    assert "mode: fast" in text
    assert "token=$TOKEN" in text
    assert text.count(FP) == 2


def test_equal_secrets_look_equal_in_one_place_and_different_in_two() -> None:
    one_veil = veil()

    assert one_veil.fingerprint("s", "a") == one_veil.fingerprint("s", "a")
    assert len({one_veil.fingerprint(v, w) for v, w in (("s", "a"), ("s", "b"), ("t", "a"))}) == 3
    assert Veil(FINGERPRINTS, scope="other").fingerprint("s", "a") != one_veil.fingerprint("s", "a")


def test_paths_are_written_as_people_write_them() -> None:
    assert written(("a", "b.c/d", 0, "e-f")) == 'a["b.c/d"][0].e-f'


@pytest.mark.parametrize(("one_value", "other"), [(1, 1.0), (1, "1"), ([], {}), ({"a": None}, {}), ([1, [2]], [[1], 2])])
def test_no_two_types_share_a_spelling(one_value: object, other: object) -> None:
    assert tree(one_value) != tree(other)


@given(st.text(alphabet=st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=8, max_size=30).filter(lambda s: s.strip() == s))
def test_whatever_a_secret_holds_is_seen_nowhere(text: str) -> None:
    secret = of("Secret", stringData={"password": text})
    config = of("ConfigMap", data={"whole": text, "within": f"<<{text}>>"})
    found = secret_texts([secret])

    shown = Veil(FINGERPRINTS, found).manifest(config)["data"]

    assert shown["whole"].startswith(FP)
    assert text not in shown["within"]
