"""The users' catalogs, and the public playlists with their full-text index."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0001"
down_revision: str | None = None
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# FTS5 keeps no copy of the text (content=), so it has to be told what was there before. The `ascii` tokenizer takes
# every character beyond ASCII for part of a term: the terms come finished and are taken as they are. No positions are
# kept (detail=none), since no phrases are searched. The short prefixes have an index of their own: `a*` would else
# gather every term that begins with it.
_FTS5 = (
    """
    CREATE VIRTUAL TABLE public_playlists_terms USING fts5(
        terms, content='public_playlists', content_rowid='position', tokenize='ascii', detail=none, prefix='1 2 3'
    )
    """,
    """
    CREATE TRIGGER public_playlists_inserted AFTER INSERT ON public_playlists BEGIN
        INSERT INTO public_playlists_terms (rowid, terms) VALUES (new.position, new.terms);
    END
    """,
    """
    CREATE TRIGGER public_playlists_deleted AFTER DELETE ON public_playlists BEGIN
        INSERT INTO public_playlists_terms (public_playlists_terms, rowid, terms)
        VALUES ('delete', old.position, old.terms);
    END
    """,
    """
    CREATE TRIGGER public_playlists_updated AFTER UPDATE OF terms ON public_playlists WHEN old.terms <> new.terms BEGIN
        INSERT INTO public_playlists_terms (public_playlists_terms, rowid, terms)
        VALUES ('delete', old.position, old.terms);
        INSERT INTO public_playlists_terms (rowid, terms) VALUES (new.position, new.terms);
    END
    """,
)

# No parser and no dictionary here either: the array's elements are the lexemes. A table of its own, because what is
# gathered by the index must then be visited, and a row of public_playlists is several times as wide. Without the
# pending list (fastupdate), which every search would have to go through: playlists are read more than written.
_TSVECTOR = (
    """
    CREATE TABLE public_playlists_terms (
        position bigint PRIMARY KEY REFERENCES public_playlists ON DELETE CASCADE,
        term_vector tsvector NOT NULL
    )
    """,
    "CREATE INDEX ix_public_playlists_terms ON public_playlists_terms USING gin (term_vector) WITH (fastupdate = off)",
    """
    CREATE FUNCTION index_public_playlist() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO public_playlists_terms (position, term_vector)
        VALUES (new.position, array_to_tsvector(string_to_array(new.terms, ' ')))
        ON CONFLICT (position) DO UPDATE SET term_vector = excluded.term_vector;
        RETURN NULL;
    END
    $$
    """,
    """
    CREATE TRIGGER public_playlists_written AFTER INSERT OR UPDATE OF terms ON public_playlists
    FOR EACH ROW EXECUTE FUNCTION index_public_playlist()
    """,
)


def upgrade() -> None:
    op.create_table(
        "user_catalogs",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("username", sa.Text, nullable=False),
        sa.Column("favorites", sa.JSON, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("user_id", name="uq_user_catalogs_user_id"),
    )
    op.create_table(
        "catalog_playlists",
        sa.Column("catalog_id", sa.Text, sa.ForeignKey("user_catalogs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("playlist_id", sa.Text, primary_key=True),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("is_public", sa.Boolean, nullable=False),
        sa.Column("songs", sa.JSON, nullable=False),
    )
    op.create_index("ix_catalog_playlists_position", "catalog_playlists", ["catalog_id", "position"])
    op.create_table(
        "public_playlists",
        sa.Column("position", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("catalog_id", sa.Text, nullable=False),
        sa.Column("playlist_id", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("songs", sa.JSON, nullable=False),
        sa.Column("terms", sa.Text, nullable=False),
        sa.UniqueConstraint("catalog_id", "playlist_id", name="uq_public_playlists_catalog_playlist"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "public_playlist_versions",
        sa.Column("catalog_id", sa.Text, primary_key=True),
        sa.Column("playlist_id", sa.Text, primary_key=True),
        sa.Column("version", sa.BigInteger, nullable=False),
    )
    for statement in _TSVECTOR if op.get_context().dialect.name == "postgresql" else _FTS5:
        op.execute(sa.text(statement))


def downgrade() -> None:
    op.execute(sa.text("DROP TABLE public_playlists_terms"))
    for table in ("public_playlist_versions", "public_playlists", "catalog_playlists", "user_catalogs"):
        op.drop_table(table)
    if op.get_context().dialect.name == "postgresql":
        op.execute(sa.text("DROP FUNCTION index_public_playlist"))
