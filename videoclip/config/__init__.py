"""Configurations: pydantic models filled from YAML files and ``a.b=value`` arguments.

Every mistake is reported at once, each with its dotted key, what was expected and the nearest valid name. A file
may name one ``base:`` file, relative to itself, whose values it overrides. What may be said is in ``schema``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from videoclip import registry
from videoclip.config.schema import (
    AverageConfig,
    BackboneConfig,
    ClassesConfig,
    Component,
    DataConfig,
    ModelConfig,
    RunConfig,
    SelectConfig,
    Strict,
    TrainConfig,
)
from videoclip.errors import ConfigError
from videoclip.files import parse_yaml, read_yaml

__all__ = [
    "AverageConfig",
    "BackboneConfig",
    "ClassesConfig",
    "Component",
    "DataConfig",
    "ModelConfig",
    "RunConfig",
    "SelectConfig",
    "Strict",
    "TrainConfig",
    "dump",
    "find_config",
    "find_text",
    "load_as",
    "load_config",
    "parse",
    "parse_value",
    "shipped",
    "with_model",
]

C = TypeVar("C", bound=Strict)

DEEPEST_KEY = 8  # dots of an override


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file, apply ``a.b=value`` overrides, check everything.

    Raises:
        ConfigError: listing every mistake.
    """
    path = find_config(path)
    values = _read(path)
    if "base" in values:
        base = path.parent / str(values.pop("base"))
        below = _read(base)
        if "base" in below:
            raise ConfigError(str(base), ["base: a base file may not have a base itself"])
        values = _layered(below, values)
    problems, chosen = [], dict[str, Any]()
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or key.count(".") > DEEPEST_KEY:
            problems.append(f"{override[:100]}: write overrides as a.b=value")
            continue
        try:
            chosen = _merge(chosen, _nested(key.split("."), parse_value(text)))
        except ValueError as error:
            problems.append(f"{key}: not a value ({error})")
    values = _layered(values, chosen)
    return parse(values, RunConfig, str(path), problems)


def with_model(base: RunConfig, path: str | Path) -> RunConfig:
    """A run of ``base`` with the temporal encoder, similarity and context of another file's ``model`` section.

    Backbone, tuning, data and training stay those of ``base``, so that models meet on equal terms.

    Raises:
        ConfigError: listing every mistake of that section.
    """
    found = find_config(path)
    given = parse(_read(found).get("model", {}), ModelConfig, f"{found}: model")
    head = {"temporal": given.temporal, "similarity": given.similarity, "context": given.context}
    return base.model_copy(update={"model": base.model.model_copy(update=head)})


def parse(values: Any, kind: type[C], source: str, problems: Sequence[str] = ()) -> C:
    """Check plain values against a model; ``problems`` are mistakes found before.

    Raises:
        ConfigError: listing every mistake.
    """
    found = list(problems) + _check_components(values, kind)
    try:
        config = kind.model_validate(values)
    except ValidationError as error:
        found += [_sentence(e, kind) for e in error.errors()]
    if found:
        raise ConfigError(source, found)
    return config


def load_as(path: str | Path, kind: type[C]) -> C:
    """Read a YAML file, or a shipped one by name, as another kind of configuration than a run.

    Raises:
        ConfigError: listing every mistake.
    """
    found = find_config(path)
    return parse(_read(found), kind, str(found))


