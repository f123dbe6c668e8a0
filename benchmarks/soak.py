"""Repeats short runs in one process, and looks whether memory, handles, threads, children or temporary files grow.

    python benchmarks/soak.py --minutes 30

A round does every recipe of `RECIPES` in a folder of its own, repeats the run out of its finished folder, asks the
student, has one exported by the command and asks the ONNX file, and deletes all. Writes `docs/records/soak.json`, of
which `python docs/reliability.py` tells; ends with 1 where something grows. `--rounds N --out FILE` makes a short one.
"""

import argparse
import ctypes
import gc
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy import stats

from mfkd.config import load_config
from mfkd.export.classify import GRAPH, classify
from mfkd.files import write_json
from mfkd.handed import predict_images
from mfkd.pipeline import run
from mfkd.plan import open_plan
from mfkd.records import environment
from mfkd.train import cost

RECORD = Path(__file__).parents[1] / "docs" / "records" / "soak.json"
TINY = (
    "data.name=digits", "data.fraction=0.05", "teacher.model=resnet8", "student.model=resnet8", "train.epochs=2",
    "train.batch_size=32", "train.schedule=cosine", "teacher.train.epochs=1", "train.compile=false",
)  # fmt: skip
RECIPES: dict[str, tuple[str, ...]] = {
    "cache": ("method={mfkd: {calibration_epochs: 1}, kd: {}}", "cache.views=1", "train.ema=0.9", "train.accumulate=2"),
    "memory": ("method={crd: {width: 8}, ab: {initial_share: 0.5}, kd: {}}", "augment.mixup=0.2", "log.trackers=[]"),
    "replaced": ("method=simkd", "checkpoint.every_steps=1", "log.trackers=[]"),
}
EXPORTED = "cache"
COUNTS = ("handles", "threads", "children", "files")
WARM = 0.25  # share of the rounds that is not counted, while allocators and caches fill
# MB a round below which memory is not said to grow. It was 0.036 while two integers, 56 bytes, of every tensor that was
# read were kept for good. The smallest student that we could leak has 0.31 MB.
LEAST = 0.02
CONFIDENCE = 0.99
FEWEST = 6  # rounds after the warm-up, below which nothing is said of memory


def main() -> None:
    """Run, write, and end with 1 where something grows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rounds", type=int, help="so many rounds, however long they take")
    parser.add_argument("--out", type=Path, default=RECORD)
    words = parser.parse_args()
    torch.set_num_threads(1)
    cost.SECONDS = 0.0  # nobody asks for latencies here
    begun = time.perf_counter()
    rounds: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = folder  # what is left there is left by us
        while len(rounds) < words.rounds if words.rounds else time.perf_counter() - begun < 60 * words.minutes:
            one_round(Path(folder) / "round")
            rounds.append(measure(Path(folder)))
            print(len(rounds), " ".join(f"{name} {value:g}" for name, value in rounds[-1].items()), flush=True)
        tempfile.tempdir = None
    found = judged(rounds)
    found |= {
        "minutes": round((time.perf_counter() - begun) / 60, 1),
        "recipes": {name: [*TINY, *options] for name, options in RECIPES.items()},
        "rounds": rounds,
        "environment": environment("cpu"),
    }
    write_json(words.out, found)
    print(f"{len(rounds)} rounds; memory {found['memory']}; written to {words.out}")
    if found["growing"]:
        sys.exit(f"growing: {', '.join(found['growing'])}")


def one_round(folder: Path) -> None:
    """Every recipe once, from data to an answer."""
    for name, options in RECIPES.items():
        out = folder / name
        places = [f"out={out}", f"cache.folder={folder / 'knowledge'}"]
        plan = open_plan(load_config(None, [*TINY, *options, *places]))
        run(plan, _silent)
        run(plan, _silent)  # out of the finished folder
        picture = folder / "seven.png"
        Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(picture)
        predict_images([picture], out)
        if name == EXPORTED:
            classify([picture], _exported(out, folder / "export"))
    shutil.rmtree(folder)


def measure(folder: Path) -> dict[str, float]:
    """What the process holds now: `memory` in MB (resident), and counts."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)  # what is free already is no leak
    own = Path("/proc/self")
    children = [pid for task in (own / "task").iterdir() for pid in (task / "children").read_text().split()]
    return {
        "memory": int((own / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6,
        "handles": len(list((own / "fd").iterdir())),
        "threads": len(list((own / "task").iterdir())),
        "children": len(children),
        "files": sum(path.is_file() for path in folder.rglob("*")),
    }


def judged(rounds: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Growth after the warm-up.

    Memory grows where the interval of its slope lies above 0 and the slope above `LEAST`; a count grows where
    its largest value in the second half of the rounds exceeds that in the first half.

    Returns:
        `warm` (rounds left out); `memory`: slope in MB a round, its interval, the residual spread and the last
        value in MB, None for too few rounds;
        `counts`: by name the largest values of both halves; `growing`: names.
    """
    warm = max(1, round(WARM * len(rounds)))
    kept = rounds[warm:]
    half = len(kept) // 2
    counts = {name: [max(one[name] for one in part) for part in (kept[:half], kept[half:])] for name in COUNTS}
    growing = [name for name, (first, second) in counts.items() if second > first]
    values = np.array([one["memory"] for one in kept])
    if len(kept) < FEWEST:
        return {"warm": warm, "memory": None, "counts": counts, "growing": growing}
    at = np.arange(len(kept))
    line = stats.linregress(at, values)
    spread = np.std(values - line.intercept - line.slope * at, ddof=2)
    reach = line.stderr * stats.t.ppf((1 + CONFIDENCE) / 2, len(kept) - 2)
    low, high = float(line.slope - reach), float(line.slope + reach)
    if low > 0 and line.slope > LEAST:
        growing.insert(0, "memory")
    memory = {"slope": float(line.slope), "interval": [low, high], "spread": float(spread), "last": float(values[-1])}
    return {"warm": warm, "memory": memory, "counts": counts, "growing": growing}


def _exported(run_folder: Path, folder: Path) -> Path:
    """The ONNX file of an export by the command, in a process of its own, as from a shell.

    Torch keeps something of every graph: 0.13 MB a `torch.export.export`, 0.3 to 0.4 MB with `torch.onnx.export` after
    it (torch 2.14.1, seven convolutions, nothing of mfkd in the process, 40 times). Neither `torch._dynamo.reset`,
    which `torch.compiler.reset` calls, nor emptying every `lru_cache` slows that. Here it would hide our own growth.
    """
    words = [sys.executable, "-m", "mfkd", "export", str(run_folder), "--out", str(folder)]
    around = {**os.environ, "TMPDIR": tempfile.gettempdir()}  # what it leaves there is counted, too
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, env=around)
    return folder / GRAPH


def _silent(_: str) -> None:
    pass


if __name__ == "__main__":
    main()
