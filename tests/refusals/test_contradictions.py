"""Recipes whose keys are each right and do not go together, methods that cannot be, and files that are no recipe."""

import re

import pytest
import torch

from mfkd.models import build_model
from mfkd.models.weights import save_weights

NOT_A_METHOD = "expected a preset or a mapping such as {kd: {weight: 1.0}}."
LARGE = "is for large images, and digits has small ones; set data."

RECIPES = {
    # cache
    "cache.views=2 augment.mixup=0.2": "augment.mixup mixes images anew each time, and cache.views=2 keeps what the "
    "teacher said of unmixed ones; set cache.views=null or augment.mixup=0.",
    "cache.views=2 augment.cutmix=1": "augment.cutmix mixes images anew each time, and cache.views=2 keeps what the "
    "teacher said of unmixed ones; set cache.views=null or augment.cutmix=0.",
    "cache.views=2 augment.views=3": "augment.views=3 and cache.views=2 must be the same; leave augment.views out.",
    "cache.views=2 method={}": f"method: got {{}}, {NOT_A_METHOD}",
    "cache.views=1 cache.folder=full": "full holds notes.txt and is no knowledge cache; choose another place with "
    "cache.folder.",
    "cache.views=1 cache.folder=notes.txt": "notes.txt is a file; choose another place with cache.folder.",
    # taps
    "method={mfkd: {student_taps: [stage1, stage2, stage3, stage4]}}": "unknown tap 'stage4'; did you mean stage3 or "
    "stage2 or stage1? taps: stem, stage1, stage1.pre, stage2, stage2.pre, stage3, stage3.pre, penultimate, front, "
    "middle, bottom; or give a module path.",
    "method={mfkd: {student_taps: [stage1, stage1]}}": "method.mfkd: student_taps must differ, got "
    "['stage1', 'stage1'].",
    "method={mfkd: {student_taps: []}}": "method.mfkd.student_taps: got [], expected 1 or more entries (student maps "
    "that are fused, front first).",
    "method={at: {student_taps: [stage1, stage2], teacher_taps: [stage1]}}": "at compares maps in pairs, got 2 "
    "student_taps and 1 teacher_taps; name as many of each.",
    # methods
    "method=mfdk": "unknown method 'mfdk'; did you mean mfkd or ofd or mgd?",
    "method=[kd]": f"method: got ['kd'], {NOT_A_METHOD}",
    "method=3": f"method: got 3, {NOT_A_METHOD}",
    "method={kd: 3}": f"method: got {{'kd': 3}}, {NOT_A_METHOD}",
    "method={kd: {weight: -1}}": "method.kd.weight: got -1, expected 0 or more (factor of the term; published "
    "tables: 0.9 beside ce.weight=0.1).",
    "method={kd: {temperature: 0}}": "method.kd.temperature: got 0, expected more than 0 (T that softens both "
    "distributions).",
    "method={kd: {tmp: 1}}": "unknown key 'method.kd.tmp'; did you mean method.kd.warmup or method.kd.temperature or "
    "method.kd.weight?",
    # augmentation
    "augment.scale=[0.9, 0.5]": "augment: scale must rise from above 0, got [0.9, 0.5].",
    "augment.ratio=[0, 1]": "augment: ratio must rise from above 0, got [0, 1].",
    "augment.num_ops=3": "augment: num_ops is for auto=randaugment, got auto=none.",
    "augment.magnitude=3 augment.auto=trivialaugment": "augment: magnitude is for auto=randaugment, got "
    "auto=trivialaugment.",
    "augment.scale=[0.5, 0.6]": "augment.scale and augment.ratio are for large images, and digits has small ones; "
    "leave them out, and set augment.crop_padding instead.",
    # images
    "data.image_size=64": f"data.image_size=64 {LARGE}image_size=null.",
    "data.crop=0.5": f"data.crop=0.5 {LARGE}crop=null.",
    "data.interpolation=bicubic": f"data.interpolation=bicubic {LARGE}interpolation=null.",
    "data.label=kind": "data.label=kind is for parquet and hf sets, digits has one label an image; set "
    "data.label=null.",
    "data.mean=[0.5, 0.5]": "data.mean has 2 values, the images of digits have 1 channel; give one value a channel.",
    "data.evaluate=val": "data.evaluate=val needs validation images, and there are none; hold some out with "
    "data.val_fraction, such as 0.1.",
    "data.fraction=0.001": "train.batch_size=64 is larger than the 10 training images; set it to 10 or less.",
    f"train.batch_size={2**62}": f"train.batch_size={2**62} is larger than the 1347 training images; set it to 1347 or "
    "less.",
    "data.resize=1": "the network needs images of 8 px or more on both sides, got 1 x 1; enlarge them, for example "
    "with data.resize=32.",
    # training
    "train.accumulate=3": "train: batch_size 64 does not divide into accumulate=3 equal parts.",
    "train.nesterov=true train.optimizer=adamw": "train: nesterov needs optimizer sgd and momentum above 0; set "
    "nesterov=false.",
    "train.warmup_epochs=500": "train: warmup_epochs 500 is longer than epochs 4.",
    "train.milestones=[3, 2]": "train: milestones must rise, got [3, 2].",
    "train.batch_size=5000": "train.batch_size=5000 is larger than the 1347 training images; set it to 1347 or less.",
    "train.freeze=[stage9]": "unknown part in train.freeze 'stage9'; did you mean stage3 or stage2 or stage1? stages: "
    "stem, stage1, stage2, stage3, head.",
    "train.freeze=[stem, stage1, stage2, stage3, head]": "train.freeze=['stem', 'stage1', 'stage2', 'stage3', 'head'] "
    "leaves nothing of the student to learn; name fewer parts.",
    "log.trackers=[wandb]": "log.trackers: wandb is not installed; run `pip install wandb` or drop it.",
    "seeds=[0, 0]": "seeds must differ, got [0, 0].",
    "out=notes.txt": "cannot write notes.txt: File exists; free space or choose another folder with out=.",
    # networks
    "student.head=reset": "student: head=reset is for a student that starts from a file; name it with student.weights.",
    "student.options.num_classes=3": "student.options: num_classes is no option, the data tell it, and "
    "teacher.classes for a teacher's own head; leave it out.",
    "teacher.classes=7": "teacher: classes is for a teacher that comes with weights; name them with teacher.weights "
    "or teacher.options.pretrained=true.",
    "teacher.train.lr=-1": "teacher.train.lr: got -1, expected more than 0 (peak learning rate).",
    "teacher=[{}] teachers=[{}]": "teacher is a list and teachers is given too; name all teachers in one of them.",
    "teacher.weights=ok.safetensors teacher.mean=[0.5, 0.5]": "teacher statistics have 2 and 1 channels, the data 1; "
    "give one value a channel.",
    # numbers in weights
    "teacher.weights=nan.safetensors": "teacher weights nan.safetensors: layer1.0.conv1.weight holds NaN or infinite "
    "values; use an intact file.",
    "student.model=resnet20 student.weights=inf.pth": "student weights inf.pth: fc.bias holds NaN or infinite "
    "values; use an intact file.",
}
FILES = {
    "run.yaml": ("train: [epochs\n", "recipe run.yaml is not valid YAML: "),
    "run.json": ("[1, 2]", "recipe run.json must hold a mapping of keys, got list."),
    "data": ("\ud800", "recipe data is not valid YAML: "),
}


