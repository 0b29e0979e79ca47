"""The state of a stack between a lost apply and the plan of what is left: read, and brought up to what is known.

Nothing is written but what is certain: a state that the lost apply made and could not store, the absence of objects whose
deletion it completed, and, where nothing is left to do, what is there. The engine itself writes, under the lock and the credential
of this work.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from countersign.adapters.terraform.session import Session, document_in
from countersign.core.errors import InvalidArgument, ProviderError
from countersign.core.terraform.events import Journal
from countersign.core.terraform.operations import History
from countersign.core.terraform.salvage import Salvage
from countersign.core.terraform.state import Instance, StateDocument, header_of, read

CHANGES = 2  # exit code of a plan that found something


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
        data = await command(session, environment, "state pull", session.commands.pull())
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
        if self.document is not None and not self._succeeds(left_over):
            return self
        file = session.place.side / "left-over.tfstate"
        file.touch(mode=0o600)
        file.write_bytes(left_over)
        try:
            await command(session, self.environment, "state push", session.commands.push(file))
        except ProviderError as refused:
            # Cut short by a full disk, for one. It says nothing that the journal does not.
            session.note(f"what was left of the state is not stored: {refused.message}")
            return self
        return await self.pulled(session, self.environment)

    def _succeeds(self, left_over: bytes) -> bool:
        """Whether it is newer. A first one has no lineage until it is pushed, so one of another lineage was pushed before."""
        try:
            header = header_of(left_over)
        except InvalidArgument:
            return False
        return header.lineage == self.lineage and header.serial > self.serial

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
        await command(self.session, self.environment, "state rm", self.session.commands.remove(gone))
        return await self.pulled(self.session, self.environment)

    async def refreshed(self, var_files: Sequence[Path]) -> None:
        """As the world is by now: what was in flight may be done, and the state not know of it. Changes nothing of the world."""
        session, out = self.session, self.session.place.side / "refresh.tfplan"
        await session.tell("storing what is there")
        argv = session.commands.plan(out=out, var_files=var_files, refresh_only=True, lock=True)
        journal, ended = await session.events("refresh", argv, self.environment)
        if ended.code == CHANGES:
            journal, ended = await session.events("refresh-apply", session.commands.apply(out), self.environment)
        if ended.code != 0:
            raise session.failed("refresh", journal, ended)

    async def with_made(self, salvage: Salvage, var_file: Path | None) -> None:
        """With every object of this run, those half made marked for replacement: for a run that is not to go on."""
        commands, session = self.session.commands, self.session
        for address, id in salvage.imports.items():
            await session.tell(f"recording {address}")
            await command(session, self.environment, "import", commands.take(address, id, var_file=var_file))
        for need in salvage.needs.values():
            if need.half:
                await command(session, self.environment, "taint", commands.taint(need.address))


async def command(session: Session, environment: Mapping[str, str], name: str, argv: list[str]) -> bytes:
    ended = await session.document(name.replace(" ", "-"), argv, environment)
    if ended.code != 0:
        raise session.failed(name, Journal(), ended)
    return document_in(ended.out).strip()
