"""The commands and options of ``smoe``."""

from . import __version__
from .cli_parser import Parser, add_backend, add_channels, with_defaults
from .cli_training_options import add_fit, add_sparsify, add_train
from .denoising import denoise
from .engine import ENGINES
from .fit import BITS
from .packed import FEWEST_BITS, MOST_BITS, USUAL_BITS


def parse(arguments):
    """The command and its options: those that were given, by name.

    Returns
    -------
    command : str
    given : dict
        No defaults are filled in, so that it can be told what was asked for.
    spelled : dict
        The options by the names of arguments that errors may call them by.

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
    return given.pop("command"), given, chosen.spelled()


def _quantize(commands):
    parser = commands.add_parser(
        "quantize", help="put a model into a file of few bytes",
        description="Put a model into a file of few bytes: its numbers are rounded, with more bits "
                    "where that\nmatters more. Given the picture, the model is trained to make up "
                    "for it, which is worth\nseveral bits a number; kernels that do harm leave.",
        epilog="examples:\n  smoe quantize camera.npz -o camera.smoe -i camera.png --bytes 6000\n"
               "  smoe quantize camera.npz -o camera.smoe --bits 12",
        usage="smoe quantize MODEL -o FILE [-i IMAGE] [--bytes N | --bits B] [options]")
    parser.add_argument("params", metavar="MODEL",
                        help="the model: .npz, .smoe, .pkl of tf-smoe, or a checkpoint")
    parser.add_argument("-o", "--output", metavar="FILE", required=True,
                        help="the .smoe to write; one that exists is refused")
    parser.flag(parser, "--overwrite", dest="overwrite", const=True, help="replace FILE")
    parser.add_argument("-i", "--image-path", metavar="IMAGE", help="the picture of the model")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--bytes", type=int, metavar="N",
                      help="as many bits as have room in so many bytes")
    size.add_argument("--bits", type=float, metavar="B",
                      help=f"bits for a number, in the mean, before it is coded: {FEWEST_BITS} to "
                           f"{MOST_BITS} (default: {BITS} with the picture, else {USUAL_BITS})")
    add_channels(parser)
    add_backend(parser)


def _denoise(commands):
    parser = commands.add_parser(
        "denoise", help="take noise off a picture",
        description="Take additive white Gaussian noise off a picture: the mean of several models "
                    "that are kept\nsmooth by the weight of their bandwidth.",
        epilog="examples:\n  smoe denoise noisy.png -o clean.png\n"
               "  smoe denoise noisy.png -o clean.png --sigma 10",
        usage="smoe denoise NOISY -o CLEAN [--sigma S] [options]")
    option = with_defaults(denoise)
    parser.add_argument("image_path", metavar="NOISY",
                        help="the picture, or a TIFF stack as a volume")
    parser.add_argument("-o", "--output", metavar="CLEAN", required=True,
                        help="the picture to write: .png .jpg .bmp .tif; one that exists is "
                             "refused")
    parser.flag(parser, "--overwrite", dest="overwrite", const=True, help="replace CLEAN")
    parser.add_argument("--sigma", type=float, metavar="S",
                        help="standard deviation of the noise, on the scale of 0 to 255 (default: "
                             "estimated, which needs scikit-image)")
    _add_depth(parser, "as NOISY has, where such a file holds them")
    option(parser, None, "--fits", int, "models whose mean it is; more are better, and slower")
    option(parser, None, "--seed", int, "of their starts; the same one makes the same picture")
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
        usage="smoe render PARAMS -o IMAGE [--shape H W | --scale S] [--crop TOP LEFT H W] "
              "[options]")
    parser.add_argument("params", metavar="PARAMS",
                        help="the model: .npz, .smoe, .pkl of tf-smoe, or a checkpoint")
    parser.add_argument("-o", "--output", metavar="IMAGE", required=True,
                        help="the picture to write: .png .jpg .bmp .tif, a volume as .tif; one "
                             "that exists is refused")
    parser.flag(parser, "--overwrite", dest="overwrite", const=True, help="replace IMAGE")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--shape", type=int, nargs="+", metavar="N",
                      help="pixels along each axis, rows and columns, over which the picture is "
                           "drawn, stretched where the proportions are others; needed for files of "
                           "tf-smoe, which do not hold the size of their picture")
    size.add_argument("--scale", type=float, metavar="S",
                      help="times the size of the picture that was fitted (default: 1)")
    parser.add_argument("--crop", type=float, nargs="+", metavar="N",
                        help="draw a part alone: where it begins, then its size, in pixels of the "
                             "picture that was fitted: top, left, height, width; beyond it the "
                             "model goes on")
    parser.add_argument("--samples", type=_samples, metavar="N",
                        help="of a pixel along each axis, whose mean it is; 1 is the model at its "
                             "centre (default: auto, as many as nothing is missed with where it is "
                             "drawn smaller)")
    _add_depth(parser, "8")
    add_backend(parser)


def _add_depth(parser, usual):
    parser.add_argument("--depth", type=int, choices=(8, 16, 32),
                        help=f"bits of a number of the picture that is written: 16 as .tif or grey "
                             f".png, 32 (floats) as .tif (default: {usual})")


def _samples(text):
    return "auto" if text.lower() == "auto" else int(text)


_samples.__name__ = "samples"  # what argparse calls a value that is none


def _plot(commands):
    parser = commands.add_parser(
        "plot", help="draw figures and a page of results, or a sheet of a model",
        description="Draw loss.png, sheet.png and report.html of a folder of results again, or a "
                    "sheet of\nthe file of a model: its picture, kernels, gates and weights.",
        epilog="examples:\n  smoe plot results\n"
               "  smoe plot camera.npz -i camera.png -o sheet.png",
        usage="smoe plot RESULTS [-i IMAGE]\n"
              "       smoe plot MODEL -o SHEET [-i IMAGE] [--overwrite]")
    parser.add_argument("path", metavar="RESULTS",
                        help="a folder of smoe train, fit -r or sparsify -r, or a model: .npz, "
                             ".smoe, or .pkl of tf-smoe")
    parser.add_argument("-o", "--output", metavar="SHEET",
                        help="of a model: the .png to write; one that exists is refused")
    parser.flag(parser, "--overwrite", dest="overwrite", const=True,
                help="replace SHEET, or the page of RESULTS by one without the picture where that "
                     "has gone")
    parser.add_argument("-i", "--image-path", metavar="IMAGE",
                        help="the picture; of results by default the one that was fitted, if it is "
                             "still there")
    add_channels(parser)
    add_backend(parser)


def _info(commands):
    parser = commands.add_parser(
        "info", help="tell what a model is made of, and how good it is",
        description="Tell what a model is made of: counts, ranges, sizes of its kernels. With its\n"
                    "picture also how good it is.",
        epilog="examples:\n  smoe info results/params_best.npz\n"
               "  smoe info camera.smoe -i camera.png")
    parser.add_argument("params", metavar="PARAMS",
                        help="the model: .npz, .smoe, .pkl of tf-smoe, or a checkpoint")
    parser.add_argument("-i", "--image-path", metavar="IMAGE", help="the picture of the model")
    parser.flag(parser, "--json", dest="json", const=True, help="as JSON")
    add_channels(parser)
    add_backend(parser)


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
  pairs/px        kernels that are listed for the tile of a pixel
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
