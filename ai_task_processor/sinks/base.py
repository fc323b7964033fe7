"""What the built-in sinks share: which records they write, the id of an event, the circuit, and being off."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, ClassVar
from uuid import UUID, uuid5

from ai_task_processor.core import codec
from ai_task_processor.core.checks import Check, Finding, Remote, down, halves, skipped, wrong
from ai_task_processor.core.component import Problem
from ai_task_processor.core.errors import (
    CircuitOpen,
    ConfigurationError,
    Misconfigured,
    Rejected,
    RemoteError,
    Unauthorized,
    explained,
)
from ai_task_processor.core.groups import Group, names
from ai_task_processor.core.plugins import PACKAGE
from ai_task_processor.core.ports import Sink
from ai_task_processor.core.records import to_outcome
from ai_task_processor.models.task import Completed, Record, TaskStatus
from ai_task_processor.net.answers import Answer, status_error
from ai_task_processor.net.remarks import remark
from ai_task_processor.net.services import Services
from ai_task_processor.ops.logs import get_logger, masked

#: of the name-based UUIDs (RFC 9562 §5.5) that ``event_id`` makes; consumers store them, so it never changes
NAMESPACE = UUID("22fe22dd-f12e-4c6f-93fb-9de04bb68fb4")
#: pause in seconds before a record is written again that the remote itself refuses: the longest that delivery makes
REFUSED_AGAIN_S = 900.0
#: a failure that took this many seconds opens the circuit at once: each write holds one of the concurrent deliveries
SLOW_S = 5.0
#: for one HTTP request, in total, seconds
TIMEOUT_S = 30.0
#: refusing HTTP statuses that are about one request: bad request, too large, not processable
OWN_STATUSES = frozenset({400, 413, 422})

log = get_logger(__name__)


class Refused(Rejected):
    """This record cannot be written, whatever is well with others: no reason for a pause."""

    def __init__(self, reason: str) -> None:
        super().__init__("refused")
        self.args = (reason,)


def event_id(record: Record) -> UUID:
    """The id of a task's result at every receiver: the same for every write, in every process."""
    return uuid5(NAMESPACE, f"{record.receipt.source}\0{record.receipt.id}")


def result_json(record: Record) -> bytes:
    """The result of a successful record as JSON, a vector included. Raises ``ValueError`` for a damaged one."""
    outcome = to_outcome(record)
    if not isinstance(outcome, Completed):
        raise ValueError("a record without a result")
    return codec.result_json(outcome.result.output, outcome.result.vector)


def result(record: Record) -> Any:
    """The same as a value. Integers of any size are kept."""
    return json.loads(result_json(record))


class SinkSettings(Group):
    """The settings of a built-in sink. Without the variable ``address`` it is off; with it, ``needs`` must be set."""

    section = "Sinks"

    sink: ClassVar[str]
    address: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()

    @property
    def off(self) -> str | None:
        """Why nothing is written, or None."""
        fields = type(self).model_fields.items()
        given = any(getattr(self, name) is not None for name, field in fields if names(field)[0] == self.address)
        return None if given else f"SINKS names {self.sink}, but {self.address} is not set: it receives no results"

    @classmethod
    def required(cls, given: Mapping[str, str]) -> Iterable[str]:
        return cls.needs if {cls.address, f"{cls.address}_FILE"} & given.keys() else ()


