"""Albums: many photographs under one id, each an item with a state of its own.

    inpaint:album:ID          hash: the album's facts, and how many items came to each end
    inpaint:album:ID:items    list: each `Item` as JSON, in input order
    inpaint:album:ID:states   list: of each item `STATUS JOB PRINT OUTCOME`, as `State` reads it
    inpaint:album:ID:names    hash: the name of an item, as names are compared, and its number
    inpaint:album:ID:same     hash: a PRINT, and the numbers of the items that wait and have it
    inpaint:album:ID:log      list: `NUMBER STATUS` of each change, in order
    inpaint:done:PRINT        string: `ID NUMBER` of an item that succeeded with this content

The jobs wait in `feeder`. A state changes in the step that ends its job (settle.lua), so that all
counts are right whenever a process dies; an item that is run again has another job, and what
becomes of the former one no longer counts. Of items with one print that come while one of them
waits the first is run, and all end as it does. All keys expire; pictures are blobs.
"""

import json
import time
import unicodedata
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from redis import Redis
from redis.exceptions import RedisError
from rq.utils import as_text

from . import admission, feeder, jobs
from .errors import AlbumClosed, AlbumTooLarge, JobFinal, NotFound, QueueUnavailable
from .feeder import CANCELED_SECONDS, Entry
from .jobs import SETTLE, InpaintJob, Outcome, Status
from .settings import Settings

ADD, AGAIN, CANCEL, RUNNING = (
    SETTLE + (Path(__file__).parent / f"album_{name}.lua").read_text()
    for name in ("add", "again", "cancel", "running")
)
AlbumStatus = Literal["open", "queued", "running", "succeeded", "partial", "failed", "canceled"]
AT_ONCE = 200  # items read from Redis, or given to a script, in one command
NONE = "-"  # in a state: no job, no print


