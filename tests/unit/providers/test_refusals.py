"""Refusals of model APIs as documented or reported: each has one meaning, and no word of it is repeated."""

import json
from collections.abc import Sequence
from typing import Any

import httpx2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ai_task_processor.core import errors
from ai_task_processor.net.answers import Answer, status_error
from ai_task_processor.providers.refusals import MAX_WORDS, classify, read_refusal

#: what a refused call may mean: what a text alone ends with, at once?, is a size at fault?, the number that was read
Meaning = tuple[str | None, bool, bool, int | None]

UNEXPLAINED: Meaning = ("input_refused", False, False, None)
HTML = (
    b"<html><head><title>Attention Required!</title></head><body>The model is not found, quota exceeded</body></html>"
)
TOKEN_BUDGET = "Authentication Error, ExceededTokenBudget: Max Budget for Token: 2e-07"


def too_large(limit: int | None = None) -> Meaning:
    return "text_too_long", True, True, limit


def openai(message: str, code: object = None, kind: object = "invalid_request_error", param: object = None) -> Any:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def flat(message: str, kind: str = "BadRequestError", code: object = 400) -> Any:
    return {"object": "error", "message": message, "type": kind, "param": None, "code": code}


def gemini(code: int, message: str, status: str) -> Any:
    return [{"error": {"code": code, "message": message, "status": status}}]


def cloudflare(message: str, code: int) -> Any:
    return {"errors": [{"message": message, "code": code}], "success": False, "result": {}, "messages": []}


def classified(status: int, body: object, headers: dict[str, str] | None = None) -> errors.RemoteError:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = Answer(status, httpx2.Headers(headers))
    return classify(status, content, status_error(response, "the model API"))


def meaning(error: errors.RemoteError) -> type[errors.RemoteError] | Meaning:
    if not isinstance(error, errors.CallRefused):
        return type(error)
    return None if error.final is None else error.final.code, error.explained, error.too_large, error.limit


#: provider, status, body; and the number that was read
Row = tuple[str, int, object]
LimitRow = tuple[str, int, object, int | None]

QUOTA: list[Row] = [
    ("OpenAI", 429, openai("You exceeded your current quota, please check your plan.", "insufficient_quota")),
    ("OpenAI", 429, openai("You exceeded your current quota", None, "insufficient_quota")),
    ("OpenAI", 429, openai("Your account is not active", "billing_not_active", "billing_not_active")),
    ("OpenAI", 400, openai("Billing hard limit has been reached", "billing_hard_limit_reached")),
    ("LiteLLM", 400, openai("Budget has been exceeded! Current cost: 1, Max budget: 1", "400", "budget_exceeded")),
    ("LiteLLM", 429, openai("Budget has been exceeded! Current cost: 1, Max budget: 1", "429", "budget_exceeded")),
    ("LiteLLM", 403, openai("Team over budget", "403", "team_budget_exceeded")),
    ("OpenRouter", 402, {"error": {"message": "Insufficient credits. Add more.", "code": 402}}),
    ("DeepSeek", 402, openai("Insufficient Balance", "invalid_request_error", "unknown_error")),
    ("Moonshot", 429, openai("Your account is suspended", None, "exceeded_current_quota_error")),
    ("DashScope", 400, {"code": "Arrearage", "message": "Access denied, please make sure your account is good."}),
    ("DashScope", 400, openai("Access denied, your account is not in good standing.", "Arrearage", "Arrearage")),
    ("DashScope", 403, openai("The free tier of the model has been exhausted.", "AllocationQuota.FreeTierOnly")),
    ("Together", 400, openai("Credit limit exceeded, please add credits.", None, "credit_limit")),
    ("Volcengine", 403, openai("The account has an overdue balance.", "AccountOverdueError", "Forbidden")),
    ("Hugging Face", 402, {"error": "You have exceeded your monthly included credits for Inference Providers."}),
    ("Cohere", 402, {"message": "Please add or update your payment method."}),
    ("DeepInfra", 402, {"detail": {"error": "inference prohibited, please enter a payment method or top up"}}),
    ("a proxy", 402, HTML),
    ("nothing", 402, b""),
]

