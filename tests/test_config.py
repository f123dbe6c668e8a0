import pytest
import yaml

from mfkd import shipped as module
from mfkd.config import (
    RunConfig,
    TrainConfig,
    config_hash,
    describe_keys,
    load_config,
    read_yaml,
    recipe_names,
    recipe_path,
    to_yaml,
)
from mfkd.errors import ConfigError, UnknownNameError


def refusal(*overrides, base=None):
    with pytest.raises(ConfigError) as caught:
        load_config(None, overrides, base)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Values just outside the range of every bounded field, and just inside.
RANGES = [
    ("data.fraction", ["0", "1.01", ".nan"], ["0.01", "1"]),
    ("data.val_fraction", ["-0.1", "1"], ["0", "0.99"]),
    ("data.test_fraction", ["0", "1"], ["0.01", "0.99"]),
    ("data.split_seed", ["-1", "0.5"], ["0"]),
    ("data.resize", ["0"], ["1", "null"]),
    ("data.copies", ["0"], ["1"]),
    ("data.image_size", ["0"], ["1", "null"]),
    ("data.crop", ["0", "1.1", ".nan"], ["0.9", "1", "null"]),
    ("data.interpolation", ["cubic"], ["bicubic", "null"]),
    ("data.mean", ["[1.1]", "0.5"], ["[0.5]", "null"]),
    ("data.std", ["[0]", "0.5"], ["[0.5]", "null"]),
    ("augment.scale", ["[0.5, 1.1]", "[-0.1, 1]", "[0.5]"], ["[0.5, 1]"]),
    ("data.evaluate", ["none"], ["val"]),
    ("teacher.weight", ["0", ".inf"], ["2.5"]),
    ("student.head", ["tune"], ["reset"]),
    ("train.compile", ["always"], ["auto", "true", "false"]),
    ("augment.auto", ["autoaugment"], ["randaugment", "none"]),
    ("augment.num_ops", ["0"], ["2"]),
    ("augment.magnitude", ["-1", "31"], ["9"]),
    ("augment.jitter", ["-0.1", ".inf"], ["0.4"]),
    ("augment.erasing", ["-0.1", "1.1"], ["0", "1"]),
    ("train.layer_decay", ["0", "1.1", "-0.5", ".nan"], ["0.65", "1"]),
    ("data.unreadable", ["ignore"], ["skip"]),
    ("data.workers", ["-1"], ["0"]),
    ("augment.crop_padding", ["-1"], ["0", "null"]),
    ("augment.mixup", ["-0.1", ".inf", ".nan"], ["0", "2"]),
    ("augment.cutmix", ["-0.1", ".inf", ".nan"], ["0", "2"]),
    ("augment.view_seed", ["-1"], ["0"]),
    ("train.epochs", ["0", "1.5", "true", "ten"], ["1"]),
    ("train.batch_size", ["0"], ["1"]),
    ("train.lr", ["0", ".inf", ".nan", "true"], ["1e-9"]),
    ("train.momentum", ["-0.1", "1.1", ".nan"], ["0", "1"]),
    ("train.weight_decay", ["-1e-9", ".inf"], ["0"]),
    ("train.milestones", ["[0]", "3", "[a]"], ["[1, 2]", "[]"]),
    ("train.gamma", ["0", "1.1"], ["1"]),
    ("train.warmup_epochs", ["-1", ".inf"], ["0.5"]),
    ("train.clip", ["0", ".nan"], ["1", "null"]),
    ("train.ema", ["0", "1"], ["0.999", "null"]),
    ("train.label_smoothing", ["-0.1", "1"], ["0", "0.9"]),
    ("train.accumulate", ["0"], ["2"]),
    ("train.evaluate_every", ["0"], ["1"]),
    ("train.optimizer", ["adam"], ["adamw"]),
    ("train.schedule", ["step"], ["cosine"]),
    ("train.precision", ["fp8"], ["bf16"]),
    ("train.compile", ["maybe", "null"], ["auto", "true", "false"]),
    ("teacher.head", ["none"], ["tune"]),
    ("teacher.classes", ["0"], ["1", "null"]),
    ("teacher.std", ["[0]", "1"], ["[0.1]", "null"]),
    ("teacher.image_size", ["0"], ["1", "null"]),
    ("teacher.seed", ["-1"], ["0"]),
    ("augment.views", ["0"], ["1", "null"]),
    ("cache.views", ["0"], ["1", "null"]),
    ("checkpoint.every_steps", ["0"], ["1", "null"]),
    ("checkpoint.every_minutes", ["0", "-1", ".inf", ".nan"], ["0.1", "null"]),
    ("checkpoint.keep", ["0"], ["1"]),
    ("cache.dtype", ["int8"], ["float16", "bfloat16", "float32"]),
    ("log.trackers", ["[x]", "wandb"], ["[]", "[wandb]"]),
    ("seeds", ["[]", "[-1]", "0", "[0, 0]"], ["[3]"]),
]


