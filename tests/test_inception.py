"""FID's Inception on drawn weights, against the same network written out in torch's functions."""

import re

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from inpaint.errors import BadData
from training import frechet, inception


@pytest.fixture(scope="module")
def network():
    """Weights that keep activations near 1, and batch norms that all do something."""
    torch.manual_seed(0)
    made = inception.InceptionV3()
    for key, value in made.state_dict().items():
        if value.ndim == 4:
            torch.nn.init.kaiming_normal_(value, nonlinearity="relu")
        elif key.endswith(("bn.weight", "running_var")):
            value.uniform_(0.5, 1.5)
        elif key.endswith(("bn.bias", "running_mean")):
            value.normal_(0, 0.1)
    return made


def thin(weights):
    """Tensors of the same names and shapes, each of one number, which takes no room in a file."""
    return {
        key: torch.tensor(1 + number / 1024).expand(value.shape)
        for number, (key, value) in enumerate(weights.items())
    }


def written_out(weights, x):
    """Yield name and output of every stage."""

    def unit(x, name, stride=1, padding=0):
        bn = f"{name}.bn"
        x = F.conv2d(x, weights[f"{name}.conv.weight"], None, stride, padding)
        scale = weights[f"{bn}.weight"] / (weights[f"{bn}.running_var"] + 0.001).sqrt()
        shift = weights[f"{bn}.bias"] - weights[f"{bn}.running_mean"] * scale
        return (x * scale[:, None, None] + shift[:, None, None]).clamp(min=0)

    def average(x):
        total = F.avg_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 1)
        there = F.avg_pool2d(F.pad(torch.ones_like(x), (1, 1, 1, 1)), 3, 1)
        return total / there

    def largest(x):
        return F.max_pool2d(x, 3, 2)

    x = unit(x, "Conv2d_1a_3x3", 2)
    yield "Conv2d_1a_3x3", x
    x = unit(x, "Conv2d_2a_3x3")
    yield "Conv2d_2a_3x3", x
    x = unit(x, "Conv2d_2b_3x3", 1, 1)
    yield "Conv2d_2b_3x3", x
    x = largest(x)
    yield "maxpool1", x
    x = unit(x, "Conv2d_3b_1x1")
    yield "Conv2d_3b_1x1", x
    x = unit(x, "Conv2d_4a_3x3")
    yield "Conv2d_4a_3x3", x
    x = largest(x)
    yield "maxpool2", x
    for name in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
        five = unit(unit(x, f"{name}.branch5x5_1"), f"{name}.branch5x5_2", 1, 2)
        three = unit(unit(x, f"{name}.branch3x3dbl_1"), f"{name}.branch3x3dbl_2", 1, 1)
        three = unit(three, f"{name}.branch3x3dbl_3", 1, 1)
        pool = unit(average(x), f"{name}.branch_pool")
        x = torch.cat([unit(x, f"{name}.branch1x1"), five, three, pool], 1)
        yield name, x
    three = unit(unit(x, "Mixed_6a.branch3x3dbl_1"), "Mixed_6a.branch3x3dbl_2", 1, 1)
    three = unit(three, "Mixed_6a.branch3x3dbl_3", 2)
    x = torch.cat([unit(x, "Mixed_6a.branch3x3", 2), three, largest(x)], 1)
    yield "Mixed_6a", x
    for name in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
        once = unit(unit(x, f"{name}.branch7x7_1"), f"{name}.branch7x7_2", 1, (0, 3))
        once = unit(once, f"{name}.branch7x7_3", 1, (3, 0))
        twice = unit(unit(x, f"{name}.branch7x7dbl_1"), f"{name}.branch7x7dbl_2", 1, (3, 0))
        twice = unit(twice, f"{name}.branch7x7dbl_3", 1, (0, 3))
        twice = unit(twice, f"{name}.branch7x7dbl_4", 1, (3, 0))
        twice = unit(twice, f"{name}.branch7x7dbl_5", 1, (0, 3))
        pool = unit(average(x), f"{name}.branch_pool")
        x = torch.cat([unit(x, f"{name}.branch1x1"), once, twice, pool], 1)
        yield name, x
    three = unit(unit(x, "Mixed_7a.branch3x3_1"), "Mixed_7a.branch3x3_2", 2)
    seven = unit(unit(x, "Mixed_7a.branch7x7x3_1"), "Mixed_7a.branch7x7x3_2", 1, (0, 3))
    seven = unit(seven, "Mixed_7a.branch7x7x3_3", 1, (3, 0))
    seven = unit(seven, "Mixed_7a.branch7x7x3_4", 2)
    x = torch.cat([three, seven, largest(x)], 1)
    yield "Mixed_7a", x
    for name, pooling in (("Mixed_7b", average), ("Mixed_7c", lambda x: F.max_pool2d(x, 3, 1, 1))):
        three = unit(x, f"{name}.branch3x3_1")
        double = unit(unit(x, f"{name}.branch3x3dbl_1"), f"{name}.branch3x3dbl_2", 1, 1)
        x = torch.cat(
            [
                unit(x, f"{name}.branch1x1"),
                unit(three, f"{name}.branch3x3_2a", 1, (0, 1)),
                unit(three, f"{name}.branch3x3_2b", 1, (1, 0)),
                unit(double, f"{name}.branch3x3dbl_3a", 1, (0, 1)),
                unit(double, f"{name}.branch3x3dbl_3b", 1, (1, 0)),
                unit(pooling(x), f"{name}.branch_pool"),
            ],
            1,
        )
        yield name, x


