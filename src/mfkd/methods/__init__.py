"""Every distillation method by name, and the way from a recipe's `method` to an objective."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from typing import Any, TypeVar

from pydantic import BaseModel, Field

from mfkd.errors import ConfigError, MfkdError, UnknownNameError
from mfkd.methods.ab import AB
from mfkd.methods.at import AT
from mfkd.methods.base import Context, Method, MethodConfig
from mfkd.methods.catkd import CATKD
from mfkd.methods.cc import CC
from mfkd.methods.crd import CRD
from mfkd.methods.ctkd import CTKD
from mfkd.methods.dist import DIST
from mfkd.methods.dkd import DKD
from mfkd.methods.fitnet import FitNet
from mfkd.methods.fsp import FSP
from mfkd.methods.ft import FT
from mfkd.methods.ickd import ICKD
from mfkd.methods.kd import KD
from mfkd.methods.mfkd import MFKD
from mfkd.methods.mgd import MGD
from mfkd.methods.mlld import MLLD
from mfkd.methods.norm import Norm
from mfkd.methods.nst import NST
from mfkd.methods.objective import Objective
from mfkd.methods.ofd import OFD
from mfkd.methods.pkt import PKT
from mfkd.methods.reviewkd import ReviewKD
from mfkd.methods.rkd import RKD
from mfkd.methods.semckd import SemCKD
from mfkd.methods.simkd import SimKD
from mfkd.methods.sp import SP
from mfkd.methods.srrl import SRRL
from mfkd.methods.tfkd import TFKD
from mfkd.methods.vid import VID
from mfkd.validation import Frozen, validated

METHODS: dict[str, type[Method]] = {
    "ab": AB,
    "at": AT,
    "catkd": CATKD,
    "cc": CC,
    "crd": CRD,
    "ctkd": CTKD,
    "dist": DIST,
    "dkd": DKD,
    "fitnet": FitNet,
    "fsp": FSP,
    "ft": FT,
    "ickd": ICKD,
    "kd": KD,
    "mfkd": MFKD,
    "mgd": MGD,
    "mlld": MLLD,
    "norm": Norm,
    "nst": NST,
    "ofd": OFD,
    "pkt": PKT,
    "reviewkd": ReviewKD,
    "rkd": RKD,
    "semckd": SemCKD,
    "simkd": SimKD,
    "sp": SP,
    "srrl": SRRL,
    "tfkd": TFKD,
    "vid": VID,
}
"""The methods that mfkd brings; `known_methods` has those of installed packages too."""

PLUGINS = "mfkd.methods"
"""Group of the entry points by which a package adds methods: name = "package.module:MethodClass"."""

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "mfkd": {"mfkd": {"weight": 256.0, "fade": 0.5}, "kd": {"temperature": 4.0, "weight": 1.0}},
    "none": {},
    "simkd": {"simkd": {}, "ce": {"weight": 0.0}},
}
"""Names that stand for a mapping; every other method's name stands for itself."""


@cache
def known_methods() -> dict[str, type[Method]]:
    """Every method by name, those that installed packages add included.

    Raises:
        ConfigError: a package adds a name that is taken, or something that is no method.
    """
    found = dict(METHODS)
    for entry in entry_points(group=PLUGINS):
        owner = f"the package {entry.dist.name}" if entry.dist is not None else entry.value
        if entry.name in found or entry.name in (*PRESETS, "ce"):
            raise ConfigError(f"{owner} adds a method {entry.name!r}, and mfkd knows one already; rename or remove it.")
        try:
            method = entry.load()
        except (ImportError, AttributeError) as error:
            raise ConfigError(
                f"{owner} adds a method {entry.name!r} that cannot be imported ({error}); mend or remove the package."
            ) from error
        if not (isinstance(method, type) and issubclass(method, Method)):
            raise ConfigError(f"{owner} adds a method {entry.name!r}, but {entry.value} is no mfkd Method; remove it.")
        found[entry.name] = method
    return found


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
    def needs_teacher(self) -> bool:
        """Whether any of the methods asks something of a teacher."""
        chosen: list[type[Method]] = [*map(known_methods().__getitem__, self.configs), *map(type, self.built.values())]
        return any(method.needs_teacher for method in chosen)

    @property
    def temperature(self) -> float:
        """That of the first method on the teacher's logits, else 4; several teachers are averaged at it."""
        known = known_methods()
        on_logits: list[Any] = [config for name, config in self.configs.items() if known[name].needs.logits]
        on_logits += [method.config for method in self.built.values() if method.needs.logits]
        found = [getattr(config, "temperature", None) for config in on_logits]
        return next((value for value in found if isinstance(value, float)), 4.0)

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
        ConfigError: an option with a bad value, or nothing to learn.
    """
    if isinstance(method, Method):
        return Spec(built={type(method).__name__.lower(): method})
    known = known_methods()
    preset = isinstance(method, str)
    if isinstance(method, str):
        if method not in known and method not in PRESETS:
            raise UnknownNameError("method", method, sorted({*known, *PRESETS}))
        method = PRESETS.get(method, {method: {}})
    ce, configs = 1.0, {}
    for name, options in method.items():
        if name == "ce":
            ce = _checked(CrossEntropyConfig, name, options).weight
        elif name in known:
            configs[name] = _checked(known[name].Config, name, options)
        else:
            raise UnknownNameError("method", name, [*known, "ce"])
    if ce == 0 and all(config.weight == 0 or known[name].only_prepares for name, config in configs.items()):
        raise ConfigError(
            f"method: ce.weight 0 and {_no_term(configs)} leave nothing to learn; "
            "give ce a weight, or name a method that adds a term."
        )
    return Spec(configs, ce, preset=preset and len(configs) > 1)


def _no_term(configs: Mapping[str, MethodConfig]) -> str:
    """Methods that add nothing, for a message."""
    told = ("weight 0" if config.weight == 0 else "no term after its stage" for config in configs.values())
    return " and ".join(f"{name} ({why})" for name, why in zip(configs, told, strict=True)) or "no method"


def build(spec: Spec, context: Context) -> Objective:
    """Build the methods of a `Spec` for two networks.

    A preset of several parts loses those that need the teacher's logits when its head has other
    classes, and a note says so; what is named in a mapping is refused instead.

    Raises:
        ConfigError: a method that cannot work with these networks.
    """
    methods, notes = dict(spec.built), []
    for name, config in spec.configs.items():
        method = known_methods()[name]
        if spec.preset and method.needs.logits and not context.teacher_logits:
            notes.append(
                f"{name} is off: the teacher's head has other classes than the student; "
                "teacher.head=tune fits a new one."
            )
            continue
        methods[name] = method(config, context)
    return Objective(methods, spec.ce, tuple(notes))


def complete(method: Any) -> dict[str, Any]:
    """A recipe's method with all options, empty for plain training; as it is where the code does not know it."""
    try:
        spec = resolve(method)
    except MfkdError:
        return dict(method) if isinstance(method, Mapping) else {str(method): {}}
    if not spec.configs and spec.ce == 1:
        return {}
    configs = {name: config.model_dump(mode="json") for name, config in spec.configs.items()}
    return {"ce": {"weight": spec.ce}, **configs}


C = TypeVar("C", bound=BaseModel)


def _checked(model: type[C], name: str, options: Any) -> C:
    if not isinstance(options, Mapping | None):
        raise ConfigError(f"method.{name}: got {options!r}, expected a mapping of options such as {{weight: 1.0}}.")
    return validated(model, options or {}, f"method.{name}.")
