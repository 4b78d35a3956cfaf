import json

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from inpaint.errors import BadCheckpoint
from inpaint.highres import SizeRule
from models.checkpoint import Header, load, save
from models.context_encoder import (
    CentreContextEncoder,
    ChannelWiseFullyConnected,
    ContextEncoder,
)

MEAN_COLOUR = torch.tensor([-0.08235, -0.18431, -0.03529])  # 117, 104, 123 of 255


def parameters(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def tiny(bottleneck: str = "strided") -> CentreContextEncoder:
    torch.manual_seed(0)
    config = CentreContextEncoder.Config(
        bottleneck=bottleneck,  # type: ignore[arg-type]  # one of the two
        width=4,
        bottleneck_channels=8,
    )
    return CentreContextEncoder(config).eval()


def square(start: int, end: int, *, batch: int = 1) -> Tensor:
    """Return a mask (batch,1,128,128) with rows and columns [start, end) in the hole."""
    mask = torch.zeros(batch, 1, 128, 128)
    mask[..., start:end, start:end] = 1
    return mask


def shown_to(generator: torch.nn.Module, image: Tensor, mask: Tensor) -> Tensor:
    """Return what the first layer sees."""
    seen = []
    first = generator.main[0]  # type: ignore[index, union-attr]  # a Sequential
    hook = first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        generator(image, mask)
    hook.remove()
    return seen[0]


def difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


# --- sizes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bottleneck", "count"), [("strided", 71_124_544), ("pointwise", 40_401_187)]
)
def test_the_centre_forms_have_the_published_number_of_parameters(bottleneck, count):
    with torch.device("meta"):
        generator = CentreContextEncoder(CentreContextEncoder.Config(bottleneck=bottleneck))

    assert parameters(generator) == count


def test_the_convolutional_form_has_71_190_208_parameters():
    with torch.device("meta"):
        generator = ContextEncoder(ContextEncoder.Config(form="convolutional"))

    assert parameters(generator) == 71_190_208


def test_the_channel_wise_layer_has_331_776_weights_where_a_dense_one_has_84_934_656():
    with torch.device("meta"):
        generator = ContextEncoder(ContextEncoder.Config())
        dense = torch.nn.Linear(256 * 6 * 6, 256 * 6 * 6, bias=False)
    (layer,) = [m for m in generator.modules() if isinstance(m, ChannelWiseFullyConnected)]

    assert layer.weight.numel() == 331_776
    assert layer.bias.numel() == 9_216
    assert parameters(dense) == 84_934_656


def test_the_encoder_of_the_channel_wise_form_is_alexnet_up_to_pool5():
    with torch.device("meta"):
        generator = ContextEncoder(ContextEncoder.Config())
        encoder = generator.main[:13]
        features = encoder(torch.empty(1, 3, 227, 227))

    assert features.shape == (1, 256, 6, 6)
    assert parameters(encoder) == 2_334_080


@pytest.mark.parametrize(
    ("form", "side"),
    [("channel-wise", 227), ("convolutional", 128)],
)
def test_the_forms_for_a_hole_anywhere_take_one_size(form, side):
    generator = ContextEncoder(ContextEncoder.Config(form=form, width=2, bottleneck_channels=2))

    assert generator.rule == SizeRule(fixed=side, trained=side)


@pytest.mark.parametrize("key", ["width", "bottleneck_channels"])
@pytest.mark.parametrize("family", [CentreContextEncoder, ContextEncoder])
def test_an_impossible_size_is_refused(family, key):
    with pytest.raises(ValueError, match=f"{key} 0.*: at least 1"):
        family(family.Config(**{key: 0}))


def test_a_width_that_two_groups_cannot_share_is_refused():
    with pytest.raises(ValueError, match="width 3 is odd"):
        ContextEncoder(ContextEncoder.Config(width=3))


# --- what the published code computes ---------------------------------------------------------


@pytest.mark.slow  # 71 million weights, drawn and used three times
def test_the_strided_form_computes_what_the_published_one_does(golden_vectors):
    vectors, weights, allowed = golden_vectors("cecentre_g")
    image = vectors["in.image"]
    mask = square(36, 92, batch=3)
    generator = CentreContextEncoder(CentreContextEncoder.Config()).eval()
    generator.load_state_dict(ours(weights))

    with torch.no_grad():
        single = generator(image, mask)[..., 32:96, 32:96]
        double = generator.double()(image.double(), mask.double())[..., 32:96, 32:96]
        trained = generator.float().train()(image, mask)[..., 32:96, 32:96]

    assert difference(double[..., ::4, ::4], vectors["eval64.out"]) < allowed["eval64"]
    assert difference(single, vectors["eval.out"]) < allowed["eval"]
    assert difference(trained, vectors["train.out"]) < allowed["train"]
    compare_states(generator.state_dict(), vectors, allowed["train"])


@pytest.mark.slow  # 40 million weights, drawn and used three times
def test_the_pointwise_form_computes_what_the_published_one_does(golden_vectors):
    vectors, weights, allowed = golden_vectors("ce_g")
    mask = vectors["in.mask"]  # of 128x96 pixels: for the layers alone
    shown = vectors["in.image"] * (1 - mask) + mask
    generator = CentreContextEncoder(CentreContextEncoder.Config(bottleneck="pointwise")).eval()
    generator.load_state_dict(ours(weights))

    with torch.no_grad():
        single = generator.main(shown)
        double = generator.double().main(shown.double())
        trained = generator.float().train().main(shown)

    assert difference(double[..., ::4, ::4], vectors["eval64.out"]) < allowed["eval64"]
    assert difference(single, vectors["eval.out"]) < allowed["eval"]
    assert difference(trained, vectors["train.out"]) < allowed["train"]
    compare_states(generator.state_dict(), vectors, allowed["train"])


