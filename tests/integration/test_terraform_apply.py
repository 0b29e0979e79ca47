"""Applies by the real engine: the approved plan and nothing else, told on evidence whatever happens to anybody on the way."""

import asyncio
import contextlib
import json
import os
import signal
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

from countersign.adapters.process import Detached, marked_processes
from countersign.adapters.terraform import applying
from countersign.core.engine import Outcome
from countersign.core.errors import FailedPrecondition, InvalidArgument, ProviderError
from countersign.core.plan import Counts
from countersign.core.run import Mode, RunState
from tests.integration.processes import PATIENCE, alive, leaves_no_process, new_attempt, python, until
from tests.integration.terraform_bench import SECRETS, WITHOUT_TERRAFORM, Bench, bench, each, terraform
from tests.requirements import requirement

__all__ = ["bench", "each", "leaves_no_process", "terraform"]
pytestmark = pytest.mark.anyio


def told(outcome: Outcome) -> dict[str, object]:
    """Which objects came out how: address → ok."""
    return {str(r["address"]): r["ok"] for r in outcome.resources}


# -- The approved plan, and nothing else


@requirement("promise:approved-is-what-runs")
async def test_what_was_planned_is_applied_whatever_became_of_the_source(each: Bench) -> None:
    planned = await each.plan(vars={"name": "planned"})
    each.write("demo", main_tf='resource "terraform_data" "other" {}\n', outputs_tf="")
    for path in each.folder.joinpath("work").rglob("*.tf"):
        path.unlink()

    outcome = await each.apply(planned)

    assert outcome.state is RunState.VERIFYING, outcome.message
    assert (outcome.done, outcome.total) == (13, 13)
    assert outcome.outputs["endpoints"] == {
        "value": {"api": "https://planned-dev-api.example.internal", "web": "https://planned-dev-web.example.internal"},
        "type": ["object", {"api": "string", "web": "string"}],
    }
    assert "terraform_data.other" not in each.state.resources
    assert len(outcome.resources) == 13 and set(told(outcome).values()) == {True}
    assert all(r["id"] for r in outcome.resources)
    assert outcome.evidence[:2] == ("exit code 0", "the journal was read to its end")
    assert "13 add, 0 change" in outcome.evidence[2]
    assert each.state.lock is None


async def test_files_that_are_read_while_applying_are_those_that_were_approved(bench: Bench) -> None:
    script = bench.stacks / "scripted" / "say.sh"
    bench.write("scripted", main_tf='resource "terraform_data" "a" {\n  provisioner "local-exec" {\n    command = "./say.sh"\n  }\n}\n')
    script.write_text(f"#!/bin/sh\necho approved >{bench.world}/said\n")
    script.chmod(0o755)
    planned = await bench.plan("scripted")
    script.write_text(f"#!/bin/sh\necho something else >{bench.world}/said\n")

    await bench.apply(planned, "scripted")

    assert (bench.world / "said").read_text() == "approved\n"


@pytest.mark.parametrize("pattern", ["*.tf", "**"])
async def test_a_configuration_that_looks_at_its_own_folder_sees_at_the_apply_what_it_saw_at_the_plan(each: Bench, pattern: str) -> None:
    seen = f'[for file in sort(fileset(path.root, "{pattern}")) : filesha1("${{path.root}}/${{file}}")]'
    each.write("looking", main_tf=f'resource "terraform_data" "seen" {{\n  triggers_replace = sha1(join("", {seen}))\n}}\n')

    outcome = await each.apply(await each.plan("looking"), "looking")

    assert outcome.state is RunState.VERIFYING, outcome.message


async def test_an_apply_asks_neither_for_variables_nor_for_the_credential_of_the_plan(bench: Bench) -> None:
    spy = bench.spied()
    planned = await bench.plan("needs_variable", vars={"region": "eu", "token": {"secret": "token"}}, config={"plan_credential": "cloud"})

    outcome = await bench.apply(planned, "needs_variable")

    assert outcome.state is RunState.VERIFYING
    assert "AWS_ACCESS_KEY_ID" not in spy.environment("apply")
    assert spy.commands == ["init", "plan", "show", "apply"]


