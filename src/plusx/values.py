"""Frozen, validated values, the base of Design and Recipe: TOML and JSON both ways, one-line errors, short reprs."""

import json
import re
import tomllib
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from plusx.errors import InputError, did_you_mean

_LONG_KEY = re.compile(r"""(?<![\w'"\\-])(?:(?:[\w-]++|"(?:\\.|[^"\\\n])*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){64}""")
"""A key of more parts than any value is deep: tomllib takes the square of their number in time."""


class Value(BaseModel):
    """A frozen record. Construction validates; a wrong or unknown field raises `error` naming the place."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    error: ClassVar[type[InputError]] = InputError

    def __init__(self, /, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as problem:
            raise self.error(f"{type(self).__name__}: {_explain(type(self), problem)}") from None

    # pydantic then validates nested values itself, so that an error carries its whole path, not one per level
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        fields = type(self).model_fields
        return [(name, value) for name, value in self if value != fields[name].default]

    def __str__(self) -> str:
        return repr(self)

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, validated anew."""
        return type(self)(**{**dict(self), **changes})

    def to_dict(self) -> dict[str, Any]:
        """Plain data: the fields that differ from their defaults, after the `kind` where there is one."""
        kind = {"kind": getattr(self, "kind")} if "kind" in type(self).model_fields else {}  # noqa: B009
        return kind | {name: _plain(value) for name, value in self.__repr_args__() if name is not None}

    def to_json(self) -> str:
        """One line of JSON that `from_json` reads back."""
        return json.dumps(self.to_dict())

    def to_toml(self) -> str:
        """TOML that `from_toml` reads back."""
        return _toml(self.to_dict())

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "") -> Self:
        """Validate plain data. `where` names its origin in the error. Raises `cls.error`."""
        try:
            # JSON mode: a list may stand for a tuple, while a string still never stands for a number
            return cls.model_validate_json(json.dumps(data, default=_no_date))
        except ValidationError as problem:
            raise cls.error(f"{where or cls.__name__}: {_explain(cls, problem)}") from None
        except (TypeError, ValueError, RecursionError) as problem:
            raise cls.error(f"{where or cls.__name__}: {_cut(str(problem))}") from None

    @classmethod
    def from_json(cls, text: str, where: str = "") -> Self:
        """Read `to_json`'s text. Raises `cls.error`."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as problem:
            raise cls.error(f"{where or cls.__name__}: not JSON: {problem}") from None
        return cls.from_dict(_table(cls, data, where), where)

    @classmethod
    def from_toml(cls, text: str, where: str = "") -> Self:
        """Read `to_toml`'s text. Raises `cls.error`."""
        if long := _LONG_KEY.search(text):
            raise cls.error(f"{where or cls.__name__}: {_word(long[0])}: a key of too many parts")
        try:
            data = tomllib.loads(text)
        except (ValueError, RecursionError) as problem:
            raise cls.error(f"{where or cls.__name__}: not TOML: {_cut(str(problem))}") from None
        return cls.from_dict(data, where)

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a `.toml` or `.json` file. Raises `cls.error` when it is missing, unreadable or wrong."""
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8-sig")  # Windows' editors put a mark in front
        except (OSError, UnicodeDecodeError) as problem:
            reason = problem.strerror if isinstance(problem, OSError) else "it is not UTF-8 text"
            raise cls.error(f"reading {path}: {reason}") from None
        return (cls.from_json if path.suffix.lower() == ".json" else cls.from_toml)(text, str(path))


def _no_date(value: Any) -> str:
    raise ValueError(f"{value} is a {type(value).__name__}, which no field takes")


def _table(cls: type[Value], data: Any, where: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise cls.error(f"{where or cls.__name__}: expected a table of fields, found {type(data).__name__}")
    return data


def _plain(value: Any) -> Any:
    if isinstance(value, Value):
        return value.to_dict()
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _explain(cls: type[Value], problem: ValidationError) -> str:
    """The first problem as one line: `stages[2].stride: 3 is not one of 1, 2`."""
    errors = problem.errors(include_url=False)
    errors = [error for error in errors if error["type"] != "too_short"] or errors  # short only of what is wrong itself
    first = errors[0]
    place, given, context = _place(cls, first["loc"]), first["input"], first.get("ctx", {})
    match first["type"]:
        case "missing":
            what = "is missing"
        case "extra_forbidden":
            name = str(first["loc"][-1])[:_LONGEST]
            what = f"is not a known field{did_you_mean(name, _fields_at(cls, first['loc'][:-1]))}"
        case "literal_error":
            known = str(context["expected"]).replace(" or ", ", ")
            near = did_you_mean(str(given)[:_LONGEST], known.replace("'", "").split(", "))
            what = f"{_cut(repr(given))} is not one of {known}{near}"
        case "union_tag_invalid":
            known = str(context["expected_tags"])
            near = did_you_mean(str(context["tag"])[:_LONGEST], known.replace("'", "").split(", "))
            what = f"kind {_cut(repr(context['tag']))} is not one of {known}{near}"
        case "union_tag_not_found":
            what = "needs a kind"
        case "value_error":
            return f"{place}: {context['error']}" if place else str(context["error"])
        case _:
            what = f"{_cut(repr(given))}: {first['msg'].lower()}"
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"{place}: {what}{more}" if place else f"{what}{more}"


def _place(cls: type[Value], loc: tuple[int | str, ...]) -> str:
    """`stages[2].stride`; the tags that pydantic puts between a union's field and its own fields are left out."""
    text, candidates = "", [cls]
    for position, part in enumerate(loc):
        candidates, known = _step(candidates, part)
        if isinstance(part, int):
            text += f"[{part}]"
        elif known or (position == len(loc) - 1 and not _is_tag(candidates, part)):
            text += f".{_word(part)}"
    return text.removeprefix(".")


