"""The parameters of a model: their shapes, their checks, their files."""

import operator

import numpy as np

from . import files, packed, param_files
from .backend import array_module, to_numpy

NAMES = files.PARAM_NAMES
LARGEST = 1e9  # of a parameter: its square, and that of a product of two, fits float32
SMALLEST = 1e-70  # of a weight and of A_dd, lest their product in three dimensions is 0


class SmoeParams:
    """The parameters of a Steered Mixture-of-Experts of K kernels, D dimensions and C channels.

    Parameters
    ----------
    pis : (K,) array
        Mixing weights, above 0. Kernels of 0 or below take no part in ``render`` and ``gating``,
        and ``Smoe`` leaves them out; ``loss_and_gradients`` and ``.smoe`` files refuse them.
    musX : (K, D) array
        Centres, in the unit of the picture's longest axis (pixel centres at (i + ½)/n).
    A : (K, D, D) or (K,) array
        Lower triangular steering matrices; a kernel's precision is A Aᵀ. An array (K,) holds the
        factors α of radial kernels, A = α I, as tf-smoe stores them.
    gamma_e : (K, C, D) or (K, D) array
        Slopes of the experts; (K, D) for a single channel, as tf-smoe stores them.
    nu_e : (K, C) or (K,) array
        Offsets of the experts; (K,) for a single channel.
    image_shape : tuple of D ints, optional
        The size of the picture that the model was fitted to, where it is known.

    All arrays are kept in one floating-point type, the widest of those given (float32 at least).
    They are not copied where they fit as they are. They may be changed, and are checked again where
    a model is used.

    Raises
    ------
    ValueError
        If shapes do not fit together, a value is not finite, or a matrix is not lower triangular.
    TypeError
        If an array is not real, or NumPy and CuPy arrays are mixed.
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
            raise AttributeError(f"{name} cannot be set in a model that a Smoe shows, which would "
                                 f"not follow; change a copy() of the model, and set that: "
                                 f"smoe.params = changed")

    @property
    def num_kernels(self):
        """K, the number of kernels."""
        return self.pis.shape[0]

    @property
    def num_dims(self):
        """D, the number of dimensions of the domain."""
        return self.musX.shape[1]

    @property
    def num_channels(self):
        """C, the number of channels."""
        return self.nu_e.shape[1]

    @property
    def dtype(self):
        """The floating-point type of all arrays."""
        return self.pis.dtype

    @property
    def radial(self):
        """Whether every steering matrix is a multiple of the identity."""
        xp = array_module(self.A)
        return bool((self.A == self.A[:, :1, :1] * xp.eye(self.num_dims, dtype=self.dtype)).all())

    def arrays(self):
        """The five arrays by name, not copied."""
        return {name: getattr(self, name) for name in NAMES}

    def map(self, function):
        """A new model of ``function(array)`` for each of the five arrays."""
        return unchecked(
            {name: function(array) for name, array in self.arrays().items()}, self.image_shape
        )

    def copy(self):
        """A copy that shares no memory."""
        return self.map(lambda array: array.copy())

    def astype(self, dtype):
        """A copy in another floating-point type; TypeError for any other type."""
        if np.dtype(dtype).kind != "f":
            raise TypeError(f"dtype must be a floating-point type, got {dtype!r}")
        return self.map(lambda array: array.astype(dtype))

    def checked(self):
        """This model, checked as at first: its arrays may have been changed since."""
        try:
            return SmoeParams(**self.arrays(), image_shape=self.image_shape)
        except (TypeError, ValueError) as error:
            named = str(error).startswith((*NAMES, "image_shape"))
            raise type(error)(f"params.{error}" if named else str(error)) from None

    def select(self, kernels):
        """The model of some kernels: a mask (K,) of bool or an array of indices."""
        return self.map(lambda array: array[kernels])

    def save(self, path, bits=None):
        """Write the parameters to a file, whole or not at all.

        Parameters
        ----------
        path : str or os.PathLike
            ``.npz`` holds them as they are, with no pickle inside; ``.smoe`` in few bytes, each
            number rounded to some bits of the range that its kind has, and coded
            (``smoe_np.packed``); kernels come back from it in another order.
        bits : float or dict, optional
            Of a number in a ``.smoe`` file, 4 to 24, by default 16, which change a picture by
            less than can be seen; or by kind, as ``allocate_bits`` gives them.

        Raises
        ------
        ValueError, TypeError
            If the name has another ending; if bits are given for another file, or are not as they
            must be; if the model is none any more (NaN, wrong shapes), or a ``.smoe`` file cannot
            hold it (weights or diagonals that are not above 0).
        OSError
            If the file cannot be written; an older file of that name is then left as it was.
        """
        arrays = {name: to_numpy(array) for name, array in self.checked().arrays().items()}
        if packed.is_packed_name(path):
            packed.save_packed(path, arrays, self.image_shape,
                               packed.USUAL_BITS if bits is None else bits)
            return
        if bits is not None:
            raise ValueError(f"bits are those of a {packed.ENDING} file; path is "
                             f"{files.path_text(path)!r}")
        meta = {"format": "smoe_np params", "version": 1}
        if self.image_shape is not None:
            meta["image_shape"] = list(self.image_shape)
        files.save_arrays(path, arrays, meta)

    def to_tf_smoe(self):
        """The parameters as tf-smoe keeps them: a dict of arrays of its names and shapes.

        ``nu_e`` is (K,), ``gamma_e`` (K, D), and ``A`` (K,) where all kernels are radial.

        Raises
        ------
        ValueError
            If the model has more than one channel, which tf-smoe does not know.
        """
        if self.num_channels != 1:
            raise ValueError(f"tf-smoe knows one channel only, this model has {self.num_channels}")
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
    """A SmoeParams of arrays that are known to fit, without looking at their values."""
    params = SmoeParams.__new__(SmoeParams)
    for name in NAMES:
        setattr(params, name, arrays[name])
    params.image_shape = image_shape
    return params


def shown(params, function):
    """What is shown of a model: ``function(array)`` of each array, and none can be replaced."""
    view = params.map(function)
    view._shown = True
    return view


def taking_part(params):
    """The model without kernels of a weight of 0 or less; ValueError if that is all of them."""
    there = params.pis > 0
    if params.num_kernels and not there.any():
        raise ValueError(f"params.pis has no weight above 0, its maximum is {params.pis.max():g}")
    return params if there.all() else params.select(there)


def check_gates(params):
    """Raise ValueError unless there is a kernel, all weights are above 0, no A_dd is 0, and no
    number is so large that its square overflows float32, or so small that kernels vanish.
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
            raise ValueError(f"params.{name} holds {float(abs(array).max()):g}; beyond {LARGEST:g} "
                             f"nothing can be computed")
    flat = (diagonal == 0).any(axis=1)
    if bool(flat.any()):
        raise ValueError(f"params.A has a 0 on the diagonal of kernel {int(flat.argmax())}: that "
                         f"kernel has no extent; leave it out")
    for name, numbers in (("pis", params.pis), ("A", abs(diagonal))):
        if float(numbers.min()) < SMALLEST:
            raise ValueError(f"params.{name} holds {float(numbers.min()):g}; below {SMALLEST:g} "
                             f"nothing can be computed")


def load_params(path):
    """Read parameters from a file: ``.npz`` or ``.smoe`` of this library, or ``.pkl`` of tf-smoe.

    Of a checkpoint it is the model as its training had it then. A pickle is read by a reader that
    admits arrays and plain containers and runs no code.

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


def _as_array(xp, name, value):
    try:
        return xp.asarray(value)
    except ValueError:
        raise ValueError(f"{name} must be an array, got a list whose parts differ in length "
                         f"or nesting") from None
