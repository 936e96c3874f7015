"""Every kernel compiles for GPUs, in each specialisation that the library can ask for."""

import itertools
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

import nvrtc
import pytest

from smoe_np.kernel_buffers import MOST_CHANNELS, SIDE
from smoe_np.kernel_files import kernel_source, signatures
from smoe_np.launch_cuda import OPTIONS, compiler_options

ALL = list(itertools.product(SIDE, range(1, MOST_CHANNELS + 1), ("float32", "float64")))
MAIN = [(2, 1, "float32"), (2, 3, "float32"), (3, 1, "float32"), (2, 1, "float64")]
EXTREME = [(1, 1, "float32"), (2, 8, "float32"), (3, 8, "float64")]
# what CuPy adds
CUPYS = ("-ftz=true", "--device-as-default-execution-space")
MOST_SHARED = 48 << 10  # bytes of a block, if none is asked for at the launch

needs_nvrtc = pytest.mark.skipif(
    nvrtc.library() is None,
    reason="no NVRTC here: pip install nvidia-cuda-nvrtc-cu12 or nvidia-cuda-nvrtc")
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on the PATH")


def in_parallel(function, cases):
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda case: function(*case), cases))


def wanted_architectures():
    return [75, 90, nvrtc.architectures()[-1]]


def shared_bytes(ptx, kernel):
    """Of the SHARED arrays that a kernel declares."""
    variable = rf"\.shared \.align \d+ \.b(\d+) _ZZ{len(kernel)}{kernel}E\w+(?:\[(\d+)\])?;"
    return sum(int(bits) // 8 * int(n or 1) for bits, n in re.findall(variable, ptx))


@needs_nvrtc
def test_every_specialisation_is_understood():
    def understand(specialisation, architecture):
        options = compiler_options(*specialisation)
        return nvrtc.compiled(kernel_source(), (*options, *CUPYS, "-dlto",
                                                f"-arch=compute_{architecture}"), "LTOIR")

    # in turn for each architecture, at which the sources do not look
    codes = in_parallel(understand, zip(ALL, itertools.cycle(wanted_architectures())))
    assert len(codes) == 48
    assert all(codes)


@needs_nvrtc
def test_kernels_compile_for_old_and_new_gpus():
    def translate(specialisation, architecture):
        ptx = nvrtc.compiled(kernel_source(), (*compiler_options(*specialisation), *CUPYS,
                                               f"-arch=compute_{architecture}")).decode()
        kernels = signatures(specialisation[2])
        assert set(re.findall(r"\.entry (\w+)\(", ptx)) == set(kernels)
        shared = {kernel: shared_bytes(ptx, kernel) for kernel in kernels}
        assert shared["step"] > 8 << 10
        assert max(shared.values()) < MOST_SHARED, shared

    old, hopper, new = wanted_architectures()
    cases = [(MAIN[0], a) for a in (old, hopper, new)] + [(case, hopper) for case in MAIN[1:]]
    cases += [(EXTREME[0], old), (EXTREME[-1], old)]
    in_parallel(translate, cases)


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


def assembled(specialisation, architecture, folder):
    """Of each kernel: registers, bytes spilled, bytes of shared memory, as nvcc tells."""
    source = folder / "kernels.cu"
    source.write_text(kernel_source(), encoding="utf-8")
    name = "-".join(map(str, (*specialisation, architecture)))
    done = subprocess.run(
        ["nvcc", "-cubin", f"-arch=sm_{architecture}", "-Xptxas", "-v",
         *compiler_options(*specialisation), "-o", str(folder / f"{name}.cubin"), str(source)],
        capture_output=True, text=True, check=False, encoding="utf-8", errors="replace")
    assert done.returncode == 0, [line for line in done.stderr.splitlines() if "error" in line][:3]
    found = {}
    for part in done.stderr.split("Compiling entry function '")[1:]:
        spilled = sum(int(n) for n in re.findall(r"(\d+) bytes spill", part))
        shared = re.search(r"(\d+) bytes smem", part)
        found[part.split("'")[0]] = (int(re.search(r"Used (\d+) registers", part)[1]), spilled,
                                     int(shared[1]) if shared else 0)
    return found


def nvcc_architectures():
    listed = subprocess.run(["nvcc", "--list-gpu-arch"], capture_output=True, text=True, check=True)
    return {int(n) for n in re.findall(r"compute_(\d+)", listed.stdout)}


@needs_nvcc
def test_no_kernel_spills_registers(tmp_path):
    known = nvcc_architectures() & {75, 90}
    cases = [(case, 90) for case in (*MAIN, EXTREME[-1])] + [(MAIN[0], 75)]
    cases = [(case, number, tmp_path) for case, number in cases if number in known]
    assert cases
    for case, found in zip(cases, in_parallel(assembled, cases)):
        assert set(found) == set(signatures(case[0][2]))
        for kernel, (registers, spilled, shared) in found.items():
            assert spilled == 0, (case, kernel, registers)
            assert shared < MOST_SHARED, (case, kernel)
