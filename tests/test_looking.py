"""Looking at a model while it is trained, from callbacks and other threads, leaves no trace."""

import copy
import io
import pickle
import threading

import numpy as np
import pytest
from helpers import assert_same_model, picture, random_model

from smoe_np import Smoe

pytestmark = pytest.mark.usefixtures("each_engine")

IMAGE = picture((40, 35))[..., 0]
OTHER = random_model(0, 9)
QUERIES = {
    "reconstruction": lambda smoe: smoe.reconstruction,
    "gating": lambda smoe: smoe.gating,
    "gradients": lambda smoe: smoe.loss_and_gradients(),
    "gradients of another model": lambda smoe: smoe.loss_and_gradients(OTHER),
    "memory": lambda smoe: smoe.memory_needed(),
}
TRAININGS = {
    "train": lambda smoe, **given: smoe.train(40, val_iter=10, l1reg=1, **given),
    "fit": lambda smoe, **given: smoe.fit(kernels=20, iterations=40, val_iter=10, **given),
    "sparsify": lambda smoe, **given: smoe.sparsify(20, iterations=(10, 20, 10), val_iter=10,
                                                    **given),
}
REFUSED = {
    "copy it": copy.deepcopy,
    "save it": lambda smoe: smoe.save_checkpoint("never.npz"),
    "assign a model": lambda smoe: setattr(smoe, "params", OTHER),
}


@pytest.fixture(scope="module")
def alone(each_engine):
    """The models of trainings at which nobody looks."""
    return {name: train(Smoe(IMAGE, 6)).params for name, train in TRAININGS.items()}


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("training", TRAININGS)
@pytest.mark.parametrize("when", ["steps", "validations"])
def test_a_callback_may_look_and_nothing_changes(alone, training, query, when):
    look = QUERIES[query]
    given = {"progress": look} if when == "steps" else {"callbacks": [look]}
    assert_same_model(TRAININGS[training](Smoe(IMAGE, 6), **given).params, alone[training])


@pytest.mark.parametrize("query", QUERIES)
def test_one_may_look_between_two_trainings_and_nothing_changes(query):
    whole = Smoe(IMAGE, 6).train(10).train(10)
    smoe = Smoe(IMAGE, 6).train(10)
    QUERIES[query](smoe)
    assert_same_model(smoe.train(10).params, whole.params)


def in_a_thread(train):
    """Run a training in a thread of its own; the thread, and the errors that end it."""
    errors = []

    def run():
        try:
            train()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, errors


@pytest.mark.parametrize("training", TRAININGS)
def test_other_threads_may_look_and_nothing_changes(alone, training):
    smoe, looks = Smoe(IMAGE, 6), 0
    thread, errors = in_a_thread(lambda: TRAININGS[training](smoe, progress=lambda smoe: None))
    while thread.is_alive() or looks == 0:
        for look in QUERIES.values():
            look(smoe)
        looks += 1
    assert errors == []
    assert_same_model(smoe.params, alone[training])


@pytest.mark.parametrize("what", REFUSED)
def test_what_would_disturb_a_training_of_another_thread_is_refused_in_words(alone, what):
    smoe, begun, done = Smoe(IMAGE, 6), threading.Event(), threading.Event()

    def wait(smoe):
        begun.set()
        done.wait(20)

    thread, errors = in_a_thread(lambda: TRAININGS["train"](smoe, progress=wait))
    begun.wait(20)
    try:
        with pytest.raises(RuntimeError, match=f"training in another thread; {what} from a callb"):
            REFUSED[what](smoe)
    finally:
        done.set()
        thread.join()
    assert errors == []
    assert_same_model(smoe.params, alone["train"])


def test_what_is_seen_from_another_thread_is_the_model_of_that_moment():
    smoe, seen = Smoe(IMAGE, 6), []

    def wait(smoe):
        thread, _ = in_a_thread(lambda: seen.append(smoe.reconstruction))
        thread.join()
        seen.append(smoe.reconstruction)

    smoe.train(3, val_iter=1, progress=wait)
    for there, here in zip(seen[::2], seen[1::2]):
        np.testing.assert_array_equal(there, here)
    assert len(seen) == 6


def test_a_copy_that_is_made_while_another_thread_begins_to_train_is_of_one_moment():
    class SlowDisk(io.BytesIO):
        def write(self, data):
            if not began.is_set():
                began.set()
                done.wait(20)
            return super().write(data)

    began, done, file = threading.Event(), threading.Event(), SlowDisk()
    smoe = Smoe(IMAGE, 6).train(3)
    wanted = copy.deepcopy(smoe).train(5).params

    def train():
        began.wait(20)
        smoe.train(40, l1reg=1)
        done.set()

    thread, errors = in_a_thread(train)
    pickle.dump(smoe, file)
    thread.join()
    assert errors == []
    assert smoe.iteration == 43
    assert_same_model(pickle.loads(file.getvalue()).train(5).params, wanted)


def test_ctrl_c_while_others_look_leaves_a_training_that_can_go_on(monkeypatch):
    smoe = Smoe(IMAGE, 6)

    class Interrupted:
        def __enter__(self):
            raise KeyboardInterrupt

        def __exit__(self, *error):
            pass

    def interrupt(smoe):
        monkeypatch.setattr(smoe._looking, "_lock", Interrupted())  # waiting for it is interrupted
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        smoe.train(20, progress=interrupt)
    monkeypatch.undo()
    assert smoe.resume().iteration == 20
