"""What `countersign demo` stands on: its settings and its voice, the stack it shows, and a look at what it leaves behind."""

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rich.rule import Rule
from rich.text import Text

from countersign.adapters.settings import Settings
from countersign.cli.door import Door
from countersign.cli.ground import processes_of
from countersign.cli.output import safe
from countersign.cli.session import LOOPBACK
from countersign.core.errors import FailedPrecondition

STACK = "demo"
LEFT_WITHIN = 3.0  # seconds for what is about to end


@dataclass(kw_only=True)
class Stage:
    """What the demo has at hand, and how it tells what happens."""

    settings: Settings
    yes: bool
    as_json: bool
    door: Door
    seconds: dict[str, float] = field(default_factory=dict)
    runs: dict[str, str] = field(default_factory=dict)  # "apply", "destroy" → run id
    declined: bool = False  # the person did not agree: an end, and no failure of ours
    hidden: str = ""  # the secret's value, to be looked for where it must not be

    def step(self, title: str) -> None:
        head = Text(title, style="bold")
        self.door.show(Text(""), Rule(head, align="left", style="dim") if self.door.out.is_terminal else Text("── ").append_text(head))

    def say(self, text: str, style: str = "") -> None:
        self.door.show(safe(text, style))

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - begun


def history(settings: Settings, run_id: str) -> str:
    """The run in the Temporal UI."""
    if not settings.embedded_temporal:
        return f"workflow {run_id} in namespace {settings.temporal_namespace} at {settings.temporal_target}"
    return f"http://{LOOPBACK}:{settings.temporal_ui_port}/namespaces/{settings.temporal_namespace}/workflows/{run_id}"


def files_with(folder: Path, value: bytes) -> tuple[int, list[str]]:
    looked, found = 0, []
    for place, _, names in os.walk(folder):  # what vanishes meanwhile, such as an attempt's folder, is passed over
        for path in (Path(place, name) for name in names):
            with contextlib.suppress(OSError):
                if path.is_file() and not path.is_symlink():
                    looked += 1
                    if value in path.read_bytes():
                        found.append(str(path.relative_to(folder)))
    return looked, found


async def left_over(folder: Path) -> list[tuple[int, str]]:
    """What still runs on the folder, after a moment for what is about to end."""
    until = time.monotonic() + LEFT_WITHIN
    while (left := processes_of(folder)) and time.monotonic() < until:  # noqa: ASYNC110  other processes tell no event
        await asyncio.sleep(0.1)
    return left


def demo_stacks() -> Path:
    """The folder with the demo's stack: of the checkout one stands in, of ours, or as it was installed. Raises FailedPrecondition."""
    here = Path(__file__).resolve()
    for folder in (Path.cwd() / "infra" / "stacks", here.parents[2] / "infra" / "stacks", here.parent / "stacks"):
        if (folder / STACK / "main.tf").is_file():
            return folder
    raise FailedPrecondition("the demo's stack, infra/stacks/demo, is not here; run the demo in a checkout of Countersign")
