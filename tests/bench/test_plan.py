import pytest

from mfkd.bench.config import BenchConfig, merged
from mfkd.bench.plan import budget_names, cells, load_bench, pair_names, seeds_of
from mfkd.bench.run import to_yaml
from mfkd.config import load_config
from mfkd.errors import ConfigError
from mfkd.shipped import plan_names

SMALL = {"methods": ["kd", "mfkd"], "seeds": [0, 1], "out": "there"}


def keys(plan, *overrides):
    return [cell.key for cell in cells(load_bench(plan, overrides))]


def test_cells_go_by_seed_first_and_the_teacher_before_its_students():
    pair = "resnet20-resnet8"
    assert keys(SMALL) == [
        f"{pair}/teacher",
        *(f"{pair}/{method}/seed-{seed}" for seed in (0, 1) for method in ("none", "kd", "mfkd")),
    ]
    assert keys(SMALL, "order=[method,seed,pair,budget]")[1:4] == [
        f"{pair}/none/seed-0",
        f"{pair}/none/seed-1",
        f"{pair}/kd/seed-0",
    ]


def test_a_cell_is_a_recipe_in_a_folder_of_its_own():
    cell = cells(load_bench(SMALL))[2]
    assert (cell.kind, cell.method, cell.seed) == ("distilled", "kd", 0)
    assert str(cell.folder) == "there/resnet20-resnet8/kd/distilled/seed-0"
    assert str(cell.teachers_in) == "there/resnet20-resnet8"
    digits = load_config("digits")
    assert cell.config == digits.model_copy(
        update={"out": "there/resnet20-resnet8/kd", "method": "kd", "seeds": (0, 1)}
    )
    alone = cells(load_bench(SMALL))[1]
    assert (alone.kind, alone.config.method) == ("alone", "none")


def test_pairs_budgets_and_pair_options_make_their_own_recipes():
    plan = {
        "base": {
            "data": {"name": "digits"},
            "teacher": {"model": "resnet20", "weights": "a.safetensors", "train": {"epochs": 3}},
            "train": {"epochs": 2, "milestones": [1]},
        },
        "pairs": [
            {"student": {"model": "resnet8"}},
            {
                "name": "wide",
                "teacher": {"model": "wrn_40_2"},
                "train": {"lr": 0.01},
                "methods": {"dkd": {"dkd": {"beta": 6.0}}},
            },
        ],
        "methods": {"dkd": None},
        "budgets": [{"train": {"epochs": 4}}, {"name": "fifth", "data": {"fraction": 0.2}}],
        "seeds": [5],
        "out": "o",
    }
    bench = load_bench(plan)
    assert pair_names(bench) == ["resnet20-resnet8", "wide"]
    assert budget_names(bench) == ["epochs=4", "fifth"]
    found = {cell.key: cell.config for cell in cells(bench)}
    assert len(found) == 2 + 2 * 2 * 2
    first, second = found["resnet20-resnet8/epochs=4/dkd/seed-5"], found["wide/fifth/dkd/seed-5"]
    assert (first.train.epochs, first.train.lr, first.data.fraction, first.method) == (4, 0.05, 1.0, "dkd")
    assert (first.teacher.weights, first.teacher.train) == ("a.safetensors", {"epochs": 3})
    assert (second.train.epochs, second.train.lr, second.data.fraction) == (2, 0.01, 0.2)
    assert second.method == {"dkd": {"beta": 6.0}}
    # Another network takes no weights from the base, but how it is to be trained.
    assert (second.teacher.model, second.teacher.weights, second.teacher.train) == ("wrn_40_2", None, {"epochs": 3})
    # The teacher belongs to the pair and knows no budget.
    assert (found["wide/teacher"].train.epochs, found["wide/teacher"].data.fraction) == (2, 1.0)
    budget = next(cell for cell in cells(bench) if cell.budget == "fifth" and cell.pair == "wide")
    assert str(budget.teachers_in) == "o/wide"


def test_overrides_are_of_the_plan_or_else_of_its_base():
    bench = load_bench(SMALL, ["seeds=[7]", "out=o", "data.name=parquet:x", "train.epochs=9"])
    cell = cells(bench)[-1]
    assert (cell.seed, cell.config.data.name, cell.config.train.epochs) == (7, "parquet:x", 9)
    assert str(cell.home) == "o/resnet20-resnet8/mfkd"


def test_single_methods_may_have_seeds_of_their_own_and_the_student_alone_has_all():
    bench = load_bench(SMALL, ["method_seeds={kd: [0, 1, 2]}"])
    assert (seeds_of(bench, "kd"), seeds_of(bench, "mfkd"), seeds_of(bench, "none")) == ((0, 1, 2), (0, 1), (0, 1, 2))
    assert [key.rpartition("/seed-") for key in keys(SMALL, "method_seeds={kd: [0, 1, 2]}")][-2:] == [
        ("resnet20-resnet8/none", "/seed-", "2"),
        ("resnet20-resnet8/kd", "/seed-", "2"),
    ]


