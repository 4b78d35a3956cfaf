"""What the documents say, held against the code, and what no file of the repository may hold."""

import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from inpaint.cli import COMMANDS
from inpaint.settings import Settings
from models.registry import GENERATORS
from service.app import create_app
from service.problems import STATUSES
from service.schemas import InpaintForm, MasksForm
from service.uploads import form_schema

ROOT = Path(__file__).parent.parent
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
# Folders of the machines that this was made on, and a folder that users do not have.
ELSEWHERE = re.compile(r"/(?:work|farm|home|root|Users)/|\.\./shared")
LARGEST = 16_000_000  # bytes


def document(name: str) -> str:
    return (ROOT / name).read_text()


def section(name: str, heading: str) -> str:
    """A document's text from a heading to the next of the same depth."""
    text = document(name)
    text = text[text.index(f"\n{heading}\n") + len(heading) + 2 :]
    depth = heading.partition(" ")[0]
    return re.split(rf"^{depth} ", text, maxsplit=1, flags=re.MULTILINE)[0]


def first_cells(text: str) -> set[str]:
    """What stands in code marks in the first column of the tables."""
    return set(re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE))


def tracked() -> list[Path]:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("no git checkout: there is no list of tracked files")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).exists()]


def test_every_setting_is_documented_with_its_default() -> None:
    rows = re.findall(
        r"^\| `([A-Z_]+)` \| (.+?) \|", section("docs/operations.md", "## Settings"), re.MULTILINE
    )
    documented = {name: text.strip("`") for name, text in rows}
    defaults = {}
    for name, field in Settings.model_fields.items():
        alias = field.validation_alias
        variable = alias if isinstance(alias, str) else f"INPAINT_{name.upper()}"
        defaults[variable] = field.default
    assert documented.keys() == defaults.keys()
    for variable, default in defaults.items():
        if default is not None:
            assert documented[variable] == str(default), variable


def test_every_route_is_documented() -> None:
    documented = first_cells(section("docs/api.md", "## Paths"))
    paths = create_app(Settings()).openapi()["paths"]
    served = {
        f"{method.upper()} {path}".replace("{job_id}", "{id}").replace("{album_id}", "{id}")
        for path, methods in paths.items()
        for method in methods
    }
    assert documented == served | {"GET /openapi.json"}


@pytest.mark.parametrize(("path", "form"), [("/inpaint", InpaintForm), ("/masks", MasksForm)])
def test_every_form_field_is_documented(path: str, form: Any) -> None:
    fields = form_schema(form)["content"]["multipart/form-data"]["schema"]["properties"]
    tables = section("docs/api.md", f"## `POST {path}`").split("\n\n")
    table = next(text for text in tables if text.startswith("| field |"))
    assert first_cells(table) == set(fields)


def test_every_problem_code_is_documented_with_its_status() -> None:
    table = section("docs/api.md", "## Problems")
    rows = re.findall(r"^\| (\d+) \| `([a-z-]+)` \|", table, re.MULTILINE)
    assert {code: int(status) for status, code in rows} == STATUSES


def test_every_architecture_is_documented() -> None:
    assert set(GENERATORS) <= set(re.findall(r"`([\w-]+)`", document("docs/models.md")))


def test_every_shipped_checkpoint_is_documented() -> None:
    shipped = {file.stem for file in (ROOT / "models/checkpoints").glob("*.safetensors")}
    assert shipped <= set(re.findall(r"`([\w-]+)`", document("docs/models.md")))


def test_every_command_is_documented() -> None:
    texts = "\n".join(file.read_text() for file in DOCUMENTS)
    assert not [words for words in COMMANDS if f"inpaint {words}" not in texts]


def test_every_verb_is_documented() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", document("Makefile"), re.MULTILINE)
    assert phony
    verbs = set(phony[1].split()) - {"help"}
    assert verbs <= set(re.findall(r"`make ([a-z-]+)`", document("CONTRIBUTING.md")))


def test_what_the_map_names_exists() -> None:
    text = document("ARCHITECTURE.md")
    missing = [
        path for path in re.findall(r"`(\w+/[\w/]*\.\w+)`", text) if not (ROOT / path).exists()
    ]
    packages = "inpaint|models|service|training|worker"
    for name in re.findall(rf"(?<![\w./\"])((?:{packages})(?:\.\w+)+)", text):
        module, found = name, None
        while found is None:  # the longest part that is a module
            try:
                found = importlib.import_module(module)
            except ModuleNotFoundError:
                module = module.rpartition(".")[0]
        for attribute in name[len(module) :].split(".")[1:]:
            found = getattr(found, attribute, None)
        if found is None:
            missing.append(name)
    assert not missing


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: file.name)
def test_links_lead_somewhere(file: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", file.read_text())
    local = [link for link in links if "://" not in link]
    assert not [link for link in local if not (file.parent / link).exists()]


def test_the_first_request_of_the_readme_works(service: Any, tmp_path: Path) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("there is no curl here")
    readme = document("README.md")
    program = re.search(r"<<'END'\n(.*?)\nEND\n", readme, re.DOTALL)
    assert program
    subprocess.run([sys.executable, "-c", program[1]], cwd=tmp_path, check=True)
    command = re.search(r"^curl (--fail-with-body .*/inpaint .*)$", readme, re.MULTILINE)
    assert command
    words = command[1].replace("http://127.0.0.1:8000", service.url).split()
    subprocess.run([curl, "-sS", "--noproxy", "*", *words], cwd=tmp_path, check=True)
    with (
        Image.open(tmp_path / "photo.jpg") as photo,
        Image.open(tmp_path / "restored.jpg") as restored,
    ):
        assert (restored.format, restored.size) == (photo.format, photo.size)
        assert restored.tobytes() != photo.tobytes()


def test_no_file_names_a_path_of_a_machine() -> None:
    named = []
    for path in tracked():
        try:
            lines = path.read_text().splitlines()
        except UnicodeDecodeError:  # pictures, checkpoints
            continue
        named += [f"{path.name}: {line.strip()}" for line in lines if ELSEWHERE.search(line)]
    assert not named


def test_no_file_is_over_sixteen_megabytes() -> None:
    assert not [path.name for path in tracked() if path.stat().st_size > LARGEST]
