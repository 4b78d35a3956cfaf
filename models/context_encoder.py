"""Context Encoders: what stands around a hole, squeezed through a bottleneck, says what is in it.

Pathak, Krähenbühl, Donahue, Darrell, Efros, "Context Encoders: Feature Learning by Inpainting",
CVPR 2016, arXiv 1604.07379. Two generators, after where the hole may lie:

* `CentreContextEncoder`, the central half of 128 pixels (section 5.1), as its two public PyTorch
  versions have it: "strided" (github.com/BoyuanJiang/context_encoder_pytorch, MIT, a port of the
  authors' Lua code) and "pointwise" (github.com/eriklindernoren/PyTorch-GAN, MIT).
* `ContextEncoder`, a hole anywhere (section 5.2): "channel-wise" is the paper's network with its
  channel-wise fully connected layer (section 3.1); "convolutional" is what the authors' Lua code
  trains instead.

Both see no mask, only the hole's colour. Their bottlenecks want a batch of two or more in training.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inpaint.highres import SizeRule

from .generator import Generator
from .tensors import known_colour

SIDE = 128  # pixels, seen by all but the channel-wise form
PART = slice(SIDE // 4, 3 * SIDE // 4)  # the central half, which is predicted
OVERLAP = 4  # pixels of the part, on each of its sides, that the strided form still sees
BATCH_NORM_EPSILON = 1e-5  # PyTorch's own
# PyTorch-GAN hands BatchNorm2d its 0.8 as epsilon where it meant the momentum: weights depend on it
PUBLISHED_EPSILON = 0.8
# the mean green, blue and red of ImageNet, where red, green and blue belong: as published
MEAN_COLOUR = tuple(2 * level / 255 - 1 for level in (117, 104, 123))
WHITE = (1.0, 1.0, 1.0)
ALEXNET_SIDE = 227  # pixels
ALEXNET_MAP = 6  # side of its last features


class CentreContextEncoder(Generator):
    """Encoder, bottleneck and decoder for the central 64 of 128 pixels.

    The prediction stands in the centre of the fill; the fill's rim is what was visible. Known
    pixels of the centre are never seen: training has none. Nor has it holes around the centre:
    there they take the mean colour of what is known, lest the hole's own colour count as a subject.
    """

    @dataclass(frozen=True)
    class Config:
        """The published sizes: 71.1 M parameters strided, 40.4 M pointwise."""

        # strided: 4x4 -> 1x1 by one convolution; pointwise: a 1x1 convolution, which mixes no
        # places, without norm or activation
        bottleneck: Literal["strided", "pointwise"] = "strided"
        width: int = 64  # channels at 1/2 of the side
        bottleneck_channels: int = 4000

    rule = SizeRule(fixed=SIDE, trained=SIDE, hole_share=0.5)
    source = "arXiv:1604.07379"

    def __init__(self, config: Config) -> None:
        super().__init__()
        _at_least_one(config.width, config.bottleneck_channels)
        self.config = config
        if config.bottleneck == "strided":
            layers = [*_strided(config.width, config.bottleneck_channels), *_end(config.width)]
        else:
            layers = _pointwise(config.width, config.bottleneck_channels)
        self.main = nn.Sequential(*layers)  # keys as published; `pointwise` is `model` there
        _initialise(self)

    def generate(self, visible: Tensor, mask: Tensor) -> Tensor:
        """Return the fill (B,3,128,128)."""
        strided = self.config.bottleneck == "strided"
        inset = OVERLAP if strided else 0
        inner = slice(PART.start + inset, PART.stop - inset)
        blank = torch.zeros_like(mask)
        blank[..., inner, inner] = 1
        unseen = torch.maximum(mask, blank)
        colour = known_colour(visible * (1 - unseen), unseen).to(visible.dtype)
        shown = _painted(visible + colour * mask, blank, MEAN_COLOUR if strided else WHITE)
        fill = visible.clone()
        fill[..., PART, PART] = self.main(shown)  # (B,3,64,64)
        return fill


class ChannelWiseFullyConnected(nn.Module):
    """Connects every place with every place, each channel for itself (section 3.1).

    One matrix per channel: channels * side^4 weights, where a dense layer has channels^2 * side^4.
    """

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        places = side * side
        self.weight = nn.Parameter(torch.empty(channels, places, places))
        self.bias = nn.Parameter(torch.zeros(channels, places))
        nn.init.normal_(self.weight, std=(2 / places) ** 0.5)  # Kaiming, for the ReLU behind it

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same shape (B,C,side,side)."""
        mixed = torch.einsum("bci,cij->bcj", x.flatten(2), self.weight) + self.bias
        return mixed.view(x.shape)


