"""Signatures, names of objects and errors of S3."""

from datetime import UTC, datetime

import pytest

from ai_task_processor.core.errors import Misconfigured, Transient, Unauthorized
from ai_task_processor.models.task import Receipt
from ai_task_processor.net.answers import Answer
from ai_task_processor.net.s3 import signed
from ai_task_processor.sinks.base import Refused
from ai_task_processor.sinks.s3 import S3Settings, S3Sink, error_of
from ai_task_processor.testing.store import record
from tests.helpers import services

#: those of the documentation
KEYS = {
    "S3_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
    "S3_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "S3_ENDPOINT_URL": "https://s3.test/base",
}


@pytest.mark.parametrize(
    ("method", "path", "headers", "content", "signature"),
    [
        (
            "GET",
            "/test.txt",
            {"range": "bytes=0-9"},
            b"",
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        ),
        (
            "PUT",
            "/test%24file.text",
            {"date": "Fri, 24 May 2013 00:00:00 GMT", "x-amz-storage-class": "REDUCED_REDUNDANCY"},
            b"Welcome to Amazon S3.",
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
        ),
    ],
)
def test_a_signature_is_that_of_the_documentation(
    method: str, path: str, headers: dict[str, str], content: bytes, signature: str
) -> None:
    """The examples of the Amazon S3 API reference, "Authenticating requests: using the Authorization header"."""
    settings = services(KEYS, S3Sink).settings[S3Settings]
    url = f"https://examplebucket.s3.amazonaws.com{path}"
    found = signed(method, url, headers, content, settings, datetime(2013, 5, 24, tzinfo=UTC))
    assert found["authorization"].endswith(f"Signature={signature}")


@pytest.mark.parametrize(
    ("task_id", "name"),
    [("665f1c", "665f1c.json"), ("../x", "..%252Fx.json"), ("a b:ü?#", "a%2520b%253A%25C3%25BC%253F%2523.json")],
)
def test_no_id_leaves_its_folder(task_id: str, name: str) -> None:
    """An id is quoted in the name of its object, and the name in the URL."""
    sink = S3Sink(services({**KEYS, "S3_PREFIX": "of/"}, S3Sink))
    url = sink._bucket.url(sink.object_name(record(receipt=Receipt("a/b", task_id))))
    assert url == f"https://s3.test/base/artifacts/of/a%252Fb/{name}"


@pytest.mark.parametrize(
    ("status", "code", "kind", "text"),
    [
        (
            403,
            "SignatureDoesNotMatch",
            Unauthorized,
            "S3 (SignatureDoesNotMatch) answered 403: correct S3_ACCESS_KEY_ID",
        ),
        (403, "RequestTimeTooSkewed", Misconfigured, "S3 answered 403 (RequestTimeTooSkewed): set the clock"),
        (400, "AuthorizationHeaderMalformed", Misconfigured, "correct S3_REGION"),
        (301, "PermanentRedirect", Misconfigured, "correct S3_REGION"),
        (409, "OperationAborted", Transient, "S3 answered 409"),
        (409, "BucketAlreadyExists", Misconfigured, "correct S3_BUCKET"),
        (400, "KeyTooLongError", Refused, "S3 (KeyTooLongError) refuses this result"),
        (503, "SlowDown", Transient, "S3 (SlowDown) answered 503"),
    ],
)
def test_an_error_has_its_code_and_a_remedy(status: int, code: str, kind: type[Exception], text: str) -> None:
    error = error_of(Answer(status, {}, f"<Error><Code>{code}</Code></Error>".encode()))
    assert type(error) is kind
    assert text in str(error)
