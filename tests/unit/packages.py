"""Packages that are not installed, for tests that pretend they were."""

import sys
from collections.abc import Callable
from importlib.metadata import Distribution, EntryPoint
from types import ModuleType, SimpleNamespace
from typing import cast

import pytest

from ai_task_processor.core import plugins
from ai_task_processor.core.plugins import Kind

Install = Callable[..., None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Pretend that a package is installed that has these objects as entry points of a kind."""
    module = ModuleType("acme_module")
    monkeypatch.setitem(sys.modules, "acme_module", module)
    found: list[EntryPoint] = []

    def entry_points(*, group: str) -> list[EntryPoint]:
        return [each for each in found if each.group == group]

    def add(kind: Kind, package: str = "acme", **objects: object) -> None:
        distribution = cast("Distribution", SimpleNamespace(name=package))
        for name, value in objects.items():
            setattr(module, name, value)
            point = EntryPoint(name, f"acme_module:{name}", f"ai_task_processor.{kind}")
            found.append(point._for(distribution))  # type: ignore[attr-defined]  # as importlib.metadata does it

    monkeypatch.setattr(plugins, "entry_points", entry_points)
    return add
