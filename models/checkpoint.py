"""A model's file: safetensors with a typed header, and no pickle anywhere.

The header lies in the file's `__metadata__`, whose values are strings: structured fields are JSON.
It says what is needed to build the network again and to know where its weights come from.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor
from torch.overrides import TorchFunctionMode

from inpaint.errors import BadCheckpoint
from inpaint.highres import SizeRule

from .detector import DamageUNet
from .generator import Generator
from .registry import Network, architecture_of, create, create_network

FORMAT: Final = "inpaint-checkpoint/1"
SUFFIX = ".safetensors"
STRUCTURED = (
    "config",
    "rule",
    "training",
    "scores",
    "detection",
)  # JSON in the file, objects in the header
LISTED = 5  # names of tensors in a message, at most


Probability = Annotated[float, Field(gt=0, lt=1)]


class Detection(BaseModel):
    """What makes probabilities of a detector's logits, and a hole of these."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    temperature: float = Field(default=1.0, gt=0)  # logits are divided by it
    # the least probability that counts as damage at the sensitivities 0, 0.5 and 1
    thresholds: tuple[Probability, Probability, Probability] = (0.8, 0.5, 0.2)

    @model_validator(mode="after")
    def _more_finds_more(self) -> Self:
        if list(self.thresholds) != sorted(self.thresholds, reverse=True):
            raise ValueError(f"thresholds {self.thresholds} rise with the sensitivity")
        return self


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
    detection: Detection | None = None  # of detectors alone
    license: str = Field(min_length=1)  # SPDX identifier, of the weights
    license_note: str = ""  # what the terms of the data imply
    source: str = ""  # paper, with its arXiv number or DOI

    @classmethod
    def of(
        cls,
        network: Network,
        *,
        name: str,
        license: str,
        license_note: str = "",
        training: Mapping[str, object] | None = None,
        scores: Mapping[str, object] | None = None,
        detection: Detection | None = None,
    ) -> "Header":
        """Return the header of a network; what the network knows is taken from it."""
        return cls(
            name=name,
            architecture=architecture_of(network),
            config=_config(network),
            rule=network.rule,
            training=dict(training or {}),
            scores=dict(scores or {}),
            detection=detection,
            license=license,
            license_note=license_note,
            source=network.source,
        )


def save(
    path: Path, network: Network, header: Header, *, dtype: torch.dtype = torch.float32
) -> None:
    """Write a checkpoint; whoever reads `path` meanwhile sees the old file or the new one, whole.

    Args:
        path: `header.name` with the suffix `.safetensors`.
        network: its weights are written as `dtype`; other tensors (counters) as they are.
        header: must describe the network; see `Header.of`.
        dtype: float16 halves the file.

    Raises:
        ValueError: if path, header and network disagree, or a weight is not finite as `dtype`.
    """
    if path.name != header.name + SUFFIX:
        raise ValueError(f"{path.name} is not the file name of {header.name!r}")
    if (header.architecture, header.config) != (architecture_of(network), _config(network)):
        raise ValueError(f"the header of {header.name} describes another network")
    tensors = {}
    for name, tensor in network.state_dict().items():
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
    network, header = _load(path)
    if not isinstance(network, Generator):
        raise BadCheckpoint(f"{path.name} fills nothing: {header.architecture} finds damage")
    return network, header


def load_detector(path: Path) -> tuple[DamageUNet, Header]:
    """Return the detector, as `load` does generators.

    Raises:
        BadCheckpoint: naming the file and the reason.
    """
    network, header = _load(path)
    if not isinstance(network, DamageUNet) or header.detection is None:
        raise BadCheckpoint(f"{path.name} is no detector of damage, but {header.architecture}")
    return network, header


def _load(path: Path) -> tuple[Network, Header]:
    header = read_header(path)
    try:
        with _without_memory():
            network = create_network(header.architecture, header.config)
    except (ValueError, RuntimeError, ArithmeticError) as error:
        raise BadCheckpoint(f"{path.name}: {error}") from error
    own = network.rule
    if (
        header.rule.multiple % own.multiple
        or header.rule.minimum < own.minimum
        or header.rule.hole_share > own.hole_share
        or own.fixed not in (None, header.rule.fixed)
    ):
        raise BadCheckpoint(f"{path.name}: {header.rule} is wider than the network's {own}")
    network.rule = header.rule
    tensors = _read_tensors(path)
    _compare(path, network.state_dict(), tensors)
    network.load_state_dict(tensors, assign=True)
    # complete, also where the file is older than a key of the configuration
    return network.eval(), header.model_copy(update={"config": _config(network)})


def blank(architecture: str, config: Mapping[str, object]) -> Generator:
    """Return a generator as `create` does, without memory: its tensors wait for values.

    Raises:
        ValueError: as `create`.
    """
    with _without_memory():
        return create(architecture, config)


@contextmanager
def _without_memory() -> Iterator[None]:
    with torch.device("meta"), _Undrawn():
        yield


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


def _config(network: Network) -> dict[str, Any]:
    """Return the network's configuration as JSON has it: tuples are lists."""
    config: dict[str, Any] = json.loads(_json(asdict(network.config)))
    return config


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def _to_strings(header: Header) -> dict[str, str]:
    unset = {"detection"} if header.detection is None else set()
    values = header.model_dump(mode="json", exclude=unset)
    return {key: _json(value) if key in STRUCTURED else value for key, value in values.items()}
