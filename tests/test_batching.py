"""Tasks of arrays through the three stages, with real fillers."""

import math
import threading
import time

import numpy as np
import pytest
import torch

from inpaint.errors import InpaintError, ModelFailed, OutOfMemory, TimedOut
from inpaint.highres import SizeRule
from inpaint.restore import Finish, prepare, restore
from models.aotgan_compact import CompactAOTGAN
from models.filler import TorchFiller
from models.registry import create
from worker.batching import Batching
from worker.forming import Pass

SMALL = SizeRule(multiple=8, minimum=16, trained=32)
SECONDS = 30.0  # to wait for what must come


class Grey:
    """A filler that remembers its batches, and does first what a test wants."""

    rule = SMALL
    learned = False
    batch_pixels = 8 * 32 * 32

    def __init__(self, first=lambda pixels: None):
        self.first = first
        self.begun = []  # shapes of batches
        self.batches = []  # those that were filled
        self.threads = set()

    def load(self, pixels, holes):
        return pixels, holes

    def run(self, loaded):
        pixels, _ = loaded
        self.threads.add(threading.current_thread().name)
        self.begun.append(pixels.shape)
        self.first(pixels)
        self.batches.append(pixels.shape)
        return np.full_like(pixels, 128)

    def __call__(self, pixels, holes):
        return np.full_like(pixels, 128)


class Task:
    """A picture to be filled; it remembers what happened to it."""

    def __init__(self, pixels, hole, rule=SMALL, model="grey", *, urgent=True, alone=False):
        self.pixels, self.hole, self.rule = pixels, hole, rule
        self.model, self.urgent, self.alone = model, urgent, alone
        self.refine = "none"
        self.before_open = lambda: None
        self.before_close = lambda: None
        self.stop = None
        self.filled = None
        self.endings = []
        self.ended = threading.Event()
        self.opened = threading.Event()

    def check(self):
        if self.stop is not None:
            raise self.stop

    def fetch(self):
        return self.hole.size

    def open(self):
        self.before_open()
        self.opened.set()
        return self.fill()

    def fill(self):
        plan = prepare(self.pixels.copy(), self.hole, self.rule, refine=self.refine)
        return Pass(self.model, plan, Finish(plan))

    def close(self, pixels, *, infer, lay):
        self.before_close()
        self.filled, self.seconds = pixels, (infer, lay)

    def end(self, error):
        self.endings.append(error)
        self.ended.set()

    def wait(self):
        assert self.ended.wait(SECONDS), "the task has not ended"
        return self


@pytest.fixture
def start():
    """Start the stages; all are closed after the test."""
    running = []

    def begin(most_pixels=10_000_000, batch_seconds=1000.0, threads=2, **fillers):
        running.append(
            Batching(fillers, batch_seconds=batch_seconds, most_pixels=most_pixels, threads=threads)
        )
        return running[-1]

    yield begin
    for batching in running:
        batching.close()


