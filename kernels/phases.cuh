// The words in which kernels are written, and what they mean on a GPU and on a CPU.
//
// A kernel is a sequence of phases. A block owns a tile, a box of tiles or some kernels of the
// model; within a phase every pixel (FOR_PIXELS) or every item (FOR_EACH) is independent of the
// others; BARRIER stands between two phases of which the second reads what the first wrote into
// SHARED arrays.
//
//                    a GPU                        a CPU
//   a block          a thread block               one call
//   Pack             a REAL                       a vector of LANES of them
//   FOR_PIXELS(i)    thread i                     i = 0, LANES, 2 LANES, ...
//   FOR_EACH(j, n)   threads, strided             a loop
//   FOR_THREADS(t)   the thread                   once; THREADS is 1 there
//   PER_PIXEL(p)     a register                   an array over the tile's packs
//   BARRIER          __syncthreads()              nothing
//
// With EMULATE_GPU a CPU does what a GPU would: a block has threads, visited backwards; SHARED
// arrays and PER_PIXEL packs are poisoned at the start of a block; and an element of a SHARED array
// that two threads touch without a BARRIER between them, one of them writing, counts as a race.
//
// -D sets NDIM, NCHAN (dimensions and channels), REAL (float or double) and REAL_BYTES.
#pragma once

#define SIDE (NDIM == 1 ? 64 : NDIM == 2 ? 8 : 4)  // pixels along an axis of a tile
#define PIXELS 64                                  // of a tile
#define MOMENTS ((NDIM + 1) * (NDIM + 2) / 2)      // monomials up to degree 2
#define EXPERTS (NCHAN * (NDIM + 1))               // numbers of an expert
#define WIDTH (MOMENTS + EXPERTS)                  // numbers of a kernel of the model
#define CHILDREN (1 << NDIM)                       // boxes in the next larger one

#if defined(__CUDACC_RTC__) || defined(__CUDACC__)  // ------------------------------------- a GPU

#define ON_GPU 1
#define UNROLL _Pragma("unroll")
// ... with registers for one block at least: left alone, the compiler spills some to have room for more
#define KERNEL(name, threads, ...) \
    extern "C" __global__ void __launch_bounds__(threads, 1) name(__VA_ARGS__)
#define FUNCTION static __device__ __forceinline__
#define FUNCTION_ONCE static __device__ __noinline__
#define CONSTANT static __device__ const
#define BLOCK ((int)blockIdx.x)
#define THREADS ((int)blockDim.x)
#define LANES 1
#define SCALAR_PACKS
typedef REAL Pack;
#define SHARED(type, name, size) __shared__ type name[size]
#define PER_PIXEL(name) Pack name
#define PER_PIXEL_OF(name, n) Pack name[n]
#define AT(name, i) name
#define FOR_PIXELS(i) for (int i = threadIdx.x; i < PIXELS; i += PIXELS)
#define FOR_EACH(j, n) for (int j = threadIdx.x; j < (n); j += blockDim.x)
#define FOR_EACH_PLAIN(j, n) FOR_EACH(j, n)
#define FOR_THREADS(t) for (int t = threadIdx.x, once_ = 1; once_; once_ = 0)
#define ONE_THREAD if (threadIdx.x == 0)
#define BARRIER __syncthreads()
#define ATOMIC_ADD(address, value) atomicAdd(address, value)
#define MARK(element) (element) = 1  // threads may do so at the same time
#define PREFETCH(address) (void)0
#define LOAD(array, i) (array)[i]
#define STORE(array, i, value) (array)[i] = (value)

#else  // ------------------------------------------------------------------------------- a CPU

#include <math.h>
#include <string.h>
#ifdef __x86_64__
#include <immintrin.h>
#endif

#include "native.cuh"

#define ON_GPU 0
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 64")
#endif
#define FUNCTION static inline __attribute__((always_inline))
// ... of which there is one compiled body, so that its results are the same bits wherever it is called
#define FUNCTION_ONCE static __attribute__((noinline))
#define CONSTANT static const
#define PREFETCH(address) __builtin_prefetch(address)
#define ATOMIC_ADD(address, value) __atomic_fetch_add(address, value, __ATOMIC_RELAXED)

#ifdef EMULATE_GPU

#define LANES 1
#define SCALAR_PACKS
typedef REAL Pack;
#define BLOCK emulation::block
#define THREADS emulation::threads

namespace emulation {
static thread_local int block, threads, thread = -1, epoch = 0;
static long races = 0;
enum { MARKER = -3, SEVERAL = -2 };

template <class T>
struct Element {  // of a SHARED array: knows who touched it last, and when
    T value;
    int written = -1, writer = -1, seen = -1, reader = -1;
    void race() {
        __atomic_fetch_add(&races, 1, __ATOMIC_RELAXED);
        memset(&value, 0xff, sizeof value);
    }
    operator T() {
        if (written == epoch && writer != thread) race();
        reader = seen == epoch && reader != thread ? SEVERAL : thread;
        seen = epoch;
        return value;
    }
    Element &operator=(const T &other) {
        const bool read = seen == epoch && reader != thread;
        const bool overwritten = written == epoch && writer != thread;
        value = other;
        if (read || overwritten) race();
        written = epoch, writer = thread;
        return *this;
    }
    Element &operator=(const Element &other) { return *this = (T) const_cast<Element &>(other); }
    Element &operator+=(const T &other) { return *this = (T) * this + other; }
    void mark() {
        if (seen == epoch || (written == epoch && writer != MARKER)) race();
        value = 1, written = epoch, writer = MARKER;
    }
};

template <class T, int N>
struct Array {
    Element<T> element[N];
    Array() {
        for (auto &e : element) memset(&e.value, 0xff, sizeof e.value);
    }
    Element<T> &operator[](int i) {
        if (i < 0 || i >= N) __builtin_trap();
        return element[i];
    }
};

struct PixelArray {
    Pack value[PIXELS];
    PixelArray() { memset(value, 0xff, sizeof value); }
};
}  // namespace emulation

