"""What a picture file says of itself, read from its header alone.

In: the bytes of a file. Out: a `Header`, or a refusal by name. Nothing is decompressed, and what
counts is the content, never a name. The gateway trusts this before it takes a job; the decoder
looks here first because Pillow opens 16-bit RGB as 8-bit RGB without a word: that is for `deep`.

Formats: PNG 3rd edition; JPEG, ITU-T T.81 annex B; WebP container, RFC 9649; TIFF 6.0 and BigTIFF.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal, NoReturn

from . import exif
from .errors import (
    FileTooLarge,
    ImageTooSmall,
    ImageUnreadable,
    InpaintError,
    InvalidField,
    TooManyPixels,
    UnsupportedImage,
)

Format = Literal["jpeg", "png", "webp", "tiff"]
Mode = Literal[
    "gray",
    "gray+alpha",
    "gray16",
    "palette",
    "palette+alpha",
    "rgb",
    "rgb+alpha",
    "rgb16",
    "rgb16+alpha",
]

MEDIA_TYPES: dict[Format, str] = {
    "jpeg": "image/jpeg",
    "png": "image/png",
    "webp": "image/webp",
    "tiff": "image/tiff",
}
WITH_ALPHA: dict[Mode, Mode] = {
    "gray": "gray+alpha",
    "palette": "palette+alpha",
    "rgb": "rgb+alpha",
    "rgb16": "rgb16+alpha",
}
DEEP: dict[Mode, Mode] = {"gray": "gray16", "rgb": "rgb16", "rgb+alpha": "rgb16+alpha"}
MAX_PARTS = 65_536  # chunks or segments that are looked at: a bound on the time, not on pictures
ACCEPTED = "JPEG, PNG, WebP and TIFF are accepted"
COLOURS = "RGB and gray are accepted"
DEPTHS = "8 bits per channel, and 16 in gray, RGB and RGB with alpha, are accepted"


@dataclass(frozen=True)
class Limits:
    """What is accepted; sides and pixels as the header states them."""

    max_bytes: int = 32 * 1024 * 1024
    max_pixels: int = 40_000_000
    min_side: int = 16  # pixels
    max_side: int = 16_384  # pixels


@dataclass(frozen=True)
class Header:
    """The facts of a picture file; width and height are those of the upright picture."""

    format: Format
    width: int
    height: int
    mode: Mode
    orientation: int = 1  # EXIF's number, 1 to 8: how the stored picture is to be turned
    lossless: bool = True  # False: JPEG, and WebP of the lossy kind

    @property
    def alpha(self) -> bool:
        """Whether there is transparency (which may yet be opaque everywhere)."""
        return self.mode.endswith("+alpha")

    @property
    def deep(self) -> bool:
        """Whether there are 16 bits per channel."""
        return self.mode in DEEP.values()


def check_quality(header: Header, output_format: str, quality: int | None) -> None:
    """Refuse a quality for a format that has none.

    Args:
        header: of the picture, for the output format "same".
        output_format: as in `inpaint.jobs.InpaintJob`.
        quality: 1 to 100; None: not asked for.

    Raises:
        InvalidField: naming the format.
    """
    written = header.format if output_format == "same" else output_format
    if quality is not None and written not in ("jpeg", "webp"):
        raise InvalidField(
            f"The field output_quality has no meaning for {written}; it is for jpeg and webp.",
            field="output_quality",
        )


def probe(data: bytes, limits: Limits | None = None, *, field: str = "image") -> Header:
    """Read the header of a picture file.

    Args:
        data: the whole file.
        limits: what is accepted; the defaults where None.
        field: the form field that the file came in, for the message of a refusal.

    Raises:
        FileTooLarge, TooManyPixels, ImageTooSmall: beyond the limits.
        UnsupportedImage: another type of file, a colour mode or depth that would not be kept, or
            an animation; the detail names it.
        ImageUnreadable: the header itself is broken or cut off.
    """
    limits = limits or Limits()
    try:
        _check_bytes(data, limits)
        header = _parse(data)
        _check_sides(header, limits)
    except InpaintError as error:
        error.field = field
        error.detail = f"The {field} {error.detail}"
        error.args = (error.detail,)
        raise
    return header


def _check_bytes(data: bytes, limits: Limits) -> None:
    if len(data) > limits.max_bytes:
        raise FileTooLarge(f"has {len(data)} bytes; at most {limits.max_bytes} are accepted.")


def _check_sides(header: Header, limits: Limits) -> None:
    width, height = header.width, header.height
    seen = f"is {width} x {height} pixels"
    if width < 1 or height < 1:
        raise ImageUnreadable(f"{seen}, says its header: that is no picture.")
    if max(width, height) > limits.max_side:
        raise TooManyPixels(f"{seen}; a side of at most {limits.max_side} is accepted.")
    if width * height > limits.max_pixels:
        raise TooManyPixels(f"{seen}; at most {limits.max_pixels} pixels in all are accepted.")
    if min(width, height) < limits.min_side:
        raise ImageTooSmall(f"{seen}; sides of at least {limits.min_side} are accepted.")


def _parse(data: bytes) -> Header:
    """Read the header by the file's first bytes; the details are ends of sentences."""
    parsers = (
        (data.startswith(b"\x89PNG\r\n\x1a\n"), "PNG", _png),
        (data.startswith(b"\xff\xd8\xff"), "JPEG", _jpeg),
        (data.startswith(b"RIFF") and data[8:12] == b"WEBP", "WebP", _webp),
        (data[:4] in exif.SIGNATURES, "TIFF", _tiff),
    )
    for matches, name, parse in parsers:
        if matches:
            try:
                header = parse(data)
            except (struct.error, LookupError, OverflowError, ValueError) as error:
                raise ImageUnreadable(f"is a {name} file with a broken header.") from error
            if header.orientation >= 5:  # a quarter turn
                return replace(header, width=header.height, height=header.width)
            return header
    raise UnsupportedImage(f"is {_kind(data)}; {ACCEPTED}.")


