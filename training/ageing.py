"""What makes a print look old and is not damage: drawn to be learnt as such, never labelled.

In the scene: wires, whiskers, lace. In the print: fading, blur, paper, grain, frames, ovals, rules,
captions, stamps. Around it: the bed of the scanner, with the straight or deckled edge of the print.
Last the scan, the same for the damaged picture and for the truth. Pixels are float32 (H,W,3) with
levels 0 to 255.
"""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from .drawing import Plane, Points, blur, fractal, line, tapered, trace

DISTRACTORS = {  # and the share of prints that have them
    "wires": 0.12,
    "whiskers": 0.12,
    "lace": 0.10,
    "fading": 1.0,
    "blur": 0.5,
    "paper": 0.1,
    "grain": 1.0,
    "frame": 0.2,
    "oval": 0.05,
    "rule": 0.07,
    "caption": 0.22,
    "stamp": 0.06,
    "bed": 0.25,
}
BORDERS = ("frame", "oval", "rule")  # a print has one of them at most
LUMA = np.array([0.3, 0.59, 0.11], np.float32)
LETTERS = list("ABCDEFGHIKLMNOPRSTUVadeilmnorstu 0123456789.-")
FONTS = (0, 3, 4, 5, 6, 7)  # of OpenCV's Hershey fonts
BEDS = (252, 235, 200, 60, 8)  # levels of the scanner's bed: white, grey, black
BED_SHARES = (0.45, 0.15, 0.1, 0.15, 0.15)
TURN = math.radians(1.5)  # a print on the bed is turned by up to this


