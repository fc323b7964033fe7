"""The doctor's own checks: of every server that a component names, of the clock, and of a running daemon."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from ai_task_processor.cli.doctor.port import occupied
from ai_task_processor.core import codec
from ai_task_processor.core.checks import (
    Finding,
    Listed,
    Remote,
    Stopwatch,
    aside,
    down,
    halves,
    ok,
    shown,
    skipped,
    warning,
    wrong,
)
from ai_task_processor.core.component import Component, Problem
from ai_task_processor.core.errors import Ambiguous, InvalidAnswer, RemoteError, Unsent
from ai_task_processor.core.settings import NetworkSettings
from ai_task_processor.core.syntax import certificate_end
from ai_task_processor.engine.faults import Faults, all_of
from ai_task_processor.models.task import Task
from ai_task_processor.net.answers import Head
from ai_task_processor.net.client import deadline, make_client
from ai_task_processor.net.services import Services
from ai_task_processor.net.tls import PASSING
from ai_task_processor.net.transport_errors import translate

#: timeouts of one probe, and of its connect: a shorter one, so that the finding can name the failed step
STEP_S, CONNECT_S = 5.0, 4.0
SKEW_S: Final = 30.0
CERTIFICATE_DAYS: Final = 14
#: characters of a daemon's problem that are shown
MAX_REASON: Final = 300

Now = Callable[[], datetime]


def mistake(problem: str) -> Finding:
    """The finding for an error of the configuration; the remedy names the variable."""
    text, remedy = halves(problem)
    name = "" if text[0].islower() else text.split()[0].rstrip(",")
    remedy = remedy.replace("set it to", f"set {name} to", 1)
    return wrong(text, remedy if name in remedy and remedy else f"{name}: {remedy}" if remedy else f"correct {name}")


def _proxied(remote: Remote, network: NetworkSettings) -> bool:
    """Whether requests may go through a proxy. (``NO_PROXY`` can still exempt the host.)"""
    return network.https_proxy is not None and remote.url.startswith("https:")


def _place(url: str) -> str:
    """Host and port, without the password that a URL may contain."""
    return urlsplit(url).netloc.rpartition("@")[2]


async def resolve(remote: Remote, network: NetworkSettings) -> AsyncIterator[Finding]:
    """Check that the host has an address."""
    host, watch = urlsplit(remote.url).hostname or "", Stopwatch()
    try:
        found = await aside(lambda: socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
    except (OSError, UnicodeError) as error:
        text = f"{host} has no address ({getattr(error, 'strerror', None) or 'not a host name'})"
        if _proxied(remote, network):
            yield warning(f"{text}, but the proxy may know it")
        else:
            yield down(text, f"correct {remote.setting}, or mend the name service of this machine")
        return
    addresses = [str(entry[4][0]) for entry in found]
    yield ok(f"{host} is {'an address' if host in addresses else shown(addresses)} ({watch})")


async def connect(remote: Remote, network: NetworkSettings, now: Now) -> AsyncIterator[Finding]:
    """Check the connection as the daemon makes it, through the proxy and with CA_BUNDLE, but without credentials."""
    place, watch, parts, peer = _place(remote.url), Stopwatch(), urlsplit(remote.url), None
    http = parts.scheme in ("http", "https")
    if not http and parts.port is None:
        return  # without a port there is nothing to check
    try:
        async with deadline(STEP_S):
            peer = await (_head(remote, network, now) if http else _open(parts.hostname, parts.port))
    except RemoteError as error:
        yield unreachable(error, remote, proxied=_proxied(remote, network))
        return
    if peer is not None:
        yield certificate(peer, now().timestamp(), f"{place} answers {peer['tls']} ({watch})")
    else:
        yield ok(f"{place} {'answers plain http' if http else 'takes connections'} ({watch})")


async def _head(remote: Remote, network: NetworkSettings, now: Now) -> Mapping[str, object] | None:
    client = make_client(network, url=remote.url, connections=1, connect_timeout_s=CONNECT_S)
    client.observe = partial(note, [remote], now)
    try:
        async with client.opened(remote.url, method="HEAD") as answer:
            return answer.peer_certificate
    finally:
        await client.aclose()


async def _open(host: str | None, port: int | None) -> None:
    """For protocols other than HTTP: check that the port accepts connections."""
    try:
        async with asyncio.timeout(CONNECT_S):
            _, writer = await asyncio.open_connection(host, port)
    except OSError as error:
        raise Unsent(str(translate(error))) from error
    writer.close()


def note(remotes: Iterable[Remote], now: Now, answer: Head) -> None:
    """Store what an HTTP answer shows about its servers: status, web page, clock skew (``Date`` has full seconds)."""
    for remote in remotes:
        remote.status, remote.page = answer.status_code, "html" in answer.headers.get("content-type", "")
        if "age" in answer.headers:
            continue  # a cache answers with an old date
        try:
            theirs = parsedate_to_datetime(answer.headers.get("date", ""))
            remote.skew_s = (theirs.replace(tzinfo=theirs.tzinfo or UTC) - now()).total_seconds() + 0.5
        except ValueError:
            remote.skew_s = None


def unreachable(error: RemoteError, remote: Remote, *, proxied: bool) -> Finding:
    """The finding for a failed connection; only a warning when the server accepts connections but does not answer."""
    place = _place(remote.url) + (" (or the proxy)" if proxied else "")
    where = f"{remote.setting}, HTTPS_PROXY or NO_PROXY" if proxied else remote.setting
    text, remedy = halves(str(error).removeprefix("TLS: "))
    if "CLIENT_CERT_FILE" in remedy:
        return wrong(f"{place}: {text}", remedy)
    if "HTTPS_PROXY" in remedy:
        return wrong(text, "correct HTTPS_PROXY or NO_PROXY")
    for cause in _causes(error):
        match cause:
            case ssl.SSLCertVerificationError(verify_code=int(code)):
                return (down if code in PASSING else wrong)(text, remedy.replace("the URL", remote.setting))
            case ConnectionRefusedError():
                return down(f"{place} refuses the connection", f"is it running? Otherwise correct {where}")
            case TimeoutError() if isinstance(error, Unsent):
                return down(f"{place} does not react", f"is a firewall in between? Otherwise correct {where}")
    if str(error).startswith("TLS: "):
        return wrong(f"{place} speaks no TLS that we know ({error})", f"correct scheme and port in {where}")
    if isinstance(error, Ambiguous | InvalidAnswer):
        return warning(f"{place} takes connections, but does not answer HEAD ({error})")
    return down(f"{place}: {error}", f"correct {where}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        if isinstance(error, BaseExceptionGroup):  # one for each address that was tried
            for each in error.exceptions:
                yield from _causes(each)
        error = error.__cause__ or error.__context__


def certificate(peer: Mapping[str, object], now: float, text: str) -> Finding:
    """When the certificate expires. ``peer``: as from ``SSLObject.getpeercert``; ``now``: seconds since the epoch."""
    days = int((ssl.cert_time_to_seconds(str(peer["notAfter"])) - now) // 86400)
    text = f"{text}, certificate expires in {days} days"
    return ok(text) if days >= CERTIFICATE_DAYS else warning(text, "have it renewed")


def own_certificate(cert: Path, now: datetime) -> Finding:
    """When the certificate that we show expires. An expired one is a mistake of the configuration."""
    days = (certificate_end(cert) - now).days
    text = f"the client certificate expires in {days} days"
    return ok(text) if days >= CERTIFICATE_DAYS else warning(text, "have CLIENT_CERT_FILE renewed")


async def clocks(remotes: Iterable[Remote]) -> AsyncIterator[Finding]:
    """Check that clocks are close enough for tokens; only HTTP servers send their time."""
    for remote in (remote for remote in remotes if remote.url.startswith("http")):
        if remote.skew_s is None:
            yield skipped(f"{remote.name}: skipped: it has told no date")
            continue
        text = f"{remote.name}: {abs(remote.skew_s):.0f} s apart from ours"
        if abs(remote.skew_s) <= SKEW_S:
            yield ok(text)
        else:
            way = "behind" if remote.skew_s > 0 else "ahead"
            yield warning(f"{text}, which is {way}", "set up NTP: minutes make tokens fail")


def listed(seen: Listed, can_process: Callable[[Task], bool]) -> Iterator[Finding]:
    """Findings about the head of a source's list."""
    foreign = [str(task.type) for task in seen.tasks if not can_process(task)]
    part = "all that is pending" if seen.complete else "the head of the list"
    able = len(seen.tasks) - len(foreign)
    yield ok(f"tasks seen: {seen.seen} ({part}), can be processed here: {able} ({seen.took})")
    if foreign:
        text = f"{len(foreign)} are of types without a processor here: {shown(foreign)}"
        yield warning(text, "leave them to another worker, or install or configure their processor")


