"""A picture in strips of rows: what work on one needs besides the picture stays small."""

from collections.abc import Iterator

STRIP = 1_000_000  # pixels that are worked on at once


def strips(height: int, width: int) -> Iterator[slice]:
    """Divide the rows of a picture into as many as are worked on at once."""
    rows = max(1, STRIP // width)
    return (slice(start, start + rows) for start in range(0, height, rows))