@dataclass(frozen=True)
class Outline:
    """Where the print lies in the picture.

    Attributes:
        u: float32 (H,W), pixels from the left edge of the print, along its upper side.
        v: float32 (H,W), pixels from its upper edge.
        width: of the print, pixels.
        height: of the print, pixels.
        origin: of (u, v) in the picture, (x, y).
        angle: by which the print is turned, radians.
        inside: float32 (H,W), 1 = print, 0 = bed.
        bed: float32 (H,W,3), what the scanner sees where there is no print.
        shadow: float32 (H,W), of the print on the bed.
    """

    u: Plane
    v: Plane
    width: float
    height: float
    origin: tuple[float, float]
    angle: float
    inside: Plane
    bed: Plane
    shadow: Plane

    def edges(self) -> tuple[Plane, Plane, Plane, Plane]:
        """Return the distance to each side, (H,W) pixels, positive within the print."""
        return self.u, self.width - self.u, self.v, self.height - self.v

    def inward(self) -> Plane:
        """Return the distance to the nearest side, (H,W) pixels."""
        left, right, top, bottom = self.edges()
        return np.minimum(np.minimum(left, right), np.minimum(top, bottom))

    def point(self, u: float, v: float) -> Points:
        """Return the place (x, y) in the picture of a point of the print."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return np.array([self.origin[0] + u * cos - v * sin, self.origin[1] + u * sin + v * cos])


@dataclass(frozen=True)
class Aged:
    """An undamaged old print.

    Attributes:
        pixels: float32 (H,W,3), levels.
        grain: deviation of its grain, levels.
        outline: where it lies in the picture.
    """

    pixels: Plane
    grain: float
    outline: Outline


def age(
    photograph: NDArray[np.uint8],
    rng: np.random.Generator,
    distractors: Collection[str] | None = None,
) -> Aged:
    """Make an old print of a photograph uint8 (H,W,3).

    Args:
        photograph: what was photographed.
        rng: decides everything.
        distractors: exactly these of `DISTRACTORS`; by default each by its chance.
    """
    chosen = _chosen(rng) if distractors is None else set(distractors)
    x = photograph.astype(np.float32)
    height, width = x.shape[:2]
    grain = 0.0
    for name in ("wires", "whiskers", "lace"):
        if name in chosen:
            x = SCENE[name](x, rng)
    if "fading" in chosen:
        x = _fading(x, rng)
    if "blur" in chosen:
        x = blur(x, rng.uniform(0.4, 1.6))
    if "paper" in chosen:
        y, across = np.mgrid[:height, :width].astype(np.float32)
        pitch = 2 * math.pi / rng.uniform(4, 9)  # embossed or woven
        weave = rng.uniform(0.02, 0.07) * np.sin(across * pitch) * np.sin(y * pitch)
        x *= (1 + weave)[..., None]
    if "grain" in chosen:
        grain = float(rng.uniform(0, 9) if rng.random() < 0.7 else rng.uniform(0, 1.5))
        noise = blur(rng.standard_normal((height, width), np.float32), rng.uniform(0.4, 0.9))
        x += (grain / noise.std() * noise)[..., None]
    outline = _outline(height, width, rng, "bed" in chosen)
    x = _furnish(x, outline, chosen, rng)
    if "bed" in chosen:
        bed = outline.bed * (1 - outline.shadow)[..., None]
        x = bed + outline.inside[..., None] * (x - bed)
    return Aged(np.ascontiguousarray(x, np.float32), grain, outline)


def _chosen(rng: np.random.Generator) -> set[str]:
    """Draw which distractors a print has."""
    chosen = {name for name, chance in DISTRACTORS.items() if rng.random() < chance}
    borders = [name for name in BORDERS if name in chosen]
    return chosen - set(borders[1:])


def _fading(x: Plane, rng: np.random.Generator) -> Plane:
    """Grey, sepia, faded or colour; a narrower range; wide soft discolouration; a vignette."""
    height, width = x.shape[:2]
    mode = rng.choice(["grey", "sepia", "faded", "colour"], p=[0.34, 0.36, 0.15, 0.15])
    if mode != "colour":
        keep = 0.2 if mode == "faded" else 0.0
        x = (x @ LUMA)[..., None] * (1 - keep) + x * keep
    low, high = rng.uniform(0, 55), rng.uniform(185, 255)
    tint = np.full(3, high - low, np.float32)
    if mode == "sepia":
        tint *= (1, rng.uniform(0.86, 0.96), rng.uniform(0.62, 0.88))
    elif mode == "faded":
        tint *= (1.04, 0.97, 0.82)
    x = np.asarray(cv2.pow(np.clip(x / 255, 0, 1), rng.uniform(0.75, 1.3)), np.float32)
    x = low * tint / tint[0] + x * tint
    if rng.random() < 0.5:
        cloud = fractal(rng, height, width, 0.5 * min(height, width))[..., None]
        x *= 1 + cloud * (0.07 * rng.uniform(0.2, 1) * rng.uniform(0.7, 1, 3)).astype(np.float32)
    if rng.random() < 0.35:
        y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
        across = np.linspace(-1, 1, width, dtype=np.float32)
        x *= (1 - rng.uniform(-0.25, 0.5) * (y * y + across * across) / 2)[..., None]
    return x


def _lay(x: Plane, ink: Plane, colour: NDArray[np.floating]) -> Plane:
    """Cover with a colour (3,) where `ink` (H,W) is 1."""
    out, at = x.copy(), np.nonzero(ink > 0)
    out[at] += ink[at][:, None] * (colour.astype(np.float32) - out[at])
    return out


def _extreme(x: Plane, rng: np.random.Generator) -> Points:
    """Return about the lightest or the darkest colour of the picture, (3,)."""
    few = x[::4, ::4].reshape(-1, 3)
    return np.percentile(few, rng.choice([2, 97]), axis=0) * rng.uniform(0.9, 1.08)


def _wires(x: Plane, rng: np.random.Generator) -> Plane:
    """Long, even, sagging lines across the scene, some of them a bundle."""
    (height, width), ink = x.shape[:2], np.zeros(x.shape[:2], np.float32)
    across = np.linspace(-5, width + 5, 60)
    from_middle = 2 * across / width - 1
    level, slope, thick = rng.uniform(0, 0.5), rng.normal(0, 0.15), int(rng.integers(1, 3))
    for _ in range(rng.integers(1, 5)):
        level += rng.normal(0, 0.06)
        sag = rng.uniform(0, 0.05) * height * from_middle**2
        down = level * height + (slope + rng.normal(0, 0.02)) * (across - width / 2) + sag
        line(ink, np.stack([across, down], 1), thick, rng.uniform(0.6, 0.9))
    return _lay(x, ink, _extreme(x, rng))


def _whiskers(x: Plane, rng: np.random.Generator) -> Plane:
    """Bundles of thin curves that taper: whiskers fan out, strands of hair run side by side."""
    (height, width), size = x.shape[:2], min(x.shape[:2])
    for _ in range(rng.integers(1, 4)):
        ink = np.zeros(x.shape[:2], np.float32)
        root = rng.uniform(0, 1, 2) * (width, height)
        angle, bend = rng.uniform(0, 2 * math.pi), rng.normal(0, 0.6)
        fan = rng.choice([rng.uniform(0.15, 0.5), rng.uniform(0.02, 0.08)])
        length, thick = rng.uniform(0.12, 0.5) * size, rng.uniform(0.35, 0.9)
        for _ in range(rng.integers(5, 24)):
            start = root + rng.normal(0, 0.03 * size, 2)
            turn, reach = angle + rng.normal(0, fan), length * rng.uniform(0.5, 1.1)
            path = trace(rng, start, turn, reach, 0.0, bend + rng.normal(0, 0.15))
            tapered(ink, path, thick, rng.uniform(0.5, 1))
        x = _lay(x, ink, _extreme(x, rng))
    return x


def _lace(x: Plane, rng: np.random.Generator) -> Plane:
    """A bent band of net with eyelets and a scalloped hem."""
    (height, width), size = x.shape[:2], min(x.shape[:2])
    ink = np.zeros((height, width), np.float32)
    length, deep = rng.uniform(0.3, 0.9) * size, rng.uniform(0.05, 0.15) * size
    pitch = rng.uniform(0.2, 0.6) * deep
    start, angle = rng.uniform(0, 0.6, 2) * (width, height), rng.uniform(-0.5, 1.2)
    path = trace(rng, start, angle, length, 0.0, rng.normal(0, 0.5))
    tangent = np.gradient(path, axis=0)
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], 1) / np.hypot(*tangent.T)[:, None]
    phase = np.arange(len(path)) * 0.5 / pitch  # motifs along the band
    hem = deep * 0.8 + 0.35 * pitch * np.abs(np.sin(math.pi * phase))
    thick = 1 if size < 600 else 2
    rows = max(2, round(deep / pitch))
    for row in range(rows):  # zigzags that meet: a net of lozenges
        swing = np.abs((phase * 2 + row % 2) % 2 - 1)
        line(ink, path + normal * ((row + swing) * deep * 0.8 / rows)[:, None], thick, 0.8)
    for edge in (np.zeros(len(path)), hem):
        line(ink, path + normal * edge[:, None], thick, 0.9)
    for place in range(int(pitch), len(path), max(2, int(2 * pitch))):
        x_y = np.round((path[place] + normal[place] * deep * 0.6) * 16).astype(int)
        dot = np.zeros((height, width), np.uint8)
        cv2.circle(dot, x_y.tolist(), int(16 * pitch * 0.22), (255,), thick, cv2.LINE_AA, 4)
        np.maximum(ink, dot / np.float32(255), out=ink)
    return _lay(x, ink * np.float32(rng.uniform(0.5, 1)), _extreme(x, rng))


SCENE: dict[str, Callable[[Plane, np.random.Generator], Plane]] = {
    "wires": _wires,
    "whiskers": _whiskers,
    "lace": _lace,
}


def _outline(height: int, width: int, rng: np.random.Generator, on_bed: bool) -> Outline:
    """Place the print: the whole picture, or turned a little, with the bed beside some sides."""
    size = min(height, width)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    level = rng.choice(BEDS, p=BED_SHARES) + rng.normal(0, 2, 3)
    noise = rng.standard_normal((height, width, 1), np.float32) * np.float32(0.4)
    bed = np.clip(level.astype(np.float32) + noise, 0, 255)
    if not on_bed:
        whole = np.ones((height, width), np.float32)
        return Outline(x, y, width - 1, height - 1, (0, 0), 0, whole, bed, 1 - whole)
    angle = float(np.clip(rng.normal(0, TURN / 2), -TURN, TURN))
    margin = np.where(rng.random(4) < 0.75, rng.uniform(0.006, 0.08, 4), -0.03) * size
    margin[rng.integers(4)] = rng.uniform(0.006, 0.08) * size  # at least one side is seen
    left, top, right, bottom = (float(side) for side in margin)
    cos, sin = math.cos(angle), math.sin(angle)
    u = cos * (x - left) + sin * (y - top)
    v = -sin * (x - left) + cos * (y - top)
    wide, high = width - 1 - left - right, height - 1 - top - bottom
    corner = rng.choice([0.5, rng.uniform(0.5, 0.025 * size)])  # radius
    across, down = (
        np.abs(u - wide / 2) - wide / 2 + corner,
        np.abs(v - high / 2) - high / 2 + corner,
    )
    outward = np.hypot(np.maximum(across, 0), np.maximum(down, 0))
    outward += np.minimum(np.maximum(across, down), 0) - np.float32(corner)
    if rng.random() < 0.15:  # deckled
        pitch = 2 * math.pi / (rng.uniform(0.012, 0.03) * size)
        outward += rng.uniform(0.003, 0.006) * size * np.sin(np.where(across > down, v, u) * pitch)
    inside = np.clip(0.5 - outward, 0, 1)
    shift = rng.integers(0, 3, 2)
    shadow = blur(np.roll(inside, (int(shift[0]), int(shift[1])), (0, 1)), rng.uniform(0.6, 2.5))
    shadow *= np.float32(rng.uniform(0, 0.6))
    return Outline(u, v, wide, high, (left, top), angle, inside, bed, shadow)


def _furnish(x: Plane, outline: Outline, chosen: set[str], rng: np.random.Generator) -> Plane:
    """Draw the border, the caption and the stamp of the print, crisp and clean."""
    height, width = x.shape[:2]
    size, thick = min(height, width), int(rng.integers(1, 3))
    ink = np.zeros((height, width), np.uint8)
    edge = int(rng.uniform(0.015, 0.07) * size)  # width of the border
    light = np.percentile(x[::4, ::4].reshape(-1, 3), 98, axis=0) * rng.uniform(0.85, 1.06)
    colour = light if rng.random() < 0.8 else np.full(3, 12.0)
    tone = _extreme(x, rng)
    if "oval" in chosen:
        inner = np.zeros((height, width), np.float32)
        axes = width // 2 - edge, height // 2 - edge
        cv2.ellipse(inner, (width // 2, height // 2), axes, 0, 0, 360, (1,), -1)
        x = _lay(x, 1 - blur(inner, 0.6), colour)
    if "frame" in chosen:
        x = _lay(x, 1 - blur((outline.inward() >= edge).astype(np.float32), 0.6), colour)
    if "rule" in chosen:
        sides = (edge, edge), (outline.width - edge, outline.height - edge)
        corners = [
            outline.point(sides[i][0], sides[j][1]) for i, j in ((0, 0), (1, 0), (1, 1), (0, 1))
        ]
        whole = np.round(np.array(corners) * 16).astype(np.int32)
        cv2.polylines(ink, [whole], True, (230,), thick, cv2.LINE_AA, 4)
    if "caption" in chosen:
        text = "".join(rng.choice(LETTERS, rng.integers(3, 22)))
        at = int(rng.uniform(0, 0.6) * width), int(rng.choice([0.07, 0.95, rng.random()]) * height)
        scale = rng.uniform(0.3, 1.1) * size / 400
        cv2.putText(ink, text, at, int(rng.choice(FONTS)), scale, (235,), thick, cv2.LINE_AA)
    if "stamp" in chosen:
        across, down = (int(part) for part in rng.uniform(0.1, 0.9, 2) * (width, height))
        cv2.circle(ink, (across, down), int(0.08 * size), (180,), thick, cv2.LINE_AA)
    return _lay(x, np.divide(ink, 255, dtype=np.float32), tone)


@dataclass(frozen=True)
class Scan:
    """What the scanner makes of one print: before its noise and JPEG, levels; and after, uint8."""

    smooth: Plane
    pixels: NDArray[np.uint8]


def scan(
    prints: Collection[Plane], rng: np.random.Generator, quality: tuple[int, int]
) -> list[Scan]:
    """Scan prints (H,W,3) of one size in exactly the same way.

    Args:
        prints: levels.
        rng: decides everything.
        quality: range of JPEG's.
    """
    height, width = next(iter(prints)).shape[:2]
    sigma, shrink = (
        rng.uniform(0.25, 0.75),
        rng.choice([1.0, rng.uniform(0.55, 0.95)], p=[0.65, 0.35]),
    )
    encoding = [cv2.IMWRITE_JPEG_QUALITY, int(rng.uniform(*quality))]
    noise = rng.standard_normal((height, width, 1), np.float32) * np.float32(rng.uniform(0.3, 2.5))
    scans = []
    for x in prints:
        smooth = blur(np.clip(x, 0, 255), sigma)
        if shrink < 1:
            small = cv2.resize(smooth, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
            wide = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
            smooth = np.asarray(wide, np.float32)
        levels = np.clip(smooth + noise, 0, 255).round().astype(np.uint8)
        _, coded = cv2.imencode(".jpg", levels[..., ::-1], encoding)
        decoded = cv2.imdecode(coded, cv2.IMREAD_COLOR)
        assert decoded is not None  # it was encoded just now
        scans.append(Scan(smooth, np.ascontiguousarray(decoded[..., ::-1], np.uint8)))
    return scans
