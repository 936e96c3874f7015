"""Checkpoints of trainings: what goes on from them, what is refused."""


import numpy as np
import pytest
from helpers import assert_same_model, picture, random_model
from trainings import SPARSE, assert_same_training, interrupt_at

from smoe_np import Smoe, dense, engine, files
from smoe_np.params import NAMES

pytestmark = pytest.mark.usefixtures("each_engine")


@pytest.fixture(scope="module")
def image(each_engine):
    return picture((40, 35))[..., 0]


# ---- checkpoints


@pytest.fixture(scope="module", params=["float32", "float64"])
def whole_run(request, image, each_engine):
    """A training of 60 iterations without interruption, in which kernels leave."""
    smoe = Smoe(image, 8, dtype=request.param).train(60, val_iter=17, **SPARSE)
    assert smoe.params.num_kernels < 56
    return smoe


def test_a_training_of_nearly_flat_kernels_goes_on_bit_for_bit(tmp_path, each_engine):
    # lists of a single step allow for less than what rounding makes of an A that is nearly singular
    for seed in range(8):
        rng = np.random.default_rng(seed)
        target, start = rng.random((90, 90)), random_model(seed, K=200, sigma=0.02)
        start.A[:, [0, 1], [0, 1]] = 10 ** rng.uniform(-7, 1.5, (200, 2))
        smoe = Smoe(target, params=start).train(1, base_lr=5e-3)
        smoe.save_checkpoint(tmp_path / "checkpoint.npz")
        again = Smoe.from_checkpoint(tmp_path / "checkpoint.npz", target)
        smoe.train(5, base_lr=5e-3)
        assert_same_model(again.train(5, base_lr=5e-3).params, smoe.params)


@pytest.mark.parametrize("when", ["after the step", "interrupted"])
@pytest.mark.parametrize("at", [1, 5, 16, 17, 18, 40, 45, 59])
def test_a_checkpoint_goes_on_bit_for_bit_from_anywhere(image, whole_run, at, when, tmp_path):
    path = tmp_path / "checkpoint.npz"

    def save(smoe):
        if smoe.iteration == at:
            smoe.save_checkpoint(path)

    smoe = Smoe(image, 8, dtype=whole_run.options["dtype"])
    if when == "after the step":
        smoe.train(60, val_iter=17, progress=save, **SPARSE)
    else:
        with pytest.raises(KeyboardInterrupt):
            smoe.train(60, val_iter=17, progress=interrupt_at(at), checkpoint=path, **SPARSE)
    again = Smoe.from_checkpoint(path, image)
    assert again.iteration == at
    assert again.resume() is again
    assert_same_training(again, whole_run)


@pytest.mark.parametrize("at", [0, 17, 34, 51, 60])
def test_a_checkpoint_of_a_validation_goes_on_bit_for_bit(image, whole_run, at, tmp_path):
    path = tmp_path / "checkpoint.npz"
    smoe = Smoe(image, 8, dtype=whole_run.options["dtype"])
    smoe.train(60, val_iter=17, **SPARSE, callbacks=[
        lambda s: s.save_checkpoint(path) if s.iteration == at else None])
    again = Smoe.from_checkpoint(path, image)
    assert again.iteration == at
    assert_same_training(again.resume(), whole_run)


def test_checkpoints_are_left_at_validations_and_hold_all_of_it(image, tmp_path):
    path, seen = tmp_path / "checkpoint.npz", []

    def look(smoe):
        again = Smoe.from_checkpoint(path, image)
        assert_same_training(again, smoe)
        assert again.options == smoe.options
        assert again.settings == smoe.settings
        assert again.initial_kernels == smoe.initial_kernels
        assert [r.seconds for r in again.history] == [r.seconds for r in smoe.history]
        np.testing.assert_array_equal(again.reconstruction, smoe.reconstruction)
        seen.append(smoe.iteration)

    smoe = Smoe(image, 8, train_gammas=False, batches=3, dtype="float64")
    smoe.train(40, val_iter=13, checkpoint=path, callbacks=[look], grad_clip=0.1, **SPARSE)
    assert seen == [0, 13, 26, 39, 40]


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("options", [
    {"radial": True}, {"train_pis": False}, {"train_gammas": False}, {"batches": 4}])
