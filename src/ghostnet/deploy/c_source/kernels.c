/* Kernels of a network in C: one image, maps as (height, width, channels), vectors of eight floats.
 *
 * Only what GCC and Clang share is used (vector extensions), so that the same text runs on AVX2, AVX-512, NEON and
 * whatever else they compile for. A kernel computes the part [from, to) of its layer, in the layer's own unit: rows,
 * pixels or panels of outputs. Loads may read up to seven floats behind a map, stores never write there.
 */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
#define KERNEL static __attribute__((unused)) void
#define LANES 8

typedef float vector __attribute__((vector_size(32), aligned(4), may_alias));
typedef int32_t lanes __attribute__((vector_size(32), aligned(4), may_alias));
typedef float half_vector __attribute__((vector_size(16), aligned(4), may_alias));
typedef float pair __attribute__((vector_size(8), aligned(4), may_alias));

struct memory {
    const float *weights;
    float *work;
    const float *images;
    float *outputs;
};

INLINE vector load(const float *from) { return *(const vector *)from; }
INLINE vector all(float x) { return (vector){x, x, x, x, x, x, x, x}; }
INLINE vector pick(lanes where, vector yes, vector no)
{
    return (vector)((where & (lanes)yes) | (~where & (lanes)no));
}
INLINE vector largest(vector a, vector b) { return pick(a > b, a, b); }
INLINE vector smallest(vector a, vector b) { return pick(a < b, a, b); }

INLINE void store(float *to, vector x, int count)
{
    if (count >= LANES) {
        *(vector *)to = x;
        return;
    }
    if (count & 4) {
        *(half_vector *)to = (half_vector){x[0], x[1], x[2], x[3]};
        x = (vector){x[4], x[5], x[6], x[7], 0, 0, 0, 0};
        to += 4;
    }
    if (count & 2) {
        *(pair *)to = (pair){x[0], x[1]};
        x[0] = x[2];
        to += 2;
    }
    if (count & 1) *to = x[0];
}

/* ---- activations ---- */

enum {
    NONE, RELU, CLIP, LEAKY_RELU, HARD_SIGMOID, HARD_SWISH, SIGMOID, SILU, TANH, ELU, ERF, EXP, SQRT,
    ABS, NEGATIVE, RECIPROCAL, LOG, CEIL, FLOOR, SQUARE, MISH
};

struct activation {
    int kind;
    float low, high; /* CLIP's limits; LEAKY_RELU's and ELU's factor; HARD_SIGMOID's slope and offset */
};

/* exp by powers of two and a polynomial (Cephes), to 2e-7 of the result; a NaN stays one */
INLINE vector exponential(vector given)
{
    const vector x = smallest(largest(given, all(-87)), all(88));
    vector shifted = x * all(1.44269504f) + all(12582912.f), whole = shifted - all(12582912.f);
    vector r = x - whole * all(.693359375f) + whole * all(2.12194440e-4f);
    vector p = all(1.9875691500e-4f);
    p = p * r + all(1.3981999507e-3f);
    p = p * r + all(8.3334519073e-3f);
    p = p * r + all(4.1665795894e-2f);
    p = p * r + all(1.6666665459e-1f);
    p = p * r + all(5.0000001201e-1f);
    p = p * r * r + r + all(1);
    return pick(given == given, (vector)((lanes)p + ((lanes)shifted << 23)), given);
}

INLINE vector sigmoid(vector x) { return all(1) / (all(1) + exponential(-x)); }

/* x tanh(log(1 + e^x)), without an overflow */
INLINE vector mish(vector x)
{
    vector e = exponential(smallest(x, all(20))), n = e * e + e + e;
    return x * n / (n + all(2));
}

#define EACH_LANE(x, result)                                                                                        \
    for (int lane = 0; lane < LANES; lane++) {                                                                      \
        const float v = (x)[lane];                                                                                  \
        (x)[lane] = (result);                                                                                       \
    }

