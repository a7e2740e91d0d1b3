/* ---- convolutions as matrix products: pixels x (taps x inputs) times (taps x inputs) x outputs ---- */

struct product {
    int width, outputs, segments, length; /* pixels in a row of outputs; k runs over segments of length floats */
    int in_row, in_pixel, out_pixel, add_pixel; /* steps in floats; add_pixel 0: nothing is added */
    size_t in, out, add, weights, bias;
    const int *segment; /* where each begins, from a pixel's first float */
    struct activation activation;
};

/* What is done to the sums of a tile before they are a map: something is added, they are activated. */
INLINE void finish_tile(const int pixels, const int parts, part sum[8][3 * PARTS], const struct activation *activation,
                        float *out, ptrdiff_t out_pixel, const float *add, ptrdiff_t add_pixel, int outputs)
{
    if (add)
        UNROLL for (int p = 0; p < pixels; p++)
            UNROLL for (int v = 0; v < parts; v++) sum[p][v] += part_at(add + p * add_pixel + PART * v);
    ACTIVATE(sum, pixels, parts, activation)
    const int sure = parts - PARTS; /* parts that exist as a whole */
    UNROLL for (int p = 0; p < pixels; p++)
        UNROLL for (int v = 0; v < sure; v++) *(part *)(out + p * out_pixel + PART * v) = sum[p][v];
    UNROLL for (int v = sure; v < parts; v++) {
        const int left = outputs - PART * v;
        if (left >= PART)
            UNROLL for (int p = 0; p < pixels; p++) *(part *)(out + p * out_pixel + PART * v) = sum[p][v];
        else if (left > 0)
            UNROLL for (int p = 0; p < pixels; p++) store_part(out + p * out_pixel + PART * v, sum[p][v], left);
    }
}

/* One tile: `pixels` x `vectors` sums, which stay in registers. */
INLINE void tile(const int half, const int pixels, const int vectors, const struct product *layer,
                 const float *const *at, const void *weights, const float *bias, float *out, const float *add,
                 int outputs)
{
    part sum[8][3 * PARTS];
    ptrdiff_t next = 0;
    UNROLL for (int p = 0; p < pixels; p++)
        UNROLL for (int v = 0; v < PARTS * vectors; v++) sum[p][v] = part_at(bias + PART * v);
    for (int s = 0; s < layer->segments; s++) {
        const float *in[8];
        UNROLL for (int p = 0; p < pixels; p++) in[p] = at[p] + layer->segment[s];
        for (ptrdiff_t k = 0; k < layer->length; k++, next += LANES * vectors) {
            part w[3 * PARTS];
            UNROLL for (int v = 0; v < PARTS * vectors; v++) {
                w[v] = load_part(half, weights, next + PART * v);
                if (vectors == 3) IN_REGISTER(w[v]); /* GCC keeps one or two by itself */
            }
            UNROLL for (int p = 0; p < pixels; p++) {
                part x = all_part(in[p][k]);
                UNROLL for (int v = 0; v < PARTS * vectors; v++) sum[p][v] += x * w[v];
            }
        }
    }
    finish_tile(pixels, PARTS * vectors, sum, &layer->activation, out, layer->out_pixel, add, layer->add_pixel,
                outputs);
}

typedef void tile_of(const struct product *, const float *const *, const void *, const float *, float *,
                     const float *, int);
/* a function for each size of a tile, which MAKE defines: NAME[vectors - 1][pixels] */
#define EACH_TILE(MAKE, TYPE, NAME)                                                                                 \
    MAKE(NAME, 1, 1) MAKE(NAME, 2, 1) MAKE(NAME, 3, 1) MAKE(NAME, 4, 1)                                             \
    MAKE(NAME, 5, 1) MAKE(NAME, 6, 1) MAKE(NAME, 7, 1) MAKE(NAME, 8, 1)                                             \
    MAKE(NAME, 1, 2) MAKE(NAME, 2, 2) MAKE(NAME, 3, 2) MAKE(NAME, 4, 2) MAKE(NAME, 5, 2) MAKE(NAME, 6, 2)           \
    MAKE(NAME, 1, 3) MAKE(NAME, 2, 3) MAKE(NAME, 3, 3) MAKE(NAME, 4, 3)                                             \
    static __attribute__((unused)) TYPE *const NAME[3][9] = {                                                       \
        {0, NAME##_1_1, NAME##_2_1, NAME##_3_1, NAME##_4_1, NAME##_5_1, NAME##_6_1, NAME##_7_1, NAME##_8_1},        \
        {0, NAME##_1_2, NAME##_2_2, NAME##_3_2, NAME##_4_2, NAME##_5_2, NAME##_6_2},                                \
        {0, NAME##_1_3, NAME##_2_3, NAME##_3_3, NAME##_4_3},                                                        \
    };
#define TILE_OF(HALF, NAME, P, V)                                                                                   \
    static void NAME##_##P##_##V(const struct product *layer, const float *const *at, const void *weights,          \
                                 const float *bias, float *out, const float *add, int outputs)                      \
    {                                                                                                               \
        tile(HALF, P, V, layer, at, weights, bias, out, add, outputs);                                              \
    }
#define TILE(NAME, P, V) TILE_OF(HALF_WEIGHTS, NAME, P, V)
EACH_TILE(TILE, tile_of, tiles)
#if defined __AVX__ || defined __aarch64__
static const int tile_pixels[3] = {8, 6, 4};
#else /* half as many or half as wide registers */
static const int tile_pixels[3] = {4, 3, 2};
#endif

/* How many vectors the next panel of outputs has; the weights were laid out by the same rule (panel_widths in weights.py). */
INLINE int panel_vectors(int left) { return left == 1 ? 1 : left % 2 ? 3 : 2; }

/* unit: pixels */
KERNEL product(const void *self, const struct memory *memory, int from, int to)
{
    const struct product *layer = self;
    const char *weights = (const char *)(memory->weights + layer->weights);
    const float *bias = memory->weights + layer->bias;
    const int vectors = (layer->outputs + LANES - 1) / LANES;
    const int depth = layer->segments * layer->length;
    for (int first = 0, count; first < vectors; first += count) {
        count = panel_vectors(vectors - first);
        const int tiles_left = (to - from + tile_pixels[count - 1] - 1) / tile_pixels[count - 1];
        /* what lies behind a panel is what is read next: the next panel, or the next layer's weights */
        const ptrdiff_t panel = (ptrdiff_t)depth * LANES * count * WEIGHT, ahead = panel / (tiles_left ? tiles_left : 1);
        const char *next = weights + panel;
        int x = from % layer->width;
        const float *row = memory->work + layer->in + (ptrdiff_t)(from / layer->width) * layer->in_row;
        for (int t = tiles_left, pixel = from, pixels; t > 0; t--, pixel += pixels) {
            const float *at[8];
            pixels = (to - pixel) / t;
            if (ahead >= LINE)
                for (const char *end = next + ahead; next < end; next += LINE) __builtin_prefetch(next);
            for (int p = 0; p < pixels; p++) {
                at[p] = row + (ptrdiff_t)x * layer->in_pixel;
                if (++x == layer->width) x = 0, row += layer->in_row;
            }
            tiles[count - 1][pixels](
                layer, at, weights, bias + first * LANES,
                memory->work + layer->out + (ptrdiff_t)pixel * layer->out_pixel + first * LANES,
                layer->add_pixel ? memory->work + layer->add + (ptrdiff_t)pixel * layer->add_pixel + first * LANES : 0,
                layer->outputs - first * LANES);
        }
        weights += panel;
    }
}
