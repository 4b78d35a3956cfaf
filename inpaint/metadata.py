"""What a file says about its picture: colour profile, EXIF, resolution; read, kept, written.

Pillow writes the directories of EXIF into a TIFF only where it is not compressed, so `attach` adds
them to the finished file.
"""

import io
import math
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageFile
from PIL.PngImagePlugin import PngInfo
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from . import exif
from .header import Format, Header, png_chunks

INCH = 0.0254  # metres
JPEG_MAX_EXIF = 65_000  # bytes; one segment
DESCRIPTIVE = (270, 271, 272, 305, 306, 315, 316, 33432)  # TIFF: title, maker … copyright
INTEROPERABILITY = 40965  # an offset within EXIF, without meaning elsewhere
PNG_COLOURS = (b"cHRM", b"cICP", b"gAMA", b"sRGB")  # chunks: what the samples mean
DAMAGE = (  # what Pillow raises on damaged data, of which it promises nothing
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
_filters = threading.Lock()


@dataclass(frozen=True)
class Metadata:
    """What is carried over to the result."""

    icc: bytes | None = None  # colour profile
    exif: bytes | None = None  # without the `Exif` prefix; orientation 1, no thumbnail
    dpi: tuple[float, float] | None = None  # along the width, along the height
    colours: tuple[tuple[bytes, bytes], ...] = ()  # chunks of a PNG, for a PNG: kind, content


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Pillow's warnings about odd metadata to ourselves, one thread at a time.

    Python's warning filters belong to all threads: without the lock two that restore them would
    undo each other.
    """
    with _filters, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def read(image: ImageFile.ImageFile, header: Header, data: bytes) -> Metadata:
    """Take the metadata of an opened file, as it is true of the upright picture."""
    info = image.info
    colours: tuple[tuple[bytes, bytes], ...] = ()
    if header.format == "png":
        chunks = {kind: data[start:end] for kind, start, end in png_chunks(data) if kind != b"IDAT"}
        colours = tuple((kind, chunks[kind]) for kind in PNG_COLOURS if kind in chunks)
        info.setdefault("exif", chunks.get(b"eXIf", b""))  # may stand behind the samples
    if header.format == "tiff":
        raw = _described(image)
    else:
        raw = info.get("exif", b"").removeprefix(b"Exif\0\0")
    icc = info.get("icc_profile") or None
    kept = exif.upright(raw) if raw else None
    return Metadata(icc, kept, _dpi(info.get("dpi"), header), colours)


def options(metadata: Metadata, target: Format) -> dict[str, Any]:
    """Say in the words of Pillow's `save` what goes along into a file of format `target`.

    EXIF that is too long for a JPEG stays behind, and so does resolution for WebP, which knows it
    only as a part of EXIF.
    """
    chosen: dict[str, Any] = {}  # as Pillow has it
    if metadata.icc is not None:
        chosen["icc_profile"] = metadata.icc
    if metadata.dpi is not None and target != "webp":
        chosen["dpi"] = metadata.dpi
    if metadata.exif is not None:
        if target == "tiff":
            chosen["tiffinfo"] = texts(metadata.exif)
        elif target != "jpeg" or len(metadata.exif) <= JPEG_MAX_EXIF:
            chosen["exif"] = b"Exif\0\0" + metadata.exif
    if target == "png" and metadata.colours:
        chosen["pnginfo"] = PngInfo()
        for kind, content in metadata.colours:
            chosen["pnginfo"].add(kind, content)
    return chosen


def chunks(metadata: Metadata) -> Iterator[tuple[bytes, bytes]]:
    """Yield the chunks that say it in a PNG, kind and content."""
    yield from metadata.colours
    if metadata.icc is not None:
        yield b"iCCP", b"ICC Profile\0\0" + zlib.compress(metadata.icc)
    if metadata.dpi is not None:
        across, down = (round(value / INCH) for value in metadata.dpi)
        yield b"pHYs", struct.pack(">IIB", across, down, 1)
    if metadata.exif is not None:
        yield b"eXIf", metadata.exif


def attach(tiff: io.BytesIO, metadata: Metadata) -> None:
    """Add the directories of EXIF and GPS to a TIFF, at its end.

    What Pillow cannot read or write again is left out: metadata never costs a picture.
    """
    if metadata.exif is None:
        return
    try:
        with quiet():
            end, start = _with_directories(tiff, _directories(_loaded(metadata.exif)))
    except DAMAGE:
        return
    tiff.seek(0, io.SEEK_END)
    tiff.write(end)
    tiff.seek(4)
    tiff.write(start)


def _with_directories(
    tiff: io.BytesIO, directories: dict[int, ImageFileDirectory_v2]
) -> tuple[bytes, bytes]:
    """Return what is to be added at the end, and the four bytes from 4 on that point there."""
    with tiff.getbuffer() as file:
        order = exif.order(bytes(file[:4]))
        (start,) = struct.unpack_from(order + "I", file, 4)
        (count,) = struct.unpack_from(order + "H", file, start)
        end = start + 2 + 12 * count
        entries = [bytes(file[place : place + 12]) for place in range(start + 2, end, 12)]
        following, length = bytes(file[end : end + 4]), len(file)
    added = bytearray()
    for tag, directory in directories.items():
        added += bytes((length + len(added)) % 2)
        place = length + len(added)
        entries.append(struct.pack(order + "HHII", tag, 4, 1, place))
        added += directory.tobytes(place)
    added += bytes((length + len(added)) % 2)
    first = struct.pack(order + "I", length + len(added))  # the first directory, written anew
    added += struct.pack(order + "H", len(entries))
    added += b"".join(sorted(entries, key=lambda entry: struct.unpack_from(order + "H", entry)))
    return bytes(added) + following, first


def _dpi(found: tuple[float, float] | None, header: Header) -> tuple[float, float] | None:
    try:
        across, down = (float(value) for value in found or (0, 0))
    except (TypeError, ValueError, ZeroDivisionError):  # a rational number of TIFF may be x / 0
        return None
    if not all(math.isfinite(value) and 1 < value < 65_535 for value in (across, down)):
        return None  # 1: Pillow's word for a TIFF that does not say
    return (down, across) if header.orientation >= 5 else (across, down)


def _loaded(raw: bytes) -> Image.Exif:
    found = Image.Exif()
    found.load(raw)
    return found


def texts(raw: bytes) -> dict[int, str]:
    """Return what EXIF says in words, by the tags that TIFF knows too; nothing if it is damaged."""
    try:
        with quiet():
            found = _loaded(raw)
            texts = {tag: found[tag] for tag in DESCRIPTIVE if tag in found}
    except DAMAGE:
        return {}
    return {tag: text for tag, text in texts.items() if isinstance(text, str)}


def _described(image: Image.Image) -> bytes:
    """Write EXIF anew from a TIFF's tags: those about the picture, not those about the file."""
    kept = ImageFileDirectory_v2()
    try:
        with quiet():
            found = image.getexif()
            for tag in DESCRIPTIVE:
                if tag in found:
                    kept[tag] = found[tag]
            directories: dict[int, Any] = _directories(found)  # a directory may be a tag's value
            for tag, directory in directories.items():
                kept[tag] = dict(directory)
            return b"II*\0\x08\0\0\0" + kept.tobytes(8) if kept else b""
    except DAMAGE:
        return b""


def _directories(found: Image.Exif) -> dict[int, ImageFileDirectory_v2]:
    directories = {}
    for tag in (exif.EXIF, exif.GPS):
        content = found.get_ifd(tag)
        if content:
            directories[tag] = ImageFileDirectory_v2(group=tag)
            for key, value in content.items():
                if key != INTEROPERABILITY:
                    directories[tag][key] = value
    return directories
