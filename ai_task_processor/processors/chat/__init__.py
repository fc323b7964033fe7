"""Chat: tasks whose result is a model's answer. Their types are written down in TOML files (``prompt_type.py``)."""
