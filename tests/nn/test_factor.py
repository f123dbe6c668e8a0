import pytest
import torch
import torch.nn.functional as F

from mfkd.errors import ShapeError, TrainingError
from mfkd.nn.factor import Paraphraser, translator


def test_a_code_that_learns_to_give_its_input_back_and_is_then_frozen():
    torch.manual_seed(0)
    part = Paraphraser(4, 2)
    # Two patterns over four channels: two channels can hold them.
    maps = torch.randn(16, 2, 4, 4).relu().repeat_interleave(2, dim=1)
    with pytest.raises(TrainingError, match=r"paraphraser is not trained; call distiller\.prepare\(loader\) once"):
        part(maps)
    part.start()
    optimizer = torch.optim.Adam(part.parameters(), lr=0.02)
    losses = []
    for _ in range(150):
        loss = F.mse_loss(part.reconstruct(maps), maps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.25 * losses[0]
    part.finish()
    factor = part(maps.requires_grad_())
    assert factor.shape == (16, 2, 4, 4)
    assert not factor.requires_grad
    assert not any(p.requires_grad for p in part.parameters())


def test_each_layer_is_a_convolution_and_a_leaky_relu():
    torch.manual_seed(0)
    part = Paraphraser(3, 2)
    maps = torch.randn(2, 3, 4, 4)
    out = maps
    for number in (0, 2, 4):
        out = F.conv2d(out, part.encoder[number].weight, part.encoder[number].bias, padding=1)
        out = torch.where(out > 0, out, 0.1 * out)
    for number in (0, 2, 4):
        out = F.conv_transpose2d(out, part.decoder[number].weight, part.decoder[number].bias, padding=1)
        out = torch.where(out > 0, out, 0.1 * out)
    assert torch.allclose(part.reconstruct(maps), out, atol=1e-6)


def test_translator_has_three_layers_down_to_the_factor():
    torch.manual_seed(0)
    part = translator(6, 2)
    assert part(torch.randn(4, 6, 5, 5)).shape == (4, 2, 5, 5)
    assert [tuple(p.shape) for p in part.parameters() if p.ndim == 4] == [(6, 6, 3, 3), (2, 6, 3, 3), (2, 2, 3, 3)]


def test_refusals():
    with pytest.raises(ShapeError, match=r"Paraphraser was built for a map \(B, 3, H, W\), got \(2, 4, 5, 5\)"):
        Paraphraser(3, 2).reconstruct(torch.zeros(2, 4, 5, 5))
