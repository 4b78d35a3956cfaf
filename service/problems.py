"""Every refusal as an answer: `application/problem+json`, RFC 9457.

`type` is /problems/{code}, where the code is explained. The detail says what was seen and what is
accepted; a fault of ours has only a request id, which stands in the log beside the trace.
"""

import logging
import re
import uuid
from collections.abc import Mapping, Sequence

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.routing import compile_path
from starlette.types import Scope

from inpaint.errors import (
    InpaintError,
    Internal,
    InvalidField,
    MalformedMultipart,
    MethodNotAllowed,
    NotFound,
)
from inpaint.jobs import Problem

STATUSES = {
    "malformed-multipart": 400,
    "bad-header": 400,
    "not-found": 404,
    "method-not-allowed": 405,
    "job-not-finished": 409,
    "job-failed": 409,
    "job-canceled": 409,
    "job-final": 409,
    "album-closed": 409,
    "expired": 410,
    "file-too-large": 413,
    "album-too-large": 413,
    "too-many-pixels": 413,
    "unsupported-image-type": 415,
    "invalid-field": 422,
    "image-unreadable": 422,
    "image-too-small": 422,
    "mask-missing": 422,
    "mask-unreadable": 422,
    "mask-size-mismatch": 422,
    "mask-empty": 422,
    "mask-full": 422,
    "unknown-model": 422,
    "archive-unreadable": 422,
    "album-unusable": 422,
    "rate-limited": 429,
    "internal": 500,
    "model-failed": 500,
    "out-of-memory": 500,
    "timed-out": 500,
    "worker-lost": 500,
    "input-gone": 500,
    "queue-full": 503,
    "queue-unavailable": 503,
    "no-worker": 503,
    "storage-unavailable": 503,
    "shutting-down": 503,
}
RETRY_AFTER_SECONDS = {  # where the error cannot tell
    "job-not-finished": 1,
    "rate-limited": 10,
    "queue-full": 10,
    "queue-unavailable": 2,
    "no-worker": 5,
    "storage-unavailable": 10,
    "shutting-down": 5,
}
MEDIA_TYPE = "application/problem+json"
REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")

log = logging.getLogger("inpaint.gateway")


class InvalidForm(InvalidField):
    """Several fields at fault at once, each with its own problem."""

    def __init__(self, faults: Sequence[Problem]) -> None:
        super().__init__(" ".join(fault.detail for fault in faults), field=faults[0].field)
        self.faults = faults


def explanations() -> dict[str, str]:
    """What each code means: the docstring of its class."""
    return {
        kind.code: (kind.__doc__ or "").strip()
        for kind in InpaintError.__subclasses__()
        if kind.code in STATUSES
    }


def title(code: str) -> str:
    """The code as words."""
    return code.replace("-", " ").capitalize()


def answer(
    error: InpaintError,
    scope: Scope,
    *,
    headers: Mapping[str, str] | None = None,
    members: Mapping[str, object] | None = None,
) -> JSONResponse:
    """The response that states `error`; `members` are further members of its body."""
    faults = error.faults if isinstance(error, InvalidForm) else [Problem.of(error)]
    status = STATUSES.get(error.code, 500)
    request_id = request_id_of(scope)
    body = {
        "type": f"/problems/{error.code}",
        "title": title(error.code),
        "status": status,
        "detail": error.detail,
        "code": error.code,
        "instance": scope["path"],
        "request_id": request_id,
        "errors": [fault.model_dump() for fault in faults if fault.field],
        **(members or {}),
    }
    extra = dict(headers or {})
    if seconds := error.retry_after or RETRY_AFTER_SECONDS.get(error.code):
        extra.setdefault("Retry-After", str(seconds))
    level = logging.ERROR if status == 500 else logging.INFO
    # quoted, so that what a client wrote cannot look like another line of the log
    log.log(level, "%s %r: %s: %r", request_id, scope["path"], error.code, error.detail)
    return JSONResponse(body, status_code=status, headers=extra, media_type=MEDIA_TYPE)


def request_id_of(scope: Scope) -> str:
    """The request's own X-Request-ID, where it is a sane one, else a new id."""
    given = Headers(scope=scope).get("x-request-id", "")
    return given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def install(app: FastAPI) -> None:
    """Make `app` answer every error as a problem, also the framework's own."""
    app.add_exception_handler(InpaintError, _refused)
    app.add_exception_handler(HTTPException, _framework)
    app.add_exception_handler(Exception, _crashed)


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, InpaintError)
    return answer(error, request.scope)


async def _framework(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    path, headers = request.url.path, dict(error.headers or {})
    problem: InpaintError
    if error.status_code == 404:
        problem = NotFound(f"There is nothing at {path}.")
    elif error.status_code == 405:
        if allowed := _allowed(request.app, path):
            headers["Allow"] = ", ".join(sorted(allowed))
        problem = MethodNotAllowed(
            f"{path} does not take {request.method}; the header Allow says what it takes."
        )
    else:
        problem = MalformedMultipart(str(error.detail))
    return answer(problem, request.scope, headers=headers)


def _allowed(app: FastAPI, path: str) -> set[str]:
    """All methods that a path takes; a 405 names those of one endpoint alone."""
    methods = {
        method.upper()
        for template, methods in app.openapi()["paths"].items()
        if compile_path(template)[0].match(path)
        for method in methods
    }
    return methods | ({"HEAD"} if "GET" in methods else set())


async def _crashed(request: Request, error: Exception) -> JSONResponse:
    """Say nothing of the fault; the server logs its trace after this answer."""
    return answer(
        Internal("This is a fault of ours. The request id leads to it in the log."), request.scope
    )
