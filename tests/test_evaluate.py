"""The scoring protocol on drawn photographs, with fillers whose scores are known by hand."""

import io
import json
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import save_file

from inpaint import cli
from inpaint.errors import BadCheckpoint, BadData, UnknownModel
from inpaint.highres import SizeRule
from models import checkpoint
from models.registry import create
from training import commands, evaluate, features, lpips

SIDE = 64


class Paint:
    """A filler that paints every hole with one level."""

    rule = SizeRule()

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


@pytest.fixture
def feature_folder(tmp_path):
    """LPIPS weights under the published names, drawn."""
    torch.manual_seed(1)
    folder = tmp_path / "features"
    folder.mkdir()
    for network, (trunk, heads) in lpips.FILES.items():
        net = features.FeatureNetwork(network, list(features.TAPS[network]))
        save_file(net.state_dict(), folder / trunk)
        widths = [x.shape[1] for x in net(torch.zeros(1, 3, 64, 64)).values()]
        keys = {f"lin{n}.model.1.weight": torch.rand(1, w, 1, 1) for n, w in enumerate(widths)}
        save_file(keys, folder / heads)
    return folder


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
    with pytest.raises(BadData, match=r"mask .*2.png cannot be read"):
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


def shown(scores):
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(evaluate.table(scores))
    return console.export_text(styles=True)


def test_the_table_marks_the_best_of_each_bucket_and_says_what_was_not_measured():
    row = {"psnr": 30.0, "ssim": 0.9, "lpips": 0.11, "lpips_alex": None, "l1": 0.02, "n": 3}
    worse = {**row, "psnr": 29.0, "lpips": 0.22, "l1": 0.03}
    text = shown({"one": {"01-10": row}, "two": {"01-10": worse}})
    assert "\x1b[1m30.00\x1b[0m" in text
    assert "\x1b[1m29.00\x1b[0m" not in text
    assert "\x1b[1m0.1100\x1b[0m" in text
    assert "\x1b[1m0.2200\x1b[0m" not in text
    assert "lpips_alex: not measured" in text
    assert "lpips, " not in text


def test_classical_models_are_always_scored_and_named_once(tiny):
    assert list(evaluate.open_models([str(tiny)])) == ["tiny-64", "navier-stokes", "telea"]
    assert list(evaluate.open_models(["telea"])) == ["navier-stokes", "telea"]


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


@pytest.mark.parametrize("option", ["--json", "--grid"])
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


def test_the_command_prints_and_writes_every_score(
    tiny, photographs, masks, feature_folder, tmp_path, capsys
):
    (photographs / "broken.png").write_text("no picture")
    commands.evaluate(
        [str(tiny)],
        data=photographs,
        masks=masks,
        features=feature_folder,
        to_json=tmp_path / "scores.json",
        grid=tmp_path / "grid.png",
        size=SIDE,
    )
    printed = capsys.readouterr().out
    assert (
        "5 photographs, 1 unreadable ones skipped; masks by bucket: 01-10: 1, 10-20: 1" in printed
    )
    assert "skipped broken.png" in printed
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert list(scores) == ["tiny-64", "navier-stokes", "telea"]
    for buckets in scores.values():
        assert list(buckets) == ["01-10", "10-20", "40-50"]
        for row in buckets.values():
            assert set(row) == {"psnr", "ssim", "lpips", "l1", "n", "lpips_alex"}
            assert row["n"] == 5
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
    commands.evaluate(
        [str(tiny)], data=photographs, masks=masks, grid=tmp_path / "grid.png", size=SIDE
    )
    sheet = np.asarray(Image.open(tmp_path / "grid.png"))
    top, step = 22, SIDE + 4
    assert sheet.shape == (top + 3 * step, 4 + 5 * step, 3)
    square = evaluate.read_photographs(photographs, SIDE).squares["0.png"]
    hole = evaluate.read_holes(masks, SIDE)["01-10"][0]
    cells = [sheet[top : top + SIDE, 4 + n * step :][:, :SIDE] for n in range(5)]
    assert np.array_equal(cells[0], square)
    assert (cells[1][hole] == 255).all()
    for cell in cells[1:]:
        assert np.array_equal(cell[~hole], square[~hole])
