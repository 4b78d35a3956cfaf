"""`inpaint worker` as a process: jobs from a real queue, its card, its signals; and the beat."""

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from inpaint import admission, catalogue, feeder, jobs
from inpaint.blobs import FolderBlobs
from inpaint.jobs import InpaintJob
from inpaint.settings import Settings
from worker.beat import Beat


@pytest.fixture
def start(tmp_path, eventually):
    """A function that starts a worker with `telea`; the worker is killed after the test."""
    running = []

    @contextmanager
    def begin(settings, **variables):
        log = tmp_path / "worker.log"
        environment = os.environ | {
            "INPAINT_DATA": str(settings.data),
            "INPAINT_MODEL": "telea",
            "INPAINT_MODELS": "telea",
            "REDIS_URL": settings.redis,
            "OMP_NUM_THREADS": "1",
            **variables,
        }
        command = [sys.executable, "-m", "inpaint", "worker"]
        with log.open("a") as file:
            process = subprocess.Popen(command, env=environment, stderr=file)
        running.append(process)
        process.log = log.read_text
        with jobs.connect(settings) as redis:

            def ready():
                assert process.poll() is None, log.read_text()
                return [card for card in catalogue.workers(redis) if card.pid == process.pid]

            eventually(ready)
            yield process

    yield begin
    for process in running:
        process.kill()
        process.wait()


@pytest.fixture
def blobs(settings):
    return FolderBlobs(settings.blob_folder)


@pytest.fixture
def submit(redis, settings, blobs, image, mask):
    """Put a picture into the queue."""

    def put(image=image, mask=mask, **fields):
        job = InpaintJob(image=blobs.put(image), mask=blobs.put(mask), model="telea", **fields)
        return admission.admit(redis, job, settings, share="client:test", size=1)

    return put


@pytest.fixture
def ended(redis, settings, eventually):
    """Wait for a job and return its record."""

    def wait(job):
        read = lambda: jobs.read(redis, job, settings)  # noqa: E731
        eventually(lambda: read().outcome is not None)
        return read()

    return wait


@pytest.fixture
def large(encoded):
    """A picture and a mask that take `telea` some seconds."""
    side = 4000  # pixels
    pixels = np.zeros((side, side, 3), dtype=np.uint8)
    pixels[:] = np.arange(side, dtype=np.uint8)[:, None, None]
    mask = np.full((side, side), 255, dtype=np.uint8)
    mask[:, :8] = 0
    return encoded(pixels), encoded(mask)


def status(redis, job, settings):
    return jobs.read(redis, job, settings).status


@pytest.mark.slow
def test_jobs_end_with_results_each_by_itself(
    start, submit, ended, settings, blobs, image, photo, hole, redis, eventually
):
    with start(settings) as worker:
        bad = submit(image=image[:-200])
        good = [submit() for _ in range(20)]

        assert ended(bad).outcome.problem.code == "image-unreadable"
        for job in good:
            outcome = ended(job).outcome
            result = np.asarray(Image.open(BytesIO(blobs.get(outcome.result))))
            assert np.array_equal(result[~hole], photo[~hole])
            assert not np.array_equal(result[hole], photo[hole])
        assert re.search(rf"{good[0]} telea: done in \d+\.\d+ s: decode ", worker.log())
        eventually(lambda: catalogue.workers(redis)[0].rate > 0)


@pytest.mark.slow
def test_an_album_goes_through_the_worker_that_feeds_it(
    start, ended, settings, redis, blobs, image, mask, eventually
):
    job = InpaintJob(image=blobs.put(image), mask=blobs.put(mask), model="telea")
    with start(settings):
        album = feeder.add(redis, "album", [(job, 1)] * 40)
        eventually(lambda: redis.exists(*[f"rq:job:{job}" for job in album]) == len(album))

        assert {ended(job).status for job in album} == {"succeeded"}


@pytest.mark.slow
def test_a_job_past_its_time_is_ended_and_the_next_one_runs(start, submit, ended, settings, large):
    with start(settings, INPAINT_JOB_TIMEOUT_SECONDS="1"):
        late = submit(*large)
        assert ended(late).outcome.problem.code == "timed-out"
        assert ended(submit()).status == "succeeded"


