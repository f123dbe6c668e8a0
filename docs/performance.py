"""Writes `docs/performance.md` from `docs/records/throughput` and `docs/records/growth`: no figure is typed by hand.

Run `python docs/performance.py` after adding a record of `benchmarks/throughput.py` or `benchmarks/cache.py`; a test
checks that page and records agree.
"""

import json
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
HEAD = """# Performance

Distilling should cost what plain training costs. This page says what is done for it, and how to measure it.

## What is done

- **The teacher** is asked through a copy of its weights in which every BatchNorm that a convolution alone feeds is
  folded into that convolution. The copy is compared with the network, logits and taps, before it is used, and thrown
  away if it answers otherwise; the teacher itself is not touched. If no method needs the logits, nothing is run after
  the last tap. It runs in channels-last memory, in the precision of `train.precision`, and without gradients.
- **The knowledge cache** (`cache.views=N`) takes the teacher out of the step altogether.
- **A weight that has faded out** (`fade`; that of the preset `mfkd` after half the run) takes its term, the student's
  side of the fusion and the reading of its knowledge out of the step.
- **Mixed precision** (`train.precision=bf16`) holds for both networks and for MFKD's fusion of the student's maps;
  losses are computed in float32. `auto` takes it where the hardware computes it (CUDA from Ampere on, AVX512-BF16,
  AMX) and fp32 elsewhere; a processor that has to emulate it is told to be slow.
- **Compiling** (`train.compile`): `auto` times the networks as they are, compiles what should repay its compile time
  at least threefold within the updates that are left, and keeps it if it is measured to be 3% faster or more. The
  choice is made once a run, alike on all processes, and is kept in the checkpoint. On a CPU the training of a
  convolution network is nearly all convolutions, the same library calls either way, so a student is seldom worth it.
- **The optimiser** updates all parameters in one fused call; gradients are set to none, not to zero.
- **Input**: images in memory are augmented as a batch on the training device; large images are read ahead by worker
  processes.
- **Threads** that wait for the next piece of work go to sleep after 10,000 looks (`GOMP_SPINCOUNT`, set by the command
  line, and for its cells on Ray, unless you set it or `OMP_WAIT_POLICY`; OpenMP's own number is 30 times that). Alone
  on a machine that changes nothing. Beside other programs it is the difference between sharing the cores and standing
  still: a step of resnet20 at batch 64 on two cores that two busy programs wanted too took 0.7 s with it and 2.4 to
  3.6 s without, where 0.5 s is a fair share. From Python, set it before torch is imported.
- **The loop** reads losses and accuracy from the device every 50 updates and at no other time.

## What stands between a cached step and plain training

Reading knowledge is below 1% of a step (row `teacher` of the phases below). What is left is the student's side of the
fusion and its distance (row `method`, and the same again in `backward`). In resnet20 its 1x1 convolutions are 1% of the
student's multiplications, so it is the passes over memory that count: pooling the front map of 16 channels at 32x32,
BatchNorm, and a cosine over 112 channels in float32. The cosine takes the levels as they are and has its gradient
written by hand; concatenating them, and taking the gradient apart again, took as long as all the rest. The student's
maps are taken in the precision in which they come. In vgg8 the 1x1 convolutions are what counts, and they are small
because a level of the teacher with more than 128 channels is reduced to its principal components.

The teacher's weights, which the record's agreement with it needs at the end, lie in a temporary file while its student
learns from disk. The memory that is left above plain training is not traced in full. Building the cache leaves some in
the process: the library's compiled convolutions of the teacher, and gaps in the heap. The gradient of the pooled front
map is not the cause, though it is as large as the map and there from the beginning of the backward pass: holding it in
its pooled size until the network's own gradient of that map is there gave 1,176, 1,181 and 1,184 MB in place of 1,177
and 1,202 (vgg13 to vgg8, batch 128, fp32, one thread, with 1,132 and 1,137 MB for plain training), and was left out.

Keeping memory that an update has freed (glibc's `MALLOC_TRIM_THRESHOLD_` and `MALLOC_MMAP_THRESHOLD_`) was tried and
left out: page faults went away, and a run was no faster for it.

## What stands in the way where a goal is missed

The tables below say which goals are met. Where one is not, the table *In the way* of the same run tells why:

- **Against the reference loop.** A cached step cannot cost less than a plain one, so that the reference loop over our
  plain training is the most that any way of distilling reaches on that processor. In a cached step nearly everything
  is the student's own forward, backward and optimiser. On a processor without bf16 instructions these are the same
  float32 convolutions of the same library on both sides, and the bound lies far below the goal. With bf16 it lies
  little above it at batch 128, where the reference loop itself runs faster than at 64.
- **Memory at batch 128.** Peaks differ from one start to the next, plain training's too, because of gaps in the heap
  (ranges in the table). Beyond that a cached run holds what building the cache has left in the process, 22 MB before
  the first update in one run of resnet56 to resnet20, and the fused maps of both sides with their gradients, 3.7 MB
  each there (112 channels, 8x8, float32), beside the gradients of the three maps that are fused, 15 MB together.

## How to see where the time goes

`mfkd profile RECIPE [key=value]` times the phases of single updates beside plain training of the same student on data
that are already in memory; `--trace FILE` writes the trace of torch's profiler.

## How to measure it

`python benchmarks/throughput.py --out throughput.json` takes about 25 minutes on two cores with bf16 instructions and
nothing else running, more than an hour on two without; `--rounds 5` shortens it by a quarter. All trainings take turns,
update by update, in one process; each ratio is worked out within one round and told as the median over the rounds, with
the range in brackets. The reference loop (`benchmarks/reference.py`) is the usual one of distillation research:
float32, contiguous memory, networks as written, the teacher asked in each step, PIL transforms in a DataLoader with
workers. It does plain KD, which is cheaper than MFKD in that style would be.
"""
GOALS = (  # row, goal of each pair, whether the goal is an upper bound
    ("MFKD cached / plain student training", {"resnet56:resnet20": 1.10, "vgg13:vgg8": 1.10}, True),
    ("MFKD cached, faded out / plain student training", {}, True),
    ("MFKD cached, a whole run / plain student training", {"resnet56:resnet20": 1.10, "vgg13:vgg8": 1.10}, True),
    ("MFKD live / (plain + teacher forward)", {"resnet56:resnet20": 1.10, "vgg13:vgg8": 1.10}, True),
    ("reference loop / MFKD cached", {"resnet56:resnet20": 4.0, "vgg13:vgg8": 2.8}, False),
    ("reference loop / MFKD live", {"resnet56:resnet20": 2.3, "vgg13:vgg8": 1.8}, False),
    ("reference plain loop / our plain training", {"resnet56:resnet20": 2.0, "vgg13:vgg8": 1.5}, False),
    ("reference loop / KD live", {}, False),
)
PUBLIC = {("resnet56:resnet20", "64"): (750, 154), ("vgg13:vgg8", "64"): (434, 140)}
"""By pair and batch: images a second of our plain training and of public research code doing KD (RepDistiller's
networks, two cores), as the project's first measurement had them: the reference loop must be no slower, within
`STRAW`."""
STRAW = 0.15
OVERHEAD, MEMORY = 0.03, 1.05
WITHOUT = (
    "This processor has no bf16 instructions. The goals against the reference loop were set on one that has; here both "
    "sides compute fp32 with the same library, and what is left is input, memory layout and the knowledge cache."
)
PARTS = {
    "bf16": "bf16 instead of float32",
    "channels-last": "channels-last memory",
    "compile": "compiling",
    "folding": "folding BatchNorms",
    "input": "augmenting in batches instead of PIL in workers",
    "cache": "the knowledge cache",
}


