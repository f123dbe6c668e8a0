"""What `data.copies` saves: reading and cropping large images, and their copies, in turn and one at a time.

    python benchmarks/copies.py --megapixels 12

The images are noise, blurred so that their JPEG files are as large as those of photographs.
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image

from mfkd.config import AugmentConfig
from mfkd.data.augment import large_transform
from mfkd.data.copies import Copies
from mfkd.pictures import read_image

SIZE, SIDE = (224, 224), 256  # of the crop, and to which evaluation scales


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megapixels", type=float, default=12)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--side", type=int, default=384, help="data.copies")
    args = parser.parse_args()
    torch.set_num_threads(1)
    transform = large_transform(AugmentConfig(flip=True), SIZE, SIDE, "bilinear", (0.5,) * 3)
    with tempfile.TemporaryDirectory() as folder:
        copies = Copies(Path(folder) / "copies", args.side, "bilinear")
        paths = [_image(Path(folder) / f"{number}.jpg", number, args.megapixels) for number in range(args.images)]
        making = [_milliseconds(lambda path=path: copies.read(path)) for path in paths]
        times = [
            (
                _milliseconds(lambda path=path: transform(read_image(path, 3))),
                _milliseconds(lambda path=path: transform(copies.read(path))),
            )
            for path in paths
        ]
        size = sum(file.stat().st_size for file in copies.folder.rglob("*.jpg")) / len(paths)
        whole = sum(path.stat().st_size for path in paths) / len(paths)
    image, copy = (median(column) for column in zip(*times, strict=True))
    ratios = sorted(one / other for one, other in times)
    print(f"an image of {args.megapixels:g} million pixels, {whole / 1e6:.1f} MB: {image:.1f} ms")
    print(f"its copy of {args.side} px, {size / 1e3:.0f} kB: {copy:.1f} ms, made once in {median(making):.0f} ms")
    print(f"{median(ratios):.1f} times as fast ({ratios[0]:.1f} to {ratios[-1]:.1f}, n={len(ratios)})")


def _image(path: Path, seed: int, megapixels: float) -> Path:
    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8, height // 6, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((height * 4 // 3, height), Image.Resampling.BICUBIC).save(path, quality=90)
    return path


def _milliseconds(work: object) -> float:
    begun = time.perf_counter()
    work()  # type: ignore[operator]
    return 1e3 * (time.perf_counter() - begun)


if __name__ == "__main__":
    main()
