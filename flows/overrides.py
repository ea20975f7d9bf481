"""From `key=value` on the command line to a recipe's frozen config."""

import json
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from data.config import StageConfig
from data.suggest import did_you_mean

C = TypeVar("C", bound=StageConfig)


class ConfigError(ValueError):
    """All that is wrong with a command line, one problem per line."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


def configure(kind: type[C], assignments: Sequence[str]) -> C:
    """The config that `assignments` ("sample.low=51", "train.seeds=0,1,2") make of the defaults of `kind`.

    Values are read by the field's type; a list is separated by commas or written as JSON, `none` empties an
    optional field.

    Raises:
        ConfigError: with every problem found, not only the first.
    """
    problems: list[str] = []
    values: dict[str, Any] = kind().model_dump()
    given: set[str] = set()
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path:
            problems.append(f"{assignment!r} is not key=value; write for example {next(field_values(kind()))}")
        elif path in given:
            problems.append(f"{path} is given twice")
        else:
            given.add(path)
            problem = _assign(kind, values, path, text)
            problems += [problem] if problem else []
    try:
        config = kind.model_validate(values)
    except ValidationError as error:
        found = error.errors()
        # A tuple without its faulty items is said to be too short as well.
        within = {details["loc"][:end] for details in found for end in range(len(details["loc"]))}
        problems += [_say(one) for one in found if one["type"] != "too_short" or one["loc"] not in within]
    if problems:
        raise ConfigError(problems)
    return config


def field_values(config: BaseModel, prefix: str = "") -> Iterator[str]:
    """Every field of a config as the command line takes it: "sample.low=51"."""
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            yield from field_values(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}={_text(value)}"


def _assign(kind: type[BaseModel], values: dict[str, Any], path: str, text: str) -> str | None:
    *groups, last = path.split(".")
    level, where, target = kind, "", values
    for name in groups:
        inner = _model(level, name)
        if inner is None:
            return _unknown(kind, level, where, name, path)
        level, where, target = inner, f"{where}{name}.", target[name]
    if last not in level.model_fields:
        return _unknown(kind, level, where, last, path)
    group = _model(level, last)
    if group is not None:
        return f"{path} is a group of fields; set {', '.join(f'{path}.{name}' for name in group.model_fields)}"
    try:
        target[last] = _read(level, last, text)
    except json.JSONDecodeError as error:
        return f"{path}: {text!r} is not valid JSON: {error.msg} at character {error.pos + 1}"
    return None


def _read(level: type[BaseModel], name: str, text: str) -> Any:
    """The text as the first reading of it that the field accepts; if there is none, the one that says best why.

    Raises:
        json.JSONDecodeError: for the beginning of a list or an object that is broken off or miswritten.
    """
    field = level.model_fields[name]
    constrained: Any = typing.Annotated[field.annotation, *field.metadata, None]  # the None: one item is needed
    adapter: TypeAdapter[Any] = TypeAdapter(constrained)
    readings: list[Any] = []
    if text.lower() in ("none", "null"):
        readings.append(None)
    readings.append(text)
    broken: json.JSONDecodeError | None = None
    try:
        readings.append(json.loads(text))
    except json.JSONDecodeError as error:
        broken = error
        readings.append([part.strip() for part in text.split(",") if part.strip()])
    else:
        readings.append([text])
    for reading in readings:
        try:
            adapter.validate_python(reading)
        except ValidationError:
            continue
        return reading
    if broken is not None and text.startswith(("[", "{")):
        raise broken
    # Of a list the faulty item is to be named, not that a text is no list.
    return readings[-1] if typing.get_origin(field.annotation) is tuple else text


def _model(level: type[BaseModel], name: str) -> type[BaseModel] | None:
    field = level.model_fields.get(name)
    if field is None:
        return None
    kinds = [field.annotation]
    if typing.get_origin(field.annotation) in (typing.Union, types.UnionType):
        kinds = list(typing.get_args(field.annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def _unknown(kind: type[BaseModel], level: type[BaseModel], where: str, name: str, path: str) -> str:
    if name in level.model_fields:
        return f"{path}: {where}{name} is a field, not a group of fields"
    what = f"group {where.rstrip('.')!r} has no field" if where else "there is no stage or field"
    near = did_you_mean(f"{where}{name}", [f"{where}{field}" for field in level.model_fields])
    elsewhere = [full for full in _leaves(kind) if full.rpartition(".")[2] == path.rpartition(".")[2]]
    if "did you mean" not in near and elsewhere:
        near = f" did you mean {' or '.join(repr(full) for full in elsewhere)}?"
    return f"{path}: {what} {name!r};{near}"


def _leaves(kind: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name in kind.model_fields:
        inner = _model(kind, name)
        if inner is None:
            yield f"{prefix}{name}"
        else:
            yield from _leaves(inner, f"{prefix}{name}.")


def _say(details: Any) -> str:
    path = ".".join(str(part) for part in details["loc"])
    message = str(details["msg"]).removeprefix("Value error, ")
    found = "" if details["type"] == "value_error" else f", got {details['input']!r}"
    return f"{path}: {message[:1].lower()}{message[1:]}{found}" if path else message


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, (list, tuple)) and all(isinstance(item, (str, int, float)) for item in value):
        return ",".join(str(item) for item in value)
    return str(value) if not isinstance(value, (list, tuple, dict)) else json.dumps(value, default=_plain)


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else str(value)
