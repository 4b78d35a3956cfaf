"""What a run goes on from: written whole, refused when damaged; and the averaged weights."""

import os

import pytest
import torch

from inpaint.errors import BadData
from training import state

CPU = torch.device("cpu")


def test_a_saved_state_comes_back_equal(tmp_path):
    saved = {"step": 7, "recipe": "{}", "generator": {"w": torch.rand(3, 4)}}
    state.save(tmp_path, saved)
    found = state.load(tmp_path, CPU)
    assert found["step"] == 7
    assert torch.equal(found["generator"]["w"], saved["generator"]["w"])


def test_a_later_save_replaces_the_earlier_one_and_leaves_nothing_beside_it(tmp_path):
    state.save(tmp_path, {"step": 1})
    state.save(tmp_path, {"step": 2})
    assert state.load(tmp_path, CPU) == {"step": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


def test_a_fresh_folder_has_no_state(tmp_path):
    assert state.load(tmp_path, CPU) is None


@pytest.mark.parametrize("size", [0, 100, -50])
def test_a_damaged_state_is_refused_by_name(size, tmp_path):
    state.save(tmp_path, {"step": 1, "w": torch.zeros(100)})
    path = tmp_path / state.FILE
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(BadData, match=r"training state .*state.pt is damaged"):
        state.load(tmp_path, CPU)


class Code:
    """What a pickle would run."""

    def __reduce__(self):
        return print, ("this was run",)


def test_code_in_a_state_is_not_run_and_refused_in_one_line(tmp_path, capsys):
    torch.save({"step": Code()}, tmp_path / state.FILE)
    with pytest.raises(BadData, match=r"state.pt is damaged: .*; move it away") as refusal:
        state.load(tmp_path, CPU)
    assert "\n" not in refusal.value.detail
    assert capsys.readouterr().out == ""


def test_a_state_that_cannot_be_written_leaves_nothing_beside_the_last_one(tmp_path):
    state.save(tmp_path, {"step": 1})
    (tmp_path / f".state.pt.{os.getpid()}").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left|training state: "):
        state.save(tmp_path, {"step": 2, "w": torch.zeros(10_000)})
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]
    assert state.load(tmp_path, CPU) == {"step": 1}


def test_averaged_weights_follow_at_once_and_slowly_later():
    averaged = {"w": torch.zeros(2), "count": torch.tensor(0)}
    current = {"w": torch.ones(2), "count": torch.tensor(5)}
    state.average(averaged, current, decay=0.9, step=0)
    assert averaged["w"].tolist() == [1, 1]
    assert averaged["count"].item() == 5
    current["w"] = torch.tensor([2.0, 0.0])
    state.average(averaged, current, decay=0.9, step=10_000)
    assert averaged["w"].tolist() == pytest.approx([1.1, 0.9])
