"""The fixtures are in tests/support/fixtures.py."""

import gc
import os

from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.support.fixtures"]

# What is collected stays: the garbage collector need not look through it, neither while it grows nor afterwards.
gc.disable()

# How quick an example is depends on what else the machine does. Every run has other examples, so a few are enough for
# one that is to be quick. With CI set, hypothesis has a profile that knows the first, and tries 100 of each.
settings.register_profile("quick", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=25)
if not os.environ.get("CI"):
    settings.load_profile("quick")


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()
