"""The options of the command line."""

import argparse
import inspect
import re

from . import __version__
from .engine import ENGINES
from .fit import EXPERTS, TARGETS, fit_settings
from .smoe import Smoe

# What the checkpoint of a run fixes, and the options that would say otherwise.
FIXED_BY_CHECKPOINT = {
    "kernels_per_dim": "-k", "params_file": "-p", "radial": "-ra", "train_pis": "-dp",
    "train_gammas": "-dg", "batches": "-b", "dtype": "--dtype",
}
FIXED_BY_CHECKPOINT_OF_FIT = {
    "kernels": "--kernels", "psnr": "--psnr", "scalars": "--scalars", "bytes": "--bytes",
    "iterations": "-n", "seconds": "--seconds", "experts": "--experts", "seed": "--seed",
    "val_iter": "-v", "batches": "--batches", "dtype": "--dtype",
}
MODEL = ("kernels_per_dim", "train_pis", "train_gammas", "radial", "batches", "dtype")
FITTING = (*TARGETS, "iterations", "seconds", "experts", "seed", "val_iter")
TRAINING = {
    "iterations": "-n", "val_iter": "-v", "base_lr": "-lr", "lr_div": "-d", "lr_mult": "-m",
    "l1reg": "-reg", "bandwidth_reg": "--bandwidth-reg", "grad_clip": "--grad-clip",
    "adam_eps": "--adam-eps",
}

_YES, _NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


class UsageError(Exception):
    """What is wrong with the command line, in one line."""


def parse(arguments):
    """The command and its options: those that were given, by name.

    Returns
    -------
    command : str
    given : dict
        No defaults are filled in, so that it can be told what was asked for.

    Raises
    ------
    UsageError
    SystemExit
        After ``--help`` and ``--version``.
    """
    parser = _Parser("smoe", "Fits Steered Mixture-of-Experts models to images.")
    parser.add_argument("--version", action="version", version=f"smoe_np {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    for add in (_fit, _train, _render, _info, _bench):
        add(commands)
    parser.epilog = "smoe COMMAND --help tells the options of a command."
    if arguments and arguments[0] in commands.choices:
        chosen = commands.choices[arguments[0]]
        arguments = [arguments[0], *chosen.plain(arguments[1:])]
    else:
        chosen = parser
    given, rest = parser.parse_known_args(arguments)
    if rest:
        chosen.error(f"unrecognized arguments: {' '.join(rest)}")
    if given.command is None:
        chosen.error(f"no command given; the commands are {', '.join(commands.choices)}")
    given = vars(given)
    return given.pop("command"), given


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are exceptions, and whose flags take ``=0`` and ``=1``."""

    def __init__(self, prog, description=None, **kwargs):
        super().__init__(prog=prog, description=description, allow_abbrev=False,
                         argument_default=argparse.SUPPRESS, formatter_class=_HelpFormatter,
                         **kwargs)
        self.flags = {}  # every spelling, to the canonical one

    def error(self, message):
        raise UsageError(f"{message}; see {self.prog} --help")

    def flag(self, group, *names, **kwargs):
        """Add a flag to a group."""
        group.add_argument(*names, action="store_const", **kwargs)
        self.flags.update(dict.fromkeys(names, names[-1]))

    def plain(self, arguments):
        """The arguments as argparse knows them: long names with ``-``, flags without a value."""
        plain = []
        for place, argument in enumerate(arguments):
            if argument == "--":
                return plain + arguments[place:]
            name, equals, value = argument.partition("=")
            if name.startswith("--"):
                name = name.replace("_", "-")
            elif re.match("-[A-Za-z]{2}", name) and name not in self._option_string_actions:
                self.error(f"unrecognized arguments: {name}")  # and not -r with the value adial
            if name not in self.flags:
                plain.append(name + equals + value)
                continue
            if equals and value.lower() not in _YES + _NO:
                self.error(f"argument {name}: takes =1 or =0, got {value!r}")
            if equals and value.lower() in _NO:
                plain = [other for other in plain if self.flags.get(other) != self.flags[name]]
            else:
                plain.append(name)
        return plain


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Names in a wide column, the metavar once."""

    def __init__(self, prog, **kwargs):
        super().__init__(prog, **{**kwargs, "max_help_position": 36})

    def _format_action_invocation(self, action):
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        value = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings)} {value}"


# ---- the commands


