"""TinyHD's blocks as fused kernels for CPUs, compiled by Numba.

An inverted residual's hidden activations are several times as large as its input, and writing them to memory and
reading them back costs more than the arithmetic. Here a block runs through the picture in bands of rows and groups of
hidden channels, so that hidden activations live in the processor's cache only. Channels lie one after the other
(N, C, T, H, W), so that the innermost loops run along rows, where LLVM makes vector instructions of them.

The kernels release the GIL; `tinyhd.fused` gives bands to threads.
"""

import numpy as np

from tinyhd.simd import clamp, compiled, divide, evens, exp, fma, load, load_one, odds, spread, store

# ---- arithmetic; lengths n are in elements, multiples of eight; NaN comes out of a clamp as its lower bound


@compiled
def _tile3(y, y0, y_row, x, x0, place, w, w0, w_row, bias, b0, rows, depth, add, least, most):
    """24 columns of `_multiply`."""
    for r in range(0, rows, 4):
        q0 = y0 + r * y_row
        q1 = q0 + y_row
        q2 = q1 + y_row
        q3 = q2 + y_row
        if add:
            a1, a2, a3 = load(y, q0), load(y, q0 + 8), load(y, q0 + 16)
            b1, b2, b3 = load(y, q1), load(y, q1 + 8), load(y, q1 + 16)
            c1, c2, c3 = load(y, q2), load(y, q2 + 8), load(y, q2 + 16)
            d1, d2, d3 = load(y, q3), load(y, q3 + 8), load(y, q3 + 16)
        else:
            k = b0 + r
            a1, b1, c1, d1 = load_one(bias, k), load_one(bias, k + 1), load_one(bias, k + 2), load_one(bias, k + 3)
            a2, b2, c2, d2 = a1, b1, c1, d1
            a3, b3, c3, d3 = a1, b1, c1, d1
        k = w0 + (r >> 2) * w_row
        for j in range(depth):
            p = x0 + place[j]
            u, v, t = load(x, p), load(x, p + 8), load(x, p + 16)
            each = load_one(w, k)
            a1, a2, a3 = fma(each, u, a1), fma(each, v, a2), fma(each, t, a3)
            each = load_one(w, k + 1)
            b1, b2, b3 = fma(each, u, b1), fma(each, v, b2), fma(each, t, b3)
            each = load_one(w, k + 2)
            c1, c2, c3 = fma(each, u, c1), fma(each, v, c2), fma(each, t, c3)
            each = load_one(w, k + 3)
            d1, d2, d3 = fma(each, u, d1), fma(each, v, d2), fma(each, t, d3)
            k += 4
        store(y, q0, clamp(a1, least, most))
        store(y, q0 + 8, clamp(a2, least, most))
        store(y, q0 + 16, clamp(a3, least, most))
        store(y, q1, clamp(b1, least, most))
        store(y, q1 + 8, clamp(b2, least, most))
        store(y, q1 + 16, clamp(b3, least, most))
        store(y, q2, clamp(c1, least, most))
        store(y, q2 + 8, clamp(c2, least, most))
        store(y, q2 + 16, clamp(c3, least, most))
        store(y, q3, clamp(d1, least, most))
        store(y, q3 + 8, clamp(d2, least, most))
        store(y, q3 + 16, clamp(d3, least, most))


