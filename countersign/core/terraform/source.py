"""Judging a configuration before anything of it runs: providers, module sources, data sources and backends.

Planning runs configuration that nobody approved yet, with the stack's plan credential in its environment; so what it may
load is the operator's list, and it is checked before `init` downloads the first byte.
"""

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from pydantic import Field

from countersign.core.engine import Finding
from countersign.core.model import Payload
from countersign.core.repository import leads_out

# What engines add to a source address that names no host.
DEFAULT_HOSTS = frozenset({"registry.terraform.io", "registry.opentofu.org"})
_ESCAPED = re.compile(r"\\u([0-9a-fA-F]{4})|\\U(000[0-9a-fA-F]{5}|0010[0-9a-fA-F]{4})")
BUILT_IN = "terraform.io/builtin/terraform"


class Place(Payload):
    """Something a file mentions and where."""

    name: str
    line: int | None = None


class Declared(Payload):
    """`countersign.declared/1`: what one file declares, all that judging needs. Extracted once per file content."""

    sources: dict[str, str] = Field(default_factory=dict)  # local provider name → source address as written
    source_lines: dict[str, int | None] = Field(default_factory=dict)
    providers: tuple[Place, ...] = ()  # local names in use: of resources, data sources, provider blocks
    modules: tuple[Place, ...] = ()  # sources as written
    data: tuple[Place, ...] = ()  # types of data sources
    encryption: tuple[Place, ...] = ()  # types of key providers and methods, of OpenTofu
    commands: tuple[Place, ...] = ()  # providers that are to log in by running a command (`exec`)
    backends: tuple[Place, ...] = ()  # types; "cloud" for a cloud block
    variables: tuple[str, ...] = ()
    sensitive: tuple[str, ...] = ()  # of them: those declared sensitive


class AllowList(Payload):
    """The operator's globs. A provider pattern without a host means the engine's default registry."""

    providers: tuple[str, ...] = ("terraform.io/builtin/*", "hashicorp/*", "opentofu/*")
    modules: tuple[str, ...] = ("./*", "../*")
    denied_data: tuple[str, ...] = ("external", "http", "terraform_remote_state")


def declared(parsed: Mapping[str, Any], text: str = "") -> Declared:
    """What a parsed file declares; of python-hcl2 (labels in quotes, blocks in lists) or of a .tf.json.

    Neither parser tells lines, so they are those of the first mention in `text`.
    """
    sources: dict[str, str] = {}
    used: list[Place] = []
    backends: list[Place] = []
    encryption: list[Place] = []
    for body in _bodies(parsed.get("terraform")):
        for name, source in _required(body.get("required_providers")):
            if sources.setdefault(name, source) != source:  # which of two counts is the engine's affair: both are judged
                used.append(Place(name=source, line=_line(text, "source", source)))
        backends += [Place(name=kind, line=_line(text, "backend", kind)) for kind, _ in _blocks(body.get("backend"), 1)]
        backends += [Place(name="cloud", line=_line(text, "cloud")) for _ in _bodies(body.get("cloud"))]
        for inner in _bodies(body.get("encryption")):
            kinds = [*_blocks(inner.get("key_provider"), 2), *_blocks(inner.get("method"), 2)]
            encryption += [Place(name=kind, line=_line(text, kind)) for kind, _ in kinds]
    data = list(_blocks(parsed.get("data"), 2))
    for _, check in _blocks(parsed.get("check"), 1):
        data += _blocks(check.get("data"), 2)
    others = [found for kind in ("resource", "ephemeral", "action") for found in _blocks(parsed.get(kind), 2)]
    used += [Place(name=_provider_of(kind, block), line=_line(text, kind)) for kind, block in (*others, *data)]
    used += [Place(name=name, line=_line(text, "provider", name)) for name, _ in _blocks(parsed.get("provider"), 1)]
    commands = [Place(name=name, line=_line(text, "exec")) for name, body in _blocks(parsed.get("provider"), 1) if _has(body, "exec")]
    imports = [_local_name(b["provider"]) for b in _bodies(parsed.get("import")) if b.get("provider")]
    used += [Place(name=name, line=_line(text, "provider", name)) for name in imports]
    modules = [_text(body.get("source", "")) for _, body in _blocks(parsed.get("module"), 1)]
    return Declared(
        sources=sources,
        source_lines={name: _line(text, "source", source) for name, source in sources.items()},
        providers=tuple(used),
        modules=tuple(Place(name=source, line=_line(text, "source", source)) for source in modules),
        data=tuple(Place(name=kind, line=_line(text, "data", kind)) for kind, _ in data),
        encryption=tuple(encryption),
        commands=tuple(commands),
        backends=tuple(backends),
        variables=tuple(name for name, _ in _blocks(parsed.get("variable"), 1)),
        sensitive=tuple(name for name, body in _blocks(parsed.get("variable"), 1) if body.get("sensitive") not in (None, False)),
    )


