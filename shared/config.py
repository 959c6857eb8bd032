"""Read the layers of settings and say which one a wrong value came from.

The layers are those of `shared.settings`: a packaged recipe, a TOML file, the environment, the
command line. A TOML file, packaged or the user's, may name the recipe it builds on with `recipe = "agnews"`.
"""

import argparse
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, NoReturn

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import CliSettingsSource, EnvSettingsSource, SettingsError

from shared.errors import UserError
from shared.settings import Settings

RECIPES = files("shared") / "recipes"


@dataclass(frozen=True)
class Layer:
    """Some settings and where they came from."""

    origin: str
    values: dict[str, Any]


def recipe_names() -> list[str]:
    """The packaged recipes."""
    return sorted(entry.name.removesuffix(".toml") for entry in RECIPES.iterdir() if entry.name.endswith(".toml"))


def recipe_summary(name: str) -> str:
    """A recipe's first comment line."""
    return (RECIPES / f"{name}.toml").read_text(encoding="utf-8").splitlines()[0].lstrip("# ")


def recipe_settings(name: str) -> Settings:
    """The settings of a packaged recipe or a TOML file, without environment and command line.

    Raises:
        UserError: there is none of that name, or it is wrong.
    """
    return _join(_file_layers(name))


class CommandLine(argparse.ArgumentParser):
    """A parser with the recipe as argument and `--section.key` for every setting.

    `shortcuts` maps a setting to a shorter option. Wrong use raises `UserError` instead of printing usage.
    """

    def __init__(self, prog: str, description: str, shortcuts: Mapping[str, str] | None = None) -> None:
        super().__init__(prog=prog, description=description, usage="%(prog)s [RECIPE] [options]", allow_abbrev=False)
        self._settings = CliSettingsSource[Any](
            Settings,
            root_parser=self,
            cli_avoid_json=True,
            cli_hide_none_type=True,
            cli_implicit_flags=True,
            cli_exit_on_error=False,
            cli_shortcuts=dict(shortcuts or {}),
        )

    def error(self, message: str) -> NoReturn:
        """One line instead of a page of usage."""
        raise UserError(f"{message}; `{self.prog} --help` explains every setting")

    def resolve(self, options: argparse.Namespace, saved: tuple[str, dict[str, Any]] | None = None) -> Settings:
        """Join all layers; `options` is what `parse_args` gave.

        With `saved`, the origin and values of a run's settings, these stand in the place of recipe and file; the run's
        name is left to the command line.

        Raises:
            UserError: a value is unknown, of the wrong type or impossible; the line names key and origin.
        """
        try:
            typed = dict(self._settings(parsed_args=options)())
        except SettingsError as error:
            raise UserError(f"the command line: {error}") from None
        if saved is None:
            recipe = typed.pop("recipe", None) or os.environ.get("TANDEM_RECIPE") or "demo"
            base = _file_layers(recipe)
        else:
            base = [Layer(saved[0], {**saved[1], "name": None})]
        return _join([*base, Layer("the environment", _environment()), Layer("the command line", typed)])


def load(values: dict[str, Any], origin: str) -> Settings:
    """Settings saved earlier, as `Settings.model_dump` gives them."""
    return _join([Layer(origin, values)])


def _environment() -> dict[str, Any]:
    prefix = Settings.model_config["env_prefix"]
    for name in os.environ:
        if name.startswith(prefix) and not _is_setting(name.removeprefix(prefix).lower().split("__"), Settings):
            raise UserError(f"{name} in the environment is no setting; `python -m trainer --help` lists them")
    try:
        return {key: value for key, value in EnvSettingsSource(Settings)().items() if key != "recipe"}
    except SettingsError as error:
        raise UserError(f"the environment: {error}") from None


def _is_setting(path: list[str], model: type[BaseModel]) -> bool:
    field = model.model_fields.get(path[0])
    if field is None:
        return False
    nested = field.annotation
    if isinstance(nested, type) and issubclass(nested, BaseModel):
        return len(path) == 1 or _is_setting(path[1:], nested)
    return len(path) == 1


def _file_layers(recipe: str) -> list[Layer]:
    if recipe in recipe_names():
        text = (RECIPES / f"{recipe}.toml").read_text(encoding="utf-8")
        values = _parse(text, f"recipe {recipe}")
        below = _file_layers(values["recipe"]) if "recipe" in values else []
        return [*below, Layer(f"recipe {recipe}", {**values, "recipe": recipe})]
    path = Path(recipe)
    if not path.is_file():
        raise UserError(f"no recipe or TOML file {recipe!r}; the recipes are: {', '.join(recipe_names())}")
    try:
        values = _parse(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text: {error}") from None
    base = values.pop("recipe", None)
    if base is None:
        return [Layer(str(path), {"recipe": path.stem, **values})]
    if base not in recipe_names():
        raise UserError(f"{path}: recipe = {base!r} is no packaged recipe; they are: {', '.join(recipe_names())}")
    return [*_file_layers(base), Layer(str(path), values)]


def _parse(text: str, origin: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{origin}: not TOML: {error}") from None


def _join(layers: list[Layer]) -> Settings:
    merged: dict[str, Any] = {}
    for layer in layers:
        if "steps" in layer.values:
            merged.pop("epochs", None)  # both tell the budget, and the later layer is the one that is meant
        merged = _merge(merged, layer.values)
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        raise UserError(
            "; ".join(_explain(where, details, layers) for where, details in _by_key(error, layers).items())
        ) from None


def _by_key(error: ValidationError, layers: list[Layer]) -> dict[tuple[str, ...], list[ErrorDetails]]:
    """Errors by the key that a layer tells; a setting of several types has an error for each."""
    found: dict[tuple[str, ...], list[ErrorDetails]] = {}
    for detail in error.errors():
        path = tuple(str(part) for part in detail["loc"])
        while len(path) > 1 and _teller(path, layers) is None:
            path = path[:-1]
        found.setdefault(path, []).append(detail)
    return found


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Join two layers key by key; `task.labels` is one value, not a section."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        sections = isinstance(value, dict) and isinstance(under, dict) and key != "labels"
        merged[key] = _merge(under, value) if sections else value  # type: ignore[arg-type]
    return merged


def _explain(where: tuple[str, ...], details: list[ErrorDetails], layers: list[Layer]) -> str:
    detail = details[0]
    if not where:
        return detail["msg"].removeprefix("Value error, ")
    key = f"{'.'.join(where)} ({_origin(where, layers)})"
    if detail["type"] == "extra_forbidden":
        return f"{key} is no setting; `python -m trainer --help` lists them"
    given = "" if isinstance(detail["input"], BaseModel | dict) else f", not {detail['input']!r}"
    return f"{key}: {' or '.join(detail['msg'] for detail in details)}{given}"


def _origin(path: Sequence[str], layers: list[Layer]) -> str:
    teller = _teller(path, layers)
    return f"from {teller.origin}" if teller else "a default"


def _teller(path: Sequence[str], layers: list[Layer]) -> Layer | None:
    """The last layer that tells the key at `path`."""
    for layer in reversed(layers):
        values: Any = layer.values
        for part in path:
            if not isinstance(values, dict) or part not in values:
                break
            values = values[part]
        else:
            return layer
    return None
