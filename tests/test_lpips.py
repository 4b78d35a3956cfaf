"""LPIPS against a second transcription of its formula, with random weights."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from inpaint.errors import BadData
from training import features, lpips


@pytest.fixture
def folder(tmp_path):
    """A features folder with random weights under the published keys."""
    torch.manual_seed(5)
    for network, (trunk, heads) in lpips.FILES.items():
        net = features.FeatureNetwork(network, list(features.TAPS[network]))
        save_file(net.state_dict(), tmp_path / trunk)
        widths = [x.shape[1] for x in net(torch.zeros(1, 3, 64, 64)).values()]
        keys = {f"lin{n}.model.1.weight": torch.rand(1, w, 1, 1) for n, w in enumerate(widths)}
        save_file(keys, tmp_path / heads)
    return tmp_path


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, 2, 3, 64, 64, generator=generator) * 2 - 1


def alex_by_hand(folder, a, b):
    """LPIPS-alex written out: scaling layer, five taps, unit vectors, squared difference, heads."""
    trunk = features.read_weights(folder / lpips.FILES["alex"][0])
    heads = features.read_weights(folder / lpips.FILES["alex"][1])
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)
    steps = [(0, 4, 2), (3, 1, 2), (6, 1, 1), (8, 1, 1), (10, 1, 1)]  # layer, stride, padding
    x, y = (a - shift) / scale, (b - shift) / scale
    total = torch.zeros(len(a))
    for number, (layer, stride, padding) in enumerate(steps):
        if number in (1, 2):
            x, y = F.max_pool2d(x, 3, 2), F.max_pool2d(y, 3, 2)
        weight, bias = trunk[f"features.{layer}.weight"], trunk[f"features.{layer}.bias"]
        x = F.conv2d(x, weight, bias, stride, padding).clamp(min=0)
        y = F.conv2d(y, weight, bias, stride, padding).clamp(min=0)
        difference = (x / (x.norm(dim=1, keepdim=True) + 1e-10)) - (
            y / (y.norm(dim=1, keepdim=True) + 1e-10)
        )
        weighted = F.conv2d(difference**2, heads[f"lin{number}.model.1.weight"])
        total += weighted.mean((1, 2, 3))
    return total


def test_alex_agrees_with_the_formula_written_out(folder, images):
    net = lpips.load("alex", folder)
    assert torch.allclose(net(*images), alex_by_hand(folder, *images), rtol=1e-5)


def test_squeeze_weighs_each_tap_by_its_head(folder, images):
    net = lpips.load("squeeze", folder)
    whole = net(*images)
    x, y = net.directions(images[0]), net.directions(images[1])
    by_tap = [
        ((a - b) ** 2 * head.view(1, -1, 1, 1)).sum(1).mean((1, 2))
        for a, b, head in zip(x, y, net.heads, strict=True)
    ]
    assert len(by_tap) == 7
    assert torch.allclose(whole, sum(by_tap), rtol=1e-5)
    assert (whole > 0).all()


@pytest.mark.parametrize("network", ["squeeze", "alex"])
def test_a_picture_is_at_distance_zero_from_itself(network, folder, images):
    assert lpips.load(network, folder)(images[0], images[0]).tolist() == [0, 0]


def test_one_photograph_stands_for_a_whole_batch(folder, images):
    net = lpips.load("squeeze", folder)
    photograph = images[0, :1]
    together = net.distance(net.directions(photograph), net.directions(images[1]))
    single = torch.cat([net(photograph, other[None]) for other in images[1]])
    assert torch.allclose(together, single, rtol=1e-5)


def test_heads_of_another_network_are_refused(folder):
    (folder / lpips.FILES["squeeze"][1]).unlink()
    (folder / lpips.FILES["alex"][1]).rename(folder / lpips.FILES["squeeze"][1])
    with pytest.raises(BadData, match="lin5.model.1.weight, lin6.model.1.weight missing"):
        lpips.load("squeeze", folder)


def test_heads_of_other_widths_are_refused(folder):
    heads = {f"lin{number}.model.1.weight": torch.rand(1, 64, 1, 1) for number in range(5)}
    save_file(heads, folder / lpips.FILES["alex"][1])
    with pytest.raises(BadData, match=r"alex needs \[64, 192, 384, 256, 256\]"):
        lpips.load("alex", folder)


def test_a_missing_file_is_named(folder):
    (folder / lpips.FILES["alex"][0]).unlink()
    with pytest.raises(BadData, match="alexnet_torchvision_features.safetensors"):
        lpips.load("alex", folder)
