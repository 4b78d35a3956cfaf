"""What a run goes on from: written whole, refused when damaged; and the averaged weights."""

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


def test_averaged_weights_follow_at_once_and_slowly_later():
    averaged = {"w": torch.zeros(2), "count": torch.tensor(0)}
    current = {"w": torch.ones(2), "count": torch.tensor(5)}
    state.average(averaged, current, decay=0.9, step=0)
    assert averaged["w"].tolist() == [1, 1]
    assert averaged["count"].item() == 5
    current["w"] = torch.tensor([2.0, 0.0])
    state.average(averaged, current, decay=0.9, step=10_000)
    assert averaged["w"].tolist() == pytest.approx([1.1, 0.9])
