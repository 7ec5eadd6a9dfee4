"""The fixtures are in tests/support/fixtures.py."""

pytest_plugins = ["tests.support.fixtures"]