# --- PNG --------------------------------------------------------------------------------------

PNG_COLOURS: dict[int, Mode] = {
    0: "gray",
    2: "rgb",
    3: "palette",
    4: "gray+alpha",
    6: "rgb+alpha",
}


def _png(data: bytes) -> Header:
    chunks = {kind: (start, end) for kind, start, end in png_chunks(data)}
    if chunks[b"IHDR"] != (16, 29) or struct.unpack_from(">I", data, 29) != (
        zlib.crc32(data[12:29]),
    ):
        raise ValueError("IHDR")
    width, height, depth, kind = struct.unpack_from(">IIBB", data, 16)
    mode = PNG_COLOURS[kind]
    if b"tRNS" in chunks:
        mode = WITH_ALPHA.get(mode, mode)
    if b"acTL" in chunks:
        (frames,) = struct.unpack_from(">I", data, chunks[b"acTL"][0])
        _refuse_animation("PNG", frames)
    if depth == 16:
        if mode not in DEEP:
            _refuse(f"a PNG with 16 bits per channel ({mode})", DEPTHS)
        mode = DEEP[mode]
    start, end = chunks.get(b"eXIf", (0, 0))
    turn = exif.orientation(data[start:end])
    return Header("png", width, height, mode, turn)


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, start and end of each chunk's content, as far as the file goes."""
    position = 8
    for _ in range(MAX_PARTS):
        if position + 8 > len(data):
            return
        length, kind = struct.unpack_from(">I4s", data, position)
        yield kind, position + 8, position + 8 + length
        position += length + 12


# --- JPEG -------------------------------------------------------------------------------------

JPEG_COLOURS: dict[int, Mode] = {1: "gray", 3: "rgb"}
JPEG_MARKER = re.compile(rb"\xff([^\xff])")  # more of 0xff may precede it


