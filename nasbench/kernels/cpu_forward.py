"""The pooling mixture's forward pass on the CPU, compiled by numba.

One task is one image and one block of `LANES` channels; a pixel is then one vector. Every window separates into rows
and columns, and is built from the next smaller one: max5 at w is the larger of max3 at w - 1 and w + 1, and so on. A
task first goes along the rows and leaves six planes in its scratch, which stay in the second-level cache, then along
the columns. Both walks keep their windows in registers: in names like `x3`, the number says how many pixels behind the
newest one it lies.

The averages need no plane each: with U7 = c7·sum7, U5 = U7 + c5·sum5 and U3 = U5 + c3·sum3 of a row (c_k = pi_k / k²),
a row adds U3 to the outputs at most one row away, U5 to those two away and U7 to those three away.
"""

from typing import Any

import numpy as np

from nasbench.kernels.compilation import compiled
from nasbench.kernels.vector import LANES, load, load_part, maximum, prefetch, splat, store, store_part

LOW = np.float32(-np.inf)
ZERO = np.float32(0)

PLANES = 6  # of the scratch, in both passes

# Numbers from a pixel's block to the one for which its cache line is asked: two float32 lines.
AHEAD = 32


@compiled
def read_next(array: Any, index: int, count: int) -> Any:
    """Read a block's channels of one pixel, all lanes, or `count` where the last block is not full, after the last."""
    if count >= LANES:
        return load(array, index)
    return load_part(array, index, count)


@compiled
def read(array: Any, index: int, count: int) -> Any:
    """Read the same block of one pixel after another."""
    # The blocks of an image follow each other, but its pixels are far apart: no hardware prefetcher sees the pattern.
    prefetch(array, index + AHEAD)
    return read_next(array, index, count)


@compiled
def write(array: Any, index: int, count: int, value: Any) -> None:
    """Write a block's channels of one pixel."""
    if count >= LANES:
        store(array, index, value)
    else:
        store_part(array, index, count, value)


@compiled
def row_maxima(x: Any, scratch: Any, place: int, line: int, count: int, width: int, channels: int, plane: int) -> None:
    """Write one row's maxima over 3, 5 and 7 pixels into three planes of the scratch; arguments as in `forward_task`.

    `place` is here the index of the row's first pixel in x, `line` that of the row in a plane, `plane` a plane's size.
    """
    low = splat(scratch, LOW)
    x1 = x2 = low
    a2 = a3 = low
    b3 = b4 = low
    for j in range(width + 3):
        x0 = low
        if j < width:
            x0 = read(x, place + j * channels, count)
        a1 = maximum(maximum(x2, x1), x0)
        b2 = maximum(a3, a1)
        if j >= 3:
            at = line + (j - 3) * LANES
            store(scratch, at, a3)
            store(scratch, at + plane, b3)
            store(scratch, at + 2 * plane, maximum(b4, b2))
        x2, x1 = x1, x0
        a3, a2 = a2, a1
        b4, b3 = b3, b2


@compiled
def _row_sums(
    x: Any, scratch: Any, place: int, line: int, count: int, width: int, channels: int, plane: int, weights: Any
) -> None:
    """Write one row's U3, U5 and U7 into three planes of the scratch; arguments as in `row_maxima`."""
    zero = splat(scratch, ZERO)
    c3, c5, c7 = splat(scratch, weights[1]), splat(scratch, weights[2]), splat(scratch, weights[3])
    x1 = x2 = x3 = x4 = x5 = x6 = zero
    for j in range(width + 3):
        x0 = zero
        if j < width:
            x0 = read(x, place + j * channels, count)
        if j >= 3:
            at = line + (j - 3) * LANES
            sum3 = x4 + x3 + x2
            sum5 = sum3 + (x5 + x1)
            u7 = c7 * (sum5 + (x6 + x0))
            u5 = u7 + c5 * sum5
            store(scratch, at, u5 + c3 * sum3)
            store(scratch, at + plane, u5)
            store(scratch, at + 2 * plane, u7)
        x6, x5, x4, x3, x2, x1 = x5, x4, x3, x2, x1, x0


