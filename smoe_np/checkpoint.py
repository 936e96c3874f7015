"""Checkpoint files, whose arrays and facts are validated when they are read."""

import contextlib
import math

import numpy as np

from . import files
from .params import NAMES, SmoeParams, check_gates

FORMAT, VERSION = "smoe_np checkpoint", 1
MOST_STEPS = 1 << 30  # limit on Adam's steps, which are counted in 32 bits
MOST_CHANNELS = 1 << 20
LARGEST = 10**300  # limit on integers that are converted to floats


def save_checkpoint(path, arrays, facts):
    """Write a checkpoint, atomically.

    Parameters
    ----------
    path : str or os.PathLike
    arrays : dict of arrays
        Arrays ``params_…`` and ``best_…``, those of ``Adam.arrays``, and the engine's state
        ``lists_…``.
    facts : dict
        The entries named in ``FACTS``.
    """
    files.save_arrays(path, arrays, {"format": FORMAT, "version": VERSION, **facts})


def load_checkpoint(path):
    """Read and validate the arrays and facts that ``save_checkpoint`` wrote.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If the file is not a checkpoint, or has invalid contents.
    """
    arrays, facts = files.load_arrays(path)
    if facts.get("format") != FORMAT:
        raise ValueError(f"{files.path_text(path)!r} is not a checkpoint of smoe_np; if it is a "
                         f"model, read it with load_params, and give it to Smoe as params")
    with naming(path):
        if facts["version"] != VERSION:
            raise ValueError(f"it is of version {facts['version']!r}, only {VERSION} can be read")
        for name, (right, what) in FACTS.items():
            if not right(facts[name]):
                raise ValueError(f"its {name} is {facts[name]!r}, which is not {what}")
        params = params_of(arrays, "params", facts)
        for name in NAMES:
            for moment in ("m", "v"):
                _check_array(arrays, f"adam_{moment}_{name}", getattr(params, name).shape)
                if arrays[f"adam_{moment}_{name}"].dtype != params.dtype:
                    raise ValueError(f"its adam_{moment}_{name} is not of its dtype")
            if (arrays[f"adam_v_{name}"] < 0).any():
                raise ValueError(f"its adam_v_{name} holds squares below 0")
        _check_array(arrays, "adam_born", params.pis.shape)
        born = arrays["adam_born"]
        if born.dtype.kind != "i" or (born < 0).any() or (born > facts["adam_steps"]).any():
            raise ValueError("its adam_born are not numbers of steps that have been taken")
        _check_plan(arrays, facts, params)
        _check_lists(arrays, params)
    return arrays, facts


@contextlib.contextmanager
def naming(path):
    """Convert errors about the contents of a checkpoint to a ValueError that names the file."""
    name = repr(files.path_text(path))
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{name} is a damaged checkpoint: {error} is missing") from None
    except (OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"{name} does not fit: {error}") from None


def params_of(arrays, part, facts):
    """The SmoeParams of the arrays ``part_…``."""
    params = SmoeParams(**{name: arrays[f"{part}_{name}"] for name in NAMES},
                        image_shape=facts["shape"])
    for name, array in params.arrays().items():
        _check_array(arrays, f"{part}_{name}", array.shape)
    check_gates(params)
    return params


def lists_of(arrays):
    """The engine's state among the arrays."""
    return {name.removeprefix("lists_"): array for name, array in arrays.items()
            if name.startswith("lists_")}


def _check_plan(arrays, facts, params):
    """Raise unless the facts about a fit or a sparsification are such as ``save_checkpoint``
    writes, and its intermediate models are there.
    """
    models = {"best"}
    for kind, right in PLANS.items():
        told = facts.get(kind)
        if told is None:
            continue
        for name, is_right in right.items():
            if not is_right(told[name]):
                raise ValueError(f"its {kind} has {told[name]!r} for {name}")
        if told["found"] is not None:
            models.add("found")
            if not _are_rounds(told["found_rounds"]):
                raise ValueError(f"its {kind} has {told['found_rounds']!r} for found_rounds")
    told = facts.get("sparsify")
    if told is not None and told["phase"] != "train":
        if told["kernels"] is None or told["dense_kernels"] == 0:
            raise ValueError("its sparsify has no number of kernels")
        if facts["settings"]["target_psnr"] is not None:
            models.add("dense")
    for model in models:
        found = params_of(arrays, model, facts)
        if (found.num_channels, found.dtype) != (params.num_channels, params.dtype):
            raise ValueError(f"the {model} model is not of its channels and dtype")


def _is_history(x):
    return isinstance(x, list) and all(
        isinstance(record, dict) and record.keys() == RECORD.keys()
        and all(is_right(record[name]) for name, is_right in RECORD.items()) for record in x)


def _is_try(x):
    return (isinstance(x, list) and len(x) == 3 and _count(1)(x[0]) and _count(1)(x[1])
            and _number(x[2]))