static __attribute__((noinline)) vector rarely_activated(vector x, const struct activation *how)
{
    switch (how->kind) {
    case LEAKY_RELU: return pick(x > all(0), x, x * all(how->low));
    case SIGMOID: return sigmoid(x);
    case SILU: return x * sigmoid(x);
    case TANH: return all(2) * sigmoid(x + x) - all(1);
    case ELU: return pick(x > all(0), x, all(how->low) * (exponential(x) - all(1)));
    case EXP: return exponential(x);
    case ABS: return largest(x, -x);
    case NEGATIVE: return -x;
    case RECIPROCAL: return all(1) / x;
    case SQUARE: return x * x;
    case MISH: return mish(x);
    case ERF: EACH_LANE(x, erff(v)); return x;
    case SQRT: EACH_LANE(x, sqrtf(v)); return x;
    case LOG: EACH_LANE(x, logf(v)); return x;
    case CEIL: EACH_LANE(x, ceilf(v)); return x;
    case FLOOR: EACH_LANE(x, floorf(v)); return x;
    default: return x;
    }
}

/* a NaN stays one: comparisons with it are false, so it is what is kept */
INLINE vector relu(vector x) { return pick(x < all(0), all(0), x); }
INLINE vector clipped(vector x, float low, float high)
{
    x = pick(x < all(low), all(low), x);
    return pick(x > all(high), all(high), x);
}
INLINE vector hard_sigmoid(vector x, const struct activation *how)
{
    return clipped(x * all(how->low) + all(how->high), 0, 1);
}

INLINE vector activated(vector x, const struct activation *how)
{
    switch (how->kind) {
    case NONE: return x;
    case RELU: return relu(x);
    case CLIP: return clipped(x, how->low, how->high);
    case HARD_SIGMOID: return hard_sigmoid(x, how);
    case HARD_SWISH: return x * hard_sigmoid(x, how);
    default: return rarely_activated(x, how);
    }
}

/* The same for many, chosen once. */
static __attribute__((noinline)) void activate(vector *x, int count, const struct activation *how)
{
    if (how->kind == CLIP)
        for (int i = 0; i < count; i++) x[i] = clipped(x[i], how->low, how->high);
    else if (how->kind == HARD_SWISH)
        for (int i = 0; i < count; i++) x[i] = x[i] * hard_sigmoid(x[i], how);
    else
        for (int i = 0; i < count; i++) x[i] = activated(x[i], how);
}

/* Sums in registers: what is usual happens there, the rest in memory. */
#define ACTIVATE(sum, rows, columns, how)                                                                           \
    if ((how)->kind == RELU) {                                                                                      \
        UNROLL for (int r = 0; r < (rows); r++)                                                                     \
            UNROLL for (int c = 0; c < (columns); c++) sum[r][c] = relu(sum[r][c]);                                 \
    } else if ((how)->kind != NONE) {                                                                               \
        vector kept[24];                                                                                            \
        UNROLL for (int r = 0; r < (rows); r++)                                                                     \
            UNROLL for (int c = 0; c < (columns); c++) kept[r * (columns) + c] = sum[r][c];                         \
        activate(kept, (rows) * (columns), how);                                                                    \
        UNROLL for (int r = 0; r < (rows); r++)                                                                     \
            UNROLL for (int c = 0; c < (columns); c++) sum[r][c] = kept[r * (columns) + c];                         \
    }

/* ---- convolutions as matrix products: pixels x (taps x inputs) times (taps x inputs) x outputs ---- */

struct product {
    int width, outputs, segments, length; /* pixels in a row of outputs; k runs over segments of length floats */
    int in_row, in_pixel, out_pixel, add_pixel; /* steps in floats; add_pixel 0: nothing is added */
    size_t in, out, add, weights, bias;
    const int *segment; /* where each begins, from a pixel's first float */
    struct activation activation;
};

