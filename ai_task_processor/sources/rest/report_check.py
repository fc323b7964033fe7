"""The check of ``doctor`` whether the task API takes reports: one report for a task that cannot exist.

It is sent as the profile sends a failure, for the id ``doctor-`` and a random UUID, so that it changes nothing.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from http import HTTPStatus
from uuid import uuid4

from ai_task_processor.core.checks import Finding, Remote, Stopwatch, down, halves, ok, refused, warning, wrong
from ai_task_processor.core.errors import Misconfigured, Rejected, RemoteError, Unacknowledged
from ai_task_processor.core.pointer import keys
from ai_task_processor.models.task import Failed, Failure, TaskStatus
from ai_task_processor.net.answers import Answer, status_error
from ai_task_processor.sources.rest.answers import ERROR, Words, acknowledged, is_own, rejection
from ai_task_processor.sources.rest.bodies import Bodies
from ai_task_processor.sources.rest.profile import ReportPart, RestProfile

OUTCOME = Failed(Failure("doctor", "a check whether reports are taken: there is no such task"))
#: method, path with ``{id}``, the id, the body
Exchange = Callable[[str, str, str, bytes], Awaitable[Answer]]


async def report_nothing(profile: RestProfile, exchange: Exchange, remote: Remote) -> AsyncIterator[Finding]:
    """Send the report, and yield the finding about the answer."""
    part, task_id, watch = profile.report, f"doctor-{uuid4()}", Stopwatch()
    try:
        answer = await exchange(part.method, part.path, task_id, Bodies(part).of(OUTCOME))
    except RemoteError as error:
        yield refused(error, remote, {})
        return
    yield found(answer, task_id, profile, str(watch))


def found(answer: Answer, task_id: str, profile: RestProfile, took: str) -> Finding:
    """What an answer to the report of a task that does not exist shows about the API. Pure."""
    status, request = answer.status_code, f"{profile.report.method} {profile.report.path}"
    if answer.is_success:
        return _success(answer, task_id, profile)
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return wrong(f"the list can be read, but a report is answered with {status}", _rights(profile))
    if status in (HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED):
        remedy = f"permit {request} at the API and at proxies in between, or correct report.method of the profile"
        return wrong(f"{profile.report.method} is not permitted there: it is answered with {status}", remedy)
    refusal = rejection(status, answer.content, _refusal(profile.report))
    if isinstance(refusal, Rejected) and status != HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return ok(f"the API refuses a report of a task that does not exist, as it should: {status} ({took})")
    if isinstance(refusal, Rejected):
        return wrong("a report of 200 bytes is too large (413)", "raise the limit of the API, or of proxies in between")
    if isinstance(refusal, Misconfigured):
        remedy = f"the API must have {request}: look at API_BASE_URL, the profile, and proxies in between"
        return wrong(f"a report is answered with {status} by something else than the task API", remedy)
    return _failure(answer, profile.report)


def _success(answer: Answer, task_id: str, profile: RestProfile) -> Finding:
    status = answer.status_code
    try:
        acknowledged(status, answer.content, task_id, TaskStatus.FAILED, Words.of(profile))
    except Unacknowledged as error:
        text, remedy = halves(str(error))
        return (warning if str(error) == ERROR else wrong)(f"{text} ({status})", remedy)
    text = f"the API acknowledges a report of a task that does not exist ({status})"
    return warning(text, "answer 404 to an unknown id: a result for a wrong address would look delivered otherwise")


def _failure(answer: Answer, part: ReportPart) -> Finding:
    """For 3xx, 429, 5xx."""
    status, (text, remedy) = answer.status_code, halves(str(status_error(answer, "the task API")))
    if remedy:  # a redirect
        return wrong(f"a report: {text}", remedy)
    if status == HTTPStatus.INTERNAL_SERVER_ERROR and is_own(status, answer.content, _refusal(part)):
        return warning(
            f"not verified: the API answers {status} to a report of a task that does not exist",
            "answer 404 to an unknown id; other reports may be taken",
        )
    return down(f"a report is answered with {status}", "ask who runs the task API, or look at proxies in between")


def _refusal(part: ReportPart) -> Sequence[str]:
    return keys(part.refusal or "")


def _rights(profile: RestProfile) -> str:
    if profile.auth == "oauth2":
        return "the token may read and not write: look at OAUTH2_SCOPE, or grant the client the right to report"
    where = "API_SECRET and its rights" if profile.has_secret else "the headers of the profile and CLIENT_CERT_FILE"
    return f"what is sent with a request permits reading only: look at {where}"
