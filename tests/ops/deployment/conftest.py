"""These tests need tools that only ``run`` of this folder fetches; it says where they are."""

import os

collect_ignore_glob = [] if "DEPLOYMENT_TOOLS" in os.environ else ["test_*.py"]
