"""The checks of ``doctor`` for a model API."""

from collections.abc import AsyncIterator, Iterable, Mapping
from http import HTTPStatus

from ai_task_processor.core import errors
from ai_task_processor.core.checks import Finding, Remote, Stopwatch, ok, refused, warning
from ai_task_processor.core.ports import Provider


def remedies(key: str, models: str) -> Mapping[type[Exception], str]:
    """What to do after a refusal, by its class. ``key``, ``models``: the variables that hold them."""
    return {
        errors.Unauthorized: f"correct {key}",
        errors.ModelRefused: f"correct {models}",
        errors.TaskError: f"correct {models}",
        errors.QuotaExhausted: f"look at the billing of the account behind {key}",
    }


async def try_models(
    provider: Provider, models: Iterable[str], remote: Remote, known: Mapping[type[Exception], str]
) -> AsyncIterator[Finding]:
    """Are the key and every one of these models accepted? ``known``: the remedies."""
    for name in models:
        watch = Stopwatch()
        try:
            await provider.check(name)
        except (errors.RemoteError, errors.TaskError) as error:
            yield refused(error, remote, known, about=f"{name}: ")
        else:
            yield accepted(name, remote, str(watch))


async def warn_of_model(provider: Provider, model: str) -> AsyncIterator[Finding]:
    """A warning when a model is refused that is used by few tasks, or by none. Other failures are found elsewhere."""
    try:
        await provider.check(model)
    except errors.ModelRefused as error:
        remedy = "set CHAT_MODEL, or leave chat types out of ENABLED_TASK_TYPES"
        yield warning(f"{model}: {error}; chat tasks that name no model would wait", remedy)
    except (errors.RemoteError, errors.TaskError):
        return


def accepted(model: str, remote: Remote, took: str) -> Finding:
    """The finding when ``Provider.check`` passed, as it also does for a web page or a server without ``/models``."""
    if remote.page:
        return refused(errors.InvalidAnswer(""), remote, {}, about=f"{model}: ")
    if remote.status >= HTTPStatus.BAD_REQUEST:
        remedy = "if model calls fail, correct OPENAI_BASE_URL (its path often ends in /v1)"
        return warning(f"{model}: not verified, the server has no cards of models ({remote.status})", remedy)
    return ok(f"{model}: key and model are accepted ({took})")
