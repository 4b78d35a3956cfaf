"""Jobs of the queue as tasks of the stages, and the door where refusals become outcomes.

A refusal that a user can act on is an `Outcome` with a problem; only bugs are handed on as they
are.
"""

import logging
import threading
import time
from contextlib import suppress
from queue import Empty, SimpleQueue

from inpaint.blobs import Blobs
from inpaint.errors import InpaintError, OutOfMemory, TimedOut
from inpaint.header import probe
from inpaint.highres import Pixels
from inpaint.jobs import InpaintJob, Outcome, Problem
from inpaint.restore import Plan
from inpaint.settings import Settings
from models.filler import out_of_memory

from .batching import Batching
from .leases import Claim, Ending
from .pipeline import Opened, Options, close_picture, open_picture
from .rate import Rate
from .zoo import Zoo

log = logging.getLogger("inpaint.worker")


class Dropped(Exception):
    """The job was cancelled, or another worker has it: nobody waits for what is done here."""


class Workshop:
    """The `Stages` of `worker.leases`: takes claims, hands back how each ended."""

    def __init__(self, settings: Settings, blobs: Blobs, zoo: Zoo) -> None:
        """Start the stages' threads."""
        self.settings = settings
        self.blobs = blobs
        self.zoo = zoo
        self._rate = Rate()
        self._ended: SimpleQueue[tuple[Claim, Ending]] = SimpleQueue()
        self._owed = 0  # claims that were taken and not handed back
        self._settled = threading.Condition()
        self._batching = Batching(
            zoo.fillers,
            batch_seconds=settings.batch_seconds,
            most_pixels=2 * settings.max_pixels,
        )

    def room(self, seconds: float) -> int:
        """Wait at most `seconds` until jobs may be taken; return how many."""
        return self._batching.room(seconds)

    def take(self, claim: Claim) -> None:
        """Begin a job."""
        with self._settled:
            self._owed += 1
            self._rate.began()
        try:
            task = JobTask(claim, self)
        except Exception as error:  # noqa: BLE001  # of a payload that is no job of ours
            self.end(claim, error)
        else:
            self._batching.put(task)

    def end(self, claim: Claim, ending: Ending) -> None:
        """Let a job's end be handed back."""
        with self._settled:
            self._rate.ended(counts=ending is not None)
        self._ended.put((claim, ending))

    def ended(self, seconds: float) -> list[tuple[Claim, Ending]]:
        """Wait at most `seconds` for at least one that has ended; hand back all that have."""
        found: list[tuple[Claim, Ending]] = []
        with suppress(Empty):
            found.append(self._ended.get(timeout=seconds))
            while True:
                found.append(self._ended.get_nowait())
        with self._settled:
            self._owed -= len(found)
            self._settled.notify_all()
        return found

    def stalled(self) -> float:
        """Seconds that the longest running call of a stage has lasted."""
        return self._batching.stalled()

    def rate(self) -> float:
        """Jobs finished per second while busy; 0.0 before the first."""
        with self._settled:
            return self._rate.per_second()

    def drain(self) -> None:
        """Wait until everything taken has been handed back by `ended`."""
        with self._settled:
            self._settled.wait_for(lambda: not self._owed)

    def close(self) -> None:
        """End the stages' threads."""
        self._batching.close()


class JobTask:
    """A job as the stages see it."""

    def __init__(self, claim: Claim, shop: Workshop) -> None:
        """Raise ValidationError if the payload is no InpaintJob."""
        self.job = InpaintJob.model_validate(claim.payload)
        self.model = self.job.model
        self.urgent = claim.lane == "interactive"
        self.alone = claim.alone
        self._claim = claim
        self._shop = shop
        self._files: tuple[bytes, bytes | None] = b"", None
        self._opened: Opened | None = None
        self._outcome: Outcome | None = None
        self._options = Options(
            mask_mode=self.job.mask_mode,
            mask_fit=self.job.mask_fit,
            mask_grow=self.job.mask_grow,
            mask_feather=self.job.mask_feather,
            output_format=self.job.output_format,
            output_quality=self.job.output_quality,
        )

    def check(self) -> None:
        """Raise Dropped or TimedOut."""
        if not self._claim.live:
            raise Dropped
        limit = self._shop.settings.job_timeout_seconds
        if time.monotonic() - self._claim.began > limit:
            raise TimedOut(f"The job ran longer than {limit} s, which is the limit.")

    def fetch(self) -> int:
        """Read the uploads; return the pixels of the picture."""
        self._shop.zoo.filler(self.model)
        blobs, job = self._shop.blobs, self.job
        image = blobs.get(job.image)
        self._files = image, blobs.get(job.mask) if job.mask else None
        header = probe(image, self._shop.settings.limits)
        return header.width * header.height

    def open(self) -> Plan:
        """Decode and plan."""
        image, mask = self._files
        self._files = b"", None
        rule = self._shop.zoo.filler(self.model).rule
        self._opened = open_picture(image, mask, self._options, rule, self._shop.settings.limits)
        return self._opened.plan

    def close(self, pixels: Pixels, *, infer: float, lay: float) -> None:
        """Encode and store the result."""
        opened, self._opened = self._opened, None
        assert opened is not None
        done = close_picture(opened, pixels, self._options, infer=infer, lay=lay)
        del opened, pixels
        result = self._shop.blobs.put(done.data)
        facts = {name: value for name, value in vars(done).items() if name != "data"}
        self._outcome = Outcome(model=self.model, digest=self._digest(), result=result, **facts)

    def end(self, error: Exception | None) -> None:
        """Turn what ended it into what is committed, and log it."""
        self._opened = None
        ending = self._ending(error)
        if isinstance(ending, Outcome):
            seconds = time.monotonic() - self._claim.began
            code = ending.problem.code if ending.problem else "done"
            stages = " ".join(f"{stage} {value:.3f}" for stage, value in ending.seconds.items())
            log.info("%s %s: %s in %.3f s: %s", self._claim.id, self.model, code, seconds, stages)
            self._shop.end(self._claim, ending.model_dump(mode="json", exclude_defaults=True))
        else:
            self._shop.end(self._claim, ending)

    def _ending(self, error: Exception | None) -> Outcome | Exception | None:
        if error is None:
            assert self._outcome is not None
            return self._outcome
        if isinstance(error, Dropped):
            log.info("%s %s: dropped", self._claim.id, self.model)
            return None
        if out_of_memory(error):
            error = OutOfMemory("The picture did not fit into memory.")
        if isinstance(error, InpaintError):
            return Outcome(model=self.model, digest=self._digest(), problem=Problem.of(error))
        return error

    def _digest(self) -> str | None:
        """Of the model's checkpoint, where this worker holds the model."""
        card = self._shop.zoo.cards.get(self.model)
        return card.digest if card else None
