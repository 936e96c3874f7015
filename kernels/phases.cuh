// The macros in which compute kernels are written, and their definitions for a GPU and for a CPU.
//
// A kernel is a sequence of phases. A block processes a tile, a box of tiles or some kernels of the
// model; within a phase every pixel (FOR_PIXELS) or every item (FOR_EACH) is independent of the
// others; BARRIER stands between two phases of which the second reads what other threads wrote into
// SHARED arrays in the first, or the other way round. FOR_PIXELS(i), FOR_EACH(i, n) and
// STRIDED(i, t, n) all give i to the same thread, which needs no BARRIER to find its own again.
//
//                    a GPU                        a CPU
//   a block          a thread block               one call
//   Pack             a REAL                       a vector of LANES of them
//   FOR_PIXELS(i)    thread i                     i = 0, LANES, 2 LANES, ...
//   FOR_EACH(j, n)   threads, strided             a loop
//   FOR_THREADS(t)   the thread                   once; THREADS is 1 there
//   PER_PIXEL(p)     a register                   an array over the tile's packs
//   BARRIER          __syncthreads()              nothing
//   WATCHED          a pointer                    a pointer
//
// With EMULATE_GPU, a CPU does what a GPU would: a block has the threads that it was launched with,
// which run in reverse order. smoe_races counts faults: races, where two threads touch an element
// of a SHARED array or of WATCHED memory without a BARRIER between them, and one of them writes;
// reads of an element of a SHARED array or a PER_PIXEL pack before anything was written to it; a
// BARRIER that not all threads reach; and more threads than a kernel is declared for. A
// floating-point number that is read at fault is NaN.
//
// -D sets NDIM, NCHAN (dimensions and channels), REAL (float or double) and REAL_BYTES.
#pragma once

#define SIDE (NDIM == 1 ? 64 : NDIM == 2 ? 8 : 4)  // pixels along an axis of a tile, ...
#define LENGTH (LONG * SIDE)                       // ... except along axis 0
#define PIXELS (LONG * TILE_THREADS)               // pixels of a tile
#define TILE_THREADS 64                            // GPU threads of a tile's block: one per pixel
#define MOMENTS ((NDIM + 1) * (NDIM + 2) / 2)      // monomials up to degree 2
#define EXPERTS (NCHAN * (NDIM + 1))               // numbers of an expert
#define WIDTH (MOMENTS + EXPERTS)                  // parameters of a kernel of the model
#define CHILDREN (1 << NDIM)                       // boxes that make up one of the next level

#if defined(__CUDACC_RTC__) || defined(__CUDACC__)  // ------------------------------------- a GPU

#define UNROLL _Pragma("unroll")
// With a minimum of one block per multiprocessor: left to itself, the compiler spills registers to
// fit more blocks.
#define KERNEL(name, threads, ...) \
    extern "C" __global__ void __launch_bounds__(threads, 1) name(__VA_ARGS__)
#define FUNCTION static __device__ __forceinline__
#define FUNCTION_ONCE static __device__ __noinline__
#define FUNCTION_CALLED FUNCTION
#define CONSTANT static __device__ const
#define BLOCK ((int)blockIdx.x)
#define THREADS ((int)blockDim.x)
#define LANES 1
#define LONG 1
#define SCALAR_PACKS
typedef REAL Pack;
#define SHARED(type, name, size) __shared__ type name[size]
#define WATCHED(type, name, from) type *name = from
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
#define COUNT(address) atomicAdd(address, 1)
#define MARK(element) (element) = 1  // several threads may do so at once
#define PREFETCH(address) (void)0
#define LOAD(array, i) (array)[i]
#define STORE(array, i, value) (array)[i] = (value)

#else  // ------------------------------------------------------------------------------- a CPU

#include <math.h>
#include <string.h>
#ifdef __x86_64__
#include <immintrin.h>
#endif
#ifdef EMULATE_GPU
#include <unordered_map>
#endif

#include "native.cuh"

#if defined(EMULATE_GPU) || !defined(__OPTIMIZE__)  // for fast compilation, not for speed
#define UNROLL
#define FUNCTION static inline
#else
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 64")
#endif
#define FUNCTION static inline __attribute__((always_inline))
#endif
// A function that is compiled once, so that it gives the same bits wherever it is called
#ifdef __clang__
#define FUNCTION_ONCE static __attribute__((noinline))
#else
#define FUNCTION_ONCE static __attribute__((noinline, noclone))
#endif
// ... of which a copy in every kernel that calls it would take long to compile, and gain nothing
#define FUNCTION_CALLED FUNCTION_ONCE
#define CONSTANT static const
#define PREFETCH(address) __builtin_prefetch(address)
#define ATOMIC_ADD(address, value) __atomic_fetch_add(address, value, __ATOMIC_RELAXED)
#define COUNT(address) (*(address))++  // not atomic: each block has its own counters