/* One tile: `pixels` x `vectors` sums, which stay in registers. */
INLINE void tile(const int pixels, const int vectors, const struct product *layer, const float *const *at,
                 const float *weights, const float *bias, float *out, const float *add, int outputs)
{
    vector sum[8][3];
    UNROLL for (int p = 0; p < pixels; p++)
        UNROLL for (int v = 0; v < vectors; v++) sum[p][v] = load(bias + LANES * v);
    for (int s = 0; s < layer->segments; s++) {
        const float *in[8];
        UNROLL for (int p = 0; p < pixels; p++) in[p] = at[p] + layer->segment[s];
        for (ptrdiff_t k = 0; k < layer->length; k++) {
            vector w[3];
            UNROLL for (int v = 0; v < vectors; v++) w[v] = load(weights + LANES * v);
            weights += LANES * vectors;
            UNROLL for (int p = 0; p < pixels; p++) {
                vector x = all(in[p][k]);
                UNROLL for (int v = 0; v < vectors; v++) sum[p][v] += x * w[v];
            }
        }
    }
    if (add)
        UNROLL for (int p = 0; p < pixels; p++)
            UNROLL for (int v = 0; v < vectors; v++) sum[p][v] += load(add + p * layer->add_pixel + LANES * v);
    ACTIVATE(sum, pixels, vectors, &layer->activation)
    const int last = outputs - LANES * (vectors - 1);
    UNROLL for (int p = 0; p < pixels; p++) {
        UNROLL for (int v = 0; v < vectors - 1; v++) *(vector *)(out + p * layer->out_pixel + LANES * v) = sum[p][v];
        if (last >= LANES) *(vector *)(out + p * layer->out_pixel + LANES * (vectors - 1)) = sum[p][vectors - 1];
    }
    if (last < LANES)
        UNROLL for (int p = 0; p < pixels; p++)
            store(out + p * layer->out_pixel + LANES * (vectors - 1), sum[p][vectors - 1], last);
}

typedef void tile_of(const struct product *, const float *const *, const float *, const float *, float *,
                     const float *, int);
#define TILE(P, V)                                                                                                  \
    static void tile_##P##_##V(const struct product *layer, const float *const *at, const float *weights,           \
                               const float *bias, float *out, const float *add, int outputs)                        \
    {                                                                                                               \
        tile(P, V, layer, at, weights, bias, out, add, outputs);                                                    \
    }
TILE(1, 1) TILE(2, 1) TILE(3, 1) TILE(4, 1) TILE(5, 1) TILE(6, 1) TILE(7, 1) TILE(8, 1)
TILE(1, 2) TILE(2, 2) TILE(3, 2) TILE(4, 2) TILE(5, 2) TILE(6, 2)
TILE(1, 3) TILE(2, 3) TILE(3, 3) TILE(4, 3)
static tile_of *const tiles[3][9] = {
    {0, tile_1_1, tile_2_1, tile_3_1, tile_4_1, tile_5_1, tile_6_1, tile_7_1, tile_8_1},
    {0, tile_1_2, tile_2_2, tile_3_2, tile_4_2, tile_5_2, tile_6_2},
    {0, tile_1_3, tile_2_3, tile_3_3, tile_4_3},
};
static const int tile_pixels[3] = {8, 6, 4};

/* How many vectors the next panel of outputs has; the weights were laid out by the same rule (panels_of in steps.py). */
INLINE int panel_vectors(int left) { return left == 1 ? 1 : left % 2 ? 3 : 2; }

/* unit: pixels */
KERNEL product(const void *self, const struct memory *memory, int from, int to)
{
    const struct product *layer = self;
    const float *weights = memory->weights + layer->weights, *bias = memory->weights + layer->bias;
    const int vectors = (layer->outputs + LANES - 1) / LANES;
    const int depth = layer->segments * layer->length;
    for (int first = 0, count; first < vectors; first += count) {
        count = panel_vectors(vectors - first);
        const int tiles_left = (to - from + tile_pixels[count - 1] - 1) / tile_pixels[count - 1];
        /* what lies behind a panel is what is read next: the next panel, or the next layer's weights */
        const ptrdiff_t ahead = (ptrdiff_t)depth * LANES * count / (tiles_left ? tiles_left : 1);
        const float *next = weights + ((size_t)first + count) * LANES * depth;
        int x = from % layer->width;
        const float *row = memory->work + layer->in + (ptrdiff_t)(from / layer->width) * layer->in_row;
        for (int t = tiles_left, pixel = from, pixels; t > 0; t--, pixel += pixels) {
            const float *at[8];
            pixels = (to - pixel) / t;
            if (ahead >= 16)
                for (const float *end = next + ahead; next < end; next += 16) __builtin_prefetch(next);
            for (int p = 0; p < pixels; p++) {
                at[p] = row + (ptrdiff_t)x * layer->in_pixel;
                if (++x == layer->width) x = 0, row += layer->in_row;
            }
            tiles[count - 1][pixels](
                layer, at, weights + (size_t)first * LANES * depth, bias + first * LANES,
                memory->work + layer->out + (ptrdiff_t)pixel * layer->out_pixel + first * LANES,
                layer->add_pixel ? memory->work + layer->add + (ptrdiff_t)pixel * layer->add_pixel + first * LANES : 0,
                layer->outputs - first * LANES);
        }
    }
}

