"""Shared by the commands: exit statuses, ways to end, and printing."""

import os

from .cli_parser import UsageError
from .numerals import size_in_words
from .pixels import channel_axis_for
from .progress import say

DONE, FAILED, WRONG_USE, INTERRUPTED, BROKEN_PIPE, TERMINATED = 0, 1, 2, 130, 141, 143


class Terminated(BaseException):
    """Raised on SIGTERM."""


class Ended(Exception):
    """A command ends early; its arguments are the exit status and the reason as text."""


def end(status, why):
    """Print why a command ends, in one line on stderr, and return the status."""
    say(f"smoe: {one_line(why)}")
    return status


def one_line(text):
    """A text without line breaks."""
    return " ".join(str(text).splitlines())


def in_words(error):
    """An OSError as text; without a file name it is the library's own, and already a sentence."""
    if error.filename is None:
        return error.strerror or str(error)
    return f"{error.filename!r}: {(error.strerror or str(error)).lower()}"


def print_line(text):
    """Print a line on stdout; raise an OSError with a clear message if that fails."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(error.errno, f"cannot write to standard output: {in_words(error)}") from None


def refuse_to_replace(output, given):
    """Raise a UsageError if the output exists and --overwrite is not given."""
    if os.path.lexists(output) and not given.get("overwrite"):
        raise UsageError(f"{output!r} exists; give another name, or --overwrite to replace it")


def those_of(given, names):
    """Those of the named options that were given."""
    return {name: given[name] for name in names if name in given}


def axis_of_channels(image, params, given):
    """The axis of an image's channels: the one given, else the one by which it fits a model."""
    fitting = channel_axis_for(image.shape, params.num_dims, params.num_channels,
                               params.image_shape)
    return given.get("channel_axis", fitting)


def warn_of_another_size(path, shape, params):
    """Warn if a picture is not of the size of the one that the model was fitted to."""
    if params.image_shape not in (None, shape):
        say(f"smoe: warning: {path!r} has {size_in_words(shape)} pixels, the picture of the model "
            f"has {size_in_words(params.image_shape)}")
