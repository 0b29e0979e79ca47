"""The first schema: runs, plans, decisions, attempts, turns, state, audit, records, secrets, keys."""

from alembic import op

from countersign.adapters.store.schema import metadata

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    metadata.create_all(op.get_bind())


def downgrade() -> None:
    metadata.drop_all(op.get_bind())
