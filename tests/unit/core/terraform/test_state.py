"""A state is read without giving its secrets away, whatever is in it; `tests/unit/test_state_document.py` says it by example."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from countersign.core.errors import FailedPrecondition, InvalidArgument, NotFound, ProviderError
from countersign.core.redaction import HIDDEN
from countersign.core.terraform.state import Header, header_of, quoted, read
from tests.requirements import requirement


def state(*resources: dict[str, Any], **more: Any) -> bytes:
    return json.dumps(
        {"version": 4, "terraform_version": "1.11.4", "serial": 7, "lineage": "l", "resources": list(resources), "outputs": {}, **more}
    ).encode()


def resource(
    attributes: Any = None, *, type: str = "thing", name: str = "a", marks: Any = (), instance: Any = None, **more: Any
) -> dict[str, Any]:
    own = {"attributes": attributes or {}, "sensitive_attributes": list(marks), **(instance or {})}
    return {
        "mode": "managed",
        "type": type,
        "name": name,
        "provider": 'provider["registry.terraform.io/acme/thing"]',
        "instances": [own],
        **more,
    }


def mark(*path: str | int) -> list[dict[str, Any]]:
    """As states write it: attributes by name, list items and map keys as an index with its type."""
    steps: list[dict[str, Any]] = [{"type": "get_attr", "value": path[0]}]
    for part in path[1:]:
        kind = "number" if isinstance(part, int) else "string"
        steps.append({"type": "index", "value": {"value": part, "type": kind}})
    return steps


def shown(attributes: Any, *, address: str = "thing.a", others: tuple[dict[str, Any], ...] = (), **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = read(state(resource(attributes, **more), *others)).resource(address)["attributes"]
    return found


# The header.


@requirement("state:read-safely")
@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"version": 3}, "version 3"),
        ({"version": "4"}, 'version "4"'),
        ({"version": None}, "version missing"),
        ({"version": 4.5}, "version 4.5"),
        ({"lineage": None}, "lineage"),
        ({"lineage": ""}, "lineage"),
        ({"lineage": 3}, "lineage"),
        ({"lineage": "x" * 81}, "lineage"),
        ({"serial": None}, "serial of the state is missing"),
        ({"serial": -1}, "serial of the state is -1"),
        ({"serial": 1.5}, "serial of the state is 1.5"),
        ({"serial": "7"}, 'serial of the state is "7"'),
        ({"serial": 2**31}, "serial of the state is 2147483648"),
        ({"serial": True}, "serial of the state is true"),
        ({"serial": {"a": "x" * 99}}, "…"),
    ],
)
def test_what_may_not_be_stored_is_refused_saying_why(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        header_of(state(**changed))

    assert words in refused.value.message
    assert len(refused.value.message) < 200


@pytest.mark.parametrize("data", [b"", b"text", b"[]", b"null", b'{"version": 4', b"[" * 100_000, b"\xff"])
def test_what_is_no_document_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidArgument, match="JSON object"):
        header_of(data)


@pytest.mark.parametrize("digits", [11, 5000])
def test_a_serial_of_endless_digits_is_refused_like_any_other(digits: int) -> None:
    data = b'{"version": 4, "lineage": "l", "serial": ' + b"9" * digits + b"}"

    with pytest.raises(InvalidArgument) as refused:
        header_of(data)

    assert len(refused.value.message) < 200


@pytest.mark.parametrize("serial", [0, 7, 2**31 - 1])
def test_the_header_of_a_state(serial: int) -> None:
    assert header_of(state(serial=serial)) == Header(lineage="l", serial=serial)
    assert read(state(serial=serial)).header.serial == serial


def test_an_encrypted_state_has_a_header_and_no_resources_to_show() -> None:
    data = json.dumps({"serial": 7, "lineage": "l", "encrypted_data": "x", "encryption_version": "v0"}).encode()

    assert header_of(data) == Header(lineage="l", serial=7, encrypted=True)
    with pytest.raises(FailedPrecondition, match="encrypted"):
        read(data)


@pytest.mark.parametrize("data", [b"", b"[]", state(version=3)])
def test_a_stored_state_that_is_none_is_told_as_such(data: bytes) -> None:
    with pytest.raises(ProviderError):
        read(data)


@requirement("state:read-safely")
@pytest.mark.parametrize(
    "resources",
    [
        ["text"],
        [{"instances": ["text"]}],
        [{"instances": [{"attributes": {"a": 1}, "sensitive_attributes": [["text"]]}]}],
        [{"instances": [{"attributes": {"a": 1}, "sensitive_attributes": [3]}]}],
        [{"instances": 3}],
        3,
    ],
)
def test_of_a_state_that_is_written_otherwise_nothing_is_shown(resources: Any) -> None:
    with pytest.raises(ProviderError, match="nothing of it is shown"):
        read(state(resources=resources))


@requirement("state:read-safely")
@pytest.mark.parametrize("depth", [900, 940, 960, 980])
def test_a_state_nested_to_the_limit_is_shown_or_refused_and_never_fails(depth: int) -> None:
    nested = "[" * depth + '"deep"' + "]" * depth
    data = state(resource({"a": "x"})).replace(b'"x"', nested.encode())

    try:
        attributes = read(data).resource("thing.a")["attributes"]
    except ProviderError:
        return
    assert "nested too deep" in json.dumps(attributes)


def test_an_endless_index_in_a_mark_stops_nothing() -> None:
    data = state(resource({"l": ["x"]}, marks=[[{"type": "get_attr", "value": "l"}, {"type": "index", "value": 7}]]))

    with pytest.raises(ProviderError):
        read(data.replace(b'"value": 7', b'"value": ' + b"7" * 5000))


# Addresses.


def test_addresses_are_those_of_the_engine() -> None:
    document = read(
        state(
            resource(name="plain"),
            resource(name="counted", instance={"index_key": 2}),
            resource(name="named", instance={"index_key": 'k"${x}'}),
            resource(name="inner", module='module.m["x"]'),
            resource(type="thing", name="d", mode="data"),
            resource(name="old", instance={"deposed": "00aa00aa"}),
        )
    )

    assert document.addresses == [
        "thing.plain",
        "thing.counted[2]",
        'thing.named["k\\"$${x}"]',
        'module.m["x"].thing.inner',
        "data.thing.d",
        "thing.old (deposed 00aa00aa)",
    ]
    assert document.engine_version == "1.11.4"


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("plain", '"plain"'),
        ('a"b\\c', '"a\\"b\\\\c"'),
        ("a\nb\rc\td", '"a\\nb\\rc\\td"'),
        ("${x} %{y} $x", '"$${x} %%{y} $x"'),
        ("\x1b\u202e\U000e0001", '"\\u001b\\u202e\\U000e0001"'),
        ("é世🔑", '"é世🔑"'),
    ],
)
def test_a_key_is_quoted_as_terraform_does(text: str, written: str) -> None:
    assert quoted(text) == written


@requirement("bad:control-characters")
@given(st.text(max_size=20, alphabet=st.characters(exclude_categories=["Cs"])))
def test_a_quoted_key_is_printable_and_says_what_it_was(text: str) -> None:
    written = quoted(text)

    assert written.isprintable()
    unescaped = written[1:-1].replace("$${", "${").replace("%%{", "%{")
    named = {"n": "\n", "r": "\r", "t": "\t"}
    back = re.sub(
        r"\\(u[0-9a-f]{4}|U[0-9a-f]{8}|.)",
        lambda m: chr(int(m[1][1:], 16)) if len(m[1]) > 1 else named.get(m[1], m[1]),
        unescaped,
    )
    if "$${" not in text and "%%{" not in text:
        assert back == text


def test_a_resource_that_is_not_there_is_answered_with_what_begins_like_it() -> None:
    document = read(state(*(resource(name="many", instance={"index_key": n}) for n in range(7)), resource(name="other")))

    with pytest.raises(NotFound) as refused:
        document.resource("thing.many")

    assert refused.value.message == (
        "no thing.many in this state; there is thing.many[0], thing.many[1], thing.many[2], thing.many[3], thing.many[4] and 2 more"
    )
    with pytest.raises(NotFound, match=r"no nothing in this state$"):
        document.resource("nothing")


def test_the_living_object_is_shown_and_the_deposed_ones_are_named() -> None:
    document = read(
        state(
            resource({"a": "old"}, instance={"deposed": "00aa00aa", "status": "tainted"}),
            resource({"a": "new"}, instance={"dependencies": ["thing.b"]}),
        )
    )

    assert document.resource("thing.a") == {
        "address": "thing.a",
        "type": "thing",
        "provider": 'provider["registry.terraform.io/acme/thing"]',
        "tainted": False,
        "deposed": ["00aa00aa"],
        "depends_on": ["thing.b"],
        "attributes": {"a": "new"},
    }


def test_a_tainted_object_says_so() -> None:
    assert read(state(resource(instance={"status": "tainted"}))).resource("thing.a")["tainted"] is True


# What is hidden.


@requirement("state:read-safely", "promise:no-secrets")
@pytest.mark.parametrize(
    ("attributes", "marks", "expected"),
    [
        ({"a": "x", "s": "clear"}, [mark("s")], {"a": "x", "s": HIDDEN}),
        ({"s": {"k": "clear", "o": "x"}}, [mark("s", "k")], {"s": {"k": HIDDEN, "o": "x"}}),
        ({"s": ["x", "clear"]}, [mark("s", 1)], {"s": ["x", HIDDEN]}),
        ({"s": {"k": ["x", {"d": "clear"}]}}, [mark("s", "k", 1, "d")], {"s": {"k": ["x", {"d": HIDDEN}]}}),
        ({"s": {"k": "clear"}}, [mark("s")], {"s": HIDDEN}),
        ({"s": ["clear"]}, [mark("s", 7)], {"s": HIDDEN}),
        ({"s": {"k": "clear"}}, [mark("s", "gone")], {"s": HIDDEN}),
        ({"s": "clear"}, [mark("s", "k")], {"s": HIDDEN}),
        ({"a": "clear", "b": "clear"}, [mark("gone")], {"a": HIDDEN, "b": HIDDEN}),
        ({"a": "clear"}, [[]], {"a": HIDDEN}),
        ({"s": None, "t": 3, "b": True}, [mark("s"), mark("t"), mark("b")], {"s": None, "t": HIDDEN, "b": HIDDEN}),
        ({"password": "clear", "token": 3, "api_key": ["clear"]}, [], {"password": HIDDEN, "token": HIDDEN, "api_key": HIDDEN}),
        ({"auth": True, "token": None}, [], {"auth": True, "token": None}),
        ({"c": {"password": "clear", "user": "x"}}, [], {"c": {"password": HIDDEN, "user": "x"}}),
    ],
)
def test_what_is_marked_or_looks_secret_is_hidden(attributes: Any, marks: Any, expected: Any) -> None:
    assert shown(attributes, marks=marks) == expected


@requirement("state:read-safely", "promise:no-secrets")
@pytest.mark.parametrize("value", ["the-secret-value", 1234567])
def test_a_secret_of_one_place_is_hidden_in_every_other(value: object) -> None:
    owner = resource({"s": value}, name="owner", marks=[mark("s")])
    other = {"plain": value, "list": [value], f"{value}": "x", "text": f"with {value} in it"}

    text = json.dumps(shown(other, others=(owner,)))

    assert str(value) not in text
    assert text.count(HIDDEN) == 4


@requirement("state:read-safely")
@pytest.mark.parametrize(
    ("outputs", "hidden"),
    [
        ({"o": {"value": "secret", "sensitive": True}}, True),
        ({"o": {"value": ["secret"], "sensitive": True}}, True),
        ({"o": {"value": "secret"}}, False),
        ({"db_password": {"value": "secret"}}, False),  # six letters under a name only: a common word
        ({"o": {"value": "short", "sensitive": True}}, False),
    ],
)
def test_outputs_tell_what_is_secret_too(outputs: dict[str, Any], hidden: bool) -> None:
    document = read(state(resource({"a": "a secret of short size"}), outputs=outputs))

    assert (HIDDEN in document.resource("thing.a")["attributes"]["a"]) is hidden


def test_a_long_value_under_a_secret_name_is_hidden_everywhere() -> None:
    document = read(
        state(
            resource({"a": "it is a-long-password-one and a-long-password-two"}),
            resource({"c": [{"password": "a-long-password-one"}]}, name="b"),
            outputs={"db_password": {"value": "a-long-password-two"}},
        )
    )

    assert document.resource("thing.a")["attributes"] == {"a": f"it is {HIDDEN} and {HIDDEN}"}


@requirement("state:read-safely")
@pytest.mark.parametrize(
    "type_", ["random_password", "kubernetes_secret_v1", "tls_private_key", "local_sensitive_file", "aws_iam_access_key", "vault_token"]
)
def test_what_exists_to_hold_a_secret_shows_names_and_numbers_only(type_: str) -> None:
    attributes = {"name": "n", "length": 16, "special": True, "result": "clear", "data": {"k": "clear"}, "empty": "", "region": "eu"}

    assert shown(attributes, type=type_, address=f"{type_}.a") == {
        "name": "n",
        "length": 16,
        "special": True,
        "result": HIDDEN,
        "data": HIDDEN,
        "empty": "",
        "region": "eu",
    }


@pytest.mark.parametrize("type_", ["aws_secretive_thing", "google_tokenizer", "passwordless"])
def test_a_type_that_only_sounds_like_it_is_shown(type_: str) -> None:
    assert shown({"value": "x"}, type=type_, address=f"{type_}.a") == {"value": "x"}


# Bounds and characters.


def test_large_things_are_cut_and_counted() -> None:
    found = shown({"list": list(range(130)), "map": {f"k{n:03}": n for n in range(130)}, "text": "x" * 300, "big": 10**20, "point": 1.5})

    assert (len(found["list"]), found["list"][-1]) == (101, "… 30 more")
    assert (len(found["map"]), found["map"]["…"]) == (101, "30 more")
    assert found["text"] == "x" * 256 + "… (300 characters)"
    assert (found["big"], found["point"]) == ("1" + "0" * 20, "1.5")
    many = shown({f"a{n:03}": n for n in range(130)})
    assert (len(many), many["…"]) == (101, "30 more attributes")


def test_what_is_nested_deep_is_not_shown() -> None:
    value: Any = "deep"
    for _ in range(30):
        value = {"k": value}

    assert "nested too deep" in json.dumps(shown({"a": value}))
    assert "deep to be" not in json.dumps(shown({"a": {"k": {"k": "x"}}}))


@requirement("bad:control-characters")
def test_names_and_values_are_clean() -> None:
    document = read(state(resource({"k\u202e": "v\x1b[31mal\nue"}, name="a\u200b", instance={"dependencies": ["b\x07"]})))

    assert document.addresses == ["thing.a"]
    one = document.resource("thing.a\u200b")
    assert (one["attributes"], one["depends_on"], one["address"]) == ({"k": "val ue"}, ["b"], "thing.a")


def test_old_states_keep_their_attributes_flat() -> None:
    flat = {"instances": [{"attributes_flat": {"id": "x", "tags.%": "1"}}], "mode": "managed", "type": "thing", "name": "a"}

    assert read(state(flat)).resource("thing.a")["attributes"] == {"id": "x", "tags.%": "1"}


def test_a_state_without_resources_is_empty() -> None:
    document = read(json.dumps({"version": 4, "serial": 0, "lineage": "l"}).encode())

    assert (document.addresses, document.engine_version) == ([], "")
