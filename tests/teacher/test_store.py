"""Knowledge on disk: what lies where, what is refused, and building it through kills at every line."""

import json
import os
import signal
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mfkd.errors import CacheError
from mfkd.teacher import manifest as manifests
from mfkd.teacher import writing
from mfkd.teacher.journal import units
from mfkd.teacher.manifest import Manifest, find, read_manifest
from mfkd.teacher.store import Store
from mfkd.teacher.writing import Writer, alone, begin, check, finish, remove

VIEWS, IMAGES, CHUNK = 3, 5, 2
SHAPES = {"a/map": [2, 3], "teacher/logits": [4]}


def manifest(storage="float16", tensors=SHAPES, **fields):
    made = {name: {"shape": shape} for name, shape in tensors.items()}
    return Manifest(
        {"views": VIEWS, "storage": storage, "data": {"images": IMAGES}, "tensors": made, **fields}, chunk=CHUNK
    )


def values(name, view, image):
    """What the arrays hold: different everywhere, exact in eight bits of mantissa."""
    shape = SHAPES[name]
    base = 32 * view + 6 * image + (100 if name == "a/map" else 0)
    return torch.arange(int(np.prod(shape)), dtype=torch.float32).reshape(shape) + base % 128


def chunk_of(unit, names=SHAPES):
    view, chunk = unit
    images = range(chunk * CHUNK, min(IMAGES, (chunk + 1) * CHUNK))
    return {name: torch.stack([values(name, view, image) for image in images]) for name in names}


def fill(folder, wanted, rank=0, world=1, done=()):
    with Writer(folder, wanted, rank) as writer:
        for unit in [unit for unit in units(wanted) if unit not in done][rank::world]:
            writer.write(unit, chunk_of(unit, wanted.names))


def build(folder, wanted=None):
    wanted = wanted or manifest()
    with alone(folder):
        done = begin(folder, wanted)
        if done is not None:
            fill(folder, wanted, done=done)
            finish(folder)
    return folder


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".bin"}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


@pytest.mark.parametrize("storage", ["float16", "bfloat16", "float32"])
def test_rows_come_back_by_view_and_position(folder, storage):
    store = Store(build(folder, manifest(storage)))
    positions = torch.tensor([4, 0, 0, 2])
    for name in SHAPES:
        for view in range(VIEWS):
            found = store.read(name, view, positions)
            assert found.dtype == getattr(torch, storage)
            expected = torch.stack([values(name, view, image) for image in positions.tolist()])
            assert torch.equal(found.float(), expected)


@pytest.mark.parametrize("storage", ["float16", "bfloat16", "float32"])
def test_maps_of_one_position_in_channels_last_memory_come_back(folder, storage):
    wanted = manifest(storage, {"a/map": [6, 1, 1]}, views=1, data={"images": 2})
    maps = torch.arange(12.0).reshape(2, 6, 1, 1).to(memory_format=torch.channels_last)
    pooled = maps.as_strided(maps.shape, (6, 1, 6, 6))  # as an average over all positions has it
    with alone(folder):
        begin(folder, wanted)
        with Writer(folder, wanted) as writer:
            writer.write((0, 0), {"a/map": pooled})
        finish(folder)
    assert torch.equal(Store(folder).read("a/map", 0, torch.tensor([1, 0])).float(), maps.flip(0))


def test_a_tensor_lies_on_disk_by_view_then_image(folder):
    build(folder)
    raw = np.frombuffer((folder / "1.bin").read_bytes(), dtype="<f2").reshape(VIEWS, IMAGES, 4)
    assert raw[2, 3].tolist() == [82, 83, 84, 85]  # 32 * 2 + 6 * 3
    assert (folder / "0.bin").stat().st_size == VIEWS * IMAGES * 6 * 2
    assert {path.name for path in folder.iterdir()} == {"manifest.json", "checksums.bin", "0.bin", "1.bin", "lock"}


