"""Overrides such as `--set train.steps=10` for nested frozen dataclasses, with typed values."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import json
import re
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from datagen.checks import shortened

T = TypeVar("T")


class OverrideError(ValueError):
    """An assignment cannot be applied; the message names the field's path, the given value and what is allowed."""


@dataclass(frozen=True)
class _Assignment:
    path: tuple[str, ...]
    text: str

    def __str__(self) -> str:
        return shortened(f"{'.'.join(self.path)}={self.text}")


def apply_overrides(config: T, assignments: Sequence[str]) -> T:
    """A copy of the dataclass `config` with `assignments` such as "train.steps=10".

    Values are YAML (1e-3, true, null, [a, b]) of the field's annotated type; text needs quotes only if YAML
    reads it as another value of that type. All fields of one object change at once, innermost object first, so that its
    `__post_init__` sees final values; its ValueError begins with the field's name and gets the path as prefix. A
    config whose fields depend on each other makes the copy itself, in a method `changed(**fields)`.

    A field whose type is an abstract class, such as a task, is replaced by "field=module:Class": an object of that
    class with its own defaults, and with what other assignments set of it. `type.named(text)` finds the class.

    Raises OverrideError, and changes nothing, when any assignment is bad.
    """
    parsed = [_parse(assignment) for assignment in assignments]
    seen: dict[tuple[str, ...], _Assignment] = {}
    for assignment in parsed:
        other = seen.setdefault(assignment.path, assignment)
        if other is not assignment:
            raise OverrideError(f"{assignment}: the field is set twice, also by {other}; keep one of them")
    return typing.cast(T, _apply(config, parsed, 0))


def _parse(assignment: str) -> _Assignment:
    path, equals, text = assignment.partition("=")
    names = tuple(name.strip() for name in path.split("."))
    if not equals or not all(names):
        raise OverrideError(f"{shortened(repr(assignment))}: must have the form field=value or group.field=value")
    return _Assignment(names, text)


def _apply(config: Any, assignments: list[_Assignment], depth: int) -> Any:
    """`config` with `assignments`, whose paths lead to it in their first `depth` names."""
    groups: dict[str, list[_Assignment]] = {}
    for assignment in assignments:
        groups.setdefault(assignment.path[depth], []).append(assignment)
    hints = typing.get_type_hints(type(config))
    values = {}
    for name, group in groups.items():
        _check_field(type(config), name, group[0], depth)
        value, whole = getattr(config, name), next((each for each in group if len(each.path) == depth + 1), None)
        if whole is not None and inspect.isabstract(hints[name]):
            values[name] = _of_other_class(hints[name], whole, [each for each in group if each is not whole], depth + 1)
        elif whole is None:
            _check_inside(value, hints[name], group[0], depth)
            values[name] = _apply(value, group, depth + 1)
        elif len(group) > 1:
            inside = next(each for each in group if each is not whole)
            raise OverrideError(f"{whole}: sets the whole field, and {inside} sets a part of it; keep one of them")
        else:
            values[name] = _leaf(value, hints[name], whole)
    if not values:
        return config
    try:
        return config.changed(**values) if hasattr(config, "changed") else dataclasses.replace(config, **values)
    except ValueError as error:
        raise OverrideError(_with_path(type(config), str(error), assignments, depth)) from error


def _of_other_class(base: Any, whole: _Assignment, fields: list[_Assignment], depth: int) -> Any:
    """An object of the class that `whole` names ("module:Class"), with its own defaults but for `fields`."""
    try:
        found = base.named(whole.text.strip())
    except ValueError as error:
        raise OverrideError(f"{whole}: {error}") from error
    hints = typing.get_type_hints(found)
    values = {}
    for assignment in fields:
        _check_field(found, assignment.path[depth], assignment, depth)
        if len(assignment.path) > depth + 1:
            raise OverrideError(f"{assignment}: set {'.'.join(assignment.path[: depth + 1])} as a whole")
        values[assignment.path[depth]] = _leaf(None, hints[assignment.path[depth]], assignment)
    open_fields = [
        field.name
        for field in dataclasses.fields(found)
        if field.init and field.name not in values and field.default is field.default_factory is dataclasses.MISSING
    ]
    if open_fields:
        path = ".".join(whole.path)
        missing = ", ".join(f"{path}.{name}=..." for name in open_fields)
        raise OverrideError(f"{whole}: {found.__name__} has fields without a default; set them too: {missing}")
    try:
        return found(**values)
    except ValueError as error:
        raise OverrideError(_with_path(found, str(error), [whole, *fields], depth)) from error


