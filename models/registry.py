"""Every generator by the name of its architecture."""

import json
from collections.abc import Mapping
from dataclasses import fields

from pydantic import TypeAdapter, ValidationError

from .aotgan import AOTGAN
from .aotgan_compact import CompactAOTGAN
from .ccgan import CCGAN
from .classical import NavierStokes, Telea
from .context_encoder import CentreContextEncoder, ContextEncoder
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
    if architecture not in GENERATORS:
        raise ValueError(f"unknown architecture {architecture!r}; known: {', '.join(GENERATORS)}")
    generator = GENERATORS[architecture]
    known = [field.name for field in fields(generator.Config)]
    if unknown := sorted(set(config) - set(known)):
        raise ValueError(
            f"{architecture} knows no {', '.join(unknown)}; its keys are: {', '.join(known)}"
        )
    try:
        adapter: TypeAdapter[object] = TypeAdapter(generator.Config)
        values = adapter.validate_json(json.dumps(dict(config)), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{architecture}: {key} = {first['input']!r}: {first['msg']}") from error
    return generator(values)


def architecture_of(generator: Generator) -> str:
    """Return the name under which the generator's class is registered.

    Raises:
        ValueError: if the class is not registered.
    """
    for name, known in GENERATORS.items():
        if type(generator) is known:
            return name
    raise ValueError(f"{type(generator).__name__} is not in the registry")
