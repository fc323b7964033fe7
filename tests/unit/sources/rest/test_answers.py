"""What an answer to a report means, and what is kept of the API's own words."""

import json
from collections.abc import Sequence
from contextlib import nullcontext, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_task_processor.core.errors import Misconfigured, NeverAcknowledged, Rejected, Unacknowledged
from ai_task_processor.models.task import TaskStatus
from ai_task_processor.net.remarks import LONGEST, remark
from ai_task_processor.ops.masking import Masker
from ai_task_processor.sources.rest.answers import Acknowledgements, rejection
from tests.nest import acknowledged

OBJECT_ID = "665f0c0000000000000000aa"


ABOUT_OUR_TASK = [
    b'{"_id":"a","state":"succeeded","result":[1]}', b'\xef\xbb\xbf {"_id":"a","state":"succeeded"}',
    b'{"id":"a","state":"succeeded"}', b'{"_id":null,"id":"a"}', b'{"_id":"a"}', b'{"state":"succeeded"}',
    b'{"_id":{"$oid":"a"},"state":"succeeded"}', b'{"_id":"a","state":"SUCCEEDED"}',
    b'{"_id":"a","state":" Succeeded "}', b'{"_id":"a","status":"succeeded"}', b'{"_id":"a","status":200}',
    b'{"data":{"_id":"a","state":"succeeded"}}',
    b'{"status":"success","data":{"task":{"id":"a","state":"succeeded"}}}',
    b'{"data":{"type":"tasks","id":"a","attributes":{"state":"succeeded"}}}',
    b'{"id":"request-7","data":{"_id":"a","state":"succeeded"}}',
    b'{"lastErrorObject":{"n":1},"value":{"_id":"a","state":"succeeded"},"ok":1}',
    b'[{"_id":"a","state":"succeeded"}]', b'{"_id":"a","state":"succeeded","error":{"code":"x"}}',
    b'{"_id":"a","state":"succeeded","score":NaN,"text":"\xff","half":"\\ud800"}',
]  # fmt: skip
ABOUT_NOTHING = [
    b"", b" \r\n\t", b"\xef\xbb\xbf", b"{}", b"[]", b"[1,2]", b"true", b"null", b'"OK"', b'{"ok":true}',
    b'{"success":true,"error":null,"errors":[]}', b'{"acknowledged":true,"modifiedCount":1}',
    b'{"result":{"id":7,"state":"a word of the result"}}', b'{"_id":null,"state":null}',
]  # fmt: skip


@pytest.mark.parametrize("body", ABOUT_OUR_TASK + ABOUT_NOTHING, ids=repr)
def test_what_does_not_contradict_acknowledges(body: bytes) -> None:
    """Nothing, or JSON about our task or about nothing, however it is wrapped; the second kind alone is verified."""
    assert acknowledged(200, body, "a", TaskStatus.SUCCEEDED) is (body in ABOUT_OUR_TASK)


@pytest.mark.parametrize("status", [200, 201, 202, 203, 204, 205, 206, 299])
def test_every_success_without_a_body_acknowledges(status: int) -> None:
    assert acknowledged(status, b"", "a", TaskStatus.SUCCEEDED) is False


@pytest.mark.parametrize(
    ("task_id", "answered", "same"),
    [
        (OBJECT_ID, json.dumps(OBJECT_ID.upper()), True),
        ("0190b5f0-1111-7000-8000-00000000000a", '"0190B5F0-1111-7000-8000-00000000000A"', True),
        ("17", "17", True),
        ("17", "18", False),
        ("1", "true", False),
        ("Ab", '"aB"', False),
        ("12345678901234567890123", '"12345678901234567890123"', True),
    ],
)
def test_an_id_may_be_written_in_another_way(task_id: str, answered: str, same: bool) -> None:
    """Numbers, and hexadecimal digits in capitals; other ids differ by their letters' case."""
    with nullcontext() if same else pytest.raises(Unacknowledged, match="another task"):
        assert acknowledged(200, f'{{"id":{answered}}}'.encode(), task_id, TaskStatus.SUCCEEDED)
        assert same


CONTRADICTIONS = {
    "a web page": [b"<html>login</html>", b"\xef\xbb\xbf\n<!doctype html>"],
    "not JSON": [b"OK", b'{"_id":"a"', b"\x1f\x8b\x08", b"[" * 100_000],
    "another task": [b'{"_id":"b","state":"succeeded"}', b'{"id":"b"}', b'{"_id":null,"id":"b"}',
                     b'{"data":{"id":"b"}}', b'{"_id":7}', b'{"_id":["a"]}'],
    "{new: true}": [b'{"_id":"a","state":"pending"}', b'{"state":"in_progress"}', b'{"state":"IN-PROGRESS"}',
                    b'{"value":{"_id":"a","state":"pending"},"ok":1}', b'{"_id":"a","status":"pending"}',
                    b'{"data":{"id":"a","attributes":{"state":"pending"}}}'],
    "another state": [b'{"_id":"a","state":"failed"}', b'{"state":{}}'],
    "with an error": [b'{"success":false}', b'{"statusCode":400,"message":"no"}', b'{"errors":[{"message":"no"}]}'],
}  # fmt: skip


