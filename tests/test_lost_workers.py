"""Workers that are killed, stopped or stuck, and a Redis that goes away, all of it really done.

Run as a script, this file is such a worker: `BatchWorker` with stages that sleep. It can be told to
kill itself at a place on a job's way; the wrappers that do it are here, not in the worker.
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
from pathlib import Path

import pytest
from redis import Redis
from rq.job import Job
from rq.serializers import JSONSerializer

from inpaint import admission, jobs
from inpaint.jobs import InpaintJob
from inpaint.settings import Settings
from worker import leases

KEY = "0" * 32
LEASE = 0.6  # seconds
KILLS, STALLS = 13, 14  # as `mask_grow`: what a job does to its worker
PLACES = ["claim", "decode", "forward", "commit", "committed"]


class Sleeper:
    """Four jobs at once, each in a thread that sleeps and says who ran it.

    With `dies` the process kills itself when a job has come to that place.
    """

    def __init__(self, seconds: float, dies: str | None) -> None:
        self.seconds = seconds
        self.dies = dies
        self.done: queue.SimpleQueue[tuple[leases.Claim, leases.Ending]] = queue.SimpleQueue()
        self.slots = threading.Semaphore(4)
        self.handed = 0
        self.taken = 0
        self.stuck = 0.0  # since when
        self.redis = Redis.from_url(os.environ["REDIS_URL"])

    def at(self, place: str) -> None:
        if self.dies == place:
            os.kill(os.getpid(), signal.SIGKILL)

    def room(self, seconds: float) -> int:
        if not self.slots.acquire(timeout=seconds):
            return 0
        room = 1
        while self.slots.acquire(blocking=False):
            room += 1
        for _ in range(room):
            self.slots.release()
        return room

    def take(self, claim: leases.Claim) -> None:
        self.slots.acquire()
        self.at("claim")
        self.taken += 1
        threading.Thread(target=self.run, args=(claim,), daemon=True).start()

    def run(self, claim: leases.Claim) -> None:
        while True:  # counting is not worth a job when Redis is away
            try:
                self.redis.rpush(f"ran:{claim.id}", os.getpid())
                break
            except OSError:
                time.sleep(0.1)
        time.sleep(self.seconds / 2)
        self.at("decode")
        if claim.payload.get("mask_grow") == KILLS:
            self.dies = "forward"
        if claim.payload.get("mask_grow") == STALLS:
            self.stuck = time.monotonic()
            time.sleep(3600)
        time.sleep(self.seconds / 2)
        self.at("forward")
        self.done.put((claim, {"model": "grey", "result": KEY, "digest": str(os.getpid())}))
        self.slots.release()

    def ended(self, seconds: float) -> list[tuple[leases.Claim, leases.Ending]]:
        if self.handed:
            self.at("committed")  # the worker asks again: it has committed what it was given
        try:
            found = [self.done.get(timeout=seconds)]
        except queue.Empty:
            return []
        self.at("commit")
        self.handed += 1
        return found

    def stalled(self) -> float:
        return time.monotonic() - self.stuck if self.stuck else 0.0

    def drain(self) -> None:
        while self.handed < self.taken:
            time.sleep(0.01)


def main() -> None:
    logging.basicConfig(level=logging.ERROR)
    options = json.loads(sys.argv[1])
    settings = Settings.model_validate(options.pop("settings"))
    leases.work(settings, ["grey"], Sleeper(options["seconds"], options["dies"]))


if __name__ == "__main__":
    main()


pytestmark = pytest.mark.slow


@pytest.fixture
def settings(own_server, tmp_path):
    return Settings(data=tmp_path, redis_url=own_server.url(), lease_seconds=LEASE, max_lost=2)


@pytest.fixture
def redis(own_server):
    with Redis.from_url(own_server.url()) as client:
        yield client


@pytest.fixture
def admit(redis, settings):
    def put(**fields):
        job = InpaintJob(image=KEY, model="grey", **fields)
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


def assert_each_finished_once(redis, jobs_):
    assert {status(redis, job) for job in jobs_} == {"finished"}
    assert {redis.xlen(f"rq:results:{job}") for job in jobs_} == {1}
    told = sorted(line.decode() for line in redis.lrange("replies", 0, -1))
    assert told == sorted(f"{job} finished" for job in jobs_)
    assert redis.hgetall("inpaint:load") == {}
    assert redis.zcard("rq:wip:v1.interactive.grey") == 0


@pytest.mark.parametrize("place", PLACES)
def test_a_worker_killed_on_the_way_of_a_job_loses_nothing(place, start, admit, redis, eventually):
    jobs_ = [admit() for _ in range(6)]
    doomed = start(dies=place)
    assert doomed.wait(30) == -signal.SIGKILL

    start()

    eventually(lambda: ended(redis, jobs_))
    assert_each_finished_once(redis, jobs_)
    assert max(len(runs(redis, job)) for job in jobs_) <= 2


def test_a_worker_stopped_past_its_lease_cannot_commit_when_it_wakes(
    start, admit, redis, eventually
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

    assert_each_finished_once(redis, [*jobs_, later])
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
    start, admit, redis, eventually
):
    jobs_ = [admit() for _ in range(40)]
    for _ in range(3):
        done = redis.zcard("rq:finished:v1.interactive.grey")
        worker = start(seconds=0.3)
        eventually(lambda done=done: redis.zcard("rq:finished:v1.interactive.grey") > done)
        worker.terminate()
        assert worker.wait(20) == 0
        assert redis.zcard("rq:wip:v1.interactive.grey") == 0
        assert redis.smembers("rq:workers") == set()
    start(seconds=0.05)
    eventually(lambda: ended(redis, jobs_))
    assert {len(runs(redis, job)) for job in jobs_} == {1}
    assert_each_finished_once(redis, jobs_)


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
    way, own_server, start, admit, redis, eventually
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

    assert_each_finished_once(redis, [*jobs_, *later])
    assert {len(runs(redis, job)) for job in jobs_} == {1}  # all renewed before any was reaped
    for worker in workers:
        worker.terminate()
        assert worker.wait(20) == 0


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


def test_two_workers_share_the_jobs_and_run_none_twice(start, admit, redis, eventually):
    jobs_ = [admit() for _ in range(60)]
    started = {start(seconds=0.1).pid for _ in range(2)}
    eventually(lambda: ended(redis, jobs_))
    assert {len(runs(redis, job)) for job in jobs_} == {1}
    assert {pid for job in jobs_ for pid in runs(redis, job)} == started
    assert_each_finished_once(redis, jobs_)