@compiled
def _tile2(y, y0, y_row, x, x0, place, w, w0, w_row, bias, b0, rows, depth, add, least, most):
    """16 columns of `_multiply`."""
    for r in range(0, rows, 4):
        q0 = y0 + r * y_row
        q1 = q0 + y_row
        q2 = q1 + y_row
        q3 = q2 + y_row
        if add:
            a1, b1, c1, d1 = load(y, q0), load(y, q1), load(y, q2), load(y, q3)
            a2, b2, c2, d2 = load(y, q0 + 8), load(y, q1 + 8), load(y, q2 + 8), load(y, q3 + 8)
        else:
            k = b0 + r
            a1, b1, c1, d1 = load_one(bias, k), load_one(bias, k + 1), load_one(bias, k + 2), load_one(bias, k + 3)
            a2, b2, c2, d2 = a1, b1, c1, d1
        k = w0 + (r >> 2) * w_row
        for j in range(depth):
            p = x0 + place[j]
            u, v = load(x, p), load(x, p + 8)
            each = load_one(w, k)
            a1, a2 = fma(each, u, a1), fma(each, v, a2)
            each = load_one(w, k + 1)
            b1, b2 = fma(each, u, b1), fma(each, v, b2)
            each = load_one(w, k + 2)
            c1, c2 = fma(each, u, c1), fma(each, v, c2)
            each = load_one(w, k + 3)
            d1, d2 = fma(each, u, d1), fma(each, v, d2)
            k += 4
        store(y, q0, clamp(a1, least, most))
        store(y, q0 + 8, clamp(a2, least, most))
        store(y, q1, clamp(b1, least, most))
        store(y, q1 + 8, clamp(b2, least, most))
        store(y, q2, clamp(c1, least, most))
        store(y, q2 + 8, clamp(c2, least, most))
        store(y, q3, clamp(d1, least, most))
        store(y, q3 + 8, clamp(d2, least, most))


@compiled
def _tile1(y, y0, y_row, x, x0, place, w, w0, w_row, bias, b0, rows, depth, add, least, most):
    """8 columns of `_multiply`."""
    for r in range(0, rows, 4):
        q0 = y0 + r * y_row
        q1 = q0 + y_row
        q2 = q1 + y_row
        q3 = q2 + y_row
        if add:
            a, b, c, d = load(y, q0), load(y, q1), load(y, q2), load(y, q3)
        else:
            k = b0 + r
            a, b, c, d = load_one(bias, k), load_one(bias, k + 1), load_one(bias, k + 2), load_one(bias, k + 3)
        k = w0 + (r >> 2) * w_row
        for j in range(depth):
            u = load(x, x0 + place[j])
            a, b = fma(load_one(w, k), u, a), fma(load_one(w, k + 1), u, b)
            c, d = fma(load_one(w, k + 2), u, c), fma(load_one(w, k + 3), u, d)
            k += 4
        store(y, q0, clamp(a, least, most))
        store(y, q1, clamp(b, least, most))
        store(y, q2, clamp(c, least, most))
        store(y, q3, clamp(d, least, most))


@compiled
def _multiply(y, y0, y_row, x, x0, place, w, w0, w_row, bias, b0, rows, depth, n, add, low, high):
    """y = clamp(w x + bias), or + y where `add`: y (rows, n), w (rows, depth), x (depth, n); rows: a multiple of 4.

    Rows of y are y_row apart, from y0; row j of x starts at x0 + place[j]. Four rows of w lie together, depth first:
    w (rows / 4, depth, 4), from w0, with w_row from four rows to the next four.
    """
    least, most = spread(low), spread(high)
    i = 0
    while i < n:
        left = n - i
        if left >= 24 and left % 24 != 8:  # 8 columns alone use half of the processor
            _tile3(y, y0 + i, y_row, x, x0 + i, place, w, w0, w_row, bias, b0, rows, depth, add, least, most)
            i += 24
        elif left >= 16:
            _tile2(y, y0 + i, y_row, x, x0 + i, place, w, w0, w_row, bias, b0, rows, depth, add, least, most)
            i += 16
        else:
            _tile1(y, y0 + i, y_row, x, x0 + i, place, w, w0, w_row, bias, b0, rows, depth, add, least, most)
            i += 8


