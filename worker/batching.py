"""Pictures through three stages that overlap: opened, filled and closed, several at once.

    codec threads     fetch and open a task; lay the fills of its windows, refine, close its pass
    collate thread    read the windows of a batch, put them together, load them
    model thread      `filler.run`, and nothing else

Two batches are in flight: one is computed while the next is made ready. That one is made as late
as the model allows, since what arrives meanwhile joins it; nothing waits while the model is idle.

A task may go through several passes: closing one may return the next, with another model. The
pictures in flight are in different passes, so one is searched for damage while another is filled.

What a stage raises ends the task at fault, and no other. A batch that raises is filled again one
window at a time; one that does not fit into memory, in halves.

Nothing here knows where tasks come from: `worker.tasks` does.
"""

import logging
import math
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from queue import SimpleQueue

import numpy as np

from inpaint.highres import Pixels

from .calls import Calls
from .filling import Filling
from .forming import NEWEST, Batch, Filler, Former, Pass, Task, Work

IN_FLIGHT = 2  # batches
LEAST_TASKS = 2  # one is opened while another's windows are filled
STARTED = 4  # times as many tasks may have windows left as may have none taken
PORTION = 0.25  # of a batch: who brings tasks is asked for no fewer, for each time costs something
ALBUMS_SHARE = 0.75  # of the decoded pixels: the rest is kept for interactive tasks
UNLAID_SHARE = 0.25  # fills may wait to be laid, likewise
LARGE = 4_000_000  # pixels: from here on decoding takes a noticeable time
ALBUMS_LARGE = 1_000_000  # likewise, for an album's while interactive tasks are under way
PART_SECONDS = 0.25  # for which fills are refined until other calls may go before the rest
MARGIN_SECONDS = 0.002  # for which a batch is ready too early rather than too late
LARGEST_KEPT = 2**25 - 2**16  # bytes: glibc keeps freed blocks of up to 32 MiB, if it is told

log = logging.getLogger("inpaint.worker")