TPM_REACHED = "Rate limit reached for text-embedding-3-small in org-x on tokens per min (TPM): Limit 10."
THROTTLED: list[Row] = [
    ("OpenAI", 429, openai(TPM_REACHED, "rate_limit_exceeded", "tokens")),
    ("Azure", 429, openai("Requests to the Embeddings_Create Operation have exceeded call rate limit.", "429", None)),
    ("Azure", 429, openai("Too many requests for this deployment", "RateLimitReached", None)),
    ("Gemini", 429, gemini(429, "You exceeded your current quota, please check billing.", "RESOURCE_EXHAUSTED")),
    ("DashScope", 429, {"code": "Throttling.RateQuota", "message": "Requests rate limit exceeded."}),
    ("DashScope", 429, {"code": "Throttling.AllocationQuota", "message": "Allocated quota exceeded."}),
    ("Moonshot", 429, openai("max request per minute reached: 3", None, "rate_limit_reached_error")),
    ("Mistral", 429, flat("Requests rate limit exceeded", "rate_limited", "1300")),
    ("Cohere", 429, {"message": "You are past the per minute request limit, please wait."}),
    ("Voyage", 429, {"detail": "You have not yet added your payment method in the billing page: 3 RPM and 10K TPM."}),
    ("TEI", 429, {"error": "Model is overloaded", "error_type": "Overloaded"}),
    ("LiteLLM", 429, openai("No deployments available for selected model, Try again in 5 seconds.", "429", "None")),
    ("OpenRouter", 429, {"error": {"message": "Rate limit exceeded: free-models-per-min.", "code": 429}}),
    ("Workers AI", 429, cloudflare("you have used up your daily free allocation of 10,000 neurons", 4006)),
    ("load balancer", 429, openai("the load is not balanced well", "load_balancer_error", None)),
    ("Cloudflare", 429, HTML),
    ("nothing", 429, b""),
]

NO_SUCH_MODEL: list[Row] = [
    ("OpenAI", 404, openai("The model `m` does not exist or you do not have access to it.", "model_not_found")),
    ("OpenAI", 403, openai("Project x does not have access to it.", "model_not_found")),
    ("OpenAI", 400, openai("you must provide a model parameter", param="model")),
    ("OpenAI", 404, openai("The model `m` has been deprecated, learn more here.")),
    ("Azure", 404, openai("The API deployment for this resource does not exist.", "DeploymentNotFound", None)),
    ("Azure", 404, {"error": {"code": "ModelNotFound", "message": "nothing here"}}),
    ("vLLM", 404, flat("The model `m` does not exist.", "NotFoundError", 404)),
    ("vLLM", 400, openai("The model does not support Embeddings API", 400, "BadRequestError")),
    ("Ollama", 404, openai('model "m" not found, try pulling it first', None, "api_error")),
    ("Ollama", 404, {"error": "model 'm' not found"}),
    ("Ollama", 400, {"error": "this model does not support embeddings"}),
    ("LiteLLM", 400, openai("/embeddings: Invalid model name passed in model=m. Call `/v1/models`.", "400", "None")),
    ("OpenRouter", 400, {"error": {"message": "m is not a valid model ID", "code": 400}}),
    ("OpenRouter", 404, {"error": {"message": "No endpoints found for m.", "code": 404}}),
    ("Mistral", 400, flat("Invalid model: m", "invalid_model", "1500")),
    ("Voyage", 400, {"detail": "Model m is not supported. Supported models are ['a', 'b']."}),
    ("Cohere", 404, {"message": "model 'm' not found, make sure the correct model ID was used."}),
    ("Workers AI", 400, cloudflare("AiError: No such model m or task", 5007)),
    ("SiliconFlow", 400, {"code": 20012, "message": "Model does not exist. Please check it carefully.", "data": None}),
    ("Together", 404, openai("Unable to access model m.", "model_not_available", "invalid_request_error", "model")),
    ("Fireworks", 404, openai("Model not found, inaccessible, and/or not deployed", "NOT_FOUND")),
    ("DeepInfra", 404, {"detail": {"error": "Model is not available"}}),
    ("LocalAI", 410, openai("the model m was decommissioned")),
    ("Triton", 400, {"error": "Request for unknown model: 'm' is not found"}),
    ("Gemini", 404, gemini(404, "models/m is not found for API version v1main, or is not supported for embedContent. "
                                "Call ListModels.", "NOT_FOUND")),
]  # fmt: skip

