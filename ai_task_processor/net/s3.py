"""Buckets of S3: requests signed here and sent by the daemon's own client, so that CA_BUNDLE, client certificates,
proxies and deadlines hold for S3, too.

No library: obstore (15 MB) makes no buckets, reads ``AWS_*`` from the environment, and its asyncio functions aborted
the interpreter at exit in half of the runs; aiobotocore brings 30 MB and a pinned botocore.
"""

import hmac
import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from http import HTTPStatus
from typing import Annotated, Final, Protocol
from urllib.parse import quote, urlsplit

from pydantic import Field, SecretStr

from ai_task_processor.core.checks import Finding, Stopwatch, ok
from ai_task_processor.core.errors import Misconfigured, RemoteError, Transient, Unauthorized
from ai_task_processor.core.ports import Clock
from ai_task_processor.net.answers import Answer, status_error

#: the region where a bucket is made without saying so
HOME: Final = "us-east-1"
KEYS: Final = "S3_ACCESS_KEY_ID and S3_SECRET_ACCESS_KEY"

BucketName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")]
Region = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,64}$")]
#: method, URL, headers, content; returns the answer, whatever its status, or raises ``RemoteError``
Exchange = Callable[[str, str, Mapping[str, str], bytes | None], Awaitable[Answer]]

_CODE = re.compile(rb"<Code>([A-Za-z]{1,64})</Code>")
#: the body that makes a bucket anywhere but in ``HOME``, where S3 accepts none
_LOCATION = (
    b'<CreateBucketConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    b"<LocationConstraint>%s</LocationConstraint></CreateBucketConfiguration>"
)
#: error codes with a remedy of their own
_REMEDIES = {
    "RequestTimeTooSkewed": "set the clock of this machine",
    "AuthorizationHeaderMalformed": "correct S3_REGION",
    "PermanentRedirect": "correct S3_REGION or S3_ENDPOINT_URL",
    "InvalidBucketName": "correct S3_BUCKET",
    "BucketAlreadyExists": "it belongs to somebody else, correct S3_BUCKET",
}


class Keys(Protocol):
    """The settings that a signature needs."""

    @property
    def region(self) -> str: ...
    @property
    def access_key_id(self) -> str | None: ...
    @property
    def secret_access_key(self) -> SecretStr | None: ...


def signed(
    method: str, url: str, headers: Mapping[str, str], content: bytes, keys: Keys, now: datetime
) -> Mapping[str, str]:
    """The headers (names in lower case) with AWS Signature Version 4 over all of them, host and content.

    ``url``: percent-encoded as it is sent. Source: the Amazon S3 API reference, "Authenticating requests".
    """
    parts, date = urlsplit(url), now.strftime("%Y%m%dT%H%M%SZ")
    scope = f"{date[:8]}/{keys.region}/s3/aws4_request"
    hashed = sha256(content).hexdigest()
    headers = {**headers, "host": parts.netloc, "x-amz-content-sha256": hashed, "x-amz-date": date}
    names = ";".join(sorted(headers))
    lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    request = "\n".join((method, parts.path, parts.query, lines, names, hashed))
    text = "\n".join(("AWS4-HMAC-SHA256", date, scope, sha256(request.encode()).hexdigest()))
    secret = keys.secret_access_key
    key = f"AWS4{secret.get_secret_value() if secret else ''}".encode()
    for part in (*scope.split("/"), text):
        key = hmac.digest(key, part.encode(), "sha256")
    credential = f"Credential={keys.access_key_id}/{scope}"
    authorization = f"AWS4-HMAC-SHA256 {credential}, SignedHeaders={names}, Signature={key.hex()}"
    return {**headers, "authorization": authorization}


class Bucket:
    """A bucket at ``url``, which is made when it is missing. ``keys`` returns the settings as they were read last.

    Methods raise the ``RemoteError`` of ``exchange``, and what ``error`` returns for a refusing answer.
    """

    def __init__(
        self,
        url: str,
        keys: Callable[[], Keys],
        clock: Clock,
        exchange: Exchange,
        error: Callable[[Answer], Exception] | None = None,
    ) -> None:
        self._url = url
        self._keys = keys
        self._clock = clock
        self._exchange = exchange
        self._error = error or error_of

    def url(self, name: str) -> str:
        """The URL of an object."""
        return f"{self._url}/{quote(name)}"

    async def put(self, name: str, content: bytes, content_type: str) -> None:
        """Write an object; replaces one of the same name."""
        answer = await self._asked("PUT", self.url(name), content, content_type)
        if code_of(answer) == "NoSuchBucket":
            await self._make()
            answer = await self._asked("PUT", self.url(name), content, content_type)
        self._expect(answer)

    async def delete(self, name: str) -> None:
        """Delete an object, if it is there."""
        answer = await self._asked("DELETE", self.url(name))
        if answer.status_code != HTTPStatus.NOT_FOUND:
            self._expect(answer)

    async def access(self) -> Finding:
        """What ``doctor`` finds: can the bucket be used? Writes nothing."""
        watch, answer = Stopwatch(), await self._asked("HEAD", self._url)
        if answer.status_code == HTTPStatus.NOT_FOUND:
            return ok(f"the bucket is not there yet and will be made ({watch})")
        self._expect(answer)
        return ok(f"the bucket is there ({watch})")

    async def _make(self) -> None:
        region = self._keys().region
        answer = await self._asked("PUT", self._url, b"" if region == HOME else _LOCATION % region.encode())
        if code_of(answer) != "BucketAlreadyOwnedByYou":
            self._expect(answer)

    async def _asked(
        self, method: str, url: str, content: bytes = b"", content_type: str = "application/json"
    ) -> Answer:
        now = self._clock.now().astimezone(UTC)
        headers = signed(method, url, {"content-type": content_type}, content, self._keys(), now)
        return await self._exchange(method, url, headers, content if method == "PUT" else None)

    def _expect(self, answer: Answer) -> None:
        if not answer.is_success:
            raise self._error(answer)


def code_of(answer: Answer) -> str:
    """S3's code of an error, empty when there is none."""
    found = _CODE.search(answer.content)
    return "" if answer.is_success or found is None else found[1].decode()


def known(answer: Answer) -> RemoteError | None:
    """The error for a refusing answer whose code says what to do."""
    code, text = code_of(answer), f"S3 answered {answer.status_code}"
    if code in _REMEDIES:
        return Misconfigured(f"{text} ({code}): {_REMEDIES[code]}", status=answer.status_code)
    if code == "OperationAborted":  # another request is making the bucket
        return Transient(f"{text} ({code})", status=answer.status_code)
    return None


def error_of(answer: Answer) -> RemoteError:
    """The error for a refusing answer."""
    if error := known(answer):
        return error
    code = code_of(answer)
    error = status_error(answer, f"S3 ({code})" if code else "S3", setting="S3_ENDPOINT_URL")
    if isinstance(error, Unauthorized):
        return Unauthorized(f"{error}: correct {KEYS}", status=error.status)
    return error
