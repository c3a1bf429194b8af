"""Which tests are quick: the first two cases of every test that is neither marked slow nor in tests/validation."""

from collections import Counter

import pytest


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items):
    n_cases = Counter()
    for item in items:
        if "validation" in item.path.parts:
            item.add_marker("slow")
        test = item.nodeid.partition("[")[0]
        n_cases[test] += 1
        if n_cases[test] <= 2 and item.get_closest_marker("slow") is None:
            item.add_marker("quick")
