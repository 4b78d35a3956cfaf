"""Report that this worker is ready and how fast it is, and feed albums, also while jobs run."""

import logging
from collections.abc import Callable
from threading import Event, Thread
from types import TracebackType
from typing import Self

from redis import Redis
from redis.exceptions import RedisError

from inpaint import catalogue, feeder
from inpaint.errors import QueueUnavailable
from inpaint.settings import Settings

FEEDS = 4  # in the time between two publications

log = logging.getLogger("inpaint.worker")


class Beat:
    """A thread that publishes a worker's card and feeds albums while the `with` block lasts.

    Args:
        redis: a client that nothing else uses, with short time-outs.
        settings: of the queue that albums enter.
        card: what is published, with the rate of the moment; it is withdrawn at the end.
        rate: gives the jobs that the worker finishes per second while it is busy.
    """

    def __init__(
        self,
        redis: Redis,
        settings: Settings,
        card: catalogue.WorkerCard,
        rate: Callable[[], float],
    ) -> None:
        self._redis = redis
        self._settings = settings
        self._card = card
        self._rate = rate
        self._ended = Event()
        self._away = False
        self._thread = Thread(target=self._run, name="beat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()
        try:
            catalogue.withdraw(self._redis, self._card.worker)
        except RedisError:
            log.warning("Redis is away: the card of this worker expires by itself")

    def _run(self) -> None:
        count = 0
        while not self._ended.is_set():
            try:
                if count % FEEDS == 0:
                    rate = round(self._rate(), 3)
                    catalogue.publish(self._redis, self._card.model_copy(update={"rate": rate}))
                feeder.feed(self._redis, self._settings)
                if self._away:
                    log.info("Redis is back: reported ready again")
                self._away = False
            except (RedisError, QueueUnavailable) as error:
                if not self._away:
                    log.warning("cannot report ready, going on trying: %s", error)
                self._away = True
            count = 0 if self._away else count + 1
            self._ended.wait(catalogue.BEAT_SECONDS / FEEDS)