#ifdef EMULATE_GPU

#define LANES 1
#define LONG 1
#define SCALAR_PACKS
typedef REAL Pack;
#define BLOCK emulation::block
#define THREADS emulation::threads

namespace emulation {
static thread_local int block, threads, thread = -1;  // −1: outside a loop over threads
static thread_local long epoch = 0;                   // BARRIERs so far
static long races = 0;  // and other faults, so far
static int without = 0;  // the source line of a BARRIER that is skipped, to prove that it is needed
enum { NOBODY = -4, MARKER = -3, SEVERAL = -2 };

static void fault() { __atomic_fetch_add(&races, 1, __ATOMIC_RELAXED); }

static void barrier(int line) {
    if (thread >= 0) fault();
    if (line != without) epoch++;
}

// a floating-point number read at fault; an integer might be used as an index
template <class T>
static void spoil(T &value) {
    if ((T)0.5 != 0) memset((void *)&value, 0xff, sizeof value);
}

struct Touched {  // who last wrote and who last read an element, and in which epoch
    long written = -1, seen = -1;
    int writer = NOBODY, reader = NOBODY;
    bool may_read() {
        const bool raced = written == epoch && writer != thread;
        reader = seen == epoch && reader != thread ? SEVERAL : thread;
        seen = epoch;
        return !raced;
    }
    bool may_write() {
        const bool raced = (thread < 0 && threads > 1) || (seen == epoch && reader != thread) ||
                           (written == epoch && writer != thread);
        written = epoch, writer = thread;
        return !raced;
    }
    bool may_mark() {
        const bool raced = seen == epoch || (written == epoch && writer != MARKER);
        written = epoch, writer = MARKER;
        return !raced;
    }
};

template <class T>
struct Element {  // of a SHARED array
    T value = 0;
    Touched touched;
    void check(bool fine) {
        if (fine) return;
        fault();
        spoil(value);
    }
    operator T() {
        check(touched.may_read() && touched.writer != NOBODY);
        return value;
    }
    Element &operator=(const T &other) {
        value = other;
        check(touched.may_write());
        return *this;
    }
    Element &operator=(const Element &other) { return *this = (T) const_cast<Element &>(other); }
    Element &operator+=(const T &other) { return *this = (T) * this + other; }
    void mark() {
        value = 1;
        check(touched.may_mark());
    }
};

template <class T, int N>
struct Array {
    Element<T> element[N];
    Element<T> &operator[](int i) {
        if (i < 0 || i >= N) __builtin_trap();
        return element[i];
    }
};

// Global memory through which threads of a block communicate.
template <class T>
struct Watched {
    T *from;
    std::unordered_map<long long, Touched> touched;
    struct Place {
        Watched &all;
        long long i;
        operator T() {
            if (!all.touched[i].may_read()) fault();
            return all.from[i];
        }
        Place &operator=(T value) {
            if (!all.touched[i].may_write()) fault();
            all.from[i] = value;
            return *this;
        }
        Place &operator=(Place other) { return *this = (T)other; }
    };
    Place operator[](long long i) { return {*this, i}; }
};

struct OfPixel {  // a PER_PIXEL pack, which its own thread alone can reach
    Pack value;
    bool written = false;
    operator Pack() {
        if (!written) {
            fault();
            spoil(value);
        }
        return value;
    }
    OfPixel &operator=(Pack other) {
        value = other, written = true;
        return *this;
    }
    OfPixel &operator=(const OfPixel &other) { return *this = (Pack) const_cast<OfPixel &>(other); }
    OfPixel &operator/=(Pack other) { return *this = (Pack) * this / other; }
};

struct PixelArray {
    OfPixel value[PIXELS];
    OfPixel &at(int i) {
        if (i < 0 || i >= PIXELS || i != thread) fault();
        return value[i];
    }
};
}  // namespace emulation

// The number of races and other faults since the start, or since they were last reset.
extern "C" long smoe_races() { return __atomic_load_n(&emulation::races, __ATOMIC_RELAXED); }
extern "C" void smoe_forget_races() { __atomic_store_n(&emulation::races, 0, __ATOMIC_RELAXED); }
// Skip the BARRIER in this line of the source from now on; 0: none.
extern "C" void smoe_without_barrier(int line) { emulation::without = line; }

#define SHARED(type, name, size) emulation::Array<type, size> name
#define PER_PIXEL(name) emulation::PixelArray name
#define PER_PIXEL_OF(name, n) emulation::PixelArray name[n]
#define MARK(element) (element).mark()
#define AT(name, i) name.at(i)
#define WATCHED(type, name, from) emulation::Watched<type> name{from, {}}
#define OF_THREAD(t) (emulation::thread = (t) % THREADS, true)
#define UNIFORM (emulation::thread = -1, false)
#define FOR_PIXELS(i) \
    for (int i = (THREADS < PIXELS ? THREADS : PIXELS) - 1; i >= 0 ? OF_THREAD(i) : UNIFORM; i--)
