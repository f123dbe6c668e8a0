"""Smaller copies of large images, made when an image is first read and read in its place from then on.

A photograph of 12 million pixels takes far longer to decode than a training step has for it.
"""

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from mfkd.data.decode import scale
from mfkd.data.remember import mark
from mfkd.errors import DataError, MfkdError
from mfkd.files import write_atomic
from mfkd.pictures import Encoded, read_image

FOLDER = "copies"
"""Below `data.root`."""
QUALITY = 95  # of JPEG, without subsampling of colours


@dataclass(frozen=True)
class Copies:
    """Copies of one size in one folder, shared by all runs, processes and workers.

    A copy is named by path, size and time of change of its image, so a changed image gets a new one. The first reader
    gets the copy as it was written, not the image, so that nobody sees other pixels than those who come later.

    Args:
        folder: holds a folder for each size.
        side: pixels of the shorter side.
        interpolation: by which images are scaled.
    """

    folder: Path
    side: int
    interpolation: str

    def read(self, source: Encoded, name: str = "") -> Image.Image:
        """The copy of an image in RGB, made if it is not there; the image itself where that is no larger.

        Raises:
            DataError: the image cannot be read, or the copy not be written.
        """
        key = hashlib.blake2b(mark(source), digest_size=16).hexdigest()
        path = self.folder / f"{self.side}-{self.interpolation}" / key[:2] / f"{key}.jpg"
        with suppress(DataError):  # not there, or damaged from outside
            return read_image(path, 3)
        image = read_image(source, 3, name)
        if min(image.size) <= self.side:
            return image
        small = scale(image, self.side, self.interpolation)
        try:
            write_atomic(path, lambda file: small.save(file, "JPEG", quality=QUALITY, subsampling=0))
        except MfkdError as error:
            raise DataError(f"data.copies={self.side}: {error} Or leave data.copies out.") from None
        return read_image(path, 3)
