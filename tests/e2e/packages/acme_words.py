"""A stranger's processor with settings, a metric and a check of its own."""

import asyncio

from ai_task_processor.processors.base import BaseProcessor, Group, Task, TaskError, TaskResult, setting


class WordsSettings(Group):
    """How words are counted."""

    least: int = setting("ACME_LEAST_WORDS", "the fewest words that a text may have", "1", ge=0)
    seconds: float = setting("ACME_WORDS_SECONDS", "how long counting takes", "0")


class WordsProcessor(BaseProcessor):
    """Counts the words of a text."""

    name = "words"
    task_types = frozenset({"word_count"})
    settings_groups = (WordsSettings,)

    def can_process(self, task: Task) -> bool:
        return task.type == "word_count"

    async def run(self, ready: asyncio.Event) -> None:
        self._counted = self.context.metrics.counter("acme_words_total", "Words counted.", size=("short", "long"))
        await super().run(ready)

    async def process(self, task: Task) -> TaskResult:
        settings = self.context.settings[WordsSettings]
        text = task.content.get("text") if isinstance(task.content, dict) else None
        if not isinstance(text, str):
            raise TaskError("invalid_content", "content needs a text")
        await asyncio.sleep(settings.seconds)
        words = len(text.split())
        if words < settings.least:
            raise TaskError("too_short", "the text has too few words")
        self._counted("long" if words > 3 else "short").inc(words)
        return TaskResult({"words": words})
