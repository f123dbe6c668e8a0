"""The two sides of factor transfer: an autoencoder of the teacher's maps, and what imitates its code.

Paper:     Kim, Park and Kwak, "Paraphrasing complex network: network compression via factor transfer",
           NeurIPS 2018, https://arxiv.org/abs/1802.04977
Shapes:    B batch; C channels of the teacher's map; F channels of its factor; H, W positions.
"""

import torch
from torch import Tensor, nn

from mfkd.errors import TrainingError
from mfkd.nn.align import check_channels
from mfkd.nn.conv import ConvNorm
from mfkd.nn.once import Once

SLOPE = 0.1
"""Of every LeakyReLU on both sides, as in the paper."""


class Paraphraser(Once):
    """Three 3x3 convolutions down to F channels and three transposed ones back, each with LeakyReLU.

    It learns once to give its own input back; then the first half is the teacher's factor.

    Args:
        channels: C.
        factors: F.
    """

    def __init__(self, channels: int, factors: int) -> None:
        super().__init__()
        inner, outer = [(channels, channels), (channels, factors), (factors, factors)], (factors, channels, channels)
        self.encoder = nn.Sequential()
        for inputs, outputs in inner:
            self.encoder.extend([nn.Conv2d(inputs, outputs, 3, padding=1), nn.LeakyReLU(SLOPE)])
        self.decoder = nn.Sequential()
        for inputs, outputs in zip((factors, factors, channels), outer, strict=True):
            self.decoder.extend([nn.ConvTranspose2d(inputs, outputs, 3, padding=1), nn.LeakyReLU(SLOPE)])
        self.channels = channels
        self.freeze()

    def reconstruct(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape, through the factor; what its stage trains."""
        check_channels("Paraphraser", maps, self.channels)
        return self.decoder(self.encoder(maps))  # type: ignore[no-any-return]

    @torch.no_grad()
    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) to the frozen factor (B, F, H, W).

        Raises:
            TrainingError: not trained yet.
        """
        if not self.ready:
            raise TrainingError(
                "the teacher's paraphraser is not trained; call distiller.prepare(loader) once before training."
            )
        check_channels("Paraphraser", maps, self.channels)
        return self.encoder(maps)  # type: ignore[no-any-return]


def translator(channels: int, factors: int) -> nn.Sequential:
    """The student's side: three 3x3 convolutions with BatchNorm and LeakyReLU, (B, channels, ...) to (B, F, ...)."""
    parts = nn.Sequential()
    for inputs, outputs in ((channels, channels), (channels, factors), (factors, factors)):
        parts.extend([ConvNorm(inputs, outputs, 3), nn.LeakyReLU(SLOPE)])
    return parts
