"""Writes ``.env.example`` from the settings. Pure."""

import textwrap
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Final

from pydantic.fields import FieldInfo

from ai_task_processor.cli.config.rows import default_of, fields_of
from ai_task_processor.core.groups import Group, is_secret, names

WIDTH: Final = 98
_HEAD: Final = """\
# Settings of ai-task-processor. Copy this file to `.env` and fill in the first block.
# A line that starts with `# NAME=` shows the default; remove the `# ` to change it.
# The environment wins over `.env`. An empty value counts as not set.
# `ai-task-processor config` shows what is in effect; `ai-task-processor config --env` wrote this file.
#
# Values with a $ in them need single quotes, and secrets have them here: Docker Compose would
# replace $NAME otherwise, while `ai-task-processor run` takes it as it is. `docker run --env-file`
# knows no quotes: remove them for it.
#
"""
_FILES: Final = (
    "Secrets can also come from files (Docker and Kubernetes secrets). Set one of these to a path instead of the "
    "variable itself:"
)
#: the order of headings; those that are not here follow
_ORDER: Final = (
    *("Required", "Parts", "Task API", "OAuth2", "PostgreSQL", "Task runner and S3", "Model", "Chat", "Claims"),
    *("Work", "Search and pages", "Other types", "Outbox", "Sinks", "Health and metrics", "Traces", "Network", "Logs"),
)
_ABOUT: Final = {"Sinks": "A sink is read when SINKS names it, and off without its first variable."}


def env_file(groups: Iterable[type[Group]]) -> str:
    """The whole file."""
    found = [(_section(field, group), name, field) for name, _, field, group in fields_of(groups)]
    found.sort(key=lambda each: _ORDER.index(each[0]) if each[0] in _ORDER else len(_ORDER))
    files = [f"{name}_FILE" for _, name, field in found if is_secret(field) and name != names(field)[-1]]
    lines = [_HEAD, *_comment(f"{_FILES} {', '.join(files)}.")]
    for section, settings in groupby(found, key=lambda each: each[0]):
        lines += ["\n", f"# --- {section} {'-' * (WIDTH - len(section) - 5)}\n"]
        if section in _ABOUT:
            lines += ["\n", *_comment(_ABOUT[section])]
        for _, name, field in settings:
            lines += ["\n", *_setting(name, field)]
    return "".join(lines)


def _section(field: FieldInfo, group: type[Group]) -> str:
    return "Required" if _extra(field, "example") else group.section


def _extra(field: FieldInfo, key: str) -> str:
    extra = field.json_schema_extra
    return str(extra.get(key, "")) if isinstance(extra, dict) else ""


def _setting(name: str, field: FieldInfo) -> Iterator[str]:
    meaning, example, default = field.description or "", _extra(field, "example"), default_of(field)
    note = _extra(field, "note")
    if (first := meaning.partition(" ")[0]).isalpha() and first not in ("true", "false"):  # else it is a value
        meaning = meaning[:1].upper() + meaning[1:]
    yield from _comment(". ".join(filter(None, (meaning, note))))
    quoted = (is_secret(field) and name != names(field)[-1]) or "$" in default
    text = f"'{example or default}'" if quoted else example or default
    yield f"{name}={text}\n" if example else f"# {name}={text}\n"


def _comment(text: str) -> Iterator[str]:
    """Wrapped; indented lines stay as they are."""
    for indented, group in groupby(text.splitlines(), key=lambda line: line.startswith(" ")):
        lines = list(group)
        yield from (
            f"# {line}\n"
            for line in (lines if indented else textwrap.wrap(" ".join(lines), WIDTH, break_on_hyphens=False))
        )