def page() -> str:
    """The whole page."""
    found = [(make, path) for make, name in ((tables, "throughput"), (growth, "growth"))
             for path in sorted((HERE / "records" / name).glob("*.json"))]  # fmt: skip
    return HEAD + "".join(f"\n{make(json.loads(path.read_text()))}" for make, path in found)


def growth(record: dict[str, Any]) -> str:
    """How a knowledge cache grows, from one run of `benchmarks/cache.py`."""
    environment = record["environment"]
    lines = [
        f"## How the cache grows: {environment['processor']}, {environment['threads']} threads",
        "",
        "`python benchmarks/cache.py`: MFKD's knowledge of resnet56 for resnet20, images of CIFAR's size, batch "
        f"{record['batch']}; {_made(environment)}. Ratios are to the first row, of each image and "
        f"view or of a step; medians of {record['repeats']} rounds with the range.",
        "",
        *_head(["images", "views", "MB", "MB, ratio", "building, s", "building, ratio", "reading a batch, ms",
                "a training step, ratio"]),
    ]  # fmt: skip
    for row in record["rows"]:
        building, step = (
            _ratio(dict(zip(("median", "low", "high"), row[name], strict=True)))
            for name in ("build_ratio", "step_ratio")
        )
        lines.append(_row([f"{row['images']:,}", str(row["views"]), f"{row['bytes'] / 1e6:,.1f}",
                           f"{row['bytes_ratio']:.3f}", f"{median(row['build']):.1f}", building,
                           f"{1e3 * median(row['read']):.2f}", step]))  # fmt: skip
    return "\n".join(lines) + "\n"


