"""The tables. `org_id` is in every key from the first migration; audit rows are chained from the first row.

Times are text, RFC 3339 in UTC with microseconds: they sort, they read, and every database keeps them exactly. Documents are
JSON text. A row that is a fact is never updated (plans, decisions, events, audit, snapshots); what moves is runs, attempts,
turns and heads, by compare-and-swap inside a transaction that writes the event as well.
"""

from typing import Any

from sqlalchemy import Boolean, Column, Index, Integer, LargeBinary, MetaData, String, Table, Text, UniqueConstraint, text

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _only(condition: str) -> dict[str, Any]:
    """A partial index. Postgres, which gets its tables from the migrations alone, reads the condition there: to say it here as well
    would load its dialect in each part (2 MiB, 20 ms)."""
    return {"sqlite_where": text(condition)}


def _org() -> Column[str]:
    return Column("org_id", String(64), primary_key=True)


# Records of the catalogue: one versioned table, one row per record, kinds declared in code (stack first).
records = Table(
    "records",
    metadata,
    _org(),
    Column("kind", String(40), primary_key=True),
    Column("id", String(64), primary_key=True),  # st_…
    Column("path", String(255), nullable=False),  # "org/env/slug"
    Column("version", Integer, nullable=False),
    Column("body", Text, nullable=False),
    Column("created_at", String(32), nullable=False),
    Column("updated_at", String(32), nullable=False),
    Column("deleted_at", String(32)),
    Index("ix_records_live_path", "org_id", "kind", "path", unique=True, **_only("deleted_at IS NULL")),
)

