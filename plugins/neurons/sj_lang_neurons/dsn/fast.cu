// DSN without bounds: whole tiles of sequences in half precision without mask, state or padding,
// two neighbouring columns a thread. The equations, the schedule and what is kept for the backward
// pass are those of kernel.cu, which takes all else; so one may follow upon the other.
//
// A thread reads and writes two columns as one 32-bit word; steps and channels are counted in int,
// and numbers come as float in the bits of a long long: a double parameter would be converted in
// the loop. Strides are in words. Macros: those of kernel.cu, with IO 2 or 3, LOGIT 0, NEXT 0.
#include "../scan/tile.cuh"
#include "../scan/chain.cuh"
#include "../scan/surrogates.cuh"
#include "gain.cuh"

typedef unsigned word;
constexpr int REACH = TAPS > 1 ? TAPS - 1 : 0, WINDOW = REACH + STEPS;
static_assert(REACH <= STEPS && TAPS > 0 && FIRE > 0, "see kernel.cu");

struct alignas(8) Pair {
    real v[2];
};
typedef Pair SharedPair[RUNS][COLUMNS];

// One instruction each from compute capability 8.0 on. What they compute is that of the other text.
__device__ __forceinline__ Pair unpack(word both) {
#if IO == 2 && defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    Pair pair;
    asm("{.reg .f16 l, h; mov.b32 {l, h}, %2; cvt.f32.f16 %0, l; cvt.f32.f16 %1, h;}"
        : "=f"(pair.v[0]), "=f"(pair.v[1])
        : "r"(both));
    return pair;
#else
    return {load((io)(both & 0xffffu)), load((io)(both >> 16))};
#endif
}

__device__ __forceinline__ word pack(real low, real high) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    word both;
#if IO == 3
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
#else
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
#endif
    return both;
#else
    return (word)store(low) | (word)store(high) << 16;
#endif
}

__device__ __forceinline__ real number(index_t bits) { return __uint_as_float((unsigned)bits); }

#define BOTH _Pragma("unroll") for (int v = 0; v < 2; v++)

// `enter` of tile.cuh.
template <bool BACKWARDS>
__device__ __forceinline__ Pair enter_pair(Pair &state, SharedPair added, SharedPair factor) {
    Pair own = state;
#if SPLIT
    const int before = BACKWARDS ? RUNS - 1 - (int)threadIdx.y : (int)threadIdx.y;
#pragma unroll 8
    for (int i = 0; i < before; i++) {
        const int run = BACKWARDS ? RUNS - 1 - i : i;
        const Pair sum = added[run][threadIdx.x], gain = factor[run][threadIdx.x];
        BOTH own.v[v] = leaked(own.v[v], sum.v[v], gain.v[v]);
    }
    const Pair sum = added[threadIdx.y][threadIdx.x], gain = factor[threadIdx.y][threadIdx.x];
    BOTH state.v[v] = leaked(own.v[v], sum.v[v], gain.v[v]);
#else
#pragma unroll
    for (int i = 0; i < RUNS; i++) {
        const int run = BACKWARDS ? RUNS - 1 - i : i;
        const Pair sum = added[run][threadIdx.x], gain = factor[run][threadIdx.x];
        BOTH {
            if (run == (int)threadIdx.y) own.v[v] = state.v[v];
            state.v[v] = leaked(state.v[v], sum.v[v], gain.v[v]);
        }
    }
#endif
    return own;
}

// `receive` and `hand_on` of chain.cuh.
__device__ __forceinline__ void receive(Pair &pair, const packet *from, unsigned launch) {
    BOTH receive(pair.v[v], from + v, launch);
}
__device__ __forceinline__ void hand_on(packet *to, Pair pair, unsigned launch) { BOTH hand_on(to + v, pair.v[v], launch); }

