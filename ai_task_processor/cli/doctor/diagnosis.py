"""From what was seen to a finding: whose fault it is, and the setting that mends it. Pure."""

import errno
import ssl
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from pydantic import ByteSize

from ai_task_processor.cli.doctor.report import Finding, Remote, down, ok, shown, skipped, unusable, warning, wrong
from ai_task_processor.core import errors
from ai_task_processor.core.errors import InvalidAnswer, RemoteError
from ai_task_processor.models.task import Task
from ai_task_processor.sources.nestjs.page import Page

SKEW_S: Final = 30.0


CERTIFICATE_DAYS: Final = 14


#: characters of what a daemon says about itself
MAX_REASON: Final = 300


LIST_REMEDIES: Final[Mapping[type[Exception], str]] = {
    errors.Unauthorized: "the token is not for this API (OAUTH2_AUDIENCE), or permits too little (OAUTH2_SCOPE)"
}


MODEL_REMEDIES: Final[Mapping[type[Exception], str]] = {
    errors.Unauthorized: "correct OPENAI_API_KEY",
    errors.ModelRefused: "correct DEFAULT_EMBEDDING_MODEL, MODEL_ALIASES or OPENAI_BASE_URL",
    errors.TaskError: "correct DEFAULT_EMBEDDING_MODEL, MODEL_ALIASES or OPENAI_BASE_URL",
    errors.QuotaExhausted: "look at the billing of the account behind OPENAI_API_KEY",
}


def mistake(problem: str) -> Finding:
    """A mistake of the configuration; the remedy names the variable."""
    text, _, remedy = problem.partition(": ")
    name = text.split()[0]
    remedy = remedy.replace("set it to", f"set {name} to", 1)
    return wrong(text, remedy if name in remedy else f"{name}: {remedy}" if remedy else f"correct {name}")


def unreachable(error: RemoteError, n: Remote, *, proxied: bool, bundled: bool) -> Finding:
    """Why there is no connection. One that was there and gave no answer is left to the checks that follow.

    ``bundled``: is CA_BUNDLE set?
    """
    place = urlsplit(n.url).netloc + (" (or the proxy)" if proxied else "")
    where = f"{n.setting}, HTTPS_PROXY or NO_PROXY" if proxied else n.setting
    text, _, remedy = str(error).rpartition(": ")
    if "CLIENT_CERT_FILE" in remedy:
        return wrong(f"{place}: {text}", remedy)
    if "HTTPS_PROXY" in remedy:
        return wrong(text, "correct HTTPS_PROXY or NO_PROXY")
    for cause in _causes(error):
        match cause:
            case ssl.SSLCertVerificationError(verify_code=int(), verify_message=str()):
                return distrusted(cause.verify_code, cause.verify_message, n.setting, bundled=bundled)
            case ConnectionRefusedError():
                return down(f"{place} refuses the connection", f"is it running? Otherwise correct {where}")
            case TimeoutError() if isinstance(error, errors.Unsent):
                return down(f"{place} does not react", f"is a firewall in between? Otherwise correct {where}")
    if str(error).startswith("TLS: "):
        return wrong(f"{place} speaks no TLS that we know ({error})", f"correct scheme and port in {where}")
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


def distrusted(code: int, message: str, setting: str, *, bundled: bool) -> Finding:
    """``code``: OpenSSL's X509_V_ERR_…; ``bundled``: is CA_BUNDLE set?"""
    match code:
        case 9:
            return down("its certificate is not valid yet", f"set the clock of this machine, or correct {setting}")
        case 10:
            return down("its certificate has expired", f"have it renewed where {setting} points")
        case 62 | 64:
            return wrong("its certificate is for another host name", f"correct the host in {setting}")
    text = f"nobody known here signed its certificate ({message})"
    if bundled:
        return wrong(
            text, "CA_BUNDLE holds no certificate that its chain ends in: add the authority's root to that file"
        )
    return wrong(text, "set CA_BUNDLE to your authority's PEM file")


