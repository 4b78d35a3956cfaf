"""The way out of the queue: canceling in each state, and what it leaves."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from rq import Queue
from rq.job import Job, JobStatus
from rq.registry import CanceledJobRegistry
from rq.serializers import JSONSerializer

from inpaint import jobs
from inpaint.admission import admit, cancel
from inpaint.errors import JobFinal, NotFound, QueueUnavailable
from inpaint.jobs import InpaintJob
from inpaint.settings import Settings

KEY = "0123456789abcdef" * 2
QUEUE = "v2.interactive.telea"
REPLY = "inpaint:reply:x"


@pytest.fixture
def queued(redis, settings):
    """The ids of three jobs that wait."""
    task = InpaintJob(image=KEY, model="telea")
    fields = {"share": "client:192.0.2.1", "size": 7, "reply": REPLY}
    return [admit(redis, task, settings, **fields) for _ in range(3)]


def start(redis, job_id, execution="0a"):
    """What a worker's claim does."""
    redis.lrem(f"rq:queue:{QUEUE}", 1, job_id)
    redis.zadd(f"rq:wip:{QUEUE}", {f"{job_id}:{execution}": 2e9})
    redis.hset(f"rq:job:{job_id}", "status", "started")


def test_a_queued_job_is_taken_out_of_its_queue(redis, settings, queued):
    first, second, third = queued
    assert cancel(redis, second) == "queued"
    assert redis.lrange(f"rq:queue:{QUEUE}", 0, -1) == [first.encode(), third.encode()]
    stored = Job.fetch(second, connection=redis, serializer=JSONSerializer)
    assert stored.get_status() == JobStatus.CANCELED
    assert stored.ended_at is not None
    registry = CanceledJobRegistry(QUEUE, redis, serializer=JSONSerializer)
    assert registry.get_job_ids(cleanup=False) == [second]
    assert 0 < redis.ttl(f"rq:job:{second}") <= settings.result_ttl_seconds


def test_a_canceled_job_counts_no_longer_and_who_waits_is_told(redis, queued, told):
    cancel(redis, queued[0])
    left = {b"interactive": b"2", b"client:192.0.2.1": b"2", b"bytes": b"14"}
    assert redis.hgetall("inpaint:load") == left
    assert told(REPLY) == [f"{queued[0]} canceled"]
    assert 0 < redis.ttl(REPLY) <= 60
    for job_id in queued[1:]:
        cancel(redis, job_id)
    assert not redis.exists("inpaint:load")


def test_a_running_job_loses_its_lease_and_others_keep_theirs(redis, queued):
    for job_id in queued:
        start(redis, job_id)
    assert cancel(redis, queued[1]) == "running"
    left = redis.zrange(f"rq:wip:{QUEUE}", 0, -1)
    assert left == sorted(f"{job_id}:0a".encode() for job_id in (queued[0], queued[2]))
    assert redis.hget(f"rq:job:{queued[1]}", "status") == b"canceled"


def test_a_canceled_job_is_what_rqs_own_cancel_leaves(redis, queued):
    """But for the ends in time that we give it: RQ keeps canceled jobs for ever."""
    ours, theirs, _ = queued
    cancel(redis, ours)
    Queue(QUEUE, connection=redis, serializer=JSONSerializer).fetch_job(theirs).cancel()
    left, expected = redis.hgetall(f"rq:job:{ours}"), redis.hgetall(f"rq:job:{theirs}")
    assert left[b"status"] == expected[b"status"] == b"canceled"
    assert set(left) == set(expected)
    differ = {field for field in left if left[field] != expected[field]}
    assert differ <= {b"ended_at", b"created_at", b"enqueued_at"}
    assert set(redis.zrange(f"rq:canceled:{QUEUE}", 0, -1)) == {ours.encode(), theirs.encode()}
    assert redis.llen(f"rq:queue:{QUEUE}") == 1


@pytest.mark.parametrize("status", ["finished", "failed", "canceled"])
def test_a_job_that_has_ended_stays_as_it_is(redis, queued, status):
    redis.hset(f"rq:job:{queued[0]}", "status", status)
    before = redis.hgetall(f"rq:job:{queued[0]}")
    with pytest.raises(JobFinal):
        cancel(redis, queued[0])
    assert redis.hgetall(f"rq:job:{queued[0]}") == before
    assert redis.hget("inpaint:load", "interactive") == b"3"


