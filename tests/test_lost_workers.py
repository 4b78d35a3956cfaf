"""Workers that are killed, stopped or stuck, and a Redis that goes away, all of it really done.

Run as a script, this file is such a worker: `leases.work` with stages that sleep, or with the real
ones, which can be told to kill their process at a place on a job's way. What kills is wrapped round
the objects here; the worker knows nothing of it.
"""

import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from redis import Redis
from rq.job import Job
from rq.serializers import JSONSerializer

from inpaint import admission, jobs
from inpaint.blobs import open_blobs
from inpaint.jobs import InpaintJob
from inpaint.settings import Settings
from worker import leases

KEY = "0" * 32
LEASE = 1.0  # seconds; less, and a busy machine loses some by itself
KILLS, STALLS = 13, 14  # as `mask_grow`: what a job does to its sleeping worker
PLACES = ["claim", "decode", "forward", "encode", "commit", "committed"]


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class Sleeper:
    """Stages: four jobs at once, each in a thread that sleeps and says which process ran it."""

    def __init__(self, seconds):
        self.seconds = seconds
        self.done = queue.SimpleQueue()
        self.slots = threading.Semaphore(4)
        self.taken = self.handed = 0
        self.stuck = 0.0  # since when
        self.redis = Redis.from_url(os.environ["REDIS_URL"])

    def room(self, seconds):
        if not self.slots.acquire(timeout=seconds):
            return 0, 0
        free = 1
        while self.slots.acquire(blocking=False):
            free += 1
        self.slots.release(free)
        return free, free

    def take(self, claim):
        self.slots.acquire()
        self.taken += 1
        threading.Thread(target=self.run, args=(claim,), daemon=True).start()

    def run(self, claim):
        self.redis.rpush(f"ran:{claim.id}", os.getpid())
        time.sleep(self.seconds / 2)
        does = claim.payload.get("mask_grow")
        if does == KILLS:
            die()
        if does == STALLS:
            self.stuck = time.monotonic()
            time.sleep(3600)
        time.sleep(self.seconds / 2)
        self.done.put((claim, {"model": "grey", "result": KEY, "digest": str(os.getpid())}))
        self.slots.release()

    def ended(self, seconds):
        try:
            found = [self.done.get(timeout=seconds)]
        except queue.Empty:
            return []
        self.handed += 1
        return found

    def discard(self, ending):
        pass

    def stalled(self):
        return time.monotonic() - self.stuck if self.stuck else 0.0

    def drain(self):
        while self.handed < self.taken:
            time.sleep(0.01)


class Deadly:
    """Another object: whoever asks for one of its methods is killed, or what else `does` do."""

    def __init__(self, inner, method, does=die):
        self._inner, self._method, self._does = inner, method, does

    def __getattr__(self, name):
        if name == self._method:
            self._does()
        return getattr(self._inner, name)


def raise_a_bug():
    raise RuntimeError("a bug in the stages")


def real(settings, dies):
    """The real stages with `telea`, and with a detector where one is asked for."""
    from worker.tasks import Workshop  # with torch, which the sleepers do without
    from worker.zoo import Zoo  # likewise

    class Shop(Workshop):
        handed = False

        def take(self, claim):
            if dies == "claim":
                die()
            super().take(claim)

        def ended(self, seconds):
            if self.handed and dies == "committed":  # the worker asks for more
                die()
            found = super().ended(seconds)
            self.handed = self.handed or bool(found)
            if found and dies == "commit":
                die()
            return found

    zoo = Zoo.load(settings)
    blobs = open_blobs(settings)
    if dies == "forward":
        zoo = replace(zoo, fillers={"telea": Deadly(zoo.fillers["telea"], "run")})
    if dies == "search":
        zoo = replace(zoo, detectors={"scratches": Deadly(zoo.detectors["scratches"], "run")})
    if dies in ("decode", "encode"):
        blobs = Deadly(blobs, "get" if dies == "decode" else "put")
    return Shop(settings, blobs, zoo)


def main():
    logging.basicConfig(level=logging.ERROR)
    options = json.loads(sys.argv[1])
    settings = Settings.model_validate(options["settings"])
    if settings.models:
        stages = real(settings, options["dies"])
        leases.work(settings, stages.zoo.needs, stages)
    else:
        sleeper = Sleeper(options["seconds"])
        leases.work(settings, ["grey"], Deadly(sleeper, options["dies"], raise_a_bug))


if __name__ == "__main__":
    main()


pytestmark = pytest.mark.slow


@pytest.fixture
def settings(own_server, tmp_path):
    return Settings(data=tmp_path, redis_url=own_server.url(), lease_seconds=LEASE, max_lost=2)


@pytest.fixture
def redis(own_server):
    with Redis.from_url(own_server.url()) as client:
        # With `everysec` a killed server forgets what it acknowledged while a sync was under way.
        client.config_set("appendfsync", "always")
        yield client


@pytest.fixture
def admit(redis, settings):
    def put(**fields):
        job = InpaintJob.model_validate({"image": KEY, "model": "grey"} | fields)
        time.sleep(0.002)  # ids sort by time, to the millisecond
        return admission.admit(redis, job, settings, share="client:a", size=1, reply="replies")

    return put


