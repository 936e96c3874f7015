"""The options of the commands that make a model."""

from .cli_parser import add_backend, add_channels, with_defaults
from .fit import BITS, EXPERTS, TARGETS, Recipe, fit_settings
from .smoe import Smoe
from .sparsify import ITERATIONS

# What the checkpoint of a run fixes, and the options that would say otherwise.
FIXED_BY_CHECKPOINT = {
    "kernels_per_dim": "-k", "params_file": "-p", "radial": "-ra", "train_pis": "-dp",
    "train_gammas": "-dg", "batches": "-b", "dtype": "--dtype",
}
FIXED_BY_CHECKPOINT_OF_FIT = {
    "kernels": "--kernels", "psnr": "--psnr", "scalars": "--scalars", "bytes": "--bytes",
    "iterations": "-n", "seconds": "--seconds", "experts": "--experts", "seed": "--seed",
    "sharpness": "--sharpness", "val_iter": "-v", "batches": "--batches", "dtype": "--dtype",
}
FIXED_BY_CHECKPOINT_OF_SPARSIFICATION = {
    "kernels": "--kernels", "psnr": "--psnr", "iterations": "-n", "val_iter": "-v",
    "kernels_per_dim": "-k", "params_file": "-p", "batches": "--batches", "dtype": "--dtype",
}
SPARSIFYING = {"kernels": "target_kernels", "psnr": "target_psnr", "iterations": "iterations",
               "val_iter": "val_iter"}  # names of options, and of what Smoe.sparsify takes
MODEL = ("kernels_per_dim", "train_pis", "train_gammas", "radial", "batches", "dtype")
FITTING = (*TARGETS, "iterations", "seconds", "experts", "seed", "val_iter", "sharpness")
TRAINING = {
    "iterations": "-n", "val_iter": "-v", "base_lr": "-lr", "lr_div": "-d", "lr_mult": "-m",
    "l1reg": "-reg", "bandwidth_reg": "--bandwidth-reg", "grad_clip": "--grad-clip",
    "adam_eps": "--adam-eps",
}


def add_fit(commands):
    """Add ``smoe fit``."""
    parser = commands.add_parser(
        "fit", help="fit a model to a picture: of so many kernels the best, or to a PSNR the "
                    "smallest",
        description=_FIT_DESCRIPTION, epilog=_FIT_EPILOG,
        usage="smoe fit IMAGE -o MODEL (--kernels K | --psnr DB | --scalars N | --bytes N) "
              "[options]\n       smoe fit IMAGE -o MODEL -c CHECKPOINT")
    option = with_defaults(Smoe.__init__, Smoe.fit)

    _add_model_files(parser, "fit", f"16; with --bytes {BITS}, more or fewer as there is room")

    group = parser.add_argument_group("target, one of")
    target = group.add_mutually_exclusive_group()
    target.add_argument("--kernels", type=int, metavar="K", help="as good as K kernels can be")
    target.add_argument("--psnr", type=float, metavar="DB",
                        help="as few kernels as reach so many decibels, by some ten fits; in "
                             "colour --experts constant may need more of them, but fewer bytes")
    target.add_argument("--scalars", type=int, metavar="N",
                        help="as many kernels as have N numbers together")
    target.add_argument("--bytes", type=int, metavar="N",
                        help="as many kernels as a .smoe file of N bytes can hold")

    group = parser.add_argument_group("fit")
    budget = group.add_mutually_exclusive_group()
    option(budget, "-n", "--iterations", int, "steps to take; more make a better model",
           default=fit_settings(kernels=1)["iterations"])
    budget.add_argument("--seconds", type=float, metavar="S",
                        help="time to take instead; the model then depends on the machine; "
                             "rounding for .smoe comes on top")
    option(group, None, "--experts", str, "of a kernel: constant ones have no slopes, and fewer "
           "numbers; auto: those in colour with --scalars or --bytes, where they are better",
           choices=EXPERTS)
    group.add_argument("--sharpness", type=float, metavar="S",
                       help="most of a kernel, 1/σ for each pixel (default: "
                            f"{Recipe().most_sharpness:g}); with 1.5 a fit may be enlarged "
                            "without flaws between pixels, for 0 to 0.4 dB")
    option(group, None, "--seed", int, "of all that is random; the same one makes the same model, "
           "on the same machine with the same -v")
    option(group, "-v", "--validation-iterations", int, "steps between validations, each of which "
           "leaves a checkpoint", dest="val_iter")

    _add_computation(parser, option)


