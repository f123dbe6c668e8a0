"""Parts of a network that rest while the others learn."""

from collections.abc import Sequence

from torch import nn


def rest(network: nn.Module, paths: Sequence[str]) -> None:
    """Put the modules at these paths, each without its children, into eval mode."""
    for path in paths:
        network.get_submodule(path).training = False
