"""Which tensors of a network no forward pass survives."""

from collections.abc import Container, Mapping

from torch import Tensor, nn

_STATISTICS = ("running_mean", "running_var")


def soundness(state: Mapping[str, Tensor], learnt: Container[str]) -> dict[str, Tensor]:
    """For each floating tensor, as a scalar on its device, whether it can be used.

    Nothing may be NaN, and what training moves must be finite too. Other buffers may be infinite on purpose: masks of
    attention, bounds between which activations are cut.

    Args:
        state: a state dict.
        learnt: names in it that are parameters; running statistics need not be named.
    """
    return {
        name: tensor.isfinite().all() if name in learnt or name.endswith(_STATISTICS) else ~tensor.isnan().any()
        for name, tensor in state.items()
        if tensor.is_floating_point()
    }


def own_soundness(network: nn.Module) -> dict[str, Tensor]:
    """The same of a network as it stands."""
    return soundness(network.state_dict(), dict(network.named_parameters(remove_duplicate=False)))


def first_unsound(sound: Mapping[str, Tensor]) -> str | None:
    """Name of the first tensor that cannot be used, of what the others gave; None if all can."""
    return next((name for name, good in sound.items() if not good), None)
