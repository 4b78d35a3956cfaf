"""Discriminators: counts, shapes, and the logits that released code gives for the same weights."""

import pytest
import torch
import torch.nn.functional as F

from training import losses
from training.discriminators import create, from_published

PUBLISHED = {  # file: kind, side of what it judges, parameters with 64 channels
    "aotgan_d": ("spectral-patch", 64, 2_763_777),
    "ce_d": ("instance-patch", 64, 1_555_585),
    "ccgan_d": ("instance-patch", 64, 1_555_585),
    "cecentre_d": ("whole", 64, 2_765_568),
}


def difference(found, expected):
    """Return the largest difference, relative to the largest value."""
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.fixture
def published(golden_vectors):
    """A function of a file's name: its tensors, the network with its weights, allowed differences.

    One of the networks ends in a sigmoid; its tensors are given as logits here.
    """

    def read(name):
        tensors, state, allowed = golden_vectors(name)
        kind, size, _ = PUBLISHED[name]
        network = create(kind, channels=64, size=size)
        network.load_state_dict(from_published(state))
        for key in [key for key in tensors if key.endswith(".prob")]:
            tensors[key.replace("prob", "logits")] = torch.logit(tensors[key])[..., None, None]
        return tensors, network, allowed

    return read


@pytest.mark.parametrize("name", PUBLISHED)
def test_logits_are_those_of_the_released_code(name, published):
    tensors, network, allowed = published(name)
    with torch.no_grad():
        single = network.eval()(tensors["in.image"]).logits
        double = network.double()(tensors["in.image"].double()).logits
    assert difference(single, tensors["eval.logits"]) < allowed["eval"]
    assert difference(double, tensors["eval64.logits"]) < allowed["eval64"]


@pytest.mark.parametrize("name", ["ce_d", "ccgan_d"])
def test_instance_norm_is_the_same_while_training(name, published):
    tensors, network, allowed = published(name)
    with torch.no_grad():
        logits = network.train()(tensors["in.image"]).logits
    assert difference(logits, tensors["eval.logits"]) < allowed["train"]


def test_batch_norm_while_training_is_that_of_the_released_code(published):
    tensors, network, allowed = published("cecentre_d")
    with torch.no_grad():
        logits = network.train()(tensors["in.image"]).logits
    assert difference(logits, tensors["train.logits"]) < allowed["train"]
    variance = network.state_dict()["conv.3.running_var"]
    assert difference(variance, tensors["after.main.3.running_var"]) < allowed["train"]


def test_spectral_norm_iterates_as_in_the_released_code_half_a_turn_later(published):
    """The released code's form takes v and then u from the other, the present one u and then v."""
    tensors, network, allowed = published("aotgan_d")
    with torch.no_grad():
        network.train()(tensors["in.image"])
        first = {key: value.clone() for key, value in network.state_dict().items()}
        network(tensors["in.image"])
        second = network.state_dict()
        network.load_state_dict({key: (first if "_v" in key else second)[key] for key in first})
        logits = network.eval()(tensors["in.image"]).logits
    assert difference(logits, tensors["train.logits"]) < allowed["train"]
    for key in ("conv.0.weight_u", "conv.6.weight_v"):
        (ours,) = from_published({key: torch.empty(0)})
        found = network.state_dict()[ours]
        assert difference(found, tensors[f"after.{key}"]) < allowed["train"]


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


@pytest.mark.parametrize(
    ("kind", "size", "parameters"),
    [
        *PUBLISHED.values(),
        ("whole", 128, 2_765_568 + 64 * 64 * 16 + 2 * 64),  # a convolution and its norm more
        ("context-conditioned", 64, 2_903_296),
    ],
)
def test_the_published_width_has_the_published_number_of_parameters(kind, size, parameters):
    network = create(kind, channels=64, size=size)
    assert sum(weights.numel() for weights in network.parameters()) == parameters


@pytest.mark.parametrize(
    ("kind", "size", "logits", "activations"),
    [
        ("spectral-patch", 512, 62, [(2, 256), (4, 128), (8, 64), (16, 63)]),
        ("spectral-patch", 24, 1, [(2, 12), (4, 6), (8, 3), (16, 2)]),
        ("instance-patch", 64, 8, [(2, 32), (4, 16), (8, 8), (16, 8)]),
        ("instance-patch", 128, 16, [(2, 64), (4, 32), (8, 16), (16, 16)]),
        ("whole", 64, 1, [(2, 32), (4, 16), (8, 8), (16, 4)]),
        ("whole", 128, 1, [(2, 64), (2, 32), (4, 16), (8, 8), (16, 4)]),
        ("context-conditioned", 64, 1, [(4, 64), (2, 32), (4, 16), (8, 8), (16, 4)]),
    ],
)
def test_logits_and_activations_have_their_shapes(kind, size, logits, activations):
    network = create(kind, channels=2, size=size)
    found = network(torch.zeros(2, 3, size, size), torch.zeros(2, 3, 2 * size, 2 * size))
    assert found.logits.shape == (2, 1, logits, logits)
    assert [tuple(x.shape) for x in found.activations] == [
        (2, channels, side, side) for channels, side in activations
    ]
    assert found.classes is None


