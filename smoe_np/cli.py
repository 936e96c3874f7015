"""The command ``smoe``: reads arguments, runs the command, turns errors into exit statuses."""

import contextlib
import os
import signal
import sys
import threading
import warnings

from .bench import Incorrect
from .cli_options import parse
from .cli_parser import UsageError, in_options
from .commands import clean, draw, info, measure, plot
from .commands_quantize import quantize
from .commands_training import fit, sparsify, train
from .progress import say
from .terminal import (
    BROKEN_PIPE,
    DONE,
    FAILED,
    INTERRUPTED,
    TERMINATED,
    WRONG_USE,
    Ended,
    Terminated,
    end,
    in_words,
    one_line,
)

COMMANDS = {"fit": fit, "train": train, "sparsify": sparsify, "quantize": quantize,
            "denoise": clean, "render": draw, "plot": plot, "info": info, "bench": measure}


def main(argv=None):
    """Run a command of ``smoe``.

    Parameters
    ----------
    argv : list of str, optional
        The arguments; those of the process by default.

    Returns
    -------
    int
        The exit status: 0 done; 1 training diverged, a PSNR is out of reach or an engine is wrong;
        2 an error, described in one line on stderr; 130 after Ctrl-C; 141 if the reader of stdout
        is gone; 143 after SIGTERM.
    """
    spelled = {}  # library arguments -> options
    with _own_manners(spelled):
        try:
            return _run(sys.argv[1:] if argv is None else list(argv), spelled)
        finally:
            _leave_no_output()


def _run(arguments, spelled):
    given = {}
    try:
        command, given, found = parse(arguments)
        spelled.update(found)
        return COMMANDS[command](given)
    except SystemExit as after_help:
        return after_help.code or DONE
    except KeyboardInterrupt:
        return end(INTERRUPTED, "interrupted")
    except Terminated:
        return end(TERMINATED, "terminated")
    except BrokenPipeError:
        return BROKEN_PIPE
    except Ended as early:
        return end(*early.args)
    except Incorrect as error:
        return end(FAILED, error)
    except MemoryError as error:
        return end(WRONG_USE, f"out of memory ({error}); use a smaller picture or fewer kernels")
    except RecursionError:
        return end(WRONG_USE, "a file holds lists that are nested too deeply to be read")
    except OSError as error:
        return end(WRONG_USE, in_words(error))
    except UsageError as error:
        return end(WRONG_USE, error)
    except (ValueError, TypeError, OverflowError, ImportError) as error:
        return end(WRONG_USE, in_options(str(error), spelled, given.get("image_path")))


# ---- signals, warnings and output


@contextlib.contextmanager
def _own_manners(spelled):
    """While active, SIGTERM raises Terminated and each warning is printed as a single line."""
    handler = signal.getsignal(signal.SIGTERM)
    in_charge = (threading.current_thread() is threading.main_thread()
                 and handler not in (signal.SIG_IGN, None))
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    shown = set()

    def show(message, *where):
        text = one_line(in_options(str(message), spelled))
        if text not in shown:
            shown.add(text)
            say(f"smoe: warning: {text}")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", category=UserWarning)
        warnings.filterwarnings("always", category=RuntimeWarning)
        # NumPy's warnings about single operations; the results are checked instead
        warnings.filterwarnings("ignore", ".* encountered in ", RuntimeWarning)
        warnings.showwarning = show
        if in_charge:
            signal.signal(signal.SIGTERM, _terminate)
        try:
            yield
        finally:
            if in_charge:
                signal.signal(signal.SIGTERM, handler)


def _terminate(number, frame):
    raise Terminated


def _leave_no_output():
    """Discard output that cannot be flushed, or the interpreter would fail on it again at exit."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError):
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, sys.stdout.fileno())
            os.close(nothing)
