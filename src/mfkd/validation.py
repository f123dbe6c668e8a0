"""Checks of raw options against a frozen model; the first fault becomes one readable line."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from mfkd.errors import ConfigError, UnknownNameError, brief, cut

M = TypeVar("M", bound=BaseModel)

_EXPECTED = {
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "dict_type": "a mapping of keys",
    "model_type": "a mapping of keys",
    "none_required": "null",
    "invalid_key": "text as the key",
    "literal_error": "{expected}",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "{ge:g} or more",
    "less_than": "less than {lt:g}",
    "less_than_equal": "{le:g} or less",
    "too_short": "{min_length} or more entries",
}


class Frozen(BaseModel):
    """A config that cannot change and takes no key it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Python counts True as 1; `epochs: yes` is a slip."""
        annotation = cls.model_fields[info.field_name or ""].annotation
        allowed = (annotation, *get_args(annotation))
        if isinstance(value, bool) and bool not in allowed and not any(value is one for one in allowed):
            raise PydanticCustomError("switch", "expected something else than true or false")
        return value


def validated(model: type[M], raw: Mapping[str, Any], prefix: str = "") -> M:
    """`raw` as a `model`.

    Raises:
        ConfigError: the first fault, named by `prefix` and its dotted path.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise config_error(model, error, prefix) from None


def first_fault(error: ValidationError) -> str:
    """The first fault of a pydantic error as `key: message`."""
    first = error.errors()[0]
    return cut(": ".join(part for part in (".".join(map(str, first["loc"])), first["msg"]) if part))


def reason(error: Exception) -> str:
    """Why something could not be read, in at most 160 characters: of a pydantic error its first fault."""
    text = first_fault(error) if isinstance(error, ValidationError) else str(error)
    return textwrap.shorten(text, 160, placeholder=" ...")


def config_error(model: type[BaseModel], error: ValidationError, prefix: str = "") -> ConfigError:
    """The first fault of a pydantic error as one line that names key, value and expectation."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    dotted = prefix + cut(".".join(path))
    if first["type"] == "extra_forbidden":
        parent = _model_at(model, path[:-1])
        # What stands elsewhere under the same name is what was meant.
        known = [key for key, _, _ in describe(model) if key.rpartition(".")[2] == path[-1]] or [
            ".".join([*path[:-1], name]) for name in (parent.model_fields if parent else ())
        ]
        return UnknownNameError("key", dotted, [prefix + key for key in known])
    if first["type"] == "value_error":
        where = f"{dotted.rstrip('.')}: " if dotted else ""
        return ConfigError(f"{where}{cut(first['msg'].removeprefix('Value error, '))}.")
    expected = _EXPECTED.get(first["type"], "").format(**first.get("ctx", {}))
    message = f"expected {expected}" if expected else f"{first['msg'][:1].lower()}{first['msg'][1:]}"
    return ConfigError(f"{dotted}: got {brief(first['input'])}, {message}{_about(model, path)}.")


def differences(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two nested mappings differ: dotted key, old and new value; None stands for a missing key."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*new, *(key for key in old if key not in new)]:
            yield from differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    elif old != new:
        yield path, old, new


def describe(model: type[BaseModel], prefix: str = "") -> list[tuple[str, str, str]]:
    """Every key of `model` in the order of its fields, those of nested models in their place.

    Returns:
        Rows (dotted key, default as one would write it, meaning with the choices if there are any).
    """
    rows = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            rows += describe(kind, f"{prefix}{name}.")
            continue
        default = field.get_default(call_default_factory=True)
        written = yaml.safe_dump(default, default_flow_style=True, width=1000)
        choices = get_args(kind) if get_origin(kind) is Literal else ()
        meaning = ": ".join(
            part for part in (", ".join(str(one).lower() for one in choices), field.description) if part
        )
        rows.append((prefix + name, written.removesuffix("...\n").strip(), meaning))
    return rows


def _about(model: type[BaseModel], path: Sequence[str]) -> str:
    """What the key means, in brackets; nothing where that is not written down."""
    for length in range(len(path), 0, -1):
        parent = _model_at(model, path[: length - 1])
        field = parent.model_fields.get(path[length - 1]) if parent else None
        if field:
            return f" ({field.description})" if field.description else ""
    return ""


def _model_at(model: type[BaseModel], path: Sequence[str]) -> type[BaseModel] | None:
    for part in path:
        field: FieldInfo | None = model.model_fields.get(part)
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return None
        model = field.annotation
    return model
