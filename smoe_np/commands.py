"""The commands that make no model: denoise, render, plot, info and bench."""

import json
import math
import os
import time
import warnings

import numpy as np

from . import bench, bench_report, describe, machine, plots
from .arguments import check_image, check_kind, check_whole
from .cli_parser import UsageError
from .denoising import check_sigma, denoise, estimate_sigma
from .engine import render
from .images import check_path, come_first, read_image, write_image
from .metrics import psnr, ssim
from .numerals import counted, size_in_words
from .packed import is_packed, load_packed
from .params import load_params
from .pixels import split_channels
from .progress import say
from .read_results import read_results
from .report import write_report
from .results import prove_writable
from .terminal import (
    DONE,
    axis_of_channels,
    print_line,
    refuse_to_replace,
    those_of,
    warn_of_another_size,
)

MOST_SIZE = 2**31  # pixels along an axis
MOST_UNASKED = 2**30  # pixels drawn unasked: a small file may claim that its picture is vast
DRAWN_BYTES = 8  # memory per number of a drawn picture, two float32, besides the number written


def draw(given):
    """``smoe render``."""
    output = given["output"]
    refuse_to_replace(output, given)
    params = load_params(given["params"])
    region = _region(given, params)
    fitted = params.image_shape
    if region is not None:
        fitted = [end - begin for begin, end in region]
    shape, scale = given.get("shape", fitted), given.get("scale", 1)
    if shape is None:
        raise UsageError(f"{given['params']!r} does not hold the size of its picture; give --shape")
    if not (math.isfinite(scale) and scale > 0):
        raise UsageError(f"--scale must be above 0, got {scale}")
    if len(shape) != params.num_dims:
        raise UsageError(f"--shape must be {params.num_dims} sizes for this model, got "
                         f"{size_in_words(shape)}")
    if "shape" not in given:
        sizes = [n * scale for n in shape]
        if not max(sizes) < MOST_SIZE:
            raise UsageError(f"--scale {scale:g} of {size_in_words(shape)} pixels is beyond what "
                             f"can be drawn")
        shape = [max(1, round(n)) for n in sizes]
        if not {"scale", "crop"} & set(given) and math.prod(shape) > MOST_UNASKED:
            raise UsageError(f"{given['params']!r} says that its picture has "
                             f"{size_in_words(shape)} pixels; give --shape to draw so many, or "
                             f"--scale to draw fewer")
    samples = given.get("samples", "auto")
    depth = given.get("depth", 8)
    _refuse_beyond_memory(shape, params.num_channels, depth)
    check_path(output, depth, params.num_channels, shape)
    prove_writable(output)
    picture = render(params, shape, region=region, samples=samples,
                     **those_of(given, ("backend",)))
    refuse_to_replace(output, given)  # a file written there meanwhile
    write_image(output, picture, depth, len(shape))
    more = _channels_first(params.num_channels, shape)
    print_line(f"{output}: {size_in_words(shape)} pixels{more}, "
               f"{counted(params.num_kernels, 'kernel')}")
    return DONE


def _channels_first(channels, shape):
    """A remark for the printed line if the channels are the first axis in the file."""
    is_told = channels > 1 and come_first(channels, len(shape))
    return f" of {channels} channels (the first axis in the file)" if is_told else ""


