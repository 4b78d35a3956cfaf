import asyncio

from inpaint import catalogue, jobs
from inpaint.catalogue import Card, WorkerCard


def card(name, *models):
    held = tuple(Card(name=model, architecture=model) for model in models)
    return WorkerCard(
        worker=name, pid=1, device="cpu", engine="torch", precision="fp32", models=held
    )


def ready(settings):
    async def ask():
        async with jobs.connect_async(settings) as redis:
            return await catalogue.ready(redis)

    return asyncio.run(ask())


def test_no_worker_has_published_anything(redis, settings):
    assert catalogue.workers(redis) == []
    assert ready(settings) == []


def test_the_gateway_reads_what_workers_publish(redis, settings):
    first, second = card("b", "telea"), card("a", "telea", "navier-stokes")
    catalogue.publish(redis, first)
    catalogue.publish(redis, second)
    assert ready(settings) == [second, first] == catalogue.workers(redis)
    assert sorted(catalogue.models([first, second])) == ["navier-stokes", "telea"]


def test_a_later_card_of_a_worker_takes_the_place_of_the_earlier(redis):
    catalogue.publish(redis, card("a", "telea"))
    catalogue.publish(redis, card("a", "navier-stokes"))
    assert catalogue.workers(redis) == [card("a", "navier-stokes")]


def test_a_worker_that_withdraws_is_gone_at_once(redis):
    catalogue.publish(redis, card("a", "telea"))
    catalogue.publish(redis, card("b", "telea"))
    catalogue.withdraw(redis, "a")
    assert catalogue.workers(redis) == [card("b", "telea")]


def test_a_silent_worker_drops_out_by_itself(redis, monkeypatch, eventually):
    monkeypatch.setattr(catalogue, "CARD_TTL_SECONDS", 1)
    catalogue.publish(redis, card("a", "telea"))
    assert catalogue.workers(redis)
    eventually(lambda: catalogue.workers(redis) == [], seconds=3)


def test_a_name_whose_card_expired_is_forgotten_by_the_next_publication(redis):
    catalogue.publish(redis, card("killed", "telea"))
    redis.delete("inpaint:worker:killed")
    catalogue.publish(redis, card("a", "telea"))
    assert redis.smembers(catalogue.WORKERS) == {b"a"}


def test_a_card_outlives_three_lost_beats():
    assert 3 * catalogue.BEAT_SECONDS < catalogue.CARD_TTL_SECONDS


def test_a_card_of_a_newer_worker_is_read_as_far_as_it_is_known(redis, settings):
    text = card("a", "telea").model_dump_json()
    newer = text.replace('"pid":1', '"pid":1,"novelty":1').replace(
        '"license"', '"mood":"fine","license"'
    )
    redis.set("inpaint:worker:a", newer)
    redis.sadd(catalogue.WORKERS, "a")
    assert newer.count("novelty") == newer.count("mood") == 1
    assert ready(settings) == [card("a", "telea")]
