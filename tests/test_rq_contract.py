"""What our worker leaves in Redis is what RQ's own leaves, but for the differences named here.

Holds for the RQ below. With another version this file says what has to be looked at again:
`worker/leases.py` overrides methods of RQ's worker, and its scripts write what RQ's job writes.

Intended differences:

* a job's data stay as they came, where RQ compresses them;
* a bug fails its job at once, where RQ would run it `retries_left` times more;
* while a job runs there is no record of its execution (`rq:execution:…`, `rq:executions:…`), whose
  id is that of the claim: what RQ needs is the member of `rq:wip:…`;
* the worker's record names no `current_job`, for there are many, and no time of the current one;
* a worker listens to no commands (`rq:pubsub:…`).
"""

import queue
import signal
import subprocess
import sys
import time
import zlib
from contextlib import suppress
from pathlib import Path

import pytest
import rq
from rq import Queue, SimpleWorker
from rq.job import Job
from rq.registry import FailedJobRegistry, FinishedJobRegistry, StartedJobRegistry
from rq.results import Result
from rq.serializers import JSONSerializer
from rq.worker import Worker

from inpaint import admission, jobs
from inpaint.jobs import INPAINT_TASK, InpaintJob
from worker.leases import BatchWorker

HOLDS_FOR = "2.12.0"
KEY = "0" * 32
JOB = "01900000-0000-7000-8000-000000000000"
OUTCOME = {"model": "grey", "result": KEY}
NAMES = ["v2.interactive.grey", "v2.bulk.grey"]

# fields whose values follow from the clock, the process or the worker
TIMES = {"started_at", "ended_at", "last_heartbeat", "execution_started_at", "execution_ended_at"}
TIMES |= {"created_at", "enqueued_at", "birth", "death", "total_working_time"}
CHANCE = {"worker_name", "execution_id", "ip_address", "state"}  # the state as of the last beat
ONLY_STOCK = {"current_job_working_time"}  # of the worker's record


def task(payload):
    if payload.get("mask_grow"):
        raise ValueError("no such colour")
    return OUTCOME


class Labelled(Job):
    """A job whose function's name is a label, so that RQ's own worker runs it without importing."""

    @property
    def func(self):
        return task


class Inline:
    """Stages that run a job as it is taken."""

    def __init__(self):
        self.done = queue.SimpleQueue()

    def room(self, seconds):
        return 4, 4

    def take(self, claim):
        try:
            self.done.put((claim, task(claim.payload)))
        except ValueError as bug:
            self.done.put((claim, bug))

    def ended(self, seconds):
        try:
            return [self.done.get(timeout=seconds)]
        except queue.Empty:
            return []

    def discard(self, ending):
        pass

    def stalled(self):
        return 0.0

    def drain(self):
        while not self.done.empty():
            time.sleep(0.01)


