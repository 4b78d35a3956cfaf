"""The training loop: a recipe and photographs in, a folder with state, curves and samples out.

    OUT/state.pt         everything to go on from (training.state)
    OUT/scalars.jsonl    one line per `log_every` steps: step, images, seconds, every loss by name
    OUT/curves.png       those, drawn
    OUT/samples/N.png    photo | masked | fill, for the same holes at each N

A kill at any moment costs the steps since the last save; the run then continues as if nothing had
happened: batches depend on the step alone, and lines behind the saved step are cut off.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from inpaint.errors import BadData, BadRecipe
from models import checkpoint, tensors
from models.generator import Generator
from models.registry import create

from . import data, losses, plots, state
from .discriminators import PatchDiscriminator
from .features import FeatureNetwork, load_features, normalise
from .recipe import Recipe

SAMPLES = 6  # pictures in a sample sheet
Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Sources:
    """Where a run finds what is not in its recipe."""

    data: tuple[Path, ...]
    features: Path | None = None  # weights of the feature network
    masks: tuple[Path, ...] = ()  # mask files
    init: Path | None = None  # checkpoint whose weights the run begins with
    device: str = "cpu"


class Trainer:
    """The networks of a run and one step over them."""

    def __init__(self, recipe: Recipe, sources: Sources) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.device = torch.device(sources.device)
        self.generator = self._to_device(_first_generator(recipe, sources.init))
        self.averaged = {name: value.clone() for name, value in self.generator.state_dict().items()}
        self.discriminator = self._to_device(PatchDiscriminator(recipe.discriminator.channels))
        self.features = self._feature_network(sources.features)
        self.generator_optimizer = self._optimizer(self.generator)
        self.discriminator_optimizer = self._optimizer(self.discriminator)

    def _to_device(self, network: Network) -> Network:
        network.to(self.device)
        # torch types this form of `to` for tensors alone.
        return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """Adam; the rate is set before every step."""
        return torch.optim.Adam(network.parameters(), betas=self.recipe.betas, fused=True)

    def _feature_network(self, weights: Path | None) -> FeatureNetwork | None:
        wanted = self.recipe.features
        if not (self.recipe.losses.perceptual or self.recipe.losses.style):
            return None
        if weights is None:
            raise BadData(
                f"the recipe has perceptual losses: name {wanted.network} weights with --features"
            )
        taps = dict.fromkeys((*wanted.perceptual_taps, *wanted.style_taps))
        return self._to_device(load_features(wanted.network, weights, list(taps)))

    def autocast(self) -> torch.autocast:
        """Return the context in which networks run."""
        enabled = self.recipe.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def tensors_of(self, batch: data.Batch) -> tuple[Tensor, Tensor]:
        """Return image and mask of a batch, on the device."""
        image = tensors.to_image(batch.pixels).to(self.device, memory_format=torch.channels_last)
        return image, tensors.to_mask(batch.holes).to(self.device)

    def step(self, batch: data.Batch, step: int) -> dict[str, float]:
        """Take one step of the generator, then one of the discriminator; return every loss by name.

        Raises:
            BadData: if a loss is not a number; the weights are then still those of the step before.
        """
        recipe, weigh = self.recipe, self.recipe.losses
        stage, _ = recipe.stage_at(step)
        adversarial = stage.adversarial and bool(weigh.adversarial or weigh.feature_matching)
        image, mask = self.tensors_of(batch)
        with self.autocast():
            fill = self.generator(image, mask)
        fill = fill.float()
        composite = tensors.composite(image, fill, mask)
        found = {
            "reconstruction": losses.reconstruction(
                fill, image, mask, known=weigh.known, hole=weigh.hole
            )
        }
        total = found["reconstruction"]
        if self.features is not None:
            compared = composite if weigh.compare == "composite" else fill
            found |= self._feature_losses(compared, image)
            total = total + weigh.perceptual * found["perceptual"] + weigh.style * found["style"]
        if adversarial:
            found |= self._adversarial_losses(composite, image, mask)
            total = total + weigh.adversarial * found["adversarial"]
            total = total + weigh.feature_matching * found["feature_matching"]
        if not torch.isfinite(total):
            raise BadData(
                f"step {step}: the loss is not a number: "
                + ", ".join(f"{name} {value.item():.3g}" for name, value in found.items())
            )
        self._update(self.generator, self.generator_optimizer, total, recipe.rate_at(step))
        with torch.no_grad():
            current = self.generator.state_dict()
            state.average(self.averaged, current, decay=recipe.average, step=step)
        if adversarial:
            found["discriminator"] = self._discriminator_step(composite.detach(), image, mask)
        with torch.no_grad():
            found["hole_error"] = (
                ((fill - image).abs() * mask).sum() / (3 * mask.sum() + losses.TINY) / 2
            )
        return {name: value.item() for name, value in found.items()}

    def _feature_losses(self, compared: Tensor, image: Tensor) -> dict[str, Tensor]:
        assert self.features is not None
        wanted = self.recipe.features
        with self.autocast():
            of_fill = self.features(normalise(compared))
            with torch.no_grad():
                of_image = self.features(normalise(image))
        for tap, activation in of_fill.items():
            pair = activation.float(), of_image[tap].float()
            of_fill[tap], of_image[tap] = losses.scale_by_target(*pair) if wanted.scale else pair
        return {
            "perceptual": losses.perceptual(of_fill, of_image, wanted.perceptual_taps),
            "style": losses.style(of_fill, of_image, wanted.style_taps),
        }

    def _adversarial_losses(
        self, composite: Tensor, image: Tensor, mask: Tensor
    ) -> dict[str, Tensor]:
        self.discriminator.requires_grad_(False)  # its gradients belong to its own step alone
        with self.autocast():
            fake, of_fake = self.discriminator(composite)
            with torch.no_grad():
                _, of_real = self.discriminator(image)
        self.discriminator.requires_grad_(True)
        weigh = self.recipe.losses
        return {
            "adversarial": losses.soft_patch_generator(fake.float(), mask, mode=weigh.mode),
            "feature_matching": losses.feature_matching(
                [activation.float() for activation in of_fake],
                [activation.float() for activation in of_real],
            ),
        }

    def _discriminator_step(self, composite: Tensor, image: Tensor, mask: Tensor) -> Tensor:
        weigh = self.recipe.losses
        with self.autocast():
            real, _ = self.discriminator(image)
            fake, _ = self.discriminator(composite)
        blurred = losses.soft_mask(mask, kernel=weigh.blur_kernel, sigma=weigh.blur_sigma)
        loss = losses.soft_patch_discriminator(
            real.float(), fake.float(), mask, blurred=blurred, mode=weigh.mode
        )
        rate = self.recipe.discriminator.learning_rate
        self._update(self.discriminator, self.discriminator_optimizer, loss, rate)
        return loss

    def _update(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, rate: float
    ) -> None:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        nn.utils.clip_grad_norm_(network.parameters(), self.recipe.clip)
        optimizer.step()

    def averaged_generator(self) -> Generator:
        """Return a generator with the averaged weights (the current ones without averaging)."""
        generator = create(self.recipe.architecture, self.recipe.generator)
        generator.load_state_dict(
            self.averaged if self.recipe.average else self.generator.state_dict()
        )
        return self._to_device(generator).eval()

    def state(self) -> dict[str, Any]:
        """Return everything that the next step depends on, step and batches aside."""
        return {
            "generator": self.generator.state_dict(),
            "averaged": self.averaged,
            "discriminator": self.discriminator.state_dict(),
            "generator_optimizer": self.generator_optimizer.state_dict(),
            "discriminator_optimizer": self.discriminator_optimizer.state_dict(),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Take up a state that `state` returned."""
        self.generator.load_state_dict(saved["generator"])
        self.averaged = saved["averaged"]
        self.discriminator.load_state_dict(saved["discriminator"])
        self.generator_optimizer.load_state_dict(saved["generator_optimizer"])
        self.discriminator_optimizer.load_state_dict(saved["discriminator_optimizer"])