def _refuse_beyond_memory(shape, channels, depth):
    needed, free = (DRAWN_BYTES + depth // 8) * math.prod(shape) * channels, machine.free_bytes()
    if free is not None and needed > free:
        raise UsageError(f"{size_in_words(shape)} pixels take {needed / 2**30:.1f} GiB of memory, "
                         f"but only {free / 2**30:.1f} GiB are free; draw fewer pixels, or draw "
                         f"part by part with --crop")


def clean(given):
    """``smoe denoise``."""
    output, quiet = given["output"], given.get("quiet", False)
    refuse_to_replace(output, given)
    check_sigma(given.get("sigma", 0))
    check_whole("fits", given.get("fits", 1), 1)
    check_whole("seed", given.get("seed", 0), 0)
    check_path(output)
    prove_writable(output)
    image = read_image(given["image_path"])
    axis = those_of(given, ("channel_axis",))
    *shape, channels = split_channels(image, **axis).shape
    depth = _depth_of(image, output, given, channels, shape)
    sigma = given["sigma"] if "sigma" in given else estimate_sigma(image, **axis)
    if not quiet:
        known = "" if "sigma" in given else " (estimated)"
        say(f"noise of σ = {sigma:.3g}{known}")

    began = time.perf_counter()

    def progress(picture, done, fits):
        if not quiet:
            say(f"model {done} of {fits}, {time.perf_counter() - began:.0f} s")

    picture = denoise(image, sigma, progress=progress,
                      **those_of(given, ("fits", "seed", "backend", "channel_axis")))
    refuse_to_replace(output, given)  # a file written there meanwhile
    picture = split_channels(picture, **axis)
    write_image(output, picture, depth, len(shape))
    if not quiet:
        print_line(f"{output}: {size_in_words(shape)} pixels{_channels_first(channels, shape)}")
    return DONE


def _depth_of(image, output, given, channels, shape):
    """Bit depth of the picture to write: the one asked for, else that of the picture read."""
    if "depth" in given:
        check_path(output, given["depth"], channels, shape)
        return given["depth"]
    depth = 8 * image.dtype.itemsize
    try:
        check_path(output, depth, channels, shape)
    except ValueError:  # the format does not have that bit depth
        check_path(output, 8, channels, shape)
        return 8
    return depth


def _region(given, params):
    """The ``region`` of ``render`` that ``--crop`` stands for; None without ``--crop``."""
    if "crop" not in given:
        return None
    crop, D = given["crop"], params.num_dims
    if len(crop) != 2 * D:
        raise UsageError(f"--crop takes {2 * D} numbers for a model of {D} dimensions: where the "
                         f"part begins, then its size; got {len(crop)}")
    if params.image_shape is None:
        raise UsageError(f"{given['params']!r} does not hold the size of its picture, to which "
                         f"--crop refers")
    if not (all(abs(x) < MOST_SIZE for x in crop) and min(crop[D:]) > 0):
        raise UsageError(f"--crop must be finite, and of a size above 0, got {crop}")
    region = [(begin, begin + size) for begin, size in zip(crop[:D], crop[D:])]
    if any(end <= 0 or begin >= n for (begin, end), n in zip(region, params.image_shape)):
        say(f"smoe: warning: --crop lies outside the picture, which has "
            f"{size_in_words(params.image_shape)} pixels; there the model was not fitted")
    return region


def plot(given):
    """``smoe plot``."""
    path, output = given["path"], given.get("output")
    if os.path.isdir(path):
        if output is not None:
            raise UsageError("-o is for a MODEL; the figures of a results folder are drawn into "
                             "that folder")
        _plot_results(path, given)
        return DONE
    params = load_params(path)
    _refuse_vast(params, path)
    if output is None:
        raise UsageError("give -o SHEET.png, the file to draw the model into")
    if params.image_shape is None and "image_path" not in given:
        raise UsageError(f"{path!r} does not hold the size of its picture; give that with -i")
    refuse_to_replace(output, given)
    for source in (path, given.get("image_path")):
        if source is not None and os.path.realpath(source) == os.path.realpath(output):
            raise UsageError(f"{output!r} is a file to be drawn; give the sheet another name")
    picture = {}
    if "image_path" in given:
        picture["image"], picture["channel_axis"], _ = _picture_of(params, given)
    plots.image_figure(params, path=output, title=os.path.basename(path), **picture,
                       **those_of(given, ("backend",)))
    print_line(f"{output}: {counted(params.num_kernels, 'kernel')}")
    return DONE


def _refuse_vast(params, path):
    shape = params.image_shape
    if shape is not None and math.prod(shape) > MOST_UNASKED:
        raise UsageError(f"{path!r} says that its picture has {size_in_words(shape)} pixels, too "
                         f"many for a sheet")


def _plot_results(folder, given):
    found = read_results(folder, given.get("image_path"), **those_of(given, ("channel_axis",)))
    _refuse_vast(found.params, folder)
    shared = {"channel_axis": found.channel_axis, "backend": given.get("backend", "auto")}
    name = os.path.basename(given.get("image_path") or str(found.settings.get("image", folder)))
    paths = {kind: os.path.join(folder, kind) for kind in ("loss.png", "sheet.png", "report.html")}
    gone = f"the picture of {folder!r} was not found or has changed; give it with -i"
    if found.image is None and os.path.exists(paths["report.html"]) and not given.get("overwrite"):
        raise UsageError(f"{gone}, or --overwrite to replace report.html, which may show it")
    for path in paths.values():
        if os.path.islink(path):  # its target may be any file
            os.unlink(path)
    if found.history:
        plots.loss_figure(found.history, paths["loss.png"], title=name)
    total = found.history[0].kernels if found.history else None
    if total is not None and total < found.params.num_kernels:
        total = None  # a fit starts with few kernels
    plots.image_figure(found.params, found.image, paths["sheet.png"], total=total, title=name,
                       **shared)
    write_report(paths["report.html"], found.params, found.image, found.history, found.settings,
                 folder, name, **shared)
    for kind, path in paths.items():
        if kind != "loss.png" or found.history:
            print_line(path)
    if found.image is None:
        warnings.warn(f"{gone} to show it beside the model", UserWarning, stacklevel=2)


def info(given):
    """``smoe info``."""
    params, of_file = load_params(given["params"]), ()
    if is_packed(given["params"]):
        of_file = os.path.getsize(given["params"]), load_packed(given["params"])[1]["bits"]
    facts = describe.describe(params, *of_file)
    if "image_path" in given:
        facts |= _quality(params, given)
    print_line(json.dumps(facts, indent=2) if given.get("json") else describe.as_text(facts))
    return DONE


def _picture_of(params, given):
    """The picture given with a model: as it was read, its channel axis, (*shape, C) floats."""
    image = read_image(given["image_path"])
    axis = axis_of_channels(image, params, given)
    target, _ = check_image(image, "float32", axis)
    check_kind(params, target.ndim - 1, target.shape[-1])
    warn_of_another_size(given["image_path"], target.shape[:-1], params)
    return image, axis, target


def _quality(params, given):
    """PSNR and SSIM of a model; the PSNR is None if it reproduces the picture exactly."""
    *_, target = _picture_of(params, given)
    params.image_shape = target.shape[:-1]
    drawn = np.reshape(render(params, **those_of(given, ("backend",))), target.shape)
    decibels = psnr(target, drawn)
    return {"psnr": decibels if math.isfinite(decibels) else None, "ssim": ssim(target, drawn, -1)}


def measure(given):
    """``smoe bench``."""
    cases = bench.cases(**those_of(given, ("size", "image_path", "kernels_per_dim", "iterations",
                                           "large")))
    report = bench.run(cases, given.get("backend", "auto"), say)
    print_line(json.dumps(report, indent=2) if given.get("json") else bench_report.as_text(report))
    return DONE
