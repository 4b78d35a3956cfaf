"""Tasks that are searched before they are filled, through the stages, with real fillers."""

import threading
import time

import numpy as np
import pytest

from inpaint.errors import ModelFailed, OutOfMemory, TimedOut
from inpaint.highres import SizeRule
from inpaint.restore import Finish, prepare, restore
from models import damage
from worker.batching import Batching
from worker.forming import Pass

SMALL = SizeRule(multiple=8, minimum=16, trained=32)
THRESHOLDS = (0.8, 0.5, 0.2)
SECONDS = 30.0  # to wait for what must come


class White:
    """A detector that takes white for certain damage, and does first what a test wants."""

    batch_pixels = 8 * 256 * 256

    def __init__(self, first=lambda pixels: None):
        self.first = first
        self.batches = []  # windows of each

    def load(self, pixels, holes):
        return pixels

    def run(self, pixels):
        self.first(pixels)
        self.batches.append(len(pixels))
        return np.where((pixels == 255).all(axis=3, keepdims=True), pixels, 0)


class Mean(White):
    """A filler of the mean of what is known in a window."""

    rule = SMALL
    learned = False
    batch_pixels = 8 * 32 * 32

    def load(self, pixels, holes):
        return pixels, holes

    def run(self, loaded):
        pixels, holes = loaded
        self.first(pixels)
        self.batches.append(len(pixels))
        means = [p[~h].mean(axis=0) for p, h in zip(pixels, holes, strict=True)]
        return np.stack([np.full(pixels.shape[1:], mean, np.uint8) for mean in means])

    def __call__(self, pixels, holes):
        return self.run((pixels, holes))


class Task:
    """A picture whose white is to be found and filled; it remembers what happened to it."""

    def __init__(self, pixels, *, urgent=True, alone=False):
        self.pixels, self.urgent, self.alone = pixels, urgent, alone
        self.stop = self.filled = self.hole = None
        self.infer, self.endings = [], []  # seconds of each pass
        self.opened, self.ended = threading.Event(), threading.Event()

    def check(self):
        if self.stop is not None:
            raise self.stop

    def fetch(self):
        return self.pixels[..., 0].size

    def open(self):
        tiles = damage.tiles(self.pixels)
        self.opened.set()
        return Pass("white", tiles, damage.Probabilities(tiles))

    def close(self, pixels, *, infer, lay):
        self.infer.append(infer)
        if self.hole is not None:
            self.filled = pixels
            return None
        self.hole = damage.find(pixels, 0.5, THRESHOLDS)
        plan = prepare(self.pixels.copy(), self.hole, SMALL)
        return Pass("mean", plan, Finish(plan))

    def end(self, error):
        self.endings.append(error)
        self.ended.set()

    def wait(self):
        assert self.ended.wait(SECONDS), "the task has not ended"
        return self


@pytest.fixture
def start():
    """Start the stages; all are closed after the test, with nothing left in their books."""
    running = []

    def begin(white=None, mean=None, most_pixels=10_000_000, batch_seconds=1000.0):
        fillers = {"white": white or White(), "mean": mean or Mean()}
        options = {"batch_seconds": batch_seconds, "most_pixels": most_pixels, "threads": 2}
        running.append(Batching(fillers, **options))
        return running[-1]

    yield begin
    for batching in running:
        batching.close()
        books = batching._begun, batching._coming.total(), batching._decoded, batching._unlaid
        assert (books, batching._alone) == ((0, 0, 0, 0), None)
        assert not any(batching._former.waiting.values())


