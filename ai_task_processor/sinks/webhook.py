"""Results POSTed to a URL, signed as the Standard Webhooks specification says (version 1, ``v1`` signatures).

``webhook-id`` is the same for every delivery of a task's result: the receiver recognizes a repetition by it. 2xx
acknowledges. 400, 413 and 422 are about one result, which is sent again every 15 minutes. Every other refusal is about
all of them, 410 too, and pauses the sink; no result is given up.
"""

import base64
import hashlib
import hmac
from datetime import UTC, datetime
from typing import Annotated

from pydantic import BeforeValidator, SecretStr

from ai_task_processor.core import codec
from ai_task_processor.core.checks import Finding, ok, warning
from ai_task_processor.core.groups import Endpoint, setting
from ai_task_processor.models.task import Record
from ai_task_processor.net.services import Services
from ai_task_processor.sinks.base import HttpSink, SinkSettings, event_id, refusal, result

#: bytes of the key (Standard Webhooks, "Signature scheme")
KEY_BYTES = range(24, 65)


def _key(secret: str) -> bytes:
    """Raises ``ValueError``."""
    return base64.b64decode(secret.removeprefix("whsec_"), validate=True)


def _secret(text: str) -> str:
    try:
        sound = len(_key(text)) in KEY_BYTES
    except ValueError:
        sound = False
    if not sound:
        raise ValueError("must be whsec_ and 24 to 64 bytes in base64: openssl rand -base64 32 makes them")
    return text


class WebhookSettings(SinkSettings):
    """Where results are sent, and what signs them."""

    sink = "webhook"
    address = "WEBHOOK_URL"

    url: Endpoint | None = setting("WEBHOOK_URL", "the URL to POST results to; the sink webhook is off without it")
    secret: Annotated[SecretStr | None, BeforeValidator(_secret)] = setting(
        "WEBHOOK_SECRET",
        "the secret that signs the requests: whsec_ and base64; they are not signed without it",
        note="whsec_ and what openssl rand -base64 32 gives.",
    )


def signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """The ``webhook-signature`` of a request. Raises ``ValueError`` for a secret that is no base64."""
    signed = hmac.new(_key(secret), f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256)
    return f"v1,{base64.b64encode(signed.digest()).decode()}"


def body(record: Record) -> bytes:
    """``{"type": "task.succeeded", "timestamp", "data": {"task_id", "type", "source", "result"}}``."""
    data = {"task_id": record.task_id, "type": record.task_type, "source": record.receipt.source}
    finished_at = datetime.fromtimestamp(record.finished_at, UTC).isoformat()
    return codec.dumps({"type": "task.succeeded", "timestamp": finished_at, "data": {**data, "result": result(record)}})


class WebhookSink(HttpSink):
    """A POST for each result."""

    name = "webhook"
    order = "after_report"
    settings_groups = (WebhookSettings,)

    def __init__(self, services: Services) -> None:
        settings = services.settings[WebhookSettings]
        super().__init__(services, settings, "webhook", settings.url)
        self._url = settings.url or ""

    async def _send(self, record: Record) -> None:
        content, message_id, now = body(record), str(event_id(record)), int(self._clock.now().timestamp())
        headers = {"Content-Type": "application/json", "webhook-id": message_id, "webhook-timestamp": str(now)}
        if secret := self._secrets[WebhookSettings].secret:
            headers["webhook-signature"] = signature(secret.get_secret_value(), message_id, now, content)
        answer = await self._exchange("POST", self._url, headers, content)
        if not answer.is_success:
            raise refusal(answer, "the webhook", "WEBHOOK_URL", "WEBHOOK_SECRET", content)

    async def _access(self) -> Finding:
        """Only the secret: a request would be an event."""
        if self._secrets[WebhookSettings].secret is None:
            return warning("requests are not signed: the receiver cannot tell ours from others", "set WEBHOOK_SECRET")
        return ok("requests are signed")
