import json

import pytest
import torch

from inpaint.cli import main
from worker.bench import matrix_rate, multiplications


def test_aot_gan_needs_73_billion_multiplications_at_256_pixels():
    assert multiplications("aotgan", 256) == pytest.approx(72.9e9, rel=0.005)


def test_four_times_the_pixels_need_four_times_the_multiplications():
    assert multiplications("aotgan-compact", 512) == 4 * multiplications("aotgan-compact", 256)


def test_the_matrix_product_of_this_machine_is_no_less_than_a_slow_one():
    assert matrix_rate(torch.float32, "cpu") > 1e8


def test_figures_are_printed_and_written_as_json(tmp_path, capsys):
    file = tmp_path / "fill.json"

    with pytest.raises(SystemExit) as end:
        main(["bench", "fill", "--sizes", "64", "--seconds", "0", "--json", str(file)])

    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert "GMAC/s" in printed
    assert printed.count("aotgan") == 2
    rows = json.loads(file.read_text())
    assert [(row["model"], row["size"]) for row in rows] == [("aotgan-compact", 64), ("aotgan", 64)]
    for row in rows:
        assert list(row) == [
            "model",
            "size",
            "device",
            "engine",
            "precision",
            "seconds_served",
            "seconds_eager",
            "seconds_eager_fp32",
            "speedup",
            "speedup_eager",
            "share_of_ceiling",
        ]
        assert row["speedup"] == pytest.approx(row["seconds_eager_fp32"] / row["seconds_served"])
        assert row["speedup_eager"] == row["seconds_eager_fp32"] / row["seconds_eager"]
        assert row["share_of_ceiling"] > 0
        if row["device"] == "cpu":
            assert row["engine"] == "openvino"


@pytest.mark.parametrize("sizes", ["big", "256;512", "100", "32"])
def test_sizes_that_no_network_takes_are_wrong_usage(sizes):
    with pytest.raises(SystemExit) as end:
        main(["bench", "fill", "--sizes", sizes])

    assert end.value.code == 2
