"""Detection and filling scored together, on drawn prints whose scores are known by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from inpaint import cli
from inpaint.errors import BadCheckpoint, BadData, ImageTooSmall, UnknownModel
from inpaint.highres import SizeRule
from models import checkpoint
from models.registry import create, create_network
from training import repair, repair_scoring
from training.damage import Damaged, render
from training.injuries import TRAIN, UNSEEN

SIDE = 64
SQUARE = np.s_[20:28, 20:28]  # damaged, 200 instead of 100
LEFT = np.s_[20:28, 20:22]


class Paint:
    """A filler that paints every hole with one level."""

    rule = SizeRule()
    learned = False

    def __init__(self, level):
        self.level = level

    def __call__(self, pixels, holes):
        return np.full_like(pixels, self.level)


def hole(where):
    drawn = np.zeros((SIDE, SIDE), bool)
    drawn[where] = True
    return drawn


def drawn_print():
    truth = np.full((SIDE, SIDE, 3), 100, np.uint8)
    image = truth.copy()
    image[SQUARE] = 200
    nothing = np.zeros((SIDE, SIDE), bool)
    return Damaged(image, truth, hole(SQUARE), nothing, hole(SQUARE).astype(np.uint8))


def seen_left(pixels):
    """Find the damage's left quarter, and nothing where there is no damage."""
    return hole(LEFT) & (pixels[..., 0] > 150)


def ways(found):
    return {(way.hole, way.model): way.scores for way in found.ways}


def test_the_recovered_share_is_that_of_what_can_be_recovered():
    assert repair.recovered(10.0, 10.0, 2.0) == 0
    assert repair.recovered(10.0, 4.0, 2.0) == 0.75
    assert repair.recovered(10.0, 12.0, 2.0) == -0.25


def test_errors_are_those_of_the_zone():
    fillers = {"right": Paint(100), "wrong": Paint(150)}
    found = repair.measure([drawn_print] * 2, seen_left, fillers, {})
    zone = 20 * 20  # 6 pixels around 8x8; what is found lies in it
    scores = ways(found)
    assert [each["zone"] for each in scores.values()] == [
        pytest.approx(levels / zone)
        for levels in (
            64 * 100,
            # 2 columns, grown by 2: of the 8 damaged ones the last 4 stay as they are
            32 * 100,
            32 * 100 + 12 * 6 * 50,
            0,
            12 * 12 * 50,
        )
    ]
    assert [each["recovered"] for each in scores.values()] == [
        pytest.approx(share) for share in (0, 0.5, 1 - 6800 / 6400, 1, 1 - 7200 / 6400)
    ]
    assert list(scores) == [
        ("none", ""),
        ("found", "right"),
        ("found", "wrong"),
        ("true", "right"),
        ("true", "wrong"),
    ]
    assert scores["none", ""]["psnr"] == pytest.approx(10 * np.log10(255**2 / (64 * 100**2 / 4096)))
    assert scores["true", "right"]["ssim"] == pytest.approx(1)
    assert (found.prints, found.flagged, found.harm) == (2, 0, 0)
    assert found.damaged == 64 / 4096
    assert found.found == 16 / 4096


def test_what_changes_of_the_truth_is_harm():
    found = repair.measure([drawn_print], lambda pixels: hole(LEFT), {"near": Paint(104)}, {})
    assert found.flagged == 16 / 4096
    assert found.harm == pytest.approx(12 * 6 * 4 / 4096)


def test_found_pixels_belong_to_the_zone():
    far = np.s_[50:52, 50:52]
    found = repair.measure([drawn_print], lambda pixels: hole(far), {"right": Paint(100)}, {})
    zone = 20 * 20 + 14 * 14  # the second: 2x2 and 6 pixels around
    assert ways(found)["none", ""]["zone"] == pytest.approx(6400 / zone)


def test_a_hole_without_anything_known_is_left():
    everything = np.ones((SIDE, SIDE), bool)
    found = repair.measure([drawn_print], lambda pixels: everything, {"right": Paint(100)}, {})
    scores = ways(found)
    assert scores["found", "right"] == scores["none", ""]
    assert (found.flagged, found.harm) == (1, 0)


def test_nothing_is_recovered_where_nothing_can_be():
    found = repair.measure([drawn_print], seen_left, {"worse": Paint(250)}, {})
    assert "recovered" not in ways(found)["none", ""]