_LONGEST = 120
"""Characters of a file's own words that a message repeats."""


def _cut(words: str) -> str:
    return words if len(words) <= _LONGEST else f"{words[:_LONGEST]}…"


def _word(name: str) -> str:
    """A file's own name for something, in one line."""
    return _cut(name if name.isprintable() else repr(name)[1:-1])


def _is_tag(candidates: list[type[Value]], part: str) -> bool:
    return any("kind" in c.model_fields and c.model_fields["kind"].default == part for c in candidates)


def _fields_at(cls: type[Value], loc: tuple[int | str, ...]) -> list[str]:
    """The field names of the value that stands at `loc` inside `cls`."""
    candidates = [cls]
    for part in loc:
        candidates, _ = _step(candidates, part)
    return [name for candidate in candidates for name in candidate.model_fields]


def _step(candidates: list[type[Value]], part: int | str) -> tuple[list[type[Value]], bool]:
    """The values one step further along a location, and whether the step was a field."""
    steps = [c.model_fields[part].annotation for c in candidates if isinstance(part, str) and part in c.model_fields]
    if steps:
        return [value for step in steps for value in _values_in(step)], True
    tagged = [c for c in candidates if "kind" in c.model_fields and c.model_fields["kind"].default == part]
    return tagged or candidates, False


def _values_in(annotation: Any) -> list[type[Value]]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return [annotation] if issubclass(annotation, Value) else []
    return [value for arg in get_args(annotation) for value in _values_in(arg)]


def _toml(data: Mapping[str, Any], prefix: str = "") -> str:
    """Scalars first, then tables, then arrays of tables: the order TOML needs."""
    lines = [f"{key} = {_toml_value(value)}" for key, value in data.items() if not _is_table(value)]
    for key, value in data.items():
        if isinstance(value, Mapping):
            lines += [f"\n[{prefix}{key}]", _toml(value, f"{prefix}{key}.").strip("\n")]
        elif _is_table(value):
            for row in value:
                lines += [f"\n[[{prefix}{key}]]", _toml(row, f"{prefix}{key}.").strip("\n")]
    return "\n".join(lines).strip("\n") + "\n"


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list) and bool(value) and isinstance(value[0], Mapping))


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml_value(item) for item in value)}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f") if isinstance(value, str) else repr(value)