@pytest.mark.parametrize(("key", "bad"), [(key, bad) for key, values, _ in RANGES for bad in values])
def test_value_out_of_range_is_refused_by_its_dotted_name(key, bad):
    assert refusal(f"{key}={bad}").startswith(key)


@pytest.mark.parametrize(("key", "good"), [(key, good) for key, _, values in RANGES for good in values])
def test_value_in_range_is_taken(key, good):
    ready = ["teacher.weights=t.safetensors"] if key.startswith("teacher.") else []
    ready += ["student.weights=s.safetensors"] if key == "student.head" else []
    node = load_config(None, [f"{key}={good}", *ready]).model_dump(mode="json")
    for part in key.split("."):
        node = node[part]
    assert node == (yaml.safe_load(good) if good != "1e-9" else 1e-9)


def test_every_bounded_field_stands_in_the_table_of_ranges():
    def bounded(model, prefix):
        for name, field in model.model_fields.items():
            if hasattr(field.annotation, "model_fields"):
                yield from bounded(field.annotation, f"{prefix}{name}.")
            elif any(kind in str(field) for kind in ("Ge(", "Gt(", "Le(", "Lt(", "MinLen(", "Literal[")):
                yield prefix + name

    assert set(bounded(RunConfig, "")) == {key for key, _, _ in RANGES}


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["train.epochs=abc"], "train.epochs: got 'abc', expected a whole number (passes over the training images)."),
        (
            ["train.compile=maybe"],
            "train.compile: got 'maybe', expected 'auto', True or False "
            "(compile the networks; auto: where it should repay its own time within the run).",
        ),
        (["train.epochs=0"], "train.epochs: got 0, expected 1 or more (passes over the training images)."),
        (
            ["train.epochs=yes"],
            "train.epochs: got True, expected something else than true or false (passes over the training images).",
        ),
        (["train.lr=0"], "train.lr: got 0, expected more than 0 (peak learning rate)."),
        (["train.lr=fast"], "train.lr: got 'fast', expected a number (peak learning rate)."),
        (["train.lr=.inf"], "train.lr: got inf, expected a finite number (peak learning rate)."),
        (["train.gamma=2"], "train.gamma: got 2, expected 1 or less (factor at each milestone)."),
        (
            ["train.label_smoothing=1"],
            "train.label_smoothing: got 1, expected less than 1 (share of the label spread over all classes).",
        ),
        (
            ["train.nesterov=maybe"],
            "train.nesterov: got 'maybe', expected true or false (look ahead along the momentum).",
        ),
        (["train.nesterov=[]"], "train.nesterov: got [], expected true or false (look ahead along the momentum)."),
        (
            ["train.optimizer=adam"],
            "train.optimizer: got 'adam', expected 'sgd' or 'adamw' (what updates the weights).",
        ),
        (["train.epochs=1.5"], "train.epochs: got 1.5, expected a whole number (passes over the training images)."),
        (["train.epochs=[]"], "train.epochs: got [], expected a whole number (passes over the training images)."),
        (["train.lr=[]"], "train.lr: got [], expected a number (peak learning rate)."),
        (["train=3"], "train: got 3, expected a mapping of keys."),
        (["out=3"], "out: got 3, expected text (run folder)."),
        (["out=true"], "out: got True, expected something else than true or false (run folder)."),
        (
            ["cache.views=0"],
            "cache.views: got 0, expected 1 or more "
            "(augmented views an image whose knowledge is kept on disk; null: live teacher; "
            "auto: one for every 4 epochs, 16 at most).",
        ),
        (["seeds=[]"], "seeds: got [], expected 1 or more entries (one student alone and one distilled for each)."),
        (
            ["log.trackers=3"],
            "log.trackers: got 3, expected a list "
            "(any of tensorboard, wandb, mlflow, comet_ml, aim, clearml, dvclive, swanlab, trackio; [] for none).",
        ),
        (["data={1: 2}"], "data.1: got 1, expected text as the key."),
        (
            ["student.options=3"],
            "student.options: got 3, expected a mapping of keys (keyword options of the network's constructor).",
        ),
        (
            ["train.milestones=[0]"],
            "train.milestones.0: got 0, expected 1 or more (epochs after which multistep multiplies by gamma).",
        ),
        (["train.milestones=[3, 2]"], "train: milestones must rise, got [3, 2]."),
        (["train.schedule=cosine", "train.milestones=[3, 2]"], "train: milestones must rise, got [3, 2]."),
        (["train.accumulate=3"], "train: batch_size 64 does not divide into accumulate=3 equal parts."),
        (
            ["train.nesterov=true", "train.momentum=0"],
            "train: nesterov needs optimizer sgd and momentum above 0; set nesterov=false.",
        ),
        (["train.warmup_epochs=300"], "train: warmup_epochs 300 is longer than epochs 240."),
        (["seeds=[1, 2, 1]"], "seeds must differ, got [1, 2, 1]."),
        (["method=3"], "method: got 3, expected a preset or a mapping such as {kd: {weight: 1.0}}."),
        (["method={kd: 3}"], "method: got {'kd': 3}, expected a preset or a mapping such as {kd: {weight: 1.0}}."),
        (["method={}"], "method: got {}, expected a preset or a mapping such as {kd: {weight: 1.0}}."),
        (
            ["teacher.train.epochs=0"],
            "teacher.train.epochs: got 0, expected 1 or more (passes over the training images).",
        ),
        (["teacher.train.accumulate=3"], "teacher.train: batch_size 64 does not divide into accumulate=3 equal parts."),
        (
            ["train.epoch=3"],
            "unknown key 'train.epoch'; did you mean train.epochs or train.warmup_epochs or train.ema?",
        ),
        (
            ["nonsense=3"],
            "unknown key 'nonsense'; known: out, data, teacher, teachers, student, method, train, augment, cache, "
            "checkpoint, log, seeds.",
        ),
        (["log.colour=3"], "unknown key 'log.colour'; known: log.trackers."),
        (
            ["teacher.train.zzz=3"],
            "unknown key 'teacher.train.zzz'; "
            "did you mean teacher.train.lr or teacher.train.ema or teacher.train.freeze?",
        ),
        (["epochs"], "override 'epochs' is not of the form key=value, for example train.epochs=30."),
        (["=3"], "override '=3' is not of the form key=value, for example train.epochs=30."),
        (["train..lr=3"], "override 'train..lr=3' is not of the form key=value, for example train.epochs=30."),
        (["seeds=[0"], "the value of override 'seeds=[0' is not valid YAML; quote it."),
        (["out=a", "out.b.c=3"], "'out.b.c=3': out is 'a', it has no key 'b.c'."),
        (
            ["method.kd.weight=3"],
            "'method.kd.weight=3': method is 'mfkd', it has no key 'kd.weight'; "
            "name the methods with their options: method='{mfkd: {...}}'.",
        ),
    ],
)
def test_refusal_says_what_was_got_and_what_was_expected(overrides, text):
    assert refusal(*overrides) == text