/* ---- one pixel: a matrix times a vector; what counts is how fast memory gives the matrix ---- */

struct linear {
    int inputs, outputs;
    size_t in, out, weights, bias;
    struct activation activation;
};

/* Several panels of 16 outputs at once: processors fetch ahead in each of several streams, and sooner than in one. */
INLINE void outputs_of_panels(const int panels, const struct linear *layer, const struct memory *memory, int first)
{
    const size_t panel = (size_t)2 * LANES * layer->inputs;
    const float *weights = memory->weights + layer->weights + panel * first, *in = memory->work + layer->in;
    const int at = 2 * LANES * first;
    vector sum[8];
    UNROLL for (int v = 0; v < 2 * panels; v++) sum[v] = load(memory->weights + layer->bias + at + LANES * v);
    for (ptrdiff_t k = 0; k < layer->inputs; k++, weights += 2 * LANES) {
        vector x = all(in[k]);
        UNROLL for (int p = 0; p < panels; p++) {
            sum[2 * p] += x * load(weights + panel * p);
            sum[2 * p + 1] += x * load(weights + panel * p + LANES);
        }
    }
    UNROLL for (int v = 0; v < 2 * panels; v++)
        if (at + LANES * v < layer->outputs)
            store(memory->work + layer->out + at + LANES * v, activated(sum[v], &layer->activation),
                  layer->outputs - at - LANES * v);
}

/* unit: panels */
KERNEL linear(const void *layer, const struct memory *memory, int from, int to)
{
    for (; from + 4 <= to; from += 4) outputs_of_panels(4, layer, memory, from);
    if (to - from == 3) outputs_of_panels(3, layer, memory, from);
    if (to - from == 2) outputs_of_panels(2, layer, memory, from);
    if (to - from == 1) outputs_of_panels(1, layer, memory, from);
}

/* ---- depthwise convolutions ---- */

struct depthwise {
    int kernel_height, kernel_width, stride_y, stride_x, dilation_y, dilation_x, top, left;
    int height, width, out_width, channels, in_pixel, out_pixel;
    size_t in, out, weights, bias;
    struct activation activation;
};

/* Where a row of results is computed: the taps' first row inside the map, its weights, how many rows there are. */
struct taps {
    const float *in, *weights, *bias;
    int rows, channels;
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
INLINE void neighbours(const int kernel, const int stride, const int pixels, const int vectors,
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
                const vector value = load(in + v * LANES);
                UNROLL for (int p = 0; p < pixels; p++)
                    if (c - p * stride >= from && c - p * stride < to)
                        sum[p][v] += value * load(at.weights + v * plane + (c - p * stride) * LANES);
            }
    }
    finish(pixels, vectors, sum, layer, out, at.channels);
}

/* One row of results for 8 or 16 channels. */
INLINE void depthwise_row(const int kernel, const int stride, const int vectors, const struct depthwise *layer,
                          struct taps at, float *out)
{
    const int pad = layer->left, width = layer->out_width;
    const ptrdiff_t step = layer->out_pixel;
    int first = (pad + stride - 1) / stride; /* of the pixels whose taps all lie inside a row */
    int end = layer->width + pad >= kernel ? (layer->width + pad - kernel) / stride + 1 : 0;
    if (end > width) end = width;
    if (first > end) first = end;
    int x = 0;
    for (; x < first; x++)
        neighbours(kernel, stride, 1, vectors, layer, at, x * stride - pad, pad - x * stride > 0 ? pad - x * stride : 0,
                   layer->width - x * stride + pad < kernel ? layer->width - x * stride + pad : kernel, out + x * step);
    for (; x + 4 <= end; x += 4)
        neighbours(kernel, stride, 4, vectors, layer, at, x * stride - pad, 0, kernel, out + x * step);
    if (x + 2 <= end) {
        neighbours(kernel, stride, 2, vectors, layer, at, x * stride - pad, 0, kernel, out + x * step);
        x += 2;
    }
    for (; x < end; x++)
        neighbours(kernel, stride, 1, vectors, layer, at, x * stride - pad, 0, kernel, out + x * step);
    for (; x < width; x++)
        neighbours(kernel, stride, 1, vectors, layer, at, x * stride - pad, pad - x * stride > 0 ? pad - x * stride : 0,
                   layer->width - x * stride + pad < kernel ? layer->width - x * stride + pad : kernel, out + x * step);
}

