// A sequence that is split over blocks (SPLIT 1): several blocks have the same columns. Each takes
// the next tile that none has taken, and hands the state after it on to whoever has the one after.
//
// What a block waits for is a tile that was taken before its own, by a block that has started and
// does its tiles in turn. So all end, in whatever order a GPU starts blocks, and however few at
// once. A state is composed in the order of steps, never of arrival: the bits are those of one
// block.
//
// A state travels in words of 64 bits, half of each the number of the launch. What has come is
// complete, so no fence is needed, and what earlier launches left need not be erased.
//
// chain: counters (blocks that are done, launches, and for each group of columns the tiles that are
// taken), then what travels. It begins as zeros; launches that use it must not overlap.
#pragma once
#include "tile.cuh"

typedef unsigned long long packet;
constexpr int PACKETS = sizeof(real) / 4, COUNTERS = 1024;  // of a state; words before all of them
static_assert(!SPLIT || RUNS > 1, "the barriers of runs guard what a block shares about its tile");
constexpr int AT_ONCE = SPLIT && IO != 1 ? 2 : 1;  // blocks for which registers must suffice

// Which columns a block has, and its tile, counted in the order of the pass. Without SPLIT it has
// all tiles.
struct Turn {
    index_t group, tile;
    unsigned launch, takes;
};

// A block takes until no tile is left, so all together `takes` times; then the counter is 0 again.
__device__ __forceinline__ void take_tile(packet *chain, const Turn &turn, unsigned *next) {
    if (SPLIT && threadIdx.x == 0 && threadIdx.y == 0) *next = atomicInc((unsigned *)chain + 2 + turn.group, turn.takes - 1);
}

__device__ __forceinline__ Turn begin(packet *chain, index_t columns, index_t tiles, unsigned *next) {
    if (!SPLIT) return {blockIdx.x, 0, 0, 0};
    const unsigned groups = (unsigned)((columns + COLUMNS - 1) / COLUMNS);
    Turn turn = {blockIdx.x % groups, 0, ((volatile unsigned *)chain)[1] + 1, (unsigned)tiles + gridDim.x / groups};
    take_tile(chain, turn, next);
    __syncthreads();
    turn.tile = *next;
    __syncthreads();
    return turn;
}

// How many steps lie between this tile and the block's next one, which is its turn from now on.
__device__ __forceinline__ index_t steps_ahead(Turn &turn, const unsigned *next) {
    if (!SPLIT) return TILE;
    const index_t before = turn.tile;
    turn.tile = *next;
    return (turn.tile - before) * TILE;
}

// At the end of a block: the last one counts the launch.
__device__ __forceinline__ void leave(packet *chain) {
    unsigned *counters = (unsigned *)chain;
    if (SPLIT && threadIdx.x == 0 && threadIdx.y == 0 && atomicInc(counters, gridDim.x - 1) == gridDim.x - 1) counters[1]++;
}

__device__ __forceinline__ packet *place_of(packet *chain, index_t number) { return chain + COUNTERS + number * PACKETS; }

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

// The state before a tile, for all runs, after a barrier: what has come, or `state` for the first.
template <class State>
__device__ __forceinline__ State enter_tile(State state, bool first, const packet *from, unsigned launch, State *shared) {
    if (SPLIT && threadIdx.y == 0) {
        if (!first) receive(state, from, launch);
        shared[threadIdx.x] = state;
    }
    barrier();
    return SPLIT ? shared[threadIdx.x] : state;
}

// What a kernel knows of its place. LINK(i, tile): where number i travels after a tile.
#define TURN                                                                              \
    __shared__ unsigned next_tile;                                                        \
    __shared__ real entry[COLUMNS];                                                       \
    const index_t columns = batch * channels * places, tiles = (steps + TILE - 1) / TILE; \
    Turn turn = begin(chain, columns, tiles, &next_tile);                                 \
    const Column at = column(turn.group, batch, channels, places);
#define LINK(i, tile) place_of(chain, ((i) * tiles + (tile)) * columns + at.n)
