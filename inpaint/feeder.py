"""The jobs of albums wait here and enter the queue a few at a time.

However long an album is, the queue holds no more than a window of it. So albums take turns, one
that is canceled ends at once, and the queue stays small. Workers call `feed` again and again; all
that they need to agree lies in Redis, and any of them may die at any moment:

    inpaint:albums              list: albums of which jobs wait, the one whose turn is next first
    inpaint:album:ID:pending    list: these jobs as JSON, the next one first
    inpaint:album:ID:canceled   whether the album was canceled; expires

A job's id is fixed before it waits, and it leaves the list after it has entered the queue. When a
feeder dies between the two, the next one admits the same id again, which changes nothing.
"""

import logging
import math
from collections.abc import Iterable
from contextlib import suppress
from typing import cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from redis import Redis
from redis.exceptions import RedisError
from rq.utils import as_text

from . import admission, catalogue, jobs
from .errors import JobFinal, NotFound, QueueFull, QueueUnavailable
from .jobs import InpaintJob
from .settings import Settings

ALBUMS = "inpaint:albums"
LOAD = "inpaint:load"  # what settle.lua counts
TURN = "inpaint:feeder"  # held by who feeds, so that not all workers do at once
TURN_MILLISECONDS = 400  # it expires, and is not given back: nobody need feed sooner
AHEAD_SECONDS = 2.0  # of work are in the queue, were there one album alone
SMALLEST_WINDOW = 8  # jobs
CANCELED_SECONDS = 3600  # a feeder that sleeps for longer may admit a job of a canceled album

# An album of which nothing waits leaves the ring. One step: jobs may be added at any moment.
RETIRE = "if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('LREM', KEYS[2], 0, ARGV[1]) end"
# The first write frees memory, so that this works on a full server, as a transaction would not.
CANCEL = """
local waiting = redis.call('LLEN', KEYS[1])
redis.call('UNLINK', KEYS[1])
redis.call('LREM', KEYS[2], 0, ARGV[1])
redis.call('SET', KEYS[3], 1, 'EX', ARGV[2])
return waiting
"""

log = logging.getLogger("inpaint.feeder")


class Entry(BaseModel):
    """A job that waits, as it lies in Redis."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str  # that the job will have in the queue
    size: int = Field(ge=0)  # bytes of its uploads
    job: InpaintJob
    item: int | None = None  # of an album of `albums`: its number there


def share(album: str) -> str:
    """What the jobs of an album count against."""
    return f"album:{album}"


def add(redis: Redis, album: str, entries: Iterable[tuple[InpaintJob, int]]) -> list[str]:
    """Let jobs of an album wait, behind those of it that wait already: all of them, or none.

    Args:
        redis: a synchronous client.
        album: an id that no other album has or had.
        entries: jobs, each with the bytes of its uploads.

    Returns:
        The ids that the jobs will have in the queue, in the order given.

    Raises:
        QueueUnavailable: if Redis is away or full.
    """
    waiting = [Entry(id=jobs.new_id(), size=size, job=job) for job, size in entries]
    if waiting:
        texts = [entry.model_dump_json(exclude_defaults=True) for entry in waiting]
        try:
            with redis.pipeline() as pipeline:
                pipeline.rpush(_pending(album), *texts)
                pipeline.lrem(ALBUMS, 0, album)
                pipeline.rpush(ALBUMS, album)
                pipeline.execute()
        except RedisError as error:
            raise QueueUnavailable(f"The queue cannot be used: {error}.") from error
    return [entry.id for entry in waiting]


def cancel(redis: Redis, album: str) -> int:
    """Forget the jobs of an album that wait here; return how many. Those in the queue stay there.

    No job of the album enters the queue afterwards; one that just does is canceled.

    Raises:
        QueueUnavailable: if Redis is away.
    """
    keys = [_pending(album), ALBUMS, _canceled(album)]
    try:
        return cast(int, redis.eval(CANCEL, len(keys), *keys, album, str(CANCELED_SECONDS)))
    except RedisError as error:
        raise QueueUnavailable(f"The queue cannot be used: {error}.") from error


def feed(redis: Redis, settings: Settings) -> int:
    """Let jobs of albums enter the lane `bulk`, album by album in turn; return how many did.

    Of no album more jobs are unfinished than `window` allows. To be called by every worker about
    twice a second; where nothing waits, or another feeds, it returns at once.

    Raises:
        QueueUnavailable: if Redis is away or full; nothing is lost.
    """
    try:
        if not redis.exists(ALBUMS) or not redis.set(TURN, 1, nx=True, px=TURN_MILLISECONDS):
            return 0
        return _feed(redis, settings)
    except RedisError as error:
        raise QueueUnavailable(f"The queue cannot be used: {error}.") from error


def window(redis: Redis) -> int:
    """How many jobs of one album may be unfinished: enough that no worker ever waits for more."""
    rate = sum(card.rate for card in catalogue.workers(redis))
    return max(SMALLEST_WINDOW, math.ceil(AHEAD_SECONDS * rate))


def _feed(redis: Redis, settings: Settings) -> int:
    ring = [as_text(album) for album in redis.lrange(ALBUMS, 0, -1)]
    unfinished = redis.hmget(LOAD, [share(album) for album in ring]) if ring else []
    most = window(redis)
    room = {album: most - int(count or 0) for album, count in zip(ring, unfinished, strict=True)}
    fed = 0
    while albums := [album for album in ring if room[album] > 0]:
        with redis.pipeline(transaction=False) as pipeline:
            for album in albums:
                pipeline.lindex(_pending(album), 0)
            heads = pipeline.execute()
        for album, head in zip(albums, heads, strict=True):
            room[album] -= 1
            if head is None:
                redis.eval(RETIRE, 2, _pending(album), ALBUMS, album)
                room[album] = 0
                continue
            try:
                entry = Entry.model_validate_json(head)
            except ValidationError as error:  # of a newer version: a newer worker feeds it
                log.warning("a job of album %s cannot be read here: %s", album, error)
                room[album] = 0
                continue
            try:
                _enter(redis, settings, album, entry)
            except QueueFull:
                _turn(redis, ring.index(album))
                return fed
            if not redis.lrem(_pending(album), 1, head) and redis.exists(_canceled(album)):
                with suppress(JobFinal, NotFound):
                    admission.cancel(redis, entry.id)
            fed += 1
    return fed


def _enter(redis: Redis, settings: Settings, album: str, entry: Entry) -> None:
    """Admit a job; half of the bytes that may be in the queue are left to those who wait."""
    most = max(settings.queue_bytes // 2, entry.size)  # or a large one would never enter
    admission.admit(
        redis,
        entry.job,
        settings.model_copy(update={"queue_bytes": most}),
        lane="bulk",
        share=share(album),
        size=entry.size,
        item=entry.item,
        job_id=entry.id,
    )


def _turn(redis: Redis, count: int) -> None:
    """Put the first `count` albums behind the others: they had their turn."""
    with redis.pipeline() as pipeline:
        for _ in range(count):
            pipeline.lmove(ALBUMS, ALBUMS, "LEFT", "RIGHT")
        pipeline.execute()


def _pending(album: str) -> str:
    return f"inpaint:album:{album}:pending"


def _canceled(album: str) -> str:
    return f"inpaint:album:{album}:canceled"
