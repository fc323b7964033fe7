"""The habits of real model APIs, one row each: what the server does, and what must become of the tasks.

In every row all good tasks are done, none of them fails and no vector is wrong. A task at fault has ``BAD`` in its
text. The shapes of answers are those that users of these servers have reported.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from tests.contract.model_habits import LENGTH, Answer, Ask, Habit, served

BAD = "BAD"
Tasks = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Scale:
    """What habits depend on: the time-out of a call, and for how long what passes lasts, seconds."""

    timeout_s: float
    window_s: float


@dataclass(frozen=True, kw_only=True)
class Row:
    """``count`` tasks, ``bad`` of them at fault; ``real``: the same with the real daemon, None when it shows no more.

    ``fate`` of the tasks at fault: ``done``, the code that they fail with, ``aside`` (the text is set aside and named),
    ``paused`` (the model is, and is named), ``paced`` (the model's pace is named) or ``open`` (none in particular).
    ``calls``: no more in all, ``refused``: no more that are not served. ``extra_s``: how much longer than twice a run
    without faults it may take with the real daemon, beside the seconds for which the fault lasts.
    """

    name: str
    habit: Callable[[Scale], Habit]
    count: int = 120
    bad: int = 0
    real: tuple[int, int] | None = None
    tasks: Callable[[int, int], Tasks] = lambda count, bad: mixed(count, bad)
    fate: str = "done"
    slots: int = 32
    timeout_s: float = 1.0
    dimensions: int | None = None
    calls: int | None = None
    refused: int | None = None
    seconds: float = 20.0
    extra_s: float = 0.0


# --- tasks


def mixed(count: int, bad: int, *, length: int = 0, model: str = "m", bad_length: int = 0) -> Tasks:
    """Texts of about ``length`` for one model, those at fault among the others at even distances."""
    at_fault = {(2 * number + 1) * count // (2 * bad) for number in range(bad)}
    return [
        (f"{BAD} text {number} " + "z" * bad_length if number in at_fault else f"text {number} " + "x" * length, model)
        for number in range(count)
    ]


def long_ones(count: int, bad: int) -> Tasks:
    return mixed(count, bad, bad_length=9_000)


def of_length(length: int) -> Callable[[int, int], Tasks]:
    return lambda count, bad: mixed(count, bad, length=length)


def of_many_lengths(count: int, _: int) -> Tasks:
    rng = Random(3)
    return [(f"text {number} " + "y" * min(20_000, int(rng.lognormvariate(6, 1.2))), "m") for number in range(count)]


def another_model(count: int, bad: int) -> Tasks:
    """The tasks of a bad model come first."""
    return [(f"{BAD} text {number}", "bad") for number in range(bad)] + list(mixed(count - bad, 0))


def among_others(count: int, bad: int) -> Tasks:
    """The tasks of a bad model among the others."""
    return [(text, "bad" if BAD in text else "m") for text, _ in mixed(count, bad)]


# --- answers


def openai(status: int, message: str = "no", *, kind: str | None = "invalid_request_error", **fields: object) -> Answer:
    """``{"error": {"message", "type", "param", "code"}}``."""
    return Answer(status, {"error": {"message": message, "type": kind, "param": None, "code": None} | fields})


def if_bad(answer: Answer) -> Callable[[Scale], Habit]:
    return lambda _: lambda ask: answer if ask.has(BAD) else None


def if_bad_model(answer: Answer) -> Callable[[Scale], Habit]:
    return lambda _: lambda ask: answer if ask.model == "bad" else None


def more_than(cap: int, answer: Callable[[Ask], Answer]) -> Callable[[Scale], Habit]:
    """A cap of the inputs of a call."""
    return lambda _: lambda ask: answer(ask) if len(ask.texts) > cap else None


def tokens_of(ask: Ask) -> int:
    return sum(len(text) // 4 + 1 for text in ask.texts)


def first_seconds(answer: Answer, *, good_calls: int = 0) -> Callable[[Scale], Habit]:
    """Everything is answered so while the window lasts, from the call after so many good ones on."""

    def habit(scale: Scale) -> Habit:
        began: list[float] = []

        def answered(ask: Ask) -> Answer | None:
            if ask.number < good_calls:
                return None
            began[:] = began or [ask.at]
            return answer if ask.at - began[0] < scale.window_s else None

        return answered

    return habit


def within(period: float, share: float, answer: Answer) -> Callable[[Scale], Habit]:
    """So for a share of each period; the period is a multiple of the window."""
    return lambda scale: lambda ask: answer if ask.at / scale.window_s % period < share * period else None


def randomly(share: float, answer: Answer) -> Callable[[Scale], Habit]:
    def habit(_: Scale) -> Habit:
        rng = Random(5)
        return lambda ask: answer if rng.random() < share else None

    return habit


def changed(change: Callable[[Ask, list[dict[str, Any]]], None], *, bad: bool = False) -> Callable[[Scale], Habit]:
    """Served, and then its items are changed; ``bad``: only of calls with a text at fault."""

    def answered(ask: Ask) -> Answer | None:
        if bad and not ask.has(BAD):
            return None
        answer = served(ask)
        change(ask, answer["data"])
        return Answer(content=answer)

    return lambda _: answered


def odd_length(share: float, *, whole_calls: bool) -> Callable[[Scale], Habit]:
    """Half as many components in a share of the items, or of the calls."""

    def habit(_: Scale) -> Habit:
        rng = Random(5)

        def length(odd: bool | None) -> int:
            return LENGTH // 2 if (rng.random() < share if odd is None else odd) else LENGTH

        def answered(ask: Ask) -> Answer:
            odd = rng.random() < share if whole_calls else None
            return Answer(content=served(ask, length=lambda _: length(odd)))

        return answered

    return habit


def too_long_once(_: Scale) -> Habit:
    """After a few calls each text is refused once as too long, as by one of two servers behind an address."""
    refused: set[str] = set()

    def answered(ask: Ask) -> Answer | None:
        if ask.number < 3 or refused.issuperset(ask.texts):
            return None
        if len(ask.texts) == 1:
            refused.update(ask.texts)
        return openai(400, "This model's maximum context length is 8 tokens. However, you requested 50 tokens")

    return answered


def slow_texts(texts_in_time: float, answer: Callable[[Scale], Answer] | None = None) -> Callable[[Scale], Habit]:
    """A call takes as long as it has texts; so many are done within the time-out, or within half of it by a proxy."""

    def habit(scale: Scale) -> Habit:
        def answered(ask: Ask) -> Answer:
            took_s = len(ask.texts) * scale.timeout_s / texts_in_time
            if answer is not None and took_s > scale.timeout_s / 2:
                return answer(scale)
            return Answer(content=served(ask), after_s=took_s)

        return answered

    return habit


def budget_after_two(scale: Scale) -> Habit:
    """The text at fault is refused; after two good parts the budget is used up for a while."""
    good: list[float] = []

    def answered(ask: Ask) -> Answer | None:
        if len(good) == 2 and ask.at - good[1] < scale.window_s:
            return Answer(400, BUDGET)
        if ask.has(BAD):
            return openai(400, "bad input")
        if len(good) < 2:
            good.append(ask.at)
        return None

    return answered


def stale_allowance(reset: str) -> Callable[[Scale], Habit]:
    headers = {
        "x-ratelimit-limit-requests": "1000",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": reset,
    }
    return lambda _: lambda ask: Answer(content=served(ask), headers=headers)


def without_index(_: Ask, items: list[dict[str, Any]]) -> None:
    for item in items:
        del item["index"]


def without_index_0(_: Ask, items: list[dict[str, Any]]) -> None:
    del items[0]["index"]


def all_index_0(_: Ask, items: list[dict[str, Any]]) -> None:
    for item in items:
        item["index"] = 0


def one_too_few(_: Ask, items: list[dict[str, Any]]) -> None:
    del items[-1]


def reversed_order(_: Ask, items: list[dict[str, Any]]) -> None:
    items.reverse()


def huge_numbers(ask: Ask, items: list[dict[str, Any]]) -> None:
    for text, item in zip(ask.texts, items, strict=True):
        if BAD in text:
            item["embedding"] = [1e19] * LENGTH


def not_finite(ask: Ask, items: list[dict[str, Any]]) -> None:
    for text, item in zip(ask.texts, items, strict=True):
        if BAD in text:
            item["embedding"] = [None] * LENGTH


def packed(code: str) -> Callable[[Scale], Habit]:
    return lambda _: lambda ask: Answer(content=served(ask, code=code))


def refuses(parameter: str, answer: Answer) -> Callable[[Scale], Habit]:
    """``encoding_format`` is refused as base64 only, whatever else when it is there."""

    def answered(ask: Ask) -> Answer | None:
        value = ask.body.get(parameter)
        return answer if value is not None and value != "float" else None

    return lambda _: answered


BUDGET = {
    "error": {
        "message": "Budget has been exceeded! Current cost: 1.2, Max budget: 1.0",
        "type": "budget_exceeded",
        "param": None,
        "code": "400",
    }
}
ARREARS = {"code": "Arrearage", "message": "Access denied, please make sure your account is in good standing."}
HTML = b"<!DOCTYPE html><html><head><title>Attention Required!</title></head><body>Sorry, you have been blocked"
TOO_LARGE_PAGE = b"<html><head><title>413 Request Entity Too Large</title></head><body>nginx</body></html>"
DETAIL = {"detail": [{"type": "value_error", "loc": ["body", "input"], "msg": "Value error"}]}

# --- the rows of the table

GOOD_TASKS: list[Row] = [
    Row(name="budget after two good parts, one text refused", habit=budget_after_two, count=64, bad=1,
        fate="input_refused", slots=64, real=(64, 1), extra_s=20.0),
    Row(name="budget, single tasks", habit=first_seconds(Answer(400, BUDGET), good_calls=2), slots=1, count=12,
        real=(100, 0), extra_s=20.0),
    Row(name="arrears", habit=first_seconds(Answer(400, ARREARS), good_calls=2), real=(1_000, 0), extra_s=20.0),
    Row(name="arrears, single tasks", habit=first_seconds(Answer(400, ARREARS), good_calls=2), slots=1, count=12),
    Row(name="unexplained 400 from the start", habit=first_seconds(openai(400)), real=(300, 0), extra_s=20.0),
    Row(name="unexplained 400 a third of the time", habit=within(3, 1 / 3, openai(400)), count=300,
        real=(1_000, 0), extra_s=40.0),
    Row(name="base64 refused", habit=refuses("encoding_format", openai(400, "unsupported")), refused=1,
        real=(300, 0)),
    Row(name="base64 refused as detail", habit=refuses("encoding_format", Answer(422, DETAIL)), refused=1),
    Row(name="dimensions refused", habit=refuses("dimensions", openai(400, "no", param="dimensions")), refused=2,
        dimensions=LENGTH),
]  # fmt: skip

ONE_TEXT: list[Row] = [
    Row(name="500 too large to process, 5 %", count=200, bad=10, fate="aside", real=(1_000, 50),
        habit=if_bad(openai(500, "input is too large to process. increase the physical batch size",
                            kind="server_error", code=500))),
    Row(name="500 NaN, 5 slots", count=100, bad=5, slots=5, fate="aside", real=(300, 5),
        habit=if_bad(Answer(500, {"error": "failed to encode response: json: unsupported value: NaN"}))),
    Row(name="a firewall's 403 page", count=100, bad=1, fate="aside", real=(200, 1),
        habit=if_bad(Answer(403, HTML))),
    Row(name="200 with an error", count=150, bad=3, fate="aside", real=(300, 3),
        habit=if_bad(Answer(200, {"error": {"message": "Provider returned error", "code": 500}}))),
    Row(name="one vector too few", count=150, bad=3, fate="aside", real=(300, 3), habit=changed(one_too_few, bad=True)),
    Row(name="a cut connection", count=150, bad=3, fate="aside", real=(300, 3),
        habit=lambda _: lambda ask: Answer(content=served(ask), cut=True) if ask.has(BAD) else None),
    Row(name="a hang", count=150, bad=3, fate="aside", real=(300, 3), timeout_s=0.5, extra_s=25.0,
        habit=if_bad(Answer(after_s=None))),
    Row(name="424", count=150, bad=1, fate="aside", real=(300, 1),
        habit=if_bad(Answer(424, {"error": "Backend error", "error_type": "Backend"}))),
    Row(name="422 detail", count=150, bad=1, fate="input_refused", real=(300, 1),
        habit=if_bad(Answer(422, {"detail": "Unprocessable"}))),
    Row(name="400 detail", count=150, bad=2, fate="input_refused", real=(300, 1), habit=if_bad(Answer(400, DETAIL))),
    Row(name="an unusable vector", count=150, bad=3, fate="aside", habit=changed(not_finite), real=(300, 3)),
    Row(name="a vector of 1e19", count=150, bad=3, fate="aside", habit=changed(huge_numbers)),
    Row(name="only the text at fault", count=1, bad=1, fate="input_refused", habit=if_bad(openai(400)), calls=10),
]  # fmt: skip


def silent(_: Ask) -> Answer:
    return openai(400)


def _cap(count: int) -> Callable[[Ask], Answer]:
    return lambda ask: Answer(
        413, {"error": f"batch size {len(ask.texts)} > maximum allowed batch size {count}", "error_type": "Validation"}
    )


def _token_cap(most: int) -> Callable[[Scale], Habit]:
    def answered(ask: Ask) -> Answer | None:
        asked = tokens_of(ask)
        words = f"Requested {asked} tokens, max {most} tokens per request"
        return (
            openai(400, words, kind="max_tokens_per_request", code="max_tokens_per_request") if asked > most else None
        )

    return lambda _: answered


TOO_LARGE_CALL: list[Row] = [
    Row(name="over 100: [{error}]", count=600, slots=256, refused=4, real=(2_000, 0),
        habit=more_than(100, lambda _: Answer(400, [{"error": {
            "code": 400, "status": "INVALID_ARGUMENT",
            "message": "* BatchEmbedContentsRequest.requests: at most 100 requests can be in one batch\n"}}]))),
    Row(name="over 128: detail", count=600, slots=300, refused=4, real=(2_000, 0),
        habit=more_than(128, lambda ask: Answer(400, {
            "detail": f"The batch size limit is 128. Your batch size is {len(ask.texts)}."}))),
    Row(name="a proxy's 413 page over 100 kB", count=300, slots=128, refused=8, real=(500, 0), tasks=of_length(2_000),
        habit=lambda _: lambda ask: Answer(413, TOO_LARGE_PAGE) if ask.size > 100_000 else None),
    *(Row(name=f"a cap of {cap} inputs", count=600, slots=256, refused=11, real=(2_000, 0),
          habit=more_than(cap, _cap(cap))) for cap in (10, 32, 64)),
    *(Row(name=f"a silent cap of {cap} inputs", count=600, slots=256, refused=11, real=(2_000, 0),
          habit=more_than(cap, silent)) for cap in (10, 32, 64)),
    *(Row(name=f"{cap:,} tokens", count=600, slots=256, refused=8, real=(2_000, 0), tasks=of_many_lengths,
          habit=_token_cap(cap)) for cap in (16_000, 64_000)),
    Row(name="a time for each text", count=120, slots=64, timeout_s=1.0, habit=slow_texts(32), real=(200, 0),
        extra_s=60.0),
    Row(name="524 after a while", count=120, slots=64, timeout_s=1.0, real=(200, 0), extra_s=60.0,
        habit=slow_texts(32, lambda scale: Answer(524, b"error code: 524", after_s=scale.timeout_s / 2))),
    Row(name="30 % too long", count=300, bad=90, tasks=long_ones, fate="text_too_long", real=(1_000, 300),
        habit=if_bad(openai(400, "This model's maximum context length is 2048 tokens, however you requested 2300 "
                            "tokens (2300 in your prompt; 0 for the completion). Please reduce your prompt"))),
]  # fmt: skip

ONE_MODEL: list[Row] = [
    *(Row(name=f"an unknown model, {name}", count=120, bad=1, tasks=another_model, fate="paused",
          habit=if_bad_model(answer), real=(300, 1) if name == "Azure" else None, refused=5)
      for name, answer in {
        "Azure": openai(404, "The API deployment for this resource does not exist.", kind=None,
                        code="DeploymentNotFound"),
        "OpenAI": openai(404, "The model `bad` does not exist or you do not have access to it.",
                         code="model_not_found"),
        "vLLM": Answer(404, {"object": "error", "message": "The model `bad` does not exist.", "type": "NotFoundError",
                             "param": None, "code": 404}),
        "Ollama": Answer(404, {"error": {"message": 'model "bad" not found, try pulling it first',
                                         "type": "api_error", "param": None, "code": None}}),
        "LiteLLM": openai(400, "/embeddings: Invalid model name passed in model=bad. Call `/v1/models`", code="400"),
        "Voyage": Answer(400, {"detail": "Model bad is not supported. Supported models are ['voyage-3']."}),
        "Cohere": Answer(404, {"id": "1", "message": "model 'bad' not found, make sure the correct model ID was used"}),
        "Mistral": Answer(400, {"object": "error", "message": "Invalid model: bad", "type": "invalid_model",
                                "param": None, "code": "1500"}),
        "OpenRouter": openai(400, "bad is not a valid model ID", kind=None, code=400),
        "Gemini": Answer(404, [{"error": {"code": 404, "status": "NOT_FOUND", "message":
                                          "models/bad is not found for API version v1main, or is not supported"}}]),
        "Cloudflare": Answer(400, {"success": False, "result": {}, "messages": [],
                                   "errors": [{"code": 5007, "message": "No such model bad or task"}]}),
        "TEI": Answer(424, {"error": "unhealthy", "error_type": "unhealthy"}),
        "Azure, not for embeddings": openai(400, "The embeddings operation does not work with the specified model, "
                                            "bad. Please choose different model", kind=None,
                                            code="OperationNotSupported"),
      }.items()),
    Row(name="a model that always answers 500", count=160, bad=40, tasks=among_others, fate="paused", real=(1_000, 250),
        habit=if_bad_model(openai(500, "The server had an error", kind="server_error"))),
    Row(name="100 tasks of a hung model first", count=200, bad=50, tasks=another_model, fate="paused",
        habit=if_bad_model(Answer(after_s=None)), timeout_s=0.2, real=(1_000, 100)),
    Row(name="429 on one model", count=200, bad=50, tasks=another_model, fate="paced", real=(1_000, 100),
        habit=if_bad_model(openai(429, "slow down", kind="requests", code="rate_limit_exceeded"))),
    Row(name="the key may not use one model", count=120, bad=20, tasks=another_model, fate="paused",
        habit=if_bad_model(openai(403, "Project does not have access to model bad", code="model_not_found"))),
]  # fmt: skip

QUOTA = "You exceeded your current quota, please check your plan and billing details."
THROTTLES: list[Row] = [
    Row(name="a throttle named quota", count=200, real=(1_000, 0), extra_s=15.0,
        habit=first_seconds(openai(429, QUOTA, kind="insufficient_quota", code="insufficient_quota"), good_calls=3)),
    *(Row(name=f"used up, {name}", count=120, calls=70, habit=first_seconds(answer, good_calls=3))
      for name, answer in {
        "OpenRouter": openai(402, "Insufficient credits. Add more using https://openrouter.ai/credits", kind=None,
                             code=402),
        "DeepSeek": openai(402, "Insufficient Balance", kind="unknown_error", code="invalid_request_error"),
        "Gemini": Answer(429, [{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": QUOTA}}]),
        "Azure": openai(429, "Requests to the Embeddings_Create Operation have exceeded call rate limit of your "
                        "current pricing tier. Please retry after 1 second.", kind=None, code="429"),
        "LiteLLM": openai(400, "ExceededBudget: User=u over budget. Spend=1.1, Budget=1.0", kind="budget_exceeded",
                          code="400"),
        "SiliconFlow": Answer(403, {"code": 30001, "message": "Sorry, your account balance is insufficient",
                                    "data": None}),
        "Voyage": Answer(429, {"detail": "You have not yet added your payment method in the billing page"}),
        "Cloudflare": Answer(429, {"success": False, "errors": [{"code": 3040, "message": "Capacity temporarily "
                                   "exceeded, please try again."}]}),
        "DashScope": openai(400, "Access denied", kind="Arrearage", code="Arrearage"),
      }.items()),
]  # fmt: skip

ODD_ANSWERS: list[Row] = [
    Row(name="no index where it is 0", count=48, habit=changed(without_index_0), real=(300, 0)),
    Row(name="no index at all", count=48, habit=changed(without_index)),
    Row(name="every index is 0", count=24, habit=changed(all_index_0), calls=40, real=(300, 0), extra_s=15.0),
    Row(name="another order", count=48, habit=changed(reversed_order)),
    Row(name="vectors of another length, items", count=200, habit=odd_length(0.1, whole_calls=False), real=(300, 0),
        extra_s=10.0),
    Row(name="vectors of another length, calls", count=200, habit=odd_length(0.2, whole_calls=True), real=(300, 0),
        extra_s=10.0),
    *(Row(name=f"base64 of {name}", count=48, habit=packed(code), real=(300, 0) if name == "float64" else None)
      for name, code in {"float64": "<d", "float16": "<e", "big-endian": ">f", "integers": "<i"}.items()),
]  # fmt: skip

LIMITS_TOLD: list[Row] = [
    Row(name=f"remaining 0 that is stale, reset {reset}", count=200, habit=stale_allowance(reset),
        real=(1_000, 0) if reset == "35s" else None, extra_s=5.0)
    for reset in ("35s", "59s")
]  # fmt: skip

# --- the same refusals as other servers word them

TOO_LONG_WORDS: dict[str, Answer] = {
    "OpenAI": openai(400, "Invalid 'input': maximum context length is 8192 tokens.", param="input"),
    "OpenAI, string": openai(400, "Invalid 'input': string too long.", param="input", code="string_above_max_length"),
    "vLLM": Answer(400, {"error": {"message": "This model's maximum context length is 512 tokens. However, you "
                                   "requested 2300 tokens in the input for embedding generation. Please reduce the "
                                   "length of the input.", "type": "BadRequestError", "param": None, "code": 400}}),
    "older vLLM": Answer(400, {"object": "error", "message": "This model's maximum context length is 512 tokens.",
                               "type": "BadRequestError", "param": None, "code": 400}),
    "TEI": Answer(413, {"error": "Input validation error: `inputs` must have less than 512 tokens. Given: 2300",
                        "error_type": "Validation"}),
    "Ollama": openai(400, "the input length exceeds the context length"),
    "llama.cpp": openai(400, "the request exceeds the available context size", kind="exceed_context_size_error",
                        code=400),
    "LiteLLM": openai(400, "litellm.ContextWindowExceededError: litellm.BadRequestError: This model's maximum context "
                      "length is 8192 tokens", kind=None, code="400"),
    "OpenRouter": openai(400, "This endpoint's maximum context length is 8192 tokens. However, you requested about "
                         "9000 tokens", kind=None, code=400),
    "Mistral": Answer(400, {"object": "error", "message": "Input id 0 has 9000 tokens, exceeding max 8192 tokens.",
                            "type": "invalid_request_prompt", "param": None, "code": "3210"}),
    "Voyage": Answer(400, {"detail": "The example at index 0 in your batch has too many tokens and does not fit into "
                           "the model's context window of 32000 tokens."}),
    "Cohere": Answer(400, {"id": "1", "message": "too many tokens: the input has 9000 tokens, the maximum is 512"}),
    "Gemini": Answer(400, [{"error": {"code": 400, "status": "INVALID_ARGUMENT", "message":
                                      "The input token count (9000) exceeds the maximum number of tokens (2048)."}}]),
    "Cloudflare": Answer(413, {"success": False, "errors": [{"code": 3030, "message": "AiError: context length "
                               "exceeded: 9000 tokens, limit 512"}]}),
    "SiliconFlow": Answer(413, {"code": 20042, "message": "input must have less than 512 tokens", "data": None}),
    "Jina": Answer(400, {"detail": "Input text exceeds maximum length of 8192 tokens"}),
}  # fmt: skip

FILTER_WORDS: dict[str, Answer] = {
    "Azure": openai(400, "The response was filtered due to the prompt triggering the content management policy.",
                    kind=None, code="content_filter",
                    innererror={"code": "ResponsibleAIPolicyViolation"}),
    "DashScope": openai(400, "Input data may contain inappropriate content.", kind="data_inspection_failed",
                        code="data_inspection_failed"),
}  # fmt: skip

TOO_MANY_WORDS: dict[str, Callable[[Ask], Answer]] = {
    "Azure": lambda _: openai(400, "Too many inputs. The max number of inputs is 16. We hope to increase it soon."),
    "OpenAI": lambda ask: openai(400, f"Invalid 'input': array too long. Expected an array with maximum length 16, but "
                                 f"got an array with length {len(ask.texts)} instead.", param="input",
                                 code="array_above_max_length"),
    "DashScope": lambda _: openai(400, "<400> InternalError.Algo.InvalidParameter: Value error, batch size is invalid, "
                                  "it should not be larger than 16.: input.contents", kind="InvalidParameter",
                                  code="InvalidParameter"),
    "Cohere": lambda ask: Answer(400, {"message": "invalid request: total number of texts must be at most 16 - "
                                       f"received {len(ask.texts)}"}),
    "TEI": lambda ask: Answer(422, {"error": f"batch size {len(ask.texts)} > maximum allowed batch size 16",
                                    "error_type": "Validation"}),
    "LiteLLM": lambda _: openai(400, "litellm.BadRequestError: OpenAIException - Too many inputs, maximum is 16",
                                kind=None, code="400"),
    "Mistral": lambda _: Answer(400, {"object": "error", "message": "Too many inputs in request, split into more "
                                      "batches.", "type": "invalid_request_prompt", "param": None, "code": "3210"}),
    "Cloudflare": lambda _: Answer(400, {"success": False, "errors": [{"code": 3003, "message": "Text embedding: batch "
                                         "size exceeds the limit of 16"}]}),
    "FastAPI": lambda _: Answer(422, {"detail": [{"type": "too_long", "loc": ["body", "input", "list[str]"], "msg":
                                      "List should have at most 16 items after validation, not 32"}]}),
    "500 without words": lambda _: Answer(500, b"Internal Server Error"),
}  # fmt: skip

OTHER_WORDS: list[Row] = [
    *(Row(name=f"too long, {name}", bad=6, count=90, tasks=long_ones, fate="text_too_long", habit=if_bad(answer))
      for name, answer in TOO_LONG_WORDS.items()),
    *(Row(name=f"filtered, {name}", bad=2, count=90, fate="input_refused", habit=if_bad(answer))
      for name, answer in FILTER_WORDS.items()),
    *(Row(name=f"too many, {name}", count=200, slots=64, habit=more_than(16, answer), refused=9)
      for name, answer in TOO_MANY_WORDS.items()),
]  # fmt: skip

NOISE: list[Row] = [
    Row(name="5 % of the calls 500", count=200, habit=randomly(0.05, openai(500))),
    Row(name="5 % of the calls 400", count=200, habit=randomly(0.05, openai(400))),
    Row(name="12 % of the calls 429", count=200, habit=randomly(0.12, openai(429, kind="requests"))),
    Row(name="10 % of the calls cut", count=200,
        habit=lambda scale: lambda ask: Answer(content=served(ask), cut=True) if ask.number % 10 == 3 else None),
    Row(name="each text too long once", count=40, habit=too_long_once, calls=200),
    Row(name="an outage that passes", count=200, habit=first_seconds(Answer(502, b"Bad Gateway"), good_calls=3)),
]  # fmt: skip

ROWS: list[Row] = [
    *GOOD_TASKS, *ONE_TEXT, *TOO_LARGE_CALL, *ONE_MODEL, *THROTTLES, *ODD_ANSWERS, *LIMITS_TOLD, *OTHER_WORDS, *NOISE,
]  # fmt: skip
