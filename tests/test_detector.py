"""Detectors: the network, its checkpoint, tiles, and the hole that probabilities make."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from inpaint.errors import BadCheckpoint, StartFailed
from inpaint.highres import Window
from models import checkpoint
from models.checkpoint import Detection, Header
from models.damage import (
    HALVED,
    SIDE,
    TWICE,
    Detector,
    Probabilities,
    find,
    load_detector,
    threshold,
    tiles,
)
from models.detector import DamageUNet
from models.registry import DETECTORS, architecture_of, create, create_network

SMALL = {"widths": [8, 8, 16, 16]}
MEDIUM = (0.8, 0.5, 0.2)


@pytest.fixture
def network():
    """A small network that answers something everywhere, with norms as after training."""
    torch.manual_seed(3)
    network = create_network("damage-unet", SMALL)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
    torch.nn.init.normal_(network.head.weight, std=0.3)
    return network.eval()


@pytest.fixture
def saved(tmp_path, network):
    """The checkpoint of that network."""
    header = Header.of(network, name="tiny", license="CC0-1.0", detection=Detection(temperature=2))
    path = tmp_path / "tiny.safetensors"
    checkpoint.save(path, network, header)
    return path


def picture(height, width, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 20 + 2, width // 20 + 2, 3))
    smooth = np.kron(coarse, np.ones((20, 20, 1)))[:height, :width]
    return (smooth + rng.normal(0, 12, smooth.shape)).clip(0, 255).astype(np.uint8)


def whole(network, pixels, temperature=1.0):
    """Probabilities of a picture in one piece, by the network as it was trained."""
    height, width = pixels.shape[:2]
    padded = np.pad(pixels, ((0, -height % 16), (0, -width % 16), (0, 0)), mode="symmetric")
    image = torch.from_numpy(padded).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        found = torch.sigmoid(network(image) / temperature)[0].permute(1, 2, 0)
    return found[:height, :width].numpy() * 255


def test_the_shipped_size_is_small():
    network = create_network("damage-unet", {})

    parameters = sum(tensor.numel() for tensor in network.parameters())

    assert 400_000 < parameters < 600_000
    assert network(torch.zeros(2, 3, 32, 48)).shape == (2, 3, 32, 48)


def test_a_fresh_network_finds_nothing():
    detector = Detector(DamageUNet(DamageUNet.Config()), Detection())

    found = detector.probabilities(picture(100, 120))

    assert found.max() < 20
    assert not find(found, 1.0, detector.thresholds).any()


def test_folded_norms_change_nothing(network):
    image = torch.rand(1, 3, 64, 64) * 2 - 1

    with torch.no_grad():
        torch.testing.assert_close(network.folded()(image), network(image), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("config", [{"widths": [8]}, {"widths": [8, 0]}, {"stem": 0}])
def test_impossible_sizes_are_refused(config):
    with pytest.raises(ValueError, match="two levels at least"):
        create_network("damage-unet", config)


def test_detectors_are_no_generators():
    assert list(DETECTORS) == ["damage-unet"]
    with pytest.raises(ValueError, match="it finds damage"):
        create("damage-unet", {})


def test_a_checkpoint_keeps_weights_temperature_and_thresholds(saved, network):
    again, header = checkpoint.load_detector(saved)

    assert architecture_of(again) == header.architecture == "damage-unet"
    assert header.detection == Detection(temperature=2, thresholds=MEDIUM)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_a_detector_is_refused_where_a_generator_is_wanted_and_the_other_way(saved, tmp_path):
    generator = create("aotgan-compact", {"width": 4, "channels": 8, "blocks": 1, "rates": [1, 2]})
    path = tmp_path / "fills.safetensors"
    checkpoint.save(path, generator, Header.of(generator, name="fills", license="CC0-1.0"))

    with pytest.raises(BadCheckpoint, match=r"tiny\.safetensors fills nothing"):
        checkpoint.load(saved)
    with pytest.raises(BadCheckpoint, match=r"fills\.safetensors is no detector"):
        checkpoint.load_detector(path)
    assert checkpoint.read_header(path).detection is None


def test_thresholds_that_rise_with_the_sensitivity_are_refused():
    with pytest.raises(ValidationError, match="rise with the sensitivity"):
        Detection(thresholds=(0.2, 0.5, 0.8))


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_both_engines_answer_as_the_network_that_was_trained(saved, network, engine):
    detector, _ = load_detector(saved, precision="float32", engine=engine)
    pixels = picture(96, 128)

    found = detector.probabilities(pixels)

    assert detector.engine.startswith(engine)
    expected = whole(network, np.pad(pixels, ((0, 32), (0, 0), (0, 0)), mode="symmetric"), 2.0)
    assert np.abs(found - expected[:96]).max() <= 1


def test_the_faster_precision_answers_nearly_the_same(saved):
    exact, _ = load_detector(saved, precision="float32", engine="torch")
    fast, _ = load_detector(saved)
    pixels = picture(192, 256)

    apart = np.abs(exact.probabilities(pixels).astype(int) - fast.probabilities(pixels))

    assert apart.mean() < 1.5
    assert (apart > 12).mean() < 0.01


def test_an_engine_that_cannot_compute_on_the_device_is_named(saved):
    if not torch.cuda.is_available():
        pytest.skip("needs a device beside the CPU")
    with pytest.raises(StartFailed):
        load_detector(saved, device="cuda", engine="openvino")


def test_tiles_answer_as_the_whole(saved, network):
    detector, _ = load_detector(saved, precision="float32", engine="torch")
    pixels = picture(420, 1101)

    found = detector.probabilities(pixels)

    apart = np.abs(found - whole(network, pixels, 2.0))
    assert found.shape == (420, 1101, 3)  # no multiple of 16
    assert apart.mean() < 0.5
    assert np.quantile(apart, 0.999) < 4  # levels of 255


def test_the_same_picture_has_the_same_answer(saved):
    detector, _ = load_detector(saved)
    pixels = picture(130, 210)

    assert np.array_equal(detector.probabilities(pixels), detector.probabilities(pixels))


@pytest.mark.parametrize(
    "shape", [(1, 1), (33, 700), (640, 640), (641, 640), (1200, 1601), (900, 4001), (3000, 100)]
)
def test_tiles_cover_a_picture_once_at_each_scale(shape):
    plan = tiles(np.zeros((*shape, 3), np.uint8))

    scales = sorted({window.scale for window in plan.windows})
    assert scales == ([2, 4] if max(shape) > HALVED else [1, 2] if max(shape) > TWICE else [1])
    for scale in scales:
        counts = np.zeros(shape, int)
        for window, (top, left, bottom, right) in zip(plan.windows, plan.kept, strict=True):
            if window.scale == scale:
                counts[top:bottom, left:right] += 1
                assert max(window.size) <= SIDE
                assert window.box[0] <= top < bottom <= window.box[2]
                assert window.box[1] <= left < right <= window.box[3]
        assert (counts == 1).all()


def test_windows_of_a_scale_have_one_size():
    for shape in [(300, 200), (1000, 1500), (1400, 2100)]:
        plan = tiles(np.zeros((*shape, 3), np.uint8))
        sizes = {(window.scale, window.size) for window in plan.windows}

        assert len(sizes) == len({scale for scale, _ in sizes})
        assert all(side % 64 == 0 for _, size in sizes for side in size)


def test_inputs_are_mirrored_beyond_the_picture_and_have_no_hole():
    pixels = picture(50, 60)
    plan = tiles(pixels)

    seen, holes = plan.inputs(plan.windows)

    assert plan.windows == (Window((0, 0, 64, 64), (64, 64)),)
    assert np.array_equal(seen[0, :50, :60], pixels)
    assert np.array_equal(seen[0, 50:, :60], pixels[:-15:-1])
    assert holes.shape == (1, 64, 64)
    assert not holes.any()


def test_the_second_pass_adds_areas_and_lines_that_were_hinted_at():
    plan = tiles(np.zeros((100, 1700, 3), np.uint8))
    found = Probabilities(plan)
    for window in plan.windows:
        answer = np.full((*window.size, 3), 200, np.uint8)
        if window.scale == 1:
            answer[:] = 0
            answer[:, : window.size[1] // 2, 0] = 90  # a hint of lines
        found.lay(answer)

    pixels = found.pixels()

    assert (pixels[..., 2] == 200).all()  # area
    assert (pixels[..., 1] == 0).all()  # speck
    assert pixels[50, 10, 0] == 200
    assert set(np.unique(pixels[..., 0])) == {0, 200}


def test_a_tile_too_many_too_few_or_of_another_size_is_refused():
    found = Probabilities(tiles(np.zeros((64, 64, 3), np.uint8)))

    with pytest.raises(ValueError, match="0 tiles for 1 windows"):
        found.pixels()
    with pytest.raises(ValueError, match=r"tile \(32, 64, 3\)"):
        found.lay(np.zeros((32, 64, 3), np.uint8))
    found.lay(np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(ValueError, match="a tile too many"):
        found.lay(np.zeros((64, 64, 3), np.uint8))


def test_an_all_gray_picture_has_no_hole():
    detector = Detector(DamageUNet(DamageUNet.Config()), Detection())
    gray = np.full((200, 300, 3), 128, np.uint8)

    assert not find(detector.probabilities(gray), 0.5, detector.thresholds).any()


def test_the_threshold_is_linear_in_the_logit():
    assert [threshold(s, MEDIUM) for s in (0, 0.5, 1)] == pytest.approx(MEDIUM)
    assert threshold(0.25, MEDIUM) == pytest.approx(2 / 3)  # logit 4 and logit 1 halved: odds 2
    values = [threshold(s, MEDIUM) for s in np.linspace(0, 1, 11)]
    assert values == sorted(values, reverse=True)


def lines(*spans, level=200, channel=0, side=40):
    """Probabilities with horizontal lines two pixels thick: (row, from, to)."""
    found = np.zeros((side, side, 3), np.uint8)
    for row, start, end in spans:
        found[row : row + 2, start:end, channel] = level
    return found


def test_a_hole_goes_on_to_half_of_the_threshold():
    found = lines((10, 2, 20)) + lines((10, 20, 38), level=100) + lines((30, 2, 38), level=100)

    hole = find(found, 0.5, (0.6, 0.6, 0.6))  # 153; half is 76

    assert hole[10:12, 2:38].all()
    assert not hole[20:].any()  # nowhere certain enough


def test_tiny_components_and_doubtful_ones_are_dropped():
    found = lines((5, 5, 6))  # two pixels
    found[20:30, 20:30, 2] = 80
    found[25, 25, 2] = 200  # one certain pixel among doubtful ones

    assert not find(found, 0.5, (0.6, 0.6, 0.6)).any()


def test_ends_of_lines_are_joined_specks_are_not():
    gap = (10, 2, 18), (10, 21, 38)

    assert find(lines(*gap), 0.5, MEDIUM)[10:12, 2:38].all()
    assert not find(lines(*gap, channel=1), 0.5, MEDIUM)[10:12, 18:21].any()


def test_small_gaps_are_filled_and_large_ones_kept():
    found = np.zeros((60, 60, 3), np.uint8)
    found[5:55, 5:55, 2] = 250
    found[10:13, 10:13] = 0
    found[30:40, 30:40] = 0

    hole = find(found, 0.5, MEDIUM)

    assert hole[10:13, 10:13].all()
    assert not hole[31:39, 31:39].any()


def test_more_sensitivity_never_finds_less():
    rng = np.random.default_rng(4)
    found = rng.integers(0, 256, (8, 10, 3)).astype(np.uint8).repeat(6, 0).repeat(6, 1)

    counts = [find(found, s, (0.95, 0.8, 0.4)).sum() for s in (0, 0.25, 0.5, 0.75, 1)]

    assert counts == sorted(counts)
    assert counts[0] < counts[-1]
