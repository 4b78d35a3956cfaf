"""The job contract: what the gateway puts into the queue and what the worker hands back.

RQ keeps the record of a job; nothing here is a second one. Everything in Redis is small JSON:
pictures are blobs. How a job comes into its queue stands in `admission`.
"""

import json
import secrets
import time
from base64 import b64decode
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from redis import Redis
from redis.asyncio import BlockingConnectionPool
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.retry import Retry as AsyncConnectionRetry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import RedisError
from redis.retry import Retry as ConnectionRetry
from rq.job import Job, JobStatus
from rq.results import Result
from rq.serializers import JSONSerializer
from rq.utils import as_text

from .blobs import BlobKey
from .errors import (
    Expired,
    InpaintError,
    Internal,
    JobCanceled,
    NotFound,
    QueueUnavailable,
    WorkerLost,
)
from .patches import Refine
from .settings import Settings

Lane = Literal["interactive", "bulk"]  # a request that waits; an album
LANES: tuple[Lane, ...] = ("interactive", "bulk")
CONTRACT = 2  # of InpaintJob; part of the queues' names, so that no worker sees a newer one
BELL = "inpaint:bell"  # list; a token means: look at the queues. Losing it costs one poll
SETTLE = (Path(__file__).parent / "settle.lua").read_text()  # put before the scripts that end jobs
INPAINT_TASK = "worker.tasks.inpaint"  # in RQ's records: a label, never imported or called

MaskMode = Literal["auto", "luminance", "alpha", "luminance_inverted"]
MaskFit = Literal["exact", "resize"]
AutoMask = Literal["none", "scratches"]  # a detector
OutputFormat = Literal["same", "png", "jpeg", "webp", "tiff"]
Tone = Literal["denoise", "fade", "contrast"]  # of the whole picture, in this order
TONES: tuple[Tone, ...] = get_args(Tone)
MaskSource = Literal["mask", "alpha", "scratches", "mask+scratches", "alpha+scratches"]
Status = Literal["queued", "running", "succeeded", "failed", "canceled"]

SOCKET_SECONDS = 2.0
CONNECT_SECONDS = 1.0
CONNECTIONS = 16  # of an asynchronous client, at most; who finds none free waits for one


def _separated(value: object) -> object:
    """Take names that commas separate, as forms and command lines have them, apart."""
    if isinstance(value, str):
        return tuple(name for each in value.split(",") if (name := each.strip()))
    return value


Tones = Annotated[tuple[Tone, ...], BeforeValidator(_separated)]


class InpaintJob(BaseModel):
    """One picture to be filled, or to be searched for damage, as the worker receives it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[2] = 2
    image: BlobKey
    mask: BlobKey | None = None  # None: the picture's own alpha is the mask, if it has any
    auto_mask: AutoMask = "none"  # what it finds joins the mask
    auto_mask_sensitivity: float = Field(default=0.5, ge=0, le=1)
    mask_only: bool = False  # the result is the mask, as a PNG of 8-bit gray, white = hole
    model: str  # that fills; of a mask alone the detector's name will do
    mask_mode: MaskMode = "auto"
    mask_fit: MaskFit = "exact"
    mask_grow: int | None = Field(default=None, ge=0, le=128)  # pixels; None: 2 if detected, else 0
    mask_feather: int = Field(default=0, ge=0, le=128)  # pixels
    refine: Refine = "auto"  # what is done to the fill
    tone: Tones = ()  # what is done to the whole picture after the fill
    output_format: OutputFormat = "same"
    output_quality: int | None = Field(default=None, ge=1, le=100)

    @model_validator(mode="after")
    def _agree(self) -> "InpaintJob":
        if self.mask_only and self.auto_mask == "none":
            raise ValueError("mask_only asks for a mask, and auto_mask finds none")
        return self

    @property
    def models(self) -> tuple[str, ...]:
        """The names of those without which it cannot be run."""
        if self.mask_only:
            return (self.auto_mask,)
        return (self.model,) if self.auto_mask == "none" else (self.model, self.auto_mask)

    @property
    def needs(self) -> str:
        """The same in one word, after which its queue is named."""
        return "+".join(self.models)


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


def queue_name(lane: Lane, needs: str) -> str:
    """RQ's name of the queue of a lane and a job's needs: its jobs can share batches."""
    return f"v{CONTRACT}.{lane}.{needs}"


class Outcome(BaseModel):
    """How a job ended: with a `result` or with a `problem`. Facts not reached are None."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    digest: str | None = None  # of the model's checkpoint
    result: BlobKey | None = None
    mask: BlobKey | None = None  # the hole as it was filled, a PNG; stored where it was detected
    problem: Problem | None = None
    media_type: str | None = None  # of the result, e.g. "image/png"
    format: str | None = None  # of the picture as uploaded: "png", "jpeg", "webp", "tiff"
    mode: str | None = None  # of the picture as uploaded, e.g. "RGB", "RGBA", "L", "I;16"
    width: int | None = None  # pixels, orientation applied
    height: int | None = None  # pixels
    mask_source: MaskSource | None = None  # the upload, the picture's own alpha, a detector
    # as chosen; None where neither mask nor alpha had a part
    mask_mode: Literal["luminance", "alpha", "luminance_inverted"] | None = None
    coverage: float | None = None  # hole as a share of the picture, 0 to 1
    unchanged: bool = False  # nothing was found: the result is the upload, byte for byte
    warning: Literal["mask-large"] | None = None  # more was found than is likely to be damage
    windows: int | None = None  # given to the generator
    seconds: dict[str, float] = {}  # by stage: decode, detect, infer, encode; readers add queue