async def test_the_credential_of_the_apply_goes_before_that_of_the_plan(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SECRETS, "mighty", '{"AWS_ACCESS_KEY_ID": "key-that-may-write"}')
    spy = bench.spied()
    config = {"plan_credential": "cloud", "apply_credential": "mighty"}

    await bench.apply(await bench.plan(config=config), config=config)

    assert spy.environment("plan")["AWS_ACCESS_KEY_ID"] == "key-of-the-cloud-account"
    assert spy.environment("apply")["AWS_ACCESS_KEY_ID"] == "key-that-may-write"


def changed(bundle: bytes, name: str, data: bytes | None) -> bytes:
    """`bundle` with the content of one member replaced, or with one that is a link where `data` is None."""
    out = BytesIO()
    with tarfile.open(fileobj=BytesIO(bundle)) as old, tarfile.open(fileobj=out, mode="w") as new:
        for member in old.getmembers():
            content = old.extractfile(member)
            assert content is not None
            written = content.read()
            if member.name == name and data is not None:
                written, member.size = data, len(data)
            new.addfile(member, BytesIO(written))
        if data is None:
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            new.addfile(link)
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "data"),
    [("plan.tfplan", b"another plan"), ("meta.json", b"{}"), ("secrets.json", b""), ("tree/link", None), ("../../../outside", None)],
)
async def test_a_bundle_that_is_not_whole_is_refused_and_the_follower_says_so(bench: Bench, name: str, data: bytes | None) -> None:
    planned = await bench.plan()
    job = bench.apply_job(planned, bundle=changed(planned.bundle, name, data))

    with pytest.raises(FailedPrecondition, match="plan again"):
        await bench.engine.launch(job)
    outcome = await bench.follow(job.attempt_id)

    assert (outcome.state, outcome.code) == (RunState.ERRORED, "failed_precondition")
    assert "The apply never started; nothing was changed." in outcome.message and "plan again" in outcome.message
    assert bench.state.resources == []


async def test_a_plan_of_another_engine_build_is_not_applied(terraform: Bench) -> None:
    planned = await terraform.plan()
    terraform.use(search_path=WITHOUT_TERRAFORM)

    outcome = await terraform.apply(planned)

    assert (outcome.state, outcome.code) == (RunState.ERRORED, "provider_error")
    assert "different version" in outcome.message or "1.11.4" in outcome.message
    assert terraform.state.resources == [] and terraform.state.lock is None


async def test_a_plan_of_terraform_is_not_applied_by_tofu(terraform: Bench) -> None:
    planned = await terraform.plan()
    terraform.use(tofu_executable=Path("/usr/local/bin/terraform"))

    with pytest.raises(FailedPrecondition, match="the plan was made by terraform, and the stack now says tofu"):
        await terraform.launch(planned, config={"engine": "tofu"})


async def test_another_machine_initialises_and_applies_what_was_planned_here(bench: Bench) -> None:
    planned = await bench.plan()
    spy = bench.spied()
    bench.engine = bench.another(work="other/work", attempts="other/attempts")

    outcome = await bench.apply(planned)

    assert outcome.state is RunState.VERIFYING
    assert spy.commands == ["init", "apply"]


async def test_an_init_that_fails_before_the_apply_is_told_by_the_follower(bench: Bench) -> None:
    planned = await bench.plan()
    bench.engine = bench.another(work="other/work", executable=failing(bench))
    job = bench.apply_job(planned)

    with pytest.raises(ProviderError, match="init before the apply failed, nothing was changed"):
        await bench.engine.launch(job)
    outcome = await bench.another().follow(job.attempt_id, bench.beat, stop=lambda: False)

    assert (outcome.state, outcome.code) == (RunState.ERRORED, "provider_error")
    assert "init before the apply failed" in outcome.message


def failing(bench: Bench, script: str = "exit 1") -> Path:
    executable = bench.folder / "terraform"
    executable.write_text(f"#!/bin/sh\n{script}\n")
    executable.chmod(0o755)
    return executable


