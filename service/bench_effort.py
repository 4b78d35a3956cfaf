"""What the parts of `inpaint bench serve` share: how much they measure, and what they return."""

from collections.abc import Callable
from dataclasses import dataclass

Figures = dict[str, float | list[list[float]] | str]  # by name; a list is a curve
FRESH = "fresh-"  # how models begin whose weights worker/standins.py draws: speed needs no training
COMPACT = "fresh-compact"  # of default size, with windows of 512 px
SHIPPED = "aotgan-compact-256"  # with windows of 256 px
PATIENT = {"INPAINT_MAX_WAIT_SECONDS": "600"}  # so that slow machines get figures too
PLAIN = {"refine": "none"}  # fields of requests: fills as the network makes them
Say = Callable[[str], None]  # shows progress


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    large: str  # the model of AOT-GAN's default size
    peer: str  # the compact model that is compared with LitServe
    clients: int  # at once, where many are asked for
    rounds: int  # of comparisons, in turn
    seconds: float  # of one counted run
    repeats: int  # of one request whose time counts
    jobs: int  # over which memory is watched
    settled: int  # of them before it is
    album: int  # pictures of the album beside which requests are timed
    scan_megapixels: float  # of the picture with many specks
    photo_megapixels: tuple[float, ...]  # of the curve over sizes of pictures
    hole_specks: tuple[int, ...]  # of the curve over areas of holes


FULL = Effort(
    large="fresh-aotgan",
    peer=COMPACT,
    clients=32,
    rounds=3,
    seconds=8,
    repeats=3,
    jobs=5000,
    settled=500,
    album=3000,
    scan_megapixels=12,
    photo_megapixels=(1, 3, 12, 24),
    hole_specks=(10, 40, 150),
)
QUICK = Effort(
    large=SHIPPED,
    peer=SHIPPED,
    clients=4,
    rounds=1,
    seconds=1,
    repeats=1,
    jobs=10,
    settled=4,
    album=40,
    scan_megapixels=0.2,
    photo_megapixels=(0.2, 0.5),
    hole_specks=(2, 6),
)
