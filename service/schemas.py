"""The bodies of requests and answers."""

from datetime import datetime
from typing import Annotated, get_args

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from inpaint.catalogue import Card, WorkerCard, detectors, models
from inpaint.header import MEDIA_TYPES
from inpaint.jobs import (
    FINAL,
    AutoMask,
    MaskFit,
    MaskMode,
    Outcome,
    OutputFormat,
    Record,
    Status,
    Tones,
)
from inpaint.patches import Refine
from inpaint.settings import Settings

from .problems import title


class InpaintForm(BaseModel):
    """The text fields of `POST /inpaint`; its files are `image` and `mask`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str | None = Field(default=None, description="Name of a model; see GET /info.")
    mask_mode: MaskMode = Field(default="auto", description="How the mask marks the hole.")
    mask_fit: MaskFit = Field(
        default="exact", description="What to do with a mask of another size."
    )
    auto_mask: AutoMask = Field(default="none", description="Detector whose finds join the mask.")
    auto_mask_sensitivity: float = Field(default=0.5, ge=0, le=1, description="More finds more.")
    mask_grow: int | None = Field(
        default=None,
        ge=0,
        le=128,
        description="Pixels by which the hole grows. Default: 2 of what is detected, else 0.",
    )
    mask_feather: int = Field(default=0, ge=0, le=128, description="Pixels that blend at the rim.")
    refine: Refine = Field(
        default="auto",
        description="What gives the fill the texture around it: patches, or full, which is slower. "
        "Default: patches for learned models, none for classical ones.",
    )
    tone: Annotated[Tones, WithJsonSchema({"type": "string"})] = Field(
        default=(),
        description="Steps on the whole picture, separated by commas: denoise, fade, contrast.",
        json_schema_extra={"default": ""},
    )
    output_format: OutputFormat | None = Field(default=None, description="Default: as the image.")
    output_quality: int | None = Field(default=None, ge=1, le=100, description="JPEG and WebP.")


class MasksForm(BaseModel):
    """The text fields of `POST /masks`; its file is `image`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    detector: str = Field(default="scratches", description="Name of a detector; see GET /info.")
    sensitivity: float = Field(default=0.5, ge=0, le=1, description="More finds more.")
    mask_grow: int = Field(default=0, ge=0, le=128, description="Pixels by which the mask grows.")


class Body(BaseModel):
    """An answer."""

    model_config = ConfigDict(frozen=True)


class MaskFacts(Body):
    """The hole that was filled."""

    mode: str | None  # as chosen: luminance, alpha, luminance_inverted; null: neither was there
    coverage: float | None  # share of the picture, 0 to 1
    source: str | None  # mask: the upload; alpha: the picture's own; a detector; mask+scratches


class ImageFacts(Body):
    """The picture as uploaded."""

    width: int | None  # pixels, orientation applied
    height: int | None
    format: str | None
    mode: str | None


class ProblemBody(Body):
    """A refusal, as `application/problem+json`."""

    type: str  # /problems/{code}
    title: str
    status: int
    detail: str
    code: str
    instance: str  # the path that was asked for
    request_id: str  # stands in the log
    errors: list[dict[str, str]]  # field, code, detail of each field at fault


class JobProblem(Body):
    """Why a job failed: the members of a problem that belong to the job."""

    type: str
    title: str
    code: str
    detail: str
    field: str | None


