from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from videoclip.config import Component, RunConfig, dump, load_config
from videoclip.errors import ConfigError

CONFIGS = Path(__file__).parents[1] / "configs"
RUNS = sorted(path for path in CONFIGS.rglob("*.yaml") if path.parent.name != "protocol")
SHIPPED = sorted(path for path in RUNS if path.name != "base.yaml")


def write(folder: Path, values: object, name: str = "c.yaml") -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(values))
    return path


DATA = {"manifest": "m.jsonl", "store": "s"}


USERS_DATA = ["data.manifest=m.jsonl", "data.store=s"]  # which configs/model, tuned and recognition leave to the user


def test_every_shipped_config_loads() -> None:
    assert len(SHIPPED) >= 5
    for path in SHIPPED:
        config = load_config(path, USERS_DATA if path.parent.name in ("model", "recognition", "tuned") else [])
        assert path.read_text().startswith("#") and config.model.frames > 0


def test_a_dumped_config_is_valid_input_and_the_same(tmp_path: Path) -> None:
    for path in SHIPPED:
        similarity = ["model.similarity.name=query_scoring", "model.similarity.temperature=0.2"]
        config = load_config(path, ["train.lr=1e-3", *similarity, *USERS_DATA])
        (tmp_path / "r.yaml").write_text(dump(config))
        assert load_config(tmp_path / "r.yaml") == config


def test_shipped_configs_go_by_name() -> None:
    assert load_config("demo/lstm") == load_config(CONFIGS / "demo" / "lstm.yaml")
    with pytest.raises(ConfigError, match="no such file, and no shipped config"):
        load_config("demo/absent")


def test_overrides_have_types_and_reach_components(tmp_path: Path) -> None:
    path = write(tmp_path, {"data": DATA, "model": {"temporal": "transformer"}})
    config = load_config(
        path,
        ["train.lr=1e-5", "train.epochs=3", "model.temporal.layers=2", "data.allow_missing=true", "data.test=[a, b]"],
    )
    assert (config.train.lr, config.train.epochs, config.data.allow_missing) == (1e-5, 3, True)
    assert config.model.temporal == Component(name="transformer", options={"layers": 2})
    assert config.data.test == ("a", "b")
    renamed = load_config(path, ["model.temporal.layers=2", "model.temporal=lstm"])
    assert renamed.model.temporal == Component(name="lstm")


def test_base_is_one_level_and_a_new_component_drops_old_options(tmp_path: Path) -> None:
    write(tmp_path, {"data": DATA, "model": {"temporal": {"name": "transformer", "layers": 2}}}, "base.yaml")
    child = write(tmp_path, {"base": "base.yaml", "model": {"temporal": {"name": "lstm"}}}, "child.yaml")
    assert load_config(child).model.temporal == Component(name="lstm")
    grandchild = write(tmp_path, {"base": "child.yaml"}, "grandchild.yaml")
    with pytest.raises(ConfigError, match="may not have a base itself"):
        load_config(grandchild)


def test_all_mistakes_at_once_each_with_key_and_nearest_name(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        {
            "data": DATA | {"allow_mising": True},
            "model": {"temporal": {"name": "transfomer"}, "similarity": {"name": "query_scoring", "temperatur": 0.1}},
            "train": {"epochs": "many", "lr": -1},
            "select": {"metric": "R@1"},
            "modle": {},
        },
    )
    with pytest.raises(ConfigError) as caught:
        load_config(path, ["no_equals_sign", "model.text_tuning=ful"])
    text = str(caught.value)
    for expected in (
        "data.allow_mising: no such key: 'allow_mising'; did you mean 'allow_missing'?",
        "model.temporal: no such temporal: 'transfomer'; did you mean 'transformer'?",
        "model.similarity.temperatur: no option of query_scoring: 'temperatur'; did you mean 'temperature'?",
        "model.text_tuning: no such tuning: 'ful'; did you mean 'full'?",
        "modle: no such key: 'modle'; did you mean 'model'?",
        "train.epochs: input should be a valid integer",
        "train.lr: input should be greater than 0, got -1",
        "select.metric: ",
        "no_equals_sign: write overrides as a.b=value",
    ):
        assert expected in text, expected
    assert len(caught.value.problems) == 9


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"validation": "test"}, "the best epoch must not see the test"),
        ({"train": "val", "validation": "val"}, "also used for validation or test"),
        ({"test": ["train"]}, "also used for validation or test"),
    ],
)
def test_splits_must_differ(tmp_path: Path, data: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, {"data": DATA | data}))


def test_wrong_option_types_are_found(tmp_path: Path) -> None:
    path = write(
        tmp_path, {"data": DATA, "model": {"temporal": {"name": "difference", "projection": "sigmoid", "layers": "x"}}}
    )
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert len(caught.value.problems) == 2
    assert "model.temporal.projection" in str(caught.value) and "'attention', 'mlp' or 'plain'" in str(caught.value)


@pytest.mark.parametrize("content", ["[1, 2]", "a: [", ""])
def test_what_is_no_mapping_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "c.yaml").write_text(content)
    with pytest.raises(ConfigError):
        load_config(tmp_path / "c.yaml")


def test_defaults_live_in_one_place() -> None:
    config = RunConfig.model_validate({"data": DATA})
    assert "options" not in dump(config) and "temporal: none" in dump(config)
