"""A stranger's store: everything in memory."""

from ai_task_processor.testing import MemoryStore


class ForgetfulStore(MemoryStore):
    """The one for tests, under a name of its own."""

    name = "forgetful"
