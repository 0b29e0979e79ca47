"""The first schema: runs, plans, decisions, attempts, turns, state, audit, records, secrets, keys."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "artifacts",
        sa.Column("org_id", sa.String(length=64), nullable=False),
        sa.Column("id", sa.String(length=80), nullable=False),
        sa.Column("run_id", sa.String(length=40), nullable=True),
        sa.Column("stack_id", sa.String(length=40), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column("readable", sa.Boolean(), nullable=False),
        sa.Column("sha256", sa.String(length=80), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("kid", sa.String(length=32), nullable=False),
        sa.Column("at", sa.String(length=32), nullable=False),
        sa.Column("expires_at", sa.String(length=32), nullable=True),
        sa.PrimaryKeyConstraint("org_id", "id", name=op.f("pk_artifacts")),
    )
    op.create_index("ix_artifacts_run", "artifacts", ["org_id", "run_id"], unique=False)
    op.create_table(
        "attempts",
        sa.Column("org_id", sa.String(length=64), nullable=False),
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("run_id", sa.String(length=40), nullable=False),
        sa.Column("stack_id", sa.String(length=40), nullable=False),
        sa.Column("plan_digest", sa.String(length=80), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("host", sa.String(length=120), nullable=False),
        sa.Column("boot_id", sa.String(length=64), nullable=False),
        sa.Column("opened_at", sa.String(length=32), nullable=False),
        sa.Column("ended_at", sa.String(length=32), nullable=True),
        sa.Column("closed_at", sa.String(length=32), nullable=True),
        sa.Column("outcome", sa.String(length=32), nullable=True),
        sa.Column("evidence", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("org_id", "id", name=op.f("pk_attempts")),
        sa.UniqueConstraint("org_id", "plan_digest", name=op.f("uq_attempts_org_id_plan_digest")),
    )
    op.create_index(
        "ix_attempts_open",
        "attempts",
        ["org_id", "stack_id"],
        unique=True,
        sqlite_where=sa.text("closed_at IS NULL"),
        postgresql_where=sa.text("closed_at IS NULL"),
    )
    op.create_table(
        "audit",
        sa.Column("org_id", sa.String(length=64), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("prev_hash", sa.String(length=80), nullable=False),
        sa.Column("hash", sa.String(length=80), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("org_id", "seq", name=op.f("pk_audit")),
    )
    op.create_table(
        "credentials",
        sa.Column("org_id", sa.String(length=64), nullable=False),
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("stack_id", sa.String(length=40), nullable=False),
        sa.Column("run_id", sa.String(length=40), nullable=False),
        sa.Column("mode", sa.String(length=8), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("hash", sa.String(length=80), nullable=False),
        sa.Column("expires_at", sa.String(length=32), nullable=False),
        sa.Column("revoked_at", sa.String(length=32), nullable=True),
        sa.PrimaryKeyConstraint("org_id", "id", name=op.f("pk_credentials")),
    )
    op.create_table(
        "decisions",
        sa.Column("org_id", sa.String(length=64), nullable=False),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("run_id", sa.String(length=40), nullable=False),
        sa.Column("plan_digest", sa.String(length=80), nullable=True),
        sa.Column("decision", sa.String(length=16), nullable=False),
        sa.Column("accepted", sa.Boolean(), nullable=False),
        sa.Column("channel", sa.String(length=20), nullable=False),
        sa.Column("principal", sa.String(length=120), nullable=False),
        sa.Column("principal_kind", sa.String(length=16), nullable=False),
        sa.Column("acts_for", sa.String(length=120), nullable=True),
        sa.Column("confirm_name", sa.String(length=255), nullable=True),
        sa.Column("comment", sa.Text(), nullable=True),
        sa.Column("code", sa.String(length=40), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("nonce", sa.String(length=64), nullable=False),
        sa.Column("at", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("org_id", "id", name=op.f("pk_decisions")),
        sa.UniqueConstraint("org_id", "nonce", name=op.f("uq_decisions_org_id_nonce")),
    )
    op.create_index("ix_decisions_run", "decisions", ["org_id", "run_id"], unique=False)
    op.create_table(
        "events",
        sa.Column("n", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("org_id", sa.String(length=64), nullable=False),
        sa.Column("run_id", sa.String(length=40), nullable=False),
        sa.Column("at", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(length=40), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("n", name=op.f("pk_events")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_run", "events", ["org_id", "run_id", "n"], unique=False)
    op.create_table(
        "keys",
        sa.Column("org_id", sa.String(length=64), nullable=False),
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("principal", sa.String(length=120), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("acts_for", sa.String(length=120), nullable=True),
        sa.Column("role", sa.String(length=40), nullable=False),
        sa.Column("hash", sa.String(length=80), nullable=False),
        sa.Column("created_at", sa.String(length=32), nullable=False),
        sa.Column("created_by", sa.String(length=120), nullable=False),
        sa.Column("expires_at", sa.String(length=32), nullable=True),
        sa.Column("revoked_at", sa.String(length=32), nullable=True),
        sa.PrimaryKeyConstraint("org_id", "id", name=op.f("pk_keys")),
    )
    op.create_table(
        "lock_events",
        sa.Column("n", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("org_id", sa.String(length=64), nullable=False),
        sa.Column("stack_id", sa.String(length=40), nullable=False),
        sa.Column("credential_id", sa.String(length=40), nullable=False),
        sa.Column("run_id", sa.String(length=40), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("action", sa.String(length=16), nullable=False),
        sa.Column("lock", sa.Text(), nullable=False),
        sa.Column("at", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("n", name=op.f("pk_lock_events")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_lock_events_stack", "lock_events", ["org_id", "stack_id", "n"], unique=False)
    op.create_table(
        "plans",
        sa.Column("org_id", sa.String(length=64), nullable=False),
        sa.Column("run_id", sa.String(length=40), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("plan_digest", sa.String(length=80), nullable=True),
        sa.Column("document", sa.Text(), nullable=True),
        sa.Column("semantic_digest", sa.String(length=80), nullable=False),
        sa.Column("summary", sa.Text(), nullable=False),
        sa.Column("inputs", sa.Text(), nullable=False),
        sa.Column("findings", sa.Text(), server_default="[]", nullable=False),
        sa.Column("lineage", sa.String(length=80), nullable=True),
        sa.Column("serial", sa.Integer(), server_default="0", nullable=False),
        sa.Column("created_at", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("org_id", "run_id", "number", name=op.f("pk_plans")),
        sa.UniqueConstraint("org_id", "plan_digest", name=op.f("uq_plans_org_id_plan_digest")),
    )
    op.create_table(
        "receipts",
        sa.Column("org_id", sa.String(length=64), nullable=False),
        sa.Column("principal", sa.String(length=120), nullable=False),
        sa.Column("tool", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=128), nullable=False),
        sa.Column("arguments", sa.Text(), nullable=False),
        sa.Column("run_id", sa.String(length=40), nullable=True),
        sa.Column("result", sa.Text(), nullable=True),
        sa.Column("created_at", sa.String(length=32), nullable=False),
        sa.Column("expires_at", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("org_id", "principal", "tool", "key", name=op.f("pk_receipts")),
    )
    op.create_table(
        "records",
        sa.Column("org_id", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=40), nullable=False),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("path", sa.String(length=255), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created_at", sa.String(length=32), nullable=False),
        sa.Column("updated_at", sa.String(length=32), nullable=False),
        sa.Column("deleted_at", sa.String(length=32), nullable=True),
        sa.PrimaryKeyConstraint("org_id", "kind", "id", name=op.f("pk_records")),
    )
    op.create_index(
        "ix_records_live_path",
        "records",
        ["org_id", "kind", "path"],
        unique=True,
        sqlite_where=sa.text("deleted_at IS NULL"),
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_table(
        "runs",
        sa.Column("org_id", sa.String(length=64), nullable=False),
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("type", sa.String(length=64), nullable=False),
        sa.Column("engine", sa.String(length=40), nullable=False),
        sa.Column("mode", sa.String(length=20), nullable=False),
        sa.Column("stack_id", sa.String(length=40), nullable=False),
        sa.Column("stack_path", sa.String(length=255), nullable=False),
        sa.Column("env", sa.String(length=130), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("requester", sa.String(length=120), nullable=False),
        sa.Column("requester_kind", sa.String(length=16), nullable=False),
        sa.Column("acts_for", sa.String(length=120), nullable=True),
        sa.Column("request", sa.Text(), nullable=False),
        sa.Column("request_digest", sa.String(length=80), nullable=False),
        sa.Column("message", sa.String(length=500), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("code", sa.String(length=40), nullable=True),
        sa.Column("plan_number", sa.Integer(), server_default="0", nullable=False),
        sa.Column("plan_digest", sa.String(length=80), nullable=True),
        sa.Column("change_class", sa.String(length=32), nullable=True),
        sa.Column("requirement", sa.Text(), nullable=True),
        sa.Column("expires_at", sa.String(length=32), nullable=True),
        sa.Column("done", sa.Integer(), server_default="0", nullable=False),
        sa.Column("total", sa.Integer(), server_default="0", nullable=False),
        sa.Column("current", sa.String(length=400), server_default="", nullable=False),
        sa.Column("outputs", sa.Text(), nullable=True),
        sa.Column("resources", sa.Text(), nullable=True),
        sa.Column("created_at", sa.String(length=32), nullable=False),
        sa.Column("updated_at", sa.String(length=32), nullable=False),
        sa.Column("ended_at", sa.String(length=32), nullable=True),
        sa.Column("cursor", sa.Integer(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("org_id", "id", name=op.f("pk_runs")),
    )
    op.create_index("ix_runs_stack", "runs", ["org_id", "stack_id", "created_at"], unique=False)
    op.create_index("ix_runs_state", "runs", ["org_id", "state", "created_at"], unique=False)
    op.create_table(
        "secrets",
        sa.Column("org_id", sa.String(length=64), nullable=False),
        sa.Column("slug", sa.String(length=64), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("kid", sa.String(length=32), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.String(length=32), nullable=False),
        sa.Column("created_by", sa.String(length=120), nullable=False),
        sa.PrimaryKeyConstraint("org_id", "slug", "version", name=op.f("pk_secrets")),
    )
    op.create_table(
        "snapshots",
        sa.Column("org_id", sa.String(length=64), nullable=False),
        sa.Column("stack_id", sa.String(length=40), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("serial", sa.Integer(), nullable=False),
        sa.Column("lineage", sa.String(length=80), nullable=False),
        sa.Column("sha256", sa.String(length=80), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("artifact_id", sa.String(length=80), nullable=False),
        sa.Column("credential_id", sa.String(length=40), nullable=False),
        sa.Column("run_id", sa.String(length=40), nullable=False),
        sa.Column("at", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("org_id", "stack_id", "seq", name=op.f("pk_snapshots")),
    )
    op.create_table(
        "states",
        sa.Column("org_id", sa.String(length=64), nullable=False),
        sa.Column("stack_id", sa.String(length=40), nullable=False),
        sa.Column("epoch", sa.Integer(), server_default="0", nullable=False),
        sa.Column("lock", sa.Text(), nullable=True),
        sa.Column("lock_credential", sa.String(length=40), nullable=True),
        sa.Column("locked_at", sa.String(length=32), nullable=True),
        sa.Column("lineage", sa.String(length=80), nullable=True),
        sa.Column("serial", sa.Integer(), server_default="0", nullable=False),
        sa.Column("sha256", sa.String(length=80), nullable=True),
        sa.Column("size", sa.Integer(), server_default="0", nullable=False),
        sa.Column("seq", sa.Integer(), server_default="0", nullable=False),
        sa.Column("version", sa.Integer(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("org_id", "stack_id", name=op.f("pk_states")),
    )
    op.create_table(
        "switches",
        sa.Column("org_id", sa.String(length=64), nullable=False),
        sa.Column("id", sa.String(length=120), nullable=False),
        sa.Column("is_on", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("by", sa.String(length=120), nullable=False),
        sa.Column("until", sa.String(length=32), nullable=True),
        sa.Column("at", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("org_id", "id", name=op.f("pk_switches")),
    )
    op.create_table(
        "turns",
        sa.Column("org_id", sa.String(length=64), nullable=False),
        sa.Column("stack_id", sa.String(length=40), nullable=False),
        sa.Column("run_id", sa.String(length=40), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("held", sa.Boolean(), nullable=False),
        sa.Column("since", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("org_id", "stack_id", "run_id", name=op.f("pk_turns")),
    )
    op.create_index(
        "ix_turns_held", "turns", ["org_id", "stack_id"], unique=True, sqlite_where=sa.text("held = 1"), postgresql_where=sa.text("held")
    )


def downgrade() -> None:
    op.drop_index("ix_turns_held", table_name="turns", sqlite_where=sa.text("held = 1"), postgresql_where=sa.text("held"))
    op.drop_table("turns")
    op.drop_table("switches")
    op.drop_table("states")
    op.drop_table("snapshots")
    op.drop_table("secrets")
    op.drop_index("ix_runs_state", table_name="runs")
    op.drop_index("ix_runs_stack", table_name="runs")
    op.drop_table("runs")
    op.drop_index(
        "ix_records_live_path",
        table_name="records",
        sqlite_where=sa.text("deleted_at IS NULL"),
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.drop_table("records")
    op.drop_table("receipts")
    op.drop_table("plans")
    op.drop_index("ix_lock_events_stack", table_name="lock_events")
    op.drop_table("lock_events")
    op.drop_table("keys")
    op.drop_index("ix_events_run", table_name="events")
    op.drop_table("events")
    op.drop_index("ix_decisions_run", table_name="decisions")
    op.drop_table("decisions")
    op.drop_table("credentials")
    op.drop_table("audit")
    op.drop_index(
        "ix_attempts_open", table_name="attempts", sqlite_where=sa.text("closed_at IS NULL"), postgresql_where=sa.text("closed_at IS NULL")
    )
    op.drop_table("attempts")
    op.drop_index("ix_artifacts_run", table_name="artifacts")
    op.drop_table("artifacts")
