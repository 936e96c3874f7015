"""Which array library an array belongs to, and the reasons for having no GPU."""

import importlib.metadata
import subprocess
import sys
import types

import numpy as np
import pytest

from smoe_np import SmoeParams
from smoe_np.backend import array_module, to_numpy, why_no_gpu


class FakeArray:
    """What a CuPy array is to array_module: an instance of cupy.ndarray."""


@pytest.fixture
def cupy(monkeypatch):
    """A module in the place of CuPy, on which tests hang what they need."""
    module = types.ModuleType("cupy")
    module.ndarray = FakeArray
    monkeypatch.setitem(sys.modules, "cupy", module)
    return module


def with_devices(cupy, count, capability="90"):
    runtime = types.SimpleNamespace(getDeviceCount=count)
    device = types.SimpleNamespace(compute_capability=capability)
    cupy.cuda = types.SimpleNamespace(runtime=runtime, Device=lambda: device)


def test_numpy_arrays_lists_scalars_and_nothing_are_numpys():
    assert array_module(np.zeros(3)) is np
    assert array_module([1, 2], 3.0, None) is np
    assert array_module() is np
    assert array_module(None) is np


def test_cupy_arrays_are_cupys(cupy):
    assert array_module(FakeArray()) is cupy
    assert array_module(FakeArray(), None, FakeArray()) is cupy


def test_numpy_arrays_are_numpys_with_cupy_loaded(cupy):
    assert array_module(np.zeros(3)) is np
    assert array_module([1], None) is np


@pytest.mark.parametrize("other", [np.zeros(3), [1.0], 2.0])
def test_mixing_is_a_type_error_that_says_how_to_move(cupy, other):
    for arrays in ((FakeArray(), other), (other, None, FakeArray())):
        with pytest.raises(TypeError, match=r"cupy\.asarray.*cupy\.asnumpy"):
            array_module(*arrays)


def test_a_model_of_mixed_arrays_is_a_type_error(cupy):
    with pytest.raises(TypeError, match="partly NumPy and partly CuPy"):
        SmoeParams(FakeArray(), np.zeros((1, 2)), np.ones((1, 2, 2)), np.zeros((1, 2)), [0.5])


def test_an_empty_module_in_the_place_of_cupy_does_no_harm(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", types.ModuleType("cupy"))
    assert array_module(np.zeros(3)) is np


def test_cupy_is_never_imported_to_find_out():
    code = (
        "import sys, numpy\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        assert name.partition('.')[0] != 'cupy', 'cupy was imported'\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "from smoe_np import SmoeParams, render\n"
        "from smoe_np.backend import array_module\n"
        "assert array_module(numpy.zeros(2), None) is numpy\n"
        "render(SmoeParams([1], [[.5, .5]], [9 * numpy.eye(2)], [[0, 0]], [.5]), (4, 4))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_cupy_is_said_with_the_way_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)  # import cupy: ModuleNotFoundError
    reason = why_no_gpu()
    assert "CuPy cannot be imported" in reason
    assert "pip install" in reason
    assert "smoe_np[cuda12]" in reason


def test_a_cupy_that_breaks_when_imported_is_a_reason_not_an_error(monkeypatch):
    class Breaks:
        def find_spec(self, name, path=None, target=None):
            if name == "cupy":
                raise OSError("libnvrtc.so: cannot open shared object file")

    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Breaks(), *sys.meta_path])
    assert "CuPy cannot be imported (OSError)" in why_no_gpu()


def test_no_device_is_said(cupy):
    with_devices(cupy, lambda: 0)
    assert why_no_gpu() == "CuPy is installed, but the driver reports no CUDA device"


@pytest.mark.parametrize(("error", "words"), [
    (RuntimeError("cudaErrorInsufficientDriver: too old\nmore"), "cudaErrorInsufficientDriver"),
    (RuntimeError(), "RuntimeError"), (RuntimeError("\n"), "RuntimeError"), (OSError(5, "x"), "x")])
def test_a_driver_that_does_not_answer_is_said_in_one_line(cupy, error, words):
    def count():
        raise error

    with_devices(cupy, count)
    reason = why_no_gpu()
    assert reason.startswith("CuPy is installed, but no CUDA driver answers")
    assert words in reason
    assert "\n" not in reason


@pytest.mark.parametrize("capability", ["35", "61"])
def test_a_device_that_is_too_old_is_said(cupy, capability):
    with_devices(cupy, lambda: 1, capability)
    version = f"{capability[0]}.{capability[1]}"
    assert f"the GPU has compute capability {version}, and at least 7.0 is needed" in why_no_gpu()


def test_two_installations_of_cupy_are_said_before_they_break(cupy, monkeypatch):
    def version(name):
        if name not in ("cupy-cuda12x", "cupy-cuda13x"):
            raise importlib.metadata.PackageNotFoundError(name)
        return "14.0.1"

    with_devices(cupy, lambda: 1)
    monkeypatch.setattr(importlib.metadata, "version", version)
    reason = why_no_gpu()
    assert "2 installations of CuPy, cupy-cuda12x and cupy-cuda13x" in reason
    assert "uninstall all of them" in reason


def test_arrays_come_to_the_host():
    class There:
        def get(self):
            return np.ones(2)

    here = np.zeros(2)
    assert to_numpy(here) is here
    np.testing.assert_array_equal(to_numpy(There()), np.ones(2))


def test_a_device_that_answers_leaves_nothing_to_say(cupy):
    with_devices(cupy, lambda: 1)
    assert why_no_gpu() is None