class ContextEncoder(Generator):
    """Encoder, bottleneck and decoder for a hole anywhere; predicts the whole window.

    The channel-wise form is AlexNet up to pool5 in two groups, without its local response
    normalisation, the channel-wise fully connected layer, a 1x1 convolution across channels, and
    five up-convolutions. Of these the text gives the number alone: widths 128, 64, 64, 32, 3, 5x5
    kernels (6 -> 11 -> 21 -> 41 -> 81 -> 161 pixels) and the interpolation to 227 are our reading.
    """

    @dataclass(frozen=True)
    class Config:
        """The paper's sizes; the convolutional form has 71.2 M parameters."""

        form: Literal["channel-wise", "convolutional"] = "channel-wise"
        width: int = 32  # channels, of which all others are multiples; even, for AlexNet's groups
        bottleneck_channels: int = 4000  # of the convolutional form

    rule = SizeRule(fixed=ALEXNET_SIDE, trained=ALEXNET_SIDE)
    source = "arXiv:1604.07379"

    def __init__(self, config: Config) -> None:
        super().__init__()
        _at_least_one(config.width, config.bottleneck_channels)
        self.config = config
        width = config.width
        if config.form == "channel-wise":
            if width % 2:
                raise ValueError(f"width {width} is odd: AlexNet's two groups cannot share it")
            self.main = nn.Sequential(*_alexnet(width), *_mixing(8 * width), *_ups(width))
            for module in self.modules():
                if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                    nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # each of them has one
        else:
            self.rule = SizeRule(fixed=SIDE, trained=SIDE)
            base = 2 * width
            self.main = nn.Sequential(
                *_strided(base, config.bottleneck_channels),
                *_up(base, base, bias=False),
                *_end(base),
            )
            _initialise(self)

    def generate(self, visible: Tensor, mask: Tensor) -> Tensor:
        """Return the fill; the hole is shown as 0 or, in the convolutional form, in mean colour."""
        if self.config.form == "convolutional":
            return self.main(_painted(visible, mask, MEAN_COLOUR))
        small = self.main(visible)  # (B,3,161,161)
        return torch.tanh(F.interpolate(small, ALEXNET_SIDE, mode="bilinear"))


def _painted(visible: Tensor, blank: Tensor, colour: tuple[float, ...]) -> Tensor:
    """Return the image with a colour where `blank` (B,1,H,W) is 1."""
    return visible * (1 - blank) + visible.new_tensor(colour).view(1, 3, 1, 1) * blank


# --- the convolutional layers, in the published order -----------------------------------------


def _strided(width: int, bottleneck: int) -> list[nn.Module]:
    """Layers from the image to half the side of the part: through 1x1, no biases."""
    return [
        *_encoder(width, bias=False, epsilon=BATCH_NORM_EPSILON),
        nn.Conv2d(8 * width, bottleneck, 4, bias=False),
        nn.BatchNorm2d(bottleneck, eps=BATCH_NORM_EPSILON),
        nn.LeakyReLU(0.2),
        nn.ConvTranspose2d(bottleneck, 8 * width, 4, bias=False),
        nn.BatchNorm2d(8 * width, eps=BATCH_NORM_EPSILON),
        nn.ReLU(),
        *_up(8 * width, 4 * width, bias=False),
        *_up(4 * width, 2 * width, bias=False),
        *_up(2 * width, width, bias=False),
    ]


def _end(width: int) -> list[nn.Module]:
    """The last layers of what `_strided` begins."""
    return [nn.ConvTranspose2d(width, 3, 4, stride=2, padding=1, bias=False), nn.Tanh()]


def _pointwise(width: int, bottleneck: int) -> list[nn.Module]:
    """Layers from the image to the part: never below 4x4, with biases."""
    layers = _encoder(width, bias=True, epsilon=PUBLISHED_EPSILON)
    layers.append(nn.Conv2d(8 * width, bottleneck, 1))
    for inputs, outputs in pairwise((bottleneck, 8 * width, 4 * width, 2 * width, width)):
        layers += _up(inputs, outputs, bias=True, epsilon=PUBLISHED_EPSILON)
    return [*layers, nn.Conv2d(width, 3, 3, padding=1), nn.Tanh()]


def _encoder(width: int, *, bias: bool, epsilon: float) -> list[nn.Module]:
    """Layers from 128 to 4 pixels."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, width, 4, stride=2, padding=1, bias=bias),
        nn.LeakyReLU(0.2),
    ]
    for inputs, outputs in pairwise((width, width, 2 * width, 4 * width, 8 * width)):
        layers += [
            nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=bias),
            nn.BatchNorm2d(outputs, eps=epsilon),
            nn.LeakyReLU(0.2),
        ]
    return layers


def _up(
    inputs: int, outputs: int, *, bias: bool, epsilon: float = BATCH_NORM_EPSILON
) -> list[nn.Module]:
    """Layers to twice the side."""
    return [
        nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=bias),
        nn.BatchNorm2d(outputs, eps=epsilon),
        nn.ReLU(),
    ]


def _initialise(network: nn.Module) -> None:
    """Weights N(0, 0.02), those of norms N(1, 0.02), as published."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, std=0.02)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, mean=1.0, std=0.02)


# --- the layers of the channel-wise form ------------------------------------------------------


def _alexnet(width: int) -> list[nn.Module]:
    """Layers from 227 to 6 pixels, conv1 to pool5; at width 32: 96, 256, 384, 384, 256 channels."""
    return [
        nn.Conv2d(3, 3 * width, 11, stride=4),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(3 * width, 8 * width, 5, padding=2, groups=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(8 * width, 12 * width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(12 * width, 12 * width, 3, padding=1, groups=2),
        nn.ReLU(),
        nn.Conv2d(12 * width, 8 * width, 3, padding=1, groups=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
    ]


def _mixing(channels: int) -> list[nn.Module]:
    """The bottleneck: places within each channel, then channels at each place."""
    return [
        ChannelWiseFullyConnected(channels, ALEXNET_MAP),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 1),
        nn.ReLU(),
    ]


def _ups(width: int) -> list[nn.Module]:
    """Five up-convolutions, from 6 to 161 pixels; at width 32: 128, 64, 64, 32, 3 channels."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise((8 * width, 4 * width, 2 * width, 2 * width, width)):
        layers += [nn.ConvTranspose2d(inputs, outputs, 5, stride=2, padding=2), nn.ReLU()]
    return [*layers, nn.ConvTranspose2d(width, 3, 5, stride=2, padding=2)]


def _at_least_one(width: int, bottleneck_channels: int) -> None:
    if width < 1 or bottleneck_channels < 1:
        raise ValueError(f"width {width}, bottleneck_channels {bottleneck_channels}: at least 1")
