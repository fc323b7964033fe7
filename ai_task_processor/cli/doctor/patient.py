"""The daemon at rest, asked part by part: what passes here works there."""

import asyncio
import os
import shutil
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlsplit

from ai_task_processor.cli.doctor import diagnosis
from ai_task_processor.cli.doctor.report import Check, Finding, Remote, down, ok, shown, unusable, warning
from ai_task_processor.core import codec, errors
from ai_task_processor.core.errors import RemoteError
from ai_task_processor.core.ports import SkipReason
from ai_task_processor.core.settings import Settings
from ai_task_processor.engine.wiring import Parts
from ai_task_processor.models.task import Task
from ai_task_processor.net.client import StreamedAnswer, deadline, make_client
from ai_task_processor.net.oauth_settings import AuthSettings
from ai_task_processor.net.token_answers import token_remedy
from ai_task_processor.providers import OPENAI_URL
from ai_task_processor.providers.settings import ModelSettings
from ai_task_processor.sources.nestjs.listing import PendingList
from ai_task_processor.sources.nestjs.settings import ApiSettings
from ai_task_processor.stores.sqlite import directory, inspection, schema
from ai_task_processor.stores.sqlite.settings import StoreSettings

DEADLINE_S: Final = 10.0


#: for one probe, and of that to connect, so that it can still say which of both it was
STEP_S: Final = 5.0
CONNECT_S: Final = 4.0


#: tasks read from the head of the pending list
SAMPLE: Final = 200


PROBE_BYTES: Final = 2**16


T = TypeVar("T")


class _Whatever:
    """``ports.Admission`` of a list that is only looked at."""

    async def busy(self, task_ids: Sequence[str]) -> Mapping[str, SkipReason]:  # noqa: ARG002
        return {}

    async def refuse(self, tasks: Sequence[Task]) -> Sequence[SkipReason | None]:
        return [None] * len(tasks)