def judge(files: Mapping[str, Declared], allow: AllowList, *, above: int = 0, backends: bool = False) -> list[Finding]:
    """What the operator does not allow; empty where all of it may run.

    `files` maps paths seen from the working folder to what they declare; its source reaches `above` as many folders. With
    `backends` it may declare one: what was there is here by now, and ours replaces it.
    """
    found: list[Finding] = []
    by_folder: dict[str, dict[str, str]] = {}
    for path, file in files.items():
        by_folder.setdefault(posixpath.dirname(path), {}).update(file.sources)
    for path, file in sorted(files.items()):
        folder = posixpath.dirname(path)
        found += _providers(path, file, by_folder[folder], allow)
        for module in file.modules:
            if why := _module_refused(module.name, folder, allow, above):
                found.append(_refusal(path, module.line, f"module source {module.name!r} is not allowed", why))
        for source in file.data:
            if any(fnmatchcase(source.name, pattern) for pattern in allow.denied_data):
                found.append(
                    _refusal(
                        path,
                        source.line,
                        f'data source "{source.name}" is not allowed',
                        "It reaches outside while planning, before anybody approved anything. Remove it, or ask the operator to take it "
                        "from terraform.denied_data_sources.",
                    )
                )
        found += [
            _refusal(
                path,
                place.line,
                f'encryption by "{place.name}" is not allowed',
                "It runs a command while planning, before anybody approved anything. Use a key of another kind.",
            )
            for place in file.encryption
            if place.name == "external"
        ]
        found += [
            _refusal(
                path,
                place.line,
                f'provider "{place.name}" logs in by a command (exec)',
                "It runs while planning, before anybody approved anything. Give it a token in the stack's plan and apply credentials.",
            )
            for place in file.commands
        ]
        for backend in file.backends:
            if backend.name != "local" and not backends:
                found.append(
                    _refusal(
                        path,
                        backend.line,
                        f'backend "{backend.name}" keeps the state elsewhere',
                        "Countersign keeps the state itself, fenced so that only one run can write it. An administrator takes over what "
                        "is there with `countersign stack adopt`; the block may stay then, and counts no more. Or it stays there, "
                        "unfenced: `countersign stack keep`.",
                    )
                )
    return found


def source_address(source: str) -> str:
    """A provider's source in the form patterns have: lower case, default host left out, `aws` as `hashicorp/aws`."""
    parts = source.strip().lower().split("/")
    if len(parts) == 1:
        return BUILT_IN if parts[0] == "terraform" else f"hashicorp/{parts[0]}"
    if len(parts) == 3 and parts[0] in DEFAULT_HOSTS:
        return "/".join(parts[1:])
    return "/".join(parts)


def provider_allowed(source: str, allow: AllowList) -> bool:
    """`source` as in a configuration or in the engine's documents."""
    address = source_address(source).split("/")
    return any(pattern == "*" or _matches(address, source_address(pattern).split("/")) for pattern in allow.providers)


def _matches(address: Sequence[str], pattern: Sequence[str]) -> bool:
    """Part by part: `hashicorp/*` is a namespace of the default registry, never a host of that name."""
    return len(address) == len(pattern) and all(part and fnmatchcase(part, glob) for part, glob in zip(address, pattern, strict=True))


def variables(files: Mapping[str, Declared]) -> frozenset[str]:
    """Names of the root module's variables."""
    return frozenset(name for path, file in files.items() if not posixpath.dirname(path) for name in file.variables)


