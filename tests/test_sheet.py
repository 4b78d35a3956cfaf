"""The sheet of training holes, drawn by the real command and read again cell by cell."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from inpaint import cli
from training import holes, plots, recipe, sheet

DOCUMENTED = Path(__file__).parent.parent / "docs" / "holes.png"
ALONE = [kind for kind in holes.KINDS if kind not in sheet.FILES]


@pytest.fixture
def shapes(tmp_path):
    """Objects as a drawing program would save them, white on black: those of docs/holes.png."""
    folder = tmp_path / "silhouettes"
    folder.mkdir()
    for draw in (teapot, fish, tree, rocket):
        canvas = Image.new("L", (240, 240))
        draw(ImageDraw.Draw(canvas))
        canvas.save(folder / f"{draw.__name__}.png")
    return folder


def teapot(pen):
    pen.ellipse((60, 70, 180, 190), fill=255)
    pen.ellipse((108, 50, 132, 74), fill=255)
    pen.arc((15, 85, 95, 165), 70, 290, fill=255, width=13)
    pen.polygon([(160, 110), (222, 62), (232, 76), (170, 160)], fill=255)


def fish(pen):
    pen.ellipse((20, 75, 175, 165), fill=255)
    pen.polygon([(155, 120), (225, 65), (210, 120), (225, 175)], fill=255)
    pen.polygon([(80, 85), (130, 40), (135, 90)], fill=255)


def tree(pen):
    pen.polygon([(108, 240), (114, 120), (126, 120), (134, 240)], fill=255)
    for box in ((50, 70, 130, 150), (110, 60, 195, 145), (75, 15, 165, 100)):
        pen.ellipse(box, fill=255)
    pen.line((118, 180, 165, 140), fill=255, width=8)


def rocket(pen):
    pen.polygon([(120, 5), (150, 60), (150, 190), (90, 190), (90, 60)], fill=255)
    pen.polygon([(90, 130), (50, 200), (90, 190)], fill=255)
    pen.polygon([(150, 130), (190, 200), (150, 190)], fill=255)
    pen.polygon([(100, 190), (120, 235), (140, 190)], fill=255)


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", "holes", *map(str, arguments)])
    return ended.value.code


def rows_of(path, size):
    """The holes on a sheet, row by row; the column of labels left out."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture)
    rows, columns = (side // (size + plots.GAP) for side in pixels.shape[:2])
    starts = [plots.GAP + number * (size + plots.GAP) for number in range(max(rows, columns))]
    cells = [
        [pixels[top : top + size, left : left + size] for left in starts[1:columns]]
        for top in starts[:rows]
    ]
    assert np.isin(cells, (0, 255)).all()
    return (np.array(cells) == 255).all(axis=-1)


def test_each_cell_is_a_hole_as_its_kind_is_drawn(tmp_path, shapes, capsys):
    masks = tmp_path / "masks"
    masks.mkdir()
    Image.fromarray(np.eye(64, dtype=np.uint8).repeat(9, axis=0) * 255).save(masks / "line.png")
    path = tmp_path / "new" / "sheet.png"
    options = ("--masks", masks, "--silhouettes", shapes, "--seed", 5, "--size", 64)
    assert run("--sheet", path, *options) == 0
    rows = rows_of(path, 64)
    said = capsys.readouterr().out
    assert rows.shape == (len(holes.KINDS), sheet.ACROSS, 64, 64)
    for number, (kind, row) in enumerate(zip(holes.KINDS, rows, strict=True)):
        wanted = recipe.Holes(**dict.fromkeys(holes.KINDS, 0) | {kind: 1})
        rng = np.random.default_rng([5, number])
        files, objects = sorted(masks.iterdir()), sorted(shapes.iterdir())
        drawn = [holes.draw(wanted, 64, rng, files, objects) for _ in range(sheet.ACROSS)]
        assert np.array_equal(row, drawn), kind
        assert f"{kind}: {np.mean(drawn):.1%} of the square" in said


def test_kinds_that_need_a_folder_are_left_out_without_it_and_named(tmp_path, shapes, capsys):
    one, two = tmp_path / "one.png", tmp_path / "two.png"
    assert run("--sheet", one, "--size", 64) == 0
    said = capsys.readouterr().out
    assert "files: left out; name a folder with --masks" in said
    assert "silhouettes: left out; name a folder with --silhouettes" in said
    assert run("--sheet", two, "--silhouettes", shapes, "--size", 64) == 0
    assert "silhouettes: left out" not in capsys.readouterr().out
    without, with_silhouettes = rows_of(one, 64), rows_of(two, 64)
    assert len(without) == len(ALONE)
    place = [kind for kind in holes.KINDS if kind != "files"].index("silhouettes")
    assert np.array_equal(np.delete(with_silhouettes, place, axis=0), without)


@pytest.fixture
def mixture(tmp_path):
    """Write a recipe with these holes, and return its path."""

    def write(text):
        path = tmp_path / "recipe.toml"
        stage = "[[stages]]\nsteps = 1\nsize = 64\nbatch = 1\nlearning_rate = 1e-4\n"
        head = "name = 'few'\narchitecture = 'aotgan'\nlicense = 'Apache-2.0'\n"
        path.write_text(f"{head}[holes]\n{text}\n{stage}")
        return path

    return write


def test_a_recipe_is_drawn_as_it_says(tmp_path, mixture):
    path = mixture("strokes = 0\nboxes = 0\ncentre = 1\ncentre_side = 0.25")
    assert run("--sheet", tmp_path / "sheet.png", "--recipe", path, "--size", 64) == 0
    rows = rows_of(tmp_path / "sheet.png", 64)
    assert rows.shape[:2] == (sheet.MIXED, sheet.ACROSS)
    assert all(np.array_equal(hole, holes.centre(64, 0.25)) for row in rows for hole in row)


def test_a_mixture_has_holes_of_its_kinds_and_all_differ(tmp_path, mixture):
    path = mixture("strokes = 0\nblocks = 1\nboxes = 0\nnoise = 1")
    assert run("--sheet", tmp_path / "sheet.png", "--recipe", path, "--size", 64) == 0
    drawn = [hole for row in rows_of(tmp_path / "sheet.png", 64) for hole in row]
    assert len({hole.tobytes() for hole in drawn}) == sheet.MIXED * sheet.ACROSS
    changes = [(hole[:, 1:] != hole[:, :-1]).any(axis=1).mean() for hole in drawn]
    assert min(changes) < 0.7  # blocks leave rows alone
    assert max(changes) == 1  # noise does not


def test_a_recipe_that_needs_a_folder_asks_for_it(tmp_path, mixture, capsys):
    path = mixture("silhouettes = 1")
    assert run("--sheet", tmp_path / "sheet.png", "--recipe", path) == 1
    assert "name their folder with --silhouettes" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--sheet", "sheet.png", "--size", "63"),
        ("--sheet", "sheet.png", "--seed", "-1"),
        ("--sheet", "sheet.png", "--colour", "red"),
        ("--sheet", "."),
        ("recipe.toml", "--sheet", "sheet.png"),
    ],
)
def test_wrong_usage_is_exit_code_2(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    assert "train holes" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_without_images_is_refused_by_its_name(tmp_path, capsys):
    (tmp_path / "nothing").mkdir()
    for option in ("--masks", "--silhouettes"):
        assert run("--sheet", tmp_path / "sheet.png", option, tmp_path / "nothing") == 1
        assert "nothing holds no image files" in capsys.readouterr().err


def test_a_sheet_that_cannot_be_written_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run("--sheet", tmp_path / "file" / "sheet.png", "--size", 64) == 1
    assert "sheet.png cannot be written" in capsys.readouterr().err


def test_the_picture_of_the_documents_is_what_the_command_draws(tmp_path, shapes):
    """Remake it with this test's command after a change of holes."""
    assert run("--sheet", tmp_path / "sheet.png", "--silhouettes", shapes) == 0
    assert np.array_equal(rows_of(DOCUMENTED, 128), rows_of(tmp_path / "sheet.png", 128))
    assert DOCUMENTED.stat().st_size < 100_000
