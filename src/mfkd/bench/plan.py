"""From a plan of `mfkd bench` to its cells: pairs x methods x seeds x budgets."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Literal

from mfkd.bench.cell import Cell
from mfkd.bench.config import ALONE, Axis, BenchConfig, Seeds, merged
from mfkd.config import RunConfig, StudentConfig, TeacherConfig
from mfkd.errors import ConfigError, UnknownNameError
from mfkd.methods import resolve
from mfkd.overrides import apply_override, read_yaml
from mfkd.sections import choose_views
from mfkd.shipped import plan_names, plan_path, recipe_path
from mfkd.validation import validated


def load_bench(plan: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> BenchConfig:
    """Read a plan, lay `key=value` overrides over it and check the whole.

    Args:
        plan: YAML file, the name of a shipped plan, or the mapping itself.
        overrides: keys of the plan, such as `seeds=[0]`; every other key is one of the base, as `data.name=...`.

    Raises:
        ConfigError: missing file, bad YAML, unknown key or bad value, named by its dotted path.
    """
    raw = dict(plan) if isinstance(plan, Mapping) else read_yaml(_found(Path(plan)))
    own: list[str] = []
    base: list[str] = []
    for override in overrides:
        (own if override.partition("=")[0].split(".")[0] in BenchConfig.model_fields else base).append(override)
    for override in own:
        apply_override(raw, override)
    if isinstance(raw.get("base", "digits"), str):
        raw["base"] = _recipe(raw.get("base", "digits"))
    for override in base:
        apply_override(raw, f"base.{override}")
    bench = validated(BenchConfig, raw)
    cells(bench)  # every recipe in it is checked now
    return bench


def cells(bench: BenchConfig) -> list[Cell]:
    """Every training of a plan, the teacher of a pair before its students, in the order in which they are done.

    Raises:
        ConfigError: a recipe or method that will not do, named by its dotted path.
    """
    found: list[Cell] = []
    for chosen in product(*(_axis(bench, axis) for axis in bench.order)):
        at = dict(zip(bench.order, chosen, strict=True))
        seed, method = at["seed"], at["method"]
        if seed not in seeds_of(bench, method) or (method == ALONE and not bench.alone):
            continue
        number, place = at["pair"], at["budget"]
        pair, budget = pair_names(bench)[number], budget_names(bench)[place]
        teacher = _teacher_cell(bench, number)
        if all(cell.key != teacher.key for cell in found):
            found.append(teacher)
        home = Path(bench.out).expanduser() / pair / budget / method
        raw = choose_views(bench.all_budgets[place].over(_raw(bench, number)))
        views = (raw.get("cache") or {}).get("views")
        if method in bench.live and views is not None:
            raw = merged(raw, {"cache": {"views": None}, "augment": {"views": views}})
        value = bench.all_pairs[number].methods.get(method, bench.methods[method])
        seeds = seeds_of(bench, method)
        where = _where(bench, number) + (f" with budgets.{place}" if bench.budgets else "")
        config = _config({**raw, "method": value, "seeds": seeds, "out": str(home)}, where, method)
        kind: Literal["alone", "distilled"] = "alone" if method == ALONE else "distilled"
        found.append(Cell(kind=kind, pair=pair, budget=budget, method=method, seed=seed, config=config))
    return found


def seeds_of(bench: BenchConfig, method: str) -> Seeds:
    """The seeds of a method; the student alone has those of all, so that every method has its partner."""
    if method == ALONE:
        return tuple(dict.fromkeys(seed for seeds in (bench.seeds, *bench.method_seeds.values()) for seed in seeds))
    return bench.method_seeds.get(method, bench.seeds)


def pair_names(bench: BenchConfig) -> list[str]:
    """Names of the pairs, which are folders: as given, else teacher and student."""
    return _unlike("pairs", [pair.name or _pair_name(pair.over(_base(bench))) for pair in bench.all_pairs])


def budget_names(bench: BenchConfig) -> list[str]:
    """Names of the budgets: as given, else the changes; a single unnamed one has none, and no folder of its own."""
    if len(bench.all_budgets) == 1:
        return [bench.all_budgets[0].name]
    return _unlike("budgets", [budget.name or _changes(budget.over({})) or "base" for budget in bench.all_budgets])


def _teacher_cell(bench: BenchConfig, number: int) -> Cell:
    pair = pair_names(bench)[number]
    home = Path(bench.out).expanduser() / pair
    config = _config({**_raw(bench, number), "method": ALONE, "out": str(home)}, _where(bench, number), "")
    return Cell(kind="teacher", pair=pair, seed=config.teacher.seed, config=config)


def _where(bench: BenchConfig, number: int) -> str:
    return f"pairs.{number}" if bench.pairs else "base"


def _axis(bench: BenchConfig, axis: Axis) -> Sequence[Any]:
    if axis == "method":
        return list(bench.methods)
    if axis == "seed":
        return seeds_of(bench, ALONE)
    return range(len(bench.all_pairs if axis == "pair" else bench.all_budgets))


def _base(bench: BenchConfig) -> dict[str, Any]:
    return bench.base if isinstance(bench.base, dict) else _recipe(bench.base)


def _raw(bench: BenchConfig, number: int) -> dict[str, Any]:
    pair = bench.all_pairs[number]
    for name in pair.methods:
        if name not in bench.methods:
            raise UnknownNameError("method", name, bench.methods, f"pairs.{number}.methods can only change one.")
    return pair.over(_base(bench))


def _config(raw: dict[str, Any], where: str, method: str) -> RunConfig:
    try:
        config = validated(RunConfig, raw)
        config.teacher_training()
        resolve(config.method)
    except ConfigError as error:
        text = f"methods.{method}" if method and str(error).startswith(("unknown method", "method")) else where
        raise ConfigError(f"{text}: {error}") from None
    return config


def _recipe(name: str) -> dict[str, Any]:
    """A recipe without what the plan says itself."""
    path = Path(name)
    raw = read_yaml(path if path.is_file() or path.parent not in (Path(), Path("recipes")) else recipe_path(name))
    return {key: value for key, value in raw.items() if key not in ("out", "method", "seeds")}


def _found(path: Path) -> Path:
    if path.is_file():
        return path
    if path.parent in (Path(), Path("recipes")):
        return plan_path(str(path))
    raise ConfigError(f"plan {path} does not exist; shipped ones: {', '.join(plan_names())}.")


def _pair_name(raw: Mapping[str, Any]) -> str:
    teachers, student = raw.get("teacher") or {}, raw.get("student") or {}
    teachers = teachers if isinstance(teachers, list) else [teachers, *(raw.get("teachers") or ())]
    models = "+".join(str((one or {}).get("model", TeacherConfig().model)) for one in teachers)
    name = f"{models}-{student.get('model', StudentConfig().model)}"
    return re.sub(r"[^\w.,+=-]+", "_", name).lstrip("_.-")


def _changes(raw: Mapping[str, Any]) -> str:
    return re.sub(r"[^\w.,+=-]+", "_", ",".join(f"{key}={value}" for key, value in _leaves(raw)))


def _leaves(raw: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in raw.items():
        if isinstance(value, dict):
            yield from _leaves(value)
        else:
            yield key, value


def _unlike(key: str, names: list[str]) -> list[str]:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"{key}: two of them are called {twice}; give each a name of its own.")
    return names