@pytest.fixture
def both(redis, settings):
    """Run the same job with RQ's own worker and with ours; returns what each leaves behind."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stock():
        return SimpleWorker(
            NAMES,
            connection=jobs.connect(settings),
            serializer=JSONSerializer,
            job_class=Labelled,
            log_job_description=False,
        )

    def run(put, seen=lambda: None):
        left = []
        for make in (stock, lambda: BatchWorker(settings, ["grey"], Inline())):
            redis.flushdb()
            put()
            worker = make()
            worker.work(burst=True, logging_level="CRITICAL")
            seen()
            left.append(remains(redis, worker.name))
            worker.connection.close()
        return left

    yield run
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def admit(redis, settings):
    """Put a job into the queue, without retries: ours never uses them."""

    def put(**fields):
        job = InpaintJob(image=KEY, model="grey", **fields)
        admission.admit(redis, job, settings, share="client:a", size=10, job_id=JOB)
        redis.hdel(f"rq:job:{JOB}", "retries_left")
        redis.delete("inpaint:load", jobs.BELL)  # of ours, not RQ's

    return put


def remains(redis, worker):
    """Every key by name: its type, whether it expires, and what is in it, made comparable."""
    found = {}
    for raw in redis.scan_iter():
        name = raw.decode().replace(worker, "WORKER")
        kind = redis.type(raw).decode()
        match kind:
            case "hash":
                content = comparable(redis.hgetall(raw))
                if name == "rq:worker:WORKER":
                    content = {field: content[field] for field in content.keys() - ONLY_STOCK}
            case "stream":
                content = [comparable(fields) for _, fields in redis.xrange(raw)]
            case "zset":
                content = [
                    (member, round((score - time.time()) / 60))
                    for member, score in redis.zrange(raw, 0, -1, withscores=True)
                ]
            case "set":
                content = {
                    member.decode().replace(worker, "WORKER") for member in redis.smembers(raw)
                }
            case "list":
                content = redis.lrange(raw, 0, -1)
        found[name] = kind, round(redis.ttl(raw) / 60), content
    return found


def comparable(fields):
    found = {
        name.decode(): "set" if name.decode() in TIMES | CHANCE and value else value
        for name, value in fields.items()
    }
    with suppress(KeyError, zlib.error):
        found["data"] = zlib.decompress(found["data"])
    return found


def test_the_version_of_rq_is_the_one_that_this_was_compared_with():
    assert rq.VERSION == HOLDS_FOR


def test_a_job_that_succeeds_leaves_what_rq_leaves(both, admit):
    stock, ours = both(admit)
    assert f"rq:results:{JOB}" in ours
    assert ours == stock


def test_a_job_that_raises_leaves_what_rq_leaves(both, admit, redis):
    texts = []
    latest = lambda: texts.append(Job.fetch(JOB, redis, JSONSerializer).latest_result())  # noqa: E731
    stock, ours = both(lambda: admit(mask_grow=1), latest)

    for text in texts:
        assert text.exc_string.startswith("Traceback (most recent call last):")
        assert text.exc_string.endswith("ValueError: no such colour\n")
    for left in (stock, ours):  # the tracebacks name different callers
        (fields,) = left[f"rq:results:{JOB}"][2]
        assert fields.pop("exc_string")
    assert ours == stock


@pytest.mark.slow
def test_rq_reads_what_ours_leaves(both, admit, redis):
    read = []

    def look():
        job = Job.fetch(JOB, connection=redis, serializer=JSONSerializer)
        result = Result.fetch_latest(job, serializer=JSONSerializer)
        read.append(
            (
                job.get_status(),
                job.func_name,
                job.return_value(),
                result.type,
                result.execution_started_at == job.started_at,
                job.started_at <= result.execution_ended_at == job.ended_at,
                len(job.results()),
                job.worker_name == result.worker_name,
                Queue.count.fget(Queue(NAMES[0], connection=redis)),
                FinishedJobRegistry(NAMES[0], connection=redis).get_job_ids(),
                FailedJobRegistry(NAMES[0], connection=redis).get_job_ids(),
                StartedJobRegistry(NAMES[0], connection=redis).get_job_ids(),
                [queue.name for queue in Queue.all(connection=redis)],
                Worker.count(connection=redis),
            )
        )

    both(admit, look)

    stock, ours = read
    assert ours[:3] == ("finished", INPAINT_TASK, OUTCOME)
    assert ours[4:6] == (True, True)
    assert [*ours[:4], *ours[6:]] == [*stock[:4], *stock[6:]]


def test_while_a_job_runs_rq_sees_it_and_who_runs_it(redis, settings, admit):
    admit()
    worker = BatchWorker(settings, ["grey"], Inline())
    worker.register_birth()
    worker.claim((1, 1))
    worker._report()

    job = Job.fetch(JOB, connection=redis, serializer=JSONSerializer)
    assert (job.get_status(), job.worker_name) == ("started", worker.name)
    registry = StartedJobRegistry(NAMES[0], connection=redis, serializer=JSONSerializer)
    assert registry.get_job_ids() == [JOB]
    (seen,) = Worker.all(connection=redis, serializer=JSONSerializer)
    assert (seen.name, seen.get_state(), seen.queue_names()) == (worker.name, "busy", NAMES)
    worker.connection.close()

    command = [Path(sys.executable).parent / "rq", "info", "--raw", "--url", settings.redis]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert f"queue {NAMES[0]} 0, 1 executing, 0 finished, 0 failed\n" in said
    assert f"busy {', '.join(NAMES)}. jobs: 0 finished, 0 failed\n" in said


def test_rqs_own_cleaner_returns_a_lost_job_and_does_not_fail_it(redis, settings):
    settings = settings.model_copy(update={"lease_seconds": 0.5})
    job = InpaintJob(image=KEY, model="grey")
    admission.admit(redis, job, settings, share="client:a", size=10, job_id=JOB)
    worker = BatchWorker(settings, ["grey"], Inline())
    ((claim, _),) = worker.claim((1, 1))
    time.sleep(1.6)  # RQ counts whole seconds

    registry = StartedJobRegistry(NAMES[0], connection=redis, serializer=JSONSerializer)
    assert registry.get_job_ids() == []  # `rq info` does this

    assert redis.lrange(f"rq:queue:{NAMES[0]}", 0, -1) == [JOB.encode()]
    worker.commit([(claim, OUTCOME)])  # too late
    assert redis.hget(f"rq:job:{JOB}", "status") == b"queued"
    ((claim, _),) = worker.claim((1, 1))
    worker.commit([(claim, OUTCOME)])
    assert redis.hget(f"rq:job:{JOB}", "status") == b"finished"
    assert redis.xlen(f"rq:results:{JOB}") == 1
    assert redis.hgetall("inpaint:load") == {}
    worker.connection.close()


@pytest.mark.slow
def test_a_job_failed_for_its_lost_workers_reads_like_one_that_rq_gave_up(redis, settings):
    settings = settings.model_copy(update={"lease_seconds": 0.5, "max_lost": 0})
    left = []
    for ours in (False, True):
        redis.flushdb()
        job = InpaintJob(image=KEY, model="grey")
        admission.admit(redis, job, settings, share="client:a", size=10, job_id=JOB)
        redis.hdel(f"rq:job:{JOB}", "retries_left")
        worker = BatchWorker(settings, ["grey"], Inline())
        worker.claim((1, 1))
        time.sleep(1.6)  # RQ counts whole seconds
        if ours:
            worker._held.clear()
            worker.renew_and_reap()
        else:
            registry = StartedJobRegistry(NAMES[0], connection=redis, serializer=JSONSerializer)
            registry.cleanup()
        found = Job.fetch(JOB, connection=redis, serializer=JSONSerializer)
        (result,) = found.results()
        assert result.exc_string
        left.append(
            (
                found.get_status(),
                result.type,
                result.worker_name,
                FailedJobRegistry(NAMES[0], connection=redis).get_job_ids(),
                round(redis.zscore(f"rq:failed:{NAMES[0]}", JOB) - time.time(), -1),
                round(redis.ttl(f"rq:job:{JOB}"), -1),
                round(redis.ttl(f"rq:results:{JOB}"), -1),
                redis.zcard(f"rq:wip:{NAMES[0]}"),
            )
        )
        worker.connection.close()
    assert left[0] == left[1]