def test_sizes_by_hand():
    wanted = manifest()
    assert (wanted.chunks, wanted.stride("a/map"), wanted.total) == (3, 12, 15 * 12 + 15 * 8)
    assert wanted.span("a/map", 1, 2) == (12 * (5 + 4), 12)  # the last chunk of a view has one image
    assert len(units(wanted)) == 9


def test_verify_reads_all_and_names_a_flipped_bit(folder):
    build(folder)
    assert [*Store(folder).verify()][-1] == manifest().total
    path = folder / "0.bin"
    raw = bytearray(path.read_bytes())
    raw[12 * (5 + 3) + 1] ^= 4  # view 1, image 3
    path.write_bytes(raw)
    with pytest.raises(CacheError) as caught:
        [*Store(folder).verify()]
    assert str(caught.value) == (
        f"knowledge cache {folder} is damaged: a/map of view 1, images 2 to 3, is corrupted; "
        f"remove it with `mfkd cache remove {folder}` and build it anew."
    )


def cut(folder):
    with (folder / "1.bin").open("r+b") as file:
        file.truncate(7)


def edit(folder):
    values = json.loads((folder / "manifest.json").read_text())
    values["fields"]["views"] = 2
    (folder / "manifest.json").write_text(json.dumps(values))


def format_of_the_future(folder):
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace('"format": 1', '"format": 9'))


@pytest.mark.parametrize(
    ("harm", "text"),
    [
        (cut, "is damaged: 1.bin (teacher/logits) has 7 bytes, expected 120; remove it with"),
        (lambda folder: (folder / "0.bin").unlink(), "is damaged: 0.bin (a/map) is missing; remove it with"),
        (lambda folder: (folder / "checksums.bin").write_bytes(b"x"), "is damaged: checksums.bin does not fit the man"),
        (lambda folder: (folder / "checksums.bin").unlink(), "is damaged: checksums.bin does not fit the manifest;"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "is damaged: manifest.json cannot be read; remove"),
        (lambda folder: (folder / "manifest.json").write_text("[1]"), "is damaged: manifest.json cannot be read;"),
        (lambda folder: (folder / "manifest.json").unlink(), "holds no knowledge cache; make one with `mfkd cache bui"),
        (edit, "is damaged: manifest.json does not fit its own digest;"),
        (format_of_the_future, "differs in format: 9 there, 1 here; remove it with"),
    ],
)
def test_damage_is_refused_on_opening(folder, harm, text):
    harm(build(folder))
    with pytest.raises(CacheError) as caught:
        Store(folder)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unfinished_is_refused(folder):
    with alone(folder):
        begin(folder, manifest())
    with pytest.raises(CacheError, match=r"is unfinished; `mfkd cache build` goes on where it ended\."):
        Store(folder)


def test_another_fingerprint_is_refused_by_the_name_of_its_field(folder):
    build(folder, manifest(teacher={"weights": "1234"}))
    for wanted, told in (
        (manifest(teacher={"weights": "5678"}), "teacher.weights is '1234' there and '5678' here"),
        (manifest(teacher={"weights": "1234"}, tensors={"b": [1]}), "tensors.b is None there and {'shape': [1]} here"),
        (manifest("bfloat16", teacher={"weights": "1234"}), "storage is 'float16' there and 'bfloat16' here"),
    ):
        for refused in (
            lambda wanted=wanted: Store(folder, wanted.fields),
            lambda wanted=wanted: check(folder, wanted),
        ):
            with pytest.raises(CacheError) as caught:
                refused()
            assert str(caught.value) == (
                f"knowledge cache {folder} belongs to another run: {told}; "
                f"remove it with `mfkd cache remove {folder}`, or choose another place with cache.folder."
            )


def test_a_cache_with_more_tensors_serves_who_needs_fewer(tmp_path):
    fewer = manifest(tensors={"teacher/logits": [4]})
    assert find(tmp_path, fewer) == tmp_path / fewer.hash
    unfinished = tmp_path / "0"
    with alone(unfinished):
        begin(unfinished, manifest())
    assert find(tmp_path, fewer) == tmp_path / fewer.hash
    more = build(tmp_path / manifest().hash)
    assert find(tmp_path, fewer) == more
    assert Store(more, fewer.fields).read("teacher/logits", 0, torch.tensor([1])).tolist() == [[6, 7, 8, 9]]
    assert find(tmp_path, manifest(view_seed=1)) == tmp_path / manifest(view_seed=1).hash
    own = build(tmp_path / fewer.hash, fewer)
    assert find(tmp_path, fewer) == own


