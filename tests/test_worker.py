import os
import signal
import time

import numpy as np
import pytest
from redis import Redis
from rq import Callback
from rq.job import Job
from rq.serializers import JSONSerializer

from inpaint import catalogue, jobs
from inpaint.blobs import FolderBlobs
from inpaint.highres import SizeRule
from inpaint.jobs import InpaintJob
from inpaint.settings import Settings
from worker import loop, tasks
from worker.beat import Beat
from worker.zoo import Zoo


class Grey:
    """A filler that paints grey, after doing what a test wants."""

    rule = SizeRule(whole=True)

    def __init__(self, first=lambda: None):
        self.first = first

    def __call__(self, pixels, holes):
        self.first()
        return np.full_like(pixels, 128)


@pytest.fixture
def work(settings, redis):
    """Run all jobs in the queue in this process, with one filler called `grey`."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(filler):
        card = catalogue.Card(name="grey", architecture="grey")
        zoo = Zoo({"grey": filler}, {"grey": card})
        tasks.equip(tasks.Workplace(settings, FolderBlobs(settings.blob_folder), zoo))
        loop.queue_worker(jobs.connect(settings)).work(burst=True, logging_level="WARNING")

    yield run
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def queue(redis):
    return jobs.open_queue(redis)


@pytest.fixture
def submit(queue, settings, image, mask):
    """Submit the shared picture; settings may be changed."""

    def put(**changes):
        blobs = FolderBlobs(settings.blob_folder)
        job = InpaintJob(image=blobs.put(image), mask=blobs.put(mask), model="grey")
        return jobs.submit(queue, job, settings.model_copy(update=changes))

    return put


def outcome(queue, job, settings):
    return jobs.read(queue, job, settings).outcome


def test_a_job_is_run_and_its_result_stored(work, submit, queue, settings):
    job = submit()

    work(Grey())

    assert FolderBlobs(settings.blob_folder).get(outcome(queue, job, settings).result)


def test_a_generator_that_raises_fails_its_job_and_not_the_next(work, submit, queue, settings):
    calls = iter([RuntimeError("no"), None])

    def first_time():
        if error := next(calls):
            raise error

    bad, good = submit(), submit()
    work(Grey(first_time))

    assert outcome(queue, bad, settings).problem.code == "model-failed"
    assert outcome(queue, good, settings).problem is None


def test_a_job_that_runs_too_long_is_ended(work, submit, queue, settings):
    job = submit(job_timeout_seconds=1)
    began = time.monotonic()

    work(Grey(lambda: time.sleep(20)))

    assert outcome(queue, job, settings).problem.code == "timed-out"
    assert time.monotonic() - began < 10


def test_another_function_is_never_run(work, queue, tmp_path):
    made = [tmp_path / name for name in ("function", "failed", "method")]
    foreign = queue.enqueue("os.mkdir", str(made[0]), on_failure=Callback("os.mkdir"))
    queue.enqueue(f"pathlib.Path.{'mkdir'}", str(made[2]))

    work(Grey())

    assert not any(path.exists() for path in made)
    ended = Job.fetch(foreign.id, connection=queue.connection, serializer=JSONSerializer)
    assert ended.get_status() == "failed"
    assert "the task 'os.mkdir' is not" in ended.latest_result().exc_string


def test_a_callback_that_redis_names_is_never_run(work, submit, queue, redis, settings, tmp_path):
    job = submit()
    redis.hset(f"rq:job:{job}", "success_callback_name", "os.abort")

    work(Grey())

    assert outcome(queue, job, settings).result is not None


def test_the_beat_goes_on_and_ends_with_the_block(redis, eventually):
    card = catalogue.WorkerCard(
        worker="w", pid=1, device="cpu", engine="opencv", precision="fp32", models=()
    )
    with Beat(redis, card):
        eventually(lambda: catalogue.workers(redis), 5)
        redis.flushdb()  # as if its time to live were over
        eventually(lambda: catalogue.workers(redis), 5)
    assert catalogue.workers(redis) == []


@pytest.fixture
def large(encoded):
    """A picture and a mask that take `telea` some seconds."""
    side = 4000  # pixels
    pixels = np.zeros((side, side, 3), dtype=np.uint8)
    pixels[:] = np.arange(side, dtype=np.uint8)[:, None, None]
    mask = np.full((side, side), 255, dtype=np.uint8)
    mask[:, :8] = 0
    return encoded(pixels), encoded(mask)


@pytest.mark.slow
def test_the_beat_goes_on_while_a_job_runs(service, large, eventually):
    job = service.post(*large, headers={"Prefer": "respond-async"}).json()["id"]
    status = lambda: service.client.get(f"/jobs/{job}").json()["status"]  # noqa: E731
    eventually(lambda: status() == "running")

    with jobs.connect(service.settings) as redis:
        (card,) = catalogue.workers(redis)
        redis.delete(f"inpaint:worker:{card.worker}")
        eventually(lambda: catalogue.workers(redis), 2 * catalogue.BEAT_SECONDS)
        assert status() == "running"

    eventually(lambda: status() == "succeeded")


@pytest.mark.slow
def test_redis_may_go_and_come_back_and_sigterm_lets_a_job_end(
    own_server, start_service, tmp_path, image, mask, large, eventually
):
    settings = Settings(data=tmp_path, redis_url=own_server.url())
    with start_service(settings, worker=True) as running:
        own_server.kill()
        eventually(lambda: running.client.get("/readyz").status_code == 503)
        own_server.start()
        eventually(lambda: running.client.get("/readyz").is_success)
        assert running.post(image, mask).status_code == 200

        job = running.post(*large, headers={"Prefer": "respond-async"}).json()["id"]
        eventually(lambda: running.client.get(f"/jobs/{job}").json()["status"] == "running")
        os.kill(running.worker.pid, signal.SIGTERM)

        assert running.worker.wait(30) == 0
        assert running.client.get(f"/jobs/{job}").json()["status"] == "succeeded"
        with Redis.from_url(own_server.url()) as redis:
            assert catalogue.workers(redis) == []


@pytest.mark.slow
def test_sigterm_ends_a_worker_whose_redis_is_away(own_server, start_service, tmp_path):
    settings = Settings(data=tmp_path, redis_url=own_server.url())
    with start_service(settings, worker=True) as running:
        own_server.kill()
        time.sleep(1.5)  # so that the worker has noticed

        os.kill(running.worker.pid, signal.SIGTERM)

        assert running.worker.wait(10) == 0
