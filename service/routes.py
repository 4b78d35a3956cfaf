"""The endpoints. What they take and answer stands in docs/api.md."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from inpaint import __version__, catalogue
from inpaint.catalogue import WorkerCard
from inpaint.errors import (
    Expired,
    InpaintError,
    InputGone,
    JobFailed,
    JobNotFinished,
    NotFound,
    UnknownModel,
)
from inpaint.jobs import FINAL, InpaintJob, Outcome

from .gateway import Gateway
from .preferences import Preference, accepted_format, prefer
from .problems import MEDIA_TYPE, STATUSES, answer, explanations, title
from .schemas import InfoBody, JobBody, ProblemBody
from .uploads import FORM_SCHEMA, check, read_form

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


Shared = Annotated[Gateway, Depends(_gateway)]


@router.post(
    "/inpaint",
    response_class=Response,
    responses={200: IMAGE, 202: {"description": "Not done yet.", "model": JobBody}},
    openapi_extra={"requestBody": FORM_SCHEMA},
)
async def create_inpaint(request: Request, gateway: Shared) -> Response:
    """Fill the hole that the mask marks in the image."""
    preference = prefer(
        request.headers,
        default=gateway.settings.wait_seconds,
        most=gateway.settings.max_wait_seconds,
    )
    job_id, model = await _take(request, gateway)  # the upload itself is not kept while waiting
    outcome = await gateway.wait(job_id, model, preference.seconds)
    if outcome is None:
        return await _accepted(gateway, job_id, preference)
    if outcome.problem is not None:
        return answer(outcome.problem.error(), request.scope, headers={"X-Job-ID": job_id})
    headers = _result_headers(job_id, outcome) | _applied(preference)
    headers["Content-Location"] = f"/jobs/{job_id}/result"
    return Response(await _result(gateway, outcome), 200, headers, outcome.media_type)


@router.get("/jobs/{job_id}", response_model=JobBody)
async def read_job(job_id: str, gateway: Shared) -> Response:
    """The job as it stands."""
    body = JobBody.of(await gateway.read(job_id))
    headers = {} if body.status in FINAL else {"Retry-After": RETRY_SECONDS}
    return JSONResponse(body.model_dump(mode="json"), headers=headers)


@router.get("/jobs/{job_id}/result", response_class=Response, responses={200: IMAGE})
async def read_result(job_id: str, request: Request, gateway: Shared) -> Response:
    """The restored picture."""
    record = await gateway.read(job_id)
    outcome = record.outcome
    if outcome is None:
        raise JobNotFinished(f"The job is {record.status}; ask again in a moment.")
    if outcome.problem is not None:
        failed = JobFailed(f"The job ended in a problem: {outcome.problem.detail}")
        job = JobBody.of(record).model_dump(mode="json")
        return answer(failed, request.scope, members={"job": job})
    headers = _result_headers(job_id, outcome)
    if headers["ETag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(await _result(gateway, outcome), 200, headers, outcome.media_type)


@router.get("/info", response_model=InfoBody)
async def info(gateway: Shared) -> InfoBody:
    """Version, limits, formats, and the models with the workers that hold them."""
    return InfoBody.of(__version__, gateway.settings, await gateway.workers())


@router.get("/livez")
async def livez() -> dict[str, str]:
    """Whether this process answers."""
    return {"status": "alive"}


@router.get("/readyz")
async def readyz(request: Request, gateway: Shared) -> Response:
    """Whether a picture sent now would be taken: Redis answers and a worker is ready."""
    try:
        await gateway.admit()
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


async def _take(request: Request, gateway: Gateway) -> tuple[str, str]:
    """Receive and judge the form, and put its job into the queue; return the job's id and model."""
    gateway.refuse_when_stopping()
    upload = await read_form(request, gateway.settings)
    form = upload.form
    output_format = form.output_format or accepted_format(request.headers)
    await run_in_threadpool(check, upload, output_format, gateway.settings)
    model = _choose(form.model or gateway.settings.model, await gateway.admit())

    def draft(image: str, mask: str | None) -> InpaintJob:
        return InpaintJob(
            image=image,
            mask=mask,
            model=model,
            output_format=output_format,
            **form.model_dump(exclude={"model", "output_format"}),
        )

    return await gateway.submit(upload.image, upload.mask, draft), model


def _choose(name: str, cards: list[WorkerCard]) -> str:
    held = sorted(catalogue.models(cards))
    if name not in held:
        raise UnknownModel(
            f"No worker holds the model {name[:64]!r}; the models are {', '.join(held)}.",
            field="model",
        )
    return name


async def _accepted(gateway: Gateway, job_id: str, preference: Preference) -> Response:
    body = JobBody.of(await gateway.read(job_id))
    headers = {"Location": f"/jobs/{job_id}", "Retry-After": RETRY_SECONDS, "X-Job-ID": job_id}
    headers |= _applied(preference)
    return JSONResponse(body.model_dump(mode="json"), status_code=202, headers=headers)


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
