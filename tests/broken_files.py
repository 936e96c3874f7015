"""Files of arrays made by hand, whole and broken, and what readers of them must do."""

import io
import os
import pickle
import warnings
import zipfile

import numpy as np
import pytest
from hypothesis import strategies as st

ARRAYS = {
    "pis": np.array([0.25, 0.75], dtype=np.float32),
    "musX": np.array([[0.1, 0.2], [0.3, 0.4]], dtype=np.float32),
    "A": np.arange(8, dtype=np.float64).reshape(2, 2, 2),
    "gamma_e": np.zeros((2, 1, 2), dtype=np.float32),
    "nu_e": np.array([0.5, 0.25], dtype=np.float32),
}
OTHERS = {"mses": [np.float64(3.5), 2.0], "losses": (1, 2.5, None, True), "num_pis": [2, 2]}


def tf_smoe_bytes(protocol=4, params=ARRAYS):
    return pickle.dumps({"params": params, **OTHERS}, protocol=protocol)


def written(folder, data, name="file"):
    path = folder / name
    path.write_bytes(data)
    return path


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name in wanted:
        assert found[name].dtype == wanted[name].dtype, name
        assert found[name].dtype.byteorder in "=|", name  # "<" is equal, and yet shown as "<f4"
        np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)


def one_line(caught, path):
    """The message, which must be one line that names the path."""
    text = str(caught.value)
    assert "\n" not in text
    assert repr(str(path))[1:-1] in text
    return text


def npz_bytes(arrays=ARRAYS, meta=None):
    members = {name: np.asarray(array) for name, array in arrays.items()}
    if meta is not None:
        members["meta"] = np.frombuffer(meta, dtype=np.uint8)
    stream = io.BytesIO()
    np.savez(stream, **members)
    return stream.getvalue()


def zip_bytes(entries, method=zipfile.ZIP_STORED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return stream.getvalue()


def npy_bytes(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def npy_header(shape, descr="<f4"):
    stream = io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue()


class Evil:
    """Unpickled by Python's own pickle, it makes a file of the given name."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@st.composite
def mutated(draw, originals):
    data = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        data[at : at + draw(st.integers(0, 2))] = draw(st.binary(min_size=0, max_size=3))
    return bytes(data)


def read_or_refused(load, path, data):
    """What is read of some bytes, or None if a ValueError says in a line what is wrong."""
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy's about odd headers, Pillow's about odd pictures
        try:
            return load(path)
        except ValueError as error:
            message = str(error)
    assert str(path) in message
    assert "\n" not in message
    return None


def loads_or_value_error(load, path, data):
    arrays = read_or_refused(load, path, data)
    if arrays is not None:
        arrays = arrays[0] if isinstance(arrays, tuple) else arrays
        assert all(array.dtype.kind in "biufc" for array in arrays.values())


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("mutants") / "file"
