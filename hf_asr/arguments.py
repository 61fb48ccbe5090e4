"""Command-line arguments: one parser class, dataclasses as options, and YAML recipes under the command line."""

import argparse
import difflib
import os.path
from collections.abc import Collection, Sequence
from dataclasses import fields
from inspect import signature
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

import yaml
from transformers import HfArgumentParser

_DEFAULT = object()  # the value of an option that is not on the command line


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Prints defaults, without those that mean "not given"."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=30)
        self._action_max_length = 20  # argparse forgets that sub-commands are indented

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, []):
            return action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """A parser of whole option names, whose errors are one line.

    Attributes:
        kinds: Name of the type of each option that comes from a dataclass.
    """

    def __init__(self, **options: Any):
        options = {"formatter_class": _Formatter, "allow_abbrev": False} | options
        super().__init__(**options)
        self.kinds: dict[str, str] = {}

    def parse_known_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse as argparse does, with `~/` as the home folder; `parse_args` calls this, too."""
        namespace, unknown = super().parse_known_args(args, namespace)
        vars(namespace).update(with_home(vars(namespace)))
        return namespace, unknown

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {' '.join(message.split())}\n")


def with_home(value: Any) -> Any:
    """Return a value with the home folder in place of the `~/` of each path in it, at any depth of lists and mappings.

    A shell replaces it at the beginning of a word only, and neither in `--output_dir=~/x` nor in a recipe.
    """
    if isinstance(value, dict):
        return {key: with_home(item) for key, item in value.items()}
    if isinstance(value, list):
        return [with_home(item) for item in value]
    if isinstance(value, str | Path) and str(value).startswith("~/"):
        return type(value)(os.path.expanduser(value))
    return value


def add_dataclasses(parser: Parser, classes: Sequence[type]) -> None:
    """Add an option for each field of the dataclasses, as transformers' HfArgumentParser makes them."""
    for cls in classes:
        parser._add_container_actions(HfArgumentParser(cls, add_help=False, allow_abbrev=False))
        for name, hint in get_type_hints(cls).items():
            parser.kinds[name] = hint.__name__ if isinstance(hint, type) else str(hint)


def add_address(parser: Parser, *, host: str, port: int) -> None:
    """Add `--host` and `--port` with these defaults."""
    parser.add_argument("--host", default=host, help="Address to listen on; 0.0.0.0 serves other machines.")
    parser.add_argument("--port", type=_port, default=port, help="Port to listen on; 0 is any free one.")


def _port(value: str) -> int:
    if not (value.isdecimal() and int(value) < 2**16):
        raise argparse.ArgumentTypeError(f"a port must be from 0 to {2**16 - 1}, not {value}")
    return int(value)


