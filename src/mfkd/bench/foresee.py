"""What a plan would take: one short measurement a method, pair and budget; nothing is written."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mfkd.bench.cell import Cell, forget, opened, weights_of, with_teachers
from mfkd.bench.run import Board
from mfkd.errors import MfkdError
from mfkd.estimate import MEGA, estimate_cache, price_of
from mfkd.pipeline import build_student, check
from mfkd.plan import Plan
from mfkd.teacher.identity import LOGITS
from mfkd.teachers import build_teacher, stand_in
from mfkd.train.shared import has_cache


def foresee(board: Board, say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Time and disk that the cells of a plan would still take.

    Args:
        board: the cells.
        say: gets a line before each measurement; updates of a large network take minutes on a CPU.

    Returns:
        `cells`, each with key, state, seconds, megabytes (0 where it is done) and error (what the cell
        would be refused for); `caches`, each with what it is for, seconds and megabytes; and the sums
        `seconds` (of one process) and `megabytes`.
    """
    forget()
    prices: dict[tuple[str, ...], dict[str, Any]] = {}
    rows: list[dict[str, Any]] = []
    caches: dict[str, dict[str, Any]] = {}
    for row in board.rows:
        cell = row.cell
        price: dict[str, Any] = {"seconds": 0.0, "megabytes": 0.0, "error": row.error}
        if row.wanted and row.state in ("waiting", "begun"):
            like = (cell.kind, cell.pair, cell.budget, cell.method)
            if like not in prices:
                say(f"Measuring a few updates: {cell.title}")
                prices[like] = _priced(cell)
            price = prices[like]
            if price.get("cache", {}).get("megabytes"):
                caches.setdefault(price["cache"]["holds"], price["cache"])
        figures = {name: price[name] for name in ("seconds", "megabytes", "error")}
        rows.append({"key": cell.key, "state": row.state, **figures})
    return {
        "cells": rows,
        "caches": list(caches.values()),
        "seconds": sum(each["seconds"] for each in (*rows, *caches.values())),
        "megabytes": sum(each["megabytes"] for each in (*rows, *caches.values())),
    }


def _priced(cell: Cell) -> dict[str, Any]:
    try:
        return _measured(cell)
    except MfkdError as error:
        return {"seconds": 0.0, "megabytes": 0.0, "error": str(error)}


def _measured(cell: Cell) -> dict[str, Any]:
    trained = weights_of(cell.config, cell.teachers_in)
    ready = cell.kind != "teacher" and all(path.exists() for path in trained.values())
    plan = replace(opened(with_teachers(cell) if ready else cell.config), teachers_in=cell.teachers_in)
    if cell.kind == "teacher":
        jobs = [one for one in plan.per_teacher() if one.teacher_name in trained]
        found = [price_of(one, one.teacher_job(), build_teacher(one), None) for one in jobs]
        return _figures(sum(price.seconds for price in found), sum(price.size for price in found))
    check(plan)
    teacher = stand_in(plan)
    job = plan.student_job(cell.kind, cell.seed)
    price = price_of(plan, job, build_student(plan, cell.kind, cell.seed, teacher), teacher)
    wanted = cell.kind == "distilled" and plan.config.cache.views is not None and not has_cache(plan.config)
    cache = _cache(cell, plan) if wanted else {}
    return {**_figures(price.seconds, price.size), "cache": cache}


def _cache(cell: Cell, plan: Plan) -> dict[str, Any]:
    """The knowledge on disk; methods that keep the same tensors of a teacher share it."""
    found = estimate_cache(plan)
    made = any("/" in name for name in found["tensors"] if name != LOGITS)  # by the method itself
    holds = ", ".join(part for part in (cell.pair, cell.budget, cell.method if made else "", *found["tensors"]) if part)
    return {"holds": holds, "seconds": found["seconds"], "megabytes": found["bytes"] / MEGA}


def _figures(seconds: float, size: float) -> dict[str, Any]:
    return {"seconds": seconds, "megabytes": size / MEGA, "error": ""}
