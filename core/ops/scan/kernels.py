# mypy: disallow-untyped-defs=False
"""Triton kernels of the selective scan.  Importing this needs triton; ``cuda`` does so when asked.

A program holds a tile of T positions (one chunk) by W channels and loops over the states n.  Within
a chunk the recurrence is ``tl.associative_scan`` over the positions.  Chunks are independent:

1. ``ends``: what each chunk adds to the state, had it started from zero, and the sum of its steps.
2. ``carry``: from these the state before each chunk, a loop over chunks for each (n, d).
3. ``outputs``: y from the state before the chunk.

The backward pass does the same from the end (``ends_back``, ``carry``, ``gradients``).

Sums are arranged to hold no difference of large numbers: a decay over several positions is the
exponential of a sum of just their steps, and the state before a position is a scan of its own
(shifted by one), since h - x would drown strong decays' gradients in rounding.

Letters: b batch, c chunk, t position, d channel, n state.  ``u``, ``delta``, ``z``, ``y``: (B, L, D);
``A``: (N, D) (transposed); ``B``, ``C``: (B, L, N); states: (B, chunks, N, D); all contiguous.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def then(a1, x1, a2, x2):
    """h -> a1 h + x1, and after it h -> a2 h + x2."""
    return a1 * a2, a2 * x1 + x2


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def softplus(x):
    """max(x, 0) + log(1 + e), e = exp(-|x|), by 2 artanh(e / (2 + e)).

    tl.log(1 + e) has lost 3 digits of softplus(-10), and Triton has no log1p outside CUDA.  The
    series' 17 terms are enough for float64: its argument is at most 1 / 3.
    """
    e = tl.exp(-tl.abs(x))
    s = e / (2.0 + e)
    series = tl.zeros_like(s)
    for i in tl.static_range(17):
        series = series * (s * s) + 1.0 / (33 - 2 * i)
    return tl.maximum(x, 0.0) + 2.0 * s * series


@triton.jit
def tile(pointer, row, t, d, L, D, ACC: tl.constexpr):
    """(T, W) of a (B, L, D) tensor at batch entry ``row``, zero outside."""
    inside = ((t >= 0) & (t < L))[:, None] & (d < D)[None, :]
    at = (row * L + t)[:, None] * D + d[None, :]
    return tl.load(pointer + at, mask=inside, other=0.0).to(ACC)


@triton.jit
def steps(
    delta,
    bias,
    row,
    t,
    d,
    L,
    D,
    BIAS: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    ACC: tl.constexpr,
):
    """The step sizes as they enter the recurrence, and before the softplus; zero outside."""
    raw = tile(delta, row, t, d, L, D, ACC)
    if BIAS:
        raw += tl.load(bias + d, mask=d < D, other=0.0).to(ACC)[None, :]
    size = raw
    if SOFTPLUS:
        size = softplus(raw)
    inside = ((t >= 0) & (t < L))[:, None] & (d < D)[None, :]
    return tl.where(inside, size, 0.0), raw


@triton.jit
def column(pointer, row, t, n, L, N, ACC: tl.constexpr):
    """(T,) of a (B, L, N) tensor: state n at batch entry ``row``, zero outside."""
    return tl.load(pointer + (row * L + t) * N + n, mask=(t >= 0) & (t < L), other=0.0).to(ACC)


@triton.jit
def ends(
    u,
    delta,
    bias,
    A,
    B,
    added,
    total,
    L,
    D,
    N,
    chunks,
    T: tl.constexpr,
    W: tl.constexpr,
    BIAS: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    ACC: tl.constexpr,
):
    """added[n] = sum over t of exp(A[n] (steps after t)) delta u B[n]; total = the sum of steps."""
    chunk = tl.program_id(0).to(tl.int64)
    row = tl.program_id(2).to(tl.int64)
    d = tl.program_id(1) * W + tl.arange(0, W)
    t = chunk * T + tl.arange(0, T)
    size, _ = steps(delta, bias, row, t, d, L, D, BIAS, SOFTPLUS, ACC)
    following, _ = steps(delta, bias, row, t + 1, d, L, D, BIAS, SOFTPLUS, ACC)
    last = (tl.arange(0, T) == T - 1)[:, None]  # the next chunk's step is not this one's
    rest = tl.cumsum(tl.where(last, 0.0, following), axis=0, reverse=True)
    drive = size * tile(u, row, t, d, L, D, ACC)
    at = row * chunks + chunk
    tl.store(total + at * D + d, tl.sum(size, axis=0), mask=d < D)
    for n in range(N):
        A_n = tl.load(A + n * D + d, mask=d < D, other=0.0).to(ACC)
        B_n = column(B, row, t, n, L, N, ACC)
        x = tl.exp(rest * A_n[None, :]) * drive * B_n[:, None]
        tl.store(added + (at * N + n) * D + d, tl.sum(x, axis=0), mask=d < D)


@triton.jit
def carry(
    added,
    total,
    A,
    state,
    D,
    N,
    chunks,
    E: tl.constexpr,
    REVERSE: tl.constexpr,
    ACC: tl.constexpr,
):
    """Replace what each chunk adds by the state before it; ``state`` (B, N, D) starts and ends.

    With REVERSE, what each chunk adds to the gradient by the gradient that comes from after it.
    """
    row = tl.program_id(1).to(tl.int64)
    e = tl.program_id(0) * E + tl.arange(0, E)
    inside = e < N * D
    d = e % D
    A_e = tl.load(A + e, mask=inside, other=0.0).to(ACC)
    h = tl.load(state + row * N * D + e, mask=inside, other=0.0)
    for i in range(chunks):
        c = i
        if REVERSE:
            c = chunks - 1 - i
        at = row * chunks + c
        x = tl.load(added + at * N * D + e, mask=inside, other=0.0)
        size = tl.load(total + at * D + d, mask=inside, other=0.0)
        tl.store(added + at * N * D + e, h, mask=inside)
        h = tl.exp(A_e * size) * h + x
    tl.store(state + row * N * D + e, h, mask=inside)


@triton.jit
def outputs(
    u,
    delta,
    bias,
    A,
    B,
    C,
    skip,
    z,
    before,
    y,
    L,
    D,
    N,
    chunks,
    T: tl.constexpr,
    W: tl.constexpr,
    BIAS: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    SKIP: tl.constexpr,
    GATE: tl.constexpr,
    ACC: tl.constexpr,
):
    chunk = tl.program_id(0).to(tl.int64)
    row = tl.program_id(2).to(tl.int64)
    d = tl.program_id(1) * W + tl.arange(0, W)
    t = chunk * T + tl.arange(0, T)
    first = (tl.arange(0, T) == 0)[:, None]
    size, _ = steps(delta, bias, row, t, d, L, D, BIAS, SOFTPLUS, ACC)
    u_t = tile(u, row, t, d, L, D, ACC)
    drive = size * u_t
    out = tl.zeros([T, W], dtype=ACC)
    for n in range(N):
        A_n = tl.load(A + n * D + d, mask=d < D, other=0.0).to(ACC)
        h_0 = tl.load(before + ((row * chunks + chunk) * N + n) * D + d, mask=d < D, other=0.0)
        a = tl.exp(size * A_n[None, :])
        x = drive * column(B, row, t, n, L, N, ACC)[:, None]
        x += tl.where(first, a * h_0[None, :], 0.0)
        _, h = tl.associative_scan((a, x), 0, then)
        out += h * column(C, row, t, n, L, N, ACC)[:, None]
    if SKIP:
        out += u_t * tl.load(skip + d, mask=d < D, other=0.0).to(ACC)[None, :]
    if GATE:
        gate = tile(z, row, t, d, L, D, ACC)
        out *= gate * sigmoid(gate)
    inside = (t < L)[:, None] & (d < D)[None, :]
    at = (row * L + t)[:, None] * D + d[None, :]
    tl.store(y + at, out.to(y.dtype.element_ty), mask=inside)


@triton.jit
def ends_back(
    delta,
    bias,
    A,
    C,
    z,
    dy,
    added,
    total,
    L,
    D,
    N,
    chunks,
    T: tl.constexpr,
    W: tl.constexpr,
    BIAS: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    GATE: tl.constexpr,
    ACC: tl.constexpr,
):
    """added[n] = sum over t of exp(A[n] (steps up to t)) C[n] dy: what reaches the chunk's start."""
    chunk = tl.program_id(0).to(tl.int64)
    row = tl.program_id(2).to(tl.int64)
    d = tl.program_id(1) * W + tl.arange(0, W)
    t = chunk * T + tl.arange(0, T)
    size, _ = steps(delta, bias, row, t, d, L, D, BIAS, SOFTPLUS, ACC)
    since = tl.cumsum(size, axis=0)
    dy_t = tile(dy, row, t, d, L, D, ACC)
    if GATE:
        gate = tile(z, row, t, d, L, D, ACC)
        dy_t *= gate * sigmoid(gate)
    at = row * chunks + chunk
    tl.store(total + at * D + d, tl.sum(size, axis=0), mask=d < D)
    for n in range(N):
        A_n = tl.load(A + n * D + d, mask=d < D, other=0.0).to(ACC)
        C_n = column(C, row, t, n, L, N, ACC)
        x = tl.exp(since * A_n[None, :]) * dy_t * C_n[:, None]
        tl.store(added + (at * N + n) * D + d, tl.sum(x, axis=0), mask=d < D)


