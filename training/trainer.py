"""The networks of a run, and one step over them: a batch in, every loss by name out.

A step shows the generator a batch, weighs its fills by the recipe's losses, shows real and fake
squares to the discriminator, and then moves both networks, or neither if a number is not finite.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar  # Any: states of optimizers are nested dicts

import numpy as np
import torch
from torch import Tensor, nn

from inpaint.errors import BadData
from models import tensors
from models.generator import Generator
from models.registry import create

from . import distributed, losses, state
from .data import Batch
from .discriminators import Discriminator, Judgement
from .features import FeatureNetwork, normalise
from .muon import Muon
from .networks import feature_network, first_discriminator, first_generator
from .recipe import Recipe

Network = TypeVar("Network", bound=nn.Module)
R1_EVERY = 16  # steps, and so many times as strong: arXiv:1912.04958, section 3.1


@dataclass(frozen=True)
class Sources:
    """Where a run finds what is not in its recipe."""

    data: tuple[Path, ...]
    features: Path | None = None  # weights of the feature network
    masks: tuple[Path, ...] = ()  # mask files
    silhouettes: tuple[Path, ...] = ()  # files of objects' shapes
    labels: str | None = None  # "folders", or the path of a CSV file
    init: Path | None = None  # checkpoint whose weights the run begins with
    device: str = "cpu"


class NotFinite(BadData):
    """A loss or a gradient is no number any more; the weights are those of the step before."""


@dataclass(frozen=True)
class View:
    """What the losses look at: the whole squares, or the central half of each side.

    Images are (B,3,h,w), the mask (B,1,h,w); `context` is always whole, its hole blanked to 0.
    """

    image: Tensor
    mask: Tensor
    fill: Tensor
    composite: Tensor
    context: Tensor
    area: Tensor  # hole pixels of this part in a rank's share, on average over the ranks


class Judge(nn.Module):
    """All that one step shows the discriminator, in one call: ranks then average gradients once."""

    def __init__(self, discriminator: Discriminator) -> None:
        super().__init__()
        self.discriminator = discriminator

    def forward(
        self, real: Tensor, fakes: Sequence[Tensor], context: Tensor, *, slope: bool
    ) -> tuple[Judgement, list[Judgement], Tensor | None]:
        """Return the judgement of the real squares (B,3,h,w), of each kind of fakes, and R1."""
        of_real = self.discriminator(real, context)
        of_fakes = [self.discriminator(fake, context) for fake in fakes]
        if not slope:
            return of_real, of_fakes, None
        with torch.autocast(real.device.type, enabled=False):
            penalty = losses.r1(lambda image: self.discriminator(image, context).logits, real)
        return of_real, of_fakes, penalty


class Trainer:
    """The networks of a run and one step over them.

    Args:
        recipe: what to train.
        sources: feature weights, first weights and the device are taken from it.
        classes: how many classes the labels have; 0 without labels.
        layout: of weights and images in memory.

    Raises:
        BadRecipe, BadData: if networks cannot be built as the recipe says, or files are not usable.
    """

    def __init__(
        self,
        recipe: Recipe,
        sources: Sources,
        classes: int = 0,
        *,
        layout: torch.memory_format = torch.channels_last,
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.weigh = recipe.losses  # in a step: those of its stage
        self.layout = layout
        self.device = torch.device(sources.device)
        self.generator = self._to_device(first_generator(recipe, sources.init))
        self.averaged = {name: value.clone() for name, value in self.generator.state_dict().items()}
        self.discriminator = self._to_device(first_discriminator(recipe, classes))
        features = feature_network(recipe, sources.features)
        self.features = None if features is None else self._to_device(features)
        self.generator_optimizer = self._optimizer(self.generator, recipe.optimizer)
        self.discriminator_optimizer = self._optimizer(self.discriminator, "adam")
        self._generate = distributed.shared(self.generator)
        self._judge = distributed.shared(Judge(self.discriminator))

    def _to_device(self, network: Network) -> Network:
        network.to(self.device)
        # torch types this form of `to` for tensors alone.
        return network.to(memory_format=self.layout)  # type: ignore[call-overload]

    def _optimizer(self, network: nn.Module, name: str) -> torch.optim.Optimizer:
        """Return what moves a network; the rate is set before every step."""
        if name == "muon":
            return Muon(network.parameters(), self.recipe.betas)
        return torch.optim.Adam(network.parameters(), betas=self.recipe.betas, fused=True)

    def autocast(self) -> torch.autocast:
        """Return the context in which networks run."""
        enabled = self.recipe.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def tensors_of(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return image and mask of a batch, on the device."""
        image = tensors.to_image(batch.pixels).to(self.device, memory_format=self.layout)
        return image, tensors.to_mask(batch.holes).to(self.device)

    def step(self, batch: Batch, step: int) -> dict[str, float]:
        """Move the generator and the discriminator; return every loss by name, mean over the ranks.

        Raises:
            NotFinite: if a loss or a gradient is no number; neither network has moved.
        """
        _seed(self.recipe.seed, step)  # dropout then depends on the step alone
        recipe = self.recipe
        stage, _ = recipe.stage_at(step)
        weigh = self.weigh = recipe.losses_of(stage)
        image, mask = self.tensors_of(batch)
        with self.autocast():
            fill = self._generate(image, mask)
        view = self._view(image, mask, fill.float())
        found, total = self._reconstruction(view)
        plays = stage.adversarial and bool(weigh.adversarial or weigh.feature_matching)
        if plays:
            found |= self._adversarial_losses(view)
            total = total + weigh.adversarial * found["adversarial"]
            if weigh.feature_matching:
                total = total + weigh.feature_matching * found["feature_matching"]
        moved = [_Move(self.generator, self.generator_optimizer, total, recipe.rate_at(step))]
        if plays or (stage.adversarial and weigh.classes):
            labels = torch.from_numpy(batch.labels).to(self.device)
            slope = plays and weigh.r1 > 0 and step % R1_EVERY == 0
            judged, total = self._discriminator_losses(view, labels, plays=plays, slope=slope)
            found |= judged
            rate = recipe.discriminator.learning_rate
            moved.append(_Move(self.discriminator, self.discriminator_optimizer, total, rate))
        found["hole_error"] = _hole_error(view)
        values = dict(
            zip(found, distributed.mean(torch.stack([*found.values()])).tolist(), strict=True)
        )
        self._move(moved, step, values)
        with torch.no_grad():
            current = self.generator.state_dict()
            state.average(self.averaged, current, decay=recipe.average, step=step)
        return values

    def _view(self, image: Tensor, mask: Tensor, fill: Tensor) -> View:
        context = image * (1 - mask)
        if self.recipe.losses.part == "centre":
            image, mask, fill = _centre(image), _centre(mask), _centre(fill)
        composite = tensors.composite(image, fill, mask)
        return View(image, mask, fill, composite, context, distributed.mean(mask.sum()))

    def _reconstruction(self, view: View) -> tuple[dict[str, Tensor], Tensor]:
        """Return what compares the fill with the photograph, by name and as a weighted sum."""
        weigh = self.weigh
        fill, image, mask = view.fill, view.image, view.mask
        found = {
            "reconstruction": losses.reconstruction(
                fill, image, mask, known=weigh.known, hole=weigh.hole
            )
        }
        total = found["reconstruction"]
        if weigh.hole_squared:
            found["hole_squared"] = losses.hole_squared(fill, image, mask, area=view.area)
            total = total + weigh.hole_squared * found["hole_squared"]
        if weigh.overlap:
            found["overlap"] = losses.overlap_squared(fill, image)
            total = total + weigh.overlap * found["overlap"]
        if self.features is not None and (weigh.perceptual or weigh.style):
            compared = view.composite if weigh.compare == "composite" else fill
            found |= self._feature_losses(self.features, compared, image)
            total = total + weigh.perceptual * found["perceptual"] + weigh.style * found["style"]
        return found, total

    def _feature_losses(
        self, network: FeatureNetwork, compared: Tensor, image: Tensor
    ) -> dict[str, Tensor]:
        wanted = self.recipe.features
        with self.autocast():
            of_fill = network(normalise(compared))
            with torch.no_grad():
                of_image = network(normalise(image))
        for tap, activation in of_fill.items():
            pair = activation.float(), of_image[tap].float()
            of_fill[tap], of_image[tap] = losses.scale_by_target(*pair) if wanted.scale else pair
        return {
            "perceptual": losses.perceptual(of_fill, of_image, wanted.perceptual_taps),
            "style": losses.style(of_fill, of_image, wanted.style_taps),
        }

    def _fakes(self, view: View) -> list[Tensor]:
        weigh = self.weigh
        first, second = view.composite, view.fill
        if weigh.fake == "fill":
            first, second = second, first
        return [first, second] if weigh.both_fakes else [first]

    def _adversarial_losses(self, view: View) -> dict[str, Tensor]:
        """Return the generator's side of the game; its gradients do not reach the discriminator."""
        weigh = self.weigh
        found: dict[str, Tensor] = {}
        self.discriminator.requires_grad_(False)
        with self.autocast():
            of_fakes = [self.discriminator(fake, view.context) for fake in self._fakes(view)]
        if weigh.feature_matching:
            with torch.no_grad(), self.autocast():
                of_real = self.discriminator(view.image, view.context)
            found["feature_matching"] = losses.feature_matching(
                [activation.float() for activation in of_fakes[0].activations],
                [activation.float() for activation in of_real.activations],
            )
        self.discriminator.requires_grad_(True)
        sides = [
            losses.adversarial_generator(
                weigh.objective, judged.logits.float(), view.mask, mode=weigh.mode, area=view.area
            )
            for judged in of_fakes
        ]
        return found | {"adversarial": torch.stack(sides).mean()}

    def _discriminator_losses(
        self, view: View, labels: Tensor, *, plays: bool, slope: bool = False
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return the discriminator's side, by name and as a weighted sum.

        The class head learns from labelled real squares alone, all others are told real from fake.
        """
        weigh = self.weigh
        fakes = [fake.detach() for fake in self._fakes(view)] if plays else []
        with self.autocast():
            of_real, of_fakes, penalty = self._judge(view.image, fakes, view.context, slope=slope)
        found: dict[str, Tensor] = {}
        total = of_real.logits.float().sum() * 0  # every parameter has a gradient, be it 0
        if plays:
            sides = [
                losses.adversarial_discriminator(
                    weigh.objective,
                    of_real.logits.float(),
                    judged.logits.float(),
                    view.mask,
                    mode=weigh.mode,
                    kernel=weigh.blur_kernel,
                    sigma=weigh.blur_sigma,
                )
                for judged in of_fakes
            ]
            found["discriminator"] = torch.stack(sides).mean()
            total = total + found["discriminator"]
        if penalty is not None:
            found["r1"] = penalty
            total = total + weigh.r1 / 2 * R1_EVERY * penalty
        if weigh.classes:
            assert of_real.classes is not None
            count = distributed.mean((labels >= 0).sum().float())
            logits = of_real.classes.float()
            found["classes"] = losses.classification(logits, labels, count=count)
            total = total + weigh.classes * found["classes"]
        return found, total

    def _move(self, moves: "list[_Move]", step: int, found: dict[str, float]) -> None:
        """Move every network, or none if a loss or a gradient is not finite."""
        report = ", ".join(f"{name} {value:.3g}" for name, value in found.items())
        if not all(map(math.isfinite, found.values())):
            raise NotFinite(f"step {step}: a loss is not a number: {report}")
        for move in moves:
            move.optimizer.zero_grad(set_to_none=True)
            move.loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            largest = self.recipe.clip or math.inf
            norm = nn.utils.clip_grad_norm_(move.network.parameters(), largest)
            if not norm.isfinite():
                raise NotFinite(f"step {step}: a gradient is not a number: {report}")
        for move in moves:
            for group in move.optimizer.param_groups:
                group["lr"] = move.rate
            move.optimizer.step()

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
        """Take up a state that `state` returned.

        Raises:
            KeyError, RuntimeError, ValueError: if it is of other networks.
        """
        self.generator.load_state_dict(saved["generator"])
        self.averaged = saved["averaged"]
        self.discriminator.load_state_dict(saved["discriminator"])
        self.generator_optimizer.load_state_dict(saved["generator_optimizer"])
        self.discriminator_optimizer.load_state_dict(saved["discriminator_optimizer"])


@dataclass(frozen=True)
class _Move:
    """A network, and what moves it."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    loss: Tensor
    rate: float


def _seed(seed: int, step: int) -> None:
    """Seed torch for a step and a rank, so that a run that starts again draws the same."""
    sequence = np.random.SeedSequence([seed, step, distributed.rank()])
    torch.manual_seed(int(sequence.generate_state(1)[0]))


@torch.no_grad()
def _hole_error(view: View) -> Tensor:
    """Return the mean absolute error inside the hole as a share of the range."""
    error = ((view.fill - view.image).abs() * view.mask).sum()
    return error / (3 * view.area + losses.TINY) / 2


def _centre(x: Tensor) -> Tensor:
    """Return the central half of each side, (B,C,H/2,W/2)."""
    height, width = x.shape[2] // 2, x.shape[3] // 2
    top, left = height // 2, width // 2
    return x[:, :, top : top + height, left : left + width]
