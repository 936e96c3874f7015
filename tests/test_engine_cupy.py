"""The engine on a GPU, on a pretended CuPy: see fake_cupy."""

import copy
import logging
import math

import fake_cupy
import numpy as np
import pytest
from helpers import (
    assert_gradients_agree,
    assert_same_model,
    needs_native,
    picture,
    random_model,
)

import smoe_np
from smoe_np import Smoe, engine
from smoe_np.engine_cupy import CupyEngine
from smoe_np.engine_numpy import NumpyEngine
from smoe_np.launch_cuda import CudaLauncher

IMAGE = picture((40, 33))[..., 0].astype(np.float32)

pytestmark = needs_native


# ---- whether there is one


@pytest.mark.parametrize(("devices", "capability", "words"), [
    (0, "90", "no CUDA device"), (1, "61", "compute capability 6.1, and at least 7.0"),
    (fake_cupy.CUDARuntimeError("cudaErrorInsufficientDriver: old"), "90",
     "cudaErrorInsufficientDriver")])
def test_why_there_is_no_gpu_is_why_there_is_no_engine(cupy, devices, capability, words):
    cupy.machine.devices, cupy.machine.capability = devices, capability
    assert words in CupyEngine.why_not()
    with pytest.raises(ValueError, match=f"backend 'cupy' cannot be used: .*{words}"):
        engine.engine_class("cupy")


@pytest.mark.parametrize("capability", ["70", "75", "90", "100", "121"])
def test_newer_gpus_will_do(cupy, capability):
    cupy.machine.capability = capability
    assert CupyEngine.why_not() is None


def test_dimensions_without_kernels_are_no_matter_of_the_gpu(cupy):
    assert "1 to 3 dimensions" in CupyEngine.why_not(4, 1)
    assert "1 to 8 channels" in CupyEngine.why_not(2, 9)


def test_auto_takes_the_gpu_where_one_answers(cupy, caplog):
    with caplog.at_level(logging.INFO, "smoe_np"):
        assert engine.engine_class("auto") is CupyEngine
    assert "backend 'cupy' computes" in caplog.text


def test_auto_goes_past_a_gpu_whose_kernels_fail(cupy, caplog):
    cupy.machine.failure = cupy.CompileException("kern.cu(1): error: everything")
    with caplog.at_level(logging.INFO, "smoe_np"):
        assert engine.engine_class("auto").name == "native"
    assert "not 'cupy': NVRTC fails" in caplog.text


# ---- the engine, on the kernels themselves


CASES = [((40, 33), 1, "float32"), ((150,), 3, "float64")]


@pytest.mark.parametrize(("shape", "C", "dtype"), CASES)
def test_loss_gradients_picture_and_map_are_those_of_numpy(cupy, shape, C, dtype):
    params = random_model(5, K=30, D=len(shape), C=C, dtype=np.dtype(dtype))
    target = picture(shape, C).astype(dtype)
    ours, theirs = (kind(shape, target, dtype) for kind in (CupyEngine, NumpyEngine))
    (loss, gradients), (wanted, wanted_gradients) = (
        made.loss_and_gradients(params) for made in (ours, theirs))
    assert loss == pytest.approx(wanted, rel=1e-5)
    assert_gradients_agree(gradients, wanted_gradients, 1e-4)
    np.testing.assert_allclose(ours.render(params), theirs.render(params), atol=1e-5)
    assert (ours.gating(params) == theirs.gating(params)).mean() > 0.999
    assert ours.loss(params) == pytest.approx(wanted, rel=1e-5)
    assert ours.pairs_per_pixel > 1
    assert ours.memory_needed(params) > 10_000


def test_training_is_that_of_numpy(cupy):
    ours, theirs = (Smoe(IMAGE, 6, backend=name).train(100, val_iter=25, lr_mult=100)
                    for name in ("cupy", "numpy"))
    found, wanted = ([record.psnr for record in smoe.history] for smoe in (ours, theirs))
    np.testing.assert_allclose(found, wanted, atol=0.02)
    assert cupy.machine.replays
    assert ours.engine.launch.lifetime > 1


def trained(graphs, **options):
    smoe = Smoe(IMAGE, 6, backend="cupy")
    smoe.engine.launch.graphs = graphs
    return smoe.train(60, val_iter=30, **options)


def test_graphs_change_no_bit(cupy):
    with_graphs = trained(True)
    replays = len(cupy.machine.replays)
    assert replays > 10
    assert_same_model(with_graphs.params, trained(False).params)
    assert len(cupy.machine.replays) == replays


def test_kernels_leave_in_the_middle_of_a_run(cupy):
    smoe = Smoe(IMAGE, 6, backend="cupy").train(120, val_iter=40, l1reg=0.3, lr_div=1)
    assert smoe.history[-1].kernels == smoe.params.num_kernels < 36
    assert smoe.stopped is None
    mse = NumpyEngine(IMAGE.shape, IMAGE[..., None]).loss(smoe.params)
    assert smoe.history[-1].mse == pytest.approx(mse * 255**2, rel=1e-4)


def test_training_goes_on_from_a_checkpoint_bit_for_bit(cupy, tmp_path):
    at_once = Smoe(IMAGE, 6, backend="cupy").train(40)
    first = Smoe(IMAGE, 6, backend="cupy").train(20)
    first.save_checkpoint(tmp_path / "half.npz")
    then = Smoe.from_checkpoint(tmp_path / "half.npz", cupy.asarray(IMAGE), backend="cupy")
    then.train(20)
    assert_same_model(then._params, at_once.params)


