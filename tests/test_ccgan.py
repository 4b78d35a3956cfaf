import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from inpaint.highres import SizeRule
from models.ccgan import CCGAN, low_resolution
from models.tensors import to_image, to_pixels


def tiny() -> CCGAN:
    torch.manual_seed(0)
    return CCGAN(CCGAN.Config(width=2)).eval()


def difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def test_the_published_size_has_29_257_731_parameters():
    with torch.device("meta"):
        generator = CCGAN(CCGAN.Config())

    assert sum(parameter.numel() for parameter in generator.parameters()) == 29_257_731


def test_windows_are_multiples_of_64():
    assert CCGAN.rule == SizeRule(multiple=64, minimum=64, trained=128)


def test_an_impossible_size_is_refused():
    with pytest.raises(ValueError, match="width is at least 1"):
        CCGAN(CCGAN.Config(width=0))


@pytest.mark.slow  # 29 million weights, drawn and used three times
def test_fills_equal_those_of_the_published_code(golden_vectors):
    vectors, weights, allowed = golden_vectors("ccgan_g")
    shown, low = vectors["in.masked"], vectors["in.lowres"]
    generator = CCGAN(CCGAN.Config()).eval()
    generator.load_state_dict(weights)

    with torch.no_grad():
        single = generator.unet(shown, low)
        double = generator.double().unet(shown.double(), low.double())
        for module in generator.float().train().modules():
            if isinstance(module, torch.nn.Dropout):
                module.eval()  # it is random, and was off
        trained = generator.unet(shown, low)

    assert difference(double[..., ::4, ::4], vectors["eval64.out"]) < allowed["eval64"]
    assert difference(single, vectors["eval.out"]) < allowed["eval"]
    assert difference(trained, vectors["train.out"]) < allowed["train"]
    state = generator.state_dict()
    after = [key for key in vectors if key.startswith("after.")]
    assert after
    for key in after:
        assert difference(state[key.removeprefix("after.")], vectors[key]) < allowed["train"]


def test_the_network_sees_the_hole_black():
    seen = []
    generator = tiny()
    generator.down1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    image, mask = torch.rand(1, 3, 64, 64), torch.zeros(1, 1, 64, 64)
    mask[..., 10:30, 20:50] = 1

    generator(image, mask)

    assert torch.equal(seen[0], torch.where(mask.bool(), -torch.ones(()), image))


def test_dropout_is_random_in_training_and_absent_in_serving():
    generator = tiny()
    image, mask = torch.rand(2, 3, 128, 128), torch.zeros(2, 1, 128, 128)
    assert torch.equal(generator(image, mask), generator(image, mask))

    generator.train()

    assert not torch.equal(generator(image, mask), generator(image, mask))


# --- the low-resolution image -----------------------------------------------------------------


def test_the_low_resolution_is_the_antialiased_bicubic_one_of_the_published_pipeline():
    # neither dark nor bright: Pillow cuts off what rings between rows and columns
    pixels = np.random.default_rng(0).integers(50, 206, (1, 64, 128, 3), np.uint8)
    image = to_image(pixels)

    small = to_pixels(low_resolution(image, torch.zeros(1, 1, 64, 128)))[0]

    resized = Image.fromarray(pixels[0]).resize((32, 16), Image.Resampling.BICUBIC)
    expected = np.asarray(resized).astype(int)
    assert small.shape == (16, 32, 3)
    assert np.abs(small - expected).max() <= 1  # rounded in between


def test_the_low_resolution_shows_the_hole_in_the_mean_colour_of_what_is_known():
    image = torch.full((2, 3, 64, 64), 0.25)
    image[1] = -0.5
    image[:, 0, :32] += 0.5  # red: more above, less below
    mask = torch.zeros(2, 1, 64, 64)
    mask[..., 16:48] = 1  # as much of either

    low = low_resolution(image * (1 - mask), mask)

    assert torch.allclose(low[0, :, :, 8], torch.tensor([0.5, 0.25, 0.25])[:, None], atol=1e-6)
    assert torch.allclose(low[1, :, :, 8], torch.tensor([-0.25, -0.5, -0.5])[:, None], atol=1e-6)


def test_where_nothing_is_known_the_low_resolution_is_gray():
    low = low_resolution(torch.zeros(1, 3, 64, 64), torch.ones(1, 1, 64, 64))

    assert torch.equal(low, torch.zeros(1, 3, 16, 16))


def test_the_low_resolution_stays_within_its_range():
    image = torch.where(torch.arange(64) % 8 < 4, 1.0, -1.0).expand(1, 3, 64, 64)  # it would ring

    low = low_resolution(image, torch.zeros(1, 1, 64, 64))

    assert low.abs().max() <= 1


def test_the_mean_colour_of_half_precision_images_is_computed_in_float32():
    torch.manual_seed(0)
    image = (torch.rand(1, 3, 256, 256) + 1).clamp(max=1).bfloat16()
    image[..., :128] = 0
    mask = torch.zeros(1, 1, 256, 256, dtype=torch.bfloat16)
    mask[..., :128] = 1

    low = low_resolution(image, mask)

    assert low.dtype == torch.bfloat16
    assert (low == 1).all()
