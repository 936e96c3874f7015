"""NVRTC, NVIDIA's compiler at run time, through ctypes: it needs neither a GPU nor a driver."""

import ctypes
import functools
import importlib
from pathlib import Path

# the folder of the library in the wheels nvidia-cuda-nvrtc (13) and nvidia-cuda-nvrtc-cu12
PLACES = ("nvidia.cu13", "nvidia.cuda_nvrtc")


@functools.cache
def library():
    """The library of the wheel that is installed, or None."""
    for place in PLACES:
        try:
            folders = list(importlib.import_module(place).__path__)
        except ImportError:
            continue
        found = [path for folder in folders for path in Path(folder).glob("lib/libnvrtc.so*")
                 if "alt" not in path.name]
        if found:
            return ctypes.CDLL(str(sorted(found)[0]))
    return None


def architectures():
    """Those that the library compiles for, ascending: 75 is Turing, 90 Hopper."""
    count = ctypes.c_int()
    _check(library().nvrtcGetNumSupportedArchs(ctypes.byref(count)))
    numbers = (ctypes.c_int * count.value)()
    _check(library().nvrtcGetSupportedArchs(numbers))
    return sorted(numbers)


def compiled(source, options, *kinds):
    """What NVRTC makes of a source ("PTX", "LTOIR", "ProgramLog"), one for each kind.

    Raises an AssertionError that shows the first complaint.
    """
    program = ctypes.c_void_p()
    _check(library().nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernels.cu", 0,
                                        None, None))
    try:
        given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        failed = library().nvrtcCompileProgram(program, len(options), given)
        if failed:
            lines = _text(program, "ProgramLog").decode().splitlines()
            complaint = next((line for line in lines if "error" in line), str(lines))
            raise AssertionError(complaint[:300])
        return [_text(program, kind) for kind in kinds]
    finally:
        library().nvrtcDestroyProgram(ctypes.byref(program))


def _text(program, what):
    size = ctypes.c_size_t()
    _check(getattr(library(), f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    text = ctypes.create_string_buffer(size.value)
    _check(getattr(library(), f"nvrtcGet{what}")(program, text))
    return text.raw.rstrip(b"\0")


def _check(status):
    assert status == 0, f"NVRTC returns {status}"
