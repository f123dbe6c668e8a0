import pytest
import torch
from torch import distributed

from mfkd.functional.gather import gather


@pytest.fixture
def group():
    """A process group of this process alone."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_without_a_group_it_is_the_tensor_itself():
    rows = torch.randn(3, 2)
    assert gather(rows) is rows


@pytest.mark.parametrize("rows", [torch.arange(3), torch.randn(3, 2, 4).transpose(1, 2)])
def test_one_process_gathers_its_own_rows(group, rows):
    found = gather(rows)
    assert found is not rows
    assert found.dtype == rows.dtype
    assert torch.equal(found, rows)


def test_gradients_are_those_of_the_own_rows_times_the_processes(group, monkeypatch):
    # The second of three processes; the collective is stood in for, two real processes are in tests/contract.
    own, others = torch.ones(2, 4, requires_grad=True), torch.zeros(2, 4)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 3)
    monkeypatch.setattr(distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(
        distributed, "all_gather_single", lambda out, rows: out.copy_(torch.cat((others, rows.detach(), others)))
    )
    found = gather(own)
    assert torch.equal(found.detach(), torch.cat((others, own.detach(), others)))
    (found * torch.arange(24.0).view(6, 4)).sum().backward()
    assert torch.equal(own.grad, 3 * torch.arange(8.0, 16.0).view(2, 4))
