"""The kinds of damage that old prints have, each painted onto a print.

Ranges come from 78 scans looked at one by one: profiles across 3300 px of their lines, and specks
counted in ten plain areas. Lengths are pixels at a short side of 512; widths grow with the square
root of the side, as they do in scans.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from .ageing import Aged
from .drawing import Plane, Points, blur, fractal, patch, stamp, stroke, trace, wobble

# Number 0 of a map of kinds is no damage. Numbers are part of what is stored: new kinds come last.
KINDS = (
    "none", "crack", "fold", "scratch", "scuff", "dust", "hair", "peel", "wear", "tear", "stain",
    "fern",
)  # fmt: skip
LINES = ("crack", "fold", "scratch", "scuff", "hair", "fern")
SPECKS = ("dust",)
AREAS = ("peel", "wear", "tear", "stain")
FOOTPRINTS = ("peel", "wear", "tear")  # labelled where painted; the rest where it can be seen

CHANCES = {  # of a print of medium damage, in the order of painting: what comes last lies on top
    "wear": 0.40,
    "stain": 0.25,
    "peel": 0.30,
    "fern": 0.05,
    "fold": 0.30,
    "crack": 0.45,
    "scratch": 0.50,
    "scuff": 0.22,
    "tear": 0.22,
    "hair": 0.25,
    "dust": 0.75,
}
STAINS = ((0.6, 0.42, 0.24), (0.35, 0.28, 0.2), (0.15, 0.16, 0.18), (1.05, 1.05, 1.02))
STAIN_SHARES = (0.5, 0.2, 0.15, 0.15)  # foxing, dirt, ink, washed out


@dataclass(frozen=True)
class Settings:
    """How damage looks.

    Attributes:
        clean: share of prints without any damage.
        width: range of the radius of lines, pixels.
        opacity: range.
        dark: share of lines and specks darker than the picture.
        jag: how kinked cracks are.
        gaps: share of a crack in which the emulsion still holds.
        levels: the smallest visible change that is labelled.
        jpeg: range of the quality of the scan.
    """

    clean: float = 0.10
    width: tuple[float, float] = (0.3, 1.3)
    opacity: tuple[float, float] = (0.35, 1.0)
    dark: float = 0.18
    jag: float = 1.0
    gaps: float = 0.25
    levels: float = 9
    jpeg: tuple[int, int] = (55, 96)


TRAIN = Settings()
# For evaluation only: nothing is ever trained on it.
UNSEEN = Settings(
    width=(0.5, 1.9), opacity=(0.25, 0.85), dark=0.30, jag=1.7, gaps=0.38, jpeg=(40, 85)
)


class Print:
    """A paper print that collects damage.

    Attributes:
        pixels: float32 (H,W,3), levels.
        alpha: float32 (H,W), the strongest opacity of damage.
        kind: uint8 (H,W), the number of the damage that shows.
    """

    def __init__(self, aged: Aged, rng: np.random.Generator, settings: Settings) -> None:
        self.rng, self.settings, self.outline = rng, settings, aged.outline
        self.pixels = aged.pixels.copy()
        self.height, self.width = self.pixels.shape[:2]
        self.size = min(self.height, self.width)
        self.scale = math.sqrt(np.clip(self.size / 512, 0.5, 4))
        self.alpha = self.blank()
        self.kind = np.zeros((self.height, self.width), np.uint8)
        self.inside = self.outline.inside
        # Bare paper is light in a dark print too, and has its tint between the lights' and white.
        few = self.pixels[::2, ::2].reshape(-1, 3)
        light = np.percentile(few, 97, axis=0)
        light *= max(1.0, rng.uniform(150, 215) / light.max())
        white = np.full(3, min(255, light.max() + 12))
        self.paper = np.clip(
            light + (white - light) * rng.uniform(0.1, 1) + rng.normal(0, 2, 3), 90, 255
        )
        self.dark = np.percentile(few, 3, axis=0)
        texture = self.noise(24) * 5
        texture += rng.standard_normal(texture.shape, np.float32) * np.float32(rng.uniform(2, 9))
        self.fibre = blur(texture, 0.6)[..., None]

    def paint(
        self,
        kind: str,
        alpha: Plane,
        colour: NDArray[np.floating] | None = None,
        *,
        rim: float = 0.0,
        fibre: float = 1.0,
    ) -> None:
        """Lay a colour over the print.

        Args:
            kind: one of `KINDS`.
            alpha: (H,W) opacity; none of it falls on the scanner's bed.
            colour: (3,) or (H,W,3) levels; None, the bare paper.
            rim: above 0 the edge has a lit and a shaded side, the light coming from upper left.
            fibre: how strongly the texture of paper shows.
        """
        alpha = alpha * self.inside
        soft = blur(alpha, 0.7 * self.scale) if rim else alpha
        at = np.nonzero(soft > 0.001)  # the rest stays: most damage covers little
        shown = np.asarray(self.paper if colour is None else colour, np.float32)
        shown = shown[at] if shown.ndim == 3 else shown
        shown = shown + self.fibre[at] * np.float32(fibre)  # (N,3)
        pixels, cover = self.pixels[at], alpha[at][:, None]
        if rim:
            lift = (soft - np.roll(soft, (2, 2), (0, 1)))[at][:, None]
            lit, shaded = np.maximum(lift, 0), np.maximum(-lift, 0) * self.inside[at][:, None]
            pixels *= 1 - np.float32(0.9 * rim) * shaded
            shown += np.float32(90 * rim) * (lit - 1.2 * shaded)
        self.pixels[at] = pixels + cover * (shown - pixels)
        self.kind[alpha > np.maximum(0.08, self.alpha * 0.8)] = KINDS.index(kind)
        np.maximum(self.alpha, alpha, out=self.alpha)

    def blank(self) -> Plane:
        """Return an empty canvas (H,W)."""
        return np.zeros((self.height, self.width), np.float32)

    def noise(self, scale: float) -> Plane:
        """Return fractal noise (H,W)."""
        return fractal(self.rng, self.height, self.width, scale * self.scale)

    def colour(self) -> NDArray[np.floating] | None:
        """Return bare paper, or something dark for the settings' share of cases."""
        if self.rng.random() >= self.settings.dark:
            return None
        return self.dark * self.rng.uniform(0.6, 1.3)

    def radius(self) -> float:
        """Draw half the width of a line, pixels."""
        low, high = self.settings.width
        return low * (high / low) ** self.rng.random() * self.scale

    def opacity(self) -> float:
        """Draw an opacity."""
        return float(self.rng.uniform(*self.settings.opacity))

    def gaps(self, most: float) -> float:
        """Draw the share of a line that is left out."""
        return self.settings.gaps * float(self.rng.uniform(0.2, most))

    def spot(self, margin: float = 0.0) -> Points:
        """Draw a point (x, y) of the picture, or up to `margin` pixels beside it."""
        return self.rng.uniform((-margin, -margin), (self.width + margin, self.height + margin))

    def rim(self) -> Points:
        """Draw a point of the print's edge, near its corners twice as likely."""
        along, (wide, high) = self.rng.beta(0.7, 0.7), (self.outline.width, self.outline.height)
        places = (along * wide, 0), (along * wide, high), (0, along * high), (wide, along * high)
        return self.outline.point(*places[self.rng.integers(4)])


