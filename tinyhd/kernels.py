"""TinyHD's blocks as fused kernels for CPUs, compiled by Numba.

An inverted residual's hidden activations are several times as large as its input, and writing them to memory and
reading them back costs more than the arithmetic. Here a block runs through the picture in bands of rows and groups of
hidden channels, so that hidden activations live in the processor's cache only. Channels lie one after the other
(N, C, T, H, W), so that the innermost loops run along rows, where LLVM makes vector instructions of them.

The kernels release the GIL; `tinyhd.fused` gives bands to threads.
"""

import numpy as np

from tinyhd.simd import clamp, compiled, divide, exp, fma, load, load_one, spread, store

# ---- arithmetic; lengths n are in elements, multiples of `_STEP`; NaN comes out of a clamp as its lower bound

_STEP = 16


@compiled
def _multiply(y, y0, y_row, x, x0, place, w, w0, w_row, bias, b0, rows, depth, n, add, low, high):
    """y = clamp(w x + bias), or + y where `add`: w (rows, depth), x (depth, n); rows is a multiple of four.

    For the flat arrays y and w the place of the first element and what lies between the starts of their rows; row k of
    x starts at x0 + place[k].
    """
    least, most = spread(low), spread(high)
    for i in range(0, n, _STEP):
        for r in range(0, rows, 4):
            q0 = y0 + r * y_row + i
            q1, q2, q3 = q0 + y_row, q0 + 2 * y_row, q0 + 3 * y_row
            if add:
                a, b, c, d = load(y, q0), load(y, q1), load(y, q2), load(y, q3)
                e, f, g, h = load(y, q0 + 8), load(y, q1 + 8), load(y, q2 + 8), load(y, q3 + 8)
            else:
                k = b0 + r
                a, b, c, d = load_one(bias, k), load_one(bias, k + 1), load_one(bias, k + 2), load_one(bias, k + 3)
                e, f, g, h = a, b, c, d
            at, k0 = x0 + i, w0 + r * w_row
            k1, k2, k3 = k0 + w_row, k0 + 2 * w_row, k0 + 3 * w_row
            for j in range(depth):
                p = at + place[j]
                u, v = load(x, p), load(x, p + 8)
                w1 = load_one(w, k0)
                a, e = fma(w1, u, a), fma(w1, v, e)
                w2 = load_one(w, k1)
                b, f = fma(w2, u, b), fma(w2, v, f)
                w3 = load_one(w, k2)
                c, g = fma(w3, u, c), fma(w3, v, g)
                w4 = load_one(w, k3)
                d, h = fma(w4, u, d), fma(w4, v, h)
                k0 += 1
                k1 += 1
                k2 += 1
                k3 += 1
            store(y, q0, clamp(a, least, most))
            store(y, q0 + 8, clamp(e, least, most))
            store(y, q1, clamp(b, least, most))
            store(y, q1 + 8, clamp(f, least, most))
            store(y, q2, clamp(c, least, most))
            store(y, q2 + 8, clamp(g, least, most))
            store(y, q3, clamp(d, least, most))
            store(y, q3 + 8, clamp(h, least, most))


@compiled
def _taps(y, y0, x, x0, place, w, w0, bias, b0, n, add, low, high):
    """y = clamp(nine weighted views of x + bias), or + y where `add`; the views start at x0 + place."""
    least, most = spread(low), spread(high)
    w1, w2, w3 = load_one(w, w0), load_one(w, w0 + 1), load_one(w, w0 + 2)
    w4, w5, w6 = load_one(w, w0 + 3), load_one(w, w0 + 4), load_one(w, w0 + 5)
    w7, w8, w9 = load_one(w, w0 + 6), load_one(w, w0 + 7), load_one(w, w0 + 8)
    p1, p2, p3 = x0 + place[0], x0 + place[1], x0 + place[2]
    p4, p5, p6 = x0 + place[3], x0 + place[4], x0 + place[5]
    p7, p8, p9 = x0 + place[6], x0 + place[7], x0 + place[8]
    start = load_one(bias, b0)
    for i in range(0, n, 8):
        a = load(y, y0 + i) if add else start
        a = fma(w3, load(x, p3 + i), fma(w2, load(x, p2 + i), fma(w1, load(x, p1 + i), a)))
        a = fma(w6, load(x, p6 + i), fma(w5, load(x, p5 + i), fma(w4, load(x, p4 + i), a)))
        a = fma(w9, load(x, p9 + i), fma(w8, load(x, p8 + i), fma(w7, load(x, p7 + i), a)))
        store(y, y0 + i, clamp(a, least, most))


# ---- the blocks


