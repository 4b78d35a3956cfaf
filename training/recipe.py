"""A recipe: one complete training configuration, read from TOML. Unknown keys are refused.

No inheritance and no interpolation: one file says everything about one checkpoint.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from inpaint.errors import BadRecipe

from .discriminators import Kind
from .losses import MaskMode, Objective

Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Taps = Annotated[tuple[str, ...], Field(min_length=1)]


class Part(BaseModel):
    """Frozen, and strict about names; no number is infinite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Crops(Part):
    """How a photograph becomes a training square."""

    smallest: int = Field(default=128, ge=16)  # side of the smallest square cut out, pixels
    gray: Share = 0.05  # share of crops turned gray
    sepia: Share = 0.0  # share of crops turned gray and then brown
    colour: Share = 0.05  # brightness and contrast change by at most this factor
    flip: Share = 0.5  # share mirrored


class Holes(Part):
    """How holes are drawn; kinds are chosen by their relative weights."""

    strokes: Weight = 1.0  # bent brush lines, thin to wide
    boxes: Weight = 1.0  # one to four rectangles
    files: Weight = 0.0  # mask files of the folder given as --masks
    centre: Weight = 0.0  # a square in the middle
    blocks: Weight = 0.0  # several squares, together up to a quarter
    silhouettes: Weight = 0.0  # objects of the folder given as --silhouettes, about a quarter
    noise: Weight = 0.0  # blotches, 20 to 30 per cent
    smallest: Share = 0.02  # share of the image that strokes, boxes and files cover
    largest: Share = 0.6
    centre_side: float = Field(default=0.5, gt=0, lt=1)  # side of the centre, share of the image's


class Features(Part):
    """The fixed network behind the perceptual and style losses."""

    network: Literal["squeeze", "vgg16", "vgg19"] = "squeeze"
    perceptual_taps: Taps = ("conv1", "fire3", "fire5", "fire7")
    style_taps: Taps = ("conv1", "fire3", "fire5", "fire7")
    scale: bool = True  # divide activations by the target's root mean square


class Losses(Part):
    """The weight of every term, and what it looks at; 0 leaves a term out."""

    part: Literal["whole", "centre"] = "whole"  # every term sees this part: all, or a central half
    known: Weight = 1.0  # L1 outside the hole
    hole: Weight = 3.0  # L1 inside
    hole_squared: Weight = 0.0  # squared error, mean over the hole
    overlap: Weight = 0.0  # squared error of the part, ten times as much in its rim of 4 pixels
    perceptual: Weight = 0.1
    style: Weight = 10.0
    compare: Literal["composite", "fill"] = "composite"  # what perceptual and style look at
    adversarial: Weight = 0.1
    objective: Objective = "soft-mask"  # of the adversarial game
    fake: Literal["composite", "fill"] = "composite"  # what the discriminator is shown as fake
    both_fakes: bool = False  # the other one too: CC-GAN^2
    feature_matching: Weight = 1.0
    r1: Weight = 0.0  # gamma of the discriminator's gradient penalty, taken every 16 steps
    classes: Weight = 0.0  # cross-entropy of the discriminator's class head, on labelled images
    mode: MaskMode = "paper"  # SM-PatchGAN's targets
    blur_kernel: int = Field(default=71, ge=1)  # pixels, odd: it has a centre
    blur_sigma: float = Field(default=10.0, gt=0)  # pixels


# What a stage may change: `classes` decides which discriminator is built.
WEIGHTS = {name for name, field in Losses.model_fields.items() if field.annotation is float} - {
    "classes",
    "blur_sigma",
}


class Discriminator(Part):
    """Which discriminator, and how it learns."""

    kind: Kind = "spectral-patch"
    channels: int = Field(default=64, ge=1)
    learning_rate: float = Field(default=1e-4, gt=0)


class Stage(Part):
    """A part of the run; stages follow one another."""

    steps: int = Field(ge=1)
    size: int = Field(ge=16, le=4096)  # side of the training square, pixels
    batch: int = Field(ge=1)  # squares per step, of all ranks together
    learning_rate: float = Field(gt=0)  # of the generator, at the stage's start
    final_rate: float | None = Field(
        None, gt=0
    )  # where it ends, on a straight line; None: constant
    adversarial: bool = True  # off: reconstruction, perceptual and style losses alone
    losses: dict[str, Weight] = {}  # weights that are others in this stage


