"""One step of training: what each loss looks at, what moves, and what stops the run."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file

import training
from inpaint.errors import BadData, BadRecipe
from models.tensors import composite
from training import data, features, recipe
from training.data import Batch
from training.detection import is_detector
from training.muon import Muon
from training.recipe import Recipe
from training.trainer import NotFinite, Sources, Trainer

SHIPPED = sorted((Path(training.__file__).parent / "recipes").glob("*.toml"))
RECIPES = [path for path in SHIPPED if not is_detector(path)]
NOWHERE = Sources(data=())
PLAIN = {"perceptual": 0.0, "style": 0.0, "blur_kernel": 9, "blur_sigma": 1.5}
COMPACT = {"width": 8, "channels": 8, "blocks": 1, "rates": [1, 2]}


def a_recipe(*, size=32, batch=2, steps=8, losses=None, discriminator=None, **rest):
    """A tiny recipe: compact AOT-GAN and its discriminator unless told otherwise."""
    values = {
        "name": "tiny",
        "architecture": "aotgan-compact",
        "license": "CC0-1.0",
        "precision": "float32",
        "warmup": 0,
        "generator": COMPACT,
        "discriminator": {"channels": 4, **(discriminator or {})},
        "losses": PLAIN | (losses or {}),
        "stages": [{"steps": steps, "size": size, "batch": batch, "learning_rate": 1e-3}],
    }
    return Recipe.model_validate(values | rest)


def centre_recipe(**losses):
    """A centre-form Context Encoder, judged by the whole of its part."""
    return a_recipe(
        size=128,
        architecture="context-encoder-centre",
        generator={"width": 4, "bottleneck_channels": 8},
        discriminator={"kind": "whole", "channels": 2},
        losses={"part": "centre", "objective": "cross-entropy", "fake": "fill", **losses},
    )


def labelled_recipe():
    """A recipe with a class head."""
    return a_recipe(
        discriminator={"kind": "shared-trunk"},
        losses={"classes": 0.7, "objective": "cross-entropy", "feature_matching": 0.0},
    )


def a_batch(size=32, batch=2, labels=(-1, -1), seed=0):
    """Noise with a box of hole in each square; the boxes differ in size."""
    rng = np.random.default_rng(seed)
    holes = np.zeros((batch, size, size), bool)
    for number, hole in enumerate(holes):
        hole[size // 4 : size // 2 + 3 * number, size // 4 : size // 2 + 2] = True
    pixels = rng.integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
    return Batch(pixels, holes, np.array(labels, np.int64))


def weights(network):
    return {name: value.detach().clone() for name, value in network.named_parameters()}


def moved(before, network):
    """The largest change of each parameter."""
    return {
        name: (value - before[name]).abs().max().item() for name, value in weights(network).items()
    }


def watch(network):
    """Collect what a network is called with and what it answers."""
    seen = []
    network.register_forward_hook(lambda module, given, answer: seen.append((given, answer)))
    return seen


def central(x):
    side = x.shape[-1]
    return x[..., side // 4 : 3 * side // 4, side // 4 : 3 * side // 4]


# --- what is looked at ------------------------------------------------------------------------


def test_the_part_centre_is_the_central_half_of_the_image_and_of_the_fill():
    trainer = Trainer(centre_recipe(), NOWHERE)
    fills, judged = watch(trainer.generator), watch(trainer.discriminator)
    batch = a_batch(size=128)
    found = trainer.step(batch, 0)
    image, mask = trainer.tensors_of(batch)
    fill = fills[0][1].detach()
    (real, context), _ = judged[-2]
    (fake, _), _ = judged[-1]
    assert torch.equal(real, central(image))
    assert torch.equal(fake, central(fill))
    assert torch.equal(context, image * (1 - mask))
    weight = 1 + 2 * central(mask)
    expected = ((central(fill) - central(image)).abs() * weight).mean()
    assert found["reconstruction"] == pytest.approx(expected.item(), rel=1e-5)


def test_what_is_outside_the_centre_changes_no_loss_but_what_the_generator_sees():
    trainer = Trainer(centre_recipe(overlap=0.5, hole_squared=0.5), NOWHERE)
    batch = a_batch(size=128)
    image, mask = trainer.tensors_of(batch)
    fill = torch.rand(image.shape)
    outside = torch.ones_like(image)
    outside[..., 32:96, 32:96] = 0
    found = [
        trainer._reconstruction(trainer._view(image + change * outside, mask, fill))[1]
        for change in (0.0, 0.3)
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize(("fake", "both"), [("composite", False), ("fill", False), ("fill", True)])
def test_the_discriminator_is_shown_the_fakes_that_the_recipe_names(fake, both):
    trainer = Trainer(a_recipe(losses={"fake": fake, "both_fakes": both}), NOWHERE)
    fills, judged = watch(trainer.generator), watch(trainer.discriminator)
    batch = a_batch()
    found = trainer.step(batch, 0)
    image, mask = trainer.tensors_of(batch)
    fill = fills[0][1].detach()
    kinds = {"composite": composite(image, fill, mask), "fill": fill}
    order = [fake] + [kind for kind in kinds if kind != fake] * both
    # The generator's side: fakes, then the real ones; the discriminator's: real ones, then fakes.
    shown = [kinds[kind] for kind in order]
    expected = [*shown, image, image, *shown]
    assert len(judged) == len(expected)
    assert all(
        torch.equal(given[0], wanted) for (given, _), wanted in zip(judged, expected, strict=True)
    )
    assert found["discriminator"] > 0


def test_both_fakes_count_half_each():
    batch = a_batch()
    found = {}
    for name, losses in {
        "composite": {"fake": "composite"},
        "fill": {"fake": "fill"},
        "both": {"both_fakes": True},
    }.items():
        trainer = Trainer(a_recipe(losses={"objective": "least-squares", **losses}), NOWHERE)
        trainer.discriminator.eval()  # spectral norm then does not depend on how often it is called
        found[name] = trainer.step(batch, 0)
    for loss in ("adversarial", "discriminator"):
        mean = (found["composite"][loss] + found["fill"][loss]) / 2
        assert found["both"][loss] == pytest.approx(mean, rel=1e-5)


# --- labels -----------------------------------------------------------------------------------


def class_gradient(labels, seed=0):
    """The gradient of the class head after a step, and what it was computed from."""
    trainer = Trainer(labelled_recipe().model_copy(update={"clip": 0.0}), NOWHERE, classes=3)
    judged = watch(trainer.discriminator)
    found = trainer.step(a_batch(labels=labels, seed=seed), 0)
    real = next(answer for (given, _), answer in judged[1:])
    return trainer, found, real


def test_without_labels_the_class_head_learns_nothing_and_the_trunk_does():
    trainer, found, _ = class_gradient(labels=(-1, -1))
    assert found["classes"] == 0
    assert trainer.discriminator.classes.weight.grad.abs().max() == 0
    assert trainer.discriminator.real.weight.grad.abs().max() > 0
    assert trainer.discriminator.conv[0].weight.grad.abs().max() > 0


def test_the_class_head_learns_from_the_labelled_real_squares_alone():
    trainer, found, judgement = class_gradient(labels=(-1, 2))
    logits = judgement.classes.detach().requires_grad_()
    loss = F.cross_entropy(logits[1:], torch.tensor([2]))
    loss.backward()
    assert found["classes"] == pytest.approx(loss.item(), rel=1e-5)
    expected = 0.7 * logits.grad.sum(0)  # of the bias; that of an unlabelled square or a fake is 0
    assert torch.allclose(trainer.discriminator.classes.bias.grad, expected, atol=1e-6)


def test_a_class_head_without_labels_is_refused():
    with pytest.raises(BadData, match="name labels of two classes with --labels"):
        Trainer(labelled_recipe(), NOWHERE)


# --- what moves -------------------------------------------------------------------------------


def test_the_generators_loss_leaves_no_gradient_in_the_discriminator():
    trainer = Trainer(a_recipe(), NOWHERE)
    image, mask = trainer.tensors_of(a_batch())
    found = trainer._adversarial_losses(trainer._view(image, mask, trainer.generator(image, mask)))
    (found["adversarial"] + found["feature_matching"]).backward()
    assert all(value.grad is None for value in trainer.discriminator.parameters())
    assert all(value.grad is not None for value in trainer.generator.parameters())
    assert all(value.requires_grad for value in trainer.discriminator.parameters())


def test_the_discriminators_loss_leaves_no_gradient_in_the_generator():
    alone = a_recipe(
        losses={"known": 0.0, "hole": 0.0, "adversarial": 0.0, "feature_matching": 0.0}
    )
    trainer = Trainer(alone, NOWHERE)
    image, mask = trainer.tensors_of(a_batch())
    view = trainer._view(image, mask, trainer.generator(image, mask))
    trainer._discriminator_losses(view, torch.tensor([-1, -1]), plays=True)[1].backward()
    assert all(value.grad is None for value in trainer.generator.parameters())
    assert all(value.grad is not None for value in trainer.discriminator.parameters())


def test_each_network_moves_at_its_own_rate():
    """The first step of Adam moves a weight by the rate, whatever its gradient."""
    own = a_recipe(discriminator={"learning_rate": 3e-5}, warmup=10)
    trainer = Trainer(own, NOWHERE)
    generator, discriminator = weights(trainer.generator), weights(trainer.discriminator)
    trainer.step(a_batch(), 4)
    assert max(moved(generator, trainer.generator).values()) == pytest.approx(5e-4, rel=0.01)
    assert max(moved(discriminator, trainer.discriminator).values()) == pytest.approx(
        3e-5, rel=0.01
    )


def test_a_stage_without_the_discriminator_leaves_it_alone():
    stage = {"steps": 1, "size": 32, "batch": 2, "learning_rate": 1e-3}
    trainer = Trainer(a_recipe(stages=[stage | {"adversarial": False}, stage]), NOWHERE)
    before = weights(trainer.discriminator)
    assert "adversarial" not in trainer.step(a_batch(), 0)
    assert not any(moved(before, trainer.discriminator).values())
    assert {"adversarial", "feature_matching", "discriminator"} <= trainer.step(a_batch(), 1).keys()
    assert all(moved(before, trainer.discriminator).values())


def spoil_a_weight(trainer):
    with torch.no_grad():
        trainer.generator.head.bias[0] = torch.nan


def spoil_a_gradient_of_the_discriminator(trainer):
    trainer.discriminator.conv[-1].bias.register_hook(lambda gradient: gradient * torch.inf)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoil_a_weight, "step 3: a loss is not a number: reconstruction nan"),
        (spoil_a_gradient_of_the_discriminator, "step 3: a gradient is not a number"),
    ],
)
def test_neither_network_moves_when_a_number_is_not_finite(spoil, said):
    trainer = Trainer(a_recipe(), NOWHERE)
    spoil(trainer)
    generator, discriminator = weights(trainer.generator), weights(trainer.discriminator)
    averaged = {name: value.clone() for name, value in trainer.averaged.items()}
    with pytest.raises(NotFinite, match=said):
        trainer.step(a_batch(), 3)
    for before, network in ((generator, trainer.generator), (discriminator, trainer.discriminator)):
        assert all(
            torch.equal(before[k], v) or v.isnan().any() for k, v in weights(network).items()
        )
    assert all(torch.equal(averaged[name], value) for name, value in trainer.averaged.items())


def test_dropout_depends_on_the_step_alone():
    plain = a_recipe(size=64, architecture="ccgan", generator={"width": 2})
    trainer = Trainer(plain, NOWHERE)
    fills = watch(trainer.generator)
    before = trainer.state()
    before = {
        name: {key: value.clone() for key, value in before[name].items()}
        for name in ("generator", "discriminator")
    }
    for step, noise in ((5, 0), (5, 7), (6, 0)):
        trainer.generator.load_state_dict(before["generator"])
        trainer.discriminator.load_state_dict(before["discriminator"])
        torch.rand(noise)  # whatever was drawn before
        trainer.step(a_batch(size=64), step)
    first, again, later = (answer for _, answer in fills)
    assert torch.equal(first, again)
    assert not torch.equal(first, later)


def test_r1_is_taken_every_sixteenth_step_and_sixteen_times_as_strong():
    recipes = [a_recipe(steps=40, losses={"r1": weight}) for weight in (0.0, 2.0)]
    plain, wanted = (Trainer(one, NOWHERE) for one in recipes)
    found = [wanted.step(a_batch(), step) for step in (0, 1, 16)]
    assert ["r1" in losses for losses in found] == [True, False, True]
    assert "r1" not in plain.step(a_batch(), 0)

    view = wanted._view(*wanted.tensors_of(a_batch()), torch.zeros(2, 3, 32, 32))
    labels = torch.tensor([-1, -1])
    losses, total = wanted._discriminator_losses(view, labels, plays=True, slope=True)
    assert total.item() == pytest.approx((losses["discriminator"] + 16 * losses["r1"]).item())
    without, total = wanted._discriminator_losses(view, labels, plays=True, slope=False)
    assert total == without["discriminator"]


def test_a_step_takes_the_weights_of_its_stage():
    stage = {"steps": 1, "size": 32, "batch": 2, "learning_rate": 1e-3, "adversarial": False}
    stages = [stage, stage | {"losses": {"hole": 0.0, "known": 0.0, "hole_squared": 1.0}}]
    trainer = Trainer(a_recipe(stages=stages), NOWHERE)
    first, second = (trainer.step(a_batch(), step) for step in range(2))
    assert first["reconstruction"] > 0 == second["reconstruction"]
    assert "hole_squared" in second.keys() - first.keys()


def test_muon_moves_the_generator_and_adam_the_discriminator():
    trainer = Trainer(a_recipe(optimizer="muon"), NOWHERE)
    before = weights(trainer.generator), weights(trainer.discriminator)
    trainer.step(a_batch(), 0)
    for old, network in zip(before, (trainer.generator, trainer.discriminator), strict=True):
        assert min(moved(old, network).values()) > 0
    assert isinstance(trainer.generator_optimizer, Muon)
    assert isinstance(trainer.discriminator_optimizer, torch.optim.Adam)


# --- what is refused --------------------------------------------------------------------------


def test_perceptual_losses_look_through_the_given_features(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "squeeze.safetensors"
    save_file(features.FeatureNetwork("squeeze", ["fire7"]).state_dict(), path)
    wanted = a_recipe(losses={"perceptual": 0.1, "style": 10.0})
    with pytest.raises(BadData, match="name squeeze weights with --features"):
        Trainer(wanted, NOWHERE)
    given = replace(NOWHERE, features=path)
    taps = wanted.features.model_copy(update={"style_taps": ("relu1_1",)})
    with pytest.raises(BadRecipe, match="recipe tiny: squeeze has no tap"):
        Trainer(wanted.model_copy(update={"features": taps}), given)
    found = Trainer(wanted, given).step(a_batch(), 0)
    assert found["perceptual"] > 0
    assert found["style"] > 0


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"architecture": "aotgam"}, "unknown architecture 'aotgam'"),
        ({"generator": {"wdth": 8}}, "knows no wdth"),
        ({"generator": {"width": 10**12}}, "can't allocate memory"),
        ({"architecture": "telea", "generator": {}}, "telea has no weights"),
        ({"size": 36}, "36x36 breaks SizeRule"),
        ({"discriminator": {"kind": "whole"}}, "whole cannot judge 32 px; it takes 64, 128"),
        ({"losses": {"part": "centre"}}, "spectral-patch cannot judge 16 px"),
        ({"losses": {"classes": 1.0}}, "spectral-patch with 2 classes; only shared-trunk has them"),
        (
            {
                "size": 128,
                "batch": 1,
                "architecture": "context-encoder-centre",
                "generator": {"width": 4, "bottleneck_channels": 8},
            },
            "Expected more than 1 value per channel",
        ),
    ],
)
def test_what_no_network_can_be_built_for_is_refused(wrong, said):
    with pytest.raises(BadRecipe, match=f"recipe tiny: .*{said}"):
        Trainer(a_recipe(**wrong), NOWHERE, classes=2)


# --- the shipped recipes ----------------------------------------------------------------------

SMALLER = {"width": 4, "channels": 8, "bottleneck_channels": 8, "blocks": 1}


def shrunk(full):
    """A recipe with tiny networks, for two steps of two squares each."""
    generator = {key: SMALLER.get(key, value) for key, value in full.generator.items()}
    size = {227: 227, 128: 128}.get(full.stages[-1].size, 64)
    stage = full.stages[-1].model_copy(update={"steps": 2, "batch": 2, "size": size})
    discriminator = full.discriminator.model_copy(update={"channels": 2})
    changes = {"generator": generator, "discriminator": discriminator, "stages": (stage,)}
    return full.model_copy(update=changes)


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """Two photographs, and a mask file."""
    path = tmp_path_factory.mktemp("masks") / "mask.png"
    white = np.zeros((64, 64), np.uint8)
    white[10:40, 20:50] = 255
    Image.fromarray(white).save(path)
    noise = np.random.default_rng(0).integers(0, 256, (2, 6, 6, 3), dtype=np.uint8)
    photographs = [np.asarray(Image.fromarray(n).resize((240, 240))) for n in noise]
    return data.Material(photographs, masks=[path], labels=np.array([1, -1]))


@pytest.fixture(scope="module")
def feature_files(tmp_path_factory):
    """Weights by network, in the layout that the loader takes, with random values."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("features")
    for network, last in (("squeeze", "fire7"), ("vgg19", "relu5_2")):
        weights = features.FeatureNetwork(network, [last]).state_dict()
        torch.save(weights, folder / f"{network}.pth")
    return folder


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_takes_two_steps_when_its_networks_are_tiny(path, material, feature_files):
    tiny = shrunk(recipe.load(path))
    sources = replace(NOWHERE, features=feature_files / f"{tiny.features.network}.pth")
    trainer = Trainer(tiny, sources, classes=2)
    for step in range(2):
        found = trainer.step(data.make_batch(material, tiny, step), step)
        assert all(map(np.isfinite, found.values())), found
    both = tiny.stages[0].adversarial  # or the generator alone
    assert ({"adversarial", "discriminator"} <= found.keys()) == both
    for network in (trainer.generator, trainer.discriminator) if both else (trainer.generator,):
        # DistributedDataParallel waits for the gradient of every parameter.
        assert all(value.grad is not None for value in network.parameters())
