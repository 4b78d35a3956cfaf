"""The job contract: what the gateway puts into the queue and what the worker hands back.

RQ keeps the record of a job; nothing here is a second one. Everything in Redis is small JSON:
pictures are blobs.
"""

import asyncio
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.retry import Retry as AsyncConnectionRetry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import RedisError
from redis.retry import Retry as ConnectionRetry
from rq import Queue, Retry
from rq.exceptions import DuplicateJobError, NoSuchJobError
from rq.job import Job, JobStatus
from rq.results import Result
from rq.serializers import JSONSerializer
from rq.utils import as_text

from .blobs import BlobKey
from .errors import Expired, InpaintError, Internal, NotFound, QueueFull, QueueUnavailable, TimedOut
from .settings import Settings

QUEUE = "inpaint"  # the only one: with two, RQ loses jobs when a worker dies between two steps
Lane = Literal["interactive", "bulk"]  # a request that waits; an album
LANES: tuple[Lane, ...] = ("interactive", "bulk")
CONTRACT = 1  # of InpaintJob; part of the queues' names, so that no worker sees a newer one
BELL = "inpaint:bell"  # list; a token means: look at the queues. Losing it costs one poll
SETTLE = (Path(__file__).parent / "settle.lua").read_text()  # put before the scripts that end jobs
INPAINT_TASK = (
    "worker.tasks.inpaint"  # called with an InpaintJob as a dict, returns an Outcome as one
)

MaskMode = Literal["auto", "luminance", "alpha", "luminance_inverted"]
MaskFit = Literal["exact", "resize"]
OutputFormat = Literal["same", "png", "jpeg", "webp", "tiff"]
Status = Literal["queued", "running", "succeeded", "failed", "canceled"]

RETRIES = 1  # a job whose worker died, or that raised, is run once more
BLOCK_MILLISECONDS = 1000  # redis-py gives up a reply after SOCKET_SECONDS, so block for less
SOCKET_SECONDS = 2.0
CONNECT_SECONDS = 1.0
WAITERS = 4096  # connections: each waiting request holds one


class InpaintJob(BaseModel):
    """One picture to be filled, as the worker receives it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    image: BlobKey
    mask: BlobKey | None = None  # None: the picture's own alpha is the mask
    model: str
    mask_mode: MaskMode = "auto"
    mask_fit: MaskFit = "exact"
    mask_grow: int = Field(default=0, ge=0, le=128)  # pixels
    mask_feather: int = Field(default=0, ge=0, le=128)  # pixels
    output_format: OutputFormat = "same"
    output_quality: int | None = Field(default=None, ge=1, le=100)


class Problem(BaseModel):
    """A refusal, as it travels: the code of an `InpaintError` and its sentence."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    code: str
    detail: str
    field: str | None = None

    @classmethod
    def of(cls, error: InpaintError) -> "Problem":
        """The problem that an error states."""
        return cls(code=error.code, detail=error.detail, field=error.field)

    def error(self) -> InpaintError:
        """The error that this problem came from."""
        kinds = {kind.code: kind for kind in InpaintError.__subclasses__()}
        return kinds.get(self.code, Internal)(self.detail, field=self.field)


def queue_name(lane: Lane, model: str) -> str:
    """RQ's name of the queue of a lane and a model: its jobs can share batches."""
    return f"v{CONTRACT}.{lane}.{model}"


class Outcome(BaseModel):
    """How a job ended: with a `result` or with a `problem`. Facts not reached are None."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    digest: str | None = None  # of the model's checkpoint
    result: BlobKey | None = None
    problem: Problem | None = None
    media_type: str | None = None  # of the result, e.g. "image/png"
    format: str | None = None  # of the picture as uploaded: "png", "jpeg", "webp", "tiff"
    mode: str | None = None  # of the picture as uploaded, e.g. "RGB", "RGBA", "L", "I;16"
    width: int | None = None  # pixels, orientation applied
    height: int | None = None  # pixels
    mask_source: Literal["mask", "alpha"] | None = None  # the upload, or the picture's own alpha
    mask_mode: Literal["luminance", "alpha", "luminance_inverted"] | None = None  # as chosen
    coverage: float | None = None  # hole as a share of the picture, 0 to 1
    windows: int | None = None  # given to the generator
    seconds: dict[str, float] = {}  # by stage: decode, infer, encode; `wait` and `read` add queue


@dataclass(frozen=True)
class Record:
    """RQ's record of a job, in the words of the API."""

    id: str
    status: Status
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime
    queue_position: int | None  # 0 = next; None when it does not wait
    attempts: int
    job: InpaintJob
    outcome: Outcome | None  # once it has ended


