"""Locks, Makefile, wheel and run.py: what is installed is what was declared, and nothing unchecked."""

import os
import re
import shutil
import sys
import sysconfig
import tarfile
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
from tests.commands import ran

ROOT = Path(__file__).parents[2]
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


def tracked() -> set[str]:
    """Files of the project: those that git has, or would have with the next commit."""
    listed = ran("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    if listed.returncode:
        pytest.skip("this is no checkout")
    return {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution."""
    if not find_spec("hatchling"):
        pytest.skip("hatchling is not installed here (make dev installs it)")
    folder = tmp_path_factory.mktemp("dist")
    ran(sys.executable, "-m", "hatchling", "build", "-d", folder, cwd=ROOT).check_returncode()
    return folder


def test_the_wheel_is_complete(built: Path) -> None:
    """It holds every file of the package (modules, profiles, prompts, the type marker), the license, and no other."""
    information = f"ai_task_processor-{__version__}.dist-info"
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
        entry = wheel.read(f"{information}/entry_points.txt").decode()
    package = {name for name in tracked() if name.startswith("ai_task_processor/")}
    assert {Path(name).suffix for name in package} >= {".py", ".toml", ".json", ".typed"}
    of_the_wheel = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}
    assert names == package | {f"{information}/{name}" for name in of_the_wheel}
    assert "ai-task-processor = ai_task_processor.cli.main:main" in entry


def test_the_source_distribution_is_the_project(built: Path) -> None:
    """It holds tests, documentation and manifests, as git has them, and nothing that lies about."""
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if not member.isdir()}
    assert names - {"PKG-INFO"} == tracked()


def test_a_build_can_be_repeated(built: Path, tmp_path: Path) -> None:
    """A second one has the same bytes: the times of files in a checkout do not matter."""
    shutil.copytree(ROOT / "ai_task_processor", tmp_path / "ai_task_processor", copy_function=shutil.copyfile)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    ran(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path, cwd=tmp_path).check_returncode()
    first, second = (next(folder.glob("*.whl")).read_bytes() for folder in (built, tmp_path))
    assert first == second


def test_an_installed_wheel_works(built: Path, tmp_path: Path) -> None:
    """Its command finds the files that are in the package, away from the checkout."""
    if not find_spec("uv"):
        pytest.skip("uv is not installed here (make dev installs it)")
    python, offline = tmp_path / "venv/bin/python", ["--quiet", "--offline", "--no-index", "--no-deps"]
    ran(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv").check_returncode()
    wheel = next(built.glob("*.whl"))
    ran(sys.executable, "-m", "uv", "pip", "install", *offline, "--python", python, wheel).check_returncode()
    purelib = ran(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip()
    # Dependencies come from here, behind what was installed; a .pth in there is not followed.
    Path(purelib, "dependencies.pth").write_text(sysconfig.get_path("purelib"))

    def said(*arguments: str) -> str:
        done = ran(python.with_name("ai-task-processor"), *arguments, cwd=tmp_path, env={"HOME": str(tmp_path)})
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert said("--version") == f"ai-task-processor {__version__}\n"
    assert "task-runner" in said("sources", "list")
    assert "defining_topics" in said("types", "list")


def test_the_metadata_is_complete() -> None:
    """Each Python that CI tests has its classifier, and the oldest is the one that is required."""
    project = PROJECT["project"]
    assert project.keys() >= {"description", "keywords", "license", "license-files", "readme", "requires-python"}
    versions = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    (tested,) = re.findall(r"^for version in (.+); do$", (ROOT / ".ci/run").read_text(), flags=re.MULTILINE)
    assert versions == tested.split()
    assert project["requires-python"] == f">={versions[0]}"
