// Benchmarks of the machine's peak rates: multiply-adds per second, and bytes moved per second.
#include "gate.cuh"

// Each pixel of a block does `rounds` × CHAINS multiplications and as many additions, in CHAINS
// independent chains.
#define CHAINS 12
KERNEL(multiply_add, TILE_THREADS, int rounds, REAL *out)
{
    FOR_PIXELS(i) {
        Pack chains[CHAINS], total = Pack{};
        const Pack x = Pack{} + (REAL)0.999, y = Pack{} + (REAL)1e-3;
        UNROLL for (int c = 0; c < CHAINS; c++) chains[c] = Pack{} + (REAL)(c + BLOCK);
        for (int r = 0; r < rounds; r++) {
            UNROLL for (int c = 0; c < CHAINS; c++) chains[c] = chains[c] * x + y;
        }
        UNROLL for (int c = 0; c < CHAINS; c++) total += chains[c];
        STORE(out, (long long)BLOCK * PIXELS + i, total);
    }
}

// Memory bandwidth: each pixel of a block reads two numbers and writes one.
KERNEL(triad, TILE_THREADS, const REAL *a, const REAL *b, REAL *out)
{
    FOR_PIXELS(i) {
        const long long at = (long long)BLOCK * PIXELS + i;
        STORE(out, at, LOAD(a, at) * (REAL)3 + LOAD(b, at));
    }
}
