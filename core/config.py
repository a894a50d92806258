"""Typed configuration: pydantic models read from YAML, changed by ``key.path=value``.

A misspelt key is an error that names the key it probably meant, never a silent default.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from core.errors import UsageError, nearest
from core.files import write_text


class StrictModel(BaseModel):
    """Base of every configuration: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Model = TypeVar("Model", bound=BaseModel)


def load_config(
    model_cls: type[Model], path: Path | None = None, overrides: Iterable[str] = ()
) -> Model:
    """Build ``model_cls`` from a YAML file (or from defaults) with ``a.b=c`` changes on top.

    The text after ``=`` is read as YAML, so ``patch=[96,96,64]``, ``name=null`` and ``lr=1e-4`` all
    mean what they look like. Raises UsageError, in one line, for a file that is missing or not
    YAML, a key that does not exist (naming the nearest), and a value of the wrong kind.
    """
    values = {} if path is None else _read(Path(path))
    for override in overrides:
        _apply(values, override)
    source = str(path) if path is not None else "settings"
    return validate(model_cls, values, source)


def change(model: Model, overrides: Iterable[str], source: str) -> Model:
    """``model`` with ``a.b=c`` changes; UsageError as for ``load_config``, naming ``source``."""
    values = model.model_dump(mode="json")
    for override in overrides:
        _apply(values, override)
    return validate(type(model), values, source)


def validate(model_cls: type[Model], values: Any, source: str) -> Model:
    """``model_cls`` from plain values; UsageError in one line that names ``source``."""
    try:
        return model_cls.model_validate(values)
    except ValidationError as error:
        raise UsageError(f"{source}: {_describe(model_cls, error)}") from error


def dump_config(model: BaseModel, path: Path, force: bool = False) -> None:
    """Write every value of ``model``, defaults included, as YAML that ``load_config`` reads back."""
    import yaml

    values = model.model_dump(mode="json")
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, default_flow_style=None)
    write_text(path, text, force)


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: is not YAML ({error})") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UsageError(f"{path}: must hold 'key: value' lines, found {type(values).__name__}")
    return values


def _apply(values: dict[str, Any], override: str) -> None:
    """Set one ``a.b=c`` in nested dictionaries, in place."""
    import yaml

    key, equals, text = override.partition("=")
    keys = key.strip().split(".")
    if not equals or not all(keys):
        raise UsageError(f"setting '{override}' is not of the form key=value or section.key=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"setting '{override}': '{text}' is not a YAML value") from error
    place = values
    for name in keys[:-1]:
        place = place.setdefault(name, {})
        if not isinstance(place, dict):
            raise UsageError(f"setting '{override}': '{name}' is a value and has no keys inside")
    place[keys[-1]] = value


def _describe(model_cls: type[BaseModel], error: ValidationError) -> str:
    """The first problem in plain words, and how many more there are."""
    problems = error.errors(include_url=False)
    problem = problems[0]
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = _keys_beside(model_cls, problem["loc"])
        text = f"unknown key '{where}'.{nearest(str(problem['loc'][-1]), known)}"
        text += f" Known here: {', '.join(known)}"
    elif problem["type"] == "missing":
        text = f"'{where}' is missing"
    else:
        given = repr(problem["input"])
        given = given if len(given) <= 60 else given[:57] + "..."
        text = f"'{where}': {problem['msg']}, got {given}" if where else problem["msg"]
    more = len(problems) - 1
    return text + (f" (and {more} more problem{'s' if more > 1 else ''})" if more else "")


def _keys_beside(model_cls: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys that are valid where ``location`` points: siblings of its last part."""
    models = [model_cls]
    for part in location[:-1]:
        fields = [model.model_fields[part] for model in models if part in model.model_fields]
        if fields:  # an index, a mapping key or a union's tag stays at the same models
            models = [inner for field in fields for inner in _models_in(field.annotation)]
    return list(dict.fromkeys(key for model in models for key in model.model_fields))


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Every pydantic model inside a type such as ``dict[str, A] | list[B] | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