REFUSED_PARAMETER: list[Row] = [
    ("OpenAI", 400, openai("This model does not support specifying dimensions.")),
    ("OpenAI", 400, openai("Invalid value: 0", param="dimensions")),
    ("vLLM", 400, flat('Model "m" does not support matryoshka representation, changing output dimensions.')),
    ("anybody", 400, openai("Unsupported parameter", "unsupported_parameter", param="encoding_format")),
    ("anybody", 422, openai("no", param="Encoding_Format")),
    ("anybody", 400, openai("maximum input length is 8 tokens", param="user")),
]

TOO_LONG: list[LimitRow] = [
    ("OpenAI", 400, openai("This model's maximum context length is 8192 tokens, however you requested 9001 tokens "
                           "(9001 in your prompt; 0 for the completion). Please reduce your prompt."), 8192),
    ("OpenAI", 400, openai("Invalid 'input[0]': maximum input length is 8192 tokens."), 8192),
    ("OpenAI", 400, openai("no", "context_length_exceeded"), None),
    ("OpenAI", 400, openai("Invalid 'input': string too long.", "string_above_max_length"), None),
    ("OpenAI", 400, openai("Requested 400,000 tokens, max 300,000 tokens per request", "max_tokens_per_request",
                           "max_tokens_per_request"), 300_000),
    ("vLLM", 400, flat("This model's maximum context length is 512 tokens. However, you requested 600 tokens in the "
                       "input for embedding generation. Please reduce the length of the input."), 512),
    ("TEI", 413, {"error": "Input validation error: `inputs` must have less than 512 tokens. Given: 600",
                  "error_type": "Validation"}, 512),
    ("TEI", 422, {"error": "Input validation error: `inputs` must have less than 512 tokens. Given: 600"}, 512),
    ("Ollama", 400, openai("the input length exceeds the context length", None), None),
    ("llama.cpp", 400, openai("the request exceeds the available context size, try increasing it",
                              400, "exceed_context_size_error"), None),
    ("llama.cpp", 400, openai("input (600 tokens) is too large to process. increase the physical batch size",
                              400), None),
    ("Mistral", 400, flat("Input id 0 has 9000 tokens, exceeding max 8192 tokens.", "invalid_request_prompt"), 8192),
    ("Mistral", 400, flat("Too many tokens overall, split into more batches.", "invalid_request_prompt", "3210"), None),
    ("Voyage", 400, {"detail": "The example at index 0 in your batch has too many tokens and does not fit into the "
                               "model's context window of 320 tokens."}, None),
    ("Voyage", 400, {"detail": "The max allowed tokens per submitted batch is 120000. Yours has 200000."}, 120_000),
    ("Jina", 400, {"detail": "Single text cannot exceed 8194 tokens. 9000 tokens found."}, None),
    ("NIM", 400, {"error": "Input length 600 exceeds maximum allowed token size 512"}, 512),
    ("Bedrock", 400, {"message": "Too many input tokens. Max input tokens: 8192, request token count: 9000"}, 8192),
    ("Groq", 413, openai("Request too large for model `m` on tokens per minute (TPM): Limit 6000, Requested 8000",
                         "rate_limit_exceeded", "tokens"), 6000),
]  # fmt: skip

TOO_MANY: list[LimitRow] = [
    ("OpenAI", 400, openai("Invalid 'input': array too long. Expected an array with maximum length 2048, but got an "
                           "array with length 2049 instead.", "array_above_max_length", param="input"), 2048),
    ("Azure", 400, openai("Too many inputs. The max number of inputs is 16.  We hope to increase it soon."), 16),
    ("TEI", 422, {"error": "batch size 128 > maximum allowed batch size 32", "error_type": "Validation"}, 32),
    ("TEI", 413, flat("batch size 128 > maximum allowed batch size 32", "Validation", 413), 32),
    ("Gemini", 400, gemini(400, "* BatchEmbedContentsRequest.requests: at most 100 requests can be in one batch\n",
                           "INVALID_ARGUMENT"), 100),
    ("Voyage", 400, {"detail": "The batch size limit is 128. Your batch size is 200."}, 128),
    ("Cohere", 400, {"message": "invalid request: total number of texts must be at most 96 - received 97"}, 96),
    ("FastAPI", 422, {"detail": [{"loc": ["body", "input"], "msg": "List should have at most 64 items"}]}, 64),
    ("Mistral", 400, flat("Batch size too large", "invalid_request_prompt"), None),
    ("SiliconFlow", 413, {"code": 20042, "message": "input batch size 66 > maximum allowed batch size 64"}, 64),
    ("DashScope", 400, {"code": "InvalidParameter", "message": "Value error, batch size is invalid, it should not be "
                                                               "larger than 10.: input.contents"}, 10),
    ("a gateway", 413, {"error": "request entity too large"}, None),
    ("a gateway", 400, {"error": {"code": "request_too_large", "message": "no"}}, None),
    ("a gateway", 413, {}, None),
]  # fmt: skip

