"""What of CuPy this library uses, over NumPy: put it in the place of ``cupy`` with ``install``.

It is stricter than CuPy where CuPy would move data unasked: arrays of NumPy are refused everywhere
but in ``asarray``. What is enqueued on a stream of one's own is done late, when the stream is
waited for, so work that is not in order shows. Kernels are those of ``kernels/``, compiled for the
CPU with EMULATE_GPU: blocks have threads, and race where they race.
"""

import contextlib
import ctypes
import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from kernel_runs import EMULATED
from numpy.lib.mixins import NDArrayOperatorsMixin

from smoe_np import engine, launch_native


class Machine:
    """The GPUs there are, what is allocated on them, and all that was launched."""

    def __init__(self):
        self.devices, self.capability, self.current = 1, "90", 0
        self.room = math.inf  # bytes of the largest array
        self.failure = None  # raised when kernels are compiled
        self.launches = []  # (kernel, blocks, threads, arguments, stream)
        self.modules, self.captures, self.replays = [], [], []
        self.streams = [null]


class OutOfMemoryError(MemoryError):
    pass


class CompileException(Exception):
    pass


class CUDARuntimeError(RuntimeError):
    pass


# ---- arrays


class ndarray(NDArrayOperatorsMixin):  # noqa: N801
    def __init__(self, data):
        self.data, self.device = data, Device()

    def __deepcopy__(self, memo):  # on its own device, whichever is current
        with self.device:
            return ndarray(self.data.copy())

    @property
    def flags(self):
        return SimpleNamespace(c_contiguous=self.data.flags.c_contiguous)

    @property
    def T(self):  # noqa: N802
        return ndarray(self.data.T)

    def __array__(self, *args, **kwargs):
        raise TypeError("Implicit conversion to a NumPy array is not allowed")

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **kwargs):
        if out is not None:
            kwargs["out"] = tuple(map(_unwrap, out))
        return _wrap(getattr(ufunc, method)(*map(_unwrap, inputs), **kwargs))

    def __getattr__(self, name):  # methods and attributes of NumPy's arrays
        found = getattr(object.__getattribute__(self, "data"), name)
        return _wrapping(found) if callable(found) else found

    def __getitem__(self, index):
        return _wrap(_unwrap(self)[_unwrap(index)])

    def __setitem__(self, index, value):
        _unwrap(self)[_unwrap(index)] = _unwrap(value)

    def __len__(self):
        return len(self.data)

    def __bool__(self):
        return bool(_unwrap(self))

    def __int__(self):
        return int(_unwrap(self))

    def __float__(self):
        return float(_unwrap(self))

    def get(self):
        return _unwrap(self).copy()