# -- Destroying


async def test_what_was_made_is_destroyed(each: Bench) -> None:
    await each.applied()
    planned = await each.plan(mode=Mode.DESTROY, destroy=True)
    assert planned.plan.counts == Counts(delete=13)

    outcome = await each.apply(planned, mode=Mode.DESTROY)

    assert outcome.state is RunState.VERIFYING, outcome.message
    assert {r["action"] for r in outcome.resources} == {"delete"} and len(outcome.resources) == 13
    assert each.state.resources == []


# -- What is told


async def test_sensitive_outputs_are_named_and_not_told(bench: Bench) -> None:
    secret = SECRETS["demo-db-password"]

    outcome = await bench.applied(vars={"db_password": {"secret": "demo-db-password"}})

    assert outcome.outputs["connection_strings"] == {"sensitive": True}
    assert outcome.outputs["replicas"] == {"value": 3, "type": "number"}
    assert secret not in repr(outcome) and json.dumps(secret)[1:-1] not in repr(outcome)
    assert secret in json.dumps(bench.state.document, ensure_ascii=False).replace('\\"', '"')


@requirement("promise:no-secrets")
async def test_an_environment_that_is_printed_is_redacted_in_log_and_journal(bench: Bench) -> None:
    bench.write("nosy", main_tf='resource "terraform_data" "a" {\n  provisioner "local-exec" {\n    command = "env"\n  }\n}\n')
    config = {"plan_credential": "cloud"}
    planned = await bench.plan("nosy", config=config)

    outcome = await bench.apply(planned, "nosy", config=config)

    assert outcome.state is RunState.VERIFYING
    assert "TF_HTTP_PASSWORD=(redacted)" in outcome.log
    assert "TF_HTTP_PASSWORD=(redacted)" in outcome.journal.decode()
    assert "AWS_ACCESS_KEY_ID=(redacted)" in outcome.log
    for secret in (bench.state.password, "key-of-the-cloud-account"):
        assert secret not in repr(outcome)
    assert all(isinstance(json.loads(line), dict) for line in outcome.journal.splitlines())


async def test_progress_counts_up_to_what_was_approved_and_names_what_is_in_the_works(bench: Bench) -> None:
    attempt = await gated(bench)
    following = asyncio.create_task(bench.follow(attempt))
    await until(lambda: any(b.current == "terraform_data.gate" for b in bench.beats), "the gate to be in the works")
    opened(bench)

    outcome = await asyncio.wait_for(following, PATIENCE)

    done = [beat.done for beat in bench.beats if beat.total]
    assert done == sorted(done) and done[-1] == 5
    assert {beat.total for beat in bench.beats if beat.total} == {5}
    assert (outcome.done, outcome.total) == (5, 5)
    assert outcome.outputs == {"length": {"value": 3, "type": "number"}}


async def gated(bench: Bench) -> str:
    """An apply that stands at a gate: one object is made, one is in the works, three are to come."""
    planned = await bench.plan("gates", vars={"world": str(bench.world)})
    bench.beats.clear()
    attempt = await bench.launch(planned, "gates")
    await until((bench.world / "1.reached").exists, "the apply to reach its gate")
    return attempt


def opened(bench: Bench) -> None:
    (bench.world / "1.open").touch()


def engine_of(bench: Bench, attempt: str) -> int:
    """The process id of the engine."""
    return int((bench.engine.where(attempt) / "run" / "pid").read_text())


CHATTY = """
variable "token" {
  type = string
}
resource "terraform_data" "gate" {
  provisioner "local-exec" {
    command = "touch WORLD/1.reached; until [ -e WORLD/1.open ]; do sleep 0.02; done; echo said: $TOKEN"
    environment = { TOKEN = var.token }
  }
}
"""


