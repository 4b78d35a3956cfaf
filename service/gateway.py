"""What all endpoints share: settings, Redis, blobs, those who wait, and whether it is stopping."""

import asyncio
import contextlib
import logging
import math
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.commands.core import AsyncScript
from redis.exceptions import RedisError
from starlette.requests import Request

from inpaint import admission, catalogue, jobs
from inpaint.admission import Was
from inpaint.blobs import Blobs, open_blobs
from inpaint.catalogue import WorkerCard
from inpaint.errors import (
    InpaintError,
    NotFound,
    NoWorker,
    QueueFull,
    QueueUnavailable,
    RateLimited,
    ShuttingDown,
)
from inpaint.jobs import InpaintJob, Outcome, Record
from inpaint.settings import Settings

from .replies import Replies, Waiter

REDIS_SECONDS = 2.0  # for an answer; a server that hangs is reported like one that is away
CARDS_SECONDS = 0.5  # for which the workers' cards are believed
SWEEP_SECONDS = 600.0  # between two looks for expired blobs
MOST_RETRY_SECONDS = 60  # that a client is asked to stay away

Returned = TypeVar("Returned")
log = logging.getLogger("inpaint.gateway")


@dataclass
class Gateway:
    """The endpoints' view of everything outside the process."""

    settings: Settings
    redis: Redis
    blobs: Blobs
    replies: Replies
    admit_script: AsyncScript
    cancel_script: AsyncScript
    stopping: bool = False
    _cards: list[WorkerCard] = field(default_factory=list)
    _cards_until: float = 0.0  # by the loop's clock
    _asking: asyncio.Task[list[WorkerCard]] | None = None

    @contextlib.asynccontextmanager
    async def _answering(self) -> AsyncIterator[None]:
        """Raise QueueUnavailable if Redis does not answer in time, or does so with an error."""
        try:
            async with asyncio.timeout(REDIS_SECONDS):
                yield
        except (RedisError, TimeoutError) as error:
            self._cards_until = 0.0
            raise QueueUnavailable("The queue does not answer; try again in a moment.") from error

    async def workers(self, *, anew: bool = False) -> list[WorkerCard]:
        """The workers that are ready, or, unless asked `anew`, were half a second ago.

        Raises:
            QueueUnavailable: if Redis is away or hangs.
        """
        if not anew and asyncio.get_running_loop().time() < self._cards_until:
            return self._cards
        if self._asking is None or self._asking.done():  # all who ask meanwhile share the answer
            self._asking = asyncio.create_task(self._ask_for_cards())
        return await asyncio.shield(self._asking)

    async def _ask_for_cards(self) -> list[WorkerCard]:
        async with self._answering():
            self._cards = await catalogue.ready(self.redis)
        self._cards_until = asyncio.get_running_loop().time() + CARDS_SECONDS
        return self._cards

    async def ready(self, *, anew: bool = False) -> list[WorkerCard]:
        """The workers that could take a new job; as `workers`.

        Raises:
            ShuttingDown: if this gateway is stopping.
            QueueUnavailable: if Redis is away.
            NoWorker: if no worker is ready.
        """
        self.refuse_when_stopping()
        cards = await self.workers(anew=anew)
        if not cards:
            raise NoWorker("No worker with a loaded model reports ready; try again in a moment.")
        return cards

    def refuse_when_stopping(self) -> None:
        """Raise ShuttingDown once this gateway is asked to stop."""
        if self.stopping:
            raise ShuttingDown("This gateway is stopping; try again in a moment.")

    def stop(self) -> None:
        """Take no more jobs; who waits is answered now."""
        self.stopping = True
        self.replies.give_up()

    async def submit(
        self, image: bytes, mask: bytes | None, draft: "Draft", address: str
    ) -> Waiter:
        """Store the files and put the job into the queue, for the client at this address.

        Returns:
            Who waits for it, to be given to `wait`.

        Raises:
            StorageUnavailable, QueueUnavailable: nothing of it stays.
            QueueFull, RateLimited: nothing of it stays; they say when to try again.
        """
        keys = await in_thread(self._store, image, mask)
        waiter = self.replies.expect(jobs.new_id(), draft(*keys))
        try:
            await self._admit(waiter, len(image) + len(mask or b""), admission.CLIENT + address)
        except BaseException:  # nothing half-made stays
            self.replies.forget(waiter)
            await in_thread(self._forget, *keys)
            raise
        return waiter

    async def _admit(self, waiter: Waiter, size: int, share: str) -> None:
        words = admission.entry(
            waiter.id, waiter.job, self.settings, share=share, size=size, reply=self.replies.list
        )
        async with self._answering():
            verdict = await self.admit_script(args=words)
        try:
            admission.judge(verdict, self.settings)
        except (QueueFull, RateLimited) as refusal:
            refusal.retry_after = self._drained(verdict[1])
            raise
        waiter.admitted = True

    def _store(self, image: bytes, mask: bytes | None) -> tuple[str, str | None]:
        image_key = self.blobs.put(image)
        try:
            return image_key, self.blobs.put(mask) if mask is not None else None
        except InpaintError:
            self.blobs.delete(image_key)
            raise

    def _forget(self, *keys: str | None) -> None:
        for key in keys:
            if key is not None:
                self.blobs.delete(key)

    def _drained(self, unfinished: int) -> int | None:
        """Seconds until so many jobs are done, as fast as the workers are; None if unknown."""
        rate = sum(card.rate for card in self._cards)
        return min(max(math.ceil(unfinished / rate), 1), MOST_RETRY_SECONDS) if rate else None

    def eta(self, record: Record) -> int | None:
        """Seconds until a job that waits is done, at the rate of those who hold its model."""
        able = [card for card in self._cards if card.holds(*record.job.models)]
        rate = sum(card.rate for card in able)
        if record.queue_position is None or not rate:
            return None
        return math.ceil((record.queue_position + 1) / rate)

    async def read(self, job_id: str) -> Record:
        """RQ's record of a job; see `jobs.read` for its refusals."""
        async with self._answering():
            async with self.redis.pipeline(transaction=False) as pipeline:
                jobs.ask(pipeline, job_id)
                record = jobs.told(job_id, await pipeline.execute(), self.settings)
            if record.status == "queued":
                position = await self.redis.lpos(f"rq:queue:{record.queue}", job_id)
                assert position is None or isinstance(position, int)  # a list for several
                record = replace(record, queue_position=position)
        return record

    async def cancel(self, job_id: str, *, queued_only: bool = False) -> Was:
        """End a job that has not ended; see `admission.cancel`, also for its refusals."""
        words = admission.exit_words(job_id, queued_only=queued_only)
        async with self._answering():
            found = await self.cancel_script(args=words)
        try:
            return admission.judge_exit(found)
        except NotFound as error:
            raise jobs.missing(job_id, self.settings) from error

    async def wait(self, waiter: Waiter, seconds: float, request: Request) -> Outcome | None:
        """Wait for an outcome, once; None when the time is over or the gateway is asked to stop.

        A client that goes away takes its job along, if that has not begun.
        """
        if not seconds:  # asked not to wait: the same answer however soon the job ends
            self.replies.forget(waiter)
            return None
        leaving = asyncio.create_task(_left(request))
        leaving.add_done_callback(lambda _: waiter.end(None))
        try:
            if not self.stopping:
                async with asyncio.timeout(seconds):
                    await waiter.ended
        except TimeoutError:
            return None
        finally:
            left = leaving.done()
            leaving.cancel()
            self.replies.forget(waiter)
        if left:
            with contextlib.suppress(InpaintError):
                await self.cancel(waiter.id, queued_only=True)
        return waiter.ended.result() if waiter.ended.done() else None


