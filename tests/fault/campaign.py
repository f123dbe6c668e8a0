"""Kills tiny runs at every operation on their files and at random moments, and looks whether the result is the same.

`python tests/fault/campaign.py` writes `docs/records/reliability.json`, from which `python docs/reliability.py` makes
the page; names of recipes do these alone; `--short N` makes N kills and prints what came out. Everything is imported
once, and each start of a run is a fork.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from strike import Strike

from mfkd.config import load_config
from mfkd.files import read_json, sha256, write_json
from mfkd.pipeline import run
from mfkd.plan import open_plan
from mfkd.records import commit, environment
from mfkd.teacher.manifest import MANIFEST, read_manifest
from mfkd.train import cost

RECORD = Path(__file__).parents[2] / "docs" / "records" / "reliability.json"
TINY = (
    "data.name=digits", "data.fraction=0.08", "teacher.model=resnet8", "student.model=resnet8", "train.epochs=2",
    "train.batch_size=32", "train.schedule=cosine", "log.trackers=[]", "teacher.train.epochs=1", "train.compile=false",
)  # fmt: skip
RECIPES = {
    "cache": (
        "method={mfkd: {kind: attention}, kd: {}}", "cache.views=1", "train.ema=0.9", "train.accumulate=2",
        "checkpoint.every_steps=2",
    ),
    "live": (
        "method={crd: {width: 8}, ab: {initial_share: 0.5}, kd: {}}", "augment.mixup=0.2", "train.optimizer=adamw",
        "train.lr=0.01", "checkpoint.every_steps=1", "checkpoint.keep=3",
    ),
    "folder": (
        "data.name=folder:IMAGES", "data.fraction=1.0", "data.image_size=16", "data.workers=2", "method=kd",
        "train.batch_size=8", "checkpoint.every_steps=2", "checkpoint.keep=1",
    ),
}  # fmt: skip
KILLS = {"folder": (24, 6, 1)}  # in place of EVERY, since starting the reading processes takes seconds
EVERY = (None, 60, 10)  # kills at operations (None: at each), at random moments, and rounds of five of these
STAGES = ("start", "teacher", "preparation", "knowledge cache", "student alone", "student distilled", "summary")
TIMES = (
    "seconds",
    "preparation_seconds",
    "shared_seconds",
    "images_per_second",
    "latency_ms",
    "finished",
    "commit",
    "peak_mb",
)


def begin(place: Path, recipe: str, at: int | None = None, seen: Path | None = None) -> int:
    """Start a run in a fork; returns its process id."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code, told = 1, os.dup(2)
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        strike = Strike(place, at)
        strike.install()
        work(place, recipe)
        code = 0
        if seen is not None:
            seen.write_text(json.dumps(strike.seen))
    except BaseException as error:
        os.write(told, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(code)


def work(place: Path, recipe: str) -> None:
    """What `mfkd run` does."""
    images = make_images(place.parent / "images") if recipe == "folder" else ""
    words = [word.replace("IMAGES", str(images)) for word in RECIPES[recipe]]
    out = [f"out={place}/run", f"cache.folder={place}/knowledge"]
    run(open_plan(load_config(None, [*TINY, *words, *out])), lambda _: None)


def make_images(folder: Path) -> Path:
    """Large enough that they stay files, which processes of their own read."""
    drawn = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 4)):
        for label in ("cat", "dog"):
            place = folder / part / label
            if not place.exists():
                place.mkdir(parents=True)
                for number in range(count):
                    pixels = drawn.integers(0, 255, (100, 110, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(place / f"{number}.png")
    return folder


def ended(pid: int) -> bool:
    """Wait; whether the run was killed. Anything but a kill and success is a fault."""
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status not in (0, -signal.SIGKILL):
        raise SystemExit(f"a run ended with {status}")
    return status != 0


def stage(place: Path) -> str:
    """Which step a run was at, by what it left."""
    folder, knowledge = place / "run", place / "knowledge"
    if not (folder / "config.yaml").exists():
        return "start"
    if not (folder / "teacher" / "record.json").exists():
        return "teacher"
    students = {kind: (folder / kind / "seed-0").exists() for kind in ("alone", "distilled")}
    if not any(students.values()):
        unfinished = (knowledge / MANIFEST).exists() and not read_manifest(knowledge).complete
        return "knowledge cache" if unfinished else "preparation"
    if not (folder / "alone" / "seed-0" / "record.json").exists():
        return "student alone"
    return "summary" if (folder / "distilled" / "seed-0" / "record.json").exists() else "student distilled"


def outcome(place: Path) -> dict[str, object]:
    """All that must be the same, times left out."""
    found: dict[str, object] = {}
    for path in sorted(place.rglob("*")):
        name = path.relative_to(place).as_posix()
        if path.suffix == ".bin" or path.name in ("student.safetensors", "teacher.safetensors"):
            found[name] = sha256(path)
        elif path.suffix == ".json" and path.name != MANIFEST:
            found[name] = _timeless(read_json(path))
        elif path.name == "log.csv":
            rows = [line.split(",") for line in path.read_text().splitlines()]
            skipped = rows[0].index("seconds")
            found[name] = [[cell for column, cell in enumerate(row) if column != skipped] for row in rows]
    found["left over"] = [path.name for path in place.rglob("*.tmp")]
    return found


def _timeless(value: object) -> object:
    if isinstance(value, dict):
        return {name: _timeless(one) for name, one in value.items() if name not in TIMES}
    return [_timeless(one) for one in value] if isinstance(value, list) else value


def whole(place: Path, recipe: str) -> tuple[dict[str, object], list[list[str]], float]:
    """An uninterrupted run: its outcome, its operations, its seconds."""
    seen = place.with_name("seen.json")
    shutil.rmtree(place, ignore_errors=True)
    begun = time.perf_counter()
    assert not ended(begin(place, recipe, seen=seen))
    return outcome(place), json.loads(seen.read_text()), time.perf_counter() - begun


def trial(place: Path, recipe: str, ats: list[int], pauses: list[float]) -> list[str]:
    """Start anew, kill once for each operation and each pause in seconds, then let it end; the stages hit."""
    shutil.rmtree(place, ignore_errors=True)
    hit = [stage(place) for at in ats if ended(begin(place, recipe, at))]
    for pause in pauses:
        pid = begin(place, recipe)
        time.sleep(pause)
        os.kill(pid, signal.SIGKILL)
        if ended(pid):
            hit.append(stage(place))
    assert not ended(begin(place, recipe))
    return hit


def spread(count: int, wanted: int) -> list[int]:
    """So many numbers below `count`, evenly."""
    return sorted({round(k * (count - 1) / max(1, wanted - 1)) for k in range(min(count, wanted))})


def moments(count: int, kills: int | None) -> Sequence[int]:
    """Numbers of the operations at which a recipe is killed; None: at each."""
    return range(count) if kills is None else spread(count, kills)


def campaign(recipes: list[str], wanted: tuple[int | None, int, int] | None = None) -> list[dict[str, object]]:
    """Every recipe: kills as in `EVERY`, where no others are wanted."""
    rows = []
    memory = Path("/dev/shm")  # what a kill leaves is the same there, and flushes cost nothing
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        place, drawn = Path(folder) / "place", random.Random(0)
        for recipe in recipes:
            kills, randoms, rounds = wanted or KILLS.get(recipe, EVERY)
            # Imports what is imported late, before the forks; reading processes would be a fork's to look after.
            work(Path(folder) / "warm", "live" if recipe == "folder" else recipe)
            shutil.rmtree(Path(folder) / "warm")
            expected, seen, seconds = whole(place, recipe)
            again, same_seen, _ = whole(place, recipe)
            assert again == expected, "two uninterrupted runs differ"
            assert same_seen == seen, "two uninterrupted runs do other things to their files"
            trials = [([at], []) for at in moments(len(seen), kills)]
            trials += [([], [drawn.uniform(0, seconds)]) for _ in range(randoms)]
            trials += [([], [drawn.uniform(0, seconds) for _ in range(5)]) for _ in range(rounds)]
            operations, at_operation, at_random, differing = Counter(), Counter(), Counter(), []
            for ats, pauses in trials:
                hit = trial(place, recipe, ats, pauses)
                (at_operation if ats else at_random).update(hit)
                operations.update(seen[at][0] for at in ats)
                found = outcome(place)
                if found != expected:
                    names = [name for name in {**found, **expected} if found.get(name) != expected.get(name)]
                    differing.append({"at": [seen[at] for at in ats], "pauses": pauses, "files": names})
            rows.append(
                {
                    "recipe": recipe,
                    "options": [*TINY, *RECIPES[recipe]],
                    "seconds": round(seconds, 2),
                    "operations": len(seen),
                    "trials": len(trials),
                    "by_operation": dict(operations),
                    "at_operation": {name: at_operation[name] for name in STAGES},
                    "at_random": {name: at_random[name] for name in STAGES},
                    "differing": differing,
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipes", nargs="*", help=f"of {', '.join(RECIPES)}; the record keeps what it has of others")
    parser.add_argument("--short", type=int, metavar="N", help="so many kills of each; nothing is written")
    words = parser.parse_args()
    recipes = words.recipes or list(RECIPES)
    torch.set_num_threads(1)
    commit()  # asked once, before the forks
    cost.SECONDS = 0.0  # latencies are times, and are not compared
    if words.short is not None:
        rows = campaign(recipes, (words.short, words.short // 4, words.short // 8))
        print(json.dumps(rows))
    else:
        rows = campaign(recipes)
        kept = read_json(RECORD)["rows"] if RECORD.exists() else []
        found = {row["recipe"]: row for row in (*kept, *rows)}
        write_json(
            RECORD, {"rows": [found[name] for name in RECIPES if name in found], "environment": environment("cpu")}
        )
    if any(row["differing"] for row in rows):
        raise SystemExit(json.dumps([row["differing"] for row in rows], indent=1))


if __name__ == "__main__":
    main()
