"""What a checkpoint holds of a training, and taking it up again, on any number of processes."""

from dataclasses import asdict
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor

from mfkd.distill import Distiller
from mfkd.errors import ConfigError
from mfkd.train.checkpoint import fitting
from mfkd.train.job import Job, State
from mfkd.train.meter import Meter

_STATE = TypeAdapter(State)


def snapshot(
    job: Job, state: State, distiller: Distiller, others: list[dict[str, Tensor]], **parts: Any
) -> dict[str, Any]:
    """All that moves, as tensors and plain values.

    Args:
        job: what is trained.
        state: of the first process.
        distiller: its networks; those of all processes agree where a checkpoint is taken.
        others: running sums of the other processes.
        parts: optimizer, average and scaler, each None where there is none, as before the training; and preparation,
            where it is not done.
    """
    parts = {"optimizer": None, "average": None, "scaler": None, **parts}
    return {
        "hash": job.hash,
        "seed": job.seed,
        "model": distiller.state_dict(),
        **{name: part.state_dict() if part is not None else None for name, part in parts.items()},
        "state": asdict(state),
        "others": others,
    }


def restored(  # noqa: PLR0917 - what it is of, and where it goes
    job: Job, saved: dict[str, Any], distiller: Distiller, rank: int, world: int, steps: int
) -> State:
    """Take up the networks; returns the state of one process.

    Args:
        job: what is trained.
        saved: from `snapshot`.
        distiller: gets the weights.
        rank: number of this process.
        world: how many there are now; with another number than before the sums so far go to the first one.
        steps: updates an epoch.

    Raises:
        CheckpointError: an entry is missing, or belongs to another network.
        ConfigError: a checkpoint of other settings.
    """
    with fitting(job.checkpoint):
        if (saved["hash"], saved["seed"]) != (job.hash, job.seed):
            raise ConfigError(
                f"{job.folder} holds an unfinished run of other settings; choose another folder with out=."
            )
        check_progress(saved["state"], job.training.epochs, steps)
        distiller.load_state_dict(saved["model"])
        meters = [saved["state"]["meter"]["sums"], *saved.get("others", [])]
        if len(meters) != world:
            total = {name: torch.stack([sums[name] for sums in meters]).sum(0) for name in meters[0]}
            meters = [total] + [{name: torch.zeros_like(value) for name, value in total.items()}] * (world - 1)
        state = State(**{**saved["state"], "meter": Meter(dict(meters[rank]))})
    if world not in state.processes[-1:]:
        state.processes.append(world)
    return state


def check_progress(state: dict[str, Any], epochs: int, steps: int) -> None:
    """Refuse a state that no training of so many epochs and updates an epoch can have, before anything follows it.

    Raises:
        TypeError: an unknown entry, or no mapping.
        ValueError: an entry of another type, or one that contradicts the others.
    """
    found = State(**state)
    _STATE.validate_python(state)
    if not 0 <= found.prepared_epochs <= found.epoch <= epochs or not 0 <= found.step < steps:
        raise ValueError(f"epoch {found.epoch} of {epochs}, step {found.step} of {steps}")
    if len(found.rows) != found.epoch - found.prepared_epochs or not all("seconds" in row for row in found.rows):
        raise ValueError(f"{len(found.rows)} rows in the log of {found.epoch} epochs")
    sums = state["meter"]["sums"]
    if found.step and not {"loss", "parts", "right", "labelled"} <= sums.keys():
        raise ValueError("no sums of the epoch so far")
    if any(value.ndim for value in sums.values()):
        raise ValueError("a sum that is no single number")