def as_before(bench: Bench, attempt: str) -> None:
    """The attempt's folder as the version before this one would have made it."""
    folder = bench.engine.where(attempt)
    noted, confided = (json.loads((folder / name).read_text()) for name in ("attempt.json", "secrets.json"))
    below = noted.pop("below")
    meta = {"engine": bench.engine_name, "engine_build": bench.build, "plan_sha256": "", "warm_key": "0" * 64, "below": below}
    (folder / "attempt.json").write_text(json.dumps(noted))
    (folder / "secrets.json").write_text(json.dumps(confided["secrets"]))
    (folder / "bundle" / "meta.json").write_text(json.dumps(meta))
    (folder / "bundle" / "operations.json").write_text(json.dumps(confided["operations"]))


async def test_an_attempt_of_the_version_before_is_followed_with_its_secrets_hidden_and_watched(bench: Bench) -> None:
    bench.write("chatty", main_tf=CHATTY.replace("WORLD", str(bench.world)))
    planned = await bench.plan("chatty", vars={"token": {"secret": "token"}})
    attempt = await bench.launch(planned, "chatty")
    await until((bench.world / "1.reached").exists, "the apply to reach its gate")
    as_before(bench, attempt)
    opened(bench)

    outcome = await bench.another().follow(attempt, bench.beat, stop=lambda: False)

    assert outcome.state is RunState.VERIFYING, outcome.message
    assert SECRETS["token"] not in outcome.log + outcome.journal.decode() and "said: " in outcome.log
    assert not [line for line in outcome.evidence if "not watched" in line or "alarm" in line]


async def test_the_state_that_an_attempt_of_the_version_before_could_not_store_is_found(bench: Bench) -> None:
    attempt = await gated(bench)
    as_before(bench, attempt)
    bench.state.refuse_writes = True
    opened(bench)
    outcome = await bench.follow(attempt)
    remains = await bench.engine.end(attempt, same_boot=True)

    assert "errored.tfstate was left: the state could not be stored" in outcome.evidence
    assert remains.state is not None and remains.whole


# -- What goes wrong


@requirement("apply:verdict")
async def test_an_apply_that_fails_half_way_says_what_is_done_and_what_is_not(each: Bench) -> None:
    outcome = await each.apply(await each.plan("partial"), "partial")

    assert (outcome.state, outcome.code) == (RunState.PARTIALLY_APPLIED, "provider_error")
    assert told(outcome) == {"terraform_data.done": True, "terraform_data.fails": False}
    assert "the disk is full" in outcome.message or "exit status 3" in outcome.message
    assert (outcome.done, outcome.total) == (2, 2)
    assert "exit code 1" in outcome.evidence
    assert each.state.resources == ["terraform_data.done", "terraform_data.fails"]  # the latter tainted
    assert each.state.lock is None


async def test_a_state_that_moved_makes_the_plan_stale(each: Bench) -> None:
    planned = await each.plan("partial")
    document = {"version": 4, "terraform_version": "1.11.4", "serial": 7, "lineage": "another", "outputs": {}, "resources": []}
    each.state.state = json.dumps(document).encode()

    outcome = await each.apply(planned, "partial")

    assert (outcome.state, outcome.code) == (RunState.STALE, "plan_stale")
    assert "no operation that changes something was begun" in outcome.evidence
    assert each.state.document["serial"] == 7


async def test_a_locked_state_is_not_changed(bench: Bench) -> None:
    planned = await bench.plan()
    bench.state.lock = {"ID": "somebody-elses", "Who": "ana@laptop"}

    outcome = await bench.apply(planned)

    assert (outcome.state, outcome.code) == (RunState.ERRORED, "locked")
    assert bench.state.resources == [] and bench.state.lock["ID"] == "somebody-elses"


async def test_a_credential_that_was_given_up_changes_nothing_and_is_not_told_as_a_lock(bench: Bench) -> None:
    planned = await bench.plan()
    bench.state.before = lambda method: 403 if method == "LOCK" else None

    outcome = await bench.apply(planned)

    assert (outcome.state, outcome.code) == (RunState.ERRORED, "unavailable")
    assert bench.state.resources == []


