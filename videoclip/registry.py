"""Components by name, found by scanning a folder and by entry points.

A component is a class in a file of its own in ``videoclip/<kind>/``; the file's name is the component's name. Other
packages offer theirs through the entry-point group ``videoclip.<kind>``. No list is kept anywhere.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import pkgutil
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cache, partial
from importlib.metadata import entry_points
from typing import Annotated, Any, Literal, get_args, get_type_hints

import pydantic

from videoclip.errors import ConfigError, VideoclipError
from videoclip.limits import LARGEST, LARGEST_COUNT

Kind = Literal["temporal", "similarity", "tuning", "loss", "classifier"]


@cache
def components(kind: Kind) -> dict[str, type[Any]]:
    """Every component of a kind by name, sorted.

    Raises:
        ConfigError: two packages offer the same name, or one cannot be loaded.
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
        try:
            found[entry.name] = entry.load()
        except Exception as error:  # whatever the other package does
            reason = f"{entry.name!r} ({entry.value}) cannot be loaded: {error}"
            raise ConfigError(f"The {kind} registry", [reason]) from error
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
    values = dict(_validated(component, options or {}))
    with blaming(f"{kind} {name!r}", values):
        return component(**supplied, **values)


@contextlib.contextmanager
def blaming(what: str, options: Mapping[str, Any]) -> Iterator[None]:
    """Turn what torch or a constructor says of values that it cannot use (``heads: 0``) into a mistake of the options.

    Raises:
        ConfigError: naming the options. Errors of this package pass unchanged.
    """
    try:
        yield
    except VideoclipError:
        raise
    except (ValueError, TypeError, ArithmeticError, LookupError, AssertionError, RuntimeError, MemoryError) as error:
        given = ", ".join(f"{name}={shortened(value)}" for name, value in options.items()) or "its defaults"
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(what, [f"does not work with {given}: {reason}"]) from error


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
        problems += [
            f"{key}.{e['loc'][0]}: {e['msg'].removeprefix('Value error, ')}, got {shortened(e['input'])}"
            for e in error.errors()
        ]
    return problems


def _validated(component: type[Any], options: Mapping[str, Any]) -> pydantic.BaseModel:
    """Options as their types want them: a whole number for 100.0 where that is asked for."""
    types = option_types(component)
    fields: dict[str, Any] = {
        name: (Annotated[types[name][0], pydantic.BeforeValidator(partial(_check_number, types[name][0]))], ...)
        for name in options
    }
    config = pydantic.ConfigDict(strict=False, allow_inf_nan=False)
    model = pydantic.create_model("Options", __config__=config, **fields)
    return model(**options)


def _check_number(kind: Any, value: Any) -> Any:
    """Refuse numbers outside every sensible range, and true and false where a number is asked for."""
    allowed = {kind, *get_args(kind)}
    if isinstance(value, bool) and allowed & {int, float} and bool not in allowed:
        raise ValueError("must be a number")
    if isinstance(value, int) and int in allowed and not 0 <= value <= LARGEST_COUNT:
        raise ValueError(f"must lie between 0 and {LARGEST_COUNT}")
    if isinstance(value, int | float) and abs(value) > LARGEST:
        raise ValueError(f"must lie between -{LARGEST} and {LARGEST}")
    return value


def shortened(value: Any) -> str:
    """Return a value as it is shown in an error."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def option_types(component: type[Any]) -> dict[str, tuple[Any, Any]]:
    """Name -> (type, default) of a component's options: its constructor's arguments but ``width`` and ``tower``."""
    hints = get_type_hints(component.__init__)
    return {
        name: (hints.get(name, Any), ... if parameter.default is parameter.empty else parameter.default)
        for name, parameter in inspect.signature(component).parameters.items()
        if name not in ("width", "tower") and parameter.kind is not parameter.VAR_POSITIONAL
        if parameter.kind is not parameter.VAR_KEYWORD  # a class without a constructor takes no options
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
