// h_t = exp(g_t) h_{t-1} + u_t; see tile.cuh for the schedule, chain.cuh for SPLIT. After the valid
// steps h is 0.
//
// Backwards, with r_t = exp(g_{t+1}) gh_{t+1} the gradient that comes from the next step:
//     gh_t = dh_t + r_t,   gu_t = gh_t,   gg_t = gh_t exp(g_t) h_{t-1}
#include "tile.cuh"
#include "chain.cuh"

extern "C" __global__ void __launch_bounds__(COLUMNS *RUNS, AT_ONCE)
    log_scan(const io *g, const io *u, const real *h_0, const index_t *lengths, io *h, real *h_last, packet *chain, STRIDES(g),
             STRIDES(u), STRIDES(h), SIZES) {
    __shared__ Shared added, factor;
    TURN
    const index_t length = valid_steps(at, lengths, steps);
    g += OFFSET(at, g), u += OFFSET(at, u), h += OFFSET(at, h);
    index_t tile = turn.tile * TILE, start = tile + threadIdx.y * STEPS, ahead;
    real state = h_0[at.n];
    bool ends = !SPLIT;  // with the sequence

    io next_g[STEPS], next_u[STEPS];  // of the tile to come, loaded during this one
    fetch<STEPS>(next_g, g, g_t, start, length);
    fetch<STEPS>(next_u, u, u_t, start, length);
    for (; tile < steps; tile += ahead, start += ahead) {
        const int valid = within<STEPS>(start, length), there = at.there ? within<STEPS>(start, steps) : 0;
        real a[STEPS], v[STEPS];
        take_tile(chain, turn, &next_tile);
#pragma unroll
        for (int i = 0; i < STEPS; i++) a[i] = i < valid ? exp(load(next_g[i])) : (real)1, v[i] = load(next_u[i]);
        if (RUNS > 1) {
            real sum = 0, product = 1;
#pragma unroll
            for (int i = 0; i < STEPS; i++) sum = fma(a[i], sum, v[i]), product *= a[i];
            mine(added) = sum, mine(factor) = product;
        }
        state = enter_tile(state, tile == 0, LINK(0, tile / TILE - 1), turn.launch, entry);
        ahead = steps_ahead(turn, &next_tile);
        fetch<STEPS>(next_g, g, g_t, start + ahead, length);
        fetch<STEPS>(next_u, u, u_t, start + ahead, length);

        real before = state;
        if (RUNS > 1) {
            before = enter<false, decayed>(state, added, factor);
            if (SPLIT && at.there && threadIdx.y == RUNS - 1) hand_on(LINK(0, tile / TILE), state, turn.launch);
            barrier();
        }
        io *out = h + start * h_t;
#pragma unroll
        for (int i = 0; i < STEPS; i++, out += h_t) {
            before = fma(a[i], before, v[i]);
            if (i < there) *out = store(i < valid ? before : (real)0);
        }
        if (RUNS == 1) state = before;
        if (SPLIT) ends = tile + TILE >= steps;
    }
    leave(chain);
    if (at.there && ends && threadIdx.y == (SPLIT ? RUNS - 1 : 0)) h_last[at.n] = state;
}

// What the backward pass reads for its next tile. With SPLIT it does so late: registers are short.
#define FETCH                                                                                        \
    {                                                                                                \
        const index_t from = tile < ahead ? start : start - ahead, stop = tile < ahead ? 0 : length; \
        fetch<STEPS>(next_grad, grad, grad_t, from, stop);                                           \
        fetch<STEPS>(next_g, g, g_t, from, stop);                                                    \
        fetch<STEPS>(next_h, h, h_t, from, stop - 1);                                                \
    }

extern "C" __global__ void __launch_bounds__(COLUMNS *RUNS, AT_ONCE)
    log_scan_backward(const io *grad, const real *grad_last, const io *g, const io *h, const real *h_0, const index_t *lengths,
                      io *grad_g, io *grad_u, real *grad_0, packet *chain, STRIDES(grad), STRIDES(g), STRIDES(h),
                      STRIDES(grad_g), STRIDES(grad_u), SIZES) {
    __shared__ Shared added, factor;
    TURN
    const index_t length = valid_steps(at, lengths, steps);
    grad += OFFSET(at, grad), g += OFFSET(at, g), h += OFFSET(at, h);
    grad_g += OFFSET(at, grad_g), grad_u += OFFSET(at, grad_u);
    index_t tile = ((steps - 1) / TILE - turn.tile) * TILE, start = tile + threadIdx.y * STEPS, ahead;
    real state = grad_last[at.n];
    bool begins = !SPLIT;  // with the sequence

    io next_grad[STEPS], next_g[STEPS], next_h[STEPS];
    fetch<STEPS>(next_grad, grad, grad_t, start, length);
    fetch<STEPS>(next_g, g, g_t, start, length);
    fetch<STEPS>(next_h, h, h_t, start, length - 1);
    for (; tile >= 0; tile -= ahead, start -= ahead) {
        const int valid = within<STEPS>(start, length), there = at.there ? within<STEPS>(start, steps) : 0;
        real a[STEPS], d[STEPS], product[STEPS];  // product: of decay and the state before
        real h_before = start == 0 ? h_0[at.n] : start <= length ? load(h[(start - 1) * h_t]) : (real)0;
        take_tile(chain, turn, &next_tile);
#pragma unroll
        for (int i = 0; i < STEPS; i++) {
            a[i] = i < valid ? exp(load(next_g[i])) : (real)1;
            d[i] = load(next_grad[i]);
            product[i] = a[i] * h_before;
            h_before = load(next_h[i]);
        }
        if (RUNS > 1) {
            real sum = 0, factors = 1;
#pragma unroll
            for (int i = STEPS - 1; i >= 0; i--) sum = a[i] * (d[i] + sum), factors *= a[i];
            mine(added) = sum, mine(factor) = factors;
        }
        state = enter_tile(state, tile + TILE >= steps, LINK(0, tile / TILE + 1), turn.launch, entry);
        ahead = steps_ahead(turn, &next_tile);
        if (!SPLIT) FETCH

        real after = state;
        if (RUNS > 1) {
            after = enter<true, decayed>(state, added, factor);
            if (SPLIT && at.there && threadIdx.y == 0) hand_on(LINK(0, tile / TILE), state, turn.launch);
            barrier();
        }
        io *out_g = grad_g + (start + STEPS - 1) * grad_g_t, *out_u = grad_u + (start + STEPS - 1) * grad_u_t;
#pragma unroll
        for (int i = STEPS - 1; i >= 0; i--, out_g -= grad_g_t, out_u -= grad_u_t) {
            const real gh = d[i] + after;
            after = a[i] * gh;
            if (i < there) {
                *out_u = store(i < valid ? gh : (real)0);
                *out_g = store(i < valid ? gh * product[i] : (real)0);
            }
        }
        if (RUNS == 1) state = after;
        if (!SPLIT) continue;
        FETCH
        begins = tile == 0;
    }
    leave(chain);
    if (at.there && begins && threadIdx.y == 0) grad_0[at.n] = state;
}
