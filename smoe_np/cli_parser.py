"""Parsing of the command line: options without defaults, flags, one-line errors."""

import argparse
import inspect
import re

from .engine import ENGINES

_YES, _NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
_QUOTED = r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
_NEGATIVE = re.compile(r"-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$", re.IGNORECASE)


class UsageError(Exception):
    """An error in the command line, described in one line."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are exceptions, and whose flags take ``=0`` and ``=1``."""

    def __init__(self, prog, description=None, **kwargs):
        super().__init__(prog=prog, description=description, allow_abbrev=False,
                         argument_default=argparse.SUPPRESS, formatter_class=_HelpFormatter,
                         **kwargs)
        self._negative_number_matcher = _NEGATIVE  # argparse's own has no exponents
        self.flags = {}  # every spelling -> canonical spelling
        self.arguments = {}  # library arguments -> options of other names

    def error(self, message):
        """Raise a UsageError that refers to the help."""
        raise UsageError(f"{message}; see {self.prog} --help")

    def spelled(self):
        """The spelling of each argument: its long option, or its metavar if it is positional."""
        own = {action.dest: action.option_strings[-1] if action.option_strings else action.metavar
               for action in self._actions}
        return {**own, **self.arguments}

    def flag(self, group, *names, **kwargs):
        """Add a flag to a group."""
        group.add_argument(*names, action="store_const", **kwargs)
        self.flags.update(dict.fromkeys(names, names[-1]))

    def plain(self, arguments):
        """Arguments in argparse's form: long names with ``-`` for ``_``, flags without values."""
        plain = []
        for place, argument in enumerate(arguments):
            if argument == "--":
                return plain + arguments[place:]
            name, equals, value = argument.partition("=")
            if name.startswith("--"):
                name = name.replace("_", "-")
            elif re.match("-[A-Za-z]{2}", name) and name not in self._option_string_actions:
                self.error(f"unrecognized arguments: {name}")  # not -r with "adial"
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
    """Help with a wide column for names, and the metavar given once per option."""

    def __init__(self, prog, **kwargs):
        super().__init__(prog, **{**kwargs, "max_help_position": 36})

    def _format_action_invocation(self, action):
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        value = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings)} {value}"


def in_options(text, spelled, image_path=None):
    """Replace the library's argument names in an error message by the options; not in quotes.

    Names of one word, which may be words of the text as well, are replaced in "NAME must ..." and
    "NAME applies to ..." alone, with which messages begin. A message that begins with "image" also
    gets the image's path, as that is no option.
    """
    if image_path is not None:
        text = re.sub(r"\Aimage\b", lambda _: f"image {image_path!r}", text)

    def spell(found):
        name, equals = found.groups()
        return spelled[name] + (" " if equals else "") if name in spelled else found[0]

    text = re.sub(r"\A([a-z0-9]+)(?= must (?:be|stand)\b| applies to\b)",
                  lambda name: spelled.get(name[1], name[1]), text)
    parts = re.split(_QUOTED, text)
    parts[::2] = [re.sub(r"\b([a-z0-9]+(?:_[a-z0-9]+)+)\b(=?)", spell, part) for part in parts[::2]]
    return "".join(parts)


# ---- shared by the commands


def with_defaults(*functions):
    """A function that adds options; their defaults are those of these functions' arguments."""
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
    """Add ``--backend``."""
    group.add_argument("--backend", choices=("auto", *ENGINES),
                       help="compute engine (default: auto, the fastest that works on this "
                            "machine)")


def add_channels(group, default="auto"):
    """Add ``--channel-axis``."""
    group.add_argument("--channel-axis", type=_channel_axis, metavar="AXIS",
                       help="axis of the channels: its number; none if every axis is spatial; or "
                            "auto: the last axis if there are 3 or more and it has 1 to 4 entries, "
                            f"else none (default: {default})")


def _channel_axis(text):
    if text.lower() in ("auto", "none"):
        return None if text.lower() == "none" else "auto"
    return int(text)


_channel_axis.__name__ = "axis"  # the name in argparse's message about an invalid value
