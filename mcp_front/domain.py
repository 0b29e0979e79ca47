"""Tools as data: what each is called, who may use it, what it takes.

A `Domain` is one server of the catalogue. Its decorator turns a typed function into a definition whose schema is flat and
strict, and adds the arguments every tool of its class takes without saying so (catalogue §1), so that no tool forgets one.
What a person is asked (`Annotated[…, Resolve(question)]`) is no argument: no model sees it or can fill it in.
"""

import difflib
import inspect
import json
import re
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Any, get_type_hints

from mcp.server.mcpserver.resolve import Resolve, build_resolver_plans, find_resolved_parameters
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from countersign.core.errors import InvalidArgument
from mcp_front.envelope import OUTPUT_SCHEMA, Answer

NAME = re.compile(r"^[a-z][a-z0-9_]{1,63}\Z")
DESCRIPTION = 600  # characters
GRANTED = {"readOnlyHint": False, "destructiveHint": True, "idempotentHint": False, "openWorldHint": True}  # by the protocol
_IDEMPOTENT = {"apply", "set", "delete", "revoke", "cancel", "stop"}


class Access(StrEnum):
    """What a tool does to the world; its verb and its server make the permission."""

    READ = "R"
    WRITE = "W"
    DESTROY = "D"
    DECIDE = "A"

    @property
    def verb(self) -> str:
        return {"R": "read", "W": "write", "D": "destroy", "A": "approve"}[self.value]


# Arguments of whole classes of tools.
IdempotencyKey = Annotated[str | None, Field(min_length=8, max_length=128)]
Message = Annotated[str | None, Field(max_length=500)]
WaitSeconds = Annotated[float, Field(ge=0, le=25)]
Cursor = Annotated[str | None, Field(max_length=200)]
Limit = Annotated[int, Field(ge=1, le=100)]


class Common(BaseModel):
    """What a call was given of the arguments of its class; the rest has its default."""

    idempotency_key: str | None = None
    message: str | None = None
    dry_run: bool = False
    expected_version: int | None = None
    confirm_name: str | None = None
    wait_seconds: float = 0
    cursor: str | None = None
    limit: int = 20


Tool = Callable[..., Awaitable[Answer]]