class RemoteSink(Sink):
    """Writes successful results to one remote, through a circuit that has the sink's name.

    ``remote``: None when the sink is off. ``library``: what it is built on. It is imported when it is first used; that
    it is not installed is an error of the configuration.
    """

    def __init__(self, services: Services, settings: SinkSettings, remote: Remote | None, library: str = "") -> None:
        if remote is not None and library and find_spec(library) is None:
            extra = f"pip install '{PACKAGE}[{self.name}]'"
            raise ConfigurationError(f"SINKS names {self.name}, which needs the package {library!r}: {extra}")
        self._off = settings.off
        self._setting = settings.address
        self._remote = remote
        self._secrets = services.secrets
        self._clock = services.clock
        self._gate = services.gate(self.name)

    async def run(self, ready: asyncio.Event) -> None:
        if self._off is not None:
            log.warning("sink.disabled", sink=self.name, reason=self._off)
        await super().run(ready)

    async def write(self, record: Record) -> None:
        """Failed and cancelled tasks have no result to write. Raises ``RemoteError``, after the report ``Refused``."""
        if self._remote is not None and record.status is TaskStatus.SUCCEEDED and self._takes(record):
            await self._call(lambda: self._send(record))

    def _takes(self, record: Record) -> bool:  # noqa: ARG002 - for sinks of some results only
        """Whether the result is written here at all; those that are not do not wait for a pause."""
        return True

    async def _send(self, record: Record) -> None:
        """Write a result. Raises ``RemoteError``, and ``Refused`` when the record itself is at fault."""
        raise NotImplementedError

    async def _access(self) -> Finding:
        """What ``doctor`` finds: can results be written? Writes nothing. Raises ``RemoteError``."""
        raise NotImplementedError

    async def _call(self, work: Callable[[], Awaitable[None]]) -> None:
        """Like ``Gate.call``, but an outage that is noticed slowly opens the circuit at once, and ``Refused`` is no
        evidence: some records are refused here, without asking the remote.
        """
        gate = self._gate
        try:
            entry = gate.enter()
        except CircuitOpen as error:
            # The reason of the pause, word for word: a lasting failure is logged when its text changes.
            raise CircuitOpen(gate.reason or str(error), retry_after_s=error.retry_after_s) from error
        began_at = self._clock.monotonic()
        try:
            await work()
            gate.answered(entry)
        except Refused as error:
            if self.order == "after_report":
                raise
            raise RemoteError(explained(error), retry_after_s=REFUSED_AGAIN_S) from error
        except RemoteError as error:
            slow = error.trips_breaker and self._clock.monotonic() - began_at >= SLOW_S
            (gate.hold if slow else gate.failed)(entry, error)
            if isinstance(error, Unauthorized):
                await self._secrets.reread()
            raise
        finally:
            gate.leave(entry)

    def problems(self) -> Sequence[Problem]:
        """That it is off. (The daemon reports the pauses of every circuit.)"""
        return () if self._off is None else (Problem("sink_off", self._off, ready=True, when="never"),)

    def remotes(self) -> Sequence[Remote]:
        return () if self._remote is None else (self._remote,)

    def checks(self) -> Sequence[Check]:
        needs = self.remotes()
        subject = needs[0].name if needs else self.name
        return (Check("access", self._check, self._setting, needs, subject),)

    async def _check(self) -> AsyncIterator[Finding]:
        if self._off is not None:
            yield skipped(self._off)
            return
        try:
            yield await self._access()
        except RemoteError as error:
            text, remedy = halves(str(error))
            kind = wrong if isinstance(error, Unauthorized | Misconfigured) else down
            yield kind(text, remedy or f"ask who runs the {self._remote and self._remote.name}")


class HttpSink(RemoteSink):
    """A sink whose remote speaks HTTP. ``service``: what messages call it; ``url``: None when the sink is off."""

    def __init__(self, services: Services, settings: SinkSettings, service: str, url: str | None) -> None:
        super().__init__(services, settings, Remote(service, settings.address, url) if url else None)
        self._client = services.client(url, services.settings.delivery.concurrency) if url else None

    async def _exchange(
        self, method: str, url: str, headers: Mapping[str, str], content: bytes | None = None
    ) -> Answer:
        assert self._client is not None  # noqa: S101 - called only when the sink is on
        return await self._client.exchange(method, url, headers=headers, content=content, timeout_s=TIMEOUT_S)

    async def aclose(self) -> None:
        if self._client is not None:
            await self._client.aclose()


def refusal(answer: Answer, service: str, setting: str, key: str, sent: bytes = b"") -> RemoteError | Refused:
    """The error for a refusing HTTP answer, with the remote's words. ``sent``: the request as JSON.

    ``setting``, ``key``: the variables of the URL and of the credential.
    """
    error: RemoteError | Refused
    if answer.status_code in OWN_STATUSES:
        error = Refused(f"{service} refuses this result ({answer.status_code})")
    else:
        error = status_error(answer, service, setting=setting)
        remedy = {Unauthorized: key, Misconfigured: setting}.get(type(error))
        if remedy is not None and ": " not in str(error):
            error = type(error)(f"{error}: correct {remedy}", status=error.status)
    error.detail = remark(answer.content, sent, masked)
    return error
