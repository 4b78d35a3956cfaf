"""The gateway as a process: what it imports and weighs, how it meets outages, how it stops."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import numpy as np
import psutil
import pytest

from inpaint import jobs
from inpaint.blobs import FolderBlobs
from inpaint.settings import Settings

GATEWAY_MB = 150


@pytest.fixture
def settings(own_server, tmp_path):
    return Settings(data=tmp_path, redis_url=own_server.url())


@pytest.fixture
def lonely_worker(by_hand):
    """A worker's card without the worker: jobs are taken into the queue and stay there."""
    with by_hand.reported():
        yield


def test_the_gateway_imports_neither_torch_nor_opencv():
    script = (
        "import sys, json, service.app;"
        "print(json.dumps(sorted({'torch', 'cv2', 'models', 'worker', 'training'}"
        " & {name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == []


def test_uvicorn_finds_the_application_by_its_factory(settings, eventually):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "--factory", "service.app:create_app"]
    variables = {"INPAINT_DATA": str(settings.data), "REDIS_URL": settings.redis}
    process = subprocess.Popen([*command, "--port", str(port)], env=os.environ | variables)

    def answers():
        try:
            return httpx.get(f"http://127.0.0.1:{port}/info", trust_env=False).is_success
        except httpx.TransportError:
            return False

    try:
        eventually(answers)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(10)


def test_the_gateway_stays_small_after_work(service, image, mask, encoded):
    big = np.random.default_rng(0).integers(0, 255, (1500, 2000, 3), dtype=np.uint8)
    hole = np.zeros((1500, 2000), np.uint8)
    hole[700:720, 900:920] = 255
    for _ in range(3):
        assert service.post(encoded(big), encoded(hole)).status_code == 200
    megabytes = psutil.Process(service.gateway.pid).memory_info().rss / 1e6
    assert megabytes < GATEWAY_MB


def test_without_a_worker_the_gateway_says_so(gateway, image, mask):
    for answer in (gateway.post(image, mask), gateway.client.get("/readyz")):
        assert (answer.status_code, answer.json()["code"]) == (503, "no-worker")
        assert int(answer.headers["retry-after"]) > 0
    assert gateway.client.get("/readyz").json()["failing"] == ["no-worker"]
    assert gateway.client.get("/livez").status_code == 200
    assert gateway.client.get("/info").json()["models"] == []


def test_a_refused_request_leaves_no_files(gateway, image, mask):
    gateway.post(image, mask)
    assert list(gateway.settings.blob_folder.iterdir()) == []


def test_redis_away_is_a_503_within_two_seconds_and_service_again_when_it_returns(
    start_service, settings, own_server, image, mask, eventually
):
    with start_service(settings, worker=True) as service:
        assert service.post(image, mask).status_code == 200
        own_server.kill()
        for answer in (
            service.post(image, mask),
            service.client.get("/readyz"),
            service.client.get("/info"),
            service.client.get(f"/jobs/{jobs.new_id()}"),
        ):
            assert (answer.status_code, answer.json()["code"]) == (503, "queue-unavailable")
            assert int(answer.headers["retry-after"]) > 0
            assert answer.elapsed.total_seconds() < 2
        assert service.client.get("/livez").status_code == 200
        own_server.start()
        eventually(lambda: service.post(image, mask).status_code == 200, seconds=20)


def test_redis_that_hangs_is_a_503_too(start_service, settings, own_server, image, mask):
    with start_service(settings, worker=False) as gateway:
        own_server.process.send_signal(signal.SIGSTOP)
        try:
            answer = gateway.post(image, mask)
        finally:
            own_server.process.send_signal(signal.SIGCONT)
        assert (answer.status_code, answer.json()["code"]) == (503, "queue-unavailable")
        assert answer.elapsed.total_seconds() < 3


def test_what_is_not_done_in_time_is_accepted(start_service, settings, lonely_worker, image, mask):
    with start_service(settings, worker=False) as gateway:
        answer = gateway.post(image, mask, headers={"Prefer": "wait=1"})
        assert answer.status_code == 202
        assert 0.9 < answer.elapsed.total_seconds() < 3
        job = answer.json()
        assert (job["status"], job["queue_position"]) == ("queued", 0)
        assert answer.headers["location"] == f"/jobs/{job['id']}"
        assert answer.headers["preference-applied"] == "wait=1"
        result = gateway.client.get(f"/jobs/{job['id']}/result")
        assert (result.status_code, result.json()["code"]) == (409, "job-not-finished")
        assert result.headers["retry-after"]


def test_a_full_queue_is_a_503_and_keeps_no_files(
    start_service, settings, lonely_worker, image, mask
):
    hasty = {"Prefer": "respond-async"}
    with start_service(settings, worker=False, INPAINT_QUEUE_LIMIT="2") as gateway:
        for _ in range(2):
            assert gateway.post(image, mask, headers=hasty).status_code == 202
        kept = len(list(settings.blob_folder.iterdir()))
        answer = gateway.post(image, mask, headers=hasty)
        assert (answer.status_code, answer.json()["code"]) == (503, "queue-full")
        assert int(answer.headers["retry-after"]) > 0
        assert len(list(settings.blob_folder.iterdir())) == kept == 4


