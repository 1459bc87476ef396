"""Configurations and options that mean harm or make no sense: each mistake by its key, in bounded time."""

from __future__ import annotations

from pathlib import Path

import pytest

from videoclip import registry
from videoclip.classify.fit import parse_method
from videoclip.config import RunConfig, find_config, find_text, load_config, parse
from videoclip.errors import ConfigError

DATA = {"manifest": "m.jsonl", "store": "s"}
BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{below}'] * 9)}]\n" for below, name in zip("abcdefg", "bcdefgh", strict=True)
)


def load(folder: Path, text: str, *overrides: str) -> RunConfig:
    (folder / "c.yaml").write_text(text)
    return load_config(folder / "c.yaml", overrides)


@pytest.mark.parametrize(
    "text",
    [
        BOMB,
        "- &a [x, x, x, x, x, x, x, x, x]\n"
        + "".join(
            f"- &{name} [{', '.join([f'*{below}'] * 9)}]\n" for below, name in zip("abcdefg", "bcdefgh", strict=True)
        ),
        "[" * 100_000,
        "{a: " * 5000,
        "data: " + "x" * (1 << 21),
        "data: 2020-13-45",
        "model: !!python/object:os.system {}",
        "- 1\n- 2\n",
        "",
        "\x00",
    ],
    ids=["bomb", "bomb in a list", "brackets", "braces", "long", "date", "python", "list", "empty", "nul"],
)
def test_yaml_that_is_no_configuration(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="c.yaml") as caught:
        load(tmp_path, text)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("content", [b"caf\xe9: 1", b"\x89PNG\r\n\x1a\n", b"\xff\xfed\x00"])
def test_a_config_that_is_no_text(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"c.yaml: line 1 is not UTF-8 text"):
        load_config(tmp_path / "c.yaml")


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "", "."])
def test_names_that_no_file_can_have(name: str) -> None:
    assert find_text("classes", name) is None
    with pytest.raises(ConfigError, match="no such file"):
        find_config(name)


@pytest.mark.parametrize("key", ["temporal", "similarity", "image_tuning", "text_tuning"])
@pytest.mark.parametrize("value", [3, None, 1.5, True, [3], [None], {"name": 3}, {"name": None}, {"layers": 2}, [[]]])
def test_components_of_wrong_types(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"model\.{key}"):
        parse({"data": DATA, "model": {key: value}}, RunConfig, "c.yaml")


@pytest.mark.parametrize(
    "values",
    [
        {"temporal": {"name": "lstm", 3: 4}},
        {"temporal": {"name": "lstm", "options": 3}},
        {"image_tuning": [{"name": "lora", "options": {}, "extra": 1}]},
        {"backbone": 3},
        {"backbone": {"name": ["tiny"]}},
        {3: 4},
        [],
        "model",
    ],
    ids=str,
)
def test_sections_of_wrong_types(values: object) -> None:
    with pytest.raises(ConfigError, match="model"):
        parse({"data": DATA, "model": values}, RunConfig, "c.yaml")


NUMBERS = ("nan", "inf", "-inf", "-1", "1e30", "9" * 25, "true", "[1]", "word")


@pytest.mark.parametrize("value", [*NUMBERS, "2020-13-45", "9" * 5000])
@pytest.mark.parametrize(
    "key", ["train.seed", "train.lr", "train.epochs", "train.workers", "train.average.beta", "model.frames"]
)
def test_numbers_out_of_range(tmp_path: Path, key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=key):
        load(tmp_path, f"data: {DATA}", f"{key}={value}")


def fields(kind: type, prefix: str = "") -> list[str]:
    """Dotted keys of every number in a kind of configuration."""
    found = []
    for name, field in kind.model_fields.items():  # type: ignore[attr-defined]
        if hasattr(field.annotation, "model_fields"):
            found += fields(field.annotation, f"{prefix}{name}.")
        elif field.annotation in (int, float, int | None, float | None):
            found.append(prefix + name)
    return found


@pytest.mark.parametrize("key", fields(RunConfig))
@pytest.mark.parametrize("value", ["nan", "inf", "-1", "1e30"])
def test_every_number_has_a_range(tmp_path: Path, key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=key):
        load(tmp_path, f"data: {DATA}", f"{key}={value}")


def test_seeds_have_32_bits(tmp_path: Path) -> None:
    assert load(tmp_path, f"data: {DATA}", f"train.seed={2**32 - 1}").train.seed == 2**32 - 1
    with pytest.raises(ConfigError, match=r"train\.seed"):
        load(tmp_path, f"data: {DATA}\ntrain: {{seed: {2**32}}}")


@pytest.mark.parametrize("override", ["a" + ".a" * 3000 + "=1", "=1", "model.temporal=" + "[" * 3000, "novalue"])
def test_overrides_that_are_none(tmp_path: Path, override: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, f"data: {DATA}", override, override)
    assert len(str(caught.value)) < 2000


OPTIONS = [
    (kind, name, option)
    for kind in ("temporal", "similarity", "tuning", "loss", "classifier")
    for name, component in registry.components(kind).items()  # type: ignore[arg-type]
    for option, (annotation, _) in registry.option_types(component).items()
    if annotation in (int, float, int | None, float | None)
]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30, True, "x", [1], 10**12])
def test_every_option_that_is_a_number_has_a_range(value: object) -> None:
    assert len(OPTIONS) > 100
    found = [registry.check_component(kind, name, {option: value}, name) for kind, name, option in OPTIONS]  # type: ignore[arg-type]
    wrong = [where for where, problems in zip(OPTIONS, found, strict=True) if len(problems) != 1]
    assert not wrong


def test_every_count_is_not_negative() -> None:
    for kind, name, option in OPTIONS:
        annotation = registry.option_types(registry.components(kind)[name])[option][0]  # type: ignore[arg-type]
        problems = registry.check_component(kind, name, {option: -1}, name)  # type: ignore[arg-type]
        assert bool(problems) == (annotation in (int, int | None)), (name, option)


def test_values_that_a_constructor_cannot_use_are_the_options_mistake() -> None:
    with pytest.raises(ConfigError, match=r"temporal 'aligner'.*\n  does not work with heads=7"):
        registry.create("temporal", "aligner", {"heads": 7}, width=64)
    with pytest.raises(ConfigError, match="no option of cross_entropy: 'args'"):
        registry.create("loss", "cross_entropy", {"args": 1})


@pytest.mark.parametrize(
    "text", ["gda:alpha=nan", "gda:alpha=inf", "gda:alpha=[", "gda:alpha=" + "[" * 5000, "gda:=1", "gda:alpha", "", ":"]
)
def test_methods_with_senseless_options(text: str) -> None:
    with pytest.raises(ConfigError, match="--method") as caught:
        parse_method(text)
    assert len(str(caught.value)) < 1500
