"""Several frozen teachers that answer as one.

Their softened class probabilities are averaged (You, Xu, Xu and Tao, KDD 2017,
https://doi.org/10.1145/3097983.3098135); their feature maps stay apart, as `teacher1.bottom`,
`teacher2.bottom` and so on.

Shapes: B batch; C, H, W channels, height, width; K classes.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from mfkd.errors import ConfigError
from mfkd.taps.choose import TAP_NAMES
from mfkd.teacher.frozen import FrozenTeacher
from mfkd.types import Outputs, Taps, TapSpec

TEMPERATURE = 4.0
"""As in the published CIFAR-100 tables."""


def mean_logits(logits: Sequence[Tensor], weights: Sequence[float], temperature: float = TEMPERATURE) -> Tensor:
    """Logits whose softened probabilities are the weighted mean of the given ones.

    Args:
        logits: one (B, K) a teacher.
        weights: one a teacher; only their ratios count.
        temperature: T at which the probabilities are averaged.

    Returns:
        (B, K), with softmax(result / T) = sum of w_i softmax(logits_i / T) / sum of w_i.
    """
    shares = torch.tensor(weights, dtype=torch.float64).div(sum(weights)).log()
    parts = [(scores / temperature).log_softmax(dim=1) + share for scores, share in zip(logits, shares, strict=True)]
    return temperature * torch.stack(parts).logsumexp(dim=0)


class SeveralTeachers(FrozenTeacher):
    """Two or more frozen teachers with the same classes.

    Args:
        members: each with its own statistics and input size.
        weights: share of each in the mean of probabilities; None for equal ones.
        temperature: T at which probabilities are averaged.

    Raises:
        ConfigError: fewer than two members, or weights that do not fit them.
    """

    def __init__(
        self,
        members: Sequence[FrozenTeacher],
        weights: Sequence[float] | None = None,
        temperature: float = TEMPERATURE,
    ) -> None:
        if len(members) < 2:
            raise ConfigError(f"several teachers are two or more, got {len(members)}; give one teacher by itself.")
        weights = [1.0] * len(members) if weights is None else list(weights)
        if len(weights) != len(members) or min(weights) <= 0:
            raise ConfigError(f"{len(members)} teachers need as many weights above 0, got {weights}.")
        super().__init__(_Together(members, weights, temperature))

    @property
    def members(self) -> list[FrozenTeacher]:
        """The teachers, in the order of their numbers."""
        return [member for member in self.network.members if isinstance(member, FrozenTeacher)]  # type: ignore[union-attr]

    @torch.no_grad()
    def forward(self, image: Tensor, specs: Iterable[TapSpec] = ()) -> Outputs:
        """Mean logits, and taps by their full name; see `FrozenTeacher.forward`."""
        given = [member(image, own) for member, own in zip(self.members, self._own(specs), strict=True)]
        taps = {name: tap for outputs in given for name, tap in outputs.taps.items()}
        return Outputs(self.network.mean([outputs.logits for outputs in given]), taps)  # type: ignore[operator]

    def maps(self, image: Tensor, specs: Iterable[TapSpec]) -> Taps:
        """The taps alone; a member without any is not asked."""
        asked = [(member, own) for member, own in zip(self.members, self._own(specs), strict=True) if own]
        return {name: tap for member, own in asked for name, tap in member.maps(image, own).items()}

    def quicken(self, shape: tuple[int, int, int], specs: Iterable[TapSpec], *, logits: bool = True) -> None:
        """Every member in its own fast way."""
        for member, own in zip(self.members, self._own(specs), strict=True):
            member.quicken(shape, own, logits=logits)

    def slow(self) -> None:
        """Every member through its network itself again."""
        super().slow()
        for member in self.members:
            member.slow()

    def parts(self) -> list[FrozenTeacher]:
        """The members."""
        return self.members

    def _own(self, specs: Iterable[TapSpec]) -> list[list[TapSpec]]:
        """The taps of each member."""
        own: list[list[TapSpec]] = [[] for _ in self.members]
        for spec in specs:
            own[int(spec.name.partition(".")[0].removeprefix("teacher")) - 1].append(spec)
        return own

    def count_classes(self, shape: tuple[int, int, int]) -> int:
        """Classes of all heads.

        Raises:
            ConfigError: the heads have different numbers of classes.
        """
        counts = [member.count_classes(shape) for member in self.members]
        if len(set(counts)) > 1:
            raise ConfigError(
                f"several teachers must share their classes, got heads of {', '.join(map(str, counts))}; "
                "fit new heads with head: tune, or leave one out."
            )
        return counts[0]

    def taps(self, shape: tuple[int, int, int]) -> Mapping[str, TapSpec]:
        """Taps of all members, as `teacherN.NAME`."""
        return _TapsOfSeveral([member.taps(shape) for member in self.members])

    def classifier(self, shape: tuple[int, int, int]) -> nn.Module | None:  # noqa: ARG002
        """None: there are several."""
        return None

    def norm(self, name: str, shape: tuple[int, int, int]) -> nn.BatchNorm2d | None:
        """The BatchNorm before a tap `teacherN.NAME`."""
        prefix, _, own = name.partition(".")
        return self.members[int(prefix.removeprefix("teacher")) - 1].norm(own, shape)


def listed(teacher: nn.Module | Sequence[nn.Module] | None) -> Sequence[nn.Module]:
    """None, one network or several as a list."""
    if teacher is None:
        return []
    return [teacher] if isinstance(teacher, nn.Module) else teacher


def frozen(teacher: nn.Module | Sequence[nn.Module] | None, temperature: float = TEMPERATURE) -> FrozenTeacher | None:
    """One frozen teacher of any number of networks, frozen or not; None of none."""
    members = [given if isinstance(given, FrozenTeacher) else FrozenTeacher(given) for given in listed(teacher)]
    return together(members, None, temperature) if members else None


def together(members: Sequence[FrozenTeacher], weights: Sequence[float] | None, temperature: float) -> FrozenTeacher:
    """The one teacher as it is, or `SeveralTeachers` of more."""
    return members[0] if len(members) == 1 else SeveralTeachers(members, weights, temperature)


class _Together(nn.Module):
    def __init__(self, members: Sequence[FrozenTeacher], weights: list[float], temperature: float) -> None:
        super().__init__()
        self.members, self.weights, self.temperature = nn.ModuleList(members), weights, temperature

    def mean(self, logits: list[Tensor]) -> Tensor:
        return mean_logits(logits, self.weights, self.temperature)

    def forward(self, image: Tensor) -> Tensor:
        return self.mean([member.logits(image) for member in self.members if isinstance(member, FrozenTeacher)])


class _TapsOfSeveral(Mapping[str, TapSpec]):
    """Taps by `teacherN.NAME`; nothing is looked for before it is asked for."""

    def __init__(self, taps: Sequence[Mapping[str, TapSpec]]) -> None:
        self._taps = {f"teacher{number}": found for number, found in enumerate(taps, start=1)}

    def __getitem__(self, name: str) -> TapSpec:
        prefix, _, own = name.partition(".")
        if prefix in self._taps:
            return replace(self._taps[prefix][own], name=name)
        if name in TAP_NAMES or prefix.removeprefix("stage").isdigit():
            raise ConfigError(
                f"there are {len(self._taps)} teachers, and {name!r} may be a map of any; "
                f"name one's, such as teacher1.{name}, or use one teacher with this method."
            )
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        for prefix, taps in self._taps.items():
            yield from (f"{prefix}.{name}" for name in taps)

    def __len__(self) -> int:
        return sum(len(taps) for taps in self._taps.values())