async def test_a_state_that_could_not_be_stored_is_interrupted_and_left_with_the_attempt(bench: Bench) -> None:
    planned = await bench.plan()
    bench.state.refuse_writes = True

    outcome = await bench.apply(planned)

    assert (outcome.state, outcome.code) == (RunState.INTERRUPTED, "internal")
    assert "errored.tfstate was left: the state could not be stored" in outcome.evidence
    left = bench.engine.where(next((bench.folder / "attempts").iterdir()).name) / "bundle" / "tree" / "errored.tfstate"
    assert len(json.loads(left.read_text())["resources"]) >= 5
    assert left.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("script", ["exit 126", "kill -9 $$", "echo '{\"torn' ; exit 1", "echo nonsense; exit 1", "exit 0", "exit 3"])
async def test_an_engine_that_proves_nothing_is_never_told_to_have_changed_nothing(bench: Bench, script: str) -> None:
    planned = await bench.plan()
    bench.use(executable=failing(bench, script))

    outcome = await bench.apply(planned)

    expected = RunState.ERRORED if script == "exit 126" else RunState.INTERRUPTED
    assert outcome.state is expected, outcome


@pytest.mark.parametrize(
    "said",
    [
        "The plugin encountered an error, and failed to respond to the plugin6.(*GRPCProvider).ApplyResourceChange call.",
        "The plugin6.(*GRPCProvider).ApplyResourceChange request was cancelled.",
        "The plugin returned an unexpected error from plugin6.(*GRPCProvider).ApplyResourceChange: rpc error: code = Internal",
    ],
)
async def test_an_apply_whose_provider_gave_no_answer_is_accounted_for_whatever_the_engine_calls_it(bench: Bench, said: str) -> None:
    hook = {"resource": {"addr": "terraform_data.before"}, "action": "create"}
    lines = [
        {"type": "version", "terraform": "1.11.4", "ui": "1.2"},
        {"type": "apply_start", "hook": hook},
        {"type": "apply_errored", "hook": hook},
        {"type": "diagnostic", "@level": "error", "diagnostic": {"severity": "error", "summary": "of the plugin", "detail": said}},
    ]
    planned = await bench.plan()
    bench.use(executable=failing(bench, "\n".join(["cat <<'END'", *map(json.dumps, lines), "END", "exit 1"])))

    outcome = await bench.apply(planned)

    assert outcome.state is RunState.INTERRUPTED
    assert "A provider died in mid-apply" in outcome.message


async def test_an_engine_that_cannot_start_changed_nothing(bench: Bench) -> None:
    planned = await bench.plan()
    bench.use(executable=failing(bench, "echo 'no such library' >&2; exit 1"))

    outcome = await bench.apply(planned)

    assert (outcome.state, outcome.code) == (RunState.ERRORED, "unavailable")
    assert "no such library" in outcome.message and "countersign doctor" in outcome.message


async def test_a_journal_that_lost_its_end_proves_nothing(bench: Bench) -> None:
    planned = await bench.plan("partial")
    attempt = await bench.launch(planned, "partial")
    run = bench.engine.where(attempt) / "run"
    await until(lambda: Detached(folder=run, marker=attempt).exit_code() is not None, "the end")
    journal = (run / "journal").read_bytes()

    for torn in (b"", journal[: journal.index(b"apply_start") + 5], b"\n".join(journal.split(b"\n")[:1]) + b"\n"):
        (run / "journal").write_bytes(torn)
        outcome = await bench.follow(attempt)
        assert outcome.state is RunState.INTERRUPTED, torn
    (run / "journal").write_bytes(journal)
    (run / "started").write_text("another boot")
    (run / "rc").write_text("1\n")  # it was not said to be on the disk
    assert (await bench.follow(attempt)).state is RunState.INTERRUPTED


# -- Stopping