_FIT_DESCRIPTION = """\
Fit a model to a picture: as good as a number of kernels allows, or as small as a PSNR allows.

Kernels are added where the error is large and taken away where they are of little use, so that the
same number of them does better than with smoe train."""

_FIT_EPILOG = """\
MODEL is written at the end: the picture is rough until then. Meanwhile there is a checkpoint beside
it, camera.checkpoint.npz for camera.npz or camera.smoe, or with -r in RESULTS/checkpoints/last.npz.
Ctrl-C and SIGTERM end a fit after the step at hand; the line that is printed then tells the command
that goes on, bit for bit.

To a PSNR there are several fits. RESULTS keeps what the last one left on the way; params_best.npz
and history.csv in it are, like MODEL, of the best one.

exit status:
  0 done   1 the PSNR is out of reach, or the fit diverged; the best model is kept   2 an error
  130 Ctrl-C   143 SIGTERM

examples:
  smoe fit camera.png -o camera.npz --kernels 900
  smoe fit camera.png -o camera.npz --psnr 32 --experts constant
  smoe fit camera.png -o camera.smoe --bytes 16000
  smoe render camera.npz -o camera_fitted.png"""


def add_train(commands):
    """Add ``smoe train``."""
    parser = commands.add_parser(
        "train", help="train a model as tf-smoe does, by the gradient alone",
        description=_TRAIN_DESCRIPTION, epilog=_TRAIN_EPILOG,
        usage="smoe train -i IMAGE -r RESULTS [options]")
    option = with_defaults(Smoe.__init__, Smoe.train)

    group = parser.add_argument_group("files")
    group.add_argument("-i", "--image-path", metavar="IMAGE", required=True,
                       help="the picture, or a TIFF stack as a volume")
    group.add_argument("-r", "--results-path", metavar="RESULTS", required=True,
                       help="folder for the results; one that is not empty is refused")
    parser.flag(group, "--overwrite", dest="overwrite", const=True,
                help="replace the results of an earlier run in RESULTS; files of any other name "
                     "stay")
    group.add_argument("-p", "--params-file", metavar="PARAMS",
                       help="start from this model: .npz, .smoe, .pkl of tf-smoe")
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
    add_channels(group)

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
    add_backend(group)
    option(group, "-b", "--batches", int, "parts of an iteration; results do not depend on it",
           default="chosen automatically")
    _add_quiet(parser, group)


_TRAIN_DESCRIPTION = """\
Train a model as tf-smoe does: a grid of kernels that follows the gradient. A model of as many
kernels is better by smoe fit."""

_TRAIN_EPILOG = """\
Long names may be written with _ for -, and flags as =1 or =0: --quiet=0.

RESULTS receives params/params_000100.npz and reconstructions/reconstruction_000100.png at every
validation, and checkpoints/last.npz: one file, replaced each time. At the end it has
params_best.npz, params_last.npz, reconstruction_best.png, history.csv and settings.json. Pictures
are .tif where Pillow is not installed, and where they are volumes.

loss.png and sheet.png are drawn while it trains, where Matplotlib is installed, and shown where
there is a display; report.html is a page of all of it, to be opened at the end.

Ctrl-C and SIGTERM end training after the step at hand, with a checkpoint.

exit status:
  0 done   1 training diverged, the best model is kept   2 an error   130 Ctrl-C   143 SIGTERM

examples:
  smoe train -i camera.png -r results -k 32 -n 1000
  smoe train -i camera.png -r results -c results/checkpoints/last.npz -n 500"""


