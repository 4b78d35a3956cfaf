import json

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file

from inpaint.highres import SizeRule
from models.aotgan import AOTGAN, standardise
from models.checkpoint import Header, load, save


def tiny(*, rates: tuple[int, ...] = (1, 2), blocks: int = 2, gate: bool = True) -> AOTGAN:
    torch.manual_seed(0)
    generator = AOTGAN(AOTGAN.Config(channels=4, blocks=blocks, rates=rates, gate=gate))
    for parameter in generator.parameters():  # larger than the initial ones: all paths count
        torch.nn.init.normal_(parameter, std=0.15)
    return generator


def image_and_mask(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    mask = torch.zeros(2, 1, height, width)
    mask[0, :, 4:12, 6:] = 1
    mask[1, :, :9, :7] = 1
    return torch.rand(2, 3, height, width) * 2 - 1, mask


def reflect(x: torch.Tensor, width: int) -> torch.Tensor:
    return F.pad(x, (width,) * 4, mode="reflect")


def transcription(
    state: dict[str, torch.Tensor], image: torch.Tensor, mask: torch.Tensor, config: AOTGAN.Config
) -> torch.Tensor:
    """Compute the fill from a state dict by the paper's equations, with functions alone."""

    def conv(x: torch.Tensor, name: str, **options: int) -> torch.Tensor:
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], **options)

    def up(x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)

    white = image * (1 - mask) + mask
    x = F.relu(conv(reflect(torch.cat([white, mask], 1), 3), "encoder.1"))
    x = F.relu(conv(x, "encoder.3", stride=2, padding=1))
    x = F.relu(conv(x, "encoder.5", stride=2, padding=1))
    for block in range(config.blocks):
        name = f"middle.{block}"
        branches = [
            F.relu(conv(reflect(x, rate), f"{name}.block0{i}.1", dilation=rate))
            for i, rate in enumerate(config.rates)
        ]
        fused = conv(reflect(torch.cat(branches, 1), 1), f"{name}.fuse.1")
        if not config.gate:
            x = x + fused
            continue
        gate = conv(reflect(x, 1), f"{name}.gate.1")
        pixels = gate.shape[2] * gate.shape[3]
        mean = gate.sum((2, 3), keepdim=True) / pixels
        variance = ((gate - mean) ** 2).sum((2, 3), keepdim=True) / (pixels - 1)
        gate = torch.sigmoid(5 * (2 * (gate - mean) / (variance.sqrt() + 1e-9) - 1))
        x = x * (1 - gate) + fused * gate
    x = F.relu(conv(up(x), "decoder.0.conv", padding=1))
    x = F.relu(conv(up(x), "decoder.2.conv", padding=1))
    return torch.tanh(conv(x, "decoder.4", padding=1))


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def test_the_papers_size_has_15_200_835_parameters():
    generator = AOTGAN(AOTGAN.Config())

    assert sum(parameter.numel() for parameter in generator.parameters()) == 15_200_835


def test_a_block_of_256_channels_has_1_770_240_parameters():
    block = AOTGAN(AOTGAN.Config()).middle[0]

    assert sum(parameter.numel() for parameter in block.parameters()) == 1_770_240


def test_a_block_without_its_gate_has_no_weights_of_one():
    names = tiny(gate=False).state_dict().keys()

    assert names == {name for name in tiny().state_dict() if ".gate." not in name}


def test_a_checkpoint_from_before_gates_were_optional_loads_and_is_saved_again(tmp_path):
    generator = tiny()
    path = tmp_path / "old.safetensors"
    save(path, generator, Header.of(generator, name="old", license="CC0-1.0"))
    with safe_open(path, "pt") as file:
        strings = file.metadata()
    config = json.loads(strings["config"])
    del config["gate"]
    save_file(generator.state_dict(), path, strings | {"config": json.dumps(config)})

    loaded, header = load(path)
    save(path, loaded, header)

    assert loaded.config.gate
    assert header.config["gate"] is True
    assert load(path)[1] == header