@compiled
def _copy_in(x, frame, stride, first, rows, pitch, target, length):
    """Rows of x (C, T * H * W) into target (C, T, length), with a column of zeros to their left.

    For stride 2, even and odd rows and columns go apart, so that what a tap of the convolution meets lies in a row.
    """
    steps, height, width = frame
    quarter = length // 4
    for c in range(x.shape[0]):
        for t in range(steps):
            line = target[c, t]
            for r in range(max(0, first), min(height, first + rows)):
                source = x[c, (t * height + r) * width : (t * height + r + 1) * width]
                k = r - first
                if stride == 1:
                    to = line[k * pitch + 1 : k * pitch + 1 + width]
                    for i in range(width):
                        to[i] = source[i]
                else:
                    at = (k % 2) * 2 * quarter + (k // 2) * pitch
                    odd, even = line[at + quarter : at + quarter + width // 2], line[at + 1 : at + 1 + width // 2]
                    for i in range(width // 2):
                        odd[i] = source[2 * i]
                        even[i] = source[2 * i + 1]


@compiled
def _holes(frame, stride, first, rows, pitch, length):
    """Places of `_copy_in`'s target that lie outside of the picture and must be zero after the expansion."""
    _, height, width = frame
    quarter = length // 4
    places = np.empty(length, np.int64)
    count = 0
    for k in range(rows):
        outside = not 0 <= first + k < height
        if stride == 1:
            for i in range(width + 1 if outside else 1):
                places[count] = k * pitch + i
                count += 1
        else:
            at = (k % 2) * 2 * quarter + (k // 2) * pitch
            for i in range(width // 2 + 1 if outside else 1):
                places[count] = at + i
                count += 1
            if outside:
                for i in range(width // 2):
                    places[count] = at + quarter + i
                    count += 1
    if stride == 1:
        places[count] = rows * pitch  # right of the last row
        count += 1
    return places[:count]


@compiled
def _places(stride, rows, pitch):
    """What the nine taps meet at the first output of `_copy_in`'s target, and the target's length."""
    place = np.empty(9, np.int64)
    if stride == 1:
        length = -(-(rows * pitch + 1) // _STEP) * _STEP
        for k in range(9):
            place[k] = k // 3 * pitch + k % 3
    else:
        quarter = -(-((rows + 1) // 2 * pitch) // _STEP) * _STEP
        length = 4 * quarter
        for k in range(9):
            i, j = k // 3, k % 3
            place[k] = (i % 2) * 2 * quarter + (i // 2) * pitch + (j % 2) * quarter + j // 2
    return place, length


@compiled
def _copy_out(sums, n, pitch, rows, out, frame):
    """Rows of a band, `pitch` apart, from sums (C', T' * n) into out (C, T' * H' * W')."""
    steps, height, width = frame
    for o in range(out.shape[0]):
        for t in range(steps):
            for r in range(rows[0], rows[1]):
                into = out[o, (t * height + r) * width : (t * height + r + 1) * width]
                begin = (o * steps + t) * n + (r - rows[0]) * pitch
                part = sums[begin : begin + width]
                for i in range(width):
                    into[i] = part[i]


@compiled
def _add_rows(x, rows, out, frame):
    steps, height, width = frame
    for o in range(out.shape[0]):
        for t in range(steps):
            begin, end = (t * height + rows[0]) * width, (t * height + rows[1]) * width
            into, part = out[o, begin:end], x[o, begin:end]
            for i in range(into.size):
                into[i] += part[i]


@compiled
def block(x, frame, we, be, wd, bd, wp, bp, out, out_frame, stride, pad, residual, rows, hidden, group):
    """One band of rows of an inverted residual, by some of its hidden channels.

    x (C, T * H * W) and out (C', T' * H' * W'); frame and out_frame: (T, H, W). Weights, each followed by its bias:
    expand we (hidden, C; 0 where there is none), depthwise wd (hidden, kT, 9), project wp (C', hidden), with hidden
    and C' padded with zeros to multiples of four. stride and pad: (time, space), time. residual: add x. rows: first
    and last + 1 of the output. hidden: first and last + 1, a multiple of four; where threads share these, only one of
    them brings the bias bp and the residual.
    """
    steps, out_steps = frame[0], out_frame[0]
    width = out_frame[2]
    space, taps = stride[1], wd.shape[1]
    depth, channels = x.shape[0], wp.shape[0]
    count = rows[1] - rows[0]
    first, reach = rows[0] * space - 1, (count - 1) * space + 3
    pitch = width + 1  # one column of zeros serves the end of one row and the start of the next
    n = -(-count * pitch // _STEP) * _STEP
    place, length = _places(space, reach, pitch)
    holes = _holes(frame, space, first, reach, pitch, length)
    padded = np.empty((depth, steps, length), np.float32)
    _copy_in(x, frame, space, first, reach, pitch, padded, length)
    source = padded.ravel()
    in_place = np.arange(depth) * (steps * length)
    deep_place = np.arange(group) * n
    # hidden frames that the depthwise convolution still needs, that of time t in t % taps; vectors may read on behind
    # the last row
    line = length + 2 * _STEP
    ring = np.empty(taps * group * line, np.float32)
    deep = np.empty(group * n, np.float32)
    sums = np.empty(channels * out_steps * n, np.float32)
    we1, wd1, wp1 = we.ravel(), wd.ravel(), wp.ravel()
    zero, six, most = np.float32(0), np.float32(6), np.float32(np.inf)
    for g0 in range(hidden[0], hidden[1], group):
        g1 = min(hidden[1], g0 + group)
        ready = 0
        for to in range(out_steps):
            begin = to * stride[0] - pad
            while ready < min(steps, begin + taps):
                slot = ready % taps * group * line
                if we.shape[1] > 0:
                    _multiply(
                        ring, slot, line, source, ready * length, in_place, we1, g0 * depth, depth, be, g0,
                        g1 - g0, depth, length, False, zero, six,
                    )  # fmt: skip
                else:
                    for h in range(g1 - g0):
                        into, channel = ring[slot + h * line : slot + h * line + length], min(g0 + h, depth - 1)
                        for i in range(length):
                            into[i] = padded[channel, ready, i]
                for h in range(g1 - g0):
                    for i in holes:
                        ring[slot + h * line + i] = 0
                ready += 1
            k0, k1 = max(0, -begin), min(taps, steps - begin)
            for h in range(g1 - g0):
                for k in range(k0, k1):
                    end = k == k1 - 1
                    _taps(
                        deep, h * n, ring, ((begin + k) % taps * group + h) * line, place, wd1,
                        ((g0 + h) * taps + k) * 9, bd, g0 + h, n, k > k0, zero if end else -most, six if end else most,
                    )  # fmt: skip
            _multiply(
                sums, to * n, out_steps * n, deep, 0, deep_place, wp1, g0, wp.shape[1], bp, 0, channels, g1 - g0, n,
                g0 > hidden[0], -most, most,
            )  # fmt: skip
    _copy_out(sums, n, pitch, rows, out, out_frame)
    if residual:
        _add_rows(x, rows, out, out_frame)


@compiled
def stem(x, frame, w, bias, out, out_frame, rows):
    """One band of rows of the network's first layer: a dense 3x3x3 convolution of stride 2, padded by 1, and ReLU6.

    x (C, T * H * W), w (C', 3, C, 9), bias (C'); C' is a multiple of four. The rest is as for `block`.
    """
    steps, out_steps = frame[0], out_frame[0]
    depth, channels = x.shape[0], w.shape[0]
    count = rows[1] - rows[0]
    first, reach = rows[0] * 2 - 1, count * 2 + 1
    pitch = out_frame[2] + 1
    n = -(-count * pitch // _STEP) * _STEP
    nine, length = _places(2, reach, pitch)
    padded = np.zeros((depth, steps, length), np.float32)
    _copy_in(x, frame, 2, first, reach, pitch, padded, length)
    source = padded.ravel()
    place = np.empty(3 * depth * 9, np.int64)
    for k in range(place.size):
        t, c, i = k // (depth * 9), k // 9 % depth, k % 9
        place[k] = (c * steps + t) * length + nine[i]
    sums = np.empty(channels * out_steps * n, np.float32)
    flat = w.ravel()
    for to in range(out_steps):
        begin = to * 2 - 1
        k0, k1 = max(0, -begin) * depth * 9, min(3, steps - begin) * depth * 9
        _multiply(
            sums, to * n, out_steps * n, source, begin * length, place[k0:k1], flat, k0, place.size, bias, 0,
            channels, k1 - k0, n, False, np.float32(0), np.float32(6),
        )  # fmt: skip
    _copy_out(sums, n, pitch, rows, out, out_frame)


@compiled
def pointwise(x, w, bias, out):
    """A 1x1x1 convolution and ReLU6: x (C, P), w (C', C) and bias (C'), padded to multiples of four, out (<= C', P)."""
    depth, size = x.shape
    n = -(-size // _STEP) * _STEP
    padded = np.zeros((depth, n), np.float32)
    for c in range(depth):
        for i in range(size):
            padded[c, i] = x[c, i]
    sums = np.empty((w.shape[0], n), np.float32)
    _multiply(
        sums.ravel(), 0, n, padded.ravel(), 0, np.arange(depth) * n, w.ravel(), 0, depth, bias, 0, w.shape[0],
        depth, n, False, np.float32(0), np.float32(6),
    )  # fmt: skip
    for c in range(out.shape[0]):
        for i in range(size):
            out[c, i] = sums[c, i]


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