def _are_rounds(x):
    return isinstance(x, list) and all(
        isinstance(one, list) and len(one) == 3 and _count(0)(one[0]) and _count(1)(one[1])
        and _weight(one[2]) for one in x)


def _check_lists(arrays, params):
    """Raise unless the state of the pair lists is a possible one: see ``LiveLists.state``."""
    K, D = params.musX.shape
    lists = lists_of(arrays)
    slots = len(lists["pis"]) if "pis" in lists and lists["pis"].ndim == 1 else 0
    if "pis" in lists:
        shapes = {"pis": (slots,), "musX": (slots, D), "A": (slots, D, D), "slots": (K,),
                  "allowance": (3, slots + 1), "moved": (3, K + 1), "age": (), "stale": (),
                  "tau": ()}
        for name, shape in shapes.items():
            _check_array(arrays, f"lists_{name}", shape)
        steps = np.diff(lists["slots"], prepend=-1, append=slots)
        if lists["slots"].dtype.kind != "i" or (steps < 1).any():
            raise ValueError("its lists_slots are not ascending numbers of kernels")
        if not (lists["pis"] > 0).all() or lists["age"] < 0:
            raise ValueError("its lists_pis must be above 0, and its lists_age not below 0")
        if (np.diagonal(lists["A"], axis1=1, axis2=2) == 0).any():
            raise ValueError("its lists_A has a 0 on a diagonal")
        if not 0 < lists["tau"] <= 100:
            raise ValueError(f"its lists_tau is {lists['tau']}")
    if "anchor" in lists:
        _check_array(arrays, "lists_anchor", (slots, 1 + D + D * (D + 1) // 2))
    if "remembered" in lists:
        remembered = lists["remembered"]
        _check_array(arrays, "lists_remembered", (remembered.size,))
        if remembered.dtype.kind != "i" or (remembered < -1).any() or (remembered >= slots).any():
            raise ValueError("its lists_remembered are not numbers of kernels")
    if "rate" in lists:
        _check_array(arrays, "lists_rate", (3, K + 1))
    if any((lists[name] < 0).any() for name in ("allowance", "moved", "rate") if name in lists):
        raise ValueError("its lists_allowance, lists_moved or lists_rate is below 0")


def _check_array(arrays, name, shape):
    array = arrays[name]
    if array.shape != shape or not np.isfinite(array).all():
        raise ValueError(f"its {name} must be finite and of shape {shape}, it has {array.shape}")
    if array.dtype.kind not in "fiu" + "b" * (name == "lists_stale"):
        raise ValueError(f"its {name} must hold numbers, it holds {array.dtype}")


def _count(least, most=math.inf):
    return lambda x: isinstance(x, int) and not isinstance(x, bool) and least <= x <= most


def _number(x):
    return isinstance(x, int | float) and not isinstance(x, bool) and (
        abs(x) <= LARGEST if isinstance(x, int) else not math.isnan(x))


def _loss(x):
    return _number(x) and x >= 0


def _weight(x):
    return _number(x) and 0 <= x < math.inf


RECORD = {"iteration": _count(0), "loss": _number, "mse": _number, "psnr": _number,
          "kernels": _count(1), "seconds": _number}
SEARCH = {"tried": lambda x: isinstance(x, list) and all(map(_is_try, x)),
          "found": lambda x: x is None or (_is_history(x) and x)}
PLANS = {
    "fit": {"kernels": _count(1), "planned": _count(1), "last_event": _count(0), **SEARCH},
    "sparsify": {"begin": _count(0), "kernels": lambda x: x is None or _count(1)(x),
                 "iterations": _count(0), "phase": lambda x: x in ("train", "sparsify", "tune"),
                 "dense_kernels": _count(0), "l1reg": _weight, "weight_rate": _weight,
                 "rounds": _are_rounds, **SEARCH},
}
FACTS = {
    "shape": (lambda x: isinstance(x, list) and x and all(_count(1)(n) for n in x), "sizes"),
    "channels": (_count(1, MOST_CHANNELS), "a number of channels"),
    "image_sha256": (lambda x: isinstance(x, str), "a digest"),
    "options": (lambda x: isinstance(x, dict), "a set of options"),
    "settings": (lambda x: x is None or isinstance(x, dict), "a set of settings"),
    "history": (_is_history, "a list of records"),
    "recorded": (lambda x: isinstance(x, bool), "true or false"),
    "rounds": (_are_rounds, "a list of rounds"),
    "bits": (lambda x: x is None or isinstance(x, dict), "a set of bit depths"),
    "until": (_count(0), "an iteration"),
    "iteration": (_count(0), "an iteration"),
    "adam_steps": (_count(0, MOST_STEPS), "a number of steps"),
    "initial_kernels": (_count(1), "a number of kernels"),
    "best_loss": (_loss, "a loss"),
    "lowest_loss": (_loss, "a loss"),
    "seconds": (_number, "a time"),
    "stopped": (lambda x: x in (None, "interrupted", "diverged"), "a reason to stop"),
}
