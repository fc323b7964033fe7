"""Chat models of OpenAI and compatible servers, over chat completions or the Responses API."""

from collections.abc import Mapping
from dataclasses import replace
from http import HTTPStatus

from ai_task_processor.core.errors import CallRefused, Misconfigured, RemoteError
from ai_task_processor.core.ports import ChatAnswer, ChatRequest, Provider
from ai_task_processor.net.answers import Answer
from ai_task_processor.net.client import HttpClient
from ai_task_processor.ops.metrics import Metrics
from ai_task_processor.providers.answers import parse_limits
from ai_task_processor.providers.chat_completions import ChatCompletions
from ai_task_processor.providers.chat_forms import Form
from ai_task_processor.providers.memory import ModelMemory
from ai_task_processor.providers.openai_client import CHECK_TIMEOUT_S, OpenAIClient, refusal_error
from ai_task_processor.providers.prices import Prices
from ai_task_processor.providers.refusals import read_refusal
from ai_task_processor.providers.responses import Responses
from ai_task_processor.providers.settings import ChatSettings

#: the most models whose form of request is stored
MAX_MODELS = 256
_APIS: Mapping[str, type[Form]] = {"chat_completions": ChatCompletions, "responses": Responses}
#: the statuses with which a server refuses a parameter
_PARAMETER_STATUSES = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY})
#: the statuses of an endpoint that a server does not have
_NO_ENDPOINT = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED})


class OpenAIChat(Provider):
    """``ports.Provider`` for conversations. It closes the HTTP client that it is given.

    ``memory`` persists the form of request that each model was served in.
    """

    name = "openai"

    def __init__(
        self,
        settings: ChatSettings,
        client: HttpClient,
        metrics: Metrics,
        memory: ModelMemory | None = None,
        prices: Prices | None = None,
    ) -> None:
        self._api = OpenAIClient(settings.api_key, settings.base_url, settings.timeout_s, client, metrics, prices)
        self._first = _APIS[settings.api].restored(None)
        self._url = self._api.url(self._first.path)
        self._memory = memory
        self._forms: dict[str, Form] = {}

    async def prepare(self) -> None:
        """Load the stored forms."""
        if self._memory is not None:
            loaded = self._memory.load()
            self._forms = {model: self._first.restored(state) for model, state in loaded.items()} | self._forms

    async def complete(self, request: ChatRequest) -> ChatAnswer:
        """A refusal that names a parameter is followed by the same call in a simpler form, which is stored for the
        model once it was served."""
        known = form = self._forms.get(request.model, self._first)
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
                    raise self._refused(answer)
                form = simpler
            chat = form.parse(answer.content)
        if form != known:
            while len(self._forms) >= MAX_MODELS:
                del self._forms[next(iter(self._forms))]
            self._forms[request.model] = form
            if self._memory is not None:
                self._memory.save({model: form.state() for model, form in self._forms.items()})
        self._api.charged(request.model, chat.usage)
        return replace(chat, limits=parse_limits(answer.headers))

    def _refused(self, answer: Answer) -> RemoteError:
        """The error for a refusal: where the server lacks the Responses API it names the setting."""
        error = refusal_error(answer)
        lacks = answer.status_code in _NO_ENDPOINT and type(error) in (Misconfigured, CallRefused)
        if not lacks or not isinstance(self._first, Responses):
            return error
        text = f"the model API has no {self._first.path} ({answer.status_code})"
        remedy = "set CHAT_API to chat_completions, or correct CHAT_BASE_URL"
        return Misconfigured(f"{text}: {remedy}", status=answer.status_code)

    async def check(self, model: str) -> None:
        """Whether the server has the Responses API, if that is used; then as ``OpenAIClient.check``."""
        if isinstance(self._first, Responses):
            answer = await self._api.post(self._url, {}, CHECK_TIMEOUT_S)
            if answer.status_code in _NO_ENDPOINT:
                raise self._refused(answer)
        await self._api.check(model)

    async def aclose(self) -> None:
        await self._api.aclose()
