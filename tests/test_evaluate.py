"""The scoring protocol on drawn photographs, with fillers whose scores are known by hand."""

import csv
import io
import json
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import save_file

from inpaint import cli
from inpaint.errors import BadCheckpoint, BadData, ModelFailed, UnknownModel
from inpaint.highres import SizeRule
from models import checkpoint
from models.filler import TorchFiller
from models.registry import create
from models.tensors import to_image
from training import evaluate, frechet, inception, lpips, plots, scoring

SIDE = 64


class Paint:
    """A filler that paints every hole with one level."""

    rule = SizeRule()
    learned = False

    def __init__(self, level):
        self.level = level

    def __call__(self, pixels, holes):
        return np.full_like(pixels, self.level)


def picture(seed, size=(90, 70)):
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def top_rows(share, side=SIDE):
    """A hole of the uppermost rows."""
    hole = np.zeros((side, side), bool)
    hole[: round(share * side)] = True
    return hole


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    for seed in range(5):
        picture(seed).save(folder / f"{seed}.png")
    return folder


@pytest.fixture
def masks(tmp_path):
    """Mask files of 128 px: 5, 15 and 45 % of the picture, one of 90 % and one without a hole."""
    for name, share in {"a": 0.05, "b": 0.15, "c": 0.45, "x": 0.9, "y": 0.0}.items():
        folder = tmp_path / "masks" / f"{name}_anything"
        folder.mkdir(parents=True)
        Image.fromarray(top_rows(share, 128)).save(folder / "1.png")
    return tmp_path / "masks"


@pytest.fixture
def tiny(tmp_path):
    """The path of a checkpoint with random weights."""
    torch.manual_seed(0)
    config = {"width": 8, "channels": 8, "blocks": 1, "rates": (1, 2)}
    generator = create("aotgan-compact", config)
    header = checkpoint.Header.of(generator, name="tiny-64", license="CC0-1.0")
    checkpoint.save(tmp_path / "tiny-64.safetensors", generator, header)
    return tmp_path / "tiny-64.safetensors"


@pytest.mark.parametrize(
    ("share", "bucket"),
    [
        (0.0, None),
        (0.009, None),
        (0.01, "01-10"),
        (0.1, "01-10"),
        (0.11, "10-20"),
        (0.35, "30-40"),
        (0.6, "50-60"),
        (0.61, None),
        (1.0, None),
    ],
)
def test_the_bucket_follows_from_the_share(share, bucket):
    assert evaluate.bucket_of(share) == bucket


def test_masks_are_measured_whatever_their_folder_is_called(masks):
    found = evaluate.read_holes(masks, SIDE)
    assert {name: [hole.mean() for hole in holes] for name, holes in found.items()} == {
        "01-10": [pytest.approx(0.05, abs=0.01)],
        "10-20": [pytest.approx(0.15, abs=0.01)],
        "40-50": [pytest.approx(0.45, abs=0.01)],
    }
    assert found["40-50"][0][0].all()
    assert not found["40-50"][0][-1].any()


def test_the_photograph_is_its_central_square(photographs):
    found = evaluate.read_photographs(photographs, 70)
    assert list(found.squares) == [f"{seed}.png" for seed in range(5)]
    assert np.array_equal(found.squares["3.png"], np.asarray(picture(3))[:, 10:80])


def test_a_limit_takes_photographs_from_all_over(photographs):
    assert list(evaluate.read_photographs(photographs, 16, limit=2).squares) == ["0.png", "2.png"]


def test_an_unreadable_photograph_is_skipped_and_named(photographs):
    (photographs / "2.png").write_bytes((photographs / "2.png").read_bytes()[:200])
    (photographs / "9.jpg").write_text("no picture")
    found = evaluate.read_photographs(photographs, 16)
    assert list(found.squares) == ["0.png", "1.png", "3.png", "4.png"]
    assert list(found.skipped) == ["2.png", "9.jpg"]


def test_a_photograph_that_the_disk_does_not_give_is_skipped_and_named(photographs):
    broken = Path("/proc/self/mem")  # a file whose first bytes give an input/output error
    if not broken.exists():
        pytest.skip("only Linux has a file that always fails")
    (photographs / "9.png").symlink_to(broken)
    assert evaluate.read_photographs(photographs, 16).skipped == {"9.png": "Input/output error"}


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(BadData, match="holds no image files"):
        evaluate.read_photographs(tmp_path, 16)
    with pytest.raises(BadData, match="holds no image files"):
        evaluate.read_holes(tmp_path, 16)