def test_the_student_alone_can_be_left_out():
    assert keys({**SMALL, "alone": False}) == [
        "resnet20-resnet8/teacher",
        *(f"resnet20-resnet8/{method}/seed-{seed}" for seed in (0, 1) for method in ("kd", "mfkd")),
    ]
    with pytest.raises(ConfigError, match="alone: false leaves nothing to train, since none is the only method"):
        load_bench({"methods": ["none"], "alone": False})


def test_live_methods_see_the_same_views_without_a_cache():
    bench = load_bench({**SMALL, "live": ["mfkd"]}, ["cache.views=3"])
    kd, mfkd = cells(bench)[2:4]
    assert (kd.config.cache.views, mfkd.config.cache.views, mfkd.config.augment.views) == (3, None, 3)
    bench = load_bench({**SMALL, "live": ["mfkd"]}, ["cache.views=auto", "train.epochs=8"])
    kd, mfkd = cells(bench)[2:4]
    assert (kd.config.cache.views, mfkd.config.cache.views, mfkd.config.augment.views) == (2, None, 2)


def test_cells_and_plans_read_back_to_the_same():
    bench = load_bench({**SMALL, "budgets": [{"name": "a", "train": {"epochs": 3}}]})
    for cell in cells(bench):
        assert type(cell).model_validate_json(cell.model_dump_json()) == cell
    import yaml

    assert BenchConfig.model_validate(yaml.safe_load(to_yaml(bench))) == bench


def test_merged_changes_nothing_that_was_given():
    base = {"a": {"b": 1, "c": [1]}, "d": 2}
    assert merged(base, {"a": {"b": 3}, "d": {"e": 4}, "f": None}) == {
        "a": {"b": 3, "c": [1]},
        "d": {"e": 4},
        "f": None,
    }
    assert base == {"a": {"b": 1, "c": [1]}, "d": 2}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"seds": [0]}, "unknown key 'seds'; did you mean seeds"),
        ({"seeds": [0, -1]}, "seeds.1: got -1, expected 0 or more"),
        ({"seeds": [0, 0]}, "seeds: seeds must be one or more that differ, got [0, 0]."),
        ({"seeds": []}, "seeds: got [], expected 1 or more entries (of the students; methods are paired by them)."),
        (
            {"methods": []},
            "methods: expected a list of methods, or a mapping such as {kd: kd, mine: {kd: {weight: 2.0}}}.",
        ),
        ({"methods": {"none": {"kd": {}}}}, "methods: none is the student alone and takes no options, got {'kd': {}}."),
        (
            {"methods": {"a/b": "kd"}},
            "methods: 'a/b' will not do as a folder's name; use letters, digits and . , + = - _.",
        ),
        ({"methods": {"teacher": "kd"}}, "methods: 'teacher' will not do as a folder's name"),
        ({"methods": {"k": "kdd"}}, "methods.k: unknown method 'kdd'; did you mean kd"),
        ({"methods": {"k": {"kd": {"weight": -1}}}}, "methods.k: method.kd.weight: got -1, expected 0 or more"),
        ({"family": ["dkd"]}, "family names dkd, which is none of the methods none, kd, mfkd."),
        ({"order": ["seed"]}, "order must name seed, budget, pair, method once each, got ['seed']."),
        ({"pairs": [{"train": {"epochs": 0}}]}, "pairs.0: train.epochs: got 0, expected 1 or more"),
        (
            {"pairs": [{"methods": {"dkd": "dkd"}}]},
            "unknown method 'dkd'; did you mean kd or mfkd? pairs.0.methods can",
        ),
        ({"pairs": [{}, {}]}, "pairs: two of them are called resnet20-resnet8; give each a name of its own."),
        ({"budgets": [{}, {}]}, "budgets: two of them are called base; give each a name of its own."),
        ({"budgets": [{"train": {"epoch": 1}}]}, "base with budgets.0: unknown key 'train.epoch'; did you mean"),
        ({"base": {"seeds": [0]}}, "base: seeds has no place in the base of a plan; the plan itself says it."),
        ({"base": "digit"}, "unknown recipe 'digit'; did you mean digits?"),
    ],
)
def test_what_will_not_do_is_refused_by_its_path(changes, text):
    with pytest.raises(ConfigError) as caught:
        load_bench({**SMALL, **changes})
    assert text in str(caught.value)


def test_a_plan_without_methods_is_refused():
    with pytest.raises(ConfigError, match="methods: expected a list of methods"):
        load_bench({"out": "x"})


@pytest.mark.parametrize("name", plan_names())
def test_every_shipped_plan_makes_cells_with_data_from_elsewhere(name):
    bench = load_bench(name, ["data.name=parquet:somewhere"])
    found = cells(bench)
    assert found[0].kind == "teacher"
    assert {cell.config.data.name for cell in found} == {"parquet:somewhere"}
    assert len({cell.key for cell in found}) == len(found) == len({cell.folder for cell in found})
    assert ("none" in {cell.method for cell in found}) == bench.alone


def test_missing_plan_is_refused_with_the_nearest():
    with pytest.raises(ConfigError) as caught:
        load_bench("bench-digit")
    assert (
        "unknown plan 'bench-digit'; did you mean bench-digits or fade-digits? a path to a YAML file is welcome too."
        in str(caught.value)
    )
