// The whole DSN: logit, decay, recurrence and firing. See ../scan/tile.cuh for the schedule, and
// ../scan/chain.cuh for what SPLIT adds to it.
//
//     a_t = sum_j weight_j x_{t-REACH+j} + bias,  q_t = sigmoid(-a_t),  w_t = 1 - (1 - q_t)^m
//     h_t = h_{t-1} + w_t (x_t - h_{t-1}),        s_t = fire(h_t)
//
// Backwards each tile is computed again from the state at its border. With gl the gradient that
// comes through the firing, and alpha_t (h_{t-1} - x_t) = h_t - x_t, alpha = 1 - w:
//
//     gh_t = gl_t + alpha_{t+1} gh_{t+1},   ga_t = m q_t (h_t - x_t) gh_t
//     gx_t = w_t gh_t + sum_j weight_{REACH-j} ga_{t+j}
//
// After the valid steps w = 0, and spikes are 0.
//
// Macros beside those of tile.cuh and surrogates.cuh: TAPS, 0 for a logit that is the bias alone;
// LOGIT 1: a bias for each step and column; POWER m if that is whole and up to 64, else 0; NEXT 1:
// the gradient of next_tail goes into x's, after all else, as registers are short.
#include "../scan/tile.cuh"
#include "../scan/chain.cuh"
#include "../scan/surrogates.cuh"
#include "gain.cuh"

constexpr int REACH = TAPS > 1 ? TAPS - 1 : 0, WINDOW = REACH + STEPS;
static_assert(REACH <= STEPS, "a run hands its first REACH gradients to the run before it, and no further");
static_assert(!SPLIT || !NEXT, "NEXT changes what a block of another tile writes");

// What both passes know of their column, at which x, tail [B, REACH, C, S] and bias now begin.
#define COLUMN                                                                                                  \
    TURN                                                                                                        \
    const index_t length = valid_steps(at, lengths, steps);                                                     \
    const index_t tail_stride = channels * places, tail_at = at.b * REACH * tail_stride + at.c * places + at.s; \
    real taps[TAPS + 1];                                                                                        \
    for (int j = 0; j < TAPS; j++) taps[j] = weight[at.c * TAPS + j];                                           \
    x += OFFSET(at, x);                                                                                         \
    if (tail) tail += tail_at;                                                                                  \
    bias += LOGIT ? at.n : at.c;                                                                                \
    const real m = POWER ? (real)POWER : once(exponent), alpha = once(level), threshold = once(lowest);

// The inputs of a run and the REACH before it, as far as they are steps.
__device__ __forceinline__ void fetch_window(io *out, const io *x, index_t stride, index_t start, index_t stop) {
    const int run = within<STEPS>(start, stop), there = run ? run + REACH : 0;
    x += (start - REACH) * stride;
#pragma unroll
    for (int i = 0; i < WINDOW; i++, x += stride)
        out[i] = i < there && (i >= REACH || start + i >= REACH) ? *x : (io)0;
}

// The window as numbers, with the tail before the first step; w and q of the run, 0 if not valid.
#define RUN                                                                                                    \
    for (int i = 0; i < WINDOW; i++)                                                                           \
        current[i] = i < REACH && tail && start + i < REACH ? tail[(start + i) * tail_stride] : load(next[i]); \
    _Pragma("unroll") for (int i = 0; i < STEPS; i++) {                                                        \
        real a = !LOGIT ? *bias : i < valid ? bias[(start + i) * columns] : (real)0;                           \
        _Pragma("unroll") for (int j = 0; j < TAPS; j++) a = fma(taps[j], current[i + j], a);                  \
        gain(a, m, q[i], w[i]);                                                                                \
        if (i >= valid) q[i] = w[i] = 0;                                                                       \
    }

// What the run adds to a state and its gain, to shared memory. A barrier follows.
#define SHARE                                                                                          \
    if (RUNS > 1) {                                                                                    \
        real sum = 0, all = 0;                                                                         \
        _Pragma("unroll") for (int i = 0; i < STEPS; i++) {                                            \
            sum = fma(w[i], current[REACH + i] - sum, sum);                                            \
            all = fma(1 - all, w[i], all);                                                             \
        }                                                                                              \
        mine(added) = sum, mine(factor) = all;                                                         \
    }