class JobBody(Body):
    """A job, wherever one is shown."""

    id: str
    status: Status
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime
    queue_position: int | None  # 0 is next
    eta_seconds: int | None  # until it is done, about; of a job that waits, where it can be told
    attempts: int
    model: str
    model_digest: str | None
    params: dict[str, str | int | float | tuple[str, ...] | None]
    mask: MaskFacts | None
    unchanged: bool | None  # nothing was found: the result is the upload, byte for byte
    warning: str | None  # mask-large: more was found than is likely to be damage
    image: ImageFacts | None
    seconds: dict[str, float] | None  # by stage: queue, decode, detect, infer, encode
    error: JobProblem | None
    links: dict[str, str]

    @classmethod
    def of(cls, record: Record, eta: int | None = None) -> "JobBody":
        """What the API shows of a record."""
        job, outcome = record.job, record.outcome
        links = {"self": f"/jobs/{record.id}"}
        if record.status == "succeeded":
            links["result"] = f"/jobs/{record.id}/result"
            if outcome is not None and outcome.mask is not None:
                links["mask"] = f"/jobs/{record.id}/mask"
        elif record.status not in FINAL:
            links["cancel"] = f"/jobs/{record.id}/cancel"
        return cls(
            id=record.id,
            status=record.status,
            created_at=record.created_at,
            started_at=record.started_at,
            finished_at=record.finished_at,
            expires_at=record.expires_at,
            queue_position=record.queue_position,
            eta_seconds=eta,
            attempts=record.attempts,
            model=job.model,
            model_digest=outcome.digest if outcome else None,
            params=job.model_dump(exclude={"version", "image", "mask", "model"}),
            mask=mask_facts(outcome),
            unchanged=outcome.unchanged if record.status == "succeeded" and outcome else None,
            warning=outcome.warning if outcome else None,
            image=image_facts(outcome),
            seconds=outcome.seconds if outcome else None,
            error=job_problem(outcome) if record.status == "failed" else None,
            links=links,
        )


def mask_facts(outcome: Outcome | None) -> MaskFacts | None:
    """The hole, once it is known."""
    if outcome is None or outcome.mask_source is None:
        return None
    return MaskFacts(mode=outcome.mask_mode, coverage=outcome.coverage, source=outcome.mask_source)


def image_facts(outcome: Outcome | None) -> ImageFacts | None:
    """The picture, once it is known."""
    if outcome is None or outcome.width is None:
        return None
    return ImageFacts(
        width=outcome.width, height=outcome.height, format=outcome.format, mode=outcome.mode
    )


def job_problem(outcome: Outcome | None) -> JobProblem | None:
    """The problem, where there is one."""
    if outcome is None or outcome.problem is None:
        return None
    problem = outcome.problem
    return JobProblem(
        type=f"/problems/{problem.code}",
        title=title(problem.code),
        code=problem.code,
        detail=problem.detail,
        field=problem.field,
    )


class ModelBody(Body):
    """A generator or detector that workers hold."""

    name: str
    architecture: str
    parameters: int
    digest: str | None
    trained: int | None
    license: str | None
    source: str | None
    devices: list[str]


class WorkerBody(Body):
    """A worker that is ready."""

    name: str
    device: str
    engine: str
    precision: str
    models: list[str]
    detectors: list[str]


class InfoBody(Body):
    """What this service is and takes."""

    version: str
    default_model: str
    limits: dict[str, int | float]
    formats: dict[str, tuple[str, ...]]
    models: list[ModelBody]
    detectors: list[ModelBody]
    workers: list[WorkerBody]

    @classmethod
    def of(cls, version: str, settings: Settings, cards: list[WorkerCard]) -> "InfoBody":
        """What the settings and the workers' cards tell."""
        limits = settings.model_dump(include=LIMITS)
        formats = {"input": tuple(MEDIA_TYPES), "output": get_args(OutputFormat)}
        return cls(
            version=version,
            default_model=settings.model,
            limits=limits,
            formats=formats,
            models=_models(models(cards), cards),
            detectors=_models(detectors(cards), cards),
            workers=[
                WorkerBody(
                    name=card.worker,
                    device=card.device,
                    engine=card.engine,
                    precision=card.precision,
                    models=[model.name for model in card.models],
                    detectors=[detector.name for detector in card.detectors],
                )
                for card in cards
            ],
        )


LIMITS = {
    "max_file_bytes",
    "max_pixels",
    "min_side",
    "max_side",
    "album_files",
    "album_bytes",
    "album_request_bytes",
    "max_wait_seconds",
    "queue_limit",
    "queue_bytes",
    "client_limit",
    "job_timeout_seconds",
    "result_ttl_seconds",
}


def _models(found: dict[str, Card], workers: list[WorkerCard]) -> list[ModelBody]:
    """Each model once, by name, with the devices that serve it."""
    return [
        ModelBody(
            **found[name].model_dump(),
            devices=sorted({worker.device for worker in workers if worker.holds(name)}),
        )
        for name in sorted(found)
    ]