def add_sparsify(commands):
    """Add ``smoe sparsify``."""
    parser = commands.add_parser(
        "sparsify", help="train many kernels, then drive all out that are not needed",
        description=_SPARSIFY_DESCRIPTION, epilog=_SPARSIFY_EPILOG,
        usage="smoe sparsify IMAGE -o MODEL (--kernels K | --psnr DB) [options]\n"
              "       smoe sparsify IMAGE -o MODEL -c CHECKPOINT")
    parser.arguments = {argument: f"--{name}" for name, argument in SPARSIFYING.items()
                        if argument.startswith("target_")}
    option = with_defaults(Smoe.__init__, Smoe.sparsify)

    _add_model_files(parser, "sparsification")

    group = parser.add_argument_group("target, one of")
    target = group.add_mutually_exclusive_group()
    target.add_argument("--kernels", type=int, metavar="K", help="so many are left")
    target.add_argument("--psnr", type=float, metavar="DB",
                        help="as few as reach so many decibels, by some tries")

    group = parser.add_argument_group("sparsification")
    option(group, "-k", "--kernels-per-dim", int, "kernels along the longest axis at the start",
           default="three times as many in all as are to be left, or one for 4×4 pixels")
    group.add_argument("-p", "--params-file", metavar="PARAMS",
                       help="start from this model: .npz, .smoe, .pkl of tf-smoe")
    group.add_argument("-n", "--iterations", type=int, nargs=3, metavar="N",
                       help="steps that train, that drive kernels out, and that train those that "
                            f"are left (default: {' '.join(map(str, ITERATIONS))})")
    option(group, "-v", "--validation-iterations", int, "steps between validations, each of which "
           "leaves a checkpoint", dest="val_iter")

    _add_computation(parser, option)


_SPARSIFY_DESCRIPTION = """\
Make a sparse model as the paper of 2018 does: train many kernels, raise the weight of sparsity
until as few are left as wanted, and train these on. The weight is found on the way.

A model of as many kernels is better by smoe fit."""

_SPARSIFY_EPILOG = """\
MODEL is written at the end; files, checkpoints and signals are as with smoe fit.

exit status:
  0 done   1 the PSNR is out of reach, or training diverged; the best model is kept   2 an error
  130 Ctrl-C   143 SIGTERM

examples:
  smoe sparsify camera.png -o sparse.npz --kernels 900
  smoe sparsify camera.png -o sparse.npz --psnr 29 -p dense.npz"""


def _add_model_files(parser, what, usual_bits="16"):
    group = parser.add_argument_group("files")
    group.add_argument("image_path", metavar="IMAGE",
                       help="the picture, or a TIFF stack as a volume")
    group.add_argument("-o", "--output", metavar="MODEL", required=True,
                       help="the model to write: .npz, or .smoe, which is much smaller; one that "
                            "exists is refused")
    group.add_argument("-r", "--results-path", metavar="RESULTS",
                       help="folder for results on the way, those of smoe train; one that is not "
                            "empty is refused")
    parser.flag(group, "--overwrite", dest="overwrite", const=True,
                help="replace MODEL, its checkpoint, and the results of an earlier run in "
                     "RESULTS; files of any other name stay")
    group.add_argument("-c", "--checkpoint-path", metavar="CHECKPOINT",
                       help=f"go on with a {what} that was interrupted, with its own target and "
                            f"settings")
    group.add_argument("--bits", type=float, metavar="B",
                       help=f"bits for a number in a .smoe, in the mean, before it is coded: 4 "
                            f"to 24 (default: {usual_bits})")


def _add_computation(parser, option):
    group = parser.add_argument_group("computation")
    add_channels(group)
    option(group, None, "--dtype", str, "precision", choices=("float32", "float64"))
    add_backend(group)
    option(group, None, "--batches", int, "parts of an iteration; results do not depend on it",
           default="chosen automatically")
    _add_quiet(parser, group)


def _add_quiet(parser, group):
    parser.flag(group, "--no-plots", dest="plots", const=False,
                help="draw nothing: no loss.png, sheet.png and report.html in RESULTS, no windows")
    parser.flag(group, "-q", "--quiet", dest="quiet", const=True,
                help="print errors and warnings only, and open no windows")
