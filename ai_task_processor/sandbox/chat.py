"""Chat of the model API, as completions and as responses: OpenAI's published shapes, answers made from the schema, and
bad habits on demand.

A habit spoils an answer as real models do; a dialect refuses parameters as real servers do.
"""

import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

from ai_task_processor.sandbox.answers import Response, answer, openai_error, parsed
from ai_task_processor.sandbox.claims import claim_in

Habit = Literal["prose", "fence", "truncated", "refusal", "filtered", "wrong", "unlisted", "tool_call", "empty"]
Parameter = Literal[
    "max_completion_tokens", "max_tokens", "max_output_tokens", "temperature", "response_format", "text", "json_schema"
]

#: a token is four bytes, as for embeddings
BYTES_PER_TOKEN: Final = 4
#: what OpenAI caches of a prompt at least; here exactly so much of a prompt that begins as an earlier one did
CACHED_TOKENS: Final = 1024
#: the least max_output_tokens of a response
LEAST_TOKENS: Final = 16
_CREATED: Final = 1705948997
_INCOMPLETE: Mapping[str, str] = {"length": "max_output_tokens", "content_filter": "content_filter"}


@dataclass(frozen=True, slots=True)
class Usage:
    prompt: int
    cached: int
    completion: int


@dataclass(slots=True)
class ChatApi:
    """``POST /v1/chat/completions`` and ``POST /v1/responses``.

    ``habits``: how likely each is; ``refuses``: parameters answered with 400. ``calls``, ``prompt_tokens``, of them
    ``cached_tokens``, and ``completion_tokens`` are what was charged.
    """

    rng: random.Random
    habits: dict[Habit, float]
    refuses: set[Parameter]
    calls: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    _heads: set[bytes] = field(default_factory=set)

    @classmethod
    def seeded(cls, seed: int) -> "ChatApi":
        return cls(random.Random(seed), {}, set())  # noqa: S311 - repeatable on purpose, guards nothing

    def behave(self, habits: Mapping[str, float]) -> None:
        """These habits from now on. Raises ``ValueError`` for an unknown one."""
        if unknown := habits.keys() - set(get_args(Habit)):
            raise ValueError(f"no habit is called {', '.join(sorted(unknown))}: there are {', '.join(get_args(Habit))}")
        self.habits = {name: float(share) for name, share in habits.items()}  # type: ignore[misc]  # checked above

    def completion(self, body: bytes) -> Response:
        fields, refusal = self._checked(body, "messages")
        if refusal is not None:
            return refusal
        schema = ((fields.get("response_format") or {}).get("json_schema") or {}).get("schema")
        limit = fields.get("max_completion_tokens") or fields.get("max_tokens")
        message, finish, usage = self._answered(fields["messages"], schema, limit)
        return answer(
            {
                "id": f"chatcmpl-{self.calls}",
                "object": "chat.completion",
                "created": _CREATED,
                "model": fields.get("model"),
                "choices": [{"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}],
                "usage": {
                    "prompt_tokens": usage.prompt,
                    "completion_tokens": usage.completion,
                    "total_tokens": usage.prompt + usage.completion,
                    "prompt_tokens_details": {"cached_tokens": usage.cached},
                },
            }
        )

    def response(self, body: bytes) -> Response:
        fields, refusal = self._checked(body, "input")
        if refusal is not None:
            return refusal
        limit = fields.get("max_output_tokens")
        if isinstance(limit, int) and limit < LEAST_TOKENS:
            text = f"Invalid 'max_output_tokens': integer below minimum value. Expected a value >= {LEAST_TOKENS}."
            return openai_error(400, text, param="max_output_tokens", code="integer_below_min_value")
        schema = ((fields.get("text") or {}).get("format") or {}).get("schema")
        message, finish, usage = self._answered(fields["input"], schema, limit)
        reason = _INCOMPLETE.get(finish)
        return answer(
            {
                "id": f"resp_{self.calls}",
                "object": "response",
                "created_at": _CREATED,
                "model": fields.get("model"),
                "parallel_tool_calls": True,
                "tool_choice": "auto",
                "tools": [],
                "status": "completed" if reason is None else "incomplete",
                "error": None,
                "incomplete_details": None if reason is None else {"reason": reason},
                "output": [{"type": "reasoning", "id": "rs_1", "summary": []}, *_items(message)],
                "usage": {
                    "input_tokens": usage.prompt,
                    "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": 0},
                    "output_tokens": usage.completion,
                    "output_tokens_details": {"reasoning_tokens": 0},
                    "total_tokens": usage.prompt + usage.completion,
                },
            }
        )

    def _checked(self, body: bytes, messages: str) -> tuple[dict[str, Any], Response | None]:
        """The fields of a request, and its refusal. ``messages``: the field that has them."""
        try:
            fields = parsed(body)
        except ValueError:
            fields = None
        if not isinstance(fields, dict) or not isinstance(fields.get(messages), list):
            return {}, openai_error(400, f"you must provide a {messages} parameter", param=messages)
        if (refused := self._refused(fields)) is not None:
            text = f"Unsupported parameter: '{refused}'."
            return {}, openai_error(400, text, param=refused, code="unsupported_parameter")
        return fields, None

    def _refused(self, fields: Mapping[str, Any]) -> str | None:
        for name, shape in (
            ("response_format", fields.get("response_format") or {}),
            ("text.format", (fields.get("text") or {}).get("format") or {}),
        ):
            if "json_schema" in self.refuses and shape.get("type") == "json_schema":
                return name
        return next((name for name in sorted(self.refuses) if name in fields), None)

    def _answered(
        self, messages: Sequence[Mapping[str, Any]], schema: object, limit: object
    ) -> tuple[dict[str, Any], str, Usage]:
        """The message and finish reason of a completion, and the usage."""
        prompt = "\n".join(str(message.get("content")) for message in messages)
        text = "The answer." if schema is None and "JSON Schema" not in prompt else _text(schema, prompt)
        habit = next((name for name, share in self.habits.items() if self.rng.random() < share), None)
        message, finish = _spoilt(habit, text, schema)
        content = message.get("content")
        if isinstance(limit, int) and isinstance(content, str) and len(content) > limit * BYTES_PER_TOKEN:
            message, finish = {"content": content[: limit * BYTES_PER_TOKEN]}, "length"
        usage = Usage(_tokens(prompt), self._cached(prompt), _tokens(str(message.get("content") or "")))
        self.calls += 1
        self.prompt_tokens += usage.prompt
        self.cached_tokens += usage.cached
        self.completion_tokens += usage.completion
        return message, finish, usage

    def _cached(self, prompt: str) -> int:
        head = prompt.encode("utf-8", "surrogatepass")[: CACHED_TOKENS * BYTES_PER_TOKEN]
        if len(head) < CACHED_TOKENS * BYTES_PER_TOKEN:
            return 0
        digest = hashlib.blake2b(head, digest_size=8).digest()
        known = digest in self._heads
        self._heads.add(digest)
        return CACHED_TOKENS if known else 0


def _items(message: Mapping[str, Any]) -> Iterator[Mapping[str, object]]:
    """The items of a response, out of the message of a completion."""
    for call in message.get("tool_calls", ()):
        yield {"type": "function_call", "call_id": call["id"], **call["function"]}
    part: dict[str, object] = {"type": "output_text", "text": message.get("content"), "annotations": []}
    if refusal := message.get("refusal"):
        part = {"type": "refusal", "refusal": refusal}
    if refusal or part["text"] is not None:
        yield {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [part]}


def _text(schema: object, prompt: str) -> str:
    if schema is None:
        # The schema was sent as text: it is the last JSON object of a line.
        lines = [line for line in prompt.splitlines() if line.startswith("{")]
        schema = json.loads(lines[-1]) if lines else {}
    claim = claim_in(prompt)
    if claim is not None and isinstance(schema, dict) and (known := claim.answer(schema)) is not None:
        return json.dumps(known, ensure_ascii=False)
    digest = hashlib.blake2b(prompt.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return json.dumps(_value(schema, int.from_bytes(digest)), ensure_ascii=False)


def _value(schema: Any, seed: int) -> Any:
    """A value that fits; choices depend on the seed."""
    if not isinstance(schema, dict):
        return None
    if "const" in schema:
        return schema["const"]
    if choices := schema.get("enum") or schema.get("examples"):
        return choices[seed % len(choices)]
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return _value(choices[0], seed)
    match schema.get("type", "object" if "properties" in schema else "string"):
        case "object":
            properties = schema.get("properties", {})
            return {name: _value(properties.get(name), seed) for name in schema.get("required", ())}
        case "array":
            return [_value(schema.get("items"), seed + n) for n in range(max(1, schema.get("minItems", 0)))]
        case "integer" | "number":
            return schema.get("minimum", 0)
        case "boolean":
            return bool(seed % 2)
        case "null":
            return None
    return f"text {seed % 1000}"


def _spoilt(habit: Habit | None, text: str, schema: object) -> tuple[dict[str, object], str]:
    """A message with this habit, and its finish reason. ``unlisted``: values outside the lists of the schema."""
    match habit:
        case "prose":
            return {"content": f"Sure! Here is what you asked for:\n{text}\nLet me know if you need more."}, "stop"
        case "fence":
            return {"content": f"```json\n{text}\n```"}, "stop"
        case "truncated":
            return {"content": text[: len(text) // 2]}, "length"
        case "refusal":
            return {"content": None, "refusal": "I cannot help with that."}, "stop"
        case "filtered":
            return {"content": ""}, "content_filter"
        case "wrong":
            return {"content": '{"unexpected": true}'}, "stop"
        case "unlisted":
            return {"content": _unlisted(text, schema)}, "stop"
        case "tool_call":
            call = {"id": "call_1", "type": "function", "function": {"name": "search", "arguments": "{}"}}
            return {"content": None, "tool_calls": [call]}, "tool_calls"
        case "empty":
            return {"content": ""}, "stop"
    return {"content": text}, "stop"


def _unlisted(text: str, schema: object) -> str:
    properties = schema.get("properties", {}) if isinstance(schema, dict) else {}
    listed = [name for name, each in properties.items() if isinstance(each, dict) and "enum" in each]
    return json.dumps({**json.loads(text), **dict.fromkeys(listed, "unlisted")}, ensure_ascii=False) if listed else text


def _tokens(text: str) -> int:
    return -(-len(text.encode("utf-8", "surrogatepass")) // BYTES_PER_TOKEN)