def test_every_stage_is_that_of_the_network_written_out(network):
    """139 pixels: the last blocks see 3x3 places, and their pools an edge and a middle."""
    image = torch.rand(1, 3, 139, 139) * 2 - 1
    stages = dict(network.named_children())
    found = image
    for name, expected in written_out(network.state_dict(), image):
        found = stages[name](found)
        assert found.shape == expected.shape, name
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4), name
        assert expected.std() > 0.1, name
    assert torch.equal(network.features(image), found.mean((2, 3)))


def test_names_and_count_of_the_weights_are_the_published_files(network):
    weights = network.state_dict()
    assert sum(value.numel() for value in network.parameters()) == 23_850_960
    assert len(weights) == 94 * 6 + 2  # units, with their counters; the classes
    assert weights["Mixed_6b.branch7x7dbl_4.conv.weight"].shape == (128, 128, 7, 1)
    assert weights["Mixed_7c.branch3x3dbl_3b.bn.running_var"].shape == (384,)
    assert weights["fc.weight"].shape == (1008, 2048)


def test_weights_are_read_by_name_also_without_counters(network, tmp_path):
    weights = thin(network.state_dict())
    kept = {key: value for key, value in weights.items() if "num_batches" not in key}
    torch.save(kept, tmp_path / inception.FILES[0])
    loaded = frechet.load("inception", tmp_path)
    assert isinstance(loaded, inception.InceptionV3)
    assert not loaded.training
    for key, value in loaded.state_dict().items():
        assert key not in kept or torch.equal(value, kept[key]), key


def test_weights_are_read_from_safetensors_of_half_precision(network, tmp_path):
    path = tmp_path / inception.FILES[1]
    save_file({key: value.half() for key, value in network.state_dict().items()}, path)
    loaded = inception.load(tmp_path)
    path.unlink()  # 48 MB
    name = "Mixed_5d.branch_pool.conv.weight"
    assert torch.equal(loaded.get_parameter(name), network.get_parameter(name).half().float())


def test_missing_weights_are_refused_and_named(tmp_path):
    with pytest.raises(BadData, match=re.escape(f"{tmp_path} holds neither pt_inception-2015")):
        frechet.load("inception", tmp_path)


def test_torchvisions_own_weights_are_refused_because_they_give_no_fid(network, tmp_path):
    weights = thin(network.state_dict())
    weights |= {"fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}
    torch.save(weights, tmp_path / inception.FILES[0])
    with pytest.raises(BadData, match=r"fc.weight is \(1000, 2048\) and not \(1008, 2048\)"):
        inception.load(tmp_path)


def test_weights_without_a_block_are_refused(network, tmp_path):
    weights = thin(network.state_dict())
    del weights["Mixed_7c.branch_pool.conv.weight"]
    torch.save(weights, tmp_path / inception.FILES[0])
    with pytest.raises(BadData, match=r"FID's Inception.*Mixed_7c.branch_pool.conv.weight is mis"):
        inception.load(tmp_path)


def test_images_of_any_size_are_seen_at_299_pixels(network):
    """Bilinear, corners of the pictures aligned and not the centres of their first pixels."""
    image = torch.rand(1, 3, 150, 150) * 2 - 1
    places = (torch.arange(299, dtype=torch.float64) + 0.5) * 150 / 299 - 0.5
    before = places.floor().clamp(0, 148).long()
    share = (places - before).clamp(0, 1)
    matrix = torch.zeros(299, 150, dtype=torch.float64)
    matrix[torch.arange(299), before] = 1 - share
    matrix[torch.arange(299), before + 1] += share
    square = (matrix @ image.double() @ matrix.T).float()
    found = network(image)
    assert found.shape == (1, 2048)
    *_, (_, last) = written_out(network.state_dict(), square)
    assert last.shape == (1, 2048, 8, 8)
    assert torch.allclose(found, last.mean((2, 3)), rtol=1e-3, atol=1e-3)
