"""The Triton kernels of `fused`: a block of `mlp` or `mixer` in two, and what lies between two denoising steps in one.

    enter   norm of the previous block, modulation of the input, mixing of time steps, W_1, GELU, modulation of the
            hidden units. Each program computes some hidden units of some chunks. A norm needs whole rows, which the
            kernel before left in parts, so every program repeats it; the first also stores it for `leave`.
    leave   W_2, gate, and the sum with the residual stream, whose norm is left to the next `enter`.
    turn    norms after the last block, the map to actions, the sampler's update, and the embedding of the next step.

A chunk of k denoising steps and d blocks takes k (2 d + 1) + 1 launches. Sums, norms, modulation and the residual
stream are float32; the operands of products have the dtype of the weights.

Triton reads TRITON_INTERPRET when it is imported. Under its interpreter these kernels run on the CPU.

Axes: b batch, h horizon, a action, w width, u hidden units of a block. A tile holds whole chunks, whose time steps are
padded to a power of two, and the whole width, padded likewise.
"""

# Triton reads annotations as they are, so this file does not postpone their evaluation.
# pyright: reportGeneralTypeIssues=false, reportArgumentType=false, reportIndexIssue=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false

import triton
import triton.language as tl


@triton.jit
def product(a, b, total, WIDEN: tl.constexpr, PRECISION: tl.constexpr):
    """Return total + a b, in float32, of operands in the dtype of b."""
    a = a.to(b.dtype)
    if WIDEN:  # The interpreter would multiply the bits of bfloat16 as integers.
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, total, input_precision=PRECISION)


@triton.jit
def normalized(x, k, weight, bias, W: tl.constexpr, EPS: tl.constexpr, RMS: tl.constexpr):
    """Return the norm of rows x, whose columns k of W or more are padding and zero."""
    if not RMS:
        x = tl.where(k[None, :] < W, x - (tl.sum(x, 1) / W)[:, None], 0.0)
    x = x * (1 / tl.sqrt(tl.sum(x * x, 1) / W + EPS))[:, None]
    x = x * tl.load(weight + k, mask=k < W, other=0.0).to(tl.float32)[None, :]
    if not RMS:
        x += tl.load(bias + k, mask=k < W, other=0.0).to(tl.float32)[None, :]
    return x


@triton.jit
def modulation(step, cond, row, k, inside, SLOT: tl.constexpr, SIZE: tl.constexpr):
    """Return values of a slot, the step's plus the condition's, at rows of the condition and columns k."""
    own = tl.load(step + SLOT + k, mask=k < SIZE, other=0.0)[None, :]
    return own + tl.load(cond + row[:, None] + SLOT + k[None, :], mask=inside, other=0.0)


@triton.jit
def rows(chunks, cond_by_chunk, cond_by_time, H: tl.constexpr, HP: tl.constexpr, CHUNKS: tl.constexpr):
    """Return chunk and time of the rows of a tile, whether they exist, and their rows of stream and condition."""
    i = tl.arange(0, CHUNKS * HP)
    chunk, time = tl.program_id(0).to(tl.int64) * CHUNKS + i // HP, i % HP
    return chunk, time, (chunk < chunks) & (time < H), chunk * H + time, chunk * cond_by_chunk + time * cond_by_time


