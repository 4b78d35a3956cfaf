"""Losses against values computed by hand, and against those of the published code."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from training import features, losses

GOLDEN = Path(__file__).parent / "golden"
PUBLISHED = json.loads((GOLDEN / "losses.json").read_text())
PERCEPTUAL = [f"relu{block}_1" for block in range(1, 6)]
STYLE = ["relu2_2", "relu3_4", "relu4_4", "relu5_2"]

# Each loss of `losses.json` as ours give it; `t` holds the tensors by name.
OURS = {
    "aot.l1": lambda t: losses.reconstruction(t["pred"], t["image"], t["mask"], known=1, hole=1),
    "aot.smgan_paper_d": lambda t: discriminator(t, "soft-mask"),
    "aot.smgan_paper_g": lambda t: generator(t, "soft-mask"),
    "aot.smgan_official_d": lambda t: discriminator(t, "soft-mask", mode="official"),
    "aot.smgan_official_g": lambda t: generator(t, "soft-mask", mode="official"),
    "aot.hmgan_paper_d": lambda t: discriminator(t, "hard-mask"),
    "aot.patchgan_paper_d": lambda t: discriminator(t, "least-squares"),
    "aot.nsgan_d": lambda t: discriminator(t, "cross-entropy"),
    "aot.nsgan_g": lambda t: generator(t, "cross-entropy"),
    "ce.lsgan_d": lambda t: discriminator(t, "least-squares") / 2,
    "ce.lsgan_g": lambda t: generator(t, "least-squares"),
    "ce.g_total": lambda t: 0.001 * generator(t, "least-squares") + 0.999 * part_l1(t),
    "ce.masked_l2_hole_mean": lambda t: losses.hole_squared(t["pred"], t["image"], t["mask"]),
    "cecentre.overlap_l2_0.998": lambda t: 0.998 * overlap(t),
    "cecentre.overlap_l2_0.999": lambda t: 0.999 * overlap(t),
    # The published code weighs the overlap twice: in the function and again in the sum.
    "cecentre.g_total_0.998": lambda t: 0.002 * told(t) + 0.998 * 0.998 * overlap(t),
    "cecentre.g_total_0.999": lambda t: 0.001 * told(t) + 0.999 * 0.999 * overlap(t),
    "cecentre.d": lambda t: losses.adversarial_discriminator(
        "cross-entropy", torch.logit(t["prob_real"]), torch.logit(t["prob_fake"]), t["mask"]
    ),
}


def discriminator(t, objective, **options):
    real, fake = t["logits_real"], t["logits_fake"]
    return losses.adversarial_discriminator(objective, real, fake, t["mask"], **options)


def generator(t, objective, **options):
    return losses.adversarial_generator(objective, t["logits_fake"], t["mask"], **options)


def told(t):
    """Cross-entropy of a probability instead of a logit."""
    return losses.adversarial_generator("cross-entropy", torch.logit(t["prob_fake"]), t["mask"])


def overlap(t):
    return losses.overlap_squared(t["part_pred"], t["part_image"])


def part_l1(t):
    whole = torch.ones_like(t["part_image"][:, :1])
    return losses.reconstruction(t["part_pred"], t["part_image"], whole, known=1, hole=1)


def check(name, loss, precision, published_weights, *, gradients=True):
    """Compare a loss and its gradients with what the published code gives."""
    allowed = 1e-6 if precision == torch.float64 else 1e-5
    expected = PUBLISHED[name]
    tensors = {
        key: value.to(precision).requires_grad_(key in expected["gradients"])
        for key, value in load_file(GOLDEN / "losses.safetensors").items()
    }
    value = loss(tensors)
    assert value.item() == pytest.approx(expected["value"], rel=allowed)
    if not gradients:
        return
    value.backward()
    for key, gradient in expected["gradients"].items():
        found = tensors[key].grad.double()
        assert found.norm().item() == pytest.approx(gradient["norm"], rel=allowed)
        probe = published_weights({f"probe.{key}": found.shape}, 0, {f"probe.{key}": 1.0})
        along = (found * probe[f"probe.{key}"]).sum().item()
        assert along == pytest.approx(
            gradient["probe"], rel=allowed, abs=allowed * gradient["norm"]
        )


@pytest.mark.parametrize("precision", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", OURS)
def test_a_loss_and_its_gradients_are_those_of_the_published_code(
    name, precision, published_weights
):
    check(name, OURS[name], precision, published_weights)


@pytest.fixture(scope="module")
def vgg19(published_weights, tmp_path_factory):
    """VGG19 with the weights behind the golden values, through the loader."""
    with torch.device("meta"):
        wanted = features.FeatureNetwork("vgg19", ["relu5_4"]).state_dict()
    shapes = {key: value.shape for key, value in wanted.items()}
    path = tmp_path_factory.mktemp("weights") / "vgg19.pth"
    torch.save(published_weights(shapes, 19, checksum=943758023), path)
    return features.load_features("vgg19", path, [*PERCEPTUAL, *STYLE])


@pytest.mark.slow
@pytest.mark.parametrize("precision", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", ["perceptual", "style"])
def test_vgg19_losses_and_their_gradients_are_those_of_the_published_code(
    name, precision, vgg19, published_weights
):
    network = vgg19.to(precision)
    compare, taps = {
        "perceptual": (losses.perceptual, PERCEPTUAL),
        "style": (losses.style, STYLE),
    }[name]

    def loss(t):
        of_fill, of_image = (network(features.normalise(t[key])) for key in ("pred", "image"))
        return compare(of_fill, of_image, taps)

    # In float32 some ReLUs and absolute values turn to their other side: 3e-5 of the gradient.
    exact = precision == torch.float64
    check(f"aot.{name}", loss, precision, published_weights, gradients=exact)


def test_every_golden_loss_is_compared():
    assert {*OURS, "aot.perceptual", "aot.style"} == PUBLISHED.keys()


def test_discriminators_call_the_image_one_and_the_hole_zero():
    mask = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    real = torch.full((1, 1, 2, 2), 2.0)  # (2 - 1)^2 = 1
    fake = torch.tensor([[[[3.0, 1.0], [1.0, 0.0]]]])  # hard: (9 + 0 + 0 + 1) / 4
    wanted = {"hard-mask": 1 + 10 / 4, "least-squares": 1 + (9 + 1 + 1 + 0) / 4}
    for objective, value in wanted.items():
        found = losses.adversarial_discriminator(objective, real, fake, mask)
        assert found.item() == pytest.approx(value)
    # Without a blur the soft mask is the hard one; as released, 0 is real: 2^2, (3 - 1)^2, 1, 1, 0.
    soft = losses.adversarial_discriminator("soft-mask", real, fake, mask, kernel=1)
    assert soft.item() == pytest.approx(wanted["hard-mask"])
    released = losses.adversarial_discriminator(
        "soft-mask", real, fake, mask, kernel=1, mode="official"
    )
    assert released.item() == pytest.approx(4 + (4 + 1 + 1 + 0) / 4)


def test_generators_want_one_and_with_a_mask_answer_for_the_hole_alone():
    mask = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]])
    fake = torch.tensor([[[[3.0, 9.0], [9.0, 0.0]]]])  # in the hole (3 - 1)^2 = 4 and 1
    over_all = (4 + 64 + 64 + 1) / 4
    for objective, mode, value in (
        ("soft-mask", "paper", 5 / 2),
        ("soft-mask", "official", over_all),
        ("hard-mask", "paper", 5 / 2),
        ("hard-mask", "official", 5 / 2),
        ("least-squares", "paper", over_all),
    ):
        found = losses.adversarial_generator(objective, fake, mask, mode=mode)
        assert found.item() == pytest.approx(value)


def test_cross_entropy_is_minus_the_logarithm_of_the_right_answers_probability():
    mask = torch.ones(1, 1, 1, 1)
    three = torch.full((1, 1, 1, 1), math.log(3.0))  # the probability 3/4 of being real
    found = losses.adversarial_discriminator("cross-entropy", three, three, mask)
    assert found.item() == pytest.approx(-math.log(3 / 4) - math.log(1 / 4))
    found = losses.adversarial_generator("cross-entropy", -three, mask)
    assert found.item() == pytest.approx(-math.log(1 / 4))


def test_logits_are_spread_over_the_mask_from_corner_to_corner():
    mask = torch.zeros(1, 1, 3, 3)
    mask[..., 1] = 1  # the middle column
    fake = torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]])  # columns 0, 1/2, 1
    found = losses.adversarial_generator("hard-mask", fake, mask)
    assert found.item() == pytest.approx(1 / 4)


def test_a_mask_without_a_hole_costs_the_generator_nothing():
    fake = torch.ones(1, 1, 2, 2, requires_grad=True)
    losses.adversarial_generator("soft-mask", 5 * fake, torch.zeros(1, 1, 4, 4)).backward()
    assert fake.grad.tolist() == [[[[0.0, 0.0], [0.0, 0.0]]]]


def test_the_soft_mask_is_a_zero_padded_gaussian():
    mask = torch.zeros(1, 1, 9, 9)
    mask[..., 4, 4] = 1
    bell = [math.exp(-(n**2) / (2 * 0.8**2)) for n in (-1, 0, 1)]
    line = torch.tensor(bell) / sum(bell)
    blurred = losses.soft_mask(mask, kernel=3, sigma=0.8)
    assert torch.allclose(blurred[0, 0, 3:6, 3:6], torch.outer(line, line))
    assert blurred.sum().item() == pytest.approx(1)
    corner = losses.soft_mask(torch.ones(1, 1, 9, 9), kernel=3, sigma=0.8)[0, 0, 0, 0]
    assert corner.item() == pytest.approx((line[1:].sum() ** 2).item())


def test_reconstruction_weighs_hole_and_known_region():
    image = torch.zeros(1, 3, 2, 2)
    fill = torch.full((1, 3, 2, 2), 0.5)
    mask = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    weighed = losses.reconstruction(fill, image, mask, known=1, hole=3)
    assert weighed.item() == pytest.approx(0.5 * (3 + 1 + 1 + 1) / 4)
    plain = losses.reconstruction(fill, image, mask, known=1, hole=1)
    assert plain.item() == pytest.approx(0.5)


def test_hole_squared_is_the_mean_over_the_values_of_the_hole():
    mask = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]])
    image, fill = torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)
    fill[0, :, 0, 0] = torch.tensor([1.0, 2.0, 3.0])  # 1 + 4 + 9
    fill[0, :, 0, 1] = 100.0  # known
    found = losses.hole_squared(fill, image, mask)
    assert found.item() == pytest.approx(14 / (3 * 2))
    assert losses.hole_squared(fill, image, 0 * mask).item() == 0


def test_overlap_squared_weighs_the_border_band():
    target = torch.zeros(2, 3, 4, 6)
    found = losses.overlap_squared(target + 2, target, band=1)
    assert found.item() == pytest.approx(4 * (16 * 10 + 8 * 1) / 24)  # 16 border pixels, 8 within
    inside = target.clone()
    inside[..., 1:3, 1:5] = 1
    assert losses.overlap_squared(inside, target, band=1).item() == pytest.approx(8 / 24)
    assert losses.overlap_squared(target + 1, target, band=2, factor=3.0).item() == 3


def test_classification_is_the_mean_over_labelled_samples():
    logits = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0], [7.0, -7.0]], requires_grad=True)
    loss = losses.classification(logits, torch.tensor([0, 1, -1]))
    loss.backward()
    assert loss.item() == pytest.approx((-math.log(3 / 4) - math.log(1 / 2)) / 2)
    # The gradient is the probability, less 1 where it is right, over the two that have labels.
    expected = [[(3 / 4 - 1) / 2, 1 / 4 / 2], [1 / 2 / 2, (1 / 2 - 1) / 2], [0, 0]]
    assert torch.allclose(logits.grad, torch.tensor(expected))


def test_classification_without_labels_is_zero_and_has_a_gradient():
    logits = torch.ones(2, 3, requires_grad=True)
    loss = losses.classification(logits, torch.tensor([-1, -1]))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros(2, 3))


def test_with_area_and_count_the_mean_over_ranks_is_that_of_the_joined_batch():
    draw = torch.Generator().manual_seed(0)
    mask = (
        torch.rand(4, 1, 6, 6, generator=draw) < torch.tensor([0.1, 0.2, 0.6, 0.9]).view(4, 1, 1, 1)
    ) * 1.0
    fill, image = torch.rand(2, 4, 3, 6, 6, generator=draw)
    fake, logits = torch.rand(4, 1, 3, 3, generator=draw), torch.rand(4, 5, generator=draw)
    labels = torch.tensor([3, 0, 2, -1])
    area, count = mask.sum() / 2, (labels >= 0).sum() / 2
    ranks = [slice(0, 2), slice(2, 4)]
    for joined, parts in (
        (
            losses.hole_squared(fill, image, mask),
            [losses.hole_squared(fill[r], image[r], mask[r], area=area) for r in ranks],
        ),
        (
            losses.adversarial_generator("soft-mask", fake, mask),
            [losses.adversarial_generator("soft-mask", fake[r], mask[r], area=area) for r in ranks],
        ),
        (
            losses.classification(logits, labels),
            [losses.classification(logits[r], labels[r], count=count) for r in ranks],
        ),
    ):
        assert (sum(parts) / 2).item() == pytest.approx(joined.item())


def test_gram_is_the_mean_product_of_channels():
    features = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])  # (1,2,1,2)
    expected = torch.tensor([[[5.0, 11.0], [11.0, 25.0]]]) / (1 * 2 * 2)
    assert torch.equal(losses.gram(features), expected)


def test_perceptual_and_style_sum_over_their_taps():
    fill = {"a": torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]]), "b": torch.ones(1, 1, 1, 1)}
    target = {"a": torch.zeros(1, 2, 1, 2), "b": torch.full((1, 1, 1, 1), 3.0)}
    assert losses.perceptual(fill, target, ["a", "b"]).item() == pytest.approx(2.5 + 2)
    assert losses.perceptual(fill, target, ["b"]).item() == pytest.approx(2)
    assert losses.style(fill, target, ["a", "b"]).item() == pytest.approx(52 / 4 / 4 + 8)


def test_style_does_not_see_where_things_are():
    texture = {"a": torch.rand(1, 4, 5, 5, generator=torch.Generator().manual_seed(0))}
    moved = {"a": texture["a"].roll((2, 1), (2, 3))}
    assert losses.style(texture, moved, ["a"]).item() == pytest.approx(0, abs=1e-6)
    assert losses.perceptual(texture, moved, ["a"]).item() > 0.1


def test_scaling_by_the_target_makes_taps_count_alike():
    generator = torch.Generator().manual_seed(0)
    fill, target = torch.rand(2, 2, 3, 4, 4, generator=generator)
    small = losses.scale_by_target(fill, target)
    large = losses.scale_by_target(1000 * fill, 1000 * target)
    assert torch.allclose(small[0], large[0], rtol=1e-4)
    assert small[1].square().mean((1, 2, 3)).tolist() == pytest.approx([1, 1], rel=1e-4)


def test_feature_matching_is_the_mean_over_layers_and_leaves_the_real_side_alone():
    fake = [torch.ones(1, 2, 2, 2, requires_grad=True), torch.zeros(1, 1, 1, 1)]
    real = [torch.zeros(1, 2, 2, 2, requires_grad=True), torch.full((1, 1, 1, 1), 3.0)]
    loss = losses.feature_matching(fake, real)
    loss.backward()
    assert loss.item() == 2
    assert real[0].grad is None
    assert fake[0].grad.sum().item() == pytest.approx(0.5)


def test_r1_is_the_squared_slope_at_real_images_and_flattens_the_discriminator():
    discriminator = torch.nn.Conv2d(3, 1, 1)
    with torch.no_grad():
        discriminator.weight.copy_(torch.tensor([1.0, -2.0, 3.0]).view(1, 3, 1, 1))
    real = torch.rand(2, 3, 4, 5, requires_grad=True)
    loss = losses.r1(discriminator, real)
    loss.backward()
    assert loss.item() == pytest.approx(14 * 20)  # the slope is the weight at each pixel
    gradient = discriminator.weight.grad.flatten()
    assert gradient.tolist() == pytest.approx([2 * 20, -4 * 20, 6 * 20])
    assert real.grad is None
