"""Render the damage of old photographs onto a clean one, with the exact label.

In: a photograph uint8 (H,W,3) and a seed. Out: `Damaged`, all of the same height and width. The
order is life's: the picture is printed and ages, the print is damaged, the result is scanned. The
truth goes through the same ageing and the same scan, so that image and truth differ by damage
alone, and that difference is the label.
"""

from collections.abc import Collection
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from .ageing import DISTRACTORS, age, scan
from .injuries import CHANCES, FOOTPRINTS, KINDS, PAINTERS, TRAIN, Print, Settings

SMALLEST = 32  # pixels of a side that is rendered
LOADS = (0.5, 1.0, 2.0)  # light, medium and heavy damage
LOAD_SHARES = (0.5, 0.35, 0.15)
GRAIN_SHARE = 1.3  # a visible change exceeds the grain's deviation by this factor
SKIRT = 4  # levels; what changes by that much outside the label is neither damage nor clean
NEAR = np.ones((3, 3), np.uint8)  # a pixel around what was painted: the scan spreads it
FAINT = 0.08  # opacity below which nothing was painted


@dataclass(frozen=True)
class Damaged:
    """A damaged old print and what is known of it.

    Attributes:
        image: uint8 (H,W,3), the scan.
        truth: uint8 (H,W,3), the scan had nothing happened to the print.
        mask: bool (H,W), True = damage: visible within a pixel of what was painted; for peel, wear
            and tear all of their footprint.
        ignore: bool (H,W), True = neither damage nor clean: painted but invisible, or the soft
            skirt of damage. Never both this and `mask`.
        kind: uint8 (H,W), number in `KINDS`; 0 exactly where `mask` is False.
    """

    image: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    ignore: NDArray[np.bool_]
    kind: NDArray[np.uint8]


def render(
    photograph: NDArray[np.uint8],
    seed: int,
    settings: Settings = TRAIN,
    kinds: Collection[str] | None = None,
    distractors: Collection[str] | None = None,
) -> Damaged:
    """Return a photograph as a damaged old print; the same for the same arguments.

    Args:
        photograph: uint8 (H,W,3), sides of at least 32 pixels.
        seed: decides everything.
        settings: how damage looks.
        kinds: exactly these of `KINDS`, at medium load; none, a clean old print. By default each
            by its chance, and some prints clean.
        distractors: exactly these of `ageing.DISTRACTORS`; by default each by its chance.

    Raises:
        ValueError: if the photograph is of another shape or type or smaller, or a name is unknown.
    """
    if photograph.dtype != np.uint8 or photograph.ndim != 3 or photograph.shape[2] != 3:
        raise ValueError(
            f"a photograph is uint8 (H,W,3), not {photograph.dtype} {photograph.shape}"
        )
    if min(photograph.shape[:2]) < SMALLEST:
        raise ValueError(f"{photograph.shape[:2]} is smaller than {SMALLEST} px")
    unknown = set(kinds or ()) - set(CHANCES) | set(distractors or ()) - set(DISTRACTORS)
    if unknown:
        raise ValueError(f"no damage or distractor is called {', '.join(sorted(unknown))}")
    # Two generators: the ageing of a seed is the same with and without damage.
    aged = age(photograph, np.random.default_rng([seed, 0]), distractors)
    rng = np.random.default_rng([seed, 1])
    load = float(rng.choice(LOADS, p=LOAD_SHARES)) if kinds is None else 1.0
    chosen = _chosen(rng, load, settings) if kinds is None else set(kinds)
    sheet = Print(aged, rng, settings)
    for kind in CHANCES:
        if kind in chosen:
            PAINTERS[kind](sheet, load)
    scanned, clean = scan(
        (sheet.pixels, aged.pixels), np.random.default_rng([seed, 2]), settings.jpeg
    )
    change = np.abs(scanned.smooth - clean.smooth).max(axis=2)
    mask, ignore, kind_map = _label(sheet, change, max(settings.levels, GRAIN_SHARE * aged.grain))
    return Damaged(scanned.pixels, clean.pixels, mask, ignore, kind_map)


def _chosen(rng: np.random.Generator, load: float, settings: Settings) -> set[str]:
    """Draw the kinds of damage of a print."""
    chosen = {kind for kind, p in CHANCES.items() if rng.random() < p * (0.6 + 0.4 * load)}
    return set() if rng.random() < settings.clean else chosen or {"dust"}


def _label(
    sheet: Print, change: NDArray[np.floating], visible: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.uint8]]:
    """Return mask, ignore and kind of a print whose scan differs from the truth by `change`."""
    painted = np.asarray(cv2.dilate(sheet.alpha, NEAR)) > FAINT
    whole = np.isin(sheet.kind, [KINDS.index(kind) for kind in FOOTPRINTS]) & (sheet.alpha >= 0.5)
    mask = (change >= visible) & painted | whole
    ignore = (painted | (change >= SKIRT)) & ~mask
    spread = np.asarray(cv2.dilate(sheet.kind, NEAR), np.uint8)
    kind = np.where(sheet.kind > 0, sheet.kind, spread) * mask
    return mask, ignore, kind.astype(np.uint8)
