"""Published state dicts, read without running anything that is in them, become generators of ours.

In: a file in one of the layouts of `FORMATS`, written by PyTorch or as safetensors.
Out: the generator, and for the header of its checkpoint the record of where its weights come from.

Key names, shapes and the licences of the code are facts of the repositories named below.
"""

import hashlib
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from inpaint.errors import BadCheckpoint

from .checkpoint import blank
from .generator import Generator

State = Mapping[str, Tensor]

LISTED = 5  # names in a message, at most
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # values that are taken
COUNTER = ".num_batches_tracked"  # of batch norms; files from before PyTorch 0.4.1 lack it
WRAPPER = "state_dict"  # of {"epoch": …, "state_dict": …}
PARALLEL = "module."  # before every name of what was saved from several GPUs
ACCEPTED = f"accepted are tensors by name, alone or under {WRAPPER!r}"
TRUNK = "main."  # before most names of our Context Encoders


@dataclass(frozen=True)
class Format:
    """A layout in which the weights of a generator are published, and what it becomes here."""

    architecture: str
    repository: str  # on GitHub, whose code defines the layout
    code_license: str  # SPDX; of that code, not of weights
    files: str  # what lies beside the generator's file
    config: Mapping[str, object] = field(default_factory=dict)
    sizes: Callable[[State], dict[str, object]] = lambda state: {}  # read off the names
    trunk: str = TRUNK  # what stands there in the place of our `main.`

    def build(self, state: State) -> tuple[Generator, dict[str, Tensor]]:
        """Return the generator without memory, and its tensors by their published names."""
        generator = blank(self.architecture, {**self.config, **self.sizes(state)})
        named = {
            self.trunk + key.removeprefix(TRUNK) if key.startswith(TRUNK) else key: tensor
            for key, tensor in generator.state_dict().items()
        }
        return generator, named


def _blocks(state: State) -> dict[str, object]:
    """Return how many blocks an AOT-GAN has: its training can be told."""
    numbers = {name.split(".")[1] for name in state if name.startswith("middle.")}
    return {"blocks": len(numbers)} if numbers else {}


FORMATS = {
    "aotgan": Format(
        architecture="aotgan",
        repository="researchmm/AOT-GAN-for-Inpainting",
        code_license="Apache-2.0",
        files="the generator is G*.pt, the discriminator D*.pt, the optimisers are O*.pt",
        sizes=_blocks,
    ),
    "context-encoder-boyuanjiang": Format(
        architecture="context-encoder-centre",
        config={"bottleneck": "strided"},
        repository="BoyuanJiang/context_encoder_pytorch",
        code_license="MIT",
        files="the generator is netG*.pth, the discriminator netlocalD.pth",
    ),
    "pytorch-gan-context-encoder": Format(
        architecture="context-encoder-centre",
        config={"bottleneck": "pointwise"},
        repository="eriklindernoren/PyTorch-GAN",
        code_license="MIT",
        files="of its two networks Generator is accepted",
        trunk="model.",
    ),
    "pytorch-gan-ccgan": Format(
        architecture="ccgan",
        repository="eriklindernoren/PyTorch-GAN",
        code_license="MIT",
        files="of its two networks Generator is accepted",
    ),
}


def read(path: Path, name: str) -> Generator:
    """Return the generator whose weights a file holds, in float32 on the CPU and in eval mode.

    Args:
        path: a state dict of exactly the generator's names and shapes, by itself or under
            "state_dict". `module.` before all names is taken off, missing counters of batches are
            zero, and float values of any precision are accepted.
        name: a key of `FORMATS`.

    Raises:
        BadCheckpoint: naming the file and what is wrong with it.
    """
    layout = FORMATS[name]
    state = state_dict(path, beside=layout.files)
    generator, expected = layout.build(state)
    if faults := _faults(expected, state):
        found = "; ".join(faults)
        raise BadCheckpoint(
            f"{path.name} is not laid out as {name}: {found}.{_guess(state, layout)}"
        )
    values = [  # copies: published tensors may share memory
        state[key].to(tensor.dtype, memory_format=torch.contiguous_format, copy=True)
        if key in state
        else torch.zeros_like(tensor, device="cpu")
        for key, tensor in expected.items()
    ]
    named = dict(zip(generator.state_dict(), values, strict=True))
    if strange := [key for key, value in named.items() if not torch.isfinite(value).all()]:
        raise BadCheckpoint(f"{path.name}: values that are not finite in {_listed(strange)}")
    generator.load_state_dict(named, assign=True)
    return generator.eval()


