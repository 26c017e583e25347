"""The first rows of several lanes, read lane by lane from an index that begins with the lane."""

from collections.abc import Sequence

from cauce.ports.lanes import Lane

__all__ = ["first_of_each"]


def first_of_each(lanes: Sequence[Lane], rows: str, *, order: str, limit: int) -> str:
    """Spell a SELECT of the first `rows` of these lanes, for an index on the lane and `order`.

    Rows of other lanes, and rows behind the first `limit`, are not read. The limit is a literal, so that PostgreSQL
    needs to plan the statement only a few times.
    """
    first = f"ORDER BY {order} LIMIT {limit}"
    each = (f"SELECT * FROM ({rows} AND lane = {int(lane)} {first}) l{int(lane)}" for lane in lanes)
    return f"SELECT * FROM ({' UNION ALL '.join(each)}) every {first}"
