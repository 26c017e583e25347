"""Mails have outcomes, a code of the server, and a recipient who is counted by a keyed hash.

A mail without an outcome has no state: that it is being sent is known to Cauce, in the same database. `sending` stays
allowed, as long as processes of the earlier version run beside new ones; it means the same.
"""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_STATES = "state IN ('sending', 'sent', 'failed', 'refused', 'withheld', 'uncertain')"


def upgrade() -> None:
    with op.batch_alter_table("mails") as mails:
        mails.drop_constraint("ck_mails_state", type_="check")
        mails.alter_column("state", existing_type=sa.String(7), type_=sa.String(16), nullable=True)
        mails.add_column(sa.Column("code", sa.Integer))
        mails.add_column(sa.Column("recipient", sa.String(32)))
        mails.add_column(sa.Column("unanswered", sa.Integer, nullable=False, server_default="0"))
        mails.create_check_constraint("ck_mails_state", _STATES)
        mails.create_index("ix_mails_recipient", ["recipient", "begun_at"])
        mails.create_index("ix_mails_begun_at", ["begun_at"])
    op.execute("UPDATE mails SET state = NULL WHERE state = 'sending'")
    key = op.create_table(
        "mail_key", sa.Column("id", sa.Integer, primary_key=True), sa.Column("key", sa.LargeBinary, nullable=False)
    )
    op.bulk_insert(key, [{"id": 1, "key": secrets.token_bytes(32)}])
