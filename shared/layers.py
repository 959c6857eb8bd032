"""Layers of settings: recipes and TOML files, how layers join, and which of them set a value."""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from shared.errors import UserError
from shared.text import hide_credentials, hide_in_address

RECIPES = files("shared") / "recipes"

LONGEST_QUOTE = 100
"""Characters of a wrong value that an error quotes."""


@dataclass(frozen=True)
class Layer:
    """Some settings and where they come from."""

    origin: str
    values: dict[str, Any]
    checked: Literal["never", "alone", "always"] = "always"
    """Whether settings without effect are refused: never, in packaged recipes and saved settings; alone, in a user's
    file, unless a later layer made them so; always, in the environment, on the command line and in keywords."""
    origins: Mapping[tuple[str, ...], str] = field(default_factory=dict)
    """Origins of single settings, where they are more exact."""

    def origin_of(self, path: Sequence[str]) -> str:
        """Where the setting at `path` comes from."""
        known = (self.origins.get(tuple(path[:end])) for end in range(len(path), 0, -1))
        return next(filter(None, known), self.origin)

    def holds(self, path: Sequence[str]) -> bool:
        """Whether it sets the setting at `path`."""
        values: Any = self.values
        for part in path:
            if not isinstance(values, dict) or part not in values:
                return False
            values = values[part]
        return True


def recipe_names() -> list[str]:
    """The packaged recipes."""
    return sorted(entry.name.removesuffix(".toml") for entry in RECIPES.iterdir() if entry.name.endswith(".toml"))


def recipe_summary(name: str) -> str:
    """The first comment line of a recipe."""
    return (RECIPES / f"{name}.toml").read_text(encoding="utf-8").splitlines()[0].lstrip("# ")


def file_layers(recipe: str) -> list[Layer]:
    """The layers of a packaged recipe or a TOML file: the recipes that it builds on, then its own.

    Raises:
        UserError: no such recipe or file, or the file is not TOML.
    """
    if recipe in recipe_names():
        values = _parse((RECIPES / f"{recipe}.toml").read_text(encoding="utf-8"), f"recipe {recipe}")
        below = file_layers(values["recipe"]) if "recipe" in values else []
        return [*below, Layer(f"recipe {recipe}", {**values, "recipe": recipe}, "never")]
    path = Path(recipe)
    try:
        found = path.is_file()
        values = _parse(path.read_text(encoding="utf-8-sig"), str(path)) if found else {}
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text: {error}") from None
    if not found:
        raise UserError(f"no recipe or TOML file {recipe!r}; the recipes are: {', '.join(recipe_names())}")
    base = values.pop("recipe", None)
    if base is None:
        return [Layer(str(path), {"recipe": path.stem, **values}, "alone")]
    if base not in recipe_names():
        raise UserError(f"{path}: recipe = {base!r} is not a packaged recipe; they are: {', '.join(recipe_names())}")
    return [*file_layers(base), Layer(str(path), values, "alone")]


def join(layers: Iterable[Layer], alternatives: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """The values of all layers, each over the ones before.

    Args:
        layers: in order.
        alternatives: pairs of settings for the same thing; a layer that sets the first drops the second from the
            layers before it.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        for first, second in alternatives:
            if layer.holds(first.split(".")):
                merged = _without(merged, second.split("."))
        merged = _merge(merged, layer.values)
    return merged


def setter(path: Sequence[str], layers: Sequence[Layer]) -> int | None:
    """The index of the last layer that sets `path`; None if it is a default."""
    return next((at for at in range(len(layers) - 1, -1, -1) if layers[at].holds(path)), None)


def origin(path: Sequence[str], layers: Sequence[Layer]) -> str:
    """Where the value at `path` comes from, for errors."""
    at = setter(path, layers)
    return "a default" if at is None else f"from {layers[at].origin_of(path)}"


def explain(error: ValidationError, layers: Sequence[Layer]) -> str:
    """All faults in one line, each with its key and origin."""
    return "; ".join(_explain(path, details, layers) for path, details in _by_key(error, layers).items())


def _parse(text: str, origin: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UserError(f"{origin}: not TOML: {error}") from None


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Join two layers key by key; `task.labels` is one value, not a section."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        sections = isinstance(value, dict) and isinstance(under, dict) and key != "labels"
        merged[key] = _merge(under, value) if sections else value  # type: ignore[arg-type]
    return merged


def _without(values: dict[str, Any], path: list[str]) -> dict[str, Any]:
    """A copy without the setting at `path`."""
    first, *rest = path
    if not rest:
        return {key: value for key, value in values.items() if key != first}
    inner = values.get(first)
    return {**values, first: _without(inner, rest)} if isinstance(inner, dict) else values


def _by_key(error: ValidationError, layers: Sequence[Layer]) -> dict[tuple[str, ...], list[ErrorDetails]]:
    """Errors by the key that a layer sets; a setting of several types has an error for each."""
    found: dict[tuple[str, ...], list[ErrorDetails]] = {}
    for detail in error.errors():
        path = tuple(str(part) for part in detail["loc"])
        while len(path) > 1 and setter(path, layers) is None:
            path = path[:-1]
        found.setdefault(path, []).append(detail)
    return found


def _explain(path: tuple[str, ...], details: list[ErrorDetails], layers: Sequence[Layer]) -> str:
    detail = details[0]
    if not path:
        return detail["msg"].removeprefix("Value error, ")
    key = f"{'.'.join(path)} ({origin(path, layers)})"
    if detail["type"] == "extra_forbidden":
        return f"{key} is not a setting; `python -m trainer --help` lists them"
    given = "" if isinstance(detail["input"], BaseModel | dict) else f", not {_quote(detail['input'])}"
    return f"{key}: {' or '.join(detail['msg'] for detail in details)}{given}"


def _quote(value: Any) -> str:
    text = repr(hide_in_address(value)) if isinstance(value, str) else hide_credentials(repr(value))
    return text if len(text) <= LONGEST_QUOTE else f"{text[:LONGEST_QUOTE]}... ({len(text)} characters)"
