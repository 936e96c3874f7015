"""The options of the commands that make a model: fit, train and sparsify."""

from .cli_parser import add_backend, add_channels, with_defaults
from .fit import BITS, EXPERTS, TARGETS, fit_settings
from .recipe import Recipe
from .smoe import Smoe
from .sparsify import PHASE_ITERATIONS

# Arguments that are fixed by a checkpoint, and the options that must not be given with it.
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
               "val_iter": "val_iter"}  # options -> arguments of Smoe.sparsify
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
        "fit", help="fit a model to a picture: the best of a given size, or the smallest that "
                    "reaches a PSNR",
        description=_FIT_DESCRIPTION, epilog=_FIT_EPILOG,
        usage="smoe fit IMAGE -o MODEL (--kernels K | --psnr DB | --scalars N | --bytes N) "
              "[options]\n       smoe fit IMAGE -o MODEL -c CHECKPOINT")
    option = with_defaults(Smoe.__init__, Smoe.fit)

    _add_model_files(parser, "fit", f"16; with --bytes {BITS}: they set the number of "
                     "kernels, and MODEL then takes as many bits as fit")

    group = parser.add_argument_group("target, one of")
    target = group.add_mutually_exclusive_group()
    target.add_argument("--kernels", type=int, metavar="K", help="best model with K kernels")
    target.add_argument("--psnr", type=float, metavar="DB",
                        help="fewest kernels that reach this PSNR, found in about ten fits, before "
                             "rounding: for few --bits ask for some tenths more; in colour, "
                             "--experts constant may need more kernels, but fewer bytes")
    target.add_argument("--scalars", type=int, metavar="N",
                        help="as many kernels as N numbers in total allow")
    target.add_argument("--bytes", type=int, metavar="N",
                        help="as many kernels as fit into a .smoe file of N bytes")

    group = parser.add_argument_group("fit")
    budget = group.add_mutually_exclusive_group()
    option(budget, "-n", "--iterations", int, "training steps; more make a better model",
           default=fit_settings(kernels=1)["iterations"])
    budget.add_argument("--seconds", type=float, metavar="S",
                        help="training time in seconds instead of -n, not with --psnr; the model "
                             "then depends on the machine; rounding for .smoe takes extra time")
    option(group, None, "--experts", str, "constant experts have no slopes, so fewer numbers; "
           "auto: constant in colour with --scalars or --bytes, where they are better, else affine",
           choices=EXPERTS)
    group.add_argument("--sharpness", type=float, metavar="S",
                       help="upper limit of a kernel's 1/σ, per pixel (default: "
                            f"{Recipe().most_sharpness:g}); 1.5 avoids artefacts between pixels "
                            "when the fit is enlarged, and costs 0 to 0.4 dB")
    option(group, None, "--seed", int, "random seed; on the CPU the same seed, machine, --backend "
           "and -v make the same model")
    option(group, "-v", "--validation-iterations", int, "steps between validations; each "
           "validation writes a checkpoint", dest="val_iter")

    _add_computation(parser, option)


_FIT_DESCRIPTION = """\
Fit a model to a picture: the best one with a given number of kernels, numbers or bytes, or the
smallest one that reaches a given PSNR.

Kernels are added where the error is large and removed where they are of little use, so the model is
better than one of smoe train with as many kernels."""

_FIT_EPILOG = """\
MODEL is written only at the end, as the fit is rough until then. Meanwhile there is a checkpoint
beside MODEL (camera.checkpoint.npz for camera.npz or camera.smoe), or with -r at
RESULTS/checkpoints/last.npz. Ctrl-C and SIGTERM end a fit after the current step and print the
command that continues it, bit for bit.

With --psnr there are several fits. The folders in RESULTS keep the intermediate results of the last
one; MODEL, params_best.npz and history.csv are those of the best one.

exit status:
  0 done   2 error   130 Ctrl-C   143 SIGTERM   141 done, but nobody read the output
  1 the PSNR is out of reach or was lost by rounding to --bits, or the fit diverged; the best model
    is kept

examples:
  smoe fit camera.png -o camera.npz --kernels 900
  smoe fit camera.png -o camera.npz --psnr 32 --experts constant
  smoe fit camera.png -o camera.smoe --bytes 16000
  smoe render camera.npz -o camera_fitted.png"""


