import torch
import torch.nn.functional as F

from inpaint.highres import SizeRule
from models.aotgan_compact import CompactAOTBlock, CompactAOTGAN

SMALL = CompactAOTGAN.Config(width=4, channels=8, blocks=2, rates=(1, 2))


def small() -> CompactAOTGAN:
    torch.manual_seed(0)
    return CompactAOTGAN(SMALL).eval()


def test_the_shipped_size_has_6_3_million_parameters():
    parameters = sum(p.numel() for p in CompactAOTGAN(CompactAOTGAN.Config()).parameters())

    assert parameters == 6_320_988
    assert parameters <= 7_500_000


def test_blocks_work_at_an_eighth_of_the_side():
    generator = small()
    shapes = []
    generator.middle[0].register_forward_hook(lambda *call: shapes.append(call[2].shape))

    generator(torch.zeros(1, 3, 32, 48), torch.zeros(1, 1, 32, 48))

    assert shapes == [(1, 8, 4, 6)]


def test_no_convolution_works_at_full_resolution():
    generator = small()
    widths = []
    for module in generator.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda *call: widths.append(call[2].shape[3]))

    generator(torch.zeros(1, 3, 64, 64), torch.zeros(1, 1, 64, 64))

    assert max(widths) == 32


def test_a_block_is_the_gated_sum_of_its_input_and_its_branches():
    torch.manual_seed(0)
    block = CompactAOTBlock(8, (1, 3)).double()
    x = torch.randn(2, 8, 9, 7, dtype=torch.float64)
    state = block.state_dict()

    def conv(x: torch.Tensor, name: str, padding: int = 0, dilation: int = 1) -> torch.Tensor:
        x = F.pad(x, (padding,) * 4)
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], dilation=dilation)

    branches = [F.relu(conv(x, "branches.0", 1, 1)), F.relu(conv(x, "branches.1", 3, 3))]
    fused = conv(torch.cat(branches, 1), "fuse", 1)
    gate = 1 / (1 + torch.exp(-conv(x, "gate")))

    assert torch.allclose(block(x), x * (1 - gate) + fused * gate, atol=1e-12)


def test_a_fresh_block_passes_most_of_its_input():
    torch.manual_seed(0)
    block = CompactAOTGAN(SMALL).middle[0]

    gate = torch.sigmoid(block.gate(torch.zeros(1, 8, 4, 4)))

    assert torch.allclose(gate, torch.tensor(0.2689), atol=1e-3)


def test_a_fill_depends_on_the_window_near_the_hole_and_not_on_its_statistics():
    generator = small()
    near, far = torch.zeros(1, 3, 16, 512), torch.zeros(1, 3, 16, 512)
    far[..., 480:] = 1
    mask = torch.zeros(1, 1, 16, 512)
    mask[..., 4:12, 4:12] = 1

    assert torch.equal(generator(near, mask)[..., :64], generator(far, mask)[..., :64])


def test_windows_are_multiples_of_eight_from_16_pixels_on():
    assert small().rule == SizeRule(multiple=8, minimum=16, trained=256)
