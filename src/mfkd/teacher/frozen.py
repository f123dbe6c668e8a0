"""The teacher: in eval for ever, without gradients, fed with images as it knows them."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mfkd.errors import CheckpointError, ConfigError
from mfkd.models.finite import first_unsound, own_soundness
from mfkd.taps import reader
from mfkd.taps.choose import TapsOf
from mfkd.taps.head import classifier
from mfkd.taps.norms import batchnorm_before
from mfkd.taps.probe import count_classes
from mfkd.teacher.quick import Quick
from mfkd.types import Outputs, Taps, TapSpec


class FrozenTeacher(nn.Module):
    """A network that only answers.

    The network itself is frozen, not a copy: its parameters stop asking for gradients.

    Args:
        network: any module that maps (B, C, H, W) to logits (B, K).
        data_mean: per-channel statistics with which the images were normalised.
        data_std: the same.
        mean: statistics the teacher was trained with; None for the data's.
        std: the same.
        image_size: height and width that the teacher expects; None for the data's.

    Raises:
        CheckpointError: a weight that is not finite, named.
        ConfigError: statistics without their counterpart, or of another number of channels.
    """

    scale: Tensor | None
    shift: Tensor | None
    quick: Quick | None

    def __init__(
        self,
        network: nn.Module,
        *,
        data_mean: Sequence[float] | None = None,
        data_std: Sequence[float] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        image_size: int | None = None,
    ) -> None:
        super().__init__()
        _check_finite(network)
        self.network = network
        self.image_size = image_size
        scale, shift = _renormalisation(data_mean, data_std, mean, std)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)
        self._taps: dict[tuple[int, int, int], TapsOf] = {}  # by image shape; finding them takes dry runs
        # The fast way holds a copy of the weights, which is nobody's parameter.
        object.__setattr__(self, "quick", None)
        self.requires_grad_(False).train()

    def train(self, mode: bool = True) -> "FrozenTeacher":  # noqa: ARG002
        """Stays in eval, whatever `mode` says."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, image: Tensor, specs: Iterable[TapSpec] = ()) -> Outputs:
        """Logits and taps, detached.

        Args:
            image: (B, C, H, W) normalised as the student sees it.
            specs: taps to read.
        """
        specs = tuple(specs)
        if self.quick is not None and self.quick.logits and self.quick.specs == specs:
            logits, taps = self.quick(self._adapt(image))
            if logits is not None:
                return Outputs(logits, taps)
        if self.network.training:  # somebody else holds the network too
            self.network.eval()
        return reader.read(self.network, self._adapt(image), specs)

    @torch.no_grad()
    def maps(self, image: Tensor, specs: Iterable[TapSpec]) -> Taps:
        """The taps alone, see `forward`; the fast way runs nothing after the last of them."""
        specs = tuple(specs)
        if self.quick is not None and self.quick.specs == specs:
            return self.quick(self._adapt(image))[1]
        return self(image, specs).taps  # type: ignore[no-any-return]

    def quicken(self, shape: tuple[int, int, int], specs: Iterable[TapSpec], *, logits: bool = True) -> None:
        """Answer for these taps the fast way from now on, as long as the weights stay; see `Quick`.

        Args:
            shape: (C, H, W) of the images that the student gets.
            specs: as `forward` will be asked.
            logits: False where only `maps` will be asked.
        """
        self.slow()
        if self.network.training:
            self.network.eval()
        object.__setattr__(self, "quick", Quick(self.network, self.input_shape(shape), tuple(specs), logits=logits))

    def slow(self) -> None:
        """Answer through the network itself again."""
        object.__setattr__(self, "quick", None)

    def parts(self) -> "list[FrozenTeacher]":
        """The teachers that run a network each: this one."""
        return [self]

    def logits(self, image: Tensor) -> Tensor:
        """(B, K) for images (B, C, H, W) normalised as the student sees them."""
        return self(image).logits  # type: ignore[no-any-return]

    def input_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """(C, H, W) that the network itself gets where the student gets `shape`."""
        return shape if self.image_size is None else (shape[0], self.image_size, self.image_size)

    def count_classes(self, shape: tuple[int, int, int]) -> int:
        """Classes of the head, told by a dry run on the student's `shape`."""
        return count_classes(self.network, self.input_shape(shape))

    def taps(self, shape: tuple[int, int, int]) -> Mapping[str, TapSpec]:
        """Taps by name, looked for when they are asked for, where the student gets images of `shape`."""
        own = self.input_shape(shape)
        if own not in self._taps:
            self._taps[own] = TapsOf(self.network, own)
        return self._taps[own]

    def classifier(self, shape: tuple[int, int, int]) -> nn.Module | None:
        """The module that maps penultimate features (B, C) to logits, with gradients to the features."""
        return classifier(self.network, self.taps(shape))

    def norm(self, name: str, shape: tuple[int, int, int]) -> nn.BatchNorm2d | None:
        """The BatchNorm that ran last before a tap was read, or None."""
        return batchnorm_before(self.network, self.input_shape(shape), self.taps(shape)[name])

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "FrozenTeacher":
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.quick is not None:
            self.quick.apply(fn)
        return self

    def _adapt(self, image: Tensor) -> Tensor:
        if self.scale is not None and self.shift is not None:
            image = image * self.scale + self.shift
        size = self.image_size
        if size is not None and tuple(image.shape[-2:]) != (size, size):
            image = F.interpolate(image, size=(size, size), mode="bilinear", antialias=True)
        return image


def _check_finite(network: nn.Module) -> None:
    name = first_unsound(own_soundness(network))
    if name is not None:
        raise CheckpointError(f"the teacher's {name} holds NaN or infinite values; use an intact weights file.")


def _renormalisation(
    data_mean: Sequence[float] | None,
    data_std: Sequence[float] | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> tuple[Tensor | None, Tensor | None]:
    """Factor and offset, each (C, 1, 1), from the data's normalisation to the teacher's; None if they agree."""
    if mean is None and std is None:
        return None, None
    if data_mean is None or data_std is None:
        raise ConfigError("teacher mean and std need the data's own; give data_mean and data_std as well.")
    rows = [data_mean, data_std, data_mean if mean is None else mean, data_std if std is None else std]
    if len({len(row) for row in rows}) != 1:
        raise ConfigError(
            f"teacher statistics have {len(rows[2])} and {len(rows[3])} channels, the data {len(data_mean)}; "
            "give one value a channel."
        )
    source_mean, source_std, own_mean, own_std = (torch.tensor(row, dtype=torch.float32)[:, None, None] for row in rows)
    if torch.equal(source_mean, own_mean) and torch.equal(source_std, own_std):
        return None, None
    return source_std / own_std, (source_mean - own_mean) / own_std