#define SHARED(type, name, size) emulation::Array<type, size> name
#define PER_PIXEL(name) emulation::PixelArray name
#define PER_PIXEL_OF(name, n) emulation::PixelArray name[n]
#define MARK(element) (element).mark()
#define AT(name, i) name.value[i]
#define OF_THREAD(t) (emulation::thread = (t) % THREADS, true)
#define UNIFORM (emulation::thread = -1, false)
#define FOR_PIXELS(i) for (int i = PIXELS - 1; i >= 0 ? OF_THREAD(i) : UNIFORM; i--)
#define FOR_EACH(j, n) for (int j = (n) - 1; j >= 0 ? OF_THREAD(j) : UNIFORM; j--)
#define FOR_EACH_PLAIN(j, n) FOR_EACH(j, n)
#define FOR_THREADS(t) for (int t = THREADS - 1; t >= 0 ? OF_THREAD(t) : UNIFORM; t--)
#define ONE_THREAD for (int t_ = 0; t_ < 1 ? OF_THREAD(0) : UNIFORM; t_++)
#define BARRIER emulation::epoch++
#define LOAD(array, i) (REAL)(array)[i]
#define STORE(array, i, value) (array)[i] = (value)

#else  // the CPU at its best

#ifdef __AVX512F__
#define PACK_BYTES 64
#elif defined(__AVX__)
#define PACK_BYTES 32
#else
#define PACK_BYTES 16
#endif
#define LANES (PACK_BYTES / REAL_BYTES)
typedef REAL Pack __attribute__((vector_size(PACK_BYTES)));
static thread_local int block_of_this_thread;
#define BLOCK block_of_this_thread
#define THREADS 1
#define SHARED(type, name, size) alignas(64) type name[size]
#define PER_PIXEL(name) Pack name[PIXELS / LANES]
#define PER_PIXEL_OF(name, n) Pack name[n][PIXELS / LANES]
#define MARK(element) (element) = 1
#define AT(name, i) name[(i) / LANES]
#define FOR_PIXELS(i) for (int i = 0; i < PIXELS; i += LANES)
#define FOR_EACH(j, n) _Pragma("omp simd") for (int j = 0; j < (n); j++)
#define FOR_EACH_PLAIN(j, n) for (int j = 0; j < (n); j++)
#define FOR_THREADS(t) for (int t = 0; t < 1; t++)
#define ONE_THREAD
#define BARRIER
#define LOAD(array, i) load_pack(&(array)[i])
#define STORE(array, i, value) store_pack(&(array)[i], value)

static inline __attribute__((always_inline)) Pack load_pack(const REAL *from) {
    Pack pack;
    memcpy(&pack, from, sizeof pack);
    return pack;
}

static inline __attribute__((always_inline)) void store_pack(REAL *to, Pack pack) {
    memcpy(to, &pack, sizeof pack);
}
#endif

// What the launcher calls: a kernel over some of its blocks, its arguments as CUDA takes them.
template <class... Arguments, int... I>
static inline __attribute__((always_inline)) void call_kernel(
    void (*body)(Arguments...), void **arguments, Indices<I...>) {
    body(*(Arguments *)arguments[I]...);
}

template <class... Arguments>
static inline __attribute__((always_inline)) void run_blocks(
    void (*body)(Arguments...), void **arguments, int first, int last, int threads) {
    (void)threads;
#ifdef EMULATE_GPU
    for (int b = last - 1; b >= first; b--) {
        emulation::threads = threads, emulation::thread = -1, emulation::epoch++;
        BLOCK = b;
#else
    for (int b = first; b < last; b++) {
        BLOCK = b;
#endif
        call_kernel(body, arguments, typename Count<sizeof...(Arguments)>::indices());
    }
}

#define KERNEL(name, threads, ...) \
    static void name##_body(__VA_ARGS__); \
    extern "C" void name(void **arguments, int first, int last, int block_threads) { \
        run_blocks(name##_body, arguments, first, last, block_threads); \
    } \
    static void name##_body(__VA_ARGS__)

#endif  // ---------------------------------------------------------------------------- for both

#define STRIDED(j, t, n) for (int j = (t); j < (n); j += THREADS)
// ... that finds a maximum, a minimum, or a sum of integers, and nothing else
#ifdef SCALAR_PACKS
#define STRIDED_MAX(j, t, n, most) STRIDED(j, t, n)
#define STRIDED_MIN(j, t, n, least) STRIDED(j, t, n)
#define STRIDED_SUM(j, t, n, sum) STRIDED(j, t, n)
#else
#define OMP(text) _Pragma(#text)
#define STRIDED_MAX(j, t, n, most) OMP(omp simd reduction(max : most)) for (int j = 0; j < (n); j++)
#define STRIDED_MIN(j, t, n, least) OMP(omp simd reduction(min : least)) for (int j = 0; j < (n); j++)
#define STRIDED_SUM(j, t, n, sum) OMP(omp simd reduction(+ : sum)) for (int j = 0; j < (n); j++)
#endif
