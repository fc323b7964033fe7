"""Everything that a command may import: what processes that are forked off find in memory (see forked.py)."""

import gc
import pkgutil
from importlib import import_module

import ai_task_processor

for name in ("authlib.oauth2.rfc7523", "cryptography.x509", "lxml.html", "uvloop"):
    import_module(name)
for module in pkgutil.walk_packages(ai_task_processor.__path__, "ai_task_processor."):
    if not module.name.endswith("__main__"):
        import_module(module.name)
gc.freeze()
