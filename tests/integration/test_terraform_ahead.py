"""`show` is started beside `plan` and waits for its file: what it shows counts only if that is the plan."""

import json
from pathlib import Path

import pytest

from countersign.core.errors import ProviderError
from countersign.core.plan import Counts
from tests.integration.processes import leaves_no_process
from tests.integration.terraform_bench import Bench, Spy, bench

__all__ = ["bench", "leaves_no_process"]
pytestmark = pytest.mark.anyio

ONE = 'resource "terraform_data" "one" {\n  input = "first"\n}\n'


def spied(bench: Bench, *, beside: str) -> Spy:
    """A spy that does this too, in the shell, before it becomes the real engine: `$1` is the command, `$real` the engine."""
    spy = bench.spied()
    script = spy.executable.read_text().replace("exec ", f"real={bench.real}\n{beside}\nexec ")
    spy.executable.write_text(script)
    return spy


async def test_a_plan_is_shown_while_the_engine_that_made_it_has_not_ended(bench: Bench) -> None:
    shown = bench.folder / "shown"
    # The plan is over when it was shown, and gives up after a while.
    waits = f"for n in $(seq 200); do [ -e {shown} ] && exit $code; sleep 0.05; done; exit 9"
    spied(bench, beside=f'case $1 in plan) "$real" "$@"; code=$?; {waits};; show) "$real" "$@"; : >{shown}; exit;; esac')

    planned = await bench.plan(bench.write("one", main_tf=ONE))

    assert planned.plan.counts == Counts(create=1)
    assert [change["address"] for change in json.loads(planned.plan_json)["resource_changes"]] == ["terraform_data.one"]


async def test_a_file_that_was_put_in_place_of_the_plan_that_was_shown_is_shown_instead(bench: Bench) -> None:
    other = bench.folder / "other.tfplan"
    bench.write("one", main_tf=ONE)
    keeps = f'for one in "$@"; do case $one in -out=*) cp "${{one#-out=}}" {other};; esac; done'
    spied(bench, beside=f'[ $1 = plan ] && {{ "$real" "$@"; code=$?; {keeps}; exit $code; }}')
    await bench.plan("one")
    bench.write("two", main_tf=ONE.replace('"one"', '"two"'))
    shown = bench.folder / "shown"
    swaps = f'for one in "$@"; do case $one in -out=*) cp {other} "${{one#-out=}}";; esac; done'
    waits = f"for n in $(seq 200); do [ -e {shown} ] && break; sleep 0.05; done"
    plans, shows = f'"$real" "$@"; code=$?; {waits}; {swaps}; exit $code', f'"$real" "$@"; code=$?; : >{shown}; exit $code'
    spy = spied(bench, beside=f"case $1 in plan) {plans};; show) {shows};; esac")
    spy.forget()

    planned = await bench.plan("two")

    assert spy.commands[-2:] == ["show", "show"]
    assert [change.address for change in planned.plan.changes] == ["terraform_data.one"], "what would be applied"


async def test_an_engine_that_cannot_wait_for_its_configuration_is_asked_again(bench: Bench) -> None:
    spy = spied(bench, beside='[ "$TF_CLI_CONFIG_FILE" = /dev/stdin ] && exit 3')

    planned = await bench.plan(bench.write("one", main_tf=ONE))

    assert planned.plan.counts == Counts(create=1)
    assert sorted(spy.commands) == ["init", "plan", "show", "show"]
    assert Path(spy.environment("show")["TF_CLI_CONFIG_FILE"]).name == "engine.tfrc"


async def test_nothing_waits_any_more_when_a_plan_failed(bench: Bench) -> None:
    bench.write("bad", main_tf='resource "terraform_data" "one" {\n  input = file("absent")\n}\n')

    with pytest.raises(ProviderError, match="absent"):
        await bench.plan("bad")


async def test_a_plan_is_looked_for_where_the_kernel_does_not_tell_of_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more(*_: object) -> None:
        raise OSError("too many open files")

    monkeypatch.setattr("countersign.adapters.terraform.ahead.Closing", no_more)
    shown = bench.folder / "shown"
    waits = f"for n in $(seq 200); do [ -e {shown} ] && exit $code; sleep 0.05; done; exit 9"
    spied(bench, beside=f'case $1 in plan) "$real" "$@"; code=$?; {waits};; show) "$real" "$@"; : >{shown}; exit;; esac')

    planned = await bench.plan(bench.write("one", main_tf=ONE))

    assert planned.plan.counts == Counts(create=1)
