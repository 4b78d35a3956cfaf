"""Who imports whom, what the gateway does without, and pins and reasons of all dependencies."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGES = ("inpaint", "models", "service", "training", "worker")
MAY_IMPORT = {  # of ours
    "inpaint": set(),
    "models": {"inpaint"},
    "service": {"inpaint"},
    "training": {"inpaint", "models"},
    "worker": {"inpaint", "models"},
}
NEVER_IMPORTS = {
    "inpaint": {"torch", "fastapi", "cv2"},
    "models": {"redis", "rq", "fastapi", "PIL"},
    "service": {"torch", "cv2"},
    "training": {"redis", "rq", "fastapi"},
    "worker": {"fastapi"},
}
# Commands that the gateway's image does not offer: they start a whole service of their own.
NOT_IN_THE_GATEWAY = {"service/chaos.py", "service/demo.py"}
NOT_IN_THE_GATEWAY |= {f"service/{file.name}" for file in (ROOT / "service").glob("bench*.py")}


def imported(file: Path) -> Iterator[str]:
    """The top-level name of every absolute import, also of those inside functions."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            assert node.module is not None
            yield node.module.partition(".")[0]


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


def names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(text).name) for text in requirements}


def direct() -> set[str]:
    """What the project itself asks for, with its extras."""
    extras = PROJECT["optional-dependencies"]
    return names([*PROJECT["dependencies"], *extras["dev"], *extras["demo"]])


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_what_the_table_allows(package: str) -> None:
    forbidden = (set(PACKAGES) - MAY_IMPORT[package] - {package}) | NEVER_IMPORTS[package]
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    found = {(file.name, name) for file in files for name in imported(file) if name in forbidden}
    assert not found


@pytest.mark.parametrize("package", PACKAGES)
def test_inside_a_package_imports_are_relative(package: str) -> None:
    files = (ROOT / package).rglob("*.py")
    assert not {file.name for file in files if package in set(imported(file))}


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_imports_none_of_its_modules(package: str) -> None:
    init = ROOT / package / "__init__.py"
    body = ast.parse(init.read_text()).body
    assert not [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]


@pytest.mark.parametrize("module", ["service.app", "service.commands", "service.supervisor"])
def test_the_gateway_imports_neither_torch_nor_opencv(module: str) -> None:
    program = f"import sys, {module}; print([x for x in ('torch', 'cv2') if x in sys.modules])"
    fresh = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert fresh.stdout.strip() == "[]"


@pytest.mark.parametrize("package", PACKAGES)
def test_no_other_distribution_claims_our_names(package: str) -> None:
    assert set(packages_distributions()[package]) == {"inpaint-service"}


def test_the_gateways_image_installs_a_part_of_the_dependencies_without_torch() -> None:
    listed = set((ROOT / "docker/service.txt").read_text().split())
    assert listed < names(PROJECT["dependencies"])
    assert not listed & {"torch", "opencv-python-headless"}


def test_the_gateways_image_installs_all_that_the_gateway_imports() -> None:
    files = [*(ROOT / "inpaint").rglob("*.py"), *(ROOT / "service").rglob("*.py")]
    needed = set()
    for file in files:
        if str(file.relative_to(ROOT)) not in NOT_IN_THE_GATEWAY:
            needed |= set(imported(file)) - set(sys.stdlib_module_names) - set(PACKAGES)
    installed = names((ROOT / "docker/service.txt").read_text().split())
    brought = {name for listed in installed for name in names(requires(listed) or [])}
    by_module = packages_distributions()
    distributions = {canonicalize_name(by_module[module][0]) for module in needed}
    assert not distributions - installed - brought
    by_themselves = {"python-multipart", "httptools", "uvloop"}  # FastAPI and uvicorn import these
    assert not installed - distributions - by_themselves


@pytest.mark.parametrize("machine", [("linux", "Linux"), ("darwin", "Darwin")])
@pytest.mark.parametrize("python", ["3.11.0", "3.11.14", "3.12.12", "3.13.9"])
def test_every_dependency_is_pinned(python: str, machine: tuple[str, str]) -> None:
    environment = {
        "python_full_version": python,
        "python_version": python.rpartition(".")[0],
        "sys_platform": machine[0],
        "platform_system": machine[1],
        "extra": "",
    }
    seen, waiting = set(), direct()
    while waiting:
        name = waiting.pop()
        seen.add(name)
        try:
            wanted = [Requirement(text) for text in requires(name) or []]
        except PackageNotFoundError:  # of another machine; what it brings is not known here
            continue
        brought = [r for r in wanted if r.marker is None or r.marker.evaluate(environment)]
        waiting |= {canonicalize_name(r.name) for r in brought} - seen
    assert not seen - set(pinned())


def test_every_dependency_has_a_reason() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    table = text[text.index("## Dependencies, each with its reason") :]
    cells = re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE)
    explained = {canonicalize_name(name) for cell in cells for name in re.findall(r"[\w-]+", cell)}
    assert not names(PROJECT["dependencies"]) - explained
    assert not names(PROJECT["optional-dependencies"]["demo"]) - explained
