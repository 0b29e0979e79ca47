"""What came after the first schema and before the first release: one migration, so that a fresh store makes each table once."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "outbox",
        sa.Column("org_id", sa.String(length=64), nullable=False),
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("run_id", sa.String(length=40), nullable=False),
        sa.Column("moment", sa.String(length=32), nullable=False),
        sa.Column("at", sa.String(length=32), nullable=False),
        sa.Column("facts", sa.Text(), nullable=False),
        sa.Column("document", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("org_id", "id", name=op.f("pk_outbox")),
    )
    unaddressed = sa.text("document IS NULL")
    op.create_index("ix_outbox_waiting", "outbox", ["at"], unique=False, sqlite_where=unaddressed, postgresql_where=unaddressed)
    op.create_table(
        "deliveries",
        sa.Column("org_id", sa.String(length=64), nullable=False),
        sa.Column("event_id", sa.String(length=40), nullable=False),
        sa.Column("webhook", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("next_at", sa.String(length=32), nullable=False),
        sa.Column("at", sa.String(length=32), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("said", sa.String(length=300), nullable=True),
        sa.PrimaryKeyConstraint("org_id", "event_id", "webhook", name=op.f("pk_deliveries")),
    )
    op.create_index("ix_deliveries_due", "deliveries", ["webhook", "state", "next_at"], unique=False)
    op.create_table(
        "page_sessions",
        sa.Column("org_id", sa.String(length=64), nullable=False),
        sa.Column("hash", sa.String(length=80), nullable=False),
        sa.Column("key_id", sa.String(length=32), nullable=False),
        sa.Column("created_at", sa.String(length=32), nullable=False),
        sa.Column("seen_at", sa.String(length=32), nullable=False),
        sa.Column("expires_at", sa.String(length=32), nullable=False),
        sa.Column("ended_at", sa.String(length=32), nullable=True),
        sa.PrimaryKeyConstraint("org_id", "hash", name=op.f("pk_page_sessions")),
    )
    op.create_table(
        "page_codes",
        sa.Column("org_id", sa.String(length=64), nullable=False),
        sa.Column("hash", sa.String(length=80), nullable=False),
        sa.Column("key_id", sa.String(length=32), nullable=False),
        sa.Column("expires_at", sa.String(length=32), nullable=False),
        sa.Column("used_at", sa.String(length=32), nullable=True),
        sa.PrimaryKeyConstraint("org_id", "hash", name=op.f("pk_page_codes")),
    )
    op.create_table(
        "journals",
        sa.Column("org_id", sa.String(length=64), nullable=False),
        sa.Column("attempt_id", sa.String(length=40), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("upto", sa.Integer(), nullable=False),
        sa.Column("late", sa.Boolean(), nullable=False),
        sa.Column("facts", sa.Text(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("kid", sa.String(length=32), nullable=False),
        sa.Column("sha256", sa.String(length=80), nullable=False),
        sa.Column("at", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("org_id", "attempt_id", "seq", name=op.f("pk_journals")),
    )
    with op.batch_alter_table("runs") as batch:
        batch.add_column(sa.Column("alarms", sa.Text(), nullable=True))
        batch.add_column(sa.Column("parent", sa.String(length=40), nullable=True))
        batch.add_column(sa.Column("step", sa.Integer(), nullable=True))
        batch.add_column(sa.Column("late", sa.Text(), nullable=True))
        batch.create_index("ix_runs_parent", ["org_id", "parent"], unique=False)
    with op.batch_alter_table("turns") as batch:
        batch.add_column(sa.Column("rank", sa.Integer(), server_default="0", nullable=False))
        batch.add_column(sa.Column("by", sa.String(length=120), server_default="", nullable=False))
    op.create_index("ix_attempts_run", "attempts", ["org_id", "run_id"], unique=False)
    live = sa.text("revoked_at IS NULL")
    op.create_index("ix_credentials_live", "credentials", ["org_id", "stack_id"], unique=False, sqlite_where=live, postgresql_where=live)


def downgrade() -> None:
    op.drop_index("ix_credentials_live", table_name="credentials")
    op.drop_index("ix_attempts_run", table_name="attempts")
    with op.batch_alter_table("turns") as batch:
        batch.drop_column("by")
        batch.drop_column("rank")
    with op.batch_alter_table("runs") as batch:
        batch.drop_index("ix_runs_parent")
        batch.drop_column("late")
        batch.drop_column("step")
        batch.drop_column("parent")
        batch.drop_column("alarms")
    op.drop_table("journals")
    op.drop_table("page_codes")
    op.drop_table("page_sessions")
    op.drop_index("ix_deliveries_due", table_name="deliveries")
    op.drop_table("deliveries")
    op.drop_index("ix_outbox_waiting", table_name="outbox")
    op.drop_table("outbox")
