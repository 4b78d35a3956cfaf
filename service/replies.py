"""Where requests wait for their jobs: one list in Redis and one connection for the whole process.

Whoever ends a job writes to the list that the job names what RQ's record then says. Such a word may
get lost: all who wait are looked after from time to time without one.
"""

import asyncio
import logging
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from inpaint import jobs
from inpaint.jobs import InpaintJob, Outcome

BLOCK_SECONDS = 1.0  # of one look at the list; less than the client's time-out
HINTS = 256  # taken at once
LOOK_SECONDS = 2.0  # between two looks at all who wait
PAUSE_SECONDS = 0.2  # while Redis is away

log = logging.getLogger("inpaint.gateway")


@dataclass(eq=False)
class Waiter:
    """A request that waits for its job to end."""

    id: str
    job: InpaintJob
    ended: asyncio.Future[Outcome | None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    admitted: bool = False  # until then nobody wonders that Redis does not know the job

    def end(self, outcome: Outcome | None) -> None:
        """Wake the request; without an outcome it gives up."""
        if not self.ended.done():
            self.ended.set_result(outcome)


class Replies:
    """Those who wait, and the task that wakes them.

    Args:
        redis: a client that does not try again by itself, and waits for longer than BLOCK_SECONDS.
    """

    def __init__(self, redis: Redis) -> None:
        self.list = f"inpaint:reply:{token_hex(8)}"
        self._redis = redis
        self._waiters: dict[str, Waiter] = {}

    def expect(self, job_id: str, job: InpaintJob) -> Waiter:
        """Wait for a job from before it is admitted, so that no hint comes too early."""
        self._waiters[job_id] = waiter = Waiter(job_id, job)
        return waiter

    def forget(self, waiter: Waiter) -> None:
        """Wait no longer."""
        del self._waiters[waiter.id]

    def give_up(self) -> None:
        """Wake all who wait, without an outcome."""
        for waiter in self._waiters.values():
            waiter.end(None)

    async def listen(self) -> None:
        """Wake those whose jobs have ended, until cancelled; Redis may go away and come back."""
        away, looked = False, 0.0
        clock = asyncio.get_running_loop().time
        while True:
            try:
                await self._hear()
                if clock() - looked > LOOK_SECONDS:
                    await self._look()
                    looked = clock()
                if away:
                    log.info("Redis is back")
                away = False
            except RedisError as error:
                if not away:
                    log.warning("Redis is away: %s", error)
                away, looked = True, 0.0
                await asyncio.sleep(PAUSE_SECONDS)

    async def _hear(self) -> None:
        """Wake those of whose jobs somebody says in time that they have ended."""
        found = await self._redis.blmpop(BLOCK_SECONDS, 1, self.list, direction="LEFT", count=HINTS)
        hints: list[bytes] = found[1] if found else []  # type: ignore[assignment]  # never decoded
        for hint in hints:
            try:
                job_id, ending, entries = jobs.read_hint(hint)
            except ValueError:  # of a worker of another version
                continue
            if waiter := self._waiters.get(job_id):
                self._tell(waiter, ending, entries)

    async def _look(self) -> None:
        """Wake those of whose jobs nobody was heard to say so."""
        waiters = [waiter for waiter in self._waiters.values() if waiter.admitted]
        if not waiters:
            return
        async with self._redis.pipeline(transaction=False) as pipeline:
            for waiter in waiters:
                jobs.ask_ending(pipeline, waiter.id)
            replies = await pipeline.execute()
        for waiter, ending, entries in zip(waiters, replies[::2], replies[1::2], strict=True):
            self._tell(waiter, ending, entries)

    def _tell(self, waiter: Waiter, ending: list[bytes | None], entries: list[Any]) -> None:
        outcome = jobs.outcome(waiter.id, waiter.job.model, ending, entries)
        if outcome is not None:
            waiter.end(outcome)
