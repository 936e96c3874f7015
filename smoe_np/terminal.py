"""What commands share: their exit statuses, how they end, and what they print."""

import os

from .cli_parser import UsageError
from .numerals import size_in_words
from .progress import say

DONE, FAILED, WRONG_USE, INTERRUPTED, BROKEN_PIPE, TERMINATED = 0, 1, 2, 130, 141, 143


class Terminated(BaseException):
    """SIGTERM came."""


class Ended(Exception):
    """A command ended before its time: the exit status, and why in words."""


def end(status, why):
    """Say why a command ends, in one line on stderr; the status."""
    say(f"smoe: {one_line(why)}")
    return status


def one_line(text):
    """A text without line breaks."""
    return " ".join(str(text).splitlines())


def in_words(error):
    """An OSError as a line; those of this library are sentences already."""
    if error.filename is None:
        return error.strerror or str(error)
    return f"{error.filename!r}: {(error.strerror or str(error)).lower()}"


def print_line(text):
    """Print a line on stdout; an OSError says what could not be done."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(error.errno, f"cannot write to standard output: {in_words(error)}") from None


def refuse_to_replace(output, given):
    """Raise a UsageError where a file is in the way, and --overwrite is not given."""
    if os.path.lexists(output) and not given.get("overwrite"):
        raise UsageError(f"{output!r} exists; give another name, or --overwrite to replace it")


def those_of(given, names):
    """The options among some names that were given."""
    return {name: given[name] for name in names if name in given}


def warn_of_another_size(path, shape, params):
    """Say so where a picture has not the size of the one that a model was fitted to."""
    if params.image_shape not in (None, shape):
        say(f"smoe: warning: {path!r} has {size_in_words(shape)} pixels, the picture of the model "
            f"has {size_in_words(params.image_shape)}")