Draft = Callable[[str, str | None], InpaintJob]  # a job that lacks only the keys of its blobs


async def in_thread(call: Callable[..., Returned], *words: Any) -> Returned:
    """Return what a call returns that may wait for a disk; a few threads are kept for such calls.

    Starlette's way has forty, and wakes another one each time.
    """
    return await asyncio.get_running_loop().run_in_executor(None, call, *words)


async def _left(request: Request) -> None:
    """Return when the client goes away: all that it had to send was received."""
    await request.receive()


@contextlib.asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Gateway]:
    """A gateway that listens to its jobs' ends and is swept, until the context ends."""
    redis, listening = jobs.connect_async(settings), jobs.connect_async(settings, retries=0)
    gateway = Gateway(
        settings,
        redis,
        open_blobs(settings),
        Replies(listening),
        redis.register_script(admission.ADMIT),
        redis.register_script(admission.CANCEL),
    )
    tasks = [asyncio.create_task(_sweep(gateway)), asyncio.create_task(gateway.replies.listen())]
    for task in tasks:
        task.add_done_callback(_end_if_broken)
    _tell_when_stopping(gateway.stop)
    try:
        yield gateway
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await listening.aclose()
        await redis.aclose()


def _end_if_broken(task: asyncio.Task[None]) -> None:
    """A gateway that no longer hears of its jobs' ends would leave all who wait waiting."""
    if not task.cancelled() and (error := task.exception()):
        log.critical("a task of the gateway failed: ending", exc_info=error)
        signal.raise_signal(signal.SIGTERM)


async def _sweep(gateway: Gateway) -> None:
    """Delete the blobs of jobs that are forgotten."""
    settings = gateway.settings
    while True:
        swept = await in_thread(gateway.blobs.sweep, settings.blob_seconds)
        if swept:
            log.info("%d expired blobs deleted", swept)
        await asyncio.sleep(min(SWEEP_SECONDS, settings.result_ttl_seconds))


def _tell_when_stopping(stop: Callable[[], None]) -> None:
    """Call `stop` with the signal that stops the server.

    The server waits for its requests before it ends the application's lifespan: too late for
    requests that wait for a job. Its own handlers, already there, run afterwards as before.
    """
    loop = asyncio.get_running_loop()

    def chained(then: Callable[[int, FrameType | None], object]) -> Callable[..., None]:
        def handler(number: int, frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(stop)
            then(number, frame)

        return handler

    for number in (signal.SIGINT, signal.SIGTERM):
        then = signal.getsignal(number)
        with contextlib.suppress(ValueError):  # not the main thread: then nothing signals us
            if callable(then):
                signal.signal(number, chained(then))
