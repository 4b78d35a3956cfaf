"""Zip files as they come in: judged by their directory, then read one member at a time.

Nothing is inflated before the directory was found harmless, nothing is ever written under a name
that stands in the archive, and no member is read beyond the size of a file that is accepted.
"""

import re
import struct
import unicodedata
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from inpaint.errors import (
    AlbumTooLarge,
    ArchiveUnreadable,
    FileTooLarge,
    ImageUnreadable,
    InpaintError,
)
from inpaint.settings import Settings
from inpaint.terminal import HIDDEN

ENTRIES_PER_FILE = 4  # directory entries for each file of an album: folders, thumbnails, notes
ENTRY_BYTES = 1024  # of the directory, for each entry: a name and some fields
MOST_RATIO = 100  # bytes inflated for each of the archive; photographs swell hardly
SMALL_BYTES = 64 * 1024 * 1024  # inflated; up to here any ratio is harmless
ENCRYPTED = 0x1  # of the flags of a member
UTF8 = 0x800
IGNORED = re.compile(r"(^|/)(__MACOSX/.*|\.DS_Store|Thumbs\.db|\._[^/]*)$", re.IGNORECASE)

COMPONENT_BYTES = 200  # of one folder's or file's name, as UTF-8; file systems have 255
NAME_CHARACTERS = 400  # of a name with its folders
DEVICES = re.compile(
    r"(CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(COM|LPT)[0-9¹²³]) *(\..*)?", re.IGNORECASE
)
FILES = re.compile(r".*\.(jpe?g|png|webp|tiff?|json|csv)", re.IGNORECASE)  # that albums deliver
END = b"PK\x05\x06"  # end of the central directory: 22 bytes and a comment
END64 = b"PK\x06\x06"
END64_BYTES = 56
LOCATOR64 = b"PK\x06\x07"  # 20 bytes, before the end


@dataclass(frozen=True)
class Member:
    """A file of an archive, or why it cannot be read."""

    given: str  # its name, as it stands in the archive
    data: bytes | None
    problem: InpaintError | None = None


def confined(name: str) -> str:
    """A name that can be written below any folder of any system.

    Directories are kept. What would lead out (`..`, a root, a drive) is left out, backslashes are
    taken for slashes, control characters and what some file systems refuse become `_`. A name that
    Windows has for a device begins with `_`; a folder whose name is one of a delivered file ends
    with it, so that no file and no folder of an album have one name.
    """
    text = unicodedata.normalize("NFC", name).replace("\\", "/")
    text = re.sub(r"^[A-Za-z]:", "", text)
    safe = []
    for component in text.split("/"):
        component = "".join(
            "_" if unicodedata.category(character) in HIDDEN else character
            for character in component
        )
        component = _shortened(re.sub(r'[:<>"|?*]', "_", component).strip().rstrip(". "))
        if component:
            safe.append(f"_{component}" if DEVICES.fullmatch(component) else component)
    safe[:-1] = [f"{folder}_" if FILES.fullmatch(folder) else folder for folder in safe[:-1]]
    while len("/".join(safe)) > NAME_CHARACTERS:
        safe.pop(0)
    return "/".join(safe) or "photo"


def _shortened(component: str) -> str:
    if len(component.encode()) <= COMPONENT_BYTES:
        return component
    path = PurePosixPath(component)
    suffix = path.suffix[:16].rstrip()
    room = COMPONENT_BYTES - len(suffix.encode())
    return (path.stem.encode()[:room].decode(errors="ignore") + suffix).rstrip(". ")


def members(file: IO[bytes], settings: Settings) -> Iterator[Member]:
    """Read the files of a zip, one at a time, in the order of its directory.

    Folders and what systems leave behind (`__MACOSX`, `.DS_Store`, `Thumbs.db`) are passed over.

    Raises:
        ArchiveUnreadable: it is no zip, or its directory is broken.
        AlbumTooLarge: too many entries, or more bytes than an album may have or than photographs
            could be packed into it: before anything is inflated.
    """
    _check_directory(file, settings)
    try:
        archive = ZipFile(file)
    except (BadZipFile, ValueError, OSError, NotImplementedError, struct.error) as error:
        raise ArchiveUnreadable(f"The archive cannot be read: {error}.", field="archive") from error
    with archive:
        found = [info for info in archive.infolist() if not _ignored(info)]
        _check_sizes(file, found, settings)
        for info in found:
            yield _read(archive, info, settings)


