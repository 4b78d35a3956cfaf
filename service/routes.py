"""The endpoints. What they take and answer stands in docs/api.md."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from inpaint import __version__, catalogue
from inpaint.catalogue import WorkerCard
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
    UnknownModel,
)
from inpaint.jobs import FINAL, InpaintJob, Outcome, Record, fresh

from .gateway import Gateway
from .preferences import Preference, accepted_format, prefer
from .problems import MEDIA_TYPE, RETRY_AFTER_SECONDS, STATUSES, answer, explanations, title
from .replies import Waiter
from .schemas import InfoBody, JobBody, ProblemBody
from .uploads import FORM_SCHEMA, check, read_form

SMALL = 256 * 1024  # bytes of files whose headers are read without a thread: below 10 ms
RETRY_SECONDS = "1"  # between two looks at a job
STAGES = ("decode", "queue", "infer", "encode")  # in Server-Timing
REFUSED = {
    "description": "Refused.",
    "content": {MEDIA_TYPE: {"schema": ProblemBody.model_json_schema()}},
}
IMAGE = {"description": "The restored picture.", "content": {"image/*": {}}}

router = APIRouter(responses={"4XX": REFUSED, "5XX": REFUSED})


def _gateway(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway


@router.post(
    "/inpaint",
    response_class=Response,
    responses={200: IMAGE, 202: {"description": "Not done yet.", "model": JobBody}},
    openapi_extra={"requestBody": FORM_SCHEMA},
)
async def create_inpaint(request: Request) -> Response:
    """Fill the hole that the mask marks in the image."""
    gateway = _gateway(request)
    preference = prefer(
        request.headers,
        default=gateway.settings.wait_seconds,
        most=gateway.settings.max_wait_seconds,
    )
    try:
        waiter = await _take(request, gateway)  # the upload itself is not kept while waiting
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


async def _take(request: Request, gateway: Gateway) -> Waiter:
    """Receive and judge the form, and put its job into the queue."""
    gateway.refuse_when_stopping()
    upload = await read_form(request, gateway.settings)
    form = upload.form
    output_format = form.output_format or accepted_format(request.headers)
    if len(upload.image) + len(upload.mask or b"") > SMALL:  # a header may have many parts
        await run_in_threadpool(check, upload, output_format, gateway.settings)
    else:
        check(upload, output_format, gateway.settings)
    model = _choose(form.model or gateway.settings.model, await gateway.ready())

    def draft(image: str, mask: str | None) -> InpaintJob:
        return InpaintJob(
            image=image,
            mask=mask,
            model=model,
            output_format=output_format,
            **form.model_dump(exclude={"model", "output_format"}),
        )

    address = request.client.host if request.client else "local"  # no address: a unix socket
    return await gateway.submit(upload.image, upload.mask, draft, address)


def _choose(name: str, cards: list[WorkerCard]) -> str:
    held = sorted(catalogue.models(cards))
    if name not in held:
        raise UnknownModel(
            f"No worker holds the model {name[:64]!r}; the models are {', '.join(held)}.",
            field="model",
        )
    return name


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
        return await run_in_threadpool(gateway.blobs.get, outcome.result)
    except InputGone as error:
        raise Expired("The result is no longer stored.") from error


def _applied(preference: Preference) -> dict[str, str]:
    return {"Preference-Applied": preference.applied} if preference.applied else {}