def specks(seed, count, height=256, width=256, side=8):
    """Pixels of noise, and a hole of so many specks in a grid, each a window of its own."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    hole = np.zeros((height, width), bool)
    places = [(row, column) for row in range(4, height, 64) for column in range(4, width, 64)]
    for row, column in places[:count]:
        hole[row : row + side, column : column + side] = True
    return pixels, hole


def test_one_task_comes_out_filled_and_hears_of_its_end_once(start):
    task = Task(*specks(0, 1))
    filler = Grey()

    start(grey=filler).put(task)

    task.wait()
    assert task.endings == [None]
    assert (task.filled[task.hole] == 128).all()
    assert np.array_equal(task.filled[~task.hole], task.pixels[~task.hole])
    assert task.seconds[0] > 0


def test_windows_of_several_pictures_share_a_batch(start):
    gate = threading.Event()
    filler = Grey(lambda pixels: gate.wait(SECONDS))
    batching = start(grey=filler)
    tasks = [Task(*specks(seed, 2)) for seed in range(9)]  # more than threads open at a time
    for task in tasks:
        batching.put(task)
    for task in tasks:
        assert task.opened.wait(SECONDS)
    gate.set()

    for task in tasks:
        assert task.wait().endings == [None]
    assert sum(shape[0] for shape in filler.batches) == 18
    assert max(shape[0] for shape in filler.batches) > 2
    assert filler.threads == {"model"}


def test_no_batch_exceeds_what_the_filler_finds_worth_giving_at_once(start):
    filler = Grey()
    filler.batch_pixels = 3 * 32 * 32
    tasks = [Task(*specks(seed, 7)) for seed in range(3)]
    batching = start(grey=filler)
    for task in tasks:
        batching.put(task)

    for task in tasks:
        assert task.wait().endings == [None]
    assert max(shape[0] for shape in filler.batches) == 3


def test_one_window_larger_than_a_batch_goes_alone(start):
    filler = Grey()
    filler.batch_pixels = 1
    task = Task(*specks(0, 3))

    start(grey=filler).put(task)

    assert task.wait().endings == [None]
    assert [shape[0] for shape in filler.batches] == [1, 1, 1]


@pytest.mark.parametrize("name", ["telea", "compact"])
def test_many_at_once_are_filled_as_one_by_one(start, name):
    if name == "telea":
        generator = create("telea", {})
    else:
        torch.manual_seed(0)
        config = CompactAOTGAN.Config(width=4, channels=8, blocks=1, rates=(1, 2))
        generator = CompactAOTGAN(config).eval()
    filler = TorchFiller(generator, precision="float32")
    pictures = [specks(seed, 1 + seed % 5, side=8 + seed) for seed in range(12)]
    tasks = [Task(*picture, filler.rule, name) for picture in pictures]
    batching = start(**{name: filler})
    for task in tasks:
        batching.put(task)

    for task, (pixels, hole) in zip(tasks, pictures, strict=True):
        assert task.wait().endings == [None]
        alone = restore(pixels, hole, filler, refine="none").astype(int)
        assert np.abs(task.filled.astype(int) - alone).max() <= 1
        assert np.array_equal(task.filled[~hole], pixels[~hole])


def test_fills_are_laid_in_the_order_of_the_windows(start):
    """The first window is a large one, so the fills come in batches of one and of two sizes."""
    pixels, hole = specks(1, 15)

    class Mean(Grey):
        def run(self, loaded):
            pixels, holes = loaded
            return np.stack(
                [
                    np.broadcast_to(p[~h].mean(axis=0).astype(np.uint8), p.shape)
                    for p, h in zip(pixels, holes, strict=True)
                ]
            )

        def __call__(self, pixels, holes):
            return self.run((pixels, holes))

    filler = Mean()
    filler.batch_pixels = 2 * 32 * 32
    task = Task(pixels, hole)

    start(grey=filler).put(task)

    assert np.array_equal(task.wait().filled, restore(pixels, hole, filler))


def marked(value):
    """A picture whose every pixel has this value, with five specks."""
    _, hole = specks(0, 5)
    return np.full((*hole.shape, 3), value, np.uint8), hole


def refuse(value, error):
    def first(pixels):
        if (pixels == value).all(axis=(1, 2, 3)).any():
            raise error

    return first


def test_a_picture_that_the_model_fails_on_fails_alone(start, caplog):
    gate = threading.Event()
    poison = refuse(66, RuntimeError("poison"))

    def first(pixels):
        gate.wait(SECONDS)
        poison(pixels)

    filler = Grey(first)
    batching = start(grey=filler)
    good = [Task(*marked(value)) for value in (1, 2, 3)]
    bad = Task(*marked(66))
    for task in (good[0], bad, *good[1:]):
        batching.put(task)
    for task in (*good, bad):
        assert task.opened.wait(SECONDS)
    gate.set()

    for task in good:
        assert task.wait().endings == [None]
        assert (task.filled[task.hole] == 128).all()
    (error,) = bad.wait().endings
    assert isinstance(error, ModelFailed)
    assert "RuntimeError" in error.detail
    assert bad.filled is None
    assert "poison" in caplog.text  # the trace is for the operator
    later = Task(*marked(5))
    batching.put(later)
    assert later.wait().endings == [None]


def test_a_known_refusal_of_a_filler_passes_as_it_is(start):
    task = Task(*marked(66))

    start(grey=Grey(refuse(66, ModelFailed("not finite")))).put(task)

    (error,) = task.wait().endings
    assert error.detail == "not finite"


def test_a_filler_that_returns_too_few_fills_fails_its_pictures_and_no_thread(start):
    class Short(Grey):
        def run(self, loaded):
            return super().run(loaded)[1:]

    batching = start(grey=Short(), good=Grey())
    bad, good = Task(*marked(1)), Task(*marked(2), model="good")
    batching.put(bad)
    batching.put(good)

    assert isinstance(bad.wait().endings[0], ModelFailed)
    assert good.wait().endings == [None]


def test_a_batch_that_does_not_fit_into_memory_is_halved_and_stays_smaller(start):
    def first(pixels):
        if len(pixels) > 2:
            raise MemoryError

    filler = Grey(first)
    batching = start(grey=filler)
    task = Task(*specks(0, 16))
    batching.put(task)

    assert task.wait().endings == [None]
    assert (task.filled[task.hole] == 128).all()
    filler.batches.clear()
    tried = []
    filler.first = lambda pixels: (tried.append(len(pixels)), first(pixels))
    again = Task(*specks(1, 16))
    batching.put(again)
    assert again.wait().endings == [None]
    assert max(tried) == 2


def test_loading_that_does_not_fit_is_halved_too(start):
    class Tight(Grey):
        def load(self, pixels, holes):
            if len(pixels) > 1:
                raise MemoryError
            return pixels, holes

    task = Task(*specks(0, 9))

    start(grey=Tight()).put(task)

    assert task.wait().endings == [None]
    assert (task.filled[task.hole] == 128).all()


def test_one_window_that_does_not_fit_is_out_of_memory_and_others_go_on(start):
    batching = start(grey=Grey(refuse(66, MemoryError())))
    bad, good = Task(*marked(66)), Task(*marked(1))
    batching.put(bad)
    batching.put(good)

    (error,) = bad.wait().endings
    assert isinstance(error, OutOfMemory)
    assert "32 x 32" in error.detail
    assert good.wait().endings == [None]


@pytest.mark.parametrize("stage", ["before_open", "before_close"])
@pytest.mark.parametrize("error", [InpaintError("refused"), KeyError("bug"), MemoryError()])
def test_what_opening_or_closing_raises_ends_that_task_only(start, stage, error):
    batching = start(grey=Grey())
    bad, good = Task(*marked(1)), Task(*marked(2))

    def fail():
        raise error

    setattr(bad, stage, fail)
    batching.put(bad)
    batching.put(good)

    assert bad.wait().endings == [error]
    assert good.wait().endings == [None]
    assert min(batching.room(SECONDS)) >= 2


def test_a_task_is_dropped_between_batches(start):
    task = Task(*specks(0, 16))
    calls = []

    def first(pixels):
        calls.append(len(pixels))
        task.stop = TimedOut("late")

    filler = Grey(first)
    filler.batch_pixels = 1
    batching = start(grey=filler)
    batching.put(task)

    assert task.wait().endings == [task.stop]
    assert len(calls) < 16
    other = Task(*specks(1, 1))
    batching.put(other)
    assert other.wait().endings == [None]
    assert len(task.endings) == 1


def test_a_task_that_is_dropped_early_is_not_even_opened(start):
    task = Task(*specks(0, 1))
    task.stop = TimedOut("late")

    start(grey=Grey()).put(task)

    assert task.wait().endings == [task.stop]
    assert not task.opened.is_set()


def test_a_picture_of_many_windows_lets_small_ones_pass(start):
    gate = threading.Semaphore(0)

    def first(pixels):
        gate.acquire(timeout=SECONDS)

    filler = Grey(first)
    filler.batch_pixels = 1
    batching = start(grey=filler)
    large, small = Task(*specks(0, 16)), Task(*specks(1, 1))
    batching.put(large)
    gate.release()
    assert all(batching.room(SECONDS))
    batching.put(small)
    assert small.opened.wait(SECONDS)
    for _ in range(12):
        gate.release()
        if small.ended.wait(0.2):
            break

    assert small.endings == [None]
    assert not large.ended.is_set()
    gate.release(20)
    assert large.wait().endings == [None]


def test_interactive_windows_go_first_and_every_fourth_batch_is_an_albums(start):
    gate = threading.Event()
    order = []

    def first(pixels):
        gate.wait(SECONDS)
        order.append(int(pixels[0, 0, 0, 0]))

    filler = Grey(first)
    filler.batch_pixels = 1
    batching = start(grey=filler)
    album, urgent = Task(*marked(7), urgent=False), Task(*marked(9))
    for task in (album, urgent):
        batching.put(task)
        assert task.opened.wait(SECONDS)
    time.sleep(0.5)  # two batches are taken at once: of the album, and then of what waits
    gate.set()

    album.wait()
    urgent.wait()
    assert sorted(order) == [7] * 5 + [9] * 5
    assert order[2:].index(7) <= 3  # though interactive windows wait
    assert order.index(9) <= 2
    assert order[-1] == 7


def test_batches_are_short_while_interactive_tasks_come_in(start):
    filler = Grey(lambda pixels: time.sleep(0.01 * len(pixels)))
    batching = start(grey=filler, batch_seconds=0.025)
    first, second = Task(*specks(0, 1)), Task(*specks(1, 16))
    batching.put(first)
    first.wait()  # how fast it is, is known now
    batching.put(second)

    assert second.wait().endings == [None]
    assert filler.batches[1][0] <= 2  # later ones may be larger: nothing has come for a second


def test_without_interactive_tasks_batches_are_full(start):
    filler = Grey(lambda pixels: time.sleep(0.01 * len(pixels)))
    batching = start(grey=filler, batch_seconds=0.025)
    first, second = (Task(*specks(seed, 16), urgent=False) for seed in range(2))
    batching.put(first)
    first.wait()
    batching.put(second)

    assert second.wait().endings == [None]
    assert max(shape[0] for shape in filler.batches) == 8


def test_a_task_that_wants_to_be_alone_is(start):
    together = []
    under_way = set()
    lock = threading.Lock()

    def task(number, **options):
        made = Task(*specks(number, 3), **options)
        ended = made.end

        def opening():
            with lock:
                under_way.add(number)
                if 3 in under_way:
                    together.append(set(under_way))

        def end(error):
            with lock:
                under_way.discard(number)
            ended(error)

        made.before_open, made.end = opening, end
        return made

    filler = Grey(lambda pixels: time.sleep(0.002))
    filler.batch_pixels = 1
    batching = start(grey=filler)
    tasks = [task(number, alone=number == 3) for number in range(7)]
    for one in tasks:
        batching.put(one)
    assert batching.room(0) == (0, 0)

    for one in tasks:
        assert one.wait().endings == [None]
    assert together == [{3}]
    assert min(batching.room(SECONDS)) >= 2


def test_room_is_for_as_many_tasks_as_fill_a_batch_and_two_at_least(start):
    gate = threading.Event()
    filler = Grey(lambda pixels: gate.wait(SECONDS))
    batching = start(grey=filler)
    assert batching.room(0) == (2, 2)  # nothing is known of the pictures
    warm = Task(*specks(0, 1), urgent=False)
    gate.set()
    batching.put(warm)
    warm.wait()
    gate.clear()

    taken = []
    while room := batching.room(0.2)[1]:
        assert room <= 12
        for _ in range(room):
            taken.append(Task(*specks(1, 1), urgent=False))
            batching.put(taken[-1])
    # one batch is computed, one is ready, and one waits
    assert 8 <= len(taken) <= 3 * 8 + 4
    gate.set()
    for task in taken:
        assert task.wait().endings == [None]


def test_decoded_pixels_in_flight_are_bounded_and_one_task_always_passes(start):
    lock = threading.Lock()
    counts = {"now": 0, "most": 0}

    def task(number, size):
        made = Task(*specks(number, 2, height=size, width=size))
        ended = made.end

        def opening():
            with lock:
                counts["now"] += size * size
                counts["most"] = max(counts["most"], counts["now"])

        def end(error):
            with lock:
                counts["now"] -= size * size
            ended(error)

        made.before_open, made.end = opening, end
        return made

    batching = start(most_pixels=3 * 128 * 128, threads=4, grey=Grey())
    tasks = [task(number, 128) for number in range(20)]
    for one in tasks:
        batching.put(one)
    for one in tasks:
        assert one.wait().endings == [None]
    assert counts["most"] <= 3 * 128 * 128
    large = task(0, 512)
    batching.put(large)
    assert large.wait().endings == [None]


def test_a_task_without_windows_is_closed_at_once(start):
    pixels, _ = specks(0, 1)
    task = Task(pixels, np.zeros(pixels.shape[:2], bool))

    start(grey=Grey()).put(task)

    assert task.wait().endings == [None]
    assert np.array_equal(task.filled, pixels)


def test_stalled_tells_how_long_a_stage_call_has_lasted(start):
    gate = threading.Event()
    batching = start(grey=Grey(lambda pixels: gate.wait(SECONDS)))
    assert batching.stalled() == 0
    task = Task(*specks(0, 1))
    batching.put(task)
    deadline = time.monotonic() + SECONDS
    while batching.stalled() < 0.2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    gate.set()
    task.wait()
    while batching.stalled() > 0:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_thread_that_dies_counts_as_stalled_for_ever(start, caplog, eventually):
    class Exits(Grey):
        def run(self, loaded):
            raise SystemExit

    batching = start(grey=Exits())
    batching.put(Task(*specks(0, 1)))
    eventually(lambda: batching.stalled() == math.inf)
    assert "model has died" in caplog.text


def test_a_device_that_failed_ends_no_task_but_the_thread(start, eventually):
    """CUDA refuses everything after an illegal access: each picture would seem at fault."""
    task = Task(*specks(0, 3))
    batching = start(grey=Grey(refuse(66, torch.AcceleratorError("an illegal memory access"))))
    good, bad = Task(*marked(1)), Task(*marked(66))
    batching.put(good)
    assert good.wait().endings == [None]

    for one in (bad, task):
        batching.put(one)

    eventually(lambda: batching.stalled() == math.inf)
    assert bad.endings == []


def test_what_arrives_while_the_model_is_busy_shares_the_next_batch(start, eventually):
    gate = threading.Event()
    filler = Grey(lambda pixels: time.sleep(0.5))
    batching = start(grey=filler)
    first = Task(*specks(0, 1))
    batching.put(first)
    first.wait()  # the model takes half a second, it is known now
    filler.first = lambda pixels: gate.wait(SECONDS)
    tasks = [Task(*specks(seed, 1)) for seed in range(4)]
    batching.put(tasks[0])
    eventually(lambda: len(filler.begun) == 2)
    for task in tasks[1:]:
        batching.put(task)
    time.sleep(1.0)  # the model takes longer than it was expected to: the next batch is formed
    gate.set()

    for task in tasks:
        assert task.wait().endings == [None]
    assert [shape[0] for shape in filler.batches] == [1, 1, 3]


def test_two_models_share_the_worker_and_no_batch(start):
    seen = []
    first, second = (
        Grey(lambda pixels, name=name: seen.append((name, pixels[0, 0, 0, 0])))
        for name in ("first", "second")
    )
    batching = start(first=first, second=second)
    tasks = [Task(*marked(1), model="first"), Task(*marked(2), model="second")]
    for task in tasks:
        batching.put(task)

    for task in tasks:
        assert task.wait().endings == [None]
    assert set(seen) == {("first", 1), ("second", 2)}


def test_a_small_picture_passes_large_ones_that_are_opened_or_wait_to_be(start):
    gate = threading.Event()
    batching = start(grey=Grey(), most_pixels=9_000_000, threads=2)
    large = [Task(*specks(seed, 1, height=2048, width=2048)) for seed in range(4)]
    small = Task(*specks(9, 1))
    for task in large:
        task.before_open = lambda: gate.wait(SECONDS)
        batching.put(task)
    batching.put(small)

    assert small.wait().endings == [None]
    assert not any(task.ended.is_set() for task in large)
    gate.set()
    assert [task.wait().endings for task in large] == [[None]] * 4


def test_beside_requests_an_albums_pictures_of_a_megapixel_are_large(start, monkeypatch):
    monkeypatch.setattr("worker.forming.RECENT_SECONDS", SECONDS)
    gate = threading.Event()
    batching = start(grey=Grey(), threads=2)
    former, request = Task(*specks(0, 1)), Task(*specks(1, 1))
    batching.put(former)
    former.wait()
    album = [Task(*specks(seed, 1, height=1024, width=1024), urgent=False) for seed in range(3)]
    for task in album:
        task.before_open = lambda: gate.wait(SECONDS)
        batching.put(task)
    batching.put(request)

    assert request.wait().endings == [None]
    assert not any(task.ended.is_set() for task in album)
    gate.set()
    assert [task.wait().endings for task in album] == [[None]] * 3


def torn(seed, side, **fields):
    """A task of noise with a hole in its middle, half as wide, whose fill is refined at length."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    hole = np.zeros((side, side), bool)
    hole[side // 4 : -side // 4, side // 4 : -side // 4] = True
    task = Task(pixels, hole, SizeRule(multiple=8, trained=512, whole=True), **fields)
    task.refine = "full"
    return task


def test_a_fill_that_is_refined_in_many_parts_is_as_if_at_once(start, monkeypatch):
    monkeypatch.setattr("worker.batching.PART_SECONDS", 0)
    filler, tasks = Grey(), [torn(seed, 256, urgent=seed > 0) for seed in range(3)]
    filler.rule = tasks[0].rule
    batching = start(grey=filler)
    for task in tasks:
        batching.put(task)

    for task in tasks:
        assert task.wait().endings == [None]
        assert np.array_equal(task.filled, restore(task.pixels, task.hole, filler, refine="full"))


def test_requests_pass_huge_holes_that_are_refined_and_those_end_when_they_should(
    start, eventually
):
    batching = start(grey=Grey(), most_pixels=40_000_000, threads=2)
    huge = [torn(seed, 1600, urgent=seed == 3) for seed in range(4)]
    for task in huge:
        batching.put(task)
    eventually(lambda: len(batching._refining) == 3)
    assert batching.room(0)[0] > 0
    assert batching.room(0)[1] == 0  # other workers may have an album's pictures

    requests = [Task(*specks(seed, 1)) for seed in range(4)]
    for request in requests:
        batching.put(request)
    assert [request.wait().endings for request in requests] == [[None]] * 4
    assert not any(task.ended.is_set() for task in huge)

    for task in huge:
        task.stop = TimedOut("it took too long")
    assert [task.wait().endings for task in huge] == [[task.stop] for task in huge]
    assert batching.room(0)[1] > 0
    assert all(task.filled is None for task in huge)


def test_albums_pictures_are_refined_in_their_order(start, monkeypatch):
    monkeypatch.setattr("worker.batching.PART_SECONDS", 0)
    ended, tasks = [], [torn(seed, 256, urgent=False) for seed in range(5)]
    batching = start(grey=Grey(), threads=1)
    for task in tasks:
        task.before_close = lambda task=task: ended.append(task)
        batching.put(task)

    for task in tasks:
        assert task.wait().endings == [None]
    assert ended == tasks
