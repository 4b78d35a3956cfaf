"""The choice of windows, without threads."""

from dataclasses import dataclass

import numpy as np
import pytest

from inpaint.highres import SizeRule
from inpaint.restore import Finish, prepare
from worker.forming import Former, Pass, Work

SIDE = 32  # pixels, of a window


@dataclass
class Model:
    rule: SizeRule = SizeRule(multiple=8, minimum=16, trained=SIDE)
    batch_pixels: int = 4 * SIDE * SIDE


@dataclass
class Task:
    name: str
    urgent: bool = False


def work(name, windows, model="a", **fields):
    """A task with so many windows."""
    hole = np.zeros((512, 512), bool)
    places = [(row, column) for row in range(4, 512, 64) for column in range(4, 512, 64)]
    for row, column in places[:windows]:
        hole[row : row + 8, column : column + 8] = True
    plan = prepare(np.zeros((512, 512, 3), np.uint8), hole, Model.rule)
    assert len(plan.windows) == windows
    return Work(Task(name, **fields), stage=Pass(model, plan, Finish(plan)))


@pytest.fixture
def former():
    return Former({"a": Model(), "b": Model()}, batch_seconds=1.0)


def chosen(former):
    """Take a batch: the names of its tasks, each with its number of windows."""
    batch = former.choose()
    former.take(batch)
    return {work.task.name: len(windows) for work, windows in batch.parts}


def test_nothing_waits(former):
    assert former.choose() is None


def test_tasks_give_windows_in_turn_and_each_in_its_order(former):
    first, second = (work(name, n, urgent=True) for name, n in (("first", 7), ("second", 3)))
    former.add(first)
    former.add(second)
    taken = []
    while batch := former.choose():
        former.take(batch)
        taken += [(part.task.name, window) for part, windows in batch.parts for window in windows]
        if len(taken) == 4:
            assert [name for name, _ in taken] == ["first"] * 2 + ["second"] * 2

    for one in (first, second):
        assert [window for name, window in taken if name == one.task.name] == list(one.windows)
    assert not any(former.waiting.values())


def test_interactive_windows_go_first_and_an_albums_begin_every_fourth_batch(former):
    former.add(work("album", 20))
    former.add(work("request", 20, urgent=True))

    batches = [chosen(former) for _ in range(8)]

    assert batches[:4] == [{"request": 4}] * 3 + [{"album": 4}]
    assert batches[4:] == [{"request": 4}] * 2 + [{"album": 4}] * 2


def test_an_albums_oldest_picture_is_finished_before_the_next_one_begins(former):
    oldest, second = work("oldest", 6), work("second", 6)
    for one in (second, oldest):  # though it is opened later
        former.add(one)
    assert [chosen(former) for _ in range(2)] == [{"oldest": 4}, {"oldest": 2, "second": 2}]

    oldest.enter(work("oldest", 5, model="b").stage)
    former.add(oldest)

    assert [chosen(former) for _ in range(3)] == [{"oldest": 4}, {"oldest": 1}, {"second": 4}]
    assert not any(former.waiting.values())


def test_an_albums_batch_waits_for_requests_while_there_are_some(former):
    request = work("request", 4, urgent=True)
    former.add(work("album", 8))
    assert former.choose().full

    former.came(request.task)
    assert not former.choose().full
    former.add(request)
    assert former.choose().full  # it is the request's


def test_what_the_interactive_lane_leaves_free_is_the_albums(former):
    former.add(work("album", 9))
    former.add(work("request", 1, urgent=True))

    assert chosen(former) == {"request": 1, "album": 3}


def test_models_have_batches_of_their_own_in_turn(former):
    former.add(work("first", 8, model="a", urgent=True))
    former.add(work("second", 8, model="b", urgent=True))

    assert [list(chosen(former)) for _ in range(4)] == [["first"], ["second"]] * 2


def test_a_batch_is_full_when_nothing_more_fits(former):
    former.add(work("small", 3))
    assert not former.choose().full

    former.add(work("more", 1))
    assert former.choose().full


def test_what_did_not_fit_into_memory_is_halved_and_a_window_always_goes(former):
    former.add(work("large", 20))
    former.too_large("a", 4 * SIDE * SIDE)
    assert chosen(former) == {"large": 2}

    former.too_large("a", 2 * SIDE * SIDE)
    former.too_large("a", SIDE * SIDE)
    assert chosen(former) == {"large": 1}


def test_batches_are_short_only_while_an_interactive_task_is_under_way(former, monkeypatch):
    former.add(work("album", 20))
    former.measured("a", SIDE * SIDE, 0.5)  # seconds for a window; a batch may take one
    assert chosen(former) == {"album": 4}

    request = work("request", 1, urgent=True)
    former.came(request.task)
    assert chosen(former) == {"album": 2}
    former.gone(request)
    assert chosen(former) == {"album": 2}  # another may follow it
    monkeypatch.setattr("worker.forming.RECENT_SECONDS", 0.0)
    assert chosen(former) == {"album": 4}


def test_as_many_tasks_are_wanted_as_fill_a_batch(former):
    assert former.tasks(urgent=False) == 1  # nothing is known
    former.add(work("one window", 1))
    assert former.tasks(urgent=False) == 4

    for _ in range(30):
        former.add(work("many", 20))
    assert former.tasks(urgent=False) <= 2


def test_the_expected_time_of_a_batch_is_the_shortest_seen_of_late(former):
    former.add(work("album", 4))
    batch = former.choose()
    assert former.seconds(batch) == 0.0

    former.measured("a", SIDE * SIDE, 0.25)
    former.measured("a", SIDE * SIDE, 9.0)  # an outlier
    assert 1.0 <= former.seconds(batch) < 1.1
    for _ in range(100):
        former.measured("a", SIDE * SIDE, 0.5)
    assert former.seconds(batch) == 2.0
