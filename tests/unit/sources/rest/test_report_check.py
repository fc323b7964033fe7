"""What the answer to a report of a task that does not exist shows about the task API."""

import json
import re
from collections.abc import Mapping

import pytest

from ai_task_processor.core.checks import Remote
from ai_task_processor.core.plugins import find
from ai_task_processor.net.answers import Answer
from ai_task_processor.sources.rest.report_check import found, report_nothing

ID = "doctor-6f2c2f0e-7a51-4b43-9d3c-0d8d0e6d3a11"
PAGE = b"<!doctype html><title>Log in</title>"


def nest(status: int, message: str = "nothing") -> bytes:
    return json.dumps({"statusCode": status, "message": message}).encode()


@pytest.mark.parametrize(
    ("status", "body", "mark", "code", "words"),
    [
        (404, nest(404), "ok", 0, "404"),
        (400, nest(400), "ok", 0, "400"),
        (409, nest(409), "ok", 0, "409"),
        (404, nest(404, "Cannot PATCH /api/ai-tasks/x"), "failure", 78, "PATCH /api/ai-tasks/{id} API_BASE_URL"),
        (404, PAGE, "failure", 78, "something else API_BASE_URL"),
        (404, b'{"message": "no Route matched"}', "failure", 78, "something else API_BASE_URL"),
        (400, PAGE, "failure", 78, "something else API_BASE_URL"),
        (401, nest(401), "failure", 78, "401 OAUTH2_SCOPE"),
        (403, PAGE, "failure", 78, "403 OAUTH2_SCOPE"),
        (405, b"", "failure", 78, "405 PATCH proxies"),
        (413, b"", "failure", 78, "413 limit"),
        (200, b"", "warning", 0, "200 404"),
        (204, b"", "warning", 0, "204 404"),
        (200, b"{}", "warning", 0, "acknowledges 404"),
        (200, json.dumps({"_id": ID, "state": "failed"}).encode(), "warning", 0, "acknowledges 404"),
        (200, b'{"success": false}', "warning", 0, "error 4xx"),
        (200, PAGE, "failure", 78, "web page API_BASE_URL"),
        (200, b"ok", "failure", 78, "JSON document"),
        (200, b'{"_id": "665f0c0000000000000000aa", "state": "failed"}', "failure", 78, "another task document"),
        (301, b"", "failure", 78, "redirect API_BASE_URL"),
        (429, b"", "failure", 69, "429"),
        (500, nest(500), "warning", 0, "verified 500 404"),
        (500, PAGE, "failure", 69, "500 proxies"),
        (502, PAGE, "failure", 69, "502 proxies"),
    ],
)
def test_each_answer_has_its_finding(status: int, body: bytes, mark: str, code: int, words: str) -> None:
    """An API that takes reports refuses this one; everything else has a remedy."""
    headers = {"location": "https://other.example.com/x"} if status == 301 else {}
    answer = Answer(status, headers, body, "https://api.example.com/api/ai-tasks/x")
    finding = found(answer, ID, find("sources", "aletheia").load().profile, "5 ms")
    assert (finding.mark, finding.code) == (mark, code), finding
    assert [word for word in words.split() if word not in f"{finding.text} {finding.remedy}"] == []
    assert bool(finding.remedy) == (mark != "ok")


@pytest.mark.parametrize(
    ("status", "body", "mark", "words"),
    [
        (404, b'{"detail": "Task doctor-x not found"}', "ok", "404"),
        (404, b'{"detail": "Not Found"}', "failure", "PATCH /tasks/{id}"),
        (403, b"", "failure", "CLIENT_CERT_FILE"),
    ],
)
def test_the_profile_says_how_a_refusal_looks(status: int, body: bytes, mark: str, words: str) -> None:
    profile = find("sources", "agents-playground").load().profile
    finding = found(Answer(status, {}, body), ID, profile, "5 ms")
    assert finding.mark == mark
    assert words in f"{finding.text} {finding.remedy}"


async def test_it_reports_a_task_that_cannot_exist() -> None:
    """The profile's request for a failure, with an id that is no ObjectId."""
    sent: list[tuple[str, str, str, Mapping[str, object]]] = []

    async def exchange(method: str, path: str, task_id: str, body: bytes) -> Answer:
        sent.append((method, path, task_id, json.loads(body)))
        return Answer(404, {}, nest(404))

    profile = find("sources", "aletheia").load().profile
    remote = Remote("task API", "API_BASE_URL", "https://api.example.com")
    assert [each.mark async for each in report_nothing(profile, exchange, remote)] == ["ok"]
    ((method, path, task_id, body),) = sent
    assert (method, path, body["state"]) == ("PATCH", "/api/ai-tasks/{id}", "failed")
    assert re.fullmatch(r"doctor-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", task_id)