class Batching:
    """The three stages. Methods are for any thread; tasks hear of their end in any thread."""

    def __init__(
        self,
        fillers: Mapping[str, Filler],
        *,
        batch_seconds: float,
        most_pixels: int,
        threads: int | None = None,
    ) -> None:
        """Start the threads.

        Args:
            fillers: by the name of their model.
            batch_seconds: of a batch while interactive tasks come in.
            most_pixels: decoded at a time; one task passes however large it is.
            threads: that decode and encode; None: as many as the machine has cores, at least 2.
        """
        # glibc keeps at hand twice as much as the largest block that was ever freed: else pictures
        # of half a megapixel take theirs from the system each time, a fault a page.
        bytearray(LARGEST_KEPT)
        self._fillers = fillers
        self._most_pixels = most_pixels
        self._most_unlaid = UNLAID_SHARE * most_pixels
        lock = threading.Lock()
        self._lock = lock
        self._space = threading.Condition(lock)  # a lane's room may have grown
        self._ready = threading.Condition(lock)  # a batch may have become due
        self._former = Former(fillers, batch_seconds)
        self._arrived: deque[Work] = deque()  # not begun
        self._parked: list[Work] = []  # fetched; too many pixels are decoded to open them
        self._begun = 0  # tasks
        self._alone: Work | None = None
        self._coming = Counter[bool]()  # by urgency: tasks of whose pass no window is taken yet
        self._refining: list[Work] = []  # of albums; the first of them, as many as codec threads
        self._decoded = 0  # pixels
        self._unlaid = 0  # pixels
        self._flying: deque[float] = deque()  # of each batch the seconds that it takes at least
        self._model_free = 0.0  # when the running batch ends, as it seems; of time.monotonic
        self._open_seconds = 0.0  # mean
        self._load_seconds = 0.0  # the most of late
        self._closed = self._broken = False
        self._since: dict[int, float] = {}  # by thread: when its stage call began
        self._calls = Calls()  # of codec threads
        self._batches: SimpleQueue[Filling | None] = SimpleQueue()
        self._codecs = threads or max(2, os.cpu_count() or 1)
        loops = [("collate", self._collate), ("model", self._compute)]
        codecs = range(self._codecs)
        loops += [(f"codec-{number}", partial(self._code, number > 0)) for number in codecs]
        self._threads = [
            threading.Thread(target=self._watched, args=(loop,), name=name, daemon=True)
            for name, loop in loops
        ]
        for thread in self._threads:
            thread.start()

    # --- for who brings tasks -------------------------------------------------------------------

    def put(self, task: Task) -> None:
        """Take a task; it hears of its end by `end`."""
        with self._lock:
            self._former.came(task)
            self._arrived.append(Work(task))
            self._coming[task.urgent] += 1
            self._begin()

    def room(self, seconds: float) -> tuple[int, int]:
        """Return how many interactive and bulk tasks may be put, so that batches fill.

        Neither lane takes the other's room: many large pictures of an album keep no request waiting
        to be begun.

        Args:
            seconds: to wait at most for one of the lanes that are full; 0 if none is.
        """
        with self._lock:
            full = [urgent for urgent in (True, False) if not self._room(urgent)]
            if full:
                self._space.wait_for(lambda: any(map(self._room, full)), seconds)
            return self._room(True), self._room(False)

    def stalled(self) -> float:
        """How many seconds the longest running stage call has lasted; infinite if a thread died."""
        if self._broken:
            return math.inf
        return max((time.monotonic() - began for began in list(self._since.values())), default=0.0)

    def close(self) -> None:
        """End the threads; what is under way is left where it is."""
        with self._lock:
            self._closed = True
            self._ready.notify_all()
        self._batches.put(None)
        self._calls.close()
        for thread in self._threads:
            thread.join()

    # --- codec threads --------------------------------------------------------------------------

    def _code(self, large: bool) -> None:
        while (call := self._calls.get(large=large)) is not None:
            self._since[threading.get_ident()] = time.monotonic()
            call()
            del call  # frees the picture now
            if (batch := self._next(wait=False)) is not None:  # so that no thread need be woken
                self._make(batch)
            del self._since[threading.get_ident()], batch

    def _fetch(self, work: Work) -> None:
        with self._ends(work):
            work.task.check()
            work.pixels = work.task.fetch()
            with self._lock:
                self._parked.append(work)
                at_once = self._unpark(work)
            if at_once:
                self._open(work)

    def _open(self, work: Work) -> None:
        began = time.monotonic()
        with self._ends(work):
            work.task.check()
            stage = work.task.open()
            with self._lock:
                self._open_seconds += (time.monotonic() - began - self._open_seconds) * NEWEST
            self._enter(work, stage)

    def _enter(self, work: Work, stage: Pass) -> None:
        """Begin a pass of a task."""
        with self._lock:
            self._coming[work.task.urgent] += work.taken > 0  # it brings windows once more
            work.enter(stage)
            if work.windows:
                self._former.add(work)
                if self._flying:  # else this thread looks for a batch itself
                    self._ready.notify()
        if not stage.plan.windows:
            self._lay(work)

    def _lay(self, work: Work) -> None:
        """Lay what fills there are; after the last one close the pass."""
        began = time.perf_counter()
        with self._ends(work):
            stage = work.stage
            while True:
                with self._lock:
                    fills, work.fills = work.fills, []
                    self._are_laid(fills)
                    if work.ended:
                        return
                    if not fills:  # who adds some now starts this anew
                        work.laying = False
                        work.lay += time.perf_counter() - began
                        all_laid = work.laid == len(work.windows)
                        break
                assert stage is not None
                for fill in fills:
                    stage.canvas.lay(fill)
                work.laid += len(fills)
            if all_laid and self._refined(work):
                self._close(work)

    def _refined(self, work: Work) -> bool:
        """Refine what is laid for a moment, and say whether that was all; else it is gone on with.

        Of albums' pictures the oldest go on first, so that they end, and all others wait. The rest
        is no call for a large picture: it is short, however large the picture.
        """
        assert work.stage is not None
        work.task.check()
        began = time.perf_counter()
        left = any(time.perf_counter() - began > PART_SECONDS for _ in work.stage.canvas.ending)
        work.lay += time.perf_counter() - began
        with self._lock:
            if not left:
                self._leave(work)
            elif work.task.urgent or work in self._refining[: self._codecs]:
                self._call(self._go_on, work, large=False)
            else:
                self._refining.append(work)
                if len(self._refining) <= self._codecs:
                    self._call(self._go_on, work, large=False)
        return not left

    def _go_on(self, work: Work) -> None:
        """Refine the fills of a task further."""
        with self._ends(work):
            if self._refined(work):
                self._call(self._close, work, large=self._large(work))

    def _close(self, work: Work) -> None:
        """Close the pass, and begin the next."""
        with self._ends(work):
            work.task.check()
            assert work.stage is not None
            pixels = work.stage.canvas.pixels()
            following = work.task.close(pixels, infer=work.infer, lay=work.lay)
            if following is None:
                self._end(work, None)
            else:
                self._enter(work, following)

    # --- collate thread -------------------------------------------------------------------------

    def _collate(self) -> None:
        ident = threading.get_ident()
        while (batch := self._next()) is not None:
            self._since[ident] = time.monotonic()
            self._make(batch)
            del self._since[ident], batch  # while this waits, nothing is kept

    def _make(self, batch: Batch) -> None:
        """Read a batch that was taken, and hand it to the model thread."""
        began = time.monotonic()
        filling = self._read(batch)
        if filling is not None:
            self._batches.put(filling)
        with self._lock:
            self._load_seconds = max(time.monotonic() - began, 0.9 * self._load_seconds)
            if filling is None:
                self._flying.pop()

    def _next(self, *, wait: bool = True) -> Batch | None:
        """Take a batch as soon as one is due; None: closed.

        Args:
            wait: else only one that the idle model could begin at once is taken, or None.
        """
        with self._lock:
            while not self._closed and (wait or not self._flying):
                batch, left = None, None
                if len(self._flying) < IN_FLIGHT and self._unlaid <= self._most_unlaid:
                    batch = self._former.choose()
                if batch is not None:
                    left = self._wait(batch)
                    if left <= 0:
                        self._fly(self._former.seconds(batch))
                        for work, _ in batch.parts:
                            self._coming[work.task.urgent] -= work.taken == 0
                        self._former.take(batch)
                        self._space.notify()
                        return batch
                if not wait:
                    break
                self._ready.wait(left)
        return None

    def _wait(self, batch: Batch) -> float:
        """In how many seconds a batch is due: at once when it is full or the model idle."""
        if batch.full or not self._flying:
            return 0.0
        return self._model_free - self._load_seconds - MARGIN_SECONDS - time.monotonic()

    def _fly(self, seconds: float) -> None:
        """Count a batch as in flight."""
        self._flying.append(seconds)
        if len(self._flying) == 1:
            self._model_free = time.monotonic() + seconds

    def _read(self, batch: Batch) -> Filling | None:
        """Read and load a batch's windows, without tasks that fail or should not go on."""
        read, owners = [], []
        for work, windows in batch.parts:
            with self._ends(work):
                work.task.check()
                if (stage := work.stage) is not None:  # else it has ended meanwhile
                    read.append(stage.plan.inputs(windows))
                    owners += [work] * len(windows)
        if not read:
            return None
        pixels, holes = read[0]
        if len(read) > 1:
            pixels = np.concatenate([pixels for pixels, _ in read])
            holes = np.concatenate([holes for _, holes in read])
        filling = Filling(batch.model, self._fillers[batch.model], owners, pixels, holes)
        try:
            filling.loaded = filling.filler.load(pixels, holes)
        except Exception:  # it is tried again, and judged, in the model thread
            log.warning("loading %d windows failed", len(owners), exc_info=True)
        return filling

    # --- model thread ---------------------------------------------------------------------------

    def _compute(self) -> None:
        while (filling := self._batches.get()) is not None:
            began = self._since[threading.get_ident()] = time.monotonic()
            filling.run(self._goes_on, self._end)
            del self._since[threading.get_ident()]
            self._deliver(filling, time.monotonic() - began)
            del filling

    def _goes_on(self, work: Work) -> bool:
        """Say whether a task is still wanted, and end it if not. What runs next is a new call."""
        self._since[threading.get_ident()] = time.monotonic()
        with self._ends(work):
            work.task.check()
        return not work.ended

    def _deliver(self, filling: Filling, seconds: float) -> None:
        """Hand the fills out, to be laid."""
        with self._lock:
            self._flying.popleft()
            if self._flying:  # it begins at once
                self._model_free = time.monotonic() + self._flying[0]
            self._ready.notify()
            if filling.seconds is not None:
                self._former.measured(filling.model, filling.holes.size, filling.seconds)
            if filling.too_large is not None:
                self._former.too_large(filling.model, filling.too_large)
            for work in dict.fromkeys(filling.owners):
                work.infer += seconds
            for work, fill in zip(filling.owners, filling.fills, strict=True):
                if work.ended or fill is None:
                    continue
                work.fills.append(fill)
                self._unlaid += _pixels([fill])
                if not work.laying:
                    work.laying = True
                    self._call(self._lay, work, large=self._large(work))

    # --- the books; with the lock held, but for `_end` -------------------------------------------

    def _room(self, urgent: bool) -> int:
        if self._alone or any(work.task.alone for work in self._arrived):
            return 0
        if not urgent and len(self._refining) >= self._codecs:
            return 0  # who has time may have them
        tasks = self._former.tasks(urgent=urgent)
        if busy := self._former.task_seconds(urgent=urgent):  # opening may take longer than filling
            tasks += min(self._codecs, int(self._open_seconds / busy))
        most = max(LEAST_TASKS, tasks)
        left = most - self._coming[urgent]
        full = len(self._former.waiting[urgent]) >= STARTED * most or left < PORTION * most
        return 0 if full else left

    def _begin(self) -> None:
        """Begin what has arrived, in its order; a task that wants to be alone waits until it is."""
        while self._arrived and self._alone is None:
            if self._arrived[0].task.alone:
                if self._begun:
                    return
                self._alone = self._arrived[0]
            self._begun += 1
            self._call(self._fetch, self._arrived.popleft(), large=False)

    def _unpark(self, mine: Work | None = None) -> bool:
        """Open what may be decoded: interactive tasks first, those of a lane in their order.

        Where one is too large for the moment, small ones pass it. A small one that the calling
        thread has just fetched is left to it: then this returns True.
        """
        at_once = False
        for urgent, share in ((True, 1.0), (False, ALBUMS_SHARE)):
            waits = False
            for work in [work for work in self._parked if work.task.urgent == urgent]:
                full = self._decoded + work.pixels > share * self._most_pixels and self._decoded
                if full or (waits and self._large(work)):
                    waits = True
                    continue
                self._parked.remove(work)
                self._decoded += work.pixels
                if work is mine and not self._large(work):
                    at_once = True
                else:
                    self._call(self._open, work, large=self._large(work))
        return at_once

    def _call(self, stage: Callable[[Work], None], work: Work, *, large: bool) -> None:
        self._calls.put(partial(stage, work), urgent=work.task.urgent, large=large)

    def _large(self, work: Work) -> bool:
        """Say whether other pictures may pass this one where it is decoded and encoded."""
        album = not work.task.urgent and self._former.short
        return work.pixels >= (ALBUMS_LARGE if album else LARGE)

    def _leave(self, work: Work) -> None:
        """Let the next of albums' pictures be refined, if this was one that is."""
        if work in self._refining:
            self._refining.remove(work)
            for following in self._refining[self._codecs - 1 : self._codecs]:
                self._call(self._go_on, following, large=False)

    def _are_laid(self, fills: list[Pixels]) -> None:
        """Count fills as no longer waiting."""
        before = self._unlaid
        self._unlaid -= _pixels(fills)
        if before > self._most_unlaid:  # no batch was formed
            self._ready.notify()

    def _end(self, work: Work, error: Exception | None) -> None:
        with self._lock:
            if work.ended:
                return
            work.ended = True
            self._begun -= 1
            self._coming[work.task.urgent] -= work.taken == 0
            self._former.gone(work)
            self._leave(work)
            self._are_laid(work.fills)
            self._decoded -= work.pixels
            work.fills, work.stage = [], None
            if self._alone is work:
                self._alone = None
            self._unpark()
            self._begin()
            self._space.notify()
        work.task.end(error)

    @contextmanager
    def _ends(self, work: Work) -> Iterator[None]:
        """End a task by whatever its stage raises."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  # a stage's errors are its task's, all of them
            self._end(work, error)

    def _watched(self, loop: Callable[[], None]) -> None:
        """Run a thread's loop; what it raises is a bug of ours, and this process's end."""
        try:
            loop()
        except BaseException:
            log.exception("the thread %s has died", threading.current_thread().name)
            self._broken = True


def _pixels(fills: list[Pixels]) -> int:
    return sum(fill.size for fill in fills) // 3
