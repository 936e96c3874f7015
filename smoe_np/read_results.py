"""Reading a folder of results."""

import contextlib
import csv
import io
import json
import os
import warnings
from dataclasses import fields
from typing import Any, NamedTuple

from .arguments import check_dtype, check_image
from .files import open_to_read, path_text
from .images import read_image
from .params import SmoeParams, load_params
from .pixels import digest_of
from .records import Record
from .scene import scene_of_model


class Results(NamedTuple):
    """The contents of a folder of results, as ``write_report`` takes them."""

    params: SmoeParams
    image: Any  # array, or None if it was not found
    history: list
    settings: dict
    channel_axis: Any  # axis of the image's channels, as for ``Smoe``


def read_results(folder, image_path=None, channel_axis="run"):
    """Read the results that ``smoe train``, ``fit -r`` or ``sparsify -r`` wrote to a folder.

    Parameters
    ----------
    folder : str or os.PathLike
        Name of the folder.
    image_path : str or os.PathLike, optional
        File of the image; by default the one named in the settings, if it still exists and has not
        changed.
    channel_axis : "run", "auto", None or int
        Axis of the image's channels: "run", that of the settings; else as for ``Smoe``.

    Returns
    -------
    Results
        The best model; its image, or None if it is missing or has changed; history and settings,
        which are empty if there are none.

    Raises
    ------
    OSError
        If there is no model, or a file cannot be read.
    ValueError
        If a file is damaged, the image at ``image_path`` has other numbers of dimensions or
        channels than the model, or the image of the settings is another with ``channel_axis``.

    Warns
    -----
    UserWarning
        If the image at ``image_path`` is not the one that the model was fitted to.
    """
    def there(name):
        path = os.path.join(path_text(folder), name)
        return path if os.path.exists(path) else None

    params = load_params(os.path.join(path_text(folder), "params_best.npz"))
    history = read_history(there("history.csv")) if there("history.csv") else []
    settings = _read_settings(there("settings.json")) if there("settings.json") else {}
    axis_of_run = settings.get("channel_axis", "auto")
    if axis_of_run not in ("auto", None) and not isinstance(axis_of_run, int):
        raise ValueError(f"settings.json in {path_text(folder)!r} has {axis_of_run!r} as "
                         f"'channel_axis'")
    channel_axis = axis_of_run if channel_axis == "run" else channel_axis
    if image_path is not None:
        image = read_image(image_path)
        scene_of_model(params, image, channel_axis)  # raises if they do not match
        is_it = True
        with contextlib.suppress(TypeError, ValueError):  # settings may have been edited
            is_it = _is_of(image, settings, params, channel_axis)
        if not is_it:
            warnings.warn(f"{path_text(image_path)!r} is not the picture that the model in "
                          f"{path_text(folder)!r} was fitted to", UserWarning, stacklevel=2)
        return Results(params, image, history, settings, channel_axis)
    image = _picture_of(folder, settings, params, channel_axis)
    if (image is None and channel_axis != axis_of_run
            and _picture_of(folder, settings, params, axis_of_run) is not None):
        raise ValueError(f"channel_axis is {channel_axis!r}, with which the picture is not the one "
                         f"of the run in {path_text(folder)!r}; that had {axis_of_run!r}: leave "
                         f"out channel_axis")
    return Results(params, image, history, settings, channel_axis)


def _picture_of(folder, settings, params, channel_axis):
    """The image that settings name, or None if it is missing or not the one of the model."""
    named, from_here = settings.get("image"), settings.get("image_from_here")
    paths = [os.path.join(path_text(folder), from_here)] if isinstance(from_here, str) else []
    for path in [*paths, named]:
        try:
            image = read_image(path)
            if _is_of(image, settings, params, channel_axis):
                return image
        except (OSError, TypeError, ValueError, ImportError):
            continue
    return None


def _is_of(image, settings, params, channel_axis):
    wanted, model = settings.get("image_sha256"), settings.get("model")
    if scene_of_model(params, image, channel_axis).shape != params.image_shape:
        return False
    if wanted is None or not isinstance(model, dict):  # settings.json is gone, or not ours
        return True
    dtype = check_dtype(model.get("dtype"))
    return digest_of(check_image(image, dtype, channel_axis)[0]) == wanted


def read_history(path):
    """The records of a ``history.csv``.

    Parameters
    ----------
    path : str or os.PathLike

    Returns
    -------
    list of smoe_np.Record

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If the file is not such a table.
    """
    with open_to_read(path) as stream:
        data = stream.read()
    kinds = {field.name: field.type for field in fields(Record)}
    records = []
    try:
        for row in csv.DictReader(io.StringIO(data.decode(), newline="")):
            records.append(Record(**{name: kind(row[name]) for name, kind in kinds.items()}))
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise ValueError(f"{path_text(path)!r} is not the history of a training: line "
                         f"{len(records) + 2} is invalid ({error})") from None
    return records


def _read_settings(path):
    with open_to_read(path) as stream:
        data = stream.read()
    try:
        settings = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path!r} is not JSON: {error}") from None
    if not isinstance(settings, dict):
        raise ValueError(f"{path!r} must hold a JSON object, got {type(settings).__name__}")
    return settings
