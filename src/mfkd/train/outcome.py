"""What a finished training leaves to read: its record."""

from accelerate import Accelerator

from mfkd.distill import Distiller
from mfkd.records import RunRecord, environment
from mfkd.train.job import Job, State

ON_VALIDATION = "The test images were not looked at: every figure called test is of the validation images."


def make_record(job: Job, state: State, distiller: Distiller, steps: int, accelerator: Accelerator) -> RunRecord:
    """The record of a training of so many updates, without the final metrics."""
    evaluated = [row for row in state.rows if "test_top1" in row]
    images = steps * job.training.batch_size
    share = 1 - state.prepared_epochs / job.training.epochs  # the rest was trained in the preparation's seconds
    notes = [*distiller.notes, *([ON_VALIDATION] if job.config.data.evaluate == "val" else [])]
    if len(state.processes) > 1:
        notes.append(
            f"Trained by {', then '.join(map(str, state.processes))} processes: "
            "not to the bit what an uninterrupted run gives."
        )
    return RunRecord(
        kind=job.kind,
        config=job.config.model_dump(mode="json"),
        config_hash=job.hash,
        seed=job.seed,
        training=job.training.model_dump(mode="json"),
        method=distiller.objective.describe(),
        teacher_sha256=job.teacher_sha256,
        notes=notes,
        curves=state.rows,
        last=evaluated[-1],
        best=max(evaluated, key=lambda row: row["test_top1"]),
        seconds=round(state.seconds, 2),
        preparation_seconds=round(state.preparation_seconds, 2),
        shared_seconds={name: round(seconds, 2) for name, seconds in distiller.shared_seconds.items()},
        steps=steps,
        images=images,
        images_per_second=round(images * share / max(1e-9, state.seconds), 1),
        peak_mb=round(state.peak_mb, 1),
        processes=accelerator.num_processes,
        compiled=state.compiled or [],
        environment=environment(accelerator.device.type),
    )
