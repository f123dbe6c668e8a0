import pytest
import torch


@pytest.fixture(autouse=True)
def seeded():
    """Every test starts from the same state of torch's generators."""
    torch.manual_seed(0)
