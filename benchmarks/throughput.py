"""What distilling costs: our trainings and the usual research loop, in one process and one run.

    python benchmarks/throughput.py --out throughput.json

All trainings take turns, for several rounds; each ratio is worked out within a round, and told as the
median over the rounds with the range. `--help` lists what can be left out. Nothing else should run on
the machine.
"""

import argparse
import json
import random
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from trainings import Training, Workers, ours, plan_of, reference, teacher_alone, updates, with_workers

from mfkd.methods import PRESETS
from mfkd.pipeline import share_knowledge
from mfkd.plan import Plan
from mfkd.profile import profile
from mfkd.records import environment
from mfkd.sections import choose_precision
from mfkd.teachers import obtain_teacher
from mfkd.train.memory import begin
from mfkd.train.memory import peak as memory_peak
from mfkd.train.shared import Shared

PARTS = {
    "bf16": {"precision": "fp32"},
    "channels-last": {"channels_last": False},
    "compile": {"compile": False},
    "folding": {},
    "input": {},
}
"""What is switched off, and how; without options it is done to the training once it stands."""
PRECISION = choose_precision("auto")
if PRECISION == "fp32":
    del PARTS["bf16"]  # it is switched off already
FADE = PRESETS["mfkd"]["mfkd"]["fade"]  # share of a run after which the fused maps are not compared any more
PROCESSES = 5  # whose peaks of memory are compared; single ones differ by some per cent


def measure(trainings: dict[str, Training], batch: int, rounds: int, steps: int, warm: int) -> list[dict[str, float]]:
    """Seconds an image of each training, for each round.

    Within a round trainings take turns after every update, in an order that changes, so that whatever else the machine
    does strikes all alike; those with worker processes, which must not run beside others, take theirs in a row.
    """
    found, shuffle = [], random.Random(0).shuffle  # noqa: S311 - no secret
    turns = [name for name, one in trainings.items() if one.workers is None]
    fed = [name for name in trainings if name not in turns]
    for number in range(rounds + 1):
        row = dict.fromkeys(trainings, 0.0)
        for _ in range(steps):
            shuffle(turns)
            for name in turns:
                row[name] += _seconds(trainings[name].step)
        shuffle(fed)
        for name in fed:
            one = trainings[name]
            if one.workers is not None:
                one.workers.start()
                for _ in range(warm):
                    one.step()
                row[name] = sum(_seconds(one.step) for _ in range(steps))
                one.workers.stop()
        if number:  # the first round warms up
            found.append({name: taken / (steps * batch) for name, taken in row.items()})
            print(".", end="", flush=True, file=sys.stderr)
    return found


