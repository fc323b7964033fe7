"""The settings that only task runners need."""

from typing import Annotated

from pydantic import SecretStr

from ai_task_processor.core.groups import Group, Printable, Seconds, Url, setting
from ai_task_processor.net.s3 import HOME, BucketName, Region


class ArtifactSettings(Group):
    """Where artifacts are stored."""

    section = "Task runner and S3"

    endpoint_url: Url = setting(
        "S3_ENDPOINT_URL", "the URL of the S3 API", ..., note="For artifacts of a task runner, and the sink s3."
    )
    bucket: BucketName = setting("S3_BUCKET", "the name of the bucket, which is made when it is missing", "artifacts")
    region: Region = setting("S3_REGION", "the region", HOME)
    access_key_id: Annotated[str, Printable] = setting("S3_ACCESS_KEY_ID", "the id of the access key", ...)
    secret_access_key: Annotated[SecretStr, Printable] = setting(
        "S3_SECRET_ACCESS_KEY", "the secret of the access key", ...
    )


class RunSettings(Group):
    """The limits of a task, which the processors of ``search`` and ``fetch_url`` read, too."""

    section = "Search and pages"

    max_runtime_s: Seconds = setting("TASK_MAX_RUNTIME_SECONDS", "seconds for a search or a fetch, in total", "600")
    max_artifact_mb: int = setting(
        "TASK_MAX_ARTIFACT_MB", "the size in MiB that a page or a result may have", "25", ge=1, le=1024
    )

    @property
    def max_bytes(self) -> int:
        return self.max_artifact_mb * 2**20
