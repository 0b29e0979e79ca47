"""What every tool answers: one envelope, in which nothing is required, so that an error fits the tool's own schema too.

The structured content is complete; the text beside it is a sentence or two, not a copy. Whatever came from outside is
labelled, and an answer that would be too long is cut where it is longest, and says so.
"""

import json
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from countersign.core.errors import CountersignError
from countersign.core.redaction import Redactor, clean_text, cut

CAP = 60_000  # bytes of JSON, about 20k tokens
_REDACTOR = Redactor()  # by shape only: what a run knows to be secret was hidden where it was known


class Model(BaseModel):
    model_config = ConfigDict(frozen=True)


class Progress(Model):
    done: int = 0
    total: int = 0


class Ask(Model):
    """What a run waits for. A link carries no authority."""

    needed: int  # people still missing
    by: list[str]  # who, in words
    confirm_name: str | None = None  # to be typed by whoever agrees
    url: str
    expires_at: str | None = None


class RunHandle(Model):
    run_id: str
    state: str
    plan_digest: str | None = None
    change_class: str | None = None
    progress: Progress = Progress()
    approval: Ask | None = None
    ends_at: str | None = None


class Page(Model):
    next_cursor: str | None = None
    returned: int
    total: int
    truncated: bool = False


class Failure(Model):
    code: str
    message: str
    field: str | None = None
    retryable: bool = False
    retry_after_seconds: float | None = None
    next: list[str] = []
    run_id: str | None = None
    request_id: str


class Result(Model):
    data: dict[str, Any] | None = None
    page: Page | None = None
    run: RunHandle | None = None
    warnings: list[str] | None = None
    next: list[str] | None = None
    replayed: bool | None = None
    error: Failure | None = None


class Answer(Model):
    """What a tool returns: a summary for people and the result without `error`."""

    text: str
    data: dict[str, Any] | None = None
    page: Page | None = None
    run: RunHandle | None = None
    warnings: tuple[str, ...] = ()
    next: tuple[str, ...] = ()
    replayed: bool = False

    def result(self, *, offered: Sequence[str]) -> Result:
        """`offered` are those of `next` that exist and are allowed to the caller."""
        return Result(
            data=self.data,
            page=self.page,
            run=self.run,
            warnings=list(self.warnings) or None,
            next=list(offered) or None,
            replayed=self.replayed or None,
        )


# The same for every tool, and as short as can be, because every client carries it once per tool: nothing is required, so that an
# error is valid against it too. What an answer holds is `Result`.
OUTPUT_SCHEMA: dict[str, Any] = {"type": "object"}


def told(message: str) -> str:
    """A message for the caller: it may repeat what they gave, or what an engine said."""
    return cut(_REDACTOR.lines(message), 2000)


def failure(error: CountersignError, *, request_id: str, offered: Sequence[str] = ()) -> Result:
    run_id = error.details.get("run_id")
    return Result(
        error=Failure(
            code=error.code,
            message=told(error.message),
            field=error.field,
            retryable=error.retryable,
            retry_after_seconds=error.retry_after_seconds,
            next=list(offered),
            run_id=run_id if isinstance(run_id, str) else None,
            request_id=request_id,
        )
    )


def untrusted(text: str, source: str, *, limit: int = 12_000, tail: bool = False) -> dict[str, Any]:
    """Text from outside, labelled: cleaned, redacted by shape, at most `limit` characters (its end where `tail`)."""
    clean = _REDACTOR.lines(clean_text(text))
    label: dict[str, Any] = {"text": clean, "source": source, "untrusted": True}
    if len(clean) > limit:
        label["text"] = clean[-limit:] if tail else clean[:limit]
        label["truncated"] = True
    return label


def clean(value: Any) -> Any:
    """A JSON value of texts from outside, cleaned; its place in the answer says that it is untrusted."""
    if isinstance(value, str):
        return _REDACTOR.line(value, 2000)
    if isinstance(value, dict):
        return {clean(str(key)): clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    return value


def structured(result: Result) -> dict[str, Any]:
    """The result as JSON within the cap; what is longest is cut first, and a warning tells how much there was."""
    content: dict[str, Any] = result.model_dump(mode="json", exclude_none=True)
    notes: dict[str, str] = {}
    while (over := _size(content) - CAP) > 0 and _cut_longest(content.get("data"), over, notes):
        pass
    if notes:
        said = "; ".join(f"{where}: {whole}" for where, whole in notes.items())
        content["warnings"] = [*content.get("warnings", ()), f"the answer was cut to fit; {said[:1000]}"]
        if "page" in content:
            content["page"]["truncated"] = True
    return content


def _size(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False).encode())


def _cut_longest(data: Any, over: int, notes: dict[str, str]) -> bool:
    """Shorten the longest list, text or wide object below `data` by about `over` bytes; False where nothing is left to cut."""
    largest: tuple[int, Any, Any, str] | None = None

    def walk(node: Any, path: str) -> None:
        nonlocal largest
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, child in items:
            where = f"{path}.{key}" if isinstance(key, str) else path
            if _can_be_cut(child) and (largest is None or _size(child) > largest[0]):
                largest = (_size(child), node, key, where)
            walk(child, where)

    walk(data, "data")
    if largest is None:
        return False
    weight, holder, key, where = largest
    child = holder[key]
    # What is kept shrinks by at least a tenth each time, so that this ends whatever the sizes of the entries are.
    keep = max(1, min(int(len(child) * 0.9), int(len(child) * (weight - over) / weight)))
    kind = "characters" if isinstance(child, str) else "entries"
    notes.setdefault(where, f"{len(child)} {kind} in all")
    holder[key] = dict(list(child.items())[:keep]) if isinstance(child, dict) else child[:keep]
    if isinstance(child, str) and isinstance(holder, dict) and "truncated" not in holder and holder.get("untrusted"):
        holder["truncated"] = True
    return True


def _can_be_cut(value: Any) -> bool:
    """Lists and texts, and objects that are tables rather than records."""
    enough: dict[type, int] = {list: 2, str: 401, dict: 31}
    return type(value) in enough and len(value) >= enough[type(value)]
