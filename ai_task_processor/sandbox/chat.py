"""Chat completions of the model API: OpenAI's published shape, answers made from the schema, and bad habits on demand.

A habit spoils an answer as real models do; a dialect refuses parameters as real servers do.
"""

import hashlib
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from ai_task_processor.sandbox.answers import Response, answer, openai_error, parsed
from ai_task_processor.sandbox.claims import claim_in

Habit = Literal["prose", "fence", "truncated", "refusal", "filtered", "wrong", "unlisted", "tool_call", "empty"]
Parameter = Literal["max_completion_tokens", "max_tokens", "temperature", "response_format", "json_schema"]

#: a token is four bytes, as for embeddings
BYTES_PER_TOKEN: Final = 4


@dataclass(slots=True)
class ChatApi:
    """``POST /v1/chat/completions``. ``habits``: how likely each is; ``refuses``: parameters answered with 400.

    ``calls``, ``prompt_tokens`` and ``completion_tokens`` are what was charged.
    """

    rng: random.Random
    habits: dict[Habit, float]
    refuses: set[Parameter]
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @classmethod
    def seeded(cls, seed: int) -> "ChatApi":
        return cls(random.Random(seed), {}, set())  # noqa: S311 - repeatable on purpose, guards nothing

    def behave(self, habits: Mapping[str, float]) -> None:
        """These habits from now on. Raises ``ValueError`` for an unknown one."""
        if unknown := habits.keys() - set(get_args(Habit)):
            raise ValueError(f"no habit is called {', '.join(sorted(unknown))}: there are {', '.join(get_args(Habit))}")
        self.habits = {name: float(share) for name, share in habits.items()}  # type: ignore[misc]  # checked above

    def completion(self, body: bytes) -> Response:
        try:
            fields = parsed(body)
        except ValueError:
            fields = None
        if not isinstance(fields, dict) or not isinstance(fields.get("messages"), list):
            return openai_error(400, "you must provide a messages parameter", param="messages")
        if (refused := self._refused(fields)) is not None:
            return openai_error(
                400, f"Unsupported parameter: '{refused}'.", param=refused, code="unsupported_parameter"
            )
        return answer(self._answered(fields))

    def _refused(self, fields: Mapping[str, Any]) -> str | None:
        shape = fields.get("response_format") or {}
        if "json_schema" in self.refuses and shape.get("type") == "json_schema":
            return "response_format"
        return next((name for name in sorted(self.refuses) if name in fields), None)

    def _answered(self, fields: Mapping[str, Any]) -> dict[str, object]:
        prompt = "\n".join(str(message.get("content")) for message in fields["messages"])
        schema = ((fields.get("response_format") or {}).get("json_schema") or {}).get("schema")
        text = "The answer." if schema is None and "JSON Schema" not in prompt else _text(schema, prompt)
        habit = next((name for name, share in self.habits.items() if self.rng.random() < share), None)
        message, finish = _spoilt(habit, text, schema)
        limit = fields.get("max_completion_tokens") or fields.get("max_tokens")
        content = message.get("content")
        if isinstance(limit, int) and isinstance(content, str) and len(content) > limit * BYTES_PER_TOKEN:
            message, finish = {"content": content[: limit * BYTES_PER_TOKEN]}, "length"
        usage = _tokens(prompt), _tokens(str(message.get("content") or ""))
        self.calls += 1
        self.prompt_tokens += usage[0]
        self.completion_tokens += usage[1]
        return {
            "id": f"chatcmpl-{self.calls}",
            "object": "chat.completion",
            "model": fields.get("model"),
            "choices": [{"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}],
            "usage": {
                "prompt_tokens": usage[0],
                "completion_tokens": usage[1],
                "total_tokens": sum(usage),
            },
        }


def _text(schema: object, prompt: str) -> str:
    if schema is None:
        # The schema was told in words: it is the last JSON object of a line.
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