@dataclass(frozen=True)
class Record:
    """RQ's record of a job, in the words of the API."""

    id: str
    queue: str  # RQ's name of it
    status: Status
    created_at: datetime
    expires_at: datetime
    job: InpaintJob
    started_at: datetime | None = None
    finished_at: datetime | None = None
    queue_position: int | None = None  # 0 = next of its lane and model; None: it does not wait
    attempts: int = 1
    outcome: Outcome | None = None  # once it has ended


def connect(settings: Settings) -> Redis:
    """A client that reports a missing server within about a second instead of hanging."""
    return Redis.from_url(
        settings.redis,
        socket_timeout=SOCKET_SECONDS,
        socket_connect_timeout=CONNECT_SECONDS,
        health_check_interval=10,
        retry=ConnectionRetry(ExponentialWithJitterBackoff(cap=0.5, base=0.02), 3),
    )


def connect_async(settings: Settings, *, retries: int = 3) -> AsyncRedis:
    """The same for async code; who blocks on the server must do so for less than SOCKET_SECONDS."""
    pool = BlockingConnectionPool.from_url(
        settings.redis,
        max_connections=CONNECTIONS,
        timeout=SOCKET_SECONDS,
        socket_timeout=SOCKET_SECONDS,
        socket_connect_timeout=CONNECT_SECONDS,
        health_check_interval=10,
        retry=AsyncConnectionRetry(ExponentialWithJitterBackoff(cap=0.5, base=0.02), retries),
    )
    return AsyncRedis.from_pool(pool)


@cache
def nowhere() -> Redis:
    """What RQ's classes take for a connection where they are only to read or write words."""
    return Redis()


def read(redis: Redis, job_id: str, settings: Settings) -> Record:
    """Return RQ's record of a job.

    Raises:
        NotFound: if there is no such job.
        Expired: if its id is older than records are kept.
        QueueUnavailable: if Redis is away.
    """
    try:
        with redis.pipeline(transaction=False) as pipeline:
            ask(pipeline, job_id)
            record = told(job_id, pipeline.execute(), settings)
        if record.status == "queued":
            position = redis.lpos(f"rq:queue:{record.queue}", job_id)
            assert position is None or isinstance(position, int)  # a list where several are asked
            record = replace(record, queue_position=position)
    except RedisError as error:
        raise QueueUnavailable(f"The queue cannot be used: {error}.") from error
    return record


def ask(pipeline: Any, job_id: str) -> None:  # synchronous or not: they have no type in common
    """Put onto a pipeline what `told` needs: two commands."""
    pipeline.hgetall(f"rq:job:{job_id}")
    pipeline.xrevrange(f"rq:results:{job_id}", count=1)


def told(job_id: str, replies: list[Any], settings: Settings) -> Record:
    """The record, from the replies to `ask`, but for its place in the queue; raises as `read`."""
    fields, entries = replies
    created = created_at(job_id)
    if created is None or not fields:
        raise missing(job_id, settings)
    job = Job(job_id, connection=nowhere(), serializer=JSONSerializer)
    job.restore(fields)
    task = InpaintJob.model_validate(job.args[0])
    lost = int(fields.get(b"lost", 0))
    result = outcome(job_id, task.model, [fields.get(key) for key in ENDING], entries)
    status = STATUSES[job.get_status(refresh=False)]
    if status == "succeeded" and result and result.problem:
        status = "failed"
    given_up = result and result.problem and result.problem.code == WorkerLost.code
    ended = job.ended_at if result else None
    return Record(
        id=job_id,
        queue=job.origin,
        status=status,
        created_at=created,
        expires_at=(ended or created) + timedelta(seconds=settings.result_ttl_seconds),
        job=task,
        started_at=job.started_at,
        finished_at=ended,
        attempts=lost if given_up else lost + 1,
        outcome=result,
    )


