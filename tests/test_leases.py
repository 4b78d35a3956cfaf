"""The three steps, one by one, against a real server; whole processes are in test_lost_workers."""

import json
import queue
import signal
import time
import zlib

import pytest
from redis import Redis
from redis.exceptions import OutOfMemoryError, RedisError
from rq import Callback, Queue
from rq.job import Job
from rq.registry import FinishedJobRegistry
from rq.serializers import JSONSerializer
from rq.suspension import resume, suspend

from inpaint import admission, jobs
from inpaint.jobs import INPAINT_TASK, InpaintJob
from inpaint.settings import Settings
from worker.leases import BatchWorker

KEY = "0" * 32
LEASE = 0.5  # seconds
OUTCOME = {"model": "grey", "result": KEY}


class Inline:
    """Stages that run a job, a function of its claim, as it is taken."""

    def __init__(self, run=lambda claim: OUTCOME):
        self.run = run
        self.taken = []
        self.done = queue.SimpleQueue()

    def room(self, seconds):
        return 4, 4

    def take(self, claim):
        self.taken.append(claim)
        try:
            self.done.put((claim, self.run(claim)))
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
def settings(settings):
    return settings.model_copy(update={"lease_seconds": LEASE, "max_lost": 1})


@pytest.fixture
def worker(redis, settings):
    """A function that makes a worker; it does nothing by itself."""
    made = []

    def make(*models):
        made.append(BatchWorker(settings, models or ("grey",), Inline()))
        return made[-1]

    yield make
    for each in made:
        each.connection.close()


