"""Which arm of the space a trial was proposed in."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("autoprune_trials", sa.Column("arm", sa.Text, nullable=False, server_default=""))


def downgrade() -> None:
    op.drop_column("autoprune_trials", "arm")
