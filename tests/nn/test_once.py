import torch
from torch import nn

from mfkd.nn.once import Once


class Part(Once):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)
        self.norm = nn.BatchNorm2d(1)
        self.freeze()


def frozen(part):
    return not any(p.requires_grad for p in part.parameters()) and not any(m.training for m in part.modules())


def test_it_learns_between_start_and_finish_only():
    part = Part()
    assert frozen(part)
    assert frozen(part.train())
    part.start()
    assert all(p.requires_grad for p in part.parameters())
    assert all(m.training for m in part.eval().modules())
    part.norm(part.conv(torch.ones(2, 1, 1, 1))).sum().backward()
    assert not part.ready
    part.finish()
    assert part.ready
    assert frozen(part.train())
    assert all(p.grad is None for p in part.parameters())


def test_a_module_around_it_cannot_wake_it():
    part = Part()
    around = nn.Sequential(part, nn.BatchNorm2d(1)).train()
    assert around.training
    assert frozen(part)
    part.start()
    around.eval()
    assert part.norm.training


def test_being_done_travels_with_the_state_both_ways():
    done, fresh = Part(), Part()
    done.finish()
    learning = Part()
    learning.start()
    learning.load_state_dict(done.state_dict())
    assert learning.ready
    assert frozen(learning)
    assert done.ready
    done.load_state_dict(fresh.state_dict())
    assert not done.ready


def test_a_part_inside_another_is_told_too():
    around, done = nn.Sequential(Part()), nn.Sequential(Part())
    done[0].finish()
    around[0].start()
    around.load_state_dict(done.state_dict())
    assert around[0].ready
    assert frozen(around[0])


def test_it_may_be_nothing_but_the_mark():
    mark = Once()
    assert list(mark.state_dict()) == ["done"]
    mark.start()
    mark.finish()
    assert mark.ready
