"""Pictures of 16 bits per channel: what Pillow reads, or writes, as 8.

In: PNG and TIFF files whose header `header.probe` has accepted. Out: their samples, upright and
unchanged; and the way back. What a file says besides its samples is in `metadata`.

Source: PNG 3rd edition, sections 9 and 11; TIFF 6.0, sections 14 and 18.
"""

import io
import logging
import math
import struct
import zlib
from collections.abc import Iterable

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from tifffile import COMPRESSION, TiffFile, TiffFileError, TiffPage, TiffWriter

from .header import Header, Mode
from .metadata import Metadata, texts
from .strips import strips

Deep = NDArray[np.uint16]
logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what is damaged is told by name

WIDEN = np.uint16(257)  # from 8 bits to 16
FULL = 65_535
CHANNELS: dict[Mode, int] = {"gray16": 1, "rgb16": 3, "rgb16+alpha": 4}
PNG_LEVEL, PNG_STRATEGY = 1, zlib.Z_RLE  # as `picture.PNG_COMPRESSION`
SUB = 1  # PNG's filter: the difference to the pixel on the left
PREMULTIPLIED = 1  # TIFF's ExtraSamples: colours are multiplied by alpha
TIFF_WORDS = {  # Pillow's names of compressions that are written -> tifffile's
    "raw": COMPRESSION.NONE,
    "packbits": COMPRESSION.PACKBITS,
    "tiff_lzw": COMPRESSION.LZW,
    "tiff_adobe_deflate": COMPRESSION.ADOBE_DEFLATE,
}
PREDICTED = ("tiff_lzw", "tiff_adobe_deflate")  # without differences 16 bits hardly shrink


def rounded(samples: Deep) -> NDArray[np.uint8]:
    """Return samples of any shape in 8 bits, each the nearest."""
    eight = np.empty(samples.shape, np.uint8)
    for rows in strips(samples.shape[0], math.prod(samples.shape[1:])):
        eight[rows] = (samples[rows].astype(np.uint32) + 128) // 257
    return eight


# --- reading ----------------------------------------------------------------------------------


def read(data: bytes, header: Header) -> tuple[Deep, Deep | None]:
    """Decompress a file.

    Args:
        data: the whole file.
        header: of it, from `probe`, with 16 bits per channel.

    Returns:
        uint16 (H,W) or (H,W,3), writable, and alpha, uint16 (H,W) or None; upright.

    Raises:
        ValueError, and what Pillow may raise on damage: if data is missing or damaged.
    """
    try:
        whole = imagecodecs.png_decode(data) if header.format == "png" else _tiff(data, header)
    except (RuntimeError, TiffFileError) as error:  # the first: any error of a codec
        raise ValueError(str(error)) from error
    whole = np.ascontiguousarray(turned(whole, header.orientation))
    shape = (header.height, header.width, CHANNELS[header.mode])[: 2 + (header.mode != "gray16")]
    if whole.shape != shape or whole.dtype != np.uint16:
        raise ValueError(f"decoded to {whole.dtype} of {whole.shape}")
    return (whole[..., :3], whole[..., 3]) if header.alpha else (whole, None)


def turned(samples: Deep, orientation: int) -> Deep:
    """Return a view of (H,W) or (H,W,C), upright; EXIF's orientation, 1 to 8."""
    if orientation in (2, 3):
        samples = samples[:, ::-1]
    if orientation in (3, 4):
        samples = samples[::-1]
    if orientation == 7:
        samples = samples[::-1, ::-1]
    if orientation >= 5:
        samples = samples.swapaxes(0, 1)
    if orientation == 6:
        samples = samples[:, ::-1]
    if orientation == 8:
        samples = samples[::-1]
    return samples


def _tiff(data: bytes, header: Header) -> Deep:
    """Decompress the first page, (H,W) or (H,W,C), as it is stored."""
    with TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        assert isinstance(page, TiffPage)
        shape = page.imagelength, page.imagewidth, page.samplesperpixel
        known = header.height * header.width * CHANNELS[header.mode]
        if math.prod(shape) != known or max(page.imagedepth, page.tiledepth) > 1:
            raise ValueError(f"its directory says {shape}")  # before anything is allocated
        whole = np.empty(shape, np.uint16)
        _segments(page, data, whole)
        if page.photometric == 0:  # 0 is white
            np.subtract(FULL, whole, out=whole)
        if page.samplesperpixel == 4 and page.extrasamples[:1] == (PREMULTIPLIED,):
            _divide(whole)
    return whole if whole.shape[2] > 1 else whole[..., 0]


