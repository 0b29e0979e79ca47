"""Keys and secrets on the store itself: shown once, or never."""

import json
import stat
from pathlib import Path

import pytest

from tests.requirements import requirement
from tests.unit.cli.conftest import Invoke, document

VALUE = "correct horse battery staple"


def test_a_token_is_shown_once_and_kept_nowhere(invoke: Invoke, data: Path) -> None:
    made = document(invoke("key", "create", "--as", "claude", "--kind", "agent", "--role", "platform", "--for", "ana", "--json"))

    assert made["principal"] == "agent:claude"
    assert made["acts_for"] == "person:ana"
    assert made["key"].startswith(f"cs_{made['key_id']}_")
    listed = invoke("key", "list", "--json").stdout
    secret = made["key"].rpartition("_")[2]
    assert made["key_id"] in listed
    assert not [file for file in data.rglob("*") if file.is_file() and secret.encode() in file.read_bytes()]


def test_an_agents_key_acts_for_whoever_makes_it_unless_told(invoke: Invoke, data: Path) -> None:
    made = document(invoke("key", "create", "--as", "claude", "--kind", "agent", "--role", "platform", "--json"))

    assert made["acts_for"].startswith("person:")


def test_a_token_may_go_to_a_new_file_only_its_owner_reads(invoke: Invoke, data: Path, tmp_path: Path) -> None:
    file = tmp_path / "claude.key"
    words = ("key", "create", "--as", "claude", "--kind", "agent", "--role", "platform", "--to", str(file))

    result = invoke(*words)

    token = file.read_text().strip()
    assert token not in result.stdout
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert invoke(*words).exit_code == 2
    assert file.read_text().strip() == token
    assert len(json.loads(invoke("key", "list", "--json").stdout)["keys"]) == 1


def test_a_revoked_key_says_so_and_revoking_again_is_success(invoke: Invoke, data: Path) -> None:
    made = document(invoke("key", "create", "--as", "ci", "--kind", "machine", "--role", "ci", "--expires", "90d", "--json"))

    for _ in range(2):
        assert invoke("key", "revoke", made["key_id"]).exit_code == 0

    assert "revoked" in invoke("key", "list").stdout
    assert invoke("key", "revoke", "0" * 16).exit_code == 6


@pytest.mark.parametrize(
    "wrong",
    [
        {"--kind": "robot"},
        {"--role": "emperor"},
        {"--role": "approver"},  # for people
        {"--as": "person:bo"},  # not of that kind
        {"--as": "a b"},
        {"--for": "agent:other"},
        {"--expires": "soon"},
        {"--expires": "2001-01-01"},
        {"--org": "nobody"},
    ],
)
def test_a_key_that_makes_no_sense_is_a_usage_error(invoke: Invoke, data: Path, wrong: dict[str, str]) -> None:
    given = {"--as": "claude", "--kind": "agent", "--role": "platform", **wrong}

    result = invoke("key", "create", *[word for pair in given.items() for word in pair])

    assert result.exit_code in (1, 2)
    assert result.stderr.startswith("error ")


@requirement("promise:no-secrets")
def test_a_secret_comes_from_standard_input_and_never_comes_out_again(invoke: Invoke, data: Path) -> None:
    set_ = invoke("secret", "set", "db-password", stdin=f"{VALUE}\n")

    assert set_.exit_code == 0
    shown = set_.output + invoke("secret", "list").output + invoke("secret", "list", "--json").output
    assert "db-password" in shown
    assert VALUE not in shown
    assert not [file for file in data.rglob("*") if file.is_file() and VALUE.encode() in file.read_bytes()]


def test_a_secret_has_versions_and_one_line_end_does_not_count(invoke: Invoke, data: Path) -> None:
    first = document(invoke("secret", "set", "s", "--json", stdin=f"{VALUE}\n"))
    again = document(invoke("secret", "set", "s", "--json", stdin=VALUE))

    assert (first["version"], again["version"]) == (1, 2)
    assert first["fingerprint"] == again["fingerprint"]


@pytest.mark.parametrize(("slug", "value"), [("Not A Slug", VALUE), ("empty", ""), ("huge", "x" * 70_000)])
def test_a_secret_that_cannot_be_kept_is_refused_without_repeating_it(invoke: Invoke, data: Path, slug: str, value: str) -> None:
    result = invoke("secret", "set", slug, stdin=value)

    assert result.exit_code == 2
    assert not value or value not in result.output


def test_there_is_no_way_to_put_a_value_into_the_command_line(invoke: Invoke, data: Path) -> None:
    assert invoke("secret", "set", "db-password", VALUE).exit_code == 2


def test_removing_a_secret_is_asked_and_where_nobody_is_it_takes_a_word(invoke: Invoke, data: Path) -> None:
    invoke("secret", "set", "s", stdin=VALUE)

    assert invoke("secret", "remove", "s").exit_code == 2
    assert invoke("secret", "remove", "s", "--yes").exit_code == 0
    assert invoke("secret", "remove", "s", "--yes").exit_code == 6
