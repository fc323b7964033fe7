"""Fakes and contract suites for authors of sources, stores, sinks, processors and providers."""
