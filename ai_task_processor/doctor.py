"""``ai-task-processor doctor``: what stands between this configuration and a working daemon, and how to mend it.

The daemon's own parts are asked (client, token source, list reader, provider), so that what passes
here works there. Nothing is claimed, reported or kept.
"""

import asyncio
import errno
import os
import shutil
import socket
import ssl
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Final, Literal, TypeVar
from urllib.parse import urlsplit

import httpx2
from pydantic import ByteSize
from rich.console import Console
from rich.text import Text

from ai_task_processor import errors, logs
from ai_task_processor.assembly import Assembler, Parts
from ai_task_processor.auth import BearerAuth
from ai_task_processor.errors import InvalidAnswer, NeighbourError
from ai_task_processor.kit import Kit
from ai_task_processor.models.task import Task
from ai_task_processor.processors.factory import ProcessorFactory
from ai_task_processor.settings import AuthSettings, Settings, load_settings
from ai_task_processor.sources.nest_list import Page, PendingList
from ai_task_processor.stores import directory, inspection, schema
from ai_task_processor.transport import deadline, make_client

EX_OK, EX_UNAVAILABLE, EX_CANTCREAT, EX_CONFIG = 0, 69, 73, 78
DEADLINE_S: Final = 10.0
#: for one step of a connection, so that a probe can still say which one it was
STEP_S: Final = 5.0
#: tasks read from the head of the pending list
SAMPLE: Final = 200
MAX_NAMES, MAX_NAME = 3, 30
SKEW_S: Final = 30.0
CERTIFICATE_DAYS: Final = 14
PROBE_BYTES: Final = 2**16