def test_recipe_file_is_read_and_overrides_win(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("out: here\ntrain: {epochs: 5, lr: 1e-2}\nmethod:\n  kd:\n  mfkd: {weight: 2}\n")
    config = load_config(path, ["train.epochs=7", "method.kd.weight=3", "data.name=parquet:a/b"])
    assert (config.out, config.train.epochs, config.train.lr, config.data.name) == ("here", 7, 0.01, "parquet:a/b")
    assert config.method == {"kd": {"weight": 3}, "mfkd": {"weight": 2}}


@pytest.mark.parametrize(
    ("text", "value"),
    [("5e-4", 5e-4), ("+1e3", 1e3), (".5", 0.5), ("5e-4x", "5e-4x"), ("'a b'", "a b"), ("resnet8", "resnet8")],
)
def test_override_reads_numbers_as_a_person_does(text, value):
    assert load_config(None, [f"student.options.x={text}"]).student.options == {"x": value}


@pytest.mark.parametrize(("able", "precision"), [(True, "bf16"), (False, "fp32")])
def test_precision_is_that_of_the_hardware_if_it_is_to(monkeypatch, able, precision):
    monkeypatch.setattr("mfkd.sections.fast_bf16", lambda: able)
    config = load_config(None, ["train.precision=auto", "teacher.train.precision=auto"])
    assert config.train.precision == config.teacher_training().precision == precision
    assert f"precision: {precision}" in to_yaml(config)  # so that the run goes on in it, wherever that is
    assert "precision: auto" not in to_yaml(config)


@pytest.mark.parametrize(("epochs", "views"), [(1, 1), (7, 1), (8, 2), ("8.0", 2), ("'8'", 2), (64, 16), (240, 16)])
def test_views_fit_the_epochs_if_they_are_to(epochs, views):
    config = load_config(None, [f"train.epochs={epochs}", "cache.views=auto"])
    assert config.cache.views == views
    assert RunConfig.model_validate(yaml.safe_load(to_yaml(config))) == config


def test_automatic_views_know_the_epochs_that_hold_where_none_are_named():
    assert RunConfig.model_validate({"cache": {"views": "auto"}}).cache.views == min(16, TrainConfig().epochs // 4)
    assert "train.epochs: got 'x'" in refusal("train.epochs=x", "cache.views=auto")
    assert "cache.views: got 'all'" in refusal("cache.views=all")


def test_base_is_the_start_without_a_recipe_and_is_not_changed():
    base = {"train": {"epochs": 3}, "student": {"options": {"a": 1}}}
    config = load_config(None, ["train.lr=1", "student.options.a=2"], base)
    assert (config.train.epochs, config.train.lr, config.student.options) == (3, 1.0, {"a": 2})
    assert base == {"train": {"epochs": 3}, "student": {"options": {"a": 1}}}


def test_file_replaces_the_base(tmp_path):
    (tmp_path / "r.yaml").write_text("")
    assert load_config(tmp_path / "r.yaml", base={"out": "x"}) == RunConfig()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"a: [", "recipe {path} is not valid YAML: while parsing a flow node"),
        (b"\xff\xfe\x00", "recipe {path} is not valid YAML: "),
        (
            b"a: !!python/object/apply:os.getcwd []",
            "recipe {path} is not valid YAML: could not determine a constructor",
        ),
        (b"- 1", "recipe {path} must hold a mapping of keys, got list."),
    ],
)
def test_broken_recipe_is_refused(tmp_path, content, text):
    path = tmp_path / "r.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).startswith(text.format(path=path))
    assert "\n" not in str(caught.value)


