import pytest
import torch

from mfkd.report.images import RAMP, SIDE, overlay, png, thumbnail
from mfkd.report.maps import by_class, heat, place


def decoded(uri):
    import base64
    import io

    import numpy as np
    from PIL import Image

    kind, _, content = uri.partition(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


def test_heat_by_hand():
    # Root mean squares over two channels: 0, 1, 2, 5; then (x - 0) / 5.
    maps = torch.tensor([[[[0.0, 1.0], [2.0, 7.0]], [[0.0, -1.0], [-2.0, 1.0]]]])
    torch.testing.assert_close(heat(maps, (2, 2)), torch.tensor([[[0, 0.2], [0.4, 1.0]]]))


def test_heat_does_not_know_scale_and_flat_maps_are_cold():
    maps = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(heat(7 * maps, (8, 8)), heat(maps, (8, 8)))
    assert heat(torch.ones(1, 3, 4, 4), (8, 8)).count_nonzero() == 0


@pytest.mark.parametrize(
    ("row", "column", "words"), [(0, 0, "the top left"), (4, 4, "the centre"), (8, 4, "the bottom centre")]
)
def test_place_in_words(row, column, words):
    picture = torch.zeros(9, 9)
    picture[row, column] = 1
    assert place(picture) == f"strongest at {words}, over half its peak on 1% of the image"


def test_weights_by_class_by_hand():
    weights = torch.tensor([[0.2, 0.8], [0.6, 0.4], [1.0, 0.0]])
    found = by_class(weights, torch.tensor([0, 0, 1]), 3)
    torch.testing.assert_close(found[:2], torch.tensor([[0.4, 0.6], [1.0, 0.0]]).double(), atol=1e-6, rtol=0)
    assert found[2].isnan().all()


def test_ramp_gets_brighter_all_the_way():
    brightness = [0.2126 * red + 0.7152 * green + 0.0722 * blue for red, green, blue in RAMP]
    assert brightness == sorted(brightness)


def test_stronger_places_are_brighter_whatever_lies_below():
    strength = torch.linspace(0, 1, SIDE).expand(SIDE, SIDE)
    for grey in (0, 255):
        found = decoded(overlay(torch.full((3, SIDE, SIDE), grey, dtype=torch.uint8), strength))
        brightness = found[0].astype(float) @ (0.2126, 0.7152, 0.0722)
        assert (brightness[8:] >= brightness[:-8]).all()


@pytest.mark.parametrize(
    ("shape", "size", "small"),
    [((1, 8, 8), (8, 8), True), ((3, 200, 100), (96, 48), False), ((3, 64, 64), (96, 96), False)],
)
def test_thumbnails(shape, size, small):
    uri, squares = thumbnail(torch.zeros(shape, dtype=torch.uint8))
    assert decoded(uri).shape[:2] == size
    assert squares is small


def test_png_keeps_the_pixels():
    pixels = torch.arange(24, dtype=torch.uint8).view(3, 2, 4)
    assert (decoded(png(pixels)) == pixels.permute(1, 2, 0).numpy()).all()
    assert (decoded(png(pixels[:1])) == pixels[0].numpy()).all()
