"""On a GPU: what CUDA alone can show. Everything else is shown on the CPU, by test_launch_cuda."""

import gc
import threading

import numpy as np
import pytest
from helpers import (
    assert_gradients_agree,
    assert_same_model,
    picture,
    random_model,
    relative_error,
)

import smoe_np
from smoe_np import Smoe, dense
from smoe_np.engine_cupy import CupyEngine
from smoe_np.engine_numpy import NumpyEngine

pytestmark = pytest.mark.gpu

IMAGE = picture((96, 128)).astype(np.float32)[..., 0]
COLOURS = picture((64, 72), 3).astype(np.float32)


def trained(image=IMAGE, k=12, iterations=200, graphs=True, **options):
    smoe = Smoe(image, k, backend="cupy")
    smoe.engine.launch.graphs = graphs
    return smoe.train(iterations, val_iter=50, **options)


@pytest.mark.parametrize("image", [IMAGE, COLOURS], ids=["grey", "colours"])
def test_training_is_that_of_numpy(image):
    theirs = Smoe(image, 12, backend="numpy").train(200, val_iter=50)
    ours = trained(image)
    assert [record.psnr for record in ours.history] == pytest.approx(
        [record.psnr for record in theirs.history], abs=0.02)


@pytest.mark.parametrize("image", [IMAGE, COLOURS], ids=["grey", "colours"])
def test_fits_end_where_those_of_numpy_do(image):
    # paths part by rounding, so a single fit may end a little higher or lower
    ours, theirs = ([Smoe(image, backend=name).fit(kernels=60, iterations=200, seed=seed)
                     for seed in range(3)] for name in ("cupy", "numpy"))
    for smoe in ours:
        assert smoe.params.num_kernels == smoe.history[-1].kernels == 60
        found = smoe_np.psnr(smoe.reconstruction, image)
        assert smoe.history[-1].psnr == pytest.approx(found, abs=1e-3)
    level, wanted = (np.mean([smoe.history[-1].psnr for smoe in fits]) for fits in (ours, theirs))
    assert level == pytest.approx(wanted, abs=0.1)


def test_a_fit_repeats_itself_bit_for_bit_and_goes_on_from_a_checkpoint(tmp_path):
    def fit(**hooks):
        return Smoe(IMAGE, backend="cupy").fit(kernels=60, iterations=100, val_iter=25, **hooks)

    whole, again = fit(), fit(callbacks=[lambda s: s.iteration == 50 and s.save_checkpoint(
        tmp_path / "half.npz")])
    assert_same_model(again.params, whole.params)
    then = Smoe.from_checkpoint(tmp_path / "half.npz", IMAGE, backend="cupy").resume()
    assert_same_model(then.params, whole.params)


def test_a_sparse_model_repeats_itself_bit_for_bit_and_goes_on_from_a_checkpoint(tmp_path):
    def sparse(**hooks):
        return Smoe(IMAGE, 12, backend="cupy").sparsify(
            target_kernels=40, iterations=(60, 60, 100), val_iter=20, **hooks)

    whole, again = sparse(), sparse(callbacks=[lambda s: s.iteration == 80 and s.save_checkpoint(
        tmp_path / "half.npz")])
    assert_same_model(again.params, whole.params)
    then = Smoe.from_checkpoint(tmp_path / "half.npz", IMAGE, backend="cupy").resume()
    assert_same_model(then.params, whole.params)


@pytest.mark.parametrize("shape", [(37, 45), (11, 13, 17)])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("float64", 1e-9)])
def test_what_kernels_are_worth_is_what_numpy_finds(shape, dtype, tolerance):
    params, target = random_model(34, K=25, D=len(shape), C=3), picture(shape, 3)
    ours, theirs = (Engine(shape, target, dtype) for Engine in (CupyEngine, NumpyEngine))
    directions = np.stack([np.array([0.48, 0.6, 0.64])[: len(shape)], np.eye(len(shape))[1]])
    for ask in (lambda e: e.weigh(params), lambda e: e.halve(params, directions)):
        assert relative_error(ask(ours), ask(theirs)) < tolerance


@pytest.mark.parametrize("shape", [(300,), (37, 45), (11, 13, 17)])
@pytest.mark.parametrize("C", [1, 3])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("float64", 1e-9)])
def test_gradients_are_those_of_the_definition(shape, C, dtype, tolerance):
    params = random_model(31, K=25, D=len(shape), C=C)
    target = picture(shape, C)
    loss, gradients = smoe_np.loss_and_gradients(params, target, backend="cupy", dtype=dtype,
                                                 channel_axis=-1)
    assert loss == pytest.approx(dense.loss(params, target), rel=tolerance)
    assert_gradients_agree(gradients, dense.gradients(params, target), tolerance)


