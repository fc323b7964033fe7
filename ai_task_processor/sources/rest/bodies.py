"""The bodies of reports, from the templates of the profile. Pure."""

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ai_task_processor.core import codec
from ai_task_processor.models.task import Cancelled, Completed, Failed, Failure, Outcome, Usage
from ai_task_processor.sources.rest.profile import ReportPart

#: stands for the result while a template is written: no template has it, because U+0000 is no TOML
_MARK, _USAGE_MARK = "\0", "\0\0"
_STRINGS, _BRACKETS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"'), re.compile(rb"[\[\]{}]")


class UnreportableResult(Exception):
    """The result can never be sent to this API; the failure is reported instead."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Bodies:
    """Writes outcomes for one API."""

    def __init__(self, part: ReportPart) -> None:
        self._part = part
        written = codec.dumps(_filled(part.succeeded, {"{result}": _MARK, "{usage}": _USAGE_MARK}))
        #: what stands around the result
        self._around = written.split(codec.dumps(_MARK))
        self._has_usage = codec.dumps(_USAGE_MARK) in written

    def of(self, outcome: Outcome) -> bytes:
        """The body of a report. A cancelled task is reported as failed: there is no state for it."""
        return self.reported(outcome)[1]

    def reported(self, outcome: Outcome) -> tuple[Completed | Failed, bytes]:
        """What is reported for an outcome, and the body: a result that can never be sent has failed."""
        match outcome:
            case Completed(result):
                try:
                    return outcome, self._succeeded(codec.result_json(result.output, result.vector), result.usage)
                except UnreportableResult as error:
                    failed = Failed(error.failure)
            case Failed():
                failed = outcome
            case Cancelled():
                failed = Failed(Failure("cancelled"))
        return failed, self._failed(failed.failure)

    def _succeeded(self, result: bytes, usage: Usage | None) -> bytes:
        part, around = self._part, self._around
        if self._has_usage:
            around = [each.replace(codec.dumps(_USAGE_MARK), _tokens(usage)) for each in around]
        if part.result_key is not None and not result.startswith(b"{"):
            result = codec.dumps(part.result_key).join((b"{", b":" + result + b"}"))
        if part.max_levels is not None and _levels(result) > part.max_levels:
            raise UnreportableResult(
                Failure("result_too_deep", f"the result is nested deeper than {part.max_levels} levels")
            )
        if part.without_nul and b"\\u0000" in result:
            result = codec.dumps(_without_nul(codec.loads(result)))
        return result.join(around)

    def _failed(self, failure: Failure) -> bytes:
        text = f"{failure.code}: {failure.message}" if failure.message else failure.code
        words: Mapping[str, object] = {
            "{error}": {"code": failure.code, "message": failure.message},
            "{error.code}": failure.code,
            "{error.message}": failure.message,
            "{error.text}": text,
        }
        return codec.line(_filled(self._part.failed, words))

    @property
    def bare_failure(self) -> bytes | None:
        """A failure without the keys that hold the error, for APIs that refuse unknown keys; None if there are none."""
        bare = {key: value for key, value in self._part.failed.items() if not _has_placeholder(value)}
        return codec.line(bare) if bare and len(bare) < len(self._part.failed) else None


def _filled(template: Any, words: Mapping[str, object]) -> Any:
    if isinstance(template, str):
        return words.get(template, template)
    if isinstance(template, Mapping):
        return {key: _filled(value, words) for key, value in template.items()}
    if isinstance(template, list):
        return [_filled(value, words) for value in template]
    return template


def _has_placeholder(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(map(_has_placeholder, value.values()))
    if isinstance(value, list):
        return any(map(_has_placeholder, value))
    return isinstance(value, str) and value.startswith("{error")


def _tokens(usage: Usage | None) -> bytes:
    """``{"prompt_tokens", "cached_tokens", "completion_tokens", "total_tokens"}``; null when nothing was charged."""
    if usage is None:
        return b"null"
    return codec.line({**asdict(usage), "total_tokens": usage.total_tokens})


def _levels(written: bytes) -> int:
    """How deep a JSON text is nested."""
    deepest = depth = 0
    for found in _BRACKETS.finditer(_STRINGS.sub(b"", written)):
        depth += 1 if found[0] in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _without_nul(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "")
    if isinstance(value, list):
        return [_without_nul(each) for each in value]
    if isinstance(value, dict):
        return {_without_nul(key): _without_nul(each) for key, each in value.items()}
    return value
