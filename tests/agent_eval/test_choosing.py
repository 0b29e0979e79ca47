"""Whether the right tool is found by what its definition says, and what all definitions cost to read.

`requests.jsonl` is what descriptions are tuned on. `held_out.jsonl` was written before anybody who tunes them read them, and is only
measured: look at its sums, never at its rows. The ranker is the product's own, that of `search_tools`; what it confuses, a model
that reads the same words has to guess.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from countersign.core.errors import InvalidArgument
from countersign.core.principal import Kind, Principal
from mcp_front.domain import DESCRIPTION, Access
from mcp_front.ranking import Ranker
from mcp_front.rights import PEOPLE_ONLY, ROLES, Caller, listed
from mcp_front.server import GovernedServer
from mcp_front.tools import toolset
from tests.requirements import requirement
from tests.unit.front import catalogue

HERE = Path(__file__).parent
TOOLS = toolset().tools
# They start work, and change neither infrastructure nor state.
CHANGES_NOTHING = {"terraform_validate", "terraform_plan", "terraform_detect_drift"}
TOKEN = 3  # bytes of JSON, as in tests/unit/front/test_catalogue.py; English and schemas have rarely shorter ones


@dataclass(frozen=True, kw_only=True)
class Asked:
    asked: str
    tool: str | None  # None: no tool is for this
    arguments: dict[str, Any]
    must_not_change: bool = False


def read(name: str) -> list[Asked]:
    return [Asked(**json.loads(line)) for line in (HERE / f"{name}.jsonl").read_text().splitlines()]


TUNED, HELD_OUT = read("requests"), read("held_out")
EVERY = [*TUNED, *HELD_OUT]


def built(rows: Sequence[Asked]) -> list[Asked]:
    """Those whose tool is built; the others name one that the catalogue has for later."""
    later = {row.tool for row in rows if row.tool} - set(TOOLS)
    known = {row.name for row in catalogue.rows(catalogue.FILE.read_text())}
    assert later <= known, f"neither built nor in the catalogue: {later - known}"
    assert len(later) <= 3, f"too many requests are for tools that are not built: {later}"
    return [row for row in rows if row.tool is None or row.tool in TOOLS]


def whole(value: Any) -> Any:
    """Ids and digests in full length; the requests have them as short as people say them."""
    if isinstance(value, str) and value.startswith("run_") and "_" not in value[4:]:
        return value[:30].ljust(30, "0")
    return f"{value[:71]:0<71}" if isinstance(value, str) and value.startswith("sha256:") else value


def ranked(asked: str) -> list[str]:
    return [spec.name for spec, _ in Ranker(TOOLS.values()).ranked(asked)]


def shares(rows: Sequence[Asked]) -> tuple[float, float]:
    """Of requests that are for a tool: how often it comes first, and how often among the first three."""
    places = [(ranked(row.asked), row.tool) for row in built(rows) if not row.must_not_change]
    first = sum(found[:1] == [tool] for found, tool in places) / len(places)
    three = sum(tool in found[:3] for found, tool in places) / len(places)
    return first, three


def test_there_are_enough_requests_and_a_third_of_them_is_held_out() -> None:
    orders = [row for row in EVERY if not row.must_not_change]
    others = [row for row in EVERY if row.must_not_change]

    assert len(built(orders)) >= 120
    assert len(others) >= 30
    assert len(HELD_OUT) / len(EVERY) >= 0.33
    assert len({row.asked.lower() for row in EVERY}) == len(EVERY)
    assert {row.tool for row in orders} >= set(TOOLS), "every tool is asked for at least once"


@pytest.mark.parametrize("row", [row for row in built(EVERY) if row.tool], ids=lambda row: row.asked[:50])
def test_the_arguments_expected_are_those_the_tool_takes(row: Asked) -> None:
    assert row.tool is not None
    try:
        TOOLS[row.tool].validated({name: whole(value) for name, value in row.arguments.items()})
    except InvalidArgument as wrong:
        pytest.fail(f"{row.tool} {row.arguments}: {wrong.message}")


@requirement("agents:choose-right")
@pytest.mark.parametrize("name", ["requests", "held_out"])
def test_the_right_tool_comes_first_or_among_the_first_three(name: str) -> None:
    rows = read(name)
    first, three = shares(rows)
    print(f"\n  {name}: right tool first {first:.1%} (≥ 80%), among the first three {three:.1%} (≥ 95%)", flush=True)
    if name == "requests":
        for row in built(rows):
            if not row.must_not_change and row.tool not in (found := ranked(row.asked)[:3]):
                print(f"    {row.asked!r}: {row.tool} is not among {found}")

    assert first >= 0.80
    assert three >= 0.95


@requirement("agents:choose-right")
@pytest.mark.parametrize("name", ["requests", "held_out"])
def test_who_only_asks_is_led_to_nothing_that_changes_anything(name: str) -> None:
    others = [row for row in read(name) if row.must_not_change]
    led = {row.asked: found[0] for row in others if (found := ranked(row.asked))}
    changing = {asked: tool for asked, tool in led.items() if TOOLS[tool].access is not Access.READ and tool not in CHANGES_NOTHING}
    print(f"\n  {name}: {len(changing)} of {len(others)} questions led to a tool that changes something (0)", flush=True)

    assert changing == {} if name == "requests" else len(changing) == 0, "a question leads to a change"


@pytest.mark.parametrize("name", sorted(TOOLS))
def test_a_description_is_short_and_its_first_sentence_names_what_is_done_to_what(name: str) -> None:
    description = TOOLS[name].description
    first = description.split(". ")[0].split(":")[0].lower()
    verbs = {
        "terraform_force_unlock": {"force-unlock"},
        "whoami": {"show"},
        "run_evidence": {"show"},
        "run_plan": {"show"},
        "run_logs": {"read"},
        "run_rerun": {"run"},
        "helm_rollback": {"roll"},
    }
    things = {"whoami": {"caller"}, "run_rerun": {"run"}, "run_approve": {"run"}}
    things |= {f"helm_{verb}": {"release", "chart"} for verb in ("deploy", "rollback", "uninstall")}
    things |= {"terraform_import": {"object"}, "terraform_force_unlock": {"workspace"}}
    words = set(name.split("_")) - {"terraform"}

    assert len(description) <= DESCRIPTION
    assert first.split()[0] in verbs.get(name, words), f"begins with {first.split()[0]!r}"
    if name not in ("apply_terraform", "destroy_terraform", "terraform_plan", "terraform_validate"):
        said = set(first.replace("'s", " ").replace("’s", " ").split())
        nouns = things.get(name, words - {first.split()[0]})
        assert any(word.startswith(noun.rstrip("s")) for noun in nouns for word in said), f"{first!r} names none of {sorted(nouns)}"
    else:
        assert "workspace" in first


def as_role(role: str) -> Caller:
    kind = Kind.PERSON if role in PEOPLE_ONLY else Kind.AGENT
    return Caller(
        principal=Principal(id=f"{kind}:x", kind=kind, acts_for=None if kind is Kind.PERSON else "person:x"), org="acme", role=role
    )


@pytest.mark.parametrize("role", sorted(ROLES))
def test_what_a_role_loads_by_default_fits_its_budget(role: str) -> None:
    """As a client gets it: every definition whole, as JSON on the wire."""
    own = [spec for spec in TOOLS.values() if listed(as_role(role), spec)]
    wire = [GovernedServer._defined(None, spec).model_dump(mode="json", by_alias=True, exclude_none=True) for spec in own]  # type: ignore[arg-type]
    tokens = len(json.dumps(wire, ensure_ascii=False, separators=(",", ":")).encode()) / TOKEN
    print(f"\n  {role}: {len(own)} tools, about {tokens:.0f} tokens", flush=True)

    assert tokens <= (12_000 if role == "admin" else 8_000)