class Item(BaseModel):
    """A photograph of an album, as it lies in Redis. Small: there may be thousands."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str  # confined and unique, with directories
    given: str | None = None  # the name that it came under, where that is another
    size: int = 0  # bytes of its uploads
    job: InpaintJob | None = None  # None: the photograph itself was refused, and is not stored
    detector: str | None = None  # digest of the one that searches it, as workers held it then
    reused: bool = False  # the outcome is that of an earlier item with the same content


@dataclass(frozen=True)
class State:
    """How an item stands."""

    status: Status  # Redis has "queued" for "running" too
    job: str | None = None  # id; None: it never was one
    print: str | None = None  # see `fingerprint`
    outcome: Outcome | None = None  # of what has ended and was not canceled

    def text(self) -> str:
        """As it lies in Redis."""
        outcome = self.outcome.model_dump_json(exclude_defaults=True) if self.outcome else ""
        return f"{self.status} {self.job or NONE} {self.print or NONE} {outcome}"


@dataclass(frozen=True)
class Photo:
    """An item with its number, from 1, and its state."""

    number: int
    item: Item
    state: State
    raw: str = field(repr=False, default="")  # the state as it lies in Redis


@dataclass(frozen=True)
class Album:
    """An album as it stands."""

    id: str
    name: str
    status: AlbumStatus
    created_at: datetime
    expires_at: datetime
    expect: int | None
    closed: bool  # takes no more items
    total: int
    counts: dict[Status, int]  # of items
    bytes: int  # of uploads
    changes: int  # length of the log
    sharing: int  # albums that take turns with it, itself among them
    defaults: dict[str, Any]  # what requests gave for all items, in the words of who wrote it
    warnings: list[dict[str, str]]


def folded(name: str) -> str:
    """A name as names are compared: without case, so that folders of all systems can hold both."""
    return unicodedata.normalize("NFC", name).casefold()


def numbered(name: str, number: int) -> str:
    """`a.jpg`, 2 -> `a (2).jpg`."""
    path = PurePosixPath(name)
    return str(path.with_name(f"{path.stem} ({number}){path.suffix}"))


def fingerprint(image: bytes, mask: bytes | None, job: InpaintJob | None) -> str:
    """What two items have in common that come to the same result with the same checkpoint.

    Args:
        image: SHA-256 of the file.
        mask: the same of its mask.
        job: its fields count, its files do not; None for a picture that is no job.
    """
    fields = job.model_dump_json(exclude={"image", "mask"}) if job else ""
    whole = sha256(image + (mask or b"") + fields.encode()).digest()
    return urlsafe_b64encode(whole[:16]).rstrip(b"=").decode()


def create(
    redis: Redis,
    settings: Settings,
    photos: Sequence[tuple[Item, State]],
    *,
    name: str = "",
    expect: int | None = None,
    is_open: bool = False,
    defaults: dict[str, Any] | None = None,
    warnings: Sequence[dict[str, str]] = (),
) -> str:
    """Make an album with all its items, or none of it; return its id.

    Args:
        redis: a synchronous client.
        settings: limits and times.
        photos: items whose names differ, each with its state; what is queued has no job's id yet.
        name: for people.
        expect: items after which it is closed.
        is_open: whether it takes more items.
        defaults: kept, and not looked at.
        warnings: of what was uploaded and belongs to no item.

    Raises:
        AlbumTooLarge: more items or bytes than an album may have.
        QueueUnavailable: if Redis is away or full.
    """
    album = jobs.new_id()
    facts = {
        "name": name,
        "created": datetime.now(UTC).isoformat(),
        "expect": expect or "",
        "closed": int(not is_open),
        "defaults": json.dumps(defaults or {}),
        "warnings": json.dumps(list(warnings)),
    }
    _add(redis, settings, album, photos, [word for pair in facts.items() for word in pair])
    return album


def add(redis: Redis, settings: Settings, album: str, item: Item, state: State) -> int | Photo:
    """Add an item to an open album; return its number, or whoever has its name already.

    Raises:
        NotFound, Expired: there is no such album, or no longer.
        AlbumClosed: it takes no more.
        AlbumTooLarge, QueueUnavailable: as `create`.
    """
    added = _add(redis, settings, album, [(item, state)], [])
    if added[0] > 0:
        return added[0]
    return photo(redis, settings, album, -added[0])


def _add(
    redis: Redis,
    settings: Settings,
    album: str,
    photos: Sequence[tuple[Item, State]],
    facts: list[Any],
) -> list[int]:
    """The numbers of the items; one negative number where its name is taken."""
    words: list[Any] = [album, settings.result_ttl_seconds, settings.album_files]
    words += [settings.album_bytes, len(facts), *facts]
    for item, state in photos:
        queued = state.status == "queued"
        if queued:
            state = State("queued", jobs.new_id(), state.print)
        words += [folded(item.name), item.size, state.text(), int(queued), _json(item)]
        words.append(_entry(item, state) if queued else "")
    with _answering():
        verdict, *numbers = redis.register_script(ADD)(args=words)
    match as_text(verdict):
        case "gone":
            raise missing(album, settings)
        case "closed":
            raise AlbumClosed("The album takes no more photographs.")
        case "too-large":
            raise AlbumTooLarge(
                f"An album has at most {settings.album_files} files and {settings.album_bytes}"
                " bytes."
            )
        case "taken":
            return [-numbers[0]]
    return [int(number) for number in numbers]


def load(redis: Redis, settings: Settings, album: str) -> Album:
    """Read an album.

    Raises:
        NotFound, Expired: there is no such album, or no longer.
        QueueUnavailable: if Redis is away.
    """
    key = _key(album)
    running = redis.register_script(RUNNING)
    with _answering(), redis.pipeline() as pipeline:
        pipeline.hgetall(key)
        pipeline.llen(f"{key}:items")
        pipeline.llen(f"{key}:log")
        pipeline.ttl(key)
        pipeline.llen(feeder.ALBUMS)
        running(args=[album], client=pipeline)
        found, total, changes, ttl, sharing, held = pipeline.execute()
    if not found:
        raise missing(album, settings)
    facts = {as_text(name): as_text(value) for name, value in found.items()}
    ended: dict[Status, int] = {
        status: int(facts.get(status, 0)) for status in ("succeeded", "failed", "canceled")
    }
    unfinished = total - sum(ended.values())
    closed = facts["closed"] == "1"
    return Album(
        id=album,
        name=facts["name"],
        status=_status(closed, "canceled_at" in facts, unfinished, len(held), ended),
        created_at=datetime.fromisoformat(facts["created"]),
        expires_at=datetime.fromtimestamp(int(time.time()) + ttl, UTC),
        expect=int(facts["expect"]) if facts["expect"] else None,
        closed=closed,
        total=total,
        counts={"queued": unfinished - len(held), "running": len(held), **ended},
        bytes=int(facts.get("bytes", 0)),
        changes=changes,
        sharing=max(1, sharing),
        defaults=json.loads(facts["defaults"]),
        warnings=json.loads(facts["warnings"]),
    )


def _status(
    closed: bool, canceled: bool, unfinished: int, running: int, ended: dict[Status, int]
) -> AlbumStatus:
    if not closed:
        return "open"
    if unfinished:
        return "running" if running or any(ended.values()) else "queued"
    if canceled or (ended["canceled"] and ended["canceled"] == sum(ended.values())):
        return "canceled"
    if not ended["succeeded"]:
        return "failed"
    return "partial" if ended["failed"] or ended["canceled"] else "succeeded"


def photo(redis: Redis, settings: Settings, album: str, number: int) -> Photo:
    """Read one item; raises as `load`."""
    for found in photos(redis, album, number, number):
        return found
    load(redis, settings, album)
    raise NotFound(f"The album has no item {number}.")


def photos(redis: Redis, album: str, first: int = 1, last: int | None = None) -> Iterator[Photo]:
    """Read items in order, some at a time, from number `first` to `last`.

    Raises:
        QueueUnavailable: if Redis is away.
    """
    key, running = _key(album), redis.register_script(RUNNING)
    while first >= 1 and (last is None or first <= last):
        stop = first + AT_ONCE - 1 if last is None else min(last, first + AT_ONCE - 1)
        with _answering(), redis.pipeline() as pipeline:
            pipeline.lrange(f"{key}:items", first - 1, stop - 1)
            pipeline.lrange(f"{key}:states", first - 1, stop - 1)
            running(args=[album], client=pipeline)
            items, states, held = pipeline.execute()
        for number, (item, raw) in enumerate(zip(items, states, strict=True), first):
            yield _photo(number, as_text(item), as_text(raw), number in held)
        if len(items) < stop - first + 1:
            return
        first = stop + 1


def changes(redis: Redis, album: str, since: int) -> list[tuple[int, Status]]:
    """What changed after the first `since` changes: numbers of items and their new states."""
    with _answering():
        found = redis.lrange(f"{_key(album)}:log", since, since + AT_ONCE - 1)
    pairs = [as_text(change).split() for change in found]
    return [(int(number), status) for number, status in pairs]  # type: ignore[misc]  # only these are written


def named(redis: Redis, album: str, name: str) -> int | None:
    """The number of the item of this name."""
    with _answering():
        found = redis.hget(f"{_key(album)}:names", folded(name))
    return int(found) if found else None


def done(
    redis: Redis, print_: str, digest: str | None, detector: str | None = None
) -> Outcome | None:
    """The outcome of an item with this print, if one is known still; its files may be gone.

    Args:
        redis: a synchronous client.
        print_: see `fingerprint`.
        digest: that its model must have had.
        detector: that its detector must have had, where it was searched.
    """
    with _answering():
        found = redis.get(f"inpaint:done:{print_}")
        if not found:
            return None
        album, number = as_text(found).split()
        state = redis.lindex(f"{_key(album)}:states", int(number) - 1)
        item = redis.lindex(f"{_key(album)}:items", int(number) - 1)
    if not state or not item:
        return None
    known = _photo(int(number), as_text(item), as_text(state))
    outcome = known.state.outcome
    if known.state.print != print_ or known.state.status != "succeeded" or outcome is None:
        return None
    return outcome if (outcome.digest, known.item.detector) == (digest, detector) else None


def close(redis: Redis, settings: Settings, album: str) -> None:
    """Take no more items; raises as `load`."""
    load(redis, settings, album)
    with _answering():
        redis.hset(_key(album), "closed", 1)


def cancel(redis: Redis, settings: Settings, album: str) -> None:
    """End all items that have not ended, and take no more; raises as `load`."""
    load(redis, settings, album)
    words: list[Any] = [album, CANCELED_SECONDS, settings.result_ttl_seconds, int(time.time())]
    with _answering():
        entered = redis.register_script(CANCEL)(args=words)
    for job_id in entered:
        with suppress(JobFinal, NotFound):
            admission.cancel(redis, as_text(job_id))


def retry(redis: Redis, settings: Settings, album: str) -> int:
    """Run again what failed or was canceled, but not what was refused as it came; return how many.

    Raises as `load`.
    """
    load(redis, settings, album)
    again = [
        (found, None)
        for found in photos(redis, album)
        if found.state.status in ("failed", "canceled") and found.state.job and found.item.job
    ]
    return sum(_again(redis, settings, album, again))


def replace(
    redis: Redis, settings: Settings, album: str, known: Photo, item: Item, print_: str
) -> bool:
    """Run an item that has ended again, as another job; False if it has changed since `known`."""
    changed = Photo(known.number, item, State("queued", print=print_), known.raw)
    (same,) = _again(redis, settings, album, [(known, changed)])
    return same


def _again(
    redis: Redis, settings: Settings, album: str, pairs: Iterable[tuple[Photo, Photo | None]]
) -> list[bool]:
    """Whether each was as known, and is queued now."""
    rows: list[list[str | int]] = []
    for known, changed in pairs:
        item = changed.item if changed else known.item
        state = State("queued", jobs.new_id(), (changed or known).state.print)
        added = item.size - known.item.size
        text = _json(item) if changed else ""
        rows.append([known.number, known.raw, state.text(), added, text, _entry(item, state)])
    answers: list[bool] = []
    script = redis.register_script(AGAIN)
    for start in range(0, len(rows), AT_ONCE):
        words: list[str | int] = [album, settings.result_ttl_seconds]
        words += [word for row in rows[start : start + AT_ONCE] for word in row]
        with _answering():
            answers += [bool(same) for same in script(args=words)]
    return answers


def forget(redis: Redis, settings: Settings, album: str) -> list[str]:
    """Cancel an album and delete all of it but its blobs, whose keys are returned.

    Raises as `load`.
    """
    cancel(redis, settings, album)
    found = [key for known in photos(redis, album) for key in blobs(known)]
    parts = ("", ":items", ":states", ":names", ":log", ":pending", ":same")
    with _answering():
        redis.unlink(*(_key(album) + part for part in parts))
    return sorted(set(found))


def blobs(known: Photo) -> list[str]:
    """The keys of an item's files."""
    job, outcome = known.item.job, known.state.outcome
    keys = [job.image, job.mask] if job else []
    keys += [outcome.result, outcome.mask] if outcome else []
    return [key for key in keys if key]


