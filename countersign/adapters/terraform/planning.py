"""One attempt at a plan: check, initialise, plan, show once, judge, bundle.

At most three processes of the engine: `init` where no warm work directory fits, `plan`, `show -json`. Everything a person,
a model or the history gets to see is made here from the plan document and its marks, redacted.
"""

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

from countersign.adapters.process import Ended, supervise
from countersign.adapters.terraform import bundle
from countersign.adapters.terraform.checkout import OVERRIDE, Tree, read_tree
from countersign.adapters.terraform.environment import child_environment, credential_environment
from countersign.adapters.terraform.executable import Commands, Executable
from countersign.adapters.terraform.static_check import Reader, is_configuration
from countersign.adapters.terraform.warm import WarmPool, check_backend
from countersign.adapters.terraform.workspace import Workspace, workspace
from countersign.core.engine import Beat, Finding, PlanJob, Planned, Progress
from countersign.core.errors import CountersignError, FailedPrecondition, Locked, PolicyDenied, ProviderError, Unavailable
from countersign.core.plan import Plan
from countersign.core.redaction import Redactor, strings_in
from countersign.core.run import Mode
from countersign.core.terraform import document as doc
from countersign.core.terraform import source, variables
from countersign.core.terraform.events import Journal, finding_of, in_words, redacted
from countersign.core.terraform.plan import plan_of
from countersign.core.terraform.semantic import Macs, Origin, semantic
from countersign.core.terraform.semantic import variables as variable_macs
from countersign.core.terraform.source import AllowList, Declared
from countersign.core.terraform.view import view_of

PLAN_JSON_MAX = 128 << 20  # bytes; beyond that nobody reads it, and an operator has to split the stack
PLAN_GRACE = 30.0  # seconds between SIGINT and SIGKILL of what only reads
FINDINGS = 50
_BACKEND = 'terraform {\n  backend "http" {}\n}\n'
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What the engine as a whole gives to each attempt."""

    stacks_root: Path
    work_root: Path
    search_path: str
    cli_config: Path
    passed: Mapping[str, str]
    allow: AllowList
    macs: Macs = field(repr=False)
    reader: Reader
    pool: WarmPool


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A source that may be planned."""

    tree: Tree
    files: Mapping[str, Declared]
    warnings: tuple[str, ...]