class Patient:
    """The daemon at rest, and the checks of its parts. ``stack`` closes what is opened."""

    def __init__(self, settings: Settings, parts: Parts, stack: AsyncExitStack) -> None:
        self.daemon_running = False
        self._granted = False
        self._settings, self._parts = settings, parts
        api, auth, network = settings[ApiSettings], settings[AuthSettings], settings.network
        issuer = "OAUTH2_TOKEN_URL" if auth.custom_token_url else "ORY_PROJECT_SLUG"
        self._api = Remote("task API", "API_BASE_URL", api.base_url)
        self._issuer = Remote("token endpoint", issuer, auth.token_url)
        self._remotes = [self._api, self._issuer]
        model = settings[ModelSettings]
        if model.mode == "openai":
            self._model = Remote("model API", "OPENAI_BASE_URL", model.base_url or OPENAI_URL)
            self._remotes.append(self._model)
        reader = make_client(network, url=api.base_url, connections=1, tokens=parts.tokens, max_answer_bytes=None)
        self._list = PendingList(api, reader, _Whatever())
        self._probes = {
            n.name: make_client(network, url=n.url, connections=1, connect_timeout_s=CONNECT_S) for n in self._remotes
        }
        for client in (reader, *self._probes.values(), *parts.clients):
            client.observe = self._note
            stack.push_async_callback(client.aclose)

    def _proxied(self, n: Remote) -> bool:
        """May a proxy stand in between? (``NO_PROXY`` can still exempt the host.)"""
        return self._settings.network.https_proxy is not None and n.url.startswith("https:")

    def _note(self, answer: StreamedAnswer) -> None:
        """Whose answer it is: two remotes may share a URL, but only one is asked at a time."""
        for n in self._remotes:
            if answer.url.startswith(n.url):
                n.note(answer, self._parts.clock.now())

    def checks(self) -> Iterator[Check]:
        """Everything, in the order in which one thing stands on another."""
        for n in self._remotes:
            yield Check("DNS", partial(self._dns, n), n.setting, subject=n.name)
        links = {}
        for n in self._remotes:
            title = "TLS" if n.url.startswith("https:") else "connection"
            link = Check(title, partial(self._connection, n), n.setting, (f"DNS of the {n.name}",), n.name)
            links[n.name] = (link.name,)
            yield link
        yield Check("token", self._token, self._issuer.setting, links["token endpoint"])
        yield Check("pending list", self._pending, "API_BASE_URL", (*links["task API"], "token"))
        yield Check("model", self._models, "OPENAI_BASE_URL", links.get("model API", ()))
        yield Check("clock", self._clocks, "NTP")
        yield Check("data directory", self._disk, "DATA_DIR", late=unusable)
        yield Check("daemon", self._daemon, "METRICS_PORT")

    async def _dns(self, n: Remote) -> AsyncIterator[Finding]:
        host, watch = urlsplit(n.url).hostname or "", Stopwatch()
        try:
            found = await aside(lambda: socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            text = f"{host} has no address ({getattr(error, 'strerror', None) or 'not a host name'})"
            if self._proxied(n):
                yield warning(f"{text}, but the proxy may know it")
            else:
                yield down(text, f"correct {n.setting}, or mend the name service of this machine")
            return
        addresses = [str(entry[4][0]) for entry in found]
        yield ok(f"{host} is {'an address' if host in addresses else shown(addresses)} ({watch})")

    async def _connection(self, n: Remote) -> AsyncIterator[Finding]:
        """Without a credential, and on the way that the daemon takes: through the proxy, against CA_BUNDLE."""
        place, watch = urlsplit(n.url).netloc, Stopwatch()
        try:
            async with deadline(STEP_S), self._probes[n.name].opened(n.url, method="HEAD") as answer:
                peer = answer.peer_certificate
        except RemoteError as error:
            bundled = self._settings.network.ca_bundle is not None
            yield diagnosis.unreachable(error, n, proxied=self._proxied(n), bundled=bundled)
        else:
            if peer is None:
                yield ok(f"{place} answers plain http ({watch})")
            else:
                now = self._parts.clock.now().timestamp()
                yield diagnosis.certificate(peer, now, f"{place} answers {peer['tls']} ({watch})")

    async def _token(self) -> AsyncIterator[Finding]:
        auth, watch = self._settings[AuthSettings], Stopwatch()
        try:
            token = await self._parts.tokens.token()
        except RemoteError as error:
            yield diagnosis.refused(error, self._issuer, {errors.Unauthorized: token_remedy(str(error), auth)})
            return
        self._granted = True
        yield ok(f"granted to {auth.client_id} for {token.life_s:g} s ({watch})")
        granted = auth.scope if token.scope is None else token.scope  # RFC 6749 §5.1: left out means as asked
        if withheld := set(auth.scope.split()) - set(granted.split()):
            text = f"it lacks scopes that were asked for: {shown(sorted(withheld))}"
            yield warning(text, "allow them to this client, or change OAUTH2_SCOPE")

    async def _pending(self) -> AsyncIterator[Finding]:
        watch, factory = Stopwatch(), self._parts.factory
        try:
            page = await self._list.read(SAMPLE)
        except RemoteError as error:
            yield diagnosis.refused(error, self._api, diagnosis.LIST_REMEDIES)
        else:
            for finding in diagnosis.listed(page, lambda task: factory.find(task) is not None, str(watch)):
                yield finding

    async def _models(self) -> AsyncIterator[Finding]:
        model, provider = self._settings[ModelSettings], self._parts.provider
        if provider is None:
            yield warning("none is configured: embedding tasks stay pending", "set OPENAI_API_KEY or OPENAI_BASE_URL")
        elif model.mode == "mock":
            yield ok("mock vectors, no model is called")
        else:
            default = model.aliases.get(model.default_embedding_model, model.default_embedding_model)
            for name in dict.fromkeys((default, *model.aliases.values())):
                watch = Stopwatch()
                try:
                    await provider.check(name)
                except (RemoteError, errors.TaskError) as error:
                    yield diagnosis.refused(error, self._model, diagnosis.MODEL_REMEDIES, about=f"{name}: ")
                else:
                    yield diagnosis.accepted(name, self._model, str(watch))

    async def _clocks(self) -> AsyncIterator[Finding]:
        for n in (self._api, self._issuer):
            yield diagnosis.clock_finding(n.name, n.skew_s)

    async def _disk(self) -> AsyncIterator[Finding]:
        store = self._settings[StoreSettings]
        try:
            self.daemon_running, findings = await aside(lambda: look_at(store.data_dir, store.outbox_max_bytes))
        except (OSError, errors.DataDirectoryError) as error:
            findings = [diagnosis.no_room(error, store.data_dir)]
        for finding in findings:
            yield finding

    async def _daemon(self) -> AsyncIterator[Finding]:
        """What the daemon beside says about itself: it may have been started with other secrets, or met more."""
        ops = self._settings.ops
        if not self.daemon_running or ops.metrics_port == 0:
            return
        host = "127.0.0.1" if ops.metrics_host in ("0.0.0.0", "::") else ops.metrics_host  # noqa: S104 - compared with, not bound to
        url = f"http://{f'[{host}]' if ':' in host else host}:{ops.metrics_port}"
        client = make_client(self._settings.network, url=url, connections=1)
        try:
            answer = await client.exchange("GET", f"{url}/status", timeout_s=STEP_S)
            status = codec.loads(answer.content)
        except (RemoteError, ValueError):
            return  # another container's daemon, perhaps, on a volume that both see
        finally:
            await client.aclose()
        for finding in diagnosis.reported(status, granted=self._granted):
            yield finding


class Stopwatch:
    """Shows as the time since it was made."""

    def __init__(self) -> None:
        self._since = time.perf_counter()

    def __str__(self) -> str:
        return f"{(time.perf_counter() - self._since) * 1000:.0f} ms"


async def aside(work: Callable[[], T]) -> T:
    """Blocking work in a thread that the process does not wait for: a dead resolver, a hung network disk."""
    outcome: Future[T] = Future()
    outcome.set_running_or_notify_cancel()  # whoever stops waiting does not cancel the thread

    def run() -> None:
        try:
            outcome.set_result(work())
        except Exception as error:  # noqa: BLE001 - handed over to whoever waits
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return await asyncio.wrap_future(outcome)


def look_at(path: Path, max_bytes: int) -> tuple[bool, list[Finding]]:
    """Is a daemon running on the data directory, and what is in it. Makes it, and leaves nothing else there.

    Raises ``OSError`` and ``DataDirectoryError``.
    """
    directory.prepare(path)
    with tempfile.TemporaryFile(dir=path) as file:
        file.write(bytes(PROBE_BYTES))
        file.flush()
        os.fsync(file.fileno())
    daemon, free = inspection.daemon_running(path), shutil.disk_usage(path).free
    records: Counter[str] = Counter()
    if inspection.exists(path):
        records.update(summary.state for summary in inspection.iter_records(path))
        if not daemon:
            # A reader cannot take SQLite's -wal and -shm away again; a writer does, even one with no wish.
            inspection.leave_request(path, "retry", ())
    used = sum(file.stat().st_size for file in path.glob(f"{schema.DATABASE}*"))
    return daemon, list(diagnosis.kept(path, daemon=daemon, free=free, growth=max_bytes - used, records=records))
