"""What a store of pictures does to jobs when it forgets, fails or is full: the real service."""

import signal
import time

import pytest
from redis import Redis

from inpaint.settings import Settings

pytestmark = pytest.mark.slow
ASYNC = {"Prefer": "respond-async"}


@pytest.fixture(scope="module")
def store(start_server):
    """A server of blobs alone, which tests may kill."""
    with start_server() as store:
        yield store


@pytest.fixture(scope="module")
def service(store, start_server, start_service, tmp_path_factory):
    """Gateway and worker with blobs in `store`."""
    with start_server() as queue:
        settings = Settings(data=tmp_path_factory.mktemp("data"), redis_url=queue.url())
        with start_service(settings, worker=True, INPAINT_BLOBS=store.url()) as service:
            yield service


@pytest.fixture
def asleep(service):
    """The worker's sleep: jobs stay in the queue until the test wakes it."""
    service.worker.send_signal(signal.SIGSTOP)
    yield lambda: service.worker.send_signal(signal.SIGCONT)
    service.worker.send_signal(signal.SIGCONT)


def taken(service, image, mask):
    answer = service.post(image, mask, headers=ASYNC)
    assert answer.status_code == 202, answer.text
    return answer.json()["id"]


def ended(service, job):
    body = service.client.get(f"/jobs/{job}").json()
    return body if body["finished_at"] else None


def test_pictures_go_through_the_store_and_touch_no_disk(service, store, image, mask):
    answer = service.post(image, mask)
    assert answer.status_code == 200, answer.text
    with Redis.from_url(store.url()) as client:
        assert answer.content in client.mget(client.keys("inpaint:blob:*"))
    assert not list(service.settings.data.rglob("*"))


def test_a_blob_that_expires_before_its_turn_is_input_gone(
    service, store, asleep, image, mask, eventually
):
    job = taken(service, image, mask)
    with Redis.from_url(store.url()) as client:
        client.flushdb()
    other = taken(service, image, mask)
    asleep()

    eventually(lambda: ended(service, job) and ended(service, other))

    assert ended(service, job)["error"]["code"] == "input-gone"
    assert ended(service, other)["status"] == "succeeded"


def test_jobs_wait_while_the_store_is_away_and_none_fails(
    service, store, asleep, image, mask, eventually
):
    jobs = [taken(service, image, mask) for _ in range(8)]
    store.kill()
    refused = service.post(image, mask)
    asleep()
    time.sleep(3)  # for the worker to find it away, again and again
    assert not any(ended(service, job) for job in jobs)
    store.start()

    eventually(lambda: all(ended(service, job) for job in jobs))

    assert {ended(service, job)["status"] for job in jobs} == {"succeeded"}
    assert refused.status_code == 503
    assert refused.json()["code"] == "storage-unavailable"
    assert refused.headers["Retry-After"]


def test_a_full_store_refuses_uploads_and_nothing_half_written_stays(service, store, image, mask):
    with Redis.from_url(store.url()) as client:
        before = client.dbsize()
        client.config_set("maxmemory", 1)
        try:
            refused = service.post(image, mask)
        finally:
            client.config_set("maxmemory", 0)
        assert client.dbsize() == before

    assert refused.status_code == 503
    assert refused.json()["code"] == "storage-unavailable"
    assert service.post(image, mask).status_code == 200


def test_the_worker_is_still_the_one_that_was_started(service):
    assert service.worker.poll() is None
