"""The fixtures are in tests/support/fixtures.py."""

import gc
import os

from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.support.fixtures"]

# How quick an example is depends on what else the machine does. With CI set, hypothesis has a profile that knows it.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
if not os.environ.get("CI"):
    settings.load_profile("any machine")


def pytest_collection_finish() -> None:
    """Keep the garbage collector from looking through all tests and modules, which stay, again and again."""
    gc.freeze()
