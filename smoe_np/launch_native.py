"""Kernels on a CPU: the kernel sources compiled by the machine's C++ compiler, and their launches.

Compiled code is cached in a folder of the user. Its file name has a hash of all that it depends on:
source, options, compiler, processor. A file is used only if nobody else can write to it and its
SHA-256 is the one noted beside it.
"""

import contextlib
import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from functools import cache
from pathlib import Path

import numpy as np

from .kernel_files import STEADY, check_arguments, definitions, kernel_source, signatures
from .machine import processors

COMPILERS = ("c++", "g++", "clang++")
# Not -ffinite-math-only, which would hide a NaN.
OPTIONS = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros",
           "-fopenmp-simd", "-fPIC", "-shared", "-pthread")
MOST_COUNTERS = 16  # most sets of row counters; a set has one number for each kernel of the model
TIME_LIMIT = 300  # seconds that a compilation may take
UNUSED = 90 * 24 * 3600  # seconds without use after which a cached file is removed
NOTE = ".sha256"
ELSEWHERE = "" if sys.platform in ("win32", "darwin") else "; set XDG_CACHE_HOME to another folder"


# of the numbers that kernels take; looked up faster than by np.ctypeslib
_C_TYPES = {np.dtype(kind).char: kind for kind in (ctypes.c_int, ctypes.c_float, ctypes.c_double)}


class NativeUnavailable(Exception):
    """Why kernels cannot be compiled or loaded here, in one sentence."""


class _Launch(ctypes.Structure):
    _fields_ = (("kernel", ctypes.c_void_p), ("arguments", ctypes.c_void_p),
                ("blocks", ctypes.c_int), ("threads", ctypes.c_int),
                ("seconds", ctypes.c_void_p))


# What these return is kept: made anew for every launch, it would be left to the garbage collector.
@cache
def _array_type(kind, length):
    return kind * length


@cache
def _address_of(library, kernel):
    return ctypes.cast(getattr(library, kernel), ctypes.c_void_p).value


def _as_c(argument):
    if isinstance(argument, np.ndarray):
        return ctypes.c_void_p(argument.__array_interface__["data"][0])
    return _C_TYPES[argument.dtype.char](argument.item())


class _Sequence:
    """A sequence of launches, with references that keep its arguments alive; sequences add up."""

    def __init__(self, launches, alive):
        self.launches = _array_type(_Launch, max(len(launches), 1))(*launches)
        self.count, self.alive = len(launches), alive

    def __add__(self, other):
        launches = [*self.launches[: self.count], *other.launches[: other.count]]
        return _Sequence(launches, [*self.alive, *other.alive])


class NativeLauncher:
    """Launches the kernels for one D, C and dtype on the CPU.

    Parameters
    ----------
    D, C : int
        Dimensions and channels.
    dtype : str
    options : tuple of str
        More options for the compiler.

    Attributes
    ----------
    threads : int
        Processors to use; results do not depend on it.
    counter_sets : int
        Number of sets of row counters, each for one block.
    least_share : int
        Least number of kernels in a share of a large box, which a block bounds. Large, as every
        block finds the winners of the whole box.

    Raises
    ------
    NativeUnavailable
        If there is no compiler that works.
    """

    name = "native"
    least_share = 4096

    def __init__(self, D, C, dtype, options=()):
        self.dtype = np.dtype(dtype)
        self.library = load_kernels(D, C, self.dtype.name, tuple(options))
        self.signatures = signatures(self.dtype.name)
        self.threads = processors()
        self.counter_sets = min(4 * self.threads, MOST_COUNTERS)
        self._seconds = {}  # arrays of one number by kernel, where time is added up

    @staticmethod
    def list_costs(pixels):
        """The costs of lists by which it is planned how long they last, for an image.

        Returns
        -------
        build : float
            Cost of building lists, in training steps.
        listed : float
            Cost of a listed pair that does not matter, relative to one that does.
        """
        return 0.5, 0.25

    def zeros(self, shape, dtype):
        """A new array of zeros."""
        return np.zeros(shape, dtype)

    def array(self, array, dtype=None):
        """A contiguous array that kernels can read; not copied if it is one already."""
        return np.ascontiguousarray(array, dtype)

    def host(self, array):
        """An array as a NumPy array; not copied if it is one."""
        return array

    def record(self, launches):
        """Record a sequence of launches, to be run any number of times.

        Parameters
        ----------
        launches : list of (kernel, blocks, threads, arguments)

        Returns
        -------
        sequence
            Two of them may be added: the sum is the one and then the other.
        """
        found, alive = [], []
        values_of = {}  # by id of an array, which many launches share
        for kernel, blocks, threads, arguments in launches:
            if blocks < 1:
                continue
            checked = check_arguments(kernel, self.signatures[kernel], arguments, np.ndarray)
            values = []
            for argument in checked:
                value = values_of.get(id(argument))
                if value is None:
                    value = _as_c(argument)
                    if isinstance(argument, np.ndarray):
                        values_of[id(argument)] = value
                values.append(value)
            addresses = [ctypes.addressof(value) for value in values]
            pointers = _array_type(ctypes.c_void_p, len(addresses))(*addresses)
            seconds = self._seconds.get(kernel)
            alive.append((checked, values, pointers, seconds))
            found.append(_Launch(_address_of(self.library, kernel), ctypes.addressof(pointers),
                                 blocks, threads,
                                 None if seconds is None else seconds.ctypes.data))
        return _Sequence(found, alive)

    def profile(self):
        """Measure the time of each kernel in sequences that are recorded from now on.

        Returns
        -------
        dict of (1,) array of float64
            Seconds by kernel, which grow as sequences run.
        """
        self._seconds = {kernel: np.zeros(1) for kernel in self.signatures}
        return self._seconds

    def run(self, sequence):
        """Run a sequence once."""
        self.library.smoe_run(sequence.launches, sequence.count, self.threads)

    def train(self, build, step, control, patience=1.0):
        """Build lists and take steps as ``control`` asks, for ``patience`` times STEADY seconds.

        Returns
        -------
        float
            Seconds spent on lists.
        """
        return self.library.smoe_train(build.launches, build.count, step.launches, step.count,
                                       control.ctypes.data, self.threads,
                                       patience * STEADY)