def _unwrap(value):
    if isinstance(value, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    if isinstance(value, (tuple, list)):
        return type(value)(map(_unwrap, value))
    if not isinstance(value, ndarray):
        return value
    if value.device.id != machine.current:
        raise ValueError(f"Array device must be {machine.current}, got {value.device.id}")
    get_current_stream().synchronize()  # what is done now comes after what that stream was given
    return value.data


def _wrap(value):
    return ndarray(np.asarray(value)) if isinstance(value, (np.ndarray, np.generic)) else value


def _wrapping(function):
    def wrapping(*args, **kwargs):
        kwargs = {name: _unwrap(value) for name, value in kwargs.items()}
        return _wrap(function(*map(_unwrap, args), **kwargs))

    return wrapping


def _allocated(data):
    if data.nbytes > machine.room:
        raise OutOfMemoryError(f"Out of memory allocating {data.nbytes:,} bytes")
    return ndarray(data)


def zeros(shape, dtype=float):
    if np.prod(shape, dtype=float) * np.dtype(dtype).itemsize > machine.room:
        raise OutOfMemoryError(f"Out of memory allocating an array of {shape}")
    return ndarray(np.zeros(shape, dtype))


def asarray(array, dtype=None):
    if isinstance(array, ndarray):
        return array if dtype in (None, array.dtype) else array.astype(dtype)
    return _allocated(np.array(array, dtype))


def ascontiguousarray(array, dtype=None):
    data = np.ascontiguousarray(_unwrap(array), dtype)
    return array if data is array.data else _allocated(data)


def asnumpy(array):
    return array.get()


def __getattr__(name):  # functions of NumPy
    found = getattr(np, name)
    return _wrapping(found) if callable(found) and not isinstance(found, type) else found


# ---- streams, events, graphs, devices


class Event:
    def __init__(self, disable_timing=False):
        self.disable_timing = disable_timing

    def note(self, stream):
        self.stream, self.after = stream, stream.enqueued
        return self

    @property
    def done(self):
        return self.stream.done >= self.after


class Stream:
    def __init__(self, non_blocking=False):
        self.non_blocking, self.pending, self.captured = non_blocking, [], None
        self.enqueued = self.done = 0
        self.before = []

    def __enter__(self):
        self.before.append(machine.streams)
        machine.streams = [*machine.streams, self]
        return self

    def __exit__(self, *error):
        machine.streams = self.before.pop()

    def enqueue(self, work):
        if self.captured is not None:
            self.captured.append(work)
            return
        self.pending.append(work)
        self.enqueued += 1
        if self is null:
            self.synchronize()

    def synchronize(self, until=math.inf):
        assert self.captured is None, "a stream that captures cannot be waited for"
        while self.pending and self.done < until:
            self.pending.pop(0)()
            self.done += 1

    def record(self, event=None):
        return (Event() if event is None else event).note(self)

    def wait_event(self, event):
        self.enqueue(lambda: event.stream.synchronize(event.after))

    def begin_capture(self):
        assert self.non_blocking, "cannot capture on the default stream"
        self.captured = []

    def end_capture(self):
        graph = Graph(self.captured)
        self.captured = None
        machine.captures.append(graph)
        return graph


class Graph:
    def __init__(self, works):
        self.works = works

    def launch(self, stream):
        machine.replays.append(self)
        for work in self.works:
            stream.enqueue(work)


class Device:
    def __init__(self, number=None):
        self.id, self.before = machine.current if number is None else number, []

    @property
    def compute_capability(self):
        return machine.capability

    def __enter__(self):
        self.before.append(machine.current)
        machine.current = self.id

    def __exit__(self, *error):
        machine.current = self.before.pop()


def _count():
    if isinstance(machine.devices, Exception):
        raise machine.devices
    return machine.devices


def get_current_stream():
    return machine.streams[-1]


# ---- kernels


class RawModule:
    def __init__(self, *, code, options, backend):
        assert code.isascii()
        machine.modules.append((code, options, backend))
        self.options = dict(option[2:].split("=") for option in options if option[:2] == "-D")
        self.library = None

    def get_function(self, name):
        if machine.failure is not None:
            raise machine.failure
        if self.library is None:
            real = {"float": "float32", "double": "float64"}[self.options["REAL"]]
            self.library = launch_native.load_kernels(
                int(self.options["NDIM"]), int(self.options["NCHAN"]), real, EMULATED)
        body = getattr(self.library, name)
        body.argtypes, body.restype = (ctypes.c_void_p, *[ctypes.c_int] * 3), None

        def launch(grid, block, arguments):
            (blocks,), (threads,) = grid, block
            assert blocks > 0
            assert 0 < threads <= 1024
            stream = get_current_stream()
            machine.launches.append((name, blocks, threads, arguments, stream))
            values = [_as_c(argument) for argument in arguments]
            pointers = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
            # `values` live as long as what points to them
            stream.enqueue(lambda: (values, body(pointers, 0, blocks, threads)))

        return launch


def _as_c(argument):
    if isinstance(argument, ndarray):
        assert argument.device.id == machine.current
        return ctypes.c_void_p(argument.data.ctypes.data)
    assert isinstance(argument, np.generic), f"{argument!r} is passed as CuPy likes"
    return np.ctypeslib.as_ctypes_type(argument.dtype)(argument.item())


null = Stream()
machine = Machine()
cuda = SimpleNamespace(
    Device=Device, Event=Event, Stream=Stream, get_current_stream=get_current_stream,
    runtime=SimpleNamespace(getDeviceCount=_count, CUDARuntimeError=CUDARuntimeError),
    memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
    compiler=SimpleNamespace(CompileException=CompileException))


@contextlib.contextmanager
def install(monkeypatch):
    """Have this module for CuPy, all new; what was found out with another one is forgotten."""
    global machine
    from smoe_np import launch_cuda

    caches = launch_cuda.why_no_cuda, launch_cuda.load_kernels
    machine = Machine()
    monkeypatch.setitem(sys.modules, "cupy", sys.modules[__name__])
    for found in caches:
        found.cache_clear()
    try:
        yield sys.modules[__name__]
    finally:
        for found in caches:
            found.cache_clear()


@pytest.fixture
def cupy(monkeypatch):
    """This module in the place of CuPy, and a choice of engines that knows of it."""
    with install(monkeypatch) as module:
        engine._choose.cache_clear()
        yield module
    engine._choose.cache_clear()
