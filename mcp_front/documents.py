"""What a run left in the artifact store and people may read: plan views, logs, journals."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from countersign.adapters.store.database import stamp
from countersign.adapters.store.runs import RunRow
from countersign.adapters.store.schema import artifacts
from mcp_front.call import Call


@dataclass(frozen=True, kw_only=True)
class Document:
    id: str
    kind: str  # plan_view, semantic_document, log, apply_log, journal
    name: str  # the kind and what it is of: "log-1" of the first plan, "apply_log-att_…" of an attempt
    size: int  # bytes
    sha256: str
    at: str

    @property
    def shown(self) -> dict[str, Any]:
        return {"artifact_id": self.id, "kind": self.kind, "size": self.size, "sha256": self.sha256}


async def documents_of(call: Call, conn: AsyncConnection, run: RunRow) -> list[Document]:
    """Oldest first; bundles, plan documents and what has lapsed are left out."""
    now = stamp(call.front.store.now())
    query = (
        select(artifacts)
        .where(artifacts.c.org_id == run.org, artifacts.c.run_id == run.id, artifacts.c.readable.is_(True))
        .where(artifacts.c.expires_at.is_(None) | (artifacts.c.expires_at > now))
        .order_by(artifacts.c.at, artifacts.c.name)
    )
    rows = await conn.execute(query)
    return [Document(id=r.id, kind=r.kind, name=r.name, size=r.size, sha256=r.sha256, at=r.at) for r in rows]


async def content(call: Call, conn: AsyncConnection, document: Document) -> bytes:
    return await call.front.artifacts.read(conn, org=call.org, artifact_id=document.id)