# ---- the compiler


@cache
def why_no_native():
    """Say in one sentence why kernels cannot be compiled here, or return ``None``."""
    try:
        load_kernels(2, 1, "float32")
    except NativeUnavailable as error:
        return str(error)
    return None


_loaded = {}
_loading = {}  # a lock for each, so that different ones may be compiled at the same time


def load_kernels(D, C, dtype, options=()):
    """The library of one specialisation, compiled if need be; see ``NativeLauncher``."""
    key = D, C, dtype, options
    with _loading.setdefault(key, threading.Lock()):
        if key not in _loaded:
            _loaded[key] = _load(D, C, dtype, options)
    return _loaded[key]


def _load(D, C, dtype, options):
    compiler = find_compiler()
    options = (*OPTIONS, *_for_this_processor(), *definitions(D, C, dtype), *options)
    source = kernel_source()
    parts = (source, *options, *compiler, _version(compiler), _processor())
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    folder = cache_folder()
    name = f"smoe_np-{D}d-{C}c-{dtype}-{digest[:32]}.so"
    if folder is None:
        return _compiled(compiler, options, source, name)
    library = _load_checked(folder / name)
    if library is not None:
        return library
    with _alone(folder / name):  # then another process may have done it
        return _load_checked(folder / name) or _compiled(compiler, options, source, name, folder)


def _compiled(compiler, options, source, name, folder=None):
    """A library that is compiled now, and kept in a folder if there is one."""
    try:
        with tempfile.TemporaryDirectory(prefix="smoe_np-") as work:
            built = Path(work) / name
            compile_kernels(compiler, options, source, built)
            if folder is not None:
                try:
                    _keep(built, folder / name)
                    _drop_unused(folder)
                except OSError as error:  # the disk may be full: it works without
                    _warn_of_no_cache(f"{folder} cannot be written to ({_brief(error)})"
                                      f"{ELSEWHERE}")
            return _open(built)
    except OSError as error:
        raise NativeUnavailable(f"there is no place for a compiler to write to ({_brief(error)}); "
                                f"make room, or set TMPDIR") from None


def find_compiler():
    """The command of a C++ compiler, as a list: that of ``$CXX``, or the first that is there.

    Raises
    ------
    NativeUnavailable
    """
    wanted = os.environ.get("CXX")
    if wanted:
        with contextlib.suppress(ValueError):  # a quotation that does not end
            command = shlex.split(wanted)
            if command and shutil.which(command[0]):
                return command
        raise NativeUnavailable(f"the compiler $CXX = {wanted!r} is not there; set CXX to one that "
                                f"is, or unset it")
    for name in COMPILERS:
        if shutil.which(name):
            return [name]
    raise NativeUnavailable(f"no C++ compiler ({', '.join(COMPILERS)}) is on the PATH; install "
                            f"one, such as g++")


@cache
def _version_of(command):
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False,
                          timeout=30, errors="replace", stdin=subprocess.DEVNULL)
    return done.stdout


def _version(compiler):
    try:
        return _version_of(tuple(compiler))
    except (OSError, subprocess.SubprocessError) as error:
        raise NativeUnavailable(
            f"the compiler {compiler[0]} does not start ({_brief(error)})") from None


def _for_this_processor():
    if platform.machine().lower() in ("arm64", "aarch64"):
        return ("-mcpu=native",)
    return ("-march=native",)


