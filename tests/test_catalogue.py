import asyncio

import pytest

from inpaint import catalogue, jobs
from inpaint.catalogue import Card, WorkerCard
from inpaint.errors import NoWorker, UnknownModel


def card(name, *models, detectors=()):
    held, finds = (
        tuple(Card(name=model, architecture=model) for model in names)
        for names in (models, detectors)
    )
    facts = {"pid": 1, "device": "cpu", "engine": "torch", "precision": "fp32"}
    return WorkerCard(worker=name, models=held, detectors=finds, **facts)


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


def test_a_worker_holds_several_only_where_it_holds_each():
    held = card("a", "telea", "grey", detectors=["scratches"])
    assert held.holds("scratches", "grey")
    assert not held.holds("telea", "other")


def test_models_and_detectors_are_asked_for_by_their_own_names():
    cards = [card("a", "telea"), card("b", "grey", detectors=["scratches"])]
    assert list(catalogue.detectors(cards)) == ["scratches"]
    catalogue.check_model(cards, "telea")
    catalogue.check_detector(cards, "scratches")
    catalogue.check_detector(cards, "scratches", model="grey")
    with pytest.raises(UnknownModel, match="the models are grey, telea") as refusal:
        catalogue.check_model(cards, "scratches")
    assert refusal.value.field == "model"
    with pytest.raises(UnknownModel, match="the detectors are: scratches") as refusal:
        catalogue.check_detector(cards, "telea", field="detector")
    assert refusal.value.field == "detector"
    with pytest.raises(UnknownModel, match="the detectors are: none"):
        catalogue.check_detector(cards[:1], "scratches")
    with pytest.raises(NoWorker, match="both scratches and telea"):
        catalogue.check_detector(cards, "scratches", model="telea")