def add_train(commands):
    """Add ``smoe train``."""
    parser = commands.add_parser(
        "train", help="train a model as tf-smoe does, by gradient descent from a grid",
        description=_TRAIN_DESCRIPTION, epilog=_TRAIN_EPILOG,
        usage="smoe train -i IMAGE -r RESULTS [options]")
    option = with_defaults(Smoe.__init__, Smoe.train)

    group = parser.add_argument_group("files")
    group.add_argument("-i", "--image-path", metavar="IMAGE", required=True,
                       help="the picture to fit; a TIFF stack is a volume")
    group.add_argument("-r", "--results-path", metavar="RESULTS", required=True,
                       help="folder for the results; refused if it is not empty")
    parser.flag(group, "--overwrite", dest="overwrite", const=True,
                help="replace the results of an earlier run in RESULTS; files with other names "
                     "are kept")
    group.add_argument("-p", "--params-file", metavar="START",
                       help="the model to start from: .npz, .smoe, .pkl of tf-smoe, or a "
                            "checkpoint, of which only the model is used")
    group.add_argument("-c", "--checkpoint-path", metavar="CHECKPOINT",
                       help="continue a run from its RESULTS/checkpoints/last.npz: without -n "
                            "finish it with its own settings, with -n train N more iterations; the "
                            "picture may have been renamed")

    group = parser.add_argument_group("model")
    option(group, "-k", "--kernels-per-dim", int, "kernels along the longest axis of the starting "
           "grid")
    parser.flag(group, "-ra", "--radial-as", dest="radial", const=True,
                help="keep every kernel round (radial)")
    parser.flag(group, "-dp", "--disable-train-pis", dest="train_pis", const=False,
                help="do not train the mixing weights")
    parser.flag(group, "-dg", "--disable-train-gammas", dest="train_gammas", const=False,
                help="do not train the slopes of the experts")
    add_channels(group)

    group = parser.add_argument_group("training")
    option(group, "-n", "--iterations", int, "training steps")
    option(group, "-v", "--validation-iterations", int, "steps between validations; each "
           "validation writes results and a checkpoint", dest="val_iter")
    option(group, "-lr", "--base-lr", float, "learning rate of centres and experts")
    option(group, "-d", "--lr-div", float, "the learning rate of mixing weights is base-lr / "
           "lr-div")
    option(group, "-m", "--lr-mult", float, "the learning rate of steering matrices is base-lr * "
           "lr-mult")
    option(group, "-reg", "--l1reg", float, "weight of the sparsity term in the loss; above 0, "
           "kernels drop out")
    option(group, None, "--bandwidth-reg", float, "weight of the bandwidth term in the loss; a "
           "larger one makes the picture smoother and less noisy")
    option(group, None, "--grad-clip", float, "limit of the magnitude of each gradient element")
    option(group, None, "--adam-eps", float, "Adam's epsilon; with 1e-8 training is that of "
           "tf-smoe")

    group = parser.add_argument_group("computation")
    option(group, None, "--dtype", str, "floating-point precision", choices=("float32", "float64"))
    add_backend(group)
    option(group, "-b", "--batches", int, "number of parts in which an iteration is computed, "
           "to limit memory; the result does not depend on it",
           default="chosen automatically")
    _add_quiet(parser, group)


_TRAIN_DESCRIPTION = """\
Train a model as tf-smoe does, by gradient descent from a grid of kernels. With as many kernels,
smoe fit makes a better model."""

_TRAIN_EPILOG = """\
Long option names may be written with _ instead of -, and flags with =1 or =0, as in --quiet=0.

At every validation, params/params_000100.npz and reconstructions/reconstruction_000100.png are
added to RESULTS, and checkpoints/last.npz is replaced. At the end RESULTS also has params_best.npz,
params_last.npz, reconstruction_best.png, history.csv and settings.json. Pictures are .tif instead
of .png if Pillow is not installed, or if they are not two-dimensional grey or RGB pictures.

If Matplotlib is installed, loss.png and sheet.png are drawn during training, and shown in windows
if there is a display. report.html, written at the end, shows all results on one page.

Ctrl-C and SIGTERM end training after the current step, with a checkpoint.

exit status:
  0 done   1 training diverged, the best model is kept   2 error   130 Ctrl-C   143 SIGTERM
  141 done, but nobody read the output

examples:
  smoe train -i camera.png -r results -k 32 -n 1000
  smoe train -i camera.png -r results -c results/checkpoints/last.npz -n 500"""


