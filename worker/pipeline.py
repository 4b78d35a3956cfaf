"""One picture from bytes to bytes, in as many passes of a model as it needs.

    take ─▶ open ─┬────────────▶ fill ─▶ restored     its hole came with it
                  └─▶ detect ─┬─▶ fill ─▶ restored    its hole is to be found
                              └─────────▶ restored    none was found, or it alone is wanted

Jobs and files both go this way. Whoever has the models fills the windows of a pass and lays them;
nothing here computes with a network, nor knows who asked.
"""

import time
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from inpaint.composite import Rim
from inpaint.errors import MaskMissing
from inpaint.header import Format, Limits, Mode, check_quality, probe
from inpaint.highres import Pixels
from inpaint.jobs import AutoMask, Tone
from inpaint.mask import (
    Hole,
    MaskFit,
    MaskMode,
    ReadMode,
    decode_hole,
    encode_hole,
    grow,
    hole_of_alpha,
)
from inpaint.patches import Refine, chosen
from inpaint.picture import MEDIA_TYPES, OutputFormat, Picture, decode, encode
from inpaint.restore import Finish, Plan, prepare
from models import damage

from .forming import Pass
from .tone import toned
from .zoo import Zoo

LARGE = 0.4  # of the picture: more than this is seldom damage


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is to be done to a picture, and how the result is written; as in `InpaintJob`."""

    mask_mode: MaskMode = "auto"
    mask_fit: MaskFit = "exact"
    mask_grow: int | None = None  # pixels; None: damage.GROWN of what is detected, else none
    mask_feather: int = 0  # pixels
    refine: Refine = "auto"  # what is done to the fill
    tone: tuple[Tone, ...] = ()  # what is done to the whole picture after the fill
    auto_mask: AutoMask = "none"  # a detector
    auto_mask_sensitivity: float = 0.5  # 0 to 1
    mask_only: bool = False  # the hole is the result
    output_format: OutputFormat = "same"
    output_quality: int | None = None


@dataclass(frozen=True)
class Restored:
    """What has come of a picture; facts in the words of `inpaint.jobs.Outcome`."""

    data: bytes
    mask: bytes | None  # the hole, as a PNG, where it was detected
    media_type: str
    format: Format
    mode: Mode
    width: int
    height: int
    mask_source: str
    mask_mode: ReadMode | None
    coverage: float
    windows: int
    unchanged: bool
    warning: Literal["mask-large"] | None
    seconds: dict[str, float]  # decode: until windows are planned; detect: all of that pass

    def facts(self) -> dict[str, Any]:  # as for Outcome
        """All but the files."""
        return {name: value for name, value in vars(self).items() if name not in ("data", "mask")}


@dataclass(frozen=True, eq=False)
class _Opened:
    """A decoded picture and the hole that came with it; None: it is all to be detected."""

    picture: Picture
    mode: Mode
    given: Hole | None
    source: Literal["mask", "alpha"] | None
    mask_mode: ReadMode | None


class Restoration:
    """One picture on its way: `take`, `open`, then `close` for each pass; `drop` ends it early.

    Attributes:
        restored: once no pass is left.
    """

    def __init__(
        self, zoo: Zoo, model: str, options: Options, limits: Limits, *, blank: bool = False
    ) -> None:
        """Begin with nothing.

        Args:
            zoo: holds the models.
            model: that fills; without a meaning where the hole is the result.
            options: what is to be done.
            limits: for both files.
            blank: whether an empty mask says that nothing is to be filled; else it is refused.
        """
        self.restored: Restored | None = None
        self._zoo, self._model, self._options, self._limits = zoo, model, options, limits
        self._blank = blank
        self._files: tuple[bytes, bytes | None] = b"", None
        self._mode: Mode | None = None  # of the image, once its file is there
        self._opened: _Opened | None = None
        self._plan: Plan | None = None  # of the fill, once the hole is known
        self._warning: Literal["mask-large"] | None = None
        self._seconds: dict[str, float] = {}

    def take(self, image: bytes, mask: bytes | None) -> int:
        """Keep the files.

        Args:
            image: a picture file.
            mask: a mask file; None takes the picture's own transparency, and what is detected.

        Returns:
            The pixels that opening will decode; once more if probabilities lie beside them, thrice
            if they have 16 bits.

        Raises:
            UnknownModel: if a model that is needed is not held.
            InpaintError: what `probe` and `check_quality` refuse.
        """
        options, header = self._options, probe(image, self._limits)
        if options.auto_mask != "none":
            self._zoo.detector(options.auto_mask)
        if not options.mask_only:
            self._zoo.filler(self._model)
            check_quality(header, options.output_format, options.output_quality)
        self._files, self._mode = (image, mask), header.mode
        depth = 3 if header.deep else 1  # its samples, and beside them their 8 bits
        return header.width * header.height * (depth + (options.auto_mask != "none"))

    def open(self) -> Pass:
        """Decode, and plan the first pass.

        Raises:
            InpaintError: what `decode`, `decode_hole`, `hole_of_alpha` and `prepare` refuse.
        """
        began = time.perf_counter()
        image, mask = self._files
        picture = decode(image, self._limits)
        assert self._mode is not None
        self._opened = self._marked(picture, self._mode, mask)
        self._files = image, None  # it is the result where nothing is to be filled
        if self._options.auto_mask == "none":
            first = self._fill(picture, self._grown(self._opened.given, None))
        else:
            tiles = damage.tiles(picture.pixels)
            first = Pass(self._options.auto_mask, tiles, damage.Probabilities(tiles))
        self._seconds["decode"] = time.perf_counter() - began
        return first

    def close(self, pixels: Pixels, *, infer: float, lay: float) -> Pass | None:
        """Take what a pass has come to, and return the next pass.

        Args:
            pixels: of the pass's canvas, all fills laid.
            infer: seconds spent in its model.
            lay: seconds spent laying its fills.

        Raises:
            InpaintError: what `prepare` and `encode` refuse.
        """
        opened, plan = self._opened, self._plan
        assert opened is not None
        if plan is None:
            return self._detected(opened, pixels, infer + lay)
        if not plan.windows:
            self._keep(opened, plan.hole)
            return None
        began = time.perf_counter() - lay
        self._seconds["infer"] = infer
        picture, feather = opened.picture, self._options.mask_feather
        rim = Rim(picture.samples, plan.hole, feather) if picture.deep else None
        filled = picture.with_pixels(pixels, plan.hole, opaque=opened.source == "alpha")
        if rim is not None:
            rim.blend(filled.samples)
        self._end(opened, plan.hole, self._encoded(filled), began)
        return None

    def drop(self) -> None:
        """Forget the picture."""
        self._files, self._opened, self._plan = (b"", None), None, None

    # --- the hole -------------------------------------------------------------------------------

    def _marked(self, picture: Picture, mode: Mode, mask: bytes | None) -> _Opened:
        """Join a picture with the hole that came with it."""
        if mask is not None:
            hole, mask_mode = decode_hole(
                mask,
                picture.height,
                picture.width,
                mode=self._options.mask_mode,
                fit=self._options.mask_fit,
                blank=self._blank,
                limits=self._limits,
            )
            return _Opened(picture, mode, hole, "mask", mask_mode)
        try:
            return _Opened(picture, mode, hole_of_alpha(picture), "alpha", "alpha")
        except MaskMissing:
            if self._options.auto_mask == "none":
                raise
            return _Opened(picture, mode, None, None, None)

    def _detected(self, opened: _Opened, found: Pixels, seconds: float) -> Pass | None:
        """Make a hole of probabilities (H,W,3) that took so long, and return the next pass."""
        began, options = time.perf_counter(), self._options
        thresholds = self._zoo.detector(options.auto_mask).thresholds
        damaged = damage.find(found, options.auto_mask_sensitivity, thresholds)
        if np.count_nonzero(damaged) > LARGE * damaged.size:
            self._warning = "mask-large"
        hole = self._grown(opened.given, damaged)
        self._seconds["detect"] = seconds + time.perf_counter() - began
        began = time.perf_counter()
        if options.mask_only:
            self._end(opened, hole, None, began)
        elif not hole.any():
            self._keep(opened, hole)
        else:
            following = self._fill(opened.picture, hole)
            self._seconds["decode"] += time.perf_counter() - began
            return following
        return None

    def _grown(self, given: Hole | None, damaged: Hole | None) -> Hole:
        """Return the hole that came with the picture and the one that was detected, both grown."""
        grown, feather = self._options.mask_grow, self._options.mask_feather
        if self._options.mask_only:  # what is found is shown as it is found
            grown, feather = grown or 0, 0
        holes = []
        if given is not None:
            holes.append(grow(given, max(grown or 0, feather)))
        if damaged is not None:
            holes.append(grow(damaged, max(damage.GROWN if grown is None else grown, feather)))
        return holes[0] if len(holes) == 1 else holes[0] | holes[1]

    # --- the passes' ends -----------------------------------------------------------------------

    def _fill(self, picture: Picture, hole: Hole) -> Pass:
        """Plan the pass that fills."""
        filler, options = self._zoo.filler(self._model), self._options
        self._plan = prepare(
            picture.pixels,
            hole,
            filler.rule,
            feather=0 if picture.deep else options.mask_feather,  # 16 bits are blended as such
            refine=chosen(options.refine, filler.learned),
        )
        if self._plan.windows:
            self._files = b"", None
        return Pass(self._model, self._plan, Finish(self._plan))

    def _keep(self, opened: _Opened, hole: Hole) -> None:
        """Leave a picture without a hole as it is, byte for byte, unless more is asked for."""
        began, options, picture = time.perf_counter(), self._options, opened.picture
        same = options.output_format in ("same", picture.format) and options.output_quality is None
        unchanged = same and not options.tone
        data = self._files[0] if unchanged else self._encoded(picture)
        self._end(opened, hole, data, began, unchanged=unchanged)

    def _encoded(self, picture: Picture) -> bytes:
        picture = toned(picture, self._options.tone)
        return encode(picture, self._options.output_format, self._options.output_quality)

    def _end(
        self,
        opened: _Opened,
        hole: Hole,
        data: bytes | None,
        began: float,
        *,
        unchanged: bool = False,
    ) -> None:
        """State the facts; without data the hole is the result."""
        picture, options = opened.picture, self._options
        mask = encode_hole(hole) if options.auto_mask != "none" else None
        written = picture.format if options.output_format == "same" else options.output_format
        sources = [opened.source, None if options.auto_mask == "none" else options.auto_mask]
        if data is None:
            assert mask is not None, "a mask alone is asked for where none is detected"
            data, written = mask, "png"
        self.restored = Restored(
            data=data,
            mask=mask,
            media_type=MEDIA_TYPES[written],
            format=picture.format,
            mode=opened.mode,
            width=picture.width,
            height=picture.height,
            mask_source="+".join(source for source in sources if source),
            mask_mode=opened.mask_mode,
            coverage=float(np.count_nonzero(hole) / hole.size),
            windows=len(self._plan.windows) if self._plan else 0,
            unchanged=unchanged,
            warning=self._warning,
            seconds={**self._seconds, "encode": time.perf_counter() - began},
        )
        self.drop()
