"""What the real engine compares before a speculative plan is adopted, and that such a plan can be applied."""

from collections.abc import Mapping
from typing import Any

import pytest

from countersign.core.run import Mode, RunState
from tests.integration.processes import leaves_no_process
from tests.integration.terraform_bench import SECRETS, Bench, bench
from tests.requirements import requirement

__all__ = ["bench", "leaves_no_process"]
pytestmark = pytest.mark.anyio

ONE = 'variable "size" { default = 1 }\nresource "terraform_data" "one" { input = var.size }\n'


async def why(bench: Bench, inputs: Mapping[str, object], **job: Any) -> str | None:
    return await bench.engine.moved(bench.plan_job("one", **job), inputs, bench.beat)


@requirement("adopt:or-stale")
async def test_a_plan_may_be_adopted_until_source_variables_or_secrets_are_others(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.write("one", main_tf=ONE)
    spy = bench.spied()
    given: dict[str, Any] = {"vars": {"size": {"secret": "token"}}}
    looked = await bench.plan("one", Mode.SPECULATIVE, **given)
    spy.forget()

    assert looked.adoptable
    assert await why(bench, looked.inputs, **given) is None
    assert await why(bench, looked.inputs) == "its variables, or secrets among them, have other values now"
    assert await why(bench, {**looked.inputs, "engine_build": "pulumi 3"}, **given) == "it was made by another engine"
    monkeypatch.setitem(SECRETS, "token", "another-one-nobody-may-read")
    assert await why(bench, looked.inputs, **given) == "its variables, or secrets among them, have other values now"
    bench.write("one", main_tf=ONE + "# a remark\n")
    assert await why(bench, looked.inputs, **given) == "the configuration is another one now"
    assert spy.commands == []  # nothing runs for it


async def test_a_speculative_plan_is_applied_as_any_other(bench: Bench) -> None:
    bench.write("one", main_tf=ONE)
    looked = await bench.plan("one", Mode.SPECULATIVE)

    outcome = await bench.apply(looked, "one")

    assert outcome.state is RunState.VERIFYING, outcome.message
    assert bench.state.resources == ["terraform_data.one"]


@requirement("adopt:whole-plans")
async def test_targets_and_destructions_are_only_to_look_at_and_say_so(bench: Bench) -> None:
    bench.write("one", main_tf=ONE)
    aimed = await bench.plan("one", Mode.SPECULATIVE, targets=("terraform_data.one",))
    destroying = await bench.plan("one", Mode.SPECULATIVE, destroy=True)

    assert (aimed.adoptable, destroying.adoptable) == (False, False)
    assert "Only terraform_data.one and what that needs was planned (targets)" in aimed.plan.risks[-1]