async def beside(services: Services, components: Sequence[Component], faults: Faults) -> AsyncIterator[Finding]:
    """Ask a running daemon for its problems: it may use other secrets, and has made more calls.

    When no daemon answers: can one listen there?
    """
    ops = services.settings.ops
    host = "127.0.0.1" if ops.metrics_host in ("0.0.0.0", "::") else ops.metrics_host  # noqa: S104 - compared with, not bound to
    url = f"http://{f'[{host}]' if ':' in host else host}:{ops.metrics_port}"
    try:
        answer = await services.client(url, 1).exchange("GET", f"{url}/status", timeout_s=STEP_S)
        status = codec.loads(answer.content)
    except (RemoteError, ValueError):
        status = None
    found = list(reported(status, components, faults))
    if not found and (taken := await occupied(ops)) is not None:
        yield taken
    for finding in found:
        yield finding


def reported(status: object, components: Sequence[Component], faults: Faults) -> Iterator[Finding]:
    """Findings about the problems in a daemon's ``/status``, explained by the component that knows the problem."""
    fields = status if isinstance(status, dict) else {}
    reasons = fields.get("not_ready_because")
    if not isinstance(reasons, list):
        return
    yield ok(f"it answers {str(fields.get('state'))[:MAX_REASON]!r}", daemon=True)
    if fields.get("paused"):
        yield warning(f"it claims nothing: {str(fields.get('why_idle'))[:MAX_REASON]}", "ai-task-processor resume")
    for reason in (str(reason)[:MAX_REASON] for reason in reasons):
        code, _, text = reason.partition(": ")
        if code not in ("starting", "draining"):
            explanations = (_explained(Problem(code, text), component, faults) for component in components)
            yield next(filter(None, explanations), warning(f"it says: {reason}"))


def _explained(problem: Problem, component: Component, faults: Faults) -> Finding | None:
    with faults.of(component, "explain"):
        found = component.explain(problem)
        return None if found is None else all_of(Finding, [found])[0]
    return None


async def failed(faults: Faults) -> AsyncIterator[Finding]:
    """Findings about the components that could not be asked."""
    for problem in faults.problems:
        yield wrong(problem.message, "mend or uninstall that package")
