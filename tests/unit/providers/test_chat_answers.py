"""Answers of chat completions and of the Responses API, as far as the sandbox does not give them."""

import json
from typing import Any

import pytest

from ai_task_processor.core.errors import CallRefused, InvalidAnswer, QuotaExhausted, RemoteError, Throttled, Transient
from ai_task_processor.models.task import Usage
from ai_task_processor.providers.chat_completions import ChatCompletions
from ai_task_processor.providers.responses import Responses


def text(words: str) -> dict[str, object]:
    return {"type": "output_text", "text": words, "annotations": []}


TEXT = text("So be it.")
REASONING = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}


def message(*content: object, **more: object) -> dict[str, object]:
    return {"type": "message", "role": "assistant", "content": list(content), **more}


def response(*output: object, status: object = "completed", **more: object) -> bytes:
    return json.dumps({"object": "response", "status": status, "output": list(output), **more}).encode()


def incomplete(reason: object) -> bytes:
    return response(message(TEXT), status="incomplete", incomplete_details={"reason": reason})


@pytest.mark.parametrize(
    ("content", "finish", "words"),
    [
        (response(message(TEXT)), "complete", "So be it."),
        (response(REASONING, message(TEXT)), "complete", "So be it."),
        (response(message(text("So "), 5, {"type": "x"}), message(text("be it."))), "complete", "So be it."),
        (response(message(text("First I look."), phase="commentary"), message(TEXT)), "complete", "So be it."),
        (response(message({"type": "refusal", "refusal": "no"})), "refused", ""),
        (response({"type": "function_call", "name": "f"}), "other", ""),
        (response(message(TEXT), {"type": "web_search_call"}), "other", "So be it."),
        (response(REASONING), "other", ""),
        (response(message(text(" \n"))), "other", " \n"),
        (response(), "other", ""),
        (response(message("text"), 5, "x", None, {"type": "message", "content": "text"}), "other", ""),
        (incomplete("max_output_tokens"), "truncated", "So be it."),
        (response(REASONING, status="incomplete", incomplete_details={"reason": "max_output_tokens"}), "truncated", ""),
        (incomplete("content_filter"), "filtered", "So be it."),
        (incomplete("steered"), "other", "So be it."),
        (incomplete(["max_output_tokens"]), "other", "So be it."),
        (response(message(TEXT), status="incomplete"), "other", "So be it."),
        (response(message(TEXT), status="in_progress"), "other", "So be it."),
        (response(status="failed", error={"code": "invalid_prompt", "message": "no"}), "filtered", ""),
        (response(status="failed", error={"code": "bio_policy", "message": "no"}), "filtered", ""),
    ],
)  # fmt: skip
def test_how_a_response_ended(content: bytes, finish: str, words: str) -> None:
    answer = Responses.parse(content)
    assert (answer.finish, answer.text, answer.usage) == (finish, words, Usage())


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"<html>", InvalidAnswer),
        (b"[]", InvalidAnswer),
        (b'{"output": []}', InvalidAnswer),
        (b'{"choices": [{"message": {"content": "x"}}]}', InvalidAnswer),
        (response(status=7), CallRefused),
        (b'{"error": {"message": "broken"}}', CallRefused),
        (response(status="failed", error={"code": "server_error", "message": "x"}), Transient),
        (response(status="failed", error={"code": "rate_limit_exceeded", "message": "x"}), Throttled),
        (response(status="failed", error={"code": "insufficient_quota", "message": "x"}), QuotaExhausted),
        (response(status="failed", error={"code": ["x"]}), CallRefused),
        (response(status="failed", error=None), CallRefused),
    ],
)
def test_a_response_that_is_no_answer(content: bytes, error: type[RemoteError]) -> None:
    """No such error makes a task ``failed``."""
    with pytest.raises(error) as raised:
        Responses.parse(content)
    assert raised.type is error
    assert getattr(raised.value, "final", None) is None


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 9, "completion_tokens": 4}, Usage(9, 4)),
        ({"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 8}}, Usage(9, 4, 8)),
        ({"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 80}}, Usage(9, 0, 9)),
        ({"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": -1}}, Usage(9)),
        ({"prompt_tokens": 9, "prompt_tokens_details": [3]}, Usage(9)),
        ({"prompt_tokens": -1, "completion_tokens": True, "prompt_tokens_details": None}, Usage()),
        (None, Usage()),
    ],
)
def test_the_usage_of_both(usage: dict[str, Any] | None, expected: Usage) -> None:
    """What makes no sense is 0, and no more is cached than there was."""
    choice = {"message": {"content": "x"}, "finish_reason": "stop"}
    assert ChatCompletions.parse(json.dumps({"choices": [choice], "usage": usage}).encode()).usage == expected
    names = {"prompt_tokens": "input_tokens", "completion_tokens": "output_tokens"}
    names["prompt_tokens_details"] = "input_tokens_details"
    renamed = usage and {names[name]: value for name, value in usage.items()}
    assert Responses.parse(response(message(TEXT), usage=renamed)).usage == expected


def test_a_completion_in_parts_is_one_text() -> None:
    content = [{"type": "text", "text": "So "}, {"type": "image"}, {"type": "text", "text": "be it."}]
    choice = {"message": {"content": content}, "finish_reason": "stop"}
    assert ChatCompletions.parse(json.dumps({"choices": [choice]}).encode()).text == "So be it."


def test_a_strange_finish_reason_is_no_answer() -> None:
    choice = {"message": {"content": "x"}, "finish_reason": ["stop"]}
    assert ChatCompletions.parse(json.dumps({"choices": [choice]}).encode()).finish == "other"
