"""The commands and options of ``smoe``."""

from . import __version__
from .cli_parser import Parser, add_backend, add_channels, with_defaults
from .cli_training_options import add_fit, add_sparsify, add_train
from .denoising import denoise
from .engine import ENGINES
from .fit import BITS
from .packed import FEWEST_BITS, MOST_BITS, USUAL_BITS


def parse(arguments):
    """Parse the command line.

    Returns
    -------
    command : str
    given : dict
        The options that were given, by name; no defaults are filled in, so that the commands know
        what was asked for.
    spelled : dict
        How options are spelled on the command line, by the names of the library's arguments, which
        error messages may contain.

    Raises
    ------
    UsageError
    SystemExit
        After ``--help`` and ``--version``.
    """
    parser = Parser("smoe", "Fits Steered Mixture-of-Experts models to images.")
    parser.add_argument("--version", action="version", version=f"smoe_np {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    for add in (add_fit, add_train, add_sparsify, _quantize, _denoise, _render, _plot, _info,
                _bench):
        add(commands)
    parser.epilog = "smoe COMMAND --help lists the options of a command."
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
    return given.pop("command"), given, chosen.spelled()


def _quantize(commands):
    parser = commands.add_parser(
        "quantize", help="quantize a model and write it to a small file",
        description="Quantize a model and write it to a small file: its numbers are rounded, with "
                    "more bits where\nthey matter more, and entropy coded. With -i the model is "
                    "also trained to make up for the\nrounding, which is worth several bits per "
                    "number, and kernels that do harm are removed.",
        epilog="examples:\n  smoe quantize camera.npz -o camera.smoe -i camera.png --bytes 6000\n"
               "  smoe quantize camera.npz -o camera.smoe --bits 12",
        usage="smoe quantize MODEL -o FILE [-i IMAGE] [--bytes N | --bits B] [options]")
    parser.add_argument("params", metavar="MODEL",
                        help="the model: .npz, .smoe, .pkl of tf-smoe, or a checkpoint")
    parser.add_argument("-o", "--output", metavar="FILE", required=True,
                        help="the .smoe file to write; refused if it exists")
    parser.flag(parser, "--overwrite", dest="overwrite", const=True, help="replace FILE")
    parser.add_argument("-i", "--image-path", metavar="IMAGE",
                        help="the picture that was fitted")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--bytes", type=int, metavar="N",
                      help="largest size of FILE in bytes; as many bits as fit are used")
    size.add_argument("--bits", type=float, metavar="B",
                      help=f"mean bits per number before entropy coding: {FEWEST_BITS} to "
                           f"{MOST_BITS} (default: {BITS} with -i, else {USUAL_BITS})")
    add_channels(parser, "the one by which the picture fits the model")
    add_backend(parser)


def _denoise(commands):
    parser = commands.add_parser(
        "denoise", help="remove noise from a picture",
        description="Remove additive white Gaussian noise from a picture: several models are "
                    "fitted to it, kept\nsmooth by a penalty on their bandwidth, and averaged.",
        epilog="examples:\n  smoe denoise noisy.png -o clean.png\n"
               "  smoe denoise noisy.png -o clean.png --sigma 10\n\nCLEAN has the pixels of "
               "NOISY at its depth; what else a file says, such as its\ncalibration, is not kept.",
        usage="smoe denoise NOISY -o CLEAN [--sigma S] [options]")
    option = with_defaults(denoise)
    parser.add_argument("image_path", metavar="NOISY",
                        help="the noisy picture; a TIFF stack is a volume")
    parser.add_argument("-o", "--output", metavar="CLEAN", required=True,
                        help="the picture to write: .png .jpg .bmp .tif, volumes as .tif; refused "
                             "if it exists")
    parser.flag(parser, "--overwrite", dest="overwrite", const=True, help="replace CLEAN")
    parser.add_argument("--sigma", type=float, metavar="S",
                        help="standard deviation of the noise, on the scale of 0 to 255 (default: "
                             "estimated, which needs scikit-image)")
    _add_depth(parser, "that of NOISY if the format of CLEAN has it, else 8")
    option(parser, None, "--fits", int, "number of models to average; more are better and slower")
    option(parser, None, "--seed", int, "random seed of the models; on the CPU the same "
           "seed, machine and --backend give the same picture")
    add_channels(parser)
    add_backend(parser)
    parser.flag(parser, "-q", "--quiet", dest="quiet", const=True,
                help="print errors and warnings only")


