"""What is in a folder of results, read again."""

import contextlib
import csv
import io
import json
import os
import warnings
from dataclasses import fields
from typing import Any, NamedTuple

from .engine import check_dtype, check_image
from .files import open_to_read, path_text
from .images import read_image
from .params import SmoeParams, load_params
from .pixels import digest_of
from .records import Record
from .scene import scene_of_model


class Results(NamedTuple):
    """What a folder of results holds, as ``write_report`` takes it."""

    params: SmoeParams
    image: Any  # None where it is not to be found
    history: list
    settings: dict
    channel_axis: Any  # of the image, as ``Smoe`` takes it


def read_results(folder, image_path=None, channel_axis=None):
    """Read what ``smoe train``, ``fit -r`` or ``sparsify -r`` has left in a folder.

    Parameters
    ----------
    folder : str or os.PathLike
    image_path : str or os.PathLike, optional
        The picture; by default the one that the settings name, if it is there and the same.
    channel_axis : "auto" or int, optional
        As ``Smoe`` takes it; by default that of the settings.

    Returns
    -------
    Results
        The best model and its picture, None where that has gone or changed; history and settings,
        empty where there are none.

    Raises
    ------
    OSError
        If there is no model, or a file cannot be read.
    ValueError
        If a file is damaged, or the picture given is not one of the model.

    Warns
    -----
    UserWarning
        If the picture given is not that which the model was made of.
    """
    def there(name):
        path = os.path.join(path_text(folder), name)
        return path if os.path.exists(path) else None

    params = load_params(os.path.join(path_text(folder), "params_best.npz"))
    history = read_history(there("history.csv")) if there("history.csv") else []
    settings = _read_settings(there("settings.json")) if there("settings.json") else {}
    if channel_axis is None:
        channel_axis = settings.get("channel_axis", "auto")
        if channel_axis not in ("auto", None) and not isinstance(channel_axis, int):
            raise ValueError(f"settings.json in {path_text(folder)!r} has {channel_axis!r} as "
                             f"'channel_axis'")
    if image_path is not None:
        image = read_image(image_path)
        scene_of_model(params, image, channel_axis)  # or an error: they do not fit together
        is_it = True
        with contextlib.suppress(TypeError, ValueError):  # of settings that somebody has changed
            is_it = _is_of(image, settings, params, channel_axis)
        if not is_it:
            warnings.warn(f"{path_text(image_path)!r} is not the picture that the model of "
                          f"{path_text(folder)!r} was made of", UserWarning, stacklevel=2)
        return Results(params, image, history, settings, channel_axis)
    image = _picture_of(folder, settings, params, channel_axis)
    return Results(params, image, history, settings, channel_axis)


def _picture_of(folder, settings, params, channel_axis):
    """The picture that settings name, if it is there and the one that the model was made of."""
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
    if wanted is None or not isinstance(model, dict):  # of an earlier version
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
        If it is not such a table.
    """
    with open_to_read(path) as stream:
        data = stream.read()
    kinds = {field.name: field.type for field in fields(Record)}
    records = []
    try:
        for row in csv.DictReader(io.StringIO(data.decode(), newline="")):
            records.append(Record(**{name: kind(row[name]) for name, kind in kinds.items()}))
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise ValueError(f"{path_text(path)!r} is no history of a training: line "
                         f"{len(records) + 2} is not as it must be ({error})") from None
    return records


def _read_settings(path):
    with open_to_read(path) as stream:
        data = stream.read()
    try:
        settings = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path!r} is no JSON: {error}") from None
    if not isinstance(settings, dict):
        raise ValueError(f"{path!r} must hold a JSON object, got {type(settings).__name__}")
    return settings
