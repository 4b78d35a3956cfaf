"""Jobs under lease: RQ's worker, three steps of which are scripts that do all or nothing.

    CLAIM   queue -> lease            claim.lua
    COMMIT  lease -> ended            commit.lua: what RQ writes, while the lease holds
    REAP    lost lease -> front of its queue, or failed    reap.lua, which also renews our leases

A job may be run twice, and ends once. All that is known about RQ's inside is known here: what is
overridden are methods of RQ 2.12 that `work` calls, and tests/test_rq_contract.py compares what is
left behind with what RQ's own worker leaves. Nothing is imported or called because Redis names it.

Three threads: the main one claims, one commits, one renews and watches.
"""

import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from base64 import b64encode
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, TypeVar
from uuid import uuid4
from zlib import compress, decompress
from zlib import error as NotCompressed

from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from rq import SimpleWorker, worker_registration
from rq.serializers import JSONSerializer
from rq.utils import as_text, now, utcformat
from rq.worker import WorkerStatus

from inpaint.jobs import BELL, CONTRACT, INPAINT_TASK, LANES, SETTLE, Lane, connect, queue_name
from inpaint.settings import Settings

BELL_SECONDS = 1  # redis-py gives up an answer after jobs.SOCKET_SECONDS, so wait for less
WAIT_SECONDS = 0.2  # for the stages, before a signal is looked for
ROOM_SECONDS = 0.005  # for room for bulk jobs that wait, then
FULL_SECONDS = 0.02  # for the bell of a request, and so on in turn: albums are fast or slow
AWAY_SECONDS = 0.5  # between attempts while Redis is away
RECORD_SECONDS = 30  # for which RQ shows a worker that was killed
BULK_EVERY = 4  # claims: the last of so many prefers the bulk lane, so that it never starves
COMMITTED, CANCELED = 1, 2  # verdicts of commit.lua

FOLDER = Path(__file__).parent
BEFORE = SETTLE + (FOLDER / "finish.lua").read_text()  # stands before each script
SCRIPTS = {
    name: BEFORE + (FOLDER / f"{name}.lua").read_text() for name in ("claim", "commit", "reap")
}

log = logging.getLogger("inpaint.worker")

T = TypeVar("T")


@dataclass(eq=False)
class Claim:
    """A job that this worker holds a lease on."""

    id: str
    payload: dict[str, Any]  # InpaintJob as JSON
    lane: Lane
    alone: bool  # it has lost a worker before: nothing else is in flight beside it
    began: float  # time.monotonic() of the claim
    live: bool = True  # False once it is cancelled or its lease is lost: work on it no further


@dataclass(frozen=True)
class Lease:
    """What a claim is held by."""

    queue: str  # RQ's name of it
    token: str
    began: datetime


Claimed = tuple[Claim, Exception | None]  # with the reason why it cannot be run, if there is one
Ending = dict[str, Any] | Exception | None  # Outcome as JSON | a bug | dropped: nothing to commit
Room = tuple[int, int]  # jobs of each lane, as in LANES


class Stages(Protocol):
    """What the queue needs of those who do the work."""

    def room(self, seconds: float) -> Room:
        """Return how many jobs may be taken; wait at most `seconds` for a lane that is full."""

    def take(self, claim: Claim) -> None:
        """Begin with a job. Never blocks, never raises."""

    def ended(self, seconds: float) -> list[tuple[Claim, Ending]]:
        """Wait at most `seconds` for at least one that has ended; each is handed out once."""

    def discard(self, ending: Ending) -> None:
        """Delete the files of an ending that nobody will have."""

    def stalled(self) -> float:
        """Seconds that the longest running call of a stage has lasted; 0.0 if none runs."""

    def drain(self) -> None:
        """Return once everything taken has been handed out by `ended`."""


