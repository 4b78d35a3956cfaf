import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from textwrap import dedent

import pytest
from redis import Redis
from rq.job import Job
from rq.serializers import JSONSerializer

from inpaint import admission, catalogue, feeder, jobs
from inpaint.blobs import open_blobs
from inpaint.errors import JobFinal, QueueUnavailable
from inpaint.jobs import InpaintJob
from inpaint.settings import Settings

QUEUE = "rq:queue:v2.bulk.telea"
SIZE = 100  # bytes of uploads


def entries(count):
    return [(InpaintJob(image=f"{n:032x}", model="telea"), SIZE) for n in range(count)]


def feed(redis, settings):
    """Feed, whoever has done so a moment ago."""
    redis.delete(feeder.TURN)
    return feeder.feed(redis, settings)


def queued(redis):
    return [job.decode() for job in redis.lrange(QUEUE, 0, -1)]


def load(redis):
    return {name.decode(): int(count) for name, count in redis.hgetall("inpaint:load").items()}


def work_at(redis, rate):
    """Report a worker that finishes `rate` jobs per second."""
    card = catalogue.WorkerCard(
        worker="w", pid=1, device="cpu", engine="opencv", precision="fp32", models=(), rate=rate
    )
    catalogue.publish(redis, card)


def run_out(redis, settings):
    """Feed and end jobs, in the queue's order, until none are left; return the ids in that order.

    Cancelling stands for a worker: it ends a job and settles its account like one.
    """
    order = []
    while feed(redis, settings) or redis.llen(QUEUE):
        while ids := queued(redis):
            order.append(ids[0])
            admission.cancel(redis, ids[0])
    return order


def test_jobs_enter_the_bulk_lane_in_order_under_the_ids_that_were_given(redis, settings):
    ids = feeder.add(redis, "a", entries(3))

    assert redis.llen(QUEUE) == 0
    assert feed(redis, settings) == 3

    assert queued(redis) == ids
    job = Job.fetch(ids[1], connection=redis, serializer=JSONSerializer)
    assert job.args == [{"image": f"{1:032x}", "model": "telea"}]
    assert load(redis) == {"bulk": 3, "album:a": 3, "bytes": 3 * SIZE}


def test_a_fed_album_leaves_nothing_behind(redis, settings):
    feeder.add(redis, "a", entries(30))
    run_out(redis, settings)
    redis.delete(feeder.TURN)
    left = {key.decode() for key in redis.keys("inpaint:*")}
    assert left <= {jobs.BELL}


def test_an_album_keeps_to_its_window_and_is_topped_up(redis, settings):
    ids = feeder.add(redis, "a", entries(30))

    assert feed(redis, settings) == 8
    assert feed(redis, settings) == 0
    for job in ids[:3]:
        admission.cancel(redis, job)
    assert feed(redis, settings) == 3

    assert queued(redis) == ids[3:11]


def test_the_window_holds_two_seconds_of_the_measured_rate(redis, settings):
    work_at(redis, 20.2)
    feeder.add(redis, "a", entries(100))
    assert feed(redis, settings) == 41


@pytest.mark.slow
def test_a_small_album_does_not_wait_for_a_large_one(redis, settings):
    work_at(redis, 50)
    large = feeder.add(redis, "large", entries(3000))
    feed(redis, settings)
    small = feeder.add(redis, "small", entries(20))
    most = before = redis.memory_usage("inpaint:album:large:pending")

    order = []
    while feed(redis, settings) or redis.llen(QUEUE):
        counts = load(redis)
        assert counts.get("album:large", 0) <= 100
        assert redis.llen(QUEUE) <= 120
        most = max(most, redis.memory_usage(QUEUE) + redis.memory_usage("inpaint:load"))
        while ids := queued(redis):
            order.append(ids[0])
            admission.cancel(redis, ids[0])

    assert sorted(order) == sorted(large + small)  # all, and each once
    assert [job for job in order if job in set(large)] == large
    assert max(order.index(job) for job in small) < 140
    assert most == before  # the queue never took more memory than the album took at its start