def crack(sheet: Print, load: float) -> None:
    """Broken emulsion: jagged, branching, mostly from an edge; gaps, a dark flank, flakes."""
    rng, canvas, jag = sheet.rng, sheet.blank(), sheet.settings.jag
    todo: list[tuple[Points, float, float, float, int]] = []  # start, angle, length, radius, depth
    for _ in range(1 + rng.poisson(3 * load)):
        start = sheet.rim() if rng.random() < 0.75 else sheet.spot()
        aim = rng.uniform(0.2, 0.8, 2) * (sheet.width, sheet.height) - start
        length = float(np.clip(rng.exponential(0.35), 0.06, 1)) * sheet.size
        todo.append((start, math.atan2(aim[1], aim[0]), length, sheet.radius(), 0))
    while todo:
        start, angle, length, radius, depth = todo.pop()
        path = trace(rng, start, angle, length, jag, rng.normal(0, 0.25))
        opacity, gaps = sheet.opacity() ** 0.5, sheet.gaps(2)
        stroke(canvas, rng, path, radius, opacity, vary=0.5, gaps=gaps)
        for _ in range(rng.poisson((3.2, 1.2, 0)[depth] * length / sheet.size)):
            turn = angle + rng.choice([-1, 1]) * rng.uniform(0.4, 1.3)
            start, part = path[rng.integers(len(path))], length * rng.uniform(0.2, 0.9)
            todo.append((start, turn, part, radius * rng.uniform(0.5, 1), depth + 1))
        for _ in range(rng.poisson(length / 220)):  # flakes lost along it
            at, wide = path[rng.integers(len(path))], (1 + rng.exponential(1.6)) * sheet.scale
            patch(canvas, rng, at, wide, rough=0.6, stretch=rng.uniform(1, 1.8))
    if rng.random() < 0.3:
        _network(sheet, canvas)
    soft = np.roll(blur(canvas, 1.6 * sheet.scale), (1, 2), (0, 1)) - canvas * 0.4
    flank = np.clip(soft, 0, 0.4) * sheet.inside
    sheet.pixels *= (1 - np.float32(rng.uniform(0.05, 0.45)) * flank)[..., None]
    sheet.paint("crack", canvas, sheet.colour(), rim=0.15)