@requirement("apply:verdict")
async def test_a_cancel_in_mid_apply_interrupts_once_and_what_is_done_is_stored(each: Bench) -> None:
    attempt = await gated(each)
    others = [asyncio.create_task(each.another().follow(attempt, each.beat, stop=lambda: True)) for _ in range(3)]

    outcome = await asyncio.wait_for(each.follow(attempt, stop=True), PATIENCE)
    for other in await asyncio.gather(*others):
        assert other.state is RunState.PARTIALLY_APPLIED

    assert (outcome.state, outcome.code) == (RunState.PARTIALLY_APPLIED, "canceled")
    assert told(outcome) == {"terraform_data.before": True, "terraform_data.gate": False}
    assert outcome.log.count("Interrupt received") == 1 and "Two interrupts" not in outcome.log
    assert "it was interrupted on request" in outcome.evidence
    assert each.state.resources == ["terraform_data.before", "terraform_data.gate"]
    assert each.state.lock is None


async def test_a_cancel_before_the_engine_says_a_word_changed_nothing(bench: Bench) -> None:
    planned = await bench.plan()
    bench.use(executable=failing(bench, f"touch {bench.world}/started; while :; do sleep 0.02; done"))
    attempt = await bench.launch(planned)
    await until((bench.world / "started").exists, "the engine to start")

    outcome = await asyncio.wait_for(bench.follow(attempt, stop=True), PATIENCE)

    assert (outcome.state, outcome.code) == (RunState.CANCELED, "canceled")


async def test_a_cancel_at_once_is_never_lost(each: Bench) -> None:
    """Wherever the engine is when it is told: before it listens it ends, and afterwards it stops."""
    planned = await each.plan("gates", vars={"world": str(each.world)})

    for seconds in (0, 0.01, 0.03, 0.08):
        each.state.state = None
        attempt = await each.launch(planned, "gates")
        await asyncio.sleep(seconds)  # no matter where it then is
        outcome = await asyncio.wait_for(each.follow(attempt, stop=True), PATIENCE)

        assert (outcome.state, outcome.code) in ((RunState.CANCELED, "canceled"), (RunState.PARTIALLY_APPLIED, "canceled")), outcome
        # What was begun counts as changed, also where it was stopped before there was anything: then the state is empty.
        begun = [r for r in outcome.resources if r["ok"] is not True]
        assert each.state.resources or outcome.state is RunState.CANCELED or begun, outcome
        assert not each.state.resources or outcome.state is RunState.PARTIALLY_APPLIED
        assert each.state.lock is None


async def test_an_apply_that_does_not_stop_is_killed_after_the_grace_and_nobody_knows_what_it_did(bench: Bench) -> None:
    bench.use(grace_seconds=0.3)
    bench.write(
        "deaf",
        main_tf=f"""resource "terraform_data" "a" {{
  provisioner "local-exec" {{
    command = "setsid -f sleep 60; kill -STOP $PPID; touch {bench.world}/here; sleep 60"
  }}
}}
""",
    )
    attempt = await bench.launch(await bench.plan("deaf"), "deaf")
    await until((bench.world / "here").exists, "the apply to be under way")

    outcome = await asyncio.wait_for(bench.follow(attempt, stop=True), PATIENCE)

    assert outcome.state is RunState.INTERRUPTED
    assert "it was asked to stop, did not, and was killed" in outcome.evidence
    assert told(outcome) == {"terraform_data.a": None}


async def test_an_interrupt_that_got_lost_is_sent_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(applying, "LOST_SIGNAL", 0.2)
    attempt = await gated(bench)
    (bench.engine.where(attempt) / "run" / "interrupted").write_text("1.0")  # and whoever wrote this was killed
    bench.use(grace_seconds=1e10)

    outcome = await asyncio.wait_for(bench.follow(attempt), PATIENCE)

    assert (outcome.state, outcome.code) == (RunState.PARTIALLY_APPLIED, "canceled")
    assert outcome.log.count("Interrupt received") == 1


# -- Crashes

WORKER = """
import asyncio, sys
from pathlib import Path
from tests.integration.terraform_bench import Bench
from tests.integration.fake_state import FakeState

async def main():
    state = FakeState()
    state.address = sys.argv[2]
    bench = Bench(folder=Path(sys.argv[1]), state=state)
    planned = await bench.plan("gates", vars={"world": sys.argv[3]})
    attempt = await bench.launch(planned, "gates", attempt_id=sys.argv[4])
    print(planned.plan.counts.total, flush=True)
    await bench.follow(attempt)

asyncio.run(main())
"""


