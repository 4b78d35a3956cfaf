"""Jobs of the queue as tasks of the stages, and the door where refusals become outcomes.

A refusal that a user can act on is an `Outcome` with a problem; only bugs are handed on as they
are.
"""

import logging
import threading
import time
from contextlib import suppress
from dataclasses import fields
from queue import Empty, SimpleQueue

from inpaint.blobs import Blobs
from inpaint.errors import InpaintError, OutOfMemory, TimedOut
from inpaint.highres import Pixels
from inpaint.jobs import InpaintJob, Outcome, Problem
from inpaint.settings import Settings
from models.filler import out_of_memory

from .batching import Batching
from .forming import Pass
from .leases import Claim, Ending, Room
from .pipeline import Options, Restoration
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
            zoo.everything,
            batch_seconds=settings.batch_seconds,
            most_pixels=2 * settings.max_pixels,
        )

    def room(self, seconds: float) -> Room:
        """Wait at most `seconds` for a lane that is full; return what room there is then."""
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

    def discard(self, ending: Ending) -> None:
        """Delete the files of an ending that nobody will have."""
        if isinstance(ending, dict):
            for name in ("result", "mask"):
                if name in ending:
                    self.blobs.delete(ending[name])

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
        self._outcome: Outcome | None = None
        options = {field.name: getattr(self.job, field.name) for field in fields(Options)}
        limits = shop.settings.limits
        self._restoration = Restoration(
            shop.zoo, self.model, Options(**options), limits, blank=not self.urgent
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
        blobs, job = self._shop.blobs, self.job
        image = blobs.get(job.image)
        return self._restoration.take(image, blobs.get(job.mask) if job.mask else None)

    def open(self) -> Pass:
        """Decode and plan."""
        return self._restoration.open()

    def close(self, pixels: Pixels, *, infer: float, lay: float) -> Pass | None:
        """Go on to the next pass; after the last, store what has come of it."""
        following = self._restoration.close(pixels, infer=infer, lay=lay)
        if (done := self._restoration.restored) is not None:
            blobs = self._shop.blobs
            self._outcome = Outcome(
                model=self.model,
                digest=self._digest(),
                result=blobs.put(done.data),
                mask=blobs.put(done.mask) if done.mask else None,
                **done.facts(),
            )
        return following

    def end(self, error: Exception | None) -> None:
        """Turn what ended it into what is committed, and log it."""
        self._restoration.drop()
        ending = self._ending(error)
        if not isinstance(ending, Outcome):
            self._shop.end(self._claim, ending)
            return
        self._shop.end(self._claim, ending.model_dump(mode="json", exclude_defaults=True))
        seconds = time.monotonic() - self._claim.began
        code = ending.problem.code if ending.problem else "done"
        stages = " ".join(f"{stage} {value:.3f}" for stage, value in ending.seconds.items())
        log.info("%s %s: %s in %.3f s: %s", self._claim.id, self.model, code, seconds, stages)

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
        zoo = self._shop.zoo
        card = zoo.cards.get(self.model) or zoo.detector_cards.get(self.model)
        return card.digest if card else None
