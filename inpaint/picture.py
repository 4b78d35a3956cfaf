"""Bytes of a picture file to samples, and back.

In: JPEG, PNG, WebP or TIFF (its first page). Out: a `Picture`, upright, in the file's own colour
space and depth, with what the file says about itself. `encode` is the way back: lossless formats
return samples as they came.

A palette is written out as RGB, and 1, 2 or 4 bits of gray as 8, since a fill needs colours that
the file has no room for. Animations and CMYK are refused by `probe`. Samples of 16 bits go through
`deep`, everything else through Pillow.
"""

import io
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, PngImagePlugin
from PIL.JpegImagePlugin import JpegImageFile, get_sampling
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from . import deep
from . import metadata as metadata_of
from .errors import ImageUnreadable, InvalidField
from .header import MEDIA_TYPES, Format, Header, Limits, Mode, probe
from .metadata import DAMAGE, Metadata, quiet
from .strips import strips

__all__ = [
    "MEDIA_TYPES",
    "Format",
    "Header",
    "Limits",
    "Metadata",
    "OutputFormat",
    "Picture",
    "decode",
    "encode",
    "luminance",
    "probe",
]

OutputFormat = Literal["same", "jpeg", "png", "webp", "tiff"]

JPEG_QUALITY = 95  # where the picture was no JPEG and no quality is asked for
WEBP_QUALITY = 90
# Level 6 takes two to four times as long; runs alone, without a search for repetitions, are faster
# still, and of photographs they give smaller files than level 1 with the search (zlib-ng 2.3).
PNG_COMPRESSION = {"compress_level": 1, "compress_type": 3}  # 3: Z_RLE
WEBP_MAX_SIDE = 16_383  # pixels
PngImagePlugin.MAX_TEXT_CHUNK = 16 * 1024 * 1024  # bytes; Pillow refuses profiles over 1 MiB
TIFF_COMPRESSIONS = ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate")  # lossless and common


Samples = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(frozen=True)
class Coding:
    """How the file was compressed, so that the result can be compressed alike."""

    tables: tuple[tuple[int, ...], ...] = ()  # JPEG: 64 quantisation steps each
    subsampling: int = 0  # JPEG: Pillow's number; 0: none
    progressive: bool = False  # JPEG
    lossless: bool = False  # WebP
    compression: str = "tiff_lzw"  # TIFF: Pillow's name


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded file, upright.

    Attributes:
        samples: uint8 or uint16, (H,W) or (H,W,3); once only in memory, so fills are written into
            them.
        alpha: as deep as the samples, (H,W), the most = opaque, or None; likewise.
    """

    samples: Samples
    alpha: Samples | None
    format: Format
    metadata: Metadata = Metadata()
    coding: Coding = Coding()

    @property
    def height(self) -> int:
        """In pixels."""
        return int(self.samples.shape[0])

    @property
    def width(self) -> int:
        """In pixels."""
        return int(self.samples.shape[1])

    @property
    def gray(self) -> bool:
        """Whether there is one channel, in 8 or 16 bits."""
        return self.samples.ndim == 2

    @property
    def deep(self) -> bool:
        """Whether there are 16 bits per channel."""
        return self.samples.dtype == np.uint16

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """What generators see: uint8 (H,W,3), RGB; alpha left out, 16 bits rounded.

        Of 8-bit colour the samples themselves, to be written in a hole; of gray a read-only view.
        """
        pixels = in_eight(self.samples)
        if self.gray:
            pixels = np.broadcast_to(pixels[..., None], (*pixels.shape, 3))  # without a copy
        return pixels

    @property
    def opacity(self) -> NDArray[np.uint8] | None:
        """Alpha, uint8 (H,W), 255 = opaque; 16 bits rounded."""
        return None if self.alpha is None else in_eight(self.alpha)

    def with_pixels(
        self, pixels: NDArray[np.uint8], hole: NDArray[np.bool_], *, opaque: bool = False
    ) -> "Picture":
        """Write `pixels` into the hole; all other samples are the same.

        Args:
            pixels: uint8 (H,W,3), RGB. Gray pictures take their luminance.
            hole: bool (H,W), True = taken from `pixels`.
            opaque: make the hole opaque, for a hole that was the picture's own transparency.

        Returns:
            This picture, or one with copies of those arrays that are read-only.
        """
        if pixels.shape != (self.height, self.width, 3) or hole.shape != pixels.shape[:2]:
            raise ValueError(f"pixels {pixels.shape}, hole {hole.shape}, not {self.samples.shape}")
        samples = self.samples if self.samples.flags.writeable else self.samples.copy()
        if pixels is not samples:
            for rows in strips(*hole.shape):
                fill: NDArray[np.unsignedinteger] = pixels[rows][hole[rows]]
                if self.gray:
                    fill = luminance(fill)
                samples[rows][hole[rows]] = fill * deep.WIDEN if self.deep else fill
        alpha = self.alpha
        if opaque and alpha is not None:
            alpha = alpha if alpha.flags.writeable else alpha.copy()
            np.copyto(alpha, np.iinfo(alpha.dtype).max, where=hole)
        return replace(self, samples=samples, alpha=alpha)


def in_eight(samples: Samples) -> NDArray[np.uint8]:
    """Return samples in 8 bits: themselves, or rounded."""
    if samples.dtype == np.uint16:
        return deep.rounded(samples.astype(np.uint16, copy=False))
    return samples.astype(np.uint8, copy=False)


def luminance(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the brightness of RGB `pixels` (...,3) as uint8 (...); Rec. 601, of gray the gray."""
    colours = np.ascontiguousarray(pixels).reshape(-1, 3)
    bright = np.empty(len(colours), np.uint8)
    for part in strips(len(colours), 1):
        bright[part] = np.asarray(Image.fromarray(colours[None, part]).convert("L"))[0]
    return bright.reshape(pixels.shape[:-1])


