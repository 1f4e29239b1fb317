"""The pooling mixture's backward pass on the CPU, compiled by numba: of x alone, from which the maxima are built again.

*Maxima.* A row's maximum over seven pixels is the larger of the two over five, and so on down; the gradient goes back
the same way, at each level to the larger one and, of equal ones, to the left one. Then the columns, where of equal ones
the upper one takes it. That is the first maximum in row-major order, the one torch chooses. A vertical walk sends g to
the rows' maxima of 7, 5 and 3 pixels (different planes), a horizontal walk sends those through each other to the
pixels: the gradient of seven joins that of five, both join that of three.

*Averages.* Zero-padded averages are their own adjoint. v_k, the sums of g over k rows, are left in planes; their sums
along the row give the gradient of x, and their products with the row sums of x the gradient of pi.

The planes hold maxima of rows (3, 5, 7), which the columns' walk replaces by their gradients, then v3 and v5, and g,
which v7 replaces.
"""

from typing import Any

from nasbench.kernels.compilation import compiled
from nasbench.kernels.cpu_forward import LOW, ZERO, read, row_maxima, write
from nasbench.kernels.vector import LANES, add_where, drop, lane_sum, load, maximum, splat, store


@compiled
def _to_larger(first: Any, second: Any, dfirst: Any, d: Any) -> Any:
    """Send the gradient d of a maximum of two to the larger one: returned are the gradients of both, the second new."""
    is_first = first >= second
    return add_where(is_first, dfirst, d), drop(is_first, d)


@compiled
def _to_largest(first: Any, second: Any, largest: Any, dfirst: Any, dsecond: Any, d: Any) -> Any:
    """Send the gradient d of a maximum of three to the first that has it: the gradients of all, the third new."""
    dfirst, rest = _to_larger(first, largest, dfirst, d)
    dsecond, dthird = _to_larger(second, largest, dsecond, rest)
    return dfirst, dsecond, dthird


@compiled
def _column_max7(scratch: Any, rows: int, grad: int, height: int, line: int, pi: Any) -> Any:
    """Replace one column of row maxima by their gradient under the maximum over seven rows.

    `rows` and `grad` are the column's indices in the planes of row maxima and of g, `line` the distance of two rows
    there. Returned is Σ g · maximum over the column, by lane: its part of the gradient of pi, which is in every lane.
    """
    low, zero = splat(scratch, LOW), splat(scratch, ZERO)
    dot = zero
    # r are rows, s the maxima over three of them, t over five; dr, ds, dt their gradients as far as known.
    r1 = r2 = r3 = r4 = r5 = r6 = low
    s2 = s3 = s4 = s5 = low
    t3 = t4 = low
    dt3 = dt4 = ds4 = ds5 = dr5 = dr6 = zero
    for i in range(height + 6):
        at = i * line
        r0 = s1 = t2 = low
        dt2 = ds3 = dr4 = zero
        # No window begins before row 0: what the first three rows complete has no gradient.
        if i < height + 3:
            if i < height:
                r0 = load(scratch, rows + at)
            s1 = maximum(maximum(r2, r1), r0)
            t2 = maximum(s3, s1)
            if i >= 3:
                g = load(scratch, grad + at - 3 * line)
                dot = dot + g * maximum(t4, t2)
                g = g * pi
                dt4, dt2 = _to_larger(t4, t2, dt4, g)
        if i >= 3:
            ds5, ds3 = _to_larger(s5, s3, ds5, dt4)
            dr6, dr5, dr4 = _to_largest(r6, r5, s5, dr6, dr5, ds5)
            if i >= 6:
                store(scratch, rows + at - 6 * line, dr6)
        r6, r5, r4, r3, r2, r1 = r5, r4, r3, r2, r1, r0
        s5, s4, s3, s2 = s4, s3, s2, s1
        t4, t3 = t3, t2
        dt4, dt3 = dt3, dt2
        ds5, ds4 = ds4, ds3
        dr6, dr5 = dr5, dr4
    return dot


