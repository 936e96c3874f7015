"""Every kernel compiles for GPUs, in each specialisation that the library can ask for."""

import itertools
import re
from concurrent.futures import ThreadPoolExecutor

import nvrtc
import pytest

from smoe_np.kernel_buffers import MOST_CHANNELS, SIDE
from smoe_np.kernel_files import kernel_source, signatures
from smoe_np.launch_cuda import OPTIONS, compiler_options

ALL = list(itertools.product(SIDE, range(1, MOST_CHANNELS + 1), ("float32", "float64")))
MAIN, COLOUR, LARGEST = (2, 1, "float32"), (2, 3, "float32"), (3, 8, "float64")
# what CuPy adds
CUPYS = ("-ftz=true", "--device-as-default-execution-space")
MOST_SHARED = 48 << 10  # bytes of a block, if none is asked for at the launch

needs_nvrtc = pytest.mark.skipif(
    nvrtc.library() is None,
    reason="no NVRTC here: pip install nvidia-cuda-nvrtc-cu12 or nvidia-cuda-nvrtc")


def in_parallel(function, cases):
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda case: function(*case), cases))


def wanted_architectures():
    return [75, 90, nvrtc.architectures()[-1]]


@needs_nvrtc
def test_every_specialisation_is_understood():
    def understand(specialisation, architecture):
        options = compiler_options(*specialisation)
        return nvrtc.compiled(kernel_source(), (*options, *CUPYS, "-dlto",
                                                f"-arch=compute_{architecture}"), "LTOIR")[0]

    # in turn for each architecture, at which the sources do not look
    codes = in_parallel(understand, zip(ALL, itertools.cycle(wanted_architectures())))
    assert len(codes) == 48
    assert all(codes)


@needs_nvrtc
def test_kernels_compile_for_old_and_new_gpus_without_spilling_registers():
    def assemble(specialisation, architecture):
        code, log = nvrtc.compiled(
            kernel_source(), (*compiler_options(*specialisation), *CUPYS, "-Xptxas", "-v",
                              f"-arch=sm_{architecture}"), "PTX", "ProgramLog")
        kernels = set(signatures(specialisation[2]))
        assert set(re.findall(r"\.entry (\w+)\(", code.decode())) == kernels
        found = {part.split("'")[0]: part
                 for part in log.decode().split("Compiling entry function '")[1:]}
        assert set(found) == kernels
        for kernel, told in found.items():
            spilled = re.findall(r"(\d+) bytes spill", told)
            assert set(spilled) == {"0"}, (specialisation, architecture, kernel, told)
        shared = {kernel: sum(map(int, re.findall(r"(\d+) bytes smem", told)))
                  for kernel, told in found.items()}
        assert shared["step"] > 8 << 10
        assert max(shared.values()) < MOST_SHARED, shared

    old, hopper, new = wanted_architectures()
    in_parallel(assemble, [(LARGEST, hopper), (COLOUR, old), (MAIN, new)])


@needs_nvrtc
def test_ascii_is_all_that_compilers_need():
    # the Greek is in comments alone
    ascii_source = kernel_source().encode("ascii", "ignore").decode()
    options = (*compiler_options(2, 1, "float32"), "-dlto", "-arch=compute_75")
    assert (nvrtc.compiled(ascii_source, options, "LTOIR")
            == nvrtc.compiled(kernel_source(), options, "LTOIR"))


@needs_nvrtc
def test_what_does_not_compile_is_told():
    with pytest.raises(AssertionError, match="error: identifier"):
        nvrtc.compiled(kernel_source() + "FUNCTION int wrong() { return nothing; }",
                       compiler_options(2, 1, "float32"))


def test_kernels_compiled_by_nvrtc_are_precise_where_it_counts():
    # ... and fast-math, which would divide and take roots of double and float by estimates, is off
    assert "-ftz=true" in OPTIONS
    assert not any("fast" in option or "prec" in option for option in OPTIONS)