def decode(data: bytes, limits: Limits | None = None, *, field: str = "image") -> Picture:
    """Decode a picture file.

    Raises:
        InpaintError: all that `probe` raises.
        ImageUnreadable: the header is fine and the data is cut off or damaged.
    """
    header = probe(data, limits, field=field)
    try:
        image = _load(data, header)
        metadata, coding = metadata_of.read(image, header, data), _coding(image, header)
        samples, alpha = deep.read(data, header) if header.deep else _samples(image, header)
    except DAMAGE as error:
        raise ImageUnreadable(
            f"The {field} has the header of a {header.format.upper()} file of {header.width} x "
            f"{header.height} pixels, but its data is cut off or damaged ({error}).",
            field=field,
        ) from error
    return Picture(samples, alpha, header.format, metadata, coding)


def encode(picture: Picture, format: OutputFormat = "same", quality: int | None = None) -> bytes:
    """Encode a picture, its metadata with it.

    Args:
        picture: what to encode.
        format: `same` keeps format, mode and depth, and compresses as the file was compressed.
            JPEG and WebP hold 8 bits: asked for by name, they get 16 bits rounded.
        quality: 1 to 100, for JPEG and WebP; otherwise without effect. None: a JPEG that stays
            one keeps its quantisation tables, a lossless WebP stays lossless.

    Raises:
        InvalidField: the format cannot hold the picture's transparency or size.
    """
    target = picture.format if format == "same" else format
    if picture.deep and target in ("png", "tiff"):
        return _encode_deep(picture, target)
    image = _to_pillow(picture, target)
    if target == "jpeg":
        options = _jpeg_options(picture, quality)
    elif target == "webp":
        lossless = picture.format == "webp" and picture.coding.lossless and quality is None
        options = (  # quality of lossless WebP means effort; exact: colours below alpha 0 stay
            {"lossless": True, "exact": True, "quality": 20, "method": 2}
            if lossless
            else {"quality": quality or WEBP_QUALITY}
        )
    elif target == "png":
        options = {**PNG_COMPRESSION}
    else:
        options = {"compression": picture.coding.compression}
    buffer = io.BytesIO()
    image.save(buffer, target.upper(), **options, **metadata_of.options(picture.metadata, target))
    if target == "tiff":
        metadata_of.attach(buffer, picture.metadata)
    return buffer.getvalue()


def _encode_deep(picture: Picture, target: Format) -> bytes:
    samples = picture.samples.astype(np.uint16, copy=False)
    alpha = None if picture.alpha is None else picture.alpha.astype(np.uint16, copy=False)
    if target == "png":
        return deep.png(samples, alpha, metadata_of.chunks(picture.metadata))
    file = deep.tiff(samples, alpha, picture.coding.compression, picture.metadata)
    metadata_of.attach(file, picture.metadata)
    return file.getvalue()


