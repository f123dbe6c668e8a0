"""Small pictures inside of the page."""

import base64
import io

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image as Pillow
from torch import Tensor

SIDE = 96
"""Pixels of the longer side of a picture on the page."""
FAINT = 0.25
"""How much of the picture's light and shade a heat map over it takes on."""
RAMP = ((0, 0, 4), (66, 10, 104), (147, 38, 103), (221, 81, 58), (252, 165, 10), (252, 255, 164))
"""Colours of a heat map from weak to strong; their brightness rises evenly, so that they print in grey too."""


def thumbnail(pixels: Tensor) -> tuple[str, bool]:
    """A picture for the page.

    Args:
        pixels: (C, H, W) uint8, C being 1 or 3.

    Returns:
        A data URI, and whether the picture is so small that its pixels should be seen as squares.
    """
    small = max(pixels.shape[1:]) <= SIDE // 2
    return png(pixels if small else _scaled(pixels)), small


def overlay(pixels: Tensor, heat: Tensor) -> str:
    """A heat map in which the picture shines through, as a data URI.

    Args:
        pixels: (C, H, W) uint8.
        heat: (H, W), 0 to 1.
    """
    grey = _scaled(pixels).float().mean(0, keepdim=True)
    strong = F.interpolate(heat[None, None], size=grey.shape[1:], mode="bilinear")[0, 0]
    places = np.linspace(0, 1, len(RAMP))
    colours = np.stack([np.interp(strong.numpy(), places, [c[i] for c in RAMP]) for i in range(3)])
    mixed = torch.from_numpy(colours) + FAINT * (grey - 127.5)
    return png(mixed.clamp(0, 255).round().to(torch.uint8))


def png(pixels: Tensor) -> str:
    """(C, H, W) uint8 as a data URI."""
    array = pixels.permute(1, 2, 0).contiguous().numpy()
    file = io.BytesIO()
    Pillow.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).save(file, "PNG", optimize=True)
    return uri(file.getvalue(), "image/png")


def uri(content: bytes, kind: str) -> str:
    """A file as an address that holds it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _scaled(pixels: Tensor) -> Tensor:
    """To `SIDE` pixels at the longer side: large ones smoothly, small ones with their pixels kept."""
    height, width = pixels.shape[1:]
    factor = SIDE / max(height, width)
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    if factor > 1:
        return F.interpolate(pixels[None].float(), size=size, mode="nearest")[0].to(torch.uint8)
    return F.interpolate(pixels[None].float(), size=size, mode="bilinear", antialias=True)[0].round().to(torch.uint8)
