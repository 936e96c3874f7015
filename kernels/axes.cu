// Rotation of the axes along which Adam steps: the C++ counterpart of `turn` in turned_adam.py.
#include "adam.cuh"
#include "bounds.cuh"

// Multiple of the identity added to `outer` when axes turn, as a fraction of the mean square: keeps
// axes without any gradient independent
#define DAMPING 1e-6

// After a step, every TURN_EVERY steps of a kernel's life: turn its axes towards the eigenvectors
// of `outer` by one step of orthogonal iteration (Gram-Schmidt), and set v to the diagonal of Q
// `outer` Qᵀ, its value had the axes always been these. One block per kernel of the model.
KERNEL(turn, 32, const int *control, const double *state, const double *settings,
       const double *records, const int *born, const REAL *outer, int trained, REAL *axes, REAL *v)
{
    const int age = (int)state[ADAM_STEPS] - born[BLOCK], every = (int)settings[TURN_EVERY];
    if (!control[APPLY] || age % every != 0 || records[(long long)BLOCK * RECORD] == DEAD) return;
    SHARED(double, products, WIDTH * WIDTH);  // `outer` in double
    SHARED(double, image, WIDTH * WIDTH);     // axes · (outer + damping), orthonormalised in place
    SHARED(double, size, 1);                  // norm of the row being normalised
    SHARED(double, along, WIDTH);
    const int n = trained;
    const REAL *given = outer + (long long)BLOCK * n * n;
    REAL *axis = axes + (long long)BLOCK * n * n;
    double trace = 0;
    for (int i = 0; i < n; i++) trace += given[i * n + i];
    if (!(trace > 0)) return;
    FOR_EACH_PLAIN(i, n) {
        for (int j = 0; j < n; j++) products[i * n + j] = given[i * n + j];
    }
    BARRIER;
    FOR_EACH_PLAIN(i, n) {
        for (int j = 0; j < n; j++) image[i * n + j] = DAMPING / n * trace * axis[i * n + j];
        for (int k = 0; k < n; k++) {
            for (int j = 0; j < n; j++) image[i * n + j] += axis[i * n + k] * products[k * n + j];
        }
    }
    for (int i = 0; i < n; i++) {
        BARRIER;
        ONE_THREAD {
            double square = 0;
            for (int j = 0; j < n; j++) square += image[i * n + j] * image[i * n + j];
            size[0] = sqrt(square);
        }
        BARRIER;
        FOR_EACH_PLAIN(j, n) image[i * n + j] = image[i * n + j] / size[0];
        BARRIER;
        FOR_EACH_PLAIN(k, n) {
            if (k <= i) continue;
            double part = 0;
            for (int j = 0; j < n; j++) part += image[k * n + j] * image[i * n + j];
            for (int j = 0; j < n; j++) image[k * n + j] += -part * image[i * n + j];
        }
    }
    FOR_EACH_PLAIN(i, n) {
        double square = 0;
        for (int k = 0; k < n; k++) {
            double sum = 0;
            for (int j = 0; j < n; j++) sum += image[i * n + j] * products[k * n + j];
            square += image[i * n + k] * sum;
        }
        along[i] = square;
        for (int j = 0; j < n; j++) axis[i * n + j] = (REAL)image[i * n + j];
    }
    BARRIER;
    ONE_THREAD {
        REAL *squares = v + (long long)BLOCK * WIDTH;
        int i = 0;
        for (int w = 0; w < WIDTH; w++) {
            if (rate_of(settings, w) < 0) continue;
            squares[w] = (REAL)larger(along[i++], 0.0);
        }
    }
}
