"""Imports go one way, as import-linter's contracts say; one library, one door; and importing a module does nothing."""

import ast
import json
import shutil
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.commands import ran

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "ai_task_processor"
LINT = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"

EVERYWHERE = {"pydantic", "pydantic_core", "structlog", "httpx2"}
#: the rooms that speak to a person; rich may come in through each of them
TERMINAL = ("cli/",)
#: aiohttp, with its URLs, carries all HTTP: clients of remotes, pages, WebSockets and a server have a module each.
SEVERAL = {"aiohttp", "yarl"}
#: The modules that may be the one door of a library.
DOORS = {
    "aiohttp": {
        "net/connection.py",
        "net/pages.py",
        "net/pool.py",
        "net/push.py",
        "net/transport_errors.py",
        "ops/listener.py",
    },
    "aiosmtplib": {"sinks/smtp/sink.py"},
    "authlib": {"net/oauth.py"},
    "confluent_kafka": {"sinks/kafka/sink.py"},
    "cryptography": {"core/syntax.py"},
    "dotenv": {"core/environment.py"},
    "jinja2": {"ops/page.py"},
    "jsonschema": {"processors/chat/answers.py"},
    "lxml": {"processors/fetch/text.py"},
    "numpy": {"core/codec.py"},
    "openai": {"providers/openai_client.py"},
    "opentelemetry": {"ops/spans.py"},
    "orjson": {"core/codec.py"},
    "pybase64": {"core/codec.py"},
    "prometheus_client": {"ops/metric_families.py"},
    "psycopg": {"net/postgres.py"},
    "psycopg_pool": {"net/postgres.py"},
    "redis": {"net/redis.py"},
    "pybreaker": {"net/resilience.py"},
    "pydantic_settings": {"core/groups.py"},
    "tenacity": {"net/resilience.py"},
    "uvloop": {"engine/daemon.py", "cli/main.py"},
    "yarl": {"net/client.py", "net/pages.py", "net/pool.py"},
}
#: The sandbox plays somebody else: a house of its own, with its own doors.
SANDBOX = PACKAGE / "sandbox"
SANDBOX_DOORS = {
    "aiohttp": {"admin.py", "answers.py", "app.py", "due_soon.py", "faults.py", "playground.py"},
    "cryptography": {"tokens.py"},
    "jinja2": {"page.py"},
    "joserfc": {"tokens.py"},
    "numpy": {"vectors.py"},
    "orjson": {"answers.py"},
}


def modules() -> list[Path]:
    found = sorted(PACKAGE.rglob("*.py"))
    assert len(found) > 20, "too few modules: is this the right folder?"
    return found


def imported(source: str) -> Iterator[str]:
    """Top-level names of all absolute imports, those inside functions included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module).partition(".")[0]


def strangers(house: Path, files: Iterable[Path]) -> dict[str, set[str]]:
    """Which modules of a house import which third-party library."""
    found: dict[str, set[str]] = {}
    for file in files:
        for name in set(imported(file.read_text())) - sys.stdlib_module_names - EVERYWHERE - {PACKAGE.name}:
            found.setdefault(name, set()).add(file.relative_to(house).as_posix())
    return found


def misplaced(found: dict[str, set[str]], doors: dict[str, set[str]]) -> list[str]:
    return [
        f"{library}: {', '.join(sorted(places))}"
        for library, places in sorted(found.items())
        if not (library == "rich" and all(place.startswith(TERMINAL) for place in places))
        and ((len(places) > 1 and library not in SEVERAL) or not places <= doors.get(library, set()))
    ]


def test_each_library_has_one_door() -> None:
    """A third-party library is imported in the one module that stands for it, so replacing it is a one-file change."""
    files = modules()
    found = strangers(PACKAGE, (file for file in files if SANDBOX not in file.parents))
    assert len(found) > 4
    assert misplaced(found, DOORS) == []
    assert misplaced(strangers(SANDBOX, (file for file in files if SANDBOX in file.parents)), SANDBOX_DOORS) == []


def test_each_library_is_a_dependency_of_ours() -> None:
    """What is imported is declared, not borrowed from the dependency of a dependency."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    declared = {canonicalize_name(Requirement(line).name) for line in lines}
    distributions = packages_distributions()
    found = strangers(PACKAGE, modules())
    assert [name for name in found if declared.isdisjoint(map(canonicalize_name, distributions[name]))] == []


