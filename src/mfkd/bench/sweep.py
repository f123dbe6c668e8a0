"""Hyperparameters of a method, chosen by the validation images alone; the test images are not looked at.

Optuna's TPE draws the trials. Each has a seed of its own, and everything is in the sweep's folder, so that a
sweep that was killed goes on as if it had not been.
"""

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from filelock import FileLock, Timeout

from mfkd.bench.cell import Cell, forget, in_a_line, work
from mfkd.bench.collect import SPACE
from mfkd.bench.space import Space, Span, dimension_of, distribution, given, plain, written
from mfkd.config import RunConfig, settings
from mfkd.errors import ConfigError, MfkdError
from mfkd.files import read_object, write_json, write_text
from mfkd.methods import PRESETS, resolve
from mfkd.records import RunRecord
from mfkd.seeding import derive
from mfkd.train.interrupt import Interrupted
from mfkd.validation import differences, validated

if TYPE_CHECKING:
    import optuna

STUDY, TRIALS, BEST, OUTCOME = "study.log", "trials.json", "best.yaml", "outcome.json"
SAID = "Chosen by Top-1 of the last epoch on the validation images; the test images were not looked at."


@dataclass(frozen=True)
class Sweep:
    """What is searched, and in which recipe.

    Args:
        config: the recipe, `data.evaluate` being val; its `out` is the sweep's folder.
        space: what is searched.
        trials: how many are drawn.
        seed: of the drawing.
    """

    config: RunConfig
    space: Space
    trials: int
    seed: int = 0

    @property
    def folder(self) -> Path:
        """Where everything lies."""
        return Path(self.config.out).expanduser()


def plan_sweep(config: RunConfig, method: str, words: Sequence[str], trials: int, seed: int = 0) -> Sweep:
    """Make a sweep of a recipe.

    Args:
        config: the recipe; its seeds are those over which a trial is averaged.
        method: the method whose options are searched: the recipe's own mapping where that has it, else the preset.
        words: such as `weight=1..8`, `kd.temperature=[2,4]` or `train.lr=0.01..0.4`; a key without a dot is an
            option of the method.
        trials: how many are drawn.
        seed: of the drawing.

    Raises:
        ConfigError: nothing to search, or a key, range or choice that the recipe does not take.
    """
    own = config.method if isinstance(config.method, dict) and method in config.method else PRESETS.get(method)
    mapping = own or {method: {}}
    resolve(mapping)
    space: Space = {}
    for word in words:
        key, _, text = word.partition("=")
        key = key if "." in key else f"{method}.{key}"
        key = f"method.{key}" if key.split(".")[0] in (*mapping, "ce") else key
        space[key] = dimension_of(word, text)
    if not space:
        raise ConfigError(
            "sweep: nothing to search; name ranges or choices such as weight=1..8 or kd.temperature=[2,4]."
        )
    raw = config.model_dump(mode="json")
    raw |= {"method": mapping, "out": str(Path(config.out).expanduser() / f"sweep-{method}")}
    raw["data"]["evaluate"] = "val"
    sweep = Sweep(validated(RunConfig, raw), space, trials, seed)
    for name, dimension in space.items():
        for value in (dimension.low, dimension.high) if isinstance(dimension, Span) else dimension:
            chosen(sweep.config, {name: value})
    return sweep


