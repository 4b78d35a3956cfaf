"""The sheet of damage in the documents, drawn again and compared."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.ageing import DISTRACTORS
from training.injuries import KINDS

pytest.importorskip("skimage", reason="photographs come with the extra `demo`")

DOCUMENTED = Path(__file__).parent.parent / "docs" / "damage.png"


@pytest.mark.slow
def test_the_picture_of_the_documents_is_what_the_command_draws(tmp_path):
    """Remake it with `python -m training.damage_sheet docs/damage.png` after a change of damage."""
    path = tmp_path / "sheet.png"
    command = [sys.executable, "-m", "training.damage_sheet", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    with Image.open(path) as drawn, Image.open(DOCUMENTED) as documented:
        assert drawn.size == documented.size
        # Machines round differently in places: a few pixels, not a stroke elsewhere.
        levels = [np.asarray(picture.convert("L")).astype(int) for picture in (drawn, documented)]
    assert (np.abs(levels[0] - levels[1]) > 40).mean() < 0.005
    assert DOCUMENTED.stat().st_size < 700_000


def test_every_kind_and_every_distractor_is_on_the_sheet():
    """By the number of rows of pairs: four pairs to a row, three parts with a title each."""
    sheet = pytest.importorskip("training.damage_sheet")
    rows = sum(-(-pairs // sheet.ACROSS) for pairs in (len(KINDS) - 1, len(DISTRACTORS), 8))
    with Image.open(DOCUMENTED) as documented:
        assert documented.height == 3 * 2 * sheet.LINE + rows * (sheet.CELL + sheet.LINE)
