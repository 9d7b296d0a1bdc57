"""First tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

Json = sa.JSON(none_as_null=True)
Time = sa.DateTime(timezone=True)
Id = sa.String(255)


def upgrade() -> None:
    _shared_tables()
    _study_tables()
    op.create_index("ix_autoprune_studies_name", "autoprune_studies", ["name"])
    op.create_index("ix_autoprune_trials_digest", "autoprune_trials", ["digest"])
    op.create_index("ix_autoprune_fronts_study_id", "autoprune_fronts", ["study_id"])
    op.create_index("ix_autoprune_outbox_waiting", "autoprune_outbox", ["study_id", "published_at"])


def _shared_tables() -> None:
    op.create_table(
        "autoprune_studies",
        sa.Column("id", Id, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("spec", Json, nullable=False),
        sa.Column("resolved", Json, nullable=False),
        sa.Column("holdout", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("created", Time, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_autoprune_studies"),
    )
    op.create_table(
        "autoprune_evaluations",
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("request", Json, nullable=False),
        sa.Column("measurement", Json, nullable=False),
        sa.Column("created", Time, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_autoprune_evaluations"),
    )
    op.create_table(
        "autoprune_holdout_uses",
        sa.Column("holdout", Id, nullable=False),
        sa.Column("uses", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("holdout", name="pk_autoprune_holdout_uses"),
    )


def _study_tables() -> None:
    op.create_table(
        "autoprune_trials",
        sa.Column("study_id", Id, nullable=False),
        sa.Column("number", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("origin", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("policy", Json),
        sa.Column("canonical", sa.Text),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("params", Json, nullable=False),
        sa.Column("values", Json, nullable=False),
        sa.Column("constraints", Json, nullable=False),
        sa.Column("sampler_number", sa.Integer),
        sa.Column("evaluation_key", sa.Text),
        sa.Column("cached", sa.Boolean, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("seconds", sa.Float(53), nullable=False),
        sa.Column("created", Time, nullable=False),
        _of_study("autoprune_trials"),
        sa.PrimaryKeyConstraint("study_id", "number", name="pk_autoprune_trials"),
    )
    op.create_table(
        "autoprune_fronts",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("study_id", Id, nullable=False),
        sa.Column("document", Json, nullable=False),
        sa.Column("created", Time, nullable=False),
        _of_study("autoprune_fronts"),
        sa.PrimaryKeyConstraint("id", name="pk_autoprune_fronts"),
    )
    op.create_table(
        "autoprune_outbox",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("study_id", Id, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("payload", Json, nullable=False),
        sa.Column("created", Time, nullable=False),
        sa.Column("published_at", Time),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("last_error", sa.Text, nullable=False),
        _of_study("autoprune_outbox"),
        sa.PrimaryKeyConstraint("id", name="pk_autoprune_outbox"),
    )
    op.create_table(
        "autoprune_leases",
        sa.Column("study_id", Id, nullable=False),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("token", sa.String(64), nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("heartbeat", sa.Float(53), nullable=False),
        sa.Column("ttl", sa.Float(53), nullable=False),
        _of_study("autoprune_leases"),
        sa.PrimaryKeyConstraint("study_id", name="pk_autoprune_leases"),
        sa.UniqueConstraint("token", name="uq_autoprune_leases_token"),
    )


def _of_study(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["study_id"], ["autoprune_studies.id"], name=f"fk_{table}_study_id")


def downgrade() -> None:
    for table in ("leases", "outbox", "fronts", "trials", "holdout_uses", "evaluations", "studies"):
        op.drop_table(f"autoprune_{table}")
