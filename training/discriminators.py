"""Discriminators: networks that tell the real from the filled. Images in, logits out, no sigmoid.

| kind | judges | from |
|---|---|---|
| spectral-patch | patches | AOT-GAN, arXiv:2104.01431, section 3.2; layers as released |
| instance-patch | patches | PyTorch-GAN's Context Encoder and CCGAN |
| whole | a square of 64 px, 128 px, ... | Context Encoder, arXiv:1604.07379; train.lua |
| context-conditioned | such a square in its surroundings | the same, `conditionAdv` |
| shared-trunk | an image, and its class | CC-GAN, arXiv:1611.06430 |
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

Kind = Literal["spectral-patch", "instance-patch", "whole", "context-conditioned", "shared-trunk"]
SMALLEST: dict[Kind, int] = {  # side of the smallest square that leaves a logit, pixels
    "spectral-patch": 24,
    "instance-patch": 16,
    "whole": 64,
    "context-conditioned": 64,
    "shared-trunk": 32,
}


class Judgement(NamedTuple):
    """What a discriminator says of a batch."""

    logits: Tensor  # (B,1,h,w), one per patch; (B,1,1,1) where it judges the image as one
    activations: list[Tensor]  # of every layer before, (B,C,h,w) each, for feature matching
    classes: Tensor | None = None  # (B,K) logits, where it tells classes apart


class Discriminator(nn.Module):
    """A stack of layers; `activations` are what its LeakyReLUs give."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.conv = nn.Sequential(*layers)

    def forward(self, image: Tensor, context: Tensor | None = None) -> Judgement:
        """Judge `image` (B,3,H,W) in [-1, 1].

        Args:
            image: what is judged.
            context: (B,3,2H,2W), the image around it with its hole blanked; only the kind
                "context-conditioned" looks at it.
        """
        return Judgement(*_walk(self.conv, image))


