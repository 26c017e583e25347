"""The records of mails: one row for each event that asked for a mail. Of the user only the id."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "mails",
        sa.Column("event_id", sa.String(128), primary_key=True),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("message_id", sa.Text, nullable=False),
        sa.Column("state", sa.String(7), nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("begun_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
        sa.CheckConstraint("state IN ('sending', 'sent', 'failed')", name="ck_mails_state"),
    )