UNEXPLAINED_REFUSALS: list[Row] = [
    ("OpenAI", 400, openai("'$.input' is invalid. Please check the API reference.")),
    ("OpenAI", 400, openai("x", param=["model"])),
    ("OpenAI", 400, openai("The maximum number of retries was reached for what you sent.")),
    ("TEI", 422, {"error": "Input validation error: `inputs` cannot be empty", "error_type": "Empty"}),
    ("Mistral", 422, {"object": "error", "message": {"detail": [{"msg": "Field required"}]}, "code": None}),
    ("Gemini", 400, gemini(400, "API key not valid. Please pass a valid API key.", "INVALID_ARGUMENT")),
    ("Gemini", 400, gemini(400, "User location is not supported for the API use.", "FAILED_PRECONDITION")),
    ("Workers AI", 400, cloudflare("AiError: Bad input: Error: oneOf at '/' not met", 5006)),
    ("LiteLLM", 400, openai("Budget has been exceeded! Current cost: 1, Max budget: 1", "400", None)),
    ("Voyage", 422, {"detail": "nope"}),
    ("FastAPI", 400, {"detail": [{"loc": ["body", "input"], "msg": "bad"}]}),
    ("a list of words", 400, {"error": ["Error in `inputs`: a", "b"]}),
    ("a word", 400, "no"),
    ("a number", 400, 17),
    ("nothing", 400, {}),
    ("nothing", 400, None),
    ("no bytes", 422, b""),
    ("garbage", 400, b"\xff\x00{"),
    ("half an object", 400, b'{"error": {"message": "maximum'),
    ("depth", 400, b'{"error":' * 100_000),
]

REFUSALS_THAT_END_NO_TEXT: list[Row] = [
    ("a firewall", 403, HTML),
    ("nothing", 403, b""),
    ("TEI", 424, {"error": "Inference failed: NaN", "error_type": "Backend"}),
    ("Fireworks", 412, openai("Account x is suspended, possibly due to the monthly spending cap")),
    ("anybody", 405, b"Method Not Allowed"),
    ("anybody", 406, {}),
    ("anybody", 409, {"error": "conflict"}),
    ("anybody", 418, {"error": "short and stout"}),
    ("anybody", 451, HTML),
]

FILTERED_TEXTS: list[Row] = [
    ("Azure", 400, openai("The response was filtered due to the prompt triggering content management policy.",
                          "content_filter", None, "prompt")),
    ("OpenAI", 400, openai("Your request was rejected by our safety system", "content_policy_violation")),
    ("DashScope", 400, {"code": "DataInspectionFailed", "message": "Input data may contain inappropriate content."}),
    ("DashScope", 400, openai("Input data may contain inappropriate content.", "data_inspection_failed")),
]  # fmt: skip

UNAUTHORIZED: list[Row] = [
    ("OpenAI", 401, openai("Incorrect API key provided: sk-plant*3456789.", "invalid_api_key")),
    ("OpenAI", 403, openai("Country not supported", "unsupported_country_region_territory")),
    ("Azure", 401, {"statusCode": 401, "message": "Unauthorized. Access token is missing."}),
    ("Azure", 403, {"statusCode": 403, "message": "Out of call volume quota."}),
    ("llama.cpp", 401, openai("Invalid API Key", 401, "authentication_error")),
    ("vLLM", 401, {"error": "Unauthorized"}),
    ("LiteLLM", 401, openai(TOKEN_BUDGET, 401, "auth_error")),
    ("OpenRouter", 403, {"error": {"message": "Input was flagged", "code": 403, "metadata": {"reasons": ["x"]}}}),
    ("Gemini", 403, gemini(403, "Permission denied", "PERMISSION_DENIED")),
    ("Workers AI", 401, cloudflare("Authentication error", 10_000)),
    ("SiliconFlow", 403, {"code": 30001, "message": "Sorry, your account balance is insufficient"}),
    ("a proxy", 401, HTML),
]

