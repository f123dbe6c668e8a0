"""Infinite buffers are part of many transformers; infinite weights are damage."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mfkd.errors import CheckpointError
from mfkd.models.weights import load_weights, save_weights
from mfkd.teacher.frozen import FrozenTeacher

MASK, WEIGHT, VARIANCE = "mask", "conv.weight", "norm.running_var"


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Linear(4, 5)
        self.register_buffer("mask", torch.full((16, 16), -torch.inf).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x)).flatten(2).mT
        return self.fc(((x @ x.mT + self.mask).softmax(2) @ x).mean(1))


def test_a_mask_may_be_infinite(tmp_path: Path) -> None:
    save_weights(tmp_path / "masked.safetensors", Masked().state_dict())
    network = Masked()
    load_weights(network, tmp_path / "masked.safetensors")
    assert FrozenTeacher(network).logits(torch.randn(2, 3, 4, 4)).isfinite().all()


@pytest.mark.parametrize(
    ("name", "value"), [(MASK, torch.nan), (WEIGHT, torch.inf), (WEIGHT, torch.nan), (VARIANCE, torch.inf)]
)
def test_other_values_are_damage(name: str, value: float, tmp_path: Path) -> None:
    broken = Masked()
    broken.state_dict()[name].view(-1)[0] = value
    save_weights(tmp_path / "broken.safetensors", broken.state_dict())
    with pytest.raises(CheckpointError, match=rf"broken\.safetensors: {name} holds NaN or infinite values; use an int"):
        load_weights(Masked(), tmp_path / "broken.safetensors")
    with pytest.raises(CheckpointError, match=rf"the teacher's {name} holds NaN or infinite values; use an intact wei"):
        FrozenTeacher(broken)
