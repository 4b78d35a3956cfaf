import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from inpaint.errors import BadCheckpoint
from inpaint.highres import SizeRule
from models.checkpoint import Header, load, read_header, save
from models.generator import Generator
from models.registry import create

TINY = {"channels": 4, "blocks": 1, "rates": [1, 2], "gate": True}


@pytest.fixture
def generator() -> Generator:
    torch.manual_seed(0)
    return create("aotgan", TINY)


@pytest.fixture
def file(tmp_path: Path, generator: Generator) -> Path:
    path = tmp_path / "tiny.safetensors"
    save(path, generator, Header.of(generator, name="tiny", license="CC0-1.0"))
    return path


def rewrite(path: Path, *, drop: str = "", add: dict | None = None, **strings: str) -> None:
    """Write the file again with other header strings, or tensors left out or put in."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() | strings
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    tensors = {name: value for name, value in tensors.items() if name != drop} | (add or {})
    save_file(tensors, path, {key: text for key, text in metadata.items() if text})


def refusal(path: Path) -> str:
    with pytest.raises(BadCheckpoint) as caught:
        load(path)
    assert path.name in caught.value.detail
    return caught.value.detail


def test_weights_come_back_bit_for_bit(file, generator):
    loaded, _ = load(file)

    assert loaded.config == generator.config
    assert not loaded.training
    for name, tensor in generator.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


def test_the_header_comes_back_as_it_was_given(tmp_path, generator):
    generator.rule = SizeRule(multiple=8, minimum=64, trained=128)
    header = Header.of(
        generator,
        name="tiny",
        license="CC-BY-4.0",
        license_note="photographs of three collections",
        training={"images": 3, "hours": 0.5, "recipe": 'name = "ü"\n'},
        scores={"20-30": {"lpips": 0.1}},
    )
    save(tmp_path / "tiny.safetensors", generator, header)

    loaded, read = load(tmp_path / "tiny.safetensors")

    assert read == header == read_header(tmp_path / "tiny.safetensors")
    assert read.config == TINY
    assert read.source == "arXiv:2104.01431"
    assert loaded.rule == SizeRule(multiple=8, minimum=64, trained=128)


def test_the_file_has_string_metadata_that_any_reader_of_safetensors_can_show(file):
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()

    assert metadata["format"] == "inpaint-checkpoint/1"
    assert json.loads(metadata["config"]) == TINY


def test_half_precision_halves_the_file_and_loads_as_float32(tmp_path, file, generator):
    small = tmp_path / "small.safetensors"
    header = Header.of(generator, name="small", license="CC0-1.0")
    save(small, generator, header, dtype=torch.float16)

    loaded, _ = load(small)

    weight = generator.state_dict()["decoder.4.weight"]
    assert small.stat().st_size < 0.8 * file.stat().st_size  # the header weighs as much as before
    assert loaded.state_dict()["decoder.4.weight"].dtype == torch.float32
    assert torch.equal(loaded.state_dict()["decoder.4.weight"], weight.half().float())


def test_a_loaded_generator_can_be_trained_on(file):
    loaded, _ = load(file)

    loaded(torch.zeros(1, 3, 16, 16), torch.ones(1, 1, 16, 16)).sum().backward()

    assert all(parameter.grad is not None for parameter in loaded.parameters())


def test_saving_leaves_nothing_but_the_file(file):
    assert list(file.parent.iterdir()) == [file]


def test_a_failed_save_keeps_the_old_file(file, generator):
    before = file.read_bytes()
    with torch.no_grad():
        generator.decoder[4].bias[0] = float("nan")

    with pytest.raises(ValueError, match=r"not finite.*decoder\.4\.bias"):
        save(file, generator, Header.of(generator, name="tiny", license="CC0-1.0"))

    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_a_weight_too_large_for_half_precision_is_refused_at_saving(tmp_path, generator):
    with torch.no_grad():
        generator.decoder[4].bias[0] = 1e6

    with pytest.raises(ValueError, match="not finite as torch.float16"):
        save(
            tmp_path / "tiny.safetensors",
            generator,
            Header.of(generator, name="tiny", license="CC0-1.0"),
            dtype=torch.float16,
        )


def test_a_path_of_another_name_is_refused_at_saving(tmp_path, generator):
    with pytest.raises(ValueError, match=r"other\.safetensors"):
        save(
            tmp_path / "other.safetensors",
            generator,
            Header.of(generator, name="tiny", license="CC0-1.0"),
        )


def test_a_header_of_another_generator_is_refused_at_saving(tmp_path, generator):
    other = create("aotgan", TINY | {"blocks": 2})

    with pytest.raises(ValueError, match="another network"):
        save(
            tmp_path / "tiny.safetensors",
            other,
            Header.of(generator, name="tiny", license="CC0-1.0"),
        )


def test_a_licence_is_required(generator):
    with pytest.raises(ValueError, match="license"):
        Header.of(generator, name="tiny", license="")


def test_a_file_without_licence_is_refused(file):
    rewrite(file, license="")

    assert "license: Field required" in refusal(file)


def test_a_missing_file_is_refused(tmp_path):
    assert "cannot be read" in refusal(tmp_path / "nowhere.safetensors")


def test_a_truncated_file_is_refused_even_where_only_the_header_is_read(file):
    file.write_bytes(file.read_bytes()[:-100])

    assert "cannot be read as safetensors" in refusal(file)
    with pytest.raises(BadCheckpoint, match="tiny.safetensors"):
        read_header(file)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04" * 100, b"\x80\x02}q\x00."])
def test_another_kind_of_file_is_refused(file, content):
    file.write_bytes(content)

    assert "cannot be read as safetensors" in refusal(file)


def test_a_folder_is_refused(tmp_path):
    (tmp_path / "folder.safetensors").mkdir()

    assert "cannot be read" in refusal(tmp_path / "folder.safetensors")


def test_safetensors_of_another_origin_are_refused(file):
    save_file({"weight": torch.zeros(2)}, file, {"format": "pt"})

    assert "format is 'pt'" in refusal(file)


def test_a_renamed_file_is_refused(file):
    renamed = file.rename(file.with_name("famous.safetensors"))

    assert "calls itself 'tiny'" in refusal(renamed)


def test_an_unknown_architecture_is_refused_with_the_known_ones(file):
    rewrite(file, architecture="vae")

    assert "unknown architecture 'vae'; known: aotgan," in refusal(file)


def test_an_unknown_configuration_key_is_refused(file):
    rewrite(file, config='{"channels": 4, "depth": 3}')

    assert "aotgan knows no depth" in refusal(file)


def test_an_impossible_configuration_is_refused(file):
    rewrite(file, config='{"rates": []}')

    assert "at least 1" in refusal(file)


def test_an_unknown_header_field_is_refused(file):
    rewrite(file, mood="good")

    assert "header field mood" in refusal(file)


def test_a_header_field_that_is_not_json_is_refused(file):
    rewrite(file, scores="{")

    assert "not JSON" in refusal(file)


def test_a_rule_wider_than_the_network_is_refused(file):
    rewrite(file, rule='{"multiple": 2, "minimum": 12}')

    assert "wider" in refusal(file)


def test_missing_tensors_are_named(file):
    rewrite(file, drop="decoder.4.bias")

    assert "missing tensors: decoder.4.bias" in refusal(file)


def test_unexpected_tensors_are_named(file):
    rewrite(file, add={"decoder.5.bias": torch.zeros(3)})

    assert "unexpected tensors: decoder.5.bias" in refusal(file)


def test_tensors_of_another_shape_are_named_with_both_shapes(file):
    rewrite(file, add={"decoder.4.bias": torch.zeros(4)})

    assert "decoder.4.bias is (4,) torch.float32, needed is (3,)" in refusal(file)


def test_integers_in_the_place_of_weights_are_refused(file):
    rewrite(file, add={"decoder.4.bias": torch.zeros(3, dtype=torch.int64)})

    assert "decoder.4.bias is (3,) torch.int64" in refusal(file)


def test_values_that_are_not_finite_are_refused(file):
    rewrite(file, add={"decoder.4.bias": torch.tensor([0.0, float("inf"), 0.0])})

    assert "not finite in: decoder.4.bias" in refusal(file)


def test_a_long_list_of_tensors_is_cut(file):
    rewrite(file, config=json.dumps(TINY | {"blocks": 3}))

    assert "and 11 more" in refusal(file)