// Pair `n` of columns, of channels `c` and c + 1 of sequence `b`.
#define PLACE                                                                                       \
    __shared__ unsigned next_tile;                                                                  \
    __shared__ Pair entry[COLUMNS];                                                                 \
    const int steps = (int)all_steps, columns = (int)(batch * channels), words = channels / 2;      \
    Turn turn = begin(chain, columns / 2, steps / TILE, &next_tile);                                \
    const int n = (int)turn.group * COLUMNS + threadIdx.x, b = n / words, c = n % words * 2;        \
    real taps[TAPS][2], offset[2];                                                                  \
    BOTH {                                                                                          \
        offset[v] = bias[c + v];                                                                    \
        _Pragma("unroll") for (int j = 0; j < TAPS; j++) taps[j][v] = weight[(c + v) * TAPS + j];   \
    }                                                                                               \
    const real m = POWER ? (real)POWER : number(m_bits), alpha = number(alpha_bits);                \
    const real threshold = number(threshold_bits);

#define PAIR_LINK(i, tile) place_of(chain, ((i) * (steps / TILE) + (tile)) * (index_t)columns + 2 * n)
#define AT(x) (b * x##_b + c / 2)

// A run's inputs and the REACH before it; 0 before the sequence, which only the first run sees.
__device__ __forceinline__ void read_window(word *out, const word *x, int stride, bool first) {
#pragma unroll
    for (int i = 0; i < WINDOW; i++) out[i] = i < REACH && first ? 0 : x[(i - REACH) * stride];
}

// q and w of a step of one column.
__device__ __forceinline__ void step_gain(const real (*taps)[2], real a, const Pair *window, int v, real m, real &q, real &w) {
#pragma unroll
    for (int j = 0; j < TAPS; j++) a = fma(taps[j][v], window[j].v[v], a);
    gain(a, m, q, w);
}

extern "C" __global__ void __launch_bounds__(COLUMNS *RUNS, AT_ONCE)
    dsn_fast(const word *x, const real *weight, const real *bias, word *out, real *h_last, real *next_tail, real *borders,
             packet *chain, index_t x_t, index_t x_b, index_t out_t, index_t out_b, index_t all_steps, index_t batch, index_t channels,
             index_t m_bits, index_t alpha_bits, index_t threshold_bits) {
    __shared__ SharedPair added, factor;
    PLACE
    const int x_step = (int)x_t, out_step = (int)out_t;
    int tile = (int)turn.tile * TILE, ahead;
    const index_t start = tile + threadIdx.y * STEPS;
    Pair state = {0, 0};
    bool ends = !SPLIT;  // with the sequence
    x += AT(x) + start * x_t, out += AT(out) + start * out_t;

    word next[WINDOW];
    if (tile < steps) read_window(next, x, x_step, start == 0);
    for (; tile < steps; tile += ahead) {
        Pair current[WINDOW], sum = {0, 0}, all = {0, 0};
        real w[STEPS][2], q;
#pragma unroll
        for (int i = 0; i < WINDOW; i++) current[i] = unpack(next[i]);
        take_tile(chain, turn, &next_tile);
#pragma unroll
        for (int i = 0; i < STEPS; i++) BOTH {
            step_gain(taps, offset[v], current + i, v, m, q, w[i][v]);
            if (RUNS == 1) continue;
            sum.v[v] = fma(w[i][v], current[REACH + i].v[v] - sum.v[v], sum.v[v]);
            all.v[v] = fma(1 - all.v[v], w[i][v], all.v[v]);
        }
        if (RUNS > 1) added[threadIdx.y][threadIdx.x] = sum, factor[threadIdx.y][threadIdx.x] = all;
        state = enter_tile(state, tile == 0, PAIR_LINK(0, tile / TILE - 1), turn.launch, entry);
        ahead = (int)steps_ahead(turn, &next_tile);
        x += ahead * x_t;
        if (tile + ahead < steps) read_window(next, x, x_step, false);
        if (threadIdx.y == 0) ((Pair *)borders)[(index_t)(tile / TILE) * (columns / 2) + n] = state;

        Pair h = state;
        if (RUNS > 1) {
            h = enter_pair<false>(state, added, factor);
            if (SPLIT && threadIdx.y == RUNS - 1) hand_on(PAIR_LINK(0, tile / TILE), state, turn.launch);
            barrier();
        }
#pragma unroll
        for (int i = 0; i < STEPS; i++) {
            real s[2];
            BOTH {
                h.v[v] = fma(w[i][v], current[REACH + i].v[v] - h.v[v], h.v[v]);
                s[v] = fire(h.v[v], alpha, threshold);
            }
            out[i * out_step] = pack(s[0], s[1]);
        }
        out += ahead * out_t;
        if (RUNS == 1) state = h;
        if (SPLIT) ends = tile + TILE >= steps;
    }
    leave(chain);
    if (!ends) return;
    if (threadIdx.y == (SPLIT ? RUNS - 1 : 0)) *((Pair *)h_last + n) = state;
    if (threadIdx.y) return;
    for (int i = 0; i < REACH; i++)
        *(Pair *)(next_tail + (b * REACH + i) * channels + c) = unpack(x[(steps - tile + i - REACH) * x_t]);
}