@compiled
def _column_max5(scratch: Any, rows: int, grad: int, height: int, line: int, pi: Any) -> Any:
    """As `_column_max7`, over five rows."""
    low, zero = splat(scratch, LOW), splat(scratch, ZERO)
    dot = zero
    r1 = r2 = r3 = r4 = low
    s2 = s3 = low
    ds2 = ds3 = dr3 = dr4 = zero
    for i in range(height + 4):
        at = i * line
        r0 = s1 = low
        ds1 = dr2 = zero
        if i < height + 2:
            if i < height:
                r0 = load(scratch, rows + at)
            s1 = maximum(maximum(r2, r1), r0)
            if i >= 2:
                g = load(scratch, grad + at - 2 * line)
                dot = dot + g * maximum(s3, s1)
                g = g * pi
                ds3, ds1 = _to_larger(s3, s1, ds3, g)
        if i >= 2:
            dr4, dr3, dr2 = _to_largest(r4, r3, s3, dr4, dr3, ds3)
            if i >= 4:
                store(scratch, rows + at - 4 * line, dr4)
        r4, r3, r2, r1 = r3, r2, r1, r0
        s3, s2 = s2, s1
        ds3, ds2 = ds2, ds1
        dr4, dr3 = dr3, dr2
    return dot


@compiled
def _column_max3(scratch: Any, rows: int, grad: int, height: int, line: int, pi: Any) -> Any:
    """As `_column_max7`, over three rows."""
    low, zero = splat(scratch, LOW), splat(scratch, ZERO)
    dot = zero
    r1 = r2 = low
    dr1 = dr2 = zero
    for i in range(height + 2):
        at = i * line
        r0 = low
        dr0 = zero
        if i < height:
            r0 = load(scratch, rows + at)
        if 1 <= i < height + 1:
            g = load(scratch, grad + at - line)
            s1 = maximum(maximum(r2, r1), r0)
            dot = dot + g * s1
            g = g * pi
            dr2, dr1, dr0 = _to_largest(r2, r1, s1, dr2, dr1, g)
        if i >= 2:
            store(scratch, rows + at - 2 * line, dr2)
        r2, r1 = r1, r0
        dr2, dr1 = dr1, dr0
    return dot


@compiled
def _column_sums(scratch: Any, sums: int, grad: int, height: int, line: int, plane: int) -> None:
    """Write one column's v3 and v5 into the planes from `sums` on, and replace g by v7."""
    zero = splat(scratch, ZERO)
    g1 = g2 = g3 = g4 = g5 = g6 = zero
    for i in range(height + 3):
        at = i * line
        g0 = zero
        if i < height:
            g0 = load(scratch, grad + at)
        if i >= 3:
            at -= 3 * line
            v3 = g4 + g3 + g2
            v5 = v3 + (g5 + g1)
            store(scratch, sums + at, v3)
            store(scratch, sums + plane + at, v5)
            store(scratch, grad + at, v5 + (g6 + g0))
        g6, g5, g4, g3, g2, g1 = g5, g4, g3, g2, g1, g0


@compiled
def _row_averages(
    x: Any, g: Any, scratch: Any, place: int, line: int, shape: Any, weights: Any, averages: bool, dots: Any
) -> Any:
    """Replace one row of v3 by the gradient of x under `none` and the averages; places as in `row_maxima`.

    The row of g stands at `line`, in the planes behind it those of v3 and v5. `dots` are Σ g·x, Σ v3·sum3(x), Σ
    v5·sum5(x) and Σ v7·sum7(x) before this row, by lane; they return with its part.
    """
    count, height, width, channels = shape
    plane = height * (width | 1) * LANES
    zero = splat(scratch, ZERO)
    dot1, dot3, dot5, dot7 = dots
    p1, c3 = splat(scratch, weights[0]), splat(scratch, weights[1])
    c5, c7 = splat(scratch, weights[2]), splat(scratch, weights[3])
    x1 = x2 = x3 = x4 = x5 = x6 = zero
    # The gradients of the pixels 6 to 1 behind the newest one, as far as known.
    d6 = d5 = d4 = d3 = d2 = d1 = zero
    for j in range(width + 6):
        at = line + j * LANES
        x0 = zero
        if j < width:
            x0 = read(x, place + j * channels, count)
        d0 = zero
        if averages and 3 <= j < width + 3:
            v7 = load(scratch, at - 3 * LANES)
            v3 = load(scratch, at - 3 * LANES + plane)
            v5 = load(scratch, at - 3 * LANES + 2 * plane)
            sum3 = x4 + x3 + x2
            sum5 = sum3 + (x5 + x1)
            dot3 = dot3 + sum3 * v3
            dot5 = dot5 + sum5 * v5
            dot7 = dot7 + (sum5 + (x6 + x0)) * v7
            d0 = c7 * v7
            u5 = d0 + c5 * v5
            u3 = u5 + c3 * v3
            d6, d5, d4 = d6 + d0, d5 + u5, d4 + u3
            d3, d2, d1 = d3 + u3, d2 + u3, d1 + u5
        if j >= 6:
            g0 = read(g, place + (j - 6) * channels, count)
            dot1 = dot1 + g0 * x6
            store(scratch, at - 6 * LANES + plane, d6 + p1 * g0)
        x6, x5, x4, x3, x2, x1 = x5, x4, x3, x2, x1, x0
        d6, d5, d4, d3, d2, d1 = d5, d4, d3, d2, d1, d0
    return dot1, dot3, dot5, dot7