@cache
def _processor():
    """A text that identifies the processor for which code is compiled."""
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(errors="replace")
        lines = {line for line in text.splitlines()
                 if line.startswith(("flags", "model name", "Features", "CPU part"))}
        if lines:
            return "\n".join(sorted(lines))
    return f"{platform.machine()} {platform.processor()}"


def compile_kernels(compiler, options, source, path):
    """Compile a text into a library.

    Raises
    ------
    NativeUnavailable
        If that fails, with the compiler's first complaint.
    """
    if sys.stderr is not None and sys.stderr.isatty():
        with contextlib.suppress(OSError, ValueError):
            print("smoe_np: compiling kernels for this processor; they are kept for the next time",
                  file=sys.stderr, flush=True)
    command = [*compiler, *options, "-x", "c++", "-", "-o", str(path)]
    try:
        done = subprocess.run(command, input=source, capture_output=True, text=True, check=False,
                              timeout=TIME_LIMIT, encoding="utf-8", errors="replace")
    except (OSError, subprocess.SubprocessError) as error:
        raise NativeUnavailable(
            f"the compiler {compiler[0]} does not run ({_brief(error)})") from None
    if done.returncode != 0 or not path.is_file():
        complaints = [line for line in done.stderr.splitlines() if "error" in line.lower()]
        first = (complaints or done.stderr.splitlines() or ["no message"])[0].strip()
        raise NativeUnavailable(f"the compiler {compiler[0]} fails on the kernels ({first[:300]})")


def _brief(error):
    if isinstance(error, subprocess.TimeoutExpired):  # whose text has the whole command
        return f"it takes more than {error.timeout:g} s"
    return " ".join(str(error).split())[:200] or type(error).__name__


# ---- the cache


def cache_folder():
    """The cache folder of compiled kernels; None if none can be private to the user."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
    elif sys.platform == "darwin":
        base = os.path.expanduser("~/Library/Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if not base or not os.path.isabs(base):
        return None
    folder = Path(base) / "smoe_np"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_ours_alone(folder.stat()):
            _warn_of_no_cache(f"others may write to {folder}; take that right away from them")
            return None
    except OSError as error:
        _warn_of_no_cache(f"{folder} cannot be made ({_brief(error)}){ELSEWHERE}")
        return None
    return folder


@cache  # once is enough
def _warn_of_no_cache(why):
    warnings.warn(f"compiled kernels are not kept, and every process compiles them again: {why}",
                  RuntimeWarning, stacklevel=3)


def _is_ours_alone(status):
    if not hasattr(os, "getuid"):
        return True
    return status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _note_of(path):
    return path.with_suffix(NOTE)


def _load_checked(path):
    """The library of the cache, or None if it is not there, not whole, or not ours."""
    try:
        noted = _note_of(path).read_text(encoding="ascii").strip()
        if not _is_ours_alone(path.stat()) or not _is_ours_alone(_note_of(path).stat()):
            return None
        if hashlib.sha256(path.read_bytes()).hexdigest() != noted:
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # so that it counts as used
        return _open(path)
    except (OSError, ValueError, NativeUnavailable):
        return None


@contextlib.contextmanager
def _alone(path):
    """Hold the lock for compiling the file at a path; wait while another process holds it.

    Processes compile concurrently where files cannot be locked (Windows, some file systems), and
    where one holds the lock for longer than a compilation may take.
    """
    lock, beside = None, path.with_name(f".new-{path.stem}.lock")
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        lock = os.open(beside, os.O_RDWR | os.O_CREAT, 0o600)
    if lock is None:
        yield
        return
    try:
        patience = time.monotonic() + TIME_LIMIT
        while time.monotonic() < patience:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.05)
            except OSError:
                break
        yield
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_UN)  # for children too, which may have been forked off
        os.close(lock)


def _keep(built, path):
    """Put a library into the cache atomically: without locks another process may do the same."""
    data = built.read_bytes()
    for target, content in ((path, data),
                            (_note_of(path), hashlib.sha256(data).hexdigest().encode())):
        handle, temporary = tempfile.mkstemp(prefix=".new-", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise


def _drop_unused(folder):
    """Remove cached files that have long been unused, such as those of other versions."""
    long_ago = time.time() - UNUSED
    for path in folder.iterdir():
        if path.name.startswith(("smoe_np-", ".new-")) and path.suffix != NOTE:
            with contextlib.suppress(OSError):  # another process may do the same
                if path.stat().st_mtime < long_ago:
                    path.unlink()
                    _note_of(path).unlink(missing_ok=True)


def _open(path):
    try:
        library = ctypes.CDLL(str(path))
        library.smoe_run.restype = None
        library.smoe_run.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_int)
        library.smoe_train.restype = ctypes.c_double
        library.smoe_train.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_int,
                                       ctypes.c_void_p, ctypes.c_int, ctypes.c_double)
    except (OSError, AttributeError) as error:
        raise NativeUnavailable(f"compiled kernels cannot be loaded ({_brief(error)})") from None
    return library
