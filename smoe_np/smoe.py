"""``Smoe``: an image, the model that is fitted to it, and the history of its training."""

import math
import time

import numpy as np

from .adam import Adam
from .arguments import (
    check_dtype,
    check_fit,
    check_flag,
    check_image,
    check_number,
    check_params,
    check_whole,
    warn_if_thin,
)
from .backend import array_module, to_numpy
from .engine import engine_class, penalized
from .fit import BITS, fit_settings, kernels_for
from .initialize import initial_params, ready_to_train
from .looking import Looking
from .numerals import counted, size_in_words
from .packed import is_packed_name
from .params import SmoeParams, shown
from .pixels import digest_of
from .quantization import TUNING_ITERATIONS, quantized
from .search import Try, next_try
from .sparsify import PHASE_ITERATIONS, Sparsification, how_to_start, sparsify_settings
from .training import train_settings
from .training_loop import TrainingLoop, check_callbacks

# Copies of the parameters held at a time: the current, best and next model, two moments, gradients
# in float64 (which count twice), scratch.
COPIES = 8



class Smoe(TrainingLoop):
    """A Steered Mixture-of-Experts model of an image, and its training.

    Parameters
    ----------
    image : array
        The image, (*shape,) or (*shape, C): floats in [0, 1], or uint8 or uint16, which are divided
        by 255 or 65535. Scale other bit depths, such as 12 bits, to [0, 1] first.
    kernels_per_dim : int
        Number of kernels of the starting grid along the longest axis; the other axes get the same
        spacing.
    params : SmoeParams, optional
        Model to start from instead of a grid. Kernels with a weight of 0 or below are left out.
    train_pis, train_gammas : bool
        Whether the mixing weights, and the slopes of the experts, are trained.
    radial : bool
        Keep every steering matrix a multiple of the identity.
    batches : int, optional
        Number of parts in which an iteration is computed; more parts need less memory. Chosen
        automatically by default. The results do not depend on it.
    backend : {"auto", "cupy", "native", "numpy"}
        Engine that computes; "auto" takes the first of these that works on this machine.
    dtype : {"float32", "float64"}
        Precision of the model and of the computation. Kernels of a sharpness 1/σ above about 15 per
        pixel (in one dimension, 4), which ``fit`` does not make, need float64.
    channel_axis : "auto", None or int
        Axis that holds the channels. "auto": the last one, if the image has 3 or more axes and the
        last has 1 to 4 entries, else none. None: all axes are spatial.

    Attributes
    ----------
    shape : tuple of D ints
        Spatial shape of the image.
    channels : int
        Number of channels of the image.
    params : SmoeParams
        The current model, read-only. Assign another model to continue from that.
    best_params : SmoeParams
        The best model of the last call of ``train``, ``fit`` or ``sparsify``, read-only: the one
        with the lowest loss among its validations (for ``train``, also the model it began with).
    reconstruction : array
        The image that the current model describes, (*shape,) or (*shape, C), in [0, 1].
    gating : (*shape,) int32 array
        Index of the kernel with the largest gate at each pixel.
    history : list of Record
        One record per validation; the first one, at iteration 0, is that of the starting model.
    record : Record or None
        The last record of ``history`` if it describes the current model, else ``None``.
    iteration : int
        Number of training steps taken; ``fit`` starts again at 0.
    until : int
        Iteration at which the last call of ``train``, ``fit`` or ``sparsify`` ends.
    made_by : None, "train", "fit" or "sparsify"
        Method that trained the model last.
    stopped : None, "interrupted" or "diverged"
        Why the last training ended early; ``None`` if it did not, or if a callback raised an
        exception.
    tried : list of smoe_np.search.Try
        Number of kernels, iterations and PSNR of each try of the last ``fit`` or ``sparsify``, if
        its target was a PSNR; else empty.
    rounds : list of smoe_np.sparsify.Round
        Iteration, number of kernels and weight λ_S of each round of the last ``sparsify``.
    bits : dict of str to float, or None
        Bits per number for each kind of numbers, if the current model is one that ``quantize``
        returned, else ``None``.
    initial_kernels : int
        K₀ of the loss: the number of kernels that this object, or its last ``fit``, started with.
        A ``train`` right after a ``fit`` sets it to the current number of kernels.
    options : dict
        Arguments that this object was made with.
    settings : dict or None
        Arguments of the last call of ``train``, ``fit`` or ``sparsify``.
    engine : object
        Engine that computes; see ``smoe_np.engine``.
    adam : smoe_np.adam.Adam
        State of the optimiser.
    image_sha256 : str
        Digest of the image, by which checkpoints and results recognise it.

    Raises
    ------
    ValueError, TypeError
        If an argument has the wrong type, shape or range.

    Notes
    -----
    If ``image`` is a CuPy array, models, reconstructions and gating maps are returned as copies on
    the GPU, whatever the backend, and ``params`` must be on the GPU as well.

    Callbacks and other threads may look at the model while it is trained, which changes nothing;
    between validations this takes a second engine, and so about as much memory again.

    Examples
    --------
    >>> image = smoe_np.read_image("picture.png")
    >>> smoe = smoe_np.Smoe(image).fit(kernels=900)
    >>> smoe.history[-1].psnr
    >>> smoe.save("model.npz")
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
        flags = {name: check_flag(name, flag) for name, flag in (
            ("train_pis", train_pis), ("train_gammas", train_gammas), ("radial", radial))}
        self.shape, self.channels = target.shape[:-1], target.shape[-1]
        if params is None:
            warn_if_thin(image, channel_axis)
            params = initial_params(target, kernels_per_dim, dtype)
        else:
            params = ready_to_train(params, target.shape[:-1], target.shape[-1], target.dtype,
                                    radial)
        self.options = {
            "kernels_per_dim": kernels_per_dim, **flags, "batches": batches, "dtype": dtype.name,
        }
        self._looking = Looking()
        self._params = self._best_params = params
        self.initial_kernels = params.num_kernels
        self.history = []
        self._recorded = None  # the model that the last record describes
        self.iteration = 0
        self.stopped = None
        self.settings = None
        self.until = 0
        self._quantized = None, None  # a model, and its bits
        self._views = []  # pairs of a model and its read-only view
        self.tried = []
        self._plan = self._found = self._dense = None
        self._rounds = []
        self._best_loss = self._lowest_loss = math.inf
        self._seconds = self._look = 0.0  # spent on training; on the last validation
        self.image_sha256 = digest_of(target)
        self.engine = engine_class(backend, len(self.shape), self.channels)(
            self.shape, target, dtype, batches)
        self.adam = Adam(params)

    @property
    def params(self):
        """The current model; assign another one to continue training from that.

        The arrays are read-only. To change the model, change a ``copy()`` of it and assign that.

        On assignment Adam's moments are kept if the number of kernels is the same, else they start
        at 0; ``best_params`` becomes the assigned model.
        """
        return self._to_read(self._params)

    @params.setter
    def params(self, params):
        params = ready_to_train(params, self.shape, self.channels, self._params.dtype,
                                self.options["radial"])
        with self._looking.undisturbed("assign a model"):
            if params.num_kernels != self._params.num_kernels:
                self.adam = self.adam.anew(params)
            self._forget()
            self._params = self._best_params = params
            self._best_loss = self._lowest_loss = math.inf

    @property
    def best_params(self):
        """The model with the lowest loss in the last call of ``train``, ``fit`` or ``sparsify``."""
        return self._to_read(self._best_params)

    def _to_read(self, params):
        """A read-only view of a model, the same object at each call; on a GPU, a copy."""
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
        """Train the current model further by gradient descent, as tf-smoe does.

        Adam's moments are kept from one call to the next.

        Parameters
        ----------
        iterations : int
            Number of steps to take.
        val_iter : int
            Iterations between validations. A validation adds a record to ``history`` and calls the
            callbacks; it takes place at every multiple of this number and at the last iteration.
        base_lr : float
            Learning rate of centres and experts.
        lr_div : float
            Divisor for the learning rate of mixing weights, base_lr / lr_div.
        lr_mult : float
            Factor for the learning rate of steering matrices, base_lr · lr_mult.
        l1reg, bandwidth_reg : float
            Weights λ_S of the sparsity term and λ_U of the bandwidth term in the loss; see
            ``loss_and_gradients``.
        grad_clip : float, optional
            Limit on the magnitude of each element of the gradients; unlimited by default.
        adam_eps : float
            Adam's ε; tf-smoe has 1e-8.
        callbacks : iterable of callables
            Functions that are called with this object at every validation. An exception in one of
            them ends the training and is passed on to the caller; ``resume`` continues from there.
        checkpoint : str or os.PathLike, optional
            File to which a checkpoint is written at every validation and when training is
            interrupted.
        progress : callable, optional
            Function that is called with this object every few steps, and after a step that failed.

        Returns
        -------
        Smoe
            This object.

        Raises
        ------
        ValueError, TypeError
            If an argument has the wrong type or range.
        RuntimeError
            If this object is being trained already.
        KeyboardInterrupt
            After Ctrl-C. The current step is completed first, so the model stays intact, and
            ``resume`` continues. SIGTERM too takes effect only after the current step.

        Warns
        -----
        RuntimeWarning
            If the loss becomes NaN or explodes, or no kernel is left. Training then ends, and the
            model is reset to ``best_params``.
        """
        self._looking.refuse_another_training()
        settings = train_settings(
            iterations, val_iter, base_lr, lr_div, lr_mult, l1reg, bandwidth_reg, grad_clip,
            adam_eps)
        callbacks = check_callbacks(callbacks, progress)
        with self._looking.training():
            if self._plan is not None:  # its moments are those of differently scaled gradients
                self.adam, self._rounds = Adam(self._params), self.rounds
                if self._plan.kind == "fit":  # K₀ is still the few kernels that the fit began with
                    self.initial_kernels = self._params.num_kernels
            self.settings, self._plan = settings, None
            self.until = self.iteration + settings["iterations"]
            self._best_params = self._params
            self._best_loss = self._lowest_loss = math.inf
            return self._train(callbacks, checkpoint, progress)

    def fit(self, kernels=None, psnr=None, scalars=None, bytes=None, iterations=None, seconds=None,
            experts="auto", seed=0, val_iter=100, callbacks=(), checkpoint=None, progress=None,
            recipe=None, bits=None, sharpness=None):
        """Fit a new model: the best one of a given size, or the smallest one of a given quality.

        The current model is discarded; ``train`` continues from it instead.

        Parameters
        ----------
        kernels : int, optional
            Target number of kernels. Exactly one of the four targets must be given.
        psnr : float, optional
            Target PSNR in dB. Some ten fits are made to find the smallest number of kernels that
            reaches it.
        scalars : int, optional
            Target number of scalars in the model. A kernel of a grey image has 9, or 7 if
            ``experts`` is "constant"; of an RGB image, 15 or 9.
        bytes : int, optional
            Target size of a packed file (``.smoe``), in bytes. The size is an estimate; call
            ``quantize`` with the same ``bytes`` afterwards to keep within it.
        iterations : int, optional
            Number of steps to take, 3000 if neither this nor ``seconds`` is given.
        seconds : float, optional
            Time to take, in seconds and without callbacks, instead of ``iterations``; not with
            ``psnr``, which takes several fits. The result then depends on the speed of the machine.
        experts : {"auto", "affine", "constant"}
            Whether experts have slopes ("affine") or not. "auto" takes affine experts, with two
            exceptions: constant ones if slopes are not trained, and for images of several channels
            if the target is ``scalars`` or ``bytes``, where more kernels without slopes gain 0.5 to
            1.4 dB.
        seed : int
            Random seed. On the CPU the same call returns the same model, bit for bit. Another
            ``val_iter``, backend or processor changes rounding, which has the effect of another
            seed: some tenths of a dB, up to 1 dB with ten kernels.
        val_iter, callbacks, checkpoint, progress
            As in ``train``.
        recipe : smoe_np.recipe.Recipe, optional
            Parameters of the method, to replace the usual ones.
        bits : float, optional
            Mean bits per number before entropy coding, if the target is ``bytes``; 9 by default.
            Fewer bits leave room for more kernels.
        sharpness : float, optional
            Upper limit on the sharpness of a kernel along any axis, 1/σ per pixel; 3 by default.
            With 1.5 the model can be enlarged without slivers between pixels, at a cost of 0 to
            0.4 dB.

        Returns
        -------
        Smoe
            This object. ``params`` is the model at the end, or that of an earlier validation if it
            was better.

        Raises
        ------
        ValueError, TypeError
            If an argument has the wrong type or range, or this object is radial or does not train
            mixing weights.
        RuntimeError, KeyboardInterrupt
            As in ``train``.

        Warns
        -----
        RuntimeWarning
            If the loss becomes NaN, the target PSNR is out of reach, or the best model has fewer
            kernels than were asked for.

        Notes
        -----
        A fit starts from few kernels. At regular intervals it splits kernels where the error is
        largest, and removes those that contribute least. Steps are taken in each kernel's own frame
        (``smoe_np.frame``), along decorrelated axes (``smoe_np.turned_adam``). They are large until
        late in the fit, so that intermediate models are rough. An image with many pixels per kernel
        is fitted at smaller sizes first (``smoe_np.coarse``); all reported numbers are those of the
        full image.

        Examples
        --------
        >>> smoe = Smoe(image).fit(psnr=35)
        >>> smoe.params.num_kernels
        """
        self._looking.refuse_another_training()
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
            first = Try(kernels_for(settings, self.shape, self.channels), settings["iterations"])
        callbacks = check_callbacks(callbacks, progress)
        with self._looking.training():
            self._begin_fit(first, settings)
            self.settings, self.tried, self._found, self._dense = settings, [], None, None
            return self._train(callbacks, checkpoint, progress)

    def sparsify(self, target_kernels=None, target_psnr=None, iterations=PHASE_ITERATIONS,
                 val_iter=100, callbacks=(), checkpoint=None, progress=None):
        """Reduce the number of kernels: train, sparsify with a sparsity term, fine-tune.

        This is the method of the 2018 paper on sparse models (see ``smoe_np.sparsify``). It starts
        from the current model, whether that is the initial grid or a trained model. The weight λ_S
        of the sparsity term is adjusted automatically.

        Parameters
        ----------
        target_kernels : int, optional
            Number of kernels to keep, below the current number. Exactly one of the two targets must
            be given.
        target_psnr : float, optional
            Target PSNR in dB: finds the smallest number of kernels that reaches it, within 0.1 dB.
            The second and third phases are repeated up to ten times, each time from the model at
            the end of the first phase.
        iterations : (int, int, int)
            Numbers of steps of the three phases: λ_S = 0; λ_S > 0; λ_S = 0 with falling learning
            rates.
        val_iter : int
            As in ``train``; there is also a validation at the end of each phase. Validating at
            other iterations changes the result slightly.
        callbacks, checkpoint, progress
            As in ``train``. In the second phase ``progress`` is called, and Ctrl-C takes effect,
            after every ten steps.

        Returns
        -------
        Smoe
            This object. ``rounds`` lists how λ_S and the number of kernels developed.

        Raises
        ------
        ValueError, TypeError
            If an argument has the wrong type or range, the model has no more kernels than
            ``target_kernels``, or this object is radial or does not train mixing weights.
        RuntimeError, KeyboardInterrupt
            As in ``train``.

        Warns
        -----
        RuntimeWarning
            If the loss becomes NaN, or the target PSNR is out of reach.

        Examples
        --------
        >>> smoe = Smoe(image, kernels_per_dim=dense_start(image.shape[:2], 900))
        >>> smoe.sparsify(target_kernels=900)
        """
        self._looking.refuse_another_training()
        self._check_trains_all("sparsify")
        settings = sparsify_settings(target_kernels, target_psnr, iterations, val_iter)
        K = self._params.num_kernels
        if target_kernels is not None and target_kernels >= K:
            raise ValueError(f"target_kernels must be below {K}, the number of kernels that there "
                             f"are, got {target_kernels}; "
                             f"{how_to_start(self.shape, target_kernels)}")
        callbacks = check_callbacks(callbacks, progress)
        plan = Sparsification(settings, self.shape, self.options["train_gammas"], self.iteration)
        with self._looking.training():
            self.settings, self.tried, self._found, self._dense = settings, [], None, None
            self._plan = plan
            self.until = self._plan.until
            self.adam = self._plan.new_adam(self._params)
            self._best_loss = math.inf
            return self._train(callbacks, checkpoint, progress)

    def quantize(self, bits=None, iterations=TUNING_ITERATIONS, bytes=None):
        """Quantize the model to values that a packed file of few bits can represent.

        The six kinds of numbers (weights, centres, extents, shears, values, slopes) are rounded one
        after another. After each, the numbers that are not rounded yet are trained for a while to
        compensate, and kernels that increase the error are removed (see ``smoe_np.quantization``).
        Rounding everything at once, as ``params.save("model.smoe", bits=...)`` does, loses several
        times as many dB.

        Parameters
        ----------
        bits : float or dict, optional
            Mean bits per number, 4 to 24, or the bits of each kind of numbers as ``allocate_bits``
            returns them; 9 by default.
        iterations : int
            Number of steps after each kind. With 0 everything is rounded at once; so it is, too, if
            that costs less than 0.01 dB.
        bytes : int, optional
            Size limit of the packed file, in bytes, instead of ``bits``. Numbers get as many bits
            as fit into it.

        Returns
        -------
        Smoe
            This object. Its attribute ``bits`` holds the bits of each kind; saving the model with
            them changes it no further. ``best_params`` is the quantized model as well, and the last
            record of ``history`` describes it.

        Raises
        ------
        ValueError, TypeError
            If an argument has the wrong type or range, a packed file cannot hold the model, or an
            interrupted ``fit`` or ``sparsify`` has not been finished.
        KeyboardInterrupt
            After Ctrl-C; the model is left as it was.

        Examples
        --------
        >>> smoe = Smoe(image).fit(bytes=16000).quantize(bytes=16000)
        >>> smoe.save("model.smoe")
        """
        self._looking.refuse_another_training()
        iterations = check_whole("iterations", iterations, 0)
        unfinished = self.stopped is None and self.iteration < self.until  # a callback ended it
        if self._plan is not None and (unfinished or self.stopped == "interrupted"):
            raise ValueError("the last fit or sparsify was interrupted; finish it with resume(), "
                             "or quantize a new Smoe made with params=smoe.params")
        if bits is not None and bytes is not None:
            raise ValueError("quantize takes bits or bytes, not both")
        if bytes is not None:
            bytes = check_whole("bytes", bytes, 1)
        started = time.perf_counter()
        names = {"pis": "train_pis", "gamma_e": "train_gammas"}
        fixed = [name for name, option in names.items() if not self.options[option]]
        with self._looking.training():
            try:
                params, bits = quantized(self.engine, self._params, BITS if bits is None else bits,
                                         bytes, iterations, fixed)
                loss = mse = self.engine.loss(params)
                if self.settings is not None:
                    loss += self._step_settings().penalty(params)
            finally:
                self.engine.forget()
        self._params = self._best_params = params
        self._quantized = params, bits
        self.adam = self.adam.anew(params)
        self._best_loss, self._lowest_loss = loss, math.inf
        self._seconds += time.perf_counter() - started
        self._add_record(mse, loss)
        return self

    def save(self, path, bits=None):
        """Write the current model to a file; see ``SmoeParams.save``.

        Parameters
        ----------
        path : str or os.PathLike
            File name, ending in ``.npz``, or in ``.smoe`` for a small file.
        bits : float or dict, optional
            Bits per number in a ``.smoe`` file; by default those of ``quantize`` if it returned the
            current model, else 16.
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
        """Bits per number of each kind if the current model is quantized, else ``None``."""
        params, bits = self._quantized
        return bits if params is self._params else None

    @property
    def rounds(self):
        """The rounds of the last ``sparsify``: a list of ``smoe_np.sparsify.Round``."""
        return list(self._rounds if self._plan is None else self._plan.rounds)

    def _check_trains_all(self, what):
        """Raise ValueError if kernels are radial or mixing weights are not trained."""
        if self.options["radial"]:
            raise ValueError(f"radial is True, but {what} steers kernels; make the Smoe with "
                             f"radial=False, or train it")
        if not self.options["train_pis"]:
            raise ValueError(f"train_pis is False, but {what} trains weights; make the Smoe with "
                             f"train_pis=True, or train it")

    def resume(self, callbacks=(), checkpoint=None, progress=None):
        """Continue the interrupted call of ``train``, ``fit`` or ``sparsify``, with its settings.

        Parameters
        ----------
        callbacks, checkpoint, progress
            As in ``train``; they are not taken over from the interrupted call.

        Returns
        -------
        Smoe
            This object.

        Raises
        ------
        ValueError
            If no training has been started.
        RuntimeError, KeyboardInterrupt
            As in ``train``.
        """
        if self.settings is None:
            raise ValueError("there is no training to resume; call train(...) first")
        callbacks = check_callbacks(callbacks, progress)
        with self._looking.training():
            return self._train(callbacks, checkpoint, progress)

    # ---- results

    @property
    def reconstruction(self):
        """The image that the current model describes, (*shape,) or (*shape, C), in [0, 1]."""
        with self._looking.engine(self.engine, is_current=True) as engine:
            image = self._on_side_of_image(engine.render(self._params))
        return image if self._has_channels else image[..., 0]

    @property
    def gating(self):
        """Index of the kernel with the largest gate at each pixel, (*shape,) int32."""
        with self._looking.engine(self.engine, is_current=True) as engine:
            return self._on_side_of_image(engine.gating(self._params))

    def loss_and_gradients(self, params=None, l1reg=0.0, bandwidth_reg=0.0):
        """Compute the loss of a model on this image, and its gradients.

        For an optimiser of your own this is several times faster than the function
        ``smoe_np.loss_and_gradients``, as the engine and its kernel lists are kept from call to
        call. Neither the model of this object nor its optimiser changes.

        Parameters
        ----------
        params : SmoeParams, optional
            Model; by default the current one. Keep its mixing weights and the diagonal of A above
            0; see the function.
        l1reg, bandwidth_reg : float
            Weights λ_S of the sparsity term and λ_U of the bandwidth term. K₀ is the number of
            kernels of ``params``.

        Returns
        -------
        loss : float
            The loss L.
        gradients : SmoeParams
            Derivatives of L with respect to each parameter, in this object's precision.

        Raises
        ------
        ValueError, TypeError
            If an argument has the wrong type, shape or range.
        """
        is_current = params is None
        params = self._params if is_current else check_params(params).map(to_numpy)
        check_fit(params, len(self.shape), self.channels)
        weights = check_number("l1reg", l1reg), check_number("bandwidth_reg", bandwidth_reg)
        with self._looking.engine(self.engine, is_current) as engine:
            loss, gradients = penalized(engine, params, *weights)
        gradients = gradients.astype(self.options["dtype"])
        return loss, gradients.map(self._on_side_of_image)

    def memory_needed(self):
        """Peak memory of ``train`` in bytes, apart from the image that was passed in."""
        parameters = sum(array.nbytes for array in self._params.arrays().values())
        with self._looking.engine(self.engine, is_current=True) as engine:
            return engine.memory_needed(self._params) + COPIES * parameters


def _read_only(array):
    view = array.view()
    view.flags.writeable = False
    return view
