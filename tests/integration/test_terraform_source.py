"""Configuration nobody approved yet: what is refused before any of it runs, and what a child of ours gets to see."""

import asyncio
import json
import os
import platform
import shlex
from pathlib import Path

import pytest

from countersign.adapters.terraform.hcl import UNSETTLED, Unreadable, structure
from countersign.core.errors import FailedPrecondition, InvalidArgument, NotFound, PolicyDenied, ProviderError
from countersign.core.run import Mode, RunState
from tests.integration.processes import PATIENCE, leaves_no_process, python
from tests.integration.terraform_bench import SECRETS, SYSTEM, WITHOUT_TERRAFORM, Bench, Spy, bench, findings, library, terraform, texts
from tests.requirements import requirement

__all__ = ["bench", "leaves_no_process", "terraform"]
pytestmark = pytest.mark.anyio


# -- What the operator does not allow

PROGRAM = """program = ["sh", "-c", "touch WORLD/ran; echo {}"]"""
EVIL = f'data "external" "x" {{\n  {PROGRAM}\n}}\n'
LATER = "locals {\n  b = <<EOT\nb\nEOT\n}\n"

EXTERNAL = {
    "plain": (EVIL, 1),
    "without quotes": (EVIL.replace('"external" "x"', "external __x"), 1),
    "spelled otherwise": (EVIL.replace("external", "\\u0065xternal"), None),
    "behind a heredoc whose end has a space": (f"locals {{\n  a = <<EOT\na\nEOT \n}}\n{EVIL}{LATER}", 6),
    "behind a heredoc whose end is indented": (f"locals {{\n  a = <<EOT\na\n   EOT\n}}\n{EVIL}{LATER}", 6),
    "behind a heredoc whose end has a space of another kind": (f"locals {{\n  a = <<EOT\na\nEOT\u2003\n}}\n{EVIL}{LATER}", 6),
    "behind a comment that seems open": (f"# /*\n{EVIL}# */\n", 2),
    "behind a text that seems open": (f'locals {{\n  a = "$${{"\n}}\n{EVIL}locals {{\n  b = "}}"\n}}\n', 4),
    "in a check": (f'check "c" {{\n{EVIL}}}\n', 2),
}


@requirement("bad:external-data-source")
@pytest.mark.parametrize("how", EXTERNAL)
async def test_a_data_source_that_runs_a_program_never_runs(bench: Bench, how: str) -> None:
    text, line = EXTERNAL[how]
    spy = bench.spied()
    bench.write("hostile", main_tf=text.replace("WORLD", str(bench.world)))

    with pytest.raises(PolicyDenied) as refused:
        await bench.plan("hostile")

    first = findings(refused.value)[0]
    assert first.summary == 'data source "external" is not allowed'
    assert (first.file, first.line) == ("main.tf", line)
    assert "terraform.denied_data_sources" in first.detail
    assert spy.commands == [] and bench.state.requests == []
    assert not (bench.world / "ran").exists()


JSON = {
    "by name": '{"data": {"external": {"__x": {"program": ["true"]}}}}',
    "in lists": '{"data": [[{"external": [{"x": [{"program": ["true"]}]}]}]]}',
    "twice": '{"data": {"external": {"x": {"program": ["true"]}}}, "data": {"terraform_remote_state": {}}}',
    "in a check": '{"check": {"c": {"data": {"external": {"x": {"program": ["true"]}}}, "assert": {}}}}',
}


@pytest.mark.parametrize("how", JSON)
async def test_it_does_not_run_from_json_either(bench: Bench, how: str) -> None:
    bench.write("hostile", main_tf_json="")
    (bench.stacks / "hostile" / "main_tf.json").rename(bench.stacks / "hostile" / "main.tf.json")
    (bench.stacks / "hostile" / "main.tf.json").write_text(JSON[how])

    with pytest.raises(PolicyDenied, match='data source "external" is not allowed'):
        await bench.plan("hostile")