def test_every_option_outlives_a_checkpoint(image, tmp_path, options):
    whole = Smoe(image, 5, **options).train(20, val_iter=6)
    half = Smoe(image, 5, **options)
    with pytest.raises(KeyboardInterrupt):
        half.train(20, val_iter=6, checkpoint=tmp_path / "c.npz", progress=interrupt_at(9))
    assert_same_training(Smoe.from_checkpoint(tmp_path / "c.npz", image).resume(), whole)


def test_the_best_model_before_a_checkpoint_is_still_the_best_after_it(image, tmp_path):
    settings = {"val_iter": 4, "base_lr": 0.1, "lr_mult": 30}
    whole = Smoe(image, 4).train(24, **settings)
    losses = [r.loss for r in whole.history]
    assert 0 < np.argmin(losses) < len(losses) - 1
    half = Smoe(image, 4)
    with pytest.raises(KeyboardInterrupt):
        half.train(24, **settings, checkpoint=tmp_path / "c.npz", progress=interrupt_at(22))
    assert_same_training(Smoe.from_checkpoint(tmp_path / "c.npz", image).resume(), whole)


@pytest.mark.parametrize(("shape", "axis"), [((12, 9, 3), "auto"), ((7, 6, 8), "auto"),
                                             ((7, 6, 3), None), ((30,), "auto")])
def test_checkpoints_are_for_any_picture(tmp_path, shape, axis):
    image = np.random.default_rng(1).random(shape)
    whole = Smoe(image, 4, channel_axis=axis).train(12, val_iter=5)
    half = Smoe(image, 4, channel_axis=axis)
    with pytest.raises(KeyboardInterrupt):
        half.train(12, val_iter=5, checkpoint=tmp_path / "c.npz", progress=interrupt_at(7))
    again = Smoe.from_checkpoint(tmp_path / "c.npz", image, channel_axis=axis).resume()
    assert_same_training(again, whole)
    assert again.reconstruction.shape == shape


def test_the_image_may_come_as_integers_or_as_the_floats_they_stand_for(tmp_path, image):
    whole = np.round(image * 255).astype(np.uint8)
    Smoe(whole, 4).train(3).save_checkpoint(tmp_path / "c.npz")
    assert Smoe.from_checkpoint(tmp_path / "c.npz", (whole / np.float32(255))).iteration == 3


@pytest.mark.parametrize("kernels", [4, 10])
def test_a_volume_goes_on_bit_for_bit_whether_pairs_are_few_or_many(kernels, tmp_path):
    z, y, x = np.meshgrid(*[np.linspace(0, 1, 20)] * 3, indexing="ij")
    volume = 0.5 + 0.5 * np.sin(9 * z * y + 5 * x) * (z + y + x > 1.2)
    smoe = Smoe(volume, kernels).train(8)
    smoe.save_checkpoint(tmp_path / "checkpoint.npz")
    again = Smoe.from_checkpoint(tmp_path / "checkpoint.npz", volume).train(8)
    assert_same_training(again, smoe.train(8))


def test_train_goes_on_from_a_checkpoint_too(image, tmp_path):
    one = Smoe(image, 8).train(30, **SPARSE)
    one.save_checkpoint(tmp_path / "c.npz")
    other = Smoe.from_checkpoint(tmp_path / "c.npz", image)
    for smoe in (one, other):
        smoe.train(30, **SPARSE)
    assert_same_training(other, one)


