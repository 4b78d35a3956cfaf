"""What a Redis server must be like, looked at once at start: the queue's, and that of the blobs.

A server that is away is not judged: it may come, and what is asked of it then fails by name.
"""

import logging
from collections.abc import Mapping
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from .errors import StartFailed

OLDEST = (7, 0)  # the first with BLMPOP, by which the gateway waits; every Valkey has it
SECONDS = 2.0  # to connect, and for an answer

log = logging.getLogger("inpaint.servers")


def check_queue(url: str) -> None:
    """See that a server keeps what it is given.

    Raises:
        StartFailed: if it is too old, or may evict jobs; or if `url` is not an address.
    """
    try:
        _, facts = _look(url, "REDIS_URL")
    except RedisError as error:
        log.warning("the queue's server is not checked: %s", error)
    else:
        judge_queue(facts)


def judge_queue(facts: Mapping[str, Any]) -> None:
    """Raise as `check_queue`, from what a server says of itself."""
    version = facts["redis_version"]
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        raise StartFailed(
            f"The queue's server is Redis {version}; Redis {OLDEST[0]}.{OLDEST[1]} or newer, or"
            " Valkey, is needed."
        )
    policy = facts["maxmemory_policy"]
    if policy.startswith("allkeys"):
        raise StartFailed(
            f"The queue's server has maxmemory-policy {policy}: once full it would delete accepted"
            " jobs. Set it to noeviction."
        )
    if policy.startswith("volatile"):
        log.warning(
            "the queue's server has maxmemory-policy %s: once full it deletes outcomes before"
            " their time; noeviction would refuse new jobs instead",
            policy,
        )


def check_blobs(url: str, queue_url: str) -> None:
    """See that a server is one of its own, and warn of what does not suit pictures.

    Raises:
        StartFailed: if it is the queue's own database; or if a URL is not an address.
    """
    try:
        store, facts = _look(url, "INPAINT_BLOBS")
        queue, _ = _look(queue_url, "REDIS_URL")
    except RedisError as error:
        log.warning("the store of pictures is not checked: %s", error)
        return
    if store == queue:
        raise StartFailed(
            "INPAINT_BLOBS names the queue's own database: pictures would push out jobs. Give them"
            " a Redis of their own, or leave it unset: then they are files."
        )
    if store[0] == queue[0]:
        log.warning("INPAINT_BLOBS names the queue's own server: pictures take the jobs' memory")
    policy = facts["maxmemory_policy"]
    if policy.startswith("allkeys") or policy == "volatile-random":
        log.warning("the store of pictures evicts by %s; volatile-ttl evicts the oldest", policy)
    if not facts["maxmemory"]:
        log.warning("the store of pictures has no maxmemory: it takes what the machine has")
    if facts["aof_enabled"]:
        log.warning("the store of pictures has an append-only file: each picture is written twice")


def _look(url: str, variable: str) -> tuple[tuple[str, int], dict[str, Any]]:
    """A server's own name with the database that a URL means, and what it says about itself."""
    try:
        client = Redis.from_url(
            url, retry=None, socket_timeout=SECONDS, socket_connect_timeout=SECONDS
        )
    except ValueError as error:
        raise StartFailed(f"{variable} is not an address of a server: {error}.") from error
    with client:
        facts = client.info()
        return (facts["run_id"], client.get_connection_kwargs().get("db", 0)), facts
