"""Why earlier attempts at a trial came to nothing."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("autoprune_trials", sa.Column("lineage", sa.Text, nullable=False, server_default=""))


def downgrade() -> None:
    op.drop_column("autoprune_trials", "lineage")
