import signal

import pytest
import torch


@pytest.fixture(autouse=True)
def seeded():
    """Every test starts from the same state of torch's generators."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def ctrl_c():
    """Ctrl-C as in a terminal; a shell that starts the tests in its background switches it off."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
