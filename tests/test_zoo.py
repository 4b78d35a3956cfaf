import hashlib
import subprocess
import sys
import textwrap
from shutil import copy

import numpy as np
import pytest
import torch

from inpaint.errors import BadCheckpoint, StartFailed, UnknownModel
from inpaint.settings import Settings
from models.aotgan_compact import CompactAOTGAN
from models.checkpoint import Header, save
from models.filler import TorchFiller, best_precision
from worker.zoo import Zoo, find


@pytest.fixture
def generator():
    torch.manual_seed(0)
    return CompactAOTGAN(CompactAOTGAN.Config(width=4, channels=8, blocks=1, rates=(1, 2)))


@pytest.fixture
def folder(tmp_path, generator):
    """A folder with one good checkpoint, `tiny`."""
    header = Header.of(generator, name="tiny", license="Apache-2.0")
    save(tmp_path / "tiny.safetensors", generator, header)
    return tmp_path


def test_the_classical_fills_need_no_checkpoint():
    zoo = Zoo.load(Settings(models="telea,navier-stokes", model="telea"))

    assert list(zoo.fillers) == list(zoo.cards) == ["telea", "navier-stokes"]
    assert zoo.cards["telea"].digest is None
    assert (zoo.device, zoo.engine, zoo.precision) == ("cpu", "opencv", "fp32")


def test_a_checkpoint_fills_as_the_generator_that_was_saved(folder, generator, photo, hole):
    settings = Settings(models="tiny", checkpoints=folder, precision="fp32")

    filler = Zoo.load(settings).filler("tiny")

    expected = TorchFiller(generator, precision="float32")(photo[None], hole[None])
    fills = filler(photo[None], hole[None])
    assert np.abs(fills.astype(int) - expected).max() <= 1  # another engine rounds otherwise


def test_a_card_tells_what_the_file_holds(folder, generator):
    card = Zoo.load(Settings(models="tiny", checkpoints=folder)).cards["tiny"]

    digest = hashlib.sha256((folder / "tiny.safetensors").read_bytes()).hexdigest()
    assert card.digest == f"sha256:{digest[:16]}"
    assert card.architecture == "aotgan-compact"
    assert card.parameters == sum(weights.numel() for weights in generator.parameters())
    assert card.license == "Apache-2.0"
    assert card.trained == 256


@pytest.mark.parametrize(
    ("wanted", "shown"),
    [("auto", "openvino"), ("openvino", "openvino"), ("torch", "torch eager")],
)
def test_the_engine_is_the_one_that_was_asked_for(folder, wanted, shown):
    zoo = Zoo.load(Settings(models="telea,tiny", checkpoints=folder, engine=wanted, device="cpu"))

    assert zoo.engine == zoo.fillers["tiny"].engine == shown
    assert zoo.fillers["telea"].engine == "opencv"


@pytest.mark.parametrize(("wanted", "shown"), [("fp32", "float32"), ("bf16", "bfloat16")])
def test_the_precision_is_the_one_that_is_computed_in(folder, wanted, shown):
    if wanted == "bf16" and best_precision("cpu") != "bfloat16":
        pytest.skip("OpenVINO computes in bfloat16 only where the processor does")

    zoo = Zoo.load(Settings(models="tiny", checkpoints=folder, precision=wanted, device="cpu"))

    assert zoo.precision == wanted
    assert zoo.fillers["tiny"].precision == shown


def test_pytorch_runs_the_models_of_a_machine_without_openvino(folder, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "openvino", None)

    zoo = Zoo.load(Settings(models="tiny", checkpoints=folder, device="cpu"))

    assert zoo.engine == "torch eager"
    assert "PyTorch runs CompactAOTGAN, which OpenVINO does not take" in caplog.text


def test_openvino_that_is_asked_for_and_missing_is_no_start(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)

    with pytest.raises(StartFailed, match="OpenVINO does not take CompactAOTGAN: ModuleNotFound"):
        Zoo.load(Settings(models="tiny", checkpoints=folder, engine="openvino", device="cpu"))


