"""Loss curves from real JSON lines; grids asserted pixel by pixel."""

import json

import numpy as np
import pytest
from PIL import Image

from training import plots


def write_scalars(path, count):
    rng = np.random.default_rng(3)
    lines = []
    for step in range(20, 20 * count + 1, 20):
        record = {"step": step, "images": 8 * step, "seconds": 0.1 * step}
        record["reconstruction"] = 0.4 / (1 + step / 100) + rng.uniform(0, 0.02)
        if step > 20 * count // 2:
            record["adversarial"] = 0.8 + rng.uniform(0, 0.1)
        lines.append(json.dumps(record) + "\n")
    path.write_text("".join(lines))


def ink(path):
    """How many pixels of the picture are not white."""
    with Image.open(path) as picture:
        return int((np.asarray(picture.convert("L")) < 250).sum())


def test_scalars_are_read_by_name_without_the_counts(tmp_path):
    path = tmp_path / "scalars.jsonl"
    write_scalars(path, 10)
    series = plots.read_scalars(path)
    assert list(series) == ["reconstruction", "adversarial"]
    assert series["adversarial"][0] == [120, 140, 160, 180, 200]
    assert len(series["reconstruction"][1]) == 10


def test_a_last_line_cut_short_is_passed_over(tmp_path):
    path = tmp_path / "scalars.jsonl"
    path.write_text('{"step": 1, "l1": 0.5}\n{"step": 2, "l1": 0.25}\n{"step": 3, "l1')
    assert plots.read_scalars(path) == {"l1": ([1, 2], [0.5, 0.25])}


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "scalars.jsonl"
    path.write_text('{"step": 1, "l1": 0.5}\nnonsense\n{"step": 3, "l1": 0.1}\n')
    with pytest.raises(ValueError, match="line 2 of .* is not JSON"):
        plots.read_scalars(path)


def test_curves_have_a_panel_for_each_scalar(tmp_path):
    scalars, one, two = tmp_path / "s.jsonl", tmp_path / "one.png", tmp_path / "two.png"
    scalars.write_text('{"step": 1, "l1": 0.5}\n{"step": 2, "l1": 0.25}\n')
    plots.curves(scalars, one)
    write_scalars(scalars, 40)
    plots.curves(scalars, two)
    assert ink(two) > 1.5 * ink(one)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.png", "s.jsonl", "two.png"]


def test_a_single_point_and_a_value_that_is_no_number_can_be_drawn(tmp_path):
    scalars, path = tmp_path / "s.jsonl", tmp_path / "c.png"
    scalars.write_text('{"step": 5, "l1": 0.5, "style": NaN}\n')
    plots.curves(scalars, path)
    assert ink(path) > 0


def test_no_scalars_yet_draw_nothing(tmp_path):
    scalars, path = tmp_path / "s.jsonl", tmp_path / "c.png"
    scalars.write_text("")
    plots.curves(scalars, path)
    assert not path.exists()


def test_the_running_mean_keeps_a_straight_line_straight():
    line = [float(value) for value in range(100)]
    assert plots._running_mean(line) == pytest.approx(line)


def test_a_grid_holds_every_picture_unchanged(tmp_path):
    rng = np.random.default_rng(0)
    rows = [[rng.integers(0, 256, (8, 6, 3), dtype=np.uint8) for _ in range(3)] for _ in range(2)]
    plots.grid(rows, tmp_path / "grid.png")
    sheet = np.asarray(Image.open(tmp_path / "grid.png"))
    assert sheet.shape == (4 + 2 * 12, 4 + 3 * 10, 3)
    assert np.array_equal(sheet[4:12, 14:20], rows[0][1])
    assert np.array_equal(sheet[16:24, 24:30], rows[1][2])
    assert (sheet[:4] == 255).all()


def test_titles_stand_above_the_pictures(tmp_path):
    rows = [[np.full((32, 64, 3), 90, np.uint8)] * 2]
    plots.grid(rows, tmp_path / "grid.png", titles=["photo", "masked"])
    sheet = np.asarray(Image.open(tmp_path / "grid.png"))
    top = plots.TITLE + plots.GAP
    assert (sheet[top : top + 32, 4:68] == 90).all()
    assert (sheet[:top, 4:68] < 128).any()
    assert (sheet[:top, 72:136] < 128).any()


def test_a_title_wider_than_its_column_goes_on_in_the_next_line(tmp_path):
    rows = [[np.full((32, 96, 3), 90, np.uint8)] * 2]
    plots.grid(rows, tmp_path / "grid.png", titles=["context-encoder-centre", "-"])
    sheet = np.asarray(Image.open(tmp_path / "grid.png"))
    top = 2 * plots.TITLE + plots.GAP
    assert (sheet[top : top + 32, 4:100] == 90).all()
    assert (sheet[plots.TITLE : top, 4:100] < 128).any()
    assert (sheet[:top, 112:] == 255).all()  # right of the second column's one short stroke


def test_pictures_of_two_shapes_make_no_grid(tmp_path):
    with pytest.raises(ValueError, match="pictures of one shape"):
        plots.grid([[np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8)]], tmp_path / "g")
