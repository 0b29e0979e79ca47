"""The engine: `plan`, `launch` and `follow` what changes the world, and `reconcile` what was lost, each in its own module."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from countersign.adapters.apart import apart
from countersign.adapters.git import Mirrors, Remotes
from countersign.adapters.terraform.applying import Attempts
from countersign.adapters.terraform.elsewhere import Elsewhere, give, look
from countersign.adapters.terraform.environment import absolute_only, origin_of_providers, write_cli_config
from countersign.adapters.terraform.executable import Executable, resolve
from countersign.adapters.terraform.kept import seen_from
from countersign.adapters.terraform.looking import Unique
from countersign.adapters.terraform.planning import at_work, make_plan, moved
from countersign.adapters.terraform.reconciling import reconcile
from countersign.adapters.terraform.restoring import plan_restore
from countersign.adapters.terraform.session import Surroundings
from countersign.adapters.terraform.static_check import Reader
from countersign.adapters.terraform.warm import WarmPool
from countersign.adapters.terraform.workspace import tidied
from countersign.core.engine import (
    ApplyJob,
    Beat,
    Outcome,
    PlanJob,
    Planned,
    Reconciled,
    ReconcileJob,
    Remains,
    Seen,
    StackConfig,
    Told,
    Wanted,
)
from countersign.core.terraform.semantic import Macs
from countersign.core.terraform.source import AllowList
from countersign.core.terraform.testimony import joined, told
from countersign.core.terraform.versions import best


class TerraformEngine:
    """Terraform and OpenTofu, as `countersign.core.engine.Reconciler` asks.

    `stacks_root` is the folder of stacks; `work_root` and `attempts_root` are ours (0700), the latter on a disk that outlives
    the worker. `mac_key` keys the fingerprints in plans: one per deployment, `mac_kid` names it. `search_path` is a PATH;
    `environment` is passed to every child as it is. `grace_seconds` lie between the one SIGINT and SIGKILL of an apply;
    `lock_seconds` is how long a plan or apply waits for the lock of the state; `unique` says how objects of which types (globs)
    are looked up after a lost apply; `remotes` is what stacks from repositories may come from, nothing without it. `versions` has
    executables by engine and version, for stacks that ask for one.
    """

    name = "terraform"

    def __init__(
        self,
        *,
        stacks_root: Path,
        work_root: Path,
        attempts_root: Path,
        mac_key: bytes,
        mac_kid: str,
        search_path: str = "/usr/local/bin:/usr/bin:/bin",
        executable: Path | None = None,
        tofu_executable: Path | None = None,
        versions: Mapping[str, Mapping[str, Path]] | None = None,
        mirror: Path | None = None,
        network_mirror: str | None = None,
        allowed_providers: tuple[str, ...] = AllowList().providers,
        allowed_modules: tuple[str, ...] = AllowList().modules,
        denied_data_sources: tuple[str, ...] = AllowList().denied_data,
        environment: Mapping[str, str] | None = None,
        go_settings: Mapping[str, str] | None = None,
        grace_seconds: float = 1800.0,
        lock_seconds: int = 30,
        unique: Mapping[str, Unique] | None = None,
        remotes: Remotes | None = None,
    ) -> None:
        work_root, attempts_root = work_root.absolute(), attempts_root.absolute()  # children work elsewhere
        search_path = absolute_only(search_path)
        workspaces = work_root / "stacks"
        for folder in (work_root, workspaces, attempts_root):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        apart(workspaces)
        apart(attempts_root)
        cli_config = work_root / "engine.tfrc"
        write_cli_config(cli_config, mirror=mirror, network_mirror=network_mirror)
        self._configured = {"terraform": executable, "tofu": tofu_executable}
        self._versions = {name: dict(of) for name, of in (versions or {}).items()}
        self._search_path = search_path
        self._unique = dict(unique or {})
        self._builds: dict[str, str] = {}  # identity of an executable → its build, learnt from its plans
        self._around = Surroundings(
            stacks_root=stacks_root.absolute(),
            work_root=workspaces,
            search_path=search_path,
            cli_config=cli_config,
            passed={**(go_settings or {}), **(environment or {})},
            allow=AllowList(providers=allowed_providers, modules=allowed_modules, denied_data=denied_data_sources),
            macs=Macs(key=mac_key, kid=mac_kid),
            reader=Reader(work_root / "declared"),
            pool=WarmPool(work_root / "warm"),
            mirrors=Mirrors(folder=work_root / "git", remotes=remotes or Remotes()),
            origin=origin_of_providers(mirror=mirror, network_mirror=network_mirror),
            lock_seconds=lock_seconds,
        )
        self._attempts = Attempts(root=attempts_root, around=self._around, grace=grace_seconds)

    def executable(self, name: str = "terraform", version: str | None = None) -> Executable:
        """What would run for stacks of the engine `name` that ask for `version`. Raises FailedPrecondition saying what to install.

        Where no executable of the settings fits the version it is the usual one, and a plan says whether that will do.
        """
        known = self._versions.get(name, {})
        fitting = best(version, known) if version is not None else None
        configured = known[fitting] if fitting is not None else self._configured.get(name)
        return resolve(name, configured=configured, search_path=self._search_path)

    def _for(self, stack: StackConfig) -> Executable:
        return self.executable(stack.engine, stack.version)

    async def plan(self, job: PlanJob, beat: Beat) -> Planned:
        """A saved plan, or findings for `Mode.VALIDATE`.

        Raises ProviderError or PolicyDenied with `details["findings"]` where the configuration fails or is refused,
        InvalidArgument for an undeclared variable, Locked and Unavailable where it is worth asking again.
        """
        executable = self._for(job.stack)
        build = self._builds.get(executable.identity)
        if job.restore is not None:
            return await plan_restore(job, job.restore, beat, executable=executable, around=self._around)
        planned = await make_plan(job, beat, executable=executable, around=self._around, build=build)
        self._builds[executable.identity] = planned.plan.engine_build
        return planned

    async def moved(self, job: PlanJob, inputs: Mapping[str, object], beat: Beat) -> str | None:
        return await moved(job, inputs, beat, executable=self._for(job.stack), around=self._around)

    async def elsewhere(self, job: PlanJob, beat: Beat) -> Elsewhere:
        """The state in the backend that the configuration declares. Raises FailedPrecondition where it declares none."""
        return await look(job, beat, executable=self._for(job.stack), around=self._around)

    async def seen(self, job: PlanJob, bundle: bytes, beat: Beat) -> Seen:
        """The state as it is now in the backend that the planned configuration declares, read beside whatever is planned."""
        executable = self._for(job.stack)
        async with at_work(job, beat, executable=executable, around=self._around, apart="-seen") as session:
            return await seen_from(session, bundle)

    async def give(self, job: PlanJob, state: bytes, beat: Beat) -> Elsewhere:
        """Make `state` the one in the backend that the configuration declares; what is there now comes back."""
        return await give(job, state, beat, executable=self._for(job.stack), around=self._around)

    async def launch(self, job: ApplyJob) -> None:
        await self._attempts.launch(job, self._for(job.stack))

    async def follow(self, attempt_id: str, beat: Beat, *, stop: Wanted) -> Outcome:
        return await self._attempts.follow(attempt_id, beat, stop=stop)

    async def end(self, attempt_id: str, *, same_boot: bool) -> Remains:
        return await self._attempts.end(attempt_id, same_boot=same_boot)

    def told(self, testimony: bytes) -> Sequence[Told]:
        return told(testimony)

    def joined(self, shipped: bytes, found: bytes) -> bytes:
        return joined(shipped, found)

    async def reconcile(self, job: ReconcileJob, beat: Beat) -> Reconciled:
        """What lost applies did, and a plan of what is left with the proof that it was approved. Raises Locked and Unavailable."""
        return await reconcile(job, beat, resolve=lambda: self._for(job.stack), around=self._around, unique=self._unique)

    async def forget(self, attempt_id: str) -> None:
        await self._attempts.forget(attempt_id)

    async def tidy(self) -> None:
        await tidied(self._around.work_root)

    def where(self, attempt_id: str) -> Path:
        return self._attempts.where(attempt_id)
