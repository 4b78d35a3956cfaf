"""The gateway as an ASGI application: `uvicorn --factory service.app:create_app`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from inpaint import __version__, jobs
from inpaint.settings import Settings, load

from . import albums, problems, routes
from .gateway import opened
from .head import Head
from .uploads import LimitBody, body_limit


def create_app(settings: Settings | None = None) -> FastAPI:
    """Build the application; without `settings` they are read from the environment."""
    settings = settings or load()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with jobs.connect(settings) as app.state.redis:  # for what runs in threads
            async with opened(settings) as app.state.gateway:
                yield

    app = FastAPI(
        title="Inpaint",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},
        # not included, which would match each request twice
        routes=[*routes.forms.routes, *routes.router.routes, *albums.router.routes],
    )
    larger = {"/albums": settings.album_request_bytes}
    app.add_middleware(LimitBody, limit=body_limit(settings), larger=larger)
    app.add_middleware(Head)
    problems.install(app)
    return app