def add_sparsify(commands):
    """Add ``smoe sparsify``."""
    parser = commands.add_parser(
        "sparsify", help="train many kernels, then remove those that are not needed",
        description=_SPARSIFY_DESCRIPTION, epilog=_SPARSIFY_EPILOG,
        usage="smoe sparsify IMAGE -o MODEL (--kernels K | --psnr DB) [options]\n"
              "       smoe sparsify IMAGE -o MODEL -c CHECKPOINT")
    parser.arguments = {argument: f"--{name}" for name, argument in SPARSIFYING.items()
                        if argument.startswith("target_")}
    option = with_defaults(Smoe.__init__, Smoe.sparsify)

    _add_model_files(parser, "sparsification")

    group = parser.add_argument_group("target, one of")
    target = group.add_mutually_exclusive_group()
    target.add_argument("--kernels", type=int, metavar="K", help="number of kernels to keep")
    target.add_argument("--psnr", type=float, metavar="DB",
                        help="keep the fewest kernels that reach this PSNR, found in several "
                             "tries")

    group = parser.add_argument_group("sparsification")
    option(group, "-k", "--kernels-per-dim", int, "kernels along the longest axis of the starting "
           "grid",
           default="three times as many kernels in all as --kernels; one per 4×4 pixels with "
                   "--psnr")
    group.add_argument("-p", "--params-file", metavar="START",
                       help="the model to start from: .npz, .smoe, .pkl of tf-smoe, or a "
                            "checkpoint, of which only the model is used")
    group.add_argument("-n", "--iterations", type=int, nargs=3, metavar="N",
                       help="steps of the three phases: train all kernels, remove kernels, train "
                            f"the rest (default: {' '.join(map(str, PHASE_ITERATIONS))})")
    option(group, "-v", "--validation-iterations", int, "steps between validations; each "
           "validation writes a checkpoint", dest="val_iter")

    _add_computation(parser, option)


_SPARSIFY_DESCRIPTION = """\
Make a sparse model as in the paper of 2018: train many kernels, raise the weight of the sparsity
term in the loss until only the wanted number is left, then train these further without it. The
weight is chosen automatically.

With as many kernels, smoe fit makes a better model."""

_SPARSIFY_EPILOG = """\
MODEL is written only at the end. Files, checkpoints and signals are as in smoe fit --help.

exit status:
  0 done   2 error   130 Ctrl-C   143 SIGTERM   141 done, but nobody read the output
  1 the PSNR is out of reach or was lost by rounding to --bits, or training diverged; the best model
    is kept

examples:
  smoe sparsify camera.png -o sparse.npz --kernels 900
  smoe sparsify camera.png -o sparse.npz --psnr 29 -p dense.npz"""


def _add_model_files(parser, what, usual_bits="16"):
    group = parser.add_argument_group("files")
    group.add_argument("image_path", metavar="IMAGE",
                       help="the picture to fit; a TIFF stack is a volume")
    group.add_argument("-o", "--output", metavar="MODEL", required=True,
                       help="the model to write: .npz, or .smoe, which is much smaller; refused if "
                            "it exists")
    group.add_argument("-r", "--results-path", metavar="RESULTS",
                       help="folder for intermediate results, as smoe train writes them; refused "
                            "if it is not empty")
    parser.flag(group, "--overwrite", dest="overwrite", const=True,
                help="replace MODEL, its checkpoint, and the results of an earlier run in "
                     "RESULTS; files with other names are kept")
    group.add_argument("-c", "--checkpoint-path", metavar="CHECKPOINT",
                       help=f"continue an interrupted {what} from this checkpoint, with its own "
                            f"target and settings; the picture may have been renamed")
    group.add_argument("--bits", type=float, metavar="B",
                       help=f"mean bits per number of a .smoe MODEL before entropy coding: 4 "
                            f"to 24 (default: {usual_bits})")


def _add_computation(parser, option):
    group = parser.add_argument_group("computation")
    add_channels(group)
    option(group, None, "--dtype", str, "floating-point precision", choices=("float32", "float64"))
    add_backend(group)
    option(group, None, "--batches", int, "number of parts in which an iteration is computed, "
           "to limit memory; the result does not depend on it",
           default="chosen automatically")
    _add_quiet(parser, group)


def _add_quiet(parser, group):
    parser.flag(group, "--no-plots", dest="plots", const=False,
                help="draw nothing: no loss.png, sheet.png or report.html in RESULTS, no windows")
    parser.flag(group, "-q", "--quiet", dest="quiet", const=True,
                help="print errors and warnings only, and open no windows")
