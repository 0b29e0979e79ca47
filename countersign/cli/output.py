"""How anything reaches the terminal: text for people, JSON for programs, and never markup or control characters from outside.

A plan, a log line or a stack's name is written by somebody else: such text becomes a `Text`, which rich shows as it is, and
loses whatever could move the cursor or rewrite a line. Where the output is no terminal nothing moves and nothing wraps.
"""

import asyncio
import contextlib
import json
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from countersign.cli.exits import Exit, of_error
from countersign.core.errors import CountersignError
from countersign.core.redaction import clean_line, clean_text

WIDE = 200  # columns where nobody looks: a digest is never broken in two


def console(*, stderr: bool = False) -> Console:
    """A console of the current standard output; nothing it prints is read as markup."""
    stream = sys.stderr if stderr else sys.stdout
    tty = stream.isatty()
    # Lines are broken by the terminal alone, so that what is copied from it has no line ends of ours.
    return Console(file=stream, markup=False, highlight=False, emoji=False, soft_wrap=True, width=None if tty else WIDE)


def safe(text: object, style: str = "") -> Text:
    """One line of text from outside."""
    return Text(clean_line(str(text)), style=style)


def safe_block(text: object, style: str = "") -> Text:
    """The same with its line ends."""
    return Text(clean_text(str(text)), style=style)


def table(*columns: str, title: str | None = None) -> Table:
    """Plain columns, without lines to copy along."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), title=title, title_justify="left", header_style="bold")
    for number, column in enumerate(columns):
        made.add_column(column, overflow="fold", no_wrap=number == 0)  # an id is copied whole
    return made


def rows(title: str, columns: Sequence[str], found: Sequence[Sequence[object]]) -> RenderableType:
    """A table of texts from outside, or a word that there is nothing."""
    if not found:
        return Text(f"no {title}", style="dim")
    made = table(*columns)
    for row in found:
        made.add_row(*(cell if isinstance(cell, Text) else safe("" if cell is None else cell) for cell in row))
    return made


def emit(value: Mapping[str, Any]) -> None:
    """One JSON document on standard output. JSON escapes control characters by itself."""
    sys.stdout.write(json.dumps(value, ensure_ascii=True, default=str) + "\n")
    sys.stdout.flush()


def tell_error(error: CountersignError, *, as_json: bool) -> None:
    """What went wrong and what to do about it: on standard error for people, as the command's document for programs."""
    if as_json:
        body: dict[str, Any] = {"code": error.code, "message": error.message, "retryable": error.retryable}
        if error.field:
            body["field"] = error.field
        if isinstance(run_id := error.details.get("run_id"), str):
            body["run_id"] = run_id
        emit({"error": body})
        return
    line = Text().append("error", style="bold red").append(f" {error.code}", style="red").append(": ")
    console(stderr=True).print(line.append_text(safe_block(error.message)))


def fail(error: CountersignError, *, as_json: bool = False) -> NoReturn:
    tell_error(error, as_json=as_json)
    raise SystemExit(int(of_error(error)))


def leave(code: Exit) -> NoReturn:
    raise SystemExit(int(code))


def is_terminal() -> bool:
    """Whether somebody can be asked."""
    return sys.stdin.isatty() and sys.stdout.isatty()


async def asked(question: str) -> str | None:
    """An answer typed by a person, or None where nobody can be asked. Everything else goes on meanwhile, and Ctrl-C works."""
    if not is_terminal():
        return None
    console().print(Text(clean_line(question), style="bold"), end=" ")
    sys.stdout.flush()
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[str] = loop.create_future()

    def told(line: str) -> None:
        if not answer.done():
            answer.set_result(line.strip())

    def read() -> None:
        line = sys.stdin.readline()
        with contextlib.suppress(RuntimeError):  # nobody waits any more
            loop.call_soon_threadsafe(told, line)

    # No thread of the loop's own pool: that would be waited for at the end, and nobody may ever type.
    threading.Thread(target=read, daemon=True).start()
    return await answer
