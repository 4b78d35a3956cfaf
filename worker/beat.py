"""Report that this worker is ready, again and again, also while a job runs."""

import logging
from threading import Event, Thread
from types import TracebackType
from typing import Self

from redis import Redis
from redis.exceptions import RedisError

from inpaint import catalogue

log = logging.getLogger("inpaint.worker")


class Beat:
    """A thread that publishes a worker's card while the `with` block lasts.

    Args:
        redis: a client that nothing else uses, with short time-outs.
        card: what is published; it is withdrawn at the end.
    """

    def __init__(self, redis: Redis, card: catalogue.WorkerCard) -> None:
        self._redis = redis
        self._card = card
        self._ended = Event()
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
        away = False
        while True:
            try:
                catalogue.publish(self._redis, self._card)
                if away:
                    log.info("Redis is back: reported ready again")
                away = False
            except RedisError as error:
                if not away:
                    log.warning("cannot report ready, going on trying: %s", error)
                away = True
            if self._ended.wait(catalogue.BEAT_SECONDS):
                return