@compiled
def _taps(y, y0, width, x, x0, pitch, place, w, w0, bias, b0, rows, add, low, high):
    """y = clamp(nine weighted views of x + bias), or + y where `add`: y (rows, width).

    The views of the first row start at x0 + place, of the next at pitch from there.
    """
    least, most = spread(low), spread(high)
    w1, w2, w3 = load_one(w, w0), load_one(w, w0 + 1), load_one(w, w0 + 2)
    w4, w5, w6 = load_one(w, w0 + 3), load_one(w, w0 + 4), load_one(w, w0 + 5)
    w7, w8, w9 = load_one(w, w0 + 6), load_one(w, w0 + 7), load_one(w, w0 + 8)
    p1, p2, p3, p4, p5, p6, p7, p8, p9 = place
    start = load_one(bias, b0)
    for r in range(rows):
        q, p = y0 + r * width, x0 + r * pitch
        for i in range(p, p + width, 8):
            a = load(y, q) if add else start
            a = fma(w3, load(x, p3 + i), fma(w2, load(x, p2 + i), fma(w1, load(x, p1 + i), a)))
            a = fma(w6, load(x, p6 + i), fma(w5, load(x, p5 + i), fma(w4, load(x, p4 + i), a)))
            a = fma(w9, load(x, p9 + i), fma(w8, load(x, p8 + i), fma(w7, load(x, p7 + i), a)))
            store(y, q, clamp(a, least, most))
            q += 8


@compiled
def _taps_of_pairs(y, y0, width, x, x0, pitch, w, w0, bias, b0, rows, add, low, high):
    """`_taps` of stride 1 for an even number of rows: two at once, which share what they read."""
    least, most = spread(low), spread(high)
    w1, w2, w3 = load_one(w, w0), load_one(w, w0 + 1), load_one(w, w0 + 2)
    w4, w5, w6 = load_one(w, w0 + 3), load_one(w, w0 + 4), load_one(w, w0 + 5)
    w7, w8, w9 = load_one(w, w0 + 6), load_one(w, w0 + 7), load_one(w, w0 + 8)
    start = load_one(bias, b0)
    for r in range(0, rows, 2):
        q, p = y0 + r * width, x0 + r * pitch + _MARGIN - 1
        for i in range(p, p + width, 8):
            if add:
                a, b = load(y, q), load(y, q + width)
            else:
                a, b = start, start
            u, v, t = load(x, i), load(x, i + 1), load(x, i + 2)
            a = fma(w3, t, fma(w2, v, fma(w1, u, a)))
            k = i + pitch
            u, v, t = load(x, k), load(x, k + 1), load(x, k + 2)
            a = fma(w6, t, fma(w5, v, fma(w4, u, a)))
            b = fma(w3, t, fma(w2, v, fma(w1, u, b)))
            k += pitch
            u, v, t = load(x, k), load(x, k + 1), load(x, k + 2)
            a = fma(w9, t, fma(w8, v, fma(w7, u, a)))
            b = fma(w6, t, fma(w5, v, fma(w4, u, b)))
            k += pitch
            u, v, t = load(x, k), load(x, k + 1), load(x, k + 2)
            b = fma(w9, t, fma(w8, v, fma(w7, u, b)))
            store(y, q, clamp(a, least, most))
            store(y, q + width, clamp(b, least, most))
            q += 8


# ---- pictures as convolutions read them: rows `pitch` apart, with zeros between them and around

_MARGIN = 8
"""Zeros before each row, of which one counts: so rows of vectors start at their multiples."""