@dataclass(frozen=True, kw_only=True)
class ToolSpec:
    name: str
    title: str
    description: str
    access: Access
    server: str  # its home
    run: bool  # a `*` tool: starts or continues a durable run
    carried: bool  # core carries it too: one's own runs need no further right
    open_world: bool
    function: Tool
    arguments: type[BaseModel]
    common: frozenset[str]  # arguments of its class, kept from the function and put into the call
    asked_for: frozenset[str] = frozenset()  # required arguments that a person is asked for where they are missing
    questions: Mapping[str, tuple[Resolve, bool]] = field(default_factory=dict)  # parameters that people answer
    plans: Mapping[Hashable, Any] = field(default_factory=dict)  # of the questions, as the SDK resolves them

    @property
    def permission(self) -> str:
        return f"{self.server}:{self.access.verb}"

    @property
    def annotations(self) -> dict[str, bool]:
        """Hints by their names on the wire."""
        return {
            "readOnlyHint": self.access is Access.READ,
            "destructiveHint": self.access in (Access.DESTROY, Access.DECIDE),
            "idempotentHint": not _IDEMPOTENT.isdisjoint(self.name.split("_")),
            "openWorldHint": self.open_world,
        }

    @cached_property
    def input_schema(self) -> dict[str, Any]:
        flat = _flat(self.arguments.model_json_schema())
        if self.asked_for:
            flat["required"] = [name for name in flat["properties"] if name in self.asked_for or name in flat.get("required", ())]
        return flat

    def validated(self, arguments: Mapping[str, Any]) -> tuple[dict[str, Any], Common]:
        """The tool's own arguments and those of its class. Raises InvalidArgument, which never repeats a value."""
        known = self.input_schema["properties"]
        for name in arguments:
            if name not in known:
                raise _unknown(self.name, name, known, field=name)
        # Null is how many models leave an argument out, and some hosts send objects and lists as JSON text.
        given = {name: _unquoted(known[name], value) for name, value in arguments.items() if value is not None}
        try:
            parsed = self.arguments.model_validate(given)
        except ValidationError as invalid:
            first = invalid.errors(include_url=False, include_input=False, include_context=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            if first["type"] == "extra_forbidden" and len(first["loc"]) == 2:
                outer, inner = map(str, first["loc"])
                raise _unknown(outer, inner, known[outer].get("properties", {}), field=field) from None
            raise InvalidArgument(f"{field[:120]}: {first['msg']}", field=field[:120]) from None
        values = {name: getattr(parsed, name) for name in self.arguments.model_fields}
        own = {name: value for name, value in values.items() if name not in self.common}
        return own, Common(**{name: value for name, value in values.items() if name in self.common})

    @property
    def wire(self) -> dict[str, Any]:
        """The definition as `tools/list` gives it."""
        return {
            "name": self.name,
            "title": self.title,
            "description": self.description,
            "inputSchema": self.input_schema,
            "outputSchema": OUTPUT_SCHEMA,
            # Without what the protocol takes for granted: of what only reads, whether it destroys or may be repeated says nothing.
            "annotations": {
                name: hint
                for name, hint in self.annotations.items()
                if hint is not GRANTED[name] and not (self.access is Access.READ and name in ("destructiveHint", "idempotentHint"))
            },
        }


class Domain:
    """One server of the catalogue: `core`, `runs`, `terraform`."""

    def __init__(self, server: str) -> None:
        self.server = server
        self.tools: dict[str, ToolSpec] = {}
        self.starts: dict[str, ToolSpec] = {}  # run types that have no tool of their own: `run_start` starts them

    def tool(
        self,
        name: str,
        access: Access,
        *,
        title: str,
        run: bool = False,
        dry: bool = True,  # whether there is something to try out: a write changes something unless it says otherwise
        record: bool = False,  # acts on a versioned record
        paged: bool = False,
        carried: bool = False,
        open_world: bool = False,
        asked_for: Iterable[str] = (),
        listed: bool = True,  # the catalogue has it; else only `run_start` knows it
    ) -> Callable[[Tool], Tool]:
        """Declare a tool. The function takes the call first, then its own arguments by name; its docstring is the description."""

        def add(function: Tool) -> Tool:
            common = _common(access, run=run, dry=dry, record=record, paged=paged)
            questions = find_resolved_parameters(function)
            arguments = _arguments(name, function, common, leave=questions)
            spec = ToolSpec(
                name=name,
                title=title,
                description=" ".join((function.__doc__ or "").split()),
                access=access,
                server=self.server,
                run=run,
                carried=carried,
                open_world=open_world,
                function=function,
                arguments=arguments,
                common=frozenset(common),
                asked_for=frozenset(asked_for),
                questions=questions,
                # A question takes the call, and arguments of the tool by name.
                plans=build_resolver_plans(questions, {"call", *(set(arguments.model_fields) - set(common))}) if questions else {},
            )
            _check(spec)
            if name in self.tools or name in self.starts:
                raise ValueError(f"{name} is declared twice")
            (self.tools if listed else self.starts)[name] = spec
            return function

        return add


class Toolset:
    """All tools of some domains, by name; names are unique over all of them."""

    def __init__(self, domains: Iterable[Domain]) -> None:
        self.domains = tuple(domains)
        self.tools: dict[str, ToolSpec] = {}
        self.starts = {name: spec for domain in self.domains for name, spec in domain.starts.items()}
        for domain in self.domains:
            for spec in domain.tools.values():
                if spec.name in self.tools:
                    raise ValueError(f"{spec.name} is declared in two domains")
                self.tools[spec.name] = spec

    @property
    def servers(self) -> frozenset[str]:
        return frozenset(domain.server for domain in self.domains)

    def get(self, name: str) -> ToolSpec | None:
        """By its name, a dotted spelling, or one of the older names that are understood but never listed."""
        spelled = name.replace(".", "_", 1) if "." in name else name
        return self.tools.get(ALIASES.get(spelled, spelled))


def server_named(name: str) -> str:
    """A server by its name, or by that of a client's entry for it alone: `countersign-runs`, and `platform-runs`, are `runs`."""
    return name.removeprefix("countersign-").removeprefix("platform-")


ALIASES: Mapping[str, str] = {
    "terraform_apply": "apply_terraform",
    "terraform_destroy": "destroy_terraform",
    "get_stack_job": "run_get",
    "list_stack_jobs": "run_list",
    "cancel_stack_job": "run_cancel",
}


def _unknown(whose: str, name: str, known: Mapping[str, Any], *, field: str) -> InvalidArgument:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(known)}" if known else "it takes none"
    return InvalidArgument(f"{whose} takes no argument {name[:60]!r}; {hint}", field=field[:120])