class ContextConditioned(Discriminator):
    """Judges a part together with the image that it was cut from: `conditionAdv`.

    Each goes through a 5x5 convolution with stride 2. The part is padded by half its side, so that
    it lies in the middle of its surroundings, at their scale; both are then joined.
    2,903,296 parameters with 64 channels and a part of 64 px.
    """

    def __init__(self, channels: int, size: int) -> None:
        rest = _whole(channels, size)[1:]  # from the first LeakyReLU on
        joined = _block(2 * channels, channels)
        super().__init__([rest[0], *joined, *rest[1:]])
        self.around = _convolution(3, channels, 5, stride=2, padding=2, bias=False)
        self.part = _convolution(3, channels, 5, stride=2, padding=2 + size // 2, bias=False)

    def forward(self, image: Tensor, context: Tensor | None = None) -> Judgement:
        """Judge `image` (B,3,H,W) in the middle of `context` (B,3,2H,2W)."""
        if context is None:
            raise ValueError("context-conditioned needs the image around the part: context is None")
        joined = torch.cat([self.around(context), self.part(image)], dim=1)
        return Judgement(*_walk(self.conv, joined))


class SharedTrunk(Discriminator):
    """Judges an image and names its class from the same features.

    The trunk is VGG-A without its fully connected layers (arXiv:1409.1556, table 1), as CC-GAN
    takes it. Both heads are linear and read the mean of the last map.

    Every map is normalised over one sample, a group normalisation of one group: batch-norm would
    take the real and fake images of a batch together or, where they are judged one after the other,
    leave the classifier running statistics of both.
    """

    BLOCKS = ((1,), (2,), (4, 4), (8, 8), (8, 8))  # widths in units of `channels`

    def __init__(self, channels: int, classes: int) -> None:
        layers: list[nn.Module] = []
        before = 3
        for block in self.BLOCKS:
            for factor in block:
                after = factor * channels
                layers.append(_convolution(before, after, 3, padding=1, bias=False))
                layers += [nn.GroupNorm(1, after), nn.LeakyReLU(0.2)]
                before = after
            layers.append(nn.MaxPool2d(2))
        super().__init__(layers)
        self.real = nn.Linear(before, 1)
        self.classes = nn.Linear(before, classes) if classes else None

    def forward(self, image: Tensor, context: Tensor | None = None) -> Judgement:
        """Judge and classify `image` (B,3,H,W); `context` is not looked at."""
        last, activations = _walk(self.conv, image)
        features = last.mean((2, 3))
        classes = None if self.classes is None else self.classes(features)
        return Judgement(self.real(features)[..., None, None], activations, classes)


def create(kind: Kind, *, channels: int, size: int, classes: int = 0) -> Discriminator:
    """Return a discriminator with fresh weights; convolutions begin at N(0, 0.02).

    Args:
        kind: which one.
        channels: width of its first layer, 64 in all papers; the others follow from it.
        size: side of the square that it judges, pixels.
        classes: how many classes a "shared-trunk" tells apart; 0 for none, and for other kinds.

    Raises:
        ValueError: if one of them is impossible.
    """
    if kind not in get_args(Kind):
        raise ValueError(f"unknown discriminator {kind!r}; known are {', '.join(SMALLEST)}")
    if channels < 1:
        raise ValueError(f"{kind} with {channels} channels; at least 1 is needed")
    halved = kind in ("whole", "context-conditioned")
    if size < SMALLEST[kind] or (halved and size & (size - 1)):
        accepted = "64, 128, 256, ..." if halved else f"{SMALLEST[kind]} px and more"
        raise ValueError(f"{kind} cannot judge {size} px; it takes {accepted}")
    if classes < 0 or (classes and kind != "shared-trunk"):
        raise ValueError(f"{kind} with {classes} classes; only shared-trunk has them, 1 or more")
    match kind:
        case "spectral-patch":
            return Discriminator(_spectral_patch(channels))
        case "instance-patch":
            return Discriminator(_instance_patch(channels))
        case "whole":
            return Discriminator(_whole(channels, size))
        case "context-conditioned":
            return ContextConditioned(channels, size)
        case "shared-trunk":
            return SharedTrunk(channels, classes)


def _walk(layers: Iterable[nn.Module], x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return what the layers give, and what each LeakyReLU among them gave."""
    activations = []
    for layer in layers:
        x = layer(x)
        if isinstance(layer, nn.LeakyReLU):
            activations.append(x)
    return x, activations


def _convolution(
    before: int, after: int, kernel: int, *, stride: int = 1, padding: int = 0, bias: bool = True
) -> nn.Conv2d:
    made = nn.Conv2d(before, after, kernel, stride=stride, padding=padding, bias=bias)
    nn.init.normal_(made.weight, std=0.02)
    if made.bias is not None:
        nn.init.zeros_(made.bias)
    return made


def _spectral_patch(channels: int) -> list[nn.Module]:
    """AOT-GAN's, 2,763,777 parameters with 64 channels; 62x62 logits for 512 px."""
    layers: list[nn.Module] = []
    before = 3
    for depth in range(4):
        after = channels << depth
        stride = 2 if depth < 3 else 1
        convolution = _convolution(before, after, 4, stride=stride, padding=1, bias=False)
        layers += [spectral_norm(convolution), nn.LeakyReLU(0.2)]
        before = after
    return [*layers, _convolution(before, 1, 4, padding=1)]


def _instance_patch(channels: int) -> list[nn.Module]:
    """PyTorch-GAN's, 1,555,585 parameters with 64 channels; 8x8 logits for 64 px."""
    layers: list[nn.Module] = []
    before = 3
    for depth in range(4):
        after = channels << depth
        layers.append(_convolution(before, after, 3, stride=2 if depth < 3 else 1, padding=1))
        if depth:
            layers.append(nn.InstanceNorm2d(after))
        layers.append(nn.LeakyReLU(0.2))
        before = after
    return [*layers, _convolution(before, 1, 3, padding=1)]


def _whole(channels: int, size: int) -> list[nn.Module]:
    """Context Encoder's, 2,765,568 parameters with 64 channels for 64 px; one logit.

    Every doubling of the side adds a block of `channels` to `channels`.
    """
    first = _convolution(3, channels, 4, stride=2, padding=1, bias=False)
    layers: list[nn.Module] = [first, nn.LeakyReLU(0.2)]
    while size > 64:
        layers += _block(channels, channels)
        size //= 2
    for depth in range(3):
        layers += _block(channels << depth, channels << (depth + 1))
    return [*layers, _convolution(8 * channels, 1, 4, bias=False)]


def _block(before: int, after: int) -> list[nn.Module]:
    """Halve the side: Context Encoder's convolution, batch-norm and LeakyReLU."""
    norm = nn.BatchNorm2d(after)
    nn.init.normal_(norm.weight, 1.0, 0.02)
    convolution = _convolution(before, after, 4, stride=2, padding=1, bias=False)
    return [convolution, norm, nn.LeakyReLU(0.2)]


def from_published(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict of ours from one in a released layout.

    AOT-GAN keeps spectral normalisation as `weight_orig`, `weight_u`, `weight_v`; PyTorch-GAN's
    layers are `model.N`, those of BoyuanJiang/context_encoder_pytorch `main.N`.
    """
    roots = {"model": "conv", "main": "conv"}
    leaves = {
        "weight_orig": "parametrizations.weight.original",
        "weight_u": "parametrizations.weight.0._u",
        "weight_v": "parametrizations.weight.0._v",
    }
    renamed = {}
    for key, value in state.items():
        root, number, leaf = key.split(".")
        renamed[f"{roots.get(root, root)}.{number}.{leaves.get(leaf, leaf)}"] = value
    return renamed