def connect(settings: Settings) -> Redis:
    """A client that reports a missing server within about a second instead of hanging."""
    return Redis.from_url(
        settings.redis,
        socket_timeout=SOCKET_SECONDS,
        socket_connect_timeout=CONNECT_SECONDS,
        health_check_interval=10,
        retry=ConnectionRetry(ExponentialWithJitterBackoff(cap=0.5, base=0.02), 3),
    )


def connect_async(settings: Settings) -> AsyncRedis:
    """The same for `wait` and other async code."""
    return AsyncRedis.from_url(
        settings.redis,
        socket_timeout=SOCKET_SECONDS,
        socket_connect_timeout=CONNECT_SECONDS,
        health_check_interval=10,
        retry=AsyncConnectionRetry(ExponentialWithJitterBackoff(cap=0.5, base=0.02), 3),
        max_connections=WAITERS,
    )


def open_queue(redis: Redis) -> Queue:
    """RQ's queue of ours. Everything that names a serializer must name this one."""
    return Queue(QUEUE, connection=redis, serializer=JSONSerializer)


def submit(queue: Queue, job: InpaintJob, settings: Settings) -> str:
    """Put a job into the queue and return its id.

    Raises:
        QueueFull: if as many jobs wait as are allowed to.
        QueueUnavailable: if Redis is away or full.
    """
    job_id = new_id()
    try:
        if queue.count >= settings.queue_limit:
            raise QueueFull(f"{settings.queue_limit} jobs wait already; try again later.")
        queue.enqueue(
            INPAINT_TASK,
            # without defaults: a worker one version older refuses only jobs that use a newer field
            job.model_dump(mode="json", exclude_defaults=True),
            job_id=job_id,
            unique=True,
            description=INPAINT_TASK,
            job_timeout=settings.job_timeout_seconds,
            ttl=settings.result_ttl_seconds,
            result_ttl=settings.result_ttl_seconds,
            failure_ttl=settings.result_ttl_seconds,
            retry=Retry(max=RETRIES),
        )
    except DuplicateJobError:  # redis-py sent the command again after a lost reply: it is in
        return job_id
    except RedisError as error:
        raise QueueUnavailable(f"The queue cannot be used: {error}.") from error
    return job_id


def read(queue: Queue, job_id: str, settings: Settings) -> Record:
    """Return RQ's record of a job.

    Raises:
        NotFound: if there is no such job.
        Expired: if its id is older than records are kept.
        QueueUnavailable: if Redis is away.
    """
    created = created_at(job_id)
    if created is None:
        raise NotFound("There is no such job: this is not an id that was given out here.")
    kept = timedelta(seconds=settings.result_ttl_seconds)
    try:
        job = Job.fetch(job_id, connection=queue.connection, serializer=JSONSerializer)
        position = queue.connection.lpos(queue.key, job_id)
        result = job.latest_result()
    except NoSuchJobError as error:
        if datetime.now(UTC) - created > kept:
            raise Expired(f"Jobs are forgotten after {settings.result_ttl_seconds} s.") from error
        raise NotFound("There is no such job.") from error
    except RedisError as error:
        raise QueueUnavailable(f"The queue cannot be used: {error}.") from error
    assert position is None or isinstance(position, int)  # a list only when asked for several
    task = InpaintJob.model_validate(job.args[0])
    status = STATUSES[job.get_status(refresh=False)]
    outcome = None
    if status in FINAL:
        outcome = _outcome(result, created, task.model)
        status = "failed" if outcome.problem and status == "succeeded" else status
    ended = job.ended_at if outcome else None
    return Record(
        id=job_id,
        status=status,
        created_at=created,
        started_at=job.started_at,
        finished_at=ended,
        expires_at=(ended or created) + kept,
        queue_position=position if status == "queued" else None,
        attempts=1 + RETRIES - (RETRIES if job.retries_left is None else job.retries_left),
        job=task,
        outcome=outcome,
    )


