"""A state as the service and people read it: what may be stored, and what of it may be shown."""

import json
from typing import Any

import pytest

from countersign.core.errors import FailedPrecondition, InvalidArgument, NotFound, ProviderError
from countersign.core.terraform import state
from tests.requirements import requirement

SECRET = "hunter2-hunter2"


def document(*resources: dict[str, Any], **more: Any) -> bytes:
    whole = {"version": 4, "terraform_version": "1.11.4", "serial": 7, "lineage": "a-b-c", "outputs": {}, "resources": list(resources)}
    return json.dumps({**whole, **more}).encode()


def resource(type: str = "terraform_data", name: str = "a", *instances: dict[str, Any], **more: Any) -> dict[str, Any]:
    whole = {"mode": "managed", "type": type, "name": name, "provider": 'provider["terraform.io/builtin/terraform"]'}
    return {**whole, "instances": list(instances) or [{"attributes": {"id": "1"}}], **more}


def attr(*steps: str | int) -> list[dict[str, Any]]:
    def step(key: str | int) -> dict[str, Any]:
        if isinstance(key, int):
            return {"type": "index", "value": {"value": key, "type": "number"}}
        return {"type": "get_attr", "value": key}

    return [step(key) for key in steps]


def test_lineage_and_serial_are_read_of_a_state_of_version_4() -> None:
    assert state.header_of(document()) == state.Header(lineage="a-b-c", serial=7)


def test_an_encrypted_envelope_of_opentofu_may_be_stored() -> None:
    envelope = {"serial": 3, "lineage": "x", "meta": {"k": "v"}, "encrypted_data": "AAAA", "encryption_version": "v0"}

    assert state.header_of(json.dumps(envelope).encode()) == state.Header(lineage="x", serial=3, encrypted=True)


