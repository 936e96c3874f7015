"""The parameters of a model: shapes, validation, files."""

import operator

import numpy as np

from . import files, packed, param_files
from .backend import array_module, to_numpy

NAMES = files.PARAM_NAMES
LARGEST = 1e9  # limit on parameters: squares, also of a product of two, must fit float32
SMALLEST = 1e-70  # limit on π and |A_dd|: in three dimensions their product must not underflow


class SmoeParams:
    """The parameters of a Steered Mixture-of-Experts of K kernels, D dimensions and C channels.

    Parameters
    ----------
    pis : (K,) array
        Mixing weights, above 0. ``render``, ``gating`` and ``Smoe`` ignore kernels with a weight of
        0 or below; ``loss_and_gradients`` and ``.smoe`` files reject them.
    musX : (K, D) array
        Centres, in units of the longest axis of the image (pixel centres lie at (i + ½)/n).
    A : (K, D, D) or (K,) array
        Lower triangular steering matrices; the precision matrix of a kernel is A Aᵀ. Training keeps
        the diagonal above 0; a kernel with det A < 0 has a negative gate, as in tf-smoe. An array
        of shape (K,) holds the factors α of radial kernels, A = α I, as in tf-smoe.
    gamma_e : (K, C, D) or (K, D) array
        Slopes of the experts; shape (K, D) for a single channel, as in tf-smoe.
    nu_e : (K, C) or (K,) array
        Offsets of the experts; shape (K,) for a single channel.
    image_shape : tuple of D ints, optional
        Spatial shape of the image that the model was fitted to, if known.

    Attributes
    ----------
    pis, musX, A, gamma_e, nu_e : array
        The parameters, with shapes (K,), (K, D), (K, D, D), (K, C, D) and (K, C).
    image_shape : tuple of D ints or None
        Spatial shape of the image that the model was fitted to, if known.
    num_kernels, num_dims, num_channels : int
        K, D and C.
    dtype : dtype
        Floating-point type of the arrays.
    radial : bool
        Whether every steering matrix is a multiple of the identity.

    Raises
    ------
    ValueError
        If shapes do not match, a value is not finite, or a matrix is not lower triangular.
    TypeError
        If an array is not real, or NumPy and CuPy arrays are mixed.

    Notes
    -----
    All arrays have the same floating-point type, the widest of those given and at least float32.
    They are not copied unless they have to be converted. They may be modified in place; functions
    that take a model check it again.
    """

    def __init__(self, pis, musX, A, gamma_e, nu_e, image_shape=None):
        given = dict(zip(NAMES, (pis, musX, A, gamma_e, nu_e), strict=True))
        xp = array_module(*given.values())
        arrays = {name: _as_array(xp, name, value) for name, value in given.items()}
        for name, array in arrays.items():
            if array.dtype.kind not in "fiu":
                raise TypeError(f"{name} must hold real numbers, got dtype {array.dtype}")
        floats = (array.dtype for array in arrays.values() if array.dtype.kind == "f")
        dtype = np.result_type(np.float32, *floats)
        if dtype not in (np.float32, np.float64):
            dtype = np.dtype(np.float64)
        arrays = {name: array.astype(dtype, copy=False) for name, array in arrays.items()}
        self.pis, self.musX = arrays["pis"], arrays["musX"]
        if self.pis.ndim != 1:
            raise ValueError(f"pis must have shape (K,), got {self.pis.shape}")
        K = self.pis.shape[0]
        if self.musX.ndim != 2 or self.musX.shape[0] != K or self.musX.shape[1] < 1:
            raise ValueError(
                f"musX must have shape (K, D) with K = {K} as in pis, got {self.musX.shape}"
            )
        D = self.musX.shape[1]
        A = arrays["A"]
        if A.shape == (K,):  # radial, as tf-smoe keeps it
            A = A[:, None, None] * xp.eye(D, dtype=dtype)
        self.A = A
        nu_e = arrays["nu_e"]
        self.nu_e = nu_e[:, None] if nu_e.ndim == 1 else nu_e
        C = self.nu_e.shape[1] if self.nu_e.ndim == 2 else 1
        gamma_e = arrays["gamma_e"]
        self.gamma_e = gamma_e[:, None, :] if gamma_e.ndim == 2 else gamma_e
        wanted = {"A": (K, D, D), "gamma_e": (K, C, D), "nu_e": (K, C)}
        for name, shape in wanted.items():
            if getattr(self, name).shape != shape:
                raise ValueError(
                    f"{name} must have shape {shape} to fit pis {self.pis.shape} and musX "
                    f"{self.musX.shape}, got {arrays[name].shape}"
                )
        for name in NAMES:
            if not bool(xp.isfinite(getattr(self, name)).all()):
                raise ValueError(f"{name} holds NaN or infinite values; a model must be finite")
        if D > 1 and bool((xp.triu(self.A, 1) != 0).any()):
            raise ValueError(
                "A must be lower triangular; for other matrices take numpy.linalg.cholesky(A @ A.T)"
            )
        if image_shape is not None:
            try:
                image_shape = tuple(operator.index(n) for n in image_shape)
            except TypeError:
                raise ValueError(f"image_shape must be {D} sizes, got {image_shape!r}") from None
            if len(image_shape) != D or min(image_shape) < 1:
                raise ValueError(f"image_shape must be {D} sizes of at least 1, got {image_shape}")
        self.image_shape = image_shape

    def __getstate__(self):
        return {name: value for name, value in self.__dict__.items() if name != "_shown"}

    def __setattr__(self, name, value):
        self._refuse_if_shown(name)
        super().__setattr__(name, value)

    def __delattr__(self, name):
        self._refuse_if_shown(name)
        super().__delattr__(name)

    def _refuse_if_shown(self, name):
        if self.__dict__.get("_shown", False):
            raise AttributeError(f"{name} cannot be set in this read-only view of the model of a "
                                 f"Smoe; change a copy() of it, and assign that: "
                                 f"smoe.params = changed")

    @property
    def num_kernels(self):
        """Number of kernels, K."""
        return self.pis.shape[0]

    @property
    def num_dims(self):
        """Number of dimensions of the domain, D."""
        return self.musX.shape[1]

    @property
    def num_channels(self):
        """Number of channels, C."""
        return self.nu_e.shape[1]

    @property
    def dtype(self):
        """Floating-point type of the arrays."""
        return self.pis.dtype

    @property
    def radial(self):
        """Whether every steering matrix is a multiple of the identity."""
        xp = array_module(self.A)
        return bool((self.A == self.A[:, :1, :1] * xp.eye(self.num_dims, dtype=self.dtype)).all())

    def arrays(self):
        """Return the five arrays by name, as a dict; they are not copied."""
        return {name: getattr(self, name) for name in NAMES}

    def map(self, function):
        """Return a new model with ``function(array)`` in place of each of the five arrays.

        It is not checked here, but by all that takes a model.
        """
        return unchecked(
            {name: function(array) for name, array in self.arrays().items()}, self.image_shape
        )

    def copy(self):
        """Return a copy that shares no memory with this model."""
        return self.map(lambda array: array.copy())

    def astype(self, dtype):
        """Return a copy in another floating-point type.

        Raises
        ------
        TypeError
            If ``dtype`` is not a floating-point type.
        """
        if np.dtype(dtype).kind != "f":
            raise TypeError(f"dtype must be a floating-point type, got {dtype!r}")
        return self.map(lambda array: array.astype(dtype))

    def checked(self):
        """Return this model, validated again, as its arrays may have been modified in place.

        Raises
        ------
        ValueError, TypeError
            As for the class, with ``params`` in the message.
        """
        try:
            return SmoeParams(**self.arrays(), image_shape=self.image_shape)
        except (TypeError, ValueError) as error:
            named = str(error).startswith((*NAMES, "image_shape"))
            raise type(error)(f"params.{error}" if named else str(error)) from None

    def select(self, kernels):
        """Return the model that consists of some of the kernels.

        Parameters
        ----------
        kernels : (K,) bool array or int array
            Mask or indices of the kernels to keep.

        Returns
        -------
        SmoeParams
        """
        return self.map(lambda array: array[kernels])

    def save(self, path, bits=None):
        """Write the parameters to a file, atomically.

        Parameters
        ----------
        path : str or os.PathLike
            File name. ``.npz`` stores the parameters exactly, without pickle. ``.smoe`` stores them
            in few bytes: numbers are rounded to a given number of bits and entropy coded
            (``smoe_np.packed``), and the order of the kernels changes.
        bits : float or dict, optional
            Bits per number in a ``.smoe`` file, 4 to 24, or those of each kind of numbers as
            ``allocate_bits`` returns them. The default of 16 causes no visible change.

        Raises
        ------
        ValueError, TypeError
            If the name has another ending, ``bits`` is out of range or given for a ``.npz`` file,
            the model has become invalid (NaN, wrong shapes), or a ``.smoe`` file cannot hold it
            (weights or diagonal entries of A that are not above 0).
        OSError
            If the file cannot be written. An existing file of that name is left as it was.
        """
        arrays = {name: to_numpy(array) for name, array in self.checked().arrays().items()}
        if packed.is_packed_name(path):
            packed.save_packed(path, arrays, self.image_shape,
                               packed.USUAL_BITS if bits is None else bits)
            return
        if bits is not None:
            raise ValueError(f"bits applies to {packed.ENDING} files only, but path is "
                             f"{files.path_text(path)!r}; leave out bits")
        meta = {"format": "smoe_np params", "version": 1}
        if self.image_shape is not None:
            meta["image_shape"] = list(self.image_shape)
        files.save_arrays(path, arrays, meta)

    def to_tf_smoe(self):
        """Return the parameters in the layout of tf-smoe.

        Returns
        -------
        dict of str to float32 array
            Arrays by name: ``nu_e`` has shape (K,), ``gamma_e`` (K, D), and ``A`` (K,) if all
            kernels are radial. A file of tf-smoe, which ``load_params`` reads as well, is
            ``pickle.dump({"params": params.to_tf_smoe()}, file)``.

        Raises
        ------
        ValueError
            If the model has more than one channel, which tf-smoe does not support.
        """
        if self.num_channels != 1:
            raise ValueError(f"tf-smoe supports one channel only, this model has "
                             f"{self.num_channels}")
        arrays = {name: to_numpy(array).astype(np.float32)
                  for name, array in self.checked().arrays().items()}
        arrays["nu_e"], arrays["gamma_e"] = arrays["nu_e"][:, 0], arrays["gamma_e"][:, 0]
        if self.radial:
            arrays["A"] = arrays["A"][:, 0, 0]
        return arrays

    def __repr__(self):
        return (
            f"SmoeParams(num_kernels={self.num_kernels}, num_dims={self.num_dims}, "
            f"num_channels={self.num_channels}, dtype={self.dtype.name})"
        )


