"""State dicts as others publish them; names and shapes are those of the golden files."""

import json
import os
import pickle
import struct
from collections import OrderedDict
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from inpaint.errors import BadCheckpoint
from models.published import FORMATS, read

GOLDEN = Path(__file__).parent / "golden"
GENERATORS = {
    "aotgan": "aotgan_g",
    "context-encoder-boyuanjiang": "cecentre_g",
    "pytorch-gan-context-encoder": "ce_g",
    "pytorch-gan-ccgan": "ccgan_g",
}


def blank(name):
    """A state dict of a published network's names, shapes and types; a file of it is small."""
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        keys = json.loads(file.metadata()["keys"])
    return {
        key: torch.zeros((), dtype=getattr(torch, kind)).expand(shape) for key, shape, kind in keys
    }


@pytest.fixture
def small():
    """An AOT-GAN of one block, drawn."""
    torch.manual_seed(0)
    return {
        key: torch.randn(tensor.shape) * 0.1
        for key, tensor in blank("aotgan_g").items()
        if not key.startswith("middle.") or key.startswith("middle.0.")
    }


@pytest.fixture
def file(tmp_path, small):
    path = tmp_path / "G0000000.pt"
    torch.save(small, path)
    return path


def refusal(path, format="aotgan"):
    with pytest.raises(BadCheckpoint) as caught:
        read(path, format)
    assert path.name in caught.value.detail
    return caught.value.detail


def test_the_formats_are_the_four_published_ones_and_documented():
    documents = (Path(__file__).parent.parent / "docs/models.md").read_text()
    assert FORMATS.keys() == GENERATORS.keys()
    assert all(
        f"\n| `{format}` | `{FORMATS[format].architecture}`" in documents for format in FORMATS
    )


# --- what is accepted -------------------------------------------------------------------------


def wrap(state):
    return {"epoch": 200, "state_dict": OrderedDict(state)}


def parallel(state):
    return {f"module.{key}": value for key, value in state.items()}


