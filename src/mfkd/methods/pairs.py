"""Which stage of the student learns from which stage of the teacher, for methods on several maps."""

import re
from collections.abc import Iterable, Mapping
from typing import ClassVar

from pydantic import Field

from mfkd.errors import ConfigError
from mfkd.methods.base import Context, Method, MethodConfig
from mfkd.methods.lookup import map_shapes
from mfkd.types import Needs, TapSpec

STAGE = re.compile(r"stage\d+")


class PairsConfig(MethodConfig):
    """Options of a method that compares several maps, pair by pair."""

    student_taps: tuple[str, ...] | None = Field(
        None, min_length=1, description="student maps, front first; null: every stage that has a partner"
    )
    teacher_taps: tuple[str, ...] | None = Field(
        None, min_length=1, description="teacher maps, one for each of student_taps; null: every stage with a partner"
    )


def paired(name: str, config: PairsConfig, context: Context, pre: bool = False) -> list[tuple[str, str]]:
    """The (student, teacher) tap names that a method compares, front first.

    Stages are paired from the last one backwards, so that with unequal numbers of stages the first
    ones of the deeper network go without a partner.

    Args:
        name: of the method, for the message.
        config: taps that the user named.
        context: taps of both networks.
        pre: take `stageN.pre`, the map before the activation, where a network declares it.

    Raises:
        ConfigError: lists of different lengths, or several teachers and none is named.
    """
    student = config.student_taps or tuple(stages(name, context.student, pre))
    teacher = config.teacher_taps or tuple(stages(name, context.teacher, pre))
    if config.student_taps and config.teacher_taps and len(student) != len(teacher):
        raise ConfigError(
            f"{name} compares maps in pairs, got {len(student)} student_taps and {len(teacher)} teacher_taps; "
            "name as many of each."
        )
    count = min(len(student), len(teacher))
    if len(config.student_taps or config.teacher_taps or student[-count:]) > count:
        raise ConfigError(
            f"{name} was given {max(len(student), len(teacher))} taps on one side, but the other network has "
            f"{count} stages; name taps of both."
        )
    return list(zip(student[-count:], teacher[-count:], strict=True))


def stages(name: str, taps: Mapping[str, TapSpec], pre: bool = False) -> list[str]:
    """Names of a network's stages in order.

    Raises:
        ConfigError: the taps are those of several teachers, whose stages have no common order.
    """
    known = set(taps)
    found = [tap for tap in taps if STAGE.fullmatch(tap)]
    if not found:
        raise ConfigError(
            f"{name} compares the stages of one teacher, got taps {_some(known)}; "
            "name the taps of one, such as teacher_taps: [teacher1.bottom]."
        )
    return [f"{tap}.pre" if pre and f"{tap}.pre" in known else tap for tap in found]


def _some(names: Iterable[str]) -> str:
    shown = sorted(names)
    return ", ".join(shown[:6]) + (" ..." if len(shown) > 6 else "")


class Paired(Method):
    """A method that compares maps pair by pair, with no parts of its own.

    Args:
        config: names the taps.
        context: must have them.

    Attributes:
        pairs: (student, teacher) tap names, front first.
    """

    name: ClassVar[str]
    """Of the method, for messages."""

    def __init__(self, config: PairsConfig, context: Context) -> None:
        super().__init__()
        self.config: PairsConfig = config
        self.pairs = paired(self.name, config, context)
        own, theirs = zip(*self.pairs, strict=True)
        self.needs = Needs(student=own, teacher=theirs)
        map_shapes("student", context.student, own)
        map_shapes("teacher", context.teacher, theirs)
