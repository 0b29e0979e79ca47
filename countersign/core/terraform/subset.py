"""The subset proof: does a plan made after a lost apply do only what was approved and is not done yet?

Each approved change is accounted for by one of a few rules (their letters are those of the reference, §5 step 9), each
planned one by an approved one. What no rule allows is refused, and a refusal is what people are asked about. Lines name
addresses, attributes and actions, never a value; addresses can hold keys, so redact the lines before they are shown.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from countersign.core.reconcile import Proof
from countersign.core.terraform import document as doc
from countersign.core.terraform.agreement import agrees, differing, same_value
from countersign.core.terraform.classes import STATEFUL_TYPES, action_of, is_stateful
from countersign.core.terraform.document import ResourceChange, Side
from countersign.core.terraform.places import id_in
from countersign.core.terraform.salvage import REPLACES, Need, Remedy, Salvage

LIMIT = timedelta(minutes=15)  # after that people may have begun to use what a repeated replace would destroy
_KNOWN = frozenset({"create", "update", "replace", "delete", "forget", "read", "import", "move"})

Key = tuple[str, str | None]  # address, deposed key


class Refused(Exception):
    """No rule allows it; the text says what differs."""


def prove(
    approved: Mapping[str, Any],
    new: Mapping[str, Any],
    salvage: Salvage,
    *,
    age: timedelta,
    stateful: Iterable[str] = STATEFUL_TYPES,
    volatile: Iterable[str] = (),
) -> Proof:
    """Whether `new` may be applied under the approval of `approved`; both are plan documents.

    `salvage` is the fold of the journals with every look-up settled; `age` the time since the attempt ended; `volatile` the
    variables that may differ from plan to plan.
    """
    olds, news = _by_key(approved), _by_key(new)
    untold = [*_unfinished(new), *_left_behind(news, salvage)]
    refused = [*untold, *_whole(approved, new, frozenset(volatile))]
    rules = Rules(olds, salvage, age, tuple(stateful))
    lines: list[str] = []
    for key in sorted({*olds, *news}, key=lambda k: (k[0], k[1] or "")):
        where = key[0] if key[1] is None else f"{key[0]} (deposed object {key[1]})"
        try:
            if (line := rules.judge(key, olds.get(key), news.get(key))) is not None:
                lines.append(f"{where}: {line}")
        except Refused as difference:
            refused.append(f"{where}: {difference}")
    touched = {a for c in olds.values() if not c.bare_no_op for a in _addresses(c)}
    for said, fits in (*_outputs(approved, new), *_drift(new, touched)):
        (lines if fits else refused).append(said)
    left = sum(not c.bare_no_op for c in news.values())
    return Proof(lines=tuple(lines), refused=tuple(refused), trustworthy=not untold, left=left + len(list(doc.outputs(new))))


# The documents as a whole


def _unfinished(new: Mapping[str, Any]) -> Iterator[str]:
    """Rule h."""
    if new.get("errored") is not False and "errored" in new:
        yield "the plan ended in errors"
    if new.get("complete") is not True and "complete" in new:  # OpenTofu does not say; it is never asked for a part
        yield "the plan is incomplete"
    if new.get("deferred_changes"):
        yield "the plan defers changes to a later one"


def _left_behind(news: Mapping[Key, ResourceChange], salvage: Salvage) -> Iterator[str]:
    """Objects that nobody would know of any more: whoever agreed to such a plan would agree to losing them."""
    for need in (*salvage.look_ups, *salvage.stops):
        yield f"{need.address}: nobody knows whether it was created"
    for address, id in salvage.imports.items():
        now = news.get((address, None))
        if now is None or now.importing != {"id": id}:
            yield f"{address}: this run made it, and the plan does not take it into the state"


def _whole(approved: Mapping[str, Any], new: Mapping[str, Any], volatile: frozenset[str]) -> Iterator[str]:
    if approved.get("terraform_version") != new.get("terraform_version"):
        yield "the engine is another version"
    if approved.get("configuration") != new.get("configuration"):
        yield "the configuration differs"
    if approved.get("action_invocations") or new.get("action_invocations"):
        yield "actions would be invoked beside the resources, and nobody knows whether they were"
    olds, news = approved.get("variables") or {}, new.get("variables") or {}
    for name in sorted({*olds, *news} - volatile):
        if name not in olds or name not in news or not same_value(olds[name].get("value"), news[name].get("value")):
            yield f"variable {name} differs"


def _by_key(document: Mapping[str, Any]) -> dict[Key, ResourceChange]:
    return {(c.address, c.deposed): c for c in doc.changes(document)}


def _outputs(approved: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """Rule f: (line, whether it fits)."""
    olds = {name: after for name, _, _, after in doc.outputs(approved)}
    changed = {name for name, *_ in doc.outputs(new)}
    for name in sorted(changed - set(olds)):
        yield f"output {name}: its change was not approved", False
    now = new.get("output_changes") or {}
    for name, old in sorted(olds.items()):
        one = now.get(name)
        after = (
            Side()
            if one is None
            else Side(value=one.get("after"), unknown=one.get("after_unknown", False), sensitive=one.get("after_sensitive", False))
        )
        fits = agrees(old, after) if one is not None else old.absent
        yield (
            f"output {name}: {'changes as approved' if name in changed else 'is as approved'}"
            if fits
            else (f"output {name}: not what was approved"),
            fits,
        )


def _addresses(change: ResourceChange) -> set[str]:
    return {change.address} if change.previous_address is None else {change.address, change.previous_address}


def _drift(new: Mapping[str, Any], touched: set[str]) -> Iterator[tuple[str, bool]]:
    """Rule g: what changed since the state was stored must be of what was approved to change."""
    for change in doc.changes({"resource_changes": new.get("resource_drift") or ()}):
        if not _addresses(change) & touched:
            yield f"{change.address}: changed outside of this run ({action_of(change)})", False


# One address


@dataclass(frozen=True)
class Rules:
    approved: Mapping[Key, ResourceChange]
    salvage: Salvage
    age: timedelta
    stateful: tuple[str, ...]

    def judge(self, key: Key, old: ResourceChange | None, now: ResourceChange | None) -> str | None:
        """How the change is accounted for; None where nothing is to be said. Raises Refused."""
        if now is not None:
            self._fits(old, now)
        if old is None or old.bare_no_op:
            return self._unapproved(key, old, now)
        if action_of(old) not in _KNOWN:
            raise Refused("this version does not know what was approved")
        if now is None or now.bare_no_op:
            return self._done(key, old, now)
        if old.actions == ("update",) and old.importing is not None and now.actions == ("no-op",) and now.importing is not None:
            return self._only_imported(old, now)
        replaced_again = old.actions in REPLACES and self._ours(old) is not None
        if now.actions == old.actions and not replaced_again:
            return self._as_approved(old, now)
        if old.actions in (("create",), *REPLACES) and now.actions in REPLACES:
            return self._made_again(old, now)
        if "create" in old.actions and now.importing is not None:
            return self._adopted(old, now)
        if old.actions in REPLACES and now.actions == ("create",):
            return self._created_alone(old, now)
        raise Refused(f"{action_of(old)} was approved, and {action_of(now)} is planned")

    def _fits(self, old: ResourceChange | None, now: ResourceChange) -> None:
        base = old or self.approved.get((now.address, None))
        if base is None:
            raise Refused(f"{action_of(now)} was not approved" if not now.bare_no_op else "it was not there when the plan was approved")
        if (now.mode, now.type, now.provider) != (base.mode, base.type, base.provider):
            raise Refused("its type or provider differs")
        if now.moved and now.previous_address != base.previous_address:
            raise Refused("its move was not approved")
        if now.generated_config != base.generated_config:
            raise Refused("its generated configuration differs")

    def _unapproved(self, key: Key, old: ResourceChange | None, now: ResourceChange | None) -> str | None:
        if now is None:
            raise Refused("it was there when the plan was approved, and is no more")
        if now.deposed is not None and old is None and now.actions == ("delete",) and now.importing is None:
            return self._old_object(now)
        if old is None or not now.bare_no_op:
            raise Refused(f"{action_of(now)} was not approved")
        if not _same_object(old, now):
            raise Refused("it is another object than when the plan was approved")
        return None

    def _as_approved(self, old: ResourceChange, now: ResourceChange) -> str:
        """Rule a."""
        if "create" in old.actions and self._exists(old):
            raise Refused("it exists already and would be made twice")
        if now.importing is not None and now.importing != old.importing:
            raise Refused("its import was not approved")
        if not _same_object(old, now):
            raise Refused("it is another object than the one approved")
        _agreeing(old, now)
        return f"{action_of(old)} as approved, still to be done"

    def _only_imported(self, old: ResourceChange, now: ResourceChange) -> str:
        """Rule a, where an import brought an update: what it changes is as approved already, and the state knows nothing of it."""
        if now.importing != old.importing or not _same_object(old, now):
            raise Refused("it is another object than the one approved")
        _agreeing(old, now)
        return "update as approved is done; it is only taken into the state"

    def _adopted(self, old: ResourceChange, now: ResourceChange) -> str:
        """Rule b."""
        need = self._ours(old)
        if need is None or need.remedy is not Remedy.IMPORT or now.importing != {"id": need.id} or id_in(now.before.value) != need.id:
            raise Refused("the object that would be imported is not the one this run made")
        if now.actions not in (("no-op",), ("update",)) or need.half:
            raise Refused(f"it was created, and {action_of(now)} is planned")
        _agreeing(old, now)
        return "created by this run as approved; it is only taken into the state" + (" and settled" if now.actions == ("update",) else "")

    def _made_again(self, old: ResourceChange, now: ResourceChange) -> str:
        """Rule c; what was found in the cloud half made is imported and replaced by one plan."""
        need = self._ours(old)
        asked = now.reason == "replace_by_request" and need is not None and need.half
        if need is None or not (asked or now.reason == "replace_because_tainted"):
            raise Refused(f"{action_of(old)} was approved, and {action_of(now)} is planned")
        taken = {"id": need.id} if need.remedy is Remedy.IMPORT else None
        if id_in(now.before.value) != need.id or now.importing != taken:
            raise Refused("the object that would be replaced is not the one this run made")
        self._soon(old)
        _agreeing(old, now)
        return "left half made by this run; it is made again as approved"

    def _created_alone(self, old: ResourceChange, now: ResourceChange) -> str:
        """Rule d: the old object is gone, or set aside to be destroyed."""
        address = old.address
        if self._exists(old):
            raise Refused("it exists already and would be made twice")
        aside = any(a == address and deposed is not None for a, deposed in self.salvage.held)
        if not aside and self.salvage.whole and address not in self.salvage.deleting:
            raise Refused("its old object is gone, and not by this run")
        self._soon(old)
        _agreeing(old, now)
        return "destroyed by this run as approved; it is created as approved"

    def _old_object(self, now: ResourceChange) -> str:
        """Rule d: a replace that created first has only its old object left."""
        old = self.approved[(now.address, None)]
        if old.actions != REPLACES[1] or id_in(now.before.value) is None or id_in(now.before.value) != id_in(old.before.value):
            raise Refused("delete was not approved")
        self._soon(old)
        return "replaced by this run as approved; its old object is destroyed"

    def _done(self, key: Key, old: ResourceChange, now: ResourceChange | None) -> str:
        """Rule e."""
        action = action_of(old)
        if old.mode != "managed":
            return "read already"
        if old.actions in (("delete",), ("forget",)):
            seen = key[0] in self.salvage.deleting or key in self.salvage.held or not self.salvage.whole
            if now is not None or not (seen or old.actions == ("forget",)):
                raise Refused(f"{action} was approved, is not planned any more, and was not done by this run")
            return f"{action} as approved is done"
        if now is None:
            raise Refused(f"{action} was approved, and it is not there")
        if "create" in old.actions:
            need = self._ours(old)
            if need is None or id_in(now.after.value) != need.id:
                raise Refused("the object that is there is not the one this run made")
            if need.half:
                raise Refused("it was left half made, and is not made again")
        elif not _same_object(old, now):
            raise Refused("it is another object than the one approved")
        _agreeing(old, now)
        return f"{action} as approved is done"

    def _ours(self, old: ResourceChange) -> Need | None:
        need = self.salvage.needs.get(old.address)
        return need if need is not None and need.ours else None

    def _exists(self, old: ResourceChange) -> bool:
        """Half made and being destroyed to be made again, it is what the plan, which looked, says it is."""
        need = self._ours(old)
        return need is not None and not (need.remedy is Remedy.REPLACE and old.address in self.salvage.deleting)

    def _soon(self, old: ResourceChange) -> None:
        if is_stateful(old.type, self.stateful):
            raise Refused("it holds data, so what is left of its replacement is asked again")
        if self.age > LIMIT:
            raise Refused("the apply ended too long ago to go on with its replacement unasked")


def _agreeing(old: ResourceChange, now: ResourceChange) -> None:
    if names := differing(old.after, now.after):
        raise Refused(f"{', '.join(names)} not as approved")


def _same_object(old: ResourceChange, now: ResourceChange) -> bool:
    """An approved import may not have known its object."""
    return old.before.value is None or id_in(old.before.value) == id_in(now.before.value)
