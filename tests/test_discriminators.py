"""The patch discriminator against what the paper's authors released."""

import torch
import torch.nn.functional as F

from training.discriminators import PatchDiscriminator, from_published


def published_state(channels, seed):
    """Random weights in the released code's layout; u and v are those of a converged iteration."""
    generator = torch.Generator().manual_seed(seed)
    state, before = {}, 3
    for depth in range(4):
        after = channels << depth
        weight = torch.randn(after, before, 4, 4, generator=generator, dtype=torch.float64)
        left, _, right = torch.linalg.svd(weight.flatten(1), full_matrices=False)
        key = f"conv.{2 * depth}.weight"
        state |= {f"{key}_orig": weight, f"{key}_u": left[:, 0], f"{key}_v": right[0]}
        before = after
    state["conv.8.weight"] = torch.randn(1, before, 4, 4, generator=generator, dtype=torch.float64)
    state["conv.8.bias"] = torch.randn(1, generator=generator, dtype=torch.float64)
    return state


def forward_by_hand(state, x):
    """Spectral norm, convolutions and slopes written out."""
    for depth, stride in enumerate((2, 2, 2, 1)):
        weight = state[f"conv.{2 * depth}.weight_orig"]
        weight = weight / torch.linalg.matrix_norm(weight.flatten(1), ord=2)
        x = F.conv2d(x, weight, None, stride, 1)
        x = torch.where(x > 0, x, 0.2 * x)
    return F.conv2d(x, state["conv.8.weight"], state["conv.8.bias"], 1, 1)


def test_the_published_size_has_the_published_number_of_parameters():
    network = PatchDiscriminator(64)
    assert sum(weights.numel() for weights in network.parameters()) == 2_763_777


def test_a_picture_of_512_gives_62x62_logits():
    network = PatchDiscriminator(2)
    logits, activations = network(torch.zeros(1, 3, 512, 512))
    assert logits.shape == (1, 1, 62, 62)
    assert [tuple(x.shape[1:]) for x in activations] == [
        (2, 256, 256),
        (4, 128, 128),
        (8, 64, 64),
        (16, 63, 63),
    ]


def test_a_published_state_dict_gives_the_same_logits():
    state = published_state(4, seed=2)
    network = PatchDiscriminator(4).double().eval()
    network.load_state_dict(from_published(state))
    image = torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(0)).double() * 2 - 1
    logits, _ = network(image)
    assert torch.allclose(logits, forward_by_hand(state, image), rtol=1e-9, atol=1e-12)


def test_every_layer_but_the_last_is_spectrally_normalised():
    network = PatchDiscriminator(8).train()
    for _ in range(60):
        network(torch.zeros(1, 3, 32, 32))
    network.eval()
    norms = [
        torch.linalg.matrix_norm(network.conv[i].weight.flatten(1), ord=2) for i in range(0, 8, 2)
    ]
    assert torch.allclose(torch.stack(norms), torch.ones(4), atol=0.02)
    assert not hasattr(network.conv[8], "parametrizations")