Mark = Literal["ok", "warning", "failure", "skipped"]
#: a sign, its stand-in where only ASCII can be shown, its colour
_SIGNS: Final[Mapping[Mark, tuple[str, str, str]]] = {
    "ok": ("✓", "+", "green"),
    "warning": ("!", "!", "yellow"),
    "failure": ("✗", "x", "red"),
    "skipped": ("-", "-", "dim"),
}
_TITLES: Final = ("DNS", "connection", "token", "pending list", "model", "clock", "data directory")
#: codes of RFC 6749 §5.2 and RFC 8707, and where each is mended; the rest is about the client itself
_TOKEN_REMEDIES: Final[Mapping[str, str]] = {
    "invalid_scope": "ask for scopes that this client may have: OAUTH2_SCOPE",
    "invalid_target": "the server does not know this audience: OAUTH2_AUDIENCE",
    "unauthorized_client": "allow this client the grant client_credentials, or change OAUTH2_CLIENT_ID",
    "unsupported_grant_type": "this server gives no client_credentials tokens: OAUTH2_TOKEN_URL",
    "invalid_request": "compare OAUTH2_AUDIENCE, OAUTH2_SCOPE, OAUTH2_AUTH_METHOD with the client's registration",
}
_LIST_REMEDIES: Final[Mapping[type[Exception], str]] = {
    errors.Unauthorized: "the token is not for this API (OAUTH2_AUDIENCE), or permits too little (OAUTH2_SCOPE)"
}
_MODEL_REMEDIES: Final[Mapping[type[Exception], str]] = {
    errors.Unauthorized: "correct OPENAI_API_KEY",
    errors.ModelRefused: "correct DEFAULT_EMBEDDING_MODEL, MODEL_ALIASES or OPENAI_BASE_URL",
    errors.TaskError: "correct DEFAULT_EMBEDDING_MODEL, MODEL_ALIASES or OPENAI_BASE_URL",
    errors.QuotaExhausted: "look at the billing of the account behind OPENAI_API_KEY",
}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. A failure has a remedy that names a setting, and an exit code."""

    mark: Mark
    text: str
    remedy: str = ""
    code: int = EX_OK


ok, warning, skipped = partial(Finding, "ok"), partial(Finding, "warning"), partial(Finding, "skipped")
wrong, down = partial(Finding, "failure", code=EX_CONFIG), partial(Finding, "failure", code=EX_UNAVAILABLE)
unusable = partial(Finding, "failure", code=EX_CANTCREAT)


@dataclass(frozen=True, slots=True)
class Check:
    """One question. ``setting`` is where to look when no answer comes; ``needs`` are names of earlier checks."""

    title: str
    work: Callable[[], AsyncIterator[Finding]]
    setting: str
    needs: tuple[str, ...] = ()
    subject: str = ""
    late: Callable[[str, str], Finding] = down

    @property
    def name(self) -> str:
        return f"{self.title} of the {self.subject}" if self.subject else self.title


@dataclass(slots=True)
class Neighbour:
    """Whom the daemon talks to, and what was seen of the last answer."""

    name: str
    setting: str
    url: str
    skew_s: float | None = None
    status: int = 0
    page: bool = False

    def note(self, answer: httpx2.Response, now: datetime) -> None:
        self.status = answer.status_code
        self.page = "html" in answer.headers.get("content-type", "")
        if "age" not in answer.headers:  # a cache answers with the date of long ago
            self.skew_s = skew_s(answer.headers.get("date"), now)


class Report:
    """Prints findings as they come, masked, and remembers them for the verdict."""

    def __init__(self, console: Console) -> None:
        self.findings: list[Finding] = []
        self.mask = logs.Masker(())
        self._console = console
        self._ascii = not (console.encoding or "").lower().startswith("utf")

    def add(self, title: str, finding: Finding, subject: str = "") -> None:
        self.findings.append(finding)
        sign, plain, colour = _SIGNS[finding.mark]
        text = f"{subject}: {finding.text}" if subject else finding.text
        self._print(plain if self._ascii else sign, colour, f" {title:<15} {text}")
        if finding.remedy:
            self._print("    ", "", finding.remedy)

    def close(self, verdict: str) -> int:
        """Print the last line; the exit code."""
        self._print("", "", verdict)
        return exit_code(self.findings)

    def _print(self, sign: str, colour: str, text: str) -> None:
        text = self.mask(printable(text))
        text = text.encode("ascii", "replace").decode() if self._ascii else text
        self._console.print(Text.assemble((sign, colour), text), soft_wrap=True)


def main(environ: Mapping[str, str] | None = None) -> int:
    """Check everything; the exit code: 78 to be mended by an operator, 73 data directory, 69 a neighbour is down."""
    report = Report(Console(highlight=False, force_terminal=sys.stdout.isatty()))
    try:
        settings = load_settings(environ)
        report.mask = logs.Masker(settings.secrets())
        logs.configure(level="CRITICAL", format="auto", secrets=settings.secrets())
        return asyncio.run(_examine(settings, report))
    except errors.ConfigurationError as error:
        for problem in error.problems:
            report.add("configuration", mistake(problem))
        for title in _TITLES:
            report.add(title, skipped("skipped: needs a valid configuration"))
        return report.close(verdict(report.findings))


async def _examine(settings: Settings, report: Report) -> int:
    async with AsyncExitStack() as stack:
        patient = Patient(settings, Assembler(settings).parts(), stack)
        report.add("configuration", ok(f"valid, mode {settings.model.mode}"))
        for text in settings.warnings:
            report.add("configuration", warning(text))
        await run(patient.checks(), report.add)
    return report.close(verdict(report.findings, patient.daemon_running))


async def run(
    checks: Iterable[Check], tell: Callable[[str, Finding, str], None], deadline_s: float = DEADLINE_S
) -> None:
    """The checks in their order, each under its deadline; one whose needs did not pass is skipped."""
    unproven: set[str] = set()

    def found(check: Check, finding: Finding) -> None:
        if finding.mark in ("failure", "skipped"):
            unproven.add(check.name)
        tell(check.title, finding, check.subject)

    for check in checks:
        if missing := [need for need in check.needs if need in unproven]:
            found(check, skipped(f"skipped: needs {missing[0]}"))
            continue
        try:
            async with asyncio.timeout(deadline_s):
                async for finding in check.work():
                    found(check, finding)
        except TimeoutError:
            found(
                check,
                check.late(
                    f"no answer within {deadline_s:g} s", f"overloaded, or behind a firewall? See {check.setting}"
                ),
            )


class Patient:
    """The daemon at rest, and the checks of its parts. ``stack`` closes what is opened."""

    def __init__(self, settings: Settings, parts: Parts, stack: AsyncExitStack) -> None:
        self.daemon_running = False
        self._settings, self._parts = settings, parts
        api, auth, network = settings.api, settings.auth, settings.network
        issuer = "OAUTH2_TOKEN_URL" if auth.custom_token_url else "ORY_PROJECT_SLUG"
        self._api = Neighbour("task API", "API_BASE_URL", api.base_url)
        self._issuer = Neighbour("token endpoint", issuer, auth.token_url)
        self._neighbours = [self._api, self._issuer]
        if settings.model.mode == "openai":
            from ai_task_processor.providers.openai_api import OPENAI_URL

            self._model = Neighbour("model API", "OPENAI_BASE_URL", settings.model.base_url or OPENAI_URL)
            self._neighbours.append(self._model)
        bearer = BearerAuth(parts.tokens)
        reader = make_client(network, url=api.base_url, connections=1, auth=bearer, max_answer_bytes=None)
        self._list = PendingList(api, reader, lambda _: None)
        self._probes = {n.name: make_client(network, url=n.url, connections=1) for n in self._neighbours}
        for client in (reader, *self._probes.values(), *parts.clients):
            client.event_hooks = {"response": [self._note]}
            stack.push_async_callback(client.aclose)

    def _proxied(self, n: Neighbour) -> bool:
        """May a proxy stand in between? (``NO_PROXY`` can still exempt the host.)"""
        return self._settings.network.https_proxy is not None and n.url.startswith("https:")

    async def _note(self, answer: httpx2.Response) -> None:
        """Whose answer it is: two neighbours may share a URL, but only one is asked at a time."""
        for n in self._neighbours:
            if str(answer.request.url).startswith(n.url):
                n.note(answer, self._parts.clock.now())

    def checks(self) -> Iterator[Check]:
        """Everything, in the order in which one thing stands on another."""
        for n in self._neighbours:
            yield Check("DNS", partial(self._dns, n), n.setting, subject=n.name)
        links = {}
        for n in self._neighbours:
            title = "TLS" if n.url.startswith("https:") else "connection"
            link = Check(title, partial(self._connection, n), n.setting, (f"DNS of the {n.name}",), n.name)
            links[n.name] = (link.name,)
            yield link
        yield Check("token", self._token, self._issuer.setting, links["token endpoint"])
        yield Check("pending list", self._pending, "API_BASE_URL", (*links["task API"], "token"))
        yield Check("model", self._models, "OPENAI_BASE_URL", links.get("model API", ()))
        yield Check("clock", self._clocks, "NTP")
        yield Check("data directory", self._disk, "DATA_DIR", late=unusable)

    async def _dns(self, n: Neighbour) -> AsyncIterator[Finding]:
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

    async def _connection(self, n: Neighbour) -> AsyncIterator[Finding]:
        """Without a credential, and on the way that the daemon takes: through the proxy, against CA_BUNDLE."""
        place, watch = urlsplit(n.url).netloc, Stopwatch()
        limits = httpx2.Timeout(STEP_S)
        try:
            async with deadline(DEADLINE_S), self._probes[n.name].stream("HEAD", n.url, timeout=limits) as answer:
                tls = answer.extensions["network_stream"].get_extra_info("ssl_object")
        except NeighbourError as error:
            yield unreachable(error, n, proxied=self._proxied(n))
        else:
            if tls is None:
                yield ok(f"{place} answers plain http ({watch})")
            else:
                now = self._parts.clock.now().timestamp()
                yield certificate(tls.getpeercert(), now, f"{place} answers {tls.version()} ({watch})")

    async def _token(self) -> AsyncIterator[Finding]:
        auth, watch = self._settings.auth, Stopwatch()
        try:
            token = await self._parts.tokens.token()
        except NeighbourError as error:
            yield refused(error, self._issuer, {errors.Unauthorized: token_remedy(str(error), auth)})
            return
        yield ok(f"granted to {auth.client_id} for {token.life_s:g} s ({watch})")
        granted = auth.scope if token.scope is None else token.scope  # RFC 6749 §5.1: left out means as asked
        if withheld := set(auth.scope.split()) - set(granted.split()):
            text = f"it lacks scopes that were asked for: {shown(sorted(withheld))}"
            yield warning(text, "allow them to this client, or change OAUTH2_SCOPE")

    async def _pending(self) -> AsyncIterator[Finding]:
        watch, factory, model = Stopwatch(), ProcessorFactory(), self._settings.model
        factory.equip(
            Kit(clock=self._parts.clock, patience_s=0, embedder=self._parts.batcher, model_aliases=model.aliases)
        )
        try:
            page = await self._list.read(SAMPLE)
        except NeighbourError as error:
            yield refused(error, self._api, _LIST_REMEDIES)
        else:
            for finding in listed(page, lambda task: factory.find(task) is not None, str(watch)):
                yield finding

    async def _models(self) -> AsyncIterator[Finding]:
        model, provider = self._settings.model, self._parts.provider
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
                except (NeighbourError, errors.TaskError) as error:
                    yield refused(error, self._model, _MODEL_REMEDIES, about=f"{name}: ")
                else:
                    yield accepted(name, self._model, str(watch))

    async def _clocks(self) -> AsyncIterator[Finding]:
        for n in (self._api, self._issuer):
            yield clock_finding(n.name, n.skew_s)

    async def _disk(self) -> AsyncIterator[Finding]:
        store = self._settings.store
        try:
            self.daemon_running, findings = await aside(lambda: look_at(store.data_dir, store.outbox_max_bytes))
        except (OSError, errors.DataDirectoryError) as error:
            findings = [no_room(error, store.data_dir)]
        for finding in findings:
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


def exit_code(findings: Iterable[Finding]) -> int:
    """What an operator has to mend comes before what may mend itself."""
    codes = {finding.code for finding in findings}
    return next((code for code in (EX_CONFIG, EX_CANTCREAT, EX_UNAVAILABLE) if code in codes), EX_OK)


def verdict(findings: Sequence[Finding], daemon_running: bool = False) -> str:
    """The last line."""
    count = Counter(finding.mark for finding in findings)
    if failures := count["failure"]:
        return f"{failures} problem{'s' * (failures > 1)} found"
    warned = f", with {count['warning']} warning{'s' * (count['warning'] > 1)}" if count["warning"] else ""
    return f"Ready{warned}: " + ("a daemon is running" if daemon_running else "start with `ai-task-processor run`")


def printable(text: str) -> str:
    """What a neighbour or a task wrote must not move the cursor."""
    return "".join(char if char.isprintable() else "?" for char in text)


def shown(names: Iterable[str]) -> str:
    """A few distinct names, shortened: they may be anything."""
    distinct = list(dict.fromkeys(names))
    few = [printable(name if len(name) <= MAX_NAME else name[: MAX_NAME - 1] + "~") for name in distinct[:MAX_NAMES]]
    more = len(distinct) - len(few)
    return ", ".join(few) + (f" and {more} more" if more else "")


def mistake(problem: str) -> Finding:
    """A mistake of the configuration; the remedy names the variable."""
    text, _, remedy = problem.partition(": ")
    name = text.split()[0]
    remedy = remedy.replace("set it to", f"set {name} to", 1)
    return wrong(text, remedy if name in remedy else f"{name}: {remedy}" if remedy else f"correct {name}")


def unreachable(error: NeighbourError, n: Neighbour, *, proxied: bool) -> Finding:
    """Why there is no connection. One that was there and gave no answer is left to the checks that follow."""
    place = urlsplit(n.url).netloc + (" (or the proxy)" if proxied else "")
    where = f"{n.setting}, HTTPS_PROXY or NO_PROXY" if proxied else n.setting
    for cause in _causes(error):
        match cause:
            case ssl.SSLCertVerificationError():
                return distrusted(cause.verify_code, cause.verify_message, n.setting)
            case ssl.SSLError():
                return wrong(f"{place} speaks no TLS that we know ({error})", f"correct scheme and port in {where}")
            case httpx2.ProxyError():
                return wrong("the proxy refuses", "correct HTTPS_PROXY or NO_PROXY")
            case ConnectionRefusedError():
                return down(f"{place} refuses the connection", f"is it running? Otherwise correct {where}")
            case httpx2.ConnectTimeout():
                return down(f"{place} does not react", f"is a firewall in between? Otherwise correct {where}")
    if isinstance(error, errors.Ambiguous | InvalidAnswer):
        return warning(f"{place} takes connections, but does not answer HEAD ({error})")
    return down(f"{place}: {error}", f"correct {where}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        if isinstance(error, BaseExceptionGroup):  # one for each address that was tried
            for each in error.exceptions:
                yield from _causes(each)
        error = error.__cause__ or error.__context__


def distrusted(code: int, message: str, setting: str) -> Finding:
    """``code``: OpenSSL's X509_V_ERR_…"""
    match code:
        case 9:
            return down("its certificate is not valid yet", f"set the clock of this machine, or correct {setting}")
        case 10:
            return down("its certificate has expired", f"have it renewed where {setting} points")
        case 62 | 64:
            return wrong("its certificate is for another host name", f"correct the host in {setting}")
    return wrong(f"nobody known here signed its certificate ({message})", "set CA_BUNDLE to your authority's PEM file")