def unchecked(arrays, image_shape=None):
    """A SmoeParams of arrays that are known to be valid, without any checks."""
    params = SmoeParams.__new__(SmoeParams)
    for name in NAMES:
        setattr(params, name, arrays[name])
    params.image_shape = image_shape
    return params


def shown(params, function):
    """A view of a model, with ``function(array)`` for each array; none can be assigned to."""
    view = params.map(function)
    view._shown = True
    return view


def taking_part(params):
    """The model without kernels of weight 0 or below; ValueError if none is left."""
    there = params.pis > 0
    if params.num_kernels and not there.any():
        raise ValueError(f"params.pis has no weight above 0, its maximum is {params.pis.max():g}")
    return params if there.all() else params.select(there)


def check_gates(params):
    """Raise ValueError unless there is a kernel, all weights are above 0, no A_dd is 0, and all
    numbers are within LARGEST and SMALLEST.
    """
    xp = array_module(params.pis)
    if params.num_kernels == 0:
        raise ValueError("params has no kernels; a model needs at least one")
    if not bool((params.pis > 0).all()):
        raise ValueError(
            f"params.pis must be above 0, its minimum is {float(params.pis.min()):g}; leave such "
            f"kernels out with params.select(params.pis > 0)"
        )
    diagonal = xp.diagonal(params.A, axis1=1, axis2=2)
    for name, array in params.arrays().items():
        if array.size and float(abs(array).max()) > LARGEST:
            raise ValueError(f"params.{name} holds {float(abs(array).max()):g}; magnitudes must "
                             f"be at most {LARGEST:g}")
    flat = (diagonal == 0).any(axis=1)
    if bool(flat.any()):
        raise ValueError(f"params.A has a 0 on the diagonal of kernel {int(flat.argmax())}: that "
                         f"kernel has no extent; leave it out")
    for name, numbers in (("pis", params.pis), ("A", abs(diagonal))):
        if float(numbers.min()) < SMALLEST:
            raise ValueError(f"params.{name} holds {float(numbers.min()):g}; magnitudes must be "
                             f"at least {SMALLEST:g}")