def test_an_unfinished_cache_with_more_tensors_is_left_to_its_own_command(folder):
    fewer = manifest(tensors={"teacher/logits": [4]})
    with alone(folder):
        begin(folder, manifest())
        fill(folder, manifest(), done=units(manifest())[1:])
    before = content(folder)
    with pytest.raises(CacheError) as caught:
        build(folder, fewer)
    assert str(caught.value) == (
        f"knowledge cache {folder} is not finished and is to hold a/map, teacher/logits, not teacher/logits alone; "
        "finish it with the command that began it, or choose another place with cache.folder."
    )
    assert content(folder) == before
    build(folder)
    build(folder, fewer)  # holds all of it


def test_values_that_the_storage_cannot_hold_are_refused(folder):
    big = {"a/map": torch.full((2, 2, 3), 1e6), "teacher/logits": torch.zeros(2, 4)}
    for storage, tensors, text in (
        ("float16", big, "knowledge a/map has values that are not finite in float16; use cache.dtype=bfloat16."),
        (
            "bfloat16",
            {**big, "a/map": torch.full((2, 2, 3), torch.nan)},
            "knowledge a/map has values that are not finite in bfloat16 before it is stored.",
        ),
    ):
        place, wanted = folder / storage, manifest(storage)
        with alone(place):
            begin(place, wanted)
        with pytest.raises(CacheError) as caught, Writer(place, wanted) as writer:
            writer.write((0, 0), tensors)
        assert str(caught.value) == text


def test_a_full_disk_is_refused_before_anything_is_written(folder, monkeypatch):
    monkeypatch.setattr(writing.shutil, "disk_usage", lambda place: SimpleNamespace(free=writing.SPARE + 299))
    with pytest.raises(CacheError) as caught:
        check(folder, manifest())
    assert str(caught.value) == (
        f"knowledge cache {folder} takes 0 MB, and the disk has 67 MB free; "
        "lower cache.views, or choose another disk with cache.folder."
    )
    assert not folder.exists()
    monkeypatch.setattr(writing.shutil, "disk_usage", lambda place: SimpleNamespace(free=writing.SPARE + 300))
    assert check(folder, manifest()) == writing.SPARE + 300


def test_a_finished_cache_needs_no_room(folder, monkeypatch):
    build(folder)
    monkeypatch.setattr(writing.shutil, "disk_usage", lambda place: SimpleNamespace(free=0))
    check(folder, manifest())


def test_a_folder_with_other_things_is_left_alone(folder):
    folder.mkdir()
    (folder / "letter.txt").write_text("mine")
    with pytest.raises(CacheError) as caught:
        begin(folder, manifest())
    assert str(caught.value) == (
        f"{folder} holds letter.txt and is no knowledge cache; choose another place with cache.folder."
    )
    assert [path.name for path in folder.iterdir()] == ["letter.txt"]


@pytest.mark.parametrize("world", [2, 3])
def test_several_processes_make_the_same_bytes(folder, tmp_path, world):
    wanted = manifest()
    with alone(folder):
        begin(folder, wanted)
        for rank in range(world):
            fill(folder, wanted, rank, world)
        finish(folder)
    assert content(folder) == content(build(tmp_path / "one"))


def test_a_missing_part_is_told(folder):
    with alone(folder):
        begin(folder, manifest())
        fill(folder, manifest(), 0, 2)
        with pytest.raises(CacheError, match=rf"knowledge cache {folder} lacks 4 chunks; start the same command again"):
            finish(folder)