def parse(parser: Parser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse a command line; where the parser has `--config`, the values of that YAML recipe are the defaults.

    The namespace also has `recipe`, the values of the recipe, and `given`, the names of the options that are on the
    command line.

    Raises:
        SystemExit: An unknown key or option (the message suggests the nearest one), or a value of the wrong type.
    """
    config_parser = Parser(add_help=False)
    config_parser.add_argument("--config")
    config, recipe = config_parser.parse_known_args(argv)[0].config, {}
    if config is not None and any(action.dest == "config" for action in parser._actions):
        recipe = _read_recipe(config, parser)
        parser.set_defaults(**recipe)
    namespace, unknown = parser.parse_known_args(argv)
    if unknown:
        known = {f"--{action.dest}" for action in parser._actions}
        parser.error(f"unknown argument {unknown[0]!r}{hint(unknown[0].split('=')[0], known)}")
    # argparse sets no default where there is a value already.
    marked = argparse.Namespace(**dict.fromkeys(vars(namespace), _DEFAULT))
    marked, _ = parser.parse_known_args(argv, marked)
    namespace.given = {name for name, value in vars(marked).items() if value is not _DEFAULT}
    namespace.recipe = recipe
    return namespace


def to_dataclasses(namespace: argparse.Namespace, classes: Sequence[type]) -> tuple:
    """Return an object of each dataclass from parsed arguments.

    Raises:
        ValueError: A dataclass refuses a value.
    """
    values = vars(namespace)
    try:
        return tuple(
            cls(**{item.name: values[item.name] for item in fields(cls) if item.init and item.name in values})
            for cls in classes
        )
    except TypeError as error:  # of one of the mappings that transformers takes
        raise ValueError(f"an argument has the wrong type: {error}") from error


def parse_arguments(classes: Sequence[type], argv: Sequence[str] | None = None) -> tuple:
    """Return an object of each dataclass: the values of `--config recipe.yaml`, overridden by the command line.

    Raises:
        SystemExit: An unknown key or option (the message suggests the nearest one), or a value of the wrong type.
        ValueError: A dataclass refuses a value.
    """
    parser = Parser()
    add_config(parser)
    add_dataclasses(parser, classes)
    return to_dataclasses(parse(parser, argv), classes)


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add `--config`."""
    parser.add_argument("--config", help="YAML recipe: 'argument: value' lines. The command line overrides it.")


def from_yaml(name: str, value: Any, kind: type) -> Any:
    """Return a `dict` or `list`, parsed from YAML if it is text, as on the command line; None stays None.

    Raises:
        ValueError: It is not YAML, or has another type.
    """
    try:
        value = yaml.safe_load(value) if isinstance(value, str) else value
    except yaml.YAMLError as error:
        raise ValueError(f"{name} is not YAML: {' '.join(str(error).split())}") from error
    value = with_home(value)
    if value is not None and not isinstance(value, kind):
        accepted = "a mapping, as {a: 1}" if kind is dict else "a list of mappings, as [{name: A}]"
        raise ValueError(f"{name} must be {accepted}, not {value!r}")
    return value


def checked(cls: type, options: dict) -> dict:
    """Return `options` after checking that `cls` accepts each, with the type of its default.

    Raises:
        ValueError: An unknown option or a value of another type.
    """
    parameters = signature(cls.__init__).parameters
    known = set(parameters) | set(getattr(cls, "__dataclass_fields__", {}))
    known -= {"self", "args", "kwargs"}
    if unknown := set(options) - known:
        raise ValueError(f"{cls.__name__} has no {', '.join(sorted(unknown))}; it has: {', '.join(sorted(known))}")
    return {
        name: _of_type(f"{cls.__name__}: {name}", value, parameters[name].default if name in parameters else None)
        for name, value in options.items()
    }


def _of_type(name: str, value: Any, default: Any) -> Any:
    """Return `value` if it has the type of `default`, where that is a number, a truth value or text."""
    kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    kind = type(default)
    if value is None or kind not in kinds:
        return value
    if kind is float and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 1e-3 as text
        except (TypeError, ValueError):
            pass
    if type(value) is not kind:
        raise ValueError(f"{name} must be {kinds[kind]}, not {value!r}")
    return value


def _read_recipe(path: str, parser: Parser) -> dict[str, Any]:
    """Return the values of a YAML recipe, each as the command line would give it."""
    try:
        with open(path, encoding="utf-8") as file:
            recipe = with_home(yaml.safe_load(file) or {})
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        parser.error(f"--config {path}: {error}")
    if not isinstance(recipe, dict):
        parser.error(f"--config {path}: a recipe is a mapping, 'argument: value' lines, not {recipe!r}")
    actions = {action.dest: action for action in reversed(parser._actions)}
    for key, value in recipe.items():
        if key not in parser.kinds or key not in actions:
            parser.error(f"{path}: unknown key {key!r}{hint(str(key), parser.kinds)}")
        kind = parser.kinds[key]
        try:
            recipe[key] = _as_typed(key, value, actions[key], kind)
        except (argparse.ArgumentTypeError, TypeError, ValueError):
            parser.error(f"{path}: {key}: {value!r} has the wrong type; {kind.removesuffix(' | None')} is expected")
    return recipe


def _as_typed(key: str, value: Any, action: argparse.Action, kind: str) -> Any:
    """Return the value of a recipe in the type of its option.

    Raises:
        argparse.ArgumentTypeError, TypeError, ValueError: It has another type.
    """
    if action.nargs in ("+", "*") and value is not None and not isinstance(value, dict):
        return [action.type(str(item)) for item in (value if isinstance(value, list) else [value])]
    if isinstance(value, dict | list):
        if type(value).__name__ not in kind:
            raise TypeError
        return value
    if value is False and key.endswith("_strategy"):
        return "no"  # YAML reads `no` as false
    if value is None and action.type in (int, float) and action.default is not None:
        raise TypeError
    if value is None or isinstance(value, str) or isinstance(value, bool) and action.type is str:
        return value  # argparse converts text
    if action.type is int and isinstance(value, float) and value.is_integer():
        return int(value)
    return action.type(str(value))


def hint(name: str, known: Collection[str]) -> str:
    """Return the end of a message about an unknown name: the nearest known one, if there is one."""
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else " (--help lists them all)"