/* Some rows at a time, as many as the second cache holds, and in them 16 channels after the other: what a row has read
 * is still in the nearest cache when the next one reads it. */
INLINE void depthwise_rows(const int kernel, const int stride, const struct depthwise *layer,
                           const struct memory *memory, int from, int to)
{
    const ptrdiff_t row = (ptrdiff_t)layer->in_pixel * layer->width, held = 192 * 1024 / sizeof(float) / row;
    const int rows = held < 4 ? 4 : held < to ? (int)held : to;
    for (int start = from; start < to; start += rows)
        for (int c = 0; c < layer->channels; c += 2 * LANES)
            for (int y = start; y < to && y < start + rows; y++) {
                const int top = y * stride - layer->top, skip = top < 0 ? -top : 0;
                const int inside = layer->height - top < kernel ? layer->height - top : kernel;
                const struct taps at = {
                    memory->work + layer->in + c + (ptrdiff_t)(top + skip) * row,
                    memory->weights + layer->weights + ((size_t)c * kernel + (size_t)skip * LANES) * kernel,
                    memory->weights + layer->bias + c,
                    inside - skip,
                    layer->channels - c,
                };
                float *out = memory->work + layer->out + (ptrdiff_t)y * layer->out_width * layer->out_pixel + c;
                if (at.channels > LANES) depthwise_row(kernel, stride, 2, layer, at, out);
                else depthwise_row(kernel, stride, 1, layer, at, out);
            }
}

/* unit: rows; square kernels, the same stride and padding both ways, no dilation */
#define DEPTHWISE(K, S)                                                                                             \
    KERNEL depthwise_##K##_##S(const void *layer, const struct memory *memory, int from, int to)               \
    {                                                                                                               \
        depthwise_rows(K, S, layer, memory, from, to);                                                              \
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
                vector sum = load(memory->weights + layer->bias + c);
                for (int ky = 0; ky < layer->kernel_height; ky++) {
                    const ptrdiff_t at_y = y * layer->stride_y - layer->top + ky * layer->dilation_y;
                    if (at_y < 0 || at_y >= layer->height) continue;
                    for (int kx = 0; kx < width; kx++) {
                        const ptrdiff_t at_x = x * layer->stride_x - layer->left + kx * layer->dilation_x;
                        if (at_x < 0 || at_x >= layer->width) continue;
                        sum += load(weights + (ky * width + kx) * LANES)
                             * load(memory->work + layer->in + (at_y * layer->width + at_x) * layer->in_pixel + c);
                    }
                }
                store(memory->work + layer->out + ((ptrdiff_t)y * layer->out_width + x) * layer->out_pixel + c,
                      activated(sum, &layer->activation), layer->channels - c);
            }
}

/* ---- two values ---- */

enum { ADD, SUBTRACT, MULTIPLY, DIVIDE, MAXIMUM, MINIMUM, FIRST };

INLINE vector combined(int kind, vector a, vector b)
{
    switch (kind) {
    case ADD: return a + b;
    case SUBTRACT: return a - b;
    case MULTIPLY: return a * b;
    case DIVIDE: return a / b;
    case MAXIMUM: return pick((a < b) | (b != b), b, a);
    case MINIMUM: return pick((a > b) | (b != b), b, a);
    default: return a;
    }
}

/* ---- pooling ---- */

struct pool {
    int is_max, count_outside; /* whether an average counts the taps outside the map */
    int kernel_height, kernel_width, stride_y, stride_x, top, left, bottom, right;
    int height, width, out_width, channels, in_pixel, out_pixel;
    size_t in, out;
};

