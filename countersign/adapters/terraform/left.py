"""What attempts left on this machine, for a store that came back without the rows they belong to."""

from collections.abc import Iterator
from pathlib import Path

from countersign.adapters.process import Lines
from countersign.adapters.terraform.applying import LEFT_OVER, Noted
from countersign.core.engine import Left
from countersign.core.terraform.testimony import event_of

MOST = 20  # objects named


def left_behind(root: Path) -> list[Left]:
    """Every attempt's folder below `root`. Nothing is changed, and what cannot be read is left out."""
    return [found for folder in sorted(root.glob("*/")) if (found := _left(folder)) is not None]


def _left(folder: Path) -> Left | None:
    try:
        note = Noted.model_validate_json((folder / "attempt.json").read_bytes())
    except (OSError, ValueError):
        return None
    try:
        states = sorted((folder / "bundle").rglob(LEFT_OVER))
        made = tuple(_made(folder / "run" / "journal"))
    except OSError:
        states, made = [], ()
    return Left(
        attempt_id=folder.name, run_id=note.run_id, path=note.stack, errored_state=str(states[0]) if states else None, made=made[:MOST]
    )


def _made(journal: Path) -> Iterator[str]:
    lines = Lines(journal)
    try:
        for line in (line for batch in lines.batches() for line in batch):
            event = event_of(line) or {}
            hook = event.get("hook")
            if event.get("type") != "apply_complete" or not isinstance(hook, dict) or hook.get("action") != "create":
                continue
            address = (hook.get("resource") or {}).get("addr")
            yield f"{address} (id {hook.get('id_value')})"
    finally:
        lines.close()
