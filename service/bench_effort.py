"""What the parts of `inpaint bench serve` share: how much they measure, and what they return."""

from collections.abc import Callable
from dataclasses import dataclass

Figures = dict[str, float | list[list[float]] | str]  # by name; a list is a curve
Say = Callable[[str], None]  # shows progress


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    rounds: int  # of comparisons, in turn
    seconds: float  # of one counted run
    repeats: int  # of one request whose time counts
    jobs: int  # over which memory is watched
    settled: int  # of them before it is
    album: int  # pictures of the album beside which requests are timed
    photo_megapixels: tuple[float, ...]  # of the curve over sizes of pictures; the last is the scan
    hole_specks: tuple[int, ...]  # of the curve over areas of holes


FULL = Effort(
    rounds=3,
    seconds=8,
    repeats=5,
    jobs=5000,
    settled=500,
    album=3000,
    photo_megapixels=(1, 3, 12, 24),
    hole_specks=(10, 40, 150, 600),
)
QUICK = Effort(
    rounds=1,
    seconds=1,
    repeats=1,
    jobs=60,
    settled=20,
    album=40,
    photo_megapixels=(0.2, 0.5),
    hole_specks=(2, 6),
)
