"""Where finished outcomes wait for their delivery: on disk (``sqlite``), and in memory for tests (``memory``)."""
