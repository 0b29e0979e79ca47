"""The step that answers a question to an engine: opened here, answered, and sealed again before it goes anywhere."""

import asyncio
import base64
import json
import secrets as random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from countersign.adapters.keyring import Keyring
from countersign.adapters.logs import Log
from countersign.adapters.store import records, runs, secrets
from countersign.adapters.store.database import Store
from countersign.core.engine import Reveal
from countersign.core.errors import CountersignError
from countersign.core.reading import Asked, Question, Reader, Reply
from countersign.core.run import Mode, RunState

log = Log(__name__)
PATIENCE = 16.0  # seconds; less than whoever asked waits, so that they hear why
LARGEST = 1 << 20  # bytes of a reply; a tool says less


@dataclass(frozen=True, kw_only=True)
class Reading:
    store: Store
    keyring: Keyring
    engine: Reader

    async def read(self, question: Question) -> Reply:
        """What is refused is an answer as well: its words may be as secret, and its field and next steps are to arrive."""
        said = json.loads(self.keyring.unseal("artifacts", base64.b64decode(question.sealed), belongs_to=belongs(question, "question")))
        try:
            asked = Asked(
                id=question.id,
                org=question.org,
                env=str(said["env"]),
                subject=str(said["subject"]),
                arguments=said["arguments"],
                reveal=self._reveal(question.org),
                asked_for=self._asked_for(question.org),
            )
            async with asyncio.timeout(PATIENCE):
                answer: dict[str, Any] = {"data": dict(await self.engine.read(asked))}
        except TimeoutError:
            why = f"the cluster or chart source did not answer within {PATIENCE:g} s; ask again, or for less"
            answer = {"error": {"code": "unavailable", "message": why, "retry_after_seconds": 5}}
        except CountersignError as refused:
            answer = {"error": _told(refused)}
        except Exception:  # its text may be anything
            reference = random.token_hex(4)
            log.exception("a question was not answered", engine=question.engine, reference=reference)
            answer = {"error": {"code": "internal", "message": f"an unexpected error; the worker's log tells more under {reference}"}}
        data = json.dumps(answer).encode()
        if len(data) > LARGEST:
            why = f"the answer has {len(data) >> 10} KiB, more than {LARGEST >> 10}; ask for less of it"
            data = json.dumps({"error": {"code": "failed_precondition", "message": why}}).encode()
        sealed, _ = self.keyring.seal("artifacts", data, belongs_to=belongs(question, "reply"))
        return Reply(sealed=base64.b64encode(sealed).decode())

    def _reveal(self, org: str) -> Reveal:
        async def reveal(slug: str) -> str:
            async with self.store.read() as conn:
                return await secrets.reveal(conn, self.keyring, org, slug)

        return reveal

    def _asked_for(self, org: str) -> Callable[[str], Awaitable[Mapping[str, object] | None]]:
        async def asked_for(path: str) -> Mapping[str, object] | None:
            async with self.store.read() as conn:
                env = path.rpartition("/")[0]
                release = next((one for one in await records.releases_of(conn, org, env) if one.path == path), None)
                if release is None:
                    return None
                ended = [RunState.APPLIED, RunState.PARTIALLY_APPLIED, RunState.APPLYING, RunState.VERIFYING]
                found, _ = await runs.list_runs(conn, org, stack_id=release.id, states=ended, waiting_first=False, limit=20)
                newest = next((run for run in found if run.mode is Mode.APPLY and "values" in run.request), None)
                return newest.request if newest is not None else None

        return asked_for


def belongs(question: Question, what: str) -> tuple[str, ...]:
    return (question.org, "reading", question.id, what)


def _told(refused: CountersignError) -> dict[str, Any]:
    return {
        "code": refused.code,
        "message": refused.message,
        "field": refused.field,
        "next": list(refused.next),
        "retry_after_seconds": refused.retry_after_seconds,
    }
