"""The verbs: what help says, when setup has work to do, what it says where Python is missing."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAKE = shutil.which("make")
SHELL = shutil.which("sh")


def make(
    folder: Path, *arguments: str, path: Path | None = None
) -> subprocess.CompletedProcess[str]:
    assert MAKE is not None
    # a make that runs us must not lend its options to the one that is tested
    passed = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    passed.pop("VENV", None)
    if path is not None:
        passed["PATH"] = str(path)
    command = [MAKE, "--no-print-directory", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=passed, check=False)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What setup depends on, with an environment in which it has finished."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    binaries = tmp_path / ".venv" / "bin"
    binaries.mkdir(parents=True)
    (binaries / "pip").touch()
    (tmp_path / ".venv" / ".installed").touch()
    return tmp_path


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A PATH with a shell and no Python."""
    assert SHELL is not None
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "sh").symlink_to(SHELL)
    return folder


def test_help_lists_every_verb() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony
    listed = re.findall(r"^make (\S+) +\S", make(ROOT, "help").stdout, re.MULTILINE)
    assert listed == phony[1].split()


@pytest.mark.parametrize("verb", ["setup", "check", "format", "test", "test-gpu", "run", "demo"])
def test_every_verb_sets_up_first(checkout: Path, verb: str) -> None:
    shutil.rmtree(checkout / ".venv")
    said = make(checkout, "--dry-run", verb).stdout
    assert "-c constraints.txt --no-build-isolation -e" in said


def test_setup_does_nothing_when_nothing_changed(checkout: Path) -> None:
    assert make(checkout, "--question", "setup").returncode == 0


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_setup_installs_again_when_a_pin_or_a_dependency_changed(checkout: Path, name: str) -> None:
    stamp = (checkout / ".venv" / ".installed").stat().st_mtime
    os.utime(checkout / name, (stamp + 2, stamp + 2))
    assert make(checkout, "--question", "setup").returncode == 1


def test_torch_comes_from_its_own_index_when_one_is_named(checkout: Path) -> None:
    shutil.rmtree(checkout / ".venv")
    said = make(checkout, "--dry-run", "setup", "TORCH_INDEX=file:///wheels").stdout
    assert "--no-deps --index-url file:///wheels torch" in said
    assert "file:///wheels" not in make(checkout, "--dry-run", "setup").stdout


def test_without_python_setup_says_what_is_missing(checkout: Path, bare: Path) -> None:
    shutil.rmtree(checkout / ".venv")
    refused = make(checkout, "setup", path=bare)
    assert refused.returncode == 2
    assert "no Python 3.11 or later found" in refused.stderr


def test_a_python_that_is_too_old_is_passed_over(checkout: Path, bare: Path) -> None:
    shutil.rmtree(checkout / ".venv")
    old = bare / "python3"
    old.write_text(f"#!{SHELL}\nexit 1\n")  # what the question for its version gives
    old.chmod(0o755)
    assert "no Python 3.11 or later found" in make(checkout, "setup", path=bare).stderr


def test_without_the_venv_module_setup_says_what_to_install(checkout: Path, bare: Path) -> None:
    shutil.rmtree(checkout / ".venv")
    lacking = bare / "python3"
    lacking.write_text(f'#!{SHELL}\ncase "$2" in *ensurepip*) exit 1;; esac\n')
    lacking.chmod(0o755)
    refused = make(checkout, "setup", path=bare)
    assert refused.returncode == 2
    assert "python3 lacks the venv module" in refused.stderr
