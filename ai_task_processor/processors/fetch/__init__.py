"""``fetch_url``: fetches a page of the web and reports its text.

``processor`` decides what may be fetched and what an answer means, ``urls`` reads addresses, ``text`` extracts.
The client that refuses private addresses is ``net/pages.py``.
"""
