"""The checks of ``doctor`` for a model API."""

from collections.abc import AsyncIterator, Iterable, Mapping
from http import HTTPStatus
from typing import Final

from ai_task_processor.core import errors
from ai_task_processor.core.checks import Finding, Remote, Stopwatch, ok, refused, warning
from ai_task_processor.core.ports import Provider

_NAMES: Final = "correct DEFAULT_EMBEDDING_MODEL, CHAT_MODEL, MODEL_ALIASES or OPENAI_BASE_URL"
REMEDIES: Final[Mapping[type[Exception], str]] = {
    errors.Unauthorized: "correct OPENAI_API_KEY",
    errors.ModelRefused: _NAMES,
    errors.TaskError: _NAMES,
    errors.QuotaExhausted: "look at the billing of the account behind OPENAI_API_KEY",
}


async def try_models(provider: Provider, models: Iterable[str], remote: Remote) -> AsyncIterator[Finding]:
    """Are the key and every one of these models accepted?"""
    for name in models:
        watch = Stopwatch()
        try:
            await provider.check(name)
        except (errors.RemoteError, errors.TaskError) as error:
            yield refused(error, remote, REMEDIES, about=f"{name}: ")
        else:
            yield accepted(name, remote, str(watch))


def accepted(model: str, remote: Remote, took: str) -> Finding:
    """The finding when ``Provider.check`` passed, as it also does for a web page or a server without ``/models``."""
    if remote.page:
        return refused(errors.InvalidAnswer(""), remote, {}, about=f"{model}: ")
    if remote.status >= HTTPStatus.BAD_REQUEST:
        remedy = "if model calls fail, correct OPENAI_BASE_URL (its path often ends in /v1)"
        return warning(f"{model}: not verified, the server has no cards of models ({remote.status})", remedy)
    return ok(f"{model}: key and model are accepted ({took})")
