"""A part that learns in a stage of its own before the student does, and never moves again."""

import torch
from torch import Tensor, nn


class Once(nn.Module):
    """Trainable between `start` and `finish`, frozen at any other time.

    Frozen means no gradients and eval, whatever `train()` says. The buffer `done` travels with the
    state dict, so a loaded part knows that it is ready. A subclass calls `self.freeze()` at the end
    of its constructor.
    """

    done: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("done", torch.zeros((), dtype=torch.int64))
        self.learning = False
        self._known_ready = False
        self.register_load_state_dict_post_hook(_forget)  # type: ignore[no-untyped-call]

    @property
    def ready(self) -> bool:
        """Whether `finish` was called, here or before the state was saved."""
        # Asked at every step, so the buffer is read (which waits for the GPU) only until it says yes.
        self._known_ready = self._known_ready or bool(self.done)
        return self._known_ready

    def train(self, mode: bool = True) -> "Once":  # noqa: ARG002
        """Follows the stage, not the caller."""
        return super().train(self.learning)

    def start(self) -> None:
        """Make the parameters trainable."""
        self.learning = True
        self.requires_grad_(True).train()

    def finish(self) -> None:
        """Freeze for good."""
        self.freeze()
        self.zero_grad(set_to_none=True)
        self.done.fill_(1)

    def freeze(self) -> None:
        """No gradients, eval mode."""
        self.learning = False
        self.requires_grad_(False).train()


def once_state(module: nn.Module) -> dict[str, Tensor]:
    """The state of every `Once` in a module that is ready, by the names of the module's state dict."""
    return {
        f"{name}.{key}" if name else key: value
        for name, part in module.named_modules()
        if isinstance(part, Once) and part.ready
        for key, value in part.state_dict().items()
    }


def _forget(module: nn.Module, _incompatible: object) -> None:
    module._known_ready = False  # type: ignore[assignment]
    if isinstance(module, Once) and module.ready:
        module.finish()
