"""From a call to a durable run, and from a person's word to a signed decision.

A start writes receipt and run first, so that asking twice is asking once and nothing is lost when Temporal is away; then it
starts the workflow. A decision is signed here, over who said it, and decided elsewhere: only the recorded verdict counts.
"""

import base64
import json
import secrets as random
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, Protocol, TypeVar

import anyio
from sqlalchemy.ext.asyncio import AsyncConnection

from countersign.adapters.settings import Settings
from countersign.adapters.store import audit, plans, runs
from countersign.adapters.store.database import Store, stamp
from countersign.adapters.store.requests import Draft, request_run
from countersign.adapters.store.runs import RunRow
from countersign.adapters.store.watch import Watch
from countersign.core.approval import ApproveInput, CancelInput, DecisionClaims, RejectInput, SignedDecision
from countersign.core.details import who_must_agree
from countersign.core.digests import canonical
from countersign.core.errors import BY_CODE, CountersignError, FailedPrecondition, NotFound, PermanentError, Unavailable
from countersign.core.policy import Need
from countersign.core.principal import Principal
from countersign.core.reading import WITHIN, Question, Reply
from countersign.core.run import RunState
from countersign.core.steps import Decided
from mcp_front.envelope import Ask, Progress, RunHandle
from mcp_front.rights import Caller

T = TypeVar("T")
SIGNED_FOR = timedelta(minutes=2)  # how long a decision may be on its way
START_WITHIN = 1.5  # seconds for Temporal to take a start; the row is there whatever becomes of it
LOOK_AGAIN = 1.0  # seconds after which a waiter looks whether this process is ending
WAITS = frozenset({RunState.AWAITING_APPROVAL, RunState.NEEDS_OPERATOR})  # for a person


class RunsPort(Protocol):
    """What the front says to run workflows; `adapters.temporal.Runs` does it."""

    async def start(self, run: RunRow, *, again: bool = False) -> None: ...
    async def approve(self, run_id: str, given: ApproveInput, *, update_id: str) -> Decided: ...
    async def reject(self, run_id: str, given: RejectInput, *, update_id: str) -> Decided: ...
    async def cancel(self, run_id: str, given: CancelInput) -> None: ...
    async def resume(self, run_id: str, by: str) -> None: ...
    async def read(self, question: Question) -> Reply: ...
    async def reachable(self) -> bool: ...


class Signer(Protocol):
    """The front's keys; `adapters.keyring.Keyring` has them."""

    def sign(self, payload: bytes) -> tuple[str, str]:
        """(signature as base64, id of the key)."""
        ...

    def seal(self, purpose: Literal["artifacts"], data: bytes, *, belongs_to: Sequence[str]) -> tuple[bytes, str]:
        """(sealed bytes, id of the key)."""
        ...

    def unseal(self, purpose: Literal["artifacts"], sealed: bytes, *, belongs_to: Sequence[str]) -> bytes: ...


@dataclass(frozen=True, kw_only=True)
class Started:
    run: RunRow
    replayed: bool  # an earlier call started it