CANNOT_NOW: list[Row] = [
    ("OpenAI", 500, openai("The server had an error", None, "server_error")),
    ("OpenAI", 503, openai("The engine is currently overloaded", None, "server_error")),
    ("Ollama", 500, openai("unsupported value: NaN", None, "api_error")),
    ("llama.cpp", 500, openai("input is too large to process. increase the physical batch size", 500, "server_error")),
    ("llama.cpp", 503, openai("Loading model", 503, "unavailable_error")),
    ("Hugging Face", 503, {"error": "Model m is currently loading", "estimated_time": 20.0}),
    ("Gemini", 503, gemini(503, "The model is overloaded. Please try again later.", "UNAVAILABLE")),
    ("OpenRouter", 502, {"error": {"message": "Provider returned error", "code": 502}}),
    ("Anthropic", 529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
    ("Cloudflare", 522, HTML),
    ("Cloudflare", 524, HTML),
    ("a gateway", 504, HTML),
    ("anybody", 501, openai("This server does not support embeddings", 501, "not_supported_error")),
    ("anybody", 408, {}),
    ("anybody", 425, {}),
    ("anybody", 599, b""),
]

WRONG_ADDRESS: list[Row] = [
    ("OpenAI", 404, openai("Invalid URL (POST /v1/models/embeddings)")),
    ("Ollama", 404, b"404 page not found"),
    ("FastAPI", 404, {"detail": "Not Found"}),
    ("a proxy", 404, HTML),
    ("a redirect", 307, b""),
    ("a redirect", 301, HTML),
]


def rows(table: Sequence[Row | LimitRow], expected: type[errors.RemoteError] | Meaning) -> list[Any]:
    made = []
    for provider, status, body, *limit in table:
        wanted = too_large(*limit) if limit else expected
        made.append(pytest.param(status, body, wanted, id=f"{provider} {status} {str(body)[:60]}"))
    return made


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        *rows(QUOTA, errors.QuotaExhausted),
        *rows(THROTTLED, errors.Throttled),
        *rows(NO_SUCH_MODEL, errors.ModelRefused),
        *rows(REFUSED_PARAMETER, errors.ModelRefused),
        *rows(TOO_LONG, too_large()),
        *rows(TOO_MANY, too_large()),
        *rows([("a proxy", 413, HTML), ("nothing", 413, b"")], ("text_too_long", False, True, None)),
        *rows(UNEXPLAINED_REFUSALS, UNEXPLAINED),
        *rows(REFUSALS_THAT_END_NO_TEXT, (None, False, False, None)),
        *rows(FILTERED_TEXTS, ("input_refused", True, False, None)),
        *rows(UNAUTHORIZED, errors.Unauthorized),
        *rows(CANNOT_NOW, errors.Transient),
        *rows(WRONG_ADDRESS, errors.Misconfigured),
    ],
)
def test_each_refusal_has_one_meaning(status: int, body: object, expected: object) -> None:
    """Its status and code decide first, its words last, and its status is kept."""
    error = classified(status, body)
    assert meaning(error) == expected
    assert error.status == status


#: in no case about the length of a text, though tokens, texts and maxima are spoken of
@pytest.mark.parametrize(
    "message",
    [
        "ExceededTokenBudget: Current spend for token: 7.2e-05; Max Budget for Token: 2e-07",
        "Daily token limit exceeded",
        "You have exceeded your monthly token limit",
        "Your credit limit is exceeded; no more tokens are available",
        "token quota limit reached, contact sales",
        "The access token has exceeded its maximum lifetime",
        "Rate limit reached for text-embedding-3-small: limit 3 per minute",
        "The model text-embedding-3-small has reached its limit for today",
        "dimensions must be at most 1536 for text-embedding-3-small",
    ],
)
def test_words_about_something_else_end_no_text_at_once(message: str) -> None:
    """Budgets, quotas, rates, keys and parameters without a code: a good text is not called too long by such words."""
    error = classified(400, openai(message))
    assert not isinstance(error, errors.CallRefused) or not error.explained


