"""YAML files that people write: read safely, checked against a pydantic model, every mistake said in their words.

A mistake is told as `file: key: expected an integer >= 1, got 'many'`.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from nasflow.errors import NasflowError
from nasflow.names import nearest

Model = TypeVar("Model", bound=BaseModel)
Schema = dict[str, Any]


class FileError(NasflowError):
    """A file that does not say what it should; the message names file, key, what was expected and what came."""


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice and reads `1e-3` as a number, as newer YAML does."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for position, key in enumerate(keys):
            if key.value in [earlier.value for earlier in keys[:position]]:
                problem = f"the key {key.value!r} is given twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read(file: Path) -> dict[str, Any]:
    """The keys and values in a YAML file. Raises FileError."""
    here = shown_path(file)
    try:
        raw = yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise FileError(f"{here}: cannot be read: {error.strerror}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise FileError(f"{here}: {where}not valid YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise FileError(f"{here}: expected YAML text in UTF-8: {error}") from error
    if not isinstance(raw, dict):
        raise FileError(f"{here}: expected lines such as `name: value`, got {_shown(raw)}")
    return raw


def override(raw: dict[str, Any], text: str) -> None:
    """Put `key.in.section=value` into what was read from a file, in place. Raises FileError."""
    key, equals, value_text = text.partition("=")
    *sections, last = key.strip().split(".")
    if not equals or not all([*sections, last]):
        raise FileError(f"--set {text}: expected key=value such as search.trials=50")
    try:
        value = yaml.load(value_text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise FileError(f"--set {text}: expected a YAML value after the =, got {value_text!r}") from error
    within = raw
    for depth, section in enumerate(sections):
        if within.get(section) is None:
            within[section] = {}
        within = within[section]
        if not isinstance(within, dict):
            whole = ".".join(sections[: depth + 1])
            raise FileError(
                f"--set {text}: {whole} is {_shown(within)}, which has no parts; set all of it:"
                f" --set '{whole}={{name: {within}, {last}: {value_text}}}'"
            )
    within[last] = value


def check(model: type[Model], raw: Mapping[str, Any], source: str, overrides: Iterable[str] = ()) -> Model:
    """`raw` as a `model`. FileError lists all that is wrong with it, `source` in front.

    What was wrong in one of `overrides` (which are in `raw` already) is said to have come from there.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        problems = _problems(error, model.model_json_schema(), raw, list(overrides))
    if len(problems) == 1:
        raise FileError(f"{source}: {problems[0]}")
    raise FileError("\n  ".join([f"{source}: {len(problems)} problems", *problems]))


def shown_path(file: Path) -> str:
    """A path as seen from the current folder, if it lies there."""
    absolute, here = file.absolute(), Path.cwd()
    return str(absolute.relative_to(here) if absolute.is_relative_to(here) else absolute)


def _problems(
    error: ValidationError, schema: Schema, raw: Mapping[str, Any], overrides: list[str]
) -> list[str]:
    """Every problem pydantic found, once each, as `key: expected ..., got ...`."""
    found: dict[str, list[str]] = {}
    for problem in error.errors(include_url=False):
        location = problem["loc"]
        path, node = _walk(schema, location)
        written, value = _written(raw, path)
        if problem["type"] in ("extra_forbidden", "invalid_key"):
            unknown = str(location[len(path)])
            text = f"unknown key: {nearest(unknown, node.get('properties', {}))}"
            written = (*written, unknown)
        elif problem["type"] == "missing":
            text = f"expected {_expected(schema, node)}, got nothing"
            written = path
        elif problem["type"] == "value_error":
            text = str(problem["ctx"]["error"])
            part, colon, rest = text.partition(": ")
            if colon and part in node.get("properties", {}):  # found by looking at several keys together
                written, text = (*written, part), rest
        else:
            text = f"expected {_expected(schema, node)}, got {_shown(value)}"
        found.setdefault(".".join(map(str, written)), []).append(text)
    # What is wrong inside a list makes pydantic complain of the list as well.
    inner = {key for key in found if not any(other.startswith(f"{key}.") for other in found)} | {""}
    problems = []
    for key in filter(inner.__contains__, found):
        by = [f"--set {o}: " for o in overrides if f"{key}.".startswith(f"{o.partition('=')[0].strip()}.")]
        problems += [
            f"{by[-1] if by else ''}{key + ': ' if key else ''}{text}" for text in dict.fromkeys(found[key])
        ]
    return problems


def _walk(schema: Schema, location: tuple[int | str, ...]) -> tuple[tuple[int | str, ...], Schema]:
    """As much of a location of pydantic's as is a key of the file, and what the schema says about that key."""
    node = _resolved(schema, schema)
    for depth, part in enumerate(location):
        inner = None
        for option in (node, *(_resolved(schema, option) for option in node.get("anyOf", ()))):
            if isinstance(part, int):
                inner = inner or option.get("items")
            else:
                inner = inner or option.get("properties", {}).get(part) or option.get("additionalProperties")
        if not isinstance(inner, dict):
            return location[:depth], node
        node = _resolved(schema, inner)
    return location, node


def _resolved(schema: Schema, node: Schema) -> Schema:
    """A part of the schema with its `$ref` followed; what stands beside the reference wins."""
    if "$ref" not in node:
        return node
    target = _resolved(schema, schema["$defs"][node["$ref"].rpartition("/")[2]])
    return {**target, **{key: value for key, value in node.items() if key != "$ref"}}


def _expected(schema: Schema, node: Schema) -> str:
    """What the schema wants, in words; a model says it better in an `expected` of its own.

    >>> _expected({}, {"type": "integer", "minimum": 1})
    'an integer >= 1'
    >>> _expected({}, {"anyOf": [{"type": "array", "items": {"type": "number"}}, {"const": "auto"}]})
    'a list of numbers or auto'
    """
    node = _resolved(schema, node)
    if "expected" in node:
        return str(node["expected"])
    if "anyOf" in node:
        options = [_expected(schema, option) for option in node["anyOf"] if option.get("type") != "null"]
        return " or ".join(dict.fromkeys(options))
    if "enum" in node or "const" in node:
        return " or ".join(map(str, node.get("enum", [node.get("const")])))
    if "properties" in node:
        return f"a section with {', '.join(node['properties'])}"
    kind = node.get("type")
    if kind == "array":
        of = {"integer": "integers", "number": "numbers", "string": "texts"}
        items = _resolved(schema, node.get("items", {}))
        return f"a list of {of.get(items.get('type', ''), 'entries')}"
    words = {"integer": "an integer", "number": "a number", "boolean": "true or false", "string": "a text"}
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {node[bound]:g}" for bound, sign in signs.items() if bound in node]
    return " ".join([words.get(kind or "", "a section"), " and ".join(bounds)]).strip()


def _written(raw: Any, path: tuple[int | str, ...]) -> tuple[tuple[int | str, ...], Any]:
    """As much of a key as is in the file, and its value there: a short form stands for its whole section."""
    for depth, part in enumerate(path):
        if isinstance(raw, Mapping):
            raw = raw.get(part)
        elif isinstance(raw, list) and isinstance(part, int):
            raw = raw[part]
        else:
            return path[:depth], raw
    return path, raw


def _shown(value: Any) -> str:
    """A value as it is written in the file, shortened."""
    if value is None:
        return "nothing"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