extern "C" __global__ void __launch_bounds__(COLUMNS *RUNS, AT_ONCE)
    dsn(const io *x, const real *tail, const real *h_0, const real *weight, const real *bias, const index_t *lengths, spike *out,
        real *h_last, real *next_tail, real *borders, packet *chain, STRIDES(x), STRIDES(out), SIZES, double exponent,
        double level, double lowest) {
    __shared__ Shared added, factor;
    COLUMN
    out += OFFSET(at, out);
    index_t tile = turn.tile * TILE, start = tile + threadIdx.y * STEPS, ahead;
    real state = h_0 ? h_0[at.n] : (real)0;
    bool ends = !SPLIT;  // with the sequence

    io next[WINDOW];  // of the tile to come: loads are under way while this one is computed
    fetch_window(next, x, x_t, start, length);
    for (; tile < steps; tile += ahead, start += ahead) {
        const int valid = within<STEPS>(start, length), there = at.there ? within<STEPS>(start, steps) : 0;
        real current[WINDOW], w[STEPS], q[STEPS];
        take_tile(chain, turn, &next_tile);
        RUN
        SHARE
        state = enter_tile(state, tile == 0, LINK(0, tile / TILE - 1), turn.launch, entry);
        ahead = steps_ahead(turn, &next_tile);
        fetch_window(next, x, x_t, start + ahead, length);
        if (at.there && threadIdx.y == 0) borders[tile / TILE * columns + at.n] = state;

        real h = state;
        if (RUNS > 1) {
            h = enter<false, leaked>(state, added, factor);
            if (SPLIT && at.there && threadIdx.y == RUNS - 1) hand_on(LINK(0, tile / TILE), state, turn.launch);
            barrier();
        }
        spike *to = out + start * out_t;
#pragma unroll
        for (int i = 0; i < STEPS; i++, to += out_t) {
            h = fma(w[i], current[REACH + i] - h, h);
            if (i < there) *to = narrow(i < valid ? fire(h, alpha, threshold) : (real)0);
        }
        if (RUNS == 1) state = h;
        if (SPLIT) ends = tile + TILE >= steps;
    }
    leave(chain);
    if (!at.there || !ends || threadIdx.y != (SPLIT ? RUNS - 1 : 0)) return;
    h_last[at.n] = state;
    for (int i = 0; i < REACH; i++) {
        const index_t t = length - REACH + i;
        next_tail[tail_at + i * tail_stride] = t >= 0 ? load(x[t * x_t]) : tail ? tail[(t + REACH) * tail_stride] : (real)0;
    }
}

// What the backward pass reads for its next tile. With SPLIT it does so late: registers are short.
#define FETCH                                                                                        \
    {                                                                                                \
        const index_t from = tile < ahead ? start : start - ahead, stop = tile < ahead ? 0 : length; \
        fetch_window(next, x, x_t, from, stop);                                                      \
        fetch<STEPS>(next_grad, grad, grad_t, from, stop);                                           \
    }

// Over the runs, of a part of the sequence.
#define SUMS(parts, part)                                                                                                  \
    {                                                                                                                      \
        barrier();                                                                                                         \
        for (int j = 0; j <= TAPS; j++) mine(j <= REACH ? first[j] : passed) = sum[j];                                     \
        barrier();                                                                                                         \
        for (int j = threadIdx.y; at.there && j <= TAPS; j += RUNS) {                                                      \
            real total = 0;                                                                                                \
            for (int run = 0; run < RUNS; run++) total += (j <= REACH ? first[j] : passed)[run][threadIdx.x];              \
            sums[(j * (parts) + (part)) * columns + at.n] = total;                                                         \
        }                                                                                                                  \
    }