def test_a_second_door_is_noticed(tmp_path: Path) -> None:
    """An import in another module, a new library and an import inside a function do not slip through."""
    for folder in ("cli", "engine", "ops"):
        (tmp_path / folder).mkdir()
    (tmp_path / "ops/listener.py").write_text("import aiohttp\n")
    (tmp_path / "kit.py").write_text("def f():\n    from aiohttp import web\n    import requests.adapters\n")
    (tmp_path / "cli/main.py").write_text("import uvloop, rich.table\n")
    (tmp_path / "engine/daemon.py").write_text("import uvloop\nfrom . import kit\n")
    (tmp_path / "cli/demo.py").write_text("import json, rich, pydantic\n")
    found = strangers(tmp_path, tmp_path.rglob("*.py"))
    assert misplaced(found, DOORS) == [
        "aiohttp: kit.py, ops/listener.py",
        "requests: kit.py",
        "uvloop: cli/main.py, engine/daemon.py",
    ]


# Runs in a process of its own. Third-party libraries may read the environment, /proc and the system's list of media
# types while they are imported; a read counts when our own code stands nearest to it. Standard-library code in
# between is our doing, unless it is itself being imported.
WATCH = r"""
import importlib, json, os, sys, sysconfig, threading
package, names = sys.argv[1], sys.argv[2:]
home = os.path.join(package, "")
libraries = {os.path.realpath(p) for p in (*sysconfig.get_paths().values(), sys.prefix, sys.base_prefix)}
standard = os.path.dirname(os.__file__)
seen = []

def ours():
    frame = sys._getframe(2)
    while frame:
        file = frame.f_code.co_filename
        if file.startswith(home):
            return True
        if "importlib" in file or "site-packages" in file or not file.startswith(("<", standard)):
            return False
        frame = frame.f_back
    return False

def watch(event, args):
    if event == "open" and isinstance(args[0], (str, bytes)):
        path = os.path.realpath(os.fsdecode(args[0]))
        if not path.startswith((home, *libraries)) and (ours() or not path.startswith(("/proc/", "/etc/mime.types"))):
            seen.append(f"open {path}")
    elif event.startswith("socket.") or event == "subprocess.Popen":
        seen.append(event)

class Recorded(type(os.environ)):
    def __getitem__(self, key):
        if ours():
            seen.append(f"environment {key}")
        return super().__getitem__(key)
    def __iter__(self):
        if ours():
            seen.append("environment")
        return super().__iter__()

sys.path.insert(0, os.path.dirname(package))
sys.addaudithook(watch)
os.environ.__class__ = Recorded
threading.Thread.start = lambda thread: seen.append(f"thread {thread.name}")
for name in names:
    importlib.import_module(name)
print(json.dumps({"seen": seen, "loaded": sorted(sys.modules)}))
"""


def import_watched(package: Path, *names: str) -> tuple[list[str], set[str]]:
    """What was done while importing, and what was loaded, in a fresh process."""
    answer = ran(sys.executable, "-c", WATCH, package.resolve(), *names, cwd=package.parent)
    assert answer.returncode == 0, answer.stderr
    told = json.loads(answer.stdout.splitlines()[-1])
    return told["seen"], set(told["loaded"])


def test_a_daemon_that_only_embeds_loads_no_prompts() -> None:
    """Not even the factory of processors imports the library that checks schemas, which takes a tenth of a second."""
    _, loaded = import_watched(PACKAGE, "ai_task_processor.processors.factory")
    assert "ai_task_processor.processors.chat.aletheia.processor" in loaded
    assert loaded.isdisjoint({"jsonschema", "openai"})


