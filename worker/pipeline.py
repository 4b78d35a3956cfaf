"""One picture from bytes to bytes: decode, fill, encode, with the seconds that each took."""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from rq.timeouts import JobTimeoutException

from inpaint.errors import InpaintError, ModelFailed
from inpaint.header import Limits
from inpaint.highres import Filler, Pixels, batches
from inpaint.jobs import InpaintJob
from inpaint.mask import Hole, ReadMode, decode_hole, grow, hole_of_alpha
from inpaint.picture import MEDIA_TYPES, Picture, decode, encode, probe
from inpaint.restore import Plan, finish, prepare

log = logging.getLogger("inpaint.worker")


@dataclass(frozen=True)
class Restored:
    """A picture whose hole is filled; facts in the words of `inpaint.jobs.Outcome`."""

    data: bytes
    media_type: str
    format: str
    mode: str
    width: int
    height: int
    mask_source: Literal["mask", "alpha"]
    mask_mode: ReadMode
    coverage: float
    windows: int
    seconds: dict[str, float]  # decode: until the windows are planned; infer: in the generator


def inpaint_bytes(
    image: bytes, mask: bytes | None, job: InpaintJob, filler: Filler, limits: Limits
) -> Restored:
    """Fill the hole of one picture.

    Args:
        image: a picture file.
        mask: a mask file; None takes the picture's own transparency.
        job: what is to be done to the hole, and how the result is written.
        filler: the model.
        limits: for both files.

    Raises:
        InpaintError: what `decode`, `decode_hole`, `hole_of_alpha`, `prepare` and `encode` refuse.
        ModelFailed: if the generator raises.
    """
    began = time.perf_counter()
    mode = probe(image, limits).mode
    picture = decode(image, limits)
    hole, mask_mode = _hole(picture, mask, job, limits)
    hole = grow(hole, max(job.mask_grow, job.mask_feather))
    plan = prepare(picture.pixels, hole, filler.rule, feather=job.mask_feather)
    decoded = time.perf_counter()
    infer: list[float] = []
    pixels = finish(plan, _fills(plan, filler, infer))
    filled = picture.with_pixels(pixels, hole, opaque=mask is None)
    data = encode(filled, job.output_format, job.output_quality)
    ended = time.perf_counter()
    written = picture.format if job.output_format == "same" else job.output_format
    return Restored(
        data=data,
        media_type=MEDIA_TYPES[written],
        format=picture.format,
        mode=mode,
        width=picture.width,
        height=picture.height,
        mask_source="alpha" if mask is None else "mask",
        mask_mode=mask_mode,
        coverage=float(hole.mean()),
        windows=len(plan.windows),
        seconds={
            "decode": decoded - began,
            "infer": sum(infer),
            "encode": ended - decoded - sum(infer),
        },
    )


def _hole(
    picture: Picture, mask: bytes | None, job: InpaintJob, limits: Limits
) -> tuple[Hole, ReadMode]:
    """Return the hole as it was marked, and how it was marked."""
    if mask is None:
        return hole_of_alpha(picture), "alpha"
    return decode_hole(
        mask,
        picture.height,
        picture.width,
        mode=job.mask_mode,
        fit=job.mask_fit,
        limits=limits,
    )


def _fills(plan: Plan, filler: Filler, seconds: list[float]) -> Iterator[Pixels]:
    """Yield the fills of a plan's windows; add the seconds that each batch took."""
    for batch in batches(plan.windows):
        pixels, holes = plan.inputs(batch)
        began = time.perf_counter()
        fills = _fill(filler, pixels, holes)
        seconds.append(time.perf_counter() - began)
        yield from fills


def _fill(filler: Filler, pixels: NDArray[np.uint8], holes: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Run the filler; what it raises is a problem of this picture, not the end of the worker."""
    try:
        return filler(pixels, holes)
    except (InpaintError, JobTimeoutException):
        raise
    except Exception as error:
        log.exception("the generator raised, given windows %s", pixels.shape)
        raise ModelFailed(
            f"The model failed on this picture ({type(error).__name__}); another one may not."
        ) from error
