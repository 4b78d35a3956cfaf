"""What a detector is trained for: its recipe, and its losses.

In: logits (B,3,H,W) of line, speck and area, and labels of `training.crops`. Out: losses by name.
"""

import math
import tomllib
from pathlib import Path
from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from models.registry import DETECTORS

from .crops import IGNORED, UNIT
from .recipe import Decay, Part, Share, Weight, read


class Losses(Part):
    """What weighs how much."""

    pixels: Weight = 60.0  # focal cross-entropy, mean over the pixels: most are easy
    gamma: Weight = 1.5  # of the focal loss: how much less the easy ones count
    alpha: Share = 0.75  # weight of damage; that of the rest is 1 - alpha
    overlap: Weight = 0.5  # 1 - F, with a pixel of tolerance


class Crops(Part):
    """What is drawn, and how it is rendered."""

    size: int = Field(default=256, ge=32)  # side, pixels
    scales: tuple[float, float] = (0.5, 2.0)  # of photographs, before they are rendered
    damaged: int = Field(default=3072, ge=1)  # that are kept on disk
    clean: int = Field(default=1024, ge=1)
    prints: Share = 0.2  # share of prints rendered without damage
    drawn: Share = 0.15  # share of clean crops in a batch, until `hard_from`
    drawn_later: Share = 0.3
    hard: Share = 0.7  # share of the later clean crops that is drawn from those that fool most
    hard_from: Share = 0.33  # of the steps
    first: int = Field(default=256, ge=1)  # crops that are rendered before the first step
    fresh: float = Field(default=3.0, gt=0)  # crops rendered for each step


class DetectorRecipe(Part):
    """One complete training configuration of a detector."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    architecture: str
    seed: int = Field(default=1, ge=0, lt=2**63)
    license: str = Field(min_length=1)  # SPDX identifier of the weights
    license_note: str = ""
    data: str = ""  # what the photographs are, for the card
    source: str = ""
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    steps: int = Field(ge=1)
    batch: int = Field(ge=1)
    learning_rate: float = Field(gt=0)  # falls to 0 as a cosine
    decay: Weight = 0.01  # of weights
    warmup: int = Field(default=100, ge=0)  # steps of rising learning rate
    clip: float = Field(default=1.0, ge=0)  # the largest norm of a gradient; 0: any
    average: Decay = 0.998  # of the averaged weights
    save_every: int = Field(default=100, ge=1)  # steps
    log_every: int = Field(default=20, ge=1)
    sample_every: int = Field(default=400, ge=1)
    detector: dict[str, int | float | str | bool | tuple[int, ...]] = {}
    crops: Crops = Crops()
    losses: Losses = Losses()

    @model_validator(mode="after")
    def _values_agree(self) -> Self:
        if self.save_every % self.log_every:  # a kill would lose half of a line of scalars
            raise ValueError("save_every is not a multiple of log_every")
        if self.crops.scales[0] > self.crops.scales[1]:
            raise ValueError("crops.scales: the first is larger than the second")
        return self

    def rate_at(self, step: int) -> float:
        """Return the learning rate at `step` (from 0)."""
        falling = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return self.learning_rate * falling * min(1.0, (step + 1) / max(1, self.warmup))


def is_detector(path: Path) -> bool:
    """Say whether a recipe's file is that of a detector; False where it cannot be read."""
    try:
        return tomllib.loads(path.read_text()).get("architecture") in DETECTORS
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, TypeError):
        return False


def load(path: Path) -> DetectorRecipe:
    """Read the recipe of a detector; refusals as of `training.recipe.read`."""
    return read(path, DetectorRecipe)


# --- losses -----------------------------------------------------------------------------------


def focal(logits: Tensor, labels: Tensor, *, gamma: float, alpha: float) -> Tensor:
    """Return the focal cross-entropy (Lin et al., arXiv:1708.02002), mean over pixels and heads.

    Args:
        logits: float (B,3,H,W).
        labels: uint8 (B,H,W,2), of `training.crops`.
        gamma: exponent of the error.
        alpha: weight of damage.
    """
    heads = labels[..., 0]
    kinds = torch.arange(1, 4, dtype=torch.uint8, device=heads.device)
    wanted = heads[:, None] == kinds[:, None, None]
    counted = (heads != IGNORED)[:, None]
    weights = labels[:, None, ..., 1] * (alpha / UNIT)
    wrong = torch.where(wanted, -logits, logits)
    with torch.no_grad():  # what is easy weighs less; to learn that from the weight is no aim
        weigh = torch.where(wanted, weights, 1 - alpha) * counted
        weigh *= torch.sigmoid(wrong) ** gamma
    return -(F.logsigmoid(-wrong) * weigh).sum() / (3 * counted.sum()).clamp(min=1)


def overlap(logits: Tensor, labels: Tensor) -> Tensor:
    """Return 1 - F, soft and tolerant: a prediction a pixel beside damage is right.

    As the scores do, and without teaching fat lines; over the whole batch, for clean crops have no
    damage to be found.

    Args:
        logits: float (B,3,H,W); damage is their maximum.
        labels: uint8 (B,H,W,2), of `training.crops`.
    """
    heads = labels[..., 0]
    counted = (heads != IGNORED)[:, None].float()
    wanted = ((heads > 0) & (heads != IGNORED))[:, None].float()
    found = torch.sigmoid(logits.amax(dim=1, keepdim=True)) * counted
    near = F.max_pool2d(wanted, 3, stride=1, padding=1)
    reached = F.max_pool2d(found, 3, stride=1, padding=1)
    precision = (found * near).sum() / found.sum().clamp(min=1)
    recall = (wanted * reached).sum() / wanted.sum().clamp(min=1)
    return 1 - 2 * precision * recall / (precision + recall).clamp(min=1e-6)


def fooled(logits: Tensor, labels: Tensor) -> Tensor:
    """Return (B,): the share of pixels that are taken for damage where there is none."""
    found = (logits.detach().amax(dim=1) > 0) & (labels[..., 0] == 0)
    return found.float().mean(dim=(1, 2))