def _with_path(kind: Any, message: str, assignments: list[_Assignment], depth: int) -> str:
    """The message of a `__post_init__`, which begins with a field's name, with the object's path as prefix."""
    group = ".".join(assignments[0].path[:depth])
    first = re.match(r"\w*", message)
    named = first is not None and first.group() in _settable(kind)
    prefix = f"{group}." if group and named else f"{group}: " if group else ""
    return f"{prefix}{message} (set by {', '.join(map(str, assignments))})"


def _settable(kind: Any) -> list[str]:
    """The names of the fields of a dataclass or its instance that can be set."""
    return [field.name for field in dataclasses.fields(kind) if field.init]


def _check_field(kind: Any, name: str, assignment: _Assignment, depth: int) -> None:
    fields = _settable(kind)
    if name in fields:
        return
    near = difflib.get_close_matches(name, fields, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    where = ".".join(assignment.path[:depth]) or "the config"
    raise OverrideError(
        f"{assignment}: {where} has no field {shortened(repr(name))}; its fields are {', '.join(fields)}{hint}"
    )


def _check_inside(value: Any, hint: Any, assignment: _Assignment, depth: int) -> None:
    """Raise OverrideError where a path leads into a field that is no dataclass."""
    if dataclasses.is_dataclass(value):
        return
    where = ".".join(assignment.path[: depth + 1])
    if value is None and _holds_dataclass(hint):
        raise OverrideError(f"{assignment}: {where} is null in this config, so nothing inside it can be set")
    if isinstance(value, list | tuple | dict):
        raise OverrideError(f"{assignment}: {where} is a list or a dict, whose items cannot be set one by one")
    raise OverrideError(f"{assignment}: {where} is {_describe(hint)}, with no fields inside; set it as {where}=value")


def _leaf(value: Any, hint: Any, assignment: _Assignment) -> Any:
    if _holds_dataclass(hint) or dataclasses.is_dataclass(value):
        return _group(value, hint, assignment)
    adapter: TypeAdapter[Any] = TypeAdapter(hint)
    for form in _read_forms(assignment.text):
        try:
            return adapter.validate_json(form, strict=True)
        except ValidationError:
            continue
    raise OverrideError(f"{assignment}: must be {_describe(hint)}")


def _group(value: Any, hint: Any, assignment: _Assignment) -> None:
    """None for "null", where the type of a field of dataclasses has it. All other text is refused."""
    if type(None) in typing.get_args(hint) and "null" in _read_forms(assignment.text):
        return None
    path = ".".join(assignment.path)
    if dataclasses.is_dataclass(value):
        fields = ", ".join(f"{path}.{name}" for name in _settable(value))
        raise OverrideError(f"{assignment}: {path} is a group and cannot be set as a whole; set its fields: {fields}")
    raise OverrideError(f"{assignment}: {path} holds groups and cannot be set from text; choose another preset")


def _holds_dataclass(hint: Any) -> bool:
    return dataclasses.is_dataclass(hint) or any(_holds_dataclass(part) for part in typing.get_args(hint))


class _Loader(yaml.SafeLoader):
    """Plain YAML 1.2 values: YAML 1.1 reads 1e-3 as text, 1:30 as 90, 010 as 8, `no` as false and makes dates."""

    def fetch_tag(self) -> None:
        raise yaml.YAMLError("tags are not read")

    def fetch_alias(self) -> None:
        # a few dozen characters of aliases to aliases would stand for gigabytes
        raise yaml.YAMLError("aliases are not read")


_Loader.yaml_implicit_resolvers = {}


def _resolve(kind: str, pattern: str, first: str) -> None:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", re.compile(rf"(?:{pattern})\Z"), list(first))


_resolve("null", "null|Null|NULL|none|None|~", "nN~")
_resolve("bool", "true|True|false|False", "tTfF")
_resolve("int", "[-+]?(?:0|[1-9][0-9_]*)", "-+0123456789")
_resolve("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", "-+.0123456789")


def _read_forms(text: str) -> list[str]:
    """What `text` may mean, as JSON: its value as YAML, then the text itself."""
    forms = [json.dumps(text)]
    try:
        if text.strip():
            forms.insert(0, json.dumps(yaml.load(text, Loader=_Loader), allow_nan=False))
    except (
        yaml.YAMLError,
        ValueError,
        RecursionError,
    ):  # not YAML, not a finite number, or nested too deeply: it is text
        pass
    return forms


def _describe(hint: Any) -> str:
    """The values that a type allows, as text."""
    words = {int: "an integer", float: "a finite number", bool: "true or false", str: "text", type(None): "null"}
    if hint in words:
        return words[hint]
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(map(str, parts))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_describe, parts))
    if origin in (tuple, list) and parts:
        if origin is list or Ellipsis in parts:
            return f"a list like [a, b], each item {_describe(parts[0])}"
        return f"a list of {len(parts)}: {', '.join(map(_describe, parts))}"
    return f"a value of type {getattr(hint, '__name__', hint)}"
