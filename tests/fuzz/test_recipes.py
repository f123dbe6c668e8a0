"""Recipes, overrides and plans that nobody would write: each is refused in one line, or read and written the same."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fuzz.material import JUNK, cases, damaged, refusals_only
from mfkd.bench.plan import cells, load_bench
from mfkd.bench.run import to_yaml as plan_to_yaml
from mfkd.config import RunConfig, config_hash, load_config, to_yaml
from mfkd.methods import known_methods
from mfkd.plan import open_plan
from mfkd.shipped import plan_names, plan_path, recipe_names, recipe_path

RECIPES = [yaml.safe_load(recipe_path(name).read_text("utf-8")) for name in recipe_names()]
PLANS = [yaml.safe_load(plan_path(name).read_text("utf-8")) for name in plan_names()]
TEXTS = [path.read_text("utf-8") for path in (recipe_path("digits"), plan_path("bench-digits"))]
COMPLETE = yaml.safe_load(to_yaml(RunConfig()))
METHODS = sorted({*known_methods(), "ce", "mfkd"})
PIECES = st.sampled_from(
    [
        "&a [*a]", "*a", "&b {<<: *b}", "<<: [*a, *a]", "!!int x", "!!bool x", "!!float []", "!!timestamp x",
        "!!set {a}", "!!binary aGk=", "!!python/name:os.system", "!x", "2024-13-45", "2020-01-01", "{[1]: 2}",
        "? [a]\n: b", "[" * 60, "{" * 60, "- " * 60, "%YAML 9.9\n---\n", "---\n", "...\n", "\t", "\ufeff",
        "\u2028", "\x07", '"\\ud800"', '"\\0"', '"\\U00110000"', "0b", "1:99:9", "9" * 5000, "0x" + "f" * 300,
        ".nan", "-.inf", "1e999", "on", "~", "|\n", ">-\n", "train:", "out: a\nout: b\n", "'", '"', ": ", "#",
        "{}", "[]", "=", "!!null x", "<<: 3", "&a", "*",
    ]
)  # fmt: skip


@st.composite
def texts(draw):
    """YAML whose text is damaged."""
    text = draw(st.sampled_from(TEXTS))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.one_of(PIECES, st.text(max_size=10))) + text[at + draw(st.integers(0, 30)) :]
    return text


def recipes():
    """YAML of recipes whose values are damaged: shipped ones, one with every key, and one with every method."""
    some = [*RECIPES, COMPLETE, {"method": {name: {} for name in METHODS}}]
    return st.sampled_from(some).flatmap(damaged).map(lambda raw: yaml.safe_dump(raw, allow_unicode=True))


@st.composite
def words(draw):
    """`key=value` of the command line."""
    keys = [name for name, _, _ in _keys()]
    key = draw(
        st.one_of(
            st.sampled_from(keys), st.text(max_size=12), st.sampled_from(["a." * 2000 + "a", "student.options.x.y"])
        )
    )
    key = draw(st.sampled_from([key, key, key, f"{key}.x", key[:-1], f".{key}", key.upper()]))
    value = draw(
        st.one_of(PIECES, st.text(max_size=12), JUNK.map(lambda one: yaml.safe_dump(one, default_flow_style=True)))
    )
    return f"{key}={value}" if draw(st.integers(0, 20)) else value


def _keys():
    from mfkd.config import describe_keys

    return describe_keys()


def read(path, overrides=()):
    """Whatever is taken is written and read back as the same, and its data are opened where they are at hand."""
    config = load_config(path, overrides)
    path.write_text(to_yaml(config), encoding="utf-8")
    again = load_config(path)
    assert to_yaml(again) == to_yaml(config)
    assert config_hash(again) == config_hash(config)
    if config.data.name == "digits" and not config.student.options and config.data.unlabelled is None:
        open_plan(config)


def read_plan(path, overrides=()):
    bench = load_bench(path, overrides)
    path.write_text(plan_to_yaml(bench), encoding="utf-8")
    assert [cell.key for cell in cells(load_bench(path))] == [cell.key for cell in cells(bench)]


def is_refused_or_read(path, text, reading, overrides=()):
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with refusals_only():
        reading(path, overrides)


@cases(150)
@given(text=st.one_of(texts(), recipes()))
def test_recipe(tmp_path, text):
    is_refused_or_read(tmp_path / "r.yaml", text, read)


@cases(150)
@given(overrides=st.lists(words(), min_size=1, max_size=3))
def test_overrides(tmp_path, overrides):
    is_refused_or_read(tmp_path / "r.yaml", "", read, overrides)


def plans():
    return st.sampled_from(PLANS).flatmap(damaged).map(lambda raw: yaml.safe_dump(raw, allow_unicode=True))


@cases(60)
@given(text=st.one_of(texts(), plans()), overrides=st.lists(words(), max_size=1))
def test_plan(tmp_path, text, overrides):
    is_refused_or_read(tmp_path / "p.yaml", text, read_plan, overrides)


@pytest.mark.slow
@cases(2000)
@given(text=texts())
def test_many_recipes_of_damaged_text(tmp_path, text):
    is_refused_or_read(tmp_path / "r.yaml", text, read)


@pytest.mark.slow
@cases(3000)
@given(text=recipes())
def test_many_recipes_of_damaged_values(tmp_path, text):
    is_refused_or_read(tmp_path / "r.yaml", text, read)


@pytest.mark.slow
@cases(3000)
@given(overrides=st.lists(words(), min_size=1, max_size=3))
def test_many_overrides(tmp_path, overrides):
    is_refused_or_read(tmp_path / "r.yaml", "", read, overrides)


@pytest.mark.slow
@cases(2000)
@given(text=st.one_of(texts(), plans()), overrides=st.lists(words(), max_size=1))
def test_many_plans(tmp_path, text, overrides):
    is_refused_or_read(tmp_path / "p.yaml", text, read_plan, overrides)
