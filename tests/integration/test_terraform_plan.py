"""Plans by the real engine: what they hold, what they hide, and what a broken or hostile configuration gets back."""

import asyncio
import json
import tarfile
import threading
from io import BytesIO
from pathlib import Path

import pytest

from countersign.adapters.terraform import environment as environment_module
from countersign.adapters.terraform.bundle import SECRETS as BUNDLE_SECRETS
from countersign.core.errors import InvalidArgument, Locked, NotFound, ProviderError, Unavailable
from countersign.core.plan import ChangeClass, Counts
from countersign.core.run import Mode
from tests.integration.processes import PATIENCE, leaves_no_process, python, until
from tests.integration.terraform_bench import SECRETS, Bench, bench, each, findings, holding, texts
from tests.requirements import requirement

__all__ = ["bench", "each", "leaves_no_process"]
pytestmark = pytest.mark.anyio

DEMO = 13  # resources of infra/stacks/demo


# -- What a plan holds


async def test_a_plan_counts_classes_and_names_what_it_would_do(each: Bench) -> None:
    planned = await each.plan()

    plan = planned.plan
    assert plan.engine_build == each.build
    assert plan.counts == Counts(create=DEMO)
    assert plan.change_class is ChangeClass.CREATE
    assert plan.outputs_changed == ("connection_strings", "endpoints", "network_id", "replicas")
    assert {c.action for c in plan.changes} == {"create"}
    assert 'module.network.terraform_data.subnet["a"]' in [c.address for c in plan.changes]
    assert json.loads(planned.plan_json).get("applyable", True) is True  # OpenTofu does not say
    assert (planned.lineage, planned.serial) == (None, 0)
    view = json.loads(planned.view)
    assert (view["total"], view["shown"], view["truncated"]) == (DEMO, DEMO, False)


@requirement("plan:semantic-digest")
async def test_plans_of_one_configuration_have_one_digest_and_another_one_differs(each: Bench) -> None:
    first, second = await each.plan(), await each.plan()
    other = await each.plan(vars={"name": "store"})

    assert first.plan.semantic_digest == second.plan.semantic_digest
    assert first.semantic_document == second.semantic_document
    assert first.inputs == second.inputs
    assert other.plan.semantic_digest != first.plan.semantic_digest
    (each.stacks / "demo" / "script.sh").write_text("echo run by nothing yet\n")
    assert (await each.plan()).plan.semantic_digest != first.plan.semantic_digest


@requirement("promise:no-secrets")
async def test_a_secret_reaches_the_plan_and_nobody_who_reads_about_it(each: Bench) -> None:
    secret = SECRETS["demo-db-password"]

    planned = await each.plan(vars={"db_password": {"secret": "demo-db-password"}})

    assert holding(texts(planned), secret) == []
    assert secret in str(json.loads(planned.plan_json)["variables"])
    assert secret in bundled_secrets(planned.bundle)
    row = next(r for c in json.loads(planned.view)["changes"] for r in c["attributes"] if "password" in r["name"])
    assert row["after"].startswith("(sensitive fp:") and row["sensitive"] is True


async def test_what_only_this_attempt_may_know_is_not_left_in_the_bundle(bench: Bench) -> None:
    bench.write("said", main_tf='resource "terraform_data" "a" {\n  input = "key-of-the-cloud-account"\n}\n')

    planned = await bench.plan("said", config={"plan_credential": "cloud"})

    assert holding(texts(planned), "key-of-the-cloud-account") == []
    assert bundled_secrets(planned.bundle) == []
    assert bench.state.password.encode() not in planned.bundle + planned.plan_json


def bundled_secrets(bundle: bytes) -> list[str]:
    with tarfile.open(fileobj=BytesIO(bundle)) as tar:
        file = tar.extractfile(BUNDLE_SECRETS)
        assert file is not None
        secrets: list[str] = json.load(file)
        return secrets


