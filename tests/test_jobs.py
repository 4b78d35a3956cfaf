"""The contract with tasks of our own, run by RQ's own worker; test_routes has the real one."""

import asyncio
import signal
import threading
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from pydantic import ValidationError
from rq import SimpleWorker
from rq.serializers import JSONSerializer

from inpaint import jobs
from inpaint.errors import Expired, NotFound, QueueFull, QueueUnavailable
from inpaint.jobs import InpaintJob, Outcome, Problem
from inpaint.settings import Settings

KEY = "0123456789abcdef" * 2
TASKS = """
import time

def fill(payload):
    return {"model": payload["model"], "result": payload["image"], "seconds": {"infer": 0.5}}

def refuse(payload):
    problem = {"code": "mask-empty", "detail": "The mask is empty.", "field": "mask"}
    return {"model": payload["model"], "problem": problem}

def crash(payload):
    raise RuntimeError("a bug")

def sleep(payload):
    time.sleep(30)
"""


@pytest.fixture
def queue(redis):
    return jobs.open_queue(redis)


@pytest.fixture
def task(tmp_path, monkeypatch):
    """A function that makes every job run the named task of `TASKS`."""
    (tmp_path / "tasks_of_the_test.py").write_text(TASKS)
    monkeypatch.syspath_prepend(tmp_path)
    return lambda name: monkeypatch.setattr(jobs, "INPAINT_TASK", f"tasks_of_the_test.{name}")


def job(**fields):
    return InpaintJob(image=KEY, model="telea", **fields)