def _first_generator(recipe: Recipe, init: Path | None) -> Generator:
    try:
        generator = create(recipe.architecture, recipe.generator)
    except ValueError as error:
        raise BadRecipe(f"recipe {recipe.name}: {error}") from error
    if init is not None:
        given, header = checkpoint.load(init)
        if header.architecture != recipe.architecture or asdict(given.config) != asdict(
            generator.config
        ):
            raise BadRecipe(
                f"{init} is {header.architecture} {header.config}, not what {recipe.name} trains"
            )
        generator.load_state_dict(given.state_dict())
    return generator


def train(
    recipe: Recipe,
    sources: Sources,
    out: Path,
    *,
    report: Callable[[str], None] = lambda line: None,
    progress: Callable[[int, int, float], None] = lambda step, steps, rate: None,
) -> Path:
    """Train until the recipe's last step, from where the folder `out` stands; return `out`.

    Args:
        recipe: what to train; a state in `out` must have been made with the same networks and seed.
        sources: photographs, feature weights and masks.
        out: the run's folder.
        report: told what happens, a line at a time.
        progress: told step, steps in all, and images per second.

    Raises:
        BadData, BadRecipe: for input that cannot be used, or a loss that is no longer a number.
    """
    out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(recipe, sources)
    saved = state.load(out, trainer.device)
    step, images, seconds = 0, 0, 0.0
    if saved is not None:
        _same_run(saved["recipe"], recipe)
        trainer.restore(saved)
        step, images, seconds = saved["step"], saved["images"], saved["seconds"]
        report(f"going on at step {step} of {recipe.steps}")
    scalars = out / "scalars.jsonl"
    _cut(scalars, step)
    longest = 2 * max(stage.size for stage in recipe.stages)
    photographs = data.read(sources.data, longest=longest)
    report(f"{len(photographs.pixels)} photographs, {len(photographs.skipped)} unreadable skipped")
    for name in photographs.skipped:
        report(f"  skipped {name}")
    loader = data.Loader(photographs.pixels, recipe, step, sources.masks)
    sums: dict[str, list[float]] = {}
    last = time.monotonic()
    try:
        while step < recipe.steps:
            batch = loader.next()
            for name, value in trainer.step(batch, step).items():
                sums.setdefault(name, []).append(value)
            step += 1
            images += len(batch.pixels)
            now = time.monotonic()
            seconds, rate, last = seconds + now - last, len(batch.pixels) / (now - last), now
            progress(step, recipe.steps, rate)
            end = step == recipe.steps
            if step % recipe.log_every == 0 or end:
                line = {"step": step, "images": images, "seconds": round(seconds, 1)}
                means = {name: float(np.mean(values)) for name, values in sums.items()}
                with scalars.open("a") as file:
                    file.write(json.dumps(line | means) + "\n")
                sums.clear()
            if step % recipe.save_every == 0 or end:
                counts = {
                    "step": step,
                    "images": images,
                    "seconds": seconds,
                    "device": sources.device,
                }
                state.save(out, {"recipe": recipe.model_dump_json(), **counts, **trainer.state()})
                mean = images / seconds
                report(f"saved at step {step} of {recipe.steps}, {mean:.1f} img/s so far")
            if step % recipe.sample_every == 0 or end:
                sheet = out / "samples" / f"{step:07d}.png"
                draw_samples(trainer, photographs.pixels, sheet, sources.masks)
                plots.curves(scalars, out / "curves.png")
    finally:
        loader.close()
    return out


