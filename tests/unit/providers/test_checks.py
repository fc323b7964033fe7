"""What ``doctor`` makes of a model API's answers."""

import pytest

from ai_task_processor.core import errors
from ai_task_processor.core.checks import Remote, refused
from ai_task_processor.providers.checks import accepted, remedies


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (errors.Unauthorized("401"), "OPENAI_API_KEY"),
        (errors.ModelRefused("unknown"), "CHAT_MODEL or OPENAI_BASE_URL"),
        (errors.InputRefused("input_refused"), "CHAT_MODEL"),
        (errors.QuotaExhausted("empty"), "billing"),
        (errors.Misconfigured("404"), "OPENAI_BASE_URL"),
    ],
)
def test_each_refusal_of_a_model_has_its_remedy(error: Exception, words: str) -> None:
    """Key, model, money and address are told apart."""
    model = Remote("model API", "OPENAI_BASE_URL", "https://models.example.com")
    finding = refused(error, model, remedies("OPENAI_API_KEY", "CHAT_MODEL or OPENAI_BASE_URL"), about="some-model: ")
    assert finding.code == 78
    assert finding.text.startswith("some-model: ")
    assert words in finding.remedy


@pytest.mark.parametrize(
    ("status", "page", "mark", "code"),
    [(200, False, "ok", 0), (404, False, "warning", 0), (200, True, "failure", 78), (404, True, "failure", 78)],
)
def test_a_model_counts_as_accepted_only_on_a_true_answer(status: int, page: bool, mark: str, code: int) -> None:
    """A web page is no model API, and a 404 for the card of a model proves nothing."""
    model = Remote("model API", "OPENAI_BASE_URL", "https://models.example.com", status, page)
    finding = accepted("some-model", model, "5 ms")
    assert (finding.mark, finding.code) == (mark, code)
    assert mark == "ok" or "OPENAI_BASE_URL" in finding.remedy