secrets = Table(
    "secrets",
    metadata,
    _org(),
    Column("slug", String(64), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
    Column("kid", String(32), nullable=False),
    Column("fingerprint", String(64), nullable=False),  # keyed, so equal values can be told without being guessed
    Column("created_at", String(32), nullable=False),
    Column("created_by", String(120), nullable=False),
)

keys = Table(
    "keys",
    metadata,
    _org(),
    Column("id", String(32), primary_key=True),  # public part of the key
    Column("principal", String(120), nullable=False),  # "agent:claude"
    Column("kind", String(16), nullable=False),
    Column("acts_for", String(120)),
    Column("role", String(40), nullable=False),
    Column("hash", String(80), nullable=False),  # sha256 of the secret part: it has 256 random bits, so it needs no slow hash
    Column("created_at", String(32), nullable=False),
    Column("created_by", String(120), nullable=False),
    Column("expires_at", String(32)),
    Column("revoked_at", String(32)),
)

# Who is signed in to the page for people, and the one-time codes that begin it. Of both only the hash is kept; what a session may do
# hangs on its key, which is looked up with it at every request.
page_sessions = Table(
    "page_sessions",
    metadata,
    _org(),
    Column("hash", String(80), primary_key=True),  # sha256 of what the cookie holds, which has 256 random bits
    Column("key_id", String(32), nullable=False),
    Column("created_at", String(32), nullable=False),
    Column("seen_at", String(32), nullable=False),  # the last time somebody did something, to within a minute
    Column("expires_at", String(32), nullable=False),
    Column("ended_at", String(32)),
)

page_codes = Table(
    "page_codes",
    metadata,
    _org(),
    Column("hash", String(80), primary_key=True),
    Column("key_id", String(32), nullable=False),
    Column("expires_at", String(32), nullable=False),
    Column("used_at", String(32)),
)

receipts = Table(
    "receipts",
    metadata,
    _org(),
    Column("principal", String(120), primary_key=True),
    Column("tool", String(64), primary_key=True),
    Column("key", String(128), primary_key=True),
    Column("arguments", Text, nullable=False),  # {argument: digest of its value}, to name the fields that differ
    Column("run_id", String(40)),
    Column("result", Text),  # of a tool that starts no run
    Column("created_at", String(32), nullable=False),
    Column("expires_at", String(32), nullable=False),
)

runs = Table(
    "runs",
    metadata,
    _org(),
    Column("id", String(40), primary_key=True),
    Column("type", String(64), nullable=False),
    Column("engine", String(40), nullable=False),
    Column("mode", String(20), nullable=False),
    Column("stack_id", String(40), nullable=False),
    Column("stack_path", String(255), nullable=False),
    Column("env", String(130), nullable=False),  # "org/env"
    Column("state", String(32), nullable=False),
    Column("requester", String(120), nullable=False),
    Column("requester_kind", String(16), nullable=False),
    Column("acts_for", String(120)),
    Column("request", Text, nullable=False),  # arguments as taken, secrets only as {"secret": slug}
    Column("request_digest", String(80), nullable=False),
    Column("message", String(500)),
    Column("reason", Text),  # why it is where it is: failure, refusal, instructions; redacted
    Column("code", String(40)),
    Column("plan_number", Integer, nullable=False, server_default="0"),
    Column("plan_digest", String(80)),
    Column("change_class", String(32)),
    Column("requirement", Text),  # Requirement as JSON, once there is a plan to approve
    Column("expires_at", String(32)),  # of the approval, I8
    Column("done", Integer, nullable=False, server_default="0"),
    Column("total", Integer, nullable=False, server_default="0"),
    Column("current", String(400), nullable=False, server_default=""),
    Column("outputs", Text),
    Column("resources", Text),
    Column("alarms", Text),  # JSON: what an apply did that nobody approved, as the live guard saw it
    Column("parent", String(40)),  # the composite that this run is a step of
    Column("step", Integer),  # of it, from 1
    Column("late", Text),  # why it is planned only after the steps before it
    Column("created_at", String(32), nullable=False),
    Column("updated_at", String(32), nullable=False),
    Column("ended_at", String(32)),
    Column("cursor", Integer, nullable=False, server_default="0"),  # events.n of the newest event of this run
    Index("ix_runs_stack", "org_id", "stack_id", "created_at"),
    Index("ix_runs_state", "org_id", "state", "created_at"),
    Index("ix_runs_parent", "org_id", "parent"),
)

# The ledger: every transition and every step worth telling, in one monotonic order. What run_wait reads.
events = Table(
    "events",
    metadata,
    Column("n", Integer, primary_key=True, autoincrement=True),
    Column("org_id", String(64), nullable=False),
    Column("run_id", String(40), nullable=False),
    Column("at", String(32), nullable=False),
    Column("kind", String(40), nullable=False),  # "state", "queued", "decision", "refused", "progress", "warning", "cancel"
    Column("state", String(32), nullable=False),
    Column("body", Text, nullable=False),
    Index("ix_events_run", "org_id", "run_id", "n"),
    sqlite_autoincrement=True,
)

plans = Table(
    "plans",
    metadata,
    _org(),
    Column("run_id", String(40), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("plan_digest", String(80)),  # None for plans nobody approves (speculative, validation)
    Column("document", Text),  # ApprovalDocument
    Column("semantic_digest", String(80), nullable=False),
    Column("summary", Text, nullable=False),  # core.plan.Plan
    Column("inputs", Text, nullable=False),
    Column("findings", Text, nullable=False, server_default="[]"),
    Column("lineage", String(80)),
    Column("serial", Integer, nullable=False, server_default="0"),
    Column("created_at", String(32), nullable=False),
    UniqueConstraint("org_id", "plan_digest"),
)

# Every decision that reached `decide`, accepted or refused.
decisions = Table(
    "decisions",
    metadata,
    _org(),
    Column("id", String(64), primary_key=True),
    Column("run_id", String(40), nullable=False),
    Column("plan_digest", String(80)),
    Column("decision", String(16), nullable=False),  # approve | reject
    Column("accepted", Boolean, nullable=False),
    Column("channel", String(20), nullable=False),
    Column("principal", String(120), nullable=False),
    Column("principal_kind", String(16), nullable=False),
    Column("acts_for", String(120)),
    Column("confirm_name", String(255)),
    Column("comment", Text),
    Column("code", String(40)),
    Column("message", Text),
    Column("nonce", String(64), nullable=False),  # of the signature, or the update id: a decision counts once
    Column("at", String(32), nullable=False),
    UniqueConstraint("org_id", "nonce"),
    Index("ix_decisions_run", "org_id", "run_id"),
)

# One row per claim, and so one per apply. I3: unique by plan, for ever. I2: one open per stack.
attempts = Table(
    "attempts",
    metadata,
    _org(),
    Column("id", String(40), primary_key=True),
    Column("run_id", String(40), nullable=False),
    Column("stack_id", String(40), nullable=False),
    Column("plan_digest", String(80), nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("host", String(120), nullable=False),
    Column("boot_id", String(64), nullable=False),
    Column("opened_at", String(32), nullable=False),
    Column("ended_at", String(32)),  # when it was proven that nothing of it lives; it is fenced by then
    Column("closed_at", String(32)),
    Column("outcome", String(32)),
    Column("evidence", Text),  # JSON list of lines
    UniqueConstraint("org_id", "plan_digest"),
    Index("ix_attempts_open", "org_id", "stack_id", unique=True, **_only("closed_at IS NULL")),
    Index("ix_attempts_run", "org_id", "run_id"),
)

# What an apply did, shipped while it runs: what is left where its machine does not come back. Chunks of one attempt, in order.
journals = Table(
    "journals",
    metadata,
    _org(),
    Column("attempt_id", String(40), primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("upto", Integer, nullable=False),  # lines of the journal on its machine that this chunk and those before it account for
    Column("late", Boolean, nullable=False),  # told after the attempt was proven dead, or closed: by a process nobody knew of
    Column("facts", Text, nullable=False),  # host, boot, process, lock and epoch of the attempt, as JSON
    Column("sealed", LargeBinary, nullable=False),
    Column("kid", String(32), nullable=False),
    Column("sha256", String(80), nullable=False),  # of the chunk before, and what this one says
    Column("at", String(32), nullable=False),
)

# Who plans or applies on a state now, and who is next. A row per run that wants its turn; at most one holds it.
turns = Table(
    "turns",
    metadata,
    _org(),
    Column("stack_id", String(40), primary_key=True),
    Column("run_id", String(40), primary_key=True),
    Column("number", Integer, nullable=False),  # order of asking, per stack
    Column("rank", Integer, nullable=False, server_default="0"),  # core.queue: the lowest is next, of equal ones the lowest number
    Column("by", String(120), nullable=False, server_default=""),  # the requester's principal
    Column("held", Boolean, nullable=False),
    Column("since", String(32), nullable=False),
    Index("ix_turns_held", "org_id", "stack_id", unique=True, **_only("held = 1")),
)

# The head of one state: changed by compare-and-swap only. Lock and epoch belong to the state service and the claim.
states = Table(
    "states",
    metadata,
    _org(),
    Column("stack_id", String(40), primary_key=True),
    Column("epoch", Integer, nullable=False, server_default="0"),
    Column("lock", Text),  # the holder's JSON, as the engine sent it
    Column("lock_credential", String(40)),
    Column("locked_at", String(32)),
    Column("lineage", String(80)),
    Column("serial", Integer, nullable=False, server_default="0"),
    Column("sha256", String(80)),
    Column("size", Integer, nullable=False, server_default="0"),
    Column("seq", Integer, nullable=False, server_default="0"),  # of the newest snapshot; every change of the head counts on
    Column("version", Integer, nullable=False, server_default="0"),
)

snapshots = Table(
    "snapshots",
    metadata,
    _org(),
    Column("stack_id", String(40), primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("serial", Integer, nullable=False),
    Column("lineage", String(80), nullable=False),
    Column("sha256", String(80), nullable=False),
    Column("size", Integer, nullable=False),
    Column("artifact_id", String(80), nullable=False),
    Column("credential_id", String(40), nullable=False),
    Column("run_id", String(40), nullable=False),
    Column("at", String(32), nullable=False),
)

# What one attempt shows to the state service; only its hash is kept.
credentials = Table(
    "credentials",
    metadata,
    _org(),
    Column("id", String(40), primary_key=True),  # basic-auth user name: the attempt's id
    Column("stack_id", String(40), nullable=False),
    Column("run_id", String(40), nullable=False),
    Column("mode", String(8), nullable=False),  # read | plan | apply
    Column("epoch", Integer, nullable=False),
    Column("hash", String(80), nullable=False),
    Column("expires_at", String(32), nullable=False),
    Column("revoked_at", String(32)),
    Index("ix_credentials_live", "org_id", "stack_id", **_only("revoked_at IS NULL")),
)

# What happened to locks, for attribution (I5).
lock_events = Table(
    "lock_events",
    metadata,
    Column("n", Integer, primary_key=True, autoincrement=True),
    Column("org_id", String(64), nullable=False),
    Column("stack_id", String(40), nullable=False),
    Column("credential_id", String(40), nullable=False),
    Column("run_id", String(40), nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("action", String(16), nullable=False),  # lock | unlock | refused
    Column("lock", Text, nullable=False),
    Column("at", String(32), nullable=False),
    Index("ix_lock_events_stack", "org_id", "stack_id", "n"),
    sqlite_autoincrement=True,
)

artifacts = Table(
    "artifacts",
    metadata,
    _org(),
    Column("id", String(80), primary_key=True),
    Column("run_id", String(40)),
    Column("stack_id", String(40), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("name", String(120), nullable=False),
    Column("readable", Boolean, nullable=False),  # redacted already, so read_artifact may give it
    Column("sha256", String(80), nullable=False),  # of the plaintext
    Column("size", Integer, nullable=False),
    Column("kid", String(32), nullable=False),
    Column("at", String(32), nullable=False),
    Column("expires_at", String(32)),
    Index("ix_artifacts_run", "org_id", "run_id"),
)

# Freezes and kill switches, weighed at every claim.
switches = Table(
    "switches",
    metadata,
    _org(),
    Column("id", String(120), primary_key=True),  # "all_writes", "env:acme/prod", "stack:…"
    Column("is_on", Boolean, nullable=False),
    Column("reason", Text, nullable=False),
    Column("by", String(120), nullable=False),
    Column("until", String(32)),
    Column("at", String(32), nullable=False),
)

# Hash-chained over canonical bytes: hash = sha256(prev_hash + body). Signing and the offline verifier come with the gateway.
audit = Table(
    "audit",
    metadata,
    _org(),
    Column("seq", Integer, primary_key=True),
    Column("prev_hash", String(80), nullable=False),
    Column("hash", String(80), nullable=False),
    Column("body", Text, nullable=False),  # canonical JSON: at, by, kind, acts_for, action, target, run_id, outcome, digests
)

# What has to be told outside: written by the transaction that moves the run. A notice without a document has not been addressed yet.
outbox = Table(
    "outbox",
    metadata,
    _org(),
    Column("id", String(40), primary_key=True),  # evt_…, the id receivers tell repetitions by
    Column("run_id", String(40), nullable=False),
    Column("moment", String(32), nullable=False),  # core.notice.Moment
    Column("at", String(32), nullable=False),
    Column("facts", Text, nullable=False),  # core.notice.Facts
    Column("document", Text),  # the CloudEvent, byte for byte as it is sent
    Index("ix_outbox_waiting", "at", **_only("document IS NULL")),
)

# One row for each webhook that a notice is for.
deliveries = Table(
    "deliveries",
    metadata,
    _org(),
    Column("event_id", String(40), primary_key=True),
    Column("webhook", String(64), primary_key=True),
    Column("state", String(16), nullable=False),  # pending | delivered | dead
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("next_at", String(32), nullable=False),  # while an attempt is under way: when another may take it
    Column("at", String(32), nullable=False),
    Column("status", Integer),  # HTTP, of the newest answer
    Column("said", String(300)),  # why it failed, cleaned
    Index("ix_deliveries_due", "webhook", "state", "next_at"),
)