def dump(config: Strict) -> str:
    """The configuration as YAML that ``load_config`` reads back to the same values."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def shipped(folder: str, suffix: str = ".yaml") -> list[str]:
    """Names of the shipped files of a folder, sorted."""
    places = (place / folder for place in _shipped_folders())
    return sorted({path.stem for place in places for path in place.glob(f"*{suffix}")})


def find_text(folder: str, name: str | Path) -> Path | None:
    """A text file: ``name`` itself, or the shipped one of that name; None where there is neither."""
    places = [Path(name), *(place / folder / f"{name}.txt" for place in _shipped_folders())]
    return next((path for path in places if os.path.isfile(path)), None)  # False for names that cannot be


def find_config(path: str | Path) -> Path:
    """``path`` itself, or the shipped config of that name: ``demo/mean`` is ``configs/demo/mean.yaml``.

    Raises:
        ConfigError: there is no such file.
    """
    for candidate in (Path(path), *(folder / f"{path}.yaml" for folder in _shipped_folders())):
        if os.path.isfile(candidate):  # False, where Path raises, for a name that is too long
            return candidate
    raise ConfigError(str(path), ["no such file, and no shipped config of that name"])


def _shipped_folders() -> list[Path]:
    """Of an installed package, and of a checkout."""
    package = Path(__file__).parents[1]
    return [package / "configs", package.parent / "configs"]


def _read(path: Path) -> dict[str, Any]:
    values = read_yaml(path, ConfigError)
    if not isinstance(values, dict):
        raise ConfigError(str(path), ["must hold a mapping of sections, such as data:, model: and train:"])
    return values


def parse_value(text: str) -> Any:
    """Return what a value on the command line stands for: as in YAML, but 1e-3 is a number, and what is not YAML text.

    Raises:
        ValueError: it passes a bound of ``parse_yaml``, or is a number or a date that cannot be.
    """
    if _is_number(text) and not text.lstrip("+-").isdigit():
        return float(text)
    try:
        return parse_yaml(text)
    except yaml.YAMLError:
        return text


def _is_number(text: str) -> bool:
    """Whether Python reads a number: YAML takes 1e-3 for a string."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _nested(keys: Sequence[str], value: Any) -> dict[str, Any]:
    for key in reversed(keys):
        value = {key: value}
    return dict(value)


def _layered(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Lay values over others; data are made only at the places that the values asking for it name."""
    merged = _merge(below, above)
    own = above.get("data")
    if isinstance(own, Mapping) and {"manifest", "store"} & own.keys() and "synthetic" not in own:
        merged["data"] = {key: value for key, value in merged["data"].items() if key != "synthetic"}
    return merged


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` over ``below``; a component that changes its name drops the options of the one it replaces."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(old, str) and isinstance(value, Mapping) and "name" not in value:
            old = {"name": old}  # an option for a component in its short form
        replaces = isinstance(value, Mapping) and value.get("name") and key != "backbone"
        merged[key] = (
            _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) and not replaces else value
        )
    return merged


def _check_components(values: Any, kind: type[Strict]) -> list[str]:
    """Names and options of every component, checked against the registry before pydantic sees the rest."""
    kinds: dict[str, registry.Kind] = {
        "model.temporal": "temporal",
        "model.similarity": "similarity",
        "model.image_tuning": "tuning",
        "model.text_tuning": "tuning",
        "train.loss": "loss",
    }
    problems = []
    for key, component in kinds.items():
        section, _, name = key.partition(".")
        within = values.get(section) if kind is RunConfig and isinstance(values, Mapping) else values
        if kind not in (RunConfig, ModelConfig) or not isinstance(within, Mapping):
            continue
        for given in within[name] if isinstance(within.get(name), list | tuple) else [within.get(name)]:
            try:
                parsed = Component.model_validate(given)
            except ValidationError:
                continue  # not given, or pydantic will say what is wrong with it
            shown = key if kind is RunConfig else name
            problems += registry.check_component(component, parsed.name, parsed.options, shown)
    return problems


def _sentence(error: Any, kind: type[Strict]) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return registry.unknown(key, str(error["loc"][-1]), _names(kind, error["loc"][:-1]), "no such key")
    if error["type"] == "missing":
        return f"{key}: missing"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] in ("model_type", "model_attributes_type", "dict_type"):
        message = "must be a mapping of keys and values"
    shown = "" if isinstance(error["input"], Mapping) else f", got {registry.shortened(error['input'])}"
    return f"{key}: {message[0].lower()}{message[1:]}{shown}" if key else f"{message}{shown}"


def _names(kind: type[BaseModel], location: Sequence[Any]) -> list[str]:
    """The valid keys of the section at ``location``."""
    for part in (part for part in location if isinstance(part, str)):  # numbers are places in a list
        annotation = kind.model_fields[part].annotation
        sections = [a for a in (annotation, *get_args(annotation)) if isinstance(a, type) and issubclass(a, BaseModel)]
        kind = sections[0]
    return list(kind.model_fields)