def test_missing_recipe_is_refused(tmp_path):
    path = tmp_path / "r.yaml"
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value) == f"recipe {path} does not exist; `mfkd run --recipes` lists the ready ones."
    with pytest.raises(ConfigError, match="does not exist"):
        read_yaml(tmp_path)


def test_yaml_reads_back_to_the_same_config(tmp_path):
    overrides = [
        "method={kd: {weight: 5e-4}}",
        "train.clip=1",
        "teacher.mean=[0.5]",
        "teacher.weights=t",
        "seeds=[1, 2]",
        "out=Größe",
    ]
    config = load_config(None, overrides)
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config), encoding="utf-8")
    assert load_config(path) == config
    assert set(yaml.safe_load(to_yaml(config))) == set(RunConfig.model_fields)


@pytest.mark.parametrize(
    "override",
    [
        "out=x",
        "log.trackers=[]",
        "data.workers=7",
        "data.root=/x",
        "seeds=[1, 2]",
        "train.epochs=240",
        "train.lr=5e-2",
        "checkpoint={every_steps: 3, every_minutes: null, keep: 1}",
    ],
)
def test_hash_ignores_what_cannot_change_a_result(override):
    assert config_hash(load_config(None, [override])) == config_hash(RunConfig())


@pytest.mark.parametrize(
    "override",
    ["train.epochs=241", "data.fraction=0.5", "method=kd", "augment.view_seed=1", "teacher.seed=1"],
)
def test_hash_sees_what_can_change_a_result(override):
    assert config_hash(load_config(None, [override])) != config_hash(RunConfig())


def test_hash_is_twelve_hex_digits():
    assert len(config_hash(RunConfig())) == 12
    int(config_hash(RunConfig()), 16)


