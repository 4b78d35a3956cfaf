"""The networks that a recipe asks for, as a run begins with them.

In: a recipe, and files of weights. Out: generator, discriminator and features, on the CPU.
"""

from pathlib import Path

import torch
from torch import Tensor

from inpaint.errors import BadData, BadRecipe
from models import checkpoint
from models.generator import Generator
from models.registry import create

from . import discriminators, distributed
from .discriminators import Discriminator
from .features import FeatureNetwork, load_features
from .recipe import Recipe

LOOKED_AT = 64  # side of the square with which a widened network is compared, pixels
ROUNDING = 1e-3  # the largest difference of its fill, in [-1, 1]


def first_generator(recipe: Recipe, init: Path | None) -> Generator:
    """Return the generator with fresh weights, or with those of the checkpoint `init`, widened.

    Raises:
        BadRecipe: if there is no such network, it cannot take the recipe's batches, or the
            checkpoint is of another one.
    """
    try:
        generator = create(recipe.architecture, recipe.generator)
        if not list(generator.parameters()):
            raise ValueError(f"{recipe.architecture} has no weights that could be trained")
        with torch.device("meta"):  # shapes alone
            trial = create(recipe.architecture, recipe.generator)
            for stage in recipe.stages:
                share = stage.batch // distributed.count()
                sides = stage.size, stage.size
                trial(torch.empty(share, 3, *sides), torch.empty(share, 1, *sides))
    except (ValueError, RuntimeError) as error:  # the second: memory, shapes
        reason = str(error).partition("\n")[0]
        raise BadRecipe(f"recipe {recipe.name}: {reason}") from error
    if init is not None:
        given, header = checkpoint.load(init)
        if header.architecture != recipe.architecture or not begin_with(given, generator):
            raise BadRecipe(
                f"{init} is {header.architecture} {header.config}, not what {recipe.name} trains,"
                " nor narrower"
            )
    return generator


def begin_with(given: Generator, wanted: Generator) -> bool:
    """Give `wanted` the weights of `given`, widened to its channels; False if that cannot be.

    Each channel becomes several equal ones, and what reads them shares its weight among them, by
    chance and not evenly, so that they do not stay equal: Net2WiderNet, Chen et al. 2016,
    arXiv:1511.05641, section 2. Fills are at first what they were: that is looked at.
    """
    narrow, wide = given.state_dict(), wanted.state_dict()
    if narrow.keys() != wide.keys() or not all(
        fits(narrow[name].shape, value.shape) for name, value in wide.items()
    ):
        return False
    wanted.load_state_dict({name: widened(narrow[name], wide[name].shape) for name in wide})
    side = wanted.rule.fit(LOOKED_AT)
    image, mask = torch.rand(1, 3, side, side) * 2 - 1, torch.zeros(1, 1, side, side)
    mask[..., side // 4 : side // 2, side // 4 : side // 2] = 1
    with torch.no_grad():
        difference = wanted.eval()(image, mask) - given.eval()(image, mask)
    wanted.train()
    return float(difference.abs().max()) < ROUNDING


def fits(narrow: torch.Size, wide: torch.Size) -> bool:
    """Say whether a weight of the one shape can be widened to the other."""
    return len(narrow) == len(wide) and all(
        new % old == 0 for old, new in zip(narrow, wide, strict=True)
    )


def widened(weight: Tensor, shape: torch.Size) -> Tensor:
    """Return a weight (out,in,...) or bias (out) of `shape`, whole multiples of its own.

    What a channel out is made of is repeated; what reads a channel in is shared by its copies.
    """
    times = [new // old for new, old in zip(shape, weight.shape, strict=True)]
    out = weight.repeat_interleave(times[0], 0) if times else weight
    if len(times) < 2 or times[1] == 1:
        return out
    shares = torch.rand(out.shape[0], out.shape[1], times[1]) + 0.5
    shares = (shares / shares.sum(2, keepdim=True)).flatten(1)  # (out,in times copies)
    return out.repeat_interleave(times[1], 1) * shares.view(*shares.shape, *[1] * (out.ndim - 2))


def first_discriminator(recipe: Recipe, classes: int) -> Discriminator:
    """Return the discriminator with fresh weights; `classes` is how many the labels have.

    Raises:
        BadRecipe: if there is none for the recipe's squares.
        BadData: if the recipe wants a class head and there are no two classes.
    """
    wanted, centre = recipe.discriminator, recipe.losses.part == "centre"
    if recipe.losses.classes and classes < 2:
        raise BadData("the recipe trains a class head: name labels of two classes with --labels")
    try:
        for size in dict.fromkeys(stage.size for stage in recipe.stages):
            discriminator = discriminators.create(
                wanted.kind,
                channels=wanted.channels,
                size=size // 2 if centre else size,
                classes=classes if recipe.losses.classes else 0,
            )
    except ValueError as error:
        raise BadRecipe(f"recipe {recipe.name}: {error}") from error
    return discriminator


def feature_network(recipe: Recipe, weights: Path | None) -> FeatureNetwork | None:
    """Return the network behind the perceptual losses; None for a recipe without them.

    Raises:
        BadRecipe: if the network has no such taps.
        BadData: if the file of weights is not given, or not that network's.
    """
    wanted = recipe.features
    weighed = [recipe.losses_of(stage) for stage in recipe.stages]
    if not any(weigh.perceptual or weigh.style for weigh in weighed):
        return None
    if weights is None:
        raise BadData(
            f"the recipe has perceptual losses: name {wanted.network} weights with --features"
        )
    taps = dict.fromkeys((*wanted.perceptual_taps, *wanted.style_taps))
    try:
        return load_features(wanted.network, weights, list(taps))
    except ValueError as error:
        raise BadRecipe(f"recipe {recipe.name}: {error}") from error