def _jpeg(data: bytes) -> Header:
    turn, transform = 1, 0
    for marker, start, end in islice(_jpeg_segments(data), MAX_PARTS):
        if marker == 0xE1 and data[start : start + 6] == b"Exif\0\0":
            turn = exif.orientation(data[start + 6 : end])
        elif marker == 0xEE and data[start : start + 5] == b"Adobe":
            transform = data[start + 11]
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
            depth, height, width, channels = struct.unpack_from(">BHHB", data, start)
            if channels == 4:
                _refuse(f"a {'YCCK' if transform == 2 else 'CMYK'} JPEG", COLOURS)
            if channels not in JPEG_COLOURS:
                _refuse(f"a JPEG with {channels} channels", COLOURS)
            if depth != 8:
                _refuse(f"a JPEG with {depth} bits per channel", DEPTHS)
            return Header("jpeg", width, height, JPEG_COLOURS[channels], turn, lossless=False)
    raise ValueError("no start of frame")


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of each segment before the first scan."""
    position = 2
    while found := JPEG_MARKER.search(data, position):  # decoders skip what is no marker
        marker = found[1][0]
        position = found.end()
        if marker in (0xD9, 0xDA):  # end of image, start of scan
            return
        if marker in (0x00, 0x01, 0xD8) or 0xD0 <= marker <= 0xD7:  # nothing follows these
            continue
        (length,) = struct.unpack_from(">H", data, position)
        yield marker, position + 2, position + length
        position += length


# --- WebP -------------------------------------------------------------------------------------


def _webp(data: bytes) -> Header:
    parts = list(_webp_chunks(data))
    chunks = {kind: (start, end) for kind, start, end in parts}
    lossless = b"VP8L" in chunks
    if b"VP8X" in chunks:
        (start, _), flags = chunks[b"VP8X"], data[chunks[b"VP8X"][0]]
        if flags & 0x02:
            _refuse_animation("WebP", sum(kind == b"ANMF" for kind, _, _ in parts))
        alpha = bool(flags & 0x10)
        width = int.from_bytes(data[start + 4 : start + 7], "little") + 1
        height = int.from_bytes(data[start + 7 : start + 10], "little") + 1
    elif lossless:
        signature, bits = struct.unpack_from("<BI", data, chunks[b"VP8L"][0])
        if signature != 0x2F:
            raise ValueError("signature of VP8L")
        alpha = bool(bits >> 28 & 1)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        code, width, height = struct.unpack_from("<3x3sHH", data, chunks[b"VP8 "][0])
        if code != b"\x9d\x01\x2a":
            raise ValueError("start code of VP8")
        alpha = False
        width, height = width & 0x3FFF, height & 0x3FFF
    start, end = chunks.get(b"EXIF", (0, 0))
    turn = exif.orientation(data[start:end].removeprefix(b"Exif\0\0"))
    return Header("webp", width, height, "rgb+alpha" if alpha else "rgb", turn, lossless)


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, start and end of each chunk's content, as far as the file goes."""
    position = 12
    for _ in range(MAX_PARTS):
        if position + 8 > len(data):
            return
        kind, length = struct.unpack_from("<4sI", data, position)
        yield kind, position + 8, position + 8 + length
        position += 8 + length + length % 2


# --- TIFF -------------------------------------------------------------------------------------

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, SAMPLES = 256, 257, 258, 259, 262, 277
TILE_WIDTH, TILE_HEIGHT, EXTRA_SAMPLES, SAMPLE_FORMAT = 322, 323, 338, 339
TIFF_COLOURS: dict[int, Mode] = {0: "gray", 1: "gray", 2: "rgb", 3: "palette", 6: "rgb"}
TIFF_DEEP = {  # compressions of 16 bits that are read
    1: "none",
    5: "LZW",
    8: "Deflate",
    32946: "Deflate",
    32773: "PackBits",
    34925: "LZMA",
    50000: "Zstandard",
}
TIFF_REFUSED = {4: "a transparency mask", 5: "a CMYK TIFF", 8: "a CIELAB TIFF"}


def _tiff(data: bytes) -> Header:
    """Read the first page; others are not looked at."""
    tags = {WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, exif.ORIENTATION}
    tags |= {TILE_WIDTH, TILE_HEIGHT, EXTRA_SAMPLES, SAMPLE_FORMAT}
    found = {
        entry.tag: exif.integers(data, entry) for entry in exif.entries(data) if entry.tag in tags
    }
    width, height = found[WIDTH][0], found[HEIGHT][0]
    for tag, side in ((TILE_WIDTH, width), (TILE_HEIGHT, height)):
        if found.get(tag, (0,))[0] > 2 * side + 1024:  # decoders allocate whole tiles
            raise ValueError("tiles far larger than the picture")
    mode = _tiff_mode(found)
    return Header("tiff", width, height, mode, exif.turn(found.get(exif.ORIENTATION, (1,))[0]))