def test_no_print_is_clean_and_the_others_are_as_ever():
    photograph = np.random.default_rng(1).integers(60, 120, (SIDE, SIDE, 3)).astype(np.uint8)
    pictures = [photograph] * 8
    printed = [one() for one in repair.prints(pictures, TRAIN)]
    usual = [render(photograph, repair.FIRST_SEED + number) for number in range(8)]
    clean = [not (one.mask | one.ignore).any() for one in usual]
    assert any(clean)
    for one, other, nothing in zip(printed, usual, clean, strict=True):
        assert nothing != np.array_equal(one.image, other.image)
    always_clean = repair.prints([photograph], replace(UNSEEN, clean=1.0))
    assert not np.array_equal(always_clean[0]().image, always_clean[0]().truth)


def test_photographs_are_scaled_down_only():
    photograph = np.zeros((100, 200, 3), np.uint8)
    assert repair_scoring.reduced(photograph, 150).shape == (75, 150, 3)
    assert repair_scoring.reduced(photograph, 640).shape == (100, 200, 3)
    with pytest.raises(ImageTooSmall):
        repair_scoring.reduced(photograph, 120)


@pytest.fixture
def photographs(tmp_path):
    """Two photographs, one too small and one broken."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    for seed, size in enumerate([(96, 80), (80, 96), (40, 90)]):
        coarse = np.random.default_rng(seed).integers(40, 160, (5, 6, 3)).astype(np.uint8)
        picture = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
        picture.save(folder / f"{seed}.png")
    (folder / "3.png").write_bytes(b"no picture")
    return folder


@pytest.fixture
def detector(tmp_path):
    """The path of a fresh detector, which finds nothing."""
    torch.manual_seed(0)
    network = create_network("damage-unet", {"widths": [4, 4]})
    detection = checkpoint.Detection()
    header = checkpoint.Header.of(network, name="fresh", license="CC0-1.0", detection=detection)
    checkpoint.save(tmp_path / "fresh.safetensors", network, header)
    return tmp_path / "fresh.safetensors"


@pytest.fixture
def generator(tmp_path):
    """The path of a generator with random weights."""
    torch.manual_seed(0)
    network = create("aotgan-compact", {"width": 8, "channels": 8, "blocks": 1, "rates": (1, 2)})
    header = checkpoint.Header.of(network, name="tiny", license="CC0-1.0")
    checkpoint.save(tmp_path / "tiny.safetensors", network, header)
    return tmp_path / "tiny.safetensors"


def test_the_command_scores_prints_and_draws_them(
    photographs, detector, generator, feature_folder, tmp_path, capsys
):
    command = ["eval", "repair", "--data", photographs, "--detector", detector]
    command += ["--model", generator, "--features", feature_folder, "--threads", 2]
    command += ["--json", tmp_path / "scores.json", "--sheet", tmp_path / "sheet.png", "--rows", 2]
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in command])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert "seen: 2 prints" in printed
    assert "true, telea" in printed
    assert "skipped 2.png" in printed
    assert "skipped 3.png" in printed
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert list(scores) == ["seen", "unseen"]
    for found in scores.values():
        assert (found["found"], found["flagged"], found["harm"]) == (0, 0, 0)
        assert [(way["hole"], way["model"]) for way in found["ways"]] == [
            ("none", ""),
            *((which, name) for which in ("found", "true") for name in ("tiny", "telea")),
        ]
        none, *by_detector = (way["scores"] for way in found["ways"][:3])
        assert {"psnr", "ssim", "lpips", "lpips_alex", "zone"} <= set(none)
        assert by_detector == [none, none]  # it finds nothing
        assert found["ways"][3]["scores"] != none
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.mode == "P"
        assert sheet.width == 4 * (repair_scoring.CELL + 4) + 4
        assert sheet.height > 2 * repair_scoring.CELL


def test_scores_do_not_depend_on_the_number_of_workers(photographs):
    pictures = repair_scoring.read(photographs, 640, 30).squares.values()
    printed = repair.prints(pictures, UNSEEN)

    def light(pixels):
        return pixels[..., 1] > 180

    found = [repair.measure(printed, light, {"x": Paint(90)}, {}, workers=n) for n in (1, 2)]
    assert found[0] == found[1]
    assert found[0].found > 0


def test_without_a_folder_the_photographs_are_those_of_scikit_image():
    pytest.importorskip("skimage", reason="photographs come with the extra `demo`")
    found = repair_scoring.read(None, 100, 2).squares
    assert {name: pixels.shape for name, pixels in found.items()} == {
        "astronaut": (100, 100, 3),
        "chelsea": (67, 100, 3),
    }


def test_what_is_no_detector_is_refused(generator, tmp_path):
    with pytest.raises(UnknownModel, match="neither"):
        repair_scoring.open_detector("nobody")
    with pytest.raises(BadCheckpoint):
        repair_scoring.open_detector(str(generator))
    with pytest.raises(BadData, match="no image"):
        repair_scoring.read(tmp_path, 640, 30)
