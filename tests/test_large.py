"""Fills scored at native size, on small drawn pictures whose scores are known by hand."""

import json

import numpy as np
import pytest
from PIL import Image

from inpaint import cli
from inpaint.errors import BadData, ModelFailed
from inpaint.highres import SizeRule
from training import large, large_scoring
from training.large import KINDS, draw


class Paint:
    """A filler that paints every hole with one colour."""

    rule = SizeRule()

    def __init__(self, levels, *, learned=True):
        self.levels, self.learned = levels, learned

    def __call__(self, pixels, holes):
        return np.full_like(pixels, self.levels)


class Broken(Paint):
    def __call__(self, pixels, holes):
        raise ModelFailed("values that are not finite")


def flat(height=300, width=420):
    return np.full((height, width, 3), (120, 100, 80), np.uint8)


@pytest.mark.parametrize("kind", KINDS)
def test_a_hole_depends_on_kind_and_name_alone(kind):
    hole = draw(kind, "a.png", (900, 1400))
    assert (hole == draw(kind, "a.png", (900, 1400))).all()
    assert (hole != draw(kind, "b.png", (900, 1400))).any()
    assert 0 < hole.mean() < 0.5


def test_large_holes_are_as_wide_as_they_are_said_to_be():
    for name in "abcdefgh":
        rows, columns = draw("large", name, (2400, 3000)).nonzero()
        for places in (rows, columns):
            assert 600 <= np.ptp(places) + 1 <= 1200


def test_scratches_are_thin():
    hole = draw("scratches", "a.png", (900, 1400))
    square = np.lib.stride_tricks.sliding_window_view(hole, (30, 30))[::10, ::10]
    assert square.mean(axis=(2, 3)).max() < 0.8


def test_squares_are_those_that_a_hole_touches():
    hole = np.zeros((300, 520), bool)
    hole[10, 300] = True  # in the second column, and in the last, which begins at 264
    found = large.squares(hole, 256)
    assert found == [
        (slice(0, 256), slice(256, 512)),
        (slice(0, 256), slice(264, 520)),
    ]


def test_a_picture_of_one_square_has_one():
    assert large.squares(np.ones((256, 256), bool), 256) == [(slice(0, 256), slice(0, 256))]


def test_scores_are_those_of_the_squares_around_the_hole():
    photograph = flat(256, 1024)
    hole = np.zeros((256, 1024), bool)
    hole[:128, :256] = True
    result = photograph.copy()
    result[hole] += 10
    same, found = large.around(photograph, [photograph, result], hole, {})
    assert found["psnr"] == pytest.approx(10 * np.log10(255**2 / 50))  # half of one square of four
    assert same == {"psnr": 100, "ssim": pytest.approx(1)}


def test_no_more_squares_are_compared_than_promised():
    photograph = flat(256, 256 * 24)
    hole = np.zeros(photograph.shape[:2], bool)
    hole[0] = True
    result = photograph.copy()
    result[0, : 12 * 256] -= 10  # the first half of the squares
    found = large.around(photograph, [result], hole, {})
    assert found[0]["psnr"] == pytest.approx(10 * np.log10(255**2 * 256 / (10**2 / 2)))


def test_every_way_is_scored_with_every_kind():
    ways = large.ways(
        {"paint": Paint((120, 100, 80)), "telea": Paint(90, learned=False)}, ["none", "patches"]
    )
    assert list(ways) == ["paint", "paint, patches", "telea"]
    counted = []
    scores = large.measure(
        {"a": flat(256, 300)}, list(KINDS), ways, {}, progress=lambda: counted.append(1)
    )
    assert len(counted) == len(KINDS)
    for way, kinds in scores.items():
        assert list(kinds) == list(KINDS)
        for row in kinds.values():
            assert (row["n"], row["psnr"] == 100) == (1, way != "telea")
            assert row["seconds"] >= 0


def test_a_failure_names_the_way():
    with pytest.raises(ModelFailed, match="broken, patches: values"):
        large.measure({"a": flat()}, ["boxes"], large.ways({"broken": Broken(0)}, ["patches"]), {})


def test_details_have_one_size_and_show_hole_and_surroundings():
    ways = large.ways({"paint": Paint(50)}, ["none"])
    colourful = np.random.default_rng(1).integers(0, 255, (400, 500, 3), np.uint8)
    rows = list(large.examples({"a": colourful}, list(KINDS), ways))
    assert len(rows) == len(KINDS)
    for masked, filled, photograph in rows:
        assert masked.shape == filled.shape == photograph.shape == (large.CELL, large.CELL, 3)
        hole = (masked == 255).all(axis=2)
        assert hole.any()
        assert filled[hole].mean() == pytest.approx(50, abs=2)  # enlarged fills blend at the rim
        assert (filled[~hole] == photograph[~hole]).all()


def test_the_command_scores_large_photographs_and_names_small_ones(tmp_path, capsys):
    data = tmp_path / "photographs"
    data.mkdir()
    rng = np.random.default_rng(1)
    for name, (width, height) in {"a.png": (1250, 800), "small.png": (400, 400)}.items():
        levels = rng.integers(0, 256, (height // 50, width // 50, 3), dtype=np.uint8)
        Image.fromarray(levels).resize((width, height)).save(data / name)
    to_json, sheet = tmp_path / "new" / "scores.json", tmp_path / "sheet.png"
    options = [
        "--data",
        str(data),
        "--json",
        str(to_json),
        "--sheet",
        str(sheet),
        "--kind",
        "scratches",
    ]
    with pytest.raises(SystemExit) as ended:
        cli.main(["eval", "large", "telea", *options])
    assert not ended.value.code
    shown = capsys.readouterr().out
    assert "1 photographs, 1.0 megapixels together" in shown
    assert "skipped small.png: 400x400 pixels; a megapixel and sides of 384 are needed" in shown
    assert "lpips: not measured" in shown
    scores = json.loads(to_json.read_text())
    assert sorted(scores) == ["navier-stokes", "telea"]
    assert set(scores["telea"]["scratches"]) == {"n", "psnr", "ssim", "seconds"}
    with Image.open(sheet) as drawn:
        assert drawn.height > large.CELL


def test_a_folder_of_small_photographs_is_refused(tmp_path):
    Image.fromarray(flat()).save(tmp_path / "a.png")
    with pytest.raises(BadData, match="a megapixel"):
        large_scoring.evaluate(data=tmp_path)


def test_an_unknown_refinement_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["eval", "large", "--data", str(tmp_path), "--refine", "sharpen"])
    assert ended.value.code == 2
    assert "'sharpen' is none of none, patches, full." in capsys.readouterr().err
