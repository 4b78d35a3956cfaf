"""Fill the hole of a picture: prepare, let a filler fill the windows, finish.

`prepare` and `Finish` touch no generator, so they may run anywhere; `restore` is all three. The
worker and evaluation go through here. There is one array of pixels: fills are written into its
hole, which no window reads, while what is known around it never changes. Refinement comes after
the last fill, when all of the hole is filled.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .composite import Canvas, composite
from .errors import MaskFull
from .highres import Filler, Pixels, SizeRule, Window, batches, enlarge, plan, read
from .mask import Hole
from .monochrome import Tone, tone_of, toned
from .patches import Refine, Refinement, chosen, synthesize


@dataclass(frozen=True, eq=False)
class Plan:
    """A picture and the windows through which its hole is to be filled.

    Attributes:
        pixels: uint8 (H,W,3), RGB, writable: `Finish` writes the fills into their hole.
        hole: bool (H,W), True = to be filled.
        feather: pixels over which the hole's rim is blended.
        refine: what is done to the fills when all are laid.
        rule: of the generator.
        windows: in the order in which fills are expected; none if the hole is empty.
        tone: of a photograph of one colour, which its fills take; None of one in colour.
    """

    pixels: Pixels
    hole: Hole
    feather: int
    refine: Refinement
    rule: SizeRule
    windows: tuple[Window, ...]
    tone: Tone | None

    def inputs(self, windows: Sequence[Window]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Return pixels (B,h,w,3) and holes (B,h,w) for windows of one size."""
        seen = [read(self.pixels, self.hole, window) for window in windows]
        return np.stack([pixels for pixels, _ in seen]), np.stack([hole for _, hole in seen])


def prepare(
    pixels: Pixels,
    hole: Hole,
    rule: SizeRule,
    *,
    feather: int = 0,
    refine: Refinement = "none",
) -> Plan:
    """Plan the windows for a hole.

    Args:
        pixels: uint8 (H,W,3), RGB. They are given away: fills are written into them, or into a
            copy if they are read-only.
        hole: bool (H,W), True = to be filled; already grown, and by at least `feather`.
        rule: of the generator.
        feather: the hole's outermost pixels that are blended with the picture.
        refine: what is done to the fills when all are laid.

    Raises:
        MaskFull: if nothing is known.
        ValueError: if pixels and hole do not belong together.
    """
    if pixels.dtype != np.uint8 or hole.dtype != np.bool_ or pixels.shape != (*hole.shape, 3):
        raise ValueError(f"pixels {pixels.shape} {pixels.dtype}, hole {hole.shape} {hole.dtype}")
    if hole.all():
        raise MaskFull("The hole covers the whole picture: nothing is known.", field="mask")
    if not pixels.flags.writeable:
        pixels, given = np.empty(pixels.shape, np.uint8), pixels
        for channel in range(3):  # five times faster than at once where gray shares its plane
            pixels[..., channel] = given[..., channel]
    windows = tuple(plan(hole, rule))
    return Plan(pixels, hole, feather, refine, rule, windows, tone_of(pixels, hole))


class Finish:
    """Lays fills into the hole of a plan's own pixels, one after the other.

    Other windows of the plan may be read meanwhile, in other threads too.

    Attributes:
        ending: what is left to do after the last fill: it is refined, a small part at each step,
            and feathered. `pixels` does what remains of it.
    """

    def __init__(self, plan: Plan) -> None:
        """Begin with none laid.

        Args:
            plan: from `prepare`; its pixels are written, in the hole only.
        """
        self._plan = plan
        self._canvas = Canvas(
            plan.pixels, plan.hole, hole_share=plan.rule.hole_share, feather=plan.feather
        )
        self._laid = 0
        self.ending: Iterator[None] = self._end()

    def lay(self, fill: Pixels) -> None:
        """Lay the fill of the next window, in the plan's order.

        Raises:
            ValueError: if all are laid already, or the fill is not uint8 (h,w,3) of its window.
        """
        if self._laid == len(self._plan.windows):
            raise ValueError(f"a fill too many: there are {self._laid} windows")
        window = self._plan.windows[self._laid]
        if fill.shape != (*window.size, 3) or fill.dtype != np.uint8:
            raise ValueError(f"fill {fill.shape} {fill.dtype} for a window of {window.size}")
        if window.scale != 1:
            seen, holes = read(self._plan.pixels, self._plan.hole, window)
            fill = enlarge(composite(seen, fill, holes), window)  # the rim takes from outside too
        if self._plan.tone is not None:
            fill = toned(fill, self._plan.tone)
        self._canvas.lay(window, fill)
        self._laid += 1

    def _end(self) -> Iterator[None]:
        yield from synthesize(self._plan.pixels, self._plan.hole, self._plan.refine)
        self._canvas.feather()

    def pixels(self) -> Pixels:
        """Return the plan's pixels, uint8 (H,W,3), filled: only the hole has changed.

        Raises:
            ValueError: if fills are missing.
        """
        if self._laid < len(self._plan.windows):
            raise ValueError(f"{self._laid} fills for {len(self._plan.windows)} windows: too few")
        for _ in self.ending:
            pass
        return self._plan.pixels


def finish(plan: Plan, fills: Iterable[Pixels]) -> Pixels:
    """Put the fills into the hole.

    Args:
        plan: from `prepare`; its pixels are written.
        fills: one for each window, uint8 (h,w,3), in their order.

    Returns:
        The plan's pixels, uint8 (H,W,3), changed only where the hole is True.

    Raises:
        ValueError: if fills are missing, too many, or of another size.
    """
    canvas = Finish(plan)
    for fill in fills:
        canvas.lay(fill)
    return canvas.pixels()


def restore(
    pixels: Pixels, hole: Hole, filler: Filler, *, feather: int = 0, refine: Refine = "auto"
) -> Pixels:
    """Fill the hole of a copy: `prepare`, the filler on one batch after the other, `finish`.

    Arguments, result and refusals are those of `prepare` and `finish`; what "auto" means depends
    on the filler.
    """
    refinement = chosen(refine, filler.learned)
    plan = prepare(pixels.copy(), hole, filler.rule, feather=feather, refine=refinement)
    return finish(plan, _fills(plan, filler))


def _fills(plan: Plan, filler: Filler) -> Iterator[Pixels]:
    for batch in batches(plan.windows):
        yield from filler(*plan.inputs(batch))
