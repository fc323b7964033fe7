"""The sandbox's chat models: their answers have the shapes of the official client."""

import json
from typing import get_args

import pytest
from openai.types.chat import ChatCompletion
from openai.types.responses import Response

from ai_task_processor.sandbox.chat import ChatApi, Habit

MESSAGES = [{"role": "user", "content": "x" * 5_000}]


@pytest.mark.parametrize("habit", [None, *get_args(Habit)])
def test_an_answer_is_what_the_openai_package_reads(habit: str | None) -> None:
    """With every habit; the second prompt begins as the first did, so that a part of it was cached."""
    api = ChatApi.seeded(0)
    api.behave({habit: 1.0} if habit else {})
    completion = api.completion(json.dumps({"model": "m", "messages": MESSAGES}).encode()).body
    response = api.response(json.dumps({"model": "m", "input": MESSAGES}).encode()).body
    assert isinstance(completion, bytes)
    assert isinstance(response, bytes)
    ChatCompletion.model_validate_json(completion, strict=True)
    usage = Response.model_validate_json(response, strict=True).usage
    assert usage
    assert usage.input_tokens_details.cached_tokens == api.cached_tokens == 1024
    assert usage.input_tokens == 1250
