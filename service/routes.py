"""The endpoints. What they take and answer stands in docs/api.md."""

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

from inpaint import __version__, catalogue
from inpaint.errors import (
    Expired,
    InpaintError,
    InputGone,
    JobCanceled,
    JobFailed,
    JobNotFinished,
    NotFound,
    QueueUnavailable,
    RateLimited,
)
from inpaint.header import MEDIA_TYPES, probe
from inpaint.jobs import FINAL, InpaintJob, Outcome, Record, fresh

from .gateway import Gateway, in_thread
from .preferences import Preference, accepted_format, prefer
from .problems import MEDIA_TYPE, RETRY_AFTER_SECONDS, STATUSES, answer, explanations, title
from .replies import Waiter
from .schemas import InfoBody, InpaintForm, JobBody, MasksForm, ProblemBody
from .uploads import Form, Upload, check, form_schema, read_form

SMALL = 256 * 1024  # bytes of files whose headers are read without a thread: below 10 ms
RETRY_SECONDS = "1"  # between two looks at a job
STAGES = ("decode", "queue", "detect", "infer", "encode")  # in Server-Timing
REFUSED = {
    "description": "Refused.",
    "content": {MEDIA_TYPE: {"schema": ProblemBody.model_json_schema()}},
}
IMAGE = {"description": "The restored picture.", "content": {"image/*": {}}}
MASK = {"description": "The mask, white = damage.", "content": {MEDIA_TYPES["png"]: {}}}
ACCEPTED = {"description": "Not done yet.", "model": JobBody}

REFUSALS: dict[int | str, dict[str, Any]] = {"4XX": REFUSED, "5XX": REFUSED}  # of JSON


class Plain(APIRoute):
    """A route whose endpoint takes the request alone: nothing is worked out for it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What answers: the endpoint itself."""
        return self.endpoint


router = APIRouter(responses=REFUSALS)
forms = APIRouter(route_class=Plain, responses=REFUSALS)


