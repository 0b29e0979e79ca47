"""Outputs of other stacks: what a configuration has to declare to get them, and where the sensitive ones go."""

import json
from typing import Any

import pytest

from countersign.core.engine import Read
from countersign.core.errors import FailedPrecondition, InvalidArgument
from countersign.core.terraform.reads import outputs_of, variables_of
from tests.requirements import requirement

STATE = {
    "version": 4,
    "outputs": {"id": {"value": "net-1", "type": "string"}, "key": {"value": {"pem": "hush-hush"}, "type": "string", "sensitive": True}},
}
NET = Read(stack_id="st_1", path="acme/dev/net", lineage="l", serial=3, outputs=outputs_of(json.dumps(STATE).encode(), "acme/dev/net"))
HUB = Read(stack_id="st_2", path="acme/hub/net", lineage="l", serial=1, outputs={})


def values(*reads: Read, **facts: Any) -> dict[str, object]:
    given: dict[str, Any] = {"env": "acme/dev", "given": (), "declared": {"reads"}, "sensitive": (), **facts}
    return variables_of(reads, **given)


@requirement("reads:outputs")
def test_outputs_come_by_the_slug_of_their_stack_or_with_its_environment_where_that_is_another() -> None:
    assert values(NET, HUB) == {"reads": {"net": {"id": "net-1"}, "hub/net": {}}}
    assert values() == {}


@requirement("reads:outputs", "promise:no-secrets")
def test_sensitive_outputs_come_in_a_variable_that_is_sensitive_and_else_not_at_all() -> None:
    both = {"declared": {"reads", "reads_sensitive"}, "sensitive": {"reads_sensitive"}}

    assert "hush-hush" not in json.dumps(values(NET))
    assert values(NET, **both)["reads_sensitive"] == {"net": {"key": {"pem": "hush-hush"}}}
    with pytest.raises(InvalidArgument, match="declare it with sensitive = true"):
        values(NET, **{**both, "sensitive": ()})


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"declared": {"size"}}, 'reads the outputs of acme/dev/net, and its configuration does not declare variable "reads"'),
        ({"given": {"reads"}}, "the variable reads has the outputs of other stacks in it"),
        ({"given": {"reads_sensitive"}}, "the variable reads_sensitive has the outputs of other stacks in it"),
    ],
)
def test_what_a_configuration_lacks_or_somebody_sets_is_told(facts: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        values(NET, **facts)


def test_a_state_without_outputs_has_none_and_an_encrypted_one_cannot_be_read() -> None:
    assert outputs_of(b"{}", "acme/dev/net") == {}
    with pytest.raises(FailedPrecondition, match="is encrypted by its engine"):
        outputs_of(b'{"encrypted_data": "x"}', "acme/dev/net")
