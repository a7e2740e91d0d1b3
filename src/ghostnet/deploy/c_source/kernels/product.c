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
