"""The contract, and the record that is read of a job in each state."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from pydantic import ValidationError

from inpaint import jobs
from inpaint.admission import admit, cancel
from inpaint.errors import Expired, NotFound, QueueUnavailable
from inpaint.jobs import InpaintJob, Outcome, Problem
from inpaint.settings import Settings

KEY = "0123456789abcdef" * 2


def job(**fields):
    return InpaintJob(image=KEY, model="telea", **fields)


@pytest.fixture
def submit(redis, settings):
    return lambda **fields: admit(redis, job(**fields), settings, share="client:a", size=7)


@pytest.fixture
def read(redis, settings):
    return lambda job_id: jobs.read(redis, job_id, settings)


def test_a_job_that_was_admitted_waits_in_its_queue(submit, read):
    first, second = submit(mask=KEY, mask_grow=4), submit()
    record = read(first)
    assert (record.status, record.queue) == ("queued", "v2.interactive.telea")
    assert record.job == job(mask=KEY, mask_grow=4)
    assert (record.queue_position, read(second).queue_position) == (0, 1)
    assert (record.started_at, record.finished_at, record.outcome) == (None, None, None)
    assert record.attempts == 1
    assert record.expires_at - record.created_at == timedelta(days=1)
    assert abs(datetime.now(UTC) - record.created_at) < timedelta(seconds=5)


def test_a_job_of_before_there_was_refinement_is_read():
    old = {"version": 2, "image": KEY, "mask": KEY, "model": "telea", "tone": ["fade"]}
    assert InpaintJob.model_validate(old).refine == "auto"


def test_a_job_that_was_just_admitted_needs_no_reading(submit, read, settings):
    job_id = submit(mask_grow=4)
    record = jobs.fresh(job_id, job(mask_grow=4), "interactive", settings)
    assert read(job_id) == replace(record, queue_position=0)


def test_a_claimed_job_runs(submit, read, by_hand):
    job_id = submit()
    by_hand.claim()
    record = read(job_id)
    assert (record.status, record.queue_position, record.outcome) == ("running", None, None)
    assert record.started_at >= record.created_at - timedelta(milliseconds=1)


def test_a_finished_job_tells_its_outcome(submit, read, by_hand):
    job_id = submit()
    by_hand.commit(*by_hand.claim())
    record = read(job_id)
    assert record.status == "succeeded"
    assert record.outcome.result == KEY
    assert record.outcome.seconds["infer"] == 0.5
    assert 0 <= record.outcome.seconds["queue"] < 5
    assert record.started_at <= record.finished_at
    assert record.expires_at - record.finished_at == timedelta(days=1)
    assert record.queue_position is None


def test_a_refusal_that_the_worker_found_is_a_failed_job_with_its_problem(submit, read, by_hand):
    problem = {"code": "mask-empty", "detail": "The mask is empty.", "field": "mask"}
    job_id = submit()
    by_hand.commit(*by_hand.claim(), ending={"model": "telea", "problem": problem})
    record = read(job_id)
    assert record.status == "failed"
    assert record.outcome.problem == Problem(**problem)
    assert record.attempts == 1
    assert type(record.outcome.problem.error()).__name__ == "MaskEmpty"
    assert Problem.of(record.outcome.problem.error()) == record.outcome.problem


def test_a_bug_is_a_failed_job_that_says_nothing_of_it(submit, read, by_hand, redis):
    job_id = submit()
    claims = by_hand.claim()
    redis.hset(f"rq:job:{job_id}", "lost", 1)  # before: this time its worker lives
    by_hand.commit(*claims, ending=RuntimeError("a bug"))
    record = read(job_id)
    assert (record.status, record.attempts) == ("failed", 2)
    assert record.outcome.problem.code == "internal"
    assert "a bug" not in record.outcome.problem.detail  # traces stay in the log


def test_a_job_that_lost_too_many_workers_says_so(submit, read, by_hand, redis, settings):
    """Each time its lease has run out; max_lost is 3."""
    job_id, leases = submit(), "rq:wip:v2.interactive.telea"
    for _ in range(4):
        (claim,) = by_hand.claim()
        claim.live = False  # this worker, the test's, does not renew it
        redis.zadd(leases, dict.fromkeys(redis.zrange(leases, 0, -1), 1.0))
        by_hand.worker.renew_and_reap()
        by_hand.worker._held.clear()  # the next claim is that of another worker
    record = read(job_id)
    assert (record.status, record.attempts) == ("failed", 4)
    assert record.outcome.problem.code == "worker-lost"


def test_a_canceled_job_says_so_and_when(submit, read, redis):
    job_id = submit()
    cancel(redis, job_id)
    record = read(job_id)
    assert (record.status, record.queue_position) == ("canceled", None)
    assert record.outcome.problem.code == "job-canceled"
    assert record.created_at <= record.finished_at + timedelta(milliseconds=1)


def test_an_answer_of_a_worker_of_another_version_is_a_failed_job(submit, read, by_hand):
    job_id = submit()
    by_hand.commit(*by_hand.claim(), ending={"model": "telea", "novelty": 1})
    record = read(job_id)
    assert (record.status, record.outcome.problem.code) == ("failed", "internal")


def test_everything_that_an_ended_job_leaves_in_redis_expires(submit, by_hand, redis, settings):
    submit(), submit()
    first, second = by_hand.claim(2)
    by_hand.commit(first)
    by_hand.commit(second, ending=RuntimeError("a bug"))
    cancel(redis, submit())
    left = [key.decode() for key in redis.keys("rq:job:*") + redis.keys("rq:results:*")]
    assert len(left) == 5
    for key in left:
        assert 0 < redis.ttl(key) <= settings.result_ttl_seconds
    assert not redis.exists("inpaint:load")


def test_without_redis_the_queue_is_unavailable(tmp_path):
    away = Settings(data=tmp_path, redis_url=f"unix://{tmp_path}/nobody.sock")
    with jobs.connect(away) as redis, pytest.raises(QueueUnavailable):
        jobs.read(redis, jobs.new_id(), away)


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
def test_what_is_no_id_is_not_found(read, text):
    assert jobs.created_at(text) is None
    with pytest.raises(NotFound):
        read(text)


def test_an_unknown_id_is_expired_when_it_is_older_than_jobs_are_kept(read):
    with pytest.raises(NotFound):
        read(jobs.new_id())
    with pytest.raises(Expired):  # of the year 2020
        read("01700000-0000-7000-8000-000000000000")
    with pytest.raises(NotFound):  # of the far future
        read("ffffffff-ffff-7000-8000-000000000000")


@pytest.mark.parametrize(
    "fields",
    [
        *[{"mask_grow": 129}, {"mask_mode": "black"}, {"output_quality": 0}, {"mask": "../x"}],
        *[{"auto_mask": "dust"}, {"auto_mask_sensitivity": 1.1}, {"mask_only": True}],
        *[{"auto_mask_sensitivity": float("nan")}, {"version": 1}, {"x": 1}],
    ],
)
def test_a_job_that_breaks_the_contract_cannot_be_made(fields):
    with pytest.raises(ValidationError):
        job(**fields)


@pytest.mark.parametrize(
    ("fields", "models"),
    [
        ({}, ("telea",)),
        ({"auto_mask": "scratches"}, ("telea", "scratches")),
        ({"auto_mask": "scratches", "mask_only": True}, ("scratches",)),
    ],
)
def test_a_job_waits_in_the_queue_of_all_that_it_needs(submit, read, fields, models):
    record = read(submit(**fields))
    assert record.job.models == models
    assert record.queue == f"v2.interactive.{'+'.join(models)}"


def test_a_job_of_another_contract_is_not_read():
    written = job(auto_mask="scratches").model_dump(mode="json")
    assert written["version"] == jobs.CONTRACT == 2
    assert InpaintJob.model_validate(written) == job(auto_mask="scratches")
    with pytest.raises(ValidationError):
        InpaintJob.model_validate(written | {"version": 1})


def test_an_outcome_survives_its_journey():
    facts = {"coverage": 0.25, "seconds": {"infer": 0.1}, "mask_source": "mask+scratches"}
    facts |= {"unchanged": True, "warning": "mask-large"}
    outcome = Outcome(model="telea", result=KEY, mask=KEY, **facts)
    assert Outcome.model_validate(outcome.model_dump(mode="json")) == outcome
