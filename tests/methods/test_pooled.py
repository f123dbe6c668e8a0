"""Whether vectors are the averages of maps."""

import torch
import torch.nn.functional as F

from mfkd.methods.pooled import averaged


def test_averages_are_told_from_anything_else():
    maps = torch.randn(4, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    means = maps.mean((2, 3))
    assert averaged(maps, means)
    assert averaged(maps.bfloat16(), means.bfloat16())
    for trained in (False, True):
        assert averaged(maps.relu(), maps.relu().mean((2, 3)), trained=trained)
        assert not averaged(maps, F.layer_norm(means, (8,)), trained=trained)
        assert not averaged(maps, means.relu(), trained=trained)
        assert not averaged(maps, 1.2 * means, trained=trained)


def test_dropout_is_allowed_for_in_training_alone():
    torch.manual_seed(0)
    for maps in (torch.randn(4, 64, 3, 3), torch.randn(4, 64, 3, 3).relu()):
        dropped = F.dropout(maps.mean((2, 3)), 0.5)
        assert averaged(maps, dropped, trained=True)
        assert not averaged(maps, dropped)
        assert not averaged(maps, F.dropout(torch.randn(4, 64), 0.5), trained=True)
        assert averaged(maps, torch.zeros(4, 64), trained=True)  # all were left out