async def test_values_of_variables_reach_the_engine_as_they_are(bench: Bench) -> None:
    bench.write("values", main_tf='variable "any" {\n  type = any\n}\noutput "any" {\n  value = var.any\n}\n')
    value = {"text": '${not.a.reference} %{ nor } "this"', "number": 1.5, "list": [True, None, "ü\n"], "big": 12345678901234567890}

    planned = await bench.plan("values", vars={"any": value})

    assert json.loads(planned.plan_json)["planned_values"]["outputs"]["any"]["value"] == value


async def test_values_of_the_request_go_before_those_of_the_stack_and_its_files(bench: Bench) -> None:
    bench.write("order", main_tf='variable "a" {}\noutput "a" {\n  value = var.a\n}\n', terraform_tfvars='a = "file"\n')

    async def planned(stack: dict[str, str], request: dict[str, str]) -> object:
        made = await bench.plan("order", vars=request, config={"vars": stack})
        return json.loads(made.plan_json)["planned_values"]["outputs"]["a"]["value"]

    assert await planned({}, {}) == "file"
    assert await planned({"a": "stack"}, {}) == "stack"
    assert await planned({"a": "stack"}, {"a": "request"}) == "request"


# -- What is asked for


async def test_a_speculative_plan_takes_no_lock_and_heeds_none(bench: Bench) -> None:
    bench.state.lock = {"ID": "somebody-elses"}

    planned = await bench.plan(mode=Mode.SPECULATIVE)

    assert planned.plan.counts.create == DEMO
    assert set(bench.state.requests) == {"GET"}


async def test_only_a_look_may_name_targets(bench: Bench) -> None:
    target = "module.network.terraform_data.subnet"

    looked = await bench.plan(mode=Mode.SPECULATIVE, targets=(target,))
    whole = await bench.plan(targets=(target,))

    assert looked.plan.counts == Counts(create=4)  # three subnets and the network they are in
    assert whole.plan.counts == Counts(create=DEMO)
    assert looked.plan.semantic_digest != whole.plan.semantic_digest