def test_a_checkpoint_before_any_training_can_be_trained(image, tmp_path):
    Smoe(image, 4).save_checkpoint(tmp_path / "c.npz")
    again = Smoe.from_checkpoint(tmp_path / "c.npz", image)
    with pytest.raises(ValueError, match="no training to resume"):
        again.resume()
    assert_same_training(again.train(10), Smoe(image, 4).train(10))


def test_a_checkpoint_of_a_failed_training_goes_on_alike(image, tmp_path):
    smoe = Smoe(image, 5)
    with pytest.warns(RuntimeWarning, match="last kernel"):
        smoe.train(50, val_iter=5, l1reg=1e3, lr_div=1e-3)
    smoe.save_checkpoint(tmp_path / "c.npz")
    again = Smoe.from_checkpoint(tmp_path / "c.npz", image)
    assert again.stopped == "diverged"
    assert_same_training(again.train(10), smoe.train(10))


def test_a_checkpoint_of_a_training_that_diverged_after_kernels_left_goes_on(image, tmp_path):
    smoe = Smoe(image, 6)
    advance = smoe.engine.advance

    def diverging(*arguments):
        done = advance(*arguments)
        return done if done.params.num_kernels == 30 else done._replace(failure="it is enough")

    smoe.engine.advance = diverging
    with pytest.warns(RuntimeWarning, match="it is enough"):
        smoe.train(300, val_iter=300, **SPARSE)
    assert smoe.params.num_kernels == 30  # the best are those of the beginning
    smoe.save_checkpoint(tmp_path / "c.npz")
    again = Smoe.from_checkpoint(tmp_path / "c.npz", image)
    smoe.engine.advance = advance
    assert_same_training(again.train(10), smoe.train(10))


def test_training_ends_before_its_model_is_one_that_nothing_takes_back(image, tmp_path):
    smoe = Smoe(image, 4)
    with pytest.warns(RuntimeWarning, match="a parameter is beyond 1e.09, or no longer finite"):
        smoe.train(5, lr_mult=1e13)
    assert smoe.stopped == "diverged"
    smoe.save_checkpoint(tmp_path / "c.npz")
    Smoe.from_checkpoint(tmp_path / "c.npz", image)


def test_a_folder_that_is_not_there_is_said_at_once(image, tmp_path):
    smoe = Smoe(image, 3)
    with pytest.raises(FileNotFoundError, match="folder does not exist"):
        smoe.train(100, checkpoint=tmp_path / "none" / "c.npz")
    assert smoe.iteration == 0


# ---- checkpoints that are refused


@pytest.fixture(scope="module")
def checkpoint(image, tmp_path_factory):
    """A checkpoint of a training in which kernels have left, and the lists it was saved with."""
    path = tmp_path_factory.mktemp("checkpoint") / "good.npz"
    with pytest.raises(KeyboardInterrupt):
        Smoe(image, 8).train(60, val_iter=17, checkpoint=path, progress=interrupt_at(50), **SPARSE)
    Smoe.from_checkpoint(path, image)
    return path


def refused(path, image, message=""):
    with pytest.raises(ValueError, match="(?s)" + message) as caught:
        Smoe.from_checkpoint(path, image)
    text = str(caught.value)
    assert path.name in text
    assert "\n" not in text
    return text


def test_another_image_is_refused(checkpoint, image):
    other = image.copy()
    other[3, 4] = 1 - other[3, 4]
    refused(checkpoint, other, "another image of the same shape")
    refused(checkpoint, image[:, ::-1], "another image of the same shape")


@pytest.mark.parametrize("shape", [(40, 36), (35, 40), (40, 35, 3), (40,), (40, 35, 2, 5)])
def test_an_image_of_another_shape_is_refused(checkpoint, shape):
    refused(checkpoint, np.zeros(shape), "does not fit: its image has .* pixels and .* channel")