def _seconds(step: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    step()
    return time.perf_counter() - begun


def spread(values: list[float]) -> dict[str, float]:
    """Median and range."""
    return {"median": median(values), "low": min(values), "high": max(values)}


RATIOS: dict[str, Callable[[dict[str, float]], float]] = {
    "MFKD cached / plain student training": lambda r: r["mfkd cached"] / r["plain"],
    "MFKD cached, faded out / plain student training": lambda r: r["mfkd faded"] / r["plain"],
    "MFKD cached, a whole run / plain student training": lambda r: (
        (FADE * r["mfkd cached"] + (1 - FADE) * r["mfkd faded"]) / r["plain"]
    ),
    "MFKD live / (plain + teacher forward)": lambda r: r["mfkd live"] / (r["plain"] + r["teacher"]),
    "reference loop / MFKD cached": lambda r: r["reference kd"] / r["mfkd cached"],
    "reference loop / MFKD live": lambda r: r["reference kd"] / r["mfkd live"],
    "reference loop / KD live": lambda r: r["reference kd"] / r["kd live"],
    "reference loop / our plain training": lambda r: r["reference kd"] / r["plain"],
    "reference plain loop / our plain training": lambda r: r["reference plain"] / r["plain"],
}


def one(args: argparse.Namespace, pair: str, batch: int, *, parts: bool) -> dict[str, Any]:
    """All figures of a pair of networks at a batch size."""
    plan, cached_plan = plan_of(args, pair, batch), plan_of(args, pair, batch, views=args.views)
    shared = share_knowledge(cached_plan, obtain_teacher(cached_plan), lambda _: None, always=True)
    prepared = replace(shared, store=None)
    workers = Workers(plan, batch, args.workers)
    live = ours(plan, prepared)
    kd = plan.config.model_copy(update={"method": "kd"})
    fits = {"mfkd live": live, "plain": ours(plan, None), "mfkd cached": ours(cached_plan, shared),
            "mfkd faded": ours(cached_plan, shared), "kd live": ours(Plan(kd, plan.data), Shared())}  # fmt: skip
    fits["mfkd faded"].state.epoch = fits["mfkd faded"].training.epochs - 1  # the last epoch, long after the fade
    trainings = {name: updates(fit) for name, fit in fits.items()}
    trainings |= {
        "teacher": teacher_alone(live),
        "reference plain": reference(plan, workers, distilled=False),
        "reference kd": reference(plan, workers, distilled=True),
    }
    if parts:
        for name, options in PARTS.items():
            changed = ours(plan_of(args, pair, batch, **options), prepared, fold=name != "folding")
            fits[name] = changed
            trainings[f"without {name}"] = with_workers(changed, workers) if name == "input" else updates(changed)
    rounds = measure(trainings, batch, args.rounds, args.steps, args.warm)
    ratios = {name: spread([ratio(row) for row in rounds]) for name, ratio in RATIOS.items()}
    taken = {name: spread([1 / row[name] for row in rounds]) for name in trainings}
    part_ratios = {
        name: spread([row[f"without {name}"] / row["mfkd live"] for row in rounds]) for name in PARTS if parts
    }
    if parts:
        part_ratios["cache"] = spread([row["mfkd live"] / row["mfkd cached"] for row in rounds])
    build = shared.seconds.get("cache", 0.0) / (args.views * len(cached_plan.data.train))
    gained = median(row["mfkd live"] - row["mfkd cached"] for row in rounds)
    found = {
        "images_per_second": taken,
        "ratios": ratios,
        "parts": part_ratios,
        "compiled": {name: fit.compiled.names for name, fit in fits.items()},
        "cache": {
            "views": args.views,
            "seconds_an_image_and_view": build,
            "megabytes_an_image_and_view": 1e-6 * shared.store.manifest.total / len(cached_plan.data.train) / args.views
            if shared.store else 0.0,
            "break_even_epochs_a_view": build / gained if gained > 0 else None,
        },
    }  # fmt: skip
    for fit in fits.values():
        fit.compiled.remove()
    found["profile"] = profile(cached_plan, args.steps * args.rounds)
    if args.memory:
        kinds = ("plain", "cached")
        peaks = [{kind: _peak(args, pair, batch, kind) for kind in kinds} for _ in range(PROCESSES)]
        found["peak_mb"] = {kind: spread([one[kind]["peak"] / 1e6 for one in peaks]) for kind in kinds}
        found["mapped_mb"] = spread([one["cached"]["mapped"] / 1e6 for one in peaks])
        own = {kind: [one[kind]["peak"] - one[kind]["mapped"] for one in peaks] for kind in kinds}
        found["memory"] = {
            "median": median(own["cached"]) / median(own["plain"]),
            "low": min(own["cached"]) / max(own["plain"]),
            "high": max(own["cached"]) / min(own["plain"]),
        }
    return found


def _peak(args: argparse.Namespace, pair: str, batch: int, kind: str) -> dict[str, int]:
    """What `peak` finds in a process of its own."""
    words = [sys.executable, __file__, "--peak", kind, "--pairs", pair, "--batches", str(batch)]
    for name in ("folder", "data", "images", "fraction", "views", "seen", "threads"):
        words += [f"--{name}", str(getattr(args, name))]
    found: dict[str, int] = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    return found


def peak(args: argparse.Namespace) -> dict[str, int]:
    """Bytes that are held at most in a few updates, as `mfkd run` counts them: after the knowledge was built.

    Returns:
        `peak`, and how much of it is `mapped`: pages of the cache's files, which all processes have in common and the
        system takes back when it wants.
    """
    (pair,), (batch,) = args.pairs, args.batches
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if args.peak == "plain":
        fit = ours(plan_of(args, pair, batch), None)
    else:
        plan = plan_of(args, pair, batch, views=args.views)
        teacher = obtain_teacher(plan)
        fit = ours(plan, share_knowledge(plan, teacher, lambda _: None, always=True), teacher=teacher)
    begin(device)
    train = updates(fit)
    for _ in range(10):
        train.step()
    return {"peak": memory_peak(device), "mapped": mapped(Path(args.folder)) if device.type == "cpu" else 0}


def mapped(folder: Path) -> int:
    """Bytes of files in a folder that this process has mapped and holds; 0 where the system does not tell."""
    maps = Path("/proc/self/smaps")
    if not maps.exists():
        return 0
    found, inside = 0, False
    for line in maps.read_text().splitlines():
        head = line.split(maxsplit=5)
        if "-" in head[0]:
            inside = len(head) == 6 and Path(head[5]).is_relative_to(folder.resolve())
        elif inside and head[0] == "Rss:":
            found += 1024 * int(head[1])
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", nargs="+", default=["resnet56:resnet20", "vgg13:vgg8"], help="teacher:student")
    parser.add_argument("--batches", nargs="+", type=int, default=[64, 128], help="batch sizes")
    parser.add_argument("--data", default="generated", help="generated, or a data.name such as parquet:PATH")
    parser.add_argument("--images", type=int, default=4096, help="generated images")
    parser.add_argument("--fraction", type=float, default=0.1, help="share of the images of --data")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=8, help="updates a round that are timed")
    parser.add_argument("--warm", type=int, default=2, help="updates before them, with worker processes")
    parser.add_argument("--workers", type=int, default=2, help="worker processes of the reference loop")
    parser.add_argument("--views", type=int, default=1, help="views in the knowledge cache")
    parser.add_argument(
        "--seen",
        type=int,
        default=12_000_000,
        help="images of the whole run, for train.compile=auto (240 epochs of CIFAR)",
    )
    parser.add_argument("--threads", type=int, default=0, help="threads of torch; 0: its own choice")
    parser.add_argument("--no-parts", dest="parts", action="store_false", help="leave the parts out")
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="leave the memory out")
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--peak", choices=["plain", "cached"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.peak:
        print(json.dumps(peak(args)))
        return
    with tempfile.TemporaryDirectory() as folder:
        args.folder = args.folder or folder
        begun = time.perf_counter()
        found = {
            pair: {batch: one(args, pair, batch, parts=args.parts and batch == args.batches[0])
                   for batch in args.batches}
            for pair in args.pairs
        }  # fmt: skip
        settings = {k: v for k, v in vars(args).items() if k not in ("folder", "peak", "out", "pairs", "batches")}
        settings["precision"] = PRECISION
        record = {
            "pairs": found,
            "settings": settings,
            "environment": environment("cuda" if torch.cuda.is_available() else "cpu"),
            "seconds": time.perf_counter() - begun,
        }
    text = json.dumps(record, indent=1)
    if args.out:
        args.out.write_text(text)
    print("\n" + table(json.loads(text)))


def table(record: dict[str, Any]) -> str:
    """The page's own tables, see docs/performance.py."""
    page = runpy.run_path(str(Path(__file__).parents[1] / "docs" / "performance.py"))
    text: str = page["tables"](record)
    return text


if __name__ == "__main__":
    main()
