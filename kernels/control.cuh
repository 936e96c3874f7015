// Layout of the small arrays through which host and compute kernels exchange status and settings.
#pragma once

// Indices into `control`, ints.
#define STALE 0    // 1 if the pair lists do not hold for the current kernels
#define HALT 1     // why work has stopped (values below); 0: it has not
#define STEP 2     // steps taken since the host's request
#define TARGET 3   // steps that the host requested
#define APPLY 4    // 1 if the current step may change the parameters
#define ALIVE 5    // number of kernels of weight above 0
#define AGE 6      // steps since the lists were built
#define BUILDS 7   // how often lists were built so far
#define SIGNED 8   // 1 if some gates are negative: then lists leave nothing out
#define NEEDED 9   // entries that a list would need that was too short: that of the pairs;
                   // NEEDED + 1: those of larger boxes; NEEDED + 2: those of rows
#define CONTROL_WORDS 16

// Values of HALT.
#define TOO_SHORT 1  // a list does not fit: the host allocates NEEDED entries
#define EXPLODED 2   // the loss grew too large
#define NOT_FINITE 3 // a parameter is not finite, or too large
#define NO_KERNEL 4  // no kernel is left
#define NO_ROOM 5    // `rows` is too small for a batch

// Indices into `state`, doubles.
#define LOWEST 0      // lowest loss so far
#define LOSS 1        // loss of the last step, with the penalties
#define ADAM_STEPS 2  // Adam steps taken
#define HORIZON 3     // steps that the lists are planned to last
#define USUAL_WEIGHT 4  // mean log weight of the kernels
#define FEW_ARE_FAST 5  // 1 if kernels that move fast are to be listed everywhere
#define STATE_NUMBERS 8

// Indices into `settings`, doubles.
#define RATE_PIS 0  // learning rates, by parameter; negative: not trained
#define RATE_MU 1
#define RATE_A 2
#define RATE_GAMMA 3
#define RATE_NU 4
#define EPSILON 5   // ε of Adam
#define GRAD_CLIP 6  // gradients are clipped to ± this
#define L1 7        // λ_S / K₀, factor of Σ π in the loss
#define BANDWIDTH 8 // λ_U, factor of Σ |A_dd|
#define RADIAL 9    // 1 if kernels stay radial, A = α I
#define BETA2 10
#define LEAST_DIAGONAL 11  // lower limit of A_dd; MOST_SHARPNESS: upper limit of √(A Aᵀ)_dd
#define MOST_SHARPNESS 12
#define WHITENED 13   // 1 if steps are taken in each kernel's own frame (frame.py)
#define FADE_FROM 14  // Adam step from which the rates fall along half a cosine, ...
#define FADE_TO 15    // ... the step at which they stop falling, ...
#define FADE_TO_PART 16  // ... and the fraction of the rates that is left then
#define EXPLOSION 17  // factor over the lowest loss at which a training counts as exploded
#define SCALE 18    // 1 / (N C)
#define TAU 19      // lists leave out gates below e^−TAU
#define LEAST_EXPLOSION 20  // a lowest loss below this counts as this there
#define LEAST_LIFE 21  // lists younger than this, in steps, are used even if they no longer hold
#define TURN_EVERY 22  // a kernel's axes turn every so many steps of its life
#define MOST_BEYOND 23  // how far an expert's value at its centre may lie outside [0, 1]
#define MOST_SLOPE 24   // largest expert slope along z
#define BUILD 25   // cost of building lists, in training steps
#define LISTED 26  // cost of a listed pair that does not matter, relative to one that does
#define SETTINGS_NUMBERS 27

#define GOES_ON(control) \
    ((control)[HALT] == 0 && (control)[STALE] == 0 && (control)[STEP] < (control)[TARGET])
// Not after the last step that is wanted, whatever else is enqueued: how often lists are built, and
// so all results, must not depend on the number of rounds.
#define BUILDS_LISTS(control) \
    ((control)[HALT] == 0 && (control)[STALE] != 0 && (control)[STEP] < (control)[TARGET])
