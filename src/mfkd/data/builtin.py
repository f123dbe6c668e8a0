"""Data sets by name: scikit-learn's digits, and CIFAR and Fashion-MNIST through torchvision."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mfkd.config import DataConfig
from mfkd.data import stats
from mfkd.data.sets import MemorySplit, Source
from mfkd.data.split import hold_out
from mfkd.errors import DataError


def digits(config: DataConfig) -> Source:  # noqa: ARG001
    """1797 handwritten digits of 8x8 px (Alpaydin and Kaynak, 1998), embedded in scikit-learn.

    A fixed stratified quarter is the test split. Never flipped: a mirrored 2 is no 2.
    """
    from sklearn.datasets import load_digits

    raw = load_digits()
    images = torch.from_numpy(np.rint(raw.images * (255 / 16)).astype(np.uint8))[:, None]
    everything = MemorySplit(images, torch.from_numpy(raw.target).long(), torch.arange(len(images)))
    train, test = hold_out(everything.labels, 0.25, 0, "digits-test")
    classes = tuple(str(name) for name in raw.target_names)
    return Source(classes, everything.take(train), None, everything.take(test), len(images), crop_padding=1)


def cifar10(config: DataConfig) -> Source:
    """CIFAR-10 (Krizhevsky, 2009): 60,000 RGB images of 32x32 px."""
    return _torchvision("CIFAR10", config, stats.CIFAR10, crop_padding=4)


def cifar100(config: DataConfig) -> Source:
    """CIFAR-100 (Krizhevsky, 2009): 60,000 RGB images of 32x32 px, the fine classes."""
    return _torchvision("CIFAR100", config, stats.CIFAR100, crop_padding=4)


def fashion_mnist(config: DataConfig) -> Source:
    """Fashion-MNIST (Xiao et al., 2017): 70,000 grey images of 28x28 px."""
    return _torchvision("FashionMNIST", config, stats.FASHION_MNIST, crop_padding=2)


def _torchvision(kind: str, config: DataConfig, known: stats.Stats, crop_padding: int) -> Source:
    from torchvision import datasets

    root = Path(config.root).expanduser()
    try:
        root.mkdir(parents=True, exist_ok=True)
        train, test = (getattr(datasets, kind)(root, train=train, download=True) for train in (True, False))
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"data set {config.name} is not in {root} and cannot be downloaded ({' '.join(str(error).split())}); put "
            f"torchvision's files there (data.root), go online once, or use data.name=parquet:PATH."
        ) from None
    first, second = _split(train), _split(test)
    return Source(tuple(train.classes), first, None, second, len(first), *known, crop_padding=crop_padding, flip=True)


def _split(dataset: Any) -> MemorySplit:
    images = torch.as_tensor(dataset.data)
    images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
    return MemorySplit(images, torch.as_tensor(dataset.targets).long(), torch.arange(len(images)))


BUILTIN: dict[str, Callable[[DataConfig], Source]] = {
    "digits": digits,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "fashion_mnist": fashion_mnist,
}
