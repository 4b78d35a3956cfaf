"""The models that a worker holds: found by name, loaded and warmed at start, kept until the end.

Some fill, generators; some find damage, detectors. Neither is ever taken for the other.
"""

import hashlib
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import Literal, Self

import torch

from inpaint.catalogue import Card
from inpaint.errors import StartFailed, UnknownModel
from inpaint.settings import Settings
from models.checkpoint import SUFFIX, Header, load, load_detector, read_header
from models.classical import Classical
from models.damage import Detector
from models.engine import Precision
from models.filler import Filler, fastest_filler
from models.generator import Generator
from models.registry import DETECTORS, GENERATORS, Network, create

CLASSICAL = [name for name, kind in GENERATORS.items() if issubclass(kind, Classical)]
DIGEST_DIGITS = 16  # hexadecimal, of the 64 that SHA-256 has: enough to tell checkpoints apart

PRECISIONS: dict[str, Precision | None] = {"auto": None, "bf16": "bfloat16", "fp32": "float32"}
SHORT = {precision: word for word, precision in PRECISIONS.items()}

log = logging.getLogger("inpaint.worker")


@dataclass(frozen=True)
class Zoo:
    """Fillers and detectors by the name of their model, with the models' cards."""

    fillers: Mapping[str, Filler]
    cards: Mapping[str, Card]  # of the fillers
    detectors: Mapping[str, Detector] = field(default_factory=dict)
    detector_cards: Mapping[str, Card] = field(default_factory=dict)
    device: str = "cpu"
    engine: str = "opencv"  # of the learned models, if there is one; "openvino, torch eager" if two
    precision: str = "fp32"  # likewise

    @classmethod
    def load(cls, settings: Settings) -> Self:
        """Load and warm the models that `settings` ask for: those named, else all that are found.

        Raises:
            BadCheckpoint: naming the file and the reason.
            UnknownModel: if a model is asked for that is not found, or if the default one is a
                detector.
            StartFailed: if the device is not there, or the folder of checkpoints, or if OpenVINO is
                asked for and does not take a model.
        """
        found = find(settings.checkpoints)
        known = [*found, *CLASSICAL]
        for name in settings.models or (settings.model,):
            if name not in known:
                raise UnknownModel(f"There is no model {name}; found are: {', '.join(known)}.")
        device, precision = _device(settings.device), PRECISIONS[settings.precision]
        fillers: dict[str, Filler] = {}
        detectors: dict[str, Detector] = {}
        cards: dict[str, Card] = {}
        for name in settings.models or known:
            began, path = time.monotonic(), found.get(name)
            model: Filler | Detector
            if path is not None and read_header(path).architecture in DETECTORS:
                network, header = load_detector(path)
                assert header.detection is not None  # `load_detector` has seen it
                cards[name] = _card(path, network, header)
                model = detectors[name] = Detector(
                    network, header.detection, device, precision, settings.engine
                )
            else:
                generator, cards[name] = _open(name, path)
                model = fillers[name] = fastest_filler(
                    generator, device, precision, settings.engine
                )
            loaded = time.monotonic()
            model.warm()
            warmed = time.monotonic()
            log.info(
                "%s loaded in %.1f s for %s, warmed in %.1f s",
                name,
                loaded - began,
                model.engine,
                warmed - loaded,
            )
        if settings.model in detectors:
            raise UnknownModel(
                f"{settings.model} finds damage and fills nothing; generators are: "
                f"{', '.join(fillers)}."
            )
        learned = [name for name in cards if name not in CLASSICAL]
        shown = [fillers.get(name) or detectors[name] for name in learned or cards]
        return cls(
            fillers,
            {name: cards[name] for name in fillers},
            detectors,
            {name: cards[name] for name in detectors},
            device=shown[0].device,
            engine=_words(filler.engine for filler in shown),
            precision=_words(SHORT[filler.precision] for filler in shown),
        )

    def filler(self, name: str) -> Filler:
        """Return the filler of a model.

        Raises:
            UnknownModel: naming those that this worker holds.
        """
        if name not in self.fillers:
            raise UnknownModel(
                f"This worker holds no model {name}; it holds: {', '.join(self.fillers)}.",
                field="model",
            )
        return self.fillers[name]

    def detector(self, name: str) -> Detector:
        """Return a detector.

        Raises:
            UnknownModel: naming those that this worker holds.
        """
        if name not in self.detectors:
            held = ", ".join(self.detectors) or "none"
            raise UnknownModel(
                f"This worker holds no detector {name}; it holds: {held}.", field="auto_mask"
            )
        return self.detectors[name]

    @property
    def everything(self) -> Mapping[str, Filler | Detector]:
        """Whatever fills windows, with fills or with probabilities."""
        return {**self.fillers, **self.detectors}

    @property
    def needs(self) -> list[str]:
        """What jobs may need that are taken here, in the words of `InpaintJob.needs`."""
        both = [f"{model}+{detector}" for model in self.fillers for detector in self.detectors]
        return [*self.fillers, *both, *self.detectors]


def find(folder: Path | None) -> dict[str, Path]:
    """Return the checkpoints by name: the shipped ones and those in `folder`, which go first.

    Raises:
        StartFailed: if there is no such folder.
    """
    with as_file(files("models") / "checkpoints") as shipped:
        found = {path.stem: path for path in sorted(shipped.glob(f"*{SUFFIX}"))}
    if folder is not None:
        if not folder.is_dir():
            raise StartFailed(f"INPAINT_CHECKPOINTS: there is no folder {folder}.")
        found |= {path.stem: path for path in sorted(folder.glob(f"*{SUFFIX}"))}
    return found


def _open(name: str, path: Path | None) -> tuple[Generator, Card]:
    """Return a generator with its weights and what is known about it."""
    if path is None:
        generator = create(name, {})
        return generator, Card(name=name, architecture=name, source=generator.source or None)
    generator, header = load(path)
    return generator, _card(path, generator, header)


def _card(path: Path, network: Network, header: Header) -> Card:
    """Return what is known about a checkpoint."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Card(
        name=header.name,
        architecture=header.architecture,
        parameters=sum(tensor.numel() for tensor in network.parameters()),
        digest=f"sha256:{digest[:DIGEST_DIGITS]}",
        trained=header.rule.trained,
        license=header.license,
        source=header.source or None,
    )


def _words(words: Iterable[str]) -> str:
    """Return each of the words once."""
    return ", ".join(dict.fromkeys(words))


def _device(wanted: Literal["auto", "cpu", "cuda"]) -> str:
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise StartFailed("INPAINT_DEVICE is cuda, and torch finds no CUDA device.")
    return wanted
