"""SmoeParams: shapes, checks, dtypes, files."""

import pickle
import re

import numpy as np
import pytest
from helpers import assert_same_model, needs_native, picture, random_model

import smoe_np
from smoe_np import Smoe, SmoeParams, load_params
from smoe_np.params import NAMES, check_gates, positive_diagonals, unchecked
from smoe_np.scene import scene_of_model


def arrays(K=4, D=2, C=1, dtype=np.float32):
    """Arguments by name, of a model drawn at random."""
    return random_model(0, K=K, D=D, C=C, dtype=dtype).arrays()


def uses(params, backend):
    """All that takes a model, as functions of nothing."""
    image = picture((9, 8))[..., 0]
    other = Smoe(image, 2, backend=backend)
    return [lambda: smoe_np.render(params, (9, 8), backend),
            lambda: smoe_np.gating(params, (9, 8), backend),
            lambda: smoe_np.loss_and_gradients(params, image, backend=backend),
            lambda: smoe_np.allocate_bits(params, 8, shape=(9, 8), backend=backend),
            lambda: Smoe(image, params=params, backend=backend),
            lambda: setattr(other, "params", params),
            lambda: scene_of_model(params, image)]


# ---- shapes


@pytest.mark.parametrize("C", [1, 3])
@pytest.mark.parametrize("D", [1, 2, 3])
def test_shapes_are_those_of_the_docstring(D, C):
    params = SmoeParams(**arrays(5, D, C))
    assert params.pis.shape == (5,)
    assert params.musX.shape == (5, D)
    assert params.A.shape == (5, D, D)
    assert params.gamma_e.shape == (5, C, D)
    assert params.nu_e.shape == (5, C)
    assert (params.num_kernels, params.num_dims, params.num_channels) == (5, D, C)
    assert set(params.arrays()) == set(NAMES)


@pytest.mark.parametrize("K", [1, 2, 4])
@pytest.mark.parametrize("D", [1, 2, 3])
def test_tf_smoes_shapes_are_taken_for_one_channel(K, D):
    given = arrays(K, D)
    params = SmoeParams(**{**given, "nu_e": given["nu_e"][:, 0],
                           "gamma_e": given["gamma_e"][:, 0]})
    assert_same_model(params, SmoeParams(**given))


@pytest.mark.parametrize("K", [1, 2, 3])
@pytest.mark.parametrize("D", [1, 2, 3])
def test_radial_factors_become_multiples_of_the_identity(K, D):
    alpha = np.linspace(3, 4, K, dtype=np.float32)
    params = SmoeParams(**{**arrays(K, D), "A": alpha})
    np.testing.assert_array_equal(params.A, alpha[:, None, None] * np.eye(D))
    assert params.radial
    assert params.dtype == np.float32


def test_radial_tells_multiples_of_the_identity_from_others():
    params = SmoeParams(**{**arrays(3), "A": np.ones(3, np.float32)})
    assert params.radial
    for i, j in ((0, 0), (1, 0), (1, 1)):
        changed = params.copy()
        changed.A[2, i, j] += 1e-6
        assert not changed.radial
    assert SmoeParams(**arrays(3, D=1)).radial


def test_a_model_may_be_empty():
    params = SmoeParams(**arrays(4)).select(np.zeros(4, bool))
    again = SmoeParams(**params.arrays())
    assert (again.num_kernels, again.num_dims, again.num_channels) == (0, 2, 1)
    with pytest.raises(ValueError, match="no kernels"):
        check_gates(again)


# ---- dtypes


@pytest.mark.parametrize(("given", "kept"), [
    ("float32", "float32"), ("float64", "float64"), ("float16", "float32"), ("int64", "float32"),
    ("uint8", "float32"), (">f4", "float32"), (">f8", "float64"), ("longdouble", "float64")])
def test_all_arrays_are_kept_in_one_type(given, kept):
    params = SmoeParams([1.0], [[0.0, 0]], [[[1.0, 0], [0, 1]]], [[0.0, 0]], [1.0])
    params = SmoeParams(**{name: array.astype(given) for name, array in params.arrays().items()})
    assert {array.dtype.str for array in params.arrays().values()} == {np.dtype(kept).str}
    assert params.dtype == kept


@pytest.mark.parametrize("name", NAMES)
def test_the_widest_type_given_wins(name):
    given = arrays()
    given[name] = given[name].astype(np.float64)
    assert SmoeParams(**given).dtype == np.float64


