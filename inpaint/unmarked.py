"""A picture whose mask, looked at by a person, marks nothing: it stays as it is."""

from collections.abc import Callable
from typing import Any

from .header import MEDIA_TYPES, Limits, probe
from .picture import OutputFormat, Picture, decode, encode


def unmarked(
    data: bytes,
    limits: Limits,
    output_format: OutputFormat,
    quality: int | None,
    change: Callable[[Picture], Picture] | None = None,
) -> tuple[bytes, dict[str, Any]]:
    """Return the file, converted if that is asked for, and its facts in the words of `Outcome`.

    Args:
        data: a picture file.
        limits: for it.
        output_format: of the result.
        quality: of the result; None: as the picture's.
        change: what is done to every picture, mask or not.

    Raises:
        InpaintError: what `probe`, `decode` and `encode` refuse.
    """
    header = probe(data, limits)
    same = output_format in ("same", header.format) and quality is None
    unchanged = same and change is None
    if not unchanged:
        picture = decode(data, limits)
        data = encode(change(picture) if change else picture, output_format, quality)
    facts = {
        "media_type": MEDIA_TYPES[header.format if output_format == "same" else output_format],
        "format": header.format,
        "mode": header.mode,
        "width": header.width,
        "height": header.height,
        "mask_source": "mask",
        "coverage": 0.0,
        "windows": 0,
        "unchanged": unchanged,
    }
    return data, facts
