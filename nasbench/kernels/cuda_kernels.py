"""The pooling mixture's CUDA kernels, in Triton.

A program takes a tile of columns and channels of one image and walks down a strip of rows with its vertical windows in
registers; neighbours along the row come from the first-level cache. The arithmetic is that of `cpu_forward` and
`cpu_backward`, which explain it; the backward pass builds the maxima again, too, and stores no index. The gradients
of the row maxima, which exist nowhere but in registers, move along the row by `tl.gather`; a tile of the backward pass
therefore overlaps its neighbours by three columns, and a strip by six rows, on each side.
"""

import triton
import triton.language as tl


@triton.jit
def _maximum3(a, b, c):  # type: ignore[no-untyped-def]
    return tl.maximum(tl.maximum(a, b), c)


@triton.jit
def _between(row, start, stop, column):  # type: ignore[no-untyped-def]
    """Whether start <= row < stop, for every column."""
    # The interpreter turns a truth value that is spread over a block into a number; a block's are right.
    row = row + tl.zeros_like(column)
    return (row >= start) & (row < stop)


@triton.jit
def _read(pointer, place, row, column, height, width, channels, lanes):  # type: ignore[no-untyped-def]
    """Read one row's tile; 0 outside the image. Also return where it lies inside."""
    inside = _between(row, 0, height, column) & (column >= 0) & (column < width) & lanes
    at = place + (row * width + column) * channels
    return tl.load(pointer + at, mask=inside, other=0.0).to(tl.float32), inside


@triton.jit
def _read_low(pointer, place, row, column, height, width, channels, lanes):  # type: ignore[no-untyped-def]
    """Read one row's tile; -inf outside the image."""
    value, inside = _read(pointer, place, row, column, height, width, channels, lanes)
    return tl.where(inside, value, float("-inf"))


@triton.jit
def _sums(pointer, place, row, column, height, width, channels, lanes):  # type: ignore[no-untyped-def]
    """Sum one row over the 3, 5 and 7 pixels around each; those outside the image are 0."""
    center, _ = _read(pointer, place, row, column, height, width, channels, lanes)
    before1, _ = _read(pointer, place, row, column - 1, height, width, channels, lanes)
    behind1, _ = _read(pointer, place, row, column + 1, height, width, channels, lanes)
    before2, _ = _read(pointer, place, row, column - 2, height, width, channels, lanes)
    behind2, _ = _read(pointer, place, row, column + 2, height, width, channels, lanes)
    before3, _ = _read(pointer, place, row, column - 3, height, width, channels, lanes)
    behind3, _ = _read(pointer, place, row, column + 3, height, width, channels, lanes)
    sum3 = before1 + center + behind1
    sum5 = sum3 + (before2 + behind2)
    return sum3, sum5, sum5 + (before3 + behind3)


@triton.jit
def _maxima(pointer, place, row, column, height, width, channels, lanes):  # type: ignore[no-untyped-def]
    """Maxima of one row over the 3, 5 and 7 pixels around each; those outside the image are -inf."""
    center = _read_low(pointer, place, row, column, height, width, channels, lanes)
    before1 = _read_low(pointer, place, row, column - 1, height, width, channels, lanes)
    behind1 = _read_low(pointer, place, row, column + 1, height, width, channels, lanes)
    before2 = _read_low(pointer, place, row, column - 2, height, width, channels, lanes)
    behind2 = _read_low(pointer, place, row, column + 2, height, width, channels, lanes)
    before3 = _read_low(pointer, place, row, column - 3, height, width, channels, lanes)
    behind3 = _read_low(pointer, place, row, column + 3, height, width, channels, lanes)
    max3 = _maximum3(before1, center, behind1)
    max5 = _maximum3(before2, max3, behind2)
    return max3, max5, _maximum3(before3, max5, behind3)


