"""The way into the queue, and the way out of it by canceling: one script each, all or nothing.

RQ's own writes are recorded, not repeated here: the script checks the limits, then replays them.
`admit` and `cancel` are synchronous; async code runs the same scripts with `entry` and `judge`,
`exit_words` and `judge_exit`.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any, Literal

from redis import Redis
from redis.exceptions import RedisError
from rq import Queue, Retry
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.utils import as_text, now, utcformat

from . import jobs
from .errors import JobFinal, NotFound, QueueFull, QueueUnavailable, RateLimited
from .jobs import BELL, INPAINT_TASK, SETTLE, InpaintJob, Lane, nowhere, queue_name
from .settings import Settings

CLIENT = "client:"  # how the share of a client begins; that of an album has no limit
RETRIES = 3  # by RQ's own cleaners, a second net: ours return lost jobs by themselves
ADMIT = SETTLE + (Path(__file__).parent / "admit.lua").read_text()
CANCEL = SETTLE + (Path(__file__).parent / "cancel.lua").read_text()

Was = Literal["queued", "running"]  # what a job was when it was canceled


def admit(
    redis: Redis,
    job: InpaintJob,
    settings: Settings,
    *,
    lane: Lane = "interactive",
    share: str,
    size: int,
    reply: str = "",
    item: int | None = None,
    job_id: str | None = None,
) -> str:
    """Put a job into the queue of its lane and model, and return its id.

    Args:
        redis: a synchronous client.
        job: what is to be done.
        settings: limits and times.
        lane: who waits for it.
        share: who it counts against: `client:ADDRESS`, which is limited, or `album:ID`.
        size: bytes of its uploads.
        reply: the list that is told when it has ended; none if empty.
        item: of the album that it counts against: its number, from 1; told when it has ended.
        job_id: made by `jobs.new_id`; one that is in the queue or has ended already is accepted,
            and nothing is done.

    Raises:
        QueueFull: if the lane, or the uploads of all lanes, have reached their limit.
        RateLimited: if the client has as many unfinished jobs as one may.
        QueueUnavailable: if Redis is away or full.
    """
    job_id = job_id or jobs.new_id()
    words = entry(job_id, job, settings, lane=lane, share=share, size=size, reply=reply, item=item)
    try:
        verdict = redis.register_script(ADMIT)(args=words)
    except RedisError as error:
        raise QueueUnavailable(f"The queue cannot be used: {error}.") from error
    judge(verdict, settings)
    return job_id


def cancel(redis: Redis, job_id: str) -> Was:
    """End a job that has not ended, and return what it was.

    What a worker makes of a job that was running is not committed; it drops it when it looks.

    Raises:
        JobFinal: if it has ended already.
        NotFound: if there is no such job, or no longer.
        QueueUnavailable: if Redis is away.
    """
    try:
        found = redis.register_script(CANCEL)(args=exit_words(job_id))
    except RedisError as error:
        raise QueueUnavailable(f"The queue cannot be used: {error}.") from error
    return judge_exit(found)


def entry(
    job_id: str,
    job: InpaintJob,
    settings: Settings,
    *,
    lane: Lane = "interactive",
    share: str,
    size: int,
    reply: str = "",
    item: int | None = None,
) -> list[Any]:
    """The arguments of `ADMIT`, as `admit` takes them; redis-py encodes them."""
    client_limit = settings.client_limit if share.startswith(CLIENT) else 0
    words: list[Any] = [job_id, lane, share, size, reply]
    words += [settings.queue_limit, settings.queue_bytes, client_limit, BELL, item or ""]
    # without defaults: a worker one version older refuses only jobs that use a newer field
    payload = job.model_dump(mode="json", exclude_defaults=True)
    mine = {
        ID: job_id,
        KEY: Job.key_for(job_id),
        NOW: utcformat(now()),
        # RQ reads it like this too; zlib, which it writes, takes longer than all the rest
        DATA: json.dumps((INPAINT_TASK, None, [payload], {})),
    }
    times = settings.job_timeout_seconds, settings.result_ttl_seconds
    writes = _writes(queue_name(lane, job.needs), *times)
    return [*words, json.dumps([[mine.get(word, word) for word in write] for write in writes])]


ID = "id"  # in recorded writes: what is another for each job
KEY, NOW, DATA = "rq:job:" + ID, "now", "data of the job"
VARYING = {b"created_at": NOW, b"enqueued_at": NOW, b"data": DATA}  # fields


@cache
def _writes(queue: str, timeout: int, kept: int) -> list[list[str]]:
    """What RQ writes to put a job into a queue: the words of each command.

    Recorded once for all jobs of a queue, with a pipeline that never runs.
    """
    rq = Queue(queue, connection=nowhere(), serializer=JSONSerializer)
    rq.redis_server_version = (7, 0, 0)  # else RQ asks the server
    recorder, encoder = nowhere().pipeline(), nowhere().get_encoder()
    data = Queue.prepare_data(
        INPAINT_TASK,
        job_id=ID,
        description=INPAINT_TASK,
        timeout=timeout,
        result_ttl=kept,
        failure_ttl=kept,
        retry=Retry(max=RETRIES),
    )
    rq.enqueue_many([data], pipeline=recorder)
    writes: list[list[str]] = []
    for command, _ in recorder.command_stack:
        words = [bytes(encoder.encode(word)) for word in command]  # type: ignore[no-untyped-call]  # redis-py
        named = zip([b"", *words], words, strict=False)
        writes.append([VARYING.get(name) or as_text(word) for name, word in named])
    return writes


def judge(verdict: list[Any], settings: Settings) -> None:
    """Raise what the script's verdict says, as `admit` does."""
    match as_text(verdict[0]):
        case "rate-limited":
            raise RateLimited(
                f"This client has {settings.client_limit} unfinished jobs, which is the limit;"
                " try again when some are done."
            )
        case "queue-full":
            raise QueueFull(
                f"The queue is full: {settings.queue_limit} jobs or {settings.queue_bytes} bytes"
                " wait already; try again later."
            )


def exit_words(job_id: str, *, queued_only: bool = False) -> list[Any]:
    """The arguments of `CANCEL`; `queued_only` spares a job that runs."""
    return [job_id, utcformat(now()), int(queued_only)]


def judge_exit(found: bytes | None) -> Was:
    """What the job was, from what `CANCEL` returned; raises as `cancel` does."""
    match found and as_text(found):
        case None:
            raise NotFound("There is no such job.")
        case "queued":
            return "queued"
        case "started":
            return "running"
        case _:
            raise JobFinal("The job has ended already: it can no longer be canceled.")
