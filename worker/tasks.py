"""The task that RQ calls, and the door where refusals become outcomes.

A refusal that a user can act on is an `Outcome` with a problem; only bugs raise.
"""

import logging
import time
from dataclasses import dataclass
from typing import Any

from rq import get_current_job
from rq.timeouts import JobTimeoutException

from inpaint.blobs import Blobs
from inpaint.errors import InpaintError, ModelFailed, TimedOut
from inpaint.highres import Filler, batches
from inpaint.jobs import InpaintJob, Outcome, Problem
from inpaint.restore import Finish
from inpaint.settings import Settings

from .pipeline import Options, Restored, close_picture, open_picture
from .zoo import Zoo

log = logging.getLogger("inpaint.worker")


@dataclass(frozen=True)
class Workplace:
    """What a task works with."""

    settings: Settings
    blobs: Blobs
    zoo: Zoo


# RQ hands a task nothing but its arguments: this is the project's one module variable.
_workplace: Workplace | None = None


def equip(workplace: Workplace) -> None:
    """Give the tasks of this process what they work with."""
    global _workplace
    _workplace = workplace


def inpaint(payload: dict[str, Any]) -> dict[str, Any]:
    """Run one `InpaintJob`, given and answered as JSON has it: the answer is an `Outcome`.

    The name is part of the contract: `inpaint.jobs.INPAINT_TASK`.
    """
    if _workplace is None:
        raise RuntimeError("this process has no models: tasks run in `inpaint worker`")
    job = InpaintJob.model_validate(payload)
    began = time.monotonic()
    outcome = run(job, _workplace)
    ending = outcome.problem.code if outcome.problem else "done"
    seconds = " ".join(f"{stage} {value:.3f}" for stage, value in outcome.seconds.items())
    current = get_current_job()
    name = current.id if current else "?"
    log.info("%s %s: %s in %.3f s: %s", name, job.model, ending, time.monotonic() - began, seconds)
    return outcome.model_dump(mode="json", exclude_defaults=True)


def run(job: InpaintJob, workplace: Workplace) -> Outcome:
    """Fill the hole of one picture and say how it ended."""
    digest = None
    try:
        filler = workplace.zoo.filler(job.model)
        digest = workplace.zoo.cards[job.model].digest
        image = workplace.blobs.get(job.image)
        mask = workplace.blobs.get(job.mask) if job.mask else None
        done = _restored(image, mask, job, filler, workplace)
        result = workplace.blobs.put(done.data)
    except JobTimeoutException:
        limit = workplace.settings.job_timeout_seconds
        problem = Problem.of(TimedOut(f"The job ran longer than {limit} s, which is the limit."))
        return Outcome(model=job.model, digest=digest, problem=problem)
    except InpaintError as refusal:
        return Outcome(model=job.model, digest=digest, problem=Problem.of(refusal))
    facts = {name: value for name, value in vars(done).items() if name != "data"}
    return Outcome(model=job.model, digest=digest, result=result, **facts)


def _restored(
    image: bytes, mask: bytes | None, job: InpaintJob, filler: Filler, workplace: Workplace
) -> Restored:
    options = Options(
        mask_mode=job.mask_mode,
        mask_fit=job.mask_fit,
        mask_grow=job.mask_grow,
        mask_feather=job.mask_feather,
        output_format=job.output_format,
        output_quality=job.output_quality,
    )
    opened = open_picture(image, mask, options, filler.rule, workplace.settings.limits)
    canvas, began = Finish(opened.plan), time.perf_counter()
    for batch in batches(opened.plan.windows):
        try:
            fills = filler(*opened.plan.inputs(batch))
        except (InpaintError, JobTimeoutException):
            raise
        except Exception as error:
            log.exception("the generator raised")
            raise ModelFailed(
                f"The model failed on this picture ({type(error).__name__})."
            ) from error
        for fill in fills:
            canvas.lay(fill)
    infer = time.perf_counter() - began
    return close_picture(opened, canvas.pixels(), options, infer=infer, lay=0.0)
