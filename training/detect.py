"""The training loop of detectors: a recipe and photographs in, a folder as `training.loop`'s out.

    OUT/state.pt         everything to go on from, but the crops
    OUT/pool/            crops, rendered while training goes on (training.crops)
    OUT/scalars.jsonl, OUT/curves.png
    OUT/samples/N.png    print | label | found, of photographs that are not trained on; in both red
                         is a line, green a speck, blue an area, gray in the label is ignored

A kill at any moment costs the steps since the last save. Which crops a step draws depends on the
seed, the step and what the pool holds: the crops themselves depend on the seed alone.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any  # states of optimizers are nested dicts

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from inpaint.errors import BadData, BadRecipe
from models.detector import DamageUNet
from models.registry import create_network
from models.tensors import to_image

from . import crops, detection, plots, state
from .detection import DetectorRecipe
from .loop import TOLD, alone, asked_to_end, cut
from .options import make_folder, writing

SAMPLES = 6  # rows of a sample sheet
SAMPLE_SIDE = 320  # pixels
# What may change between two starts of one run.
FREE = TOLD | {"steps", "batch", "crops", "losses", "learning_rate", "average"}


def train(
    recipe: DetectorRecipe,
    sources: tuple[Path, ...],
    out: Path,
    *,
    device: str = "cpu",
    report: Callable[[str], None] = lambda line: None,
    progress: Callable[[int, int, float], None] = lambda step, steps, rate: None,
) -> Path:
    """Train until the recipe's last step, from where the folder `out` stands; return `out`.

    Args:
        recipe: what to train.
        sources: of photographs.
        out: the run's folder.
        device: where torch computes.
        report: told what happens, a line at a time.
        progress: told step, steps in all, and crops per second.

    Raises:
        BadData, BadRecipe: for input that cannot be used, a loss that is no longer a number, or a
            disk that is full.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, when the state is saved.
    """
    with writing(make_folder(out)), alone(out):
        run = _Run(recipe, sources, out, torch.device(device), report)
        run.begin()
        try:
            with asked_to_end() as asked:
                while run.step < recipe.steps:
                    run.advance()
                    progress(run.step, recipe.steps, run.rate)
                    run.write()
                    if asked.is_set() and run.step < recipe.steps:
                        run.save()
                        report(f"interrupted; saved at step {run.step} of {recipe.steps}")
                        raise KeyboardInterrupt
        finally:
            run.renderer.close()
    return out


def first_detector(recipe: DetectorRecipe) -> DamageUNet:
    """Return a fresh detector.

    Raises:
        BadRecipe: if the recipe's architecture is none, or its configuration impossible.
    """
    try:
        network = create_network(recipe.architecture, recipe.detector)
        if not isinstance(network, DamageUNet):
            raise ValueError(f"{recipe.architecture} finds no damage")
        if not network.rule.accepts(recipe.crops.size, recipe.crops.size):
            raise ValueError(f"crops of {recipe.crops.size} px break {network.rule}")
    except (ValueError, RuntimeError) as error:
        raise BadRecipe(f"recipe {recipe.name}: {error}") from error
    return network


def rendered(saved: dict[str, Any]) -> tuple[int, int]:
    """Return how many damaged and clean crops a run has rendered, of its state."""
    return saved["pool"]["count"], saved["pool"]["clean_count"]


@dataclass
class _Run:
    """A run and how far it is."""

    recipe: DetectorRecipe
    sources: tuple[Path, ...]
    out: Path
    device: torch.device
    report: Callable[[str], None]
    step: int = 0
    images: int = 0
    seconds: float = 0.0
    rate: float = 0.0  # crops per second, at the last step
    sums: dict[str, list[float]] = field(default_factory=dict)
    samples: list[crops.Crop] = field(default_factory=list)

    @property
    def scalars(self) -> Path:
        return self.out / "scalars.jsonl"

    def begin(self) -> None:
        """Build the network, take up what was saved, and have the first crops rendered."""
        recipe = self.recipe
        torch.manual_seed(recipe.seed)
        self.network = first_detector(recipe).to(self.device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # stub lacks it
        self.averaged = {name: value.clone() for name, value in self.network.state_dict().items()}
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), weight_decay=recipe.decay, fused=True
        )
        wanted = recipe.crops
        self.pool = crops.Pool(self.out / "pool", wanted.size, wanted.damaged, wanted.clean)
        first = 0
        if (saved := state.load(self.out, self.device)) is not None:
            with state.naming(self.out):
                first = self._restore(saved)
            self.report(f"going on at step {self.step} of {recipe.steps}")
        cut(self.scalars, self.step)
        held_out = crops.read(self.sources, held_out=True)
        self.samples = [
            crops.crops_of(
                held_out,
                number,
                seed=recipe.seed,
                size=SAMPLE_SIDE,
                scales=wanted.scales,
                clean=wanted.prints,
            )[0]
            for number in range(SAMPLES)
        ]
        self.report(f"{len(held_out)} photographs are kept for scores")
        self.renderer = crops.Renderer(
            self.sources,
            first,
            seed=recipe.seed,
            size=wanted.size,
            scales=wanted.scales,
            clean=wanted.prints,
        )
        while self.pool.count < min(wanted.first, wanted.damaged):
            self._take()

    def _restore(self, saved: dict[str, Any]) -> int:
        """Take up a state; return the number of the next print."""
        before = DetectorRecipe.model_validate_json(saved["recipe"]).model_dump()
        now = self.recipe.model_dump()
        if changed := [key for key in now if key not in FREE and before[key] != now[key]]:
            raise BadRecipe(
                f"the saved run has other values of {', '.join(changed)}; use another --out"
            )
        self.network.load_state_dict(saved["network"])
        self.averaged = saved["averaged"]
        self.optimizer.load_state_dict(saved["optimizer"])
        self.pool.restore(saved["pool"])
        self.step, self.images = saved["step"], saved["images"]
        self.seconds = saved["seconds"]
        return int(saved["prints"])

    def _take(self) -> None:
        for crop in self.renderer.next():
            self.pool.add(crop)

    def advance(self) -> None:
        """Take one step.

        Raises:
            BadData: if a loss or a gradient is no number; the network has not moved.
        """
        recipe, wanted, began = self.recipe, self.recipe.crops, time.monotonic()
        most = wanted.first + wanted.fresh * self.step
        while self.pool.count + self.pool.clean_count < most and self.renderer.ready():
            self._take()
        rng = np.random.default_rng([recipe.seed, self.step])
        late = self.step >= wanted.hard_from * recipe.steps
        clean, hard = (wanted.drawn_later, wanted.hard) if late else (wanted.drawn, 0.0)
        places = self.pool.draw(recipe.batch, rng, clean, hard)
        pairs = [_turned(self.pool.pixels[place], self.pool.labels[place], rng) for place in places]
        pixels, labels = (torch.from_numpy(np.stack(parts)) for parts in zip(*pairs, strict=True))
        labels = labels.to(self.device)
        logits = self._logits(self.network.train(), pixels)
        found = {
            "pixels": detection.focal(
                logits, labels, gamma=recipe.losses.gamma, alpha=recipe.losses.alpha
            ),
            "overlap": detection.overlap(logits, labels),
        }
        total = recipe.losses.pixels * found["pixels"] + recipe.losses.overlap * found["overlap"]
        self._move(total)
        fooled = detection.fooled(logits, labels)
        for place, value in zip(places, fooled.tolist(), strict=True):
            self.pool.judged(place, value)
        found["fooled"] = fooled.mean()
        for name, value in found.items():
            self.sums.setdefault(name, []).append(value.item())
        passed = time.monotonic() - began
        self.step, self.images = self.step + 1, self.images + recipe.batch
        self.seconds, self.rate = self.seconds + passed, recipe.batch / passed

    def _logits(self, network: nn.Module, pixels: Tensor) -> Tensor:
        image = to_image(pixels).to(self.device, memory_format=torch.channels_last)
        enabled = self.recipe.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=enabled):
            logits: Tensor = network(image)
        return logits.float()

    def _move(self, loss: Tensor) -> None:
        recipe = self.recipe
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clip or float("inf"))
        if not (loss.isfinite() and norm.isfinite()):
            raise BadData(f"step {self.step}: the loss or a gradient is not a number")
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.rate_at(self.step)
        self.optimizer.step()
        with torch.no_grad():
            state.average(
                self.averaged, self.network.state_dict(), decay=recipe.average, step=self.step
            )

    def write(self) -> None:
        """Write what is due at this step."""
        recipe, end = self.recipe, self.step == self.recipe.steps
        if self.step % recipe.log_every == 0 or end:
            self._write_scalars()
        if self.step % recipe.save_every == 0 or end:
            self.save()
            mean = self.images / self.seconds
            self.report(f"saved at step {self.step} of {recipe.steps}, {mean:.1f} crops/s so far")
        if self.step % recipe.sample_every == 0 or end:
            self._draw_samples(self.out / "samples" / f"{self.step:07d}.png")
            plots.curves(self.scalars, self.out / "curves.png")

    def _write_scalars(self) -> None:
        line: dict[str, float] = {"step": self.step, "images": self.images}
        line["seconds"] = round(self.seconds, 1)
        line["rendered"] = self.pool.count + self.pool.clean_count
        means = {name: float(np.mean(values)) for name, values in self.sums.items()}
        with self.scalars.open("a") as file:
            file.write(json.dumps(line | means) + "\n")
        self.sums.clear()

    def save(self) -> None:
        """Write the state."""
        facts = {"step": self.step, "images": self.images, "seconds": self.seconds}
        state.save(
            self.out,
            {
                "recipe": self.recipe.model_dump_json(),
                "device": str(self.device),
                "network": self.network.state_dict(),
                "averaged": self.averaged,
                "optimizer": self.optimizer.state_dict(),
                "pool": self.pool.state(),
                "prints": self.renderer.number,
                **facts,
            },
        )

    def _draw_samples(self, path: Path) -> None:
        network = first_detector(self.recipe)
        network.load_state_dict(self.averaged)
        pixels = torch.from_numpy(np.stack([crop.pixels for crop in self.samples]))
        with torch.no_grad():
            logits = self._logits(network.to(self.device).eval(), pixels)
        found = (torch.sigmoid(logits) * 255).byte().permute(0, 2, 3, 1).cpu().numpy()
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [
            [crop.pixels, _coloured(crop.label[..., 0]), shown]
            for crop, shown in zip(self.samples, found, strict=True)
        ]
        plots.grid(rows, path)


def _turned(
    pixels: NDArray[np.uint8], label: NDArray[np.uint8], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Turn a square by a right angle and mirror it, at random."""
    turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))
    turned = np.rot90(pixels, turns), np.rot90(label, turns)
    return (turned[0][:, ::-1], turned[1][:, ::-1]) if mirrored else turned


def _coloured(heads: NDArray[np.uint8]) -> NDArray[np.uint8]:
    colours = np.zeros((256, 3), np.uint8)
    colours[1:4] = np.eye(3, dtype=np.uint8) * 255
    colours[crops.IGNORED] = 90
    return colours[heads]