def _render(commands):
    parser = commands.add_parser(
        "render", help="draw a model, or a part of it, at any resolution",
        description="Draw a model, or a part of it, at any resolution.",
        epilog="examples:\n"
               "  smoe render results/params_best.npz -o twice.png --scale 2\n"
               "  smoe render camera.npz -o face.png --crop 90 190 64 64 --scale 8",
        usage="smoe render MODEL -o IMAGE [--shape H W | --scale S] [--crop TOP LEFT H W] "
              "[options]")
    parser.add_argument("params", metavar="MODEL",
                        help="the model: .npz, .smoe, .pkl of tf-smoe, or a checkpoint")
    parser.add_argument("-o", "--output", metavar="IMAGE", required=True,
                        help="the picture to write: .png .jpg .bmp .tif, volumes as .tif; refused "
                             "if it exists")
    parser.flag(parser, "--overwrite", dest="overwrite", const=True, help="replace IMAGE")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--shape", type=int, nargs="+", metavar="N",
                      help="size to draw, in pixels along each axis: rows, columns (of a volume "
                           "slices first); the picture is stretched if the proportions differ; "
                           "required for files of tf-smoe, which do not hold the size of their "
                           "picture")
    size.add_argument("--scale", type=float, metavar="S",
                      help="size to draw, relative to that of the fitted picture, or of the part "
                           "chosen by --crop (default: 1)")
    parser.add_argument("--crop", type=float, nargs="+", metavar="N",
                        help="draw only this part: top, left, height, width, in pixels of the "
                             "fitted picture (of a volume: three positions, then three sizes); it "
                             "may extend beyond the picture")
    parser.add_argument("--samples", type=_samples, metavar="N",
                        help="samples per pixel and axis, averaged; 1 is the model at the pixel's "
                             "centre (default: auto, enough to avoid aliasing when shrinking)")
    _add_depth(parser, "8")
    add_backend(parser)


def _add_depth(parser, usual):
    parser.add_argument("--depth", type=int, choices=(8, 16, 32),
                        help=f"bit depth of the written picture: 16 for .tif and grey .png, 32 "
                             f"(float) for .tif (default: {usual})")


def _samples(text):
    return "auto" if text.lower() == "auto" else int(text)


_samples.__name__ = "samples"  # the name in argparse's message about an invalid value


def _plot(commands):
    parser = commands.add_parser(
        "plot", help="draw the figures and the report of a run again, or a sheet of a model",
        description="Draw loss.png, sheet.png and report.html of a results folder again, or a "
                    "sheet of a model:\none figure with its picture, kernels, gates and weights.",
        epilog="examples:\n  smoe plot results\n"
               "  smoe plot camera.npz -i camera.png -o sheet.png",
        usage="smoe plot RESULTS [-i IMAGE]\n"
              "       smoe plot MODEL -o SHEET [-i IMAGE] [--overwrite]")
    parser.add_argument("path", metavar="RESULTS",
                        help="a results folder of smoe train, fit -r or sparsify -r; or a MODEL: "
                             ".npz, .smoe, .pkl of tf-smoe, or a checkpoint")
    parser.add_argument("-o", "--output", metavar="SHEET",
                        help="for a MODEL: the .png file to write; refused if it exists")
    parser.flag(parser, "--overwrite", dest="overwrite", const=True,
                help="replace SHEET; for RESULTS, replace report.html even if the fitted picture "
                     "is not found, so that the new report does not show it")
    parser.add_argument("-i", "--image-path", metavar="IMAGE",
                        help="the picture that was fitted (default for RESULTS: the one named in "
                             "settings.json, if it is still there and unchanged)")
    add_channels(parser, "that of the run, or the one by which the picture fits the model")
    add_backend(parser)


