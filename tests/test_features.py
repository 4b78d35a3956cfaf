"""Feature networks: layouts of torchvision, taps, normalisation, and weights that do not fit."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from inpaint.errors import BadData
from training import features
from training.features import FeatureNetwork


@pytest.fixture
def image():
    return torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize(
    ("network", "parameters"),
    [  # of torchvision's `features`, by the layer tables of the papers
        ("squeeze", 722_496),
        ("alex", 2_469_696),
        ("vgg16", 14_714_688),
        ("vgg19", 20_024_384),
    ],
)
def test_a_trunk_has_the_published_number_of_parameters(network, parameters):
    with torch.device("meta"):
        trunk = FeatureNetwork(network, list(features.TAPS[network]))
    assert sum(weights.numel() for weights in trunk.parameters()) == parameters


def test_squeezenet_taps_have_their_channels_and_sizes(image):
    found = FeatureNetwork("squeeze", list(features.TAPS["squeeze"]))(image)
    assert {tap: tuple(x.shape[1:]) for tap, x in found.items()} == {
        "conv1": (64, 31, 31),
        "fire3": (128, 15, 15),
        "fire5": (256, 7, 7),
        "fire6": (384, 3, 3),
        "fire7": (384, 3, 3),
        "fire8": (512, 3, 3),
        "fire9": (512, 3, 3),
    }


def test_max_pooling_of_squeezenet_rounds_up():
    found = FeatureNetwork("squeeze", ["conv1", "fire3"])(torch.zeros(1, 3, 34, 34))
    assert found["conv1"].shape[-1] == 16
    assert found["fire3"].shape[-1] == 8


def test_vgg_taps_are_named_by_block_and_place():
    assert features.TAPS["vgg19"]["relu1_1"] == 1
    assert features.TAPS["vgg19"]["relu3_4"] == 17
    assert features.TAPS["vgg19"]["relu5_2"] == 31
    assert features.TAPS["vgg16"]["relu3_3"] == 15


def test_a_vgg_tap_is_what_the_layers_before_it_give(image):
    torch.manual_seed(0)
    trunk = FeatureNetwork("vgg16", ["relu1_2", "relu2_1"])
    weights = trunk.state_dict()
    x = image
    for index, pooled in ((0, False), (2, False), (5, True)):
        x = F.max_pool2d(x, 2) if pooled else x
        x = F.conv2d(
            x, weights[f"features.{index}.weight"], weights[f"features.{index}.bias"], 1, 1
        )
        x = x.clamp(min=0)
    assert torch.allclose(trunk(image)["relu2_1"], x, atol=1e-6)
    assert set(weights) == {f"features.{n}.{k}" for n in (0, 2, 5) for k in ("weight", "bias")}


def test_features_are_frozen_and_let_gradients_through(image):
    trunk = FeatureNetwork("squeeze", ["fire3"])
    image.requires_grad_()
    trunk(image)["fire3"].sum().backward()
    assert image.grad.abs().sum() > 0
    assert all(weights.grad is None for weights in trunk.parameters())


def test_an_unknown_tap_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="squeeze has no tap .*fire4.*; it has .*fire3"):
        FeatureNetwork("squeeze", ["fire4"])


def test_normalising_gives_zero_at_the_mean_and_one_a_deviation_above():
    mean = torch.tensor(features.MEAN).view(1, 3, 1, 1)
    std = torch.tensor(features.STD).view(1, 3, 1, 1)
    assert torch.allclose(features.normalise(2 * mean - 1), torch.zeros(1, 3, 1, 1), atol=1e-6)
    assert torch.allclose(features.normalise(2 * (mean + std) - 1), torch.ones(1, 3, 1, 1))


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_weights_are_taken_from_safetensors_and_from_torch_files(name, tmp_path, image):
    torch.manual_seed(1)
    original = FeatureNetwork("squeeze", ["conv1", "fire5"])
    save = save_file if name.endswith("safetensors") else torch.save
    save(original.state_dict(), tmp_path / name)
    loaded = features.load_features("squeeze", tmp_path / name, ["conv1"])
    assert torch.equal(loaded(image)["conv1"], original(image)["conv1"])


@pytest.fixture(scope="module")
def torchvision_vgg19(published_weights):
    """A complete state dict with torchvision's names and shapes, the classifier without memory."""
    with torch.device("meta"):
        trunk = FeatureNetwork("vgg19", ["relu5_4"]).state_dict()
    state = published_weights({key: value.shape for key, value in trunk.items()}, 19)
    for number, shape in ((0, (4096, 25088)), (3, (4096, 4096)), (6, (1000, 4096))):
        state[f"classifier.{number}.weight"] = torch.zeros(1).expand(shape)
        state[f"classifier.{number}.bias"] = torch.zeros(shape[0])
    return state