@pytest.mark.parametrize("rounds", [1, 3])
def test_no_bit_depends_on_the_number_of_rounds(cupy, monkeypatch, rounds):
    def sparse():
        smoe = Smoe(IMAGE, 8, backend="cupy")
        return smoe.sparsify(target_kernels=20, iterations=(30, 30, 60))

    usual, enqueue = sparse(), CudaLauncher._enqueue_round
    monkeypatch.setattr(CudaLauncher, "_enqueue_round",
                        lambda *given: [enqueue(*given) for _ in range(1 + rounds)])
    assert_same_model(sparse().params, usual.params)


def test_a_copy_stays_on_the_device_of_the_engine(cupy):
    cupy.machine.devices, cupy.machine.current = 2, 1
    smoe = Smoe(IMAGE, 6, backend="cupy").train(5)
    cupy.machine.current = 0
    copied = copy.deepcopy(smoe.engine)
    assert copied.device == copied.launch.device.id == 1
    np.testing.assert_array_equal(copied.render(smoe.params), smoe.engine.render(smoe.params))


def test_an_engine_stays_on_its_device(cupy):
    cupy.machine.devices, cupy.machine.current = 2, 1
    smoe = Smoe(IMAGE, 6, backend="cupy")
    cupy.machine.current = 0
    smoe.train(10, l1reg=0.3, lr_div=1)
    assert smoe.reconstruction.shape == IMAGE.shape
    smoe.engine.restore(smoe.engine.state())
    assert cupy.machine.current == 0


@pytest.mark.parametrize("use", [
    lambda smoe: smoe.fit(kernels=30, iterations=60),
    lambda smoe: smoe.quantize(bits=5),
    lambda smoe: smoe.sparsify(target_kernels=10, iterations=(10, 20, 20)),
    lambda smoe: copy.deepcopy(smoe).train(4)], ids=["fit", "quantize", "sparsify", "copy"])
def test_whatever_an_engine_is_for_it_does_on_its_device(cupy, use):
    cupy.machine.devices, cupy.machine.current = 2, 1
    smoe = Smoe(IMAGE, 6, backend="cupy").train(4)
    cupy.machine.current = 0
    use(smoe)
    assert cupy.machine.current == 0


# ---- what lies on the GPU stays there


def test_an_image_on_the_gpu_gives_results_there(cupy):
    smoe = Smoe(cupy.asarray(IMAGE), 5, backend="cupy").train(5)
    results = [smoe.reconstruction, smoe.gating]
    for params in (smoe.params, smoe.best_params):
        results += params.arrays().values()
    assert all(isinstance(array, cupy.ndarray) for array in results)
    same = Smoe(IMAGE, 5, backend="cupy").train(5)
    assert_same_model(smoe._params, same.params)
    np.testing.assert_array_equal(smoe.gating.get(), same.gating)
    assert isinstance(same.reconstruction, np.ndarray)


def test_colours_on_the_gpu_keep_their_axis(cupy):
    image = cupy.asarray((255 * picture((20, 20), 3)).astype(np.uint8))
    smoe = Smoe(image, 3, backend="numpy").train(2)
    assert isinstance(smoe.reconstruction, cupy.ndarray)
    assert smoe.reconstruction.shape == (20, 20, 3)


def test_a_copy_of_what_lies_on_the_gpu_trains_as_the_original_does(cupy):
    smoe = Smoe(cupy.asarray(IMAGE), 5, backend="numpy").train(3)
    other = copy.deepcopy(smoe).train(4)
    assert_same_model(smoe.train(4)._params, other._params)
    assert isinstance(other.params.A, cupy.ndarray)


def test_a_model_on_the_gpu_gives_pictures_and_gradients_there(cupy):
    host = random_model(6, K=9, dtype=np.float32)
    params = host.map(cupy.asarray)
    found = smoe_np.render(params, (24, 24)), smoe_np.gating(params, (24, 24))
    wanted = smoe_np.render(host, (24, 24)), smoe_np.gating(host, (24, 24))
    for ours, theirs in zip(found, wanted):
        assert isinstance(ours, cupy.ndarray)
        np.testing.assert_array_equal(ours.get(), theirs)
    loss, gradients = smoe_np.loss_and_gradients(params, cupy.asarray(IMAGE), l1reg=0.1)
    wanted, wanted_gradients = smoe_np.loss_and_gradients(host, IMAGE, l1reg=0.1)
    assert loss == wanted
    assert isinstance(gradients.A, cupy.ndarray)
    assert_same_model(gradients.map(lambda array: array.get()), wanted_gradients)


def test_a_model_on_the_gpu_goes_with_an_image_on_the_gpu(cupy):
    host = random_model(6, K=9, dtype=np.float32)
    params = host.map(cupy.asarray)
    smoe = Smoe(cupy.asarray(IMAGE), params=params, backend="cupy").train(3)
    assert isinstance(smoe.params.pis, cupy.ndarray)
    smoe.params = params
    assert_same_model(smoe._params, host.map(np.asarray))
    for image, model in ((IMAGE, params), (cupy.asarray(IMAGE), host)):
        with pytest.raises(TypeError, match="partly NumPy and partly CuPy"):
            Smoe(image, params=model)
        with pytest.raises(TypeError, match="partly NumPy and partly CuPy"):
            smoe_np.loss_and_gradients(model, image)


# ---- without room


def test_an_engine_can_be_used_after_there_was_no_room(cupy):
    target = picture((40, 33)).astype(np.float32)
    params = random_model(3, K=20, dtype=np.float32)
    made = CupyEngine((40, 33), target)
    made._prepare(params)
    cupy.machine.room = 20_000  # the lists are there, the rows of moments are not
    with pytest.raises(MemoryError):
        made.loss_and_gradients(params)
    cupy.machine.room = math.inf
    assert made.loss_and_gradients(params)[0] == pytest.approx(made.loss(params), rel=1e-6)