# --- reading ----------------------------------------------------------------------------------

PLUGINS: dict[Format, type[ImageFile.ImageFile]] = {
    "jpeg": JpegImageFile,
    "png": PngImageFile,
    "webp": WebPImageFile,
    "tiff": TiffImageFile,
}
PILLOW_MODES: dict[Mode, str] = {
    "gray": "L",
    "gray+alpha": "LA",
    "palette": "RGB",
    "palette+alpha": "RGBA",
    "rgb": "RGB",
    "rgb+alpha": "RGBA",
}
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _load(data: bytes, header: Header) -> ImageFile.ImageFile:
    """Open and decompress; by the format's own class, since `Image.open` has limits of its own.

    Samples of 16 bits stay as they are: the file is opened for what it says about them.
    """
    with quiet():
        image = PLUGINS[header.format](io.BytesIO(data))
        if header.deep:
            return image
        if header.format == "tiff":
            image.load()  # reads metadata as well, and turns the picture upright
    if header.format == "png" and isinstance(image.info.get("transparency"), int):
        depth = data[24]
        if image.mode == "L" and depth < 8:  # Pillow scales the samples and forgets this one
            image.info["transparency"] *= 255 // (2**depth - 1)
    image.load()
    return image


def _samples(
    image: Image.Image, header: Header
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Return samples and alpha, upright."""
    if header.orientation in TURNS and header.format != "tiff":
        image = image.transpose(TURNS[header.orientation])
    if image.size != (header.width, header.height):
        raise ValueError(f"decoded to {image.size}")
    mode = PILLOW_MODES[header.mode]
    if image.mode != mode:
        image = image.convert(mode)
    colours = (3,) if mode in ("RGB", "RGBA") else ()
    samples = np.empty((header.height, header.width, *colours), np.uint8)
    alpha = np.empty(samples.shape[:2], np.uint8) if header.alpha else None
    for rows in strips(header.height, header.width):
        end = min(rows.stop, header.height)
        whole = end - rows.start == header.height  # cropping would copy all of it
        part = np.asarray(image if whole else image.crop((0, rows.start, header.width, end)))
        if alpha is None:
            samples[rows] = part
        else:
            samples[rows] = part[..., :3] if colours else part[..., 0]
            alpha[rows] = part[..., -1]
    return samples, alpha


def _coding(image: ImageFile.ImageFile, header: Header) -> Coding:
    if isinstance(image, JpegImageFile):
        tables = tuple(tuple(table) for _, table in sorted(image.quantization.items()))
        subsampling = max(0, get_sampling(image))  # an unusual one, -1, becomes none
        return Coding(tables, subsampling, progressive="progressive" in image.info)
    compression = image.info.get("compression")
    if compression in TIFF_COMPRESSIONS:
        return Coding(compression=compression)
    return Coding(lossless=header.lossless)


# --- writing ----------------------------------------------------------------------------------


def _to_pillow(picture: Picture, target: Format) -> Image.Image:
    samples, alpha = in_eight(picture.samples), picture.opacity
    if target == "webp" and max(picture.width, picture.height) > WEBP_MAX_SIDE:
        raise InvalidField(
            f"The picture is {picture.width} x {picture.height} pixels; WebP holds sides of at "
            f"most {WEBP_MAX_SIDE}.",
            field="output_format",
        )
    if target == "jpeg" and alpha is not None:
        if alpha.min() < 255:
            raise InvalidField(
                "The picture has transparency, which JPEG cannot hold; PNG, WebP and TIFF can.",
                field="output_format",
            )
        alpha = None
    image = Image.fromarray(np.ascontiguousarray(samples))
    if alpha is not None:
        image.putalpha(Image.fromarray(alpha))
    return image


def _jpeg_options(picture: Picture, quality: int | None) -> dict[str, object]:
    coding = picture.coding
    if quality is None and picture.format == "jpeg" and coding.tables:
        return {
            "qtables": [list(table) for table in coding.tables],
            "subsampling": coding.subsampling,
            "progressive": coding.progressive,
        }
    quality = quality or JPEG_QUALITY
    return {"quality": quality, "subsampling": 0 if quality >= 90 else 2}
