"""Networks of the user's own code, by `package.module:factory` or `path/to/file.py:factory`."""

import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from mfkd.errors import ConfigError, MfkdError, UnknownNameError
from mfkd.models.layers import check_sizes
from mfkd.models.trust import Watched, watched

_NO_NETWORKS = sys.stdlib_module_names | {"torch"}
"""Their functions do whatever their arguments say; `torch.hub.load` runs the code of others."""


def build_user(name: str, num_classes: int | None, in_channels: int, options: Mapping[str, Any]) -> nn.Module:
    """Call a factory of the user.

    Args:
        name: a module or the path of a file, a colon, and a function or class that returns the network. Modules
            are also looked for in the working folder, and what a file imports in the file's own folder.
        num_classes: given to the factory; None leaves it to the factory's default.
        in_channels: given to the factory where it has a parameter of this name.
        options: further keywords of the factory.

    Raises:
        UnknownNameError: the code has no such factory; the nearest names are told.
        ConfigError: code that a file from others names (see `mfkd.models.trust`), that is missing or fails on import;
            a factory that takes other arguments, or returns something else than a network.
    """
    check_sizes(2 if num_classes is None else num_classes, in_channels)
    source, _, wanted = name.rpartition(":")
    is_file = source.endswith(".py")
    folder = Path(source).expanduser().resolve().parent if is_file else Path.cwd()
    _check_source(source, is_file, folder)
    with watched(source, wanted, folder) as who, _on_path(folder, forget=is_file):
        with torch.random.fork_rng(devices=[]):  # a file that seeds itself would make all seeds of a run alike
            module = _import(source, is_file, folder, who)
        factory = _factory(module, source, wanted)
        arguments = _arguments(name, factory, num_classes, in_channels, options)
        try:
            network = factory(**arguments)
        except MfkdError:
            raise
        except Exception as error:  # the user's code may raise anything
            raise ConfigError(
                f"{name} fails when it is called ({_told(error, folder)}); correct it, or the options of the network."
            ) from error
    if not isinstance(network, nn.Module):
        raise ConfigError(f"{name} returned {type(network).__name__}, expected a torch.nn.Module; return the network.")
    return network


def _check_source(source: str, is_file: bool, folder: Path) -> None:
    if not is_file and not all(part.isidentifier() for part in source.split(".")):
        raise ConfigError(f"{source!r} is no module; name one as package.module:factory, or a file as net.py:factory.")
    top = source.partition(".")[0]
    if not is_file and top in _NO_NETWORKS and not any((folder / name).exists() for name in (top, f"{top}.py")):
        raise ConfigError(f"{source} is a part of Python or torch and builds no classifier; name code of your own.")


def _import(source: str, is_file: bool, folder: Path, who: str) -> ModuleType:
    try:
        return _import_file(Path(source).expanduser().resolve(), who) if is_file else import_module(source)
    except MfkdError:
        raise
    except (Exception, SystemExit) as error:  # the user's code may raise anything, and scripts end themselves
        if is_file and not Path(source).expanduser().exists():
            raise ConfigError(f"file {source} does not exist; check the path.") from None
        if isinstance(error, ModuleNotFoundError) and not is_file and f"{source}.".startswith(f"{error.name}."):
            raise ConfigError(
                f"module {source} cannot be found; install it, start in its folder, or name its file, path/to/file.py."
            ) from None
        hint = " or put what it runs under if __name__ == '__main__'" if isinstance(error, SystemExit) else ""
        raise ConfigError(f"{source} fails when it is imported ({_told(error, folder)}); correct it{hint}.") from error


def _told(error: BaseException, folder: Path) -> str:
    """The error, and the last line of the user's own code that led to it."""
    text = ": ".join(part for part in (type(error).__name__, " ".join(str(error).split())) if part)
    lines = [
        f", {Path(frame.filename).name} line {frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(folder)
    ]
    return text + (lines[-1] if lines else "")


def _import_file(path: Path, who: str) -> ModuleType:
    # The whole path is the name, so that two files called net.py stay apart.
    loader = Watched(str(path.with_suffix("")).replace(".", "_"), str(path), who)
    spec = spec_from_file_location(loader.name, path, loader=loader)
    if spec is None:
        raise ImportError(f"no loader for {path}")
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    loader.exec_module(module)
    return module


@contextmanager
def _on_path(folder: Path, forget: bool) -> Iterator[None]:
    """A block in which `folder` is searched first.

    With `forget`, modules that lie in it are not kept under their names, for another file may have neighbours
    that are called the same.
    """
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before if forget else ():
            if _lies_in(folder, name.partition(".")[0], sys.modules[name]):
                del sys.modules[name]


def _lies_in(folder: Path, top: str, module: ModuleType) -> bool:
    """Whether a module belongs to `top`, a neighbour in the folder and not, say, in a virtual environment there."""
    # A package without __init__.py has only the second.
    places = [getattr(module, "__file__", None), *getattr(module, "__path__", ())]
    return any(Path(p) == folder / f"{top}.py" or Path(p).is_relative_to(folder / top) for p in places if p)


def _factory(module: ModuleType, source: str, wanted: str) -> Callable[..., Any]:
    factory = getattr(module, wanted, None)
    if factory is None:
        known = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise UnknownNameError("factory", wanted, known, f"name a function or class of {source}.")
    if isinstance(factory, nn.Module) or not callable(factory):
        raise ConfigError(
            f"{source}:{wanted} is {type(factory).__name__}, expected a factory; "
            "name a function or class that returns the network."
        )
    return factory  # type: ignore[no-any-return]


def _arguments(
    name: str, factory: Callable[..., Any], num_classes: int | None, in_channels: int, options: Mapping[str, Any]
) -> dict[str, Any]:
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # some of those written in C tell nothing
        raise ConfigError(f"{name} does not tell its arguments; name a function or class written in Python.") from None
    arguments = dict(options)
    if num_classes is not None:
        arguments["num_classes"] = num_classes
    if "in_channels" in parameters:
        arguments["in_channels"] = in_channels
    kinds = {parameter.kind for parameter in parameters.values()}
    named = {key for key, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    unknown = [] if inspect.Parameter.VAR_KEYWORD in kinds else [key for key in arguments if key not in named]
    if unknown:
        hint = " A factory must take the number of classes." if "num_classes" in unknown else ""
        raise ConfigError(
            f"{name} does not take {', '.join(unknown)}; accepted: {', '.join(sorted(named)) or 'nothing'}.{hint}"
        )
    missing = [
        key
        for key, p in parameters.items()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and key not in arguments
    ]
    if missing:
        raise ConfigError(f"{name} needs further arguments: {', '.join(missing)}; give them as options of the network.")
    return arguments
