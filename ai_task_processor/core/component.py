"""The one life cycle of everything that the wiring builds: source, store, sink, provider, processor.

A component is told its settings and services by its constructor, which only stores. ``run`` is its whole life. Health,
``/status``, ``doctor`` and the settings are loops over components: what one has to say, it says here.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

from ai_task_processor.core.checks import Check, Finding, Remote


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a component cannot work now, in a word for machines and a sentence for people.

    ``ready``: it does not keep the daemon from being ready (a pause that ends by itself, something that is not
    configured). Such a problem only explains idleness: ``when`` something is ``running`` (tasks in slots wait for it),
    when listed tasks are ``unserved`` (have no processor), or ``always``.
    """

    code: str
    message: str = ""
    ready: bool = False
    when: Literal["always", "running", "unserved"] = "always"

    def __str__(self) -> str:
        return f"{self.code}: {self.message}" if self.message else self.code


class Component(Protocol):
    """Has a life that does nothing, and no problems: implementations inherit this and override what they have."""

    name: str = ""
    #: the groups of settings that it reads; only those of selected components are required and parsed
    settings_groups: ClassVar[tuple[type[Any], ...]] = ()

    @classmethod
    def build(cls, services: Any) -> Any:
        """Make one from ``net.services.Services``. An implementation whose constructor takes other things overrides it.

        A provider may answer None: there is nobody to call.
        """
        return cls(services)  # type: ignore[call-arg]  # the constructor is the implementation's own

    async def run(self, ready: asyncio.Event) -> None:
        """Open, set ``ready``, work until cancelled, close."""
        ready.set()
        await asyncio.get_running_loop().create_future()

    async def reload(self) -> None:
        """An operator has changed something (SIGHUP): secrets were read again, try at once what was refused."""
        return

    def problems(self) -> Sequence[Problem]:
        """Why it cannot work now; for ``/ready`` and ``why_idle``. From memory."""
        return ()

    def status(self) -> Mapping[str, object]:
        """What it shows in ``/status``, as JSON. From memory."""
        return {}

    def remotes(self) -> Sequence[Remote]:
        """The servers that it talks to: ``doctor`` checks that each can be reached."""
        return ()

    def checks(self) -> Sequence[Check]:
        """What ``doctor`` asks beyond that. Nothing is claimed, reported or kept, and ``run`` is not called."""
        return ()

    def explain(self, problem: Problem) -> Finding | None:  # noqa: ARG002 - for components that know more
        """What ``doctor`` says of a problem that the running daemon has, after its checks; None for the problem itself.

        The daemon may have been started with other secrets than those that the checks have used.
        """
        return None
