"""An album as a zip, made while it is sent: results as they are stored, and a report of all items.

One picture is in memory at a time. Nothing is deflated: photographs are packed already.
"""

import csv
import json
import re
from collections.abc import Iterator
from io import StringIO
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from redis import Redis
from zipstream import ZIP_STORED, ZipStream  # type: ignore[import-untyped]  # it has no types

from inpaint import albums
from inpaint.albums import Album, Photo
from inpaint.blobs import Blobs
from inpaint.errors import InputGone
from inpaint.jobs import Status

REPORTS = ("report.json", "report.csv")
CHUNK_BYTES = 256 * 1024
SUFFIXES = {  # of media types, the usual one first
    "image/jpeg": (".jpg", ".jpeg"),
    "image/png": (".png",),
    "image/webp": (".webp",),
    "image/tiff": (".tif", ".tiff"),
}
FORMULAS = ("=", "+", "-", "@", "\t", "\r")  # how what spreadsheets compute begins
COLUMNS = (
    *("number", "name", "given_name", "status", "file", "code", "detail", "model", "model_digest"),
    *("width", "height", "format", "mask_source", "coverage", "unchanged", "reused", "warning"),
    "seconds",
)


def archive(
    redis: Redis, blobs: Blobs, album: Album, status: Status | None = None
) -> Iterator[bytes]:
    """Yield the zip of an album as it stands.

    Args:
        redis: a synchronous client.
        blobs: where results are stored.
        album: as `albums.load` gives it.
        status: of the items that are wanted; None: all. Pictures are of those that succeeded.

    Raises:
        QueueUnavailable, StorageUnavailable: in the middle of it, which a reader sees: the zip has
            no end.
    """
    stream = ZipStream(compress_type=ZIP_STORED)
    taken = set(REPORTS)
    rows = []
    for photo in albums.photos(redis, album.id):
        if status is not None and photo.state.status != status:
            continue
        file = None
        if photo.state.status == "succeeded" and photo.state.outcome:
            data = _stored(blobs, photo)
            if data is not None:
                file = _file_name(photo, taken)
                stream.add(_chunks(data), file, size=len(data))
                yield from stream.file()
        rows.append(_row(photo, file))
    report = {
        "album": {"id": album.id, "name": album.name, "created_at": album.created_at.isoformat()},
        "counts": {"total": len(rows), **_counts(rows)},
        "warnings": album.warnings,
        "items": rows,
    }
    stream.add(json.dumps(report, indent=1, ensure_ascii=False), REPORTS[0])
    stream.add(_csv(rows), REPORTS[1])
    yield from stream.finalize()


def _stored(blobs: Blobs, photo: Photo) -> bytes | None:
    """The result; None where its time is over."""
    assert photo.state.outcome is not None
    key = photo.state.outcome.result
    try:
        return blobs.get(key) if key else None
    except InputGone:
        return None


def _chunks(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), CHUNK_BYTES):
        yield data[start : start + CHUNK_BYTES]


def _file_name(photo: Photo, taken: set[str]) -> str:
    """The item's name with the suffix of what it holds now, numbered where it is taken."""
    name = suffixed(photo.item.name, media_type(photo))
    found, count = name, 1
    while albums.folded(found) in taken:
        count += 1
        found = albums.numbered(name, count)
    taken.add(albums.folded(found))
    return found


def suffixed(name: str, media_type: str) -> str:
    """A name with a suffix of what its file holds."""
    path = PurePosixPath(name)
    suffixes = SUFFIXES.get(media_type, (path.suffix,))
    return name if path.suffix.lower() in suffixes else str(path.with_name(path.stem + suffixes[0]))


def disposition(kind: str, name: str) -> str:
    """Content-Disposition with a file's name, without folders, as RFC 6266 has it.

    The name in UTF-8 is for those who know of it; in the other only what all agree on is kept.
    """
    name = PurePosixPath(name).name
    plain = re.sub(r"[^\w ().-]", "_", name, flags=re.ASCII)
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def media_type(photo: Photo) -> str:
    """Of the result."""
    return (photo.state.outcome and photo.state.outcome.media_type) or ""


def _row(photo: Photo, file: str | None) -> dict[str, Any]:
    item, outcome = photo.item, photo.state.outcome
    problem = outcome.problem if outcome else None
    facts = outcome.model_dump() if outcome else {}
    row: dict[str, Any] = {name: facts.get(name) for name in COLUMNS}
    return row | {
        "number": photo.number,
        "name": item.name,
        "given_name": item.given,
        "status": photo.state.status,
        "file": file,  # None: no picture, or its time is over
        "code": problem.code if problem else None,
        "detail": problem.detail if problem else None,
        "model_digest": outcome.digest if outcome else None,
        "unchanged": bool(facts.get("unchanged")),
        "reused": item.reused,
        "seconds": round(sum(outcome.seconds.values()), 3) if outcome and outcome.seconds else None,
    }


def _counts(rows: list[dict[str, Any]]) -> dict[str, int]:
    states = [row["status"] for row in rows]
    return {state: states.count(state) for state in sorted(set(states))}


def _csv(rows: list[dict[str, Any]]) -> str:
    text = StringIO()
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    """Text that a spreadsheet would take for a formula gets an apostrophe before it."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULAS) else value