@pytest.mark.slow  # loads every shipped model
def test_all_models_that_are_found_are_held_unless_some_are_named(folder):
    found = find(folder)

    zoo = Zoo.load(Settings(model="tiny", checkpoints=folder))

    assert "tiny" in found
    assert set(zoo.everything) == {*found, "telea", "navier-stokes"}


def test_a_detector_is_held_beside_generators_and_taken_for_none(folder, white_detector):
    copy(white_detector / "scratches.safetensors", folder)
    settings = Settings(models="tiny,scratches,telea", checkpoints=folder, model="tiny")

    zoo = Zoo.load(settings)

    assert list(zoo.fillers) == list(zoo.cards) == ["tiny", "telea"]
    assert list(zoo.detectors) == list(zoo.detector_cards) == ["scratches"]
    assert zoo.detector_cards["scratches"].architecture == "damage-unet"
    assert zoo.detector_cards["scratches"].digest.startswith("sha256:")
    assert list(zoo.everything) == ["tiny", "telea", "scratches"]
    assert zoo.needs == ["tiny", "telea", "tiny+scratches", "telea+scratches", "scratches"]
    with pytest.raises(UnknownModel, match="no model scratches; it holds: tiny, telea"):
        zoo.filler("scratches")
    with pytest.raises(UnknownModel, match="no detector tiny; it holds: scratches"):
        zoo.detector("tiny")


def test_a_worker_may_hold_a_detector_alone(white_detector):
    zoo = Zoo.load(Settings(models="scratches", checkpoints=white_detector, device="cpu"))

    assert (list(zoo.fillers), zoo.needs) == ([], ["scratches"])
    assert zoo.engine == zoo.detector("scratches").engine


def test_a_detector_as_the_default_model_is_refused(white_detector):
    settings = Settings(models="scratches,telea", model="scratches", checkpoints=white_detector)

    with pytest.raises(UnknownModel, match="scratches finds damage and fills nothing"):
        Zoo.load(settings)


def test_a_corrupt_checkpoint_is_named_with_its_reason(folder):
    (folder / "broken.safetensors").write_bytes(b"no tensors at all")

    with pytest.raises(BadCheckpoint, match=r"broken\.safetensors cannot be read"):
        Zoo.load(Settings(models="broken", checkpoints=folder))


def test_a_checkpoint_that_is_not_asked_for_is_not_opened(folder):
    (folder / "broken.safetensors").write_bytes(b"no tensors at all")

    assert list(Zoo.load(Settings(models="tiny", checkpoints=folder)).fillers) == ["tiny"]


@pytest.mark.parametrize("wanted", [{"model": "other"}, {"models": "telea,other"}])
def test_a_model_that_is_asked_for_and_not_found_is_refused(wanted):
    with pytest.raises(UnknownModel, match=r"no model other; found are: .*telea"):
        Zoo.load(Settings(**wanted))


def test_a_job_for_another_model_is_refused():
    zoo = Zoo.load(Settings(models="telea"))

    with pytest.raises(UnknownModel, match="no model other; it holds: telea"):
        zoo.filler("other")


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(StartFailed, match="there is no folder"):
        Zoo.load(Settings(models="telea", checkpoints=tmp_path / "nowhere"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(StartFailed, match="finds no CUDA device"):
        Zoo.load(Settings(models="telea", device="cuda"))


@pytest.mark.slow  # imports PyTorch in a process of its own
def test_a_worker_starts_without_what_only_training_and_compiling_need(folder):
    script = f"""
        import sys
        from inpaint.settings import Settings
        from worker.zoo import Zoo
        zoo = Zoo.load(Settings(model="tiny", models="tiny,telea", checkpoints={str(folder)!r}))
        assert list(zoo.fillers) == ["tiny", "telea"]
        print(sorted({{"sympy", "torch._dynamo", "torch.onnx", "training"}} & set(sys.modules)))
    """

    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "[]"
