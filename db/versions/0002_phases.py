"""Which step of a strategy wanted a trial, and on how many records it was measured."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("autoprune_trials", sa.Column("phase", sa.Text, nullable=False, server_default=""))
    op.add_column("autoprune_trials", sa.Column("limit", sa.Integer))
    op.add_column("autoprune_trials", sa.Column("share", sa.Float(53), nullable=False, server_default="1"))


def downgrade() -> None:
    for name in ("share", "limit", "phase"):
        op.drop_column("autoprune_trials", name)
