"""Kernel files: one text of all sources, what it declares, and arguments checked against it."""

import importlib
import re
import shutil

import numpy as np
import pytest

from smoe_np import kernel_files, live_lists
from smoe_np.kernel_files import Parameter, check_arguments, constants, kernel_source, signatures

PARAMETERS = (Parameter("numbers", np.dtype(np.float32), True, False),
              Parameter("given", np.dtype(np.int32), True, True),
              Parameter("count", np.dtype(np.int32), False, True),
              Parameter("scale", np.dtype(np.float64), False, True))


def good():
    return [np.zeros((4, 6), np.float32), np.zeros(3, np.int32), 3, 0.5]


def read_only(array):
    array.flags.writeable = False
    return array


def test_arguments_as_declared_are_taken_and_numbers_cast():
    arguments = good()
    checked = check_arguments("step", PARAMETERS, arguments, np.ndarray)
    assert checked[0] is arguments[0]
    assert [type(number) for number in checked[2:]] == [np.int32, np.float64]
    read_only(arguments[1])  # what is const may be read-only
    check_arguments("step", PARAMETERS, arguments, np.ndarray)
    check_arguments("step", PARAMETERS, [*arguments[:3], 2], np.ndarray)


@pytest.mark.parametrize(("place", "argument", "words"), [
    (0, np.zeros((4, 6)), "numbers of step must be of float32, got float64"),
    (0, np.zeros((4, 12), np.float32)[:, ::2], "numbers of step must be contiguous"),
    (0, np.zeros((6, 4), np.float32).T, "numbers of step must be contiguous"),
    (0, read_only(np.zeros(3, np.float32)), "numbers of step is read-only"),
    (0, [0.0], "numbers of step must be a ndarray"),
    (0, None, "numbers of step must be a ndarray"),
    (1, np.zeros(3, np.int64), "given of step must be of int32, got int64"),
    (1, np.zeros(3, np.uint32), "given of step must be of int32, got uint32"),
    (2, 2.5, "count of step must be a int32, got 2.5")])
def test_arguments_that_are_not_as_declared_are_refused(place, argument, words):
    arguments = good()
    arguments[place] = argument
    with pytest.raises(TypeError, match=words):
        check_arguments("step", PARAMETERS, arguments, np.ndarray)


@pytest.mark.parametrize("arguments", [good()[:3], [*good(), 1]])
def test_the_number_of_arguments_is_checked(arguments):
    with pytest.raises(TypeError, match=f"step takes 4 arguments, got {len(arguments)}"):
        check_arguments("step", PARAMETERS, arguments, np.ndarray)


# ---- sources


def test_every_file_of_the_sources_stands_once_in_the_text():
    text = kernel_source()
    assert not re.search(r'#include "|#pragma once', text)
    for path in kernel_files.kernel_folder().glob("*.cu*"):
        assert text.count(path.read_text(encoding="utf-8").splitlines()[0] + "\n") == 1, path


def test_a_changed_file_changes_the_text(monkeypatch, tmp_path):
    folder = tmp_path / "kernels"
    shutil.copytree(kernel_files.kernel_folder(), folder)
    monkeypatch.setattr(kernel_files, "kernel_folder", lambda: folder)
    expand = kernel_source.__wrapped__
    assert expand() == kernel_source()
    for path in folder.glob("*.cu*"):
        before = path.read_text(encoding="utf-8")
        path.write_text(before + "// changed\n", encoding="utf-8")
        assert expand() != kernel_source(), path
        path.write_text(before, encoding="utf-8")


def test_an_include_within_an_include_and_one_that_comes_twice_are_expanded_once(
        monkeypatch, tmp_path):
    monkeypatch.setattr(kernel_files, "kernel_folder", lambda: tmp_path)
    monkeypatch.setattr(kernel_files, "SOURCES", ("a.cu", "b.cu"))
    for name, text in {"a.cu": '#include "c.cuh"\nA\n',
                       "c.cuh": '#pragma once\n#include "d.cuh"\nC\n',
                       "b.cu": '#include "d.cuh"\n#include <math.h>\n#include "c.cuh"\nB\n',
                       "d.cuh": "#pragma once\nD\n"}.items():
        (tmp_path / name).write_text(text)
    assert kernel_source.__wrapped__() == "D\nC\nA\n#include <math.h>\nB\n"


@pytest.mark.parametrize(("dtype", "real"), [("float32", np.float32), ("float64", np.float64)])
def test_signatures_are_what_the_sources_declare(dtype, real):
    found = signatures(dtype)
    assert set(found) == set(re.findall(r"^KERNEL\((\w+),", kernel_source(), re.MULTILINE))
    assert found["layout"] == (Parameter("found", np.dtype(np.int32), True, False),)
    text = re.search(r"^KERNEL\(step, \w+, ([^)]*)\)", kernel_source(), re.MULTILINE)[1]
    for parameter, declared in zip(found["step"], text.split(","), strict=True):
        *_, kind, name = declared.replace("*", " * ").replace("const", "").replace("*", "").split()
        wanted = {"int": np.int32, "double": np.float64, "REAL": real}[kind]
        assert parameter == Parameter(name, np.dtype(wanted), "*" in declared,
                                      "const" in declared or "*" not in declared)


def test_constants_are_the_numbers_that_the_sources_define():
    found = constants()
    assert found["TILE_THREADS"] == 64
    assert isinstance(found["TILE_THREADS"], int)
    assert found["DEAD"] == -1e30
    assert isinstance(found["BETA1"], float)
    assert "SIDE" not in found  # depends on the dimensions
    assert "PATCHES_ARE_BOXES" not in found  # depends on the machine
    assert "PIXELS" not in found
    assert "CHUNK" not in found
    kinds = {found[name] for name in ("STALE", "HALT", "STEP", "TARGET", "APPLY", "ALIVE", "AGE",
                                      "BUILDS", "SIGNED", "NEEDED")}
    assert len(kinds) == 10  # words of control, none of which is two
    assert max(kinds) + 1 < found["CONTROL_WORDS"]


SAME_AS = {"adam": ["BETA1"], "turned_adam": ["LEAST_PART", "DAMPING"], "gate": ["DEAD"],
           "frame": ["SMALLEST_WEIGHT", "LARGEST_WEIGHT", "LEAST_DIVISOR"], "params": ["LARGEST"],
           "engine_numpy": ["TINY"], "tiling": ["ROUNDING"],
           "live_lists": ["REACH", "LONGEST", "WEAK", "FADING"]}


@pytest.mark.parametrize(("module", "name"), [
    (module, name) for module, names in SAME_AS.items() for name in names])
def test_what_the_kernels_have_in_common_with_the_numpy_engine_is_the_same(module, name):
    assert constants()[name] == getattr(importlib.import_module(f"smoe_np.{module}"), name)


@pytest.mark.parametrize("name", ["LEAST", "MOST", "FURTHEST"])
def test_allowances_are_the_same_too(name):
    numbers = re.search(rf"^CONSTANT double {name}\[3\] = {{(.*)}};", kernel_source(), re.MULTILINE)
    np.testing.assert_array_equal([float(number) for number in numbers[1].split(",")],
                                  getattr(live_lists, name))
