"""One picture from bytes to bytes, in two halves: before its windows are filled, and after.

`open_picture` decodes and plans; whoever has a filler fills the plan's windows and lays them
(`inpaint.restore.Finish`); `close_picture` encodes and states the facts. Neither knows of jobs,
nor of the generator: the worker runs them in other threads than the network.
"""

import time
from dataclasses import dataclass
from typing import Literal

import numpy as np

from inpaint.header import Format, Limits, Mode, probe
from inpaint.highres import Pixels, SizeRule
from inpaint.mask import Hole, MaskFit, MaskMode, ReadMode, decode_hole, grow, hole_of_alpha
from inpaint.picture import MEDIA_TYPES, OutputFormat, Picture, decode, encode
from inpaint.restore import Plan, prepare


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is to be done to the hole, and how the result is written; as in `InpaintJob`."""

    mask_mode: MaskMode
    mask_fit: MaskFit
    mask_grow: int  # pixels
    mask_feather: int  # pixels
    output_format: OutputFormat
    output_quality: int | None


@dataclass(frozen=True, eq=False)
class Opened:
    """A decoded picture with its plan; the plan's hole has grown as was asked for."""

    picture: Picture
    plan: Plan
    mode: Mode
    mask_source: Literal["mask", "alpha"]
    mask_mode: ReadMode
    seconds: float  # that opening took


@dataclass(frozen=True)
class Restored:
    """A picture whose hole is filled; facts in the words of `inpaint.jobs.Outcome`."""

    data: bytes
    media_type: str
    format: Format
    mode: Mode
    width: int
    height: int
    mask_source: Literal["mask", "alpha"]
    mask_mode: ReadMode
    coverage: float
    windows: int
    seconds: dict[str, float]  # decode: until the windows are planned; infer: in the generator


def open_picture(
    image: bytes, mask: bytes | None, options: Options, rule: SizeRule, limits: Limits
) -> Opened:
    """Decode a picture and its hole, and plan the windows.

    Args:
        image: a picture file.
        mask: a mask file; None takes the picture's own transparency.
        options: what is to be done to the hole.
        rule: of the generator.
        limits: for both files.

    Raises:
        InpaintError: what `decode`, `decode_hole`, `hole_of_alpha` and `prepare` refuse.
    """
    began = time.perf_counter()
    mode = probe(image, limits).mode
    picture = decode(image, limits)
    hole, mask_mode = _hole(picture, mask, options, limits)
    hole = grow(hole, max(options.mask_grow, options.mask_feather))
    plan = prepare(picture.pixels, hole, rule, feather=options.mask_feather)
    source: Literal["mask", "alpha"] = "alpha" if mask is None else "mask"
    return Opened(picture, plan, mode, source, mask_mode, time.perf_counter() - began)


def close_picture(
    opened: Opened, pixels: Pixels, options: Options, *, infer: float, lay: float
) -> Restored:
    """Encode a picture whose windows are filled.

    Args:
        opened: by `open_picture`.
        pixels: of `Finish`, all fills laid.
        options: how the result is written.
        infer: seconds spent in the generator.
        lay: seconds spent laying fills.

    Raises:
        InpaintError: what `encode` refuses.
    """
    began = time.perf_counter()
    picture, hole = opened.picture, opened.plan.hole
    filled = picture.with_pixels(pixels, hole, opaque=opened.mask_source == "alpha")
    data = encode(filled, options.output_format, options.output_quality)
    written = picture.format if options.output_format == "same" else options.output_format
    encoded = time.perf_counter() - began
    return Restored(
        data=data,
        media_type=MEDIA_TYPES[written],
        format=picture.format,
        mode=opened.mode,
        width=picture.width,
        height=picture.height,
        mask_source=opened.mask_source,
        mask_mode=opened.mask_mode,
        coverage=np.count_nonzero(hole) / hole.size,
        windows=len(opened.plan.windows),
        seconds={"decode": opened.seconds, "infer": infer, "encode": lay + encoded},
    )


def _hole(
    picture: Picture, mask: bytes | None, options: Options, limits: Limits
) -> tuple[Hole, ReadMode]:
    """Return the hole as it was marked, and how it was marked."""
    if mask is None:
        return hole_of_alpha(picture), "alpha"
    return decode_hole(
        mask,
        picture.height,
        picture.width,
        mode=options.mask_mode,
        fit=options.mask_fit,
        limits=limits,
    )