def test_lists_will_do():
    params = SmoeParams([1, 2], [[0, 0], [1, 1]], [3, 4], [[0, 0], [0, 0]], [0, 1])
    assert params.dtype == np.float32
    assert params.num_kernels == 2


def test_arrays_that_fit_are_not_copied_and_copies_share_nothing():
    given = arrays()
    params = SmoeParams(**given)
    copy, wide = params.copy(), params.astype(np.float64)
    for name in NAMES:
        assert getattr(params, name) is given[name]
        assert not np.shares_memory(getattr(copy, name), given[name])
        assert getattr(wide, name).dtype == np.float64
    assert_same_model(copy, params)
    assert_same_model(wide.astype(np.float32), params)


# ---- every refusal


def changed(**changes):
    return {**arrays(), **changes}


def with_entry(name, value):
    array = arrays()[name].copy()
    array.flat[0] = value
    return changed(**{name: array})


REFUSED = [
    (changed(pis=np.ones((4, 1))), ValueError, r"pis must have shape (K,), got (4, 1)"),
    (changed(pis=1.0), ValueError, r"pis must have shape (K,), got ()"),
    (changed(pis=np.ones(3)), ValueError, r"musX must have shape (K, D) with K = 3"),
    (changed(musX=np.ones(4)), ValueError, r"musX must have shape (K, D) with K = 4"),
    (changed(musX=np.ones((4, 0))), ValueError, r"musX must have shape (K, D)"),
    (changed(musX=np.ones((5, 2))), ValueError, r"got (5, 2)"),
    (changed(A=np.ones((4, 2))), ValueError, r"A must have shape (4, 2, 2)"),
    (changed(A=np.ones(3)), ValueError, r"A must have shape (4, 2, 2)"),
    (changed(A=np.ones((4, 3, 3))), ValueError, r"got (4, 3, 3)"),
    (changed(gamma_e=np.ones((4, 3))), ValueError, r"gamma_e must have shape (4, 1, 2)"),
    (changed(gamma_e=np.ones((4, 3, 2))), ValueError, r"got (4, 3, 2)"),
    (changed(gamma_e=np.ones(4)), ValueError, r"gamma_e must have shape (4, 1, 2)"),
    (changed(nu_e=np.ones(3)), ValueError, r"nu_e must have shape (4, 1)"),
    (changed(nu_e=np.ones((4, 3))), ValueError, r"gamma_e must have shape (4, 3, 2)"),
    (changed(nu_e=np.ones((4, 1, 1))), ValueError, r"nu_e must have shape (4, 1)"),
    (changed(nu_e=1.0), ValueError, r"nu_e must have shape (4, 1)"),
    (changed(A=np.ones((4, 2, 2))), ValueError, "lower triangular"),
    (changed(image_shape=(4,)), ValueError, "image_shape must be 2 sizes"),
    (changed(image_shape=(4, 0)), ValueError, "image_shape must be 2 sizes"),
    (changed(image_shape=(4, 5, 6)), ValueError, "image_shape must be 2 sizes"),
    (changed(image_shape=(4.5, 5)), ValueError, "image_shape must be 2 sizes, got"),
    *[(with_entry(name, bad), ValueError, f"{name} holds NaN or infinite values")
      for name in NAMES for bad in (np.nan, np.inf, -np.inf)],
    *[(changed(**{name: arrays()[name].astype(dtype)}), TypeError,
       f"{name} must hold real numbers, got dtype {np.dtype(dtype)}")
      for name in NAMES for dtype in (complex, bool, object, "U3")],
]


@pytest.mark.parametrize(("given", "error", "message"), REFUSED)
def test_what_does_not_fit_is_refused_in_words(given, error, message):
    with pytest.raises(error, match=re.escape(message)):
        SmoeParams(**given)


def test_a_matrix_of_three_dimensions_must_be_lower_triangular_everywhere():
    for i, j in ((0, 1), (0, 2), (1, 2)):
        given = arrays(3, D=3)
        given["A"][1, i, j] = 1e-20
        with pytest.raises(ValueError, match="lower triangular"):
            SmoeParams(**given)