@pytest.fixture
def start(settings):
    """A function that starts a worker process; all are killed in the end."""
    processes = []

    def run(*, seconds=0.1, dies=None, **changes):
        given = {"redis_url": settings.redis, "data": str(settings.data)}
        given |= {"lease_seconds": LEASE, "max_lost": settings.max_lost, **changes}
        options = json.dumps({"settings": given, "seconds": seconds, "dies": dies})
        environment = os.environ | {"REDIS_URL": settings.redis, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-W", "error", __file__, options]
        processes.append(
            subprocess.Popen(command, env=environment, cwd=Path(__file__).parent.parent)
        )
        return processes[-1]

    yield run
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def supervised(start):
    """A block with a worker that is started again when it ends; it gives their exit statuses."""

    @contextmanager
    def run(**options):
        statuses, over = [], threading.Event()

        def supervise():
            process = start(**options)
            while not over.wait(0.02):
                if process.poll() is not None:
                    statuses.append(process.returncode)
                    process = start(**options)

        thread = threading.Thread(target=supervise)
        thread.start()
        try:
            yield statuses
        finally:
            over.set()
            thread.join()

    return run


def status(redis, job):
    return redis.hget(f"rq:job:{job}", "status").decode()


def ended(redis, jobs_):
    return all(status(redis, job) in ("finished", "failed") for job in jobs_)


def runs(redis, job):
    """The processes that began this job."""
    return [int(pid) for pid in redis.lrange(f"ran:{job}", 0, -1)]


def assert_each_finished_once(redis, told, jobs_, model="grey"):
    assert {status(redis, job) for job in jobs_} == {"finished"}
    assert {redis.xlen(f"rq:results:{job}") for job in jobs_} == {1}
    assert sorted(told("replies")) == sorted(f"{job} finished" for job in jobs_)
    assert redis.hgetall("inpaint:load") == {}
    assert redis.zcard(f"rq:wip:v2.interactive.{model}") == 0


def test_workers_killed_at_each_place_of_a_jobs_way_lose_nothing(
    start, admit, redis, settings, image, mask, eventually, told
):
    blobs = open_blobs(settings)
    jobs_ = [admit(model="telea", image=blobs.put(image), mask=blobs.put(mask)) for _ in range(8)]

    for place in PLACES:
        doomed = start(dies=place, models="telea", max_lost=len(PLACES))
        assert doomed.wait(60) == -signal.SIGKILL
    start(models="telea", max_lost=len(PLACES))

    eventually(lambda: ended(redis, jobs_))
    assert_each_finished_once(redis, told, jobs_, "telea")
    for job in jobs_:
        outcome = jobs.read(redis, job, settings).outcome
        assert outcome.problem is None
        assert Image.open(BytesIO(blobs.get(outcome.result))).size == (96, 64)


def test_workers_killed_while_they_search_or_fill_what_was_found_lose_nothing(
    start, admit, redis, settings, encoded, scratched, eventually, told, white_detector
):
    blobs = open_blobs(settings)
    photo = blobs.put(encoded(scratched[0]))
    jobs_ = [admit(model="telea", image=photo, auto_mask="scratches") for _ in range(3)]
    options = {"models": "telea,scratches", "checkpoints": str(white_detector), "max_lost": 9}

    for place in ("search", "forward"):
        doomed = start(dies=place, **options)
        assert doomed.wait(60) == -signal.SIGKILL
    start(**options)

    eventually(lambda: ended(redis, jobs_))
    assert_each_finished_once(redis, told, jobs_, "telea+scratches")
    for job in jobs_:
        outcome = jobs.read(redis, job, settings).outcome
        assert (outcome.problem, outcome.mask_source) == (None, "scratches")
        for key in (outcome.result, outcome.mask):
            assert Image.open(BytesIO(blobs.get(key))).size == (96, 64)


def test_a_worker_stopped_past_its_lease_cannot_commit_when_it_wakes(
    start, admit, redis, eventually, told
):
    zombie = start(seconds=1)
    jobs_ = [admit() for _ in range(4)]
    eventually(lambda: all(runs(redis, job) for job in jobs_))
    zombie.send_signal(signal.SIGSTOP)
    other = start(seconds=0.1)
    eventually(lambda: ended(redis, jobs_))

    zombie.send_signal(signal.SIGCONT)
    later = admit()
    eventually(lambda: ended(redis, [later]))
    zombie.terminate()
    assert zombie.wait(20) == 0

    assert_each_finished_once(redis, told, [*jobs_, later])
    for job in jobs_:
        found = Job.fetch(job, connection=redis, serializer=JSONSerializer)
        assert found.latest_result().return_value["digest"] == str(other.pid)
        assert runs(redis, job) == [zombie.pid, other.pid]


def test_a_job_that_kills_its_process_fails_alone(supervised, admit, redis, settings, eventually):
    mates = [admit() for _ in range(3)]
    poison = admit(mask_grow=KILLS)
    mates += [admit() for _ in range(6)]

    with supervised() as statuses:
        eventually(lambda: ended(redis, [*mates, poison]))
    assert statuses == [-signal.SIGKILL] * (settings.max_lost + 1)

    assert {status(redis, job) for job in mates} == {"finished"}
    assert {redis.xlen(f"rq:results:{job}") for job in mates} == {1}
    assert status(redis, poison) == "failed"
    found = Job.fetch(poison, connection=redis, serializer=JSONSerializer)
    (result,) = found.results()
    assert "WorkerLost" in result.exc_string
    assert len(runs(redis, poison)) == settings.max_lost + 1
    assert max(len(runs(redis, job)) for job in mates) == 2  # those beside it, the first time
    assert redis.hgetall("inpaint:load") == {}


def test_a_worker_asked_to_stop_finishes_what_it_took_and_each_job_is_run_once(
    start, admit, redis, eventually, told
):
    jobs_ = [admit() for _ in range(40)]
    for _ in range(3):
        done = redis.zcard("rq:finished:v2.interactive.grey")
        worker = start(seconds=0.3)
        eventually(lambda done=done: redis.zcard("rq:finished:v2.interactive.grey") > done)
        worker.terminate()
        assert worker.wait(20) == 0
        assert redis.zcard("rq:wip:v2.interactive.grey") == 0
        assert redis.smembers("rq:workers") == set()
    start(seconds=0.05)
    eventually(lambda: ended(redis, jobs_))
    assert {len(runs(redis, job)) for job in jobs_} == {1}
    assert_each_finished_once(redis, told, jobs_)


def test_a_second_signal_ends_a_worker_at_once(start, admit, redis, eventually):
    job = admit()
    worker = start(seconds=3600)
    eventually(lambda: runs(redis, job))
    worker.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        worker.wait(1)
    worker.terminate()
    assert worker.wait(5) == 128 + signal.SIGTERM


def test_a_worker_whose_stage_stands_still_ends_and_its_mates_are_run_again(
    supervised, admit, redis, settings, eventually
):
    stuck, mate = admit(mask_grow=STALLS), admit()

    with supervised(seconds=1.5, stall_seconds=0.3) as statuses:
        eventually(lambda: ended(redis, [stuck, mate]))

    assert statuses == [70] * (settings.max_lost + 1)
    assert (status(redis, stuck), status(redis, mate)) == ("failed", "finished")
    assert (len(runs(redis, stuck)), len(runs(redis, mate))) == (settings.max_lost + 1, 2)


@pytest.mark.parametrize("way", ["killed", "hung"])
def test_redis_may_go_away_and_come_back_while_jobs_run(
    way, own_server, start, admit, redis, eventually, told
):
    workers = [start(seconds=1), start(seconds=1)]
    jobs_ = [admit() for _ in range(8)]
    eventually(lambda: all(runs(redis, job) for job in jobs_))
    if way == "killed":
        own_server.kill()
        time.sleep(2 * LEASE)
        own_server.start()
    else:
        own_server.process.send_signal(signal.SIGSTOP)
        time.sleep(jobs.SOCKET_SECONDS + 1.5)  # answers are given up, some commands sent again
        own_server.process.send_signal(signal.SIGCONT)
    later = [admit() for _ in range(4)]

    eventually(lambda: ended(redis, [*jobs_, *later]))

    assert_each_finished_once(redis, told, [*jobs_, *later])
    assert {len(runs(redis, job)) for job in jobs_} == {1}  # all renewed before any was reaped
    for worker in workers:
        worker.terminate()
        assert worker.wait(20) == 0


@pytest.mark.parametrize("method", ["room", "take", "ended", "stalled"])
def test_a_worker_whose_own_thread_fails_ends_and_its_jobs_are_run_by_another(
    method, start, admit, redis, eventually, told
):
    job = admit()
    assert start(dies=method).wait(30) == 70
    start()
    eventually(lambda: ended(redis, [job]))
    assert_each_finished_once(redis, told, [job])


def test_a_worker_without_redis_stops_when_asked(own_server, start, redis, eventually):
    worker = start()
    eventually(lambda: redis.smembers("rq:workers"))
    own_server.kill()
    time.sleep(0.5)
    worker.terminate()
    assert worker.wait(20) == 0


def test_a_worker_that_starts_before_redis_waits_for_it(
    own_server, start, admit, redis, eventually
):
    job = admit()
    own_server.kill()
    worker = start()
    time.sleep(1.5)
    assert worker.poll() is None
    own_server.start()
    eventually(lambda: ended(redis, [job]))


def test_two_workers_share_the_jobs_and_run_none_twice(start, admit, redis, eventually, told):
    jobs_ = [admit() for _ in range(60)]
    started = {start(seconds=0.1).pid for _ in range(2)}
    eventually(lambda: ended(redis, jobs_))
    assert {len(runs(redis, job)) for job in jobs_} == {1}
    assert {pid for job in jobs_ for pid in runs(redis, job)} == started
    assert_each_finished_once(redis, told, jobs_)
