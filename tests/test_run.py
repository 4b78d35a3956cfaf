"""`inpaint run`: real files through real stages, with a model that needs no checkpoint."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inpaint.cli import main
from inpaint.picture import decode, probe
from inpaint.restore import restore
from models.filler import TorchFiller
from models.registry import create

HEIGHT, WIDTH = 90, 120


def drawn(seed=0):
    """Smooth and noisy at once."""
    noise = np.random.default_rng(seed).integers(0, 30, (HEIGHT, WIDTH, 3))
    ramp = np.linspace(0, 220, WIDTH)[None, :, None]
    return (noise + ramp).astype(np.uint8)


@pytest.fixture
def hole():
    hole = np.zeros((HEIGHT, WIDTH), bool)
    hole[30:50, 40:70] = True
    return hole


@pytest.fixture
def here(tmp_path, hole, monkeypatch):
    """A folder with two photographs and a mask."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INPAINT_MODEL", "telea")
    for number, name in enumerate(("one.png", "two.tif")):
        Image.fromarray(drawn(number)).save(tmp_path / name)
    Image.fromarray(hole).save(tmp_path / "mask.png")
    return tmp_path


def run(*arguments):
    """Run the command; return its exit code."""
    with pytest.raises(SystemExit) as ended:
        main(["run", *map(str, arguments)])
    return ended.value.code


def written(folder="out"):
    """The results' names, without the journal's."""
    return sorted(path.name for path in Path(folder).iterdir() if not path.name.startswith("."))


def samples(path):
    return decode(path.read_bytes()).samples


def format_of(path):
    return probe(path.read_bytes()).format


def test_one_mask_is_meant_for_all_pictures(here, hole, capsys):
    assert run("one.png", "two.tif", "--mask", "mask.png", "-o", "out") == 0
    for number, name in enumerate(("one.png", "two.tif")):
        result = samples(here / "out" / name)
        assert np.array_equal(result[~hole], drawn(number)[~hole])
        assert not np.array_equal(result[hole], drawn(number)[hole])
        assert format_of(here / "out" / name) == format_of(here / name)
    assert "2 of 2 pictures restored" in capsys.readouterr().out
    assert written() == ["one.png", "two.tif"]


def test_masks_in_a_folder_are_found_by_their_names(here, hole):
    (here / "masks").mkdir()
    Image.fromarray(hole).save(here / "masks" / "one.png")
    Image.fromarray(np.roll(hole, 20, axis=0)).save(here / "masks" / "two.tif")
    assert run("one.png", "two.tif", "--mask", "masks", "-o", "out") == 0
    changed = (samples(here / "out" / "two.tif") != drawn(1)).any(axis=2)
    assert not changed[~np.roll(hole, 20, axis=0)].any()
    assert changed[np.roll(hole, 20, axis=0)].mean() > 0.9


def test_without_a_mask_the_pictures_transparency_is_the_hole(here, hole):
    image = Image.fromarray(drawn())
    image.putalpha(Image.fromarray(np.where(hole, np.uint8(0), np.uint8(255))))
    image.save("clear.png")
    assert run("clear.png", "-o", "out") == 0
    assert decode((here / "out" / "clear.png").read_bytes()).alpha.min() == 255


def test_a_hole_grows_as_asked_and_nothing_beyond_it_changes(here, hole):
    assert run("one.png", "--mask", "mask.png", "-o", "out", "--mask-grow", 5) == 0
    changed = (samples(here / "out" / "one.png") != drawn()).any(axis=2)
    rows, columns = np.nonzero(changed)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (25, 54, 35, 74)


def test_a_tone_is_taken_by_name_and_another_name_is_refused_with_the_choices(here, hole, capsys):
    assert run("one.png", "--mask", "mask.png", "-o", "out", "--tone", "contrast,denoise") == 0
    result = samples(here / "out" / "one.png")
    assert (result[~hole] != drawn()[~hole]).any(axis=1).mean() > 0.5
    assert run("one.png", "--mask", "mask.png", "-o", "other", "--tone", "sharpen") == 2
    assert "denoise" in capsys.readouterr().err
    assert not (here / "other").exists()


def test_a_fill_is_refined_as_asked_and_another_word_is_refused_with_the_choices(
    here, hole, capsys
):
    plain = drawn()
    telea = restore(plain, hole, TorchFiller(create("telea", {})))
    for words, expected in (
        ((), telea),
        (("--refine", "none"), telea),
        (("--refine", "full"), None),
    ):
        assert run("one.png", "--mask", "mask.png", "-o", "out", "--overwrite", *words) == 0
        result = samples(here / "out" / "one.png")
        assert np.array_equal(result[~hole], plain[~hole])
        assert np.array_equal(result, telea) == (expected is telea)
    assert run("one.png", "--mask", "mask.png", "-o", "other", "--refine", "better") == 2
    assert "patches" in capsys.readouterr().err
    assert not (here / "other").exists()


