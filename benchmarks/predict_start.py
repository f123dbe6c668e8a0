"""How soon `mfkd predict` answers by an export, beside the time that its libraries take to be imported.

    python benchmarks/predict_start.py [--repeats 15] [--json FILE]

Whole processes are timed, from their start to their end, in turns within each repeat; ratios are formed within a
repeat, so that other work on the machine strikes both alike. CPU time is told beside the wall time.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from mfkd.export.feed import Feed
from mfkd.export.graphs import capture
from mfkd.export.onnx import write_onnx
from mfkd.models import build_model

IMPORTS = "import onnxruntime, numpy, PIL.Image"


def seconds(words: list[str]) -> tuple[float, float]:
    """Wall and CPU time of a process."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(repeats: int) -> dict[str, list[tuple[float, float]]]:
    """Wall and CPU time of every repeat, by what was done."""
    feed = Feed("resnet20", tuple(map(str, range(100))), 3, (32, 32), (0.5,) * 3, (0.25,) * 3)
    with tempfile.TemporaryDirectory() as place:
        model, image = Path(place) / "model.onnx", Path(place) / "image.png"
        write_onnx(model, capture(build_model("resnet20").eval(), feed), feed)
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(image)
        jobs = {"imports": ["-c", IMPORTS], "predict": ["-m", "mfkd", "predict", str(image), "-m", str(model)]}
        for words in jobs.values():
            seconds(words)  # to warm the disk's cache
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in jobs}
        for _ in range(repeats):
            for name, words in jobs.items():
                found[name].append(seconds(words))
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    found = measure(asked.repeats)
    for column, kind in enumerate(("wall", "CPU")):
        times = {name: [repeat[column] for repeat in repeats] for name, repeats in found.items()}
        ratios = [told / libraries for libraries, told in zip(times["imports"], times["predict"], strict=True)]
        print(
            f"{kind:4}  {IMPORTS}: {1000 * statistics.median(times['imports']):.0f} ms;  mfkd predict: "
            f"{1000 * statistics.median(times['predict']):.0f} ms;  ratio {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f}), {asked.repeats} repeats, {os.cpu_count()} cores"
        )
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