@pytest.mark.parametrize(("change", "message"), [
    ({"pis": np.array([1, 0, 1, 1.0])}, r"params.pis must be above 0, its minimum is 0.*select"),
    ({"pis": np.array([1, 1, -2.5, 1])}, r"its minimum is -2.5"),
    ({"A": np.zeros((4, 2, 2))}, "0 on the diagonal of kernel"),
    ({"A": np.array([1, 1, 0, 1.0])}, "0 on the diagonal of kernel"),
    ({"pis": np.array([1, 1, 1e-300, 1])}, r"params.pis holds 1e-300; magnitudes must"),
    ({"A": np.array([1, 1, -1e-100, 1])}, r"params.A holds 1e-100; magnitudes must"),
])
def test_check_gates_refuses_kernels_that_have_no_gate(change, message):
    params = SmoeParams(**changed(**change))  # such models exist, in files
    with pytest.raises(ValueError, match=message):
        check_gates(params)
    check_gates(SmoeParams(**arrays()))


# ---- select, map


@pytest.mark.parametrize("kernels", [
    np.array([True, False, True, False]), np.array([2, 0]), np.array([3]), slice(1, 3)])
def test_select_takes_masks_and_indices(kernels):
    params = SmoeParams(**arrays(4, C=3), image_shape=(8, 9))
    chosen = params.select(kernels)
    for name in NAMES:
        np.testing.assert_array_equal(getattr(chosen, name), getattr(params, name)[kernels])
    assert chosen.image_shape == (8, 9)
    assert params.num_kernels == 4


def test_select_by_mask_or_index_copies():
    params = SmoeParams(**arrays())
    for kernels in (np.ones(4, bool), np.arange(4)):
        for name, array in params.select(kernels).arrays().items():
            assert not np.shares_memory(array, getattr(params, name))


@pytest.mark.parametrize("backend", ["numpy", pytest.param("native", marks=needs_native)])
@pytest.mark.parametrize("name", NAMES)
def test_arrays_that_were_changed_are_checked_where_a_model_is_used(name, backend):
    params = SmoeParams(**arrays())
    getattr(params, name).flat[0] = np.nan
    for use in uses(params, backend):
        with pytest.raises(ValueError, match=f"params.{name} holds NaN or infinite values"):
            use()


def test_arrays_that_were_replaced_are_checked_where_a_model_is_used():
    params = SmoeParams(**arrays())
    params.A = np.full(4, 9.0)  # round, as tf-smoe has them
    for use in uses(params, "auto"):
        use()
    params.musX = params.musX[:3]
    for use in uses(params, "auto"):
        with pytest.raises(ValueError, match=r"params.musX must have shape \(K, D\) with K = 4"):
            use()


def test_what_is_wrong_with_changed_arrays_is_told_by_their_names():
    params = SmoeParams(**arrays())
    params.pis = [0.5, 0.5, 0.5, -1.0]
    assert set(np.unique(smoe_np.gating(params, (9, 8)))) <= {0, 1, 2}
    params.nu_e = np.full((4, 1), np.nan)
    with pytest.raises(ValueError, match="params.nu_e holds NaN"):
        params.to_tf_smoe()
    with pytest.raises(TypeError, match="^params must be a SmoeParams"):
        smoe_np.render({}, (3, 3))


def test_unchecked_looks_at_nothing():
    params = unchecked({name: array.astype(complex) for name, array in arrays().items()})
    assert params.pis.dtype == complex
    assert params.image_shape is None


def test_repr_says_what_it_is():
    assert repr(SmoeParams(**arrays(4, D=3, C=2))) == (
        "SmoeParams(num_kernels=4, num_dims=3, num_channels=2, dtype=float32)")


# ---- files


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("image_shape", [None, (30, 20)])
def test_a_saved_model_comes_back_bit_for_bit(tmp_path, dtype, image_shape):
    params = SmoeParams(**arrays(7, C=3, dtype=dtype), image_shape=image_shape)
    params.A[2] *= -1
    params.pis[3] = -1e-30
    params.save(tmp_path / "model.npz")
    again = load_params(tmp_path / "model.npz")
    assert_same_model(again, params)
    assert again.image_shape == image_shape


def test_a_save_that_fails_leaves_the_older_file(tmp_path):
    params = SmoeParams(**arrays())
    params.save(tmp_path / "model.npz")
    broken = params.copy()
    broken.pis = np.array([object()] * 4)
    with pytest.raises(TypeError):
        broken.save(tmp_path / "model.npz")
    assert_same_model(load_params(tmp_path / "model.npz"), params)


