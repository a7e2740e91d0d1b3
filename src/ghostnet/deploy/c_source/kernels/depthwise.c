/* ---- depthwise convolutions ---- */

struct depthwise {
    int kernel_height, kernel_width, stride_y, stride_x, dilation_y, dilation_x, top, left;
    int height, width, out_width, channels, in_pixel, in_row, out_pixel, out_row;
    int each; /* results of an input: output c is made of input c / each */
    size_t in, out, weights, bias;
    struct activation activation;
};

/* Which inputs the outputs [c, c + 8) have, from that of the first. */
INLINE lanes inputs_of(const struct depthwise *layer, int c)
{
    lanes which;
    for (int lane = 0; lane < LANES; lane++) which[lane] = (c % layer->each + lane) / layer->each;
    return which;
}

/* Where results are computed: what the taps' first row reads, weights, place, and floats from one to the next. */
struct taps {
    const float *in, *weights, *bias;
    float *out;
    ptrdiff_t step, row, out_step; /* of a pixel, a row of pixels, a result */
    int rows, channels; /* rows of taps inside the map, channels that are left */
};

/* What one row of taps adds to the results of `pixels` neighbours. Each value and weight is loaded once. */
INLINE void add_row(const int kernel, const int stride, const int spread, const int pixels, part sum[4][PARTS],
                    const float *in, const ptrdiff_t step, const float *weights, const lanes which, const int from,
                    const int to)
{
    UNROLL for (int i = 0; i < PARTS; i++) {
        part weight[7];
        UNROLL for (int t = 0; t < kernel; t++) {
            weight[t] = part_at(weights + t * LANES + PART * i);
            IN_REGISTER(weight[t]);
        }
        UNROLL for (int c = from; c < to; c++) {
            const float *found = in + c * step;
            part value = spread ? part_of(lanes_of(load(found), which), i) : part_at(found + PART * i);
            IN_REGISTER(value);
            UNROLL for (int p = 0; p < pixels; p++)
                if (c - p * stride >= 0 && c - p * stride < kernel) sum[p][i] += value * weight[c - p * stride];
        }
    }
}

/* Eight channels of `pixels` neighbours, of whose taps those in columns [from, to) lie inside the map; `rows` of taps
 * do, or as many as `at` says. */
INLINE void neighbours(const int kernel, const int stride, const int spread, const int pixels, const int rows,
                       const int whole, const struct activation *activation, const struct taps at, const lanes which,
                       const int from, const int to)
{
    const float *in = at.in, *weights = at.weights;
    part sum[4][PARTS];
    UNROLL for (int p = 0; p < pixels; p++)
        UNROLL for (int i = 0; i < PARTS; i++) sum[p][i] = part_at(at.bias + PART * i);
    if (rows)
        UNROLL for (int y = 0; y < rows; y++, in += at.row, weights += kernel * LANES)
            add_row(kernel, stride, spread, pixels, sum, in, at.step, weights, which, from, to);
    else
        for (int y = 0; y < at.rows; y++, in += at.row, weights += kernel * LANES)
            add_row(kernel, stride, spread, pixels, sum, in, at.step, weights, which, from, to);
    ACTIVATE(sum, pixels, PARTS, activation)
    UNROLL for (int p = 0; p < pixels; p++)
        UNROLL for (int i = 0; i < PARTS; i++)
            if (whole || at.channels > PART * i)
                store_part(at.out + p * at.out_step + PART * i, sum[p][i], whole ? PART : at.channels - PART * i);
}

/* All channels of some neighbours, which lie side by side in memory; or the eight of `at`, if only those are wanted. */
INLINE void neighbours_of(const int kernel, const int stride, const int spread, const int pixels, const int rows,
                          const int wide, const struct activation *activation, struct taps at, const lanes which,
                          const int from, const int to)
{
    if (wide)
        for (; at.channels >= LANES; at.channels -= LANES) {
            neighbours(kernel, stride, spread, pixels, rows, 1, activation, at, which, from, to);
            at.in += LANES, at.out += LANES, at.bias += LANES, at.weights += kernel * kernel * LANES;
        }
    if (!wide || at.channels > 0)
        neighbours(kernel, stride, spread, pixels, rows, 0, activation, at, which, from, to);
}

/* Which pixels of a row have taps outside the map. */
struct edges {
    int fours; /* whether the row can be computed by fours, of which the first and the last may have taps outside */
    int over; /* columns of the last pixel's taps that are */
    int inside; /* the last place of four without any */
};

INLINE struct edges edges_of(const int kernel, const int stride, const struct depthwise *layer)
{
    const int pad = layer->left, width = layer->out_width, reach = layer->width + pad;
    const int over = (width - 1) * stride + kernel - reach, inside = (reach - kernel) / stride - 3;
    const int fours = width > 4 && reach >= kernel + 3 * stride && (pad == 0 || pad == kernel / 2) && over <= kernel / 2
                      && (width <= 8 || inside * stride >= pad);
    return (struct edges){fours, over, inside};
}

#define SOME(pixels, rows, x, from, to)                                                                             \
    {                                                                                                               \
        struct taps here = at;                                                                                      \
        here.in += ((x) * stride - pad) * at.step, here.out += (x) * at.out_step;                                   \
        neighbours_of(kernel, stride, spread, pixels, rows, wide, &layer->activation, here, which, from, to);       \
    }

