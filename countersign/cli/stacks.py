"""`countersign stack …`: records of stacks, through the front."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from countersign.adapters.settings import Settings
from countersign.cli import output
from countersign.cli.door import Door, place_of
from countersign.cli.exits import Exit
from countersign.cli.output import safe
from countersign.cli.runs import variables
from countersign.cli.views import stacks_view, warnings_view


@dataclass(frozen=True, kw_only=True)
class Registration:
    path: str
    source: str
    repo: str | None
    git_ref: str | None
    engine: str | None
    version: str | None
    vars: tuple[str, ...]
    secret_vars: tuple[str, ...]
    plan_credential: str | None
    apply_credential: str | None
    reads: tuple[str, ...]
    drift_every: str | None
    dry_run: bool


async def show(settings: Settings, *, url: str | None, key_file: Path | None, env: str | None, text: str | None, as_json: bool) -> Exit:
    door = Door(settings=settings, url=url, key_file=key_file, as_json=as_json)
    async with door.opened() as front:
        answer = await front.call("terraform_list_workspaces", env=env, text=text, limit=100)
    data = answer.get("data") or {}
    door.show(stacks_view(data.get("workspaces", [])))
    door.answer(answer)
    return Exit.OK


async def register(settings: Settings, asked: Registration, *, url: str | None, key_file: Path | None, as_json: bool) -> Exit:
    door = Door(settings=settings, url=url, key_file=key_file, as_json=as_json)
    source = {"repo": asked.repo, "path": asked.source, "git_ref": asked.git_ref}
    arguments: dict[str, Any] = {
        "source": {name: value for name, value in source.items() if value is not None},
        "engine": asked.engine,
        "version": asked.version,
        "vars": variables(asked.vars, asked.secret_vars) or None,
        "plan_credential": asked.plan_credential,
        "apply_credential": asked.apply_credential,
        "reads": list(asked.reads) or None,
        "drift_every": asked.drift_every,
        "dry_run": asked.dry_run or None,
    }
    async with door.opened() as front:
        env, slug = await place_of(front, asked.path)
        answer = await front.call("terraform_register_workspace", env=env, workspace=slug, **arguments)
    data = answer.get("data") or {}
    ref = (data.get("workspace") or {}).get("ref") or f"{env}/{slug}"
    what = "is registered" if data.get("created") else "is changed" if data.get("changed") else "stays as it is"
    tried = " (a dry run: nothing was written)" if asked.dry_run else f"; next: countersign apply {ref}"
    door.show(safe(f"{ref} {what}{tried}"), *warnings_view(answer))
    door.answer(answer)
    return Exit.OK


async def forget(settings: Settings, path: str, name: str | None, *, url: str | None, key_file: Path | None, as_json: bool) -> Exit:
    door = Door(settings=settings, url=url, key_file=key_file, as_json=as_json)
    return await _by_name(door, "terraform_forget_workspace", path, name, "This removes its record", {})


async def unlock(
    settings: Settings, path: str, lock_id: str, name: str | None, *, url: str | None, key_file: Path | None, as_json: bool
) -> Exit:
    door = Door(settings=settings, url=url, key_file=key_file, as_json=as_json)
    return await _by_name(door, "terraform_force_unlock", path, name, f"This breaks the lock {lock_id}", {"lock_id": lock_id})


async def _by_name(door: Door, tool: str, path: str, name: str | None, what: str, arguments: dict[str, Any]) -> Exit:
    """Do what asks for the stack's path, typed out: as an option, or by whoever sits at the terminal after it is known to be possible."""
    async with door.opened() as front:
        env, slug = await place_of(front, path)
        where = {"env": env, "workspace": slug, **arguments}
        if name is None and not door.as_json and door.out.is_terminal:
            await front.call(tool, **where, dry_run=True)
            name = await output.asked(f"{what}. Type the path of the stack, org/env/slug, or nothing to leave:")
        answer = await front.call(tool, **where, confirm_name=name)
    data = answer.get("data") or {}
    ref = data.get("forgotten") or data.get("ref") or path
    door.show(safe(f"{ref} is {'unlocked' if tool == 'terraform_force_unlock' else 'forgotten'}", "green"), *warnings_view(answer))
    door.answer(answer)
    return Exit.OK