@requirement("promise:crash-costs-nothing")
async def test_an_apply_whose_worker_is_killed_finishes_and_the_next_worker_tells_it(each: Bench) -> None:
    attempt = new_attempt()
    path = {"PATH": each.search_path}
    worker = await python(WORKER, each.folder, each.state.address, each.world, attempt, env=path)
    await until((each.world / "1.reached").exists, "the apply to reach its gate")

    worker.kill()
    await worker.wait()
    following = asyncio.create_task(each.follow(attempt))
    await until(lambda: any(b.current == "terraform_data.gate" for b in each.beats), "the follower to see where it stands")
    opened(each)
    outcome = await asyncio.wait_for(following, PATIENCE)

    assert outcome.state is RunState.VERIFYING, outcome.message
    assert (outcome.done, outcome.total, len(outcome.resources)) == (5, 5, 5)
    assert len(each.state.resources) == 3  # one address for the three of `after`
    assert each.state.lock is None


async def test_an_apply_that_nobody_watched_is_told_afterwards_as_often_as_asked(bench: Bench) -> None:
    attempt = await gated(bench)
    opened(bench)
    await until(lambda: not alive(), "the apply to end by itself")

    first, second = await bench.follow(attempt), await bench.another().follow(attempt, bench.beat, stop=lambda: True)

    assert first.state is second.state is RunState.VERIFYING
    assert first.journal == second.journal
    assert [r["address"] for r in first.resources] == [r["address"] for r in second.resources]


async def test_a_follower_that_is_cancelled_leaves_the_apply_alone(bench: Bench) -> None:
    attempt = await gated(bench)
    following = asyncio.create_task(bench.follow(attempt))
    await until(lambda: bench.beats, "the follower to watch")

    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await following

    assert alive()
    opened(bench)
    assert (await bench.follow(attempt)).state is RunState.VERIFYING


@requirement("I4")
async def test_an_engine_that_is_killed_is_interrupted_with_what_is_known(each: Bench) -> None:
    attempt = await gated(each)
    os.kill(engine_of(each, attempt), signal.SIGKILL)

    outcome = await asyncio.wait_for(each.follow(attempt), PATIENCE)

    assert (outcome.state, outcome.code) == (RunState.INTERRUPTED, "internal")
    assert told(outcome) == {"terraform_data.before": True, "terraform_data.gate": None}
    assert next(r for r in outcome.resources if r["address"] == "terraform_data.before")["id"]
    assert "exit code 137" in outcome.evidence
    assert any("processes it left behind were ended" in line for line in outcome.evidence)  # the shell at the gate
    assert each.state.lock is not None  # not ours to free: whoever reconciles does


async def test_when_everything_of_an_attempt_is_killed_there_is_no_exit_code_and_nobody_claims_to_know(bench: Bench) -> None:
    attempt = await gated(bench)
    for pid in marked_processes(attempt):
        with contextlib.suppress(ProcessLookupError):  # a provider goes with its engine
            os.kill(pid, signal.SIGKILL)

    outcome = await asyncio.wait_for(bench.follow(attempt), PATIENCE)

    assert outcome.state is RunState.INTERRUPTED
    assert "no exit code was left" in outcome.evidence


async def test_children_that_escape_are_ended_with_the_apply(bench: Bench) -> None:
    bench.write(
        "escaping",
        main_tf="""resource "terraform_data" "a" {
  provisioner "local-exec" {
    command = "setsid -f sleep 61 >/dev/null 2>&1; setsid -f sh -c 'setsid -f sleep 62; sleep 63' >/dev/null 2>&1"
  }
}
""",
    )
    attempt = await bench.launch(await bench.plan("escaping"), "escaping")

    outcome = await asyncio.wait_for(bench.follow(attempt), PATIENCE)

    assert outcome.state is RunState.VERIFYING
    assert any("processes it left behind were ended" in line for line in outcome.evidence)
    await until(lambda: not marked_processes(attempt), "all of them to end")


