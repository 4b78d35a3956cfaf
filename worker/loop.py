"""Take jobs from the queue until asked to stop: RQ's SimpleWorker, nearly as it is.

What this worker cannot do after a crash stands in docs/operations.md.
"""

import logging
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from redis import Redis
from redis.exceptions import RedisError
from rq import SimpleWorker
from rq.exceptions import StopRequested
from rq.job import Job
from rq.serializers import JSONSerializer

from inpaint.jobs import INPAINT_TASK, QUEUE, connect
from inpaint.settings import Settings

from .tasks import inpaint

WORKER_TTL_SECONDS = 30  # RQ blocks for half of it; its default would hang 7 minutes on a dead line
MAINTENANCE_SECONDS = 30  # how often jobs of lost workers are looked for
FIRST_PAUSE_SECONDS = 0.25  # while Redis is away; doubled each time
LONGEST_PAUSE_SECONDS = 5.0

log = logging.getLogger("inpaint.worker")


class KnownJob(Job):
    """A job of which nothing is imported, called or contacted because Redis names it.

    RQ imports a job's function by its dotted name, so whoever writes to Redis could run anything.
    Here the name is a label, and there is one task that it can mean.
    """

    @property
    def func(self) -> Callable[[dict[str, Any]], dict[str, Any]]:
        """The task."""
        if self.func_name != INPAINT_TASK or self.instance is not None:
            raise ValueError(f"the task {self.func_name!r} is not {INPAINT_TASK!r}: not run")
        return inpaint

    @property
    def success_callback(self) -> None:
        """None: not used."""

    @property
    def failure_callback(self) -> None:
        """None: not used."""

    @property
    def stopped_callback(self) -> None:
        """None: not used."""

    def send_webhooks(self, status: str, *, exc_string: str | None = None) -> None:
        """Send nothing: not used."""


class QueueWorker(SimpleWorker):
    """RQ's worker without a child process, for the one queue; it remembers why it stopped."""

    job_class = KnownJob
    max_connection_wait_time = LONGEST_PAUSE_SECONDS
    asked_to_stop = False

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """Finish the running job, then stop."""
        self.asked_to_stop = True
        super().request_stop(signum, frame)  # type: ignore[no-untyped-call]  # RQ states none


def work(settings: Settings) -> None:
    """Run jobs until SIGTERM or SIGINT; Redis may go away and come back meanwhile.

    RQ's own loop ends by some errors of the connection: it is then begun again.
    """
    pause = FIRST_PAUSE_SECONDS
    while True:
        began = time.monotonic()
        if _work_once(settings):
            return
        exit_on_signals()
        if time.monotonic() - began > LONGEST_PAUSE_SECONDS:
            pause = FIRST_PAUSE_SECONDS
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def _work_once(settings: Settings) -> bool:
    """Run RQ's loop until it ends; say whether that was asked for."""
    worker = None
    try:
        worker = queue_worker(connect(settings))
        worker.work(logging_level="WARNING")
    except StopRequested:  # the signal came while the loop was being left
        return True
    except RedisError as error:
        log.warning("Redis is away: %s", error)
    return worker is not None and worker.asked_to_stop


def exit_on_signals() -> None:
    """Let SIGTERM and SIGINT leave all `with` blocks and end the process, when no job can run."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _exit)


def _exit(number: int, frame: FrameType | None) -> None:
    sys.exit(0)


def queue_worker(fresh: Redis) -> QueueWorker:
    """Return a worker; `fresh` has made no connection yet, for RQ sets its time-outs first."""
    return QueueWorker(
        [QUEUE],
        connection=fresh,
        serializer=JSONSerializer,
        worker_ttl=WORKER_TTL_SECONDS,
        maintenance_interval=MAINTENANCE_SECONDS,
        log_job_description=False,
    )


def wait_for_redis(settings: Settings) -> None:
    """Return once Redis answers."""
    pause = FIRST_PAUSE_SECONDS
    with connect(settings) as redis:
        while True:
            try:
                redis.ping()
                return
            except RedisError as error:
                log.warning("waiting for Redis: %s", error)
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
