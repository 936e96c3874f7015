"""How the command line is read: options that are given, flags, errors in a line."""

import argparse
import inspect
import re

from .engine import ENGINES

_YES, _NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
_QUOTED = r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
_NEGATIVE = re.compile(r"-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$", re.IGNORECASE)


class UsageError(Exception):
    """What is wrong with the command line, in one line."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are exceptions, and whose flags take ``=0`` and ``=1``."""

    def __init__(self, prog, description=None, **kwargs):
        super().__init__(prog=prog, description=description, allow_abbrev=False,
                         argument_default=argparse.SUPPRESS, formatter_class=_HelpFormatter,
                         **kwargs)
        self._negative_number_matcher = _NEGATIVE  # argparse's own knows no exponents
        self.flags = {}  # every spelling, to the canonical one
        self.arguments = {}  # of the library, of other names than their options

    def error(self, message):
        """Raise a UsageError that says where help is."""
        raise UsageError(f"{message}; see {self.prog} --help")

    def spelled(self):
        """How each argument is given: the long name of its option, or the word in the usage."""
        own = {action.dest: action.option_strings[-1] if action.option_strings else action.metavar
               for action in self._actions}
        return {**own, **self.arguments}

    def flag(self, group, *names, **kwargs):
        """Add a flag to a group."""
        group.add_argument(*names, action="store_const", **kwargs)
        self.flags.update(dict.fromkeys(names, names[-1]))

    def plain(self, arguments):
        """The arguments as argparse knows them: long names with ``-``, flags without a value."""
        plain = []
        for place, argument in enumerate(arguments):
            if argument == "--":
                return plain + arguments[place:]
            name, equals, value = argument.partition("=")
            if name.startswith("--"):
                name = name.replace("_", "-")
            elif re.match("-[A-Za-z]{2}", name) and name not in self._option_string_actions:
                self.error(f"unrecognized arguments: {name}")  # and not -r with the value adial
            if name not in self.flags:
                plain.append(name + equals + value)
                continue
            if equals and value.lower() not in _YES + _NO:
                self.error(f"argument {name}: takes =1 or =0, got {value!r}")
            if equals and value.lower() in _NO:
                plain = [other for other in plain if self.flags.get(other) != self.flags[name]]
            else:
                plain.append(name)
        return plain


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Names in a wide column, the metavar once."""

    def __init__(self, prog, **kwargs):
        super().__init__(prog, **{**kwargs, "max_help_position": 36})

    def _format_action_invocation(self, action):
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        value = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings)} {value}"


def in_options(text, spelled, image_path=None):
    """A message about arguments of the library as one about options; what is quoted stays.

    One that begins with the image, which is no option, tells its file as well.
    """
    if image_path is not None:
        text = re.sub(r"\Aimage\b", lambda _: f"image {image_path!r}", text)

    def spell(found):
        name, equals = found.groups()
        return spelled[name] + (" " if equals else "") if name in spelled else found[0]

    parts = re.split(_QUOTED, text)
    parts[::2] = [re.sub(r"\b([a-z0-9]+(?:_[a-z0-9]+)+)\b(=?)", spell, part) for part in parts[::2]]
    return "".join(parts)


# ---- what they share


def with_defaults(*functions):
    """A function that adds options whose defaults are those of arguments of the library."""
    defaults = {name: parameter.default for function in functions
                for name, parameter in inspect.signature(function).parameters.items()}

    def option(group, short, long, kind, text, dest=None, default=None, **kwargs):
        dest = dest or long[2:].replace("-", "_")
        default = defaults[dest] if default is None else default
        if not kwargs:
            kwargs = {"type": kind, "metavar": {int: "N", float: "X"}[kind]}
        group.add_argument(*filter(None, (short, long)), dest=dest, **kwargs,
                           help=f"{text} (default: {'none' if default is None else default})")

    return option


def add_backend(group):
    """Add the option of the engine."""
    group.add_argument("--backend", choices=("auto", *ENGINES),
                       help="engine (default: auto, the fastest that works here)")


def add_channels(group):
    """Add the option of the axis of the channels."""
    group.add_argument("--channel-axis", type=_channel_axis, metavar="AXIS",
                       help="the axis of the channels: a number, none if every axis is space, or "
                            "auto: the last one if it has 1 to 4 entries (default: auto)")


def _channel_axis(text):
    if text.lower() in ("auto", "none"):
        return None if text.lower() == "none" else "auto"
    return int(text)


_channel_axis.__name__ = "axis"  # what argparse calls a value that is none
