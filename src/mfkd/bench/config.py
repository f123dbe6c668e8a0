"""The keys of a plan of `mfkd bench`, as frozen models."""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from mfkd.errors import brief
from mfkd.validation import Frozen

ALONE = "none"
SECTIONS = ("data", "teacher", "teachers", "student", "train", "augment", "cache", "checkpoint", "log")
"""Name of the student alone, which is part of every plan."""
Axis = Literal["seed", "budget", "pair", "method"]
AXES: tuple[Axis, ...] = ("seed", "budget", "pair", "method")
Seeds = tuple[Annotated[int, Field(ge=0)], ...]
Section = dict[str, Any]
METHODS = "expected a list of methods, or a mapping such as {kd: kd, mine: {kd: {weight: 2.0}}}"
NAME = re.compile(r"[A-Za-z0-9][\w.,+=-]*")


class Changes(Frozen):
    """Sections of a recipe that are laid over the base."""

    name: str = Field(default="", description="folder and heading; empty: made from the changes")
    data: Section = Field(default_factory=dict, description="as in a recipe")
    train: Section = Field(default_factory=dict, description="as in a recipe")
    augment: Section = Field(default_factory=dict, description="as in a recipe")
    cache: Section = Field(default_factory=dict, description="as in a recipe")

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        return _named(name) if name else name

    def over(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """A raw recipe with these sections laid over it."""
        return merged(raw, {name: getattr(self, name) for name in ("data", "train", "augment", "cache")})


class PairConfig(Changes):
    """A teacher and a student; another network than the base's takes nothing of that but `train` and `seed`."""

    teacher: Section | list[Section] = Field(default_factory=dict, description="as in a recipe")
    student: Section = Field(default_factory=dict, description="as in a recipe")
    methods: dict[str, Any] = Field(
        default_factory=dict, description="methods of the plan whose options are others for this pair"
    )

    def over(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """A raw recipe with these sections laid over it."""
        raw = super().over(raw)
        for side in ("teacher", "student"):
            given, base = getattr(self, side), raw.get(side) or {}
            if isinstance(given, list) or isinstance(base, list):
                raw[side] = given or base
            elif given:
                other = given.get("model", base.get("model")) != base.get("model")
                kept = {key: base[key] for key in ("train", "seed") if key in base} if other else base
                raw[side] = merged(kept, given)
        return raw


class BenchConfig(Frozen):
    """A whole plan."""

    out: str = Field(default="runs/bench", description="folder of all that comes out")
    base: str | dict[str, Any] = Field(default="digits", description="a recipe: name, file or mapping")
    pairs: tuple[PairConfig, ...] = Field(
        default=(), description="teachers and students, as changes to the base; empty: those of the base"
    )
    methods: dict[str, Any] = Field(
        default_factory=dict,
        description="a list of methods, or names with a method each, as in a recipe; `none` comes by itself",
    )
    seeds: Seeds = Field(default=(0, 1, 2), min_length=1, description="of the students; methods are paired by them")
    alone: bool = Field(
        default=True, description="whether the student alone is trained too; false where methods meet each other alone"
    )
    method_seeds: dict[str, Seeds] = Field(
        default_factory=dict, description="seeds of single methods, in the place of `seeds`"
    )
    live: tuple[str, ...] = Field(
        default=(), description="methods that ask the teacher itself although the base has a cache, on the same views"
    )
    budgets: tuple[Changes, ...] = Field(
        default=(), description="changes such as {train: {epochs: 20}}; empty: that of the base"
    )
    family: tuple[str, ...] = Field(
        default=(), description="methods whose comparisons are corrected together; empty: all but `none`"
    )
    kd: str = Field(default="kd", description="which of the methods stands for KD in the comparison")
    order: tuple[Axis, ...] = Field(
        default=AXES, description="what changes most slowly comes first: the first pass has one seed of everything"
    )

    @field_validator("methods", mode="before")
    @classmethod
    def _check_methods(cls, value: Any) -> Any:
        if isinstance(value, list):
            value = {name: name for name in value if isinstance(name, str)} if _all_text(value) else None
        if not isinstance(value, dict) or not value or not _all_text(value):
            raise ValueError(METHODS)
        value = {_named(name): name if given is None else given for name, given in value.items()}
        if value.get(ALONE, ALONE) != ALONE:
            raise ValueError(f"{ALONE} is the student alone and takes no options, got {value[ALONE]!r}")
        return {ALONE: ALONE, **value}

    @field_validator("base", mode="before")
    @classmethod
    def _check_base(cls, value: Any) -> Any:
        if isinstance(value, dict):
            for key in ("out", "method", "seeds"):
                if key in value:
                    raise ValueError(f"{key} has no place in the base of a plan; the plan itself says it")
            for key, section in value.items():
                if key not in SECTIONS:  # the recipe's own check tells what is unknown
                    continue
                several = section if key in ("teacher", "teachers") and isinstance(section, list) else [section]
                if not all(isinstance(one, dict | None) for one in several):
                    raise ValueError(f"base.{key}: got {brief(section)}, expected a mapping of keys")
        return value

    @model_validator(mode="after")
    def _check(self) -> "BenchConfig":
        if not self.methods:
            raise ValueError(f"methods: {METHODS}")
        if not self.alone and set(self.methods) == {ALONE}:
            raise ValueError(f"alone: false leaves nothing to train, since {ALONE} is the only method; name another")
        for key, names in (("family", self.family), ("method_seeds", self.method_seeds), ("live", self.live)):
            for name in names:
                if name not in self.methods:
                    raise ValueError(f"{key} names {name}, which is none of the methods {', '.join(self.methods)}")
        if sorted(self.order) != sorted(AXES):
            raise ValueError(f"order must name {', '.join(AXES)} once each, got {list(self.order)}")
        for key, seeds in (("seeds", self.seeds), *self.method_seeds.items()):
            if len(set(seeds)) != len(seeds) or not seeds:
                raise ValueError(f"{key}: seeds must be one or more that differ, got {list(seeds)}")
        return self

    @property
    def all_pairs(self) -> tuple[PairConfig, ...]:
        """The pairs; the base itself where none is named."""
        return self.pairs or (PairConfig(),)

    @property
    def all_budgets(self) -> tuple[Changes, ...]:
        """The budgets; that of the base where none is named."""
        return self.budgets or (Changes(),)


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings laid over one another; neither is changed."""
    found = dict(base)
    for key, value in changes.items():
        old = found.get(key)
        found[key] = merged(old or {}, value) if isinstance(value, dict) and isinstance(old, dict | None) else value
    return found


def _named(name: str) -> str:
    if not NAME.fullmatch(name) or name == "teacher":
        raise ValueError(f"{name!r} will not do as a folder's name; use letters, digits and . , + = - _")
    return name


def _all_text(values: Iterable[Any]) -> bool:
    return all(isinstance(value, str) for value in values)
