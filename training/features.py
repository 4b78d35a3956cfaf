"""Fixed ImageNet features for perceptual losses and LPIPS: SqueezeNet 1.1, AlexNet, VGG16, VGG19.

Weights are given as a state dict with torchvision's names `features.N...`, saved by torch or as
safetensors; nothing is downloaded. Sources: SqueezeNet, arXiv:1602.07360 (version 1.1 of
the authors' repository); AlexNet in the one-column form, arXiv:1404.5997; VGG, arXiv:1409.1556.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inpaint.errors import BadCheckpoint, BadData
from models import published

# ImageNet mean and standard deviation for RGB in [0, 1].
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class Fire(nn.Module):
    """Squeeze with 1x1, expand with 1x1 and 3x3 side by side (SqueezeNet, figure 1)."""

    def __init__(self, channels: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B,2*expand,H,W)."""
        x = F.relu(self.squeeze(x))
        return F.relu(torch.cat([self.expand1x1(x), self.expand3x3(x)], dim=1))


def _squeezenet() -> list[nn.Module]:
    def pool() -> nn.Module:
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    fires = [Fire(64, 16, 64), Fire(128, 16, 64), pool(), Fire(128, 32, 128), Fire(256, 32, 128)]
    fires += [
        pool(),
        Fire(256, 48, 192),
        Fire(384, 48, 192),
        Fire(384, 64, 256),
        Fire(512, 64, 256),
    ]
    return [nn.Conv2d(3, 64, 3, stride=2), nn.ReLU(), pool(), *fires]


def _alexnet() -> list[nn.Module]:
    first = [nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)]
    second = [nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)]
    rest: list[nn.Module] = []
    for before, after in ((192, 384), (384, 256), (256, 256)):
        rest += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
    return first + second + rest


def _vgg(convolutions: Sequence[int]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    before = 3
    for block, count in enumerate(convolutions):
        after = min(64 << block, 512)
        for _ in range(count):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
            before = after
        layers.append(nn.MaxPool2d(2))
    return layers


def _vgg_taps(convolutions: Sequence[int]) -> dict[str, int]:
    """Index of each ReLU by its usual name, `relu2_1` for the first of the second block."""
    taps, index = {}, 0
    for block, count in enumerate(convolutions, start=1):
        for number in range(1, count + 1):
            taps[f"relu{block}_{number}"] = index + 1
            index += 2
        index += 1
    return taps


VGG16 = (2, 2, 3, 3, 3)
VGG19 = (2, 2, 4, 4, 4)
# Names of the taps, and the layer after which each is taken.
TAPS: dict[str, dict[str, int]] = {
    "squeeze": {
        "conv1": 1,
        "fire3": 4,
        "fire5": 7,
        "fire6": 9,
        "fire7": 10,
        "fire8": 11,
        "fire9": 12,
    },
    "alex": {"relu1": 1, "relu2": 4, "relu3": 7, "relu4": 9, "relu5": 11},
    "vgg16": _vgg_taps(VGG16),
    "vgg19": _vgg_taps(VGG19),
}


class FeatureNetwork(nn.Module):
    """A frozen trunk that returns the activations at named taps.

    Args:
        network: "squeeze", "alex", "vgg16" or "vgg19".
        taps: names out of `TAPS[network]`; layers behind the last one are not built.
    """

    def __init__(self, network: str, taps: Sequence[str]) -> None:
        super().__init__()
        builders: dict[str, Callable[[], list[nn.Module]]] = {
            "squeeze": _squeezenet,
            "alex": _alexnet,
            "vgg16": lambda: _vgg(VGG16),
            "vgg19": lambda: _vgg(VGG19),
        }
        unknown = set(taps) - set(TAPS[network])
        if unknown:
            raise ValueError(
                f"{network} has no tap {sorted(unknown)}; it has {list(TAPS[network])}"
            )
        self.taps = {TAPS[network][tap]: tap for tap in taps}
        self.features = nn.Sequential(*builders[network]()[: max(self.taps) + 1])
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return activations by tap name; `x` (B,3,H,W) is normalised as the network wants."""
        found = {}
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.taps:
                found[self.taps[index]] = x
        return found


def normalise(image: Tensor) -> Tensor:
    """Return `image` (B,3,H,W) in [-1, 1] as ImageNet networks take it."""
    mean = torch.tensor(MEAN, device=image.device, dtype=image.dtype)[:, None, None]
    std = torch.tensor(STD, device=image.device, dtype=image.dtype)[:, None, None]
    return ((image + 1) / 2 - mean) / std


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a state dict by name, saved by torch or as safetensors.

    Raises:
        BadData: if the file is missing or holds something else.
    """
    try:
        return published.state_dict(path)
    except BadCheckpoint as error:
        raise BadData(f"feature weights {path} cannot be used: {error}") from error


def load_features(network: str, path: Path, taps: Sequence[str]) -> FeatureNetwork:
    """Return the trunk with weights from `path`; layers behind the last tap may be missing there.

    Raises:
        BadData: if a tensor is missing or has another shape.
    """
    trunk = FeatureNetwork(network, taps)
    take_weights(trunk, path, f"{network} features, named as in torchvision")
    return trunk


def take_weights(network: nn.Module, path: Path, what: str) -> None:
    """Give `network` its weights from `path`, which may hold more; `what` says what they are.

    Raises:
        BadData: if a tensor is missing or has another shape.
    """
    weights = read_weights(path)
    # Batch norms count batches only in training.
    wanted = {
        key: value
        for key, value in network.state_dict().items()
        if not key.endswith(published.COUNTER)
    }
    faults = [
        f"{key} is {tuple(weights[key].shape)} and not {tuple(value.shape)}"
        if key in weights
        else f"{key} is missing"
        for key, value in wanted.items()
        if key not in weights or weights[key].shape != value.shape
    ]
    if faults:
        raise BadData(
            f"{path} does not hold {what}:"
            f" {', '.join(faults[:4])}{', …' if len(faults) > 4 else ''}"
        )
    network.load_state_dict({key: weights[key].float() for key in wanted}, strict=False)