def load_params(path):
    """Read the parameters of a model from a file.

    Parameters
    ----------
    path : str or os.PathLike
        A ``.npz`` or ``.smoe`` file or a checkpoint of this library, or a ``.pkl`` file of tf-smoe.
        From a checkpoint, the model is read as it was when the checkpoint was written. Pickles are
        safe to read: only arrays and plain containers are admitted, and no code is run.

    Returns
    -------
    SmoeParams

    Raises
    ------
    FileNotFoundError, IsADirectoryError
        If there is no such file.
    ValueError
        If the file is empty, damaged, of another kind, or holds anything but arrays.
    """
    arrays, meta = param_files.load_param_arrays(path)
    try:
        return SmoeParams(**arrays, image_shape=meta.get("image_shape"))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{files.path_text(path)!r}: {error}") from None


def positive_diagonals(params):
    """The model with every A_dd made positive, and its number of kernels with det A < 0.

    Negating a column of A keeps the precision A Aᵀ. But a kernel with det A < 0, which only files
    of tf-smoe have, has a negative gate, and this changes its sign.
    """
    diagonal = np.diagonal(params.A, axis1=1, axis2=2)
    flipped = int((np.sign(diagonal).prod(1) < 0).sum())
    params = params.copy()
    params.A = params.A * np.where(diagonal < 0, -1, 1)[:, None, :].astype(params.dtype)
    return params, flipped


def _as_array(xp, name, value):
    try:
        return xp.asarray(value)
    except ValueError:
        raise ValueError(f"{name} must be an array, got a list whose parts have different lengths "
                         f"or nesting") from None