@pytest.mark.parametrize("size", [32, 48, 128])
def test_a_shared_trunk_judges_the_image_as_one_and_names_its_class(size):
    network = create("shared-trunk", channels=2, size=size, classes=5)
    found = network(torch.zeros(3, 3, size, size))
    assert found.logits.shape == (3, 1, 1, 1)
    assert found.classes.shape == (3, 5)
    assert [x.shape[1] for x in found.activations] == [2, 4, 8, 8, 16, 16, 16, 16]
    assert (
        create("shared-trunk", channels=2, size=size)(torch.zeros(1, 3, size, size)).classes is None
    )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("patch", 4, 64, 0), "unknown discriminator 'patch'; known are spectral-patch, "),
        (("whole", 0, 64, 0), "whole with 0 channels"),
        (("spectral-patch", 4, 23, 0), "spectral-patch cannot judge 23 px; it takes 24 px"),
        (("whole", 4, 96, 0), "whole cannot judge 96 px; it takes 64, 128"),
        (("whole", 4, 32, 0), "whole cannot judge 32 px"),
        (("shared-trunk", 4, 16, 2), "shared-trunk cannot judge 16 px"),
        (("shared-trunk", 4, 32, -1), "shared-trunk with -1 classes"),
        (("whole", 4, 64, 2), "whole with 2 classes; only shared-trunk has them"),
    ],
)
def test_impossible_discriminators_are_refused_with_the_value(arguments, text):
    kind, channels, size, classes = arguments
    with pytest.raises(ValueError, match=text):
        create(kind, channels=channels, size=size, classes=classes)


def test_a_part_lies_in_the_middle_of_its_context_at_the_same_scale():
    network = create("context-conditioned", channels=2, size=64)
    network.part.load_state_dict(network.around.state_dict())
    part = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    embedded = F.pad(part, (32, 32, 32, 32))
    assert torch.allclose(network.part(part), network.around(embedded), atol=1e-6)
    same = network(part, embedded).logits
    assert not torch.equal(same, network(part, embedded.flip(3)).logits)


def test_convolutions_begin_small():
    kinds = {"spectral-patch": 64, "instance-patch": 64, "whole": 64, "shared-trunk": 64}
    for kind, size in (kinds | {"context-conditioned": 64}).items():
        torch.manual_seed(0)
        network = create(kind, channels=16, size=size)
        found = [value for value in network.parameters() if value.ndim == 4]
        assert len(found) >= 5
        assert all(value.std().item() == pytest.approx(0.02, rel=0.1) for value in found)


def test_no_sample_of_a_shared_trunk_sees_another():
    torch.manual_seed(0)
    network = create("shared-trunk", channels=4, size=32, classes=3).train()
    images = torch.rand(3, 3, 32, 32)
    together, alone = network(images), network(images[:1])
    assert torch.allclose(together.logits[:1], alone.logits, atol=1e-6)
    assert torch.allclose(together.classes[:1], alone.classes, atol=1e-6)


@pytest.mark.slow
def test_a_shared_trunk_learns_classes_from_few_labels_and_what_is_filled():
    """Stripes lie or stand; the same eight of a batch have labels, and fakes lack their middle."""
    torch.manual_seed(0)

    def stripes(count):
        lying = torch.arange(count) % 2
        phase = torch.rand(count, 1, 1, 1) * 6
        waves = torch.sin(torch.arange(32.0)[:, None] * 0.8 + phase).expand(count, 3, 32, 32)
        return torch.where(lying.bool().view(-1, 1, 1, 1), waves, waves.transpose(2, 3)), lying

    network = create("shared-trunk", channels=4, size=32, classes=2)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3, betas=(0.5, 0.999))
    mask = F.pad(torch.ones(1, 1, 16, 16), (8, 8, 8, 8))
    few, named = stripes(8)
    for _ in range(30):
        real, _ = stripes(8)
        real, labels = torch.cat([few, real]), torch.cat([named, torch.full((8,), -1)])
        judged, fake = network(real), network(real * (1 - mask))
        loss = losses.classification(judged.classes, labels)
        loss = loss + losses.adversarial_discriminator(
            "cross-entropy", judged.logits, fake.logits, mask
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        images, truth = stripes(32)
        judged, fake = network(images), network(images * (1 - mask))
    assert (judged.classes.argmax(1) == truth).float().mean() > 0.9
    assert judged.logits.min() > fake.logits.max()


def test_a_part_without_its_context_is_refused():
    network = create("context-conditioned", channels=2, size=64)
    with pytest.raises(ValueError, match="context is None"):
        network(torch.zeros(1, 3, 64, 64))


def test_a_published_state_dict_gives_the_same_logits():
    state = published_state(4, seed=2)
    network = create("spectral-patch", channels=4, size=64).double().eval()
    network.load_state_dict(from_published(state))
    image = torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(0)).double() * 2 - 1
    logits = network(image).logits
    assert torch.allclose(logits, forward_by_hand(state, image), rtol=1e-9, atol=1e-12)


def test_every_layer_but_the_last_is_spectrally_normalised():
    network = create("spectral-patch", channels=8, size=32).train()
    for _ in range(60):
        network(torch.zeros(1, 3, 32, 32))
    network.eval()
    norms = [
        torch.linalg.matrix_norm(network.conv[i].weight.flatten(1), ord=2) for i in range(0, 8, 2)
    ]
    assert torch.allclose(torch.stack(norms), torch.ones(4), atol=0.02)
    assert not hasattr(network.conv[8], "parametrizations")
