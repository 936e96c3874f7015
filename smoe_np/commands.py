"""The commands that look at a model or at the machine: ``smoe render``, ``info`` and ``bench``."""

import json
import math
import os

from . import bench, bench_report, describe
from .cli_parser import UsageError
from .engine import render
from .images import write_image
from .params import load_params
from .progress import say
from .terminal import DONE, print_line, size_in_words, those_of


def draw(given):
    """``smoe render``."""
    output = given["output"]
    if os.path.lexists(output) and not given.get("overwrite"):
        raise UsageError(f"{output!r} exists; give another name, or --overwrite to replace it")
    params = load_params(given["params"])
    shape, scale = given.get("shape", params.image_shape), given.get("scale", 1)
    if shape is None:
        raise UsageError(f"{given['params']!r} does not hold the size of its picture; give --shape")
    if not (math.isfinite(scale) and scale > 0):
        raise UsageError(f"--scale must be above 0, got {scale}")
    if "shape" not in given:
        shape = [max(1, round(n * scale)) for n in shape]
    write_image(output, render(params, shape, **those_of(given, ("backend",))))
    print_line(f"{output}: {size_in_words(shape)} pixels, {params.num_kernels} kernels")
    return DONE


def info(given):
    """``smoe info``."""
    facts = describe.describe(load_params(given["params"]))
    print_line(json.dumps(facts, indent=2) if given.get("json") else describe.as_text(facts))
    return DONE


def measure(given):
    """``smoe bench``."""
    cases = bench.cases(**those_of(given, ("size", "image_path", "kernels_per_dim", "iterations",
                                           "large")))
    report = bench.run(cases, given.get("backend", "auto"), say)
    print_line(json.dumps(report, indent=2) if given.get("json") else bench_report.as_text(report))
    return DONE