def test_what_the_journal_says_wrongly_is_computed_again(folder, tmp_path):
    wanted = manifest()
    with alone(folder):
        begin(folder, wanted)
        fill(folder, wanted, 0, 2)
    with (folder / "journal-1").open("a") as file:
        file.write("0 1 0123456789abcdef 0123")  # torn
    with (folder / "0.bin").open("r+b") as file:
        file.write(b"\xff")
    with alone(folder):
        done = begin(folder, wanted)
    assert sorted(done) == [(0, 2), (1, 1), (2, 0), (2, 2)]  # not (0, 0)
    assert content(build(folder)) == content(build(tmp_path / "one"))


class At:
    """Kills this process, or raises, at the n-th line that runs in the modules that write."""

    FILES = tuple(module.__file__ for module in (writing, manifests, sys.modules["mfkd.files"]))

    def __init__(self, line, end):
        self.left, self.end = line, end

    def __call__(self, frame, event, arg):
        if frame.f_code.co_filename not in self.FILES:
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                self.end()
        return self


def build_until(folder, line, end):
    """Whether the building came to its end before `line`."""
    tracer = At(line, end)
    sys.settrace(tracer)
    try:
        build(folder)
    finally:
        sys.settrace(None)
    return tracer.left > 0


def killed(folder, line):
    """Whether a process that builds was killed at `line`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of newer Pythons, about threads
        child = os.fork()
    if child == 0:
        try:
            build_until(folder, line, lambda: os.kill(os.getpid(), signal.SIGKILL))
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1] == signal.SIGKILL


@pytest.fixture
def often(monkeypatch):
    """Each chunk is flushed by itself; what a killed process has written stays in the system's memory anyway."""
    monkeypatch.setattr(writing, "FLUSH_EVERY", 0.0)
    monkeypatch.setattr(os, "fsync", lambda file: None)


def test_killed_at_any_line_and_started_again_the_bytes_are_the_same(tmp_path, often):
    expected, line, kills = content(build(tmp_path / "one")), 1, 0
    while killed(folder := tmp_path / str(line), line):
        assert content(build(folder)) == expected, line
        assert len([*Store(folder).verify()]) == 9
        line, kills = line + 17, kills + 1
    assert kills > 30


def test_killed_again_and_again_the_building_still_comes_to_its_end(folder, tmp_path, often):
    line, starts = 300, 0
    while killed(folder, line):
        line, starts = line + 10, starts + 1
    assert starts > 1
    assert content(folder) == content(build(tmp_path / "one"))


class Stop(BaseException):
    pass


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # about files left open
def test_stopped_at_any_line_and_started_again_the_bytes_are_the_same(tmp_path, often):
    def stop():
        raise Stop

    expected, line, stops = content(build(tmp_path / "one")), 5, 0
    while True:
        folder = tmp_path / str(line)
        try:
            if build_until(folder, line, stop):
                break
        except Stop:
            stops += 1
        assert content(build(folder)) == expected, line
        line += 17
    assert stops > 20


def test_second_builder_is_told_and_a_dead_one_holds_nothing(folder):
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        with alone(folder):
            os.write(write, b"x")
            signal.pause()
    os.read(read, 1)
    with pytest.raises(CacheError) as caught, alone(folder, wait=False):
        pass
    assert str(caught.value) == f"knowledge cache {folder} is being built by another process; wait for its end."
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with alone(folder, wait=False):
        pass


def test_remove_takes_its_own_files_and_leaves_readers_what_they_have(folder):
    store = Store(build(folder))
    before = store.read("a/map", 1, torch.tensor([3]))
    (folder / "letter.txt").write_text("mine")
    assert remove(folder) >= manifest().total
    assert [path.name for path in folder.iterdir()] == ["letter.txt"]
    assert torch.equal(store.read("a/map", 1, torch.tensor([3])), before)
    with pytest.raises(CacheError, match=rf"^{folder} holds no knowledge cache; nothing was removed\.$"):
        remove(folder)
    (folder / "letter.txt").unlink()
    remove(build(folder))
    assert not folder.exists()


def test_remove_waits_for_nobody(folder):
    build(folder)
    with alone(folder), pytest.raises(CacheError, match="is being built by another process"):
        remove(folder)
    assert read_manifest(folder).complete