@pytest.mark.parametrize("shape", [(300,), (37, 45), (11, 13, 17)])
def test_pictures_and_maps_are_those_of_numpy(shape):
    params = random_model(32, K=25, D=len(shape), C=2, dtype=np.float32)
    ours, theirs = ((smoe_np.render(params, shape, name), smoe_np.gating(params, shape, name))
                    for name in ("cupy", "numpy"))
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-5)
    assert (ours[1] == theirs[1]).mean() > 0.999


def test_training_repeats_itself_bit_for_bit():
    assert_same_model(trained().params, trained().params)


def test_graphs_and_plain_launches_give_the_same_bits():
    assert_same_model(trained().params, trained(graphs=False).params)


def test_batches_change_no_bit():
    whole, parts = (Smoe(IMAGE, 12, backend="cupy", batches=n).train(50) for n in (1, 5))
    assert_same_model(whole.params, parts.params)


def test_kernels_leave_in_the_middle_of_a_run():
    smoe = trained(l1reg=0.3, lr_div=10)
    assert smoe.history[0].kernels == 108 > smoe.params.num_kernels > 50
    assert smoe.history[-1].kernels == smoe.params.num_kernels
    picture_of_numpy = smoe_np.render(smoe.params, IMAGE.shape, "numpy")
    np.testing.assert_allclose(smoe.reconstruction, picture_of_numpy, atol=1e-5)


def test_training_goes_on_from_a_checkpoint_bit_for_bit(tmp_path):
    at_once = trained(iterations=100)
    trained(iterations=50).save_checkpoint(tmp_path / "half.npz")
    then = Smoe.from_checkpoint(tmp_path / "half.npz", IMAGE, backend="cupy")
    assert_same_model(then.train(50, val_iter=50).params, at_once.params)


def test_memory_comes_back():
    import cupy

    pool = cupy.get_default_memory_pool()
    trained(iterations=20)
    gc.collect()
    before = pool.used_bytes()
    smoe = trained(iterations=60)
    assert pool.used_bytes() > before
    del smoe
    gc.collect()
    assert pool.used_bytes() == before


def test_what_does_not_fit_is_told():
    import cupy

    engine = CupyEngine(IMAGE.shape, IMAGE[..., None])
    free, _ = cupy.cuda.runtime.memGetInfo()
    with pytest.raises(MemoryError, match="the GPU has no room for"):
        engine.launch.zeros(2 * free, np.uint8)


def test_two_trainings_at_once_do_not_disturb_each_other():
    alone, found = [trained(IMAGE), trained(COLOURS)], {}

    def train(number, image):
        found[number] = trained(image)

    threads = [threading.Thread(target=train, args=pair) for pair in enumerate([IMAGE, COLOURS])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in (0, 1):
        assert_same_model(found[number].params, alone[number].params)


def test_a_training_that_was_broken_off_leaves_an_engine_in_order():
    smoe = Smoe(IMAGE, 12, backend="cupy")

    def interrupt(smoe):
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        smoe.train(100, val_iter=50, progress=interrupt)
    another = Smoe(IMAGE, params=smoe.params, backend="cupy").engine
    assert smoe.engine.loss(smoe.params) == pytest.approx(another.loss(smoe.params), rel=1e-5)


def test_the_callers_stream_is_kept_to():
    import cupy

    with cupy.cuda.Stream(non_blocking=True):
        there = trained(cupy.asarray(IMAGE))
        picture_there = there.reconstruction.get()
    np.testing.assert_array_equal(picture_there, trained().reconstruction)


def test_an_image_on_the_gpu_gives_results_there():
    import cupy

    smoe = trained(cupy.asarray(IMAGE), iterations=20)
    results = [smoe.reconstruction, smoe.gating, *smoe.params.arrays().values(),
               *smoe.best_params.arrays().values()]
    assert all(isinstance(array, cupy.ndarray) for array in results)
    assert_same_model(smoe.params.map(cupy.asnumpy), trained(iterations=20).params)


def test_a_model_on_the_gpu_gives_gradients_there():
    import cupy

    params = random_model(33, K=9, dtype=np.float32)
    loss, gradients = smoe_np.loss_and_gradients(
        params.map(cupy.asarray), cupy.asarray(IMAGE), backend="cupy")
    wanted_loss, wanted = smoe_np.loss_and_gradients(params, IMAGE, backend="cupy")
    assert loss == wanted_loss
    assert isinstance(gradients.pis, cupy.ndarray)
    assert_same_model(gradients.map(cupy.asnumpy), wanted)