// What the backward pass reads of a tile, at which x and grad are.
#define READ_TILE(tile)                                                                                  \
    {                                                                                                    \
        read_window(next, x, x_step, (tile) == 0 && threadIdx.y == 0);                                   \
        _Pragma("unroll") for (int i = 0; i < STEPS; i++) next_grad[i] = grad[i * grad_step];            \
        next_border = ((const Pair *)borders)[(index_t)((tile) / TILE) * (columns / 2) + n];             \
    }

// SUMS of kernel.cu.
#define SUMS(parts, part)                                                                                \
    {                                                                                                    \
        barrier();                                                                                       \
        for (int j = 0; j <= TAPS; j++) (j <= REACH ? first[j] : passed)[threadIdx.y][threadIdx.x] = total[j]; \
        barrier();                                                                                       \
        for (int j = threadIdx.y; j <= TAPS; j += RUNS) {                                                \
            const Pair(*all)[COLUMNS] = j <= REACH ? first[j] : passed;                                  \
            Pair sum = all[0][threadIdx.x];                                                              \
            for (int run = 1; run < RUNS; run++) BOTH sum.v[v] += all[run][threadIdx.x].v[v];            \
            *((Pair *)(sums + (index_t)(j * (parts) + (part)) * columns) + n) = sum;                     \
        }                                                                                                \
    }