def _network(sheet: Print, canvas: Plane) -> None:
    """Cracks that meet in polygons, densest at a point of the rim and fading away from it."""
    rng, centre = sheet.rng, sheet.rim()
    reach, cell = rng.uniform(0.12, 0.35) * sheet.size, rng.uniform(9, 24) * sheet.scale
    left, top = np.maximum(centre - reach, 0).astype(int)
    right, bottom = np.minimum(centre + reach, (sheet.width, sheet.height)).astype(int)
    if right - left < cell or bottom - top < cell:
        return
    y, x = np.mgrid[top:bottom, left:right].astype(np.float32)
    high, wide = x.shape
    bent = [p + cell * 0.16 * fractal(rng, high, wide, cell) for p in (x, y)]
    seeds = np.stack(
        np.meshgrid(np.arange(left, right + cell, cell), np.arange(top, bottom + cell, cell)), -1
    )
    seeds = seeds.reshape(-1, 2) + rng.uniform(-0.48, 0.48, (seeds.size // 2, 2)) * cell
    first, second = np.full(x.shape, 1e9, np.float32), np.full(x.shape, 1e9, np.float32)
    for seed_x, seed_y in seeds.astype(np.float32):
        away = np.hypot(bent[0] - seed_x, bent[1] - seed_y)
        second = np.minimum(second, np.maximum(first, away))
        first = np.minimum(first, away)
    away = np.hypot(x - centre[0], y - centre[1]) / reach
    hold = fractal(rng, high, wide, 1.5 * cell)  # where the emulsion still holds
    radius = sheet.radius() * (1.1 - 0.6 * away)
    seen = np.clip((1.1 - away) * 1.6 + 0.6 * hold, 0, 1) * sheet.opacity() ** 0.5
    edges = np.clip(radius + 0.5 - (second - first) / 2, 0, 1) * seen
    part = canvas[top:bottom, left:right]
    np.maximum(part, edges.astype(np.float32), out=part)


def fold(sheet: Print, load: float) -> None:
    """A crease across the print: a broken line, nearly straight, light and shade beside it."""
    rng, canvas = sheet.rng, sheet.blank()
    y, x = np.mgrid[: sheet.height, : sheet.width].astype(np.float32)
    for _ in range(1 + rng.poisson(0.6 * load)):
        level = rng.choice([0, math.pi / 2, rng.uniform(0, math.pi)], p=[0.4, 0.35, 0.25])
        angle = level + rng.normal(0, 0.07)
        along = np.array([math.cos(angle), math.sin(angle)])
        middle = rng.uniform(0.1, 0.9, 2) * (sheet.width, sheet.height)
        reach = 0.75 * math.hypot(sheet.width, sheet.height)
        deep = rng.uniform(2.5, 11) * sheet.scale
        across = ((y - middle[1]) * along[0] - (x - middle[0]) * along[1]).astype(np.float32) / deep
        shade = rng.normal(0, 0.05) * across + rng.uniform(-0.06, 0.05)
        shade *= np.exp(-across * across / 2) * sheet.inside
        sheet.pixels *= (1 + shade).astype(np.float32)[..., None]
        path = trace(rng, middle - reach * along, angle, 2 * reach, 0.35 * sheet.settings.jag)
        radius, opacity = sheet.radius() * 1.1, sheet.opacity() ** 0.5
        stroke(canvas, rng, path, radius, opacity, vary=0.4, gaps=sheet.gaps(1.8))
        if rng.random() < 0.35:  # feathered by short cracks at right angles
            for _ in range(int(rng.uniform(15, 70) * load)):
                turn = angle + rng.choice([-1, 1]) * rng.normal(math.pi / 2, 0.5)
                length = rng.exponential(14) * sheet.scale + 3
                short = trace(rng, path[rng.integers(len(path))], turn, length, 1.2)
                opacity = rng.uniform(0.3, 0.9)
                stroke(canvas, rng, short, 0.4 * sheet.scale, opacity, vary=0.4, gaps=0.2)
    sheet.paint("fold", canvas, sheet.colour() if rng.random() < 0.5 else None, rim=0.15)


def scratch(sheet: Print, load: float) -> None:
    """Thin smooth lines: short nicks, long arcs, near-vertical ones over the full height."""
    rng = sheet.rng
    for dark, mean in ((False, 6.0), (True, 1.5)):
        canvas = sheet.blank()
        for _ in range(rng.poisson(mean * load) + (not dark)):
            style, opacity = rng.random(), sheet.opacity()
            if style < 0.12:
                start = np.array([rng.uniform(0, sheet.width), -5])
                angle, length = math.pi / 2 + rng.normal(0, 0.02), sheet.height + 10.0
            else:
                start, angle = sheet.spot(20), rng.uniform(0, 2 * math.pi)
                length = rng.exponential(0.35 if style > 0.7 else 0.05) * sheet.size + 8
                length = min(length, 1.2 * sheet.size)
            path = trace(rng, start, angle, length, 0.06, rng.normal(0, 0.25))
            gaps = float(rng.choice([0, 0.3, 0.5]))
            stroke(canvas, rng, path, sheet.radius() * 0.6, opacity, vary=0.25, gaps=gaps)
        sheet.paint("scratch", canvas, sheet.dark if dark else None)


def scuff(sheet: Print, load: float) -> None:
    """Abrasion: many fine strokes of one direction, or a streak of lost specks."""
    rng, canvas = sheet.rng, sheet.blank()
    for _ in range(1 + rng.poisson(0.7 * load)):
        centre, angle = sheet.spot(), rng.uniform(0, math.pi)
        spread = rng.uniform(0.03, 0.16) * sheet.size
        if rng.random() < 0.6:
            for _ in range(int(rng.uniform(20, 110))):
                start, turn = centre + rng.normal(0, spread, 2), angle + rng.normal(0, 0.22)
                path = trace(rng, start, turn, rng.exponential(0.04) * sheet.size + 4, 0.1)
                opacity = rng.uniform(0.1, 0.55)
                stroke(canvas, rng, path, 0.35 * sheet.scale, opacity, vary=0.4, gaps=0.3)
        else:
            along = np.array([math.cos(angle), math.sin(angle)]) * rng.uniform(1, 4)
            for _ in range(int(rng.uniform(30, 160))):
                at = centre + rng.normal(0, spread * 0.35, 2) + along * rng.normal(0, spread)
                wide = (0.6 + rng.exponential(1.1)) * sheet.scale
                patch(canvas, rng, at, wide, rough=0.5, stretch=rng.uniform(1, 1.6))
    sheet.paint("scuff", canvas, sheet.colour(), rim=0.2)


def dust(sheet: Print, load: float) -> None:
    """Specks: diameter 2 px in the median, 9 at most; 100 to 2500 a megapixel, partly clustered."""
    rng, scale = sheet.rng, sheet.scale
    density = 10 ** rng.uniform(2, 3.4) * load / 1e6 / scale
    count = rng.poisson(density * sheet.height * sheet.width) + 3
    for dark in (False, True):
        many = int(count * (sheet.settings.dark if dark else 1 - sheet.settings.dark))
        if not many:
            continue
        canvas = sheet.blank()
        centres = np.stack([sheet.spot() for _ in range(3)])
        points = rng.uniform((0, 0), (sheet.width, sheet.height), (many, 2))
        near = centres[rng.integers(3, size=many)] + rng.normal(0, 0.06 * sheet.size, (many, 2))
        points = np.where(rng.random((many, 1)) < 0.7, points, near)
        wide = np.clip(rng.lognormal(-0.35, 0.6, many), 0.25, 4.5) * scale
        for at, radius in zip(points[wide > 1.4 * scale], wide[wide > 1.4 * scale], strict=True):
            patch(canvas, rng, at, radius, rough=0.4, stretch=rng.uniform(1, 1.5))
        small = wide <= 1.4 * scale  # drawn at once: each a few discs along a bent tail
        tail = np.linspace(0, 1, 5) * (rng.exponential(1.2, many) + 0.5)[:, None]
        turn = rng.uniform(0, 2 * math.pi, (many, 1)) + rng.normal(0, 0.5, (many, 1)) * tail
        discs = points[:, None] + tail[..., None] * np.stack([np.cos(turn), np.sin(turn)], -1)
        radius = wide[:, None] * 0.7 * np.exp(rng.normal(0, 0.2, (many, 5)))
        opacity = np.repeat(rng.uniform(0.2, 0.95, (many, 1)), 5, 1)
        if small.any():
            stamp(
                canvas, discs[small].reshape(-1, 2), radius[small].ravel(), opacity[small].ravel()
            )
        sheet.paint("dust", canvas, sheet.dark if dark else None)


def hair(sheet: Print, load: float) -> None:
    """Fibres: smooth, constant in width, curled, 20 to 250 px long."""
    rng = sheet.rng
    for _ in range(1 + rng.poisson(1.2 * load)):
        canvas, length = sheet.blank(), rng.uniform(0.05, 0.45) * sheet.size
        start, angle = sheet.spot(), rng.uniform(0, 2 * math.pi)
        path = trace(rng, start, angle, length, 0.02, rng.normal(0, 2.2))
        radius, opacity = rng.uniform(0.35, 0.9) * sheet.scale, rng.uniform(0.3, 0.95)
        stroke(canvas, rng, path, radius, opacity, vary=0.12)
        sheet.paint("hair", canvas, sheet.dark if rng.random() < 0.45 else None)


def peel(sheet: Print, load: float) -> None:
    """Emulsion lost in patches down to the paper, with fragments, eaten edges and curled lips."""
    rng, canvas, large = sheet.rng, sheet.blank(), 0.0
    for _ in range(1 + rng.poisson(1.6 * load)):
        centre = sheet.spot()
        radius = float(np.clip(rng.lognormal(math.log(0.022), 0.9), 0.006, 0.16)) * sheet.size
        large = max(large, radius)
        rough, stretch = rng.uniform(0.25, 0.6), rng.uniform(1, 1.8)
        patch(canvas, rng, centre, radius, rough=rough, stretch=stretch)
        for _ in range(rng.poisson(6)):
            at, wide = centre + rng.normal(0, 1.5 * radius, 2), radius * rng.uniform(0.05, 0.35)
            patch(canvas, rng, at, wide, rough=0.5, stretch=1.3)
    if rng.random() < 0.35:  # nibbled by mould
        canvas *= np.clip((sheet.noise(14) + rng.uniform(0.1, 1.1)) * 4, 0, 1)
    elif large > 0.03 * sheet.size and rng.random() < 0.6:
        _lip(sheet, canvas, large)
    sheet.paint("peel", canvas, rim=rng.uniform(0.2, 0.9), fibre=rng.uniform(1, 3))


def _lip(sheet: Print, canvas: Plane, radius: float) -> None:
    """Emulsion that has curled up and over along one side of a peeling, and its shadow."""
    rng = sheet.rng
    angle, wide = rng.uniform(0, 2 * math.pi), float(np.clip(0.12 * radius, 2, 9)) * sheet.scale
    shift = np.array([[1, 0, wide * math.cos(angle)], [0, 1, wide * math.sin(angle)]])
    size = sheet.width, sheet.height
    over = np.asarray(cv2.warpAffine(canvas, shift, size), np.float32)
    held = np.clip(sheet.noise(30) + 0.9, 0, 1)  # absent for stretches
    lip = np.clip(over - canvas, 0, 1) * held
    cast = np.asarray(cv2.warpAffine(blur(lip, 0.6 * wide), shift, size), np.float32)
    cast = np.clip(cast - lip, 0, 1) * sheet.inside
    sheet.pixels *= (1 - np.float32(rng.uniform(0.2, 0.6)) * cast)[..., None]
    round_over = 1 + 0.25 * (blur(over, 0.5 * wide) - 0.5)  # lit where it turns up
    back = sheet.paper * rng.uniform(0.7, 1.05)
    sheet.paint("peel", lip, np.clip(back * round_over[..., None], 0, 255), rim=0.5, fibre=0.6)


def wear(sheet: Print, load: float) -> None:
    """Rubbed edges and corners: a ragged band of bare or dirty paper, absent for long stretches."""
    rng, alpha = sheet.rng, sheet.blank()
    noise = sheet.noise(60) + 0.35 * sheet.noise(8)
    left, right, top, bottom = sheet.outline.edges()
    for inward in (left, right, top, bottom):
        if rng.random() < 0.6:
            deep = (noise + rng.uniform(-0.3, 0.8)) * (rng.uniform(1, 7) * load**0.5 * sheet.scale)
            alpha = np.maximum(alpha, np.clip(deep - inward, 0, 1))
    for inward in (left + top, right + top, left + bottom, right + bottom):
        if rng.random() < 0.4:
            deep = (noise + 1.2) * (rng.uniform(2, 20) * sheet.scale)
            alpha = np.maximum(alpha, np.clip(deep - inward, 0, 1))
    brown = np.array([1, 0.95, 0.85]) ** rng.uniform(0, 2)
    paper = sheet.paper * brown * rng.uniform(0.62, 1.05)
    sheet.paint("wear", alpha.astype(np.float32), paper, rim=0.5)


def tear(sheet: Print, load: float) -> None:
    """A corner or side torn off, the scanner's bed beyond a ragged band of fibre; or a slit."""
    rng, outline = sheet.rng, sheet.outline
    left, right, top, bottom = outline.edges()
    for _ in range(1 + (rng.random() < 0.15 * load)):
        jag = 9 * sheet.noise(90) + 3 * sheet.noise(22) + sheet.noise(5)
        across, down = (left, right)[rng.integers(2)], (top, bottom)[rng.integers(2)]
        inward = np.abs(rng.normal(0, 1, 2) + 0.3)
        inward /= np.hypot(*inward) + 1e-6
        depth = float(np.clip(rng.exponential(0.09), 0.025, 0.4)) * sheet.size
        gone = depth + jag * (sheet.scale * rng.uniform(0.4, 1.6))
        gone = (gone - across * inward[0] - down * inward[1]).astype(np.float32)
        band = np.clip((sheet.noise(40) + 0.9) * (rng.uniform(1, 7) * sheet.scale), 0, None)
        sheet.paint("tear", np.clip(gone + band, 0, 1), rim=0.6)
        sheet.paint("tear", np.clip(gone, 0, 1), outline.bed, rim=0.3, fibre=0)
    if rng.random() < 0.35:  # a slit from the edge, closing inwards
        start, canvas = sheet.rim(), sheet.blank()
        angle = math.atan2(sheet.height / 2 - start[1], sheet.width / 2 - start[0])
        path = trace(rng, start, angle, rng.uniform(0.05, 0.3) * sheet.size, 1.0)
        closing = rng.uniform(2, 5) * (1.1 - np.linspace(0, 1, len(path))) * sheet.scale
        closing *= np.exp(0.15 * wobble(rng, len(path), 12))
        stamp(canvas, path, closing, np.ones(len(path)))
        sheet.paint("tear", canvas, rim=0.7)


def stain(sheet: Print, load: float) -> None:
    """Opaque spots and drops with a tide line; wide soft discolouration belongs to ageing."""
    rng, size = sheet.rng, sheet.size
    for _ in range(1 + rng.poisson(1.5 * load)):
        canvas, centre = sheet.blank(), sheet.spot()
        if rng.random() < 0.5:
            for _ in range(rng.integers(4, 30)):
                at = centre + rng.normal(0, 0.09 * size, 2)
                patch(
                    canvas, rng, at, rng.uniform(0.002, 0.012) * size + 1, rough=0.35, stretch=1.2
                )
        else:
            patch(canvas, rng, centre, rng.uniform(0.02, 0.09) * size + 1, rough=0.35, stretch=1.2)
        soft = blur(canvas, rng.uniform(0.6, 2.2) * sheet.scale)
        tide = soft - blur(canvas, 5 * sheet.scale) * 0.8
        tide = np.clip(tide, 0, 1) * np.float32(rng.uniform(0, 0.9))
        soft *= np.clip(0.8 + 0.3 * sheet.noise(12), 0.2, 1.2)
        alpha = np.clip(soft * np.float32(rng.uniform(0.3, 0.85)) + tide, 0, 0.95)
        tint = np.array(STAINS)[rng.choice(len(STAINS), p=STAIN_SHARES)]
        sheet.paint("stain", alpha, 0.5 * (sheet.paper + blur(sheet.pixels, 1.5)) * tint)


def fern(sheet: Print, load: float) -> None:
    """Mould threads or frost: pale branching arcs that fan out from a point, soft and faint."""
    rng, canvas, focus = sheet.rng, sheet.blank(), sheet.spot(40)
    aim = math.atan2(sheet.height / 2 - focus[1], sheet.width / 2 - focus[0])
    todo: list[tuple[Points, float, float, float, int]] = []  # start, angle, length, radius, depth
    for angle in aim + rng.normal(0, 0.7, rng.integers(4, 10)):
        length, radius = rng.uniform(0.3, 0.8) * sheet.size, rng.uniform(0.7, 2) * sheet.scale
        todo.append((focus, float(angle), length, radius, 0))
    while todo:
        start, angle, length, radius, depth = todo.pop()
        path = trace(rng, start, angle, length, 0.3, rng.normal(0, 0.5))
        stroke(canvas, rng, path, radius, rng.uniform(0.5, 1), vary=0.2)
        for _ in range(0 if depth == 2 else rng.integers(2, 7)):
            start = path[rng.integers(len(path) // 8, len(path))]
            turn = angle + rng.choice([-1, 1]) * rng.uniform(0.25, 0.8)
            todo.append((start, turn, length * rng.uniform(0.15, 0.45), radius * 0.7, depth + 1))
    opacity = np.float32(rng.uniform(0.15, 0.5) * min(1.0, 0.6 + 0.4 * load))
    sheet.paint("fern", blur(canvas, 0.8 * sheet.scale) * opacity)


PAINTERS: dict[str, Callable[[Print, float], None]] = {
    "crack": crack,
    "fold": fold,
    "scratch": scratch,
    "scuff": scuff,
    "dust": dust,
    "hair": hair,
    "peel": peel,
    "wear": wear,
    "tear": tear,
    "stain": stain,
    "fern": fern,
}
