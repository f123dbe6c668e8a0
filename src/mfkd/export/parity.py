"""Whether an exported network says what the trained one says.

Shapes: N images; K classes.
"""

from dataclasses import dataclass

import numpy as np

from mfkd.errors import MfkdError

TOLERANCE = 1e-4
"""Largest difference of two logits that counts as none, as a share of the range of all logits, in float32."""


@dataclass(frozen=True)
class Parity:
    """Two sets of logits of the same images, side by side.

    Args:
        images: N.
        largest: difference of two logits, as a share of the range of all logits of the first set.
        differing: images with another prediction whose first two logits are further apart than the tolerance.
        ties: images with another prediction whose first two logits are closer than that.
    """

    images: int
    largest: float
    differing: int
    ties: int


def compare(reference: np.ndarray, other: np.ndarray) -> Parity:
    """Compare two sets of logits (N, K).

    Returns:
        The comparison; `largest` is infinite where a logit of either is.
    """
    extent = float(np.ptp(reference))
    gap = float(np.abs(reference - other).max()) if np.isfinite(other).all() else np.inf
    first, second = np.sort(reference, axis=1)[:, :-3:-1].T
    close = first - second < TOLERANCE * extent
    wrong = reference.argmax(1) != other.argmax(1)
    return Parity(
        images=len(reference),
        largest=0.0 if gap == 0 else gap / extent if extent > 0 else np.inf,
        differing=int((wrong & ~close).sum()),
        ties=int((wrong & close).sum()),
    )


def require(parity: Parity, name: str, model: str, split: str = "test") -> None:
    """Refuse an export that is not the trained network.

    Raises:
        MfkdError: a larger difference than the tolerance, or another prediction that is no tie.
    """
    if parity.largest <= TOLERANCE and not parity.differing:
        return
    raise MfkdError(
        f"{name} does not repeat {model}: on {parity.images:,} {split} images its logits differ by up to "
        f"{parity.largest:.1e} of their range, allowed {TOLERANCE:.0e}, and {parity.differing:,} predictions are "
        "others; nothing was written. Report the network, it cannot be exported as it is."
    )
