"""Forms of a chat request: what is sent in each, and which one follows a refusal."""

import json

import pytest
from openai.types.responses.response_create_params import ResponseCreateParamsNonStreaming
from pydantic import TypeAdapter

from ai_task_processor.core.ports import ChatRequest, Message
from ai_task_processor.providers.chat_completions import ChatCompletions
from ai_task_processor.providers.chat_forms import Form
from ai_task_processor.providers.refusals import Refusal
from ai_task_processor.providers.responses import Responses

SCHEMA = {"type": "object"}
REQUEST = ChatRequest(
    model="m",
    messages=[Message("system", "Rate."), Message("user", "text")],
    schema=SCHEMA,
    max_tokens=9,
    temperature=0.5,
)
MESSAGES = [{"role": "system", "content": "Rate."}, {"role": "user", "content": "text"}]
NAMED = {"name": "answer", "schema": SCHEMA, "strict": True}
FIRST: dict[type[Form], dict[str, object]] = {
    ChatCompletions: {
        "model": "m",
        "messages": MESSAGES,
        "max_completion_tokens": 9,
        "temperature": 0.5,
        "response_format": {"type": "json_schema", "json_schema": NAMED},
    },
    Responses: {
        "model": "m",
        "input": MESSAGES,
        "store": False,
        "max_output_tokens": 16,
        "temperature": 0.5,
        "text": {"format": {"type": "json_schema", **NAMED}},
    },
}
PLAIN: dict[type[Form], set[str]] = {ChatCompletions: {"model", "messages"}, Responses: {"model", "input", "store"}}

each_api = pytest.mark.parametrize("api", [ChatCompletions, Responses])


@each_api
def test_the_first_form(api: type[Form]) -> None:
    assert api.restored(None).body(REQUEST) == FIRST[api]


@each_api
def test_nothing_is_sent_that_nobody_asked_for(api: type[Form]) -> None:
    plain = ChatRequest(model="m", messages=[Message("user", "text")])
    assert api.restored(None).body(plain).keys() == PLAIN[api]


@pytest.mark.parametrize("output", ["strict_schema", "schema", "json_object", "instructions"])
def test_a_response_is_asked_for_as_the_openai_package_does(output: str) -> None:
    """Names and values are those of its own types, which drop what they do not know."""
    body = Responses.restored({"output": output}).body(REQUEST)
    known = TypeAdapter(ResponseCreateParamsNonStreaming).validate_python(body)
    assert (known.keys(), known.get("text")) == (body.keys(), body.get("text"))


@each_api
@pytest.mark.parametrize("output", ["json_object", "instructions"])
@pytest.mark.parametrize("system", [True, False])
def test_the_schema_is_told_where_the_server_does_not_enforce_it(api: type[Form], output: str, system: bool) -> None:
    """In the system message, which is made when there is none; JSON mode needs the word JSON."""
    messages = REQUEST.messages if system else REQUEST.messages[1:]
    request = ChatRequest(model="m", messages=messages, schema=SCHEMA)
    body = json.loads(json.dumps(api.restored({"output": output}).body(request)))
    messages = body.get("messages") or body.get("input")
    told = messages[0]
    assert (told["role"], '{"type":"object"}' in told["content"], "JSON" in told["content"]) == ("system", True, True)
    assert len(messages) == 2
    asked = body.get("response_format") or body.get("text", {}).get("format")
    assert asked == ({"type": "json_object"} if output == "json_object" else None)


@pytest.mark.parametrize(
    ("api", "refusal", "changed"),
    [
        (ChatCompletions, Refusal(param="max_completion_tokens"), {"limit": "max_tokens"}),
        (ChatCompletions, Refusal(words="'max_tokens' is not supported."), {"limit": "max_tokens"}),
        (ChatCompletions, Refusal(param="temperature", words="only the default (1)"), {"temperature": False}),
        (ChatCompletions, Refusal(words="Unrecognized request argument: temperature"), {"temperature": False}),
        (ChatCompletions, Refusal(param="response_format"), {"output": "schema"}),
        (ChatCompletions, Refusal(words="Invalid schema for response_format 'answer'"), {"output": "schema"}),
        (ChatCompletions, Refusal(words="This model does not support structured output"), {"output": "schema"}),
        (ChatCompletions, Refusal(words="guided_json is not enabled"), {"output": "schema"}),
        (Responses, Refusal(words="Unsupported parameter: max_output_tokens"), {"limit": "none"}),
        (Responses, Refusal(param="temperature"), {"temperature": False}),
        (Responses, Refusal(param="text.format"), {"output": "schema"}),
        (Responses, Refusal(param="text"), {"output": "schema"}),
        (Responses, Refusal(param="text.format.schema", words="Invalid schema"), {"output": "schema"}),
    ],
)
def test_a_refusal_names_what_to_change(api: type[Form], refusal: Refusal, changed: dict[str, object]) -> None:
    first = api.restored(None)
    after = first.after(refusal, first.body(REQUEST))
    assert after is not None
    assert after.state() == {**first.state(), **changed}


@each_api
@pytest.mark.parametrize(
    "refusal",
    [
        Refusal(),
        Refusal(param="messages"),
        Refusal(words="maximum context length is 8192 tokens"),
        Refusal(words="the text is too long"),
        Refusal(param="model"),
    ],
)
def test_other_refusals_change_nothing(api: type[Form], refusal: Refusal) -> None:
    first = api.restored(None)
    assert first.after(refusal, first.body(REQUEST)) is None


@each_api
def test_what_was_not_sent_is_not_changed(api: type[Form]) -> None:
    """So the forms come to an end: each refusal leaves less to refuse."""
    everything = Refusal(words="max_tokens, temperature and response_format are not supported")
    form, steps = api.restored(None), 0
    while (after := form.after(everything, form.body(REQUEST))) is not None:
        form, steps = after, steps + 1
    assert steps == len(api.limits) - 1 + 1 + 3
    assert form.state() == {"limit": "none", "temperature": False, "output": "instructions"}
    assert form.body(REQUEST).keys() == PLAIN[api]


@each_api
@pytest.mark.parametrize("saved", [None, [], {}, {"limit": 3, "temperature": "no", "output": "xml"}])
def test_what_was_saved_wrongly_is_forgotten(api: type[Form], saved: object) -> None:
    assert api.restored(saved).state() == {"limit": api.limits[0], "temperature": True, "output": "strict_schema"}


@each_api
def test_a_form_survives_a_restart(api: type[Form]) -> None:
    form = api("none", temperature=False, output="json_object")
    assert api.restored(json.loads(json.dumps(form.state()))) == form