@pytest.mark.slow
def test_a_running_job_that_is_canceled_is_dropped(
    start, submit, ended, settings, redis, large, eventually
):
    with start(settings) as worker:
        job = submit(*large)
        eventually(lambda: status(redis, job, settings) == "running")
        assert admission.cancel(redis, job) == "running"

        eventually(lambda: f"{job} telea: dropped" in worker.log())
        assert status(redis, job, settings) == "canceled"
        assert ended(submit()).status == "succeeded"


@pytest.mark.slow
def test_the_card_and_the_lease_are_renewed_while_a_job_runs(
    start, submit, ended, settings, redis, large, eventually
):
    with start(settings, INPAINT_LEASE_SECONDS="0.5"):
        job = submit(*large)
        eventually(lambda: status(redis, job, settings) == "running")
        (card,) = catalogue.workers(redis)
        redis.delete(f"inpaint:worker:{card.worker}")
        eventually(lambda: catalogue.workers(redis), 2 * catalogue.BEAT_SECONDS)
        assert status(redis, job, settings) == "running"

        record = ended(job)
    assert record.status == "succeeded"
    assert record.attempts == 1


@pytest.mark.slow
def test_redis_may_go_and_come_back_and_sigterm_lets_a_job_end(
    own_server, start, tmp_path, image, mask, large, eventually
):
    settings = Settings(data=tmp_path, redis_url=own_server.url())
    blobs = FolderBlobs(settings.blob_folder)

    def submit(image, mask):
        job = InpaintJob(image=blobs.put(image), mask=blobs.put(mask), model="telea")
        return admission.admit(redis, job, settings, share="client:test", size=1)

    with start(settings) as worker, jobs.connect(settings) as redis:
        own_server.kill()
        eventually(lambda: "going on trying" in worker.log())
        own_server.start()
        first = submit(image, mask)
        eventually(lambda: status(redis, first, settings) == "succeeded")

        second = submit(*large)
        eventually(lambda: status(redis, second, settings) == "running")
        worker.send_signal(signal.SIGTERM)

        assert worker.wait(60) == 0
        assert status(redis, second, settings) == "succeeded"
        assert catalogue.workers(redis) == []


@pytest.mark.slow
def test_sigterm_ends_a_worker_whose_redis_is_away(own_server, start, tmp_path, eventually):
    settings = Settings(data=tmp_path, redis_url=own_server.url())
    with start(settings) as worker:
        own_server.kill()
        eventually(lambda: "going on trying" in worker.log())
        worker.send_signal(signal.SIGTERM)

        assert worker.wait(20) == 0


@pytest.mark.slow
def test_a_worker_that_can_never_start_says_why_and_that_it_is_no_use(settings, redis):
    environment = os.environ | {"INPAINT_MODELS": "telea,nonesuch", "REDIS_URL": settings.redis}
    environment |= {"INPAINT_DATA": str(settings.data)}
    command = [sys.executable, "-m", "inpaint", "worker"]

    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert ended.returncode == os.EX_CONFIG
    assert "nonesuch" in ended.stderr
    assert "(unknown-model)" in ended.stderr


CARD = catalogue.WorkerCard(
    worker="w", pid=1, device="cpu", engine="opencv", precision="fp32", models=()
)


def test_the_beat_goes_on_and_ends_with_the_block(redis, settings, eventually):
    with Beat(redis, settings, CARD, lambda: 2.5):
        eventually(lambda: catalogue.workers(redis), 5)
        redis.flushdb()  # as if its time to live were over
        eventually(lambda: catalogue.workers(redis), 5)
        assert catalogue.workers(redis)[0].rate == 2.5
    assert catalogue.workers(redis) == []


def test_the_beat_feeds_albums(redis, settings, eventually):
    job = InpaintJob(image="0" * 32, model="telea")
    (first,) = feeder.add(redis, "album", [(job, 1)])

    with Beat(redis, settings, CARD, lambda: 0.0):
        eventually(lambda: redis.exists(f"rq:job:{first}"), 10)

    assert jobs.read(redis, first, settings).status == "queued"


def test_the_beat_survives_a_redis_that_goes_away(own_server, tmp_path, eventually, caplog):
    caplog.set_level("INFO", logger="inpaint.worker")
    settings = Settings(data=tmp_path, redis_url=own_server.url())
    with jobs.connect(settings) as mine, Beat(mine, settings, CARD, lambda: 0.0):
        own_server.kill()
        eventually(lambda: "going on trying" in caplog.text)
        own_server.start()
        eventually(lambda: "Redis is back" in caplog.text)
        with jobs.connect(settings) as redis:
            assert catalogue.workers(redis) == [CARD]