def test_a_request_that_no_rate_limit_will_ever_allow_is_too_large() -> None:
    """OpenAI's 429 for a call above the tokens of a minute: made smaller; no text ends by it, another minute may do."""
    words = (
        "Request too large for text-embedding-3-small in organization org-x on tokens per min (TPM): Limit 10000, "
        "Requested 12000. The input or output tokens must be reduced in order to run successfully."
    )
    error = classified(429, openai(words, "rate_limit_exceeded", "tokens"), {"Retry-After": "17"})
    assert meaning(error) == (None, False, True, 10_000)


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_kept(status: int) -> None:
    """The seconds of the header stay with the error, and with one that is named quota, too."""
    error = classified(status, openai("slow down"), {"Retry-After": "17"})
    assert (type(error), error.retry_after_s) == (errors.Throttled, 17)
    quota = classified(429, openai("no", "insufficient_quota"), {"Retry-After": "17"})
    assert (type(quota), quota.retry_after_s) == (errors.QuotaExhausted, 17)


@pytest.mark.parametrize("status", [400, 403, 404, 422, 429, 500, 503])
def test_a_code_counts_whatever_the_status(status: int) -> None:
    """Who pays, and which models there are, is told by the code, in small letters or capitals."""
    assert meaning(classified(status, openai("no", "INSUFFICIENT_QUOTA"))) == errors.QuotaExhausted
    assert meaning(classified(status, openai("no", "Model_Not_Found"))) == errors.ModelRefused


def test_megabytes_of_words_are_not_read() -> None:
    """What stands behind the first words changes nothing; a long code is none."""
    long = openai("x" * MAX_WORDS + " maximum context length is 8 tokens", "insufficient_quota" * 100)
    assert meaning(classified(400, long)) == UNEXPLAINED
    assert len(read_refusal(json.dumps(openai("model " * 10**6)).encode()).words) == MAX_WORDS
    assert meaning(classified(400, openai("model text tokens batch " * 10**5))) == UNEXPLAINED
    assert meaning(classified(400, {"detail": [{"msg": "x"}] * 10**5})) == UNEXPLAINED


def test_a_refusal_shows_no_words() -> None:
    """Not even in its own ``repr``: they may quote the text."""
    assert "secret" not in repr(read_refusal(b'{"error": "the secret text is too long"}'))


# --- anything at all

#: stands in every fuzzed text: no error may show it
MARK = "Zq7"
TEXTS = st.text(max_size=12).map(f"{MARK}{{}}".format)
WORDS = st.sampled_from(
    [message for table in (QUOTA, THROTTLED, NO_SUCH_MODEL, UNEXPLAINED_REFUSALS) for message in map(str, table)]
).map(f"{MARK} {{}}".format)
CODES = st.sampled_from(
    ["insufficient_quota", "model_not_found", "context_length_exceeded", "content_filter", "rate_limit_exceeded"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | TEXTS | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "message": WORDS | TEXTS | JSON,
        "code": CODES | JSON,
        "type": CODES | JSON,
        "status": CODES | JSON,
        "param": st.sampled_from(["input", "model", "dimensions"]) | JSON,
        "msg": WORDS | JSON,
    },
)
BODIES = FIELDS.flatmap(
    lambda some: st.sampled_from(
        [some, {"error": some}, [{"error": some}], {"errors": [some]}, {"detail": [some]}, {"detail": some}]
    )
)


@given(st.integers(300, 599), (BODIES | JSON).map(lambda body: json.dumps(body).encode()) | st.binary(max_size=60))
@example(400, b"[" * 100_000)
@example(400, b'{"error":{"code":1e999}}')
@example(429, b'{"error":{"message":"Request too large: limit 9999999999999999999999"}}')
def test_anything_is_one_error_without_its_words(status: int, content: bytes) -> None:
    """Never an exception, never a text's end without a 400, 413 or 422 or a code for it, never a word of the answer."""
    error = classify(status, content, status_error(Answer(status), "the model API"))
    assert isinstance(error, errors.RemoteError)
    assert MARK not in f"{error!r}{error}{error.args}{error.detail}"
    if isinstance(error, errors.CallRefused):
        assert error.limit is None or error.limit >= 0
        assert error.final is not None or not error.explained, "what is explained has an end"
        if error.final is not None:
            assert isinstance(error.final, errors.InputRefused)
            assert MARK not in f"{error.final.code}{error.final.message}"
            assert status < 500
            assert status not in (401, 402, 404, 429) or error.explained
