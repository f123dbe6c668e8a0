"""What a sweep searches: ranges and choices, from the words of the command line to Optuna and back."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mfkd.errors import ConfigError
from mfkd.plain import parse

RANGE = re.compile(r"\s*([^\s.]\S*?)\s*\.\.\s*(\S+)\s*")
LOGARITHMIC = 10  # a range whose ends are so many times apart is searched by orders of magnitude


@dataclass(frozen=True)
class Span:
    """A range of numbers; whole ones where both ends are."""

    low: float
    high: float

    @property
    def log(self) -> bool:
        """Whether it is searched by orders of magnitude."""
        return self.low > 0 and self.high >= LOGARITHMIC * self.low


Space = dict[str, Span | list[Any]]
"""What is searched: dotted key of the recipe to a range or a list of choices."""


def dimension_of(word: str, text: str) -> Span | list[Any]:
    """Read a range such as `1..8`, or a list of choices.

    Args:
        word: the whole word, for the message.
        text: what follows its equals sign.

    Raises:
        ConfigError: neither, or a range that does not rise.
    """
    matched = RANGE.fullmatch(text)
    if matched:
        ends = [_number(word, end) for end in matched.groups()]
        if ends[0] < ends[1]:
            return Span(*ends)
        raise ConfigError(f"sweep: {word!r} is no range that rises, for example weight=1..8.")
    try:
        value = parse(text)
    except ValueError:
        value = None
    if not isinstance(value, list) or len(value) < 2:
        raise ConfigError(f"sweep: {word!r} is neither a range nor a list of two or more, for example weight=1..8.")
    return value


def _number(word: str, text: str) -> float:
    try:
        return int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)
    except ValueError:
        raise ConfigError(f"sweep: {word!r} is no range of numbers, for example weight=1..8.") from None


def distribution(optuna: Any, dimension: Span | list[Any]) -> Any:
    """The same for Optuna, whose module is given."""
    if isinstance(dimension, list):
        return optuna.distributions.CategoricalDistribution([_written_choice(value) for value in dimension])
    kind = "Int" if isinstance(dimension.low, int) and isinstance(dimension.high, int) else "Float"
    made = getattr(optuna.distributions, f"{kind}Distribution")
    return made(dimension.low, dimension.high, log=dimension.log)


def given(space: Space, params: Mapping[str, Any]) -> dict[str, Any]:
    """What Optuna drew, with choices as they were given."""
    found = {}
    for key, value in params.items():
        dimension = space[key]
        choices = dimension if isinstance(dimension, list) else []
        found[key] = next((one for one in choices if _written_choice(one) == value), value)
    return found


def _written_choice(value: Any) -> Any:
    """Optuna's choices are plain values; lists and mappings go as text."""
    return repr(value) if isinstance(value, list | dict) else value


def plain(dimension: Span | list[Any]) -> Any:
    """The same for JSON."""
    return {"low": dimension.low, "high": dimension.high} if isinstance(dimension, Span) else dimension


def written(values: Mapping[str, Any]) -> str:
    """The values of a trial, for people."""
    return ", ".join(
        f"{key.removeprefix('method.')}={value:.4g}"
        if isinstance(value, float)
        else f"{key.removeprefix('method.')}={value}"
        for key, value in values.items()
    )
