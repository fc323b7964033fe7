"""Results as objects in an S3 bucket: ``{S3_PREFIX}{source}/{task id}.json``, source and id percent-encoded.

The requests are signed here and sent by the daemon's own client, so that CA_BUNDLE, client certificates, proxies and
deadlines hold for S3, too. No library: obstore (15 MB) makes no buckets, reads ``AWS_*`` from the environment, and its
asyncio functions aborted the interpreter at exit in half of the runs; aiobotocore brings 30 MB and a pinned botocore.
"""

import hmac
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from http import HTTPStatus
from typing import Annotated
from urllib.parse import quote, urlsplit

from pydantic import Field, SecretStr

from ai_task_processor.core.checks import Finding, Stopwatch, ok
from ai_task_processor.core.errors import Misconfigured, Transient
from ai_task_processor.core.groups import Printable, Url, setting
from ai_task_processor.models.task import Record
from ai_task_processor.net.answers import Answer
from ai_task_processor.net.services import Services
from ai_task_processor.sinks.base import HttpSink, SinkSettings, refusal, result_json

_CODE = re.compile(rb"<Code>([A-Za-z]{1,64})</Code>")
#: the body that makes a bucket anywhere but in ``_HOME``, where S3 accepts none
_LOCATION = (
    b'<CreateBucketConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    b"<LocationConstraint>%s</LocationConstraint></CreateBucketConfiguration>"
)
_HOME = "us-east-1"
_PREFIX = r"^([A-Za-z0-9_-][A-Za-z0-9._-]*/)*([A-Za-z0-9_-][A-Za-z0-9._-]*)?$"
#: error codes with a remedy of their own
_REMEDIES = {
    "RequestTimeTooSkewed": "set the clock of this machine",
    "AuthorizationHeaderMalformed": "correct S3_REGION",
    "PermanentRedirect": "correct S3_REGION or S3_ENDPOINT_URL",
    "InvalidBucketName": "correct S3_BUCKET",
    "BucketAlreadyExists": "it belongs to somebody else, correct S3_BUCKET",
}


class S3Settings(SinkSettings):
    """The server, the bucket and the keys."""

    sink = "s3"
    address = "S3_ENDPOINT_URL"
    needs = ("S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY")

    endpoint_url: Url | None = setting("S3_ENDPOINT_URL", "the URL of the S3 API; the sink s3 is off without it")
    bucket: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")] = setting(
        "S3_BUCKET", "the name of the bucket, which is made when it is missing", "artifacts"
    )
    prefix: Annotated[str, Field(pattern=_PREFIX)] = setting(
        "S3_PREFIX", "what the names of objects begin with (letters, digits, - _ . and /), for example results/", ""
    )
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,64}$")] = setting("S3_REGION", "the region", _HOME)
    access_key_id: Annotated[str, Printable] | None = setting("S3_ACCESS_KEY_ID", "the id of the access key")
    secret_access_key: Annotated[SecretStr | None, Printable] = setting(
        "S3_SECRET_ACCESS_KEY", "the secret of the access key"
    )


def signed(
    method: str, url: str, headers: Mapping[str, str], content: bytes, settings: S3Settings, now: datetime
) -> Mapping[str, str]:
    """The headers (names in lower case) with AWS Signature Version 4 over all of them, host and content.

    ``url``: percent-encoded as it is sent. Source: the Amazon S3 API reference, "Authenticating requests".
    """
    parts, date = urlsplit(url), now.strftime("%Y%m%dT%H%M%SZ")
    scope = f"{date[:8]}/{settings.region}/s3/aws4_request"
    hashed = sha256(content).hexdigest()
    headers = {**headers, "host": parts.netloc, "x-amz-content-sha256": hashed, "x-amz-date": date}
    names = ";".join(sorted(headers))
    lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    request = "\n".join((method, parts.path, parts.query, lines, names, hashed))
    text = "\n".join(("AWS4-HMAC-SHA256", date, scope, sha256(request.encode()).hexdigest()))
    secret = settings.secret_access_key
    key = f"AWS4{secret.get_secret_value() if secret else ''}".encode()
    for part in (*scope.split("/"), text):
        key = hmac.digest(key, part.encode(), "sha256")
    credential = f"Credential={settings.access_key_id}/{scope}"
    authorization = f"AWS4-HMAC-SHA256 {credential}, SignedHeaders={names}, Signature={key.hex()}"
    return {**headers, "authorization": authorization}


class S3Sink(HttpSink):
    """A JSON object for each task: its last result."""

    name = "s3"
    order = "before_report"
    settings_groups = (S3Settings,)

    def __init__(self, services: Services) -> None:
        settings = services.settings[S3Settings]
        super().__init__(services, settings, "S3", settings.endpoint_url)
        self._bucket = f"{settings.endpoint_url}/{settings.bucket}"
        self._prefix = settings.prefix

    def url(self, record: Record) -> str:
        """Quoted twice: the name of the object has the quoted id, in which nothing ends a folder."""
        source, task_id = quote(record.receipt.source, safe=""), quote(record.task_id, safe="")
        return f"{self._bucket}/{quote(f'{self._prefix}{source}/{task_id}.json')}"

    async def _send(self, record: Record) -> None:
        content = result_json(record)
        answer = await self._asked("PUT", self.url(record), content)
        if _code(answer) == "NoSuchBucket":
            await self._make()
            answer = await self._asked("PUT", self.url(record), content)
        expect(answer)

    async def _make(self) -> None:
        region = self._secrets[S3Settings].region
        answer = await self._asked("PUT", self._bucket, b"" if region == _HOME else _LOCATION % region.encode())
        if _code(answer) != "BucketAlreadyOwnedByYou":
            expect(answer)

    async def discard(self, record: Record) -> None:
        if self._remote is not None:
            await self._call(lambda: self._delete(record))

    async def _delete(self, record: Record) -> None:
        answer = await self._asked("DELETE", self.url(record))
        if answer.status_code != HTTPStatus.NOT_FOUND:
            expect(answer)

    async def _asked(self, method: str, url: str, content: bytes = b"") -> Answer:
        now, settings = self._clock.now().astimezone(UTC), self._secrets[S3Settings]
        headers = signed(method, url, {"content-type": "application/json"}, content, settings, now)
        return await self._exchange(method, url, headers, content if method == "PUT" else None)

    async def _access(self) -> Finding:
        watch, answer = Stopwatch(), await self._asked("HEAD", self._bucket)
        if answer.status_code == HTTPStatus.NOT_FOUND:
            return ok(f"the bucket is not there yet and will be made ({watch})")
        expect(answer)
        return ok(f"the bucket is there ({watch})")


def _code(answer: Answer) -> str:
    """S3's code of an error, empty when there is none."""
    found = _CODE.search(answer.content)
    return "" if answer.is_success or found is None else found[1].decode()


def expect(answer: Answer) -> None:
    """Raises the error for a refusing answer."""
    if answer.is_success:
        return
    code, text = _code(answer), f"S3 answered {answer.status_code}"
    if code in _REMEDIES:
        raise Misconfigured(f"{text} ({code}): {_REMEDIES[code]}", status=answer.status_code)
    if code == "OperationAborted":  # another request is making the bucket
        raise Transient(f"{text} ({code})", status=answer.status_code)
    keys = "S3_ACCESS_KEY_ID and S3_SECRET_ACCESS_KEY"
    raise refusal(answer, f"S3 ({code})" if code else "S3", "S3_ENDPOINT_URL", keys)
