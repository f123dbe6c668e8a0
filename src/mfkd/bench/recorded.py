"""What is relied on in files that a comparison reads, which anyone may have written."""

from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from mfkd.errors import MfkdError
from mfkd.records import RunRecord
from mfkd.validation import first_fault

M = TypeVar("M", bound=BaseModel)


class _Open(BaseModel):
    """Has more keys than these."""

    model_config = ConfigDict(extra="allow")


class _Network(_Open):
    model: str


class _Data(_Open):
    name: str
    fraction: FiniteFloat
    val_fraction: FiniteFloat


class _Recipe(_Open):
    data: _Data
    teacher: _Network
    teachers: list[_Network] = Field(default_factory=list)
    student: _Network
    augment: dict[str, Any]


class _Training(_Open):
    epochs: int
    batch_size: int
    schedule: str
    lr: FiniteFloat
    precision: str


class _Line(_Open):
    kind: Literal["teacher", "alone", "distilled"]
    pair: str
    budget: str
    method: str
    seed: int
    folder: str
    split: str
    error: str
    top1: FiniteFloat | None = None


class _Bench(_Open):
    methods: list[str]
    family: list[str]
    kd: str
    cells: list[_Line]


def check_record(record: RunRecord, path: Path) -> None:
    """Refuse the record of a student that cannot be put beside others.

    Raises:
        MfkdError: not finished, or without what a comparison tells; names the key.
    """
    record.check_finished(path)
    _check(_Recipe, record.config, path, "config.")
    _check(_Training, record.training, path, "training.")


def check_bench(value: Any, path: Path) -> None:
    """Refuse what was not written by `mfkd bench`.

    Raises:
        MfkdError: names the key.
    """
    _check(_Bench, value, path)


def _check(model: type[M], value: Any, path: Path, prefix: str = "") -> None:
    try:
        model.model_validate(value)
    except ValidationError as error:
        reason = prefix + first_fault(error)
        raise MfkdError(f"{path} cannot be compared ({reason}); run it again, or leave it out.") from None