def tables(record: dict[str, Any]) -> str:
    """What one run of the benchmark found."""
    columns = [(pair, batch, found) for pair, by in record["pairs"].items() for batch, found in by.items()]
    heads = [f"{pair.replace(':', ' to ')}, {batch}" for pair, batch, _ in columns]
    environment = record["environment"]
    data = record["settings"]["data"]
    images = "" if data == "generated" else f", images of `{data}`"
    precision = record["settings"].get("precision", "bf16")  # it always was where the record does not say
    lines = [
        f"## {environment['processor']}, {environment['threads']} threads, our trainings in {precision}{images}",
        "",
        f"{_made(environment)}; {record['settings']['rounds']} rounds of {record['settings']['steps']} updates.",
        "",
        *([] if precision == "bf16" else [WITHOUT, ""]),
        "Times an image, as ratios; columns are networks and batch size:",
        "",
        *_head(["", *heads]),
    ]
    for name, goals, upper in GOALS:
        if any(name not in found["ratios"] for *_, found in columns):  # older records know no fade
            continue
        cells = [_ratio(found["ratios"][name], goals.get(pair), upper) for pair, _, found in columns]
        lines.append(_row([name, *cells]))
    name = "reference loop / our plain training"
    if precision == "bf16" and all(name in found["ratios"] for *_, found in columns):
        cells = [_public(found["ratios"][name], pair, batch) for pair, batch, found in columns]
        told = " (public research code)" if any((pair, batch) in PUBLIC for pair, batch, _ in columns) else ""
        lines.append(_row([name + told, *cells]))
    lines.append(_row(["outside networks and optimiser, %", *(
        _goal(f"{100 * found['profile']['overhead']:.1f}", found["profile"]["overhead"], OVERHEAD, "under 3")
        for *_, found in columns)]))  # fmt: skip
    if all("memory" in found for *_, found in columns):
        cells = [_ratio(_spread(found["memory"]), MEMORY, True, digits=3) for *_, found in columns]
        lines.append(_row(["peak memory, MFKD cached / plain, without mapped pages", *cells]))
        lines.append(_row(["pages of the cache's file that are mapped, MB", *(
            f"{_spread(found['mapped_mb'])['median']:.0f}" for *_, found in columns)]))  # fmt: skip
    lines += [*in_the_way(columns, heads), "", "Images a second:", "", *_head(["", *heads])]
    for name in columns[0][2]["images_per_second"]:
        rates = [found["images_per_second"].get(name) for *_, found in columns]
        lines.append(_row([name, *("-" if rate is None else f"{rate['median']:,.0f}" for rate in rates)]))
    split = [(head, found["parts"]) for head, (*_, found) in zip(heads, columns, strict=True) if found["parts"]]
    if split:
        lines += ["", "What MFKD live takes without one part, as a ratio to all of them (cache: live to cached):", ""]
        lines += _head(["part", *(head for head, _ in split)])
        known = [key for key in PARTS if all(key in parts for _, parts in split)]
        lines += [_row([PARTS[key], *(_ratio(parts[key]) for _, parts in split)]) for key in known]
    lines += ["", "The knowledge cache, and the epochs after which a view has paid for itself in a single run "
              "(shared by several runs, sooner):", "", *_head(["", *heads])]  # fmt: skip
    caches = [found["cache"] for *_, found in columns]
    lines.append(
        _row(["building, ms an image and view", *(f"{1e3 * c['seconds_an_image_and_view']:.2f}" for c in caches)])
    )
    lines.append(
        _row(["size, kB an image and view", *(f"{1e3 * c['megabytes_an_image_and_view']:.1f}" for c in caches)])
    )
    even = [c["break_even_epochs_a_view"] for c in caches]
    lines.append(_row(["epochs a view", *("never" if e is None else f"{e:.2f}" for e in even)]))
    lines += ["", "Phases of an update of MFKD cached, ms:", "", *_head(["", *heads])]
    for phase in columns[0][2]["profile"]["phases"]:
        lines.append(_row([phase, *(f"{f['profile']['phases'][phase]['ms']:.1f}" for *_, f in columns)]))
    lines.append(_row(["whole step", *(f"{f['profile']['step_ms']:.1f}" for *_, f in columns)]))
    return "\n".join(lines) + "\n"


