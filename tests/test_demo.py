import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("skimage", reason="photographs come with the extra `demo`")

from inpaint import cli
from service.demo import GAP, PANEL, damaged_photographs, restore, sheet


def test_every_photograph_has_a_hole_and_something_known():
    examples = list(damaged_photographs())

    assert len(examples) == 4
    for _, photograph, mask in examples:
        assert photograph.mode == "RGB"
        assert photograph.size == mask.size
        assert set(np.unique(np.asarray(mask))) == {0, 255}


def test_a_sheet_shows_each_picture_in_its_place():
    colours = ("red", "green", "blue")
    row = tuple(Image.new("RGB", (840, 600), colour) for colour in colours)

    whole = sheet([row, row[::-1]])

    for column in range(3):
        x = GAP + column * (PANEL[0] + GAP) + PANEL[0] // 2
        assert whole.getpixel((x, GAP + 5)) == row[column].getpixel((0, 0))
        assert whole.getpixel((x, whole.height - GAP - 5)) == row[2 - column].getpixel((0, 0))


@pytest.mark.parametrize("name", ["folder", "file/demo.png"])
def test_a_place_that_takes_no_picture_is_refused_before_anything_starts(name, tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as ended:
        cli.main(["demo", "--output", str(tmp_path / name)])
    assert ended.value.code == 2
    assert "Invalid value for '--output'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_photograph_is_restored_in_its_hole_only(service):
    _, photograph, mask = next(damaged_photographs())
    white = Image.new("RGB", photograph.size, "white")
    before = Image.composite(white, photograph, mask)

    after = np.asarray(restore(service.client, before, mask)).astype(int)

    hole = np.asarray(mask) == 255
    assert np.array_equal(after[~hole], np.asarray(photograph)[~hole])
    truth = np.asarray(photograph).astype(int)[hole]
    assert np.abs(after[hole] - truth).mean() < np.abs(255 - truth).mean() / 4


@pytest.mark.slow
def test_the_command_starts_a_service_of_its_own_and_writes_its_picture(tmp_path):
    output = tmp_path / "demo.png"
    command = [sys.executable, "-m", "inpaint", "demo", "-o", str(output), "--model", "telea"]

    ending = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)

    assert ending.returncode == 0, ending.stderr
    assert str(output) in ending.stdout
    whole = Image.open(output).convert("RGB")
    second_row = GAP + PANEL[1] + GAP + PANEL[1] // 2  # the coffee: its box is right of the middle
    x = GAP + int(0.58 * PANEL[0])
    assert whole.getpixel((x, second_row - 20)) == (255, 255, 255)
    assert whole.getpixel((x + 2 * (PANEL[0] + GAP), second_row - 20)) != (255, 255, 255)
    assert "server stopped" in ending.stderr