class Gateway:
    def __init__(self, *, settings: Settings, store: Store, watch: Watch, runs: Callable[[], Awaitable[RunsPort]], signer: Signer) -> None:
        """`runs` reaches Temporal when it is first needed; it raises Unavailable where there is none."""
        self._settings = settings
        self._store = store
        self._watch = watch
        self._runs = runs
        self._signer = signer
        self._closing = False

    def close(self) -> None:
        """This process ends: whoever waits is answered with what is known, so that nobody is cut off in mid-call."""
        self._closing = True

    @property
    def closing(self) -> bool:
        return self._closing

    async def start(
        self,
        caller: Caller,
        asking: Draft,
        *,
        key: str | None,
        message: str | None,
        steps: Sequence[Draft] = (),
    ) -> Started:
        """Write the run and start its workflow; a client that goes away meanwhile does not stop it. Raises Unavailable, and
        the run is on record then: the same call again starts it."""
        begun: Started | None = None
        with anyio.CancelScope(shield=True):
            asked = await request_run(
                self._store, asking, org=caller.org, principal=caller.principal, key=key, message=message, steps=steps
            )
            if asked.run.state is RunState.PENDING:
                await self.ensure_started(asked.run)
            begun = Started(run=asked.run, replayed=asked.replayed or asked.joined)
        assert begun is not None  # a shielded scope does not end early
        return begun

    async def ensure_started(self, run: RunRow, *, again: bool = False) -> None:
        try:
            with anyio.fail_after(START_WITHIN):
                await (await self._runs()).start(run, again=again)
        except TimeoutError:
            raise _away(run.id) from None
        except Unavailable:
            raise _away(run.id) from None

    async def wait(
        self,
        org: str,
        run_id: str,
        until: Callable[[RunRow], bool],
        *,
        seconds: float,
        on_look: Callable[[RunRow], Awaitable[None]] | None = None,
        states: Collection[RunState] | None = None,
    ) -> RunRow:
        """The run as soon as `until` holds, or as it is after `seconds`. Where it holds in some `states` only, naming them spares
        looks at the others. Raises NotFound."""
        ends = anyio.current_time() + seconds
        while True:
            seen = self._watch.seen
            async with self._store.read() as conn:
                run = await runs.get_run(conn, org, run_id)
            if on_look is not None:
                await on_look(run)
            left = ends - anyio.current_time()
            if until(run) or left <= 0 or self._closing:
                return run
            await self._watch.changed(after=seen, timeout=min(left, LOOK_AGAIN), run=run_id, states=states)

    async def handle(self, conn: AsyncConnection, run: RunRow) -> RunHandle:
        return self.handle_of(run, await self._ask(conn, run))

    def handle_of(self, run: RunRow, ask: Ask | None = None) -> RunHandle:
        """The same of a run that waits for nobody."""
        return RunHandle(
            run_id=run.id,
            state=str(run.state),
            plan_digest=run.plan_digest,
            change_class=run.change_class,
            progress=Progress(done=run.done, total=run.total),
            approval=ask,
        )

    async def _ask(self, conn: AsyncConnection, run: RunRow) -> Ask | None:
        need = run.requirement
        if run.state is not RunState.AWAITING_APPROVAL or need is None or run.parent is not None:
            return None
        decided = await plans.decisions_of(conn, run.org, run.id)
        agreed = {d.by.id for d in decisions_in_force(decided, run.plan_digest)}
        who = who_must_agree(need)
        if need.need in (Need.OTHER, Need.TWO) and run.requester.person:
            who += f" ({run.requester.person})"
        return Ask(
            needed=max(need.people - len(agreed), 0),
            by=[who],
            confirm_name=need.confirm_name,
            url=self.page_url(run.id),
            expires_at=stamp(run.expires_at) if run.expires_at else None,
        )

    def page_url(self, run_id: str) -> str:
        return f"{self._settings.links_url}/runs/{run_id}"

    async def approve(self, caller: Caller, run: RunRow, *, digest: str, comment: str | None, confirm_name: str | None) -> None:
        """Forward an approval, signed. Raises the refusal, which `decide` has recorded then."""
        claims = self._claims(caller, run, "approve", plan_digest=digest, comment=comment, confirm_name=confirm_name)
        given = ApproveInput(plan_digest=digest, comment=comment, confirm_name=confirm_name, signed=self._sign(claims))
        await self._decide(run, lambda port: port.approve(run.id, given, update_id=claims.nonce))

    async def reject(self, caller: Caller, run: RunRow, *, reason: str) -> None:
        claims = self._claims(caller, run, "reject", comment=reason)
        given = RejectInput(reason=reason, signed=self._sign(claims))
        await self._decide(run, lambda port: port.reject(run.id, given, update_id=claims.nonce))

    async def cancel(self, caller: Caller, run: RunRow, *, reason: str, force: bool) -> None:
        claims = self._claims(caller, run, "cancel", comment=reason)
        given = CancelInput(reason=reason, force=force, signed=self._sign(claims))
        await self._recorded(caller, run, "run_cancel")
        await self._say(run, lambda port: port.cancel(run.id, given))

    async def resume(self, caller: Caller, run: RunRow) -> None:
        await self._recorded(caller, run, "run_resume")
        await self._say(run, lambda port: port.resume(run.id, caller.principal.id))

    async def read(self, org: str, engine: str, subject: str, arguments: Mapping[str, Any], *, env: str = "") -> dict[str, Any]:
        """What an engine's worker answers to a question; nothing of it is kept. Raises what it refuses, and Unavailable in the end."""
        question = Question(id=f"read_{random.token_hex(16)}", org=org, engine=engine, sealed="")
        asked = json.dumps({"env": env, "subject": subject, "arguments": dict(arguments)}).encode()
        sealed, _ = self._signer.seal("artifacts", asked, belongs_to=(org, "reading", question.id, "question"))
        question = question.model_copy(update={"sealed": base64.b64encode(sealed).decode()})
        try:
            with anyio.fail_after(WITHIN.total_seconds() + 1):
                reply = await (await self._runs()).read(question)
        except TimeoutError:
            raise nobody_answers() from None
        opened = self._signer.unseal("artifacts", base64.b64decode(reply.sealed), belongs_to=(org, "reading", question.id, "reply"))
        answer = json.loads(opened)
        if (refused := answer.get("error")) is not None:
            more = {name: refused[name] for name in ("field", "next", "retry_after_seconds") if refused.get(name)}
            raise BY_CODE.get(refused["code"], FailedPrecondition)(refused["message"], **more)
        found: dict[str, Any] = answer["data"]
        return found

    async def _decide(self, run: RunRow, say: Callable[[RunsPort], Awaitable[Decided]]) -> None:
        """Raises what refused the decision; the step that decides has written it to the audit chain already."""
        try:
            decided = await self._say(run, say)
            if not decided.accepted:
                raise BY_CODE.get(decided.code or "", FailedPrecondition)(decided.message)
        except PermanentError as refused:
            refused.next = refused.next or (("run_get",) if isinstance(refused, FailedPrecondition) else ("run_plan",))
            refused.details.update(run_id=run.id, recorded=True)
            raise

    async def _recorded(self, caller: Caller, run: RunRow, action: str) -> None:
        """A signal carries nobody's verified name, so who asked for it is written down by the front, before it is sent."""
        async with self._store.begin() as tx:
            at = stamp(self._store.now())
            await audit.append(
                tx, org=run.org, at=at, action=action, by=caller.principal, outcome="requested", target=run.stack_path, run_id=run.id
            )

    async def _say(self, run: RunRow, say: Callable[[RunsPort], Awaitable[T]]) -> T:
        """Say something to the workflow of an open run; a Temporal that does not know the run is told of it first."""
        try:
            port = await self._runs()
            try:
                return await say(port)
            except NotFound:
                await port.start(run)
                return await say(port)
        except NotFound:
            raise Unavailable(
                "the run's workflow was ended from outside; a worker is bringing it back, so ask again in a moment",
                retry_after_seconds=10,
                next=["run_get"],
                details={"run_id": run.id},
            ) from None
        except Unavailable as away:
            away.details.setdefault("run_id", run.id)
            raise

    async def temporal_answers(self) -> bool:
        try:
            return await (await self._runs()).reachable()
        except CountersignError:
            return False

    def _claims(self, caller: Caller, run: RunRow, decision: Any, **said: Any) -> DecisionClaims:
        return DecisionClaims(
            org=run.org,
            run_id=run.id,
            decision=decision,
            principal=Principal(id=caller.principal.id, kind=caller.principal.kind, acts_for=caller.principal.acts_for),
            nonce=random.token_hex(16),
            expires_at=self._store.now() + SIGNED_FOR,
            **said,
        )

    def _sign(self, claims: DecisionClaims) -> SignedDecision:
        payload = canonical(claims.model_dump(mode="json"))
        signature, key_id = self._signer.sign(payload)
        return SignedDecision(payload=payload.decode(), signature=signature, key_id=key_id)


def decisions_in_force(decided: Sequence[plans.DecisionRow], plan_digest: str | None) -> list[plans.DecisionRow]:
    return [d for d in decided if d.accepted and d.decision == "approve" and d.plan_digest == plan_digest]


def nobody_answers() -> Unavailable:
    return Unavailable(
        "no worker answers in time: the cluster or the chart source may be slow, or no worker is up; ask again in a moment",
        retry_after_seconds=5,
    )


def _away(run_id: str) -> Unavailable:
    return Unavailable(
        "Temporal does not answer yet; the run is on record and nothing was changed. Ask again with the same arguments and key",
        retry_after_seconds=5,
        next=["run_get"],
        details={"run_id": run_id},
    )