@pytest.fixture
def run_all(settings):
    """Run RQ's own loop in this process until no job is left; returns the stages."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(stages=None, *, models=("grey",), settings=settings):
        stages = stages or Inline()
        whole = BatchWorker(settings, models, stages)
        whole.work(burst=True, logging_level="WARNING")
        whole.connection.close()
        return stages

    yield run
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def admit(redis, settings):
    def put(model="grey", lane="interactive", **options):
        job = InpaintJob(image=KEY, mask=KEY, model=model)
        options = {"share": "client:a", "size": 10} | options
        time.sleep(0.002)  # ids sort by time, to the millisecond
        return admission.admit(redis, job, settings, lane=lane, **options)

    return put


def claimed(worker, room=(8, 8)):
    """The claims of one step; their jobs are ours."""
    found = worker.claim(room)
    assert not [fault for _, fault in found if fault]
    return [claim for claim, _ in found]


def ids(claims):
    return [claim.id for claim in claims]


def fetch(redis, job):
    return Job.fetch(job, connection=redis, serializer=JSONSerializer)


def status(redis, job):
    return redis.hget(f"rq:job:{job}", "status").decode()


def load(redis):
    return {name.decode(): int(count) for name, count in redis.hgetall("inpaint:load").items()}


def let_leases_run_out():
    time.sleep(LEASE + 0.1)


# claim


def test_the_oldest_waiting_request_decides_the_model_and_bulk_fills_up(worker, admit):
    bulk = admit("late", "bulk")
    admit("early", "bulk")
    first = admit("late")
    admit("early")

    assert ids(claimed(worker("early", "late"))) == [first, bulk]


def test_bulk_jobs_are_claimed_when_no_request_waits(worker, admit):
    admit("late", "bulk", share="album:1")
    admit("early", "bulk", share="album:2")

    (claim,) = claimed(worker("early", "late"))

    assert (claim.payload["model"], claim.lane, claim.alone) == ("late", "bulk", False)


def test_each_fourth_claim_prefers_bulk(worker, admit):
    for _ in range(8):
        admit()
        admit(lane="bulk")
    mine = worker()

    lanes = [claim.lane for _ in range(8) for claim in claimed(mine, (1, 1))]

    assert lanes == [*["interactive"] * 3, "bulk"] * 2


def test_no_more_are_claimed_than_there_is_room_for(worker, admit):
    jobs_ = [admit() for _ in range(5)]
    mine = worker()
    assert ids(claimed(mine, (3, 3))) == jobs_[:3]
    assert ids(claimed(mine, (3, 3))) == jobs_[3:]


def test_a_lane_without_room_is_left_and_the_other_is_not(worker, admit, redis):
    album, mine = [admit(lane="bulk") for _ in range(2)], worker()
    assert mine.claim((4, 0)) == []
    assert mine._more  # jobs wait, though there is no room for them

    request = admit()

    for _ in range(3):  # also when it is the album's turn
        assert claimed(mine, (0, 0)) == []
        assert ids(claimed(mine, (4, 0))) == [request]
        request = admit()
    assert ids(claimed(mine, (0, 1))) == album[:1]
    assert ids(claimed(mine, (1, 2))) == [request, album[1]]


def test_a_ring_for_a_lane_without_room_is_passed_on(worker, admit, redis):
    job, full, free = admit(lane="bulk"), worker(), worker()

    assert full.claim((4, 0), redis.blpop([jobs.BELL], 1)) == []

    ((claim, _),) = free.claim((4, 4), redis.blpop([jobs.BELL], 1))
    assert claim.id == job


def test_a_claimed_job_is_started_and_leased(worker, admit, redis):
    job = admit()
    mine = worker()

    (claim,) = claimed(mine)

    assert claim.payload == {"image": KEY, "mask": KEY, "model": "grey"}
    found = fetch(redis, job)
    assert found.get_status() == "started"
    assert found.worker_name == mine.name
    assert found.started_at is not None
    (member,) = redis.zrange("rq:wip:v2.interactive.grey", 0, -1)
    assert member.decode().startswith(f"{job}:")


def test_a_duplicate_id_is_claimed_once(worker, admit, redis):
    job = admit()
    redis.rpush("rq:queue:v2.interactive.grey", job, job)
    mine = worker()

    assert ids(claimed(mine)) == [job]
    assert claimed(mine) == []
    assert redis.llen("rq:queue:v2.interactive.grey") == 0


def test_a_job_canceled_in_the_queue_is_not_claimed(worker, admit, redis):
    job, other = admit(), admit()
    assert admission.cancel(redis, job) == "queued"
    redis.lpush("rq:queue:v2.interactive.grey", job)  # whoever left its id behind

    assert ids(claimed(worker())) == [other]
    assert status(redis, job) == "canceled"


def test_an_id_that_rq_would_refuse_is_dropped(worker, admit, redis):
    redis.hset("rq:job:a:b", "status", "queued")
    redis.rpush("rq:queue:v2.interactive.grey", "a:b")
    assert claimed(worker()) == []
    assert redis.llen("rq:queue:v2.interactive.grey") == 0


def test_a_suspect_waits_for_a_worker_that_holds_nothing_and_then_comes_alone(worker, admit, redis):
    first, suspect, last = admit(), admit(), admit()
    redis.hset(f"rq:job:{suspect}", "lost", 1)
    mine = worker()

    (held,) = claimed(mine)
    assert held.id == first
    assert claimed(mine) == []
    mine.commit([(held, OUTCOME)])
    (held,) = claimed(mine)
    assert (held.id, held.alone) == (suspect, True)
    mine.commit([(held, OUTCOME)])
    assert ids(claimed(mine)) == [last]


def test_who_hears_the_bell_without_a_job_for_its_models_passes_it_on_once(worker, admit, redis):
    job = admit("other")
    first, second, third = worker(), worker(), worker("other")
    for deaf in (first, second):
        assert deaf.claim((4, 4), redis.blpop([jobs.BELL], 1)) == []
        assert redis.lrange(jobs.BELL, 0, -1) == [first.name.encode()]
    ((claim, _),) = third.claim((4, 4), redis.blpop([jobs.BELL], 1))
    assert claim.id == job

    assert first.claim((4, 4), (jobs.BELL, first.name.encode())) == []
    assert not redis.exists(jobs.BELL)


def test_suspended_workers_claim_nothing(worker, admit, redis):
    admit()
    mine = worker()
    suspend(redis)
    assert claimed(mine) == []
    resume(redis)
    assert len(claimed(mine)) == 1


def test_queues_of_another_version_of_the_contract_are_not_touched(run_all, redis, admit):
    admit()
    redis.sadd("rq:queues", "rq:queue:v3.interactive.grey")
    redis.rpush("rq:queue:v3.interactive.grey", "newer")
    redis.hset("rq:job:newer", "status", "queued")
    redis.hset("rq:job:running", "status", "started")
    redis.zadd("rq:wip:v3.interactive.grey", {"running:token": 1})
    redis.hset("inpaint:load", "bulk", 7)

    assert len(run_all().taken) == 1

    assert redis.lrange("rq:queue:v3.interactive.grey", 0, -1) == [b"newer"]
    assert redis.zrange("rq:wip:v3.interactive.grey", 0, -1) == [b"running:token"]
    assert load(redis) == {"bulk": 7}  # something is unfinished: nothing is known to have drifted


@pytest.mark.slow
def test_jobs_of_a_claim_whose_answer_was_lost_are_claimed_again_and_not_held_against_them(
    own_server, tmp_path
):
    settings = Settings(data=tmp_path, redis_url=own_server.url(), lease_seconds=5)
    mine = BatchWorker(settings, ["grey"], Inline())
    assert claimed(mine) == []  # the server knows the script now
    with Redis.from_url(own_server.url()) as redis:
        job = InpaintJob(image=KEY, model="grey")
        jobs_ = []
        for _ in range(3):
            jobs_.append(admission.admit(redis, job, settings, share="client:a", size=1))
            time.sleep(0.002)  # ids sort by time, to the millisecond

        own_server.process.send_signal(signal.SIGSTOP)
        with pytest.raises(RedisError):
            mine.claim((2, 2))
        own_server.process.send_signal(signal.SIGCONT)

        assert ids(claimed(mine, (3, 3))) == jobs_
        assert redis.zcard("rq:wip:v2.interactive.grey") == 3
        assert not any(redis.hexists(f"rq:job:{each}", "lost") for each in jobs_)
    mine.connection.close()


# what Redis names is never run


def test_another_task_fails_and_nothing_of_it_is_imported_or_called(run_all, redis, tmp_path):
    made = [tmp_path / name for name in ("function", "failed", "method")]
    box = Queue("v2.interactive.grey", connection=redis, serializer=JSONSerializer)
    foreign = box.enqueue("os.mkdir", str(made[0]), on_failure=Callback("os.mkdir"))
    method = box.enqueue(f"pathlib.Path.{'mkdir'}", str(made[2]))

    assert run_all().taken == []

    assert not any(path.exists() for path in made)
    assert "the task 'os.mkdir' is not" in fetch(redis, foreign.id).latest_result().exc_string
    assert fetch(redis, method.id).get_status() == "failed"


def test_callbacks_and_webhooks_that_redis_names_are_left_alone(run_all, admit, redis):
    job = admit()
    hook = {"url": "http://127.0.0.1:9/", "job_status": "finished"}
    hooks = {"success_callback_name": "os.abort", "webhooks": json.dumps([hook])}
    redis.hset(f"rq:job:{job}", mapping=hooks)

    run_all()

    assert status(redis, job) == "finished"


@pytest.mark.parametrize(
    "arguments", [([],), (["a job"],), ([{}, {}],), ([{}], {"more": 1})], ids=str
)
def test_a_payload_that_is_no_dict_fails_and_is_not_run(arguments, run_all, redis):
    box = Queue("v2.interactive.grey", connection=redis, serializer=JSONSerializer)
    args, kwargs = (*arguments, {})[:2]
    job = box.enqueue(INPAINT_TASK, args=args, kwargs=kwargs)

    assert run_all().taken == []

    assert "takes one InpaintJob as a dict" in fetch(redis, job.id).latest_result().exc_string


@pytest.mark.parametrize(
    "broken", [b"\x80pickle", zlib.compress(b"\xff"), b"7", b"[" * 100_000], ids=range(4)
)
def test_data_that_cannot_be_read_fail_their_job_and_take_nothing_along(
    broken, run_all, admit, redis
):
    bad, good = admit(), admit()
    redis.hset(f"rq:job:{bad}", "data", broken)

    assert ids(run_all().taken) == [good]

    assert (status(redis, bad), status(redis, good)) == ("failed", "finished")
    for key in (f"rq:job:{bad}", f"rq:results:{bad}"):
        assert 0 < redis.ttl(key) <= 86_400  # RQ's own default is a year
    assert load(redis) == {}


@pytest.mark.parametrize("kept", ["", "-1", "long"])
def test_fields_that_only_rq_reads_keep_no_job_from_being_run(kept, run_all, admit, redis):
    job = admit()
    fields = {"timeout": "soon", "enqueued_at": "now", "result_ttl": kept}
    redis.hset(f"rq:job:{job}", mapping=fields)
    run_all()
    assert status(redis, job) == "finished"
    assert 86_000 < redis.ttl(f"rq:job:{job}") <= 86_400  # as long as the worker's settings say


def test_a_record_without_data_fails(run_all, redis):
    redis.hset("rq:job:empty", "status", "queued")
    redis.rpush("rq:queue:v2.interactive.grey", "empty")
    assert run_all().taken == []
    assert status(redis, "empty") == "failed"


# commit


def test_what_came_out_is_committed_and_who_waits_is_told(worker, admit, redis, told, settings):
    job = admit(reply="inpaint:reply:g")
    mine = worker()
    (claim,) = claimed(mine)

    mine.commit([(claim, OUTCOME)])

    found = fetch(redis, job)
    assert (found.get_status(), found.latest_result().return_value) == ("finished", OUTCOME)
    assert found.ended_at >= found.started_at
    assert told("inpaint:reply:g") == [f"{job} finished"]
    job_id, ending, entries = jobs.read_hint(redis.lindex("inpaint:reply:g", 0))
    heard = jobs.outcome(job_id, "grey", ending, entries)
    assert heard == jobs.read(redis, job, settings).outcome
    assert 0 < redis.ttl("inpaint:reply:g") <= 60
    assert redis.zcard("rq:wip:v2.interactive.grey") == 0


def test_many_are_committed_at_once(worker, admit, redis):
    jobs_ = [admit() for _ in range(20)]
    mine = worker()
    claims = claimed(mine, (20, 20))

    mine.commit([(claim, {"model": "grey", "windows": n}) for n, claim in enumerate(claims)])

    found = [fetch(redis, job).latest_result().return_value["windows"] for job in jobs_]
    assert found == list(range(20))


def test_a_bug_fails_its_job_at_once_with_the_traceback(run_all, admit, redis, told):
    def raises(claim):
        raise ValueError("no such colour")

    job = admit(reply="inpaint:reply:g")
    run_all(Inline(raises))

    found = fetch(redis, job)
    assert found.get_status() == "failed"
    assert "ValueError: no such colour" in found.latest_result().exc_string
    assert told("inpaint:reply:g") == [f"{job} failed"]
    assert redis.llen("rq:queue:v2.interactive.grey") == 0  # RQ would try it again


@pytest.mark.parametrize("by_rq", [False, True])
def test_a_job_canceled_while_it_runs_stays_canceled_and_its_worker_learns_of_it(
    by_rq, worker, admit, redis
):
    job = admit()
    mine = worker()
    (claim,) = claimed(mine)
    if by_rq:
        fetch(redis, job).cancel()
    else:
        assert admission.cancel(redis, job) == "running"

    mine.renew_and_reap()
    assert not claim.live
    assert mine.commit([(claim, OUTCOME)]) == [OUTCOME]

    assert status(redis, job) == "canceled"
    assert redis.xlen(f"rq:results:{job}") == 0
    assert redis.zcard("rq:wip:v2.interactive.grey") == 0


def test_a_job_that_was_deleted_while_it_ran_does_not_come_back(worker, admit, redis):
    job = admit()
    mine = worker()
    (claim,) = claimed(mine)
    redis.delete(f"rq:job:{job}")

    mine.commit([(claim, OUTCOME)])

    assert not redis.exists(f"rq:job:{job}", f"rq:results:{job}")


def test_a_worker_that_lost_its_lease_cannot_commit(worker, admit, redis):
    job = admit()
    late, other = worker(), worker()
    (mine,) = claimed(late)
    let_leases_run_out()
    other.renew_and_reap()
    (theirs,) = claimed(other)

    late.commit([(mine, {"model": "late"})])
    assert status(redis, job) == "started"
    other.commit([(theirs, OUTCOME)])
    late.renew_and_reap()

    found = fetch(redis, job)
    assert [result.return_value for result in found.results()] == [OUTCOME]


def test_a_second_commit_of_the_same_claim_changes_nothing(worker, admit, redis):
    job = admit(reply="inpaint:reply:g")
    mine = worker()
    (claim,) = claimed(mine)
    held = dict(mine._held)
    mine.commit([(claim, OUTCOME)])
    mine._held.update(held)  # as if the answer had been lost
    assert mine.commit([(claim, OUTCOME)]) == []
    assert redis.xlen(f"rq:results:{job}") == redis.llen("inpaint:reply:g") == 1


# renew and reap


def test_a_lease_that_is_renewed_outlives_its_length(worker, admit, redis):
    job = admit()
    mine, other = worker(), worker()
    (claim,) = claimed(mine)
    for _ in range(8):
        time.sleep(LEASE / 5)
        mine.renew_and_reap()
        other.renew_and_reap()
    assert claim.live
    assert status(redis, job) == "started"


def test_jobs_of_a_lost_worker_return_to_the_front_in_their_order(worker, admit, redis):
    jobs_ = [admit() for _ in range(4)]
    claimed(worker(), (3, 3))
    let_leases_run_out()

    worker().renew_and_reap()

    waiting = [job.decode() for job in redis.lrange("rq:queue:v2.interactive.grey", 0, -1)]
    assert waiting == jobs_
    found = fetch(redis, jobs_[0])
    assert (found.get_status(), found.started_at) == ("queued", None)
    assert [redis.hget(f"rq:job:{job}", "lost") for job in jobs_] == [b"1"] * 3 + [None]
    assert redis.llen(jobs.BELL) > 0


def test_a_job_that_lost_too_many_workers_fails_with_a_result(worker, admit, redis, settings, told):
    job = admit(reply="inpaint:reply:g")
    for _ in range(settings.max_lost + 1):
        (claim,) = claimed(worker())
        let_leases_run_out()
        worker().renew_and_reap()

    found = fetch(redis, job)
    assert (found.get_status(), redis.hget(f"rq:job:{job}", "lost")) == ("failed", b"2")
    assert found.ended_at is not None
    (result,) = found.results()
    assert "WorkerLost: 2 workers were lost" in result.exc_string
    assert found.failed_job_registry.get_job_ids(cleanup=False) == [job]
    for key in (f"rq:job:{job}", f"rq:results:{job}"):
        assert 0 < redis.ttl(key) <= settings.result_ttl_seconds
    assert told("inpaint:reply:g") == [f"{job} failed"]


def test_after_a_gap_a_worker_renews_and_reaps_only_when_a_lease_has_passed(
    worker, admit, redis, eventually
):
    job = admit()
    mine, other = worker(), worker()
    (claim,) = claimed(mine)
    other.renew_and_reap()
    let_leases_run_out()  # for both: as when Redis was away

    for _ in range(2):
        other.renew_and_reap()
        time.sleep(LEASE / 4)
    assert status(redis, job) == "started"
    mine.renew_and_reap()
    assert claim.live

    eventually(lambda: other.renew_and_reap() or status(redis, job) == "queued", 20)


def test_registries_and_records_of_workers_that_expired_are_trimmed(worker, admit, redis):
    mine = worker()
    job = admit()
    mine.commit([(claimed(mine)[0], OUTCOME)])
    kinds = [f"rq:{kind}:v2.interactive.grey" for kind in ("finished", "failed", "canceled")]
    for registry in kinds:
        redis.zadd(registry, {"old": time.time() - 1})
    redis.sadd("rq:workers", "rq:worker:gone")
    redis.sadd("rq:workers:v2.interactive.grey", "rq:worker:gone")

    mine.renew_and_reap()

    kept = FinishedJobRegistry("v2.interactive.grey", connection=redis)
    assert kept.get_job_ids(cleanup=False) == [job]
    assert not redis.exists(*kinds[1:], "rq:workers", "rq:workers:v2.interactive.grey")


# load


def test_the_load_is_exact_through_every_way_of_ending(worker, admit, redis):
    mine = worker()
    ways = ("finished", "failed", "canceled running", "canceled queued", "lost")
    jobs_ = {way: admit(size=100, share=f"client:{way}") for way in ways}
    redis.hset(f"rq:job:{jobs_['lost']}", "lost", 1)
    admission.cancel(redis, jobs_["canceled queued"])
    finished, failed, canceled = claimed(mine)
    admission.cancel(redis, canceled.id)
    assert load(redis) == {
        "interactive": 3,
        "bytes": 300,
        "client:finished": 1,
        "client:failed": 1,
        "client:lost": 1,
    }

    mine.commit([(finished, OUTCOME), (failed, ValueError("a bug")), (canceled, OUTCOME)])
    assert load(redis) == {"interactive": 1, "bytes": 100, "client:lost": 1}

    (lost,) = claimed(worker())
    assert lost.alone
    redis.rpush("rq:queue:v2.interactive.grey", "x")  # so that it is not healed instead
    redis.sadd("rq:queues", "rq:queue:v2.interactive.grey")
    let_leases_run_out()
    worker().renew_and_reap()
    assert load(redis) == {}


def test_a_job_that_returns_to_the_queue_still_counts(worker, admit, redis):
    admit()
    claimed(worker())
    let_leases_run_out()
    worker().renew_and_reap()
    assert load(redis) == {"interactive": 1, "client:a": 1, "bytes": 10}


def test_what_rq_empty_left_in_the_load_is_forgotten_once_nothing_is_unfinished(
    worker, admit, redis
):
    for _ in range(3):
        admit(lane="bulk")
    mine = worker()
    (claim,) = claimed(mine, (1, 1))
    Queue("v2.bulk.grey", connection=redis, serializer=JSONSerializer).empty()
    mine.renew_and_reap()
    assert load(redis)["bulk"] == 3

    mine.commit([(claim, OUTCOME)])
    assert load(redis)["bulk"] == 2
    mine.renew_and_reap()
    assert load(redis) == {}


# a full server


@pytest.mark.slow
def test_a_full_server_still_drains_also_by_a_worker_that_starts_then(
    own_server, tmp_path, run_all
):
    settings = Settings(data=tmp_path, redis_url=own_server.url(), lease_seconds=LEASE, max_lost=1)
    with Redis.from_url(own_server.url()) as redis:
        job = InpaintJob(image=KEY, model="grey")
        put = lambda: admission.admit(redis, job, settings, share="client:a", size=1)  # noqa: E731
        jobs_ = [put() for _ in range(20)]
        lost = BatchWorker(settings, ["grey"], Inline())
        claimed(lost, (2, 2))
        redis.config_set("maxmemory-policy", "noeviction")
        redis.config_set("maxmemory", 1)
        with pytest.raises(OutOfMemoryError):
            redis.set("more", "x")
        let_leases_run_out()

        stages = run_all(Inline(lambda claim: time.sleep(0.05) or OUTCOME), settings=settings)
        deadline = time.monotonic() + 20
        while len(stages.taken) < 20 and time.monotonic() < deadline:
            stages.taken += run_all(settings=settings).taken  # what the dead worker held

        assert {status(redis, each) for each in jobs_} == {"finished"}
        assert {redis.xlen(f"rq:results:{each}") for each in jobs_} == {1}
        assert load(redis) == {}
        redis.config_set("maxmemory", 0)
    lost.connection.close()


@pytest.mark.slow
def test_a_full_server_still_renews(own_server, tmp_path):
    settings = Settings(data=tmp_path, redis_url=own_server.url(), lease_seconds=LEASE)
    mine = BatchWorker(settings, ["grey"], Inline())
    with Redis.from_url(own_server.url()) as redis:
        job = InpaintJob(image=KEY, model="grey")
        admission.admit(redis, job, settings, share="client:a", size=1)
        (claim,) = claimed(mine)
        redis.config_set("maxmemory", 1)
        for _ in range(6):
            time.sleep(LEASE / 4)
            mine.renew_and_reap()
        assert claim.live
        mine.commit([(claim, OUTCOME)])
        assert status(redis, claim.id) == "finished"
    mine.connection.close()
