from __future__ import annotations

import pytest
from pydantic import Field, ValidationError

from core.config import StrictModel, change, dump_config, load_config
from core.errors import UsageError


class Optimiser(StrictModel):
    lr: float = 1e-3
    weight_decay: float = 0.0


class Stage(StrictModel):
    depth: int
    heads: int = 1


class Config(StrictModel):
    name: str = "run"
    steps: int = Field(default=100, gt=0)
    patch: tuple[int, ...] = (32, 32, 32)
    optimiser: Optimiser = Optimiser()
    stages: list[Stage] = []
    extra: Optimiser | None = None
    table: dict[str, Stage] = {}


def test_defaults_file_and_overrides_in_that_order(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("steps: 7\noptimiser: {lr: 0.5}\n")
    config = load_config(Config, path, ["optimiser.lr=1e-4", "patch=[8, 9]", "extra.lr=2"])
    assert config == Config(
        steps=7, optimiser=Optimiser(lr=1e-4), patch=(8, 9), extra=Optimiser(lr=2)
    )
    assert load_config(Config) == Config()


def test_written_config_reads_back_equal(tmp_path):
    config = Config(
        name="no: yes", stages=[Stage(depth=2)], table={"a b": Stage(depth=1)}, patch=(1,)
    )
    dump_config(config, tmp_path / "c.yaml")
    assert load_config(Config, tmp_path / "c.yaml") == config
    with pytest.raises(UsageError, match="already exists"):
        dump_config(config, tmp_path / "c.yaml")


def test_an_empty_file_is_the_defaults(tmp_path):
    (tmp_path / "a.yaml").write_text("# nothing\n")
    assert load_config(Config, tmp_path / "a.yaml") == Config()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("step=3", r"unknown key 'step'\. Did you mean 'steps'\?"),
        ("optimiser.weight_dcay=3", r"'optimiser\.weight_dcay'\. Did you mean 'weight_decay'\?"),
        ("extra.lrr=1", r"Did you mean 'lr'\? Known here: lr, weight_decay"),
        ("stages=[{depth: 1, head: 2}]", r"unknown key 'stages\.0\.head'\. Did you mean 'heads'\?"),
        ("table={x: {depth: 1, dept: 2}}", r"'table\.x\.dept'\. Did you mean 'depth'\?"),
        ("stages=[{heads: 1}]", r"'stages\.0\.depth' is missing"),
        ("steps=soon", r"'steps': Input should be a valid integer.*got 'soon'"),
        ("steps=-1", r"'steps': Input should be greater than 0, got -1"),
        ("steps", r"'steps' is not of the form key=value"),
        ("=3", r"not of the form key=value"),
        ("a..b=3", r"not of the form key=value"),
        ("name.x=3", r"unknown key|Input should be a valid string"),
        ("patch=[1", r"'\[1' is not a YAML value"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_was_meant(override, said):
    with pytest.raises(UsageError, match=said) as caught:
        load_config(Config, None, [override])
    assert "\n" not in str(caught.value)


def test_an_override_below_a_value(tmp_path):
    (tmp_path / "a.yaml").write_text("name: x\n")
    with pytest.raises(UsageError, match="'name' is a value and has no keys inside"):
        load_config(Config, tmp_path / "a.yaml", ["name.inner=1"])


def test_changes_of_a_configuration_in_memory():
    before = load_config(Config, None, ["steps=3", "name=x"])
    after = change(before, ["steps=4"], "here")
    assert (before.steps, after.steps, after.name) == (3, 4, "x")
    with pytest.raises(UsageError, match=r"^here: unknown key 'stepps'\. Did you mean 'steps'\?"):
        change(before, ["stepps=4"], "here")


def test_several_mistakes_are_counted():
    with pytest.raises(UsageError, match=r"and 1 more problem\)"):
        load_config(Config, None, ["stepps=3", "nam=x"])


@pytest.mark.parametrize("text", ["- a\n- b\n", "just words", "a: [1", "\tx: 1"])
def test_a_file_that_is_no_configuration(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"bad\.yaml: (must hold|is not YAML)"):
        load_config(Config, path)


def test_a_missing_or_binary_file(tmp_path):
    with pytest.raises(UsageError, match=r"none\.yaml: cannot be read"):
        load_config(Config, tmp_path / "none.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="is not YAML"):
        load_config(Config, tmp_path / "b.yaml")


def test_models_are_frozen():
    with pytest.raises(ValidationError):
        Config().steps = 3
