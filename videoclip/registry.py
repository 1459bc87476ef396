"""Components by name, found by scanning a folder and by entry points.

A component is a class in a file of its own in ``videoclip/<kind>/``; the file's name is the component's name. Other
packages offer theirs through the entry-point group ``videoclip.<kind>``. No list is kept anywhere.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Literal, get_type_hints

import pydantic

from videoclip.errors import ConfigError

Kind = Literal["temporal", "similarity", "tuning", "loss", "classifier"]


@cache
def components(kind: Kind) -> dict[str, type[Any]]:
    """Every component of a kind by name, sorted.

    Raises:
        ConfigError: two packages offer the same name.
    """
    package = importlib.import_module(f"videoclip.{kind}")
    found = {}
    for file in pkgutil.iter_modules(package.__path__):
        if file.ispkg:
            continue  # what several components share
        module = importlib.import_module(f"{package.__name__}.{file.name}")
        found[file.name] = _defined_class(module, kind)
    for entry in entry_points(group=f"videoclip.{kind}"):
        if entry.name in found:
            raise ConfigError(
                f"The {kind} registry", [f"{entry.name!r} is offered twice, the second time by {entry.value}"]
            )
        found[entry.name] = entry.load()
    return dict(sorted(found.items()))


def create(kind: Kind, name: str, options: Mapping[str, Any] | None = None, **supplied: Any) -> Any:
    """Build a component: ``options`` are the user's keyword arguments, ``supplied`` what the caller adds (width).

    Raises:
        ConfigError: the name or an option is unknown, or a value has the wrong type; all mistakes at once.
    """
    problems = check_component(kind, name, options or {}, kind)
    if problems:
        raise ConfigError(f"{kind} {name!r}", problems)
    component = components(kind)[name]
    return component(**supplied, **dict(_validated(component, options or {})))


def check_component(kind: Kind, name: str, options: Mapping[str, Any], key: str) -> list[str]:
    """What is wrong with a component's name and options, each sentence starting with its dotted key."""
    known = components(kind)
    if name not in known:
        return [unknown(key, name, list(known), f"no such {kind}")]
    parameters = option_types(known[name])
    problems = [
        unknown(f"{key}.{o}", o, list(parameters), f"no option of {name}") for o in options if o not in parameters
    ]
    try:
        _validated(known[name], {n: value for n, value in options.items() if n in parameters})
    except pydantic.ValidationError as error:
        problems += [f"{key}.{e['loc'][0]}: {e['msg']}, got {e['input']!r}" for e in error.errors()]
    return problems


def _validated(component: type[Any], options: Mapping[str, Any]) -> pydantic.BaseModel:
    """Options as their types want them: a whole number for 100.0 where that is asked for."""
    types = option_types(component)
    fields: dict[str, Any] = {name: types[name] for name in options}
    model = pydantic.create_model("Options", __config__=pydantic.ConfigDict(strict=False), **fields)
    return model(**options)


def option_types(component: type[Any]) -> dict[str, tuple[Any, Any]]:
    """Name -> (type, default) of a component's options: its constructor's arguments but ``width`` and ``tower``."""
    hints = get_type_hints(component.__init__)
    return {
        name: (hints.get(name, Any), ... if parameter.default is parameter.empty else parameter.default)
        for name, parameter in inspect.signature(component).parameters.items()
        if name not in ("width", "tower")
    }


def unknown(key: str, given: str, names: list[str], what: str) -> str:
    """One sentence for a name that does not exist, with the nearest one that does."""
    near = get_close_matches(given, names, 1, 0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(names) or 'none'}"
    return f"{key}: {what}: {given!r}; {hint}"


def _defined_class(module: Any, kind: Kind) -> type[Any]:
    classes = [
        value
        for name, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == module.__name__ and not name.startswith("_")
    ]
    if len(classes) != 1:
        raise ConfigError(
            f"{module.__name__}", [f"a {kind} file must define exactly one public class, not {len(classes)}"]
        )
    return classes[0]
