"""The promises of ``ports.Sink`` and what goes wrong, over every built-in sink and a real server of its kind."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ai_task_processor.core.checks import Finding
from ai_task_processor.core.errors import CircuitOpen, Rejected, RemoteError, Unauthorized, explained
from ai_task_processor.engine.reporting import Reporter
from ai_task_processor.models.task import Outcome, Receipt
from ai_task_processor.net.services import Services
from ai_task_processor.sinks import base
from ai_task_processor.sinks.base import RemoteSink
from ai_task_processor.sinks.kafka import settings as kafka_settings
from ai_task_processor.sinks.kafka import sink as kafka_sink
from ai_task_processor.sinks.smtp import sink as smtp_sink
from ai_task_processor.testing.sink import SINK_PROMISES, SinkCase, SinkPromise
from tests.contract.sinks.destinations import DESTINATIONS, Destination
from tests.contract.sinks.servers import free_port
from tests.helpers import StubSource, alive, services


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_sink, "CHECK_S", 0.5)


every_sink = pytest.mark.parametrize("destination", DESTINATIONS, ids=str)


@asynccontextmanager
async def running(
    destination: Destination, port: int, changes: Mapping[str, str] | None = None
) -> AsyncIterator[tuple[RemoteSink, Services]]:
    """A sink that writes to a server at this port."""
    shared = services({**destination.environ(port), **(changes or {})}, destination.kind)
    async with alive(destination.kind.build(shared)) as sink:
        yield sink, shared


@asynccontextmanager
async def silent_server() -> AsyncIterator[int]:
    """The port of a server that takes connections and says nothing."""
    writers = list[asyncio.StreamWriter]()

    async def keep(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)

    server = await asyncio.start_server(keep, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    for writer in writers:
        writer.transport.abort()


async def found(sink: RemoteSink) -> Finding:
    """What the check of ``doctor`` finds."""
    (check,) = sink.checks()
    (finding,) = [each async for each in check.work()]
    assert isinstance(finding, Finding)
    return finding


@every_sink
@pytest.mark.parametrize("promise", SINK_PROMISES, ids=lambda promise: promise.__name__)
async def test_the_contract_of_sinks(destination: Destination, promise: SinkPromise, tmp_path: Path) -> None:
    port = free_port()
    async with destination.serve(port, tmp_path) as written, running(destination, port) as (sink, _):
        await promise(SinkCase(sink, written, destination.sample, destination.takes))


@every_sink
async def test_a_server_that_comes_later_gets_everything(
    destination: Destination, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing starts late because of it; each write fails until the server is there, with the setting to look at."""
    monkeypatch.setattr(kafka_settings, "DELIVERY_S", 2.5)  # the producer tries to connect every 2 s at least
    port = free_port()
    async with running(destination, port) as (sink, _):
        with pytest.raises(RemoteError) as raised:
            await sink.write(destination.sample)
        assert raised.value.trips_breaker
        assert (await found(sink)).mark == ("ok" if sink.name == "webhook" else "failure")
        async with destination.serve(port, tmp_path) as written:
            await sink.write(destination.sample)
            assert written() == ["a"]
            assert (await found(sink)).mark == "ok"


@every_sink
async def test_a_server_that_does_not_answer_blocks_nothing(
    destination: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write ends in time, as a failure of the remote, and the loop goes on meanwhile."""
    monkeypatch.setattr(kafka_settings, "DELIVERY_S", 0.5)
    monkeypatch.setattr(base, "TIMEOUT_S", 0.3)
    monkeypatch.setattr(smtp_sink, "TIMEOUT_S", 0.3)
    loop = asyncio.get_running_loop()
    async with silent_server() as port, running(destination, port) as (sink, _):
        write = asyncio.create_task(sink.write(destination.sample))
        longest_s, before = 0.0, loop.time()
        while not write.done():
            await asyncio.sleep(0.01)
            longest_s, before = max(longest_s, loop.time() - before), loop.time()
        assert isinstance(write.exception(), RemoteError)
        assert longest_s < 0.25


@every_sink
async def test_wrong_credentials_pause_the_sink_and_name_the_setting(
    destination: Destination, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_settings, "DELIVERY_S", 2.0)
    port = free_port()
    async with (
        destination.refusing(port, tmp_path) as written,
        running(destination, port, destination.wrong) as (sink, shared),
    ):
        with pytest.raises(Unauthorized, match=destination.remedy) as raised:
            await sink.write(destination.sample)
        assert shared.gates[sink.name].reason == explained(raised.value)
        with pytest.raises(CircuitOpen, match=destination.remedy):
            await sink.write(destination.sample)
        if sink.name not in ("kafka", "webhook"):  # the broker writes only to those that are in; see its own test
            assert list(written()) == []
        if sink.name != "webhook":  # its check sends nothing
            finding = await found(sink)
            assert (finding.mark, destination.remedy in finding.remedy) == ("failure", True)


class Lost(StubSource):
    """Somebody else has the claim."""

    async def report(self, receipt: Receipt, outcome: Outcome) -> None:
        raise Rejected("lost")


@pytest.mark.parametrize("destination", [each for each in DESTINATIONS if each.kind.order == "before_report"], ids=str)
async def test_a_lost_claim_takes_the_result_back(destination: Destination, tmp_path: Path) -> None:
    port = free_port()
    async with destination.serve(port, tmp_path) as written, running(destination, port) as (sink, shared):
        await sink.write(destination.sample)
        assert written() == ["a"]
        with pytest.raises(Rejected):
            await Reporter(Lost(), sinks=[sink], clock=shared.clock, metrics=shared.metrics).report(destination.sample)
        assert list(written()) == []
