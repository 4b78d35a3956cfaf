"""`inpaint serve`: the gateway, or with `--embedded` the whole service on this machine."""

import gc
import logging
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from inpaint.blobs import open_blobs
from inpaint.servers import check_queue
from inpaint.settings import Settings, load

from .supervisor import listen, supervise

GARBAGE = 10_000  # objects between two collections: requests leave hardly any in cycles
GRACE_SECONDS = 5  # for requests that are being answered when the gateway is asked to stop


def serve(
    *,
    embedded: Annotated[
        bool, typer.Option("--embedded", help="Also start and watch a Redis server and a worker.")
    ] = False,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
    model: Annotated[str | None, typer.Option(help="Model of requests that name none.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of pictures and queue.")] = None,
) -> None:
    """Answer HTTP; what is not given is taken from INPAINT_* and REDIS_URL."""
    given = {"host": host, "port": port, "model": model, "data": data}
    settings = load({name: value for name, value in given.items() if value is not None})
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    for name in ("inpaint", "uvicorn"):
        logging.getLogger(name).setLevel(logging.INFO)
    if embedded:
        supervise(settings)
    else:
        answer(settings)


def answer(settings: Settings) -> None:
    """Run the gateway until a signal stops it.

    Raises:
        StartFailed: if its port, the queue's server or the store of pictures cannot be used.
    """
    # here, because the supervisor does not need them and would wait a second for them
    import uvicorn

    from .app import create_app
    from .protocol import BoundedHead

    open_blobs(settings)  # here, where a refusal is one line and not a trace
    check_queue(settings.redis)
    with listen(settings.host, settings.port) as listener:
        app = create_app(settings)
        gc.set_threshold(GARBAGE)
        gc.freeze()  # what is here stays: no collection looks at it again
        config = uvicorn.Config(
            app,
            loop="uvloop",
            http=BoundedHead,
            access_log=False,  # a tenth of the time of a request; refusals and jobs are logged
            log_config=None,  # ours, to stderr; uvicorn's own goes to stdout
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
        with suppress(KeyboardInterrupt):  # raised by uvicorn once it has stopped in order
            uvicorn.Server(config).run(sockets=[listener])
