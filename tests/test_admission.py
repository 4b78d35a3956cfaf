"""The way into the queue: what a job is in Redis, and who is refused."""

import threading
import zlib

import pytest
from rq import Queue, Retry
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from inpaint import jobs
from inpaint.admission import admit
from inpaint.errors import QueueFull, QueueUnavailable, RateLimited
from inpaint.jobs import InpaintJob
from inpaint.settings import Settings

KEY = "0123456789abcdef" * 2
QUEUE = "v2.interactive.telea"
SHARE = "client:192.0.2.1"


def job(**fields):
    return InpaintJob(image=KEY, model="telea", **fields)


def load(redis):
    return {key.decode(): int(value) for key, value in redis.hgetall("inpaint:load").items()}


def test_an_admitted_job_is_a_job_of_rq(redis, settings):
    job_id = admit(redis, job(mask_grow=4), settings, share=SHARE, size=7)
    stored = Job.fetch(job_id, connection=redis, serializer=JSONSerializer)
    assert stored.get_status() == JobStatus.QUEUED
    assert (stored.origin, stored.func_name) == (QUEUE, jobs.INPAINT_TASK)
    # without defaults: a worker one version older refuses only jobs that use a newer field
    assert stored.args == [{"image": KEY, "model": "telea", "mask_grow": 4}]
    assert (stored.ttl, stored.retries_left) == (None, 3)
    assert stored.result_ttl == stored.failure_ttl == settings.result_ttl_seconds
    assert stored.timeout == settings.job_timeout_seconds
    queue = Queue(QUEUE, connection=redis, serializer=JSONSerializer)
    assert queue.job_ids == [job_id]
    assert [found.name for found in Queue.all(connection=redis)] == [QUEUE]


def test_an_admitted_job_leaves_what_rqs_own_enqueue_leaves(redis, settings):
    """But for the fields of ours and the times: no field of RQ's is made up here."""
    ours = admit(redis, job(), settings, share=SHARE, size=7, reply="inpaint:reply:x")
    queue = Queue(QUEUE, connection=redis, serializer=JSONSerializer)
    theirs = queue.enqueue(
        jobs.INPAINT_TASK,
        args=queue.fetch_job(ours).args,
        description=jobs.INPAINT_TASK,
        job_timeout=settings.job_timeout_seconds,
        result_ttl=settings.result_ttl_seconds,
        failure_ttl=settings.result_ttl_seconds,
        retry=Retry(max=3),
    )
    left, expected = redis.hgetall(f"rq:job:{ours}"), redis.hgetall(theirs.key)
    own = {b"lane": b"interactive", b"share": SHARE.encode(), b"bytes": b"7"}
    own[b"reply"] = b"inpaint:reply:x"
    expected[b"data"] = zlib.decompress(expected[b"data"])  # RQ reads it without zlib too
    times = {b"created_at", b"enqueued_at"}
    assert set(left) == set(expected) | set(own)
    for field in set(left) - times:
        assert left[field] == (own | expected)[field], field
    assert redis.ttl(f"rq:job:{ours}") == -1  # a job that waits does not expire


def test_an_admitted_job_is_counted_and_rings_the_bell(redis, settings):
    admit(redis, job(), settings, share=SHARE, size=7)
    admit(redis, job(), settings, share="album:a", size=5, lane="bulk")
    assert load(redis) == {"interactive": 1, "bulk": 1, SHARE: 1, "album:a": 1, "bytes": 12}
    assert redis.llen(jobs.BELL) == 2
    for _ in range(20):
        admit(redis, job(), settings, share=SHARE, size=7)
    assert redis.llen(jobs.BELL) == 8


def test_lanes_and_models_have_queues_of_their_own(redis, settings):
    admit(redis, job(), settings, share=SHARE, size=7)
    admit(redis, job(), settings, share=SHARE, size=7, lane="bulk")
    other = InpaintJob(image=KEY, model="navier-stokes")
    admit(redis, other, settings, share=SHARE, size=7)
    names = {queue.name for queue in Queue.all(connection=redis)}
    assert names == {QUEUE, "v2.bulk.telea", "v2.interactive.navier-stokes"}