@pytest.mark.parametrize("name", ["model", "model.png", "model.smo", "npz"])
def test_a_file_of_another_ending_is_not_written(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=r"is written as .npz or .smoe; give a name that ends so"):
        SmoeParams(**arrays()).save(tmp_path / name)
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize("name", ["model.npz", "model.smoe"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_could_not_be_read_again_is_not_written(tmp_path, name, bad):
    params = SmoeParams(**arrays())
    params.nu_e[1] = bad
    with pytest.raises(ValueError, match=r"params.nu_e holds NaN or infinite values"):
        params.save(tmp_path / name)
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("radial", [False, True])
def test_to_tf_smoe_gives_its_names_shapes_and_type(radial):
    given = arrays(5, dtype=np.float64)
    params = SmoeParams(**{**given, "A": np.arange(1.0, 6) if radial else given["A"]})
    found = params.to_tf_smoe()
    shapes = {name: array.shape for name, array in found.items()}
    assert shapes == {"pis": (5,), "musX": (5, 2), "A": (5,) if radial else (5, 2, 2),
                      "gamma_e": (5, 2), "nu_e": (5,)}
    assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}
    assert_same_model(SmoeParams(**found), params.astype(np.float32))


def test_to_tf_smoe_refuses_colour():
    with pytest.raises(ValueError, match="one channel only, this model has 3"):
        SmoeParams(**arrays(C=3)).to_tf_smoe()


@pytest.mark.parametrize("protocol", range(6))
def test_what_tf_smoe_would_pickle_is_read(tmp_path, protocol):
    params = SmoeParams(**arrays(6))
    with open(tmp_path / "params.pkl", "wb") as stream:
        pickle.dump({"params": params.to_tf_smoe(), "num_pis": [6]}, stream, protocol)
    again = load_params(tmp_path / "params.pkl")
    assert_same_model(again, params)
    assert again.image_shape is None


def test_a_file_of_a_model_that_does_not_fit_is_refused_by_name(tmp_path):
    with open(tmp_path / "params.pkl", "wb") as stream:
        pickle.dump({"params": changed(nu_e=np.ones(9, np.float32))}, stream)
    with pytest.raises(ValueError, match=r"params\.pkl': nu_e must have shape"):
        load_params(tmp_path / "params.pkl")
    np.savez(tmp_path / "other.npz", **changed(pis=np.full(4, np.nan)))
    with pytest.raises(ValueError, match=r"other\.npz': pis holds NaN"):
        load_params(tmp_path / "other.npz")
    np.savez(tmp_path / "complex.npz", **changed(pis=np.ones(4, complex)))
    with pytest.raises(ValueError, match=r"complex\.npz': pis must hold real numbers"):
        load_params(tmp_path / "complex.npz")


def test_an_image_shape_that_does_not_fit_is_refused_by_name(tmp_path):
    for wrong in ([4], [4, 0], "big", [1.5, 2], 7):
        meta = np.frombuffer(
            f'{{"image_shape": {wrong!r}}}'.replace("'", '"').encode(), np.uint8)
        np.savez(tmp_path / "model.npz", **arrays(), meta=meta)
        with pytest.raises(ValueError, match=r"model\.npz"):
            load_params(tmp_path / "model.npz")


def test_a_file_that_is_not_there_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing"):
        load_params(tmp_path / "nothing.npz")
    with pytest.raises(IsADirectoryError):
        load_params(tmp_path)


# ---- positive_diagonals


def test_positive_diagonals_keep_the_precision_and_count_the_negative_gates():
    params = random_model(11, K=40, D=3, negative=0.4)
    before = params.copy()
    positive, flipped = positive_diagonals(params)
    assert_same_model(params, before)
    assert (np.diagonal(positive.A, axis1=1, axis2=2) > 0).all()
    assert flipped == (np.linalg.det(params.A) < 0).sum() > 0
    np.testing.assert_allclose(positive.A @ positive.A.transpose(0, 2, 1),
                               params.A @ params.A.transpose(0, 2, 1))
    np.testing.assert_array_equal(np.abs(positive.A), np.abs(params.A))
    assert positive.dtype == params.dtype


def test_positive_diagonals_leave_a_positive_model_as_it_is():
    params = random_model(12, K=10, dtype=np.float32)
    positive, flipped = positive_diagonals(params)
    assert flipped == 0
    assert_same_model(positive, params)