def test_teacher_training_is_train_with_its_own_differences():
    config = load_config(None, ["train.epochs=9", "train.lr=0.3", "teacher.train.epochs=4", "teacher.train.ema=0.9"])
    assert config.teacher_training() == TrainConfig(epochs=4, lr=0.3, ema=0.9)
    assert config.train == TrainConfig(epochs=9, lr=0.3)
    assert RunConfig().teacher_training() == TrainConfig()


def test_config_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        RunConfig().out = "x"


def test_every_key_has_a_default_and_a_meaning():
    rows = {key: (default, meaning) for key, default, meaning in describe_keys()}
    assert rows["train.epochs"] == ("240", "passes over the training images")
    assert rows["train.optimizer"] == ("sgd", "sgd, adamw: what updates the weights")
    assert rows["train.milestones"][0] == "[150, 180, 210]"
    assert rows["data.resize"][0] == "null"
    assert [key for key, (_, meaning) in rows.items() if not meaning] == []


def test_described_defaults_read_back_to_the_default_config():
    assert load_config(None, [f"{key}={default}" for key, default, _ in describe_keys()]) == RunConfig()


@pytest.mark.parametrize("name", ["digits", "digits.yaml", "recipes/digits.yaml"])
def test_shipped_recipe_is_found_by_its_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert recipe_path(name).name == "digits.yaml"
    assert load_config(name) == load_config(recipe_path("digits"))


def test_own_file_wins_over_a_shipped_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits.yaml").write_text("out: mine")
    assert load_config("digits.yaml").out == "mine"
    (tmp_path / "digits").mkdir()
    assert load_config("digits") == load_config(recipe_path("digits"))


def test_unknown_recipe_is_refused_with_the_nearest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownNameError) as caught:
        load_config("digit.yaml")
    text = "unknown recipe 'digit.yaml'; did you mean digits? a path to a YAML file is welcome too."
    assert str(caught.value) == text


def test_installed_recipes_come_before_those_of_the_checkout(tmp_path, monkeypatch):
    package = tmp_path / "src" / "mfkd"
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "a.yaml").touch()
    package.mkdir(parents=True)
    monkeypatch.setattr(module, "__file__", str(package / "shipped.py"))
    assert recipe_names() == ["a"]
    (package / "recipes").mkdir()
    (package / "recipes" / "b.yaml").touch()
    assert recipe_path("b") == package / "recipes" / "b.yaml"
    assert recipe_names() == ["b"]


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_is_valid(name):
    assert load_config(name).out == f"runs/{name}"


@pytest.mark.parametrize("override", ["classes=7", "head=tune", "image_size=16", "mean=[0.5]", "std=[0.5]"])
def test_what_describes_a_ready_teacher_is_refused_for_one_that_is_trained_here(override):
    key = override.partition("=")[0]
    with pytest.raises(ConfigError) as refusal:
        load_config(None, [f"teacher.{override}"])
    assert str(refusal.value) == (
        f"teacher: {key} is for a teacher that comes with weights; "
        "name them with teacher.weights or teacher.options.pretrained=true."
    )
    load_config(None, [f"teacher.{override}", "teacher.weights=t.safetensors"])


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("augment.scale=[0.9, 0.5]", "augment: scale must rise from above 0, got [0.9, 0.5]."),
        ("augment.scale=[0, 0.5]", "augment: scale must rise from above 0, got [0, 0.5]."),
        ("augment.ratio=[1, .inf]", "augment: ratio must rise from above 0, got [1, inf]."),
        ("augment.magnitude=5", "augment: magnitude is for auto=randaugment, got auto=none."),
        ("augment.num_ops=3", "augment: num_ops is for auto=randaugment, got auto=none."),
    ],
)
def test_augmentation_that_contradicts_itself_is_refused(override, text):
    assert refusal(override) == text
    assert load_config(None, ["augment.auto=randaugment", "augment.magnitude=5", "augment.num_ops=3"])


def test_a_teacher_trained_here_is_fine_tuned_only_if_its_own_training_says_so():
    words = ["train.freeze=[stem]", "train.layer_decay=0.5", "train.no_decay=true"]
    teacher = load_config(None, words).teacher_training()
    assert (teacher.freeze, teacher.layer_decay, teacher.no_decay) == ((), 1.0, True)
    teacher = load_config(None, [*words, "teacher.train.freeze=[stage1]"]).teacher_training()
    assert teacher.freeze == ("stage1",)
