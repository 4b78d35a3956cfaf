"""The gateway when what it stands on breaks while requests wait: nothing accepted is lost."""

import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from rq.utils import as_text

from inpaint import jobs
from inpaint.settings import Settings

ASYNC = {"Prefer": "respond-async"}
pytestmark = pytest.mark.slow  # processes start, and are waited for


@pytest.fixture
def settings(own_server, tmp_path):
    return Settings(data=tmp_path, redis_url=own_server.url())


@pytest.fixture
def redis(settings):
    with jobs.connect(settings) as client:
        yield client


@pytest.fixture
def start(start_service, settings, by_hand, eventually):
    """A gateway, with a worker that is moved by hand, as a context."""

    @contextmanager
    def started(**variables):
        with start_service(settings, worker=False, **variables) as gateway, by_hand.reported():
            eventually(lambda: gateway.client.get("/readyz").is_success)
            yield gateway

    return started


@pytest.fixture
def waiting(image, mask):
    """A function that posts in a thread and returns a future of the answer."""
    with ThreadPoolExecutor(64) as threads:
        yield lambda gateway, **headers: threads.submit(
            gateway.post, image, mask, headers=headers, timeout=60
        )


def refused(answer, code):
    assert (answer.status_code, answer.json()["code"]) == (503, code), answer.text
    assert int(answer.headers["retry-after"]) > 0
    return True


def test_jobs_outlive_the_gateway_that_took_them(start, waiting, by_hand):
    with start() as gateway:
        answers = [waiting(gateway) for _ in range(3)]
        first, second, third = by_hand.claim(3)
        gateway.gateway.kill()
        gateway.gateway.wait()
        assert all(answer.exception(30) for answer in answers)
        by_hand.commit(first, second)
    with start() as gateway:
        for claim in (first, second):
            job = gateway.client.get(f"/jobs/{claim.id}").json()
            assert job["status"] == "succeeded"
            assert gateway.client.get(job["links"]["result"]).status_code == 200
        assert gateway.client.get(f"/jobs/{third.id}").json()["status"] == "running"
        by_hand.commit(third)  # tells a list that nobody reads
        assert gateway.client.get(f"/jobs/{third.id}").json()["status"] == "succeeded"


def test_requests_wait_on_while_redis_is_killed_and_started_again(
    start, waiting, by_hand, own_server, image, mask, redis, eventually
):
    with start() as gateway:
        answers = [waiting(gateway) for _ in range(3)]
        eventually(lambda: redis.hget("inpaint:load", "interactive") == b"3")
        claims = by_hand.claim(2)
        own_server.kill()
        assert refused(gateway.post(image, mask, timeout=5), "queue-unavailable")
        assert refused(gateway.client.get("/readyz", timeout=5), "queue-unavailable")
        own_server.start()
        by_hand.commit(*claims, *by_hand.claim(1))
        found = {answer.result(30).headers["x-job-id"] for answer in answers}
        assert len(found) == 3
        assert all(answer.result().status_code == 200 for answer in answers)
        assert not redis.exists("inpaint:load")


def test_requests_wait_on_while_redis_hangs(
    start, waiting, by_hand, own_server, image, mask, eventually
):
    with start() as gateway:
        answer = waiting(gateway)
        claims = by_hand.claim(1)
        own_server.process.send_signal(signal.SIGSTOP)
        try:
            for _ in range(2):
                assert refused(gateway.post(image, mask, timeout=5), "queue-unavailable")
        finally:
            own_server.process.send_signal(signal.SIGCONT)
        by_hand.commit(*claims)
        assert answer.result(30).status_code == 200
        eventually(lambda: gateway.client.get("/readyz").is_success)


def test_a_wait_that_ends_while_redis_is_away_is_a_202(start, waiting, by_hand, own_server):
    with start() as gateway:
        answer = waiting(gateway, Prefer="wait=2")
        (claim,) = by_hand.claim(1)
        own_server.kill()
        accepted = answer.result(30)
        assert (accepted.status_code, accepted.json()["id"]) == (202, claim.id)
        own_server.start()
        by_hand.commit(claim)
        assert gateway.client.get(accepted.headers["location"]).json()["status"] == "succeeded"


def test_a_full_redis_is_a_503_and_nothing_is_half_written(
    start, image, mask, redis, settings, by_hand
):
    with start() as gateway:
        before = set(redis.keys("rq:*"))
        redis.config_set("maxmemory-policy", "noeviction")
        redis.config_set("maxmemory", "1")  # byte: it is full
        assert refused(gateway.post(image, mask), "queue-unavailable")
        assert set(redis.keys("rq:*")) == before
        assert not redis.exists("inpaint:load")
        assert list(settings.blob_folder.iterdir()) == []
        redis.config_set("maxmemory", "0")
        assert gateway.post(image, mask, headers=ASYNC).status_code == 202


def test_an_answer_whose_hint_was_lost_comes_all_the_same(
    start, waiting, by_hand, redis, eventually
):
    with start() as gateway:
        answer = waiting(gateway)
        (claim,) = by_hand.claim(1)
        hints = as_text(redis.hget(f"rq:job:{claim.id}", "reply"))
        gateway.gateway.send_signal(signal.SIGSTOP)
        for client in redis.client_list():  # else the hint waits in its connection
            if client["cmd"] == "blmpop":
                redis.client_kill_filter(_id=client["id"])
        by_hand.commit(claim)
        assert redis.delete(hints) == 1
        gateway.gateway.send_signal(signal.SIGCONT)
        assert answer.result(30).status_code == 200


def test_a_job_that_is_taken_away_from_outside_is_told(start, waiting, by_hand, redis):
    with start() as gateway:
        answer = waiting(gateway)
        (claim,) = by_hand.claim(1)
        redis.delete(f"rq:job:{claim.id}")
        found = answer.result(30)
        assert (found.status_code, found.json()["code"]) == (500, "internal")


def test_the_same_picture_many_times_at_once_is_as_many_jobs(start, waiting, by_hand, redis):
    """And those who wait hold no connections of Redis."""
    with start() as gateway:
        answers = [waiting(gateway) for _ in range(60)]
        claims = by_hand.claim(60)
        assert len(redis.client_list()) < 30
        assert redis.hget("inpaint:load", "interactive") == b"60"
        by_hand.commit(*claims)
        found = [answer.result(30) for answer in answers]
        assert all(answer.status_code == 200 for answer in found)
        results = {answer.headers["x-job-id"]: answer.headers["etag"] for answer in found}
        assert results == {claim.id: f'"{claim.payload["image"]}"' for claim in claims}
        assert not redis.exists("inpaint:load")


def test_a_gateway_notices_that_its_worker_is_gone(start_service, settings, by_hand, eventually):
    with start_service(settings, worker=False) as gateway:
        with by_hand.reported():
            eventually(lambda: gateway.client.get("/readyz").is_success)
        assert refused(gateway.client.get("/readyz"), "no-worker")
