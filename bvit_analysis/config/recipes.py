"""Recipes of a researcher's own: read from a file, and the import paths in them followed where the user asks for it."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from pathlib import Path
from typing import Any, get_type_hints

from bvit_analysis.config.import_paths import is_import_path, resolve, search_also
from bvit_analysis.config.presets import RECIPES, get_recipe
from bvit_analysis.config.schema import Recipe, choices_of, takes_own
from bvit_analysis.config.text import differences, from_dict, to_dict
from bvit_analysis.errors import BvitError, ConfigError, unknown_name

ENDINGS = (".toml", ".json")
"How the name of a recipe file ends."


def read_recipe(path: str | Path) -> Recipe:
    """Read a recipe file, TOML or JSON: fields of Recipe, and `base`, the preset that all other fields are taken from.

    `name` is the file's, without its ending, where the file gives none. An import path, such as
    ``shift = "mine.shifts:Centre"``, is imported: the module is looked for where Python finds packages, then beside the
    file, then in the current folder. So read your own recipes and no stranger's.

    Args:
        path: The file, ending in .toml or .json.

    Raises:
        ConfigError: If it cannot be read, a field is unknown or ill-typed, or what it names cannot be imported.
    """
    path = Path(path)
    data = _plain(path)
    fields = [field.name for field in dataclasses.fields(Recipe)]
    for name in data:
        if name not in (*fields, "base"):
            text = unknown_name("Recipe field", name, [*fields, "base"])
            raise ConfigError(f"recipe file {path}: {text}")
    base = data.pop("base", "baseline")
    if not isinstance(base, str) or base not in RECIPES:
        raise ConfigError(f"recipe file {path}: {unknown_name('base', base, RECIPES)}")
    try:
        read = from_dict(Recipe, to_dict(get_recipe(base)) | {"name": path.stem} | data)
        return resolve_recipe(read, path.parent)
    except BvitError as error:
        raise ConfigError(f"recipe file {path}: {error}") from error


def resolve_recipe(recipe: Recipe, *folders: str | Path) -> Recipe:
    """Return a recipe with the classes and objects that its import paths name; all else stays as it is.

    Called for what the user typed or wrote, never for what a run folder or a packed file says.

    Args:
        recipe: The recipe.
        folders: Where modules are looked for too, after all places where Python finds them; the current folder is last.

    Raises:
        ConfigError: If one cannot be imported.
    """
    named = {name: text for name, text in _own(recipe).items() if isinstance(text, str)}
    if not named:
        return recipe
    for folder in (*folders, Path.cwd()):
        search_also(folder)
    found: dict[str, Any] = {name: resolve(text) for name, text in named.items()}
    return dataclasses.replace(recipe, **found)


def given(recipe: Recipe, field: str) -> Any:
    """Return what a field of a recipe holds: a preset's name, a class or an object.

    Raises:
        ConfigError: If it is an import path, as in a recipe that was read from a run or a packed file.
    """
    value = getattr(recipe, field)
    if isinstance(value, str) and is_import_path(value):
        raise ConfigError(
            f"the recipe's {field} is {value!r}, which is only named here and is not imported; give the recipe again, as"
            " an object, or as a file with --recipe"
        )
    return value


def given_again(recorded: Recipe, recipe: Recipe | None) -> Recipe:
    """Return the recipe of a run or a packed file with the classes and objects that the user gives again.

    Args:
        recorded: As it was read, its own parts only named.
        recipe: The same recipe from the user; None returns what was recorded.

    Raises:
        ConfigError: If it is another recipe.
    """
    if recipe is None:
        return recorded
    found = differences(to_dict(recorded), to_dict(recipe))
    if found:
        raise ConfigError(
            f"the recipe given is not the recorded one ({', '.join(found)}); give that one, or none"
        )
    return recipe


def chosen_recipe(text: str) -> Recipe:
    """Return the recipe that a word of the command line means: a preset's name, or a recipe file.

    Raises:
        ConfigError: If there is no such preset, or the file is wrong.
    """
    return read_recipe(text) if text.endswith(ENDINGS) else get_recipe(text)


def _own(recipe: Recipe) -> dict[str, Any]:
    found = {}
    for name, hint in get_type_hints(Recipe).items():
        value = getattr(recipe, name)
        if takes_own(hint) and not (isinstance(value, str) and value in choices_of(hint)):
            found[name] = value
    return found


def _plain(path: Path) -> dict[str, Any]:
    if path.suffix not in ENDINGS:
        raise ConfigError(f"recipe file {path} must end in {' or '.join(ENDINGS)}")
    try:
        text = path.read_bytes().decode("utf-8-sig")  # some editors begin a file with a mark
    except OSError as error:
        raise ConfigError(f"cannot read recipe file {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"recipe file {path} is not UTF-8 text: {error}") from error
    try:
        data = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"recipe file {path} is not valid {path.suffix[1:].upper()}: {error}"
        ) from error
    if not isinstance(data, dict):
        raise ConfigError(
            f"recipe file {path} must hold fields of a recipe, got a {type(data).__name__}"
        )
    return data
