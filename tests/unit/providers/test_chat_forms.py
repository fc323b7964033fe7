"""Forms of a chat request: what is sent in each, and which one follows a refusal."""

import json

import pytest

from ai_task_processor.core.ports import ChatRequest, Message
from ai_task_processor.providers.chat_forms import Form
from ai_task_processor.providers.refusals import Refusal

SCHEMA = {"type": "object"}
REQUEST = ChatRequest(
    model="m",
    messages=[Message("system", "Rate."), Message("user", "text")],
    schema=SCHEMA,
    max_tokens=9,
    temperature=0.5,
)
FIRST = {
    "model": "m",
    "messages": [{"role": "system", "content": "Rate."}, {"role": "user", "content": "text"}],
    "max_completion_tokens": 9,
    "temperature": 0.5,
    "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}},
}


def test_the_first_form() -> None:
    assert Form().body(REQUEST) == FIRST


def test_nothing_is_sent_that_nobody_asked_for() -> None:
    plain = ChatRequest(model="m", messages=[Message("user", "text")])
    assert Form().body(plain).keys() == {"model", "messages"}


@pytest.mark.parametrize("output", ["json_object", "instructions"])
@pytest.mark.parametrize("system", [True, False])
def test_the_schema_is_told_where_the_server_does_not_enforce_it(output: str, system: bool) -> None:
    """In the system message, which is made when there is none; JSON mode needs the word JSON."""
    messages = REQUEST.messages if system else REQUEST.messages[1:]
    request = ChatRequest(model="m", messages=messages, schema=SCHEMA)
    body = json.loads(json.dumps(Form.restored({"output": output}).body(request)))
    told = body["messages"][0]
    assert (told["role"], '{"type":"object"}' in told["content"], "JSON" in told["content"]) == ("system", True, True)
    assert len(body["messages"]) == 2
    assert body.get("response_format") == ({"type": "json_object"} if output == "json_object" else None)


@pytest.mark.parametrize(
    ("refusal", "changed"),
    [
        (Refusal(param="max_completion_tokens"), {"limit": "max_tokens"}),
        (Refusal(words="Unsupported parameter: 'max_tokens' is not supported."), {"limit": "max_tokens"}),
        (Refusal(param="temperature", words="only the default (1) is supported"), {"temperature": False}),
        (Refusal(words="Unrecognized request argument supplied: temperature"), {"temperature": False}),
        (Refusal(param="response_format"), {"output": "schema"}),
        (Refusal(words="Invalid schema for response_format 'answer'"), {"output": "schema"}),
        (Refusal(words="This model does not support structured output"), {"output": "schema"}),
        (Refusal(words="guided_json is not enabled"), {"output": "schema"}),
    ],
)
def test_a_refusal_names_what_to_change(refusal: Refusal, changed: dict[str, object]) -> None:
    after = Form().after(refusal, Form().body(REQUEST))
    assert after is not None
    assert after.state() == {**Form().state(), **changed}


@pytest.mark.parametrize(
    "refusal",
    [
        Refusal(),
        Refusal(param="messages"),
        Refusal(words="maximum context length is 8192 tokens"),
        Refusal(param="model"),
    ],
)
def test_other_refusals_change_nothing(refusal: Refusal) -> None:
    assert Form().after(refusal, Form().body(REQUEST)) is None


def test_what_was_not_sent_is_not_changed() -> None:
    """So the forms come to an end: each refusal leaves less to refuse."""
    everything = Refusal(words="max_tokens, temperature and response_format are not supported")
    form, steps = Form(), 0
    while (after := form.after(everything, form.body(REQUEST))) is not None:
        form, steps = after, steps + 1
    assert steps == 6
    assert form.state() == {"limit": "none", "temperature": False, "output": "instructions"}
    assert form.body(REQUEST).keys() == {"model", "messages"}


@pytest.mark.parametrize("saved", [None, [], {}, {"limit": 3, "temperature": "no", "output": "xml"}])
def test_what_was_saved_wrongly_is_forgotten(saved: object) -> None:
    assert Form.restored(saved) == Form()


def test_a_form_survives_a_restart() -> None:
    form = Form("none", temperature=False, output="json_object")
    assert Form.restored(json.loads(json.dumps(form.state()))) == form