def _segments(page: TiffPage, data: bytes, whole: Deep) -> None:
    """Decompress each strip or tile to its place; a missing one is damage, never black."""
    places = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    if len(places) != math.prod(page.chunked) or page.dtype != np.uint16:
        raise ValueError(f"{len(places)} strips or tiles, {math.prod(page.chunked)} expected")
    file = memoryview(data)
    for number, (offset, length) in enumerate(places):
        if length < 1 or offset < 1 or offset + length > len(file):
            raise ValueError(f"strip or tile {number} lies outside the file")
        part, (plane, _, top, left, _), _ = page.decode(file[offset : offset + length], number)
        if part is None:
            raise ValueError(f"strip or tile {number} is empty")
        here = whole[top:, left:, plane:][: part.shape[1], : part.shape[2], : part.shape[3]]
        here[:] = part[0, : here.shape[0], : here.shape[1]]


def _divide(whole: Deep) -> None:
    """Undo the multiplication of colours by alpha, (H,W,4); what is opaque stays as it is."""
    for rows in strips(*whole.shape[:2]):
        alpha = whole[rows, :, 3:].astype(np.uint64)
        colours = (whole[rows, :, :3] * np.uint64(FULL) + alpha // 2) // np.maximum(alpha, 1)
        whole[rows, :, :3] = np.minimum(colours, FULL)


# --- writing ----------------------------------------------------------------------------------


def png(samples: Deep, alpha: Deep | None, chunks: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Write a PNG, a strip at a time.

    Args:
        samples: uint16 (H,W) or (H,W,3).
        alpha: uint16 (H,W), or None.
        chunks: kind and content of what comes before the samples.
    """
    height, width = samples.shape[:2]
    channels = _joined(samples[:1], None if alpha is None else alpha[:1]).shape[2]
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    file = io.BytesIO(b"\x89PNG\r\n\x1a\n")
    file.seek(0, io.SEEK_END)
    _chunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
    for name, content in chunks:
        _chunk(file, name, content)
    compressor = zlib.compressobj(PNG_LEVEL, strategy=PNG_STRATEGY)
    step = 2 * channels  # bytes of a pixel
    for rows in strips(height, width):
        part = _joined(samples[rows], None if alpha is None else alpha[rows]).astype(">u2")
        stored = part.view(np.uint8).reshape(len(part), -1)
        filtered = np.empty((len(part), 1 + stored.shape[1]), np.uint8)
        filtered[:, 0] = SUB
        filtered[:, 1 : 1 + step] = stored[:, :step]
        np.subtract(stored[:, step:], stored[:, :-step], out=filtered[:, 1 + step :])
        if packed := compressor.compress(filtered.data):
            _chunk(file, b"IDAT", packed)
    _chunk(file, b"IDAT", compressor.flush())
    _chunk(file, b"IEND", b"")
    return file.getvalue()


def _chunk(file: io.BytesIO, kind: bytes, content: bytes) -> None:
    file.write(struct.pack(">I4s", len(content), kind))
    file.write(content)
    file.write(struct.pack(">I", zlib.crc32(content, zlib.crc32(kind))))


def tiff(samples: Deep, alpha: Deep | None, compression: str, metadata: Metadata) -> io.BytesIO:
    """Write a TIFF of one page.

    Args:
        samples: uint16 (H,W) or (H,W,3).
        alpha: uint16 (H,W), or None.
        compression: a key of `TIFF_WORDS`.
        metadata: what is kept of it within the first directory.
    """
    told = texts(metadata.exif) if metadata.exif is not None else {}
    file = io.BytesIO()
    with TiffWriter(file) as writer:
        writer.write(
            samples if alpha is None else _joined(samples, alpha),
            photometric="minisblack" if samples.ndim == 2 else "rgb",
            planarconfig=None if samples.ndim == 2 and alpha is None else "contig",
            extrasamples=None if alpha is None else ["unassalpha"],
            compression=TIFF_WORDS[compression],
            predictor=compression in PREDICTED,
            iccprofile=metadata.icc,
            resolution=metadata.dpi,
            resolutionunit=None if metadata.dpi is None else "inch",
            extratags=[(tag, "s", 0, text, True) for tag, text in told.items()],
            metadata=None,
            software=False,
            maxworkers=1,
        )
    return file


def _joined(samples: Deep, alpha: Deep | None) -> Deep:
    """Return (h,w,C), alpha the last of the channels; what `read` has divided, without a copy."""
    if alpha is None:
        return samples.reshape(*samples.shape[:2], -1)
    whole = samples.base
    if whole is not None and whole.shape == (*alpha.shape, 4):
        parts = (whole[..., :3], samples), (whole[..., 3], alpha)
        if all(a.__array_interface__ == b.__array_interface__ for a, b in parts):
            return whole
    return np.dstack((samples, alpha))