class BatchWorker(SimpleWorker):
    """RQ's worker without a child process, which holds many jobs at once, each under a lease.

    Args:
        settings: of leases, and where Redis is.
        models: whose queues are served.
        stages: who do the work.
    """

    def __init__(self, settings: Settings, models: Sequence[str], stages: Stages) -> None:
        connection = connect(settings)
        # A claim that redis-py sent again by itself could take jobs that nobody hears of.
        connection.set_retry(Retry(NoBackoff(), 0))
        super().__init__(
            [queue_name(lane, model) for model in models for lane in LANES],
            connection=connection,
            serializer=JSONSerializer,
            log_job_description=False,
        )
        self._settings = settings
        self._stages = stages
        self._run = {name: connection.register_script(text) for name, text in SCRIPTS.items()}
        keys = self.queue_keys()  # of each model the interactive lane's, then the bulk lane's
        swapped = [key for pair in zip(keys[1::2], keys[::2], strict=True) for key in pair]
        self._keys: dict[Lane, list[str]] = {"interactive": keys, "bulk": swapped}
        self._held: dict[Claim, Lease] = {}
        self._changed = threading.Condition()  # guards `_held`, told when it shrinks
        self._claims = 0
        self._more = True  # as far as is known there are jobs; a claim says so, or the bell
        self._token = uuid4().hex  # of the next claim
        self._unsure = False  # the last claim's answer was lost: it may have taken jobs
        self._beat_at = 0.0  # server's time of the last beat
        self._reap_from = 0.0  # server's time
        self._drained = threading.Event()  # all that was taken is handed out
        self._committed = threading.Event()  # and committed
        self._threads = [
            threading.Thread(target=_or_end, args=(run,), daemon=True)
            for run in (self._commit_until_drained, self._beat_until_committed)
        ]

    def bootstrap(self, *args: Any, **options: Any) -> None:
        """As RQ does; then begin to renew and to commit."""
        super().bootstrap(*args, **options)
        for thread in self._threads:
            thread.start()

    def dequeue_job_and_maintain_ttl(  # type: ignore[override]  # many jobs, not one
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[list[Claimed], Any] | None:
        """Wait for room, then for jobs; None when asked to stop, or (RQ's burst) none is left."""
        rung, seconds = None, ROOM_SECONDS if self._more else 0.0
        while not self._stop_requested:
            room = self._room(seconds)
            if not room[0]:
                seconds = WAIT_SECONDS
                continue
            try:
                if self._more and (claimed := self.claim(room, rung)):
                    return claimed, self.queues[0]
                if timeout is None and not self._held:
                    break
                full = self._more and not room[1]
                self._more = True  # whatever is heard, or nothing: it is time to look again
                rung = self.connection.blpop([BELL], timeout=FULL_SECONDS if full else BELL_SECONDS)
                seconds = 0.0 if rung else ROOM_SECONDS
            except RedisError as error:
                log.warning("cannot take jobs, going on trying: %s", error)
                time.sleep(AWAY_SECONDS)
        return None

    def execute_job(self, claimed: list[Claimed], queue: Any) -> None:  # type: ignore[override]
        """Give jobs to the stages; one that is none of ours ends here."""
        for claim, fault in claimed:
            if fault:
                self.commit([(claim, fault)])
            else:
                self._stages.take(claim)

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """Take no more jobs and finish those taken; a second signal ends the process at once."""
        self._stop_requested = True
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, frame: os._exit(128 + number))

    def teardown(self) -> None:
        """Wait until all that was taken has ended and is committed."""
        self._stages.drain()
        self._drained.set()
        for thread in self._threads:
            thread.join()
        try:
            self.register_death()  # type: ignore[no-untyped-call]  # RQ states none
        except RedisError as error:
            log.warning("RQ's record of this worker expires by itself: %s", error)

    def register_birth(self) -> None:
        """As RQ does; where Redis refuses, the beat does it later."""
        self.birth_date = self.last_heartbeat = now()
        try:
            super().register_birth()  # type: ignore[no-untyped-call]  # RQ states none
        except RedisError as error:
            log.warning("RQ does not know of this worker yet: %s", error)

    @property
    def connection_timeout(self) -> int:
        """What RQ would raise the connection's time-out to: it stays."""
        return 0

    def _nothing(self, *args: object, **options: object) -> None:
        """Do nothing, where RQ would write to Redis unguarded, or listen to it."""

    # The beat says that the worker lives and is busy, claim.lua looks whether workers are
    # suspended, reap.lua cleans: RQ's own cleaners would fail lost jobs beside it.
    set_state = heartbeat = check_for_suspension = run_maintenance_tasks = subscribe = _nothing

    def _room(self, seconds: float) -> Room:
        with self._changed:
            if any(claim.alone for claim in self._held):
                self._changed.wait(WAIT_SECONDS)
                return 0, 0
        return self._stages.room(seconds)

    def claim(self, room: Room, rung: Sequence[bytes | str] | None = None) -> list[Claimed]:
        """Take jobs of one model into leases, no more than the larger of both rooms in all.

        Args:
            room: how many of each lane.
            rung: what was taken from the bell, as `blpop` returns it. Where there is no job for us
                it is passed on: each idle worker hears it once.
        """
        ring = as_text(rung[1]) if rung else ""
        ring = {self.name: "", "1": self.name}.get(ring, ring)
        lane: Lane = "bulk" if self._claims % BULK_EVERY == BULK_EVERY - 1 else "interactive"
        rooms = room if lane == "interactive" else room[::-1]
        words: list[Any] = [self._token, self._settings.lease_seconds, *rooms]
        began = now()
        words += [int(not self._held), int(self._unsure), self.name, utcformat(began), BELL, ring]
        self._unsure = True
        more, found = self._run["claim"](keys=self._keys[lane], args=words)
        self._unsure, self._more = False, bool(more)
        if not found:
            return []
        self._claims += 1
        token, self._token = self._token, uuid4().hex
        return [self._hold(token, began, *fields) for fields in found]

    def _hold(
        self, token: str, began: datetime, key: bytes, job_id: bytes, lost: int, data: bytes | None
    ) -> Claimed:
        """Read a job that was claimed."""
        payload: dict[str, Any] = {}
        fault = None
        try:
            payload = _payload(data)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is this job's fault
            fault = error
        queue = as_text(key).removeprefix(self.queue_class.redis_queue_namespace_prefix)
        lane: Lane = "bulk" if as_text(key) in self._keys["bulk"][::2] else "interactive"
        claim = Claim(as_text(job_id), payload, lane, bool(lost), time.monotonic())
        with self._changed:
            self._held[claim] = Lease(queue, token, began)
        return claim, fault

    def _commit_until_drained(self) -> None:
        while not self._drained.is_set():
            if ended := self._stages.ended(WAIT_SECONDS):
                for ending in self.commit(ended):
                    self._stages.discard(ending)
        self._committed.set()

    def commit(self, ended: list[tuple[Claim, Ending]]) -> list[Ending]:
        """End jobs, however long Redis is away: what was worked out is kept until then.

        Returns:
            The endings of canceled jobs: nobody has them, nor will.
        """
        canceled: list[Ending] = []
        worth = [(claim, ending) for claim, ending in ended if ending is not None]
        if worth:
            at, kept = now(), self._settings.result_ttl_seconds
            words = [self.key, self.name, utcformat(at), at.timestamp(), kept]
            words += [word for claim, ending in worth for word in self._record(claim, ending)]
            mine = _insist("cannot commit", lambda: self._run["commit"](args=words))
            for (claim, ending), verdict in zip(worth, mine, strict=True):
                if verdict != COMMITTED:
                    log.info("%s: canceled, lost, or committed already: nothing written", claim.id)
                if verdict == CANCELED:
                    canceled.append(ending)
        with self._changed:
            for claim, _ in ended:
                del self._held[claim]
            self._changed.notify_all()
        return canceled

    def _record(self, claim: Claim, ending: dict[str, Any] | Exception) -> list[Any]:
        """The arguments of commit.lua for one job; how it ended as RQ writes a Result."""
        lease = self._held[claim]
        if isinstance(ending, Exception):
            log.error("%s failed", claim.id, exc_info=ending)
            text = compress("".join(traceback.format_exception(ending)).encode())
        else:
            text = json.dumps(ending).encode()
        status = "failed" if isinstance(ending, Exception) else "finished"
        began = lease.began.timestamp()
        return [lease.queue, claim.id, lease.token, began, status, b64encode(text)]

    def _beat_until_committed(self) -> None:
        away = False
        while True:
            if self._stages.stalled() > self._settings.stall_seconds:
                log.critical("a stage stands still: ending, so that another worker takes its jobs")
                os._exit(os.EX_SOFTWARE)
            try:
                self.renew_and_reap()
                self._report()
                away = False
            except RedisError as error:
                if not away:
                    log.warning("the beat was refused, going on trying: %s", error)
                away = True
            if self._committed.wait(self._settings.lease_seconds / 4):
                return

    def renew_and_reap(self) -> None:
        """Renew our leases, learn which of them are lost, and return the jobs of lost workers."""
        lease, kept = self._settings.lease_seconds, self._settings.result_ttl_seconds
        why = f"WorkerLost: {self._settings.max_lost + 1} workers were lost while they ran this job"
        words: list[Any] = [f"v{CONTRACT}.", lease, self._beat_at, self._reap_from]
        words += [self._settings.max_lost, kept, utcformat(now())]
        words += [b64encode(compress(why.encode())), BELL]  # as RQ writes the text of a Result
        with self._changed:
            held = [(claim, own) for claim, own in self._held.items() if claim.live]
        for claim, own in held:
            words += [own.queue, claim.id, own.token]
        server_time, *ours = self._run["reap"](args=words)
        for (claim, _), still in zip(held, ours, strict=True):
            claim.live = bool(still)
        beat_at, self._beat_at = self._beat_at, float(server_time)
        if beat_at and self._beat_at - beat_at > lease / 2:  # Redis, or we, were away
            self._reap_from = self._beat_at + lease

    def _report(self) -> None:
        """RQ's record of this worker: written anew where it has expired or was refused."""
        with self.connection.pipeline(transaction=False) as pipeline:
            super().heartbeat(RECORD_SECONDS, pipeline=pipeline)
            pipeline.hset(self.key, "state", WorkerStatus.BUSY if self._held else WorkerStatus.IDLE)
            if pipeline.execute()[0]:  # the field is new
                pipeline.hset(self.key, mapping=self.serialize())
                worker_registration.register(self, pipeline)
                pipeline.execute()