def test_the_axis_of_channels_is_named_where_another_one_would_fit(tmp_path):
    volume = np.linspace(0, 1, 12 * 20 * 3).reshape(12, 20, 3)
    Smoe(volume, 2, channel_axis=None).save_checkpoint(tmp_path / "c.npz")
    with pytest.raises(ValueError, match="3 channels; with another channel_axis it may fit"):
        Smoe.from_checkpoint(tmp_path / "c.npz", volume)


def test_a_file_of_parameters_is_refused_with_the_way_to_read_it(tmp_path, image):
    Smoe(image, 3).params.save(tmp_path / "params.npz")
    refused(tmp_path / "params.npz", image, "not a checkpoint.*load_params")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    refused(tmp_path / "other.npz", image, "not a checkpoint")


def test_a_file_that_is_not_there_is_an_os_error(tmp_path, image):
    with pytest.raises(FileNotFoundError, match=r"none\.npz"):
        Smoe.from_checkpoint(tmp_path / "none.npz", image)


@pytest.mark.parametrize("kept", [0, 1, 100, 0.3, 0.9, -1])
def test_a_truncated_checkpoint_is_refused(checkpoint, image, tmp_path, kept):
    data = checkpoint.read_bytes()
    length = int(kept * len(data)) if isinstance(kept, float) else kept
    (tmp_path / "cut.npz").write_bytes(data[:length])
    refused(tmp_path / "cut.npz", image)


def test_a_checkpoint_with_a_flipped_bit_is_refused(checkpoint, image, tmp_path):
    data = bytearray(checkpoint.read_bytes())
    for at in np.random.default_rng(0).integers(0, len(data), 25):
        broken = data.copy()
        broken[at] ^= 0x10
        (tmp_path / "flipped.npz").write_bytes(broken)
        try:
            again = Smoe.from_checkpoint(tmp_path / "flipped.npz", image)
        except ValueError as refusal:
            message = str(refusal)
        else:  # a bit that nothing reads
            again.resume()
            message = "flipped.npz"
        assert "flipped.npz" in message


ARRAYS = [f"{part}_{name}" for part in ("params", "best", "adam_m", "adam_v") for name in NAMES]
META = ["shape", "channels", "image_sha256", "options", "settings", "until", "iteration",
        "adam_steps", "initial_kernels", "best_loss", "lowest_loss", "seconds", "stopped",
        "history"]


def tampered(checkpoint, tmp_path, change):
    arrays, meta = files.load_arrays(checkpoint)
    change(arrays, meta)
    files.save_arrays(tmp_path / "tampered.npz", arrays, meta)
    return tmp_path / "tampered.npz"


@pytest.mark.parametrize("name", ARRAYS)
def test_a_checkpoint_without_an_array_is_refused_by_its_name(checkpoint, image, tmp_path, name):
    path = tampered(checkpoint, tmp_path, lambda arrays, meta: arrays.pop(name))
    refused(path, image, f"damaged.*{name}.*missing")


@pytest.mark.parametrize("name", META)
def test_a_checkpoint_without_a_fact_is_refused_by_its_name(checkpoint, image, tmp_path, name):
    path = tampered(checkpoint, tmp_path, lambda arrays, meta: meta.pop(name))
    refused(path, image, f"damaged.*{name}.*missing")


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("change", [
    lambda a: a[:-1], lambda a: a[:1], lambda a: a[..., None], lambda a: a.ravel()[0],
    lambda a: a * np.nan], ids=["one less", "one", "one axis more", "a number", "NaN"])
def test_a_checkpoint_with_an_array_that_does_not_fit_is_refused(
        checkpoint, image, tmp_path, name, change):
    def replace(arrays, meta):
        arrays[name] = change(arrays[name])

    refused(tampered(checkpoint, tmp_path, replace), image)


