// The words by which kernels tell each other, and the host, how things stand.
#pragma once

// Of `control`, ints.
#define STALE 0    // the pair lists do not hold for the kernels as they are
#define HALT 1     // why nothing goes on; 0: it does
#define STEP 2     // steps taken since the host asked
#define TARGET 3   // steps that the host asked for
#define APPLY 4    // the step that is being taken may change the parameters
#define ALIVE 5    // kernels of weight above 0
#define AGE 6      // steps since lists were built
#define BUILDS 7   // lists built so far
#define SIGNED 8   // some gates are negative: lists leave nothing out
#define NEEDED 9   // entries that the pairs need where they were too short; NEEDED + 1: the lists
                   // between; NEEDED + 2: the rows
#define CONTROL_WORDS 16

// Values of HALT.
#define TOO_SHORT 1  // a list: NEEDED tells, the host lengthens it
#define EXPLODED 2   // the loss
#define NOT_FINITE 3 // a parameter
#define NO_KERNEL 4  // is left
#define NO_ROOM 5    // for the rows of a batch

// Of `state`, doubles.
#define LOWEST 0      // loss so far
#define LOSS 1        // of the last step, with the penalty
#define ADAM_STEPS 2  // steps of Adam taken
#define HORIZON 3     // steps that the lists are meant to last
#define USUAL_WEIGHT 4  // the mean log weight
#define STATE_NUMBERS 8

// Of `settings`, doubles.
#define RATE_PIS 0  // learning rates; below 0: not trained
#define RATE_MU 1
#define RATE_A 2
#define RATE_GAMMA 3
#define RATE_NU 4
#define EPSILON 5
#define GRAD_CLIP 6
#define L1 7        // λ_S / K₀
#define BANDWIDTH 8 // λ_U
#define RADIAL 9
#define BETA2 10
#define LEAST_DIAGONAL 11  // between which A_dd is kept
#define MOST_SHARPNESS 12
#define WHITENED 13   // whether steps are taken in each kernel's own frame
#define FADE_FROM 14  // steps of Adam after which rates fall, as half a cosine, ...
#define FADE_TO 15    // ... until then, ...
#define FADE_TO_PART 16  // ... to this part
#define EXPLOSION 17
#define SCALE 18    // 1 / (N C)
#define TAU 19
#define LEAST_EXPLOSION 20
#define LEAST_LIFE 21  // steps before which lists that no longer hold may yet be used
#define TURN_EVERY 22  // steps of a kernel after which its axes turn
#define MOST_BEYOND 23  // of an expert's value at its centre, beyond [0, 1]
#define MOST_SLOPE 24   // of an expert, along z
#define SETTINGS_NUMBERS 25

#define GOES_ON(control) \
    ((control)[HALT] == 0 && (control)[STALE] == 0 && (control)[STEP] < (control)[TARGET])
// Not after the last step that is wanted, whatever else is enqueued: how often lists are built, and
// so all results, must not depend on the number of rounds.
#define BUILDS_LISTS(control) \
    ((control)[HALT] == 0 && (control)[STALE] != 0 && (control)[STEP] < (control)[TARGET])
