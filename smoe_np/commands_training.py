"""The commands that make a model: ``smoe fit``, ``train`` and ``sparsify``."""

import contextlib
import functools
import inspect
import math
import os
import time

from . import describe
from .arguments import check_image
from .cli_parser import UsageError
from .cli_training_options import (
    FITTING,
    FIXED_BY_CHECKPOINT,
    FIXED_BY_CHECKPOINT_OF_FIT,
    FIXED_BY_CHECKPOINT_OF_SPARSIFICATION,
    MODEL,
    SPARSIFYING,
    TRAINING,
)
from .files import shell_line
from .fit import TARGETS, fit_settings, kernels_for
from .gallery import Gallery
from .images import read_image
from .numerals import counted, size_in_words
from .params import load_params
from .progress import Progress, say
from .results import ModelFile, ResultsFolder
from .smoe import Smoe
from .sparsify import dense_start, sparsify_settings
from .terminal import (
    BROKEN_PIPE,
    DONE,
    FAILED,
    INTERRUPTED,
    TERMINATED,
    WRONG_USE,
    Ended,
    Terminated,
    in_words,
    print_line,
    those_of,
)
from .training import train_settings

PIXELS_EACH = 4  # pixels per kernel and axis at the start of a sparsification to a PSNR
NEAR_ENOUGH = 0.1  # dB that rounding may take from a model that reached the target PSNR
DROP_REPORTED = 0.5  # dB by which the PSNR must have been better before to be reported
# settings that may change whether a training diverges
AGAINST_DIVERGENCE = TRAINING.keys() - {"iterations", "val_iter"}


def fit(given):
    """``smoe fit``."""
    checkpoint = given.get("checkpoint_path")
    if checkpoint is not None:
        _refuse_what_is_fixed(given, FIXED_BY_CHECKPOINT_OF_FIT)
    elif not any(name in given for name in TARGETS):
        raise UsageError("fit needs a target: give --kernels, --psnr, --scalars or --bytes; see "
                         "smoe fit --help")
    else:
        fit_settings(**_fitting(given))
    files, results = _model_files(given)
    smoe = _smoe_of(given, files, "fit", ("batches", "dtype"))
    settings = smoe.settings or fit_settings(**_fitting(given), channels=smoe.channels)
    if settings["target"] == "bytes" and files.is_packed:
        files.most_bytes = settings["value"]
    aim = _aim(settings, smoe)  # fails, before any file is written, if the target is too low
    read = _make_model(smoe, functools.partial(smoe.fit, **_fitting(given)), files, results, aim,
                       given)
    missed = smoe.searches_psnr and _misses(settings["value"], smoe, files)
    return FAILED if missed or smoe.stopped == "diverged" else read


def _misses(wanted, smoe, files):
    """Whether the model has less than the wanted PSNR; says so if it is rounding that took it."""
    spared = NEAR_ENOUGH if files.is_packed else 0.0  # what rounding may take away
    missed = smoe.history[-1].psnr < wanted - spared
    if missed and max((one.psnr for one in smoe.tried), default=-math.inf) >= wanted:
        say(f"smoe: warning: rounding to {files.precision} took the model below {wanted:g} dB; "
            f"with more --bits it loses less")
    return missed