@triton.jit
def _place(channels, height, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr, LANES: tl.constexpr):  # type: ignore[no-untyped-def]
    """Find this program's part: block of channels innermost, then columns, rows, images."""
    program = tl.program_id(0)
    blocks = tl.cdiv(channels, LANES)
    tiles = tl.cdiv(width, COLUMNS)
    strips = tl.cdiv(height, ROWS)
    channel = (program % blocks) * LANES + tl.arange(0, LANES)[None, :]
    left = (program // blocks % tiles) * COLUMNS
    top = (program // (blocks * tiles) % strips) * ROWS
    image = (program // (blocks * tiles * strips)).to(tl.int64)
    return image * height * width * channels + channel, channel < channels, left, top


@triton.jit
def forward_kernel(  # type: ignore[no-untyped-def]
    x,
    y,
    weights,
    height,
    width,
    channels,
    AVERAGES: tl.constexpr,
    MAXIMA: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    LANES: tl.constexpr,
):
    """Write the mixture."""
    place, lanes, left, top = _place(channels, height, width, ROWS, COLUMNS, LANES)
    column = left + tl.arange(0, COLUMNS)[:, None]
    zero = tl.zeros((COLUMNS, LANES), tl.float32)
    low = zero + float("-inf")
    p1, c3, c5, c7 = tl.load(weights), tl.load(weights + 1), tl.load(weights + 2), tl.load(weights + 3)
    p3, p5, p7 = tl.load(weights + 4), tl.load(weights + 5), tl.load(weights + 6)
    y0, y1, y2, y3, y4, y5 = zero, zero, zero, zero, zero, zero
    # Row maxima r, over three rows s, over five t; those over 3 pixels come two rows late, those over 5 one.
    r31, r32, r33, r34 = low, low, low, low
    r51, r52, r53, s52, s53 = low, low, low, low, low
    r71, r72, s72, s73, t73, t74 = low, low, low, low, low, low
    for step in range(ROWS + 6):
        i = top - 3 + step
        y6 = zero
        if AVERAGES:
            sum3, sum5, sum7 = _sums(x, place, i, column, height, width, channels, lanes)
            y6 = c7 * sum7
            u5 = y6 + c5 * sum5
            u3 = u5 + c3 * sum3
            y0, y1, y2, y3, y4, y5 = y0 + y6, y1 + u5, y2 + u3, y3 + u3, y4 + u3, y5 + u5
        total = y0
        if MAXIMA:
            r30, r50, r70 = _maxima(x, place, i, column, height, width, channels, lanes)
            s51 = _maximum3(r53, r52, r51)
            s71 = _maximum3(r72, r71, r70)
            t72 = tl.maximum(s73, s71)
            total += p3 * _maximum3(r34, r33, r32) + p5 * tl.maximum(s53, s51) + p7 * tl.maximum(t74, t72)
            r34, r33, r32, r31 = r33, r32, r31, r30
            r53, r52, r51, s53, s52 = r52, r51, r50, s52, s51
            r72, r71, s73, s72, t74, t73 = r71, r70, s72, s71, t73, t72
        if step >= 6:
            center, inside = _read(x, place, i - 3, column, height, width, channels, lanes)
            at = place + ((i - 3) * width + column) * channels
            tl.store(y + at, (total + p1 * center).to(y.dtype.element_ty), mask=inside)
        y0, y1, y2, y3, y4, y5 = y1, y2, y3, y4, y5, y6


@triton.jit
def _shift(value, by: tl.constexpr, COLUMNS: tl.constexpr, LANES: tl.constexpr):  # type: ignore[no-untyped-def]
    """Move along the row: column w receives what column w + by holds (at the tile's edge, its own)."""
    index = tl.arange(0, COLUMNS)[:, None] + by
    index = tl.minimum(tl.maximum(index, 0), COLUMNS - 1)
    return tl.gather(value, tl.broadcast_to(index, (COLUMNS, LANES)), 0)


@triton.jit
def _first(a, b, c):  # type: ignore[no-untyped-def]
    """Of three neighbours in order, say whether the first is the first maximum, and whether the second is."""
    is_first = (a >= b) & (a >= c)
    return is_first, (b >= c) & (is_first == 0)


@triton.jit
def average_backward_kernel(  # type: ignore[no-untyped-def]
    x, g, dx, dots, weights, height, width, channels, ROWS: tl.constexpr, COLUMNS: tl.constexpr, LANES: tl.constexpr
):
    """Write the gradient of x under `none` and the averages (float32), and this program's products with x."""
    place, lanes, left, top = _place(channels, height, width, ROWS, COLUMNS, LANES)
    column = left + tl.arange(0, COLUMNS)[:, None]
    zero = tl.zeros((COLUMNS, LANES), tl.float32)
    p1, c3, c5, c7 = tl.load(weights), tl.load(weights + 1), tl.load(weights + 2), tl.load(weights + 3)
    dot1, dot3, dot5, dot7 = zero, zero, zero, zero
    # Sums over a window's rows so far; those over 3 pixels start two rows late, those over 5 one row late.
    a31, a32, a33, a34 = zero, zero, zero, zero
    a51, a52, a53, a54, a55 = zero, zero, zero, zero, zero
    a71, a72, a73, a74, a75, a76 = zero, zero, zero, zero, zero, zero
    for step in range(ROWS + 6):
        i = top - 3 + step
        a30, a50, a70 = _sums(g, place, i, column, height, width, channels, lanes)
        if step >= 6:
            sum3 = a34 + a33 + a32
            sum5 = a55 + a54 + a53 + a52 + a51
            sum7 = a76 + a75 + a74 + a73 + a72 + a71 + a70
            center, _ = _read(x, place, i - 3, column, height, width, channels, lanes)
            gradient, inside = _read(g, place, i - 3, column, height, width, channels, lanes)
            # Columns past the image read x as 0 and count nothing.
            dot1 += center * gradient
            dot3 += center * sum3
            dot5 += center * sum5
            dot7 += center * sum7
            at = place + ((i - 3) * width + column) * channels
            tl.store(dx + at, p1 * gradient + c3 * sum3 + c5 * sum5 + c7 * sum7, mask=inside)
        a34, a33, a32, a31 = a33, a32, a31, a30
        a55, a54, a53, a52, a51 = a54, a53, a52, a51, a50
        a76, a75, a74, a73, a72, a71 = a75, a74, a73, a72, a71, a70
    at = dots + tl.program_id(0) * 4
    tl.store(at, tl.sum(dot1))
    tl.store(at + 1, tl.sum(dot3))
    tl.store(at + 2, tl.sum(dot5))
    tl.store(at + 3, tl.sum(dot7))


@triton.jit
def maximum_backward_kernel(  # type: ignore[no-untyped-def]
    x,
    g,
    others,
    dx,
    dots,
    weights,
    height,
    width,
    channels,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    LANES: tl.constexpr,
):
    """Add the gradient of x under the maxima to that of `others`; write this program's products of g and maxima."""
    place, lanes, left, top = _place(channels, height, width, ROWS, COLUMNS - 6, LANES)
    offset = tl.arange(0, COLUMNS)[:, None]
    column = left - 3 + offset
    # What this program writes and counts, and no other does.
    own = (offset >= 3) & (offset < COLUMNS - 3) & (column < width) & lanes
    zero = tl.zeros((COLUMNS, LANES), tl.float32)
    low = zero + float("-inf")
    p3, p5, p7 = tl.load(weights + 4), tl.load(weights + 5), tl.load(weights + 6)
    dot3, dot5, dot7 = zero, zero, zero
    # Row maxima r, over three rows s, over five t, and their gradients d, as in `cpu_backward._column_max7`; the
    # gradients of windows of 5 and 3 are complete two and four rows earlier, and wait.
    r71, r72, r73, r74, r75, r76 = low, low, low, low, low, low
    s72, s73, s74, s75, t73, t74 = low, low, low, low, low, low
    dt73, dt74, ds74, ds75, dr75, dr76 = zero, zero, zero, zero, zero, zero
    r51, r52, r53, r54, s52, s53 = low, low, low, low, low, low
    ds52, ds53, dr53, dr54, dr55, dr56 = zero, zero, zero, zero, zero, zero
    r31, r32 = low, low
    dr31, dr32, dr33, dr34, dr35, dr36 = zero, zero, zero, zero, zero, zero
    for step in range(ROWS + 12):
        i = top - 6 + step
        r30, r50, r70 = _maxima(x, place, i, column, height, width, channels, lanes)

        g3, inside = _read(g, place, i - 3, column, height, width, channels, lanes)
        counts = inside & own & _between(i - 3, top, top + ROWS, column)
        s71 = _maximum3(r72, r71, r70)
        t72 = tl.maximum(s73, s71)
        dot7 += tl.where(counts, g3 * tl.maximum(t74, t72), 0.0)
        g3 *= p7
        dt74 += tl.where(t74 >= t72, g3, 0.0)
        dt72 = tl.where(t74 >= t72, 0.0, g3)
        ds75 += tl.where(s75 >= s73, dt74, 0.0)
        ds73 = tl.where(s75 >= s73, 0.0, dt74)
        upper, middle = _first(r76, r75, r74)
        dr76 += tl.where(upper, ds75, 0.0)
        dr75 += tl.where(middle, ds75, 0.0)
        dr74 = tl.where(upper | middle, 0.0, ds75)

        g2, inside = _read(g, place, i - 2, column, height, width, channels, lanes)
        counts = inside & own & _between(i - 2, top, top + ROWS, column)
        s51 = _maximum3(r52, r51, r50)
        dot5 += tl.where(counts, g2 * tl.maximum(s53, s51), 0.0)
        g2 *= p5
        ds53 += tl.where(s53 >= s51, g2, 0.0)
        ds51 = tl.where(s53 >= s51, 0.0, g2)
        upper, middle = _first(r54, r53, r52)
        dr54 += tl.where(upper, ds53, 0.0)
        dr53 += tl.where(middle, ds53, 0.0)
        dr52 = tl.where(upper | middle, 0.0, ds53)

        g1, inside = _read(g, place, i - 1, column, height, width, channels, lanes)
        counts = inside & own & _between(i - 1, top, top + ROWS, column)
        dot3 += tl.where(counts, g1 * _maximum3(r32, r31, r30), 0.0)
        g1 *= p3
        upper, middle = _first(r32, r31, r30)
        dr32 += tl.where(upper, g1, 0.0)
        dr31 += tl.where(middle, g1, 0.0)
        dr30 = tl.where(upper | middle, 0.0, g1)

        if step >= 12:
            row = i - 6
            xa = _read_low(x, place, row, column - 4, height, width, channels, lanes)
            xb = _read_low(x, place, row, column - 3, height, width, channels, lanes)
            xc = _read_low(x, place, row, column - 2, height, width, channels, lanes)
            xd = _read_low(x, place, row, column - 1, height, width, channels, lanes)
            xe = _read_low(x, place, row, column, height, width, channels, lanes)
            xf = _read_low(x, place, row, column + 1, height, width, channels, lanes)
            xg = _read_low(x, place, row, column + 2, height, width, channels, lanes)
            xh = _read_low(x, place, row, column + 3, height, width, channels, lanes)
            xi = _read_low(x, place, row, column + 4, height, width, channels, lanes)
            # Maxima over three pixels around column - 2, column and column + 2, then over five.
            three_left, three, three_right = _maximum3(xb, xc, xd), _maximum3(xd, xe, xf), _maximum3(xf, xg, xh)
            five_left = _maximum3(xa, three_left, xe)
            five = _maximum3(xc, three, xg)
            five_right = _maximum3(xe, three_right, xi)
            d7, d5, d3 = dr76, dr56, dr36
            d5 += tl.where(five >= five_right, _shift(d7, 1, COLUMNS, LANES), 0.0)
            d5 += tl.where(five_left >= five, 0.0, _shift(d7, -1, COLUMNS, LANES))
            d3 += tl.where(three >= three_right, _shift(d5, 1, COLUMNS, LANES), 0.0)
            d3 += tl.where(three_left >= three, 0.0, _shift(d5, -1, COLUMNS, LANES))
            first, _ = _first(xe, xf, xg)
            _, second = _first(xd, xe, xf)
            before, beside = _first(xc, xd, xe)
            total = tl.where(first, _shift(d3, 1, COLUMNS, LANES), 0.0)
            total += tl.where(second, d3, 0.0)
            total += tl.where(before | beside, 0.0, _shift(d3, -1, COLUMNS, LANES))
            at = place + (row * width + column) * channels
            mine = own & _between(row, 0, height, column)
            total += tl.load(others + at, mask=mine, other=0.0)
            tl.store(dx + at, total.to(dx.dtype.element_ty), mask=mine)

        r76, r75, r74, r73, r72, r71 = r75, r74, r73, r72, r71, r70
        s75, s74, s73, s72, t74, t73 = s74, s73, s72, s71, t73, t72
        dt74, dt73, ds75, ds74, dr76, dr75 = dt73, dt72, ds74, ds73, dr75, dr74
        r54, r53, r52, r51, s53, s52 = r53, r52, r51, r50, s52, s51
        ds53, ds52, dr56, dr55, dr54, dr53 = ds52, ds51, dr55, dr54, dr53, dr52
        r32, r31 = r31, r30
        dr36, dr35, dr34, dr33, dr32, dr31 = dr35, dr34, dr33, dr32, dr31, dr30
    at = dots + tl.program_id(0) * 3
    tl.store(at, tl.sum(dot3))
    tl.store(at + 1, tl.sum(dot5))
    tl.store(at + 2, tl.sum(dot7))
