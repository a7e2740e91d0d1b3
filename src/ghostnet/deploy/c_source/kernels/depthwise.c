/* ---- depthwise convolutions ---- */

struct depthwise {
    int kernel_height, kernel_width, stride_y, stride_x, dilation_y, dilation_x, top, left;
    int height, width, out_width, channels, in_pixel, out_pixel;
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

/* Where a row of results is computed: the taps' first row inside the map, its weights, how many rows there are. */
struct taps {
    const float *in, *weights, *bias;
    int rows, channels;
    int apart; /* from the first input of a vector to that of the next */
    lanes which[2]; /* inputs, where one has several results */
};

INLINE void finish(const int pixels, const int vectors, vector sum[4][2], const struct depthwise *layer, float *out,
                   int channels)
{
    ACTIVATE(sum, pixels, vectors, &layer->activation)
    const int last = channels - LANES * (vectors - 1);
    UNROLL for (int p = 0; p < pixels; p++) {
        if (vectors == 2) *(vector *)(out + p * layer->out_pixel) = sum[p][0];
        store(out + p * layer->out_pixel + LANES * (vectors - 1), sum[p][vectors - 1], last);
    }
}

/* `pixels` neighbours in a row, of whose taps those in columns [from, to) lie inside the map; `x` is that of tap 0.
 * Each value is loaded once, for all results that it is a part of. */
INLINE void neighbours(const int kernel, const int stride, const int spread, const int pixels, const int vectors,
                       const struct depthwise *layer, struct taps at, ptrdiff_t x, const int from, const int to,
                       float *out)
{
    const ptrdiff_t step = layer->in_pixel, row = step * layer->width, plane = (ptrdiff_t)kernel * kernel * LANES;
    vector sum[4][2];
    UNROLL for (int p = 0; p < pixels; p++)
        UNROLL for (int v = 0; v < vectors; v++) sum[p][v] = load(at.bias + v * LANES);
    at.in += x * step;
    if (pixels == 4) /* what the next rows read and write */
        UNROLL for (int p = 0; p < pixels; p++) {
            UNROLL for (int q = 0; q < stride; q++)
                __builtin_prefetch(at.in + (p * stride + q + kernel / 2) * step + at.rows * row);
            __builtin_prefetch(out + (p + layer->out_width) * layer->out_pixel, 1);
        }
    for (int y = 0; y < at.rows; y++, at.in += row, at.weights += kernel * LANES) {
        const float *in = at.in + from * step;
        UNROLL for (int c = from; c < to + (pixels - 1) * stride; c++, in += step)
            UNROLL for (int v = 0; v < vectors; v++) {
                const vector found = load(in + v * at.apart), value = spread ? lanes_of(found, at.which[v]) : found;
                UNROLL for (int p = 0; p < pixels; p++)
                    if (c - p * stride >= from && c - p * stride < to)
                        sum[p][v] += value * load(at.weights + v * plane + (c - p * stride) * LANES);
            }
    }
    finish(pixels, vectors, sum, layer, out, at.channels);
}

/* One row of results for 8 or 16 channels. */
INLINE void depthwise_row(const int kernel, const int stride, const int spread, const int vectors,
                          const struct depthwise *layer, struct taps at, float *out)
{
    const int pad = layer->left, width = layer->out_width;
    const ptrdiff_t step = layer->out_pixel;
    int first = (pad + stride - 1) / stride; /* of the pixels whose taps all lie inside a row */
    int end = layer->width + pad >= kernel ? (layer->width + pad - kernel) / stride + 1 : 0;
    if (end > width) end = width;
    if (first > end) first = end;
    int x = 0;
    for (; x < first; x++)
        neighbours(kernel, stride, spread, 1, vectors, layer, at, x * stride - pad, pad - x * stride > 0 ? pad - x * stride : 0,
                   layer->width - x * stride + pad < kernel ? layer->width - x * stride + pad : kernel, out + x * step);
    for (; x + 4 <= end; x += 4)
        neighbours(kernel, stride, spread, 4, vectors, layer, at, x * stride - pad, 0, kernel, out + x * step);
    if (x + 2 <= end) {
        neighbours(kernel, stride, spread, 2, vectors, layer, at, x * stride - pad, 0, kernel, out + x * step);
        x += 2;
    }
    for (; x < end; x++)
        neighbours(kernel, stride, spread, 1, vectors, layer, at, x * stride - pad, 0, kernel, out + x * step);
    for (; x < width; x++)
        neighbours(kernel, stride, spread, 1, vectors, layer, at, x * stride - pad, pad - x * stride > 0 ? pad - x * stride : 0,
                   layer->width - x * stride + pad < kernel ? layer->width - x * stride + pad : kernel, out + x * step);
}

/* Some rows at a time, as many as the second cache holds, and in them 16 channels after the other: what a row has read
 * is still in the nearest cache when the next one reads it. */
INLINE void depthwise_rows(const int kernel, const int stride, const int spread, const struct depthwise *layer,
                           const struct memory *memory, int from, int to)
{
    const ptrdiff_t row = (ptrdiff_t)layer->in_pixel * layer->width, held = 192 * 1024 / sizeof(float) / row;
    const int rows = held < 4 ? 4 : held < to ? (int)held : to;
    for (int start = from; start < to; start += rows)
        for (int c = 0; c < layer->channels; c += 2 * LANES)
            for (int y = start; y < to && y < start + rows; y++) {
                const int top = y * stride - layer->top, skip = top < 0 ? -top : 0;
                const int inside = layer->height - top < kernel ? layer->height - top : kernel;
                struct taps at = {
                    memory->work + layer->in + (spread ? c / layer->each : c) + (top + skip) * row,
                    memory->weights + layer->weights + ((size_t)c * kernel + (size_t)skip * LANES) * kernel,
                    memory->weights + layer->bias + c,
                    inside - skip,
                    layer->channels - c,
                    spread ? (c + LANES) / layer->each - c / layer->each : LANES,
                    {{0}},
                };
                if (spread)
                    UNROLL for (int v = 0; v < 2; v++) at.which[v] = inputs_of(layer, c + LANES * v);
                float *out = memory->work + layer->out + (ptrdiff_t)y * layer->out_width * layer->out_pixel + c;
                if (at.channels > LANES) depthwise_row(kernel, stride, spread, 2, layer, at, out);
                else depthwise_row(kernel, stride, spread, 1, layer, at, out);
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
                        const vector found = load(in + (at_y * layer->width + at_x) * layer->in_pixel);
                        sum += load(weights + (ky * width + kx) * LANES) * (spread ? lanes_of(found, which) : found);
                    }
                }
                store(memory->work + layer->out + ((ptrdiff_t)y * layer->out_width + x) * layer->out_pixel + c,
                      activated(sum, &layer->activation), layer->channels - c);
            }
}