def test_albums_take_turns_job_by_job(redis, settings):
    first, second = (feeder.add(redis, album, entries(5)) for album in ("a", "b"))
    feed(redis, settings)
    assert queued(redis) == [job for pair in zip(first, second, strict=True) for job in pair]


def test_a_lane_that_is_full_is_filled_from_every_album_in_turn(redis, settings):
    narrow = settings.model_copy(update={"queue_limit": 2})
    ids = {album: feeder.add(redis, album, entries(2)) for album in "abc"}

    order = run_out(redis, narrow)

    albums = [album for job in order for album in ids if job in ids[album]]
    assert albums == list("abcabc")


def test_albums_leave_half_of_the_bytes_to_those_who_wait(redis, settings):
    narrow = settings.model_copy(update={"queue_bytes": 10 * SIZE})
    feeder.add(redis, "a", entries(20))

    assert feed(redis, narrow) == 5

    job = InpaintJob(image="0" * 32, model="telea")
    admission.admit(redis, job, narrow, share="client:1", size=5 * SIZE)


def test_a_picture_larger_than_that_half_enters_alone(redis, settings):
    narrow = settings.model_copy(update={"queue_bytes": 10 * SIZE})
    job = InpaintJob(image="0" * 32, model="telea")
    ids = feeder.add(redis, "a", [(job, SIZE), (job, 8 * SIZE)])

    assert feed(redis, narrow) == 1
    admission.cancel(redis, ids[0])
    assert feed(redis, narrow) == 1


def test_jobs_added_later_come_behind_those_that_wait(redis, settings):
    first = feeder.add(redis, "a", entries(10))
    feed(redis, settings)
    second = feeder.add(redis, "a", entries(2))
    assert redis.lrange(feeder.ALBUMS, 0, -1) == [b"a"]
    assert run_out(redis, settings) == first + second
    third = feeder.add(redis, "a", entries(1))  # to an album that had run out
    assert run_out(redis, settings) == third


def test_a_canceled_album_enters_no_more_and_the_others_go_on(redis, settings):
    canceled = feeder.add(redis, "a", entries(3000))
    other = feeder.add(redis, "b", entries(20))
    feed(redis, settings)

    assert feeder.cancel(redis, "a") == 3000 - 8

    assert not redis.exists("inpaint:album:a:pending")
    assert run_out(redis, settings)
    for job in canceled[:8] + other:
        with pytest.raises(JobFinal):  # it was in the queue
            admission.cancel(redis, job)
    assert not redis.exists(f"rq:job:{canceled[8]}")
    assert feeder.cancel(redis, "a") == 0


@pytest.mark.slow
def test_a_worker_feeds_itself_until_an_album_is_done(service, image, mask, eventually):
    blobs = open_blobs(service.settings)
    job = InpaintJob(image=blobs.put(image), mask=blobs.put(mask), model="telea")
    with Redis.from_url(service.settings.redis) as redis:
        ids = feeder.add(redis, "a", [(job, len(image) + len(mask))] * 60)

        eventually(lambda: not redis.exists(feeder.ALBUMS))
        eventually(lambda: not redis.exists("inpaint:load"))

        ended = [Job.fetch(id_, connection=redis, serializer=JSONSerializer) for id_ in ids]
        assert {job.get_status(refresh=False) for job in ended} == {"finished"}
    assert service.post(image, mask).status_code == 200


class Interrupted(Redis):
    """A client that runs something before the answer of each admission is acted on."""

    then = staticmethod(lambda: None)

    def lrem(self, *arguments):
        self.then()
        return super().lrem(*arguments)


def test_a_job_that_enters_while_its_album_is_canceled_is_canceled_too(redis, settings):
    ids = feeder.add(redis, "a", entries(20))
    with Interrupted.from_url(settings.redis) as client:
        client.then = lambda: feeder.cancel(redis, "a")
        feed(client, settings)

    assert queued(redis) == []
    assert redis.hget(f"rq:job:{ids[0]}", "status") == b"canceled"
    assert not redis.exists(f"rq:job:{ids[1]}")