def certificate(peer: Mapping[str, object], now: float, text: str) -> Finding:
    """How long it lasts. ``peer``: as ``SSLObject.getpeercert`` tells it."""
    days = int((ssl.cert_time_to_seconds(str(peer["notAfter"])) - now) // 86400)
    text = f"{text}, certificate expires in {days} days"
    return ok(text) if days >= CERTIFICATE_DAYS else warning(text, "have it renewed")


def refused(error: Exception, n: Remote, remedies: Mapping[type[Exception], str], about: str = "") -> Finding:
    """Whose fault it is that a remote does not do what we ask; ``remedies`` for its word about us."""
    if isinstance(error, errors.NoToken) and isinstance(error.__cause__, RemoteError):
        error = error.__cause__
    for kind, remedy in remedies.items():
        if isinstance(error, kind):
            return wrong(f"{about}{error}", remedy)
    if isinstance(error, errors.Misconfigured) and 300 <= (error.status or 0) < 400:  # the text names the setting
        text, _, remedy = str(error).rpartition(": ")
        return wrong(f"{about}{text}", remedy)
    if isinstance(error, errors.Misconfigured | InvalidAnswer):
        what = "a web page" if n.page else str(error)
        return wrong(f"{about}something else is there: {what}", f"correct {n.setting}: host and path")
    return down(f"{about}{error}", f"ask who runs the {n.name}, or look at {n.setting}")


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


def accepted(model: str, n: Remote, took: str) -> Finding:
    """The provider has no objection; nor has it to a web page, or to a server that has no cards of models."""
    if n.page:
        return refused(InvalidAnswer(""), n, {}, about=f"{model}: ")
    if n.status >= HTTPStatus.BAD_REQUEST:
        remedy = "if model calls fail, correct OPENAI_BASE_URL (its path often ends in /v1)"
        return warning(f"{model}: not verified, the server has no cards of models ({n.status})", remedy)
    return ok(f"{model}: key and model are accepted ({took})")


def clock_finding(name: str, skew: float | None) -> Finding:
    """Are the two clocks close enough for tokens?"""
    if skew is None:
        return skipped(f"{name}: skipped: it has told no date")
    text = f"{name}: {abs(skew):.0f} s apart from ours"
    if abs(skew) <= SKEW_S:
        return ok(text)
    return warning(f"{text}, which is {'behind' if skew > 0 else 'ahead'}", "set up NTP: minutes make tokens fail")


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
    if quarantined := records.get("quarantined"):
        yield warning(
            f"tasks that killed the process: {quarantined}",
            "see `ai-task-processor outbox list --dead`; when the cause is gone, `outbox retry` lets them start again",
        )


def reported(status: object, *, granted: bool) -> Iterator[Finding]:
    """What ``/status`` of a running daemon says against it. ``granted``: we were given a token just now."""
    fields = status if isinstance(status, dict) else {}
    reasons = fields.get("not_ready_because")
    for reason in (str(reason)[:MAX_REASON] for reason in (reasons if isinstance(reasons, list) else ())):
        code, _, text = reason.partition(": ")
        if code == "token_unavailable" and granted and ("refuses the client" in text or "answered 401" in text):
            remedy = "send it SIGHUP to read secret files and .env again, or restart it"
            yield wrong(f"it uses an older secret than this visit ({text})", remedy)
        elif code == "results_refused":
            text, _, remedy = text.partition(": ")
            yield wrong(text, remedy or "see `ai-task-processor outbox list`, and its log")
        elif code not in ("starting", "draining"):
            yield warning(f"it says: {reason}")


def no_room(error: OSError | errors.DataDirectoryError, path: Path) -> Finding:
    """Why the data directory cannot be used."""
    if isinstance(error, errors.DataDirectoryError):
        text, _, remedy = str(error).partition(": ")
        return unusable(text, remedy if "DATA_DIR" in remedy else f"DATA_DIR: {remedy}")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return unusable(f"the file system of {path} is full", "make room, or change DATA_DIR")
    reason = error.strerror or type(error).__name__
    return unusable(f"{path} cannot be written ({reason})", "make DATA_DIR a directory that this user may write to")
