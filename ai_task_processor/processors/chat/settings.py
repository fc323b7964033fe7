"""The settings of prompt types."""

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator

from ai_task_processor.core.groups import Group, setting


def _paths(text: str) -> tuple[Path, ...]:
    return tuple(Path(part) for part in text.split(":") if part)


class PromptSettings(Group):
    """Where prompt types are."""

    paths: Annotated[tuple[Path, ...], BeforeValidator(_paths)] = setting(
        "TASK_TYPES", "files or folders with prompt types in TOML, with colons between", ""
    )