def test_a_job_that_never_was_is_not_found(redis):
    with pytest.raises(NotFound):
        cancel(redis, jobs.new_id())
    assert redis.keys() == []


def test_a_full_server_still_cancels(own_server, tmp_path):
    settings = Settings(data=tmp_path, redis_url=own_server.url())
    task = InpaintJob(image=KEY, model="telea")
    with jobs.connect(settings) as redis:
        first, second = (admit(redis, task, settings, share="album:a", size=7) for _ in range(2))
        start(redis, second)
        redis.config_set("maxmemory-policy", "noeviction")
        redis.config_set("maxmemory", "1")  # byte: it is full
        assert cancel(redis, first) == "queued"
        assert cancel(redis, second) == "running"
        assert not redis.exists("inpaint:load")


def test_without_redis_the_queue_is_unavailable(tmp_path):
    away = Settings(data=tmp_path, redis_url=f"unix://{tmp_path}/nobody.sock")
    with jobs.connect(away) as redis, pytest.raises(QueueUnavailable):
        cancel(redis, jobs.new_id())


@pytest.fixture
def gateway(start_service, settings, redis, by_hand, eventually):
    """A gateway over the same queue, with a worker that is moved by hand."""
    with start_service(settings, worker=False) as running, by_hand.reported():
        eventually(lambda: running.client.get("/readyz").is_success)
        yield running


def posted(gateway, image, mask):
    job = gateway.post(image, mask, headers={"Prefer": "respond-async"}).json()
    assert job["links"]["cancel"] == f"/jobs/{job['id']}/cancel"
    return job


def refused(answer, code):
    assert (answer.status_code, answer.json()["code"]) == (409, code), answer.text
    return answer.json()


def test_a_queued_job_is_canceled_at_once(gateway, by_hand, image, mask):
    first, second = posted(gateway, image, mask), posted(gateway, image, mask)
    answer = gateway.client.post(first["links"]["cancel"])
    job = answer.json()
    assert (answer.status_code, job["id"], job["status"]) == (200, first["id"], "canceled")
    assert (job["error"], job["queue_position"]) == (None, None)
    assert "cancel" not in job["links"]
    assert job["finished_at"] is not None
    assert gateway.client.get(second["links"]["self"]).json()["queue_position"] == 0
    assert by_hand.claim()[0].id == second["id"]
    problem = refused(gateway.client.get(first["links"]["self"] + "/result"), "job-canceled")
    assert problem["job"] == job
    refused(gateway.client.post(first["links"]["cancel"]), "job-final")


def test_a_running_job_is_canceled_and_its_fill_thrown_away(gateway, by_hand, image, mask, redis):
    job = posted(gateway, image, mask)
    (claim,) = by_hand.claim()
    answer = gateway.client.post(job["links"]["cancel"])
    assert (answer.status_code, answer.json()["status"]) == (202, "canceled")
    by_hand.worker.renew_and_reap()
    assert not claim.live
    by_hand.commit(claim)
    assert gateway.client.get(job["links"]["self"]).json()["status"] == "canceled"
    assert not redis.exists("inpaint:load", f"rq:results:{job['id']}")


def test_an_ended_job_cannot_be_canceled(gateway, by_hand, image, mask):
    job = posted(gateway, image, mask)
    by_hand.commit(*by_hand.claim())
    refused(gateway.client.post(job["links"]["cancel"]), "job-final")
    assert gateway.client.get(job["links"]["self"]).json()["status"] == "succeeded"


def test_who_waits_for_a_job_that_another_cancels_is_told(gateway, by_hand, image, mask):
    with ThreadPoolExecutor() as threads:
        answer = threads.submit(gateway.post, image, mask)
        (claim,) = by_hand.claim()
        gateway.client.post(f"/jobs/{claim.id}/cancel")
        refused(answer.result(30), "job-canceled")


def test_what_is_no_job_cannot_be_canceled(gateway):
    for job_id, status, code in (
        (jobs.new_id(), 404, "not-found"),
        ("nonsense", 404, "not-found"),
        ("01700000-0000-7000-8000-000000000000", 410, "expired"),
    ):
        answer = gateway.client.post(f"/jobs/{job_id}/cancel")
        assert (answer.status_code, answer.json()["code"]) == (status, code)
    answer = gateway.client.get(f"/jobs/{jobs.new_id()}/cancel")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