def test_a_full_lane_takes_no_more_and_the_other_does(redis, settings):
    small = settings.model_copy(update={"queue_limit": 2})
    for _ in range(2):
        admit(redis, job(), small, share=SHARE, size=7)
    before = set(redis.keys())
    with pytest.raises(QueueFull, match="2 jobs"):
        admit(redis, job(), small, share="client:192.0.2.2", size=7)
    assert set(redis.keys()) == before
    assert load(redis)["interactive"] == 2
    admit(redis, job(), small, share=SHARE, size=7, lane="bulk")


def test_uploads_of_all_lanes_together_have_a_limit(redis, settings):
    small = settings.model_copy(update={"queue_bytes": 100})
    admit(redis, job(), small, share=SHARE, size=60)
    with pytest.raises(QueueFull, match="100 bytes"):
        admit(redis, job(), small, share="album:a", size=41, lane="bulk")
    admit(redis, job(), small, share="album:a", size=40, lane="bulk")


def test_a_greedy_client_is_refused_and_others_are_not(redis, settings):
    small = settings.model_copy(update={"client_limit": 2})
    for _ in range(2):
        admit(redis, job(), small, share=SHARE, size=7)
    with pytest.raises(RateLimited, match="2 unfinished jobs"):
        admit(redis, job(), small, share=SHARE, size=7)
    admit(redis, job(), small, share="client:192.0.2.2", size=7)
    for _ in range(3):  # an album has no limit of this kind
        admit(redis, job(), small, share="album:a", size=7, lane="bulk")


def test_the_same_id_is_one_job_whatever_became_of_it(redis, settings):
    job_id = jobs.new_id()
    small = settings.model_copy(update={"queue_limit": 1})
    for _ in range(3):  # accepted also where the lane is full: it is in
        assert admit(redis, job(), small, share=SHARE, size=7, job_id=job_id) == job_id
    assert redis.llen(f"rq:queue:{QUEUE}") == 1
    assert load(redis) == {"interactive": 1, SHARE: 1, "bytes": 7}
    redis.lpop(f"rq:queue:{QUEUE}")
    redis.hset(f"rq:job:{job_id}", "status", "finished")
    admit(redis, job(), small, share=SHARE, size=7, job_id=job_id)
    assert redis.hget(f"rq:job:{job_id}", "status") == b"finished"
    assert redis.llen(f"rq:queue:{QUEUE}") == 0


def test_limits_hold_when_many_come_at_once(redis, settings):
    small = settings.model_copy(update={"queue_limit": 20})
    refused = []

    def come():
        with jobs.connect(settings) as own:
            for _ in range(10):
                try:
                    admit(own, job(), small, share=SHARE, size=1)
                except QueueFull as error:
                    refused.append(error)

    threads = [threading.Thread(target=come) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 20
    assert redis.llen(f"rq:queue:{QUEUE}") == load(redis)["interactive"] == 20


def test_a_full_server_leaves_nothing_half_written(own_server, tmp_path):
    settings = Settings(data=tmp_path, redis_url=own_server.url())
    with jobs.connect(settings) as redis:
        redis.config_set("maxmemory-policy", "noeviction")
        redis.config_set("maxmemory", "1")  # byte: it is full
        with pytest.raises(QueueUnavailable):
            admit(redis, job(), settings, share=SHARE, size=7)
        assert redis.keys() == []
        redis.config_set("maxmemory", "0")
        admit(redis, job(), settings, share=SHARE, size=7)
        assert redis.llen(f"rq:queue:{QUEUE}") == 1


def test_a_server_that_lost_its_scripts_admits(redis, settings):
    admit(redis, job(), settings, share=SHARE, size=7)
    redis.script_flush()
    admit(redis, job(), settings, share=SHARE, size=7)
    assert redis.llen(f"rq:queue:{QUEUE}") == 2


def test_without_redis_the_queue_is_unavailable(tmp_path):
    away = Settings(data=tmp_path, redis_url=f"unix://{tmp_path}/nobody.sock")
    with jobs.connect(away) as redis, pytest.raises(QueueUnavailable):
        admit(redis, job(), away, share=SHARE, size=7)
