"""Locks, Makefile, wheel and run.py: what is installed is what was declared, and nothing unchecked."""

import os
import re
import shutil
import sys
import tomllib
import zipfile
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ai_task_processor import __version__
from ai_task_processor.cli.new import TEMPLATES
from ai_task_processor.core.profiles import FOLDER
from tests.commands import ran

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "ai_task_processor"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NEEDED: list[str] = PROJECT["project"]["dependencies"]
#: what is declared for each lock; the image has the libraries of all built-ins
DECLARED: dict[str, list[str]] = {
    "requirements.txt": [*NEEDED, *chain(*PROJECT["project"]["optional-dependencies"].values())],
    **{f"requirements-{name}.txt": declared for name, declared in PROJECT["dependency-groups"].items()},
}
DECLARED["requirements-dev.txt"] = DECLARED["requirements.txt"] + DECLARED["requirements-dev.txt"]
DECLARED["requirements-bench.txt"] = NEEDED + DECLARED["requirements-bench.txt"]
LOCKS = list(DECLARED)

every_lock = pytest.mark.parametrize("lock", LOCKS)


def lines(lock: str) -> list[str]:
    """One line for each requirement, its hashes included, comments removed."""
    text = re.sub(r"\\\n", " ", (ROOT / lock).read_text())
    return [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def pins(lock: str) -> dict[tuple[str, str], str]:
    """The pinned version for each name and marker."""
    parsed = [Requirement(line.partition("--hash")[0].strip()) for line in lines(lock)]
    return {(canonicalize_name(each.name), str(each.marker or "")): str(each.specifier) for each in parsed}


@every_lock
def test_a_lock_has_pins_with_hashes_and_nothing_else(lock: str) -> None:
    """Every requirement has an exact version and hashes; no address, index or option stands in a lock."""
    assert len(lines(lock)) > 2
    for line in lines(lock):
        assert re.fullmatch(r"[a-z0-9][a-z0-9._-]*==\S+( ; [^\\]+?)?( +--hash=sha256:[0-9a-f]{64})+ *", line), line
    assert "//" not in (ROOT / lock).read_text()


@every_lock
def test_a_lock_is_up_to_date(lock: str) -> None:
    """What pyproject.toml declares is locked, in a version it allows (``make lock`` after a change)."""
    locked: dict[str, list[str]] = {}
    for (name, _), specifier in pins(lock).items():
        locked.setdefault(name, []).append(specifier.removeprefix("=="))
    for requirement in map(Requirement, DECLARED[lock]):
        versions = locked.get(canonicalize_name(requirement.name), [])
        assert versions, f"{requirement.name} is not in {lock}"
        assert all(requirement.specifier.contains(version) for version in versions), requirement


def test_what_is_tested_is_what_is_shipped() -> None:
    """The development lock holds every run-time pin, and no other lock asks for another version of what it holds."""
    dev, runtime = pins("requirements-dev.txt"), pins("requirements.txt")
    shipped = {(name, marker if (name, marker) in dev else ""): pin for (name, marker), pin in runtime.items()}
    assert shipped.items() <= dev.items()
    for lock in (
        "requirements-build.txt",
        "requirements-bench.txt",
        "requirements-model.txt",
        "requirements-chat-model.txt",
    ):
        other = pins(lock)
        shared = other.keys() & dev.keys()
        assert {key: dev[key] for key in shared} == {key: other[key] for key in shared}, lock


def test_every_version_is_the_same() -> None:
    """The package, the changelog, the image's label and its tag name one version."""
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text()
    assert f"ARG VERSION={__version__}\n" in (ROOT / "Dockerfile").read_text()
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    images = {services[name]["image"] for name in ("ai-task-processor", "sandbox")}
    assert images == {f"ai-task-processor:{__version__}"}


def test_run_py_is_the_run_command(tmp_path: Path) -> None:
    """``python run.py --flag`` is ``ai-task-processor run --flag``, exit code included, without installing."""
    shutil.copy(ROOT / "run.py", tmp_path)
    stub = tmp_path / "ai_task_processor"
    for folder in (stub, stub / "core", stub / "cli"):
        folder.mkdir()
        (folder / "__init__.py").touch()
    shutil.copy(ROOT / "ai_task_processor/core/process.py", stub / "core")
    (stub / "cli/main.py").write_text("def main(argv=None):\n    print(argv)\n    return 78\n")
    answer = ran(sys.executable, "run.py", "--flag", cwd=tmp_path)
    assert (answer.stdout, answer.returncode) == ("['run', '--flag']\n", 78)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files that make looks at, with an installed .venv as far as it can tell."""
    for name in ["Makefile", "pyproject.toml", *LOCKS]:
        shutil.copyfile(ROOT / name, tmp_path / name)
    (tmp_path / ".venv/.model").mkdir(parents=True)
    for stamp in (".tools", ".runtime", ".dev", ".model/.installed"):
        (tmp_path / ".venv" / stamp).touch()
    return tmp_path


def make(folder: Path, *arguments: str) -> CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "ARGS"))}
    return ran("make", *arguments, cwd=folder, env=environment)


def test_a_second_make_test_only_tests(checkout: Path) -> None:
    """Once installed, nothing is installed again until a lock or pyproject.toml changes."""
    assert make(checkout, "--dry-run", "test").stdout == ".venv/bin/python -m pytest \n"
    later = (checkout / ".venv/.dev").stat().st_mtime + 1
    os.utime(checkout / "requirements-dev.txt", (later, later))
    assert "--require-hashes" in make(checkout, "--dry-run", "test").stdout


def test_an_old_python_is_refused_in_one_line(checkout: Path) -> None:
    """Without Python 3.11 make says so and how to name another, and leaves nothing behind."""
    shutil.rmtree(checkout / ".venv")
    answer = make(checkout, "--silent", "install", "PYTHON=/bin/false")
    assert answer.returncode != 0
    assert answer.stderr.startswith("make: no Python 3.11 or newer with venv among: /bin/false (choose one: ")
    assert not (checkout / ".venv").exists()


def test_make_alone_lists_every_target(checkout: Path) -> None:
    """The default target teaches: no target is missing from it."""
    targets = re.findall(r"^\.PHONY: (.*)$", (checkout / "Makefile").read_text(), flags=re.MULTILINE)[0].split()
    listed = re.findall(r"^  make ([a-z-]+) +\S", make(checkout).stdout, flags=re.MULTILINE)
    assert set(listed) == set(targets)


@pytest.mark.skipif(not find_spec("hatchling"), reason="hatchling is not installed here (make dev installs it)")
def test_the_wheel_is_complete(tmp_path: Path) -> None:
    """It holds every module, profiles with their schema, templates, type marker, license and command; no test."""
    ran(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path, cwd=ROOT).check_returncode()
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
        entry = wheel.read(f"ai_task_processor-{__version__}.dist-info/entry_points.txt").decode()
    modules = {file.relative_to(ROOT).as_posix() for file in PACKAGE.rglob("*.py")}
    assert len(modules) > 20
    profiles = {file.relative_to(ROOT).as_posix() for file in FOLDER.iterdir() if file.is_file()}
    assert {Path(name).suffix for name in profiles} == {".toml", ".json"}
    templates = {
        file.relative_to(ROOT).as_posix()
        for file in (*TEMPLATES.iterdir(), *PACKAGE.rglob("*.html"), *PACKAGE.rglob("*.css"))
    }
    assert names >= modules | profiles | templates | {"ai_task_processor/py.typed"}
    assert f"ai_task_processor-{__version__}.dist-info/licenses/LICENSE" in names
    assert "ai-task-processor = ai_task_processor.cli.main:main" in entry
    assert not [name for name in names if name.startswith("tests")]
