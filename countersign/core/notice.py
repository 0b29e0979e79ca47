"""What is told outside when a run waits for somebody, needs an operator or ends, and how a receiver knows that it is from us.

The document is a CloudEvent 1.0 in structured JSON. It says who asked for what and where to look, and counts, never what a plan
changes or an engine said: whoever reads a chat need not have the right to read the run. It is signed as Standard Webhooks are:
HMAC-SHA256 over id, time and body, with every secret in force, so that a receiver may change to a new one whenever it likes.
"""

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping
from datetime import timedelta
from enum import StrEnum

from countersign.core.details import who_must_agree
from countersign.core.errors import FailedPrecondition
from countersign.core.ids import derive
from countersign.core.model import Payload
from countersign.core.plan import Counts
from countersign.core.policy import Requirement
from countersign.core.redaction import Redactor
from countersign.core.run import ENDS, RunState

CONTENT_TYPE = "application/cloudevents+json; charset=utf-8"
SHORTEST = 16  # bytes of a signing secret; Standard Webhooks asks for 24 to 64
_PREFIX = "whsec_"
_SHAPES = Redactor()

# After the first attempt, which comes at once. A receiver that is deployed anew misses nothing, and one that is away over night
# gets everything in the morning; the last ones repeat.
WAITS = tuple(timedelta(seconds=s) for s in (5, 30, 120, 300, 900, 1800, 3600, 7200, 14400, 28800))
ATTEMPTS = 12  # a day, all waits together


class Moment(StrEnum):
    WAITING = "waiting"  # for people to agree
    NEEDS_OPERATOR = "needs_operator"
    ENDED = "ended"
    ALARM = "alarm"  # an apply does what nobody approved; told once an attempt
    DRIFTED = "drifted"  # a check found drift that the one before had not


def moment_of(state: RunState) -> Moment | None:
    """What somebody outside is told when a run comes into a state; nothing for most."""
    if state in ENDS:
        return Moment.ENDED
    return {RunState.AWAITING_APPROVAL: Moment.WAITING, RunState.NEEDS_OPERATOR: Moment.NEEDS_OPERATOR}.get(state)


class Facts(Payload):
    """Where a run stood at that moment: written with the change of its state, so that nothing later gets into the message."""

    org: str
    run_id: str
    run_type: str
    env: str  # "org/env"
    stack: str  # "org/env/slug"
    state: RunState
    requester: str
    acts_for: str | None = None
    change_class: str | None = None
    plan_number: int = 0
    code: str | None = None
    requirement: Requirement | None = None
    expires_at: str | None = None
    at: str  # RFC 3339


def event_id(org: str, run_id: str, number: int) -> str:
    """The same at every attempt: what a receiver tells repetitions by. `number` is that of the ledger's event."""
    return derive("evt", org, run_id, str(number))


def document(facts: Facts, moment: Moment, *, id: str, counts: Counts | None, source: str, url: str) -> str:
    """The CloudEvent as it is sent, byte for byte, at every attempt."""
    need = facts.requirement if moment is Moment.WAITING else None
    data = {
        "organization": facts.org,
        "environment": facts.env,
        "stack": facts.stack,
        "run_id": facts.run_id,
        "run_type": facts.run_type,
        "state": str(facts.state),
        "code": facts.code,
        "change_class": facts.change_class,
        "counts": counts.model_dump() if counts else None,
        "requester": facts.requester,
        "acts_for": facts.acts_for,
        "approval": {"by": who_must_agree(need), "people": need.people, "typed_name": need.confirm_name is not None} if need else None,
        "expires_at": facts.expires_at if need else None,
        "url": url,
        "text": _sentence(facts, moment, counts),
    }
    return _event(id=id, kind=f"countersign.run.{moment}", source=source, subject=facts.run_id, at=facts.at, data=data)


def trial_document(*, id: str, source: str, at: str, webhook: str) -> str:
    """What `countersign webhook test` sends; about no run."""
    data = {"webhook": webhook, "text": "A test from Countersign. Nothing waits for anybody."}
    return _event(id=id, kind="countersign.webhook.test", source=source, subject=webhook, at=at, data=data)


def _event(*, id: str, kind: str, source: str, subject: str, at: str, data: Mapping[str, object]) -> str:
    event = {
        "specversion": "1.0",
        "id": id,
        "source": source,
        "type": kind,
        "subject": subject,
        "time": at,
        "datacontenttype": "application/json",
        "data": {name: value for name, value in data.items() if value is not None},
    }
    return json.dumps(event, ensure_ascii=False, separators=(",", ":"))


def _sentence(facts: Facts, moment: Moment, counts: Counts | None) -> str:
    """One line that a chat can show as it is."""
    says = {
        Moment.WAITING: f"waits for {who_must_agree(facts.requirement) if facts.requirement else 'a decision'}",
        Moment.NEEDS_OPERATOR: "needs an operator; its state is blocked until then",
        Moment.ALARM: "does what nobody approved; look at it now",
        Moment.DRIFTED: "found what was changed outside of it",
        Moment.ENDED: f"ended: {facts.state}" + (f" ({facts.code})" if facts.code else ""),
    }[moment]
    told = (counts.happened if moment is Moment.DRIFTED else str(counts)) if counts else ""
    plan = f"; {told}, class {facts.change_class}" if told and facts.change_class else ""
    who = facts.requester + (f" for {facts.acts_for}" if facts.acts_for else "")
    return _SHAPES.line(f"{facts.run_type} on {facts.stack} {says}{plan}; asked for by {who}", 400)


def signing_key(secret: str) -> bytes:
    """The bytes of a secret: base64 behind `whsec_`, else the text itself. Raises FailedPrecondition for one that can be guessed."""
    text = secret.strip()
    try:
        key = base64.b64decode(text.removeprefix(_PREFIX), validate=True) if text.startswith(_PREFIX) else text.encode()
    except (binascii.Error, ValueError):
        raise FailedPrecondition("a signing secret that begins with whsec_ goes on in base64; set it again") from None
    if len(key) < SHORTEST:
        raise FailedPrecondition(f"a signing secret has at least {SHORTEST} bytes, this one has {len(key)}; set a longer one")
    return key


def signatures(keys: Iterable[bytes], *, id: str, timestamp: int, body: bytes) -> str:
    """The header `webhook-signature`: one `v1,…` for each key; a receiver takes any that fits."""
    signed = b".".join((id.encode(), str(timestamp).encode(), body))
    return " ".join("v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode() for key in keys)


def wait_after(attempts: int) -> timedelta:
    """How long after the last of so many attempts the next one comes, before chance is added."""
    return WAITS[min(max(attempts, 1), len(WAITS)) - 1]
