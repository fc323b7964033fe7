"""A task runner's queue: rows of PostgreSQL, an index of them in Redis, artifacts in S3 (the kind ``task-runner``).

PostgreSQL decides. A claim, its end and its release are transactions there, as in ``sources.postgres``, whose session,
reaper and polls are used. Redis only wakes, and is kept as the API and its workers expect it; without Redis the tasks
are done all the same.

``profile`` is what a TOML file may say; ``run_keys`` recognizes equal tasks; ``artifacts`` makes of a result what is
stored; ``endings`` decides what an outcome means for the row. ``statements`` and ``table`` are the rows, ``queue`` is
Redis, ``source`` is the port, ``checks`` are for doctor.

The lease: the table of tasks has no column for an owner. While a task runs, its row in the table of runs has the owner
id as ``owner`` in its metadata; when the run is closed, it is removed. The owner lives as long as its process's session
(``sources.postgres.session``). Not in Redis, which may be emptied: then two workers would run one task.
"""
