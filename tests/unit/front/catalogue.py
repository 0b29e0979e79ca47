"""docs/catalogue.md as data: what the tables say a tool is called, may do and takes."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
FILE = ROOT / "docs" / "catalogue.md"


@dataclass(frozen=True, kw_only=True)
class Argument:
    name: str
    required: bool
    default: Any = None
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Row:
    name: str
    server: str
    access: str  # R, W, D or A
    run: bool  # starred
    arguments: tuple[Argument, ...]


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def servers(text: str) -> dict[str, list[str]]:
    """Heading line and lines of each server of section 2, by its name; `browser, task, …` share a heading."""
    found: dict[str, list[str]] = {}
    section = text[text.index("## 2. Servers") : text.index("## 3. ")]
    for part in section.split("\n### ")[1:]:
        head, *lines = part.splitlines()
        found[head.split(" ·")[0].split(",")[0]] = [head, *lines]
    return found


def rows(text: str) -> list[Row]:
    made: list[Row] = []
    for server, (_, *lines) in servers(text).items():
        for line in lines:
            if not line.startswith("| `"):
                continue
            names, access, arguments, *_ = _cells(line)
            for name, star in re.findall(r"`([a-z_]+)`(\*?)", names):
                own = _arguments(_for(name, arguments), server)
                made.append(Row(name=name, server=server, access=access, run=star == "*", arguments=own))
    return made


def _for(name: str, text: str) -> str:
    """The part of `list: …; get: …` that is meant for this name."""
    parts = dict(re.findall(r"(list|get|start|end): ([^;]*)", text))
    return next((value for verb, value in parts.items() if verb in name.split("_")), text)


def _arguments(text: str, server: str) -> tuple[Argument, ...]:
    if text in ("–", ""):
        return ()
    parts = re.split(r",\s*(?![^{(]*[})])", text)
    return tuple(_argument(part.strip(), server) for part in parts)


def _argument(text: str, server: str) -> Argument:
    found = re.match(r"^([a-z_]+)(\{[^}]*\})?(\[\])?(\?)?(?:=(\S+))?\s*(.*)$", text)
    assert found, f"cannot read the argument {text!r}"
    name, optional, given, rest = found[1], found[4], found[5], found[6]
    named = given if given and "\\|" in given else rest if re.match(r"^[a-z_]+(\\\|[a-z_]+)+$", rest) else ""
    choices = tuple(named.split("\\|")) if named else ()
    default = _value(choices[0] if given and choices else given)
    if server == "terraform" and name == "workspace":  # said once, above the table
        default = "main"
    return Argument(name=name, required=not optional and default is None, default=default, choices=choices)


def _value(text: str | None) -> Any:
    if text is None:
        return None
    if text in ("true", "false"):
        return text == "true"
    return int(text) if text.isdigit() else text.strip('"')


def carried_by_core(text: str) -> set[str]:
    head = servers(text)["core"][0]
    return set(re.findall(r"run_[a-z]+", head.split("also carries")[1]))


def roles(text: str) -> dict[str, dict[str, str]]:
    """Role → server → cell, as written in section 4."""
    section = text[text.index("## 4. ") :]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    _, *columns = _cells(lines[0])
    table: dict[str, dict[str, str]] = {}
    for line in lines[2:]:
        name, *cells = _cells(line)
        table[re.split(r"[ ,]", name)[0]] = dict(zip(columns, cells, strict=True))
    return table