@compiled
def _row_maxima(
    x: Any, dx: Any, scratch: Any, place: int, line: int, count: int, width: int, channels: int, plane: int
) -> None:
    """Send the gradients of one row's maxima to its pixels, add the rest and write the row's gradient."""
    low, zero = splat(scratch, LOW), splat(scratch, ZERO)
    # r are the maxima over three pixels, s over five; dx, dr and ds their gradients as far as known.
    x1 = x2 = x3 = x4 = x5 = x6 = low
    r2 = r3 = r4 = r5 = low
    s3 = s4 = low
    ds3 = ds4 = dr4 = dr5 = dx5 = dx6 = zero
    for j in range(width + 6):
        at = line + j * LANES
        x0 = r1 = s2 = low
        ds2 = dr3 = dx4 = zero
        if j < width + 3:
            if j < width:
                x0 = read(x, place + j * channels, count)
            r1 = maximum(maximum(x2, x1), x0)
            s2 = maximum(r3, r1)
            if j >= 3:
                g = load(scratch, at - 3 * LANES + 2 * plane)
                ds4, ds2 = _to_larger(s4, s2, ds4, g)
        if j >= 3:
            if 4 <= j < width + 4:
                ds4 = ds4 + load(scratch, at - 4 * LANES + plane)
            if 5 <= j < width + 5:
                dr5 = dr5 + load(scratch, at - 5 * LANES)
            dr5, dr3 = _to_larger(r5, r3, dr5, ds4)
            dx6, dx5, dx4 = _to_largest(x6, x5, r5, dx6, dx5, dr5)
            if j >= 6:
                other = load(scratch, at - 6 * LANES + 4 * plane)
                write(dx, place + (j - 6) * channels, count, dx6 + other)
        x6, x5, x4, x3, x2, x1 = x5, x4, x3, x2, x1, x0
        r5, r4, r3, r2 = r4, r3, r2, r1
        s4, s3 = s3, s2
        ds4, ds3 = ds3, ds2
        dr5, dr4 = dr4, dr3
        dx6, dx5 = dx5, dx4


@compiled
def backward_task(
    x: Any, g: Any, dx: Any, dots: Any, scratch: Any, place: int, shape: Any, weights: Any, averages: bool, maxima: bool
) -> None:
    """Differentiate the mixture of one block of channels of one image; arguments as in `forward_task`.

    `g` is the gradient of the mixture, `dx` that of x; `dots`, of shape (7,), receives the task's part of the gradient
    of `weights`.
    """
    count, height, width, channels = shape
    zero = splat(scratch, ZERO)
    line = (width | 1) * LANES
    plane = height * line
    grad, sums = 3 * plane, 4 * plane
    for h in range(height):
        at = place + h * width * channels
        if maxima:
            row_maxima(x, scratch, at, h * line, count, width, channels, plane)
        if maxima or averages:
            for w in range(width):
                store(scratch, grad + h * line + w * LANES, read(g, at + w * channels, count))
    max3 = max5 = max7 = zero
    p3, p5, p7 = splat(scratch, weights[4]), splat(scratch, weights[5]), splat(scratch, weights[6])
    for w in range(width):
        at = w * LANES
        if maxima:
            max3 = max3 + _column_max3(scratch, at, grad + at, height, line, p3)
            max5 = max5 + _column_max5(scratch, plane + at, grad + at, height, line, p5)
            max7 = max7 + _column_max7(scratch, 2 * plane + at, grad + at, height, line, p7)
        if averages:
            _column_sums(scratch, sums + at, grad + at, height, line, plane)
    rows = (zero, zero, zero, zero)
    for h in range(height):
        at = place + h * width * channels
        rows = _row_averages(x, g, scratch, at, grad + h * line, shape, weights, averages, rows)
        if maxima:
            _row_maxima(x, dx, scratch, at, h * line, count, width, channels, plane)
        else:
            for w in range(width):
                write(dx, at + w * channels, count, load(scratch, sums + h * line + w * LANES))
    dots[0], dots[1] = lane_sum(rows[0]), lane_sum(rows[1])
    dots[2], dots[3] = lane_sum(rows[2]), lane_sum(rows[3])
    dots[4], dots[5], dots[6] = lane_sum(max3), lane_sum(max5), lane_sum(max7)
