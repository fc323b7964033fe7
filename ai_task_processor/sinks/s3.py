"""Results as objects in an S3 bucket: ``{S3_PREFIX}{source}/{task id}.json``, source and id percent-encoded."""

from typing import Annotated
from urllib.parse import quote

from pydantic import Field, SecretStr

from ai_task_processor.core.checks import Finding
from ai_task_processor.core.groups import Printable, Url, setting
from ai_task_processor.models.task import Record
from ai_task_processor.net.answers import Answer
from ai_task_processor.net.s3 import HOME, KEYS, Bucket, BucketName, Region, code_of, known
from ai_task_processor.net.services import Services
from ai_task_processor.sinks.base import HttpSink, SinkSettings, refusal, result_json

_PREFIX = r"^([A-Za-z0-9_-][A-Za-z0-9._-]*/)*([A-Za-z0-9_-][A-Za-z0-9._-]*)?$"


class S3Settings(SinkSettings):
    """The server, the bucket and the keys."""

    sink = "s3"
    address = "S3_ENDPOINT_URL"
    needs = ("S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY")

    endpoint_url: Url | None = setting("S3_ENDPOINT_URL", "the URL of the S3 API; the sink s3 is off without it")
    bucket: BucketName = setting("S3_BUCKET", "the name of the bucket, which is made when it is missing", "artifacts")
    prefix: Annotated[str, Field(pattern=_PREFIX)] = setting(
        "S3_PREFIX", "what the names of objects begin with (letters, digits, - _ . and /), for example results/", ""
    )
    region: Region = setting("S3_REGION", "the region", HOME)
    access_key_id: Annotated[str, Printable] | None = setting("S3_ACCESS_KEY_ID", "the id of the access key")
    secret_access_key: Annotated[SecretStr | None, Printable] = setting(
        "S3_SECRET_ACCESS_KEY", "the secret of the access key"
    )


class S3Sink(HttpSink):
    """A JSON object for each task: its last result."""

    name = "s3"
    order = "before_report"
    settings_groups = (S3Settings,)

    def __init__(self, services: Services) -> None:
        settings = services.settings[S3Settings]
        super().__init__(services, settings, "S3", settings.endpoint_url)
        self._prefix = settings.prefix
        self._bucket = Bucket(
            f"{settings.endpoint_url}/{settings.bucket}",
            lambda: self._secrets[S3Settings],
            services.clock,
            self._exchange,
            error_of,
        )

    def object_name(self, record: Record) -> str:
        """It has the quoted id, in which nothing ends a folder."""
        return f"{self._prefix}{quote(record.receipt.source, safe='')}/{quote(record.task_id, safe='')}.json"

    async def _send(self, record: Record) -> None:
        await self._bucket.put(self.object_name(record), result_json(record), "application/json")

    async def discard(self, record: Record) -> None:
        if self._remote is not None:
            await self._call(lambda: self._bucket.delete(self.object_name(record)))

    async def _access(self) -> Finding:
        return await self._bucket.access()


def error_of(answer: Answer) -> Exception:
    """The error for a refusing answer: it may be about the result."""
    code = code_of(answer)
    return known(answer) or refusal(answer, f"S3 ({code})" if code else "S3", "S3_ENDPOINT_URL", KEYS)
