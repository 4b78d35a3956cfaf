"""The networks that a recipe asks for, as a run begins with them.

In: a recipe, and files of weights. Out: generator, discriminator and features, on the CPU.
"""

from dataclasses import asdict
from pathlib import Path

import torch

from inpaint.errors import BadData, BadRecipe
from models import checkpoint
from models.generator import Generator
from models.registry import create

from . import discriminators, distributed
from .discriminators import Discriminator
from .features import FeatureNetwork, load_features
from .recipe import Recipe


def first_generator(recipe: Recipe, init: Path | None) -> Generator:
    """Return the generator with fresh weights, or with those of the checkpoint `init`.

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
        if header.architecture != recipe.architecture or asdict(given.config) != asdict(
            generator.config
        ):
            raise BadRecipe(
                f"{init} is {header.architecture} {header.config}, not what {recipe.name} trains"
            )
        generator.load_state_dict(given.state_dict())
    return generator


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