def test_a_feeder_killed_between_admission_and_removal_admits_nothing_twice(redis, settings):
    ids = feeder.add(redis, "a", entries(20))
    program = f"""
        import os, signal
        from redis import Redis
        from inpaint import feeder
        from inpaint.settings import load

        class Dying(Redis):
            left = 3
            def lrem(self, *arguments):
                if not self.left:
                    os.kill(os.getpid(), signal.SIGKILL)
                self.left -= 1
                return super().lrem(*arguments)

        settings = load(dict(redis_url={settings.redis!r}))
        feeder.feed(Dying.from_url(settings.redis), settings)
    """
    ending = subprocess.run([sys.executable, "-c", dedent(program)], check=False)
    assert ending.returncode == -9
    assert queued(redis) == ids[:4]  # the fourth is in the queue and still waits
    assert redis.llen("inpaint:album:a:pending") == 17
    admission.cancel(redis, ids[3])  # it even ends before the next feeder comes

    assert run_out(redis, settings) == ids[:3] + ids[4:]
    assert load(redis) == {}


def test_many_feeders_at_once_admit_each_job_once(redis, settings):
    work_at(redis, 200)
    ids = feeder.add(redis, "a", entries(300))
    clients = [Redis.from_url(settings.redis) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:  # all hold the turn: it expires while they feed
        list(pool.map(feeder._feed, clients, [settings] * 4))
    for client in clients:
        client.close()
    assert queued(redis) == ids
    assert load(redis)["album:a"] == 300


def test_one_feeder_at_a_time_has_the_turn(redis, settings, eventually):
    feeder.add(redis, "a", entries(20))
    assert feeder.feed(redis, settings) == 8
    redis.delete(QUEUE, "inpaint:load")
    assert feeder.feed(redis, settings) == 0  # another has just fed
    eventually(lambda: feeder.feed(redis, settings) == 8)


def test_what_a_newer_version_lets_wait_is_left_to_it(redis, settings, caplog):
    redis.rpush("inpaint:album:new:pending", '{"id": "x", "size": 1, "job": {}, "newer": 1}')
    redis.rpush(feeder.ALBUMS, "new")
    ids = feeder.add(redis, "a", entries(2))

    assert feed(redis, settings) == 2

    assert queued(redis) == ids
    assert redis.llen("inpaint:album:new:pending") == 1
    assert "album new cannot be read" in caplog.text


def test_nothing_to_add_is_no_album(redis):
    assert feeder.add(redis, "a", []) == []
    assert not redis.exists(feeder.ALBUMS)


def test_a_server_that_is_away_loses_nothing(own_server, tmp_path):
    settings = Settings(data=tmp_path, redis_url=own_server.url())
    with jobs.connect(settings) as redis:
        feeder.add(redis, "a", entries(2))
        own_server.kill()
        for call in (
            lambda: feeder.add(redis, "b", entries(1)),
            lambda: feeder.feed(redis, settings),
            lambda: feeder.cancel(redis, "a"),
        ):
            with pytest.raises(QueueUnavailable):
                call()
        own_server.start()
        assert feed(redis, settings) == 2


def test_a_full_server_refuses_to_add_and_still_cancels(own_server, tmp_path):
    settings = Settings(data=tmp_path, redis_url=own_server.url())
    with jobs.connect(settings) as redis:
        feeder.add(redis, "a", entries(2))
        redis.config_set("maxmemory", 1)
        with pytest.raises(QueueUnavailable):
            feeder.add(redis, "b", entries(1))
        with pytest.raises(QueueUnavailable):
            feeder.feed(redis, settings)
        assert feeder.cancel(redis, "a") == 2
        redis.config_set("maxmemory", 0)
        assert not redis.exists("inpaint:album:b:pending", feeder.ALBUMS)