@requirement("state:read-safely")
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no"),
        (b"[]", "no"),
        (b'{"version": 4', "cut short"),
        (b"[" * 100_000, "JSON object"),
        (document(version=3), "version 3"),
        (document(version="4"), "only version 4"),
        (json.dumps({"serial": 1, "lineage": "a"}).encode(), "missing"),
        (document(lineage=""), "lineage"),
        (document(lineage=4), "lineage"),
        (document(lineage="x" * 81), "lineage"),
        (document(serial=-1), "serial"),
        (document(serial=1.5), "serial"),
        (document(serial="7"), "serial"),
        (document(serial=2**31), "serial"),
        (document(serial=None), "missing"),
    ],
)
def test_what_is_no_state_is_refused_saying_why(data: bytes, words: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        state.header_of(data)

    assert words in refused.value.message


def test_every_object_is_listed_by_the_address_terraform_gives_it() -> None:
    read = state.read(
        document(
            resource(name="one"),
            resource("aws_ami", "found", mode="data", module="module.net"),
            resource("terraform_data", "many", {"index_key": 0, "attributes": {}}, {"index_key": 1, "attributes": {}}),
            resource("terraform_data", "each", {"index_key": 'a"b\\${c}\n', "attributes": {}}, module='module.m["x"].module.n[2]'),
            resource("terraform_data", "old", {"attributes": {}}, {"deposed": "0a1b2c3d", "attributes": {}}),
        )
    )

    assert read.addresses == [
        "terraform_data.one",
        "module.net.data.aws_ami.found",
        "terraform_data.many[0]",
        "terraform_data.many[1]",
        'module.m["x"].module.n[2].terraform_data.each["a\\"b\\\\$${c}\\n"]',
        "terraform_data.old",
        "terraform_data.old (deposed 0a1b2c3d)",
    ]


def test_one_resource_is_shown_with_its_attributes() -> None:
    own = {"attributes": {"id": "1", "size": 3, "big": 10**40, "on": True, "tags": {"a": "b"}, "ports": [1, 2], "none": None}}
    own |= {"status": "tainted", "dependencies": ["terraform_data.b"], "private": "c2VjcmV0"}

    shown = state.read(document(resource("terraform_data", "a", own))).resource("terraform_data.a")

    assert shown == {
        "address": "terraform_data.a",
        "type": "terraform_data",
        "provider": 'provider["terraform.io/builtin/terraform"]',
        "tainted": True,
        "deposed": [],
        "depends_on": ["terraform_data.b"],
        "attributes": {
            "id": "1",
            "size": 3,
            "big": "1" + "0" * 40,
            "on": True,
            "tags": {"a": "b"},
            "ports": [1, 2],
            "none": None,
        },
    }


@requirement("state:read-safely")
@pytest.mark.parametrize(
    ("attributes", "mark"),
    [
        ({"value": SECRET}, attr("value")),
        ({"value": {"deep": [{"x": SECRET}]}}, attr("value", "deep", 0, "x")),
        ({"value": {"deep": SECRET}}, attr("value")),
        ({"value": [SECRET]}, attr("value", 7)),  # a set's element, or a mark of another version of the provider
        ({"value": SECRET}, attr("gone")),
        ({"value": SECRET}, []),
        ({"value": f"postgres://u:{SECRET}@host", "other": SECRET}, attr("other")),  # copied beside the mark
        ({"db_password": SECRET}, None),
        ({"nested": {"apiKey": [SECRET]}}, None),
        ({"pin": 12345678, "value": "12345678"}, attr("pin")),
    ],
)
def test_a_secret_of_a_resource_is_hidden(attributes: dict[str, Any], mark: list[dict[str, Any]] | None) -> None:
    own = {"attributes": attributes, "sensitive_attributes": [mark] if mark is not None else []}

    shown = json.dumps(state.read(document(resource("terraform_data", "a", own))).resource("terraform_data.a"))

    assert SECRET not in shown
    assert "12345678" not in shown
    assert "(redacted)" in shown


@pytest.mark.parametrize(
    "type", ["random_password", "kubernetes_secret_v1", "tls_private_key", "local_sensitive_file", "aws_secretsmanager_secret_version"]
)
def test_a_resource_that_exists_to_hold_a_secret_shows_its_name_only(type: str) -> None:
    own = {"attributes": {"result": SECRET, "private_key": SECRET, "content": {"a": SECRET}, "name": "db", "length": 16}}

    shown = state.read(document(resource(type, "a", own))).resource(f"{type}.a")

    assert shown["attributes"] == {
        "content": "(redacted)",
        "length": 16,
        "name": "db",
        "private_key": "(redacted)",
        "result": "(redacted)",
    }


def test_a_sensitive_output_is_hidden_in_every_resource_and_address() -> None:
    read = state.read(
        document(
            resource("terraform_data", "a", {"index_key": SECRET, "attributes": {"input": f"x {SECRET} y"}}),
            outputs={"it": {"value": SECRET, "type": "string", "sensitive": True}},
        )
    )

    assert read.addresses == ['terraform_data.a["(redacted)"]']
    assert read.resource(f'terraform_data.a["{SECRET}"]')["attributes"] == {"input": "x (redacted) y"}


def test_large_values_are_cut_and_say_so() -> None:
    own = {"attributes": {"text": "x" * 1000, "many": list(range(300)), "map": {f"k{n:03}": n for n in range(300)}}}

    shown = state.read(document(resource("terraform_data", "a", own))).resource("terraform_data.a")["attributes"]

    assert shown["text"] == "x" * 256 + "… (1000 characters)"
    assert shown["many"][-1] == "… 200 more"
    assert shown["map"]["…"] == "200 more"


def test_an_address_that_is_not_there_is_answered_with_those_that_begin_like_it() -> None:
    read = state.read(document(resource("terraform_data", "a", *({"index_key": n, "attributes": {}} for n in range(8)))))

    with pytest.raises(NotFound) as refused:
        read.resource("terraform_data.a")

    assert "terraform_data.a[0], terraform_data.a[1]" in refused.value.message
    assert "and 3 more" in refused.value.message


def test_an_encrypted_state_is_not_read() -> None:
    envelope = {"serial": 3, "lineage": "x", "encrypted_data": "AAAA"}

    with pytest.raises(FailedPrecondition):
        state.read(json.dumps(envelope).encode())


@pytest.mark.parametrize("resources", [["x"], [{"instances": ["x"]}], [{"instances": [{"sensitive_attributes": ["x"], "attributes": {}}]}]])
def test_a_state_nobody_can_read_is_not_shown_in_part(resources: list[Any]) -> None:
    with pytest.raises(ProviderError):
        state.read(document(resources=resources))


def test_a_state_under_another_serial_is_the_same_to_the_last_digit() -> None:
    before = b'{"version": 4, "serial": 7, "lineage": "l", "resources": [{"n": 1e400, "m": 123456789012345678.50, "t": null}]}'

    after = state.with_serial(before, 12)

    assert state.header_of(after) == state.Header(lineage="l", serial=12)
    assert after == b'{"version":4,"serial":12,"lineage":"l","resources":[{"n":1e400,"m":123456789012345678.50,"t":null}]}'


def test_what_is_no_state_gets_no_serial() -> None:
    with pytest.raises(InvalidArgument, match="no lineage"):
        state.with_serial(b'{"version": 4, "serial": 7}', 8)
