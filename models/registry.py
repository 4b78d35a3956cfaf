"""Every generator and every detector by the name of its architecture."""

import json
from collections.abc import Callable, Mapping
from dataclasses import fields

from pydantic import TypeAdapter, ValidationError

from .aotgan import AOTGAN
from .aotgan_compact import CompactAOTGAN
from .ccgan import CCGAN
from .classical import NavierStokes, Telea
from .context_encoder import CentreContextEncoder, ContextEncoder
from .detector import DamageUNet
from .generator import Generator

GENERATORS: dict[str, type[Generator]] = {
    "aotgan": AOTGAN,
    "aotgan-compact": CompactAOTGAN,
    "ccgan": CCGAN,
    "context-encoder": ContextEncoder,
    "context-encoder-centre": CentreContextEncoder,
    "navier-stokes": NavierStokes,
    "telea": Telea,
}
DETECTORS: dict[str, type[DamageUNet]] = {"damage-unet": DamageUNet}

Network = Generator | DamageUNet


def create(architecture: str, config: Mapping[str, object]) -> Generator:
    """Return a fresh generator, in float32 on the CPU.

    Args:
        architecture: a key of `GENERATORS`.
        config: values of the class's `Config`; what is absent keeps its default. Types are those
            of JSON and TOML: a list stands for a tuple, an integer for a float, nothing else is
            converted.

    Raises:
        ValueError: for an unknown architecture or key, or a value of a wrong type or size.
    """
    network = create_network(architecture, config)
    if not isinstance(network, Generator):
        raise ValueError(f"{architecture} fills nothing: it finds damage")
    return network


def create_network(architecture: str, config: Mapping[str, object]) -> Network:
    """Return a fresh generator or detector; as `create`."""
    known: dict[str, type[Network]] = {**GENERATORS, **DETECTORS}
    if architecture not in known:
        raise ValueError(f"unknown architecture {architecture!r}; known: {', '.join(known)}")
    network = known[architecture]
    keys = [field.name for field in fields(network.Config)]
    if unknown := sorted(set(config) - set(keys)):
        raise ValueError(
            f"{architecture} knows no {', '.join(unknown)}; its keys are: {', '.join(keys)}"
        )
    try:
        adapter: TypeAdapter[object] = TypeAdapter(network.Config)
        values = adapter.validate_json(json.dumps(dict(config)), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{architecture}: {key} = {first['input']!r}: {first['msg']}") from error
    build: Callable[[object], Network] = network
    return build(values)


def architecture_of(network: Network) -> str:
    """Return the name under which the network's class is registered.

    Raises:
        ValueError: if the class is not registered.
    """
    for name, known in {**GENERATORS, **DETECTORS}.items():
        if type(network) is known:
            return name
    raise ValueError(f"{type(network).__name__} is not in the registry")