#define FOR_EACH(j, n) for (int j = (n) - 1; j >= 0 ? OF_THREAD(j) : UNIFORM; j--)
#define FOR_EACH_PLAIN(j, n) FOR_EACH(j, n)
#define FOR_THREADS(t) for (int t = THREADS - 1; t >= 0 ? OF_THREAD(t) : UNIFORM; t--)
#define ONE_THREAD for (int t_ = 0; t_ < 1 ? OF_THREAD(0) : UNIFORM; t_++)
#define BARRIER emulation::barrier(__LINE__)
#define LOAD(array, i) (REAL)(array)[i]
#define STORE(array, i, value) (array)[i] = (value)

#else  // CPU, vectorized

#ifdef __AVX512F__
#define PACK_BYTES 64
#elif defined(__AVX__)
#define PACK_BYTES 32
#else
#define PACK_BYTES 16
#endif
#define LANES (PACK_BYTES / REAL_BYTES)
typedef REAL Pack __attribute__((vector_size(PACK_BYTES)));
// the cost of preparing a pair is spread over more pixels in a longer tile
#define LONG (NDIM > 1 ? 2 : 1)
static thread_local int block_of_this_thread;
#define BLOCK block_of_this_thread
#define THREADS 1
#define SHARED(type, name, size) alignas(64) type name[size]
#define WATCHED(type, name, from) type *name = from
#define PER_PIXEL(name) Pack name[PIXELS / LANES]
#define PER_PIXEL_OF(name, n) Pack name[n][PIXELS / LANES]
#define MARK(element) (element) = 1
#define AT(name, i) name[(unsigned)(i) / LANES]
#define FOR_PIXELS(i) for (int i = 0; i < PIXELS; i += LANES)
#define FOR_EACH(j, n) _Pragma("omp simd") for (int j = 0; j < (n); j++)
#define FOR_EACH_PLAIN(j, n) for (int j = 0; j < (n); j++)
#define FOR_THREADS(t) for (int t = 0; t < 1; t++)
#define ONE_THREAD
#define BARRIER
#define LOAD(array, i) load_pack(&(array)[i])
#define STORE(array, i, value) store_pack(&(array)[i], value)

FUNCTION Pack load_pack(const REAL *from) {
    Pack pack;
    memcpy(&pack, from, sizeof pack);
    return pack;
}

FUNCTION void store_pack(REAL *to, Pack pack) {
    memcpy(to, &pack, sizeof pack);
}
#endif

// The entry points that the launcher calls: a kernel over some of its blocks, with an array of
// pointers to its arguments, as in CUDA.
template <class... Arguments, int... I>
FUNCTION void call_kernel(
    void (*body)(Arguments...), void **arguments, Indices<I...>) {
    body(*(Arguments *)arguments[I]...);
}

template <class... Arguments>
FUNCTION void run_blocks(
    void (*body)(Arguments...), void **arguments, int first, int last, int threads, int most) {
    (void)threads, (void)most;
#ifdef EMULATE_GPU
    if (threads < 1 || threads > most) emulation::fault();
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
        run_blocks(name##_body, arguments, first, last, block_threads, threads); \
    } \
    static void name##_body(__VA_ARGS__)

#endif  // ---------------------------------------------------------------------------- for both

#define STRIDED(j, t, n) for (int j = (t); j < (n); j += THREADS)
// Variants of STRIDED whose body only reduces to a maximum, a minimum, or a sum of integers
#ifdef SCALAR_PACKS
#define FOR_EACH_PADDED(j, n) FOR_EACH(j, n)
#define STRIDED_MAX(j, t, n, most) STRIDED(j, t, n)
#define STRIDED_MIN(j, t, n, least) STRIDED(j, t, n)
#define STRIDED_SUM(j, t, n, sum) STRIDED(j, t, n)
#else
#define OMP(text) _Pragma(#text)
// n rounded up to a multiple of 16, so that vector loops leave no remainder
#define FOR_EACH_PADDED(j, n) \
    for (int j##_ = 0; j##_ < (n); j##_ += 16) \
        OMP(omp simd) for (int j = j##_; j < j##_ + 16; j++)
#define STRIDED_MAX(j, t, n, most) \
    OMP(omp simd reduction(max : most)) for (int j = 0; j < (n); j++)
#define STRIDED_MIN(j, t, n, least) \
    OMP(omp simd reduction(min : least)) for (int j = 0; j < (n); j++)
#define STRIDED_SUM(j, t, n, sum) \
    OMP(omp simd reduction(+ : sum)) for (int j = 0; j < (n); j++)
#endif
