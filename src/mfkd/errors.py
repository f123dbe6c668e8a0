"""Everything that `mfkd` refuses, as exceptions whose one-line text says what to do."""

from collections.abc import Iterable
from difflib import get_close_matches

LONG = 300  # characters of a value in a message


def brief(value: object) -> str:
    """A value as Python writes it, for a message; the middle of a long one is left out."""
    return cut(repr(value))


def cut(text: str) -> str:
    """A text without its middle, where it is long."""
    return text if len(text) <= LONG else f"{text[: LONG - 40]} ... {text[-30:]}"


class MfkdError(Exception):
    """Base of all refusals; the command line prints it as one line and exits with 2."""


class ConfigError(MfkdError):
    """A recipe, override or option that cannot be used."""


class ShapeError(MfkdError):
    """Tensors or feature maps that do not fit together."""


class DataError(MfkdError):
    """Images or labels that are missing, unreadable or contradictory."""


class CheckpointError(MfkdError):
    """A weights file or checkpoint that is missing, damaged or foreign."""


class CacheError(MfkdError):
    """Cached teacher knowledge that does not belong to this run."""


class TrainingError(MfkdError):
    """A training that cannot go on, for example because the loss is not finite."""


class UnknownNameError(ConfigError):
    """A name that is not known, told together with the nearest names.

    Args:
        kind: what the name stands for, such as "method" or "model".
        got: the name as given.
        known: all names that would have been accepted.
        hint: what else the user can do, as a full clause.
    """

    def __init__(self, kind: str, got: str, known: Iterable[str], hint: str = "") -> None:
        self.kind, self.got, self.known = kind, got, tuple(known)
        folded = {name.casefold(): name for name in reversed(self.known)}
        near = [folded[name] for name in get_close_matches(got.casefold(), folded, n=3, cutoff=0.5)]
        if near:
            advice = f"did you mean {' or '.join(near)}?"
        elif self.known and len(self.known) <= 24:
            advice = f"known: {', '.join(self.known)}."
        else:
            advice = ""
        text = " ".join(part for part in (f"unknown {kind} {brief(got)};", advice, hint) if part)
        super().__init__(text.rstrip(";"))