def _fit(commands):
    parser = commands.add_parser(
        "fit", help="fit a model to a picture: of so many kernels the best, or to a PSNR the "
                    "smallest",
        description=_FIT_DESCRIPTION, epilog=_FIT_EPILOG,
        usage="smoe fit IMAGE -o MODEL (--kernels K | --psnr DB | --scalars N | --bytes N) "
              "[options]\n       smoe fit IMAGE -o MODEL -c CHECKPOINT")
    option = _with_defaults(Smoe.__init__, Smoe.fit)

    group = parser.add_argument_group("files")
    group.add_argument("image_path", metavar="IMAGE",
                       help="the picture, or a TIFF stack as a volume")
    group.add_argument("-o", "--output", metavar="MODEL", required=True,
                       help="the model to write, a .npz; one that exists is refused")
    group.add_argument("-r", "--results-path", metavar="RESULTS",
                       help="folder for results on the way, those of smoe train; one that is not "
                            "empty is refused")
    parser.flag(group, "--overwrite", dest="overwrite", const=True,
                help="replace MODEL, its checkpoint, and the results of an earlier run in "
                     "RESULTS; files of any other name stay")
    group.add_argument("-c", "--checkpoint-path", metavar="CHECKPOINT",
                       help="go on with a fit that was interrupted, with its own target and "
                            "settings")

    group = parser.add_argument_group("target, one of")
    target = group.add_mutually_exclusive_group()
    target.add_argument("--kernels", type=int, metavar="K", help="as good as K kernels can be")
    target.add_argument("--psnr", type=float, metavar="DB",
                        help="as few kernels as reach so many decibels, by some ten fits")
    target.add_argument("--scalars", type=int, metavar="N",
                        help="as many kernels as have N numbers")
    target.add_argument("--bytes", type=int, metavar="N",
                        help="as many kernels as take N bytes as raw float16")

    group = parser.add_argument_group("fit")
    budget = group.add_mutually_exclusive_group()
    option(budget, "-n", "--iterations", int, "steps to take; more make a better model",
           default=fit_settings(kernels=1)["iterations"])
    budget.add_argument("--seconds", type=float, metavar="S",
                        help="time to take instead; the model then depends on the machine")
    option(group, None, "--experts", str, "of a kernel: constant ones have no slopes, and fewer "
           "numbers", choices=EXPERTS)
    option(group, None, "--seed", int, "of all that is random; the same one makes the same model")
    option(group, "-v", "--validation-iterations", int, "steps between validations, each of which "
           "leaves a checkpoint", dest="val_iter")

    group = parser.add_argument_group("computation")
    _channels(group)
    option(group, None, "--dtype", str, "precision", choices=("float32", "float64"))
    _backend(group)
    option(group, None, "--batches", int, "parts of an iteration; results do not depend on it",
           default="chosen automatically")
    parser.flag(group, "-q", "--quiet", dest="quiet", const=True,
                help="print errors and warnings only")


_FIT_DESCRIPTION = """\
Fit a model to a picture: as good as a number of kernels allows, or as small as a PSNR allows.

Kernels are added where the error is large and taken away where they are of little use, so that the
same number of them does better than with smoe train."""

_FIT_EPILOG = """\
MODEL is written at the end: the picture is rough until then. Meanwhile there is a checkpoint beside
it, camera.checkpoint.npz for camera.npz, or with -r in RESULTS/checkpoints/last.npz. Ctrl-C and
SIGTERM end a fit after the step at hand; the line that is printed then tells the command that goes
on, bit for bit.

To a PSNR there are several fits. RESULTS keeps what the last one left on the way; params_best.npz
and history.csv in it are, like MODEL, of the best one.

exit status:
  0 done   1 the PSNR is out of reach, or the fit diverged; the best model is kept   2 an error
  130 Ctrl-C   143 SIGTERM

examples:
  smoe fit camera.png -o camera.npz --kernels 900
  smoe fit camera.png -o camera.npz --psnr 32 --experts constant
  smoe render camera.npz -o camera_fitted.png"""