def ours(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors under our names; the pointwise form is published as `model`."""
    return {key.replace("model.", "main.", 1): tensor for key, tensor in state.items()}


def compare_states(state: dict[str, Tensor], vectors: dict[str, Tensor], allowed: float) -> None:
    """Compare what training has left in the norms."""
    after = {key[6:]: value for key, value in vectors.items() if key.startswith("after.")}
    assert after
    for key, expected in ours(after).items():
        assert difference(state[key].double(), expected.double()) < allowed


# --- what the networks see --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bottleneck", "blank", "colour"),
    [("strided", (36, 92), MEAN_COLOUR), ("pointwise", (32, 96), torch.ones(3))],
)
def test_the_centre_is_blanked_whatever_the_hole(bottleneck, blank, colour):
    image = torch.rand(1, 3, 128, 128)

    shown = shown_to(tiny(bottleneck), image, square(60, 61))

    hole = square(*blank).bool().expand(1, 3, 128, 128)
    expected = torch.where(hole, colour.view(1, 3, 1, 1), image)
    assert torch.allclose(shown, expected, atol=1e-5)


@pytest.mark.parametrize(("bottleneck", "blank"), [("strided", (36, 92)), ("pointwise", (32, 96))])
def test_a_hole_beyond_the_centre_has_the_colour_of_what_is_known(bottleneck, blank):
    image = torch.rand(1, 3, 128, 128)
    mask = square(5, 9)

    shown = shown_to(tiny(bottleneck), image, mask)

    known = (torch.maximum(mask, square(*blank)) == 0)[0, 0]
    colour = image[0][:, known].mean(1)
    assert torch.allclose(shown[0, :, 5:9, 5:9], colour.view(3, 1, 1).expand(3, 4, 4), atol=1e-5)


def test_the_strided_form_sees_the_overlap_and_predicts_it():
    generator = tiny()
    mask = square(36, 92)
    image = torch.rand(1, 3, 128, 128)
    other = image.clone()
    other[..., 32:36, 32:96] *= -1

    with torch.no_grad():
        fill, changed = generator(image, mask), generator(other, mask)

    assert not torch.equal(fill[..., 36:92, 36:92], changed[..., 36:92, 36:92])
    assert not torch.equal(fill[..., 32:36, 32:96], image[..., 32:36, 32:96])


def test_outside_its_centre_a_fill_is_what_was_visible():
    image = torch.rand(1, 3, 128, 128)

    fill = tiny()(image, square(40, 90))

    rim = ~square(32, 96).bool().expand_as(fill)
    assert torch.equal(fill[rim], image[rim])


def test_the_convolutional_form_sees_its_hole_in_the_mean_colour():
    config = ContextEncoder.Config(form="convolutional", width=1, bottleneck_channels=2)
    image, mask = torch.rand(1, 3, 128, 128), square(5, 50)

    shown = shown_to(ContextEncoder(config).eval(), image, mask)

    expected = torch.where(mask.bool(), MEAN_COLOUR.view(1, 3, 1, 1), image)
    assert torch.allclose(shown, expected, atol=1e-5)


def test_the_channel_wise_form_sees_its_hole_gray():
    image, mask = torch.rand(1, 3, 227, 227), torch.zeros(1, 1, 227, 227)
    mask[..., 9:99, 7:77] = 1

    shown = shown_to(ContextEncoder(ContextEncoder.Config(width=2)), image, mask)

    assert torch.equal(shown, image * (1 - mask))


# --- the channel-wise layer -------------------------------------------------------------------


def test_the_channel_wise_layer_multiplies_each_channel_by_its_own_matrix():
    torch.manual_seed(0)
    layer = ChannelWiseFullyConnected(5, 3)
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(2, 5, 3, 3)

    found = layer(x)

    for channel in range(5):
        matrix, bias = layer.weight[channel], layer.bias[channel]
        expected = F.linear(x[:, channel].flatten(1), matrix.T, bias)
        assert torch.allclose(found[:, channel].flatten(1), expected, atol=1e-6)


def test_the_channel_wise_layer_carries_one_corner_to_the_other_but_to_no_other_channel():
    torch.manual_seed(0)
    layer = ChannelWiseFullyConnected(4, 6)
    x = torch.zeros(1, 4, 6, 6)
    before = layer(x)
    x[0, 1, 0, 0] = 1

    changed = (layer(x) != before)[0]

    assert changed[1, 5, 5]
    assert not changed[[0, 2, 3]].any()


def test_every_pixel_of_the_channel_wise_form_depends_on_the_opposite_corner():
    torch.manual_seed(0)
    generator = ContextEncoder(ContextEncoder.Config(width=4)).double()
    image = torch.rand(1, 3, 227, 227, dtype=torch.double).requires_grad_()
    mask = torch.zeros(1, 1, 227, 227, dtype=torch.double)

    generator(image, mask)[..., -1, -1].sum().backward()

    assert image.grad is not None
    assert image.grad[..., :11, :11].abs().max() > 0


# --- files ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wider", [{"fixed": 256}, {"fixed": None}, {"hole_share": 1.0}], ids=lambda wider: str(wider)
)
def test_a_checkpoint_with_a_rule_that_the_network_cannot_meet_is_refused(tmp_path, wider):
    path = tmp_path / "tiny.safetensors"
    generator = tiny()
    save(path, generator, Header.of(generator, name="tiny", license="CC0-1.0"))
    with safe_open(path, "pt") as file:
        strings = file.metadata()
    rule = json.loads(strings["rule"]) | wider
    save_file(generator.state_dict(), path, strings | {"rule": json.dumps(rule)})

    with pytest.raises(BadCheckpoint, match="is wider than the network's"):
        load(path)