@compiled
def _apart(size):
    """The size or a little more, so that what lies so many elements apart does not compete for a place in the cache."""
    return (-(-size // 16) | 1) * 16


@compiled
def _layout(stride, reach, width):
    """How a picture lies: (pitch, quarter, length in all) for `reach` rows of `width` after the stride.

    For stride 2, even and odd rows and columns go apart, so that what a tap of the convolution meets lies in a row:
    odd columns of even rows, even columns of even rows, then those of odd rows, each a quarter of the length. Rows are
    counted from the first of `reach`, columns from the picture's.
    """
    pitch = width + _MARGIN
    if stride == 1:
        return pitch, 0, _apart(reach * pitch + 16)
    quarter = _apart((reach + 1) // 2 * pitch + 16)
    return pitch, quarter, 4 * quarter + 16


@compiled
def _places(stride, pitch, quarter):
    """Where the nine taps meet such a picture for the first output."""
    if stride == 1:
        top, middle, bottom = 0, pitch, 2 * pitch
        left, centre, right = _MARGIN - 1, _MARGIN, _MARGIN + 1
    else:
        top, middle, bottom = 0, 2 * quarter, pitch
        left, centre, right = _MARGIN - 1, quarter + _MARGIN, _MARGIN
    return (
        top + left, top + centre, top + right, middle + left, middle + centre, middle + right,
        bottom + left, bottom + centre, bottom + right,
    )  # fmt: skip


@compiled
def _copy(x, x0, y, y0, n):
    for i in range(0, n, 8):
        store(y, y0 + i, load(x, x0 + i))


@compiled
def _part_columns(x, x0, y, odd, even, n):
    """x (2 n) into odd and even columns, (n) each."""
    for i in range(0, n, 8):
        a, b = load(x, x0 + 2 * i), load(x, x0 + 2 * i + 8)
        store(y, even + i, evens(a, b))
        store(y, odd + i, odds(a, b))


@compiled
def _clear_around(y, y0, stride, pitch, quarter, first, reach, height):
    """Zeros where a picture's convolution meets what lies outside: left of its rows, right of them for stride 1, where
    the next row begins, and in the rows above and below."""
    zero = spread(np.float32(0))
    for k in range(reach):
        at = y0 + (k * pitch if stride == 1 else k % 2 * 2 * quarter + k // 2 * pitch)
        end = _MARGIN if 0 <= first + k < height else pitch
        for i in range(0, end, 8):
            store(y, at + i, zero)
            store(y, at + quarter + i, zero)
    if stride == 1:
        store(y, y0 + reach * pitch, zero)


# ---- the blocks


@compiled
def _gather(x, frame, space, top, bottom, y, whole, y_frame):
    """Rows of x (C * T * H * W) near each other: a channel's at each multiple of `whole`, a frame's of y_frame in that;
    for stride 2 each row's odd columns, then its even ones."""
    steps, height, width = frame
    for c in range(x.size // (steps * height * width)):
        for t in range(steps):
            begin, to = ((c * steps + t) * height + top) * width, c * whole + t * y_frame
            if space == 1:
                _copy(x, begin, y, to, (bottom - top) * width)
            else:
                for r in range(0, (bottom - top) * width, width):
                    _part_columns(x, begin + r, y, to + r, to + r + width // 2, width // 2)


@compiled
def _write(sums, whole, x, residual, rows, out, frame):
    """A band's results, a channel's at each multiple of `whole`, to rows of out (C, T * H * W), + x where residual."""
    steps, height, width = frame
    n = (rows[1] - rows[0]) * width
    for o in range(out.shape[0]):
        for t in range(steps):
            begin, at = (t * height + rows[0]) * width, o * whole + t * n
            into, part = out[o, begin : begin + n], sums[at : at + n]
            if residual:
                more = x[o, begin : begin + n]
                for i in range(n):
                    into[i] = part[i] + more[i]
            else:
                for i in range(n):
                    into[i] = part[i]


@compiled
def block_memory(depth, channels, steps, out_steps, width, taps, space, count, group):
    """How `block` divides its memory: (pitch, quarter, a hidden picture's length, of the input a frame's and a
    channel's length, of the hidden outputs a channel's, of the sums a channel's, the size of all in elements)."""
    reach = (count - 1) * space + 3
    pitch, quarter, line = _layout(space, reach, width)
    frame = reach * width * space
    whole = _apart(steps * frame)
    deep = _apart(count * width)
    sums = _apart(out_steps * count * width)
    size = taps * group * line + depth * whole + group * deep + channels * sums
    return pitch, quarter, line, frame, whole, deep, sums, size


@compiled
def block(x, frame, we, be, wd, bd, wp, bp, out, out_frame, stride, pad, residual, rows, hidden, group, memory):
    """One band of rows of an inverted residual, by some of its hidden channels.

    x (C, T * H * W) and out (C', T' * H' * W'); frame and out_frame: (T, H, W), W' a multiple of eight. Weights, each
    followed by its bias: expand we (hidden / 4, C, 4; C is 0 where there is none), depthwise wd (hidden, kT, 9),
    project wp (C' / 4, hidden, 4), with hidden and C' padded with zeros to multiples of four. stride and pad: (time,
    space), time. residual: add x. rows: first and last + 1 of the output. hidden: first and last + 1, a multiple of
    four; where threads share these, only one of them brings the bias bp and the residual. group: hidden channels at
    once. memory: float32, as many as `block_memory` says, for the time of the call.
    """
    steps, height, in_width = frame
    out_steps, _, width = out_frame
    time, space = stride
    depth, channels, taps = x.shape[0], 4 * wp.shape[0], wd.shape[1]
    count = rows[1] - rows[0]
    n = count * width
    pitch, quarter, line, x_frame, x_whole, deep_whole, sums_whole, size = block_memory(
        depth if we.shape[1] else 0, channels, steps, out_steps, width, taps, space, count, group
    )
    place = _places(space, pitch, quarter)
    reach = (count - 1) * space + 3
    first = rows[0] * space - 1
    top, bottom = max(0, first), min(height, first + reach)
    flat_x = x.ravel()

    # hidden frames that the depthwise convolution still needs, that of time t in t % taps
    ring = memory[: taps * group * line]
    for k in range(taps * group):
        _clear_around(ring, k * line, space, pitch, quarter, first, reach, height)  # it stays so
    at = ring.size
    deep, deep_place = memory[at : at + group * deep_whole], np.arange(group) * deep_whole
    at += deep.size
    sums = memory[at : at + channels * sums_whole]
    at += sums.size
    source, source_place = memory[at:size], np.arange(depth) * x_whole
    if we.shape[1] > 0:
        _gather(flat_x, frame, space, top, bottom, source, x_whole, x_frame)
    we1, wd1, wp1 = we.ravel(), wd.ravel(), wp.ravel()
    zero, six, most = np.float32(0), np.float32(6), np.float32(np.inf)
    for g0 in range(hidden[0], hidden[1], group):
        g1 = min(hidden[1], g0 + group)
        ready = 0
        for to in range(out_steps):
            begin = to * time - pad
            while ready < min(steps, begin + taps):
                slot = ready % taps * group * line
                for r in range(top, bottom):
                    k = r - first
                    odd = slot + k * pitch + _MARGIN
                    if space == 2:
                        odd = slot + k % 2 * 2 * quarter + k // 2 * pitch + _MARGIN
                    even = odd + quarter
                    if we.shape[1] > 0:
                        from_ = ready * x_frame + (r - top) * in_width
                        for half in range(space):
                            _multiply(
                                ring, even if half else odd, line, source, from_ + half * width, source_place, we1,
                                g0 * depth, 4 * depth, be, g0, g1 - g0, depth, width, False, zero, six,
                            )  # fmt: skip
                    else:
                        for h in range(g1 - g0):
                            from_ = ((min(g0 + h, depth - 1) * steps + ready) * height + r) * in_width
                            if space == 1:
                                _copy(flat_x, from_, ring, odd + h * line, width)
                            else:
                                _part_columns(flat_x, from_, ring, odd + h * line, even + h * line, width)
                ready += 1
            k0, k1 = max(0, -begin), min(taps, steps - begin)
            for h in range(g1 - g0):
                for k in range(k0, k1):
                    low, high = (zero, six) if k == k1 - 1 else (-most, most)
                    hidden_frame = ((begin + k) % taps * group + h) * line
                    paired = count // 2 * 2 if space == 1 else 0
                    _taps_of_pairs(
                        deep, h * deep_whole, width, ring, hidden_frame, pitch, wd1, ((g0 + h) * taps + k) * 9, bd,
                        g0 + h, paired, k > k0, low, high,
                    )  # fmt: skip
                    _taps(
                        deep, h * deep_whole + paired * width, width, ring, hidden_frame + paired * pitch, pitch, place,
                        wd1, ((g0 + h) * taps + k) * 9, bd, g0 + h, count - paired, k > k0, low, high,
                    )  # fmt: skip
            _multiply(
                sums, to * n, sums_whole, deep, 0, deep_place, wp1, 4 * g0, 4 * wp.shape[1], bp, 0, channels,
                g1 - g0, n, g0 > hidden[0], -most, most,
            )  # fmt: skip
    _write(sums, sums_whole, x, residual, rows, out, out_frame)


@compiled
def stem_memory(depth, channels, steps, width, count):
    """How `stem` divides its memory: (pitch, quarter, a frame's length, the size of all in elements)."""
    pitch, quarter, length = _layout(2, 2 * count + 1, width)
    return pitch, quarter, length, depth * steps * length + channels * _apart(width)


@compiled
def stem(x, frame, w, bias, out, out_frame, memory, rows):
    """One band of rows of the network's first layer: a dense 3x3x3 convolution of stride 2, padded by 1, and ReLU6.

    x (C, T * H * W), w (C' / 4, 3 * C * 9, 4), bias (C'); C' is a multiple of four. The rest is as for `block`.
    """
    steps, height, in_width = frame
    out_steps, out_height, width = out_frame
    depth, channels = x.shape[0], out.shape[0]
    count = rows[1] - rows[0]
    first = rows[0] * 2 - 1
    pitch, quarter, length, size = stem_memory(depth, channels, steps, width, count)
    source, sums = memory[: depth * steps * length], memory[depth * steps * length : size]
    for c in range(depth):
        line = x[c]
        for t in range(steps):
            _clear_around(source, (c * steps + t) * length, 2, pitch, quarter, first, 2 * count + 1, height)
            for r in range(max(0, first), min(height, first + 2 * count + 1)):
                k = r - first
                odd = (c * steps + t) * length + k % 2 * 2 * quarter + k // 2 * pitch + _MARGIN
                _part_columns(line, (t * height + r) * in_width, source, odd, odd + quarter, width)
    nine = _places(2, pitch, quarter)
    place = np.empty(3 * depth * 9, np.int64)
    for t in range(3):
        for c in range(depth):
            for k in range(9):
                place[(t * depth + c) * 9 + k] = (c * steps + t) * length + nine[k]
    flat, row = w.ravel(), _apart(width)
    for to in range(out_steps):
        begin = to * 2 - 1
        k0, k1 = max(0, -begin) * depth * 9, min(3, steps - begin) * depth * 9
        for r in range(count):
            _multiply(
                sums, 0, row, source, begin * length + r * pitch, place[k0:k1], flat, 4 * k0, 4 * place.size, bias, 0,
                channels, k1 - k0, width, False, np.float32(0), np.float32(6),
            )  # fmt: skip
            at = (to * out_height + rows[0] + r) * width
            for o in range(channels):
                _copy(sums, o * row, out[o], at, width)


@compiled
def pointwise(x, w, bias, out):
    """A 1x1x1 convolution and ReLU6: x (C, P), w (C' / 4, C, 4), bias and out (C', P); P is a multiple of eight."""
    depth, size = x.shape
    _multiply(
        out.ravel(), 0, size, x.ravel(), 0, np.arange(depth) * size, w.ravel(), 0, 4 * depth, bias, 0, out.shape[0],
        depth, size, False, np.float32(0), np.float32(6),
    )  # fmt: skip


# ---- what lies between the blocks

SAME, SHUFFLE, BILINEAR = 0, 1, 2


@compiled
def grow(x, space, time, skip, out, planes):
    """Enlarge x (C, T, H, W) and add skip, for some of out's planes: first and last + 1 of (C', T').

    space: SAME; SHUFFLE, after which C' is C / 4; or BILINEAR with aligned corners. time: twice as many frames, linear
    with aligned corners. skip and out (C', T', H', W'); an empty skip is none.
    """
    steps, height, width = x.shape[1:]
    out_steps = out.shape[1]
    # with aligned corners, place i of 2 W lies at i (W - 1) / (2 W - 1): a little before or behind a place of W
    line = np.zeros(width + 2, np.float32)
    left, middle, right = line[:width], line[1 : width + 1], line[2:]
    to_left = (np.arange(width) / (2 * width - 1)).astype(np.float32)
    to_right = to_left[::-1].copy()
    adds = skip.size > 0
    for plane in range(planes[0], planes[1]):
        c, t = plane // out_steps, plane % out_steps
        t0, late = t, np.float32(0)
        if time and steps > 1:
            position = t * (steps - 1) / (out_steps - 1)
            t0 = min(int(position), steps - 2)
            late = np.float32(position - t0)
        elif time:
            t0 = 0
        t1 = min(t0 + 1, steps - 1)
        early = np.float32(1) - late
        for r in range(out.shape[2]):
            into = out[c, t, r]
            if space == SAME:
                a, b = x[c, t0, r], x[c, t1, r]
                for i in range(width):
                    into[i] = early * a[i] + late * b[i]
            elif space == SHUFFLE:
                k, m = 4 * c + 2 * (r % 2), r // 2
                a, b, d, e = x[k, t0, m], x[k, t1, m], x[k + 1, t0, m], x[k + 1, t1, m]
                for i in range(width):
                    into[2 * i] = early * a[i] + late * b[i]
                    into[2 * i + 1] = early * d[i] + late * e[i]
            else:
                m = r // 2
                if r % 2:
                    far, down = min(m + 1, height - 1), np.float32((height - 1 - m) / (2 * height - 1))
                else:
                    far, down = max(m - 1, 0), np.float32(m / (2 * height - 1))
                near = np.float32(1) - down
                a, b, d, e = x[c, t0, m], x[c, t1, m], x[c, t0, far], x[c, t1, far]
                for i in range(width):
                    middle[i] = near * (early * a[i] + late * b[i]) + down * (early * d[i] + late * e[i])
                for i in range(width):
                    into[2 * i] = middle[i] + to_left[i] * (left[i] - middle[i])
                    into[2 * i + 1] = middle[i] + to_right[i] * (right[i] - middle[i])
            if adds:
                part = skip[c, t, r]
                for i in range(into.size):
                    into[i] += part[i]


@compiled
def halve(x, out, planes):
    """The mean of each square of 2x2 pixels: x (C, T, 2 H, 2 W) -> out (C, T, H, W), some of its planes."""
    quarter = np.float32(0.25)
    for plane in range(planes[0], planes[1]):
        c, t = plane // out.shape[1], plane % out.shape[1]
        for r in range(out.shape[2]):
            into, a, b = out[c, t, r], x[c, t, 2 * r], x[c, t, 2 * r + 1]
            for i in range(into.size):
                into[i] = quarter * (a[2 * i] + a[2 * i + 1] + b[2 * i] + b[2 * i + 1])


@compiled
def sigmoid(x, out, part):
    """1 / (1 + exp(-x)) of places part[0] to part[1] of x (size); out (size)."""
    one, minus = spread(np.float32(1)), spread(np.float32(-1))
    zero = spread(np.float32(0))
    whole = part[0] + (part[1] - part[0]) // 8 * 8
    for i in range(part[0], whole, 8):
        store(out, i, divide(one, fma(exp(fma(load(x, i), minus, zero)), one, one)))
    for i in range(whole, part[1]):
        out[i] = np.float32(1) / (np.float32(1) + np.exp(-x[i]))
