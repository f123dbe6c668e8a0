import errno
import io
import os

import numpy as np
import pytest
import torch
from PIL import Image

from mfkd import pictures
from mfkd.data import load_image
from mfkd.data.decode import normalise, resize, to_tensor
from mfkd.errors import DataError
from mfkd.pictures import UnreachedError, image_files, open_image, read_image

HALF = {"mean": (0.5,) * 3, "std": (0.25,) * 3}


def test_normalise_by_hand():
    images = torch.tensor([[[[0]], [[255]]]], dtype=torch.uint8)
    got = normalise(images, torch.tensor([0.5, 0.2]), torch.tensor([0.25, 0.4]), torch.float32)
    assert torch.allclose(got.flatten(), torch.tensor([-2.0, 2.0]))
    assert images.flatten().tolist() == [0, 255]


@pytest.mark.parametrize(
    ("mode", "colour", "rgb"),
    [
        ("RGB", (10, 20, 30), (10, 20, 30)),
        ("L", 77, (77, 77, 77)),
        ("LA", (77, 0), (77, 77, 77)),
        ("RGBA", (10, 20, 30, 0), (10, 20, 30)),
        ("1", 1, (255, 255, 255)),
        ("I;16", 77 * 256 + 200, (77, 77, 77)),
    ],
)
def test_every_mode_becomes_rgb(tmp_path, mode, colour, rgb):
    path = tmp_path / "x.png"
    Image.new(mode, (3, 2), colour).save(path)
    image = to_tensor(read_image(path, 3))
    assert image.shape == (3, 2, 3)
    assert image[:, 1, 2].tolist() == list(rgb)
    grey = to_tensor(read_image(path, 1))
    assert grey.shape == (1, 2, 3)
    assert abs(int(grey[0, 0, 0]) - np.dot(rgb, (0.299, 0.587, 0.114))) < 1


RAMP = np.linspace(0, 65535, 256).reshape(16, 16).astype(np.uint16)


def pgm(pixels):
    return b"P5\n16 16\n65535\n" + pixels.astype(">u2").tobytes()


