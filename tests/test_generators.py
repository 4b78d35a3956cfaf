"""One contract for every generator in the registry."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
from torch import Tensor

from models.checkpoint import Header, load, save
from models.filler import TorchFiller
from models.generator import Generator
from models.registry import GENERATORS, architecture_of, create
from models.tensors import to_pixels

TINY: dict[str, dict[str, object]] = {  # architecture, then which variant of it
    "aotgan": {"channels": 4, "blocks": 2, "rates": [1, 2]},
    "aotgan ungated": {"channels": 4, "blocks": 2, "rates": [1, 2], "gate": False},
    "aotgan of one rate": {"channels": 4, "blocks": 2, "rates": [1]},
    "aotgan-compact": {"width": 4, "channels": 8, "blocks": 2, "rates": [1, 2]},
    "ccgan": {"width": 4},
    "context-encoder channel-wise": {"width": 2},
    "context-encoder convolutional": {
        "form": "convolutional",
        "width": 2,
        "bottleneck_channels": 8,
    },
    "context-encoder-centre strided": {"width": 4, "bottleneck_channels": 8},
    "context-encoder-centre pointwise": {
        "bottleneck": "pointwise",
        "width": 4,
        "bottleneck_channels": 8,
    },
    "navier-stokes": {},
    "telea": {},
}
LEARNED = [name for name in TINY if name not in ("navier-stokes", "telea")]


def fresh(name: str) -> Generator:
    """Return a small generator as it is before training."""
    torch.manual_seed(0)
    return create(name.split()[0], TINY[name])


def tiny(name: str) -> Generator:
    """Return a small generator whose fills have many colours: layers put out values of about 1."""
    generator = fresh(name).eval()
    image, mask = image_and_mask(generator)
    layers = [module for module in generator.modules() if hasattr(module, "weight")]
    hooks = [layer.register_forward_hook(scale) for layer in layers if layer.weight.ndim > 1]
    with torch.no_grad():
        generator(image, mask)
    for hook in hooks:
        hook.remove()
    return generator


def scale(layer: torch.nn.Module, inputs: object, output: Tensor) -> Tensor:
    """Scale a layer's weights, and its output, so that this varies by 1."""
    layer.weight.div_(output.std())
    return output / output.std()