@pytest.mark.parametrize("target", ["-destroy", "a b", "module.a\n", "", 'a.b["x\n"]', "a.b[0", "--", "a..b"])
async def test_a_target_that_is_no_address_is_refused(bench: Bench, target: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await bench.plan(mode=Mode.SPECULATIVE, targets=(target,))

    assert refused.value.field == "targets"


async def test_the_destruction_of_everything_can_be_planned_and_looked_at(bench: Bench) -> None:
    await bench.applied()
    bench.state.requests.clear()

    looked = await bench.plan(mode=Mode.SPECULATIVE, destroy=True)
    assert "LOCK" not in bench.state.requests
    planned = await bench.plan(mode=Mode.DESTROY, destroy=True)
    unchanged = await bench.plan()

    for made in (looked, planned):
        assert made.plan.counts == Counts(delete=DEMO)
        assert made.plan.change_class is ChangeClass.DELETE
        assert json.loads(made.semantic_document)["mode"] == "destroy"
    assert (planned.lineage, planned.serial) == (bench.state.document["lineage"], bench.state.document["serial"])
    assert not unchanged.plan.changes_anything
    assert json.loads(unchanged.semantic_document)["mode"] == "normal"


async def test_a_replacement_says_what_forces_it(bench: Bench) -> None:
    await bench.applied()

    planned = await bench.plan(vars={"services": {"api": {"replicas": 2, "size": "large"}, "web": {"replicas": 1, "size": "small"}}})

    replaced = [c for c in planned.plan.changes if c.action == "replace"]
    assert [(c.address, c.replace_paths) for c in replaced] == [('module.service["api"].terraform_data.disk', ("triggers_replace",))]
    assert planned.plan.change_class is ChangeClass.REPLACE


async def test_a_plan_takes_three_processes_and_a_warm_one_two(bench: Bench) -> None:
    spy = bench.spied()

    await bench.plan()
    assert spy.commands == ["init", "plan", "show"]
    spy.forget()
    await bench.plan()
    await bench.another().plan(bench.plan_job(), bench.beat)  # another worker of this machine
    assert spy.commands == ["plan", "show"] * 2
    (bench.stacks / "demo" / "more.tf").write_text("locals {}\n")
    spy.forget()
    await bench.plan()
    assert spy.commands == ["init", "plan", "show"]


async def test_nothing_of_a_plan_is_left_on_the_machine(bench: Bench) -> None:
    await bench.plan(vars={"db_password": {"secret": "demo-db-password"}})

    def left() -> list[Path]:
        return [path for path in bench.folder.joinpath("work").rglob("*") if path.is_file()]

    await until(lambda: not [path for path in left() if "stacks" in path.parts and path.suffix != ".lock"], "the folder to be removed")
    assert not [path for path in left() if SECRETS["demo-db-password"].encode() in path.read_bytes()]


async def test_plans_of_one_stack_wait_for_each_other_and_say_so(bench: Bench) -> None:
    first, second = await asyncio.gather(bench.plan(), bench.plan())

    assert first.plan.semantic_digest == second.plan.semantic_digest
    assert "waiting for another plan of this stack" in [beat.current for beat in bench.beats]


# -- What is wrong with a configuration, and where


@requirement("bad:broken-hcl")
@pytest.mark.parametrize(
    ("stack", "file", "line"), [("broken", "main.tf", 6), ("broken_module", "modules/inner/main.tf", 3), ("failing", "main.tf", 11)]
)
async def test_a_broken_configuration_is_told_with_file_and_line(each: Bench, stack: str, file: str, line: int) -> None:
    with pytest.raises(ProviderError) as broken:
        await each.plan(stack)

    first = findings(broken.value)[0]
    assert (first.severity, first.file, first.line) == ("error", file, line)
    assert f"{file} line {line}" in broken.value.message
    assert str(each.folder) not in broken.value.message


@requirement("bad:missing-variable")
async def test_a_missing_variable_is_named(bench: Bench) -> None:
    with pytest.raises(ProviderError) as missing:
        await bench.plan("needs_variable")

    assert '"region"' in missing.value.message
    assert findings(missing.value)[0].file == "main.tf"


@requirement("bad:missing-variable")
async def test_an_undeclared_variable_is_named_with_what_there_is(bench: Bench) -> None:
    for where in ({"vars": {"regoin": "x"}}, {"config": {"vars": {"regoin": "x"}}}):
        with pytest.raises(InvalidArgument) as undeclared:
            await bench.plan("needs_variable", **where)

        assert undeclared.value.field == "vars.regoin"
        assert "region, size, token" in undeclared.value.message


async def test_a_secret_that_does_not_exist_is_named(bench: Bench) -> None:
    with pytest.raises(NotFound, match="there is no secret nowhere"):
        await bench.plan("needs_variable", vars={"region": "eu", "token": {"secret": "nowhere"}})


@requirement("bad:failing-plan")
async def test_a_failing_plan_says_why_in_the_words_of_the_configuration(bench: Bench) -> None:
    with pytest.raises(ProviderError) as failed:
        await bench.plan("failing")

    assert "The size must be above zero." in failed.value.message
    assert "Error: Resource precondition failed" in str(failed.value.details["log"])
    assert bench.state.lock is None


async def test_a_secret_in_a_failure_is_hidden(bench: Bench) -> None:
    bench.write(
        "telling",
        main_tf="""variable "token" {}
resource "terraform_data" "a" {
  lifecycle {
    precondition {
      condition     = var.token == ""
      error_message = "The token ${var.token} is no good."
    }
  }
}
""",
    )
    with pytest.raises(ProviderError) as failed:
        await bench.plan("telling", vars={"token": {"secret": "token"}})

    assert "is no good" in failed.value.message
    assert SECRETS["token"] not in failed.value.message + str(failed.value.details)


@requirement("bad:control-characters")
async def test_names_cannot_lie_to_who_reads_them(bench: Bench) -> None:
    planned = await bench.plan("strange_names")

    assert [name for name, text in texts(planned).items() if {"\x1b", "\u202e"} & set(text)] == []
    told = json.dumps([json.loads(planned.view), planned.plan.model_dump(mode="json")], ensure_ascii=False)
    assert not {"\x1b", "\u202e"} & set(told)
    assert planned.plan.counts.create == 3
    assert all("\n" not in c.address for c in planned.plan.changes)


async def test_warnings_of_the_engine_are_kept(bench: Bench) -> None:
    bench.write(
        "warned",
        main_tf="""resource "terraform_data" "a" {
  input = 1
}
check "never" {
  assert {
    condition     = terraform_data.a.input > 2
    error_message = "One is not above two."
  }
}
""",
    )
    planned = await bench.plan("warned")

    assert any("One is not above two." in warning for warning in planned.warnings)
    assert [(f.severity, f.file, f.line) for f in planned.findings] == [("warning", "main.tf", 6)]


async def test_who_approves_is_told_that_one_credential_serves_for_both(bench: Bench) -> None:
    both = await bench.plan(config={"plan_credential": "cloud"})
    apart = await bench.plan(config={"plan_credential": "cloud", "apply_credential": "token"})

    assert any("One credential serves" in risk for risk in both.plan.risks)
    assert not any("One credential serves" in risk for risk in apart.plan.risks)


# -- Validation


async def validated(bench: Bench, stack: str) -> list[tuple[str, str | None, int | None]]:
    planned = await bench.plan(stack, Mode.VALIDATE)
    assert json.loads(planned.view)["v"] == "countersign.findings/1"
    assert planned.bundle == b"" and not planned.plan.changes_anything
    return [(f.severity, f.file, f.line) for f in planned.findings]


async def test_a_good_configuration_has_no_findings_and_needs_no_state(each: Bench) -> None:
    each.state.lock = {"ID": "somebody-elses"}

    assert await validated(each, "demo") == []
    assert each.state.requests == []


async def test_validation_finds_format_and_reference(each: Bench) -> None:
    assert await validated(each, "unformatted") == [("error", "main.tf", 2), ("warning", "main.tf", None)]


async def test_validation_finds_what_is_broken_in_a_module(bench: Bench) -> None:
    assert await validated(bench, "broken_module") == [("error", "modules/inner/main.tf", 3)]


async def test_validation_finds_what_the_operator_does_not_allow(bench: Bench) -> None:
    assert await validated(bench, "external") == [("error", "main.tf", 1)]
    assert await validated(bench, "foreign") == [("error", "main.tf", 4)]


async def test_validation_finds_what_init_finds(bench: Bench) -> None:
    bench.write("lost", main_tf='module "a" {\n  source = "./nowhere"\n}\n')

    planned = await bench.plan("lost", Mode.VALIDATE)

    assert any('module "a" at main.tf:1' in finding.detail for finding in planned.findings)


# -- The state and its service


async def test_a_locked_state_is_worth_asking_again(bench: Bench) -> None:
    bench.state.lock = {"ID": "somebody-elses", "Who": "ana@laptop", "Operation": "OperationTypeApply", "Created": "2026-01-01T00:00:00Z"}

    with pytest.raises(Locked) as locked:
        await bench.plan()

    assert locked.value.retryable
    assert bench.state.lock is not None


async def test_a_state_service_that_is_not_there_is_told_at_once(bench: Bench) -> None:
    bench.state.address = "http://127.0.0.1:9/v1/state/local/st_test"

    with pytest.raises(Unavailable, match="the state service does not answer"):
        await bench.plan()


async def test_an_attempt_that_the_state_service_gave_up_is_made_anew(bench: Bench) -> None:
    await bench.plan()
    for when in ("GET", "LOCK"):
        bench.state.before = lambda method, when=when: 403 if method == when else None
        with pytest.raises(Unavailable, match="does not know this attempt any more"):
            await bench.plan()


@pytest.mark.parametrize("when", ["GET", "LOCK"])
async def test_a_state_service_that_fails_meanwhile_is_worth_asking_again(bench: Bench, when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(environment_module._RETRIES, "TF_HTTP_RETRY_MAX", "0")
    await bench.plan()
    bench.state.before = lambda method: 503 if method == when else None

    with pytest.raises(Unavailable, match="the state service does not answer"):
        await bench.plan()


# -- Ends


async def test_a_cancelled_plan_frees_the_lock_and_leaves_nothing(bench: Bench) -> None:
    slow(bench)
    planning = asyncio.create_task(bench.plan("slow"))
    await until((bench.world / "reading").exists, "the plan to read")
    assert bench.state.lock is not None

    planning.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(planning, PATIENCE)

    assert bench.state.lock is None
    assert not (bench.folder / "work" / "stacks" / "st_test").exists()


def slow(bench: Bench, *, seconds: float = 1.0) -> threading.Event:
    """A stack and a state that takes a second to be read, so that a plan can be met while it runs; less where the event is set."""
    go = threading.Event()

    def wait(method: str) -> None:
        if method == "GET" and bench.state.lock is not None:
            (bench.world / "reading").touch()
            go.wait(seconds)

    bench.write("slow", main_tf='resource "terraform_data" "a" {}\n')
    bench.state.before = wait
    return go


WORKER = """
import asyncio, sys
from pathlib import Path
from tests.integration.terraform_bench import Bench
from tests.integration.fake_state import FakeState

async def main():
    state = FakeState()
    state.address = sys.argv[2]
    await Bench(folder=Path(sys.argv[1]), state=state).plan("slow")

asyncio.run(main())
"""


async def test_a_plan_ends_with_its_worker_and_the_next_one_is_not_disturbed(bench: Bench) -> None:
    slow(bench)
    worker = await python(WORKER, bench.folder, bench.state.address)
    await until((bench.world / "reading").exists, "the plan to read")

    place = bench.folder / "work" / "stacks" / "st_test"
    temporary = Path(place.with_name("st_test.lock").read_text())
    assert temporary.is_dir()

    worker.kill()
    await worker.wait()
    await until(lambda: bench.state.lock is None, "the engine to free the lock")
    bench.state.before = None

    assert (await bench.plan("slow")).plan.counts.create == 1
    assert not temporary.exists() and not place.exists()


@requirement("secrets:killed-worker")
async def test_what_killed_workers_left_goes_with_the_next_start_and_not_before_it_is_free(bench: Bench) -> None:
    go = slow(bench, seconds=PATIENCE)
    worker = await python(WORKER, bench.folder, bench.state.address)
    await until((bench.world / "reading").exists, "the plan to read")
    work = bench.folder / "work" / "stacks"
    temporary = Path((work / "st_test.lock").read_text())
    aside, theirs = work / ".gone" / f"att_1-0123.{temporary.name}", work / "st_other" / "side"
    for folder in (aside, theirs):  # of a worker that was killed before it removed the one, and while it planned in the other
        folder.mkdir(parents=True)
        (folder / "plan.tfplan").write_text("in clear")

    tidying = asyncio.create_task(bench.another().tidy())

    await until(lambda: not aside.exists() and not theirs.parent.exists(), "what nobody uses to go")
    assert (work / "st_test").is_dir(), "somebody plans in it"
    worker.kill()
    await worker.wait()
    go.set()
    await asyncio.wait_for(tidying, PATIENCE)

    assert sorted(p.name for p in work.iterdir()) == [".gone", "st_other.lock", "st_test.lock"]
    assert not temporary.exists()