/* unit: rows */
KERNEL pool(const void *self, const struct memory *memory, int from, int to)
{
    const struct pool *layer = self;
    for (int y = from; y < to; y++)
        for (int x = 0; x < layer->out_width; x++) {
            int top = y * layer->stride_y - layer->top, left = x * layer->stride_x - layer->left;
            int bottom = top + layer->kernel_height, right = left + layer->kernel_width;
            /* what a window counts ends where the padding does */
            const int low = layer->height + layer->bottom, far = layer->width + layer->right;
            int counted = ((bottom < low ? bottom : low) - top) * ((right < far ? right : far) - left);
            if (top < 0) top = 0;
            if (left < 0) left = 0;
            if (bottom > layer->height) bottom = layer->height;
            if (right > layer->width) right = layer->width;
            if (!layer->count_outside) counted = (bottom - top) * (right - left);
            for (int c = 0; c < layer->channels; c += LANES) {
                const float *in = memory->work + layer->in + c;
                vector result = all(layer->is_max ? -INFINITY : 0), second = result;
                for (int at_y = top; at_y < bottom; at_y++) {
                    const float *at = in + ((ptrdiff_t)at_y * layer->width + left) * layer->in_pixel;
                    int at_x = left;
                    if (layer->is_max)
                        for (; at_x < right; at_x++, at += layer->in_pixel)
                            result = combined(MAXIMUM, result, load(at));
                    else {
                        for (; at_x + 1 < right; at_x += 2, at += 2 * layer->in_pixel)
                            result += load(at), second += load(at + layer->in_pixel);
                        if (at_x < right) result += load(at);
                    }
                }
                if (!layer->is_max) result = (result + second) * all(1.f / counted);
                store(memory->work + layer->out + ((ptrdiff_t)y * layer->out_width + x) * layer->out_pixel + c, result,
                      layer->channels - c);
            }
        }
}

/* ---- element by element ---- */

struct elementwise {
    int kind, channels;
    int a_pixel, b_pixel, out_pixel; /* 0: the same for every pixel */
    int b_spread; /* one value for all channels */
    int b_is_weight;
    size_t a, b, out;
    struct activation activation;
};

INLINE void combine_pixels(const int kind, const struct activation how, const struct elementwise *layer,
                           const struct memory *memory, int from, int to)
{
    const float *a = memory->work + layer->a, *b = (layer->b_is_weight ? memory->weights : memory->work) + layer->b;
    for (ptrdiff_t p = from; p < to; p++) {
        const float *a_at = a + p * layer->a_pixel, *b_at = b + p * layer->b_pixel;
        float *out = memory->work + layer->out + p * layer->out_pixel;
        int c = 0;
        if (!layer->b_spread)
            for (; c + LANES <= layer->channels; c += LANES) {
                vector x = load(a_at + c);
                *(vector *)(out + c) = activated(combined(kind, x, kind == FIRST ? x : load(b_at + c)), &how);
            }
        for (; c < layer->channels; c += LANES) {
            vector x = load(a_at + c), y = layer->b_spread ? all(*b_at) : kind == FIRST ? x : load(b_at + c);
            store(out + c, activated(combined(kind, x, y), &how), layer->channels - c);
        }
    }
}

/* unit: pixels */
KERNEL elementwise(const void *self, const struct memory *memory, int from, int to)
{
    const struct elementwise *layer = self;
    const struct activation none = {NONE, 0, 0}, relu = {RELU, 0, 0};
    const int kind = layer->kind, plain = layer->activation.kind == NONE;
    if (kind == ADD && plain) combine_pixels(ADD, none, layer, memory, from, to);
    else if (kind == ADD && layer->activation.kind == RELU) combine_pixels(ADD, relu, layer, memory, from, to);
    else if (kind == MULTIPLY && plain) combine_pixels(MULTIPLY, none, layer, memory, from, to);
    else combine_pixels(kind, layer->activation, layer, memory, from, to);
}

/* ---- moving ---- */

struct images {
    int channels, height, width, top, left, out_width; /* of the images, and where they lie in the map */
    size_t out;
};

