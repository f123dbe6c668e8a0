"""mfkd: knowledge distillation for image classifiers by fusing feature maps."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mfkd.distill import Distiller
    from mfkd.errors import MfkdError
    from mfkd.methods.kd import KD
    from mfkd.methods.mfkd import MFKD
    from mfkd.models import build_model
    from mfkd.train.student import load_student
    from mfkd.types import DistillOutput

    __version__: str

_HOME = {
    "Distiller": "mfkd.distill",
    "DistillOutput": "mfkd.types",
    "KD": "mfkd.methods.kd",
    "MFKD": "mfkd.methods.mfkd",
    "MfkdError": "mfkd.errors",
    "build_model": "mfkd.models",
    "load_student": "mfkd.train.student",
}

__all__ = ["KD", "MFKD", "DistillOutput", "Distiller", "MfkdError", "__version__", "build_model", "load_student"]


def __getattr__(name: str) -> Any:
    # Lazy, so that `mfkd --help` does not wait for torch.
    if name == "__version__":
        from importlib.metadata import version

        return version("mfkd")
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'mfkd' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
