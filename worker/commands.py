"""`inpaint worker`: load the models, then take jobs from the queue until asked to stop."""

import gc
import logging
import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import closing
from typing import Annotated

import psutil
import torch
import typer

from inpaint import catalogue
from inpaint.blobs import open_blobs
from inpaint.errors import BadCheckpoint, StartFailed, UnknownModel
from inpaint.jobs import connect
from inpaint.servers import check_queue
from inpaint.settings import Settings, load

from .beat import Beat
from .leases import exit_on_signals, wait_for_redis, work
from .tasks import Workshop
from .zoo import Zoo

PATIENCE_SECONDS = 30.0  # with a store of pictures that is away, before a job is refused
# For which a thread computes in Python before others may; the model thread waits for it after each
# batch. With Python's own 5 ms, a picture of 256 px cost a quarter more CPU time on 2 busy cores.
SWITCH_SECONDS = 0.001

log = logging.getLogger("inpaint.worker")


def worker(
    *,
    models: Annotated[
        str | None, typer.Option(help="Models to load, divided by commas; by default all.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
) -> None:
    """Take jobs from the queue; what is not given is taken from INPAINT_* and REDIS_URL.

    Ends with status 78 if a checkpoint is corrupt, a model unknown or the queue's server too old:
    starting again is no use.
    """
    given = {"models": models, "device": device}
    serve(load({name: value for name, value in given.items() if value is not None}), Zoo.load)


def serve(settings: Settings, open_zoo: Callable[[Settings], Zoo]) -> None:
    """Be a worker until asked to stop; `open_zoo` loads and warms its models."""
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("inpaint").setLevel(logging.INFO)
    log.info("imports took %.1f s", time.time() - psutil.Process().create_time())
    exit_on_signals()
    sys.setswitchinterval(SWITCH_SECONDS)
    blobs = open_blobs(settings, patience=min(PATIENCE_SECONDS, settings.stall_seconds / 4))
    wait_for_redis(settings)
    try:
        check_queue(settings.redis)
        zoo = open_zoo(settings)
    except (BadCheckpoint, StartFailed, UnknownModel) as refusal:
        print(f"inpaint: {refusal.detail} ({refusal.code})", file=sys.stderr)
        sys.exit(os.EX_CONFIG)
    card = catalogue.WorkerCard(
        worker=f"{socket.gethostname()}-{os.getpid()}",
        pid=os.getpid(),
        device=zoo.device,
        engine=zoo.engine,
        precision=zoo.precision,
        models=tuple(zoo.cards.values()),
        detectors=tuple(zoo.detector_cards.values()),
    )
    log.info(
        "ready on %s, %s, %d threads: %s",
        zoo.device,
        zoo.precision,
        torch.get_num_threads(),
        ", ".join(zoo.everything),
    )
    with (
        closing(Workshop(settings, blobs, zoo)) as shop,
        connect(settings) as redis,
        Beat(redis, settings, card, shop.rate),
    ):
        gc.freeze()  # what is here stays: no collection looks at it again
        work(settings, zoo.needs, shop)
    log.info("stopped")
