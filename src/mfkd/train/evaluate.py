"""Measuring a classifier: accuracy, calibration, agreement with its teacher."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mfkd.errors import DataError
from mfkd.types import UNLABELLED, Batch

ECE_BINS = 15  # Guo et al., ICML 2017, https://arxiv.org/abs/1706.04599


@torch.no_grad()
def evaluate(
    network: nn.Module,
    batches: Iterable[Batch],
    num_classes: int,
    reference: Callable[[Tensor], Tensor] | None = None,
    logits: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, float]:
    """Metrics over all batches of all processes, each image counted once.

    Args:
        network: classifier; evaluated in eval mode, its mode restored.
        batches: this process's share of a split.
        num_classes: K.
        reference: logits of a second classifier for the same images, such as the teacher's.
        logits: how to ask `network`, where not by calling it.

    Returns:
        top1, top5, balanced (mean recall of the classes that have images), ece (15 bins), agreement (share of images
        on which both predict the same class; only with `reference`), all in per cent; loss (mean
        cross-entropy, nats) and n (images).

    Raises:
        DataError: an image without a label, or no image at all.
    """
    from torchmetrics import MeanMetric, SumMetric
    from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError, MulticlassStatScores

    device = next(network.parameters()).device
    common: dict[str, Any] = {"num_classes": num_classes, "validate_args": False}
    top5 = MulticlassAccuracy(average="micro", top_k=min(5, num_classes), **common).to(device)
    counts = MulticlassStatScores(average="none", **common).to(device)
    ece = MulticlassCalibrationError(n_bins=ECE_BINS, norm="l1", **common).to(device)
    loss, agreement = (MeanMetric(nan_strategy="disable").to(device) for _ in range(2))
    images = SumMetric().to(device)
    with eval_mode(network):
        for batch in batches:
            if (batch.label == UNLABELLED).any():
                raise DataError("evaluation needs a label for every image; keep unlabelled images in data.unlabelled.")
            found = (logits or network)(batch.image).float()
            top5.update(found, batch.label)  # not of probabilities: small ones are all 0 and would tie
            counts.update(found, batch.label)
            ece.update(found.softmax(1), batch.label)
            loss.update(nn.functional.cross_entropy(found, batch.label, reduction="none"))
            images.update(len(batch))
            if reference is not None:
                agreement.update((reference(batch.image).argmax(1) == found.argmax(1)).float())
    with warnings.catch_warnings():
        # A process may have had no image of a small split.
        warnings.filterwarnings("ignore", message="The ``compute`` method of metric")
        count = int(images.compute())
        if not count:
            raise DataError("evaluation got no image; is the split empty?")
        scores = counts.compute().double()
        hits, of = scores[:, 0], scores[:, -1]
        measured = {
            "top1": hits.sum() / count,
            "top5": top5.compute(),
            # torchmetrics' own macro average counts a class without images as missed once it is predicted.
            "balanced": (hits / of)[of > 0].mean(),
            "ece": ece.compute(),
        }
        result = {name: 100 * float(value) for name, value in measured.items()}
        result |= {"loss": float(loss.compute()), "n": count}
        if reference is not None:
            result["agreement"] = 100 * float(agreement.compute())
    return result


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """A block in eval mode; each part's own mode is restored after it."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