def test_names_of_parameters_are_the_published_ones():
    weights = [name for name in tiny(blocks=1).state_dict() if name.endswith("weight")]

    assert weights == [
        "encoder.1.weight",
        "encoder.3.weight",
        "encoder.5.weight",
        "middle.0.block00.1.weight",
        "middle.0.block01.1.weight",
        "middle.0.fuse.1.weight",
        "middle.0.gate.1.weight",
        "decoder.0.conv.weight",
        "decoder.2.conv.weight",
        "decoder.4.weight",
    ]


@pytest.mark.parametrize(
    ("rates", "blocks", "size", "gate"),
    [
        ((1, 2), 2, (16, 24), True),
        ((1, 2, 3, 5), 1, (24, 28), True),
        ((3,), 3, (16, 16), True),
        ((1, 2), 2, (16, 24), False),
    ],
)
def test_fills_equal_the_transcribed_equations(rates, blocks, size, gate):
    generator = tiny(rates=rates, blocks=blocks, gate=gate).double()
    image, mask = (tensor.double() for tensor in image_and_mask(*size))

    with torch.no_grad():
        fill = generator(image, mask)

    expected = transcription(generator.state_dict(), image, mask, generator.config)
    assert expected.std() > 0.05
    assert difference(fill, expected) < 1e-12


@pytest.mark.slow  # eight blocks of the paper's size, twice
def test_fills_equal_those_of_the_published_code(golden_vectors):
    vectors, weights, allowed = golden_vectors("aotgan_g")
    generator = AOTGAN(AOTGAN.Config())
    generator.load_state_dict(weights)
    image, mask = vectors["in.image"], vectors["in.mask"]

    with torch.no_grad():
        single = generator(image, mask)
        double = generator.double()(image.double(), mask.double())

    assert difference(double[..., ::4, ::4], vectors["eval64.out"]) < allowed["eval64"]
    assert difference(single, vectors["eval.out"]) < allowed["eval"]


def test_the_gate_has_mean_minus_5_and_deviation_10_in_each_channel_of_each_sample():
    torch.manual_seed(0)
    features = torch.randn(2, 3, 8, 8) * torch.tensor([1.0, 5.0, 0.1])[:, None, None] + 7

    gate = standardise(features)

    assert torch.allclose(gate.mean((2, 3)), torch.full((2, 3), -5.0), atol=1e-4)
    assert torch.allclose(gate.std((2, 3)), torch.full((2, 3), 10.0), atol=1e-3)


def test_the_gate_of_half_precision_features_is_computed_in_float32():
    torch.manual_seed(0)
    features = (torch.randn(1, 2, 64, 64) + 30).bfloat16()

    gate = standardise(features)

    assert gate.dtype == torch.float32
    assert torch.allclose(gate, standardise(features.double()).float(), atol=1e-3)


def test_a_flat_channel_closes_its_gate_instead_of_dividing_by_zero():
    assert torch.equal(standardise(torch.full((1, 1, 4, 4), 3.0)), torch.full((1, 1, 4, 4), -5.0))


def test_the_smallest_window_follows_from_the_widest_rate():
    assert AOTGAN(AOTGAN.Config()).rule == SizeRule(multiple=4, minimum=36, trained=512)
    assert tiny(rates=(1, 2)).rule.minimum == 12


@pytest.mark.parametrize(
    "config",
    [
        AOTGAN.Config(channels=0),
        AOTGAN.Config(blocks=0),
        AOTGAN.Config(rates=()),
        AOTGAN.Config(rates=(0, 1)),
        AOTGAN.Config(channels=1, rates=(1, 2, 3)),
    ],
)
def test_an_impossible_size_is_refused(config):
    with pytest.raises(ValueError, match="Config"):
        AOTGAN(config)