# What may change between two starts of one run: its length and what it reports.
FREE = {"stages", "save_every", "log_every", "sample_every", "license_note", "data", "source"}


def _same_run(saved: str, recipe: Recipe) -> None:
    """Refuse to go on with another recipe than the state was made with.

    Stages may be changed ahead of the saved step; what lies behind it is the caller's to see to.
    """
    before, now = json.loads(saved), json.loads(recipe.model_dump_json())
    if changed := [key for key in now if key not in FREE and before.get(key) != now[key]]:
        raise BadRecipe(
            f"the saved run has other values of {', '.join(changed)}; use another --out, or --init"
        )


def _cut(scalars: Path, step: int) -> None:
    """Drop lines behind `step`: they belong to work that was lost and is done again."""
    if scalars.exists():
        lines = scalars.read_text().splitlines()
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
        scalars.write_text("".join(line + "\n" for line in kept))


def draw_samples(
    trainer: Trainer, photographs: Sequence[data.Pixels], path: Path, masks: Sequence[Path] = ()
) -> None:
    """Fill the same holes in the same crops at every call, with the averaged weights."""
    recipe = trainer.recipe.model_copy(update={"seed": trainer.recipe.seed + 1})
    last = trainer.recipe.stages[-1].model_copy(update={"batch": SAMPLES, "steps": 1})
    recipe = recipe.model_copy(update={"stages": (last,)})
    batch = data.make_batch(photographs, recipe, 0, masks)
    image, mask = trainer.tensors_of(batch)
    with torch.no_grad(), trainer.autocast():
        fill = trainer.averaged_generator()(image, mask)
    masked = tensors.to_pixels(tensors.composite(image, torch.ones_like(image), mask))
    filled = tensors.to_pixels(tensors.composite(image, fill.float(), mask))
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [list(row) for row in zip(batch.pixels, masked, filled, strict=True)]
    plots.grid(rows, path)
