"""The kernel sources: their folder, their text, and the signatures that they declare."""

import collections
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

SOURCES = ("step.cu", "lists.cu", "update.cu", "axes.cu", "events.cu", "render.cu", "survey.cu",
           "ceilings.cu")
STEADY = 0.1  # seconds of training, times the patience, before a launcher returns to Python
_INCLUDE = re.compile(r'^#include "([^"]+)"\n', re.MULTILINE)
_KERNEL = re.compile(r"^KERNEL\((\w+), (\w+), ([^)]*)\)", re.MULTILINE)
_DEFINED = re.compile(r"^#define ([A-Z]\w+)\b", re.MULTILINE)
_NUMBER = re.compile(r"^#define ([A-Z]\w+) (-?[\d.]+(?:e-?\d+)?)(?: |$)", re.MULTILINE)
_TYPES = {"int": np.int32, "double": np.float64, "unsigned char": np.uint8}


class Parameter(NamedTuple):
    """A parameter of a kernel."""

    name: str
    dtype: np.dtype
    array: bool  # array; otherwise a number
    const: bool  # the kernel does not write to it


def kernel_folder():
    """Return the folder of the ``*.cu`` and ``*.cuh`` files.

    It is ``smoe_np/kernels`` when the package is installed, and the ``kernels`` folder beside
    ``smoe_np`` in a checkout, whether installed with ``pip install -e`` or not at all.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    FileNotFoundError
        If neither folder is there.
    """
    package = Path(__file__).resolve().parent
    places = package / "kernels", package.parent / "kernels"
    for folder in places:
        # Not is_dir(): an empty folder left behind by git or by an uninstall is no hit.
        if (folder / "__init__.py").is_file():
            return folder
    raise FileNotFoundError(f"no CUDA sources in {places[0]} or {places[1]}: install smoe_np again")


@cache
def kernel_source():
    """All kernel sources as one text, with each included file of the project in it once.

    The text alone then determines what is compiled: caches of compiled code cannot miss a change.
    """
    folder, seen = kernel_folder(), set()

    def expand(name):
        seen.add(name)
        text = (folder / name).read_text(encoding="utf-8").replace("#pragma once\n", "")
        return _INCLUDE.sub(lambda m: "" if m[1] in seen else expand(m[1]), text)

    return "".join(expand(name) for name in SOURCES if name not in seen)


@cache
def constants():
    """The numbers that the sources define once, as ``#define NAME number``: dict by name."""
    often = collections.Counter(_DEFINED.findall(kernel_source()))
    return {name: float(value) if "." in value or "e" in value else int(value)
            for name, value in _NUMBER.findall(kernel_source()) if often[name] == 1}


def definitions(D, C, dtype):
    """The compiler options that make a specialisation of the sources.

    Parameters
    ----------
    D, C : int
        Numbers of dimensions and channels.
    dtype : str or dtype
        Type of REAL, float32 or float64.

    Returns
    -------
    tuple of str
    """
    dtype = np.dtype(dtype)
    real = {"float32": "float", "float64": "double"}[dtype.name]
    return (f"-DNDIM={D}", f"-DNCHAN={C}", f"-DREAL={real}", f"-DREAL_BYTES={dtype.itemsize}")


@cache
def signatures(dtype):
    """The parameters of each kernel, as its ``KERNEL(name, threads, ...)`` declares them.

    Parameters
    ----------
    dtype : str
        The dtype that REAL stands for.

    Returns
    -------
    dict of tuples of Parameter
    """
    types = {**_TYPES, "REAL": np.dtype(dtype).type}
    return {name: tuple(_parameter(text, types) for text in parameters.split(","))
            for name, _, parameters in _KERNEL.findall(kernel_source())}


def _parameter(text, types):
    words = text.split()
    const = words[0] == "const"
    name, array = words[-1].lstrip("*"), words[-1].startswith("*")
    return Parameter(name, np.dtype(types[" ".join(words[const:-1])]), array, const or not array)


def check_arguments(kernel, parameters, arguments, array_type):
    """Check the arguments of a kernel against its declaration, and cast numbers.

    Nothing else checks them: a kernel interprets whatever bits it is given.

    Raises
    ------
    TypeError
        If an argument is not of the declared type, which is a bug in this library.
    """
    if len(arguments) != len(parameters):
        raise TypeError(f"{kernel} takes {len(parameters)} arguments, got {len(arguments)}")
    checked = []
    for parameter, argument in zip(parameters, arguments):
        fault = None
        if not parameter.array:
            number = parameter.dtype.type(argument)
            if number != argument:
                fault = f"must be a {parameter.dtype}, got {argument!r}"
            argument = number
        elif not isinstance(argument, array_type):
            fault = f"must be a {array_type.__name__}, got {argument!r}"
        elif argument.dtype != parameter.dtype:
            fault = f"must be of {parameter.dtype}, got {argument.dtype}"
        elif not argument.flags.c_contiguous:
            fault = "must be contiguous"
        elif not parameter.const and not getattr(argument.flags, "writeable", True):
            fault = "is read-only, and the kernel writes to it"
        if fault:
            raise TypeError(f"argument {parameter.name} of {kernel} {fault}")
        checked.append(argument)
    return checked
