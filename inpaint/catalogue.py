"""Which models the workers hold: workers publish, the gateway reads.

A worker publishes its card with every beat, also while a job runs; a card that is not renewed
expires, so a worker that hangs or is killed drops out by itself.
"""

from typing import get_args

from pydantic import BaseModel, ConfigDict, Field
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from rq.utils import as_text

from .errors import NoWorker, UnknownModel
from .jobs import AutoMask

WORKERS = "inpaint:workers"  # set of worker names
BEAT_SECONDS = 2.0  # between two publications
CARD_TTL_SECONDS = 8  # a worker is gone after this much silence


class Card(BaseModel):
    """What is known about a model."""

    model_config = ConfigDict(frozen=True, extra="ignore")  # a newer worker says more

    name: str
    architecture: str
    parameters: int = 0  # 0 for classical fills
    digest: str | None = None  # of the checkpoint: "sha256:" and hexadecimal digits
    trained: int | None = None  # pixels a side
    license: str | None = None  # SPDX identifier of the weights
    source: str | None = None  # paper, DOI or arXiv number


class WorkerCard(BaseModel):
    """One worker that is ready, with the models that it holds."""

    model_config = ConfigDict(frozen=True, extra="ignore")  # a newer worker says more

    worker: str  # unique among all workers
    pid: int
    device: str  # "cpu", "cuda:0"
    engine: str  # what runs the networks, e.g. "torch"
    precision: str  # of the learned models: "fp32" or "bf16"
    models: tuple[Card, ...]
    detectors: tuple[Card, ...] = ()
    rate: float = Field(default=0.0, ge=0)  # jobs finished per second while busy; 0: not known yet

    def holds(self, *names: str) -> bool:
        """Whether it holds all of these, generators or detectors."""
        return set(names) <= {card.name for card in (*self.models, *self.detectors)}


def publish(redis: Redis, card: WorkerCard) -> None:
    """Say that this worker is ready, for the next `CARD_TTL_SECONDS`; forget those that expired."""
    known = [as_text(name) for name in redis.smembers(WORKERS)]
    expired = [name for name in known if not redis.exists(_key(name))]
    with redis.pipeline() as pipeline:
        if expired:
            pipeline.srem(WORKERS, *expired)
        pipeline.set(_key(card.worker), card.model_dump_json(), ex=CARD_TTL_SECONDS)
        pipeline.sadd(WORKERS, card.worker)
        pipeline.execute()


def withdraw(redis: Redis, worker: str) -> None:
    """Say that this worker takes no more jobs."""
    with redis.pipeline() as pipeline:
        pipeline.delete(_key(worker))
        pipeline.srem(WORKERS, worker)
        pipeline.execute()


def workers(redis: Redis) -> list[WorkerCard]:
    """The workers that are ready, by name."""
    return _cards(redis.sort(WORKERS, by="nosort", get=[_key("*")]))


async def ready(redis: AsyncRedis) -> list[WorkerCard]:
    """The workers that are ready, by name: `workers` for the gateway."""
    return _cards(await redis.sort(WORKERS, by="nosort", get=[_key("*")]))


def models(cards: list[WorkerCard]) -> dict[str, Card]:
    """The models that the workers hold, by name."""
    return {card.name: card for worker in cards for card in worker.models}


def detectors(cards: list[WorkerCard]) -> dict[str, Card]:
    """The detectors that the workers hold, by name."""
    return {card.name: card for worker in cards for card in worker.detectors}


def check_model(cards: list[WorkerCard], name: str) -> None:
    """Raise UnknownModel, naming those that fill, if no worker holds a generator of this name."""
    if name not in (held := models(cards)):
        raise UnknownModel(
            f"No worker holds the model {name[:64]!r}; the models are {', '.join(sorted(held))}.",
            field="model",
        )


def check_detector(
    cards: list[WorkerCard], name: str, *, model: str | None = None, field: str = "auto_mask"
) -> None:
    """Refuse a detector that no worker holds.

    Args:
        cards: of the workers that are ready.
        name: of the detector.
        model: that is to fill what is found; None: nothing is filled.
        field: that named the detector.

    Raises:
        UnknownModel: naming those that find damage.
        NoWorker: if none that holds it holds the model as well.
    """
    held = sorted({*detectors(cards)} & {*get_args(AutoMask)})
    if name not in held:
        raise UnknownModel(
            f"No worker holds the detector {name[:64]!r}; "
            f"the detectors are: {', '.join(held) or 'none'}.",
            field=field,
        )
    if model is not None and not any(card.holds(name, model) for card in cards):
        raise NoWorker(f"No worker that is ready holds both {name} and {model}.")


def _key(worker: str) -> str:
    return f"inpaint:worker:{worker}"


def _cards(found: object) -> list[WorkerCard]:
    """SORT … GET brings every card in one round trip, None for one that has expired."""
    assert isinstance(found, list)
    cards = [WorkerCard.model_validate_json(text) for text in found if text is not None]
    return sorted(cards, key=lambda card: card.worker)
