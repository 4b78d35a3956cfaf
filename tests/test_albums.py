"""Albums in Redis: what happens to an item when its job ends, is lost, canceled or run again."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from inpaint import admission, albums, feeder, jobs
from inpaint.albums import Item, State
from inpaint.errors import AlbumClosed, AlbumTooLarge, NotFound, QueueUnavailable
from inpaint.jobs import InpaintJob, Outcome, Problem
from inpaint.settings import Settings
from worker.leases import BatchWorker

SIZE = 100  # bytes of uploads
PROBLEM = {
    "code": "image-unreadable",
    "detail": 'The image is "broken": damaged.',
    "field": "image",
}


def photos(count, first=1):
    """Items that wait to be run, and their states."""
    return [
        (
            Item(
                name=f"box/{number}.png",
                size=SIZE,
                job=InpaintJob(image=f"{number:032x}", mask="f" * 32, model="telea"),
            ),
            State("queued", print=albums.fingerprint(b"%d" % number, b"", None)),
        )
        for number in range(first, first + count)
    ]


def feed(redis, settings):
    redis.delete(feeder.TURN)
    return feeder.feed(redis, settings)


def counts(redis, settings, album):
    found = albums.load(redis, settings, album)
    return {state: count for state, count in found.counts.items() if count}


def test_an_album_goes_from_queued_to_succeeded_and_knows_its_outcomes(redis, settings, by_hand):
    album = albums.create(redis, settings, photos(3), name="Oma")
    assert albums.load(redis, settings, album).status == "queued"
    assert feed(redis, settings) == 3
    claims = by_hand.claim(2)
    found = albums.load(redis, settings, album)
    assert (found.status, found.counts["running"], found.counts["queued"]) == ("running", 2, 1)
    assert [photo.state.status for photo in albums.photos(redis, album)] == [
        *["running"] * 2,
        "queued",
    ]
    by_hand.commit(*claims)
    assert counts(redis, settings, album) == {"succeeded": 2, "queued": 1}
    by_hand.commit(*by_hand.claim(1))
    found = albums.load(redis, settings, album)
    assert (found.status, found.name, found.bytes) == ("succeeded", "Oma", 3 * SIZE)
    for photo, claim in zip(albums.photos(redis, album), claims, strict=False):
        outcome = jobs.read(redis, claim.id, settings).outcome
        assert photo.state.outcome == outcome.model_copy(update={"seconds": {"infer": 0.5}})
        assert photo.state.job == claim.id
    assert [number for number, _ in albums.changes(redis, album, 0)] == [1, 2, 3]
    assert albums.changes(redis, album, 2) == [(3, "succeeded")]
    assert not redis.exists("inpaint:load", feeder.ALBUMS)


def test_an_items_problem_is_told_as_it_came(redis, settings, by_hand):
    album = albums.create(redis, settings, photos(2))
    feed(redis, settings)
    bad, good = by_hand.claim(2)
    by_hand.commit(bad, ending={"model": "telea", "problem": PROBLEM})
    by_hand.commit(good)
    assert albums.load(redis, settings, album).status == "partial"
    state = albums.photo(redis, settings, album, 1).state
    assert (state.status, state.outcome.problem) == ("failed", Problem(**PROBLEM))


def test_a_bug_and_a_lost_worker_are_told_as_for_any_job(redis, settings, by_hand):
    album = albums.create(redis, settings, photos(2))
    feed(redis, settings)
    crashed, lost = by_hand.claim(2)
    by_hand.commit(crashed, ending=ValueError("x"))
    impatient = settings.model_copy(update={"max_lost": 0})
    reaper = BatchWorker(impatient, ["telea"], None)
    queue = "v2.bulk.telea"
    (member,) = redis.zrange(f"rq:wip:{queue}", 0, -1)
    redis.zadd(f"rq:wip:{queue}", {member: 1})  # its lease ran out long ago
    reaper.renew_and_reap()
    reaper.connection.close()
    states = [photo.state for photo in albums.photos(redis, album)]
    assert [state.outcome.problem.code for state in states] == ["internal", "worker-lost"]
    for state, claim in zip(states, (crashed, lost), strict=True):
        record = jobs.read(redis, claim.id, settings)
        assert state.outcome.problem == record.outcome.problem


def test_a_job_that_ends_twice_counts_once(redis, settings, by_hand):
    """A feeder that dies may admit a job again after its record has expired."""
    album = albums.create(redis, settings, photos(1))
    entry = redis.lindex(f"inpaint:album:{album}:pending", 0)
    feed(redis, settings)
    (claim,) = by_hand.claim(1)
    by_hand.commit(claim)
    redis.delete(f"rq:job:{claim.id}", f"rq:results:{claim.id}")
    redis.rpush(f"inpaint:album:{album}:pending", entry)
    redis.rpush(feeder.ALBUMS, album)
    assert feed(redis, settings) == 1
    by_hand.commit(*by_hand.claim(1), ending={"model": "telea", "problem": PROBLEM})
    assert counts(redis, settings, album) == {"succeeded": 1}


def test_what_rq_keeps_of_an_albums_job_goes_soon_and_all_else_with_the_album(
    redis, settings, by_hand
):
    album = albums.create(redis, settings, photos(1))
    feed(redis, settings)
    (claim,) = by_hand.claim(1)
    by_hand.commit(claim)
    for key in (f"rq:job:{claim.id}", f"rq:results:{claim.id}"):
        assert 0 < redis.ttl(key) <= 30
    for key in redis.keys(f"inpaint:album:{album}*") + redis.keys("inpaint:done:*"):
        assert 30 < redis.ttl(key) <= settings.result_ttl_seconds


def test_cancel_ends_what_waits_inside_and_outside_the_queue(redis, settings, by_hand):
    album = albums.create(redis, settings, photos(20))
    feed(redis, settings)
    done, running = by_hand.claim(2)
    by_hand.commit(done)
    albums.cancel(redis, settings, album)
    assert counts(redis, settings, album) == {"succeeded": 1, "canceled": 19}
    assert albums.load(redis, settings, album).status == "canceled"
    by_hand.commit(running)  # too late
    assert feed(redis, settings) == 0
    albums.cancel(redis, settings, album)
    assert counts(redis, settings, album) == {"succeeded": 1, "canceled": 19}
    assert not redis.exists("inpaint:load")


def test_retry_runs_what_failed_or_was_canceled_and_nothing_else(redis, settings, by_hand):
    refused = (
        Item(name="bad.png"),
        State("failed", print="x", outcome=Outcome(model="", problem=Problem(**PROBLEM))),
    )
    album = albums.create(redis, settings, [*photos(3), refused])
    feed(redis, settings)
    good, bad = by_hand.claim(2)
    by_hand.commit(good)
    by_hand.commit(bad, ending={"model": "telea", "problem": PROBLEM})
    albums.cancel(redis, settings, album)
    assert counts(redis, settings, album) == {"succeeded": 1, "failed": 2, "canceled": 1}

    assert albums.retry(redis, settings, album) == 2

    assert counts(redis, settings, album) == {"succeeded": 1, "failed": 1, "queued": 2}
    feed(redis, settings)
    by_hand.commit(*by_hand.claim(2))
    assert counts(redis, settings, album) == {"succeeded": 3, "failed": 1}
    assert albums.load(redis, settings, album).status == "partial"
    assert albums.retry(redis, settings, album) == 0


def test_the_end_of_a_former_run_changes_nothing(redis, settings, by_hand):
    album = albums.create(redis, settings, photos(1))
    feed(redis, settings)
    (former,) = by_hand.claim(1)
    albums.cancel(redis, settings, album)
    albums.retry(redis, settings, album)
    by_hand.commit(former)
    assert counts(redis, settings, album) == {"queued": 1}
    feed(redis, settings)
    by_hand.commit(*by_hand.claim(1))
    assert counts(redis, settings, album) == {"succeeded": 1}


def test_an_open_album_closes_with_the_last_that_it_expects(redis, settings):
    album = albums.create(redis, settings, [], expect=2, is_open=True)
    (first, state), (second, other), (third, last) = photos(3)
    assert albums.load(redis, settings, album).status == "open"
    assert albums.add(redis, settings, album, first, state) == 1
    assert albums.add(redis, settings, album, first, state).number == 1  # it is there
    assert albums.add(redis, settings, album, second, other) == 2
    assert albums.load(redis, settings, album).status == "queued"
    with pytest.raises(AlbumClosed):
        albums.add(redis, settings, album, third, last)
    assert albums.add(redis, settings, album, second, other).number == 2
    assert albums.named(redis, album, "BOX/2.PNG") == 2


def test_many_who_add_at_once_get_numbers_of_their_own(redis, settings):
    album = albums.create(redis, settings, [], expect=100, is_open=True)
    barrier = threading.Barrier(8)

    def add(part):
        barrier.wait()
        with jobs.connect(settings) as client:
            return [albums.add(client, settings, album, *one) for one in photos(10, 10 * part)]

    with ThreadPoolExecutor(8) as pool:
        numbers = [number for found in pool.map(add, range(8)) for number in found]
    assert sorted(numbers) == list(range(1, 81))
    found = list(albums.photos(redis, album))
    assert {photo.number for photo in found} == set(range(1, 81))
    pending = redis.lrange(f"inpaint:album:{album}:pending", 0, -1)
    for entry in map(feeder.Entry.model_validate_json, pending):
        photo = found[entry.item - 1]
        assert (photo.state.job, photo.item.job) == (entry.id, entry.job)


def test_what_is_too_much_for_an_album_leaves_nothing(redis, settings):
    narrow = settings.model_copy(update={"album_files": 3})
    with pytest.raises(AlbumTooLarge):
        albums.create(redis, narrow, photos(4))
    small = settings.model_copy(update={"album_bytes": 4 * SIZE - 1})
    with pytest.raises(AlbumTooLarge):
        albums.create(redis, small, photos(4))
    assert redis.keys("*") == []


def test_an_album_that_is_forgotten_leaves_nothing_and_tells_its_files(redis, settings, by_hand):
    album = albums.create(redis, settings, photos(10))
    feed(redis, settings)
    done, running = by_hand.claim(2)
    by_hand.commit(done)
    keys = albums.forget(redis, settings, album)
    assert set(keys) == {f"{number:032x}" for number in range(1, 11)} | {"f" * 32}
    by_hand.commit(running)
    assert redis.keys(f"inpaint:album:{album}*") == [f"inpaint:album:{album}:canceled".encode()]
    assert not redis.exists("inpaint:load", feeder.ALBUMS)
    with pytest.raises(NotFound):
        albums.load(redis, settings, album)
    with pytest.raises(NotFound):
        albums.add(redis, settings, album, *photos(1)[0])


def test_a_known_outcome_is_found_until_its_checkpoint_or_album_is_another(
    redis, settings, by_hand
):
    album = albums.create(redis, settings, photos(1))
    ((_, state),) = photos(1)
    assert albums.done(redis, state.print, None) is None
    feed(redis, settings)
    by_hand.commit(*by_hand.claim(1))
    assert albums.done(redis, state.print, None).result == f"{1:032x}"
    assert albums.done(redis, state.print, "sha256:other") is None
    assert albums.done(redis, state.print, None, "sha256:detector") is None
    albums.forget(redis, settings, album)
    assert albums.done(redis, state.print, None) is None


def twins(count):
    """Items of one content, as `photos`."""
    ((item, state),) = photos(1)
    return [(item.model_copy(update={"name": f"{n}.png"}), state) for n in range(count)]


def test_items_of_one_content_are_run_once_and_end_together(redis, settings, by_hand):
    album = albums.create(redis, settings, [*twins(2), *photos(1, 9)], expect=9, is_open=True)
    assert feed(redis, settings) == 2
    first, other = by_hand.claim(2)
    (late,) = [albums.add(redis, settings, album, *twins(3)[2])]
    assert late == 4
    by_hand.commit(other)
    assert counts(redis, settings, album) == {"succeeded": 1, "running": 1, "queued": 2}
    by_hand.commit(first)
    assert counts(redis, settings, album) == {"succeeded": 4}
    found = list(albums.photos(redis, album))
    assert [photo.item.reused for photo in found] == [False, True, False, True]
    assert found[0].state.outcome == found[1].state.outcome == found[3].state.outcome
    assert [number for number, _ in albums.changes(redis, album, 0)] == [3, 1, 2, 4]
    assert not redis.exists(f"inpaint:album:{album}:same", "inpaint:load")


def test_items_of_one_content_fail_and_are_canceled_and_tried_again(redis, settings, by_hand):
    album = albums.create(redis, settings, twins(3))
    feed(redis, settings)
    (claim,) = by_hand.claim(1)
    by_hand.commit(claim, ending={"model": "telea", "problem": PROBLEM})
    assert counts(redis, settings, album) == {"failed": 3}
    assert albums.retry(redis, settings, album) == 3
    albums.cancel(redis, settings, album)
    assert counts(redis, settings, album) == {"canceled": 3}
    album = albums.create(redis, settings, twins(3))
    feed(redis, settings)
    albums.cancel(redis, settings, album)
    assert counts(redis, settings, album) == {"canceled": 3}
    assert albums.retry(redis, settings, album) == 3
    while feed(redis, settings):
        by_hand.commit(*by_hand.claim(3))
    assert counts(redis, settings, album) == {"succeeded": 3}


def test_a_photograph_takes_less_than_a_kilobyte(redis, settings, by_hand):
    """However it ends: in the state in which most of an album's memory is for most of its time."""
    count = 600
    album = albums.create(redis, settings, photos(count))
    waiting = _bytes(redis, album)
    assert waiting < 900 * count
    rich = {"result": "a" * 32, "mask": "b" * 32, "media_type": "image/jpeg", "format": "jpeg"}
    rich |= {"model": "aotgan-compact-256", "digest": "sha256:" + "c" * 64, "mode": "rgb"}
    rich |= {"width": 3000, "height": 2000, "mask_source": "scratches", "coverage": 0.0123456}
    seconds = {"decode": 0.02345, "detect": 1.2345, "infer": 1.2345, "encode": 0.12345}
    while feed(redis, settings):
        claims = by_hand.claim(8)
        by_hand.commit(*claims, ending=rich | {"windows": 12, "seconds": seconds})
        assert redis.llen("rq:queue:v2.bulk.telea") == 0
    assert counts(redis, settings, album) == {"succeeded": count}
    ended = _bytes(redis, album)
    ended += sum(redis.memory_usage(key) for key in redis.keys("inpaint:done:*"))
    assert ended < 1100 * count  # with what finds the same content again


def _bytes(redis, album):
    return sum(redis.memory_usage(key, samples=0) for key in redis.keys(f"inpaint:album:{album}*"))


def test_a_server_that_is_away_or_full_refuses_and_keeps_what_it_has(own_server, tmp_path):
    settings = Settings(data=tmp_path, redis_url=own_server.url())
    with jobs.connect(settings) as redis:
        album = albums.create(redis, settings, photos(2), expect=9, is_open=True)
        redis.config_set("maxmemory", 1)
        with pytest.raises(QueueUnavailable):
            albums.add(redis, settings, album, *photos(1, 3)[0])
        with pytest.raises(QueueUnavailable):
            albums.create(redis, settings, photos(2))
        redis.config_set("maxmemory", 0)
        own_server.kill()
        with pytest.raises(QueueUnavailable):
            albums.load(redis, settings, album)
        own_server.start()
        assert counts(redis, settings, album) == {"queued": 2}
        assert feed(redis, settings) == 2
        for photo in albums.photos(redis, album):
            admission.cancel(redis, photo.state.job)
        assert counts(redis, settings, album) == {"canceled": 2}
