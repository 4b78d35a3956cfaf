"""What all endpoints share: settings, Redis clients, blobs, and whether the gateway is stopping."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from types import FrameType
from typing import TypeVar

from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.exceptions import RedisError
from rq import Queue
from starlette.concurrency import run_in_threadpool

from inpaint import catalogue, jobs
from inpaint.blobs import Blobs, open_blobs
from inpaint.catalogue import WorkerCard
from inpaint.errors import NoWorker, QueueUnavailable, ShuttingDown
from inpaint.jobs import InpaintJob, Outcome, Record
from inpaint.settings import Settings

REDIS_SECONDS = 2.0  # for a first answer; a server that hangs is reported like one that is away
SWEEP_SECONDS = 600.0  # between two looks for expired blobs

Returned = TypeVar("Returned")
log = logging.getLogger("inpaint.gateway")


@dataclass(frozen=True)
class Gateway:
    """The endpoints' view of everything outside the process."""

    settings: Settings
    redis: Redis  # RQ's interface is synchronous: used in threads, for short calls
    waiting: AsyncRedis  # for waits and for the catalogue
    queue: Queue
    blobs: Blobs
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    async def workers(self) -> list[WorkerCard]:
        """The workers that are ready.

        Raises:
            QueueUnavailable: if Redis is away or hangs.
        """
        try:
            async with asyncio.timeout(REDIS_SECONDS):
                return await catalogue.ready(self.waiting)
        except (RedisError, TimeoutError) as error:
            raise QueueUnavailable("The queue does not answer; try again in a moment.") from error

    async def admit(self) -> list[WorkerCard]:
        """The workers that could take a new job.

        Raises:
            ShuttingDown: if this gateway is stopping.
            QueueUnavailable: if Redis is away.
            NoWorker: if no worker is ready.
        """
        self.refuse_when_stopping()
        cards = await self.workers()
        if not cards:
            raise NoWorker("No worker with a loaded model reports ready; try again in a moment.")
        return cards

    def refuse_when_stopping(self) -> None:
        """Raise ShuttingDown once this gateway is asked to stop."""
        if self.stopping.is_set():
            raise ShuttingDown("This gateway is stopping; try again in a moment.")

    async def submit(self, image: bytes, mask: bytes | None, job: "Draft") -> str:
        """Store the files and put the job into the queue; return its id."""
        return await run_in_threadpool(self._submit, image, mask, job)

    def _submit(self, image: bytes, mask: bytes | None, draft: "Draft") -> str:
        image_key, mask_key = self.blobs.put(image), None
        try:
            mask_key = self.blobs.put(mask) if mask is not None else None
            return jobs.submit(self.queue, draft(image_key, mask_key), self.settings)
        except BaseException:  # nothing half-made stays
            self.blobs.delete(image_key)
            if mask_key is not None:
                self.blobs.delete(mask_key)
            raise

    async def read(self, job_id: str) -> Record:
        """RQ's record of a job; see `jobs.read` for its refusals."""
        return await run_in_threadpool(jobs.read, self.queue, job_id, self.settings)

    async def wait(self, job_id: str, model: str, seconds: float) -> Outcome | None:
        """Wait for an outcome; None when the time is over or the gateway is asked to stop."""
        outcome = asyncio.create_task(jobs.wait(self.waiting, job_id, model, seconds))
        stop = asyncio.create_task(self.stopping.wait())
        try:
            await asyncio.wait({outcome, stop}, return_when=asyncio.FIRST_COMPLETED)
            return outcome.result() if outcome.done() else None
        finally:
            outcome.cancel()
            stop.cancel()
            await asyncio.gather(outcome, stop, return_exceptions=True)


Draft = Callable[[str, str | None], InpaintJob]  # a job that lacks only the keys of its blobs


@contextlib.asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Gateway]:
    """A gateway, swept from time to time, until the context ends."""
    redis, waiting = jobs.connect(settings), jobs.connect_async(settings)
    gateway = Gateway(settings, redis, waiting, jobs.open_queue(redis), open_blobs(settings))
    sweeper = asyncio.create_task(_sweep(gateway))
    _tell_when_stopping(gateway.stopping)
    try:
        yield gateway
    finally:
        sweeper.cancel()
        await asyncio.gather(sweeper, return_exceptions=True)
        await waiting.aclose()
        redis.close()


async def _sweep(gateway: Gateway) -> None:
    """Delete the blobs of jobs that are forgotten."""
    settings = gateway.settings
    while True:
        swept = await run_in_threadpool(gateway.blobs.sweep, settings.blob_seconds)
        if swept:
            log.info("%d expired blobs deleted", swept)
        await asyncio.sleep(min(SWEEP_SECONDS, settings.result_ttl_seconds))


def _tell_when_stopping(stopping: asyncio.Event) -> None:
    """Set `stopping` with the signal that stops the server.

    The server waits for its requests before it ends the application's lifespan: too late for
    requests that wait for a job. Its own handlers, already there, run afterwards as before.
    """
    loop = asyncio.get_running_loop()

    def chained(then: Callable[[int, FrameType | None], object]) -> Callable[..., None]:
        def handler(number: int, frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(stopping.set)
            then(number, frame)

        return handler

    for number in (signal.SIGINT, signal.SIGTERM):
        then = signal.getsignal(number)
        with contextlib.suppress(ValueError):  # not the main thread: then nothing signals us
            if callable(then):
                signal.signal(number, chained(then))
