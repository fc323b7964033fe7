"""Stores: where finished outcomes wait for their delivery, and where attempts are counted."""