/* One row of results by fours; the last may meet those before them. */
INLINE void row_of_fours(const int kernel, const int stride, const int spread, const int rows, const int wide,
                         const struct depthwise *layer, const struct edges edges, const struct taps at, const lanes which)
{
    const int pad = layer->left, width = layer->out_width, span = kernel + 3 * stride;
    const int end = edges.over > 0 ? width - 4 : width;
    int x = 0;
    if (pad) {
        SOME(4, rows, 0, kernel / 2, span)
        x = 4;
    }
    for (; x < end; x += 4) SOME(4, rows, x < edges.inside ? x : edges.inside, 0, span)
    if (edges.over == 1) SOME(4, rows, width - 4, 0, span - 1)
    if (kernel > 4 && edges.over == 2) SOME(4, rows, width - 4, 0, span - 2)
    if (kernel > 6 && edges.over == 3) SOME(4, rows, width - 4, 0, span - 3)
}

INLINE void row_of_pixels(const int kernel, const int stride, const int spread, const int wide,
                          const struct depthwise *layer, const struct taps at, const lanes which)
{
    const int pad = layer->left;
    for (int x = 0; x < layer->out_width; x++) {
        const int first = pad - x * stride, end = layer->width + first;
        SOME(1, 0, x, first > 0 ? first : 0, end < kernel ? end : kernel)
    }
}
#undef SOME

/* One row of results, of all channels or of eight. */
INLINE void depthwise_row(const int kernel, const int stride, const int spread, const int wide,
                          const struct depthwise *layer, const struct edges edges, const struct taps at, const lanes which)
{
    if (!edges.fours) row_of_pixels(kernel, stride, spread, wide, layer, at, which);
    else if (kernel == 3 && at.rows == 3) row_of_fours(kernel, stride, spread, 3, wide, layer, edges, at, which);
    else row_of_fours(kernel, stride, spread, 0, wide, layer, edges, at, which);
}

INLINE void depthwise_rows(const int kernel, const int stride, const int spread, const struct depthwise *layer,
                           const struct memory *memory, int from, int to)
{
    const struct edges edges = edges_of(kernel, stride, layer);
    for (int y = from; y < to; y++) {
        const int top = y * stride - layer->top, skip = top < 0 ? -top : 0;
        const int inside = layer->height - top < kernel ? layer->height - top : kernel;
        struct taps at = {
            memory->work + layer->in + (ptrdiff_t)(top + skip) * layer->in_row,
            memory->weights + layer->weights + (ptrdiff_t)skip * kernel * LANES,
            memory->weights + layer->bias,
            memory->work + layer->out + (ptrdiff_t)y * layer->out_row,
            layer->in_pixel, layer->in_row, layer->out_pixel,
            inside - skip, layer->channels,
        };
        lanes which = {0};
        if (!spread && layer->channels > LANES) {
            depthwise_row(kernel, stride, 0, 1, layer, edges, at, which);
            continue;
        }
        const float *first = at.in;
        for (int c = 0; c < layer->channels; c += LANES) {
            at.in = first + (spread ? c / layer->each : c);
            if (spread) which = inputs_of(layer, c);
            depthwise_row(kernel, stride, spread, 0, layer, edges, at, which);
            at.out += LANES, at.bias += LANES, at.weights += kernel * kernel * LANES, at.channels -= LANES;
        }
    }
}

/* unit: rows; square kernels, the same stride and padding both ways, no dilation; `spread`: several results each */
#define DEPTHWISE(K, S)                                                                                             \
    KERNEL depthwise_##K##_##S(const void *layer, const struct memory *memory, int from, int to)                    \
    {                                                                                                               \
        depthwise_rows(K, S, 0, layer, memory, from, to);                                                           \
    }                                                                                                               \
    KERNEL spread_##K##_##S(const void *layer, const struct memory *memory, int from, int to)                       \
    {                                                                                                               \
        depthwise_rows(K, S, 1, layer, memory, from, to);                                                           \
    }
DEPTHWISE(3, 1) DEPTHWISE(3, 2) DEPTHWISE(5, 1) DEPTHWISE(5, 2) DEPTHWISE(7, 1)

/* unit: rows; any depthwise convolution, pixel by pixel */
KERNEL depthwise(const void *self, const struct memory *memory, int from, int to)
{
    const struct depthwise *layer = self;
    const int width = layer->kernel_width;
    for (int y = from; y < to; y++)
        for (int x = 0; x < layer->out_width; x++)
            for (int c = 0; c < layer->channels; c += LANES) {
                const float *weights = memory->weights + layer->weights + (size_t)c * layer->kernel_height * width;
                const int spread = layer->each > 1;
                const lanes which = inputs_of(layer, c);
                const float *in = memory->work + layer->in + c / layer->each;
                vector sum = load(memory->weights + layer->bias + c);
                for (int ky = 0; ky < layer->kernel_height; ky++) {
                    const ptrdiff_t at_y = y * layer->stride_y - layer->top + ky * layer->dilation_y;
                    if (at_y < 0 || at_y >= layer->height) continue;
                    for (int kx = 0; kx < width; kx++) {
                        const ptrdiff_t at_x = x * layer->stride_x - layer->left + kx * layer->dilation_x;
                        if (at_x < 0 || at_x >= layer->width) continue;
                        const vector found = load(in + at_y * layer->in_row + at_x * layer->in_pixel);
                        sum += load(weights + (ky * width + kx) * LANES) * (spread ? lanes_of(found, which) : found);
                    }
                }
                store(memory->work + layer->out + (ptrdiff_t)y * layer->out_row + (ptrdiff_t)x * layer->out_pixel + c,
                      activated(sum, &layer->activation), layer->channels - c);
            }
}
