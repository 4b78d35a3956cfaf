from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from inpaint.highres import SizeRule
from models.aotgan_compact import CONTEXTS, CompactAOTBlock, CompactAOTGAN
from models.filler import TorchFiller, fastest_filler

SMALL = CompactAOTGAN.Config(width=4, channels=8, blocks=2, rates=(1, 2))


def small() -> CompactAOTGAN:
    torch.manual_seed(0)
    return CompactAOTGAN(SMALL).eval()


def test_the_shipped_size_has_6_3_million_parameters():
    parameters = sum(p.numel() for p in CompactAOTGAN(CompactAOTGAN.Config()).parameters())

    assert parameters == 6_320_988
    assert parameters <= 7_500_000


@pytest.mark.parametrize("side", [8, 4])
def test_blocks_work_at_an_eighth_of_the_side_or_a_quarter(side):
    generator = CompactAOTGAN(replace(SMALL, side=side)).eval()
    shapes = []
    generator.middle[0].register_forward_hook(lambda *call: shapes.append(call[2].shape))

    fill = generator(torch.zeros(1, 3, 32, 48), torch.zeros(1, 1, 32, 48))

    assert shapes == [(1, 8, 32 // side, 48 // side)]
    assert fill.shape == (1, 3, 32, 48)


def test_no_convolution_works_at_full_resolution():
    generator = small()
    widths = []
    for module in generator.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda *call: widths.append(call[2].shape[3]))

    generator(torch.zeros(1, 3, 64, 64), torch.zeros(1, 1, 64, 64))

    assert max(widths) == 32


@pytest.mark.parametrize("gate", ["plain", "standardised", "none"])
def test_a_block_is_the_gated_sum_of_its_input_and_its_branches(gate):
    torch.manual_seed(0)
    block = CompactAOTBlock(8, (1, 3), gate).double()
    x = torch.randn(2, 8, 9, 7, dtype=torch.float64)
    state = block.state_dict()

    def conv(x: torch.Tensor, name: str, padding: int = 0, dilation: int = 1) -> torch.Tensor:
        x = F.pad(x, (padding,) * 4)
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], dilation=dilation)

    branches = [F.relu(conv(x, "branches.0", 1, 1)), F.relu(conv(x, "branches.1", 3, 3))]
    fused = conv(torch.cat(branches, 1), "fuse", 1)
    if gate == "none":
        assert torch.allclose(block(x), x + fused, atol=1e-12)
        return
    opening = conv(x, "gate")
    if gate == "standardised":  # arXiv:2104.01431, as published
        mean, deviation = opening.mean((2, 3), keepdim=True), opening.std((2, 3), keepdim=True)
        opening = 10 * (opening - mean) / (deviation + 1e-9) - 5
    share = 1 / (1 + torch.exp(-opening))

    assert torch.allclose(block(x), x * (1 - share) + fused * share, atol=1e-12)


def test_a_fresh_block_passes_most_of_its_input():
    torch.manual_seed(0)
    block = CompactAOTGAN(SMALL).middle[0]

    gate = torch.sigmoid(block.gate(torch.zeros(1, 8, 4, 4)))

    assert torch.allclose(gate, torch.tensor(0.2689), atol=1e-3)


def test_a_fresh_block_without_a_gate_passes_its_input():
    block = CompactAOTGAN(replace(SMALL, gate="none")).middle[0]
    x = torch.randn(1, 8, 4, 4)

    assert torch.equal(block(x), x)


def test_a_fill_depends_on_the_window_near_the_hole_and_not_on_its_statistics():
    generator = small()
    near, far = torch.zeros(1, 3, 16, 512), torch.zeros(1, 3, 16, 512)
    far[..., 480:] = 1
    mask = torch.zeros(1, 1, 16, 512)
    mask[..., 4:12, 4:12] = 1

    assert torch.equal(generator(near, mask)[..., :64], generator(far, mask)[..., :64])


def test_windows_are_multiples_of_eight_from_16_pixels_on():
    assert small().rule == SizeRule(multiple=8, minimum=16, trained=256)


@pytest.mark.parametrize("kind", CONTEXTS)
def test_a_fresh_context_passes_its_input_and_a_trained_one_sees_the_whole_window(kind):
    torch.manual_seed(0)
    plain = small()
    generator = CompactAOTGAN(replace(SMALL, context=kind)).eval()
    missing, strange = generator.load_state_dict(plain.state_dict(), strict=False)
    assert all(name.startswith("context.") for name in missing)
    assert not strange  # weights from before it was there still load
    image = torch.rand(1, 3, 32, 480)
    mask = torch.zeros(1, 1, 32, 480)
    mask[..., 4:12, 4:12] = 1
    assert torch.equal(generator(image, mask), plain(image, mask))

    torch.nn.init.normal_(generator.context.out.weight)
    far = image.clone()
    far[..., 440:] = 1
    near, changed = (generator(x, mask)[..., :64] for x in (image, far))
    assert not torch.allclose(near, changed, atol=1e-4)


def test_attention_is_that_of_each_place_to_the_averages():
    torch.manual_seed(0)
    attention = CONTEXTS["attention"](8).double()
    x = torch.randn(2, 8, 32, 48, dtype=torch.float64)
    tokens = x.unflatten(2, (16, 2)).unflatten(4, (16, 3)).mean((3, 5))
    q, k, v = (
        layer(seen).flatten(2).unflatten(1, (4, 2))
        for layer, seen in (
            (attention.query, x),
            (attention.key, tokens),
            (attention.value, tokens),
        )
    )
    shares = (torch.einsum("bhcn,bhcm->bhnm", q, k) / 2**0.5).softmax(3)
    found = torch.einsum("bhnm,bhcm->bhcn", shares, v).reshape(x.shape)
    assert torch.allclose(attention(x), x + attention.out(found))


@pytest.mark.parametrize("kind", CONTEXTS)
def test_a_generator_with_context_is_served_at_any_size(kind):
    torch.manual_seed(0)
    generator = CompactAOTGAN(replace(SMALL, context=kind)).eval()
    torch.nn.init.normal_(generator.context.out.weight)
    fast, plain = (
        fastest_filler(generator, precision="float32"),
        TorchFiller(generator, precision="float32"),
    )
    rng = np.random.default_rng(0)
    for height, width in ((64, 64), (40, 136)):
        pixels = rng.integers(0, 256, (1, height, width, 3), dtype=np.uint8)
        holes = np.zeros((1, height, width), bool)
        holes[:, 8:30, 8:30] = True
        difference = fast(pixels, holes).astype(int) - plain(pixels, holes)
        assert np.abs(difference).max() <= 1
    assert fast.engine == "openvino"
