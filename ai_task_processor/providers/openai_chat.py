"""Chat completions of OpenAI and compatible servers; every answer is checked."""

from collections.abc import Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import Any

from pydantic import SecretStr

from ai_task_processor.core import codec
from ai_task_processor.core.errors import InvalidAnswer
from ai_task_processor.core.ports import ChatAnswer, ChatRequest, Provider
from ai_task_processor.models.task import Usage
from ai_task_processor.net.client import HttpClient
from ai_task_processor.ops.metrics import Metrics
from ai_task_processor.providers.answers import error_in_answer, parse_limits
from ai_task_processor.providers.chat_forms import Form
from ai_task_processor.providers.memory import ModelMemory
from ai_task_processor.providers.openai_client import OpenAIClient, refusal_error
from ai_task_processor.providers.refusals import read_refusal

#: the most models whose form of request is stored
MAX_MODELS = 256
#: the statuses with which a server refuses a parameter
_PARAMETER_STATUSES = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY})
_FINISHES: Mapping[object, Any] = {"stop": "complete", "length": "truncated", "content_filter": "filtered"}


class OpenAIChat(Provider):
    """``ports.Provider`` for conversations. It closes the HTTP client that it is given.

    ``memory`` persists the form of request that each model was served in.
    """

    name = "openai"

    def __init__(
        self,
        key: SecretStr | None,
        base_url: str | None,
        timeout_s: float,
        client: HttpClient,
        metrics: Metrics,
        memory: ModelMemory | None = None,
    ) -> None:
        self._api = OpenAIClient(key, base_url, timeout_s, client, metrics)
        self._url = self._api.url("/chat/completions")
        self._memory = memory
        self._forms: dict[str, Form] = {}

    async def prepare(self) -> None:
        """Load the stored forms."""
        if self._memory is not None:
            loaded = self._memory.load()
            self._forms = {model: Form.restored(state) for model, state in loaded.items()} | self._forms

    async def complete(self, request: ChatRequest) -> ChatAnswer:
        """A refusal that names a parameter is followed by the same call in a simpler form, which is stored for the
        model once it was served."""
        known = form = self._forms.get(request.model, Form())
        with self._api.counted(request.model):
            while True:
                body = form.body(request)
                answer = await self._api.post(self._url, body)
                if answer.is_success:
                    break
                simpler = None
                if answer.status_code in _PARAMETER_STATUSES:
                    simpler = form.after(read_refusal(answer.content), body)
                if simpler is None:
                    raise refusal_error(answer)
                form = simpler
            chat = parse_chat(answer.content)
        if form != known:
            while len(self._forms) >= MAX_MODELS:
                del self._forms[next(iter(self._forms))]
            self._forms[request.model] = form
            if self._memory is not None:
                self._memory.save({model: form.state() for model, form in self._forms.items()})
        self._api.charged(request.model, chat.usage)
        return replace(chat, limits=parse_limits(answer.headers))

    async def check(self, model: str) -> None:
        await self._api.check(model)

    async def aclose(self) -> None:
        await self._api.aclose()


def parse_chat(content: bytes) -> ChatAnswer:
    """The first choice of an answer. Raises ``InvalidAnswer``, and what an error in an answer with status 200 means."""
    try:
        answer = codec.loads(content)
    except ValueError as error:
        raise InvalidAnswer("the model API did not answer JSON") from error
    choices = answer.get("choices") if isinstance(answer, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        raise error_in_answer(content)
    text = _text(message.get("content"))
    finish = _FINISHES.get(choice.get("finish_reason"), "other")
    if message.get("refusal"):
        finish = "refused"
    elif finish == "complete" and (message.get("tool_calls") or not text.strip()):
        finish = "other"
    return ChatAnswer(text=text, finish=finish, usage=_usage(answer))


def _text(content: object) -> str:
    """A string, or the text parts of a list of parts."""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def _usage(answer: object) -> Usage:
    usage = answer.get("usage") if isinstance(answer, dict) else None
    return Usage(_count(usage, "prompt_tokens"), _count(usage, "completion_tokens"))


def _count(usage: object, name: str) -> int:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else 0