async def wait(redis: AsyncRedis, job_id: str, model: str, seconds: float) -> Outcome | None:
    """Wait for a job's outcome, for at most `seconds`; None if it has not ended by then.

    Redis may go away and come back meanwhile: this goes on until its own deadline.
    """
    created = created_at(job_id)
    assert created is not None, f"{job_id!r} was not made by `new_id`"
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        try:
            block = max(1, min(BLOCK_MILLISECONDS, round(left * 1000)))
            found = await redis.xread({f"rq:results:{job_id}": "0-0"}, block=block)
            if found:
                return _outcome(_latest(job_id, found), created, model)
            status = as_text(await redis.hget(Job.key_for(job_id), "status") or "canceled")
            if STATUSES[JobStatus(status)] == "canceled":
                return _outcome(None, created, model)  # ended without a result: nothing will come
        except RedisError:
            await asyncio.sleep(min(0.2, left))
    return None


def new_id() -> str:
    """A UUID of version 7: its first 48 bits are the milliseconds that `created_at` reads.

    RFC 9562, section 5.7.
    """
    milliseconds = time.time_ns() // 1_000_000
    value = milliseconds << 80 | 7 << 76 | secrets.randbits(12) << 64
    return str(UUID(int=value | 0b10 << 62 | secrets.randbits(62)))


def created_at(job_id: str) -> datetime | None:
    """When `new_id` made this id; None if it did not."""
    try:
        uuid = UUID(job_id)
    except ValueError:
        return None
    if uuid.version != 7 or str(uuid) != job_id:
        return None
    try:
        return datetime.fromtimestamp((uuid.int >> 80) / 1000, UTC)
    except (OverflowError, ValueError):  # a made-up id, thousands of years ahead
        return None


STATUSES: dict[JobStatus, Status] = {
    JobStatus.CREATED: "queued",
    JobStatus.QUEUED: "queued",
    JobStatus.DEFERRED: "queued",
    JobStatus.SCHEDULED: "queued",
    JobStatus.STARTED: "running",
    JobStatus.FINISHED: "succeeded",
    JobStatus.FAILED: "failed",
    JobStatus.STOPPED: "canceled",
    JobStatus.CANCELED: "canceled",
}
FINAL = {"succeeded", "failed", "canceled"}


def _latest(job_id: str, found: Any) -> Result:  # redis-py types a reply no closer
    """The last entry of the one stream that was read."""
    ((_, entries),) = found.items() if isinstance(found, dict) else found
    entry_id, payload = entries[-1]
    return Result.restore(
        job_id,
        as_text(entry_id),
        payload,
        connection=None,  # type: ignore[arg-type]  # kept by the Result, used only to fetch more
        serializer=JSONSerializer,
    )


def _outcome(result: Result | None, created: datetime, model: str) -> Outcome:
    """What the worker handed back, with the time in the queue; else what RQ's words tell."""
    if result is None:
        problem = Internal("The job was ended from outside.")
        return Outcome(model=model, problem=Problem.of(problem))
    if result.type != Result.Type.SUCCESSFUL:
        return Outcome(model=model, problem=Problem.of(_fault(result.exc_string or "")))
    outcome = Outcome.model_validate(result.return_value)
    if result.execution_started_at is None:
        return outcome
    queue = max(0.0, (result.execution_started_at - created).total_seconds())
    return outcome.model_copy(update={"seconds": {**outcome.seconds, "queue": queue}})


def _fault(traceback: str) -> InpaintError:
    """Name what ended a task that did not return; the traceback stays in the worker's log."""
    if "JobTimeoutException" in traceback:
        return TimedOut("The job ran longer than is allowed.")
    if "AbandonedJobError" in traceback:
        return Internal("The worker was lost while it ran this job.")
    return Internal("The worker failed on this job.")