def _unquoted(schema: Mapping[str, Any], value: Any) -> Any:
    if schema.get("type") in ("object", "array") and isinstance(value, str):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _common(access: Access, *, run: bool, dry: bool, record: bool, paged: bool) -> dict[str, tuple[Any, Any]]:
    fields: dict[str, tuple[Any, Any]] = {}
    if paged:
        fields |= {"cursor": (Cursor, None), "limit": (Limit, 20)}
    if access in (Access.WRITE, Access.DESTROY):
        if access is Access.DESTROY and not run:
            fields["confirm_name"] = (Annotated[str | None, Field(max_length=255, description="its name, typed out")], None)
        if record:
            fields["expected_version"] = (Annotated[int | None, Field(ge=0)], None)
        if dry:
            fields["dry_run"] = (bool, False)
        fields |= {"message": (Message, None), "idempotency_key": (IdempotencyKey, None)}
    if run:
        fields["wait_seconds"] = (WaitSeconds, 0)
    return fields


def _arguments(name: str, function: Tool, common: Mapping[str, tuple[Any, Any]], *, leave: Iterable[str]) -> type[BaseModel]:
    hints = get_type_hints(function, include_extras=True)
    own: dict[str, tuple[Any, Any]] = {}
    for parameter in list(inspect.signature(function).parameters.values())[1:]:
        if parameter.name in leave:
            continue
        if parameter.name in common:
            raise ValueError(f"{name} declares {parameter.name}, which every tool of its class takes already")
        own[parameter.name] = (hints[parameter.name], ... if parameter.default is inspect.Parameter.empty else parameter.default)
    fields: Any = {**own, **common}
    # Made when the tool is first called or listed: the start of the front need not wait for all of them.
    config = ConfigDict(extra="forbid", frozen=True, defer_build=True)
    return create_model(f"{name}_arguments", __config__=config, **fields)


_UNSAID = ("title", "$defs", "maxLength", "minLength", "maxItems", "pattern", "minimum")


def _flat(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON schema without references, unions with null, titles, defaults of null, patterns, and bounds that nobody would miss or exceed
    by mistake: what a model has to read, and no more. Whatever is left out is checked all the same."""
    definitions = schema.get("$defs", {})

    def walk(node: Any, *, names: bool = False) -> Any:
        if isinstance(node, list):
            return [walk(item) for item in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            rest = {key: value for key, value in node.items() if key != "$ref"}
            return walk({**definitions[node["$ref"].rsplit("/", 1)[-1]], **rest})
        if isinstance(options := node.get("anyOf"), list):
            (only,) = [option for option in options if option.get("type") != "null"]
            rest = {key: value for key, value in node.items() if key != "anyOf"}
            return walk({**only, **rest})
        return {
            key: walk(value, names=key == "properties")
            for key, value in node.items()
            if names or not (key in _UNSAID or (key, value) in (("default", None), ("additionalProperties", True)))
        }

    flat: dict[str, Any] = walk(dict(schema))
    return {"type": "object", "properties": {}, **flat, "additionalProperties": False}


def _check(spec: ToolSpec) -> None:
    if not NAME.match(spec.name):
        raise ValueError(f"{spec.name!r} is no name of a tool")
    if not spec.description or len(spec.description) > DESCRIPTION:
        raise ValueError(f"{spec.name} needs a description of at most {DESCRIPTION} characters, it has {len(spec.description)}")
    if spec.run and spec.access is Access.READ:
        raise ValueError(f"{spec.name} starts a run, so it does not only read")