def dotted(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_importing_does_nothing() -> None:
    """Importing every module opens no file and no socket, reads no environment variable and starts no thread."""
    names = [dotted(file) for file in modules() if file.name != "__main__.py"]
    seen, loaded = import_watched(PACKAGE, *names)
    assert set(names) <= loaded
    assert seen == []


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import os; os.getenv('HOME')", "environment HOME"),
        ("import os; 'HOME' in os.environ", "environment HOME"),
        ("import os; dict(os.environ)", "environment"),
        ("import os.path; os.path.expanduser('~')", "environment HOME"),
        ("open('/proc/self/status').close()", "open /proc/"),
        ("import socket; socket.socket().close()", "socket.__new__"),
        ("import threading; threading.Thread(target=int).start()", "thread Thread-1"),
    ],
)
def test_a_deed_at_import_is_noticed(tmp_path: Path, source: str, told: str) -> None:
    """The watch sees each kind of deed it is there for."""
    package = tmp_path / "planted"
    package.mkdir()
    (package / "__init__.py").write_text(source)
    seen, _ = import_watched(package, "planted")
    assert any(line.startswith(told) for line in seen), seen


# Runs in a process of its own, too. Nobody listens on port 1: the command goes all its way and answers 1.
HEALTH_CHECK = """
import json, sys
before = set(sys.modules)
from ai_task_processor.cli.main import main
code = main(["healthcheck"])
print(json.dumps([code, sorted(set(sys.modules) - before)]))
"""


def test_a_health_check_loads_next_to_nothing() -> None:
    """A container pays for it every 15 s: no library, no event loop, and of ours only the command line."""
    answer = ran(sys.executable, "-c", HEALTH_CHECK, cwd=ROOT, env={"METRICS_PORT": "1"})
    assert answer.returncode == 0, answer.stderr
    code, loaded = json.loads(answer.stdout)
    assert code == 1
    own = {name.removeprefix(PACKAGE.name) for name in loaded if name.startswith(PACKAGE.name)}
    cli = {"", ".config", ".control", ".healthcheck", ".help_texts", ".main", ".outbox", ".outbox.arguments", ".parser"}
    assert own == {"", ".core", ".core.errors", ".core.process", ".core.spelling", *(f".cli{name}" for name in cli)}
    assert {name.partition(".")[0] for name in loaded} - sys.stdlib_module_names == {PACKAGE.name}
    assert "asyncio" not in loaded


def test_heavy_libraries_wait_for_their_first_use() -> None:
    """A daemon that does embeddings only has none of what other types of task need."""
    modules = (
        "processors.factory",
        "engine.wiring",
        "sinks.kafka.sink",
        "sinks.smtp.sink",
        "sources.task_runner.source",
    )
    _, loaded = import_watched(PACKAGE, *(f"{PACKAGE.name}.{module}" for module in modules))
    heavy = {
        "aiosmtplib",
        "confluent_kafka",
        "lxml",
        "psycopg",
        "redis",
        "jsonschema",
        "openai",
        "opentelemetry",
        f"{PACKAGE.name}.net.pages",
        f"{PACKAGE.name}.processors.search.brave",
    }
    assert loaded & heavy == set()


def lint(folder: Path) -> CompletedProcess[str]:
    return ran(sys.executable, "-c", LINT, "--no-cache", "--no-logo", cwd=folder)


def test_every_contract_is_kept() -> None:
    """No module imports one above it, or a remote on its own floor."""
    answer = lint(ROOT)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "3 kept, 0 broken" in answer.stdout


@pytest.mark.parametrize(
    ("module", "imported", "told"),
    [
        ("core/ports", "ops.logs", "ai_task_processor.core.ports -> ai_task_processor.ops.logs"),
        ("sources/rest/page", "stores.sqlite.wal", "ai_task_processor.sources is not allowed"),
        ("engine/runner", "stores.sqlite.wal", "ai_task_processor.engine.runner ->"),
        ("sandbox/planted", "core.settings", "ai_task_processor.sandbox.planted"),
        ("attic", "core.errors", "attic"),
    ],
    ids=["upwards", "sideways", "implementation", "sandbox", "no layer"],
)
def test_a_planted_import_breaks_a_contract(tmp_path: Path, module: str, imported: str, told: str) -> None:
    """An import against the layers, or a module without one, is refused by name."""
    shutil.copytree(PACKAGE, tmp_path / "ai_task_processor")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "ai_task_processor" / f"{module}.py").open("a") as file:
        file.write(f"\nimport ai_task_processor.{imported}\n")
    answer = lint(tmp_path)
    assert answer.returncode == 1
    assert told in answer.stdout
