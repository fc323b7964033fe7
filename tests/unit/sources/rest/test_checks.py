"""What ``doctor`` says of the problems that a running daemon has with the task API."""

import pytest

from ai_task_processor.core.component import Problem
from ai_task_processor.sources.rest.checks import explain

OLDER = "the token endpoint refuses the client: invalid_client"
UNREADABLE = "answers to results cannot be read (no HTTP/1.1: odd): return the updated one"


@pytest.mark.parametrize(
    ("code", "message", "granted", "words"),
    [
        ("token_unavailable", OLDER, True, ("older secret", "invalid_client", "SIGHUP")),
        ("token_unavailable", "the token endpoint answered 401", True, ("older secret", "SIGHUP")),
        ("token_unavailable", OLDER, False, None),
        ("token_unavailable", "connection refused", True, None),
        ("results_refused", UNREADABLE, True, ("(no HTTP/1.1: odd)", "return the updated one")),
        ("results_refused", "the task API answered 404", True, ("404", "outbox list")),
        ("outbox_full", "", True, None),
    ],
)
def test_a_problem_of_the_daemon_is_explained_when_it_is_ours(
    code: str, message: str, granted: bool, words: tuple[str, ...] | None
) -> None:
    """A secret that is older than ours, results that nobody acknowledges: failures with a remedy."""
    finding = explain(Problem(code, message), granted=granted)
    if words is None:
        assert finding is None
    else:
        assert finding is not None
        assert (finding.mark, finding.code) == ("failure", 78)
        assert [word for word in words if word not in f"{finding.text} | {finding.remedy}"] == []