def _train(commands):
    parser = commands.add_parser(
        "train", help="train a model as tf-smoe does, by the gradient alone",
        description=_TRAIN_DESCRIPTION, epilog=_TRAIN_EPILOG,
        usage="smoe train -i IMAGE -r RESULTS [options]")
    option = _with_defaults(Smoe.__init__, Smoe.train)

    group = parser.add_argument_group("files")
    group.add_argument("-i", "--image-path", metavar="IMAGE", required=True,
                       help="the picture, or a TIFF stack as a volume")
    group.add_argument("-r", "--results-path", metavar="RESULTS", required=True,
                       help="folder for the results; one that is not empty is refused")
    parser.flag(group, "--overwrite", dest="overwrite", const=True,
                help="replace the results of an earlier run in RESULTS; files of any other name "
                     "stay")
    group.add_argument("-p", "--params-file", metavar="PARAMS",
                       help="start from this model: .npz, or .pkl of tf-smoe")
    group.add_argument("-c", "--checkpoint-path", metavar="CHECKPOINT",
                       help="go on from RESULTS/checkpoints/last.npz of a run: without -n finish "
                            "it with its own settings, with -n train so many iterations more")

    group = parser.add_argument_group("model")
    option(group, "-k", "--kernels-per-dim", int, "kernels along the longest axis at the start")
    parser.flag(group, "-ra", "--radial-as", dest="radial", const=True,
                help="keep every kernel round")
    parser.flag(group, "-dp", "--disable-train-pis", dest="train_pis", const=False,
                help="do not train the mixing weights")
    parser.flag(group, "-dg", "--disable-train-gammas", dest="train_gammas", const=False,
                help="do not train the slopes of the experts")
    _channels(group)

    group = parser.add_argument_group("training")
    option(group, "-n", "--iterations", int, "steps to take")
    option(group, "-v", "--validation-iterations", int, "steps between validations, each of which "
           "leaves results and a checkpoint", dest="val_iter")
    option(group, "-lr", "--base-lr", float, "learning rate of centres and experts")
    option(group, "-d", "--lr-div", float, "mixing weights learn at base-lr / lr-div")
    option(group, "-m", "--lr-mult", float, "steering matrices learn at base-lr * lr-mult")
    option(group, "-reg", "--l1reg", float, "weight of sparsity: kernels drop out")
    option(group, None, "--bandwidth-reg", float, "weight of the bandwidth: smoother pictures, "
           "against noise")
    option(group, None, "--grad-clip", float, "largest magnitude of an element of a gradient")
    option(group, None, "--adam-eps", float, "epsilon of Adam; 1e-8 trains as tf-smoe does")

    group = parser.add_argument_group("computation")
    option(group, None, "--dtype", str, "precision", choices=("float32", "float64"))
    _backend(group)
    option(group, "-b", "--batches", int, "parts of an iteration; results do not depend on it",
           default="chosen automatically")
    parser.flag(group, "-q", "--quiet", dest="quiet", const=True,
                help="print errors and warnings only")


_TRAIN_DESCRIPTION = """\
Train a model as tf-smoe does: a grid of kernels that follows the gradient. A model of as many
kernels is better by smoe fit."""

_TRAIN_EPILOG = """\
Long names may be written with _ for -, and flags as =1 or =0: --quiet=0.

RESULTS receives params/params_000100.npz and reconstructions/reconstruction_000100.png at every
validation, and checkpoints/last.npz: one file, replaced each time. At the end it has
params_best.npz, params_last.npz, reconstruction_best.png, history.csv and settings.json. Pictures
are .tif where Pillow is not installed, and where they are volumes.

Ctrl-C and SIGTERM end training after the step at hand, with a checkpoint.

exit status:
  0 done   1 training diverged, the best model is kept   2 an error   130 Ctrl-C   143 SIGTERM

examples:
  smoe train -i camera.png -r results -k 32 -n 1000
  smoe train -i camera.png -r results -c results/checkpoints/last.npz -n 500"""


def _render(commands):
    parser = commands.add_parser(
        "render", help="draw a model at any resolution",
        description="Draw a model at any resolution.",
        epilog="example:\n  smoe render results/params_best.npz -o twice.png --scale 2",
        usage="smoe render PARAMS -o IMAGE [--shape H W | --scale S] [--overwrite]")
    parser.add_argument("params", metavar="PARAMS", help="the model: .npz, or .pkl of tf-smoe")
    parser.add_argument("-o", "--output", metavar="IMAGE", required=True,
                        help="the picture to write: .png .jpg .bmp .tif, a volume as .tif; one "
                             "that exists is refused")
    parser.flag(parser, "--overwrite", dest="overwrite", const=True, help="replace IMAGE")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--shape", type=int, nargs="+", metavar="N",
                      help="pixels along each axis: rows and columns; needed for files of tf-smoe, "
                           "which do not hold the size of their picture")
    size.add_argument("--scale", type=float, metavar="S",
                      help="times the size of the picture that was fitted (default: 1)")
    _backend(parser)