class Recipe(Part):
    """One complete training configuration."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    architecture: str
    seed: int = Field(default=1, ge=0, lt=2**63)
    license: str = Field(min_length=1)  # SPDX identifier of the weights
    license_note: str = ""
    data: str = ""  # what the photographs are, for the card
    source: str = ""
    trained: int = Field(default=256, ge=16)  # the size that the checkpoint's rule names, pixels
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    optimizer: Literal["adam", "muon"] = "adam"  # of the generator; the discriminator's is Adam
    betas: tuple[Decay, Decay] = (0.5, 0.99)
    warmup: int = Field(default=200, ge=0)  # steps of rising learning rate
    clip: float = Field(default=1.0, ge=0)  # the largest norm of a gradient; 0: any
    average: Decay = 0.999  # of the averaged weights; 0: no averaging
    labelled: Share = 0.5  # of each batch, where there are labels; the rest is drawn from all
    save_every: int = Field(default=200, ge=1)  # steps
    log_every: int = Field(default=20, ge=1)
    sample_every: int = Field(default=1000, ge=1)
    generator: dict[str, int | float | str | bool | tuple[int, ...]] = {}
    discriminator: Discriminator = Discriminator()
    crops: Crops = Crops()
    holes: Holes = Holes()
    features: Features = Features()
    losses: Losses = Losses()
    stages: tuple[Stage, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _values_agree(self) -> Self:
        if self.save_every % self.log_every:  # a kill would lose half of a line of scalars
            raise ValueError("save_every is not a multiple of log_every")
        if self.losses.blur_kernel % 2 == 0:
            raise ValueError(f"losses.blur_kernel is {self.losses.blur_kernel}; it must be odd")
        if self.crops.gray + self.crops.sepia > 1:
            raise ValueError("crops.gray and crops.sepia are more than all crops together")
        if self.holes.smallest > self.holes.largest:
            raise ValueError("holes.smallest is larger than holes.largest")
        for stage in self.stages:
            if unknown := sorted(stage.losses.keys() - WEIGHTS):
                raise ValueError(f"stages.losses cannot change {', '.join(unknown)}")
        if self.discriminator.kind == "context-conditioned" and self.losses.part != "centre":
            raise ValueError("context-conditioned judges a part: losses.part must be 'centre'")
        return self

    def losses_of(self, stage: Stage) -> Losses:
        """Return the losses of a stage."""
        return self.losses.model_copy(update=stage.losses)

    @property
    def steps(self) -> int:
        """Steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    def stage_at(self, step: int) -> tuple[Stage, float]:
        """Return the stage of `step` (from 0), and how far through it is, in [0, 1)."""
        for stage in self.stages:
            if step < stage.steps:
                return stage, step / stage.steps
            step -= stage.steps
        raise ValueError("step behind the last stage")

    def rate_at(self, step: int) -> float:
        """Return the generator's learning rate at `step` (from 0)."""
        stage, through = self.stage_at(step)
        last = stage.learning_rate if stage.final_rate is None else stage.final_rate
        rate = stage.learning_rate + (last - stage.learning_rate) * through
        return rate * min(1.0, (step + 1) / max(1, self.warmup))


AnyRecipe = TypeVar("AnyRecipe", bound=Part)


def load(path: Path) -> Recipe:
    """Read the recipe of a generator; refusals as of `read`."""
    return read(path, Recipe)


def read(path: Path, kind: type[AnyRecipe]) -> AnyRecipe:
    """Read a recipe of a kind.

    Raises:
        BadRecipe: if the file cannot be read, a key is unknown or a value impossible.
    """
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadRecipe(f"recipe {path}: {error}") from error
    return checked(values, kind, f"recipe {path}")


def checked(values: Mapping[str, object], kind: type[AnyRecipe], what: str) -> AnyRecipe:
    """Return the recipe that these values are; `what` names it in a refusal.

    Raises:
        BadRecipe: if a key is unknown or a value impossible.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}"
            for fault in error.errors()
        )
        raise BadRecipe(f"{what}: {faults}") from error
