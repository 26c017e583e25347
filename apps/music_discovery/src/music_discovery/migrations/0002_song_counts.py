"""The number of a public playlist's songs, which a list shows without reading them."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("public_playlists", sa.Column("song_count", sa.Integer, nullable=False, server_default="0"))
    op.execute(sa.text("UPDATE public_playlists SET song_count = json_array_length(songs)"))


def downgrade() -> None:
    op.drop_column("public_playlists", "song_count")
