// The states of BPSN's both sides before the runs of a chunk. See kernel.cu and ../scan/tile.cuh.
#pragma once
#include "weights.cuh"

// As `enter`, if all runs that a state passes are whole, it is 0, or nothing reads it after them.
template <bool BACKWARDS>
__device__ __forceinline__ real enter_whole(real &state, Shared added, real decay) {
    real own = state;
    for (int i = 0; i < RUNS; i++) {
        const int run = BACKWARDS ? RUNS - 1 - i : i;
        if (run == (int)threadIdx.y) own = state;
        state = fma(decay, state, added[run][threadIdx.x]);
    }
    return own;
}

// What each run adds becomes the state before it, under the same condition. Eight at once: with
// more, registers spill.
template <bool BACKWARDS>
__device__ __forceinline__ void carry(real state, Shared added, real decay) {
#pragma unroll 8
    for (int i = 0; i < RUNS; i++) {
        real &at_run = added[BACKWARDS ? RUNS - 1 - i : i][threadIdx.x];
        const real of_run = at_run;
        at_run = state, state = fma(decay, state, of_run);
    }
}

// One run carries a state over all, which costs another barrier, and fewer instructions than if
// each run did. With fewer runs there is little to gain.
#define ONE_CARRIES (RUNS > 4)

// The states of both sides before the thread's run, from those at the borders of its chunk. Call
// after a barrier. BACKWARDS: of the past's; the future's goes the other way.
template <bool BACKWARDS>
__device__ __forceinline__ void enter_both(real &f, real &b, Shared added_f, Shared added_b, const Parameters &p) {
    const real decay_f = over_run(p.lf, STEPS), decay_b = over_run(p.lb, STEPS);
    if (ONE_CARRIES) {
        if (PAST && threadIdx.y == 0) carry<BACKWARDS>(f, added_f, decay_f);
        if (FUTURE && threadIdx.y == RUNS - 1) carry<!BACKWARDS>(b, added_b, decay_b);
        barrier();
        if (PAST) f = mine(added_f);
        if (FUTURE) b = mine(added_b);
    } else {
        if (PAST) f = enter_whole<BACKWARDS>(f, added_f, decay_f);
        if (FUTURE) b = enter_whole<!BACKWARDS>(b, added_b, decay_b);
    }
}