def test_a_folder_of_nothing_but_unreadable_images_is_refused(tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(BadData, match="no image under .* can be read; the first, a.png: "):
        evaluate.read_photographs(tmp_path, 16)


def test_masks_without_a_hole_of_use_are_refused(tmp_path):
    Image.new("1", (32, 32)).save(tmp_path / "black.png")
    with pytest.raises(BadData, match="no mask under .* has a hole of 1 % to 60 %"):
        evaluate.read_holes(tmp_path, 32)


def test_an_unreadable_mask_is_refused_because_it_would_change_every_pair(masks):
    (masks / "a_anything" / "2.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    with pytest.raises(BadData, match=r"mask .*2.png cannot be used"):
        evaluate.read_holes(masks, SIDE)


def test_a_gray_mask_is_refused_because_it_says_neither_hole_nor_known(masks):
    Image.new("L", (64, 64), 128).save(masks / "a_anything" / "gray.png")
    with pytest.raises(BadData, match=r"gray\.png"):
        evaluate.read_holes(masks, SIDE)


def test_the_mask_of_a_photograph_is_the_documented_one():
    assert evaluate.choose("deep/x.jpg", "20-30", 37) == zlib.crc32(b"deep/x.jpg 20-30") % 37


def test_the_masks_are_shared_out_evenly():
    counts = np.bincount([evaluate.choose(f"{n}.jpg", "01-10", 10) for n in range(1000)])
    assert counts.min() > 60


def test_scores_are_those_of_the_whole_composite():
    flat = {
        "a": np.full((SIDE, SIDE, 3), 100, np.uint8),
        "b": np.full((SIDE, SIDE, 3), 90, np.uint8),
    }
    holes = {"20-30": [top_rows(0.25)]}
    found = evaluate.evaluate(flat, holes, {"ten": Paint(110), "exact": Paint(100)}, {})
    ten, exact = found["ten"]["20-30"], found["exact"]["20-30"]
    assert ten["n"] == 2
    assert ten["l1"] == pytest.approx((10 + 20) / 2 * 0.25 / 255)
    psnr = [10 * np.log10(255**2 / (0.25 * difference**2)) for difference in (10, 20)]
    assert ten["psnr"] == pytest.approx(np.mean(psnr))
    assert exact["l1"] == pytest.approx((0 + 10) / 2 * 0.25 / 255)
    assert exact["psnr"] == pytest.approx((100 + psnr[0]) / 2)
    assert ten["ssim"] < exact["ssim"] < 1
    assert ten["l1_relative"] == pytest.approx((2.5 / 202.5 + 5 / 185) / 2)
    assert ten["lpips"] is None
    assert ten["lpips_alex"] is None


def test_lpips_is_that_of_each_result(feature_folder):
    photograph = np.array(picture(0, (SIDE, SIDE)))
    results = [np.array(picture(seed, (SIDE, SIDE))) for seed in (0, 1, 2)]
    nets = {name: lpips.load(name, feature_folder) for name in lpips.FILES}
    rows = evaluate.compare(photograph, results, nets)
    for network, score in (("squeeze", "lpips"), ("alex", "lpips_alex")):
        pair = torch.from_numpy(np.stack([photograph, results[2]])).permute(0, 3, 1, 2) / 127.5 - 1
        assert rows[0][score] == pytest.approx(0, abs=1e-9)
        assert rows[2][score] == pytest.approx(nets[network](pair[:1], pair[1:]).item(), rel=1e-4)
        assert rows[1][score] != pytest.approx(rows[2][score])


def test_frechet_distances_are_those_of_each_models_results(feature_folder):
    photographs = {f"{seed}": np.array(picture(seed, (SIDE, SIDE))) for seed in range(6)}
    holes = {"01-10": [top_rows(0.05)], "40-50": [top_rows(0.45)]}
    pools = {name: frechet.load(name, feature_folder) for name in ("squeeze", "alex")}
    models = {"gray": Paint(128), "white": Paint(255)}
    found = evaluate.evaluate(photographs, holes, models, {}, pooled=pools, workers=3)
    for network, pool in pools.items():
        real, white = frechet.Statistics(), frechet.Statistics()
        for photograph in photographs.values():
            painted = np.where(holes["40-50"][0][..., None], np.uint8(255), photograph)
            real.add(pool(to_image(photograph[None])))
            white.add(pool(to_image(painted[None])))
        score = f"frechet ({network})"
        expected = frechet.distance(real, white)
        assert found["white"]["40-50"][score] == pytest.approx(expected, rel=1e-3)
        assert found["white"]["01-10"][score] < expected
        assert found["gray"]["40-50"][score] != pytest.approx(expected, rel=0.01)


def test_the_distance_over_inception_is_the_fid_of_the_results():
    torch.manual_seed(2)
    network = inception.InceptionV3()
    for weight in network.parameters():
        if weight.ndim == 4:  # as drawn by default, nothing would reach the features
            torch.nn.init.kaiming_normal_(weight, nonlinearity="relu")
    photographs = {f"{seed}": np.array(picture(seed, (SIDE, SIDE))) for seed in range(2)}
    holes = {"40-50": [top_rows(0.45)]}
    found = evaluate.evaluate(
        photographs, holes, {"white": Paint(255)}, {}, pooled={"inception": network}
    )
    real, white = frechet.Statistics(), frechet.Statistics()
    for photograph in photographs.values():
        painted = np.where(holes["40-50"][0][..., None], np.uint8(255), photograph)
        real.add(network(to_image(photograph[None])))
        white.add(network(to_image(painted[None])))
    row = found["white"]["40-50"]
    assert list(row) == ["n", *evaluate.MEANS, "fid"]
    assert row["fid"] == pytest.approx(frechet.distance(real, white), rel=1e-3)
    assert row["fid"] > 1


def test_scores_are_the_same_whatever_is_done_at_the_same_time(tiny, feature_folder):
    photographs = {f"{seed}": np.array(picture(seed, (SIDE, SIDE))) for seed in range(5)}
    holes = {"20-30": [top_rows(0.25), top_rows(0.28)], "30-40": [top_rows(0.35)]}
    fillers = evaluate.open_models([str(tiny)])
    networks = {name: lpips.load(name, feature_folder) for name in lpips.FILES}
    one, four = (
        evaluate.evaluate(photographs, holes, fillers, networks, workers=workers)
        for workers in (1, 4)
    )
    assert one == four


def test_a_model_that_computes_no_numbers_is_named(tiny):
    generator, header = checkpoint.load(tiny)
    for parameter in generator.parameters():
        parameter.data.fill_(torch.nan)
    fillers = {header.name: TorchFiller(generator)}
    photograph = {"a": np.array(picture(0, (SIDE, SIDE)))}
    with pytest.raises(ModelFailed, match="tiny-64: the generator computed values that are not"):
        evaluate.evaluate(photograph, {"20-30": [top_rows(0.25)]}, fillers, {})


def shown(scores, width=120):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(scoring.table(scores))
    return console.export_text(styles=True)


ROW = {
    "n": 200,
    "psnr": 30.0,
    "ssim": 0.9,
    "lpips": 0.11,
    "lpips_alex": 0.12,
    "l1": 0.02,
    "l1_relative": 0.04,
    "frechet (squeeze)": 1234.567,
}


def test_the_table_marks_the_best_of_each_bucket_and_says_what_was_not_measured():
    row = ROW | {"lpips_alex": None}
    worse = row | {"psnr": 29.0, "lpips": 0.22, "l1": 0.03, "frechet (squeeze)": 99.0}
    text = shown({"one": {"01-10": row}, "two": {"01-10": worse}})
    assert "\x1b[1m30.00\x1b[0m" in text
    assert "\x1b[1m29.00\x1b[0m" not in text
    assert "\x1b[1m0.1100\x1b[0m" in text
    assert "\x1b[1m0.2200\x1b[0m" not in text
    assert "\x1b[1m99.00\x1b[0m" in text
    assert "\x1b[1m1235\x1b[0m" not in text
    assert "lpips_alex: not measured" in text
    assert "lpips, " not in text
    assert "frechet: too large while n is small" in text
    both = {"one": {"01-10": row | {"fid": 123.456}}}
    assert "fid, frechet: too large while n is small" in shown(both)
    assert "\x1b[1m123.5\x1b[0m" in shown(both)


@pytest.mark.parametrize("width", [80, 200])
def test_the_table_of_eight_models_fits_the_terminal_with_all_names_and_numbers(width):
    names = [f"context-encoder-centre-strided-{n}" for n in range(8)]
    scores = {name: dict.fromkeys(evaluate.BUCKETS, ROW) for name in names}
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(scoring.table(scores))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width
    numbers = [line.split() for line in lines if "30.00" in line]
    assert len(numbers) == 48
    wanted = ["30.00", "0.9000", "0.1100", "0.1200", "0.0200", "0.0400", "1235", "200"]
    assert all(line[-8:] == wanted for line in numbers)
    first = [line.split("  ")[0].strip() for line in lines if not line.startswith("hole")]
    assert "".join(first).count("context-encoder-centre-strided-") == 48
    assert [line.strip() for line in lines if line.startswith("hole")] == [
        f"hole {bucket} %" for bucket in evaluate.BUCKETS
    ]


def test_the_csv_has_a_line_for_each_model_and_bucket(tmp_path):
    worse = ROW | {"psnr": 29.123456789, "lpips_alex": None}
    scoring.write_csv(
        {"one": {"01-10": ROW, "10-20": worse}, "two, too": {"01-10": worse, "10-20": ROW}},
        tmp_path / "s.csv",
    )
    with (tmp_path / "s.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == ["model", "bucket", *ROW]
    assert [(line["model"], line["bucket"]) for line in lines] == [
        ("one", "01-10"),
        ("one", "10-20"),
        ("two, too", "01-10"),
        ("two, too", "10-20"),
    ]
    assert lines[1]["psnr"] == "29.123456789"
    assert lines[1]["lpips_alex"] == ""


def test_classical_models_are_always_scored_and_named_once(tiny):
    assert list(evaluate.open_models([str(tiny)])) == ["tiny-64", "navier-stokes", "telea"]
    assert list(evaluate.open_models(["telea"])) == ["navier-stokes", "telea"]


def test_a_smooth_reference_is_scored_when_it_is_named():
    pytest.importorskip("scipy", reason="comes with the extra `demo`")
    assert list(evaluate.open_models(["biharmonic"])) == ["biharmonic", *evaluate.REFERENCES]


def test_models_that_are_not_there_are_refused(tiny, tmp_path):
    with pytest.raises(UnknownModel, match="nothing-256 is neither"):
        evaluate.open_models(["nothing-256"])
    with pytest.raises(UnknownModel, match=r"gone.safetensors is neither"):
        evaluate.open_models([str(tmp_path / "gone.safetensors")])
    with pytest.raises(UnknownModel, match="two models are called tiny-64"):
        evaluate.open_models([str(tiny), str(tiny)])


def test_a_corrupt_checkpoint_is_refused(tiny):
    tiny.write_bytes(tiny.read_bytes()[:1000])
    with pytest.raises(BadCheckpoint, match="tiny-64.safetensors"):
        evaluate.open_models([str(tiny)])


@pytest.mark.parametrize("command", ["train", "eval"])
@pytest.mark.parametrize("option", ["--threads=0", "--device=banana"])
def test_impossible_threads_and_devices_are_wrong_usage(command, option, tmp_path, capsys):
    arguments = [command, "--data", str(tmp_path), "--masks", str(tmp_path), option]
    with pytest.raises(SystemExit) as ended:
        cli.main([*arguments, "recipe.toml"])
    assert ended.value.code == 2
    assert option.split("=")[0] in capsys.readouterr().err


def test_fills_are_scored_as_served_unless_something_else_is_asked_for(tiny, photographs, masks):
    material = (
        evaluate.read_photographs(photographs, SIDE, 2).squares,
        evaluate.read_holes(masks, SIDE),
        evaluate.open_models([str(tiny)]),
        {},
    )
    scores = {
        refine: evaluate.evaluate(*material, refine=refine)
        for refine in ("auto", "none", "patches", "full")
    }
    assert scores["auto"]["tiny-64"] == scores["patches"]["tiny-64"]
    assert scores["auto"]["telea"] == scores["none"]["telea"]
    for name in ("tiny-64", "telea"):
        assert len({str(each[name]) for each in scores.values()}) == 3


@pytest.mark.parametrize("option", ["--json", "--csv", "--grid", "--study"])
def test_a_place_that_cannot_be_written_to_is_refused_before_scoring(
    option, photographs, masks, tmp_path, capsys
):
    (tmp_path / "file").touch()
    arguments = ["eval", "--data", str(photographs), "--masks", str(masks)]
    with pytest.raises(SystemExit) as ended:
        cli.main([*arguments, option, str(tmp_path / "file" / "scores")])
    said = capsys.readouterr()
    assert ended.value.code == 1
    assert (
        said.err == f"inpaint: the folder {tmp_path}/file cannot be made: File exists (bad-data)\n"
    )
    assert not said.out


def scored(capsys, *arguments):
    """What the command line said of wrong arguments, and how it ended."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["eval", *map(str, arguments)])
    return ended.value.code, re.sub(r"[│\s]+", " ", capsys.readouterr().err)


def test_an_unknown_feature_network_is_refused_by_name(photographs, masks, capsys):
    folders = ("--data", photographs, "--masks", masks, "--features", photographs)
    code, said = scored(capsys, *folders, "--frechet", "fid")
    assert code == 2
    assert "'fid' is none of squeeze, alex, vgg16, vgg19, inception." in said


def test_a_fid_without_inceptions_weights_is_refused_and_not_measured_otherwise(
    photographs, masks, feature_folder, capsys
):
    folders = ("--data", photographs, "--masks", masks, "--features", feature_folder)
    code, said = scored(capsys, *folders, "--frechet", "inception")
    assert code == 1
    assert "holds neither pt_inception-2015-12-05-6726825d.pth nor" in said


@pytest.mark.parametrize("option", ["--json", "--csv", "--grid", "--study"])
def test_a_folder_in_place_of_a_file_to_write_is_wrong_usage(option, photographs, masks, capsys):
    code, said = scored(capsys, "--data", photographs, "--masks", masks, option, photographs)
    assert code == 2
    assert f"'{option}'" in said
    assert "is a directory" in said


def test_a_frechet_distance_without_weights_is_wrong_usage(photographs, masks, capsys):
    code, said = scored(capsys, "--data", photographs, "--masks", masks, "--frechet", "squeeze")
    assert code == 2
    assert "it needs --features" in said


def test_a_frechet_distance_of_one_photograph_is_refused_before_scoring(
    photographs, masks, feature_folder, capsys
):
    folders = ("--data", photographs, "--masks", masks, "--features", feature_folder)
    code, said = scored(capsys, *folders, "--frechet", "squeeze", "--limit", 1)
    assert code == 1
    assert said.startswith("inpaint: a Fréchet distance needs at least two photographs")


def test_a_checkpoint_of_another_format_is_refused_by_name(photographs, masks, tmp_path, capsys):
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    model = tmp_path / "foreign.safetensors"
    code, said = scored(capsys, model, "--data", photographs, "--masks", masks)
    assert code == 1
    assert said.startswith("inpaint: foreign.safetensors: format is None; accepted is 'inpaint-")


def test_the_command_prints_and_writes_every_score(
    tiny, photographs, masks, feature_folder, tmp_path, capsys
):
    (photographs / "broken.png").write_text("no picture")
    scoring.evaluate(
        [str(tiny)],
        data=photographs,
        masks=masks,
        features=feature_folder,
        networks=["alex"],
        to_json=tmp_path / "scores.json",
        to_csv=tmp_path / "scores.csv",
        grid=tmp_path / "grid.png",
        to_study=tmp_path / "study.html",
        pairs=4,
        size=SIDE,
    )
    printed = capsys.readouterr().out
    assert (
        "5 photographs, 1 unreadable ones skipped; masks by bucket: 01-10: 1, 10-20: 1" in printed
    )
    *_, count, broken = printed.splitlines()
    assert count == "5 photographs, 1 unreadable ones skipped:"
    assert broken.startswith("  broken.png: The image is text")
    assert f"study: {tmp_path}/study.html, 4 pairs" in printed
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert list(scores) == ["tiny-64", "navier-stokes", "telea"]
    for buckets in scores.values():
        assert list(buckets) == ["01-10", "10-20", "40-50"]
        for row in buckets.values():
            assert list(row) == ["n", *evaluate.MEANS, "frechet (alex)"]
            assert row["n"] == 5
            assert None not in row.values()
    with (tmp_path / "scores.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 9
    for line in lines:
        row = scores[line.pop("model")][line.pop("bucket")]
        assert {name: float(value) for name, value in line.items()} == row
    assert scores["telea"]["40-50"]["l1"] > scores["telea"]["01-10"]["l1"]
    again = evaluate.evaluate(
        evaluate.read_photographs(photographs, SIDE).squares,
        evaluate.read_holes(masks, SIDE),
        evaluate.open_models(["telea"]),
        {},
    )
    assert again["telea"]["10-20"]["psnr"] == scores["telea"]["10-20"]["psnr"]


def test_the_grid_shows_photograph_masked_and_results_of_each_bucket(
    tiny, photographs, masks, tmp_path
):
    scoring.evaluate(
        [str(tiny)], data=photographs, masks=masks, grid=tmp_path / "grid.png", size=SIDE
    )
    sheet = np.asarray(Image.open(tmp_path / "grid.png"))
    top, step = 2 * plots.TITLE + plots.GAP, SIDE + plots.GAP  # navier-stokes takes two lines
    assert sheet.shape == (top + 3 * step, 4 + 5 * step, 3)
    square = evaluate.read_photographs(photographs, SIDE).squares["0.png"]
    hole = evaluate.read_holes(masks, SIDE)["01-10"][0]
    cells = [sheet[top : top + SIDE, 4 + n * step :][:, :SIDE] for n in range(5)]
    assert np.array_equal(cells[0], square)
    assert (cells[1][hole] == 255).all()
    for cell in cells[1:]:
        assert np.array_equal(cell[~hole], square[~hole])