/* The images (channels, height, width) as (height, width, channels) in a border of zeros; unit: rows of the map */
KERNEL images(const void *self, const struct memory *memory, int from, int to)
{
    const struct images *layer = self;
    const int channels = layer->channels;
    const ptrdiff_t width = layer->width, plane = width * layer->height;
    for (int y = from; y < to; y++) {
        float *restrict out = memory->work + layer->out + (ptrdiff_t)y * layer->out_width * channels;
        const int at_y = y - layer->top, inside = at_y >= 0 && at_y < layer->height;
        const int left = inside ? layer->left : layer->out_width;
        memset(out, 0, sizeof *out * left * channels);
        if (!inside) continue;
        out += left * channels;
        memset(out + width * channels, 0, sizeof *out * (layer->out_width - left - width) * channels);
        const float *restrict in = memory->images + at_y * width;
        if (channels == 3)
            for (int x = 0; x < width; x++) {
                out[3 * x] = in[x];
                out[3 * x + 1] = in[x + plane];
                out[3 * x + 2] = in[x + 2 * plane];
            }
        else
            for (int c = 0; c < channels; c++)
                for (int x = 0; x < width; x++) out[x * channels + c] = in[c * plane + x];
    }
}

struct border {
    int channels, height, width, top, left, out_width, in_pixel; /* of the map, and where it lies in the larger one */
    float value;
    size_t in, out;
};

/* A map inside a larger one; unit: rows of the larger one */
KERNEL border(const void *self, const struct memory *memory, int from, int to)
{
    const struct border *layer = self;
    const ptrdiff_t channels = layer->channels;
    for (int y = from; y < to; y++) {
        float *out = memory->work + layer->out + (ptrdiff_t)y * layer->out_width * channels;
        const int at_y = y - layer->top, inside = at_y >= 0 && at_y < layer->height;
        const ptrdiff_t left = inside ? layer->left * channels : layer->out_width * channels;
        const ptrdiff_t right = inside ? (layer->left + layer->width) * channels : left;
        for (ptrdiff_t i = 0; i < left; i++) out[i] = layer->value;
        for (ptrdiff_t i = right; i < layer->out_width * channels; i++) out[i] = layer->value;
        if (!inside) continue;
        const float *in = memory->work + layer->in + (ptrdiff_t)at_y * layer->width * layer->in_pixel;
        if (layer->in_pixel == channels)
            memcpy(out + left, in, sizeof *in * (right - left));
        else
            for (int x = 0; x < layer->width; x++)
                memcpy(out + left + x * channels, in + (ptrdiff_t)x * layer->in_pixel, sizeof *in * channels);
    }
}

struct gather {
    int channels, in_pixel, out_pixel;
    size_t in, out;
    const int *index; /* the channel that each channel is; -1: zeros */
};

/* unit: pixels */
KERNEL gather(const void *self, const struct memory *memory, int from, int to)
{
    const struct gather *layer = self;
    for (ptrdiff_t p = from; p < to; p++) {
        const float *in = memory->work + layer->in + p * layer->in_pixel;
        float *out = memory->work + layer->out + p * layer->out_pixel;
        for (int c = 0; c < layer->channels; c++) out[c] = layer->index[c] < 0 ? 0 : in[layer->index[c]];
    }
}

struct sampling {
    int channels, width, out_width, in_pixel, out_pixel;
    size_t in, out;
    const int *rows, *columns; /* which row and column each row and column is */
};

/* unit: rows */
KERNEL sampling(const void *self, const struct memory *memory, int from, int to)
{
    const struct sampling *layer = self;
    for (int y = from; y < to; y++) {
        const float *row = memory->work + layer->in + (ptrdiff_t)layer->rows[y] * layer->width * layer->in_pixel;
        float *out = memory->work + layer->out + (ptrdiff_t)y * layer->out_width * layer->out_pixel;
        for (int x = 0; x < layer->out_width; x++)
            memcpy(out + (ptrdiff_t)x * layer->out_pixel, row + (ptrdiff_t)layer->columns[x] * layer->in_pixel,
                   sizeof *out * layer->channels);
    }
}

struct planes {
    int channels, pixels, in_pixel, to_outputs;
    size_t in, out;
};

/* (pixels, channels) as (channels, pixels), what others call flat; unit: channels */
KERNEL planes(const void *self, const struct memory *memory, int from, int to)
{
    const struct planes *layer = self;
    float *out = layer->to_outputs ? memory->outputs : memory->work + layer->out;
    for (int c = from; c < to; c++)
        for (ptrdiff_t p = 0; p < layer->pixels; p++)
            out[(ptrdiff_t)c * layer->pixels + p] = memory->work[layer->in + p * layer->in_pixel + c];
}

/* ---- the network is a list of these ---- */

struct call {
    void (*run)(const void *layer, const struct memory *memory, int from, int to);
    const void *layer;
    int count; /* units of work */
};
