"""``ai-task-processor new processor NAME``: writes a package with a processor, its test and an example task."""

import argparse
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from shlex import quote
from string import Template
from typing import Final

from ai_task_processor.cli.demo.screen import own_command
from ai_task_processor.core.errors import ConfigurationError
from ai_task_processor.models.task import TaskType

EX_OK: Final = 0
TEMPLATES: Final = Path(__file__).parent / "templates" / "processor"
_NAME: Final = re.compile(r"[a-z][a-z0-9]*(?:[-_][a-z0-9]+)*")
_SUFFIX: Final = re.compile(r"[-_]processor$")
MAX_NAME: Final = 40
_RULE: Final = f"use a-z, 0-9 and single - or _ between them, a letter first, at most {MAX_NAME} characters: word-count"


@dataclass(frozen=True, slots=True)
class Names:
    """What one name is called in each place. ``type``: the task type, for example ``word_count``."""

    type: str

    @classmethod
    def of(cls, name: str) -> "Names":
        """Raises ``ConfigurationError`` with the rule."""
        if not _NAME.fullmatch(name) or len(name) > MAX_NAME:
            raise ConfigurationError(f"NAME is no name of a package: {_RULE}")
        names = cls(_SUFFIX.sub("", name).replace("-", "_"))
        if names.type == TaskType.TEXT_EMBEDDING:
            raise ConfigurationError(f"the built-in processor takes {names.type} tasks first: use another name")
        return names

    @property
    def module(self) -> str:
        return f"{self.type}_processor"

    @property
    def distribution(self) -> str:
        return self.module.replace("_", "-")

    @property
    def words(self) -> Mapping[str, str]:
        """The words of the templates."""
        prefix = "".join(part.capitalize() for part in self.type.split("_"))
        return {
            "type": self.type,
            "module": self.module,
            "distribution": self.distribution,
            "prefix": prefix,
            "class_name": f"{prefix}Processor",
            "test_name": f"Test{prefix}",
            "variable": self.type.upper(),
        }

    @property
    def files(self) -> Mapping[str, str]:
        """The path of each file in the package, and its template."""
        return {
            "pyproject.toml": "pyproject.toml",
            f"src/{self.module}/__init__.py": "processor.py",
            f"src/{self.module}/py.typed": "py.typed",
            f"tests/test_{self.module}.py": "test_processor.py",
            "task.json": "task.json",
            "README.md": "README.md",
            ".gitignore": "gitignore",
        }


def main(arguments: argparse.Namespace) -> int:
    """Write the package; returns the exit code."""
    names = Names.of(arguments.name)
    folder = Path(arguments.directory or names.distribution)
    _write(names, folder)
    if names.type in set(TaskType):
        _note(f"{names.type} is a built-in type: while your package is installed, its processor takes these tasks")
    print(f"wrote {folder}: {', '.join(names.files)}", "", "Next:", *_next(folder), sep="\n", flush=True)
    return EX_OK


def _write(names: Names, folder: Path) -> None:
    """Raises ``ConfigurationError`` when there is something already, or nothing can be written."""
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigurationError(f"{folder} exists and is not empty: name another with --directory")
        for path, template in names.files.items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            text = (TEMPLATES / f"{template}.txt").read_text("utf-8")
            file.write_text(Template(text).substitute(names.words), "utf-8")
    except OSError as error:
        raise ConfigurationError(f"{folder} cannot be written: {error.strerror}") from error


def _next(folder: Path) -> Iterator[str]:
    """The commands that come next, for this Python."""
    interpreter = Path(sys.executable)
    with suppress(ValueError):
        interpreter = interpreter.relative_to(Path.cwd())
    python = quote(str(interpreter))
    # With the tools of our own build at hand, pip need not download them.
    isolated = " --no-build-isolation" if all(map(find_spec, ("hatchling", "editables"))) else ""
    yield f"  {python} -m pip install{isolated} --editable {quote(str(folder))}"
    yield f"  {python} -m unittest discover {quote(str(folder / 'tests'))}"
    yield f"  {own_command(sys.argv[0])} process {quote(str(folder / 'task.json'))}"


def _note(text: str) -> None:
    print(f"ai-task-processor: {text}", file=sys.stderr)