def _gateway(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway


@forms.post(
    "/inpaint",
    response_class=Response,
    responses={200: IMAGE, 202: ACCEPTED},
    openapi_extra={"requestBody": form_schema(InpaintForm)},
)
async def create_inpaint(request: Request) -> Response:
    """Fill the hole that the mask marks in the image, or that is found there."""
    return await _create(request, _take_inpaint)


@forms.post(
    "/masks",
    response_class=Response,
    responses={200: MASK, 202: ACCEPTED},
    openapi_extra={"requestBody": form_schema(MasksForm)},
)
async def create_mask(request: Request) -> Response:
    """Find damage in the image, and fill nothing."""
    return await _create(request, _take_search)


async def _create(
    request: Request, take: Callable[[Request, Gateway], Awaitable[Waiter]]
) -> Response:
    """Take a job, and answer with its result or, where that takes too long, with the job."""
    gateway = _gateway(request)
    preference = prefer(
        request.headers,
        default=gateway.settings.wait_seconds,
        most=gateway.settings.max_wait_seconds,
    )
    try:
        waiter = await take(request, gateway)  # the upload itself is not kept while waiting
    except RateLimited as refusal:
        headers = _rate(refusal, gateway.settings.client_limit)
        return answer(refusal, request.scope, headers=headers)
    outcome = await gateway.wait(waiter, preference.seconds, request)
    if outcome is None:
        return await _accepted(gateway, waiter, preference)
    if outcome.problem is not None:
        return answer(outcome.problem.error(), request.scope, headers={"X-Job-ID": waiter.id})
    headers = _result_headers(waiter.id, outcome) | _applied(preference)
    headers["Content-Location"] = f"/jobs/{waiter.id}/result"
    return Response(await _result(gateway, outcome), 200, headers, outcome.media_type)


@router.get("/jobs/{job_id}", response_model=JobBody)
async def read_job(job_id: str, request: Request) -> Response:
    """The job as it stands."""
    gateway = _gateway(request)
    record = await gateway.read(job_id)
    if record.status == "queued":
        await gateway.workers()
    headers = {} if record.status in FINAL else {"Retry-After": RETRY_SECONDS}
    return _job(gateway, record, 200, headers)


@router.post(
    "/jobs/{job_id}/cancel",
    response_model=JobBody,
    responses={202: {"description": "It was running.", "model": JobBody}},
)
async def cancel_job(job_id: str, request: Request) -> Response:
    """End the job, if it has not ended: a queued one now, a running one when its worker looks."""
    gateway = _gateway(request)
    was = await gateway.cancel(job_id)
    return _job(gateway, await gateway.read(job_id), 200 if was == "queued" else 202)


@router.get("/jobs/{job_id}/result", response_class=Response, responses={200: IMAGE})
async def read_result(job_id: str, request: Request) -> Response:
    """The restored picture."""
    return await _read(job_id, request, lambda outcome: outcome)


@router.get("/jobs/{job_id}/mask", response_class=Response, responses={200: MASK})
async def read_mask(job_id: str, request: Request) -> Response:
    """The mask that was found, as it was used."""

    def mask(outcome: Outcome) -> Outcome:
        if outcome.mask is None:
            raise NotFound(
                "The job searched for no damage: its mask is the one that was uploaded, or the "
                "picture's own transparency."
            )
        changes = {"result": outcome.mask, "media_type": MEDIA_TYPES["png"]}
        return outcome.model_copy(update=changes)

    return await _read(job_id, request, mask)


async def _read(job_id: str, request: Request, part: Callable[[Outcome], Outcome]) -> Response:
    """A file of a job that succeeded; `part` makes it the result."""
    gateway = _gateway(request)
    record = await gateway.read(job_id)
    outcome = record.outcome
    if outcome is None:
        raise JobNotFinished(f"The job is {record.status}; ask again in a moment.")
    if outcome.problem is not None:
        refusal: InpaintError = JobCanceled("The job was canceled: it has no result.")
        if record.status != "canceled":
            refusal = JobFailed(f"The job ended in a problem: {outcome.problem.detail}")
        job = JobBody.of(record).model_dump(mode="json")
        return answer(refusal, request.scope, members={"job": job})
    outcome = part(outcome)
    headers = _result_headers(job_id, outcome)
    if headers["ETag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(await _result(gateway, outcome), 200, headers, outcome.media_type)


@router.get("/info", response_model=InfoBody)
async def info(request: Request) -> InfoBody:
    """Version, limits, formats, and the models with the workers that hold them."""
    gateway = _gateway(request)
    return InfoBody.of(__version__, gateway.settings, await gateway.workers())


@router.get("/livez")
async def livez() -> dict[str, str]:
    """Whether this process answers."""
    return {"status": "alive"}


@router.get("/readyz")
async def readyz(request: Request) -> Response:
    """Whether a picture sent now would be taken: Redis answers and a worker is ready."""
    gateway = _gateway(request)
    try:
        await gateway.ready(anew=True)
    except InpaintError as error:
        return answer(error, request.scope, members={"failing": [error.code]})
    return JSONResponse({"status": "ready"})


@router.get("/problems/{code}", response_model=None)
async def explain(code: str) -> dict[str, object]:
    """What a problem's code means."""
    explanation = explanations().get(code)
    if explanation is None:
        raise NotFound(f"There is no problem with the code {code[:64]}.")
    return {
        "code": code,
        "title": title(code),
        "status": STATUSES[code],
        "explanation": explanation,
    }


async def _take_inpaint(request: Request, gateway: Gateway) -> Waiter:
    """Receive and judge the form, and put its job into the queue."""
    upload = await _receive(request, gateway, InpaintForm)
    form = upload.form
    output_format = form.output_format or accepted_format(request.headers)
    await _look(upload, lambda: check(upload, output_format, gateway.settings))
    cards, model = await gateway.ready(), form.model or gateway.settings.model
    catalogue.check_model(cards, model)
    if form.auto_mask != "none":
        catalogue.check_detector(cards, form.auto_mask, model=model)

    def draft(image: str, mask: str | None) -> InpaintJob:
        return InpaintJob(
            image=image,
            mask=mask,
            model=model,
            output_format=output_format,
            **form.model_dump(exclude={"model", "output_format"}),
        )

    return await gateway.submit(upload.image, upload.mask, draft, _address(request))


async def _take_search(request: Request, gateway: Gateway) -> Waiter:
    """The same for a job that finds a mask and fills nothing."""
    upload = await _receive(request, gateway, MasksForm)
    form = upload.form
    await _look(upload, lambda: probe(upload.image, gateway.settings.limits))
    catalogue.check_detector(await gateway.ready(), form.detector, field="detector")

    def draft(image: str, mask: str | None) -> InpaintJob:
        return InpaintJob(
            image=image,
            mask=mask,
            model=form.detector,
            auto_mask=form.detector,  # type: ignore[arg-type]  # it is one, it was just checked
            auto_mask_sensitivity=form.sensitivity,
            mask_only=True,
            mask_grow=form.mask_grow,
        )

    return await gateway.submit(upload.image, upload.mask, draft, _address(request))


async def _receive(request: Request, gateway: Gateway, kind: type[Form]) -> Upload[Form]:
    gateway.refuse_when_stopping()
    return await read_form(request, kind, gateway.settings)


async def _look(upload: Upload[Form], judge: Callable[[], object]) -> None:
    """Judge files by their headers, of which each may have many parts."""
    if len(upload.image) + len(upload.mask or b"") > SMALL:
        await in_thread(judge)
    else:
        judge()


def _address(request: Request) -> str:
    return request.client.host if request.client else "local"  # no address: a unix socket


async def _accepted(gateway: Gateway, waiter: Waiter, preference: Preference) -> Response:
    """The job as it stands; as it was accepted, where Redis is away meanwhile."""
    try:
        record = await gateway.read(waiter.id)
    except QueueUnavailable:
        record = fresh(waiter.id, waiter.job, "interactive", gateway.settings)
    location = {"Location": f"/jobs/{waiter.id}", "Retry-After": RETRY_SECONDS}
    headers = location | {"X-Job-ID": waiter.id} | _applied(preference)
    return _job(gateway, record, 202, headers)


def _job(
    gateway: Gateway, record: Record, status: int, headers: dict[str, str] | None = None
) -> Response:
    body = JobBody.of(record, gateway.eta(record)).model_dump(mode="json")
    return JSONResponse(body, status_code=status, headers=headers)


def _rate(refusal: RateLimited, limit: int) -> dict[str, str]:
    """What a client may do, as draft-ietf-httpapi-ratelimit-headers-10 writes it."""
    seconds = refusal.retry_after or RETRY_AFTER_SECONDS[refusal.code]
    return {
        "RateLimit-Policy": f'"unfinished-jobs";q={limit};qu="concurrent-requests"',
        "RateLimit": f'"unfinished-jobs";r=0;t={seconds}',
    }


def _result_headers(job_id: str, outcome: Outcome) -> dict[str, str]:
    """What goes with a result, wherever it is answered."""
    assert outcome.result is not None
    suffix = (outcome.media_type or "").rpartition("/")[2]
    headers = {
        "ETag": f'"{outcome.result}"',
        "Cache-Control": "private, immutable",
        "Content-Disposition": f'inline; filename="{job_id}.{suffix}"',
        "X-Job-ID": job_id,
        "X-Model": outcome.model,
        "Server-Timing": ", ".join(
            f"{stage};dur={outcome.seconds[stage] * 1000:.1f}"  # milliseconds
            for stage in STAGES
            if stage in outcome.seconds
        ),
    }
    return headers | ({"X-Model-Digest": outcome.digest} if outcome.digest else {})


async def _result(gateway: Gateway, outcome: Outcome) -> bytes:
    assert outcome.result is not None
    try:
        return await in_thread(gateway.blobs.get, outcome.result)
    except InputGone as error:
        raise Expired("The result is no longer stored.") from error


def _applied(preference: Preference) -> dict[str, str]:
    return {"Preference-Applied": preference.applied} if preference.applied else {}
