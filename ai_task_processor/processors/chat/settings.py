"""The settings of prompt types. Where their files are is in the core's ``PartsSettings``."""

from ai_task_processor.core.groups import Group, setting


class PromptSettings(Group):
    """The model of tasks that name none."""

    model: str = setting("CHAT_MODEL", "the model of chat tasks that name none", "gpt-4.1-mini")
