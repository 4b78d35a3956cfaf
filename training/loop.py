"""The training loop: a recipe and photographs in, a folder with state, curves and samples out.

    OUT/state.pt         everything to go on from (training.state)
    OUT/scalars.jsonl    one line per `log_every` steps: step, images, seconds, every loss by name,
                         and `waiting`, the share of the time that was spent waiting for data
    OUT/curves.png       those, drawn
    OUT/samples/N.png    photo | masked | fill, for the same holes at each N

A kill at any moment costs the steps since the last save; the run then continues as if nothing had
happened: batches depend on the step alone, and lines behind the saved step are cut off. Ctrl-C and
SIGTERM let the step end and save. Of several ranks (training.distributed), the first one writes and
reports.
"""

import fcntl
import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any  # states of optimizers are nested dicts

import numpy as np
import torch

from inpaint.errors import BadData, BadRecipe
from models import tensors

from . import data, distributed, labels, plots, state
from .options import make_folder, writing
from .recipe import Recipe
from .trainer import NotFinite, Sources, Trainer

SAMPLES = 6  # pictures in a sample sheet


def train(
    recipe: Recipe,
    sources: Sources,
    out: Path,
    *,
    report: Callable[[str], None] = lambda line: None,
    progress: Callable[[int, int, float], None] = lambda step, steps, rate: None,
    cpu_seconds: float = math.inf,
) -> Path:
    """Train until the recipe's last step, from where the folder `out` stands; return `out`.

    Args:
        recipe: what to train; a state in `out` must have been made with the same networks and seed.
        sources: photographs, feature weights and masks.
        out: the run's folder.
        report: told what happens, a line at a time, where this is the first rank.
        progress: told step, steps in all, and images per second.
        cpu_seconds: the run is done as well when its steps, those of earlier starts that were saved
            included, have taken so much CPU time: of all threads, batches and saves included,
            reading photographs excluded.

    Raises:
        BadData, BadRecipe: for input that cannot be used, a loss that is no longer a number, or a
            disk that is full.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, when the state is saved.
    """
    first = distributed.rank() == 0
    run = _Run(recipe, sources, out, report if first else _ignore, first, cpu_seconds)
    with writing(make_folder(out)), alone(out) if first else nullcontext():
        run.begin()
        _go(run, progress)
    return out


def _go(run: "_Run", progress: Callable[[int, int, float], None]) -> None:
    """Take a run that has begun to its end, or to where it is asked to stop."""
    recipe = run.recipe
    try:
        with asked_to_end() as asked:
            while not run.done:
                run.advance()
                if run.first:
                    progress(run.step, recipe.steps, run.rate)
                    run.write()
                # all ranks, behind the same step
                asked_for = distributed.any_of(asked.is_set(), run.trainer.device)
                if asked_for and not run.done:
                    run.end_early()
    finally:
        run.loader.close()