@triton.jit
def enter(
    stream, x, hidden, step, cond, weight, bias, norm_weight, norm_bias, mix_weight, mix_bias,
    chunks, cond_by_chunk, cond_by_time,
    H: tl.constexpr, W: tl.constexpr, U: tl.constexpr, HP: tl.constexpr, WP: tl.constexpr, EPS: tl.constexpr,
    NORM: tl.constexpr, RMS: tl.constexpr, MIX: tl.constexpr,
    ENTER_SCALE: tl.constexpr, ENTER_SHIFT: tl.constexpr, HIDDEN_SCALE: tl.constexpr, HIDDEN_SHIFT: tl.constexpr,
    CHUNKS: tl.constexpr, COLUMNS: tl.constexpr, WIDEN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Read the stream and write hidden units (b h u); with NORM, normalise the stream first and store it in x."""
    chunk, time, exists, row, cond_row = rows(chunks, cond_by_chunk, cond_by_time, H, HP, CHUNKS)
    k = tl.arange(0, WP)
    at, inside = row[:, None] * W + k[None, :], exists[:, None] & (k < W)[None, :]
    y = tl.load(stream + at, mask=inside, other=0.0)
    if NORM:
        y = normalized(y, k, norm_weight, norm_bias, W, EPS, RMS)
        if tl.program_id(1) == 0:  # A mask of this would be no bool in the interpreter of Triton 3.9.
            tl.store(x + at, y, mask=inside)
    if ENTER_SCALE >= 0:
        y *= 1 + modulation(step, cond, cond_row, k, inside, ENTER_SCALE, W)
    if ENTER_SHIFT >= 0:
        y += modulation(step, cond, cond_row, k, inside, ENTER_SHIFT, W)
    if MIX:  # One product with a block-diagonal matrix mixes the time steps of each chunk of the tile.
        own = (chunk[:, None] == chunk[None, :]) & (time < H)[:, None] & (time < H)[None, :]
        mix = tl.load(mix_weight + time[:, None] * H + time[None, :], mask=own, other=0.0)
        mixed = product(mix, y.to(mix.dtype), tl.zeros_like(y), WIDEN, PRECISION)
        y += mixed + tl.load(mix_bias + time, mask=time < H, other=0.0).to(tl.float32)[:, None]
    n = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    w = tl.load(weight + n[None, :] * W + k[:, None], mask=(k < W)[:, None] & (n < U)[None, :], other=0.0)
    y = product(y, w, tl.zeros((CHUNKS * HP, COLUMNS), tl.float32), WIDEN, PRECISION)
    y += tl.load(bias + n, mask=n < U, other=0.0).to(tl.float32)[None, :]
    y = 0.5 * y * (1 + tl.erf(y * 0.7071067811865476))
    inside = exists[:, None] & (n < U)[None, :]
    if HIDDEN_SCALE >= 0:
        y *= 1 + modulation(step, cond, cond_row, n, inside, HIDDEN_SCALE, U)
    if HIDDEN_SHIFT >= 0:
        y += modulation(step, cond, cond_row, n, inside, HIDDEN_SHIFT, U)
    tl.store(hidden + row[:, None] * U + n[None, :], y.to(hidden.dtype.element_ty), mask=inside)


@triton.jit
def leave(
    hidden, x, stream, step, cond, weight, bias,
    chunks, cond_by_chunk, cond_by_time,
    H: tl.constexpr, W: tl.constexpr, U: tl.constexpr, HP: tl.constexpr,
    GATE: tl.constexpr,
    CHUNKS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, WIDEN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write the stream (b h w), not yet normalised: x plus the gated map of the hidden units."""
    _, _, exists, row, cond_row = rows(chunks, cond_by_chunk, cond_by_time, H, HP, CHUNKS)
    n = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    y = tl.zeros((CHUNKS * HP, COLUMNS), tl.float32)
    for first in range(0, U, DEPTH):
        k = first + tl.arange(0, DEPTH)
        h = tl.load(hidden + row[:, None] * U + k[None, :], mask=exists[:, None] & (k < U)[None, :], other=0.0)
        w = tl.load(weight + n[None, :] * U + k[:, None], mask=(k < U)[:, None] & (n < W)[None, :], other=0.0)
        y = product(h, w, y, WIDEN, PRECISION)
    y += tl.load(bias + n, mask=n < W, other=0.0).to(tl.float32)[None, :]
    at, inside = row[:, None] * W + n[None, :], exists[:, None] & (n < W)[None, :]
    if GATE >= 0:
        y *= 1 + modulation(step, cond, cond_row, n, inside, GATE, W)
    tl.store(stream + at, tl.load(x + at, mask=inside, other=0.0) + y, mask=inside)


@triton.jit
def turn(
    stream, x, chunk, memory, shares, embed_weight, embed_bias, block_weight, block_bias, norm_weight, norm_bias,
    out_weight, out_bias, clip, chunks,
    H: tl.constexpr, A: tl.constexpr, W: tl.constexpr, AP: tl.constexpr, WP: tl.constexpr, EPS: tl.constexpr,
    RMS: tl.constexpr, MEMORY: tl.constexpr, FIRST: tl.constexpr, LAST: tl.constexpr,
    CHUNKS: tl.constexpr, WIDEN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Update the noisy chunk (b h a) from the stream, and write its embedding to x; one time step of some chunks.

    FIRST embeds alone, and LAST updates alone. `shares` are the step's row of `coefficients`.
    """
    c, time = tl.program_id(0).to(tl.int64) * CHUNKS + tl.arange(0, CHUNKS), tl.program_id(1)
    row, exists = c * H + time, c < chunks
    a, k = tl.arange(0, AP), tl.arange(0, WP)
    at, inside = row[:, None] * A + a[None, :], exists[:, None] & (a < A)[None, :]
    stream_at, stream_inside = row[:, None] * W + k[None, :], exists[:, None] & (k < W)[None, :]
    maps = (a < A)[:, None] & (k < W)[None, :]
    noisy = tl.load(chunk + at, mask=inside, other=0.0)
    if not FIRST:
        y = tl.load(stream + stream_at, mask=stream_inside, other=0.0)
        y = normalized(y, k, block_weight, block_bias, W, EPS, RMS)
        y = normalized(y, k, norm_weight, norm_bias, W, EPS, False)
        w = tl.trans(tl.load(out_weight + a[:, None] * W + k[None, :], mask=maps, other=0.0))
        out = product(y, w, tl.zeros((CHUNKS, AP), tl.float32), WIDEN, PRECISION)
        out += tl.load(out_bias + a, mask=a < A, other=0.0).to(tl.float32)[None, :]
        clean = tl.load(shares) * out + tl.load(shares + 1) * noisy
        # Unlike a maximum and a minimum, these comparisons keep NaN, which the policy looks for.
        clean = tl.where(clean > clip, clip, tl.where(clean < -clip, -clip, clean))
        before = noisy
        noisy = tl.load(shares + 2) * clean + tl.load(shares + 3) * before
        if MEMORY:
            noisy += tl.load(shares + 4) * tl.load(memory + at, mask=inside, other=0.0)
            kept = tl.load(shares + 5) * clean + tl.load(shares + 6) * before
            tl.store(memory + at, kept, mask=inside)
        tl.store(chunk + at, noisy, mask=inside)
    if not LAST:
        w = tl.load(embed_weight + time * A * W + a[:, None] * W + k[None, :], mask=maps, other=0.0)
        y = product(noisy, w, tl.zeros((CHUNKS, WP), tl.float32), WIDEN, PRECISION)
        y += tl.load(embed_bias + time * W + k, mask=k < W, other=0.0).to(tl.float32)[None, :]
        tl.store(x + stream_at, y, mask=stream_inside)