def test_who_has_too_many_jobs_is_told_when_to_come_back(
    start_service, settings, by_hand, image, mask, eventually
):
    hasty = {"Prefer": "respond-async"}
    limit = {"INPAINT_CLIENT_LIMIT": "2"}
    with start_service(settings, worker=False, **limit) as gateway, by_hand.reported(rate=0.5):
        eventually(lambda: gateway.client.get("/readyz").is_success)
        for _ in range(2):
            assert gateway.post(image, mask, headers=hasty).status_code == 202
        kept = len(list(settings.blob_folder.iterdir()))
        answer = gateway.post(image, mask, headers=hasty)
        assert (answer.status_code, answer.json()["code"]) == (429, "rate-limited")
        assert answer.headers["retry-after"] == "4"  # two jobs at half a job a second
        policy = '"unfinished-jobs";q=2;qu="concurrent-requests"'
        assert answer.headers["ratelimit-policy"] == policy
        assert answer.headers["ratelimit"] == '"unfinished-jobs";r=0;t=4'
        assert len(list(settings.blob_folder.iterdir())) == kept
        other = hasty | {"X-Forwarded-For": "192.0.2.7"}  # named by a proxy on this machine
        job = gateway.post(image, mask, headers=other)
        assert job.status_code == 202
        assert (job.json()["queue_position"], job.json()["eta_seconds"]) == (2, 6)
        by_hand.commit(*by_hand.claim())
        assert gateway.post(image, mask, headers=hasty).status_code == 202


@pytest.mark.parametrize(("rate", "seconds"), [(0.0, "10"), (0.001, "60"), (0.5, "2"), (9.0, "1")])
def test_a_full_queue_says_when_it_will_be_worked_off(
    start_service, settings, by_hand, image, mask, eventually, rate, seconds
):
    hasty = {"Prefer": "respond-async"}
    limit = {"INPAINT_QUEUE_LIMIT": "1"}
    with start_service(settings, worker=False, **limit) as gateway, by_hand.reported(rate=rate):
        eventually(lambda: gateway.client.get("/readyz").is_success)
        assert gateway.post(image, mask, headers=hasty).status_code == 202
        answer = gateway.post(image, mask, headers=hasty)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, seconds)


def test_a_gateway_that_is_stopped_answers_those_who_wait(
    start_service, settings, lonely_worker, image, mask
):
    with start_service(settings, worker=False) as gateway:
        answers = []
        waiter = threading.Thread(target=lambda: answers.append(gateway.post(image, mask)))
        waiter.start()
        time.sleep(1)
        began = time.monotonic()
        gateway.gateway.send_signal(signal.SIGTERM)
        waiter.join(10)
        gateway.gateway.wait(10)
        assert time.monotonic() - began < 3
        assert answers[0].status_code == 202
        with jobs.connect(settings) as redis:
            record = jobs.read(redis, answers[0].json()["id"], settings)
        assert record.status == "queued"  # it goes on without its gateway


def test_a_client_that_goes_away_takes_its_job_along_if_that_has_not_begun(
    start_service, settings, by_hand, image, mask, eventually
):
    with start_service(settings, worker=False) as gateway, by_hand.reported():
        eventually(lambda: gateway.client.get("/readyz").is_success)
        kept = gateway.post(image, mask, headers={"Prefer": "respond-async"}).json()
        with pytest.raises(httpx.ReadTimeout):
            gateway.post(image, mask, timeout=0.5)
        with jobs.connect(settings) as redis:
            eventually(lambda: redis.zcard("rq:canceled:v2.interactive.telea") == 1, seconds=5)
            assert redis.hgetall("inpaint:load")[b"interactive"] == b"1"
        assert by_hand.claim()[0].id == kept["id"]
        waiter = threading.Thread(target=lambda: _post_in_vain(gateway, image, mask))
        waiter.start()
        (running,) = by_hand.claim()
        waiter.join()
        time.sleep(0.5)  # for the gateway to notice
        assert gateway.client.get(f"/jobs/{running.id}").json()["status"] == "running"


def _post_in_vain(gateway, image, mask):
    with httpx.Client(base_url=gateway.url, trust_env=False) as client:
        files = {"image": ("a.png", image), "mask": ("b.png", mask)}
        with pytest.raises(httpx.ReadTimeout):
            client.post("/inpaint", files=files, timeout=2)


def test_expired_files_are_swept_when_the_gateway_starts(start_service, settings, eventually):
    blobs = FolderBlobs(settings.blob_folder)
    old, young = blobs.put(b"old"), blobs.put(b"young")
    two_days_ago = time.time() - 2 * 86_400
    os.utime(settings.blob_folder / old, (two_days_ago, two_days_ago))
    with start_service(settings, worker=False):
        eventually(lambda: not (settings.blob_folder / old).exists(), seconds=5)
        assert (settings.blob_folder / young).exists()