def _ignore(line: str) -> None:
    """Report nothing."""


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Keep other runs out of the folder; the system lets them in when this process ends.

    Raises:
        BadData: if another one is at work in it.
    """
    folder = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise BadData(f"another run is at work in {out}; use another --out") from error
    finally:
        os.close(folder)


@contextmanager
def asked_to_end() -> Iterator[threading.Event]:
    """Yield what Ctrl-C and SIGTERM set, so that no step is cut in two; a second Ctrl-C does."""
    asked = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass
class _Run:
    """A run and how far it is."""

    recipe: Recipe
    sources: Sources
    out: Path
    report: Callable[[str], None]
    first: bool  # rank
    cpu_seconds: float = math.inf  # after so many it is done
    step: int = 0
    saved: int | None = None  # the step of the saved state
    images: int = 0
    seconds: float = 0.0
    cpu: float = 0.0  # seconds of this process, all its threads
    clock: float = 0.0  # of CPU time, behind the last step
    done: bool = False  # the same in all ranks
    rate: float = 0.0  # squares per second of all ranks, at the last step
    classes: tuple[str, ...] = ()
    waited: float = 0.0  # seconds since the last line of scalars, for data
    began: float = 0.0  # when the last line of scalars was written; seconds of the clock
    sums: dict[str, list[float]] = field(default_factory=dict)

    @property
    def scalars(self) -> Path:
        return self.out / "scalars.jsonl"

    def begin(self) -> None:
        """Read photographs, build the networks, and take up what was saved."""
        recipe, sources = self.recipe, self.sources
        if uneven := [s.batch for s in recipe.stages if s.batch % distributed.count()]:
            raise BadRecipe(
                f"recipe {recipe.name}: a batch of {uneven[0]} cannot be shared evenly by "
                f"{distributed.count()} ranks"
            )
        saved = state.load(self.out, torch.device(sources.device))
        if saved is not None:
            with state.naming(self.out):
                _same_run(saved["recipe"], recipe)
        self._read(saved)
        self.trainer = Trainer(recipe, sources, len(self.classes))
        if saved is not None:
            with state.naming(self.out):
                self.trainer.restore(saved)
                self.step, self.images = saved["step"], saved["images"]
                self.seconds, self.cpu = saved["seconds"], saved.get("cpu", 0.0)
            self.saved = self.step
            self.report(f"going on at step {self.step} of {recipe.steps}")
        if self.first:
            cut(self.scalars, self.step)
        share = {"rank": distributed.rank(), "ranks": distributed.count()}
        self.loader = data.Loader(self.material, recipe, self.step, **share)
        self.began, self.clock = time.monotonic(), time.process_time()
        self._see_whether_done()

    def _see_whether_done(self) -> None:
        """Add up CPU time, and find out whether all ranks are done behind this step."""
        now = time.process_time()
        self.cpu, self.clock = self.cpu + now - self.clock, now
        self.done = self.step == self.recipe.steps or distributed.any_of(
            self.cpu >= self.cpu_seconds, self.trainer.device
        )

    def _read(self, saved: dict[str, Any] | None) -> None:
        """Read photographs and labels; classes of a saved run keep their numbers."""
        sources, longest = self.sources, 2 * max(stage.size for stage in self.recipe.stages)
        self.photographs = data.read(sources.data, longest=longest)
        self._tell_skipped()
        numbers = None
        if sources.labels is not None:
            found = labels.read(
                sources.labels,
                self.photographs.names,
                skipped=self.photographs.skipped,
                classes=(saved or {}).get("classes") or None,
            )
            numbers, self.classes = found.numbers, found.classes
        self.material = data.Material(
            self.photographs.pixels,
            labels=numbers,
            masks=sources.masks,
            silhouettes=sources.silhouettes,
        )

    def advance(self) -> None:
        """Take one step.

        Raises:
            NotFinite: if a loss or a gradient is no number.
        """
        before = time.monotonic()
        batch = self.loader.next()
        self.waited += time.monotonic() - before
        try:
            found = self.trainer.step(batch, self.step)
        except NotFinite:
            if self.saved is not None:
                self.report(f"the last good state is in {self.out}, of step {self.saved}")
            raise
        if self.first:
            for name, value in found.items():
                self.sums.setdefault(name, []).append(value)
        size = self.recipe.stage_at(self.step)[0].batch
        passed = time.monotonic() - before
        self.step, self.images, self.seconds = (
            self.step + 1,
            self.images + size,
            self.seconds + passed,
        )
        self.rate = size / passed
        self._see_whether_done()

    def write(self) -> None:
        """Write what is due at this step."""
        recipe, end = self.recipe, self.done
        if self.step % recipe.log_every == 0 or end:
            self._write_scalars()
        if self.step % recipe.save_every == 0 or end:
            self.save()
            mean = self.images / self.seconds
            self.report(f"saved at step {self.step} of {recipe.steps}, {mean:.1f} img/s so far")
        if self.step % recipe.sample_every == 0 or end:
            sheet = self.out / "samples" / f"{self.step:07d}.png"
            draw_samples(self.trainer, self.material, sheet)
            plots.curves(self.scalars, self.out / "curves.png")
        if end:
            self._tell_skipped()

    def _write_scalars(self) -> None:
        now = time.monotonic()
        line = {"step": self.step, "images": self.images, "seconds": round(self.seconds, 1)}
        means = {name: float(np.mean(values)) for name, values in self.sums.items()}
        means["waiting"] = round(self.waited / (now - self.began), 4)
        with self.scalars.open("a") as file:
            file.write(json.dumps(line | means) + "\n")
        self.sums.clear()
        self.waited, self.began = 0.0, now

    def save(self) -> None:
        """Write the state."""
        counts = {"step": self.step, "images": self.images}
        times = {"seconds": self.seconds, "cpu": self.cpu}
        facts = {
            "recipe": self.recipe.model_dump_json(),
            "device": self.sources.device,
            "ranks": distributed.count(),
            "classes": list(self.classes),
        }
        state.save(self.out, facts | counts | times | self.trainer.state())
        self.saved = self.step

    def end_early(self) -> None:
        """Save, and raise KeyboardInterrupt."""
        if self.first:
            self.save()
        self._tell_skipped()
        self.report(f"interrupted; saved at step {self.step} of {self.recipe.steps}")
        raise KeyboardInterrupt

    def _tell_skipped(self) -> None:
        count, skipped = len(self.photographs.pixels), self.photographs.skipped
        self.report(f"{count} photographs, {len(skipped)} unreadable skipped")
        for name in skipped:
            self.report(f"  skipped {name}")


# What may change between two starts of any run: what it reports, and its card.
TOLD = {"save_every", "log_every", "sample_every", "license", "license_note", "data", "source"}
FREE = TOLD | {"stages"}


def _same_run(saved: str, recipe: Recipe) -> None:
    """Refuse to go on with another recipe than the state was made with.

    Stages may be changed ahead of the saved step; what lies behind it is the caller's to see to.
    """
    before = Recipe.model_validate_json(saved).model_dump()  # keys that are new have defaults
    now = recipe.model_dump()
    if changed := [key for key in now if key not in FREE and before.get(key) != now[key]]:
        raise BadRecipe(
            f"the saved run has other values of {', '.join(changed)}; use another --out, or --init"
        )


def cut(scalars: Path, step: int) -> None:
    """Drop lines behind `step`: they belong to work that was lost and is done again."""
    if scalars.exists():
        lines = scalars.read_text().splitlines()
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
        scalars.write_text("".join(line + "\n" for line in kept))


def draw_samples(trainer: Trainer, material: data.Material, path: Path) -> None:
    """Fill the same holes in the same crops at every call, with the averaged weights."""
    recipe = trainer.recipe.model_copy(update={"seed": trainer.recipe.seed + 1})
    last = trainer.recipe.stages[-1].model_copy(update={"batch": SAMPLES, "steps": 1})
    recipe = recipe.model_copy(update={"stages": (last,)})
    batch = data.make_batch(material, recipe, 0)
    image, mask = trainer.tensors_of(batch)
    with torch.no_grad(), trainer.autocast():
        fill = trainer.averaged_generator()(image, mask)
    masked = tensors.to_pixels(tensors.composite(image, torch.ones_like(image), mask))
    filled = tensors.to_pixels(tensors.composite(image, fill.float(), mask))
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [list(row) for row in zip(batch.pixels, masked, filled, strict=True)]
    plots.grid(rows, path)
