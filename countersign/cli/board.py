"""What `countersign up` says: what happens to the parts, and where everything is once they are ready.

Drawing is loaded while the parts start, not before.
"""

import contextlib
import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.console import Group
from rich.text import Text

from countersign.adapters.folder import data_folder
from countersign.adapters.settings import Settings
from countersign.cli.output import console, emit, safe, safe_block
from countersign.cli.service import Service, engines
from countersign.cli.session import LOOPBACK, local_person, stacks_folder
from countersign.cli.supervisor import Ended, Ready
from countersign.cli.views import facts
from countersign.core.ids import SLUG


class Board:
    """Tells what happens to the parts, in lines for people or JSON documents, one a line."""

    def __init__(self, *, as_json: bool) -> None:
        self._json = as_json
        self._out = console()
        self.up = False

    def told(self, event: Ready | Ended) -> None:
        if self._json:
            emit(_document(event))
        elif isinstance(event, Ended):
            self._out.print(ended_line(event))
            for line in event.tail if event.times == 1 else event.tail[-3:]:
                self._out.print(Text().append("  │ ", style="dim").append_text(safe_block(line, "dim")))
        elif event.again or self.up:
            self._out.print(Text().append("● ", style="green").append(f"{event.part} is back after {event.seconds:.1f} s"))

    def leaving(self, runs: Sequence[str]) -> None:
        if self._json:
            emit({"event": "applies_go_on", "runs": list(runs)})
        elif runs:
            text = (
                f"{len(runs)} apply still running ({', '.join(runs)}). It goes on without us, by design; waiting a moment so that it can "
                "store its state. Press Ctrl-C again to leave now, and start `countersign up` again soon: it finds it."
            )
            self._out.print(safe(text, "yellow"))

    def ready(self, service: Service, seconds: float) -> None:
        self.up = True
        if self._json:
            emit({"event": "ready", "seconds": round(seconds, 3), **places(service.settings), "key_file": str(service.key_file)})
        else:
            self._out.print(ready_view(service, seconds))

    def ending(self) -> None:
        if not self._json:
            self._out.print(Text("stopping …", style="dim"))

    def ended(self, going_on: Sequence[str]) -> None:
        if self._json:
            emit({"event": "stopped", "applies_going_on": list(going_on)})
            return
        self._out.print(Text("stopped", style="dim"))
        if going_on:
            self._out.print(safe(f"still applying, and not ended by this: {', '.join(going_on)}", "yellow"))


def ended_line(event: Ended) -> Text:
    how = f"was ended by signal {-event.code}" if event.code < 0 else f"ended with code {event.code}"
    often = f", {event.times} times in a row" if event.times > 1 else ""
    line = (
        Text()
        .append("● ", style="red")
        .append(event.part, style="bold")
        .append(f" {how}{often}; it is started again in {event.again_in:g} s. ")
    )
    return line.append_text(safe(f"Its log: {event.log}", "dim"))


def _document(event: Ready | Ended) -> dict[str, object]:
    if isinstance(event, Ready):
        return {"event": "part_ready", "part": event.part, "seconds": round(event.seconds, 3), "again": event.again}
    return {
        "event": "part_ended",
        "part": event.part,
        "code": event.code,
        "times": event.times,
        "again_in": event.again_in,
        "log": str(event.log),
        "tail": list(event.tail),
    }


def places(settings: Settings) -> dict[str, str]:
    found = {
        "front": f"{settings.front_url}/mcp",
        "pages": f"{settings.links_url}/runs",
        "temporal": settings.temporal_target,
        "data": str(settings.data),
        "logs": str(settings.data / "logs"),
        "stacks": str(stacks_folder(settings)),
    }
    if settings.embedded_temporal:
        found["temporal_ui"] = f"http://{LOOPBACK}:{settings.temporal_ui_port}"
    return found


def ready_view(service: Service, seconds: float) -> Group:
    settings, where = service.settings, places(service.settings)
    again = f" --data {shlex.quote(where['data'])}" if settings.data != data_folder({}) else ""
    tofu = "" if "terraform" in engines(settings) else " --engine tofu"
    env, folder = settings.organizations[0].environments[0].slug, _some_stack(stacks_folder(settings))
    parts: list[Text | Group] = [
        Text().append("● ", style="green").append("countersign is ready", style="bold").append(f" after {seconds:.1f} s", style="dim"),
        facts(
            [
                ("front", where["front"], "cyan"),
                ("for people", f"{where['pages']}, or countersign open{again}", "cyan"),
                ("Temporal UI", where["temporal_ui"], "cyan") if "temporal_ui" in where else ("Temporal", where["temporal"], "cyan"),
                ("data folder", where["data"], ""),
                ("key file", f"{service.key_file} ({local_person().id}, admin)", ""),
                ("stacks", where["stacks"], ""),
                ("next:", f"countersign stack register{again} {env}/{folder} --source {folder}{tofu}", "bold"),
                ("then:", f"countersign apply{again} {env}/{folder}", "bold"),
                ("for an agent:", f"countersign key create{again} --as NAME --kind agent --role platform", ""),
            ]
        ),
    ]
    if settings.host != LOOPBACK:
        parts.append(safe(f"  It listens on {settings.host}, which is more than this machine: put TLS in front of it.", "yellow"))
        if settings.public_url is None:
            parts.append(
                safe(f"  Links for people begin with {settings.links_url}; set public_url to the address they reach it by.", "yellow")
            )
    parts.append(Text("  Ctrl-C ends it; an apply that runs goes on.", style="dim"))
    return Group(*parts)


def _some_stack(stacks: Path) -> str:
    """A folder there that could be registered, so that what is shown can be run as it is."""
    with contextlib.suppress(OSError):
        for folder in sorted(stacks.iterdir()):
            if SLUG.match(folder.name) and any(folder.glob("*.tf")):
                return folder.name
    return "NAME"
