"""Smoe: an image, a model in training, its history."""

import math
import time

import numpy as np

from .adam import Adam
from .backend import array_module
from .engine import check_dtype, check_image, check_whole, engine_class, warn_if_thin
from .fit import BITS, fit_settings, kernels_for
from .initialize import initial_params, ready_to_train
from .numerals import counted, size_in_words
from .packed import is_packed_name
from .params import SmoeParams, shown
from .pixels import digest_of
from .quantization import ITERATIONS as QUANTIZING
from .quantization import quantized
from .search import Try, next_try
from .sparsify import ITERATIONS, Sparsification, dense_start, sparsify_settings
from .training import train_settings
from .training_loop import TrainingLoop, check_callbacks

COPIES = 8  # of the parameters: now, the best, the next, two moments, gradients in float64, scratch

MOST_BY_PIXEL, MOST_FOR_FEW_PIXELS = 10, 1000  # kernels that a fit may have


class Smoe(TrainingLoop):
    """A Steered Mixture-of-Experts of an image, and its training.

    Parameters
    ----------
    image : array
        (*shape,) or (*shape, C): float in [0, 1], or uint8/uint16 (divided by 255/65535; divide
        yourself where the camera has other bits).
    kernels_per_dim : int
        Kernels of the starting grid along the longest axis; the others get the same spacing.
    params : SmoeParams, optional
        Start from this model instead of a grid. Kernels of weight 0 or below are left out.
    train_pis, train_gammas : bool
        Whether mixing weights and slopes are trained.
    radial : bool
        Keep every steering matrix a multiple of the identity.
    batches : int, optional
        Parts into which an iteration is divided; ``None`` chooses. The results do not depend on it.
    backend : {"auto", "cupy", "native", "numpy"}
    dtype : {"float32", "float64"}
    channel_axis : "auto", None or int
        "auto": an image of 3 or more axes whose last has 1 to 4 entries has its channels there;
        None: all axes are space.

    Of an image on the GPU (a CuPy array) the models, pictures and maps are copies there, whatever
    the backend; ``params`` must be there as well.

    Attributes
    ----------
    shape, channels : tuple of D ints, int
        Of the image.
    params : SmoeParams
        The model as it is now.
    best_params : SmoeParams
        Of the last call of ``train``, ``fit`` or ``sparsify`` the model of the validation with the
        lowest loss, or that with which ``train`` began.
    history : list of Record
        One a validation; the first of iteration 0, before any step.
    made_by : None, "train", "fit" or "sparsify"
        Which of them trained last.
    record : Record or None
        The last of ``history``, if it is of the model as it is now.
    initial_kernels : int
        K₀, the number of kernels at the start; after a fit, of the training that follows.
    options, settings : dict
        What this object, and its last call of ``train``, ``fit`` or ``sparsify``, were given.
    engine
        What computes: see ``smoe_np.engine``.
    iteration : int
        Steps taken.
    until : int
        The iteration at which the last call of ``train``, ``fit`` or ``sparsify`` was to end.
    stopped : None, "interrupted" or "diverged"
        Why the last training ended before its time, if it did.
    image_sha256 : str
        By which checkpoints and results know the picture again.
    bits : None or dict of str to float
        Of each kind of numbers, as the last call of ``quantize`` rounded them.

    Raises
    ------
    ValueError, TypeError
        If an argument is of the wrong kind, shape or range.
    """

    def __init__(self, image, kernels_per_dim=12, params=None, train_pis=True, train_gammas=True,
                 radial=False, batches=None, backend="auto", dtype="float32", channel_axis="auto"):
        dtype = check_dtype(dtype)
        given = params.arrays().values() if isinstance(params, SmoeParams) else ()
        self._on_gpu = array_module(image, *given) is not np
        target, self._has_channels = check_image(image, dtype, channel_axis)
        kernels_per_dim = check_whole("kernels_per_dim", kernels_per_dim, 1)
        if batches is not None:
            batches = check_whole("batches", batches, 1)
        self.shape, self.channels = target.shape[:-1], target.shape[-1]
        if params is None:
            warn_if_thin(image, channel_axis)
            params = initial_params(target, kernels_per_dim, dtype)
        else:
            params = ready_to_train(params, target, radial)
        self.options = {
            "kernels_per_dim": kernels_per_dim, "train_pis": bool(train_pis),
            "train_gammas": bool(train_gammas), "radial": bool(radial), "batches": batches,
            "dtype": dtype.name,
        }
        self._training = False
        self._params = self._best_params = params
        self.initial_kernels = params.num_kernels
        self.history = []
        self._recorded = None  # the model that the last of them is of
        self.iteration = 0
        self.stopped = None
        self.settings = None  # of the last call of train, fit or sparsify
        self.until = 0
        self._quantized = None, None  # a model, and its bits
        self._views = []  # models, and what is shown of them
        self.tried = []  # of a fit, or a sparsification, to a PSNR
        self._plan = self._found = self._dense = None
        self._rounds = []
        self._best_loss = self._lowest_loss = math.inf
        self._seconds = self._look = 0.0  # in training; at the last validation
        self.image_sha256 = digest_of(target)
        self.engine = engine_class(backend, len(self.shape), self.channels)(
            self.shape, target, dtype, batches)
        self.adam = Adam(params)

    @property
    def params(self):
        """The model as it is now; another one may be set, and is trained from then on.

        Its arrays are to be read only: training goes on from them. To change the model, change a
        ``copy()`` of it, and set that.

        Adam's moments are kept if the new model has as many kernels, else they start at 0; the
        best of models so far, and that of the lowest loss, is this one then.
        """
        return self._to_read(self._params)

    @params.setter
    def params(self, params):
        like = np.empty((*self.shape, self.channels), self._params.dtype)
        params = ready_to_train(params, like, self.options["radial"])
        if params.num_kernels != self._params.num_kernels:
            self.adam = self.adam.anew(params)
        self._forget()
        self._params = self._best_params = params
        self._best_loss = self._lowest_loss = math.inf

    @property
    def best_params(self):
        """The best model of the last call of ``train``, ``fit`` or ``sparsify``; see the class."""
        return self._to_read(self._best_params)

    def _to_read(self, params):
        """A model whose arrays cannot be written to, the same at each call; on a GPU, a copy."""
        if self._on_gpu:
            return shown(params, self._on_side_of_image)
        for model, view in self._views:
            if model is params:
                return view
        view, kept = shown(params, _read_only), (self._params, self._best_params)
        self._views = [one for one in self._views if any(one[0] is model for model in kept)]
        self._views.append((params, view))
        return view

    def _on_side_of_image(self, array):
        if not self._on_gpu:
            return array
        import cupy

        return cupy.asarray(array)

    # ---- training

    def train(self, iterations=1000, val_iter=100, base_lr=1e-3, lr_div=100, lr_mult=1000,
              l1reg=0.0, bandwidth_reg=0.0, grad_clip=None, adam_eps=1e-15, callbacks=(),
              checkpoint=None, progress=None):
        """Train on, from where the model stands; Adam's moments are kept from call to call.

        Parameters
        ----------
        iterations : int
            Steps to take.
        val_iter : int
            A record is added to ``history``, and the callbacks are called, at every iteration that
            is a multiple of this and at the last.
        base_lr : float
            Learning rate of centres and experts.
        lr_div : float
            Mixing weights learn at base_lr / lr_div.
        lr_mult : float
            Steering matrices learn at base_lr · lr_mult.
        l1reg, bandwidth_reg : float
            Weights λ_S of sparsity and λ_U of the bandwidth, as in ``loss_and_gradients``.
        grad_clip : float, optional
            Largest magnitude of any element of a gradient.
        adam_eps : float
            Adam's ε; 1e-8 trains exactly as tf-smoe does.
        callbacks : iterable of callables
            Each is called with this object at every validation. What one raises ends the training,
            and goes on to the caller; `resume` goes on from there.
        checkpoint : path, optional
            Where a checkpoint is left at every validation and when training is interrupted.
        progress : callable, optional
            Called with this object after every few steps, which take a moment, and after one that
            failed.

        Returns
        -------
        Smoe
            This object.

        Raises
        ------
        ValueError, TypeError
            If an argument is of the wrong kind or range.
        KeyboardInterrupt
            After Ctrl-C: the step is finished first, the model is intact and trains on when asked.
            SIGTERM likewise does what it would have done.

        Warns
        -----
        RuntimeWarning
            If the loss becomes NaN, explodes, or the last kernel leaves: training then ends, and
            the model is put back to ``best_params``.
        """
        self._refuse_while_training()
        settings = train_settings(
            iterations, val_iter, base_lr, lr_div, lr_mult, l1reg, bandwidth_reg, grad_clip,
            adam_eps)
        callbacks = check_callbacks(callbacks, progress)
        if self._plan is not None:  # whose moments are of other gradients
            self.adam, self._rounds = Adam(self._params), self.rounds
            if self._plan.kind == "fit":  # which began with few kernels
                self.initial_kernels = self._params.num_kernels
        self.settings, self._plan = settings, None
        self.until = self.iteration + settings["iterations"]
        self._best_params = self._params
        self._best_loss = self._lowest_loss = math.inf
        return self._train(callbacks, checkpoint, progress)

    def fit(self, kernels=None, psnr=None, scalars=None, bytes=None, iterations=None, seconds=None,
            experts="auto", seed=0, val_iter=100, callbacks=(), checkpoint=None, progress=None,
            recipe=None, bits=None, sharpness=None):
        """Fit a model anew, as good as so many kernels allow, or as small as so good a one can be.

        It starts from few kernels and splits those where the error is largest; kernels of little
        use are taken away and put to use elsewhere; steps are taken in each kernel's own frame
        (``smoe_np.frame``), along axes in which its numbers do not get in each other's way
        (``smoe_np.turned_adam``), large ones at first, so that the picture is rough until the end.
        A picture that has many pixels for each kernel is regressed at smaller sizes at first
        (``smoe_np.coarse``); what is reported is of the picture itself.
        What was trained before is forgotten. ``train`` instead follows the gradient from where it
        stands.

        Parameters
        ----------
        kernels, psnr, scalars, bytes
            Exactly one target: the number of kernels; decibels, reached with as few kernels as
            some ten fits find; numbers in the model (a kernel of a grey picture has 9, or 7 if
            ``experts`` are constant; of RGB 15 or 9); or bytes, about, of a packed file:
            ``quantize`` with the same bytes then makes the model one that such a file holds.
        iterations : int, optional
            Steps to take, 3000 if neither these nor seconds are given.
        seconds : float, optional
            Time to take instead; the result then depends on the machine.
        experts : {"auto", "affine", "constant"}
            Whether experts have slopes. "auto": they have, unless slopes are not trained; but for a
            picture of several channels that is to take so many scalars or bytes: there can be more
            of constant ones, which are better by 0.3 to 1.4 dB then.
        seed : int
            Of all that is random. The same call makes the same model, bit for bit on the CPU;
            another ``val_iter``, backend or processor rounds differently, of which a fit makes
            as much as of another seed: tenths of a dB, with ten kernels up to one.
        val_iter, callbacks, checkpoint, progress
            As in ``train``.
        recipe : smoe_np.fit.Recipe, optional
            Other numbers of the method.
        bits : float, optional
            With bytes: of a number in the file, in the mean, before it is coded; 9 by default.
            Fewer leave room for more kernels.
        sharpness : float, optional
            Most of a kernel, 1/σ for each pixel; 3 by default. With 1.5 the model may be enlarged
            without slivers between pixels, which costs 0 to 0.4 dB.

        Returns
        -------
        Smoe
            This object. ``params`` is the model at the end, or one of an earlier validation if
            that was better.

        Raises
        ------
        ValueError, TypeError
            If an argument is of the wrong kind or range.
        KeyboardInterrupt
            As in ``train``; ``resume`` goes on.

        Warns
        -----
        RuntimeWarning
            If the loss becomes NaN, or a PSNR is out of reach.
        """
        self._refuse_while_training()
        self._check_trains_all("fit")
        if experts == "auto" and not self.options["train_gammas"]:
            experts = "constant"
        settings = fit_settings(kernels, psnr, scalars, bytes, iterations, seconds, experts, seed,
                                val_iter, recipe, bits, sharpness, self.channels)
        if not self.options["train_gammas"] and settings["experts"] == "affine":
            raise ValueError('train_gammas is False, but affine experts have slopes; fit with '
                             'experts="constant"')
        if settings["target"] == "psnr":
            first = next_try([], settings["value"], math.prod(self.shape), settings["iterations"])
        else:
            first = Try(self.kernels_wanted(settings), settings["iterations"])
        callbacks = check_callbacks(callbacks, progress)
        self._begin_fit(first, settings)
        self.settings, self.tried, self._found, self._dense = settings, [], None, None
        return self._train(callbacks, checkpoint, progress)

    def kernels_wanted(self, settings):
        """How many kernels the target of a fit stands for.

        Parameters
        ----------
        settings : dict
            Of ``smoe_np.fit.fit_settings``, with another target than a PSNR.

        Raises
        ------
        ValueError
            If that is none, or far more than there are pixels.
        """
        wanted = kernels_for(settings, len(self.shape), self.channels)
        most = max(MOST_FOR_FEW_PIXELS, MOST_BY_PIXEL * math.prod(self.shape))
        if wanted > most:
            meant = "" if settings["target"] == "kernels" else f", which stands for {wanted}"
            raise ValueError(f"{settings['target']} must stand for at most {most} kernels for "
                             f"{math.prod(self.shape)} pixels, got {settings['value']}{meant}")
        return wanted

    def sparsify(self, target_kernels=None, target_psnr=None, iterations=ITERATIONS, val_iter=100,
                 callbacks=(), checkpoint=None, progress=None):
        """Make the model sparse: train it, raise the weight λ_S of sparsity, fine-tune it.

        The schedule of the paper of 2018 (see ``smoe_np.sparsify``), from the model as it stands,
        be it the grid of ``kernels_per_dim`` or one that has been trained. λ_S finds itself.

        Parameters
        ----------
        target_kernels : int
            Kernels wanted: so many are left. Fewer than there are.
        target_psnr : float
            dB wanted instead: it is looked for how few kernels reach that, within 0.1 dB. Phases
            two and three are gone through up to ten times, always from the model that the first
            phase left.
        iterations : (int, int, int)
            Steps of the three phases: λ_S = 0, λ_S > 0, and λ_S = 0 at falling rates.
        val_iter : int
            As in ``train``; there is a validation at the end of each phase, too. Like looking at
            the picture on the way, another one changes the model slightly.
        callbacks, checkpoint, progress
            As in ``train``. In the second phase ``progress`` is called, and Ctrl-C looked for,
            after every ten steps.

        Returns
        -------
        Smoe
            This object. ``rounds`` tells how λ_S and the number of kernels went.

        Raises
        ------
        ValueError, TypeError
            If an argument is of the wrong kind or range, there are no more kernels than wanted, or
            the Smoe is radial or does not train weights.
        KeyboardInterrupt
            As in ``train``; ``resume`` goes on.

        Warns
        -----
        RuntimeWarning
            If the loss becomes NaN, or a PSNR is out of reach.

        Examples
        --------
        >>> smoe = Smoe(image, kernels_per_dim=dense_start(image.shape, 900))
        >>> smoe.sparsify(target_kernels=900)
        """
        self._refuse_while_training()
        self._check_trains_all("sparsify")
        settings = sparsify_settings(target_kernels, target_psnr, iterations, val_iter)
        K = self._params.num_kernels
        if target_kernels is not None and target_kernels >= K:
            dense = dense_start(self.shape, target_kernels)
            raise ValueError(f"target_kernels must be below {K}, the number of kernels that there "
                             f"are, got {target_kernels}; begin with more of them, such as "
                             f"kernels_per_dim={dense}")
        callbacks = check_callbacks(callbacks, progress)
        plan = Sparsification(settings, self.shape, self.options["train_gammas"], self.iteration)
        self.settings, self.tried, self._found, self._dense = settings, [], None, None
        self._plan = plan
        self.until = self._plan.until
        self.adam = self._plan.new_adam(self._params)
        self._best_loss = math.inf
        return self._train(callbacks, checkpoint, progress)

    def quantize(self, bits=None, iterations=QUANTIZING, bytes=None):
        """Have all numbers of the model be ones that a packed file of few bits can tell.

        They are rounded kind after kind; those that are not rounded yet are trained for a while
        after each, and make up for it; kernels without which the error is lower then leave (see
        ``smoe_np.quantization``). Rounding all at once, as ``params.save("model.smoe", bits=...)``
        does with any model, costs several times as much.

        Parameters
        ----------
        bits : float or dict, optional
            Of a number, in the mean, 4 to 24; or of each kind of numbers. 9 by default.
        iterations : int
            Steps after each of the six kinds; 0: all is rounded at once, as it is, too, where that
            costs less than 0.01 dB.
        bytes : int, optional
            That the file may take, instead of ``bits``: there are as many as it has room for.

        Returns
        -------
        Smoe
            This object. With its ``bits``, those of each kind, saving the model changes nothing
            more; ``best_params`` is this model, too, and the last of ``history`` tells of it.

        Raises
        ------
        ValueError, TypeError
            If an argument is of the wrong kind or range, a packed file cannot hold the model, or
            a fit or sparsification that was interrupted has not been finished.
        KeyboardInterrupt
            After Ctrl-C: the model is as it was.

        Examples
        --------
        >>> smoe = Smoe(image).fit(bytes=16000).quantize(bytes=16000)
        >>> smoe.save("model.smoe")
        """
        self._refuse_while_training()
        iterations = check_whole("iterations", iterations, 0)
        unfinished = self.stopped is None and self.iteration < self.until  # a callback ended it
        if self._plan is not None and (unfinished or self.stopped == "interrupted"):
            raise ValueError("the model is in the middle of what was interrupted; finish that with "
                             "resume(), or quantize a Smoe that is made with params=smoe.params")
        if bits is not None and bytes is not None:
            raise ValueError("quantize takes bits or bytes, not both")
        if bytes is not None:
            bytes = check_whole("bytes", bytes, 1)
        started = time.perf_counter()
        names = {"pis": "train_pis", "gamma_e": "train_gammas"}
        fixed = [name for name, option in names.items() if not self.options[option]]
        self._training = True
        try:
            params, bits = quantized(self.engine, self._params, BITS if bits is None else bits,
                                     bytes, iterations, fixed)
            loss = mse = self.engine.loss(params)
            if self.settings is not None:
                loss += self._step_settings().penalty(params)
        finally:
            self.engine.forget()
            self._training = False
        self._params = self._best_params = params
        self._quantized = params, bits
        self.adam = self.adam.anew(params)
        self._best_loss, self._lowest_loss = loss, math.inf
        self._seconds += time.perf_counter() - started
        self._add_record(mse, loss)
        return self

    def save(self, path, bits=None):
        """Write the model to a file: ``SmoeParams.save``.

        Parameters
        ----------
        path : str or os.PathLike
            ``.npz``, or ``.smoe`` for few bytes.
        bits : float or dict, optional
            Of a number in a ``.smoe``; by default those with which ``quantize`` has left the model,
            else 16.
        """
        if bits is None and is_packed_name(path):
            bits = self.bits
        self._params.save(path, bits)

    def __repr__(self):
        kernels = counted(self._params.num_kernels, "kernel")
        return (f"<Smoe of {size_in_words(self.shape)} pixels, "
                f"{counted(self.channels, 'channel')}, {kernels}, at iteration {self.iteration}, "
                f"backend {self.engine.name}>")

    @property
    def bits(self):
        """Bits of each kind of numbers of the model, as ``quantize`` has left it; else ``None``."""
        params, bits = self._quantized
        return bits if params is self._params else None

    @property
    def rounds(self):
        """Of the last sparsification, a ``smoe_np.sparsify.Round`` for every few steps with λ_S."""
        return list(self._rounds if self._plan is None else self._plan.rounds)

    def _check_trains_all(self, what):
        """Raise unless kernels may be steered and weights trained."""
        if self.options["radial"]:
            raise ValueError(f"radial is True, but {what} steers kernels; make the Smoe with "
                             f"radial=False, or train it")
        if not self.options["train_pis"]:
            raise ValueError(f"train_pis is False, but {what} trains weights; make the Smoe with "
                             f"train_pis=True, or train it")

    def resume(self, callbacks=(), checkpoint=None, progress=None):
        """Finish the call of ``train``, ``fit`` or ``sparsify`` that was interrupted, as set.

        Raises
        ------
        ValueError
            If training has never begun.
        """
        if self.settings is None:
            raise ValueError("there is no training to resume; call train(...) first")
        return self._train(check_callbacks(callbacks, progress), checkpoint, progress)

    # ---- what has come of it

    @property
    def reconstruction(self):
        """The model's picture, (*shape[, C]) in [0, 1]."""
        image = self._on_side_of_image(self.engine.render(self._params))
        return image if self._has_channels else image[..., 0]

    @property
    def gating(self):
        """The index of the kernel with the largest gate at each pixel, (*shape) int32."""
        return self._on_side_of_image(self.engine.gating(self._params))

    def memory_needed(self):
        """Bytes that ``train`` takes at its peak, besides the image that was given."""
        parameters = sum(array.nbytes for array in self._params.arrays().values())
        return self.engine.memory_needed(self._params) + COPIES * parameters


def _read_only(array):
    view = array.view()
    view.flags.writeable = False
    return view