def specks(seed, count, level=100):
    """Noise around a level with so many white specks in a grid, each a window of its own."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(level, level + 50, (256, 256, 3), dtype=np.uint8)
    for number in range(count):
        row, column = 4 + 64 * (number // 4), 4 + 64 * (number % 4)
        pixels[row : row + 8, column : column + 8] = 255
    return pixels


def white(pixels):
    return (pixels == 255).all(axis=2)


def put(batching, *tasks):
    for task in tasks:
        batching.put(task)
    return tasks


def test_a_picture_is_searched_then_filled_and_hears_of_its_end_once(start):
    (task,) = put(start(), Task(specks(0, 3)))

    assert task.wait().endings == [None]
    assert np.array_equal(task.hole, white(task.pixels))
    assert np.array_equal(task.filled, restore(task.pixels, task.hole, Mean()))
    assert len(task.infer) == 2


def test_each_pass_has_its_own_seconds(start):
    searched = White(lambda pixels: time.sleep(0.3))

    (task,) = put(start(searched), Task(specks(0, 1)))

    search, fill = task.wait().infer
    assert search >= 0.3 > fill


def test_what_is_found_nowhere_has_no_windows_and_is_closed_at_once(start):
    filler = Mean()

    (task,) = put(start(mean=filler), Task(specks(0, 0)))

    assert task.wait().endings == [None]
    assert np.array_equal(task.filled, task.pixels)
    assert filler.batches == []


def test_windows_of_several_pictures_share_the_batches_of_both_passes(start):
    gate = threading.Event()
    searched, filler = (
        White(lambda pixels: gate.wait(SECONDS)),
        Mean(lambda pixels: time.sleep(0.2)),
    )
    tasks = put(start(searched, filler), *(Task(specks(seed, 1)) for seed in range(7)))
    for task in tasks:
        assert task.opened.wait(SECONDS)
    gate.set()

    for task in tasks:
        assert task.wait().endings == [None]
    assert sum(searched.batches) == sum(filler.batches) == 7
    assert max(searched.batches) > 2
    assert max(filler.batches) > 1


def test_one_picture_is_searched_while_another_is_filled(start, eventually):
    order, second = [], Task(specks(1, 1))

    def is_planned():
        lines = list(batching._former.waiting.values())
        waits = any(work.task is second for line in lines for work in list(line))
        return waits or not batching._coming.total()  # its window is in a batch already

    batching = start(
        White(lambda pixels: order.append("white")), Mean(lambda pixels: order.append("mean"))
    )
    batching._fillers["mean"].batch_pixels = 1
    first = Task(specks(0, 16))
    ran = batching._fillers["mean"].run

    def fill(loaded):
        if order.count("mean") == 2 and not second.opened.is_set():
            batching.put(second)
            eventually(is_planned)
        return ran(loaded)

    batching._fillers["mean"].run = fill
    batching.put(first)

    assert second.wait().endings == first.wait().endings == [None]
    assert order[0] == "white"
    assert "white" in order[3:10]  # long before the sixteen windows are filled


def test_many_at_once_are_restored_as_one_by_one(start):
    tasks = [Task(specks(seed, seed % 6), urgent=seed % 3 > 0) for seed in range(18)]
    put(start(), *tasks)

    for task in tasks:
        assert task.wait().endings == [None]
        assert np.array_equal(task.hole, white(task.pixels))
        assert np.array_equal(task.filled, restore(task.pixels, task.hole, Mean()))


def poison(pixels):
    """Raise for windows that are all dark."""
    if (pixels.max(axis=(1, 2, 3)) < 60).any() or (np.median(pixels, axis=(1, 2, 3)) < 60).any():
        raise RuntimeError("poison")


@pytest.mark.parametrize("kind", ["white", "mean"])
def test_a_picture_that_a_pass_fails_on_fails_alone(start, kind):
    model = {"white": White, "mean": Mean}[kind](poison)
    batching = start(**{kind: model})
    bad = Task(specks(66, 2, level=1))
    good = [Task(specks(seed, 2)) for seed in range(3)]
    put(batching, good[0], bad, *good[1:])

    (error,) = bad.wait().endings
    assert isinstance(error, ModelFailed)
    assert bad.filled is None
    for task in good:
        assert task.wait().endings == [None]
        assert task.filled is not None


def test_a_search_that_does_not_fit_into_memory_is_halved_and_alone_refused(start):
    gate = threading.Event()

    def first(pixels):
        gate.wait(SECONDS)
        if len(pixels) > 2 or pixels.min() < 60:
            raise MemoryError

    searched = White(first)
    good, bad = [Task(specks(seed, 1)) for seed in range(8)], Task(specks(9, 1, level=1))
    put(start(searched), *good, bad)
    for task in (*good, bad):
        assert task.opened.wait(SECONDS)
    gate.set()

    assert isinstance(bad.wait().endings[0], OutOfMemory)
    for task in good:
        assert task.wait().endings == [None]
    assert max(searched.batches) <= 2


def test_a_picture_that_is_dropped_while_it_is_searched_is_not_filled(start):
    task, filler = Task(specks(0, 4)), Mean()

    def drop(pixels):
        task.stop = TimedOut("late")

    put(start(White(drop), filler), task)

    assert task.wait().endings == [task.stop]
    assert filler.batches == []


def test_a_picture_that_is_dropped_while_it_is_filled_ends_once(start):
    task = Task(specks(0, 16))

    def drop(pixels):
        task.stop = TimedOut("late")

    filler = Mean(drop)
    filler.batch_pixels = 1
    put(start(mean=filler), task)

    assert task.wait().endings == [task.stop]
    assert len(filler.batches) < 16


def test_what_making_the_next_pass_raises_ends_that_picture_alone(start):
    batching = start()
    full, good = Task(np.full((64, 64, 3), 255, np.uint8)), Task(specks(0, 1))
    put(batching, full, good)

    assert full.wait().endings[0].code == "mask-full"
    assert good.wait().endings == [None]


def test_pictures_that_do_not_fit_together_take_turns_through_both_passes(start):
    tasks = [Task(specks(seed, 2)) for seed in range(6)]
    put(start(most_pixels=256 * 256), *tasks)

    for task in tasks:
        assert task.wait().endings == [None]


def test_a_task_that_wants_to_be_alone_is_in_both_passes(start):
    under_way, together = set(), []

    def task(number, **options):
        made = Task(specks(number, 2), **options)
        opened, closed, ended = made.open, made.close, made.end

        def seen():
            if 2 in under_way:
                together.append(set(under_way))

        def open():
            under_way.add(number)
            seen()
            return opened()

        def close(pixels, **seconds):
            seen()
            return closed(pixels, **seconds)

        def end(error):
            under_way.discard(number)
            ended(error)

        made.open, made.close, made.end = open, close, end
        return made

    tasks = put(start(), *(task(number, alone=number == 2) for number in range(5)))

    for one in tasks:
        assert one.wait().endings == [None]
    assert together == [{2}] * 3


def test_a_stall_is_seen_in_the_pass_that_searches(start):
    gate = threading.Event()
    batching = start(White(lambda pixels: gate.wait(SECONDS)))
    (task,) = put(batching, Task(specks(0, 1)))
    deadline = time.monotonic() + SECONDS
    while batching.stalled() < 0.2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    gate.set()

    assert task.wait().endings == [None]
