"""Tables of PostgreSQL as task sources: a profile names the table, its columns and the words of its states.

``profile`` is what a TOML file may say; ``statements`` builds the SQL from it; ``session`` holds the lock that shows
others that this process lives; ``claims`` takes and returns rows; ``source`` is the port; ``checks`` are for doctor.
"""