def _providers(path: str, file: Declared, sources: Mapping[str, str], allow: AllowList) -> Iterator[Finding]:
    """Every source a file names, also one that another file overrides: that is for the engine to decide, by rules of its own."""
    lines: dict[str, int | None] = {}
    for name, source in file.sources.items():
        lines.setdefault(source, file.source_lines.get(name))
    for place in file.providers:
        lines.setdefault(sources.get(place.name, place.name), place.line)
    for source, line in lines.items():
        if not provider_allowed(source, allow):
            yield _refusal(
                path,
                line,
                f"provider {source!r} is not allowed",
                f"Allowed are {', '.join(allow.providers)}. Use one of those, or ask the operator to add it to "
                "terraform.allowed_providers.",
            )


def module_folder(source: str, folder: str) -> str:
    """Where a local module lies, seen from the working folder; `folder` holds the file that names it."""
    return posixpath.normpath(posixpath.join(folder, source))


def _module_refused(source: str, folder: str, allow: AllowList, above: int) -> str | None:
    if "${" in source or not source:
        return "It must be a literal text, so that it can be checked before anything is loaded."
    if not any(fnmatchcase(source, pattern) for pattern in allow.modules) or source.startswith(("/", "~")):
        return (
            f"Allowed are {', '.join(allow.modules)}. Use a module inside the stack's folder, or ask the operator to add to "
            "terraform.allowed_modules."
        )
    if not source.startswith(("./", "../")) and ".." in re.split(r"[/?]", source):
        return "It has `..` in it, so that it does not come from where it seems to. Write the address without."
    if source.startswith(("./", "../")) and leads_out(module_folder(source, folder), above):
        where = "the repository" if above else "the stack's folder"
        return f"It leads out of {where}, and only that folder is planned. Put the module below it."
    return None


def _refusal(path: str, line: int | None, summary: str, detail: str) -> Finding:
    return Finding(severity="error", summary=summary, detail=detail, file=path, line=line)


def _provider_of(kind: str, block: Mapping[str, Any]) -> str:
    if block.get("provider"):
        return _local_name(block["provider"])
    return kind.split("_", 1)[0]


def _local_name(reference: object) -> str:
    """`${aws.west}`, `aws.west` or `aws` → `aws`."""
    return _text(reference).removeprefix("${").removesuffix("}").split(".", 1)[0].strip()


def _text(value: object) -> str:
    """A literal as python-hcl2 (in quotes) or JSON writes it."""
    text = str(value)
    text = text[1:-1] if len(text) >= 2 and text[0] == text[-1] == '"' else text
    # "ht\u0074p" is the same label to the engine.
    return _ESCAPED.sub(lambda m: chr(int(m.group(1) or m.group(2), 16)), text) if "\\" in text else text


def _required(blocks: object) -> Iterator[tuple[str, str]]:
    """(local name, source) of each required provider that names a source."""
    for required in _bodies(blocks):
        for name, wanted in _named(required):
            for one in _bodies(wanted):
                if one.get("source") is not None:
                    yield name, _text(one["source"])


def _named(body: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Items of a body, without what the parser adds (`__is_block__`) and comments of JSON."""
    for key, value in body.items():
        if not (key.startswith("__") and key.endswith("__")) and key != "//":
            yield _text(key), value


def _bodies(value: object) -> Iterator[Mapping[str, Any]]:
    """Bodies of a block without labels: one, or a list of them, however deep the lists."""
    if isinstance(value, Mapping):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _bodies(item)


def _blocks(value: object, labels: int) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Bodies of a block with labels, each with its first label. JSON may put lists at every level."""
    for body in _bodies(value):
        for name, inner in _named(body):
            if labels == 1:
                for found in _bodies(inner):
                    yield name, found
            else:
                for _, found in _blocks(inner, labels - 1):
                    yield name, found


def _has(body: object, block: str) -> bool:
    """Whether a block of that name stands anywhere in the body."""
    if isinstance(body, Mapping):
        return any(name == block or _has(inner, block) for name, inner in _named(body))
    return isinstance(body, list) and any(_has(item, block) for item in body)


def _line(text: str, *words: str) -> int | None:
    """The first line that names all of these, in this order; counted from 1."""
    if not all(words):
        return None
    pattern = re.compile(".*?".join(re.escape(word) for word in words))
    return next((number for number, line in enumerate(text.splitlines(), 1) if pattern.search(line)), None)


def places(findings: Iterable[Finding]) -> str:
    """All refusals on one line each, for a message."""
    return "; ".join(f"{f.summary} ({f.file} line {f.line})" if f.line else f"{f.summary} ({f.file})" for f in findings)
