"""The state of a stack between a lost apply and the plan of what is left: read, and brought up to what is known.

Nothing is written but what is certain: a state that the lost apply made and could not store, and the absence of objects whose
deletion it completed. The engine itself writes, under the lock and the credential of this work.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from countersign.adapters.terraform.session import Session, document_in
from countersign.core.errors import InvalidArgument
from countersign.core.terraform.events import Journal
from countersign.core.terraform.operations import History
from countersign.core.terraform.state import Instance, StateDocument, header_of, read


@dataclass(frozen=True, kw_only=True)
class State:
    """As the service has it. `data` is None where there is none yet."""

    session: Session
    environment: Mapping[str, str] = field(repr=False)
    data: bytes | None = field(repr=False)
    document: StateDocument | None = field(repr=False)

    @classmethod
    async def pulled(cls, session: Session, environment: Mapping[str, str]) -> "State":
        await session.tell("reading the state")
        data = await _command(session, environment, "state pull", session.commands.pull())
        # Where nothing was stored yet the engine makes up an empty one, without a lineage.
        there = bool(data) and bool(json.loads(data).get("lineage"))
        return cls(session=session, environment=environment, data=data if there else None, document=read(data) if there else None)

    @property
    def lineage(self) -> str | None:
        return self.document.header.lineage if self.document is not None else None

    @property
    def serial(self) -> int:
        return self.document.header.serial if self.document is not None else 0

    async def with_left_over(self, left_over: bytes) -> "State":
        """With what the lost apply could not store, where that is newer."""
        session = self.session
        try:
            header = header_of(left_over)
        except InvalidArgument:
            session.note("what was left of the state cannot be read; the journal tells what it would have told")
            return self
        # A first push gives the state a lineage of its own, so another lineage is what an earlier one of these stored.
        if self.document is not None and (header.lineage != self.lineage or header.serial <= self.serial):
            return self
        file = session.place.side / "left-over.tfstate"
        file.touch(mode=0o600)
        file.write_bytes(left_over)
        await _command(session, self.environment, "state push", session.commands.push(file))
        return await self.pulled(session, self.environment)

    def deleted(self, histories: Mapping[str, History]) -> list[str]:
        """Addresses whose object the journals saw destroyed, and which the state still has."""
        aside = {i.address for i in self._instances if i.deposed is not None}
        return [
            i.address
            for i in self._instances
            if i.address not in aside and (told := histories.get(i.address)) and str(i.attributes.get("id")) in told.destroyed
        ]

    @property
    def _instances(self) -> Sequence[Instance]:
        return self.document.instances if self.document is not None else ()

    async def without(self, addresses: Iterable[str]) -> "State":
        if not (gone := sorted(set(addresses))):
            return self
        await _command(self.session, self.environment, "state rm", self.session.commands.remove(gone))
        return await self.pulled(self.session, self.environment)


async def _command(session: Session, environment: Mapping[str, str], name: str, argv: list[str]) -> bytes:
    ended = await session.document(name.replace(" ", "-"), argv, environment)
    if ended.code != 0:
        raise session.failed(name, Journal(), ended)
    return document_in(ended.out).strip()
