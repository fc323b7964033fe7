"""Profiles: sources that a TOML file describes instead of code. ``TASK_SOURCE`` names one, or its path.

The kind of a profile is a class with ``ProfileSource`` as a base: it says how a profile is checked and which settings
it needs. Built-in profiles are in ``sources/profiles``.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field

from ai_task_processor.core.errors import ConfigurationError
from ai_task_processor.core.groups import Group
from ai_task_processor.core.toml_file import TomlFile
from ai_task_processor.models.task import Outcome

FOLDER = Path(__file__).parent.parent / "sources" / "profiles"

_NAME = r"^[a-z][a-z0-9-]{0,62}$"
#: the part of keys in the store that names the source
SourceName = Annotated[str, Field(pattern=_NAME)]


class Part(BaseModel):
    """A table of a profile."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Profile(Part):
    """What profiles of every kind say."""

    kind: str = Field(description="the kind of source, which decides about all other keys")
    name: SourceName | None = Field(None, description="the name of the source; that of the file if not set")
    description: str | None = Field(None, description="one sentence for `sources list`")
    types: tuple[str, ...] = Field(description="the task types that are taken when ENABLED_TASK_TYPES is not set")
    sinks: tuple[str, ...] = Field((), description="the destinations that are used when SINKS is not set")
    settings: Mapping[str, str] = Field({}, description="what other settings are when they are not set, by variable")

    @property
    def defaults(self) -> Mapping[str, str]:
        """The texts of settings that neither the environment nor ``.env`` sets."""
        return {"SINKS": ",".join(self.sinks), **self.settings}


class ProfileSource:
    """Base of the sources that profiles describe: ``of`` makes the class for one of them."""

    profile_type: ClassVar[type[Profile]]
    #: the texts of settings that are not set otherwise
    defaults: ClassVar[Mapping[str, str]]
    profile: ClassVar[Any]

    @classmethod
    def groups(cls, profile: Any) -> Sequence[type[Group]]:
        """The settings that a source with this profile reads."""
        raise NotImplementedError

    def sends(self, task_id: str, outcome: Outcome | None) -> tuple[str, bytes] | None:  # noqa: ARG002 - for sources that report
        """What is sent for an outcome, or (None) when a task starts: the request, and its body in JSON.

        For people: nothing is sent by this call. None when the source sends nothing then.
        """
        return None

    @classmethod
    def of(cls, name: str, profile: Profile) -> type[Self]:
        """The class of the source with this name and profile."""
        members = {
            "name": name,
            "profile": profile,
            "task_types": frozenset(profile.types),
            "defaults": profile.defaults,
            "settings_groups": tuple(cls.groups(profile)),
        }
        return type(cls.__name__, (cls,), members)


def is_path(name: str) -> bool:
    """Whether ``TASK_SOURCE`` is the path of a profile, and no name."""
    return "/" in name or name.endswith(".toml")


def source_of(kind: type[ProfileSource], file: Path) -> type[ProfileSource]:
    """The class for the profile in a file. Raises ``ConfigurationError`` with a line for each mistake in it."""
    problems: list[str] = []
    toml = TomlFile(file, "a profile", problems)
    profile = toml.parsed(kind.profile_type)
    if profile is not None and profile.name is None and not re.fullmatch(_NAME, file.stem):
        toml.mistake(["name"], "name is missing: add it, because the file's name is not of a-z, 0-9 and - alone")
    if profile is None or problems:
        raise ConfigurationError(*(f"TASK_SOURCE: {problem}" for problem in problems))
    return kind.of(profile.name or file.stem, profile)


def kind_of(file: Path, kinds: Sequence[str]) -> str:
    """The kind that a profile names, one of these. Raises ``ConfigurationError``."""
    problems: list[str] = []
    toml = TomlFile(file, "a profile", problems)
    document = toml.document()
    kind = None if document is None else document.get("kind")
    if document is not None and kind not in kinds:
        toml.mistake(["kind"], f"kind must be one of {', '.join(kinds)}")
    if problems:
        raise ConfigurationError(*(f"TASK_SOURCE: {problem}" for problem in problems))
    return str(kind)