@triton.jit
def gradients(
    u,
    delta,
    bias,
    A,
    B,
    C,
    skip,
    z,
    dy,
    before,
    after,
    du,
    ddelta,
    dA,
    dB,
    dC,
    dskip,
    dz,
    L,
    D,
    N,
    chunks,
    T: tl.constexpr,
    W: tl.constexpr,
    BIAS: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    SKIP: tl.constexpr,
    GATE: tl.constexpr,
    ACC: tl.constexpr,
):
    """``before``: states before each chunk; ``after``: gradients of the states after each.

    dA (B, chunks, N, D) and dskip (B, chunks, D) are a part for each chunk.  dB and dC are sums
    over all channels, to which programs add in any order: their last bits vary between runs.
    """
    chunk = tl.program_id(0).to(tl.int64)
    row = tl.program_id(2).to(tl.int64)
    d = tl.program_id(1) * W + tl.arange(0, W)
    t = chunk * T + tl.arange(0, T)
    first = (tl.arange(0, T) == 0)[:, None]
    last = (tl.arange(0, T) == T - 1)[:, None]
    part = row * chunks + chunk
    inside = (t < L)[:, None] & (d < D)[None, :]
    at = (row * L + t)[:, None] * D + d[None, :]

    size, raw = steps(delta, bias, row, t, d, L, D, BIAS, SOFTPLUS, ACC)
    earlier, _ = steps(delta, bias, row, t - 1, d, L, D, BIAS, SOFTPLUS, ACC)
    later, _ = steps(delta, bias, row, t + 1, d, L, D, BIAS, SOFTPLUS, ACC)
    u_t = tile(u, row, t, d, L, D, ACC)
    drive = size * u_t
    drive_earlier = earlier * tile(u, row, t - 1, d, L, D, ACC)
    dy_t = tile(dy, row, t, d, L, D, ACC)
    gate = u_t
    if GATE:
        gate = tile(z, row, t, d, L, D, ACC)
        dy_t *= gate * sigmoid(gate)

    out = tl.zeros([T, W], dtype=ACC)
    ddrive = tl.zeros([T, W], dtype=ACC)
    dsize = tl.zeros([T, W], dtype=ACC)
    for n in range(N):
        A_n = tl.load(A + n * D + d, mask=d < D, other=0.0).to(ACC)[None, :]
        B_n = column(B, row, t, n, L, N, ACC)[:, None]
        C_n = column(C, row, t, n, L, N, ACC)[:, None]
        here = (part * N + n) * D + d
        h_0 = tl.load(before + here, mask=d < D, other=0.0)[None, :]
        g_T = tl.load(after + here, mask=d < D, other=0.0)[None, :]
        # The state before each position: the scan of the positions before it.
        x = drive_earlier * column(B, row, t - 1, n, L, N, ACC)[:, None]
        x = tl.where(first, h_0, x)
        _, previous = tl.associative_scan((tl.exp(earlier * A_n), x), 0, then)
        a = tl.exp(size * A_n)
        kept = a * previous
        h = kept + drive * B_n
        # Its gradient, g[t] = C dy + a[t + 1] g[t + 1].
        x = dy_t * C_n + tl.where(last, g_T, 0.0)
        _, g = tl.associative_scan((tl.exp(later * A_n), x), 0, then, reverse=True)
        out += h * C_n
        ddrive += g * B_n
        dpower = g * kept  # of delta A
        dsize += dpower * A_n
        tl.store(dA + here, tl.sum(dpower * size, axis=0), mask=d < D)
        to = (row * L + t) * N + n
        tl.atomic_add(dB + to, tl.sum(g * drive, axis=1), mask=t < L)
        tl.atomic_add(dC + to, tl.sum(h * dy_t, axis=1), mask=t < L)

    dsize += ddrive * u_t
    du_t = ddrive * size
    if SOFTPLUS:
        dsize *= sigmoid(raw)
    if SKIP:
        D_d = tl.load(skip + d, mask=d < D, other=0.0).to(ACC)[None, :]
        out += u_t * D_d
        du_t += dy_t * D_d
        tl.store(dskip + part * D + d, tl.sum(dy_t * u_t, axis=0), mask=d < D)
    if GATE:
        opened = sigmoid(gate)
        slope = opened * (1.0 + gate * (1.0 - opened))
        tl.store(dz + at, tile(dy, row, t, d, L, D, ACC) * out * slope, mask=inside)
    tl.store(du + at, du_t, mask=inside)
    tl.store(ddelta + at, dsize, mask=inside)