def sides(generator: Generator) -> tuple[int, int]:
    """Return a small height and width that the generator accepts."""
    rule = generator.rule
    if rule.fixed is not None:
        return rule.fixed, rule.fixed
    height = -(-max(rule.minimum, 24) // rule.multiple) * rule.multiple
    return height, height + 2 * rule.multiple


def image_and_mask(generator: Generator) -> tuple[Tensor, Tensor]:
    """Return two images of pixel values, and a different hole in each, where holes may lie."""
    torch.manual_seed(1)
    height, width = sides(generator)
    image = torch.randint(0, 256, (2, 3, height, width)) / 127.5 - 1
    mask = torch.zeros(2, 1, height, width)
    rows, columns = (round(side * (1 - generator.rule.hole_share) / 2) for side in (height, width))
    allowed = mask[..., rows : height - rows, columns : width - columns]  # a view
    allowed[0, :, 4:14, 8:] = 1
    allowed[1, :, :9, :7] = 1
    return image, mask


def test_every_generator_has_a_tiny_configuration_here():
    assert {name.split()[0] for name in TINY} == set(GENERATORS)


@pytest.mark.parametrize("name", TINY)
def test_a_fill_has_the_images_shape_and_range(name):
    generator = tiny(name)
    image, mask = image_and_mask(generator)

    fill = generator(image, mask)

    assert fill.shape == image.shape
    assert fill.dtype == image.dtype
    assert fill.abs().max() <= 1
    assert (fill * mask).std() > 0.01


@pytest.mark.parametrize("name", TINY)
def test_a_batch_of_two_equals_two_singles(name):
    generator = tiny(name).double()
    image, mask = (tensor.double() for tensor in image_and_mask(generator))

    both = generator(image, mask)
    singles = torch.cat([generator(image[i : i + 1], mask[i : i + 1]) for i in range(2)])

    assert torch.allclose(both, singles, atol=1e-9)


@pytest.mark.parametrize("name", TINY)
def test_pixels_under_the_hole_do_not_matter(name):
    generator = tiny(name)
    image, mask = image_and_mask(generator)
    other = torch.where(mask.bool(), torch.rand_like(image), image)

    assert torch.equal(generator(image, mask), generator(other, mask))


@pytest.mark.parametrize("name", TINY)
def test_the_known_region_matters(name):
    generator = tiny(name)
    image, mask = image_and_mask(generator)

    fill, other = generator(image, mask), generator(-image, mask)

    assert (fill - other).mul(mask).abs().max() > 0.01


@pytest.mark.parametrize("name", TINY)
def test_the_smallest_window_is_filled(name):
    generator = tiny(name)
    side = generator.rule.fit(generator.rule.minimum)
    mask = torch.zeros(1, 1, side, side)
    mask[..., : side // 2] = 1

    assert generator(torch.zeros(1, 3, side, side), mask).isfinite().all()


@pytest.mark.parametrize("name", TINY)
def test_a_window_below_the_smallest_is_refused(name):
    generator = tiny(name)
    rule = generator.rule
    below = rule.fit(rule.minimum) - rule.multiple

    with pytest.raises(ValueError, match="breaks SizeRule"):
        generator(torch.zeros(1, 3, below, 96), torch.zeros(1, 1, below, 96))


@pytest.mark.parametrize("name", LEARNED)
def test_a_window_one_column_off_the_multiple_is_refused(name):
    generator = tiny(name)
    height, width = sides(generator)

    with pytest.raises(ValueError, match=f"{height}x{width + 1} breaks SizeRule"):
        generator(torch.zeros(1, 3, height, width + 1), torch.zeros(1, 1, height, width + 1))


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("shape", [(2, 24, 24), (2, 4, 24, 24), (1, 3, 24, 24)])
def test_an_image_that_does_not_belong_to_the_mask_is_refused(name, shape):
    with pytest.raises(ValueError, match="is not|does not belong"):
        tiny(name)(torch.zeros(shape), torch.zeros(2, 1, 24, 24))


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("hole", [0.0, 1.0])
def test_an_empty_and_a_full_mask_give_finite_fills(name, hole):
    generator = tiny(name)
    image, mask = image_and_mask(generator)

    assert generator(image, torch.full_like(mask, hole)).isfinite().all()


@pytest.mark.parametrize("name", LEARNED)
def test_a_gradient_reaches_every_parameter(name):
    generator = tiny(name).train()
    image, mask = image_and_mask(generator)

    (generator(image, mask) * mask).square().mean().backward()

    for parameter in generator.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
        assert parameter.ndim == 1 or parameter.grad.abs().max() > 0  # a standardised bias has none


@pytest.mark.parametrize("name", TINY)
def test_a_fresh_generator_fills_with_finite_values(name):
    generator = fresh(name)
    image, mask = image_and_mask(generator)

    assert generator(image, mask).isfinite().all()


@pytest.mark.parametrize("name", TINY)
def test_the_same_input_gives_the_same_fill(name):
    generator = tiny(name)
    image, mask = image_and_mask(generator)

    assert torch.equal(generator(image, mask), generator(image, mask))


@pytest.mark.parametrize("name", TINY)
def test_a_checkpoint_gives_an_equal_fill(name, tmp_path):
    generator = tiny(name)
    image, mask = image_and_mask(generator)
    path = tmp_path / "tiny.safetensors"

    save(path, generator, Header.of(generator, name="tiny", license="CC0-1.0"))
    loaded, _ = load(path)

    assert torch.equal(loaded(image, mask), generator(image, mask))


@pytest.mark.parametrize("name", TINY)
def test_a_filler_in_bfloat16_agrees_with_one_in_float32(name):
    generator = tiny(name)
    image, mask = image_and_mask(generator)
    pixels, holes = to_pixels(image), mask[:, 0].bool().numpy()

    exact = TorchFiller(generator, precision="float32")(pixels, holes)
    fast = TorchFiller(generator, precision="bfloat16")(pixels, holes)

    levels = np.abs(exact.astype(int) - fast)[holes]
    assert levels.mean() < 2
    assert exact[holes].std() > 5


@pytest.mark.parametrize("name", TINY)
def test_the_complete_configuration_makes_the_same_generator(name):
    generator = tiny(name)

    again = create(name.split()[0], asdict(generator.config))

    assert again.config == generator.config
    assert again.rule == generator.rule
    assert architecture_of(again) == name.split()[0]


@pytest.mark.parametrize("name", sorted(GENERATORS))
def test_every_generator_names_its_source(name):
    assert GENERATORS[name].source


def test_an_unknown_architecture_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=f"'gan'; known: {', '.join(GENERATORS)}"):
        create("gan", {})


def test_an_unknown_key_is_refused_with_the_known_ones():
    with pytest.raises(
        ValueError, match="knows no depth; its keys are: channels, blocks, rates, gate"
    ):
        create("aotgan", {"depth": 3})


@pytest.mark.parametrize(
    "config",
    [{"channels": "4"}, {"channels": 4.5}, {"rates": 2}, {"rates": [1, "2"]}, {"blocks": True}],
)
def test_a_value_of_a_wrong_type_is_refused_with_its_key(config):
    with pytest.raises(ValueError, match=f"aotgan: {next(iter(config))}"):
        create("aotgan", config)


def test_lists_become_tuples():
    assert create("aotgan", TINY["aotgan"]).config.rates == (1, 2)


def test_an_unregistered_generator_has_no_architecture():
    with pytest.raises(ValueError, match="not in the registry"):
        architecture_of(Generator())
