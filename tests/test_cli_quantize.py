"""``smoe quantize`` puts a model into few bytes, with its picture or without."""

import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from cli_runs import fit, quality, smoe

import smoe_np


@pytest.fixture
def model(here):
    assert fit("--kernels", 12, "-n", 60, "-q") == 0
    return here


def test_with_the_picture_it_is_what_the_library_does(model, capsys):
    image = smoe_np.read_image("grey.tif")
    for aim, given in ((("--bytes", 200), {"bytes": 200}), (("--bits", 9), {"bits": 9}),
                       ((), {"bits": 9})):
        assert smoe("quantize", "m.npz", "-o", "q.smoe", "-i", "grey.tif", *aim,
                    "--overwrite") == 0
        library = smoe_np.Smoe(image, params=smoe_np.load_params("m.npz")).quantize(**given)
        library.save("library.smoe")
        assert Path("q.smoe").read_bytes() == Path("library.smoe").read_bytes()
        told = re.fullmatch(r"q\.smoe: \d+ kernels, (\d+) bytes, PSNR ([\d.]+) dB \(([\d.]+) before"
                            r"\)\n", capsys.readouterr().out)
        assert int(told[1]) == os.path.getsize("q.smoe") <= given.get("bytes", 1000)
        assert float(told[2]) == pytest.approx(quality("q.smoe"), abs=0.02)
        assert float(told[3]) == pytest.approx(quality("m.npz"), abs=0.02)


def test_that_there_are_too_few_bits_for_so_many_kernels_is_told(here, capsys):
    assert fit("--kernels", 60, "-n", 60, "-q") == 0
    for bits, told in ((4, True), (12, False)):
        assert smoe("quantize", "m.npz", "-o", "q.smoe", "-i", "grey.tif", "--bits", bits,
                    "--overwrite") == 0
        assert ("dB are lost, as there are few bits" in capsys.readouterr().err) == told


def test_a_picture_of_another_size_is_told(model, capsys):
    smoe_np.write_image("small.tif", smoe_np.read_image("grey.tif")[:10])
    assert smoe("quantize", "m.npz", "-o", "q.smoe", "-i", "small.tif") == 0
    assert ("warning: 'small.tif' has 10×18 pixels, the picture of the model has 14×18"
            in capsys.readouterr().err)


def test_without_the_picture_bits_go_where_they_matter(model, capsys):
    assert smoe("quantize", "m.npz", "-o", "q.smoe", "--bytes", 200) == 0
    assert 150 < os.path.getsize("q.smoe") <= 200
    assert capsys.readouterr().out == f"q.smoe: 12 kernels, {os.path.getsize('q.smoe')} bytes\n"
    assert smoe("quantize", "m.npz", "-o", "n.smoe", "--bits", 8) == 0
    params = smoe_np.load_params("m.npz")
    params.save("library.smoe", smoe_np.allocate_bits(params, 8))
    assert Path("n.smoe").read_bytes() == Path("library.smoe").read_bytes()


def test_a_model_of_tf_smoe_is_packed_though_it_does_not_tell_its_size(model, fails):
    arrays = smoe_np.load_params("m.npz").to_tf_smoe()
    Path("theirs.pkl").write_bytes(pickle.dumps({"params": arrays}))
    assert smoe("quantize", "theirs.pkl", "-o", "q.smoe", "--bits", 12.5) == 0
    assert set(smoe_np.param_files.load_packed("q.smoe")[1]["bits"].values()) == {12.5}
    drawn, wanted = (smoe_np.render(smoe_np.load_params(name), (14, 18))
                     for name in ("q.smoe", "m.npz"))
    np.testing.assert_allclose(drawn, wanted, atol=0.02)
    assert "give the picture with -i" in fails("quantize", "theirs.pkl", "-o", "r.smoe", "--bytes",
                                               200)
    assert smoe("quantize", "theirs.pkl", "-o", "r.smoe", "--bytes", 200, "-i", "grey.tif") == 0


@pytest.mark.parametrize(("command", "why"), [
    ("m.npz -o q.npz", "is written as .smoe; give a name that ends so instead of 'q.npz'"),
    ("m.npz -o q.xyz", "instead of 'q.xyz'"),
    ("m.npz", "required: -o/--output"),
    ("m.npz -o there.smoe", "'there.smoe' exists; give another name, or --overwrite"),
    ("there.smoe -o there.smoe --overwrite", "'there.smoe' is the model itself"),
    ("m.npz -o q.smoe --bits 3", "bits must be 4 to 24, got 3"),
    ("m.npz -o q.smoe --bits 9 --bytes 900", "--bytes: not allowed with argument --bits"),
    ("m.npz -o q.smoe --bytes 20", "--bytes must be at least"),
    ("m.npz -o q.smoe --bytes 20 -i grey.tif", "--bytes must be at least"),
    ("m.npz -o q.smoe -i colour.tif", "1 channel, the image has 2 dimensions and 3 channels"),
    ("gone.npz -o q.smoe", "'gone.npz': there is no such file"),
    ("m.npz -o gone/q.smoe", "its folder does not exist")])
def test_errors_are_one_line_and_nothing_is_written(model, fails, command, why):
    smoe_np.load_params("m.npz").save("there.smoe")
    before = {path: path.read_bytes() for path in model.rglob("*") if path.is_file()}
    assert why in fails("quantize", *command.split())
    assert before == {path: path.read_bytes() for path in model.rglob("*") if path.is_file()}
