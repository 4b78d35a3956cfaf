"""Muon: its steps are orthogonal and as large as Adam's, and its state goes on bit for bit."""

import copy

import pytest
import torch
from torch import nn

from training.muon import SIZE, Muon, orthogonal


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (12, 12)])
def test_a_matrix_becomes_nearly_orthogonal_and_keeps_its_directions(shape):
    torch.manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    values = torch.linspace(0.2, 3, min(shape))
    found = orthogonal((u * values) @ v)
    assert torch.linalg.svdvals(found) == pytest.approx(1, abs=0.4)  # as far as the quintic goes
    inner = u.T @ found @ v.T
    assert (inner - inner.diag().diag()).abs().max() < 0.06


def test_a_step_is_the_same_for_a_gradient_of_any_size():
    for factor in (1e-4, 1.0, 1e4):
        torch.manual_seed(0)
        network = nn.Conv2d(4, 8, 3)
        before = network.weight.detach().clone()
        network.weight.grad = factor * torch.randn_like(before)
        optimizer = Muon(network.parameters(), (0.9, 0.99))
        optimizer.param_groups[0]["lr"] = 0.01
        optimizer.step()
        step = (network.weight - before).square().mean().sqrt().item()
        assert step == pytest.approx(0.01 * SIZE, rel=0.25)


def test_what_is_no_convolution_moves_as_by_adam():
    torch.manual_seed(0)
    ours, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    theirs.load_state_dict(ours.state_dict())
    optimizers = (
        Muon(ours.parameters(), (0.9, 0.99)),
        torch.optim.Adam(theirs.parameters(), lr=0.01, betas=(0.9, 0.99)),
    )
    optimizers[0].param_groups[0]["lr"] = 0.01
    for _ in range(5):
        x = torch.randn(4, 3)
        for network, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            network(x).square().sum().backward()
            optimizer.step()
    assert torch.allclose(ours.weight, theirs.weight, atol=1e-6)
    assert torch.allclose(ours.bias, theirs.bias, atol=1e-6)


def test_a_state_that_was_saved_goes_on_bit_for_bit(tmp_path):
    def steps(network, optimizer, seeds):
        optimizer.param_groups[0]["lr"] = 0.01
        for seed in seeds:
            torch.manual_seed(seed)
            optimizer.zero_grad()
            network(torch.randn(2, 3, 8, 8)).square().mean().backward()
            optimizer.step()

    torch.manual_seed(0)
    whole = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    half = copy.deepcopy(whole)
    steps(whole, Muon(whole.parameters(), (0.9, 0.99)), range(4))
    first = Muon(half.parameters(), (0.9, 0.99))
    steps(half, first, range(2))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = Muon(half.parameters(), (0.9, 0.99))
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    steps(half, second, range(2, 4))
    assert torch.equal(whole.weight, half.weight)
    assert torch.equal(whole.bias, half.bias)
