"""The kind ``periodic``: lists what is due soon, and makes one task of each (id, due time).

``profile`` is what a TOML file says, ``listing`` reads an answer, ``api`` makes requests, ``addresses`` looks up e-mail
addresses of users, ``source`` is the source.
"""
