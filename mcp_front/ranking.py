"""Which tool a request in somebody's own words is for, told by the words alone: BM25 over names, titles, descriptions and arguments.

It serves `search_tools`, and tests/agent_eval measures descriptions with it: where it confuses two tools, a model that reads the
same words has to guess as well. So what it lacks is better said in a description than taught here; it knows only how people speak
of what the names say in the terms of the field, and that a question is no order.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mcp_front.domain import Access, ToolSpec

K1, B = 1.2, 0.4  # saturation and length, as usual for short texts
_WEIGHTS = {"name": 3.0, "title": 2.0, "description": 1.0, "arguments": 0.6}
_SAID = 0.7  # what a word of people counts for the word of the field
_ASKED = 0.3  # what a tool that changes something counts where somebody only asks

_NOISE = frozenset(
    re.findall(
        "[a-z]+",
        """
    a about again all am an and any anybody are as at be been before but by can do does for from get give had has have he her his
    how i if in into is it its just let like look make me more my need new no now of on only or our out over please right see she
    should show so some somebody still such than that the their them then there these they this those to too up us use want was we
    were will with would yes you your
    """,
    )
)
# How people speak of what the names say in the terms of the field.
_SAID_AS: Mapping[str, str] = {
    "deploy": "apply",
    "provision": "apply",
    "rollout": "apply",
    "ship": "apply",
    "abort": "cancel",
    "stop": "cancel",
    "interrupt": "cancel",
    "decline": "reject",
    "refuse": "reject",
    "agree": "approve",
    "accept": "approve",
    "countersign": "approve",
    "teardown": "destroy",
    "erase": "destroy",
    "delete": "destroy",
    "repeat": "rerun",
    "retry": "rerun",
    "continue": "resume",
    "status": "state",
    "permission": "right",
    "difference": "differ",
    "compare": "differ",
    "preview": "plan",
    "stack": "workspace",
    "await": "wait",
    "follow": "wait",
    "bring": "apply",
}
_TOGETHER = {"roll out": "rollout", "rolled out": "rollout", "tear down": "teardown", "torn down": "teardown", "take down": "teardown"}
_ASKS = re.compile(
    r"^(who|whose|whom|what|which|when|where|why|how|is|are|am|was|were|has|have|had|did|does|do not|don't|may|might|show|list|tell|give|"
    r"explain|find|read|get)\b"
)
_ENDINGS = ("ations", "ation", "ings", "ing", "ions", "ion", "ments", "ment", "ers", "er", "als", "al", "ed", "es", "s", "e")


def words_of(text: str) -> list[str]:
    """The words of a text that say something, each without its ending."""
    lowered = text.lower()
    for said, one in _TOGETHER.items():
        lowered = lowered.replace(said, one)
    found = (stem(word) for word in re.findall(r"[a-z0-9]+", lowered.replace("_", " ")) if word not in _NOISE)
    return [word for word in found if word not in _NOISE]


def stem(word: str) -> str:
    """`approved`, `approver` and `approval` are one word; crude, and the same on both sides."""
    if word.endswith(("ied", "ies")) and len(word) > 4:
        return word[:-3] + "y"
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            cut = word[: -len(ending)]
            return cut[:-1] if len(cut) > 3 and cut[-1] == cut[-2] and cut[-1] not in "ls" else cut
    return word


_EXPANDED = {stem(said): stem(meant) for said, meant in _SAID_AS.items()}


@dataclass(frozen=True, kw_only=True)
class _Read:
    spec: ToolSpec
    counts: Mapping[str, float]
    length: float


class Ranker:
    """Over the tools one caller may use."""

    def __init__(self, specs: Iterable[ToolSpec]) -> None:
        self._read = [_reading(spec) for spec in specs]
        self._mean = sum(one.length for one in self._read) / max(len(self._read), 1)
        held = Counter(word for one in self._read for word in one.counts)
        many = len(self._read)
        self._rarity = {word: math.log(1 + (many - n + 0.5) / (n + 0.5)) for word, n in held.items()}

    def ranked(self, text: str) -> list[tuple[ToolSpec, float]]:
        """The tools some word of the text speaks for, the best first; equals by name."""
        asked = _asked(text)
        only_asks = bool(_ASKS.match(text.lower().strip())) or text.rstrip().endswith("?")
        scored = []
        for one in self._read:
            score = sum(weight * self._score(one, word) for word, weight in asked.items())
            if only_asks and _changes(one.spec):
                score *= _ASKED
            if score > 0:
                scored.append((one.spec, score))
        return sorted(scored, key=lambda found: (-found[1], found[0].name))

    def _score(self, one: _Read, word: str) -> float:
        count = one.counts.get(word, 0.0)
        if not count:
            return 0.0
        return self._rarity[word] * count * (K1 + 1) / (count + K1 * (1 - B + B * one.length / self._mean))


def _changes(spec: ToolSpec) -> bool:
    """Whether a call may lead to a change; a plan or a check is work, and leaves everything as it is."""
    return spec.access is not Access.READ and not (spec.run and "dry_run" not in spec.common)


def _asked(text: str) -> Mapping[str, float]:
    asked: dict[str, float] = {}
    for word in words_of(text):
        asked[word] = max(asked.get(word, 0.0), 1.0)
        if (meant := _EXPANDED.get(word)) is not None:
            asked[meant] = max(asked.get(meant, 0.0), _SAID)
    return asked


def _reading(spec: ToolSpec) -> _Read:
    properties: Mapping[str, Mapping[str, object]] = spec.input_schema["properties"]
    own = {name: schema for name, schema in properties.items() if name not in spec.common}
    fields: Mapping[str, Sequence[str]] = {
        "name": words_of(spec.name),
        "title": words_of(spec.title),
        "description": words_of(spec.description),
        "arguments": words_of(" ".join(f"{name} {schema.get('description', '')} {_choices(schema)}" for name, schema in own.items())),
    }
    counts: Counter[str] = Counter()
    for name, words in fields.items():
        for word in words:
            counts[word] += _WEIGHTS[name]  # type: ignore[assignment]
    return _Read(spec=spec, counts=counts, length=float(sum(map(len, fields.values()))))


def _choices(schema: Mapping[str, object]) -> str:
    inner = schema.get("items")
    found = schema.get("enum") or (inner.get("enum") if isinstance(inner, Mapping) else None)
    return " ".join(map(str, found)) if isinstance(found, list) else ""
