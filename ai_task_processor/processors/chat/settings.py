"""The settings of chat types. Where the files of prompt types are is in the core's ``PartsSettings``."""

from ai_task_processor.core.groups import Group, setting


class PromptSettings(Group):
    """The model of tasks that name none."""

    section = "Chat"

    model: str = setting("CHAT_MODEL", "the model of chat tasks that name none", "gpt-4.1-mini")


class SummarySettings(Group):
    """How long texts are summarized."""

    section = "Chat"

    chunk_tokens: int = setting(
        "SUMMARY_CHUNK_TOKENS", "tokens above which a text is summarized in parts", "32000", ge=1_000, le=10_000_000
    )
