"""Requests about one task of such an API, and what their answers mean."""

import time
from urllib.parse import quote

import httpx2

from ai_task_processor.core import codec
from ai_task_processor.core.errors import Ambiguous, InvalidAnswer, Rejected, RemoteError, Throttled, Unacknowledged
from ai_task_processor.core.pointer import keys
from ai_task_processor.models.task import TaskStatus
from ai_task_processor.net.answers import Answer, status_error
from ai_task_processor.net.client import HttpClient
from ai_task_processor.net.remarks import remark
from ai_task_processor.ops import tracing
from ai_task_processor.ops.logs import get_logger, masked
from ai_task_processor.ops.metrics import Metrics
from ai_task_processor.sources.rest.answers import Words, acknowledged, rejection
from ai_task_processor.sources.rest.profile import RestProfile
from ai_task_processor.sources.rest.settings import ApiSettings

#: characters of an id in a path: longer request lines are refused by servers (RFC 9112 §3 asks for 8,000 octets)
MAX_ID = 4096
_JSON = {"Content-Type": "application/json"}

log = get_logger(__name__)


class TaskRequests:
    """Paths are templates of the profile, with ``{id}``."""

    def __init__(self, settings: ApiSettings, profile: RestProfile, client: HttpClient, metrics: Metrics) -> None:
        self._base = str(httpx2.URL(settings.base_url + "/")).rstrip("/")
        self._timeout_s = settings.request_timeout_s
        self._words = Words.of(profile)
        self._refusal = keys(profile.report.refusal or "")
        self._client = client
        self._metrics = metrics
        self._warned = False

    def url(self, path: str, task_id: str) -> str:
        """As ``task_url``."""
        return task_url(self._base, path, task_id)

    async def document(self, path: str, task_id: str) -> object:
        """The task as it is now. Raises ``Rejected`` (``gone``) when the API does not have it."""
        answer = await self.exchange("GET", path, task_id)
        if not answer.is_success:
            refusal = self._refused(answer, b"")
            raise Rejected("gone", answer.status_code) if isinstance(refusal, Rejected) else refusal
        try:
            return codec.loads(answer.content)
        except ValueError as error:
            raise InvalidAnswer("the task API did not answer JSON") from error

    async def set_state(self, task_id: str, state: TaskStatus, body: bytes, method: str, path: str) -> None:
        """Send a body that sets this state. Raises ``Rejected`` and ``RemoteError`` unless it is acknowledged."""
        try:
            answer = await self.exchange(method, path, task_id, body)
        except InvalidAnswer as error:
            what = "return the updated document, small and uncompressed, or nothing"
            raise Unacknowledged(f"answers to results cannot be read ({error}): {what}") from error
        if not answer.is_success:
            raise self._refused(answer, body)
        try:
            named = acknowledged(answer.status_code, answer.content, task_id, state, self._words)
        except Unacknowledged as error:
            error.detail = error.detail or remark(answer.content, body, masked)
            raise
        if not named and not self._warned:
            self._warned = True
            reason = "the task API answers results without id and state: their status alone counts as acknowledgement"
            log.info("delivery.unverified", reason=reason)

    async def exchange(self, method: str, path: str, task_id: str, body: bytes | None = None) -> Answer:
        """One request and its answer, whatever its status."""
        started_at, status, url = time.perf_counter(), None, task_url(self._base, path, task_id)
        try:
            answer = await self._client.exchange(
                method,
                url,
                content=body,
                headers={**(_JSON if body is not None else {}), **tracing.headers()},
                timeout_s=self._timeout_s,
            )
            status = answer.status_code
        finally:
            took_s = time.perf_counter() - started_at
            self._metrics.api_request(endpoint=path, method=method, status_code=status, duration_s=took_s)
        return answer

    def _refused(self, answer: Answer, sent: bytes) -> Rejected | RemoteError:
        """The error for a status that is no success, with the API's message as ``detail``."""
        refusal = rejection(answer.status_code, answer.content, self._refusal) or status_error(answer, "the task API")
        if answer.is_server_error and not isinstance(refusal, Throttled):
            # The state may have been saved before the upstream's callback failed.
            refusal = Ambiguous(str(refusal), status=answer.status_code)
        refusal.detail = remark(answer.content, sent, masked)
        return refusal


def task_url(base: str, path: str, task_id: str) -> str:
    """The URL of a task, whatever its id: ids come from outside, and the request has credentials.

    Raises ``Rejected`` for an id that no path can hold.
    """
    quoted = quote(task_id, safe="", errors="surrogatepass")
    if quoted in ("", ".", "..") or len(quoted) > MAX_ID:
        raise Rejected("refused", 0)
    return base + path.replace("{id}", quoted)
