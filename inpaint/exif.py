"""EXIF data, and the directory of a TIFF, which has the same form.

In: bytes that start with the byte order (`II` or `MM`). Offsets count from there.
Source: TIFF 6.0, section 2; EXIF 2.32, section 4.6; BigTIFF for the wide form.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

ORIENTATION, EXIF, GPS = 274, 34665, 34853  # tags
THUMBNAIL, THUMBNAIL_BYTES = 513, 514
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 16: 8}  # bytes
INTEGERS = {1: "B", 3: "H", 4: "I", 16: "Q"}  # type -> struct's letter
SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two: BigTIFF
MAX_ENTRIES = 65_535
MAX_VALUES = 64  # of one tag that is read


class Entry(NamedTuple):
    """One tag of a directory: its type, how many values it has and where they begin."""

    tag: int
    kind: int
    values: int
    offset: int


def order(data: bytes | bytearray) -> str:
    """Say in struct's way which byte order `data` is written in.

    Raises:
        ValueError: if it does not say so itself.
    """
    if data[:4] not in SIGNATURES:
        raise ValueError("no TIFF signature")
    return "<" if data.startswith(b"II") else ">"


def entries(data: bytes | bytearray) -> Iterator[Entry]:
    """Yield the entries of the first directory.

    Raises:
        ValueError, struct.error: if the directory does not lie within the data.
    """
    big = data[2:4] in (b"+\0", b"\0+")
    word, number, inline, size = ("Q", "Q", 8, 20) if big else ("I", "H", 4, 12)
    (start,) = struct.unpack_from(order(data) + word, data, 8 if big else 4)
    (count,) = struct.unpack_from(order(data) + number, data, start)
    if count > MAX_ENTRIES:
        raise ValueError(f"{count} entries")
    first = start + struct.calcsize(number)
    for position in range(first, first + count * size, size):
        tag, kind, values = struct.unpack_from(f"{order(data)}HH{word}", data, position)
        offset = position + size - inline
        if values * SIZES.get(kind, 1) > inline:
            (offset,) = struct.unpack_from(order(data) + word, data, offset)
        yield Entry(tag, kind, values, offset)


def integers(data: bytes | bytearray, entry: Entry) -> tuple[int, ...]:
    """Read the values of an entry that holds whole numbers.

    Raises:
        ValueError, struct.error: if it holds something else, or lies outside the data.
    """
    if entry.kind not in INTEGERS or not 1 <= entry.values <= MAX_VALUES:
        raise ValueError(f"tag {entry.tag}: {entry.values} values of type {entry.kind}")
    return struct.unpack_from(
        f"{order(data)}{entry.values}{INTEGERS[entry.kind]}", data, entry.offset
    )


def orientation(data: bytes) -> int:
    """Return how the stored picture is to be turned, 1 to 8; 1 where EXIF cannot be read."""
    try:
        for entry in entries(data):
            if entry.tag == ORIENTATION:
                return turn(integers(data, entry)[0])
    except (struct.error, OverflowError, ValueError):  # what nobody can read turns nothing
        pass
    return 1


def turn(number: int) -> int:
    """Return the orientation itself, or 1 for a number that means nothing."""
    return number if 1 <= number <= 8 else 1


def upright(data: bytes) -> bytes | None:
    """Return EXIF for the turned picture: orientation 1, everything else byte for byte.

    The thumbnail goes, because it shows the picture as it was before it was filled. EXIF that
    cannot be read is dropped (None) rather than carried on.
    """
    if data[:4] not in SIGNATURES[:2]:
        return None
    changed = bytearray(data)
    try:
        found = list(entries(data))
        for entry in found:
            if entry.tag == ORIENTATION and entry.kind == 3:
                struct.pack_into(order(data) + "H", changed, entry.offset, 1)
        (start,) = struct.unpack_from(order(data) + "I", data, 4)
        next_directory = start + 2 + 12 * len(found)
        (thumbnail,) = struct.unpack_from(order(data) + "I", data, next_directory)
        if thumbnail:
            _blank_thumbnail(changed, thumbnail)
            struct.pack_into(order(data) + "I", changed, next_directory, 0)
    except (struct.error, ValueError):
        return None
    return bytes(changed)


def _blank_thumbnail(exif: bytearray, directory: int) -> None:
    """Overwrite the JPEG that the second directory points to."""
    header = bytes(exif[:4]) + struct.pack(order(exif) + "I", directory)
    tags = {entry.tag: entry for entry in entries(header + bytes(exif[8:]))}
    if THUMBNAIL in tags and THUMBNAIL_BYTES in tags:
        (start,) = integers(exif, tags[THUMBNAIL])
        (length,) = integers(exif, tags[THUMBNAIL_BYTES])
        end = min(start + length, len(exif))
        exif[start:end] = bytes(max(0, end - start))
