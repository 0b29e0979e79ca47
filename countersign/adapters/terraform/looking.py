"""Looking for objects that a lost apply may have made: what the journal does not tell, the cloud may.

A question is answered by a trial: a plan that imports an object by what is unique about it. It is made beside the stack's
folder on a copy of its state, so whatever it says, nothing is locked, stored or changed. Types are looked up only where the
operator said how (`terraform.unique` in the settings): a name that is not unique would show somebody else's object.
"""

import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from string import Formatter

from countersign.adapters.terraform.checkout import OVERRIDE
from countersign.adapters.terraform.session import Session, document_in
from countersign.core.terraform import document as doc
from countersign.core.terraform.document import Number
from countersign.core.terraform.events import Journal
from countersign.core.terraform.imports import FILE, import_blocks
from countersign.core.terraform.salvage import Hit, LookUp, Rules

CLOCKS = timedelta(minutes=5)  # how far the cloud's clock may be from ours
_LOCAL = 'terraform {\n  backend "local" {}\n}\n'
_ABSENT = "Cannot import non-existent remote object"

Answers = Mapping[str, tuple[Hit, ...]]


@dataclass(frozen=True, kw_only=True)
class Unique:
    """What is unique about the objects of a type."""

    id: str  # as the type's import takes it, attributes in braces: "projects/{project}/topics/{name}"
    made: str | None = None  # attribute that says when the object was made; without it a person has to say whose a hit is

    @property
    def attributes(self) -> tuple[str, ...]:
        return tuple(name for _, name, _, _ in Formatter().parse(self.id) if name is not None)

    def named(self, values: Mapping[str, object]) -> str | None:
        """The id of the object that has these values, or None where one of them is none that can stand in an id."""
        texts = {name: _text(values.get(name)) for name in self.attributes}
        return self.id.format(**texts) if all(texts.values()) else None


def rules_of(unique: Mapping[str, Unique]) -> Rules:
    return Rules(unique={pattern: one.attributes for pattern, one in unique.items()})


@dataclass(frozen=True, kw_only=True)
class Trials:
    """Trial imports, in the session of a stack whose folder is initialised."""

    session: Session
    environment: Mapping[str, str]  # of its commands; what belongs to the state service is left out
    var_file: Path | None
    unique: Mapping[str, Unique]
    state: bytes | None
    held: frozenset[str]  # addresses that are in it
    since: datetime | None  # when the first lost attempt began

    async def ask(self, questions: Mapping[str, LookUp]) -> Answers:
        """Address → what was found. An address that is left out could not be asked about."""
        ids = {address: id for address, question in questions.items() if (id := self._id_of(question)) is not None}
        if not ids:
            return {}
        await self.session.tell("looking for what may have been made")
        folder = await self._folder(set(ids))
        return await self._found(folder, ids, questions) if folder is not None else {}

    def _rule(self, type: str) -> Unique | None:
        return next((one for pattern, one in self.unique.items() if fnmatchcase(type, pattern)), None)

    def _id_of(self, question: LookUp) -> str | None:
        rule = self._rule(question.type)
        return rule.named(question.unique) if rule is not None else None

    async def _folder(self, addresses: Collection[str]) -> Path | None:
        """A copy of the stack's folder whose state is a file that does not have these addresses; None where that fails."""
        tree, trial = self.session.place.base / "tree", self.session.place.side / "trial"
        shutil.rmtree(trial, ignore_errors=True)
        shutil.copytree(tree, trial, symlinks=True)
        folder = trial / self.session.place.tree.relative_to(tree)
        (folder / OVERRIDE).write_text(_LOCAL)
        (folder / ".terraform" / "terraform.tfstate").unlink(missing_ok=True)
        if self.state is not None:
            (folder / "terraform.tfstate").write_bytes(self.state)
        commands = [self.session.commands.init()]
        if held := sorted(self.held & set(addresses)):
            commands.append(self.session.commands.remove(held))
        for argv in commands:
            _, ended = await self._run(argv, folder)
            if ended != 0:
                return None
        return folder

    async def _found(self, folder: Path, ids: Mapping[str, str], questions: Mapping[str, LookUp]) -> Answers:
        """All at once; what is absent fails a plan and says so, and the rest is asked again without it."""
        (folder / FILE).write_text(import_blocks(ids))
        out = self.session.place.side / "trial.tfplan"
        argv = self.session.commands.plan(out=out, var_files=[self.var_file] if self.var_file else (), refresh=False, lock=False)
        journal, code = await self._run(argv, folder)
        if code in (0, 2):
            return await self._hits(folder, out, ids, questions)
        absent = [address for address in ids if any(_names(f.detail, address) for f in journal.errors if f.summary == _ABSENT)]
        rest = {address: id for address, id in ids.items() if address not in absent}
        answers: dict[str, tuple[Hit, ...]] = dict.fromkeys(absent, ())
        # Where nothing is absent something else is wrong with one of them: alone each says whether it is that one.
        again: Sequence[Mapping[str, str]] = [rest] if absent else [{a: id} for a, id in rest.items()] if len(rest) > 1 else []
        for some in again:
            answers |= await self._found(folder, some, questions) if some else {}
        return answers

    async def _hits(self, folder: Path, out: Path, ids: Mapping[str, str], questions: Mapping[str, LookUp]) -> Answers:
        ended = await self.session.document("trial-show", self.session.commands.show(out), self._without_service, folder=folder)
        if ended.code != 0:
            return {}
        found: dict[str, tuple[Hit, ...]] = {}
        for change in doc.changes(doc.parse(document_in(ended.out))):
            id = change.before.child("id").value
            rule = self._rule(change.type)
            if change.address in ids and change.importing is not None and id is not None and rule is not None:
                made = change.before.child(rule.made).value if rule.made else None
                found[change.address] = (Hit(id=str(id), made_at=self._made_at(made)),)
        return found

    def _made_at(self, told: object) -> datetime | None:
        """None where it is not certain on which side of the attempt's beginning it lies."""
        try:
            at = datetime.fromisoformat(str(told))
        except ValueError:
            return None
        if at.tzinfo is None or self.since is None or self.since - CLOCKS < at < self.since:
            return None
        return at

    async def _run(self, argv: list[str], folder: Path) -> tuple[Journal, int]:
        journal, ended = await self.session.events("trial", argv, self._without_service, folder=folder)
        return journal, ended.code

    @property
    def _without_service(self) -> dict[str, str]:
        return {name: value for name, value in self.environment.items() if not name.startswith("TF_HTTP_")}


def _text(value: object) -> str:
    """As it stands in an id; nothing where it cannot."""
    return str(value) if isinstance(value, str | Number) else ""


def _names(detail: str, address: str) -> bool:
    """Whether the engine's sentence is about this address, which it quotes as Go does."""
    return json.dumps(address, ensure_ascii=False) in detail