// grad_last: of h_last, or null. grad_next: of next_tail, with NEXT. grad_tail, grad_0: null if
// tail or h_0 is. sums [TAPS + 1, B, C, S], with SPLIT [TAPS + 1, tiles, B, C, S]: gradients of
// weights and bias, by column; grad_logit [T, B, C, S]: with LOGIT, that of the bias.
extern "C" __global__ void __launch_bounds__(COLUMNS *RUNS, AT_ONCE)
    dsn_backward(const spike *grad, const real *grad_last, const real *grad_next, const real *borders, const io *x,
                 const real *tail, const real *weight, const real *bias, const index_t *lengths, io *grad_x, real *grad_tail,
                 real *grad_0, real *sums, real *grad_logit, packet *chain, STRIDES(grad), STRIDES(x), STRIDES(grad_x), SIZES,
                 double exponent, double level, double lowest, double edge) {
    __shared__ Shared added, factor, passed, first[REACH + 1];
    COLUMN
    const real margin = once(edge);
    grad += OFFSET(at, grad), grad_x += OFFSET(at, grad_x);
    index_t tile = ((steps - 1) / TILE - turn.tile) * TILE, start = tile + threadIdx.y * STEPS, ahead;
    bool begins = !SPLIT;                                // with the sequence
    real carry = grad_last ? grad_last[at.n] : (real)0;  // alpha gh of the step after the tile
    real later[REACH + 1], sum[TAPS + 1];
    for (int j = 0; j <= REACH; j++) later[j] = 0;  // ga of the first steps after the tile
    for (int j = 0; j <= TAPS; j++) sum[j] = 0;

    io next[WINDOW];
    spike next_grad[STEPS];
    fetch_window(next, x, x_t, start, length);
    fetch<STEPS>(next_grad, grad, grad_t, start, length);
    for (; tile >= 0; tile -= ahead, start -= ahead) {
        const int valid = within<STEPS>(start, length), there = at.there ? within<STEPS>(start, steps) : 0;
        real current[WINDOW], w[STEPS], q[STEPS], g[STEPS];
        take_tile(chain, turn, &next_tile);
        RUN
#pragma unroll
        for (int i = 0; i < STEPS; i++) g[i] = wide(next_grad[i]);
        SHARE
        barrier();
        ahead = steps_ahead(turn, &next_tile);
        if (!SPLIT) FETCH
        real h = borders[tile / TILE * columns + at.n];
        if (RUNS > 1) h = enter<false, leaked>(h, added, factor);
#pragma unroll
        for (int i = 0; i < STEPS; i++) {
            h = fma(w[i], current[REACH + i] - h, h);
            if (i < valid) g[i] *= slope(h, alpha, threshold, margin);
            q[i] *= m * (h - current[REACH + i]);  // times gh: ga
        }
        real after = carry;
        if (RUNS > 1) {
            real sum_g = 0;
#pragma unroll
            for (int i = STEPS - 1; i >= 0; i--) sum_g += g[i], sum_g = fma(-w[i], sum_g, sum_g);
            mine(passed) = sum_g;
            carry = enter_tile(carry, tile + TILE >= steps, LINK(0, tile / TILE + 1), turn.launch, entry);
            after = enter<true, leaked>(carry, passed, factor);
            if (SPLIT && at.there && threadIdx.y == 0) hand_on(LINK(0, tile / TILE), carry, turn.launch);
        }
#pragma unroll
        for (int i = STEPS - 1; i >= 0; i--) {
            const real gh = g[i] + after;
            after = fma(-w[i], gh, gh);
            g[i] = w[i] * gh;
            q[i] *= gh;
            sum[TAPS] += q[i];
#pragma unroll
            for (int j = 0; j < TAPS; j++) sum[j] = fma(q[i], current[i + j], sum[j]);
        }
        if (RUNS == 1) carry = after;

        // The convolution reads ga of REACH steps after the run: of the next run or the last tile.
        for (int j = 0; j < REACH; j++) {
            mine(first[j]) = q[j];
            if (SPLIT && at.there && threadIdx.y == 0) hand_on(LINK(1 + j, tile / TILE), q[j], turn.launch);
        }
        barrier();
        real ga[WINDOW];
#pragma unroll
        for (int i = 0; i < STEPS; i++) ga[i] = q[i];
        for (int j = 0; j < REACH; j++) {
            if (SPLIT && threadIdx.y == RUNS - 1 && tile + TILE < steps)
                receive(later[j], LINK(1 + j, tile / TILE + 1), turn.launch);
            ga[STEPS + j] = threadIdx.y + 1 < RUNS ? first[j][(threadIdx.y + 1) % RUNS][threadIdx.x] : later[j];
            later[j] = first[j][0][threadIdx.x];
        }
        io *to = grad_x + start * grad_x_t;
#pragma unroll
        for (int i = 0; i < STEPS; i++, to += grad_x_t) {
#pragma unroll
            for (int j = 0; j < TAPS; j++) g[i] = fma(taps[TAPS - 1 - j], ga[i + j], g[i]);
            if (i < there) {
                *to = store(g[i]);
                if (LOGIT) grad_logit[(start + i) * columns + at.n] = ga[i];
            }
        }
        if (!SPLIT) continue;
        SUMS(tiles, tile / TILE)
        FETCH
        begins = tile == 0;
        for (int j = 0; j <= TAPS; j++) sum[j] = 0;
    }
    leave(chain);
    if (!SPLIT) SUMS(1, 0)
    if (!at.there || !begins || threadIdx.y) return;
    if (grad_0) grad_0[at.n] = carry;
    for (int i = 0; grad_tail && i < REACH; i++) {  // step i - REACH
        real g = 0;
        for (int j = 0; j <= i; j++) g = fma(taps[j], later[i - j], g);
        grad_tail[tail_at + i * tail_stride] = g;
    }
    for (int i = 0; NEXT && i < REACH; i++) {  // step length - REACH + i: its gradient is written
        const real g = grad_next[tail_at + i * tail_stride];
        const index_t t = length - REACH + i;
        if (t >= 0) grad_x[t * grad_x_t] = store(load(grad_x[t * grad_x_t]) + g);
        else if (grad_tail) grad_tail[tail_at + (t + REACH) * tail_stride] += g;
    }
}