def sparsify(given):
    """``smoe sparsify``."""
    given = {**given, "command": "sparsify"}
    checkpoint = given.get("checkpoint_path")
    asked = {argument: given[name] for name, argument in SPARSIFYING.items() if name in given}
    if checkpoint is not None:
        _refuse_what_is_fixed(given, FIXED_BY_CHECKPOINT_OF_SPARSIFICATION)
    elif "kernels" not in given and "psnr" not in given:
        raise UsageError("sparsify needs a target: give --kernels or --psnr; see smoe sparsify "
                         "--help")
    else:
        sparsify_settings(**asked)
    _refuse_two_starts(given)
    files, results = _model_files(given)
    start = load_params(given["params_file"]) if "params_file" in given else None
    smoe = _smoe_of(given, files, "sparsify", ("kernels_per_dim", "batches", "dtype"),
                    grid=lambda shape: dense_start(shape, given["kernels"]) if "kernels" in given
                    else -(-max(shape) // PIXELS_EACH), params=start)
    settings = smoe.settings or sparsify_settings(**asked)
    wanted = settings["target_kernels"]
    aim = (f"{settings['target_psnr']:g} dB" if wanted is None else counted(wanted, "kernel"))
    aim = f"from {counted(smoe.params.num_kernels, 'kernel')} to {aim}"
    read = _make_model(smoe, functools.partial(smoe.sparsify, **asked), files, results, aim, given)
    missed = smoe.searches_psnr and _misses(settings["target_psnr"], smoe, files)
    return FAILED if missed or smoe.stopped == "diverged" else read


def _model_files(given):
    """The file of the model to make, and the results folder or None."""
    overwrite, checkpoint = given.get("overwrite", False), given.get("checkpoint_path")
    results = None
    if "results_path" in given:
        results = ResultsFolder(given["results_path"], overwrite, checkpoint)
    files = ModelFile(given["output"], overwrite, checkpoint, results, given.get("bits"))
    return files, results


def _make_model(smoe, making, files, results, aim, given):
    """Make a model, or continue making it, and print how it went; return whether that was read,
    DONE or BROKEN_PIPE.
    """
    files.create(**_about(given))
    started = time.perf_counter()
    gallery = None if results is None else _gallery(smoe, results, given)
    if not given.get("quiet"):
        _print_start(smoe, aim)
    _train(smoe, making if given.get("checkpoint_path") is None else smoe.resume, files, gallery,
           given)
    if given.get("quiet"):
        return DONE
    size = describe.size_of(smoe.params)
    in_bytes = os.path.getsize(files.path) if files.is_packed else None
    return _print_end(smoe, files, f", {describe.size_as_text(size, in_bytes)}",
                      time.perf_counter() - started)


def train(given):
    """``smoe train``."""
    checkpoint = given.get("checkpoint_path")
    finishes = checkpoint is not None and "iterations" not in given
    _refuse_contradictions(given, finishes)
    results = ResultsFolder(given["results_path"], given.get("overwrite", False), checkpoint)
    start = load_params(given["params_file"]) if "params_file" in given else None
    smoe = _smoe_of(given, results, "train", MODEL, params=start)
    settings = {**(smoe.settings or {}), **those_of(given, TRAINING)}
    usual = {name: inspect.signature(Smoe.train).parameters[name].default for name in TRAINING}
    train_settings(**{**usual, **settings})  # raises errors before any file is written
    results.create(**_about(given))
    if not given.get("quiet"):
        _print_start(smoe, counted(smoe.params.num_kernels, "kernel"),
                     f"; needs about {smoe.memory_needed() / 2**20:.0f} MiB")
    begin = smoe.iteration
    if smoe.stopped == "diverged" and not AGAINST_DIVERGENCE & given.keys():
        say(f"smoe: warning: the run of {checkpoint} diverged with the settings that are used "
            f"again now; give a lower -lr, -m or -reg")
    training = smoe.resume if finishes else functools.partial(smoe.train, **settings)
    _train(smoe, training, results, _gallery(smoe, results, given), given)
    read = DONE if given.get("quiet") else _print_end(smoe, results, since=begin)
    if smoe.stopped == "diverged":
        return FAILED
    if finishes and smoe.iteration == begin:
        say(f"smoe: warning: the run of {checkpoint} had ended already; give -n N to train N more "
            f"iterations")
    return read


def _fitting(given):
    """The options for ``Smoe.fit``."""
    return those_of(given, (*FITTING, "bits") if "bytes" in given else FITTING)


def _refuse_two_starts(given):
    if "params_file" in given and "kernels_per_dim" in given:
        raise UsageError("-k cannot be given with -p: the file says how many kernels there are")


def _refuse_contradictions(given, finishes):
    _refuse_two_starts(given)
    if "checkpoint_path" not in given:
        return
    _refuse_what_is_fixed(given, FIXED_BY_CHECKPOINT)
    settings = [option for name, option in TRAINING.items() if name in given]
    if finishes and settings:
        raise UsageError(f"{settings[0]} with -c needs -n: without -n, the run of the checkpoint "
                         f"is finished with its own settings")


def _refuse_what_is_fixed(given, options):
    for name, option in options.items():
        if name in given:
            raise UsageError(f"{option} cannot be given with -c: the checkpoint fixes it")


def _smoe_of(given, files, command, options, grid=None, **start):
    """The Smoe of the picture: from a checkpoint if one is given, else new.

    ``grid(shape)`` is the default of ``kernels_per_dim``.
    """
    path, checkpoint = given["image_path"], given.get("checkpoint_path")
    if files.owns(path):
        raise UsageError(f"{path!r} is among the results that would be replaced; use a copy of it "
                         f"in another folder")
    image = read_image(path)
    where = those_of(given, ("backend", "channel_axis"))
    if checkpoint is None:
        chosen = those_of(given, options)
        if grid is not None and "kernels_per_dim" not in given and start.get("params") is None:
            shape = check_image(image, "float32", given.get("channel_axis", "auto"))[0].shape[:-1]
            chosen["kernels_per_dim"] = grid(shape)
        return Smoe(image, **chosen, **where, **start)
    smoe = Smoe.from_checkpoint(checkpoint, image, **where)
    made_by = smoe.made_by or "train"
    if made_by != command:
        raise UsageError(f"{checkpoint!r} is a checkpoint of smoe {made_by}, not of smoe {command}"
                         f"; go on with smoe {made_by}")
    return smoe


def _about(given):
    """The input files and the channel axis, for ``settings.json``."""
    return {"image": given["image_path"], "image_from_here": _from_there(given),
            "channel_axis": given.get("channel_axis", "auto"),
            "params_file": given.get("params_file"), "checkpoint": given.get("checkpoint_path")}


def _from_there(given):
    """The picture's path relative to the results folder; None if there is no such folder."""
    if "results_path" not in given:
        return None
    try:
        return os.path.relpath(os.path.realpath(given["image_path"]),
                               os.path.realpath(given["results_path"]))
    except ValueError:  # on another drive
        return os.path.abspath(given["image_path"])


def _gallery(smoe, results, given):
    """The ``Gallery`` that draws into the results folder, or None if nothing is to be drawn."""
    if not given.get("plots", True):
        return None
    name = os.path.basename(given["image_path"])
    return Gallery(results, name, len(smoe.shape), given.get("quiet", False))


def _train(smoe, training, files, gallery, given):
    """Call a method that trains, and write its results; raises Ended if it does not finish."""
    try:
        files.complete(smoe)
        with Progress(smoe, given.get("quiet", False)) as progress:
            callbacks = [files.validation, progress.validation]
            if gallery is not None:
                callbacks.append(gallery.validation)
            training(callbacks=callbacks, checkpoint=files.checkpoint, progress=progress)
        if files.precision is not None and not given.get("quiet"):
            say(f"rounding to {files.precision}")
        files.finish(smoe)
        if gallery is not None:
            gallery.finish(smoe)
    except (KeyboardInterrupt, Terminated) as signalled:
        raise _interrupted(smoe, files, gallery, given, signalled) from None
    except OSError as error:
        raise Ended(WRONG_USE, in_words(error) + _how_to_go_on(files, given)) from None
    finally:
        files.release()


def _interrupted(smoe, files, gallery, given, signalled):
    """Write what there is so far, unless a second signal arrives; the exception to raise."""
    with contextlib.suppress(KeyboardInterrupt, Terminated):
        try:
            files.keep(smoe)
            if gallery is not None and smoe.history:
                gallery.finish(smoe)
        except OSError as error:
            say(f"smoe: {in_words(error)}")
    status, what = ((TERMINATED, "terminated") if isinstance(signalled, Terminated) else
                    (INTERRUPTED, "interrupted"))
    which = f" of try {len(smoe.tried) + 1}" if smoe.searches_psnr else ""
    return Ended(status, f"{what} at iteration {smoe.iteration}{which}"
                         f"{_how_to_go_on(files, given)}")


def _how_to_go_on(files, given):
    if not files.has_checkpoint:
        return ""
    image, fits = _no_option(given["image_path"]), "output" in given
    command = given.get("command", "fit")
    words = ["smoe", command, image] if fits else ["smoe", "train", "-i", image]
    for option, path in (("-o", given.get("output")), ("-r", given.get("results_path")),
                         ("-c", files.checkpoint)):
        if path is not None:
            words += [option, _no_option(path)]
    if fits and os.path.lexists(given["output"]):
        words.append("--overwrite")
    for option, name in (("--backend", "backend"), ("--channel-axis", "channel_axis"),
                         ("--bits", "bits")):
        if name in given:
            words += [option, str(given[name]).lower()]
    if not given.get("plots", True):
        words.append("--no-plots")
    if given.get("quiet"):
        words.append("-q")
    return f"; the checkpoint is {files.checkpoint}; go on with: {shell_line(words)}"


def _no_option(path):
    return os.path.join(".", path) if path.startswith("-") else path


def _aim(settings, smoe):
    """The target of a fit and its iterations or seconds, as text."""
    effort = (f"{settings['iterations']} iterations" if settings["seconds"] is None else
              f"{settings['seconds']:g} s")
    if settings["target"] == "psnr":
        return f"fits of {effort} to reach {settings['value']:g} dB"
    return f"{counted(kernels_for(settings, smoe.shape, smoe.channels), 'kernel')} in {effort}"


def _print_start(smoe, aim, more=""):
    channels = counted(smoe.channels, "channel")
    with contextlib.suppress(BrokenPipeError):  # nobody reads this; the model goes to a file
        print_line(f"{size_in_words(smoe.shape)} pixels, {channels}; {aim}; backend "
                   f"{smoe.engine.name}{more}")


def _print_end(smoe, files, size="", seconds=0.0, since=math.inf):
    """Print the quality of the model, and whether it was better since iteration ``since``; return
    DONE, or BROKEN_PIPE if nobody reads it.
    """
    diverged = smoe.stopped == "diverged"
    quality = ""
    if smoe.history:
        record = min(smoe.history, key=lambda r: r.loss) if diverged else smoe.history[-1]
        best = (f" (the best of {len(smoe.tried)} tries in {seconds:.1f} s)"
                if smoe.searches_psnr and not diverged else "")
        top = max((r for r in smoe.history if r.iteration >= since), default=record,
                  key=lambda r: r.psnr)
        if top.psnr > record.psnr + DROP_REPORTED and not diverged:
            best = f"; it was {top.psnr:.2f} dB at iteration {top.iteration}"
        quality = (f"PSNR {record.psnr:.2f} dB, {counted(record.kernels, 'kernel')}{size}, "
                   f"{record.seconds:.1f} s{best}; ")
    try:
        print_line(f"{quality}{files.where}")
    except BrokenPipeError:
        return BROKEN_PIPE
    return DONE