def in_the_way(columns: list[tuple[str, str, dict[str, Any]]], heads: list[str]) -> list[str]:
    """What bounds the ratios to the reference loop, and how much memory is meant; see the head of the page."""
    bound, own, excess = [], [], []
    for *_, found in columns:
        ratios, phases = found["ratios"], found["profile"]["phases"]
        name = "reference loop / our plain training"
        cached = ratios["reference loop / MFKD cached"]["median"]
        known = ratios[name]["median"] if name in ratios else cached * ratios[GOALS[0][0]]["median"]
        bound.append(f"{known:.2f}")
        spent = sum(phases[phase]["ms"] for phase in ("student", "backward", "optimiser"))
        own.append(f"{100 * spent / found['profile']['step_ms']:.0f}")
        if "memory" in found:
            plain, whole = (_spread(found["peak_mb"][kind]) for kind in ("plain", "cached"))
            mapped = _spread(found["mapped_mb"])["median"]
            excess.append(f"{whole['median'] - mapped - plain['median']:.0f} above {_ratio(plain, digits=0)}")
    lines = ["", "In the way:", "", *_head(["", *heads])]
    lines.append(_row(["reference loop / our plain training, the most that any cache could reach", *bound]))
    lines.append(_row(["student's forward, backward (with the method's) and optimiser in a cached step, %", *own]))
    if len(excess) == len(columns):
        lines.append(_row(["peak memory above plain training's, MB", *excess]))
    return lines


def _spread(value: float | dict[str, float]) -> dict[str, float]:
    """Records from before November 23 measured memory in one process."""
    return value if isinstance(value, dict) else {"median": value, "low": value, "high": value}


def _made(environment: dict[str, Any]) -> str:
    return f"torch {environment['versions']['torch']}, commit {environment['commit']}, {environment['finished']}"


def _head(cells: list[str]) -> list[str]:
    return [_row(cells), "|---" * len(cells) + "|"]


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _public(value: dict[str, float], pair: str, batch: str) -> str:
    """The reference loop against the research code that it stands for."""
    if (pair, batch) not in PUBLIC:
        return _ratio(value)
    plain, code = PUBLIC[pair, batch]
    words = f"{plain / code:.2f} there, at most {100 * STRAW:.0f}% apart"
    return _goal(_ratio(value), abs(value["median"] * code / plain - 1), STRAW, words)


def _ratio(value: dict[str, float], goal: float | None = None, upper: bool = False, digits: int = 2) -> str:
    text = "{median:.{d}f}".format(d=digits, **value)
    if value["low"] < value["high"]:
        text += " ({low:.{d}f} to {high:.{d}f})".format(d=digits, **value)
    if goal is None:
        return text
    bound = f"at {'most' if upper else 'least'} {goal:g}"
    return _goal(text, value["median"] if upper else -value["median"], goal if upper else -goal, bound)


def _goal(text: str, value: float, bound: float, words: str) -> str:
    return f"{text}; {words}: {'met' if value <= bound else 'missed'}"


if __name__ == "__main__":
    (HERE / "performance.md").write_text(page())