def fresh(job_id: str, job: InpaintJob, lane: Lane, settings: Settings) -> Record:
    """The record of a job that was just admitted, where nothing newer can be had."""
    created = created_at(job_id)
    assert created is not None, f"{job_id!r} was not made by `new_id`"
    expires = created + timedelta(seconds=settings.result_ttl_seconds)
    return Record(job_id, queue_name(lane, job.needs), "queued", created, expires, job)


def missing(job_id: str, settings: Settings) -> InpaintError:
    """Why there is no job of this id: it never was, or was forgotten."""
    created = created_at(job_id)
    kept = timedelta(seconds=settings.result_ttl_seconds)
    if created is None:
        return NotFound("There is no such job: this is not an id that was given out here.")
    if datetime.now(UTC) - created > kept:
        return Expired(f"Jobs are forgotten after {settings.result_ttl_seconds} s.")
    return NotFound("There is no such job.")


ENDING = (b"status", b"lost", b"started_at")  # fields of a job's hash that tell how it ended
SUCCESSFUL = b"%d" % Result.Type.SUCCESSFUL.value  # as RQ writes the type of a Result


def ask_ending(pipeline: Any, job_id: str) -> None:
    """Put onto a pipeline what `outcome` needs: two commands, less than `ask`."""
    pipeline.hmget(f"rq:job:{job_id}", ENDING)
    pipeline.xrevrange(f"rq:results:{job_id}", count=1)


def read_hint(hint: bytes) -> tuple[str, list[bytes | None], list[Any]]:
    """A job's id and what `outcome` needs, from what settle.lua writes to a reply list.

    Raises:
        ValueError: if it is of another version.
    """
    try:
        job_id, ending, fields = json.loads(hint)
        words = [value.encode() if value else None for value in ending]
        texts = [text.encode() for text in fields or ()]
    except (AttributeError, TypeError) as error:
        raise ValueError(f"{hint[:64]!r} is no hint") from error
    return (
        job_id,
        words,
        [(b"0-0", dict(zip(texts[::2], texts[1::2], strict=True)))] if texts else [],
    )


def outcome(
    job_id: str, model: str, ending: list[bytes | None], entries: list[Any]
) -> Outcome | None:
    """How a job of this model ended, from the replies to `ask_ending`; None if it has not."""
    status, lost, started_at = ending
    if status is None:
        return _ended(model, Internal("The job is gone: it was taken away from outside."))
    known = STATUSES[JobStatus(as_text(status))]
    if known == "canceled":
        return _ended(model, JobCanceled("The job was canceled."))
    if known not in FINAL:
        return None
    if not entries:
        return _ended(model, Internal("The job was ended from outside."))
    ((_, result),) = entries  # read here: `Result.restore` takes five times as long
    if result[b"type"] != SUCCESSFUL:
        if int(lost or 0) and not result.get(b"worker_name"):  # no worker was left to say it
            return _ended(model, WorkerLost("Every worker that ran this job was lost."))
        return _ended(model, Internal("The worker failed on this job."))  # its log has the trace
    try:
        found = Outcome.model_validate_json(b64decode(result[b"return_value"]))
    except (KeyError, ValueError):
        return _ended(
            model, Internal("The worker's answer cannot be read: it is of another version.")
        )
    created = created_at(job_id)
    if not started_at or created is None:
        return found
    started = datetime.fromisoformat(as_text(started_at))
    queue = max(0.0, (started - created).total_seconds())
    return found.model_copy(update={"seconds": {**found.seconds, "queue": queue}})


def _ended(model: str, error: InpaintError) -> Outcome:
    return Outcome(model=model, problem=Problem.of(error))


def new_id() -> str:
    """A UUID of version 7: its first 48 bits are the milliseconds that `created_at` reads.

    RFC 9562, section 5.7.
    """
    milliseconds = time.time_ns() // 1_000_000
    chance = secrets.randbits(74)  # at once: asking the system is slow in some sandboxes
    value = milliseconds << 80 | 7 << 76 | (chance >> 62) << 64
    return str(UUID(int=value | 0b10 << 62 | chance & (1 << 62) - 1))


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
