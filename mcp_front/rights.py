"""Who may use which tool: the roles of the catalogue as data, and the one function that filters the list and guards the call.

Deny by default: a role, server or class that is not written here gives nothing. What a caller may not see does not exist for
them. Where a role reaches only its own runs, those are the runs it asked for, or that an agent asked for in its name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from countersign.adapters.store.runs import RunRow
from countersign.core.errors import InvalidArgument
from countersign.core.principal import Kind, Principal
from mcp_front.domain import Access, ToolSpec

CORE = "core"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What a role may do on one server."""

    classes: frozenset[Access] = frozenset()
    own: bool = False  # only on runs it started
    loaded: bool = False  # listed at connect; else on request, or called unlisted


class Reach(IntEnum):
    NONE = 0
    OWN = 1  # on one's own runs
    ALL = 2


def _cell(text: str) -> Cell:
    """A cell as the catalogue writes it: `RW own`, bold for what is loaded at connect, – for never."""
    letters = text.replace("*", "").removesuffix(" own").strip("– ")
    return Cell(classes=frozenset(Access(letter) for letter in letters), own=text.endswith(" own"), loaded=text.startswith("**"))


def _role(**cells: str) -> Mapping[str, Cell]:
    return {server: _cell(text) for server, text in cells.items()}


# Catalogue §4, the columns of the servers that are built.
ROLES: Mapping[str, Mapping[str, Cell]] = {
    "dev": _role(core="**R**", runs="RW own", terraform="–", helm="–"),
    "ops": _role(core="**R**", runs="RW", terraform="RWD", helm="RWD"),
    "admin": _role(core="**R**", runs="RWA", terraform="RWD", helm="RWD"),
    "ui": _role(core="**R**", runs="R own", terraform="–", helm="–"),
    "viewer": _role(core="**R**", runs="**R**", terraform="R", helm="R"),
    "approver": _role(core="**R**", runs="**RA**", terraform="R", helm="R"),
    "platform": _role(core="**R**", runs="**RW**", terraform="**RWD**", helm="**RWD**"),
    "sre": _role(core="**R**", runs="**RW**", terraform="R", helm="RW"),
    "security": _role(core="**R**", runs="**R**", terraform="R", helm="R"),
    "ci": _role(core="**R**", runs="**RW** own", terraform="RW", helm="RW"),
    "worker": _role(core="**R**", runs="RW own", terraform="–", helm="–"),
}
PEOPLE_ONLY = frozenset({"approver"})


def checked_role(name: str, kind: Kind) -> str:
    """The role `name`, if there is one and this kind of principal may have it. Raises InvalidArgument naming those there are."""
    if name not in ROLES:
        raise InvalidArgument(f"no role {name!r}; there are {', '.join(ROLES)}", field="role")
    if name in PEOPLE_ONLY and kind is not Kind.PERSON:
        raise InvalidArgument(f"the role {name} is for people, and this is an {kind}", field="role")
    return name


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Whoever is behind one call, as the door verified it."""

    principal: Principal
    org: str
    role: str
    withheld: frozenset[Access] = frozenset()  # classes this connection never gives, whatever the role
    via: str = "http"

    @property
    def is_person(self) -> bool:
        return self.principal.kind is Kind.PERSON

    def cell(self, server: str) -> Cell:
        return ROLES.get(self.role, {}).get(server, Cell())


def owns(caller: Caller, run: RunRow) -> bool:
    return caller.principal.id in (run.requester.id, run.requester.person)


def reach(caller: Caller, tool: ToolSpec) -> Reach:
    """How far the caller's right to a tool goes."""
    if tool.access in caller.withheld:
        return Reach.NONE
    cell = caller.cell(tool.server)
    if tool.access in cell.classes:
        return Reach.OWN if cell.own else Reach.ALL
    if tool.carried and Access.READ in caller.cell(CORE).classes:
        return Reach.OWN
    # People may confirm their own runs where policy lets them; whether it does, `decide` says.
    if tool.name == "run_approve" and caller.is_person and caller.role in ROLES:
        return Reach.OWN
    return Reach.NONE


def allowed(caller: Caller, tool: ToolSpec, *, run: RunRow | None = None, protected: bool = False) -> bool:
    """The one decision: without a run, whether the tool exists for the caller; with one, whether they may use it on that run.

    `protected` says that the run's environment is: there, agents and machines never hold class A.
    """
    far = reach(caller, tool)
    if far is Reach.NONE or (run is not None and far is Reach.OWN and not owns(caller, run)):
        return False
    return not (protected and tool.access is Access.DECIDE and not caller.is_person)


def listed(caller: Caller, tool: ToolSpec, servers: frozenset[str] | None = None) -> bool:
    """Whether `tools/list` names the tool: allowed, and loaded by the role or asked for by `servers`. Narrows, never widens."""
    if not allowed(caller, tool):
        return False
    if servers is not None:
        return tool.server in servers or (tool.carried and CORE in servers)
    cell, core = caller.cell(tool.server), caller.cell(CORE)
    return (cell.loaded and tool.access in cell.classes) or (tool.carried and core.loaded)


def permissions(caller: Caller, servers: frozenset[str]) -> list[str]:
    """`<server>:<verb>`, with " own" where only one's own runs are meant."""
    cells = {server: caller.cell(server) for server in sorted(servers)}
    return [
        f"{server}:{access.verb}{' own' if cell.own else ''}"
        for server, cell in cells.items()
        for access in Access
        if access in cell.classes and access not in caller.withheld
    ]