def chosen(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """The recipe with the values of a trial.

    Raises:
        ConfigError: a key or value that it does not take.
    """
    raw = config.model_dump(mode="json")
    for key, value in values.items():
        _put(raw, key, value)
    found = validated(RunConfig, raw)
    found.teacher_training()
    resolve(found.method)
    return found


def run_sweep(sweep: Sweep, say: Callable[[str], None]) -> dict[str, Any]:
    """Draw and train all trials that are still to be done.

    Args:
        sweep: from `plan_sweep`.
        say: gets a line a trial.

    Returns:
        What `trials.json` holds: `said`, `space`, `best` (one of the trials) and `trials`, each with number,
        values, state (complete or fail), val_top1 (mean over the seeds) and by_seed, or error.

    Raises:
        ConfigError: Optuna is not installed, or the folder holds another sweep.
        MfkdError: every trial failed.
        Interrupted: after Ctrl-C, once everything is on disk.
    """
    optuna = _optuna()
    sweep.folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(sweep.folder / ".lock", timeout=0):
            return _searched(sweep, optuna, say)
    except Timeout:
        raise ConfigError(f"{sweep.folder} is being worked at by another mfkd sweep; wait, or choose out=.") from None


def _searched(sweep: Sweep, optuna: Any, say: Callable[[str], None]) -> dict[str, Any]:
    _claim(sweep)
    forget()
    work(Cell(kind="teacher", pair="", seed=sweep.config.teacher.seed, config=sweep.config))
    study = optuna.create_study(
        storage=optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(sweep.folder / STUDY))),
        study_name="sweep",
        direction="maximize",
        load_if_exists=True,
    )
    result = _result(sweep, study)
    while len(result["trials"]) < sweep.trials:
        trial = _next(sweep, study)
        outcome = _trained(sweep, trial)
        write_json(_home(sweep, trial) / OUTCOME, outcome)
        study.tell(trial.number, outcome.get("val_top1"), state=optuna.trial.TrialState[outcome["state"].upper()])
        told = f"{outcome['val_top1']:.2f}%" if "val_top1" in outcome else f"failed: {outcome['error']}"
        say(f"Trial {trial.number + 1} of {sweep.trials}: {written(trial.params)}: {told}")
        result = _result(sweep, study)
    if result["best"] is None:
        raise MfkdError(f"sweep: every trial failed, the first one with: {result['trials'][0]['error']}")
    return result


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise ConfigError("mfkd sweep needs Optuna; run `pip install 'mfkd[sweep]'`.") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _claim(sweep: Sweep) -> None:
    """Write down what is searched; another sweep in the same folder is refused."""
    dimensions = {key: plain(dimension) for key, dimension in sweep.space.items()}
    mine = {
        "recipe": settings(sweep.config),
        "seeds": list(sweep.config.seeds),
        "space": dimensions,
        "seed": sweep.seed,
    }
    path = sweep.folder / SPACE
    if path.exists():
        found = next(differences(read_object(path), mine), None)
        if found is not None:
            key, old, new = found
            raise ConfigError(
                f"{sweep.folder} holds another sweep: {key} is {old!r} there and {new!r} here; choose another out=."
            )
    write_json(path, mine)


def _next(sweep: Sweep, study: "optuna.Study") -> "optuna.Trial | optuna.trial.FrozenTrial":
    """A trial that was interrupted, or a new one, drawn as if nothing had ever been interrupted."""
    optuna = _optuna()
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        if trial.params.keys() == sweep.space.keys():
            return trial
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)  # killed while it was drawn
    distributions = {key: distribution(optuna, dimension) for key, dimension in sweep.space.items()}
    study.sampler = optuna.samplers.TPESampler(seed=derive(sweep.seed, "trial", len(study.trials)) % 2**32)
    return study.ask(fixed_distributions=distributions)


def _trained(sweep: Sweep, trial: "optuna.Trial | optuna.trial.FrozenTrial") -> dict[str, Any]:
    home = _home(sweep, trial)
    by_seed = {}
    try:
        config = chosen(sweep.config, given(sweep.space, trial.params)).model_copy(update={"out": str(home)})
        for seed in config.seeds:
            cell = Cell(kind="distilled", pair="", method=home.name, seed=seed, config=config)
            work(cell)
            by_seed[str(seed)] = RunRecord.load(cell.record).metrics["top1"]
    except (Interrupted, OSError):  # a full disk is no fault of the trial's
        raise
    except Exception as error:  # such as a batch that is too large for the device
        if not isinstance(error, MfkdError):
            write_text(home / "error.log", traceback.format_exc())
        return {"state": "fail", "error": in_a_line(error)}
    return {"state": "complete", "val_top1": sum(by_seed.values()) / len(by_seed), "by_seed": by_seed}


def _home(sweep: Sweep, trial: "optuna.Trial | optuna.trial.FrozenTrial") -> Path:
    return sweep.folder / f"trial-{trial.number}"


def _result(sweep: Sweep, study: "optuna.Study") -> dict[str, Any]:
    """Write and return what is known so far."""
    trials = []
    for trial in study.get_trials(deepcopy=False):
        path = _home(sweep, trial) / OUTCOME
        if trial.state.is_finished():
            outcome = read_object(path) if path.exists() else {"state": "fail", "error": "killed while it was drawn"}
            trials.append({"number": trial.number, "values": given(sweep.space, trial.params), **outcome})
    best = max((one for one in trials if "val_top1" in one), key=lambda one: one["val_top1"], default=None)
    space = {key: plain(dimension) for key, dimension in sweep.space.items()}
    result = {"said": SAID, "space": space, "best": best, "trials": trials}
    write_json(sweep.folder / TRIALS, result)
    if best is not None:
        found: dict[str, Any] = {"method": sweep.config.model_dump(mode="json")["method"]}
        for key, value in best["values"].items():
            _put(found, key, value)
        mean = f"{best['val_top1']:.2f}%, mean of {len(best['by_seed'])} seeds"
        head = f"# {SAID}\n# Best of {len(trials)} trials: {mean}.\n"
        write_text(sweep.folder / BEST, head + yaml.safe_dump(found, sort_keys=False))
    return result


def _put(raw: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key."""
    *above, last = key.split(".")
    for part in above:
        raw = raw.setdefault(part, {})
    raw[last] = value
