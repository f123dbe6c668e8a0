"""Every distillation method by name, and the way from a recipe's `method` to an objective."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, Field

from mfkd.errors import ConfigError, UnknownNameError
from mfkd.methods.base import Context, Method, MethodConfig
from mfkd.methods.kd import KD, KDConfig
from mfkd.methods.mfkd import MFKD, MFKDConfig
from mfkd.methods.objective import Objective
from mfkd.validation import Frozen, validated

METHODS: dict[str, tuple[type[Method], type[MethodConfig]]] = {
    "kd": (KD, KDConfig),
    "mfkd": (MFKD, MFKDConfig),
}

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "mfkd": {"mfkd": {}, "kd": {"temperature": 4.0, "weight": 1.0}},
    "none": {},
}
"""Names that stand for a mapping; every other method's name stands for itself."""


class CrossEntropyConfig(Frozen):
    """Options of the key `ce`, which is not a method but part of every objective."""

    weight: float = Field(1.0, ge=0, allow_inf_nan=False, description="factor of the cross-entropy")


@dataclass(frozen=True)
class Spec:
    """A checked choice of methods, not built yet.

    Args:
        configs: options by method name.
        ce: weight of the cross-entropy.
        preset: whether a preset's name was given; its parts may then be left out with a note.
        built: methods that were given as objects.
    """

    configs: Mapping[str, MethodConfig] = field(default_factory=dict)
    ce: float = 1.0
    preset: bool = False
    built: Mapping[str, Method] = field(default_factory=dict)

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods; empty for plain training."""
        return (*self.configs, *self.built)


def resolve(method: str | Mapping[str, Any] | Method) -> Spec:
    """Check a `method` as recipes and `Distiller` take it.

    Args:
        method: a preset or a method's name; or a mapping of methods to their options, in which the
            key `ce` sets the weight of the cross-entropy; or a ready `Method`.

    Raises:
        UnknownNameError: a name or option that does not exist, with the nearest ones.
        ConfigError: an option with a bad value.
    """
    if isinstance(method, Method):
        return Spec(built={type(method).__name__.lower(): method})
    preset = isinstance(method, str)
    if isinstance(method, str):
        if method not in METHODS and method not in PRESETS:
            raise UnknownNameError("method", method, sorted({*METHODS, *PRESETS}))
        method = PRESETS.get(method, {method: {}})
    ce, configs = 1.0, {}
    for name, options in method.items():
        if name == "ce":
            ce = _checked(CrossEntropyConfig, name, options).weight
        elif name in METHODS:
            configs[name] = _checked(METHODS[name][1], name, options)
        else:
            raise UnknownNameError("method", name, [*METHODS, "ce"])
    if not configs and ce == 0:
        raise ConfigError("method: ce.weight 0 and no method leave nothing to learn; name one or give ce a weight.")
    return Spec(configs, ce, preset=preset and len(configs) > 1)


def build(spec: Spec, context: Context) -> Objective:
    """Build the methods of a `Spec` for two networks.

    A preset of several parts loses those that need the teacher's logits when its head has other
    classes, and a note says so; what is named in a mapping is refused instead.

    Raises:
        ConfigError: a method that cannot work with these networks.
    """
    methods, notes = dict(spec.built), []
    for name, config in spec.configs.items():
        method = METHODS[name][0]
        if spec.preset and method.needs.logits and not context.teacher_logits:
            notes.append(
                f"{name} is off: the teacher's head has other classes than the student; "
                "teacher.head=tune fits a new one."
            )
            continue
        methods[name] = method(config, context)
    return Objective(methods, spec.ce, tuple(notes))


C = TypeVar("C", bound=BaseModel)


def _checked(model: type[C], name: str, options: Any) -> C:
    if not isinstance(options, Mapping | None):
        raise ConfigError(f"method.{name}: got {options!r}, expected a mapping of options such as {{weight: 1.0}}.")
    return validated(model, options or {}, f"method.{name}.")
