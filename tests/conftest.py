"""Which tests are quick: the first case of every test that is neither marked slow or long nor in tests/validation."""

import os
import signal

import pytest

# Where several processes test at once, threads of OpenBLAS wait for each other in loops: the tests took three times the
# processor time. It is read when numpy is loaded.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items):
    seen = set()
    for item in items:
        if "validation" in item.path.parts:
            item.add_marker("slow")
        test = item.nodeid.partition("[")[0]
        if test not in seen and not any(item.iter_markers("slow")) and not any(item.iter_markers("long")):
            item.add_marker("quick")
        seen.add(test)


@pytest.fixture(autouse=True, scope="session")
def _interrupts_are_heard():
    """A shell that starts tests in the background lets them ignore interrupts, and Python leaves it so."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