def test_the_result_of_one_picture_may_be_a_file_whose_suffix_names_the_format(here):
    assert run("one.png", "--mask", "mask.png", "-o", "sub/result.jpg", "--quality", 80) == 0
    assert format_of(here / "sub" / "result.jpg") == "jpeg"


def test_another_format_gives_another_suffix(here):
    assert run("one.png", "two.tif", "--mask", "mask.png", "-o", "out", "--format", "webp") == 0
    assert written() == ["one.webp", "two.webp"]


def test_it_stops_at_the_first_that_fails_and_says_so(here, capsys):
    (here / "bad.png").write_bytes(b"no picture")
    images = ["bad.png", *(f"{number}.png" for number in range(20))]
    for name in images[1:]:
        Image.fromarray(drawn()).save(name)
    assert run(*images, "--mask", "mask.png", "-o", "out", "--report", "report.json") == 1
    assert "bad.png" in (printed := capsys.readouterr()).err
    assert "unsupported-image-type" in printed.err
    report = json.loads((here / "report.json").read_text())
    assert report["failed"] == 1
    assert report["not_run"] > 0
    done = {each["image"] for each in report["images"] if each["status"] == "succeeded"}
    assert set(written()) == done


def test_it_goes_on_past_files_that_fail_when_told_to(here, capsys):
    (here / "bad.png").write_bytes(b"no picture")
    (here / "cut.png").write_bytes((here / "one.png").read_bytes()[:-900])
    images = ["bad.png", "one.png", "cut.png", "two.tif"]
    code = run(*images, "--mask", "mask.png", "-o", "out", "--keep-going", "--report", "r.json")
    assert code == 3
    report = json.loads((here / "r.json").read_text())
    assert [each["image"] for each in report["images"]] == images
    assert [each.get("problem", {}).get("code") for each in report["images"]] == [
        "unsupported-image-type",
        None,
        "image-unreadable",
        None,
    ]
    assert "2 of 4 pictures restored" in capsys.readouterr().out
    assert written() == ["one.png", "two.tif"]


def test_the_report_says_what_was_done(here, hole):
    assert run("two.tif", "--mask", "mask.png", "-o", "out", "--report", "report.json") == 0
    report = json.loads((here / "report.json").read_text())
    assert (report["model"], report["succeeded"], report["failed"]) == ("telea", 1, 0)
    (image,) = report["images"]
    assert image["output"] == "out/two.tif"
    assert (image["width"], image["height"], image["format"]) == (WIDTH, HEIGHT, "tiff")
    assert image["coverage"] == pytest.approx(hole.mean())
    assert (image["mask"], image["mask_source"]) == ("mask.png", "mask")


def test_a_picture_without_a_mask_of_its_name_fails_alone(here, hole, capsys):
    (here / "masks").mkdir()
    Image.fromarray(hole).save(here / "masks" / "two.png")
    assert run("one.png", "two.tif", "--mask", "masks", "-o", "out", "--keep-going") == 3
    assert "mask-missing" in capsys.readouterr().err
    assert written() == ["two.tif"]


def test_two_masks_of_one_name_are_not_chosen_from(here, hole, capsys):
    (here / "masks").mkdir()
    for name in ("one.png", "one.webp"):
        Image.fromarray(hole).convert("L").save(here / "masks" / name)
    assert run("one.png", "--mask", "masks", "-o", "out") == 1
    assert "one.png, one.webp" in capsys.readouterr().err


def test_results_that_are_there_stay_unless_overwriting_is_asked_for(here, capsys):
    (here / "out").mkdir()
    (here / "out" / "one.png").write_bytes(b"precious")
    assert run("one.png", "two.tif", "--mask", "mask.png", "-o", "out") == 1
    assert "--overwrite" in capsys.readouterr().err
    assert (here / "out" / "one.png").read_bytes() == b"precious"
    assert not (here / "out" / "two.tif").exists()
    assert run("one.png", "two.tif", "--mask", "mask.png", "-o", "out", "--overwrite") == 0
    assert samples(here / "out" / "one.png").shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize(
    "arguments",
    [
        ("one.png", "-o", "."),
        ("one.png", "-o", "one.png"),
        ("one.png", "-o", "mask.png"),
        ("one.png", "-o", "out", "--report", "mask.png"),
        ("one.png", "-o", "link/"),
    ],
)
def test_an_input_is_never_written_over(here, arguments, capsys):
    (here / "link").symlink_to(here)
    before = (here / "one.png").read_bytes(), (here / "mask.png").read_bytes()
    assert run(*arguments, "--mask", "mask.png", "--overwrite") == 1
    assert "is an input" in capsys.readouterr().err
    assert before == ((here / "one.png").read_bytes(), (here / "mask.png").read_bytes())


