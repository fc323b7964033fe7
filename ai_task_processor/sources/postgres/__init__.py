"""Tables of PostgreSQL as task sources: a profile names the table, its columns and the words of its states.

``profile`` is what a TOML file may say, ``statements`` the SQL made from it, and ``table`` executes it. ``session``
holds the lock that shows others that this process lives; ``reaper`` ends the claims of those that do not. ``source`` is
the port; ``checks`` are for doctor, ``preparation`` is for a command.
"""