def _info(commands):
    parser = commands.add_parser(
        "info", help="print what a model consists of and how good it is",
        description="Print what a model consists of: counts, ranges of its numbers, sizes of its "
                    "kernels. With -i\nalso print its PSNR and SSIM.",
        epilog="examples:\n  smoe info results/params_best.npz\n"
               "  smoe info camera.smoe -i camera.png")
    parser.add_argument("params", metavar="MODEL",
                        help="the model: .npz, .smoe, .pkl of tf-smoe, or a checkpoint")
    parser.add_argument("-i", "--image-path", metavar="IMAGE",
                        help="the picture that was fitted")
    parser.flag(parser, "--json", dest="json", const=True, help="print JSON")
    add_channels(parser, "the one by which the picture fits the model")
    add_backend(parser)


def _bench(commands):
    parser = commands.add_parser(
        "bench", help="measure the speed of training on this machine",
        description=_BENCH_DESCRIPTION, epilog="example:\n  smoe bench -i photo.png -k 100",
        usage="smoe bench [--size N] [-i IMAGE -k K] [options]")
    parser.add_argument("-i", "--image-path", metavar="IMAGE", help="also measure this picture")
    parser.add_argument("-k", "--kernels-per-dim", type=int, metavar="K",
                        help="kernels along the longest axis of IMAGE (default: 32)")
    parser.add_argument("-n", "--iterations", type=int, metavar="N",
                        help="iterations of each training run (default: 200, 100, 40 and 20 for "
                             "the standard cases, 40 for IMAGE, 10 with --size, 3 with --large)")
    parser.add_argument("--size", type=int, metavar="N",
                        help="measure one small case, N×N pixels with 6×6 kernels, instead of the "
                             "standard cases")
    parser.flag(parser, "--large", dest="large", const=True,
                help="also measure 24 megapixels in colour with a million kernels: takes some "
                     "minutes and needs 4 GiB of free memory")
    parser.add_argument("--backend", choices=("auto", "all", *ENGINES),
                        help="compute engine, or all that work on this machine (default: auto, the "
                             "fastest of them)")
    parser.flag(parser, "--json", dest="json", const=True, help="print JSON")


_BENCH_DESCRIPTION = """\
Time training runs from scratch, with default settings and with all that belongs to a run (pair
lists, validations): 128×128 pixels with 12×12 kernels, 512×512 with 32×32 and with 128×128 kernels,
512×768 in colour with 25,807 kernels. Also time drawing 2160×3840 pixels from 9,975 kernels. Before
that, each engine is compared with the definition of the model; if one is wrong, nothing is measured
(exit status 1). In the case of a drawing, "iteration" and "step" below stand for one drawing.

  ms/step         time of an iteration, including the building of pair lists
  pairs/px        mean number of kernels in the list of a pixel's tile
  ns/pair         time of an iteration, divided by pixels and by pairs/px
  builds          how often the pair lists were built
  ms/build        time of one build
  build ms/step   time spent on builds, per iteration
  memory          peak memory of the process
  × exp           time of an iteration, relative to that of np.exp alone, on one thread, over as
                  many float32 values as there are pixels times kernels
  dense ms        time of an iteration in plain array code that evaluates every kernel at every
                  pixel; if that takes long, extrapolated from part of the pixels
  dense ×         dense ms divided by ms/step

For compiled kernels (code), a second table covers the steps alone, without validations:

  steps ms        time of a step, including the building of pair lists
  kernels, gaps   shares of that time inside and outside compiled kernels
  speed-up        speed of all threads relative to one thread; and, as "of most", the speed-up of
                  multiply-adds alone, which is below the number of threads on a busy machine
  1: ns/pair      time of a step on one thread, divided by pixels and by pairs/px
  1: in step      the same for the kernel "step" alone, which does all the work on pixels
  GFLOP/s         10⁹ operations per second of that kernel on all threads, counting only those that
                  the formulas need; and their share of what multiply-adds alone reach here
  GB/s            10⁹ bytes per second of all kernels except those that build lists, counting only
                  bytes that must be moved; and their share of what reading two arrays and writing
                  one reaches here"""