def _payload(data: bytes | None) -> dict[str, Any]:
    """What a job asks for. Its function's name is a label: it is neither imported nor called."""
    if data is None:
        raise ValueError("a job without data: not run")
    with suppress(NotCompressed):  # RQ compresses them, `inpaint.admission` does not
        data = decompress(data)
    function, instance, args, kwargs = json.loads(data)
    if function != INPAINT_TASK or instance is not None:
        raise ValueError(f"the task {function!r} is not {INPAINT_TASK!r}: not run")
    if len(args) != 1 or not isinstance(args[0], dict) or kwargs:
        raise ValueError(f"{INPAINT_TASK} takes one InpaintJob as a dict and nothing else: not run")
    return args[0]


def _or_end(run: Callable[[], None]) -> None:
    """A worker that has lost a thread would hold jobs for ever: it ends, and others take them."""
    try:
        run()
    except BaseException:
        log.exception("a thread of the worker failed: ending")
        os._exit(os.EX_SOFTWARE)


def work(settings: Settings, models: Sequence[str], stages: Stages) -> None:
    """Run jobs until SIGTERM or SIGINT; Redis may go away and come back meanwhile."""
    worker = _insist("cannot begin", lambda: BatchWorker(settings, models, stages))
    worker.work(logging_level="WARNING")
    if not worker._stop_requested:
        sys.exit(os.EX_SOFTWARE)  # RQ has logged why its loop ended


def wait_for_redis(settings: Settings) -> None:
    """Return once Redis answers."""
    with connect(settings) as redis:
        _insist("waiting for Redis", redis.ping)


def _insist(complaint: str, call: Callable[[], T]) -> T:
    """What a call returns, once Redis answers; it is made again until then."""
    complained = False
    while True:
        try:
            return call()
        except RedisError as error:
            if not complained:
                log.warning("%s, going on trying: %s", complaint, error)
            complained = True
        time.sleep(AWAY_SECONDS)


def exit_on_signals() -> None:
    """Let SIGTERM and SIGINT leave all `with` blocks and end the process, when no job can run."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: sys.exit(0))