class Planning:
    """One plan, or one validation. Use it once."""

    def __init__(self, job: PlanJob, beat: Beat, *, executable: Executable, around: Surroundings, build: str | None = None) -> None:
        self._job, self._beat, self._around, self._executable = job, beat, around, executable
        self._commands = Commands(executable=executable)
        self._build = build  # where it is known without a plan
        self._redactor = Redactor((job.state.password,))
        self._said: list[str] = []
        self._progress = Progress()

    async def run(self) -> Planned:
        async with workspace(
            self._around.work_root, self._job.stack.stack_id, lambda: self._tell("waiting for another plan of this stack")
        ) as place:
            return await (self._validated(place) if self._job.mode is Mode.VALIDATE else self._planned(place))

    # The two stories

    async def _planned(self, place: Workspace) -> Planned:
        job = self._job
        checked = await self._checked(place)
        credential = await credential_environment(job.stack.plan_credential, job.reveal)
        var_file, plain = await self._variables(place, checked, credential)
        environment = self._environment(place, credential, backend=True)
        key = await self._initialised(place, checked, environment, backend="http")
        events, plan_file = await self._plan_command(place, environment, var_file)
        plan_json = await self._shown(place, environment, plan_file)
        await self._tell("reading the plan")
        return await self._while_beating(asyncio.to_thread(self._judged, place, checked, key, plan_file, plan_json, events, plain))

    async def _validated(self, place: Workspace) -> Planned:
        findings: list[Finding] = []
        try:
            checked = await self._checked(place)
        except CountersignError as refused:
            if "findings" not in refused.details:
                raise
            findings = [Finding(**f) for f in refused.details["findings"]]  # type: ignore[attr-defined]  # written by _fail below
            return await self._findings(place, findings)
        environment = self._environment(place, {}, backend=False)
        findings += await self._format_findings(place, environment)
        try:
            await self._initialised(place, checked, environment, backend="none")
            findings += await self._validate_findings(place, environment, place.tree)
        except ProviderError as broken:
            findings += [Finding(**f) for f in broken.details.get("findings", ())]  # type: ignore[attr-defined]
        return await self._findings(place, findings)

    # Before the engine runs

    async def _checked(self, place: Workspace) -> Checked:
        """The source, copied and judged. Raises PolicyDenied or ProviderError with findings."""
        await self._tell("reading the source")
        if self._job.stack.source_repo is not None:
            raise FailedPrecondition(
                "stacks from repositories come later; register it with a folder below the configured stacks", field="source.repo"
            )
        tree = await asyncio.to_thread(read_tree, self._around.stacks_root, self._job.stack.source_path)
        await asyncio.to_thread(tree.write, place.tree)
        files, unreadable = await self._while_beating(asyncio.to_thread(self._around.reader.read, tree.files))
        if unreadable:
            await self._unreadable(place, unreadable)
        self._refuse(source.judge(files, self._around.allow))
        (place.tree / OVERRIDE).write_text(_BACKEND)
        return Checked(tree=tree, files=files, warnings=_warnings(tree, self._job))

    def _refuse(self, refused: list[Finding]) -> None:
        if refused:
            raise self._fail(
                PolicyDenied, f"the configuration was refused before anything of it ran: {source.places(refused[:5])}", refused
            )

    async def _unreadable(self, place: Workspace, paths: list[str]) -> None:
        """The engine says what is wrong with a file; where it finds nothing, the file is refused, for it was not checked."""
        environment = self._environment(place, {}, backend=False)
        found: list[Finding] = []
        for folder in sorted({Path(path).parent for path in paths})[:5]:
            for one in await self._validate_findings(place, environment, place.tree / folder):
                name = (folder / one.file).as_posix() if one.file else None
                if name in paths:
                    found.append(Finding(**{**asdict(one), "file": name}))
        if found:
            raise self._fail(ProviderError, f"the configuration is broken: {in_words(found)}", found)
        found = [
            Finding(
                severity="error",
                summary="this file cannot be checked",
                detail="Countersign does not understand its syntax; write it plainer.",
                file=p,
            )
            for p in paths
        ]
        raise self._fail(PolicyDenied, f"the configuration was refused before anything of it ran: {source.places(found[:5])}", found)

    async def _variables(self, place: Workspace, checked: Checked, credential: Mapping[str, str]) -> tuple[Path | None, dict[str, object]]:
        """The variable file (0600, outside of the tree), and what is in it; from here on its secrets are hidden."""
        declared = source.variables(checked.files)
        values = variables.merged(self._job.stack.vars, self._job.vars, declared=declared)
        known = {self._job.state.password, *credential.values()}
        for name, slug in variables.secrets_named(values):
            values[name] = await self._job.reveal(slug)
            known.add(str(values[name]))
        for file in checked.files.values():
            known.update(text for name in file.sensitive for text in strings_in(values.get(name)))
        self._redactor = Redactor(known)
        if not values:
            return None, values
        path = place.side / "countersign.tfvars.json"
        path.touch(mode=0o600)
        path.write_text(json.dumps(values))
        return path, values

    def _environment(self, place: Workspace, credential: Mapping[str, str], *, backend: bool) -> dict[str, str]:
        around = self._around
        return child_environment(
            attempt=self._job.attempt_id,
            home=place.home,
            temporary=place.temporary,
            search_path=around.search_path,
            cli_config=around.cli_config,
            passed=around.passed,
            credential=credential,
            state=self._job.state if backend else None,
        )

    # The commands

    async def _initialised(self, place: Workspace, checked: Checked, environment: Mapping[str, str], *, backend: str) -> str:
        tree, pool = checked.tree, self._around.pool
        key = pool.key(tree=tree.digest, lock=tree.lock, backend=backend, executable=self._executable.identity)
        if await asyncio.to_thread(pool.install, key, place.tree):
            return key
        await self._tell("initialising")
        journal, ended = await self._events(place, self._commands.init(backend=backend != "none"), environment, "init")
        if ended.code != 0:
            raise self._failed("init", journal, ended)
        if backend == "http":
            check_backend(place.tree)
        await asyncio.to_thread(self._judge_modules, place)
        await asyncio.to_thread(pool.keep, key, place.tree)
        return key

    def _judge_modules(self, place: Workspace) -> None:
        """What init fetched is configuration as well, and was not seen before."""
        fetched = place.tree / ".terraform" / "modules"
        contents = {
            path.relative_to(place.tree).as_posix(): path.read_bytes()
            for path in (sorted(fetched.rglob("*")) if fetched.is_dir() else ())
            if path.is_file() and is_configuration(path.name)
        }
        files, unreadable = self._around.reader.read(contents)
        refused = source.judge(files, self._around.allow)
        refused += [Finding(severity="error", summary="this file of a module cannot be checked", file=path) for path in unreadable]
        self._refuse(refused)

    async def _plan_command(self, place: Workspace, environment: Mapping[str, str], var_file: Path | None) -> tuple[Journal, Path]:
        out = place.side / bundle.PLAN
        argv = self._commands.plan(
            out=out,
            var_file=var_file,
            destroy=self._job.mode is Mode.DESTROY,
            targets=self._job.targets if self._job.mode is Mode.SPECULATIVE else (),
            lock=self._job.mode is not Mode.SPECULATIVE,
        )
        await self._tell("planning")
        journal, ended = await self._events(place, argv, environment, "plan")
        # A failed plan may still have written its file: the exit code counts first. 0 no change, 2 changes.
        if ended.code not in (0, 2) or not out.exists():
            raise self._failed("plan", journal, ended)
        return journal, out

    async def _shown(self, place: Workspace, environment: Mapping[str, str], plan_file: Path) -> bytes:
        ended = await self._quietly(place, self._commands.show(plan_file), environment, "show")
        if ended.code != 0:
            raise ProviderError(f"the saved plan cannot be shown: {self._redactor.line(ended.errors, 400)}")
        size = ended.out.stat().st_size
        if size > PLAN_JSON_MAX:
            raise ProviderError(
                f"the plan has {size >> 20} MiB as JSON, more than {PLAN_JSON_MAX >> 20}; split the stack into smaller ones"
            )
        return await asyncio.to_thread(_json_line, ended.out)

    async def _events(self, place: Workspace, argv: list[str], environment: Mapping[str, str], name: str) -> tuple[Journal, Ended]:
        journal = Journal()

        async def heard(lines: list[bytes]) -> None:
            for line in lines:
                journal.feed(line)
            if journal.planned or journal.refreshed:
                self._progress = Progress(done=journal.planned, current=f"{journal.refreshed} read, {journal.planned} changes found")
            await self._beat(self._progress)

        ended = await self._supervised(place, argv, environment, name, heard)
        self._said += journal.text
        return journal, ended

    async def _quietly(
        self, place: Workspace, argv: list[str], environment: Mapping[str, str], name: str, cwd: Path | None = None
    ) -> Ended:
        async def heard(_: list[bytes]) -> None:
            await self._beat(self._progress)

        return await self._supervised(place, argv, environment, name, heard, cwd, read=False)

    async def _supervised(
        self,
        place: Workspace,
        argv: list[str],
        environment: Mapping[str, str],
        name: str,
        heard: Callable[[list[bytes]], Awaitable[None]],
        cwd: Path | None = None,
        read: bool = True,
    ) -> Ended:
        return await supervise(
            argv,
            cwd=cwd or place.tree,
            env=environment,
            folder=place.side,
            name=name,
            on_lines=heard,
            grace=PLAN_GRACE,
            pass_fds=(place.lock,),
            read=read,
        )

    async def _validate_findings(self, place: Workspace, environment: Mapping[str, str], folder: Path) -> list[Finding]:
        ended = await self._quietly(place, self._commands.validate(), environment, "validate", folder)
        try:
            told = json.loads(_json_line(ended.out))
        except ValueError:
            raise ProviderError(f"validate gave no answer: {self._redactor.line(ended.errors, 400)}") from None
        return [redacted(finding_of(d), self._redactor) for d in told.get("diagnostics") or ()]

    async def _format_findings(self, place: Workspace, environment: Mapping[str, str]) -> list[Finding]:
        ended = await self._quietly(place, self._commands.format_check(), environment, "fmt")
        if ended.code != 3:  # 0: fine; 2: broken, which validate says better
            return []
        names = ended.out.read_text(errors="replace").splitlines()
        return [
            Finding(
                severity="warning", summary="not formatted", detail=f"Run `{self._executable.name} fmt`.", file=self._redactor.line(name)
            )
            for name in names
            if name.strip() and name.strip() != OVERRIDE
        ]

    # After it

    def _judged(
        self, place: Workspace, checked: Checked, key: str, plan_file: Path, plan_json: bytes, events: Journal, values: Mapping[str, object]
    ) -> Planned:
        """Everything that is made of the plan document; seconds of work for big plans, in a thread."""
        job, macs, name = self._job, self._around.macs, self._executable.name
        document = doc.parse(plan_json)
        self._redactor = redactor = Redactor(self._redactor.secrets | doc.secrets_of(document))
        self._refuse(self._strange_providers(document))
        origin = Origin(
            stack_id=job.stack.stack_id,
            mode="destroy" if job.mode is Mode.DESTROY else "normal",
            engine=name,
            source=checked.tree.digest,
            lock=checked.tree.lock,
            targets=job.targets if job.mode is Mode.SPECULATIVE else (),
        )
        semantic_document, digest = semantic(document, origin=origin, macs=macs)
        plan = plan_of(document, engine=name, semantic_digest=digest, redactor=redactor)
        plan = plan.model_copy(update={"risks": (*plan.risks, *checked.warnings)})
        saved = plan_file.read_bytes()
        plan_sha256 = "sha256:" + hashlib.sha256(saved).hexdigest()
        made = bundle.made_files(place.tree, {*checked.tree.files, OVERRIDE})
        meta = bundle.Meta(engine=name, engine_build=plan.engine_build, plan_sha256=plan_sha256, warm_key=key)
        warnings = [redacted(f, redactor) for f in events.findings if f.severity == "warning"]
        return Planned(
            plan=plan,
            plan_sha256=plan_sha256,
            bundle=bundle.pack(meta=meta, plan=saved, secrets=redactor.secrets - {job.state.password}, tree=place.tree),
            plan_json=plan_json,
            view=view_of(document, mode=job.mode, macs=macs, redactor=redactor),
            semantic_document=semantic_document,
            inputs={
                "v": "countersign.inputs/1",
                "commit": job.commit,
                "tree": checked.tree.digest,
                "lock": checked.tree.lock,
                "variables": variable_macs(document, macs),
                "variables_set": sorted(values),
                "engine_build": plan.engine_build,
                "files_made": made,
            },
            log=self._log(),
            warnings=(*checked.warnings, *(in_words([f]) for f in warnings[:FINDINGS])),
            findings=tuple(warnings[:FINDINGS]),
            lineage=job.state.lineage,
            serial=job.state.serial,
        )

    def _strange_providers(self, document: Mapping[str, object]) -> list[Finding]:
        """The state may hold objects of providers that the configuration does not mention any more."""
        names = sorted({c.provider for c in doc.changes(document) if c.provider})
        return [
            Finding(severity="error", summary=f"provider {name!r} is not allowed", detail="Objects in the state belong to it.")
            for name in names
            if not source.provider_allowed(name, self._around.allow)
        ]

    async def _findings(self, place: Workspace, findings: list[Finding]) -> Planned:
        findings = [redacted(f, self._redactor) for f in findings][:FINDINGS]
        build = self._build or await self._asked_version(place)
        return Planned(
            plan=Plan(engine=self._executable.name, engine_build=build),
            plan_sha256="",
            bundle=b"",
            plan_json=b"",
            view=json.dumps({"v": "countersign.findings/1", "findings": [asdict(f) for f in findings]}, ensure_ascii=False).encode(),
            semantic_document=b"",
            inputs={},
            log=self._log(),
            findings=tuple(findings),
            lineage=self._job.state.lineage,
            serial=self._job.state.serial,
        )

    async def _asked_version(self, place: Workspace) -> str:
        ended = await self._quietly(place, self._commands.version(), self._environment(place, {}, backend=False), "version")
        try:
            return f"{self._executable.name} {json.loads(_json_line(ended.out))['terraform_version']}"
        except (ValueError, KeyError):
            return f"{self._executable.name} unknown"

    # Words

    def _failed(self, command: str, journal: Journal, ended: Ended) -> CountersignError:
        findings = [redacted(f, self._redactor) for f in journal.findings]
        if not any(f.severity == "error" for f in findings):
            said = self._redactor.line(ended.errors or "\n".join(journal.text[-5:]), 500)
            findings.append(Finding(severity="error", summary=f"{command} ended with code {ended.code}", detail=said))
        text = " ".join(f"{f.summary} {f.detail}" for f in findings if f.severity == "error").lower()
        if "acquiring the state lock" in text:
            return self._fail(Locked, "the state is locked by another run or person; it is tried again when the lock is free", findings)
        if self._job.state.address and ("connection refused" in text and self._job.state.address.lower() in text):
            return self._fail(Unavailable, "the state service does not answer; see `countersign doctor`", findings)
        if "dependency lock file" in text or "lockfile" in text:
            hint = f"run `{self._executable.name} init` in the folder and commit .terraform.lock.hcl"
            return self._fail(ProviderError, f"{command} failed: {in_words(findings)}; {hint}", findings)
        return self._fail(ProviderError, f"{command} failed: {in_words(findings)}", findings)

    def _fail(self, kind: type[CountersignError], message: str, findings: Iterable[Finding]) -> CountersignError:
        shown = [asdict(redacted(f, self._redactor)) for f in findings][:FINDINGS]
        return kind(self._redactor.line(message, 1500), details={"findings": shown, "log": self._log()[-4000:]})

    def _log(self) -> str:
        return self._redactor.lines("\n".join(self._said))[-(1 << 20) :]

    async def _tell(self, current: str) -> None:
        self._progress = Progress(current=current)
        await self._beat(self._progress)

    async def _while_beating(self, work: "Awaitable[T]") -> T:
        """A heartbeat every second while a thread works."""
        task = asyncio.ensure_future(work)
        while not task.done():
            await asyncio.wait({task}, timeout=1.0)
            await self._beat(self._progress)
        return task.result()


def _warnings(tree: Tree, job: PlanJob) -> tuple[str, ...]:
    """What an approver should know about the source and its credentials before reading the changes."""
    said = []
    text = b"\n".join(data for path, data in tree.files.items() if is_configuration(path))
    if b"abspath(" in text or b"path.cwd" in text:
        said.append(
            "The configuration uses abspath() or path.cwd: such paths belong to the plan's folder, which is gone when the plan is applied."
        )
    if job.stack.plan_credential is not None and job.stack.apply_credential in (None, job.stack.plan_credential):
        said.append("One credential serves for planning and applying: whoever can get a plan made can read what it may change.")
    return tuple(said)


def _json_line(path: Path) -> bytes:
    """The JSON in a command's output; tofu may write warnings of the CLI configuration before it."""
    data = path.read_bytes()
    if data.startswith(b"{"):
        return data
    at = data.find(b"\n{")
    return data[at + 1 :] if at >= 0 else data
