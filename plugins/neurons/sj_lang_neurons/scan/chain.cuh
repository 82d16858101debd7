// A sequence that is split over blocks (SPLIT 1): a block computes one tile, and hands the state
// after it to the block of the next one.
//
// A block takes its place when it starts, by a ticket: the tiles in the order of the pass, those of
// all columns in turn. So what it waits for has started before it and ends without it, in whatever
// order a GPU starts blocks. A state is composed in the order of its steps, never of arrival: the
// bits are those of a block that does all tiles.
//
// A state travels in words of 64 bits, half of each the number of the launch. What has come is
// complete, so no fence is needed, and what earlier launches left need not be erased.
//
// chain: three counters in two words (tickets, blocks that are done, launches), then what travels.
// It begins as zeros; launches that use the same one must not overlap.
#pragma once
#include "tile.cuh"

typedef unsigned long long packet;
constexpr int PACKETS = sizeof(real) / 4, COUNTERS = 2;
constexpr int AT_ONCE = SPLIT && IO != 1 ? 2 : 1;  // blocks of a multiprocessor, for which registers must suffice

// Where a block is: which columns it has, and which tile, counted in the order of the pass.
struct Turn {
    index_t group, tile;
    unsigned launch;
};

// Without SPLIT: the block has all tiles.
__device__ __forceinline__ Turn take_turn(packet *chain, index_t columns, unsigned (&shared)[3]) {
    if (!SPLIT) return {blockIdx.x, 0, 0};
    if (threadIdx.x == 0 && threadIdx.y == 0) {
        unsigned *counters = (unsigned *)chain;
        const unsigned groups = (unsigned)((columns + COLUMNS - 1) / COLUMNS);
        const unsigned ticket = atomicInc(counters, gridDim.x - 1);  // the last one is followed by 0
        shared[0] = ticket % groups, shared[1] = ticket / groups;
        shared[2] = *(volatile unsigned *)(counters + 2) + 1;
    }
    __syncthreads();
    return {shared[0], shared[1], shared[2]};
}

// At the end of a block: the last one counts the launch.
__device__ __forceinline__ void end_turn(packet *chain) {
    unsigned *counters = (unsigned *)chain;
    if (SPLIT && threadIdx.x == 0 && threadIdx.y == 0 && atomicInc(counters + 1, gridDim.x - 1) == gridDim.x - 1)
        counters[2]++;
}

__device__ __forceinline__ void hand_on(packet *to, real value, unsigned launch) {
    const packet mark = (packet)launch << 32;
#if IO == 1
    const packet bits = (packet)__double_as_longlong(value);
    *(volatile packet *)to = mark | (bits & 0xffffffffu);
    *(volatile packet *)(to + 1) = mark | bits >> 32;
#else
    *(volatile packet *)to = mark | __float_as_uint(value);
#endif
}

__device__ __forceinline__ unsigned arrived(const packet *from, unsigned launch) {
    packet word;
    while ((unsigned)((word = *(volatile const packet *)from) >> 32) != launch) __nanosleep(20);
    return (unsigned)word;
}

__device__ __forceinline__ void receive(real &value, const packet *from, unsigned launch) {
#if IO == 1
    const packet low = arrived(from, launch), high = arrived(from + 1, launch);
    value = __longlong_as_double((long long)(high << 32 | low));
#else
    value = __uint_as_float(arrived(from, launch));
#endif
}

// The state before a tile, for all runs, after a barrier: what has come, or `state` if from is null.
template <class State>
__device__ __forceinline__ State enter_tile(State state, const packet *from, unsigned launch, State *shared) {
    if (SPLIT && threadIdx.y == 0) {
        if (from) receive(state, from, launch);
        shared[threadIdx.x] = state;
    }
    barrier();
    return SPLIT ? shared[threadIdx.x] : state;
}

// What a kernel knows of its place. LINK(i, tile): where the i-th number that travels after a tile is.
#define TURN                                                                                   \
    __shared__ unsigned place[3];                                                              \
    __shared__ real entry[COLUMNS];                                                            \
    const index_t columns = batch * channels * places, tiles = (steps + TILE - 1) / TILE;      \
    const Turn turn = take_turn(chain, columns, place);                                        \
    const Column at = column(turn.group, batch, channels, places);
#define LINK(i, tile) (chain + COUNTERS + (((i) * tiles + (tile)) * columns + at.n) * PACKETS)
