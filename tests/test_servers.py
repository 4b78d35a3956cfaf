import pytest
from redis import Redis

from inpaint.errors import StartFailed
from inpaint.servers import check_blobs, check_queue, judge_queue


@pytest.fixture
def configure(own_server):
    """Change the configuration of `own_server`."""
    with Redis.from_url(own_server.url()) as client:
        yield client.config_set


def test_a_server_as_it_comes_is_taken(own_server, caplog):
    check_queue(own_server.url())
    assert not caplog.records


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-lfu", "allkeys-random"])
def test_a_queue_that_may_evict_jobs_is_refused(own_server, configure, policy):
    configure("maxmemory-policy", policy)
    with pytest.raises(StartFailed, match=f"{policy}.*delete accepted jobs.*noeviction"):
        check_queue(own_server.url())


def test_a_queue_that_may_evict_outcomes_is_spoken_of(own_server, configure, caplog):
    configure("maxmemory-policy", "volatile-lru")
    check_queue(own_server.url())
    assert "deletes outcomes before their time" in caplog.text


@pytest.mark.parametrize("version", ["6.2.14", "5.0.7"])
def test_an_old_server_is_refused_with_its_version(redis, version):
    facts = redis.info()
    judge_queue(facts)
    with pytest.raises(StartFailed, match=f"Redis {version}; Redis 7.0 or newer, or Valkey"):
        judge_queue(facts | {"redis_version": version})


def test_a_server_that_is_away_is_not_judged(own_server, server, caplog):
    own_server.kill()
    check_queue(own_server.url())
    check_blobs(own_server.url(), server.url())
    check_blobs(server.url(), own_server.url())
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "the queue's server is not checked",
        "the store of pictures is not checked",
        "the store of pictures is not checked",
    ]


@pytest.mark.parametrize("url", ["redis://localhost:port", "redis://localhost:99999"])
def test_what_is_not_an_address_is_named(server, url):
    with pytest.raises(StartFailed, match="REDIS_URL is not an address"):
        check_queue(url)
    with pytest.raises(StartFailed, match="INPAINT_BLOBS is not an address"):
        check_blobs(url, server.url())


def test_the_queues_own_database_is_no_store_by_whatever_name(server):
    with pytest.raises(StartFailed, match="queue's own database"):
        check_blobs(f"unix://{server.folder}/./redis.sock", server.url(0))


def test_another_database_of_the_queues_server_is_spoken_of(server, caplog):
    check_blobs(server.url(3), server.url(0))
    assert "the queue's own server" in caplog.text


def test_a_store_that_does_not_suit_pictures_is_spoken_of(own_server, configure, server, caplog):
    configure("maxmemory-policy", "allkeys-lru")
    configure("maxmemory", "0")
    check_blobs(own_server.url(), server.url())
    assert "evicts by allkeys-lru" in caplog.text
    assert "has no maxmemory" in caplog.text
    assert "append-only file" in caplog.text
    assert "own server" not in caplog.text


def test_a_store_that_suits_pictures_is_not_spoken_of(own_server, configure, server, caplog):
    configure("maxmemory-policy", "volatile-ttl")
    configure("maxmemory", "100mb")
    configure("appendonly", "no")
    check_blobs(own_server.url(), server.url())
    assert not caplog.records
