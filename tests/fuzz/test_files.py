"""Files of a run that were damaged or come from elsewhere: refused in one line, or of use; never anything else."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fuzz.material import broken, cases, damaged, refusals_only
from mfkd.bench.compare import compare
from mfkd.bench.run import FILE
from mfkd.bench.tables import markdown
from mfkd.config import LogConfig, load_config
from mfkd.models.weights import read_metadata, read_weights, save_weights
from mfkd.pipeline import build_student
from mfkd.pipeline import run as whole
from mfkd.plan import open_plan
from mfkd.teacher.manifest import FORMAT, MANIFEST, digest, read_manifest
from mfkd.teacher.store import Store
from mfkd.teacher.writing import begin, remove
from mfkd.teachers import obtain_teacher
from mfkd.train import cost
from mfkd.train.checkpoint import load_checkpoint, load_newest, save_checkpoint
from mfkd.train.loop import Fit
from mfkd.train.runtime import start
from mfkd.train.student import KEY, load_with_card

WORDS = (
    "data.name=digits", "data.fraction=0.03", "teacher.model=resnet8", "student.model=resnet8", "train.epochs=2",
    "train.batch_size=16", "train.schedule=cosine", "log.trackers=[]", "train.compile=false", "train.ema=0.9",
    "checkpoint.every_steps=1", "checkpoint.keep=4", "teacher.train.epochs=1", "cache.views=1",
    "method={mfkd: {kind: attention}}",
)  # fmt: skip


class Made(SimpleNamespace):
    """What the cases start from; Hypothesis cannot show a case whose values it cannot show again alike."""

    def __repr__(self):
        return "made"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tiny finished run: its plan, its folders, and what is read from them again and again."""
    patch = pytest.MonkeyPatch()
    patch.setattr(cost, "SECONDS", 0.0)
    folder = tmp_path_factory.mktemp("fuzz") / "run"
    plan = open_plan(load_config(None, [*WORDS, f"out={folder}", f"cache.folder={folder}-knowledge"]))
    plan = replace(plan, data=replace(plan.data, test=plan.data.test.take(torch.arange(20))))
    whole(plan, lambda _: None)
    students = {kind: folder / kind / "seed-0" for kind in ("alone", "distilled")}
    line = {"pair": "p", "budget": "", "seed": 0, "split": "test", "error": ""}
    named = {"alone": "none", "distilled": "mfkd"}
    cells = [{**line, "kind": kind, "method": named[kind], "folder": f"{kind}/seed-0"} for kind in students]
    (folder / FILE).write_text(json.dumps({"methods": ["none", "mfkd"], "family": [], "kd": "kd", "cells": cells}))
    distilled = students["distilled"]
    yield Made(
        plan=plan,
        folder=folder,
        teacher=obtain_teacher(plan),
        knowledge=folder.with_name("run-knowledge"),
        checkpoints=[distilled / "checkpoints" / f"{name}.pt" for name in ("last", "last-1", "last-2", "last-3")],
        weights=[distilled / "student.safetensors", folder / "distilled" / "prepared.safetensors"],
        card=json.loads(read_metadata(distilled / "student.safetensors")[KEY]),
        state=read_weights(distilled / "student.safetensors")[0],
    )
    patch.undo()


def go_on(made, folder):
    """Train the distilled student on from whatever lies in a folder."""
    job = replace(made.plan.student_job("distilled", 0), folder=folder)
    distiller = build_student(made.plan, "distilled", 0, made.teacher)
    Fit(job, distiller, made.plan.data, start(job.training, LogConfig(trackers=()), folder)).run()


def broken_checkpoint(made, folder, draw):
    path = folder / "checkpoints" / "last.pt"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(draw(broken(draw(st.sampled_from(made.checkpoints)).read_bytes())))
    with refusals_only():
        if load_newest(path, lambda _: None) is not None:
            go_on(made, folder)


def foreign_checkpoint(made, folder, draw):
    state = load_checkpoint(draw(st.sampled_from(made.checkpoints)))
    changed = draw(damaged(state))
    (folder / "checkpoints").mkdir(exist_ok=True)
    with refusals_only():
        save_checkpoint(folder / "checkpoints" / "last.pt", changed)
        go_on(made, folder)


def broken_weights(made, folder, draw):
    path = folder / "w.safetensors"
    path.write_bytes(draw(broken(draw(st.sampled_from(made.weights)).read_bytes())))
    for read in (read_weights, read_metadata, load_with_card):
        with refusals_only():
            read(path)


def foreign_card(made, folder, draw):
    save_weights(folder / "w.safetensors", made.state, {KEY: json.dumps(draw(damaged(made.card)))})
    with refusals_only():
        load_with_card(folder / "w.safetensors")


def broken_knowledge(made, folder, draw):
    place = copied(made.knowledge, folder / "knowledge")
    names = ["0.bin", MANIFEST, "checksums.bin", "lock"]
    for path in (place / name for name in draw(st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True))):
        if draw(st.booleans()):
            path.write_bytes(draw(broken(path.read_bytes())))
        else:
            path.unlink()
            if draw(st.booleans()):
                path.mkdir()
    if draw(st.booleans()):
        (place / draw(st.sampled_from(["journal-1", "7.bin", "x", ".a.1.tmp"]))).write_bytes(
            draw(st.binary(max_size=99))
        )
    use_knowledge(place)


def foreign_manifest(made, folder, draw):
    place = copied(made.knowledge, folder / "knowledge")
    values = json.loads((place / MANIFEST).read_text())
    del values["digest"], values["format"]
    values = draw(damaged(values))
    if isinstance(values, dict):
        values = {"format": FORMAT, **values, "digest": digest(json.dumps(values).encode())}
    (place / MANIFEST).write_text(json.dumps(values))
    use_knowledge(place)


def use_knowledge(place):
    def read():
        store = Store(place)
        list(store.verify())
        for name in store.manifest.names:
            store.read(name, store.manifest.views - 1, torch.arange(min(3, store.manifest.images)))

    for step in (read, lambda: begin(place, read_manifest(place)), lambda: remove(place)):
        with refusals_only():
            step()


def copied(source, place):
    shutil.rmtree(place, ignore_errors=True)
    return shutil.copytree(source, place)


def records(made, folder, draw, change):
    """Compare a run, once its records are changed."""
    names = ["alone/seed-0/record.json", "distilled/seed-0/record.json", "summary.json", FILE]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(made.folder / name, folder / name)
    if draw(st.booleans()):
        (folder / names.pop()).unlink()
    changed = folder / draw(st.sampled_from(names))
    changed.write_bytes(change(draw, changed.read_bytes()))
    with refusals_only():
        for comparison in [markdown(compare([folder]))]:
            assert comparison


def broken_records(made, folder, draw):
    records(made, folder, draw, lambda draw, content: draw(broken(content)))


def foreign_records(made, folder, draw):
    records(made, folder, draw, lambda draw, content: json.dumps(draw(damaged(json.loads(content)))).encode())


KINDS = [
    broken_checkpoint, broken_weights, foreign_card, broken_knowledge, foreign_manifest, broken_records,
    foreign_records,
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@cases(40)
@given(data=st.data())
def test_file(made, tmp_path, kind, data):
    kind(made, tmp_path, data.draw)


@cases(15)
@given(data=st.data())
def test_foreign_checkpoint(made, tmp_path, data):
    foreign_checkpoint(made, tmp_path, data.draw)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*KINDS, foreign_checkpoint], ids=lambda kind: kind.__name__)
@cases(2000)
@given(data=st.data())
def test_many_files(made, tmp_path, kind, data):
    kind(made, tmp_path, data.draw)