def _info(commands):
    parser = commands.add_parser(
        "info", help="tell what a model is made of",
        description="Tell what a model is made of: counts, ranges, sizes of its kernels.",
        epilog="example:\n  smoe info results/params_best.npz")
    parser.add_argument("params", metavar="PARAMS", help="the model: .npz, or .pkl of tf-smoe")
    parser.flag(parser, "--json", dest="json", const=True, help="as JSON")


def _bench(commands):
    parser = commands.add_parser(
        "bench", help="measure the speed of training on this machine",
        description=_BENCH_DESCRIPTION, epilog="example:\n  smoe bench -i photo.png -k 100",
        usage="smoe bench [--size N] [-i IMAGE -k K] [options]")
    parser.add_argument("-i", "--image-path", metavar="IMAGE", help="measure this picture as well")
    parser.add_argument("-k", "--kernels-per-dim", type=int, metavar="K",
                        help="its kernels along the longest axis (default: 32)")
    parser.add_argument("-n", "--iterations", type=int, metavar="N",
                        help="iterations of each training run (default: 200, 100, 40 and 20 for "
                             "the standard cases, 40 for a picture, 10 with --size, 3 for the "
                             "large one)")
    parser.add_argument("--size", type=int, metavar="N",
                        help="instead of the standard cases a small one: N×N, 6×6 kernels")
    parser.flag(parser, "--large", dest="large", const=True,
                help="also 24 megapixels in colour with a million kernels: some minutes, 3 GB")
    parser.add_argument("--backend", choices=("auto", "all", *ENGINES),
                        help="engine, or all that work here (default: auto, the fastest)")
    parser.flag(parser, "--json", dest="json", const=True, help="as JSON")


_BENCH_DESCRIPTION = """\
Measure training runs from the start, with default settings and all that belongs to them: 128×128
with 12×12 kernels, 512×512 with 32×32 and with 128×128 kernels, 512×768 in colour with 25,807; and
the drawing of 2160×3840 pixels from 9,975 kernels. First each engine is compared with the
definition of the model; if one is wrong, nothing is measured (exit status 1).

  ms/step         time of an iteration, the building of pair lists included
  pairs/px        kernels that are looked at for a pixel
  ns/pair         time of an iteration by pixels and pairs
  builds          how often the lists were built
  ms/build        time of building them once
  build ms/step   its share of an iteration
  memory          peak of the whole process
  × exp           time of an iteration by that of np.exp alone, on one thread, of as many
                  float32 values as there are pixels times kernels
  dense ms        time of an iteration in plain array code, in which every kernel meets every
                  pixel; if that is long, from the time of a part of the pixels
  dense ×         that by the time of an iteration

Of compiled kernels a second table tells of steps alone, without the validations between them:

  steps ms        time of a step, the building of pair lists included
  kernels, gaps   the share of it within kernels, and the rest
  speed-up        on all threads over that on one; and what multiplications and additions alone
                  reach, which is less than the threads where a machine has other things to do
  1: ns/pair      time of a step on one thread by pixels and pairs
  1: in step      that of the kernel "step" alone, which does what there is to do for pixels
  GFLOP/s         10⁹ operations a second of that kernel on all threads, the fewest that do, and
                  their share of what multiplications and additions alone reach here
  GB/s            10⁹ bytes a second of all kernels but those of lists, the fewest that do, and
                  their share of what reading two arrays and writing one reach here"""


# ---- what they share


def _with_defaults(*functions):
    """A function that adds options whose defaults are those of arguments of the library."""
    defaults = {name: parameter.default for function in functions
                for name, parameter in inspect.signature(function).parameters.items()}

    def option(group, short, long, kind, text, dest=None, default=None, **kwargs):
        dest = dest or long[2:].replace("-", "_")
        default = defaults[dest] if default is None else default
        if not kwargs:
            kwargs = {"type": kind, "metavar": {int: "N", float: "X"}[kind]}
        group.add_argument(*filter(None, (short, long)), dest=dest, **kwargs,
                           help=f"{text} (default: {'none' if default is None else default})")

    return option


def _backend(group):
    group.add_argument("--backend", choices=("auto", *ENGINES),
                       help="engine (default: auto, the fastest that works here)")


def _channels(group):
    group.add_argument("--channel-axis", type=_channel_axis, metavar="AXIS",
                       help="the axis of the channels: a number, none if every axis is space, or "
                            "auto: the last one if it has 1 to 4 entries (default: auto)")


def _channel_axis(text):
    if text.lower() in ("auto", "none"):
        return None if text.lower() == "none" else "auto"
    return int(text)


_channel_axis.__name__ = "axis"  # what argparse calls a value that is none
