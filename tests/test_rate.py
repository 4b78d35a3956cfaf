import time

from worker.rate import Rate


def test_nothing_finished_is_no_rate():
    rate = Rate()
    assert rate.per_second() == 0.0

    rate.began()
    time.sleep(0.01)
    assert rate.per_second() == 0.0


def test_idle_time_changes_nothing():
    rate = Rate()
    rate.began()
    time.sleep(0.05)
    rate.ended(counts=True)
    before = rate.per_second()

    time.sleep(0.2)

    assert 0 < before <= 20
    assert rate.per_second() == before


def test_jobs_side_by_side_share_the_time():
    rate = Rate()
    for _ in range(4):
        rate.began()
    time.sleep(0.2)
    for _ in range(4):
        rate.ended(counts=True)

    alone = Rate()
    alone.began()
    time.sleep(0.2)
    alone.ended(counts=True)

    assert rate.per_second() > alone.per_second()


def test_dropped_jobs_are_time_and_no_success():
    rate = Rate()
    rate.began()
    time.sleep(0.05)
    rate.ended(counts=True)
    before = rate.per_second()

    rate.began()
    time.sleep(0.05)
    rate.ended(counts=False)

    assert 0 < rate.per_second() < before