@pytest.mark.parametrize(("name", "value"), [
    ("options", []), ("options", {}), ("options", {"dtype": "int8"}), ("options", None),
    ("settings", {}), ("settings", 5), ("settings", {"iterations": 60}), ("until", "x"),
    ("until", None), ("iteration", -1), ("iteration", "x"), ("iteration", 1.5), ("iteration", None),
    ("adam_steps", -1), ("adam_steps", 0.5), ("adam_steps", None), ("adam_steps", 3 * 10**9),
    ("initial_kernels", 0),
    ("initial_kernels", "x"), ("best_loss", "x"), ("best_loss", -1.0), ("lowest_loss", None),
    ("seconds", "x"), ("seconds", 10**400), ("channels", 10**9),
    ("stopped", 3), ("history", None), ("history", [{}]), ("history", [1]), ("shape", 5),
    ("shape", [40]), ("shape", [40, -35]), ("shape", None), ("channels", "x"),
    ("image_sha256", 5), ("format", "other"), ("version", 99)])
def test_a_checkpoint_with_a_fact_that_does_not_fit_is_refused(
        checkpoint, image, tmp_path, name, value):
    def replace(arrays, meta):
        meta[name] = value

    refused(tampered(checkpoint, tmp_path, replace), image)


@pytest.mark.parametrize("kind", [bool, int, complex])
@pytest.mark.parametrize("name", ["adam_m_A", "adam_v_pis"])
def test_moments_that_are_no_fractions_are_refused(checkpoint, image, tmp_path, name, kind):
    def replace(arrays, meta):
        arrays[name] = arrays[name].astype(kind)

    refused(tampered(checkpoint, tmp_path, replace), image)


def test_a_best_model_of_other_channels_is_refused(checkpoint, image, tmp_path):
    def replace(arrays, meta):
        K = len(arrays["best_pis"])
        arrays["best_nu_e"] = np.ones((K, 2), arrays["best_nu_e"].dtype)
        arrays["best_gamma_e"] = np.ones((K, 2, 2), arrays["best_nu_e"].dtype)

    refused(tampered(checkpoint, tmp_path, replace), image)


@pytest.mark.parametrize("change", [
    lambda a: a[:-1], lambda a: a + 1000, lambda a: -1.0 - a, lambda a: a * np.nan,
    lambda a: a[..., None]], ids=["one less", "far more", "negative", "NaN", "one axis more"])
def test_lists_that_were_tampered_with_never_change_the_picture(
        checkpoint, image, tmp_path, change):
    names = [name for name in files.load_arrays(checkpoint)[0] if name.startswith("lists_")]
    assert names
    for name in names:
        def replace(arrays, meta, name=name):
            arrays[name] = change(np.atleast_1d(arrays[name]))

        path = tampered(checkpoint, tmp_path, replace)
        try:
            smoe = Smoe.from_checkpoint(path, image)
        except ValueError as refusal:
            message = str(refusal)
            assert "tampered.npz" in message
        else:
            wanted = dense.render(smoe.params, (40, 35))[..., 0]
            np.testing.assert_allclose(smoe.reconstruction, np.clip(wanted, 0, 1), atol=1e-5)


@pytest.mark.parametrize(("first", "then"), [("native", "numpy"), ("numpy", "native")])
def test_a_checkpoint_of_one_engine_goes_on_with_another(image, tmp_path, first, then):
    for backend in (first, then):
        if engine.ENGINES[backend].why_not() is not None:
            pytest.skip(engine.ENGINES[backend].why_not())
    whole = Smoe(image, 8, backend=first).train(40, val_iter=1000, **SPARSE)
    smoe = Smoe(image, 8, backend=first).train(20, val_iter=1000, **SPARSE)
    smoe.save_checkpoint(tmp_path / "c.npz")
    other = Smoe.from_checkpoint(tmp_path / "c.npz", image, backend=then)
    assert other.engine.name == then
    other.train(20, val_iter=1000, **SPARSE)
    assert other.history[-1].psnr == pytest.approx(whole.history[-1].psnr, abs=0.02)
    assert other.params.num_kernels == pytest.approx(whole.params.num_kernels, abs=2)
