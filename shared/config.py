"""Settings from the layers of a program: a recipe or TOML file, the environment, the command line.

A TOML file, packaged or the user's, may name the recipe it builds on with `recipe = "agnews"`.
"""

import argparse
import json
import os
from collections.abc import Mapping
from typing import Any, NoReturn, get_args, get_origin

from pydantic import BaseModel
from pydantic_settings import CliSettingsSource, SettingsError

from shared.errors import TRACEBACK, UserError
from shared.layers import RECIPES, Layer, file_layers, recipe_names, recipe_summary
from shared.settings import Settings

__all__ = ["RECIPES", "CommandLine", "environment", "load", "recipe_names", "recipe_summary"]

PREFIX = "TANDEM_"
"""Of variables in the environment: `TANDEM_STEPS`, `TANDEM_TASK__SHOTS`."""


class CommandLine(argparse.ArgumentParser):
    """A parser with the recipe as argument and `--section.key` for every setting.

    `shortcuts` maps a setting to a shorter option. Wrong use raises `UserError` instead of printing usage.
    """

    def __init__(self, prog: str, description: str, shortcuts: Mapping[str, str] | None = None) -> None:
        super().__init__(prog=prog, description=description, usage="%(prog)s [RECIPE] [options]", allow_abbrev=False)
        self._settings = CliSettingsSource[Any](
            Settings,  # type: ignore[arg-type]  # any pydantic model will do
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
        """Join all layers; `options` is the result of `parse_args`.

        With `saved`, the origin and values of a run's settings, these stand in the place of recipe and file; the run's
        name is left to the command line.

        Raises:
            UserError: a value is unknown, of the wrong type or impossible; the line names key and origin.
        """
        try:
            given = dict(self._settings(parsed_args=options)())
        except SettingsError as error:
            raise UserError(f"the command line: {error}") from None
        if saved is None:
            recipe = given.pop("recipe", None) or os.environ.get(f"{PREFIX}RECIPE") or "demo"
            base = file_layers(recipe)
        else:
            base = [Layer(saved[0], {**saved[1], "name": None}, "never")]
        layers = [*base, _environment_layer(), Layer("the command line", given)]
        return Settings.model_validate({}, context=layers)


def load(values: dict[str, Any], origin: str) -> Settings:
    """Complete settings saved earlier, as `Settings.model_dump` returns them; nothing is added.

    Raises:
        UserError: a value is unknown, of the wrong type or impossible.
    """
    return Settings.model_validate({}, context=[Layer(origin, values, "never")])


def environment() -> dict[str, Any]:
    """The settings in the environment, as keywords: `Settings(**environment())`. The recipe is not among them.

    Raises:
        UserError: a variable with the prefix is not a setting, or is not a value of its kind.
    """
    return _environment_layer().values


def _environment_layer() -> Layer:
    layer = Layer("the environment", {}, origins={})
    origins: dict[tuple[str, ...], str] = {}
    for name in sorted(os.environ):  # a section comes before its settings, which win
        path = name.removeprefix(PREFIX).lower().split("__")
        if not name.startswith(PREFIX) or path == ["recipe"] or name == TRACEBACK:
            continue
        annotation = _find(path, Settings)
        if annotation is None:
            raise UserError(f"{name} in the environment is not a setting; `python -m trainer --help` lists them")
        place = layer.values
        for part in path[:-1]:
            place = place.setdefault(part, {})
        place[path[-1]] = _value(os.environ[name], annotation, name)
        origins[tuple(path)] = f"{name} in the environment"
    return Layer(layer.origin, layer.values, origins=origins)


def _find(path: list[str], model: type[BaseModel]) -> Any:
    """The type of the setting at `path`; None if there is none."""
    field = model.model_fields.get(path[0])
    if field is None or len(path) == 1:
        return field and field.annotation
    nested = field.annotation
    return _find(path[1:], nested) if isinstance(nested, type) and issubclass(nested, BaseModel) else None


def _value(text: str, annotation: Any, name: str) -> Any:
    """A variable's value, written as on the command line: JSON, `a,b` for a list, `a=x,b=y` for a mapping, `None`."""
    kind = get_origin(annotation) or annotation
    if text == "None" and type(None) in get_args(annotation):
        return None
    if kind not in (list, dict) and not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return text
    if text.lstrip().startswith("[" if kind is list else "{"):
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{name} in the environment: not JSON: {error}") from None
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if kind is list:
        return parts
    if not all("=" in part for part in parts):
        raise UserError(f"{name} in the environment: write KEY=VALUE,KEY=VALUE or a JSON object, not {text[:100]!r}")
    return dict(part.split("=", 1) for part in parts)
