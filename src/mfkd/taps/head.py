"""The classifier of a network: the module that maps penultimate features to logits."""

from collections.abc import Mapping

from torch import nn

from mfkd.types import TapSpec


def classifier(network: nn.Module, taps: Mapping[str, TapSpec]) -> nn.Module | None:
    """The module at whose input the tap `penultimate` is read; None where the network has no such tap.

    Args:
        network: any classifier.
        taps: its taps, from `find_taps`.
    """
    spec = next((taps[name] for name in taps if name == "penultimate"), None)
    if spec is None or spec.side != "input" or spec.layout != "vector":
        return None
    return network.get_submodule(spec.path)