def save_as(path, state):
    """Write a state dict in the format that the name says."""
    if path.suffix == ".safetensors":  # it stores every value: those without memory are cut to one
        save_file(
            {key: x if x.stride()[0] else x[:1, :1].clone() for key, x in state.items()}, path
        )
    else:
        torch.save(state, path)


@pytest.mark.parametrize("name", ["vgg19.pth", "vgg19.safetensors"])
def test_a_complete_vgg19_of_torchvision_is_taken(name, torchvision_vgg19, tmp_path):
    save_as(tmp_path / name, torchvision_vgg19)
    taps = [f"relu{block}_1" for block in range(1, 6)]
    trunk = features.load_features("vgg19", tmp_path / name, [*taps, "relu5_2"])
    weights = trunk.state_dict()
    assert len(weights) == 2 * (2 + 2 + 4 + 4 + 2)  # up to the second convolution of block 5
    assert all(torch.equal(value, torchvision_vgg19[key]) for key, value in weights.items())


def test_vgg19_without_a_layer_or_with_a_smaller_one_is_refused(torchvision_vgg19, tmp_path):
    state = {key: value for key, value in torchvision_vgg19.items() if key != "features.2.bias"}
    state["features.5.weight"] = torch.zeros(64, 64, 3, 3)
    torch.save(state, tmp_path / "vgg19.pth")
    with pytest.raises(BadData) as refused:
        features.load_features("vgg19", tmp_path / "vgg19.pth", ["relu2_1"])
    assert "vgg19.pth does not hold vgg19 features" in str(refused.value)
    assert "features.2.bias is missing" in str(refused.value)
    assert "features.5.weight is (64, 64, 3, 3) and not (128, 64, 3, 3)" in str(refused.value)
    features.load_features("vgg19", tmp_path / "vgg19.pth", ["relu1_1"])  # before both


@pytest.mark.parametrize("name", ["alex.pth", "alex.safetensors"])
@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.99])
def test_a_cut_weight_file_is_refused(name, kept, tmp_path):
    path = tmp_path / name
    save_as(path, FeatureNetwork("alex", ["relu1"]).state_dict())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(BadData, match=name):
        features.load_features("alex", path, ["relu1"])


class Trap:
    """Unpickling it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return self.path.write_text, ("sprung",)


def test_code_in_a_weight_file_is_refused_and_not_run(tmp_path):
    torch.save({"features.0.weight": Trap(tmp_path / "sprung")}, tmp_path / "weights.pth")
    with pytest.raises(BadData, match="weights.pth calls Python code"):
        features.load_features("alex", tmp_path / "weights.pth", ["relu1"])
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "content", [torch.zeros(3), [torch.zeros(3)], 7, {"features.0.weight": 7}, {0: torch.zeros(3)}]
)
def test_what_is_not_tensors_by_name_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(BadData, match="(holds|is) no state dict.*; accepted are tensors by name"):
        features.load_features("alex", tmp_path / "weights.pth", ["relu1"])


def test_weights_of_another_network_are_refused_by_name(tmp_path):
    other = FeatureNetwork("alex", ["relu1"])
    save_file(other.state_dict(), tmp_path / "alex.safetensors")
    with pytest.raises(
        BadData, match="alex.safetensors does not hold squeeze features, .*: features.0.weight is"
    ):
        features.load_features("squeeze", tmp_path / "alex.safetensors", ["conv1"])


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_a_damaged_weight_file_is_refused(name, tmp_path):
    (tmp_path / name).write_bytes(b"nonsense" * 20)
    with pytest.raises(BadData, match=f"{name} cannot be used: {name} "):
        features.load_features("squeeze", tmp_path / name, ["conv1"])


def test_a_missing_weight_file_is_refused(tmp_path):
    with pytest.raises(BadData, match="none.safetensors cannot be used: .* No such file"):
        features.load_features("squeeze", tmp_path / "none.safetensors", ["conv1"])
