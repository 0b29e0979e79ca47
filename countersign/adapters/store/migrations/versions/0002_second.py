"""What came after the first schema and before the first release: one migration, so that a fresh store makes each table once."""

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    pass


def downgrade() -> None:
    pass
