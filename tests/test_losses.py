"""Losses against values computed by hand, and SM-PatchGAN against golden values."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from training import losses

GOLDEN = json.loads((Path(__file__).parent / "golden" / "smgan.json").read_text())


@pytest.fixture
def mask():
    bits = [np.frombuffer(bytes.fromhex(text), np.uint8) for text in GOLDEN["mask"]]
    return torch.tensor(np.stack([np.unpackbits(row) for row in bits])).view(2, 1, 64, 80).double()


@pytest.fixture
def logits():
    found = {}
    for name in ("logits_real", "logits_fake"):
        values = torch.tensor(GOLDEN[name], dtype=torch.float64).view(2, 1, 6, 8)
        found[name] = values.requires_grad_()
    return found


@pytest.mark.parametrize("mode", ["paper", "official"])
def test_the_discriminators_side_of_sm_patchgan_has_its_golden_value(mode, mask, logits):
    expected = GOLDEN["losses"][f"{mode}_d"]
    loss = losses.soft_patch_discriminator(
        logits["logits_real"],
        logits["logits_fake"],
        mask,
        blurred=losses.soft_mask(mask),
        mode=mode,
    )
    loss.backward()
    norms = {name: values.grad.norm().item() for name, values in logits.items()}
    assert loss.item() == pytest.approx(expected["value"], rel=1e-6)
    assert norms == pytest.approx(expected["gradient_norms"], rel=1e-6)


@pytest.mark.parametrize("mode", ["paper", "official"])
def test_the_generators_side_of_sm_patchgan_has_its_golden_value(mode, mask, logits):
    expected = GOLDEN["losses"][f"{mode}_g"]
    loss = losses.soft_patch_generator(logits["logits_fake"], mask, mode=mode)
    loss.backward()
    assert loss.item() == pytest.approx(expected["value"], rel=1e-6)
    norm = logits["logits_fake"].grad.norm().item()
    assert norm == pytest.approx(expected["gradient_norms"]["logits_fake"], rel=1e-6)


def test_both_sides_of_the_paper_mode_call_one_real():
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    blurred = losses.soft_mask(mask, kernel=1)
    real, fake = torch.ones(1, 1, 8, 8), 1 - mask
    side = losses.soft_patch_discriminator(real, fake, mask, blurred=blurred, mode="paper")
    assert side.item() == 0
    assert losses.soft_patch_generator(real, mask, mode="paper").item() == 0
    assert losses.soft_patch_generator(fake, mask, mode="paper").item() == pytest.approx(1)


def test_the_generator_answers_for_the_hole_alone():
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., 0, 0] = 1
    known = 1 + 5 * (1 - mask)  # far from real everywhere but in the hole
    assert losses.soft_patch_generator(known, mask, mode="paper").item() == 0
    assert losses.soft_patch_generator(known, mask, mode="official").item() > 1


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