def work(queue):
    """Run all jobs that wait, here and now; RQ leaves its signal handlers behind, we do not."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    worker = SimpleWorker([queue], connection=queue.connection, serializer=JSONSerializer)
    worker.work(burst=True, logging_level="CRITICAL")
    for number, handler in before.items():
        signal.signal(number, handler)


def wait(settings, job_id, seconds):
    async def ask():
        async with jobs.connect_async(settings) as redis:
            return await jobs.wait(redis, job_id, "telea", seconds)

    return asyncio.run(ask())


def test_a_submitted_job_waits_in_the_queue(queue, settings):
    first = jobs.submit(queue, job(mask=KEY, mask_grow=4), settings)
    second = jobs.submit(queue, job(), settings)
    record = jobs.read(queue, first, settings)
    assert record.status == "queued"
    assert record.job == job(mask=KEY, mask_grow=4)
    assert (record.queue_position, jobs.read(queue, second, settings).queue_position) == (0, 1)
    assert (record.started_at, record.finished_at, record.outcome) == (None, None, None)
    assert record.attempts == 1
    assert record.expires_at - record.created_at == timedelta(days=1)
    assert abs(datetime.now(UTC) - record.created_at) < timedelta(seconds=5)


def test_a_job_travels_without_its_defaults(queue, settings):
    """So that a worker one version older refuses only jobs that use a newer field."""
    job_id = jobs.submit(queue, job(), settings)
    stored = queue.fetch_job(job_id)
    assert stored.args == [{"image": KEY, "model": "telea"}]
    assert stored.func_name == jobs.INPAINT_TASK


def test_everything_that_a_job_leaves_in_redis_expires(queue, settings, redis, task):
    task("fill")
    jobs.submit(queue, job(), settings)
    task("crash")
    jobs.submit(queue, job(), settings)
    work(queue)
    left = [key.decode() for key in redis.keys("rq:job:*") + redis.keys("rq:results:*")]
    assert len(left) == 4
    for key in left:
        assert 0 < redis.ttl(key) <= settings.result_ttl_seconds


def test_a_finished_job_tells_its_outcome(queue, settings, task):
    task("fill")
    job_id = jobs.submit(queue, job(), settings)
    work(queue)
    record = jobs.read(queue, job_id, settings)
    assert record.status == "succeeded"
    assert record.outcome.result == KEY
    assert record.outcome.seconds["infer"] == 0.5
    assert 0 <= record.outcome.seconds["queue"] < 5
    assert record.created_at <= record.started_at <= record.finished_at
    assert record.queue_position is None
    assert wait(settings, job_id, 5) == record.outcome


def test_a_refusal_that_the_worker_found_is_a_failed_job_with_its_problem(queue, settings, task):
    task("refuse")
    job_id = jobs.submit(queue, job(), settings)
    work(queue)
    record = jobs.read(queue, job_id, settings)
    problem = Problem(code="mask-empty", detail="The mask is empty.", field="mask")
    assert record.status == "failed"
    assert record.outcome.problem == problem
    assert record.attempts == 1
    assert type(problem.error()).__name__ == "MaskEmpty"
    assert Problem.of(problem.error()) == problem


def test_a_task_that_raises_is_run_once_more_and_then_failed(queue, settings, task):
    task("crash")
    job_id = jobs.submit(queue, job(), settings)
    work(queue)
    record = jobs.read(queue, job_id, settings)
    assert (record.status, record.attempts) == ("failed", 2)
    assert record.outcome.problem.code == "internal"
    assert "a bug" not in record.outcome.problem.detail  # traces stay in the log
    assert wait(settings, job_id, 5) == record.outcome


def test_a_task_that_runs_too_long_is_timed_out(queue, settings, task):
    task("sleep")
    hasty = settings.model_copy(update={"job_timeout_seconds": 1})
    job_id = jobs.submit(queue, job(), hasty)
    work(queue)
    assert jobs.read(queue, job_id, settings).outcome.problem.code == "timed-out"


def test_a_waiter_is_woken_by_the_outcome(queue, settings, task):
    task("fill")
    job_id = jobs.submit(queue, job(), settings)
    found = []
    waiter = threading.Thread(target=lambda: found.append(wait(settings, job_id, 30)))
    waiter.start()
    time.sleep(1.3)  # longer than one blocking read
    work(queue)
    waiter.join(5)
    assert found[0].result == KEY
    assert found[0].seconds["queue"] > 1


def test_a_waiter_gives_up_at_its_deadline(queue, settings):
    job_id = jobs.submit(queue, job(), settings)
    began = time.monotonic()
    assert wait(settings, job_id, 1.5) is None
    assert 1.4 < time.monotonic() - began < 2.5
    assert wait(settings, job_id, 0) is None


def test_a_waiter_of_a_job_that_was_taken_away_does_not_wait_on(queue, settings):
    job_id = jobs.submit(queue, job(), settings)
    queue.fetch_job(job_id).cancel()
    began = time.monotonic()
    outcome = wait(settings, job_id, 30)
    assert outcome.problem.detail == "The job was ended from outside."
    assert time.monotonic() - began < 3
    assert jobs.read(queue, job_id, settings).status == "canceled"


def test_a_waiter_outlives_a_server_that_is_killed(own_server, tmp_path, task):
    task("fill")
    settings = Settings(data=tmp_path, redis_url=own_server.url())
    with jobs.connect(settings) as redis:
        queue = jobs.open_queue(redis)
        job_id = jobs.submit(queue, job(), settings)
        found = []
        waiter = threading.Thread(target=lambda: found.append(wait(settings, job_id, 30)))
        waiter.start()
        time.sleep(0.3)
        own_server.kill()
        time.sleep(0.5)
        own_server.start()
        work(queue)
        waiter.join(10)
    assert found[0].result == KEY


def test_a_full_queue_takes_no_more(queue, settings):
    small = settings.model_copy(update={"queue_limit": 2})
    jobs.submit(queue, job(), small)
    jobs.submit(queue, job(), small)
    with pytest.raises(QueueFull, match="2 jobs wait"):
        jobs.submit(queue, job(), small)
    assert queue.count == 2


def test_without_redis_the_queue_is_unavailable_within_two_seconds(tmp_path):
    away = Settings(data=tmp_path, redis_url=f"unix://{tmp_path}/nobody.sock")
    with jobs.connect(away) as redis:
        queue = jobs.open_queue(redis)
        began = time.monotonic()
        with pytest.raises(QueueUnavailable):
            jobs.submit(queue, job(), away)
        with pytest.raises(QueueUnavailable):
            jobs.read(queue, jobs.new_id(), away)
    assert time.monotonic() - began < 4


def test_a_full_server_leaves_nothing_half_written(own_server, tmp_path):
    settings = Settings(data=tmp_path, redis_url=own_server.url())
    with jobs.connect(settings) as redis:
        queue = jobs.open_queue(redis)
        redis.config_set("maxmemory-policy", "noeviction")
        redis.config_set("maxmemory", "1mb")
        with pytest.raises(QueueUnavailable):
            jobs.submit(queue, job(), settings)
        assert redis.keys("rq:job:*") == []
        redis.config_set("maxmemory", "0")
        jobs.submit(queue, job(), settings)
        assert queue.count == 1


def test_ids_tell_when_they_were_made():
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    ids = [jobs.new_id() for _ in range(100)]
    assert len(set(ids)) == 100
    for job_id in ids:
        assert UUID(job_id).version == 7
        assert UUID(job_id).variant == "specified in RFC 4122"
        assert before <= jobs.created_at(job_id) <= datetime.now(UTC)


@pytest.mark.parametrize(
    "text",
    ["", "x", KEY, "6f1d2c5e-8a3b-4c4d-9e5f-000000000000", "../../etc", "x" * 10_000, "ß"],
)
def test_what_is_no_id_is_not_found(queue, settings, text):
    assert jobs.created_at(text) is None
    with pytest.raises(NotFound):
        jobs.read(queue, text, settings)


def test_an_unknown_id_is_expired_when_it_is_older_than_jobs_are_kept(queue, settings):
    with pytest.raises(NotFound):
        jobs.read(queue, jobs.new_id(), settings)
    with pytest.raises(Expired):  # of the year 2020
        jobs.read(queue, "01700000-0000-7000-8000-000000000000", settings)
    with pytest.raises(NotFound):  # of the far future
        jobs.read(queue, "ffffffff-ffff-7000-8000-000000000000", settings)


@pytest.mark.parametrize(
    "fields",
    [{"mask_grow": 129}, {"mask_mode": "black"}, {"output_quality": 0}, {"mask": "../x"}, {"x": 1}],
)
def test_a_job_that_breaks_the_contract_cannot_be_made(fields):
    with pytest.raises(ValidationError):
        job(**fields)


def test_an_outcome_survives_its_journey():
    outcome = Outcome(model="telea", result=KEY, coverage=0.25, seconds={"infer": 0.1})
    assert Outcome.model_validate(outcome.model_dump(mode="json")) == outcome
