"""A world in which an approved plan is carried out to any point, dies there, and is planned again by a correct engine.

No engine runs here: what Terraform does at each step, stores and plans afterwards is written out, so that the proof is judged
against what really exists in the end.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from countersign.core.terraform.operations import AttemptJournal, attempt_of
from countersign.core.terraform.salvage import Hit, Rules, Salvage, fold
from tests.unit.core.documents import Json, change, event, journal, output, plan, state_of

SINCE = datetime(2026, 1, 1, tzinfo=UTC)
BEFORE = datetime(2025, 1, 1, tzinfo=UTC)
RULES = Rules(unique={"fake_thing": ("name",)})
# kind → the steps of its change: what is begun, done to the world, and ended
CREATE, DELETE, UPDATE = ("create", "made", "created"), ("delete", "unmade", "deleted"), ("update", "changed", "updated")
STEPS: Mapping[str, tuple[str, ...]] = {
    "create": CREATE,
    "update": UPDATE,
    "delete": DELETE,
    "replace": (*DELETE, *CREATE),
    "create_first": (*CREATE, *DELETE),
    "keep": (),
}
ACTIONS = {"create": ("create",), "update": ("update",), "delete": ("delete",), "keep": ("no-op",)}
ACTIONS |= {"replace": ("delete", "create"), "create_first": ("create", "delete")}


@dataclass
class Thing:
    """One resource: how far its change went, and how far it had gone when the state was last stored."""

    name: str
    kind: str
    type: str = "fake_thing"
    reached: int = 0
    stored: int = 0
    named: bool = False  # its id is its name, so that what replaces it has the same

    @property
    def address(self) -> str:
        return f"{self.type}.{self.name}"

    @property
    def old(self) -> Json | None:
        return None if self.kind == "create" else {"id": self.old_id, "name": self.name, "size": "1", "kind": "a", "etag": "e1"}

    @property
    def wanted(self) -> Json | None:
        if self.kind == "delete":
            return None
        changed = {"update": {"size": "2"}, "keep": {}}.get(self.kind, {"kind": "b"})
        return {"name": self.name, "size": "1", "kind": "a", **changed}

    @property
    def old_id(self) -> str:
        return self.new_id if self.named and self.kind == "replace" else f"old-{self.name}"

    @property
    def new_id(self) -> str:
        return f"named-{self.name}" if self.named else f"new-{self.name}"

    def done(self, what: str, upto: int) -> bool:
        return what in STEPS[self.kind][:upto]


@dataclass
class World:
    things: list[Thing]
    whole: bool = True
    drop: int = 0  # events at the end of the journal that were lost with it
    objects: dict[str, Json] = field(default_factory=dict)  # id → attributes and `type`

    def __post_init__(self) -> None:
        for thing in self.things:
            if thing.old is not None and not thing.done("unmade", thing.reached):
                changed = {"size": "2", "etag": "e2"} if thing.done("changed", thing.reached) else {}
                self.objects[thing.old["id"]] = {**thing.old, **changed, "type": thing.type}
            if thing.done("made", thing.reached):
                self.objects[thing.new_id] = {**(thing.wanted or {}), "id": thing.new_id, "etag": "e2", "type": thing.type}

    # Before the crash

    def approved(self) -> Json:
        changes = []
        for thing in self.things:
            unknown = {} if thing.kind in ("keep", "delete") else {"etag": True} if thing.kind == "update" else {"id": True, "etag": True}
            known = {} if thing.kind in ("create", "replace", "create_first") else {"id": thing.old_id}
            known |= {"etag": "e1"} if thing.kind == "keep" else {}
            after = None if thing.wanted is None else {**thing.wanted, **known}
            changes.append(change(thing.address, *ACTIONS[thing.kind], before=thing.old, after=after, unknown=unknown))
        outputs = {"fixed": output("create", after="x"), "late": output("update", before="a", unknown=True)}
        return plan(*changes, outputs=outputs)

    def attempt(self) -> AttemptJournal:
        lines = []
        for thing in self.things:
            for step in STEPS[thing.kind][: thing.reached]:
                id = thing.new_id if step == "created" else thing.old_id if step in ("delete", "update", "updated") else None
                if step in ("create", "delete", "update"):
                    lines.append(event("apply_start", thing.address, step, id))
                elif step in ("created", "deleted", "updated"):
                    lines.append(event("apply_complete", thing.address, step.removesuffix("d"), id))
        kept = lines[: max(0, len(lines) - self.drop)]
        approved = self.approved()
        return attempt_of(approved, approved, attempt_id="att_1", journal=journal(*kept), whole=self.whole and not self.drop)

    def state(self) -> list[Json]:
        """What was stored last."""
        objects = []
        for thing in self.things:
            upto = thing.stored
            made, gone = thing.done("created", upto), thing.done("deleted", upto)
            aside = thing.kind == "create_first" and thing.done("create", upto)
            if thing.old is not None and not gone:
                changed = {"size": "2", "etag": "e2"} if thing.done("updated", upto) else {}
                deposed = {"deposed": "d1"} if aside else {}
                old = {**thing.old, **changed}
                objects.append({"address": thing.address, "id": old["id"], "attributes": old, **deposed})
            if made:
                objects.append({"address": thing.address, "id": thing.new_id, "attributes": {**(thing.wanted or {}), "etag": "e2"}})
        return objects

    # After it

    def salvage(self) -> Salvage:
        found = fold([self.attempt()], self.approved(), state_of(self.state()), rules=RULES)
        for need in found.look_ups:
            assert need.look_up is not None
            type, name = need.look_up.type, need.look_up.unique["name"]
            hits = [
                Hit(id=id, made_at=SINCE if o["etag"] == "e2" else BEFORE)
                for id, o in self.objects.items()
                if (o["type"], o["name"]) == (type, name)
            ]
            found = found.settled(need.address, hits, since=SINCE, label=None)
        return found

    def planned_again(self, salvage: Salvage) -> Json:
        """What a correct engine plans after `state rm`, with the imports and replaces asked for."""
        known = [o for o in self.state() if o["address"] not in salvage.removals]
        drift = [
            change(o["address"], "delete" if o["id"] not in self.objects else "update", before=o["attributes"], after=None)
            for o in known
            if self._bare(o["id"]) != {**o["attributes"], "id": o["id"]}
        ]
        taken = {o["address"] for o in known}  # before it is looked at again: where the state has anything, an import is passed over
        known = [o for o in known if o["id"] in self.objects]
        changes = []
        for thing in self.things:
            here = [o for o in known if o["address"] == thing.address]
            aside = [o for o in here if o.get("deposed")]
            changes += [change(thing.address, "delete", before=self._bare(o["id"]), deposed=o["deposed"]) for o in aside]
            current = next((o["id"] for o in here if not o.get("deposed")), None)
            changes += self._planned(thing, current, salvage, empty=thing.address not in taken)
        late = "create" if drift else "update"
        outputs = {"fixed": output(late, after="x"), "late": output("update", before="a", unknown=True)}
        return plan(*changes, outputs=outputs, drift=drift)

    def _planned(self, thing: Thing, current: str | None, salvage: Salvage, *, empty: bool) -> list[Json]:
        more: Json = {}
        if empty and thing.address in salvage.imports:
            current = salvage.imports[thing.address]
            more["importing"] = {"id": current}
            assert current in self.objects, "an import of what does not exist fails the plan"
        before = self._bare(current) if current is not None else None
        if thing.wanted is None:
            return [change(thing.address, "delete", before=before, **more)] if before else []
        late = {"id": True, "etag": True}
        if before is None:
            return [change(thing.address, "create", after=thing.wanted, unknown=late, **more)]
        asked = thing.address in salvage.replaces
        if before["kind"] != thing.wanted["kind"] or asked:
            reason = "replace_by_request" if asked else "replace_because_cannot_update"
            order = ACTIONS["create_first" if thing.kind == "create_first" else "replace"]
            return [change(thing.address, *order, before=before, after=thing.wanted, unknown=late, reason=reason, **more)]
        if before["size"] != thing.wanted["size"]:
            after = {**thing.wanted, "id": current}
            return [change(thing.address, "update", before=before, after=after, unknown={"etag": True}, **more)]
        return [change(thing.address, "no-op", before=before, after=before, **more)]

    def _bare(self, id: str) -> Json:
        return {k: v for k, v in self.objects.get(id, {}).items() if k != "type"}

    # The end

    def carry_out(self, document: Json) -> None:
        """Apply a plan to the world."""
        for entry in document["resource_changes"]:
            actions, before, after = (entry["change"][k] for k in ("actions", "before", "after"))
            if "delete" in actions:
                self.objects.pop(before["id"], None)
            if "create" in actions:
                id = f"again-{len(self.objects)}-{after['name']}"
                self.objects[id] = {**copy.deepcopy(after), "id": id, "etag": "e3", "type": entry["type"]}
            if actions == ["update"]:
                self.objects[before["id"]].update({k: v for k, v in after.items() if v is not None})

    def told(self) -> list[tuple[str, Any, Any]]:
        return sorted((f"{o['type']}.{o['name']}", o["size"], o["kind"]) for o in self.objects.values())

    def wanted(self) -> list[tuple[str, Any, Any]]:
        return sorted((t.address, t.wanted["size"], t.wanted["kind"]) for t in self.things if t.wanted is not None)
