"""`inpaint import`: from a published file to a checkpoint that is served."""

import hashlib
import os

import numpy as np
import pytest
import torch

from inpaint import cli
from models import checkpoint
from models.filler import TorchFiller
from models.published import FORMATS
from models.registry import create

GENERATORS = {  # with their golden vectors and the published number of parameters
    "aotgan": ("aotgan_g", 15_200_835),
    "context-encoder-boyuanjiang": ("cecentre_g", 71_124_544),
    "pytorch-gan-context-encoder": ("ce_g", 40_401_187),
    "pytorch-gan-ccgan": ("ccgan_g", 29_257_731),
}


@pytest.fixture
def small():
    """An AOT-GAN of one block, drawn."""
    torch.manual_seed(0)
    return create("aotgan", {"blocks": 1}).state_dict()


@pytest.fixture
def file(tmp_path, small):
    path = tmp_path / "G0000000.pt"
    torch.save(small, path)
    return path


def import_into(folder, format, file, *options):
    """Run `inpaint import`, and return its exit code."""
    arguments = ["import", format, str(file), "--name", "mine", "--out", str(folder), *options]
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    return ended.value.code


def computed(format, generator, vectors):
    """The output of an imported generator for the golden inputs."""
    if format == "aotgan":
        return generator(vectors["in.image"], vectors["in.mask"])
    if format == "pytorch-gan-ccgan":
        return generator.unet(vectors["in.masked"], vectors["in.lowres"])
    if format == "pytorch-gan-context-encoder":
        return generator.main(vectors["in.image"] * (1 - vectors["in.mask"]) + vectors["in.mask"])
    image = vectors["in.image"]  # whole: the generator blanks its centre by itself
    return generator(image, torch.zeros_like(image[:, :1]))[..., 32:96, 32:96]


@pytest.mark.slow  # the published sizes
@pytest.mark.parametrize("format", GENERATORS)
def test_an_imported_network_computes_and_fills_as_the_published_code(
    format, golden_vectors, tmp_path
):
    name, parameters = GENERATORS[format]
    vectors, weights, allowed = golden_vectors(name)
    torch.save(weights, tmp_path / "published.pth")
    del weights

    code = import_into(tmp_path, format, tmp_path / "published.pth", "--license", "CC0-1.0")
    generator, header = checkpoint.load(tmp_path / "mine.safetensors")
    with torch.no_grad():
        found = computed(format, generator, vectors)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 128, 128, 3), np.uint8)
    holes = np.zeros((1, 128, 128), bool)
    holes[:, 40:80, 40:80] = True
    fills = TorchFiller(generator, precision="float32")(pixels, holes)

    assert code == 0
    assert sum(tensor.numel() for tensor in generator.parameters()) == parameters
    expected = vectors["eval.out"]
    assert (found - expected).abs().max() < allowed["eval"] * expected.abs().max()
    assert header.architecture == FORMATS[format].architecture
    assert fills[holes].std() > 1
    assert not np.array_equal(fills[holes], pixels[holes])


def test_the_header_says_where_the_weights_come_from_and_on_what_terms(tmp_path, file, capsys):
    code = import_into(
        tmp_path / "new" / "folder",
        "aotgan",
        file,
        *("--license", "LicenseRef-Author", "--license-note", "research only"),
        *("--source", "the authors' page"),
    )

    assert code == 0
    path = tmp_path / "new" / "folder" / "mine.safetensors"
    header = checkpoint.read_header(path)
    assert header.training == {
        "imported": {
            "format": "aotgan",
            "file": "G0000000.pt",
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "repository": "researchmm/AOT-GAN-for-Inpainting",
            "code_license": "Apache-2.0",
            "source": "the authors' page",
        }
    }
    assert (header.license, header.license_note) == ("LicenseRef-Author", "research only")
    assert header.source == "arXiv:2104.01431"
    assert header.config["blocks"] == 1
    said = capsys.readouterr().out
    assert str(path) in said
    assert "2,809,155 parameters" in said


def test_weights_are_kept_bit_for_bit_unless_half_precision_is_asked_for(tmp_path, file, small):
    options = ("--license", "CC0-1.0")
    import_into(tmp_path / "whole", "aotgan", file, *options)
    import_into(tmp_path / "half", "aotgan", file, *options, "--half")

    whole, half = (
        checkpoint.load(tmp_path / folder / "mine.safetensors")[0].state_dict()
        for folder in ("whole", "half")
    )

    assert all(torch.equal(whole[key], value) for key, value in small.items())
    assert all(torch.equal(half[key], value.half().float()) for key, value in small.items())


def test_a_value_beyond_half_precision_is_refused_with_the_remedy(tmp_path, small, capsys):
    small["decoder.4.bias"][0] = 1e6
    torch.save(small, tmp_path / "G.pt")

    code = import_into(tmp_path, "aotgan", tmp_path / "G.pt", "--license", "CC0-1.0", "--half")

    assert code == 1
    said = capsys.readouterr().err
    assert "decoder.4.bias" in said
    assert "--no-half" in said
    assert not (tmp_path / "mine.safetensors").exists()


def test_a_licence_is_required_with_the_reason(tmp_path, file, capsys):
    code = import_into(tmp_path, "aotgan", file)

    assert code == 2
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert "Weights have terms of their own" in said
    assert not (tmp_path / "mine.safetensors").exists()


@pytest.mark.parametrize(
    "options",
    [
        ("--license", "Apache 2.0"),
        ("--license", "CC0-1.0", "--name", "a/b"),
        ("--license", "CC0-1.0", "--name", ".hidden"),
        ("--license", "CC0-1.0", "--out", os.devnull),
    ],
)
def test_an_impossible_option_is_wrong_usage(tmp_path, file, options, capsys):
    assert import_into(tmp_path, "aotgan", file, *options) == 2
    assert options[-2] in capsys.readouterr().err


def test_an_unknown_format_is_refused_with_the_known_ones(tmp_path, file, capsys):
    assert import_into(tmp_path, "lama", file, "--license", "CC0-1.0") == 2
    assert "pytorch-gan-ccgan" in capsys.readouterr().err


def test_a_refused_file_leaves_no_checkpoint(tmp_path, file, capsys):
    file.write_bytes(file.read_bytes()[:-1000])

    assert import_into(tmp_path, "aotgan", file, "--license", "CC0-1.0") == 1
    assert capsys.readouterr().err.startswith("inpaint: G0000000.pt ")
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