def keys(photos: Iterable[tuple[Item, State]]) -> set[str]:
    """The keys of the files of items that have no numbers yet."""
    return {key for item, state in photos for key in blobs(Photo(0, item, state))}


def missing(album: str, settings: Settings) -> Exception:
    """Why there is no album of this id."""
    error = jobs.missing(album, settings)
    error.detail = error.detail.replace("such job", "such album").replace("Jobs", "Albums")
    return error


def _photo(number: int, item: str, raw: str, running: bool = False) -> Photo:
    status, job_id, print_, text = raw.split(" ", 3)
    known = Item.model_validate_json(item)
    outcome = None
    if text:
        model = known.job.model if known.job else ""
        outcome = Outcome.model_validate({"model": model, **json.loads(text)})
    state = State(
        "running" if running else status,  # type: ignore[arg-type]  # only these are written
        job_id if job_id != NONE else None,
        print_ if print_ != NONE else None,
        outcome,
    )
    return Photo(number, known, state, raw)


def _entry(item: Item, state: State) -> str:
    assert item.job is not None, "nothing to be run"
    assert state.job is not None
    entry = Entry(id=state.job, size=item.size, job=item.job)
    return entry.model_dump_json(exclude_defaults=True)


def _json(item: Item) -> str:
    return item.model_dump_json(exclude_defaults=True)


def _key(album: str) -> str:
    return f"inpaint:album:{album}"


@contextmanager
def _answering() -> Iterator[None]:
    """Raise QueueUnavailable if Redis is away or full."""
    try:
        yield
    except RedisError as error:
        raise QueueUnavailable(f"The queue cannot be used: {error}.") from error