// grad_last: of h_last, or null. sums [TAPS + 1, B, C], with SPLIT [TAPS + 1, tiles, B, C]:
// gradients of weights and bias, by column.
extern "C" __global__ void __launch_bounds__(COLUMNS *RUNS, AT_ONCE)
    dsn_fast_backward(const word *grad, const real *grad_last, const real *borders, const word *x, const real *weight,
                      const real *bias, word *grad_x, real *sums, packet *chain, index_t grad_t, index_t grad_b, index_t x_t,
                      index_t x_b, index_t grad_x_t, index_t grad_x_b, index_t all_steps, index_t batch, index_t channels, index_t m_bits,
                      index_t alpha_bits, index_t threshold_bits, index_t margin_bits) {
    __shared__ SharedPair added, factor, passed, first[REACH + 1];
    PLACE
    const real margin = number(margin_bits);
    const int x_step = (int)x_t, grad_step = (int)grad_t, out_step = (int)grad_x_t;
    int tile = steps - TILE - (int)turn.tile * TILE, ahead;
    const index_t start = tile + threadIdx.y * STEPS;
    x += AT(x) + start * x_t, grad += AT(grad) + start * grad_t, grad_x += AT(grad_x) + start * grad_x_t;
    Pair carry = grad_last ? *((const Pair *)grad_last + n) : Pair{0, 0}, later[REACH + 1], total[TAPS + 1];
    for (int j = 0; j <= REACH; j++) later[j] = {0, 0};
    for (int j = 0; j <= TAPS; j++) total[j] = {0, 0};

    word next[WINDOW], next_grad[STEPS];
    Pair next_border;
    if (tile >= 0) READ_TILE(tile)
    for (; tile >= 0; tile -= ahead) {
        Pair current[WINDOW], g[STEPS], h = next_border, sum = {0, 0}, all = {0, 0};
        real w[STEPS][2], q[STEPS][2];
#pragma unroll
        for (int i = 0; i < WINDOW; i++) current[i] = unpack(next[i]);
#pragma unroll
        for (int i = 0; i < STEPS; i++) g[i] = unpack(next_grad[i]);
        take_tile(chain, turn, &next_tile);
#pragma unroll
        for (int i = 0; i < STEPS; i++) BOTH {
            step_gain(taps, offset[v], current + i, v, m, q[i][v], w[i][v]);
            if (RUNS == 1) continue;
            sum.v[v] = fma(w[i][v], current[REACH + i].v[v] - sum.v[v], sum.v[v]);
            all.v[v] = fma(1 - all.v[v], w[i][v], all.v[v]);
        }
        if (RUNS > 1) {
            added[threadIdx.y][threadIdx.x] = sum, factor[threadIdx.y][threadIdx.x] = all;
            barrier();
            h = enter_pair<false>(h, added, factor);
        }
        ahead = (int)steps_ahead(turn, &next_tile);
        x -= ahead * x_t, grad -= ahead * grad_t;
        if (!SPLIT && tile >= ahead) READ_TILE(tile - ahead)
#pragma unroll
        for (int i = 0; i < STEPS; i++) BOTH {
            const real u = current[REACH + i].v[v];
            h.v[v] = fma(w[i][v], u - h.v[v], h.v[v]);
            g[i].v[v] *= slope(h.v[v], alpha, threshold, margin);
            q[i][v] *= m * (h.v[v] - u);  // times gh: ga
        }
        Pair after = carry;
        if (RUNS > 1) {
            Pair back = {0, 0};
#pragma unroll
            for (int i = STEPS - 1; i >= 0; i--) BOTH {
                back.v[v] += g[i].v[v];
                back.v[v] = fma(-w[i][v], back.v[v], back.v[v]);
            }
            passed[threadIdx.y][threadIdx.x] = back;
            carry = enter_tile(carry, tile + TILE == steps, PAIR_LINK(0, tile / TILE + 1), turn.launch, entry);
            after = enter_pair<true>(carry, passed, factor);
            if (SPLIT && threadIdx.y == 0) hand_on(PAIR_LINK(0, tile / TILE), carry, turn.launch);
        }
#pragma unroll
        for (int i = STEPS - 1; i >= 0; i--) BOTH {
            const real gh = g[i].v[v] + after.v[v];
            after.v[v] = fma(-w[i][v], gh, gh);
            g[i].v[v] = w[i][v] * gh;
            q[i][v] *= gh;
            total[TAPS].v[v] += q[i][v];
#pragma unroll
            for (int j = 0; j < TAPS; j++) total[j].v[v] = fma(q[i][v], current[i + j].v[v], total[j].v[v]);
        }
        if (RUNS == 1) carry = after;

        // ga of REACH steps after the run: of the next run, or of the tile after this one.
        real ga[WINDOW][2];
        if (RUNS > 1) {
#pragma unroll
            for (int j = 0; j < REACH; j++) {
                const Pair own = {q[j][0], q[j][1]};
                first[j][threadIdx.y][threadIdx.x] = own;
                if (SPLIT && threadIdx.y == 0) hand_on(PAIR_LINK(1 + j, tile / TILE), own, turn.launch);
            }
            barrier();
        }
#pragma unroll
        for (int i = 0; i < STEPS; i++) BOTH ga[i][v] = q[i][v];
#pragma unroll
        for (int j = 0; j < REACH; j++) {
            if (SPLIT && threadIdx.y == RUNS - 1 && tile + TILE < steps)
                receive(later[j], PAIR_LINK(1 + j, tile / TILE + 1), turn.launch);
            Pair ahead = later[j];
            later[j] = {q[j][0], q[j][1]};
            if (RUNS > 1) {
                if (threadIdx.y + 1 < RUNS) ahead = first[j][threadIdx.y + 1][threadIdx.x];
                later[j] = first[j][0][threadIdx.x];
            }
            BOTH ga[STEPS + j][v] = ahead.v[v];
        }
#pragma unroll
        for (int i = 0; i < STEPS; i++) {
            BOTH {
#pragma unroll
                for (int j = 0; j < TAPS; j++) g[i].v[v] = fma(taps[TAPS - 1 - j][v], ga[i + j][v], g[i].v[v]);
            }
            grad_x[i * out_step] = pack(g[i].v[0], g[i].v[1]);
        }
        grad_x -= ahead * grad_x_t;
        if (!SPLIT) continue;
        SUMS(steps / TILE, tile / TILE)
        if (tile >= ahead) READ_TILE(tile - ahead)
        for (int j = 0; j <= TAPS; j++) total[j] = {0, 0};
    }
    leave(chain);
    if (!SPLIT) SUMS(1, 0)
}