@pytest.fixture
def files(place):
    (place / "full").mkdir()
    (place / "full" / "notes.txt").touch()
    (place / "notes.txt").touch()
    state = build_model("resnet20", num_classes=10, in_channels=1).state_dict()
    save_weights(place / "ok.safetensors", state)
    save_weights(place / "nan.safetensors", _with(state, "layer1.0.conv1.weight", torch.nan))
    torch.save(_with(state, "fc.bias", -torch.inf), place / "inf.pth")


def _with(state, name, value):
    broken = state[name].clone()
    broken.view(-1)[-1] = value
    return {**state, name: broken}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_that_contradicts_itself(recipe, files, refused):
    words = re.split(r" (?=[a-z.]+=)", recipe)
    assert refused("run", *words) == RECIPES[recipe]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there it works")
def test_half_precision_without_a_device_for_it(refused):
    assert refused("run", "train.precision=fp16") == (
        "train.precision: fp16 needs a CUDA device, this machine has none; use bf16 or fp32."
    )


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_recipe(name, place, refused):
    content, text = FILES[name]
    (place / name).write_bytes(content.encode("utf-8", "surrogatepass"))
    assert refused("run", f"./{name}").startswith(text)


def test_words_that_are_no_overrides(refused):
    for word, text in {
        "train.epochs": "unknown recipe 'train.epochs'; ",
        "=3": "override '=3' is not of the form key=value, for example train.epochs=30.",
        "train..epochs=3": "override 'train..epochs=3' is not of the form key=value, for example train.epochs=30.",
        "train.epochs=[3": "the value of override 'train.epochs=[3' is not valid YAML; quote it.",
        "train.epochs.x=3": "'train.epochs.x=3': train.epochs is 4, it has no key 'x'.",
        "data.name.x=3": "'data.name.x=3': data.name is 'digits', it has no key 'x'.",
    }.items():
        assert refused("run", word).startswith(text)
