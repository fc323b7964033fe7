"""The one life cycle of everything that the wiring builds: source, store, sink, provider, processor.

The constructor takes settings and services and only stores them. ``run`` is the component's whole life. Health,
``/status``, ``doctor`` and the settings are loops over the components.

A mistake in a component does not end the daemon, except in ``build`` and ``run``. What another method raises (also
``SystemExit``), and a value that its port does not allow, is logged as ``component.failed`` with the component and its
package, and shown in ``/ready`` or ``why_idle`` while it lasts; the daemon goes on without that call's result.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

from ai_task_processor.core.checks import Check, Finding, Remote


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a component cannot work now: a code for machines and a message for people.

    ``ready``: the daemon is ready nevertheless (a pause that ends by itself, something that is not configured). A
    problem explains idleness ``when`` tasks are ``running`` and wait for it, when listed tasks are ``unserved`` (have
    no processor) or ``paused`` (skipped because of a limit or a pause), when slots are ``free``, ``always`` or
    ``never``. The last two are notes in ``/ready``.
    """

    code: str
    message: str = ""
    ready: bool = False
    when: Literal["always", "running", "unserved", "paused", "free", "never"] = "always"

    def __str__(self) -> str:
        return f"{self.code}: {self.message}" if self.message else self.code


class Component(Protocol):
    """The defaults do nothing and report no problems: implementations inherit and override what they need."""

    name: str = ""
    #: the groups of settings that it reads; only groups of selected components are parsed
    settings_groups: ClassVar[tuple[type[Any], ...]] = ()

    @classmethod
    def build(cls, services: Any) -> Any:
        """Construct from ``net.services.Services``; override it for a constructor with other arguments.

        A provider may return None: no model is configured. Raises ``ConfigurationError`` with the remedy; any other
        error, and an object without the members of the port, ends the command with 78 and the name of the package.
        """
        return cls(services)  # type: ignore[call-arg]  # the constructor is the implementation's own

    async def run(self, ready: asyncio.Event) -> None:
        """Open, set ``ready``, work until cancelled, close.

        It raises ``ConfigurationError`` or ``DataDirectoryError`` for what an operator must mend. Any other error, and
        a return before it is cancelled, ends the daemon with 70 (``component.crashed``).
        """
        ready.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Close what it has open, such as connections. A ``run`` of its own must do that itself."""
        return

    async def reload(self) -> None:
        """After SIGHUP: secrets were read again; retry at once what was refused. An error is only logged."""
        return

    def problems(self) -> Sequence[Problem]:
        """Why it cannot work now; for ``/ready`` and ``why_idle``. From memory. An error is a problem, too."""
        return ()

    def status(self) -> Mapping[str, object]:
        """Its fields in ``/status``, as JSON. From memory. None of them is shown when one is there already."""
        return {}

    def remotes(self) -> Sequence[Remote]:
        """The servers that it talks to: ``doctor`` checks that each can be reached."""
        return ()

    def checks(self) -> Sequence[Check]:
        """Further checks of ``doctor``. They claim, report and store nothing; ``run`` is not called.

        An error here, in ``remotes`` or in ``explain`` is a failed finding; the other checks go on.
        """
        return ()

    def explain(self, problem: Problem) -> Finding | None:  # noqa: ARG002 - for components that know more
        """The finding of ``doctor`` for a problem of the running daemon, after its checks; None shows it as it is.

        The daemon may have been started with other secrets than the checks used.
        """
        return None