def origin(path: Path, name: str, source: str = "") -> dict[str, object]:
    """Return where the weights of a file come from, as `training` of a checkpoint's header has it.

    Args:
        path: the published file.
        name: a key of `FORMATS`.
        source: where the file itself was had, if that is known.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    layout = FORMATS[name]
    return {
        "format": name,
        "file": path.name,
        "sha256": digest,
        "repository": layout.repository,
        "code_license": layout.code_license,
        "source": source,
    }


def state_dict(path: Path, *, beside: str = "take the network's file") -> dict[str, Tensor]:
    """Return the tensors of a file by name, whatever they are wrapped in; nothing in it is run.

    Args:
        path: written by PyTorch or as safetensors.
        beside: told to who took the optimisers' file instead.

    Raises:
        BadCheckpoint: if it is neither, damaged, or holds something else.
    """
    content = _content(path)
    if isinstance(content, Mapping) and isinstance(content.get(WRAPPER), Mapping):
        content = content[WRAPPER]
    if not isinstance(content, Mapping):
        raise BadCheckpoint(
            f"{path.name} holds no state dict but {type(content).__name__}; {ACCEPTED}"
        )
    inner = [value for value in content.values() if isinstance(value, Mapping)]
    if any("param_groups" in value for value in [content, *inner]):
        raise BadCheckpoint(f"{path.name} holds the state of optimisers and no network: {beside}")
    strange = [
        f"{key} is {type(value).__name__}"
        for key, value in content.items()
        if not isinstance(key, str) or not _is_plain(value)
    ]
    if strange:
        raise BadCheckpoint(f"{path.name} is no state dict: {_listed(strange)}; {ACCEPTED}")
    parallel = all(key.startswith(PARALLEL) for key in content)
    return {key.removeprefix(PARALLEL) if parallel else key: content[key] for key in content}


def _content(path: Path) -> object:
    """Return what a file holds; nothing in it is run."""
    if path.suffix == ".t7":
        raise BadCheckpoint(
            f"{path.name} is a file of Lua Torch, which is not read here. Convert it into a "
            "PyTorch state dict first (docs/models.md, Published weights)."
        )
    head = b""
    try:
        with path.open("rb") as file:
            head = file.read(16)
        if head[8:9] == b"{":  # safetensors: the header's length in 8 bytes, then JSON
            return load_file(path)
        with warnings.catch_warnings(action="ignore"):  # of old pickles, and of odd ones
            return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        if found := re.search(r"GLOBAL (\S+)", str(error)):
            raise BadCheckpoint(
                f"{path.name} calls Python code ({found[1]}), and none of it was run. Accepted are "
                "plain tensors: of a whole network, save network.state_dict()."
            ) from error
        raise BadCheckpoint(
            f"{path.name} is damaged, or neither a PyTorch file of plain tensors nor safetensors; "
            f"it begins with {head!r}"
        ) from error
    except (SafetensorError, OSError) as error:
        raise BadCheckpoint(f"{path.name} cannot be read: {error}") from error
    except Exception as error:  # a damaged pickle raises whatever its bytes lead to
        reason = str(error).partition(". ")[0] or type(error).__name__
        raise BadCheckpoint(f"{path.name} is damaged or not whole: {reason}") from error


def _faults(expected: State, found: State) -> list[str]:
    """Return what keeps tensors from being a network's, a line for each kind of fault."""
    both = [key for key in expected if key in found]
    kinds = {
        "missing": [key for key in expected if key not in found and not key.endswith(COUNTER)],
        "too many": [key for key in found if key not in expected],
        "of another shape": [
            f"{key} {tuple(found[key].shape)} for {tuple(expected[key].shape)}"
            for key in both
            if found[key].shape != expected[key].shape
        ],
        "of another type": [
            f"{key} {found[key].dtype}"
            for key in both
            if found[key].dtype
            not in (FLOATS if expected[key].is_floating_point() else (expected[key].dtype,))
        ],
    }
    return [f"{len(names)} {kind}: {_listed(names)}" for kind, names in kinds.items() if names]


def _guess(state: State, layout: Format) -> str:
    """Say what a state dict is that is not laid out as it should be, where that can be seen."""
    for name, other in FORMATS.items():
        if not _faults(other.build(state)[1], state):
            return f" It is laid out as {name}."
    # one map of logits, or spectral norms
    judges = any(value.ndim == 4 and len(value) == 1 for value in state.values())
    if judges or any(name.endswith(".weight_orig") for name in state):
        return f" It looks like a discriminator: {layout.files}."
    return ""


def _is_plain(value: object) -> bool:
    """Say whether this is a tensor of values: dense, and on the CPU."""
    return isinstance(value, Tensor) and value.layout is torch.strided and value.is_cpu


def _listed(names: list[str]) -> str:
    """Return the first names, and that there are more."""
    return ", ".join(names[:LISTED]) + (", …" if len(names) > LISTED else "")
