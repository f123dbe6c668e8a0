"""Preprocessing without torch is that of evaluation."""

import numpy as np
import pytest
import torch
from PIL import Image

from mfkd.data import load_image
from mfkd.data.decode import resize, to_tensor
from mfkd.data.files import evaluation_crop
from mfkd.export.feed import Feed, batch, fitted, read

SHAPES = [(8, 8), (20, 13), (13, 20), (5, 9), (257, 100), (64, 36)]


def picture(shape, channels, seed=0):
    height_width = (shape[1], shape[0]) + ((3,) if channels == 3 else ())
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, height_width, dtype=np.uint8))


def feed(channels=3, size=(32, 32), side=None, how="bilinear", embedded=False):
    return Feed("net", ("a", "b"), channels, size, (0.4,) * channels, (0.25,) * channels, side, how, embedded)


@pytest.mark.parametrize("how", ["bilinear", "bicubic", "nearest", "nearest-exact", "box", "hamming", "lanczos"])
@pytest.mark.parametrize("shape", SHAPES)
def test_central_crop_is_that_of_evaluation_to_the_bit(shape, how):
    for side, size in ((32, (32, 32)), (36, (32, 32)), (41, (28, 32))):
        for channels in (1, 3):
            image = picture(shape, channels)
            expected = np.asarray(evaluation_crop(image, size, side, how))
            got = fitted(image, feed(channels, size, side, how))
            assert np.array_equal(got, expected.reshape(got.shape))


@pytest.mark.parametrize("shape", [*SHAPES, (40, 44), (1, 1), (1, 300), (700, 3)])
@pytest.mark.parametrize("channels", [1, 3])
def test_scaling_outright_is_that_of_evaluation_to_the_bit(shape, channels):
    for size in ((8, 8), (28, 28), (32, 24), (64, 100)):
        image = picture(shape, channels)
        expected = resize(to_tensor(image)[None], size)[0].permute(1, 2, 0).numpy()
        assert np.array_equal(fitted(image, feed(channels, size)), expected)


def test_scaling_by_hand():
    # The centres of the finer grid lie a quarter and three quarters of the way from 0 to 200, or outside.
    wide = fitted(Image.fromarray(np.array([[0, 200]], np.uint8)), feed(1, (1, 4)))
    assert wide.ravel().tolist() == [0, 50, 150, 200]
    # Halved: the weights are 3, 3, 1 at a border, as 1, 3, 3, 1 is cut off there.
    narrow = fitted(Image.fromarray(np.array([[70, 0, 0, 70]], np.uint8)), feed(1, (1, 2)))
    assert narrow.ravel().tolist() == [30, 30]


@pytest.mark.parametrize("side", [None, 36])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK"])
def test_file_becomes_what_the_network_got(tmp_path, mode, side):
    picture((40, 44), 3).convert(mode).save(path := tmp_path / ("a.tif" if mode == "CMYK" else "a.png"))
    for channels in (1, 3):
        told = feed(channels, side=side)
        expected = load_image(path, channels, told.size, told.mean, told.std, side, "bilinear").numpy()
        got = batch(read(path, told)[None], told)
        assert got.dtype == np.float32
        assert got.shape == (1, channels, 32, 32)
        assert np.abs(got[0] - expected).max() <= (1e-6 if side else 1 / 255 / 0.25 + 1e-6)


def test_embedded_preprocessing_gets_the_pixels_as_they_are(tmp_path):
    picture((32, 32), 1).save(tmp_path / "a.png")
    told = feed(1, embedded=True)
    raw = read(tmp_path / "a.png", told)[None]
    assert batch(raw, told) is raw
    assert (raw.shape[1:], raw.dtype) == (told.shape, np.uint8)
    assert feed(1).shape == (1, 32, 32)


def test_normalisation_by_hand():
    told = Feed("net", ("a",), 3, (1, 1), (0.0, 0.5, 1.0), (1.0, 0.5, 0.25))
    raw = np.array([[[[255, 0, 51]]]], np.uint8)
    assert batch(raw, told).ravel().tolist() == pytest.approx([1.0, -1.0, -3.2])
    assert torch.from_numpy(batch(raw, told)).is_floating_point()


def test_round_trip_as_json():
    told = Feed("net", ("a", "ü"), 1, (8, 9), (0.1,), (0.2,), 12, "bicubic", True)
    assert Feed.from_json(told.to_json()) == told
    for text in ("{", "3", "[]", '{"classes": []}'):
        with pytest.raises((ValueError, TypeError, KeyError)):
            Feed.from_json(text)