@pytest.mark.parametrize(
    ("reason", "body"),
    [(reason, body) for reason, bodies in CONTRADICTIONS.items() for body in bodies],
    ids=lambda value: repr(value[:40]),
)
def test_what_contradicts_does_not_acknowledge(reason: str, body: bytes) -> None:
    """A page, a foreign task or another state leaves it open whether the result arrived, and says what to change."""
    with pytest.raises(Unacknowledged) as caught:
        acknowledged(200, body, "a", TaskStatus.SUCCEEDED)
    assert caught.value.status == 200
    assert reason in str(caught.value)
    assert caught.value.page is (reason == "a web page")


@given(st.binary(max_size=60) | st.recursive(st.none() | st.text(max_size=5), lambda v: st.lists(v) | st.dictionaries(
    st.sampled_from(["_id", "id", "state", "data", "value", "result", "status", "attributes"]), v)).map(
        lambda value: json.dumps(value).encode()))  # fmt: skip
def test_no_answer_crashes_the_reader(body: bytes) -> None:
    with suppress(Unacknowledged):
        assert acknowledged(200, body, "a", TaskStatus.SUCCEEDED) in (True, False)


@pytest.mark.parametrize(
    ("answers", "paused"),
    [
        ("-a -a", []),
        ("-a -a -a -a", [2, 3]),
        ("-a -b -c", [2]),
        ("-a -b +c -a -b", []),
        # the document as it was before: each repeat is acknowledged by the state that the first report has set
        ("-a +a -b +b -c +c -d", [4, 6]),
        ("-a +a +b -c +c -d", []),
    ],
)
def test_three_answers_in_a_row_are_no_accident(answers: str, paused: Sequence[int]) -> None:
    """Reports that a report of another task, acknowledged at once, does not interrupt."""
    reports = Acknowledgements()
    found = []
    for place, answer in enumerate(answers.split()):
        task_id = answer[1:]
        if answer.startswith("+"):
            reports.arrived(task_id)
        elif isinstance(error := reports.missing(task_id, Unacknowledged("why")), NeverAcknowledged):
            assert str(error) == "why"
            found.append(place)
    assert found == paused


def test_answers_that_fail_in_turns_end_in_a_pause_too() -> None:
    """Two of each kind are accidents; six in a row are not."""
    reports = Acknowledgements()
    errors = [reports.missing("a", Unacknowledged(f"reason {number % 3}")) for number in range(6)]
    assert [type(error) for error in errors] == [Unacknowledged] * 5 + [NeverAcknowledged]


def test_pages_are_probed_sooner() -> None:
    """Behind a page no callback runs: the pause is that of any wrong address."""
    reports = Acknowledgements()
    errors = [reports.missing("a", Unacknowledged("page", page=True)) for _ in range(3)]
    assert type(errors[-1]) is Misconfigured


def nest(status: int, message: object, **more: object) -> bytes:
    return json.dumps({"statusCode": status, "message": message, **more}).encode()


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        (400, nest(400, "Validation failed", error="Bad Request"), "refused"),
        (400, nest(400, ["property error should not exist"]), "refused"),
        (400, b'{"message":"a filter of their own"}', "refused"),
        (422, nest(422, "Unprocessable"), "refused"),
        (413, nest(413, "request entity too large"), "refused"),
        (413, b"<html>Request Entity Too Large</html>", "refused"),
        (409, nest(409, "already succeeded"), "conflict"),
        (404, nest(404, "AI task a not found", error="Not Found"), "gone"),
    ],
)
def test_the_apis_own_refusal_is_about_the_result(status: int, body: bytes, outcome: str) -> None:
    """In Nest's error shape a refusal is final for this result, and keeps its status."""
    error = rejection(status, body)
    assert isinstance(error, Rejected)
    assert (error.outcome, error.status) == (outcome, status)


STRANGERS = {
    404: [nest(404, "Cannot PATCH /api/ai-tasks/a", error="Not Found"), b"<html>404 page not found</html>", b"", b"[]",
          b"default backend - 404", b'{"message":"no Route matched with those values"}'],
    400: [b"<html>Bad Request</html>", b"{}"],
    409: [b"null"],
    422: [b'{"error":"?"}'],
}  # fmt: skip


