"""The spec as it was written, what a study depends on, and since when a driver holds it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("autoprune_studies", sa.Column("spec_text", sa.Text, nullable=False, server_default=""))
    op.add_column("autoprune_leases", sa.Column("since", sa.Float(53), nullable=False, server_default="0"))


def downgrade() -> None:
    op.drop_column("autoprune_leases", "since")
    op.drop_column("autoprune_studies", "spec_text")