def _tiff_mode(found: dict[int, tuple[int, ...]]) -> Mode:
    bits = found.get(BITS, (1,))
    photometric = found.get(PHOTOMETRIC, (1,))[0]
    if photometric not in TIFF_COLOURS:
        _refuse(TIFF_REFUSED.get(photometric, f"a TIFF of colour space {photometric}"), COLOURS)
    mode = TIFF_COLOURS[photometric]
    samples = found.get(SAMPLES, (len(bits),))[0]
    extra = samples - (3 if mode == "rgb" else 1)
    if set(found.get(SAMPLE_FORMAT, (1,))) != {1}:
        _refuse(f"a TIFF of signed or floating-point numbers of {bits[0]} bits", DEPTHS)
    deep = bits[0] == 16
    if deep and (photometric > 2 or (extra and mode != "rgb")):
        _refuse(f"a TIFF with 16 bits per channel ({samples} channels)", DEPTHS)
    compression = found.get(COMPRESSION, (1,))[0]
    if deep and compression not in TIFF_DEEP:
        _refuse(
            f"a TIFF with 16 bits per channel in compression {compression}",
            f"of those {', '.join(dict.fromkeys(TIFF_DEEP.values()))} are accepted",
        )
    if bits[0] not in (1, 2, 4, 8, 16) or len(set(bits)) > 1:
        _refuse(f"a TIFF with {'/'.join(map(str, bits))} bits per channel", DEPTHS)
    if extra < 0:
        raise ValueError("fewer channels than the colour space has")
    if extra and (extra > 1 or found.get(EXTRA_SAMPLES, (2,)) not in ((1,), (2,))):
        _refuse(
            f"a TIFF with {samples} channels", "RGB and gray with or without alpha are accepted"
        )
    mode = WITH_ALPHA[mode] if extra else mode
    return DEEP[mode] if deep else mode


# --- refusals ---------------------------------------------------------------------------------


def _refuse(seen: str, accepted: str) -> NoReturn:
    raise UnsupportedImage(f"is {seen}; {accepted}.")


def _refuse_animation(name: str, frames: int) -> None:
    """A still picture is what comes back, so a film is refused rather than cut to one frame."""
    if frames > 1:
        _refuse(f"an animated {name} of {frames} frames", "still pictures are accepted")


def _kind(data: bytes) -> str:
    """Name what the file is instead."""
    signatures = {
        b"PK\x03\x04": "a ZIP archive",
        b"PK\x05\x06": "an empty ZIP archive",
        b"GIF8": "a GIF",
        b"%PDF": "a PDF",
        b"BM": "a BMP",
        b"8BPS": "a Photoshop document",
        b"\0\0\x01\0": "an icon (ICO)",
        b"\xff\x0a": "a JPEG XL",
        b"\0\0\0\x0cJXL ": "a JPEG XL",
        b"\0\0\0\x0cjP  ": "a JPEG 2000",
        b"\x1f\x8b": "a gzip archive",
        b"7z\xbc\xaf": "a 7-Zip archive",
        b"Rar!": "a RAR archive",
        b"RIFF": "a RIFF file (sound or film)",
        b"\x7fELF": "a program",
        b"MZ": "a program",
    }
    brands = {b"avif": "an AVIF", b"heic": "a HEIC", b"heix": "a HEIC", b"mif1": "a HEIC"}
    if not data:
        return "empty"
    if data[4:8] == b"ftyp":
        return brands.get(data[8:12], "a film or sound file (MP4)")
    for signature, name in signatures.items():
        if data.startswith(signature):
            return name
    return _kind_of_text(data[:1024])


def _kind_of_text(start: bytes) -> str:
    try:
        text = start.decode("utf-8-sig").strip().lower()
    except UnicodeDecodeError as error:
        if error.reason != "unexpected end of data":
            return "of a type that is not known"
        text = start[: error.start].decode("utf-8-sig").strip().lower()
    if "<svg" in text:
        return "an SVG drawing"
    if text.startswith(("<!doctype html", "<html")) or "<html" in text:
        return "an HTML page"
    if text.startswith("<?xml"):
        return "an XML document"
    if all(character.isprintable() or character.isspace() for character in text):
        return "text"
    return "of a type that is not known"
