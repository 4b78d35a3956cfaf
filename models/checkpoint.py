"""A model's file: safetensors with a typed header, and no pickle anywhere.

The header lies in the file's `__metadata__`, whose values are strings: structured fields are JSON.
It says what is needed to build the generator again and to know where its weights come from.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor
from torch.overrides import TorchFunctionMode

from inpaint.errors import BadCheckpoint
from inpaint.highres import SizeRule

from .generator import Generator
from .registry import architecture_of, create

FORMAT: Final = "inpaint-checkpoint/1"
SUFFIX = ".safetensors"
STRUCTURED = ("config", "rule", "training", "scores")  # JSON in the file, objects in the header
LISTED = 5  # names of tensors in a message, at most


class Header(BaseModel):
    """What a checkpoint says about itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["inpaint-checkpoint/1"] = FORMAT
    name: str = Field(min_length=1)  # the file's stem
    architecture: str
    config: dict[str, Any]  # complete, defaults included; JSON, hence Any
    rule: SizeRule  # may narrow that of the class
    training: dict[str, Any] = {}  # facts: recipe, data, images, steps, seed, hours, device; JSON
    scores: dict[str, Any] = {}  # written by the evaluation; JSON
    license: str = Field(min_length=1)  # SPDX identifier, of the weights
    license_note: str = ""  # what the terms of the data imply
    source: str = ""  # paper, with its arXiv number or DOI

    @classmethod
    def of(
        cls,
        generator: Generator,
        *,
        name: str,
        license: str,
        license_note: str = "",
        training: Mapping[str, object] | None = None,
        scores: Mapping[str, object] | None = None,
    ) -> "Header":
        """Return the header of a generator; what the generator knows is taken from it."""
        return cls(
            name=name,
            architecture=architecture_of(generator),
            config=_config(generator),
            rule=generator.rule,
            training=dict(training or {}),
            scores=dict(scores or {}),
            license=license,
            license_note=license_note,
            source=generator.source,
        )


def save(
    path: Path, generator: Generator, header: Header, *, dtype: torch.dtype = torch.float32
) -> None:
    """Write a checkpoint; whoever reads `path` meanwhile sees the old file or the new one, whole.

    Args:
        path: `header.name` with the suffix `.safetensors`.
        generator: its weights are written as `dtype`; other tensors (counters) as they are.
        header: must describe the generator; see `Header.of`.
        dtype: float16 halves the file.

    Raises:
        ValueError: if path, header and generator disagree, or a weight is not finite as `dtype`.
    """
    if path.name != header.name + SUFFIX:
        raise ValueError(f"{path.name} is not the file name of {header.name!r}")
    if (header.architecture, header.config) != (architecture_of(generator), _config(generator)):
        raise ValueError(f"the header of {header.name} describes another generator")
    tensors = {}
    for name, tensor in generator.state_dict().items():
        value = tensor.detach().cpu()
        tensors[name] = (value.to(dtype) if value.is_floating_point() else value).contiguous()
    if strange := _not_finite(tensors):
        raise ValueError(f"{path.name}: not finite as {dtype}: {_listed(strange)}")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(serialize(tensors, metadata=_to_strings(header)))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path) -> tuple[Generator, Header]:
    """Return the generator, in float32 on the CPU and in eval mode, and its header.

    Raises:
        BadCheckpoint: naming the file and the reason.
    """
    header = read_header(path)
    try:
        generator = blank(header.architecture, header.config)
    except (ValueError, RuntimeError, ArithmeticError) as error:
        raise BadCheckpoint(f"{path.name}: {error}") from error
    own = generator.rule
    if (
        header.rule.multiple % own.multiple
        or header.rule.minimum < own.minimum
        or header.rule.hole_share > own.hole_share
        or own.fixed not in (None, header.rule.fixed)
    ):
        raise BadCheckpoint(f"{path.name}: {header.rule} is wider than the network's {own}")
    generator.rule = header.rule
    tensors = _read_tensors(path)
    _compare(path, generator.state_dict(), tensors)
    generator.load_state_dict(tensors, assign=True)
    # complete, also where the file is older than a key of the configuration
    return generator.eval(), header.model_copy(update={"config": _config(generator)})


def blank(architecture: str, config: Mapping[str, object]) -> Generator:
    """Return a generator as `create` does, without memory: its tensors wait for values.

    Raises:
        ValueError: as `create`.
    """
    with torch.device("meta"), _Undrawn():
        return create(architecture, config)


class _Undrawn(TorchFunctionMode):
    """Leaves out the drawing of weights: without memory it imports PyTorch's compiler first."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        if func.__name__ == "normal_":
            return None
        return func(*args, **(kwargs or {}))


def read_header(path: Path) -> Header:
    """Return the header alone; no tensor is read.

    Raises:
        BadCheckpoint: naming the file and the reason.
    """
    try:
        with safe_open(path, framework="pt") as file:
            strings = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise BadCheckpoint(f"{path.name} cannot be read as safetensors: {error}") from error
    if strings.get("format") != FORMAT:
        raise BadCheckpoint(
            f"{path.name}: format is {strings.get('format')!r}; accepted is {FORMAT!r}"
        )
    try:
        values = {
            key: json.loads(text) if key in STRUCTURED else text for key, text in strings.items()
        }
        header = Header.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise BadCheckpoint(f"{path.name}: header field {key}: {first['msg']}") from error
    except json.JSONDecodeError as error:
        raise BadCheckpoint(f"{path.name}: a header field is not JSON: {error}") from error
    if header.name != path.stem:
        raise BadCheckpoint(f"{path.name} calls itself {header.name!r}; file and name must agree")
    return header


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """Return copies of all tensors, those of floats as float32."""
    try:
        with safe_open(path, framework="pt") as file:
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    except (SafetensorError, OSError) as error:
        raise BadCheckpoint(f"{path.name} cannot be read as safetensors: {error}") from error
    return {
        name: tensor.to(torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True)
        for name, tensor in stored.items()
    }


def _compare(path: Path, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Refuse tensors whose names, shapes, kinds or values cannot be the generator's."""
    if missing := [name for name in expected if name not in found]:
        raise BadCheckpoint(f"{path.name}: missing tensors: {_listed(missing)}")
    if extra := [name for name in found if name not in expected]:
        raise BadCheckpoint(f"{path.name}: unexpected tensors: {_listed(extra)}")
    wrong = [
        f"{name} is {tuple(found[name].shape)} {found[name].dtype},"
        f" needed is {tuple(tensor.shape)} {tensor.dtype}"
        for name, tensor in expected.items()
        if found[name].shape != tensor.shape or found[name].dtype != tensor.dtype
    ]
    if wrong:
        raise BadCheckpoint(f"{path.name}: {_listed(wrong)}")
    if strange := _not_finite(found):
        raise BadCheckpoint(f"{path.name}: values that are not finite in: {_listed(strange)}")


def _not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    return [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]


def _listed(names: list[str]) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _config(generator: Generator) -> dict[str, Any]:
    """Return the generator's configuration as JSON has it: tuples are lists."""
    config: dict[str, Any] = json.loads(_json(asdict(generator.config)))
    return config


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def _to_strings(header: Header) -> dict[str, str]:
    values = header.model_dump(mode="json")
    return {key: _json(value) if key in STRUCTURED else value for key, value in values.items()}