@pytest.mark.parametrize(
    "arguments",
    [
        ("one.png", "two.tif", "-o", "out.png"),
        ("one.png", "-o", "out.png", "--format", "jpeg"),
        ("one.png", "sub/one.png", "-o", "out"),
        ("one.png", "-o", "notes"),
        ("one.png", "-o", "out", "--mask-grow", "-1"),
        ("one.png", "-o", "out", "--quality", "0"),
        ("one.png", "-o", "out.png", "--resume"),
        ("one.png", "-o", "out.gif"),
        ("absent.png", "-o", "out"),
        ("one.png", "absent", "-o", "out", "--keep-going"),
        (".", "-o", "out.png"),
        ("empty", "-o", "out"),
        ("one.png",),
        ("-o", "out"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_writes_nothing(here, arguments):
    (here / "notes").write_text("no folder")
    (here / "empty").mkdir()
    before = sorted(here.iterdir())
    assert run(*arguments) == 2
    assert sorted(here.iterdir()) == before


def test_a_model_that_is_not_there_is_refused_by_name(here, capsys):
    assert run("one.png", "--mask", "mask.png", "-o", "out", "--model", "nonesuch") == 1
    assert "unknown-model" in capsys.readouterr().err


def test_files_beyond_the_limit_are_refused_and_settings_raise_it(here, monkeypatch, capsys):
    monkeypatch.setenv("INPAINT_MAX_FILE_BYTES", "1000")
    assert run("one.png", "--mask", "mask.png", "-o", "out") == 1
    assert "INPAINT_MAX_FILE_BYTES" in capsys.readouterr().err
    monkeypatch.setenv("INPAINT_MAX_FILE_BYTES", "1000000")
    assert run("one.png", "--mask", "mask.png", "-o", "out") == 0


def test_a_result_that_cannot_be_written_is_a_refusal(here, capsys):
    (here / "out" / "one.png").mkdir(parents=True)
    assert run("one.png", "--mask", "mask.png", "-o", "out", "--overwrite") == 1
    assert "storage-unavailable" in capsys.readouterr().err
    assert written() == ["one.png"]


@pytest.mark.slow
def test_a_picture_of_24_megapixels_needs_memory_for_itself_and_little_more(here):
    height, width = 4000, 6000
    tile = np.tile(drawn(), (height // HEIGHT + 1, width // WIDTH + 1, 1))[:height, :width]
    Image.fromarray(tile).save("large.tif", compression="tiff_lzw")
    hole = np.zeros((height, width), bool)
    hole[::200, ::300] = True
    Image.fromarray(hole).save("holes.png")
    script = (
        "import resource, sys\n"
        "import worker.run\n"
        "from inpaint.cli import main\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "before = peak()\n"
        "try:\n"
        "    main(sys.argv[1:])\n"
        "except SystemExit as ended:\n"
        "    assert ended.code == 0\n"
        "print(peak() - before)\n"
    )
    arguments = ["run", "large.tif", "--mask", "holes.png", "--mask-feather", "2", "-o", "out"]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True
    )
    # bytes a pixel: 3 here, once; 4 in Pillow; 1 of the hole; the rest is room to spare
    assert int(done.stdout.split()[-1]) < 12 * height * width
    assert (samples(here / "out" / "large.tif")[100::200] == tile[100::200]).all()


def test_what_is_no_regular_file_is_refused_unread(here, capsys):
    assert run("/dev/zero", "--mask", "mask.png", "-o", "out", "--format", "png") in (1, 2)
    os.mkfifo(here / "pipe.png")
    assert run("pipe.png", "--mask", "mask.png", "-o", "out") == 1
    assert "pipe.png cannot be read: it is no regular file." in capsys.readouterr().err


def test_a_quality_for_a_format_that_has_none_is_refused_as_over_http(here, capsys):
    assert run("one.png", "--mask", "mask.png", "-o", "out", "--quality", "50") == 1
    assert "output_quality has no meaning for png" in capsys.readouterr().err