@pytest.mark.parametrize(
    ("stack", "summary", "file", "line"),
    [
        ("external", 'data source "external" is not allowed', "main.tf", 1),
        ("data_in_check", 'data source "http" is not allowed', "main.tf.json", 4),
        ("foreign", "provider 'someone/stranger' is not allowed", "main.tf", 4),
        ("remote_backend", 'backend "gcs" keeps the state elsewhere', "main.tf", 2),
    ],
)
@requirement("bad:foreign-provider", "source:judged")
async def test_what_is_not_allowed_is_told_with_its_place_and_what_to_do(
    bench: Bench, stack: str, summary: str, file: str, line: int
) -> None:
    spy = bench.spied()

    with pytest.raises(PolicyDenied) as refused:
        await bench.plan(stack)

    first = findings(refused.value)[0]
    assert (first.summary, first.file, first.line) == (summary, file, line)
    assert f"{summary} ({file} line {line})" in refused.value.message
    assert spy.commands == []


REFUSED = {
    "a module from elsewhere": ('module "m" {\n  source = "git::https://example.com/m.git"\n}\n', "module source", 2),
    "a module of the registry": ('module "m" {\n  source = "terraform-aws-modules/vpc/aws"\n}\n', "module source", 2),
    "a module outside of the stack": ('module "m" {\n  source = "../demo"\n}\n', "module source", 2),
    "a module that is no literal": ('module "m" {\n  source = "./${"x"}"\n}\n', "module source", 2),
    "a module that leaves by a template": ('module "m" {\n  source = "./%{ if true }../..%{ endif }/demo"\n}\n', "module source", 2),
    "a provider by its name alone": ('resource "stranger_thing" "a" {}\n', None, None),
    "a provider that is no literal": (
        'terraform {\n  required_providers {\n    null = { source = "${"someone"}/stranger" }\n  }\n}\nresource "null_resource" "a" {}\n',
        "provider",
        3,
    ),
    "a provider behind an expression": (
        'terraform {\n  required_providers {\n    null = merge({}, { source = "someone/stranger" })\n  }\n}\n',
        "Invalid required_providers object",
        3,
    ),
    "a provider behind a key that is an expression": (
        'terraform {\n  required_providers {\n    null = { ("source") = "someone/stranger" }\n  }\n}\n',
        "this file cannot be checked",
        None,
    ),
    "a backend elsewhere": ('terraform {\n  backend "remote" {}\n}\n', 'backend "remote" keeps the state elsewhere', 2),
    "a backend by address": (
        'terraform {\n  backend "http" {\n    address = "http://127.0.0.1:1"\n  }\n}\n',
        'backend "http" keeps the state elsewhere',
        2,
    ),
    "a cloud": ("terraform {\n  cloud {}\n}\n", 'backend "cloud" keeps the state elsewhere', 2),
    "an action of a stranger": (
        'terraform {\n  required_providers {\n    s = { source = "someone/stranger" }\n  }\n}\naction "s_do" "a" {}\n',
        "provider 'someone/stranger' is not allowed",
        3,
    ),
    "a block nobody knows": ('generator "sh" "a" {\n  command = "true"\n}\n', None, None),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_it_is_refused_before_the_engine_sees_it(bench: Bench, what: str) -> None:
    text, summary, line = REFUSED[what]
    bench.use(allowed_providers=("terraform.io/builtin/*", "hashicorp/null"))
    bench.write("hostile", main_tf=text)
    spy = bench.spied()

    with pytest.raises((PolicyDenied, ProviderError)) as refused:
        await bench.plan("hostile")

    first = findings(refused.value)[0]
    assert first.file == "main.tf"
    if summary is not None:
        assert summary in first.summary and first.line == line
    assert set(spy.commands) <= {"validate"}  # which says what is wrong with a file, and loads nothing


@requirement("source:judged")
async def test_what_the_operator_allows_is_planned(bench: Bench) -> None:
    bench.write("remote", main_tf='data "terraform_remote_state" "a" {\n  backend = "local"\n  config = { path = "x" }\n}\n')
    bench.use(denied_data_sources=("terraform_remote_state",))
    with pytest.raises(PolicyDenied, match='data source "terraform_remote_state" is not allowed'):
        await bench.plan("remote")

    bench.use(denied_data_sources=())
    with pytest.raises(ProviderError, match="Unable to find remote state"):
        await bench.plan("remote")


async def test_a_local_backend_is_replaced_by_ours(bench: Bench) -> None:
    bench.write("local", main_tf='terraform {\n  backend "local" {\n    path = "mine.json"\n  }\n}\nresource "terraform_data" "a" {}\n')

    await bench.applied("local")

    assert bench.state.resources == ["terraform_data.a"]


async def test_an_override_that_sorts_behind_ours_does_not_take_the_state_away(bench: Bench) -> None:
    spy = bench.spied()

    with pytest.raises(FailedPrecondition, match="overrides where the state is kept"):
        await bench.plan("sly_override")

    assert spy.commands == ["init"]
    with pytest.raises(FailedPrecondition):  # and it was not kept warm either
        await bench.plan("sly_override")


async def test_a_file_the_check_cannot_read_is_refused_even_if_the_engine_can(bench: Bench) -> None:
    bench.write("odd", main_tf='resource "terraform_data" "a" {}\n', more_tf="[]\n")
    with pytest.raises(ProviderError) as broken:
        await bench.plan("odd")
    assert (findings(broken.value)[0].file, findings(broken.value)[0].line) == ("more.tf", 1)

    (bench.stacks / "odd" / "more.tf").unlink()
    (bench.stacks / "odd" / "more.tf.json").write_text("[]")  # a list of bodies is configuration to the engine
    with pytest.raises(PolicyDenied, match=r"this file cannot be checked \(more.tf.json\)"):
        await bench.plan("odd")


async def test_test_files_of_a_source_bring_no_module(bench: Bench) -> None:
    tests = bench.stacks / "demo" / "tests"
    tests.mkdir()
    (tests / "a.tftest.hcl").write_text('run "a" {\n  module {\n    source = "terraform-aws-modules/vpc/aws"\n  }\n}\n')

    assert (await bench.plan()).plan.counts.create == 13


# -- What may be a source


@pytest.mark.parametrize("name", ["../demo", "a/../../demo", "/etc", ".", "", "demo/", "demo\n", "-demo", "a//b", ".hidden", "a\0b", "~"])
async def test_a_name_that_leads_elsewhere_is_refused(bench: Bench, name: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await bench.plan(name)

    assert refused.value.field == "source.path"


async def test_a_folder_that_does_not_exist_or_holds_nothing_is_named(bench: Bench) -> None:
    (bench.stacks / "empty").mkdir()

    with pytest.raises(NotFound, match="there is no folder nowhere"):
        await bench.plan("nowhere")
    with pytest.raises(NotFound, match="the source empty holds no configuration"):
        await bench.plan("empty")


async def test_links_lead_nowhere_but_inside(bench: Bench) -> None:
    demo = bench.stacks / "demo"
    (demo / "inside.txt").symlink_to("main.tf")
    assert (await bench.plan()).plan.counts.create == 13

    for target in ("/etc/passwd", "../broken/main.tf", "modules", "dangling"):
        (demo / "link").symlink_to(target)
        with pytest.raises(FailedPrecondition, match="link is a link to something that is no file of this source"):
            await bench.plan()
        (demo / "link").unlink()

    (bench.stacks / "linked").symlink_to("demo")
    with pytest.raises(InvalidArgument, match="goes through a link"):
        await bench.plan("linked")


async def test_what_is_neither_file_nor_folder_is_refused_without_waiting_for_it(bench: Bench) -> None:
    os.mkfifo(bench.stacks / "demo" / "pipe")

    with pytest.raises(FailedPrecondition, match="pipe is neither file nor folder"):
        await asyncio.wait_for(bench.plan(), PATIENCE)


@pytest.mark.parametrize("name", ["terraform.tfstate", "errored.tfstate", "modules/network/terraform.tfstate.backup"])
async def test_a_source_with_a_state_in_it_would_be_made_twice(bench: Bench, name: str) -> None:
    (bench.stacks / "demo" / name).write_text("{}")

    with pytest.raises(FailedPrecondition, match="terraform state push"):
        await bench.plan()


async def test_an_init_of_somebody_else_is_left_where_it_is(bench: Bench) -> None:
    clean = await bench.plan()
    folder = bench.stacks / "demo" / ".terraform"
    folder.mkdir()
    (folder / "terraform.tfstate").write_text('{"version": 3, "backend": {"type": "gcs", "config": {"bucket": "x"}, "hash": 1}}')

    again = await bench.plan()

    assert again.plan.semantic_digest == clean.plan.semantic_digest
    assert again.inputs == clean.inputs


@pytest.mark.parametrize("name", ["zzz_countersign_override.tf", "zzz_countersign_override.tofu", "zzz_countersign_override.tf.json"])
async def test_the_names_of_our_own_files_are_taken(bench: Bench, name: str) -> None:
    (bench.stacks / "demo" / name).write_text("")

    with pytest.raises(FailedPrecondition, match="a name Countersign uses itself"):
        await bench.plan()


async def test_a_source_too_big_to_be_configuration_is_refused(bench: Bench) -> None:
    with (bench.stacks / "demo" / "disk.img").open("wb") as big:
        big.truncate(65 << 20)

    with pytest.raises(FailedPrecondition, match="more than 10000 files or 64 MiB"):
        await bench.plan()


async def test_files_a_plan_makes_are_part_of_what_is_approved(bench: Bench) -> None:
    planned = await bench.plan()

    made = planned.inputs["files_made"]
    assert isinstance(made, dict)
    assert list(made) == [".terraform/modules/modules.json"]


# -- What a child of ours gets to see

SPOILED = {
    "TF_VAR_name": "canary-variable",
    "TF_CLI_ARGS_plan": "-destroy",
    "TF_CLI_ARGS": "-no-such-option",
    "TF_LOG": "TRACE",
    "TF_WORKSPACE": "canary-workspace",
    "TF_DATA_DIR": "/canary",
    "TF_PLUGIN_CACHE_DIR": "/canary",
    "TF_REATTACH_PROVIDERS": "{}",
    "AWS_ACCESS_KEY_ID": "canary-key",
    "AWS_SECRET_ACCESS_KEY": "canary-secret",
    "GOOGLE_APPLICATION_CREDENTIALS": "/canary/key.json",
    "LD_PRELOAD": "",
    "COUNTERSIGN_KEY": "canary-countersign",
}
ENDS_WITH_US = {"COUNTERSIGN_ENDS_WITH"}  # in all but an apply
ALLOWED = {
    "PATH", "HOME", "TMPDIR", "LANG", "TF_IN_AUTOMATION", "TF_INPUT", "CHECKPOINT_DISABLE", "TF_CLI_CONFIG_FILE", "COUNTERSIGN_ATTEMPT",
    "GOGC",
}  # fmt: skip
OF_THE_STATE = {
    "TF_HTTP_ADDRESS", "TF_HTTP_LOCK_ADDRESS", "TF_HTTP_UNLOCK_ADDRESS", "TF_HTTP_USERNAME", "TF_HTTP_PASSWORD", "TF_HTTP_RETRY_MAX",
    "TF_HTTP_RETRY_WAIT_MIN", "TF_HTTP_RETRY_WAIT_MAX",
}  # fmt: skip

WORKER = """
import asyncio, sys
from pathlib import Path
from countersign.core.plan import Counts
from tests.integration.terraform_bench import Bench
from tests.integration.fake_state import FakeState

async def main():
    state = FakeState()
    state.address = sys.argv[2]
    bench = Bench(folder=Path(sys.argv[1]), state=state)
    bench.spied()
    planned = await bench.plan()
    assert planned.plan.counts == Counts(create=13), planned.plan.counts
    outcome = await bench.apply(planned)
    assert str(outcome.state) == "verifying", outcome

asyncio.run(main())
"""


async def test_nothing_of_the_workers_own_environment_reaches_the_engine(terraform: Bench) -> None:
    worker = await python(WORKER, terraform.folder, terraform.state.address, env=SPOILED)
    assert await asyncio.wait_for(worker.wait(), PATIENCE) == 0

    spy = Spy(terraform.folder / "spy", terraform.real)
    for command in ("init", "plan", "show", "apply"):
        seen = spy.environment(command)
        assert set(seen) == ALLOWED | OF_THE_STATE | (ENDS_WITH_US if command != "apply" else set()), command
        assert "canary" not in json.dumps(seen)
        assert (seen["PATH"], seen["LANG"], seen["TF_INPUT"]) == (SYSTEM, "C.UTF-8", "0")
        assert Path(seen["HOME"]).is_relative_to(terraform.folder)
        assert len(seen["TMPDIR"]) < 50
    assert "canary" not in json.dumps(terraform.state.document)


async def test_a_credential_reaches_the_engine_and_validation_gets_none(bench: Bench) -> None:
    spy = bench.spied()

    await bench.plan(config={"plan_credential": "cloud"})
    assert spy.environment("plan")["AWS_ACCESS_KEY_ID"] == "key-of-the-cloud-account"
    await bench.plan(mode=Mode.VALIDATE, config={"plan_credential": "cloud"})
    assert set(spy.environment("validate")) == ALLOWED | ENDS_WITH_US


NO_CREDENTIALS = [
    "no json",
    "[]",
    '{"A": 1}',
    '{"TF_VAR_a": "x"}',
    '{"PATH": "/x"}',
    '{"LD_PRELOAD": "x"}',
    '{"A\\n": "x"}',
    '{"A": "\\u0000"}',
    '{"A=B": "x"}',
]


@pytest.mark.parametrize("value", NO_CREDENTIALS)
async def test_a_credential_that_is_none_is_refused_without_telling_it(bench: Bench, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SECRETS, "odd", value)

    with pytest.raises(InvalidArgument) as refused:
        await bench.plan(config={"plan_credential": "odd"})

    assert refused.value.field == "credential"
    assert value not in refused.value.message


async def test_a_region_is_no_secret(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SECRETS, "aws", '{"AWS_REGION": "eu-central-1", "AWS_SECRET_ACCESS_KEY": "not-for-anybody"}')
    bench.write("regional", main_tf='resource "terraform_data" "a" {\n  input = ["eu-central-1", "not-for-anybody"]\n}\n')

    view = texts(await bench.plan("regional", config={"plan_credential": "aws"}))["view"]

    assert "eu-central-1" in view and "not-for-anybody" not in view


async def test_the_configuration_cannot_bring_its_own_commands(bench: Bench) -> None:
    fake = bench.stacks / "demo" / "terraform"
    fake.write_text(f"#!/bin/sh\ntouch {bench.world}/ran\n")
    fake.chmod(0o755)
    spy = bench.spied()
    bench.use(search_path=f"::.:{SYSTEM}:relative", executable=spy.executable)

    await bench.plan()

    assert spy.environment("plan")["PATH"] == SYSTEM
    assert not (bench.world / "ran").exists()


# -- Which engine runs


async def test_the_configured_executable_goes_first_then_the_path_then_the_library(terraform: Bench) -> None:
    assert terraform.engine.executable().prefix == ("/usr/local/bin/terraform",)
    assert terraform.another(search_path=WITHOUT_TERRAFORM).executable().bundled
    spy = terraform.spied()
    assert terraform.engine.executable().prefix == (str(spy.executable),)


@requirement("engine:version")
async def test_a_stack_is_planned_and_applied_by_the_version_it_asks_for_or_not_at_all(bench: Bench) -> None:
    other = bench.folder / "another-terraform"
    other.write_text(f'#!/bin/sh\nexec {shlex.join(library())} "$@"\n')
    other.chmod(0o700)
    bench.use(versions={"terraform": {"1.15.5": other, "1.9.8": bench.folder / "nowhere"}})
    there = bench.build.partition(" ")[2]  # of the usual one

    assert (await bench.plan("small", config={"version": f"= {there}"})).plan.engine_build == bench.build
    with pytest.raises(FailedPrecondition) as refused:
        await bench.plan("small", config={"version": "~> 1.13.0"})
    with pytest.raises(FailedPrecondition, match=r"asks for .* ~> 1\.13\.0"):
        await bench.plan("small", Mode.VALIDATE, config={"version": "~> 1.13.0"})

    asks = f"local/dev/small asks for {bench.engine_name} ~> 1.13.0, and the worker has {bench.build}; name an executable that fits"
    assert asks in refused.value.message
    if bench.engine_name == "terraform":
        planned = await bench.plan("small", config={"version": "~> 1.15"})
        outcome = await bench.apply(planned, "small", config={"version": "~> 1.15"})
        assert (planned.plan.engine_build, outcome.state) == ("terraform 1.15.5", RunState.VERIFYING)
        with pytest.raises(FailedPrecondition, match="nowhere does not exist"):
            await bench.plan("small", config={"version": "1.9.8"})


async def test_an_engine_that_is_not_there_is_named_with_what_to_do(terraform: Bench) -> None:
    with pytest.raises(FailedPrecondition, match="no tofu executable was found; install tofu, or name it in the settings"):
        await terraform.plan(config={"engine": "tofu"})
    terraform.use(executable=terraform.folder / "nowhere")
    with pytest.raises(FailedPrecondition, match=r"nowhere does not exist; correct terraform\.executable"):
        await terraform.plan()


# -- Providers

PLATFORM = {"x86_64": "linux_amd64", "aarch64": "linux_arm64"}[platform.machine()]
NEEDS_PROVIDER = """terraform {
  required_providers {
    thing = {
      source  = "hashicorp/thing"
      version = "1.0.0"
    }
  }
}
provider "thing" {}
"""


def mirror_with(bench: Bench, *names: str) -> Path:
    """A mirror whose packages are programs that are no providers: enough for init, not for a plan."""
    mirror = bench.folder / "mirror"
    mirror.mkdir(exist_ok=True)
    for name in names:
        package = mirror / bench.registry / "hashicorp" / name / "1.0.0" / PLATFORM
        package.mkdir(parents=True)
        program = package / f"terraform-provider-{name}_v1.0.0"
        program.write_text(f"#!/bin/sh\necho '{name} ran' >>{bench.world}/ran\n")
        program.chmod(0o755)
    bench.use(mirror=mirror)
    return mirror


async def locked(bench: Bench, stack: str) -> None:
    """Write the lock file as its author would."""
    folder = bench.folder / "author"
    folder.mkdir()
    (folder / "main.tf").write_text((bench.stacks / stack / "main.tf").read_text())
    argv = [bench.real, "init", "-no-color"]
    env = {"PATH": SYSTEM, "HOME": str(folder), "TF_CLI_CONFIG_FILE": str(bench.folder / "work" / "engine.tfrc")}
    init = await asyncio.create_subprocess_exec(*argv, cwd=folder, env=env, stdout=asyncio.subprocess.DEVNULL)
    assert await init.wait() == 0
    (bench.stacks / stack / ".terraform.lock.hcl").write_text((folder / ".terraform.lock.hcl").read_text())


async def test_a_provider_that_the_mirror_lacks_is_named_and_no_registry_is_asked(bench: Bench) -> None:
    mirror_with(bench)
    bench.write("needs", main_tf=NEEDS_PROVIDER)

    with pytest.raises(ProviderError) as missing:
        await bench.plan("needs")

    assert f"{bench.registry}/hashicorp/thing" in missing.value.message
    assert "mirror" in missing.value.message or "was not found in any of the search locations" in str(findings(missing.value))


async def test_a_provider_that_nobody_locked_is_not_used(bench: Bench) -> None:
    mirror_with(bench, "thing")
    bench.write("needs", main_tf=NEEDS_PROVIDER)

    with pytest.raises(ProviderError, match=rf"run `{bench.engine_name} init` in the folder and commit \.terraform\.lock\.hcl"):
        await bench.plan("needs")

    assert not (bench.world / "ran").exists()


async def test_a_provider_that_is_not_the_locked_one_is_not_used(bench: Bench) -> None:
    mirror = mirror_with(bench, "thing")
    bench.write("needs", main_tf=NEEDS_PROVIDER)
    await locked(bench, "needs")
    program = next(mirror.rglob("terraform-provider-thing*"))
    program.write_text(program.read_text() + "# changed\n")

    with pytest.raises(ProviderError, match="checksum"):
        await bench.plan("needs")

    assert not (bench.world / "ran").exists()


async def test_a_locked_provider_of_the_mirror_is_started_also_from_a_warm_folder(bench: Bench) -> None:
    mirror_with(bench, "thing")
    bench.write("needs", main_tf=NEEDS_PROVIDER)
    await locked(bench, "needs")
    spy = bench.spied()

    for commands in (["init", "plan"], ["plan"]):
        spy.forget()
        with pytest.raises(ProviderError, match=r"Failed to (load plugin schemas|instantiate provider)|Unrecognized remote plugin"):
            await bench.plan("needs")  # which it then is not
        assert [command for command in spy.commands if command != "show"] == commands  # which waited in vain

    assert (bench.world / "ran").read_text().count("thing ran") >= 2


async def test_a_provider_that_only_the_state_needs_is_judged_before_it_runs(bench: Bench) -> None:
    mirror_with(bench, "thing")
    bench.write("needs", main_tf=NEEDS_PROVIDER)
    await locked(bench, "needs")
    bench.use(allowed_providers=("terraform.io/builtin/*",))
    bench.write("needs", main_tf='resource "terraform_data" "a" {}\n')
    bench.state.state = json.dumps(
        {
            "version": 4, "terraform_version": "1.11.4", "serial": 1, "lineage": "l", "outputs": {},
            "resources": [
                {
                    "mode": "managed", "type": "thing_a", "name": "a", "provider": 'provider["registry.terraform.io/hashicorp/thing"]',
                    "instances": [{"schema_version": 0, "attributes": {"id": "x"}}],
                }
            ],
        }
    ).encode()  # fmt: skip

    with pytest.raises(PolicyDenied, match=rf"provider '{bench.registry}/hashicorp/thing' is not allowed"):
        await bench.plan("needs")

    assert not (bench.world / "ran").exists()


# -- The reader of HCL: whatever the engine's parser takes, it takes in the same way, or not at all

READ = {
    "": {},
    "terraform {}": {"terraform": [{}]},
    "\ufeffa = 1\r\nb = true # no\n": {"a": f"{UNSETTLED}1}}", "b": True},
    'x "a" b {\n c = "d"\n}\n': {"x": [{'"a"': {'"b"': {"c": "d"}}}]},
    'x { a = "b" }\nx {}': {"x": [{"a": "b"}, {}]},
    'a = {\n b = "c", // d\n "e" : null\n f = [1,\n 2]\n}\n': {"a": {"b": "c", "e": f"{UNSETTLED}null}}", "f": f"{UNSETTLED}[1,\n 2]}}"}},
    'a = "\\u0062 \\n $${c} %%{d}"\n': {"a": "b \n ${c} %{d}"},
    'a = "b${"c"}"\n': {"a": '${"b${"c"}"}'},
    'a = <<X\nb\n  X \nc = "d"\n': {"a": "${<<X\nb\n  X}", "c": "d"},
    'a = f(<<-X\n${ { b = "}" }["b"] }\nX\n)\nc {}\n': {"a": '${f(<<-X\n${ { b = "}" }["b"] }\nX\n)}', "c": [{}]},
    "/* a { */ b /* } */ {\n} # c {\n": {"b": [{}]},
    "a = { for b in c : b => b }\n": {"a": "${{ for b in c : b => b }}"},
    'a = "b" == "c"\n': {"a": '${"b" == "c"}'},
}


@pytest.mark.parametrize("text", READ)
def test_hcl_is_read(text: str) -> None:
    assert structure(text) == READ[text]


NO_HCL = (
    *("a", "a {", "a = ", "}", "x {} y {}", '"a" = 1', "a = 1\na = 2\n"),
    *('a = "', 'a = "\n"', 'a = "${"\n', 'x "${a}" {}', 'x "a\nb" {}'),
    *("a = <<X\nX", "a = << X\nX\n", "a = <<X\n"),
    *("a = (1", "a = 1)", "a = [1\n", "a = (1]\n"),
    *("a = 1\ra = 2", "a = 1\0", "/* a"),
)


@pytest.mark.parametrize("text", NO_HCL)
def test_what_is_no_hcl_is_not_read(text: str) -> None:
    with pytest.raises(Unreadable):
        structure(text)


def test_hcl_of_any_depth_is_read_or_refused() -> None:
    from countersign.adapters.terraform.static_check import _parse

    assert _parse(("a = " + '"${' * 3000 + "1" + '}"' * 3000 + "\n").encode(), "hcl") is None
    assert _parse(b"locals {\n  a = " + b"[" * 50_000 + b"]" * 50_000 + b"\n}\n", "hcl") is not None


async def test_the_reader_and_the_engine_see_the_same_blocks(bench: Bench) -> None:
    """Outputs in places where a reader may lose its way: the engine plans just those that were read."""
    text = "".join(
        (
            'output "a" { value = "} output \\"x1\\" {" }\n',
            'locals {\n  a = <<EOT\noutput "x2" {\n  EOT\n}\noutput "b" {\n  value = 1\n}\nlocals {\n  b = <<-EOT\n${"EOT"}\nEOT\n}\n',
            '/* output "x3" { */ output "c" { value = 1 }\n# output "x4" {\n// */ output "x5" {\n',
            'output "d" {\n  value = "${ { "}" = "{" }["}"] }"\n}\n',
            'output "e" {\n  value = "$${ output %%{ $$ %"\n}\noutput f {\n  value = "\\\\"\n}\n',
            'output "g" {\n  value = [\n    for x in [1] : { y = x } if x != 2 # ]\n  ]\n}\n',
        )
    )
    bench.write("tricky", main_tf=text)

    planned = await bench.plan("tricky")

    seen = [label.strip('"') for block in structure(text)["output"] for label in block]
    assert list(planned.plan.outputs_changed) == seen == ["a", "b", "c", "d", "e", "f", "g"]


# -- Modules from elsewhere, where the operator allows them

MODULE = 'resource "terraform_data" "m" {\n  provisioner "local-exec" {\n    command = "${path.module}/say.sh"\n  }\n}\n'


async def moved(bench: Bench, said: str, *, more: str = "") -> None:
    """Move the branch that stack `remote` names: its module now says something else."""
    repository = bench.folder / "module.git"
    repository.mkdir(exist_ok=True)
    (repository / "main.tf").write_text(MODULE + more)
    (repository / "say.sh").write_text(f"#!/bin/sh\necho {said} >>{bench.world}/said\n")
    (repository / "say.sh").chmod(0o755)
    me = ("-c", "user.name=a", "-c", "user.email=a@example.com")
    for arguments in (("init", "-q", "-b", "main"), ("add", "-A"), (*me, "commit", "-q", "-m", said)):
        env = {"PATH": SYSTEM, "HOME": str(bench.folder)}
        git = await asyncio.create_subprocess_exec("/usr/bin/git", *arguments, cwd=repository, env=env)
        assert await git.wait() == 0
    bench.write("remote", main_tf=f'module "m" {{\n  source = "git::file://{repository}?ref=main"\n}}\n')
    bench.use(allowed_modules=("./*", "git::file://*"))


async def test_a_module_that_moved_is_planned_as_it_is_now_and_applied_as_it_was_approved(bench: Bench) -> None:
    spy = bench.spied()
    await moved(bench, "first")
    first = await bench.plan("remote")
    await moved(bench, "second")
    second, again = await bench.plan("remote"), await bench.plan("remote")

    assert spy.commands == ["init", "plan", "show"] * 3
    # No value of the plan differs, and yet an approval of the first must not be carried over to the second.
    assert first.plan.semantic_digest != second.plan.semantic_digest
    assert first.inputs["files_made"] != second.inputs["files_made"]
    assert (again.plan.semantic_digest, again.inputs) == (second.plan.semantic_digest, second.inputs)
    assert (await bench.apply(first, "remote")).state is RunState.VERIFYING
    assert (bench.world / "said").read_text() == "first\n"


async def test_a_module_that_is_fetched_is_judged_before_anything_of_it_runs(bench: Bench) -> None:
    spy = bench.spied()
    await moved(bench, "hello", more=f'data "external" "x" {{\n  program = ["touch", "{bench.world}/ran"]\n}}\n')

    with pytest.raises(PolicyDenied) as refused:
        await bench.plan("remote")

    first = findings(refused.value)[0]
    assert (first.summary, first.file, first.line) == ('data source "external" is not allowed', ".terraform/modules/m/main.tf", 6)
    assert spy.commands == ["init"]
    assert not (bench.world / "ran").exists()