@pytest.mark.parametrize(
    ("status", "body"), [(status, body) for status, bodies in STRANGERS.items() for body in bodies]
)
def test_somebody_elses_refusal_is_about_the_configuration(status: int, body: bytes) -> None:
    """A proxy's page, a gateway's 404, or a route that Nest does not have: nothing is said about the result."""
    error = rejection(status, body)
    assert isinstance(error, Misconfigured)
    assert error.status == status


@pytest.mark.parametrize("status", [401, 403, 408, 429, 500, 502, 503, 302, 405, 410])
def test_other_statuses_are_no_rejection(status: int) -> None:
    """Only five statuses are about a result at all."""
    assert rejection(status, nest(status, "no")) is None


SENT = json.dumps({"state": "succeeded", "result": {"summary": "Rumpelstiltskin owes 4711 geese", "name": "你好世界"}})
VECTOR = b'{"state":"succeeded","result":[0.0123,-4.5e-7]}'


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (nest(400, "Validation failed", error="Bad Request"), "Validation failed"),
        (nest(400, ["property error should not exist", "state must be a string"]),
         "property error should not exist; state must be a string"),
        (b'{"error":"Bad Request"}', "Bad Request"),
        (b'{"error":{"message":"no such \\u0007 route"}}', "no such route"),
        (b'{"errors":[{"message":"one"},{"detail":"two"}]}', "one; two"),
        (nest(400, 'unknown callbackRoute "verification_update_embedding"'),
         'unknown callbackRoute "verification_update_embedding"'),
        (nest(404, f"AI task {OBJECT_ID} not found"), f"AI task {OBJECT_ID} not found"),
        (nest(400, 'Cast to ObjectId failed for value "user text" (type string) at path "callbackParams.targetId"'),
         'Cast to ObjectId failed for value … (type string) at path "callbackParams.targetId"'),
        (nest(409, 'E11000 duplicate key: { text: "user text" }'), "E11000 duplicate key: …"),
        (nest(400, "can't take it, 'user text' isn't valid"), "can't take it, … isn't valid"),
        (nest(400, "bad value Rumpelstiltskin owes 4711 geese!"), "bad value …!"),
        (nest(400, "bad value rumpelstil…"), "bad value ……"),
        (nest(400, "who is Rumpelstiltskin? 4711"), "who is …? …"),
        (nest(400, "值你好世界错误"), "值…错误"),
        (nest(400, "值:你好世"), "值:…"),
        (nest(400, "expected 1536, got [0.0123, 1] and -4.5e-7"), "expected 1536, got … and …"),
        (nest(401, "client secret hush-hush-7 is wrong"), "client secret *** is wrong"),
        (nest(500, "x " * 5000), ("x " * 250)[: LONGEST - 1] + "…"),
        (b'{"type":"about:blank","title":"Forbidden","detail":"scope tasks.write is missing"}',
         "scope tasks.write is missing"),
        (b'{"title":"Forbidden","status":403}', "Forbidden"),
        (b'{"detail":[{"loc":["body","result"],"msg":"field required"}]}', "field required"),
        (b"upstream connect error:\n connection refused", "upstream connect error: connection refused"),
        (b"bad value Rumpelstiltskin owes 4711 geese!", "bad value …!"),
        (b"<!doctype html><title>502 Bad&amp;Gateway</title><p>Rumpel", "502 Bad&Gateway"),
        (b"<html>no</html>", ""),
        (b"PNG\0\1", ""),
        (b"{}", ""),
        (b'{"message":7}', ""),
        (b"", ""),
    ],
    ids=lambda value: repr(value[:40]),
)  # fmt: skip
def test_the_apis_words_are_kept_without_ours(body: bytes, told: str) -> None:
    """The message stays; what was sent, quoted content, decimal numbers and secrets do not."""
    assert remark(body, SENT.encode(), Masker(["hush-hush-7"])) == told


def test_numbers_of_a_vector_are_left_out() -> None:
    assert remark(nest(400, "result.0 is 0.0123, -4.5e-7"), VECTOR, Masker(())) == "result.0 is …, …"


@given(
    st.lists(st.from_regex("[qxzjkQXZJK]{4,9}", fullmatch=True), min_size=1, max_size=9),
    st.sampled_from([" ", "'", '"', "{", "[", ": "]),
    st.integers(0, 60),
)
def test_a_result_is_never_quoted(words: list[str], around: str, cut: int) -> None:
    text = " ".join(words)
    quoted = text[: max(4, len(text) - cut)].rsplit(" ", 1)[0] if cut else text
    told = remark(nest(400, f"bad{around}{quoted}{around}value"), json.dumps({"result": text}).encode(), Masker(()))
    assert not [word for word in words if word.lower() in told.lower()]