@compiled
def _column(x: Any, y: Any, scratch: Any, place: int, shape: Any, weights: Any, averages: bool, maxima: bool) -> None:
    """Turn one column of the six planes, of U3, U5, U7 and of the rows' maxima, into the mixture; see `forward_task`.

    The scratch begins at the column; `place` is its first pixel in x and y.
    """
    count, height, width, channels = shape
    row, line = width * channels, (width | 1) * LANES  # the distances of two rows there and in a plane
    plane = height * line
    low, zero = splat(scratch, LOW), splat(scratch, ZERO)
    p1, p3 = splat(scratch, weights[0]), splat(scratch, weights[4])
    p5, p7 = splat(scratch, weights[5]), splat(scratch, weights[6])
    # y0 is the output three rows behind the newest row, which completes it; y1 to y5 follow it and wait for more.
    y0 = y1 = y2 = y3 = y4 = y5 = zero
    # Of the planes of row maxima: r are their rows, s maxima over three of those rows, t over five.
    r31 = r32 = low
    r51 = r52 = s52 = s53 = low
    r71 = r72 = s72 = s73 = t73 = t74 = low
    for i in range(height + 3):
        at = i * line
        y6 = zero
        if averages and i < height:
            u3 = load(scratch, at)
            u5 = load(scratch, at + plane)
            y6 = load(scratch, at + 2 * plane)
            y0, y1, y2 = y0 + y6, y1 + u5, y2 + u3
            y3, y4, y5 = y3 + u3, y4 + u3, y5 + u5
        total = y0
        if maxima:
            r30 = r50 = r70 = low
            if 2 <= i < height + 2:
                r30 = load(scratch, at - 2 * line + 3 * plane)
            if 1 <= i < height + 1:
                r50 = load(scratch, at - line + 4 * plane)
            if i < height:
                r70 = load(scratch, at + 5 * plane)
            s51 = maximum(maximum(r52, r51), r50)
            s71 = maximum(maximum(r72, r71), r70)
            t72 = maximum(s73, s71)
            total = total + p3 * maximum(maximum(r32, r31), r30)
            total = total + p5 * maximum(s53, s51)
            total = total + p7 * maximum(t74, t72)
            r32, r31 = r31, r30
            r52, r51, s53, s52 = r51, r50, s52, s51
            r72, r71, s73, s72, t74, t73 = r71, r70, s72, s71, t73, t72
        if i >= 3:
            pixel = place + (i - 3) * row
            write(y, pixel, count, total + p1 * read(x, pixel, count))
        y0, y1, y2, y3, y4, y5 = y1, y2, y3, y4, y5, y6


@compiled
def forward_task(
    x: Any, y: Any, scratch: Any, place: int, shape: Any, weights: Any, averages: bool, maxima: bool
) -> None:
    """Mix one block of channels of one image: of x to y, flat and NHWC, by a scratch of `PLANES` planes.

    `place` is the index of the block's first channel in the image's first pixel; `shape` are the block's channels,
    height, width, and the distance of two pixels. `weights` are pi of `none`, of the averages over k², of the maxima
    (3, 5, 7 each); `averages` and `maxima` say whether any takes part.
    """
    count, height, width, channels = shape
    line = (width | 1) * LANES
    plane = height * line
    for h in range(height):
        at = place + h * width * channels
        if averages:
            _row_sums(x, scratch, at, h * line, count, width, channels, plane, weights)
        if maxima:
            row_maxima(x, scratch, at, h * line + 3 * plane, count, width, channels, plane)
    for w in range(width):
        at = place + w * channels
        _column(x, y, scratch[w * LANES :], at, shape, weights, averages, maxima)