@pytest.mark.parametrize(
    "published",
    [
        dict,
        OrderedDict,
        wrap,
        parallel,
        lambda state: wrap(parallel(state)),
        lambda state: {key: torch.nn.Parameter(value) for key, value in state.items()},
        lambda state: wrap(state) | {"optimizer": {"state": {}, "param_groups": []}},
    ],
    ids=["plain", "ordered", "wrapped", "parallel", "both", "parameters", "with an optimiser"],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_state_dict_is_read_in_whatever_it_is_wrapped(tmp_path, small, published, zipped):
    path = tmp_path / "weights.bin"
    torch.save(published(small), path, _use_new_zipfile_serialization=zipped)

    state = read(path, "aotgan").state_dict()

    assert state.keys() == small.keys()
    assert all(torch.equal(state[key], value) for key, value in small.items())


def test_a_state_dict_in_safetensors_is_read(tmp_path, small):
    save_file(parallel(small), tmp_path / "model.safetensors")

    state = read(tmp_path / "model.safetensors", "aotgan").state_dict()

    assert all(torch.equal(state[key], value) for key, value in small.items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_values_of_any_float_type_become_float32(tmp_path, small, dtype):
    given = {key: value.to(dtype) for key, value in small.items()}
    torch.save(given, tmp_path / "G.pt")

    state = read(tmp_path / "G.pt", "aotgan").state_dict()

    assert all(torch.equal(state[key], value.float()) for key, value in given.items())


def test_missing_counters_of_batches_are_zero(tmp_path):
    state = blank("ccgan_g")
    published = {key: state[key] for key in state if not key.endswith("num_batches_tracked")}
    torch.save({"epoch": 1, "state_dict": published}, tmp_path / "netG.pth")

    state = read(tmp_path / "netG.pth", "pytorch-gan-ccgan").state_dict()

    counters = [value for key, value in state.items() if key.endswith("num_batches_tracked")]
    assert len(counters) == len(state) - len(published) > 0
    assert all(value.dtype == torch.int64 and value == 0 for value in counters)


class Python2Pickler(pickle._Pickler):
    """Writes names as the bytes that Python 2 has for `str`, and tensors as PyTorch 0.2 did."""

    def save_str(self, text):
        self.write(b"U" + bytes([len(text)]) + text.encode())
        self.memoize(text)

    dispatch = pickle._Pickler.dispatch | {str: save_str}

    def __init__(self, file):
        super().__init__(file, 2)
        self.storages = {}

    def reducer_override(self, value):
        if isinstance(value, torch.Tensor):
            key = str(len(self.storages))
            self.storages[key] = value
            return torch._utils._rebuild_tensor, (Stored(key), 0, value.shape, value.stride())
        return NotImplemented

    def persistent_id(self, value):
        if isinstance(value, Stored):
            size = self.storages[value.key].numel()
            return "storage", torch.cuda.FloatStorage, value.key, "cuda:0", size, None
        return None


class Stored:
    def __init__(self, key):
        self.key = key


def test_a_file_of_2017_saved_from_a_gpu_with_python_2_is_read(tmp_path, small):
    path = tmp_path / "netG_streetview.pth"
    with path.open("wb") as file:
        pickle.dump(torch.serialization.MAGIC_NUMBER, file, 2)
        pickle.dump(torch.serialization.PROTOCOL_VERSION, file, 2)
        pickle.dump({"protocol_version": 1001, "little_endian": True}, file, 2)
        pickler = Python2Pickler(file)
        pickler.dump({"epoch": 24, "state_dict": small})
        pickle.dump(list(pickler.storages), file, 2)
        for tensor in pickler.storages.values():
            file.write(struct.pack("<q", tensor.numel()) + tensor.numpy().tobytes())

    state = read(path, "aotgan").state_dict()

    assert all(torch.equal(state[key], value) for key, value in small.items())


def test_another_number_of_blocks_is_read_off_the_names(tmp_path, small):
    second = {k.replace("middle.0", "middle.1"): v for k, v in small.items() if "middle.0" in k}
    torch.save(small | second, tmp_path / "G.pt")

    assert read(tmp_path / "G.pt", "aotgan").config.blocks == 2


# --- pickles with code in them ----------------------------------------------------------------


class Writes:
    """What makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "x")


class Runs(Writes):
    """The same by a shell."""

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("kind", [Writes, Runs])
def test_the_pickles_of_these_tests_do_harm_where_they_are_loaded(tmp_path, kind):
    result = pickle.loads(pickle.dumps(kind(tmp_path / "harm")))

    if hasattr(result, "close"):
        result.close()
    assert (tmp_path / "harm").exists()


@pytest.mark.parametrize(("kind", "named"), [(Writes, "io.open"), (Runs, "posix.system")])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "published", [lambda evil: evil, lambda evil: {"state_dict": {"encoder.1.weight": evil}}]
)
def test_code_in_a_file_is_named_and_not_run(tmp_path, kind, named, zipped, published):
    path, harm = tmp_path / "G.pt", tmp_path / "harm"
    torch.save(published(kind(harm)), path, _use_new_zipfile_serialization=zipped)

    assert f"calls Python code ({named}), and none of it was run" in refusal(path)
    assert not harm.exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_code_in_a_bare_pickle_is_not_run(tmp_path, protocol):
    path, harm = tmp_path / "G.pt", tmp_path / "harm"
    path.write_bytes(pickle.dumps({"encoder.1.weight": Runs(harm)}, protocol))

    refusal(path)

    assert not harm.exists()


def test_a_whole_network_is_refused_with_the_remedy(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "net.pth")

    said = refusal(tmp_path / "net.pth")

    assert "torch.nn.modules.linear.Linear" in said
    assert "network.state_dict()" in said


# --- other files ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 0.9999])
def test_a_truncated_file_is_refused(tmp_path, small, kind, share):
    path = tmp_path / "G.pt"
    state = {key: small[key] for key in ("encoder.1.weight", "encoder.1.bias")}
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])

    assert "damaged" in (said := refusal(path)) or "cannot be read" in said


def test_a_damaged_file_is_refused_or_read_but_never_breaks_the_program(tmp_path, small):
    path = tmp_path / "G.pt"
    state = {"encoder.1.bias": small["encoder.1.bias"]}
    random = np.random.default_rng(0)
    for zipped in (True, False):
        torch.save(state, path, _use_new_zipfile_serialization=zipped)
        whole = path.read_bytes()
        for _ in range(15):
            damaged = np.frombuffer(whole, np.uint8).copy()
            places = random.integers(0, len(whole), 4)
            damaged[places] = random.integers(0, 256, 4)
            path.write_bytes(damaged.tobytes())

            refusal(path)


@pytest.mark.parametrize("content", ["<!DOCTYPE html><html>", "version https://git-lfs"])
def test_another_kind_of_file_is_refused_by_what_it_begins_with(tmp_path, content):
    (tmp_path / "G.pt").write_text(content)

    said = refusal(tmp_path / "G.pt")

    assert "neither a PyTorch file" in said
    assert content[:15] in said


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "G.pt").touch()

    assert "damaged or not whole" in refusal(tmp_path / "G.pt")


def test_a_missing_file_is_refused(tmp_path):
    assert "No such file" in refusal(tmp_path / "nowhere.pt")


def test_a_file_of_lua_torch_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "paris.t7").write_bytes(b"\4\0\0\0")

    assert "Convert it" in refusal(tmp_path / "paris.t7")


@pytest.mark.parametrize("content", [[torch.zeros(2)], torch.zeros(2), 3])
def test_what_is_no_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "G.pt")

    assert f"no state dict but {type(content).__name__}" in refusal(tmp_path / "G.pt")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"iteration": 3, "generator": {"encoder.1.bias": torch.zeros(2)}}, "iteration is int"),
        ({"encoder.1.bias": [0.0, 1.0]}, "encoder.1.bias is list"),
        ({7: torch.zeros(2)}, "7 is Tensor"),
        ({"encoder.1.bias": torch.zeros(2).to_sparse()}, "encoder.1.bias is Tensor"),
    ],
)
def test_a_dict_of_other_things_is_refused(tmp_path, content, named):
    torch.save(content, tmp_path / "G.pt")

    said = refusal(tmp_path / "G.pt")

    assert named in said
    assert "accepted are tensors by name, alone or under 'state_dict'" in said


def test_optimisers_are_named_as_such_with_the_file_to_take(tmp_path, small):
    adam = {
        "state": {0: {"step": torch.tensor(1.0), "exp_avg": small["encoder.1.bias"]}},
        "param_groups": [{"lr": 1e-4, "betas": (0.0, 0.9), "params": [0]}],
    }
    torch.save({"optimG": adam, "optimD": adam}, tmp_path / "O1.pt")
    torch.save(adam, tmp_path / "adam.pt")

    for path in (tmp_path / "O1.pt", tmp_path / "adam.pt"):
        said = refusal(path)
        assert "the state of optimisers and no network" in said
        assert "the generator is G*.pt" in said


# --- another network --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("format", "name"),
    [
        ("aotgan", "aotgan_d"),
        ("context-encoder-boyuanjiang", "cecentre_d"),
        ("pytorch-gan-context-encoder", "ce_d"),
        ("pytorch-gan-ccgan", "ccgan_d"),
    ],
)
def test_a_discriminator_is_named_as_such(tmp_path, format, name):
    torch.save(blank(name), tmp_path / "D.pt")

    said = refusal(tmp_path / "D.pt", format)

    assert f"looks like a discriminator: {FORMATS[format].files}" in said


@pytest.mark.parametrize(("format", "other"), list(permutations(FORMATS, 2)))
def test_the_layout_of_another_format_is_named(tmp_path, format, other):
    torch.save(blank(GENERATORS[other]), tmp_path / "weights.pt")

    said = refusal(tmp_path / "weights.pt", format)

    assert f"not laid out as {format}" in said
    assert f"It is laid out as {other}." in said


def test_missing_and_surplus_tensors_are_counted_and_named_in_the_published_words(tmp_path):
    state = blank("ce_g")
    for key in [key for key in state if key.startswith(("model.0.", "model.27.", "model.3."))]:
        del state[key]
    state["model.28.bias"] = torch.zeros(3)
    torch.save(state, tmp_path / "g.pth")

    said = refusal(tmp_path / "g.pth", "pytorch-gan-context-encoder")

    assert "8 missing: model.0.weight, model.0.bias, model.3.weight, model.3.bias, " in said
    assert "1 too many: model.28.bias" in said
    assert "…" in said
    assert "main." not in said


def test_shapes_are_compared_and_both_are_told(tmp_path, small):
    torch.save(small | {"decoder.4.bias": torch.zeros(4)}, tmp_path / "G.pt")

    assert "1 of another shape: decoder.4.bias (4,) for (3,)" in refusal(tmp_path / "G.pt")


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.complex64, torch.float8_e5m2])
def test_weights_that_are_not_plain_floats_are_refused(tmp_path, small, dtype):
    torch.save(small | {"decoder.4.bias": torch.zeros(3).to(dtype)}, tmp_path / "G.pt")

    assert f"1 of another type: decoder.4.bias {dtype}" in refusal(tmp_path / "G.pt")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e300])
def test_values_that_are_not_finite_in_float32_are_refused(tmp_path, small, value):
    small["decoder.4.bias"] = torch.tensor([0.0, value, 0.0], dtype=torch.float64)
    torch.save(small, tmp_path / "G.pt")

    assert "values that are not finite in decoder.4.bias" in refusal(tmp_path / "G.pt")
