"""Where the values of variables come from, in which order, and that no secret among them shows."""

import json
from dataclasses import replace
from typing import Any

import pytest

from countersign.core.engine import Read
from countersign.core.errors import InvalidArgument
from countersign.core.run import Mode
from tests.integration.processes import leaves_no_process
from tests.integration.terraform_bench import SECRETS, Bench, bench, holding, texts
from tests.requirements import requirement

__all__ = ["bench", "leaves_no_process"]
pytestmark = pytest.mark.anyio

READING = """
variable "reads" {
  type = any
}
variable "reads_sensitive" {
  type      = any
  sensitive = true
}
resource "terraform_data" "one" {
  input = var.reads.net.id
}
resource "terraform_data" "two" {
  input = var.reads_sensitive.net.key
}
"""
NET = Read(
    stack_id="st_net",
    path="local/dev/net",
    lineage="l",
    serial=3,
    outputs={"id": {"value": "net-1", "sensitive": False}, "key": {"value": "hush-hush-hush", "sensitive": True}},
)
ORDER = "\n".join(f'variable "{name}" {{ default = "default" }}\noutput "{name}" {{ value = var.{name} }}' for name in "abcdef")


def outputs(plan_json: bytes) -> dict[str, Any]:
    planned = json.loads(plan_json)["planned_values"]["outputs"]
    return {name: output["value"] for name, output in planned.items()}


@requirement("vars:files")
async def test_files_of_the_folder_the_environment_the_record_and_the_request_count_in_this_order(bench: Bench) -> None:
    bench.write("order", main_tf=ORDER)
    folder = bench.stacks / "order"
    (folder / "env").mkdir()
    (folder / "terraform.tfvars").write_text('b = "folder"\nc = "folder"\nd = "folder"\ne = "folder"\n')
    (folder / "env" / "dev.tfvars").write_text('c = "environment"\nd = "environment"\ne = "environment"\nf = "environment"\n')
    (folder / "env" / "dev.tfvars.json").write_text('{"f": "environment, JSON"}')
    (folder / "env" / "prod.tfvars").write_text('a = "another environment"\n')
    planned = await bench.plan("order", config={"vars": {"d": "record", "e": "record"}}, vars={"e": "request"})

    assert outputs(planned.plan_json) == {
        "a": "default",
        "b": "folder",
        "c": "environment",
        "d": "record",
        "e": "request",
        "f": "environment, JSON",
    }
    assert "variables of env/dev.tfvars" in planned.log


@requirement("vars:secrets", "promise:no-secrets")
async def test_a_sealed_secret_is_named_inside_of_a_value_and_shows_nowhere(bench: Bench) -> None:
    bench.write("nested", main_tf='variable "users" { type = any }\nresource "terraform_data" "one" { input = var.users }\n')
    users = [{"name": "ana", "password": {"secret": "token"}}, {"name": "bo", "password": {"secret": "demo-db-password"}}]
    planned = await bench.plan("nested", vars={"users": users})

    input_ = json.loads(planned.plan_json)["planned_values"]["root_module"]["resources"][0]["values"]["input"]
    assert [user["password"] for user in input_] == [SECRETS["token"], SECRETS["demo-db-password"]]
    assert input_[0]["name"] == "ana"
    assert [holding(texts(planned), SECRETS[slug]) for slug in ("token", "demo-db-password")] == [[], []]


@requirement("reads:outputs", "promise:no-secrets")
async def test_outputs_of_another_stack_reach_the_plan_and_its_frozen_inputs(bench: Bench) -> None:
    bench.write("app", main_tf=READING)
    planned = await bench.plan("app", reads=(NET,))

    values = {r["name"]: r["values"]["input"] for r in json.loads(planned.plan_json)["planned_values"]["root_module"]["resources"]}
    assert values == {"one": "net-1", "two": "hush-hush-hush"}
    assert holding(texts(planned), "hush-hush-hush") == []
    assert planned.inputs["reads"] == [{"stack_id": "st_net", "stack": "local/dev/net", "lineage": "l", "serial": 3}]
    looked = await bench.plan("app", Mode.SPECULATIVE, reads=(NET,))
    other = replace(NET, serial=4, outputs={**NET.outputs, "id": {"value": "net-2", "sensitive": False}})
    moved = await bench.engine.moved(bench.plan_job("app", reads=(other,)), looked.inputs, bench.beat)
    assert moved == "its variables, or secrets among them, have other values now"


async def test_a_configuration_that_declares_no_reads_is_told_so(bench: Bench) -> None:
    with pytest.raises(InvalidArgument, match='does not declare variable "reads"'):
        await bench.plan("small", reads=(NET,))