def tiff(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "TIFF")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (pgm(RAMP), RAMP >> 8),
        (pgm(RAMP // 300), RAMP // 300 >> 8),  # dark, and of 16 bits all the same
        (tiff(RAMP), RAMP >> 8),
        (tiff(RAMP.astype(np.int32)), RAMP >> 8),
        (tiff((RAMP // 257).astype(np.int32)), RAMP // 257),
        (tiff((RAMP // 257).astype(np.float32)), RAMP // 257),
        (tiff(np.zeros((16, 16), np.float32)), np.zeros((16, 16))),
    ],
    ids=["pgm", "dark pgm", "tiff", "int32", "small int32", "float", "black"],
)
def test_grey_of_more_than_8_bits_keeps_its_content(content, expected):
    for channels in (1, 3):
        found = to_tensor(read_image(content, channels)).numpy()
        assert np.array_equal(found, np.broadcast_to(expected, (channels, 16, 16)))


@pytest.mark.parametrize(
    ("pixels", "why"),
    [
        (RAMP.astype(np.int32) + 1, "values from 1 to 65536, expected 0 to 255, or whole ones to 65535"),
        (RAMP.astype(np.int32) - 1, "values from -1 to 65534, expected 0 to 255, or whole ones to 65535"),
        (RAMP.astype(np.float32) / 65535, "values from 0 to 1, expected 0 to 255, or whole ones to 65535"),
        (RAMP.astype(np.float32), "values from 0 to 65535, expected 0 to 255, or whole ones to 65535"),
        (np.full((2, 2), np.nan, np.float32), "NaN or infinite values in it"),
    ],
)
def test_values_that_would_be_clipped_are_refused(pixels, why):
    with pytest.raises(DataError) as error:
        read_image(tiff(pixels), 3, "t row 3")
    assert str(error.value) == f"t row 3 cannot be read as an image ({why}); repair or remove it."


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (PermissionError(errno.EACCES, "Permission denied"), "Permission denied"),
        (MemoryError(), "too little memory"),
    ],
)
def test_a_file_that_is_not_reached_is_not_called_broken(tmp_path, monkeypatch, error, why):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(UnreachedError) as refusal:
        read_image(tmp_path / "x.png", 3)
    assert str(refusal.value) == (
        f"{tmp_path / 'x.png'} could not be read ({why}); see to disk, permissions and memory, and start again."
    )


def test_links_are_followed_once_and_hidden_files_left_out(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    shown = ["in/x.png", "in/z/1.png", "out/2.png"]
    for name in (*shown, "in/.0.png", "in/._x.png", "in/.ipynb_checkpoints/x.png", "in/z/.git/deep/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 2)).save(tmp_path / name)
    (inside / "more").symlink_to(outside)
    (inside / "a").symlink_to(inside / "z")  # known already, by its own name
    (outside / "back").symlink_to(inside)  # in a circle
    (outside / "up").symlink_to(tmp_path)
    (inside / "gone.png").symlink_to("nowhere")
    os.mkfifo(inside / "pipe.png")
    found = [str(path.relative_to(inside)) for path in image_files([inside])]
    assert found == ["more/2.png", "x.png", "z/1.png"]
    assert image_files([inside / ".0.png"]) == [inside / ".0.png"]  # named outright
    (tmp_path / ".home").symlink_to(inside)
    assert len(image_files([tmp_path / ".home"])) == 3


def test_palettes_with_transparency_and_cmyk_become_rgb(tmp_path):
    palette = Image.new("RGB", (4, 4), (200, 100, 50)).quantize(4)
    palette.save(tmp_path / "p.png", transparency=b"\x00\x10")
    assert to_tensor(read_image(tmp_path / "p.png", 3))[:, 0, 0].tolist() == [200, 100, 50]
    Image.new("CMYK", (8, 8), (255, 0, 0, 0)).save(tmp_path / "c.jpg", quality=100)
    red, green, blue = to_tensor(read_image(tmp_path / "c.jpg", 3))[:, 0, 0].tolist()
    assert red < 8
    assert min(green, blue) > 247


def test_resize_of_a_flat_image_is_flat_and_halving_averages():
    flat = torch.full((2, 3, 7, 5), 99, dtype=torch.uint8)
    assert torch.equal(resize(flat, (4, 9)), torch.full((2, 3, 4, 9), 99, dtype=torch.uint8))
    steps = torch.arange(0, 160, 10, dtype=torch.uint8).expand(1, 1, 4, 16)
    # Antialiased halving weighs four neighbours 1:3:3:1, which on a slope is the mean of the middle two.
    assert resize(steps, (2, 8))[0, 0, 0, 1:-1].tolist() == [25, 45, 65, 85, 105, 125]


def test_load_image_scales_outright(tmp_path):
    path = tmp_path / "x.png"
    left = np.zeros((40, 80, 3), dtype=np.uint8)
    left[:, :40] = 255
    Image.fromarray(left).save(path)
    image = load_image(path, 3, (8, 8), **HALF)
    assert image.shape == (3, 8, 8)
    assert image.dtype == torch.float32
    assert image[0, :, 0].tolist() == [2.0] * 8
    assert image[0, :, -1].tolist() == [-2.0] * 8
    assert load_image(str(path), 1, (8, 8), (0.5,), (0.25,)).shape == (1, 8, 8)


def test_load_image_crops_where_the_side_is_told(tmp_path):
    path = tmp_path / "x.png"
    wide = np.zeros((112, 448, 3), dtype=np.uint8)
    wide[:, 168:280] = 255  # just what the central crop sees, and a rim besides
    Image.fromarray(wide).save(path)
    image = load_image(path, 3, (98, 98), **HALF, side=112)  # as it is, so nothing is scaled
    assert image.shape == (3, 98, 98)
    assert (image == 2).all()
    assert not (load_image(path, 3, (98, 98), **HALF, side=98) == 2).all()
    assert load_image(path, 3, (98, 98), **HALF)[0, 0, [0, 49, -1]].tolist() == [-2, 2, -2]  # all of it


def test_a_decompression_bomb_is_named(tmp_path, monkeypatch):
    path = tmp_path / "x.png"
    Image.new("RGB", (10, 10)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 49)
    why = "Image size (100 pixels) exceeds limit of 98 pixels, could be decompression bomb DOS attack."
    for source, who in ((path, str(path)), (path.read_bytes(), "t row 3")):
        with pytest.raises(DataError) as error:
            read_image(source, 3, "t row 3")
        assert str(error.value) == f"{who} cannot be read as an image ({why}); repair or remove it."


@pytest.mark.parametrize("content", [None, b"", b"no image at all"])
def test_load_image_names_what_it_cannot_read(tmp_path, content):
    path = tmp_path / "x.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as error:
        load_image(path, 3, (8, 8), **HALF)
    assert str(error.value).startswith(f"{path} cannot be read as an image (")
    assert str(error.value).endswith("); repair or remove it.")
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore:::PIL")
@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM"])
def test_whatever_bytes_there_are_the_image_is_read_or_refused_in_one_line(form, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1 << 20)
    random = np.random.default_rng(0)
    file, refused = io.BytesIO(), 0
    Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(file, form)
    for _ in range(150):
        content = bytearray(file.getvalue())
        for place in random.integers(0, min(len(content), 200), size=3):
            content[place] = random.integers(0, 256)
        try:
            assert read_image(bytes(content[: random.integers(50, 2000)]), 3, "it").mode == "RGB"
        except DataError as error:
            refused += 1
            assert str(error).startswith("it cannot be read as an image (")
            assert "\n" not in str(error)
    assert refused > 0


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_an_encoded_image_is_tried_first_as_what_it_announces(form, monkeypatch):
    data = io.BytesIO()
    Image.new("RGB", (4, 4), (10, 20, 30)).save(data, form)
    tried, really = [], Image.open
    monkeypatch.setattr(
        Image, "open", lambda *args, formats=None: tried.append(formats) or really(*args, formats=formats)
    )
    with open_image(data.getvalue()) as image:
        assert (image.format, image.size, tried) == (form, (4, 4), [(form,)])


def test_an_image_that_is_not_what_it_announces_is_read_all_the_same(monkeypatch):
    monkeypatch.setattr(pictures, "kind", lambda data: "GIF")
    data = io.BytesIO()
    Image.new("RGB", (4, 4), (10, 20, 30)).save(data, "PNG")
    assert read_image(data.getvalue(), 3).getpixel((0, 0)) == (10, 20, 30)
    with pytest.raises(DataError, match="not an image"):
        read_image(data.getvalue()[:20], 3)