# -- Once


async def test_an_attempt_is_launched_once_by_whoever_comes_first(bench: Bench) -> None:
    planned = await bench.plan("gates", vars={"world": str(bench.world)})
    job = bench.apply_job(planned, "gates")

    await asyncio.gather(*(engine.launch(job) for engine in (bench.engine, bench.another(), bench.another())))
    await until((bench.world / "1.reached").exists, "the apply to reach its gate")
    await bench.engine.launch(job)
    opened(bench)
    outcome = await bench.follow(job.attempt_id)
    await bench.engine.launch(job)

    assert outcome.state is RunState.VERIFYING
    assert bench.state.requests.count("POST") == 1
    assert (await bench.follow(job.attempt_id)).journal == outcome.journal


async def test_an_attempt_that_was_never_launched_changed_nothing_and_never_will(bench: Bench) -> None:
    planned = await bench.plan()
    job = bench.apply_job(planned)

    outcome = await bench.follow(job.attempt_id)

    assert (outcome.state, outcome.code) == (RunState.INTERRUPTED, "internal"), "whoever claimed it is gone: that is accounted for"
    assert outcome.evidence == ("nothing was started under this attempt, and nothing can be any more",)
    with pytest.raises(FailedPrecondition, match="given up before it started"):
        await bench.engine.launch(job)
    assert bench.state.resources == []


async def test_a_follower_waits_for_who_is_just_launching(bench: Bench) -> None:
    planned = await bench.plan()
    job = bench.apply_job(planned)
    detached = Detached(folder=bench.engine.where(job.attempt_id) / "run", marker=job.attempt_id)
    hold = await detached.hold()
    assert hold is not None
    with hold:
        following = asyncio.create_task(bench.follow(job.attempt_id))
        await until(lambda: bench.beats and bench.beats[-1].current == "", "the follower to look")
        assert not following.done()

    outcome = await asyncio.wait_for(following, PATIENCE)  # whoever prepared it gave up without a word

    assert outcome.state is RunState.INTERRUPTED


async def test_an_attempt_that_is_forgotten_leaves_nothing_and_one_that_runs_is_not(bench: Bench) -> None:
    attempt = await gated(bench)
    noted = json.loads((bench.engine.where(attempt) / "attempt.json").read_text())
    with pytest.raises(FailedPrecondition, match="still runs"):
        await bench.engine.forget(attempt)
    opened(bench)
    await bench.follow(attempt)

    await bench.engine.forget(attempt)
    await bench.engine.forget(attempt)

    assert not bench.engine.where(attempt).exists()
    await until(lambda: not Path(noted["temporary"]).exists(), "its short folder to go")
    assert not list(bench.folder.rglob(".gone/*"))


@pytest.mark.parametrize("attempt", ["../x", "", "a/b", "-a", "a\n", ".", "a" * 200])
async def test_an_attempt_id_that_is_none_leads_nowhere(bench: Bench, attempt: str) -> None:
    with pytest.raises(InvalidArgument):
        bench.engine.where(attempt)


async def test_what_an_attempt_leaves_is_private(bench: Bench) -> None:
    planned = await bench.plan()
    attempt = await bench.launch(planned)
    await bench.follow(attempt)

    files = [p for p in bench.engine.where(attempt).rglob("*") if p.is_file() and not p.is_symlink()]
    assert bench.engine.where(attempt).stat().st_mode & 0o777 == 0o700
    assert len(files) > 10 and [p for p in files if p.stat().st_mode & 0o077] == []


async def test_folders_of_any_name_will_do(bench: Bench, tmp_path: Path) -> None:
    odd = Bench(folder=tmp_path / """it's "a" $(folder) ${of} %{any} \\name ü""", state=bench.state)
    odd.use(mirror=odd.folder / 'mir"ror')

    outcome = await odd.applied()

    assert (outcome.done, outcome.outputs["replicas"]) == (13, {"value": 3, "type": "number"})