def certificate(peer: Mapping[str, object], now: float, text: str) -> Finding:
    """How long it lasts. ``peer``: as ``SSLObject.getpeercert`` tells it."""
    days = int((ssl.cert_time_to_seconds(str(peer["notAfter"])) - now) // 86400)
    text = f"{text}, certificate expires in {days} days"
    return ok(text) if days >= CERTIFICATE_DAYS else warning(text, "have it renewed")


def refused(error: Exception, n: Neighbour, remedies: Mapping[type[Exception], str], about: str = "") -> Finding:
    """Whose fault it is that a neighbour does not do what we ask; ``remedies`` for its word about us."""
    if isinstance(error, errors.NoToken) and isinstance(error.__cause__, NeighbourError):
        error = error.__cause__
    for kind, remedy in remedies.items():
        if isinstance(error, kind):
            return wrong(f"{about}{error}", remedy)
    if isinstance(error, errors.Misconfigured | InvalidAnswer):
        what = "a web page" if n.page else str(error)
        return wrong(f"{about}something else is there: {what}", f"correct {n.setting}: host and path")
    return down(f"{about}{error}", f"ask who runs the {n.name}, or look at {n.setting}")


def token_remedy(text: str, auth: AuthSettings) -> str:
    """Where to mend a refusal of the token endpoint. ``text`` holds its code."""
    secret = (
        "OAUTH2_PRIVATE_KEY_FILE, OAUTH2_ISSUER" if auth.auth_method == "private_key_jwt" else "OAUTH2_CLIENT_SECRET"
    )
    client = f"compare with the client's registration: OAUTH2_CLIENT_ID, {secret}, OAUTH2_AUTH_METHOD"
    return next((remedy for code, remedy in _TOKEN_REMEDIES.items() if code in text), client)


def listed(page: Page, can_process: Callable[[Task], bool], took: str) -> Iterator[Finding]:
    """What the head of the pending list says."""
    foreign = [str(task.type) for task in page.tasks.values() if not can_process(task)]
    part = "all that is pending" if page.complete else "the head of the list"
    yield ok(f"tasks seen: {page.seen} ({part}), can be processed here: {len(page.tasks) - len(foreign)} ({took})")
    if foreign:
        text = f"{len(foreign)} are of types without a processor here: {shown(foreign)}"
        yield warning(text, "leave them to another worker, or install their processor (embeddings: OPENAI_API_KEY)")
    if invalid := page.skipped["invalid"]:
        yield warning(f"{invalid} are records that cannot be used", "their _id must match TASK_ID_PATTERN")


def accepted(model: str, n: Neighbour, took: str) -> Finding:
    """The provider has no objection; nor has it to a web page, or to a server that has no cards of models."""
    if n.page:
        return refused(InvalidAnswer(""), n, {}, about=f"{model}: ")
    if n.status >= httpx2.codes.BAD_REQUEST:
        remedy = "if model calls fail, correct OPENAI_BASE_URL (its path often ends in /v1)"
        return warning(f"{model}: not verified, the server has no cards of models ({n.status})", remedy)
    return ok(f"{model}: key and model are accepted ({took})")


def skew_s(date: str | None, now: datetime) -> float | None:
    """How far the clock behind a ``Date`` header, which is cut to seconds, is ahead of ours; None without one."""
    try:
        theirs = parsedate_to_datetime(date or "")
    except ValueError:
        return None
    return (theirs.replace(tzinfo=theirs.tzinfo or UTC) - now).total_seconds() + 0.5


def clock_finding(name: str, skew: float | None) -> Finding:
    """Are the two clocks close enough for tokens?"""
    if skew is None:
        return skipped(f"{name}: skipped: it has told no date")
    text = f"{name}: {abs(skew):.0f} s apart from ours"
    if abs(skew) <= SKEW_S:
        return ok(text)
    return warning(f"{text}, which is {'behind' if skew > 0 else 'ahead'}", "set up NTP: minutes make tokens fail")


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
    if (path / schema.DATABASE).exists():
        records.update(summary.state for summary in inspection.iter_records(path))
        if not daemon:
            # A reader cannot take SQLite's -wal and -shm away again; a writer does, even one with no wish.
            inspection.leave_request(path, "retry", ())
    used = sum(file.stat().st_size for file in path.glob(f"{schema.DATABASE}*"))
    return daemon, list(kept(path, daemon=daemon, free=free, growth=max_bytes - used, records=records))


def kept(path: Path, *, daemon: bool, free: int, growth: int, records: Mapping[str, int]) -> Iterator[Finding]:
    """What the data directory says. ``growth``: bytes by which the outbox may still grow."""
    room = f"{ByteSize(free).human_readable()} free"
    yield ok(f"{path} can be written, {room}, {'a' if daemon else 'no'} daemon is running on it")
    if free < growth:
        text = f"{room}, but the outbox may grow by {ByteSize(growth).human_readable()}"
        yield warning(text, "make room, or lower OUTBOX_MAX_BYTES")
    if waiting := records.get("waiting"):
        yield ok(f"results that wait for delivery: {waiting}")
    if dead := records.get("dead"):
        yield warning(f"dead letters: {dead}", "see `ai-task-processor outbox list --dead`, then retry or drop them")


def no_room(error: OSError | errors.DataDirectoryError, path: Path) -> Finding:
    """Why the data directory cannot be used."""
    if isinstance(error, errors.DataDirectoryError):
        text, _, remedy = str(error).partition(": ")
        return unusable(text, remedy if "DATA_DIR" in remedy else f"DATA_DIR: {remedy}")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return unusable(f"the file system of {path} is full", "make room, or change DATA_DIR")
    reason = error.strerror or type(error).__name__
    return unusable(f"{path} cannot be written ({reason})", "make DATA_DIR a directory that this user may write to")