def _ignored(info: ZipInfo) -> bool:
    name = _name(info).replace("\\", "/")
    return name.endswith("/") or bool(IGNORED.search(name))


def _check_directory(file: IO[bytes], settings: Settings) -> None:
    """Refuse a directory that is too long to be read, by what the end of the file says of it."""
    size = file.seek(0, 2)
    tail_start = max(0, size - 65_557)  # the end with the longest comment
    file.seek(tail_start)
    tail = file.read()
    file.seek(0)
    at = tail.rfind(END)
    if at < 0 or at + 22 > len(tail):
        raise ArchiveUnreadable("The archive is not a zip file.", field="archive")
    entries, length = struct.unpack_from("<HI", tail, at + 10)
    if at >= 20 and tail[at - 20 : at - 16] == LOCATOR64:
        (named,) = struct.unpack_from("<Q", tail, at - 12)
        beside = tail_start + at - 20 - END64_BYTES  # the one that `ZipFile` reads
        found = [_end64(file, place) for place in (beside, named) if 0 <= place < size]
        if not found or found[0] is None:
            raise ArchiveUnreadable("The directory of the archive is broken.", field="archive")
        entries, length = (max(each) for each in zip(*filter(None, found), strict=True))
    most = ENTRIES_PER_FILE * settings.album_files
    if entries > most or length > most * ENTRY_BYTES:
        raise AlbumTooLarge(
            f"The archive has {entries} entries in {length} bytes; at most {most} are read.",
            field="archive",
        )


def _end64(file: IO[bytes], place: int) -> tuple[int, int] | None:
    """Entries and length of the directory, as a zip64 end says them; None if there is none."""
    file.seek(place)
    end = file.read(END64_BYTES)
    file.seek(0)
    if len(end) < END64_BYTES or not end.startswith(END64):
        return None
    entries, length = struct.unpack_from("<QQ", end, 32)
    return entries, length


def _check_sizes(file: IO[bytes], found: list[ZipInfo], settings: Settings) -> None:
    packed = file.seek(0, 2)
    inflated = sum(info.file_size for info in found)
    if len(found) > ENTRIES_PER_FILE * settings.album_files:
        raise AlbumTooLarge(f"The archive has {len(found)} files.", field="archive")
    if inflated > settings.album_bytes:
        raise AlbumTooLarge(
            f"The archive would have {inflated} bytes; an album has at most"
            f" {settings.album_bytes}.",
            field="archive",
        )
    if inflated > SMALL_BYTES and inflated > MOST_RATIO * packed:
        raise AlbumTooLarge(
            f"The archive has {packed} bytes and would have {inflated}: photographs do not swell"
            " so.",
            field="archive",
        )


def _read(archive: ZipFile, info: ZipInfo, settings: Settings) -> Member:
    name = _name(info)
    if info.flag_bits & ENCRYPTED:
        return Member(name, None, ImageUnreadable("The file is encrypted.", field="image"))
    if info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        problem = "The file is packed in a way that is not read; stored and deflated are."
        return Member(name, None, ImageUnreadable(problem, field="image"))
    if info.file_size > settings.max_file_bytes:
        problem = (
            f"The image has {info.file_size} bytes; at most {settings.max_file_bytes} are accepted."
        )
        return Member(name, None, FileTooLarge(problem, field="image"))
    try:
        with archive.open(info) as file:  # `ZipFile.read` would inflate more than it says it has
            return Member(name, file.read(info.file_size))
    except (BadZipFile, EOFError, ValueError, OSError, NotImplementedError, zlib.error) as error:
        problem = f"The file cannot be unpacked: {error}."
        return Member(name, None, ImageUnreadable(problem, field="image"))


def _name(info: ZipInfo) -> str:
    """The name as its author meant it: many write UTF-8 and do not say so."""
    name = info.orig_filename
    if info.flag_bits & UTF8:
        return name
    try:
        return name.encode("cp437").decode()
    except UnicodeError:
        return name
