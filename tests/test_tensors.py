import numpy as np
import torch

from models.tensors import composite, to_image, to_mask, to_pixels


def test_pixels_become_an_image_in_minus_one_to_one():
    pixels = np.array([[[[0, 255, 51]]]], np.uint8)  # (1,1,1,3)

    image = to_image(pixels)

    assert image.shape == (1, 3, 1, 1)
    assert image.dtype == torch.float32
    assert torch.allclose(image.flatten(), torch.tensor([-1.0, 1.0, -0.6]))


def test_every_level_survives_the_way_there_and_back():
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)

    assert np.array_equal(to_pixels(to_image(pixels)), pixels)


def test_colours_stay_in_their_channels_and_places():
    pixels = np.zeros((2, 4, 5, 3), np.uint8)
    pixels[1, 2, 3] = 255, 0, 128

    image = to_image(pixels)

    assert image.shape == (2, 3, 4, 5)
    assert image[1, 0, 2, 3] == 1
    assert image[1, 1, 2, 3] == -1


def test_values_are_rounded_and_kept_in_range():
    image = (
        torch.tensor([-1.5, 1.5, 0.0, 0.003, -0.003, 0.9999]).view(1, 1, 2, 3).repeat(1, 3, 1, 1)
    )

    assert to_pixels(image)[0, ..., 0].ravel().tolist() == [0, 255, 128, 128, 127, 255]


def test_pixels_of_half_precision_are_rounded_in_float32():
    image = to_image(np.full((1, 1, 1, 3), 200, np.uint8)).bfloat16()

    assert abs(int(to_pixels(image)[0, 0, 0, 0]) - 200) <= 1


def test_a_hole_is_one_in_the_mask():
    mask = to_mask(np.array([[[True, False]]]))

    assert mask.shape == (1, 1, 1, 2)
    assert mask.dtype == torch.float32
    assert mask.flatten().tolist() == [1, 0]


def test_a_composite_takes_the_hole_from_the_fill_and_the_rest_from_the_image():
    image, fill = torch.full((1, 3, 1, 2), 0.25), torch.full((1, 3, 1, 2), -0.5)
    mask = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)

    assert composite(image, fill, mask)[0, 0, 0].tolist() == [-0.5, 0.25]


def test_an_image_with_a_gradient_becomes_pixels():
    image = torch.zeros(1, 3, 2, 2, requires_grad=True)

    assert to_pixels(image).shape == (1, 2, 2, 3)
