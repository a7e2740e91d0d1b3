/* ---- 3x3 convolutions of stride 1 by Winograd's minimal filtering, F(4x4, 3x3) ----
 *
 * A tile of 4x4 results is made of 6x6 inputs by 36 products for a pair of channels instead of 144: filters and inputs
 * are taken as polynomials, which are multiplied by their values at 0, 3/2, -3/2, 2/3, -2/3 and infinity (Lavin and
 * Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016). The points are those of the pass "winograd",
 * for their small rounding errors. The map's tiles are taken in parts, whose transformed inputs the caches hold. Where
 * the convolution is dilated, it is none on every `apart`-th row and column from each of the first ones on, and these
 * make tiles among themselves.
 */

struct winograd {
    int inputs, outputs, height, width, in_pixel, top, left; /* of the map that is read, and its border of zeros */
    int out_height, out_width, out_pixel, add_pixel; /* add_pixel 0: nothing is added */
    int apart, down, across; /* rows and columns between neighbours; tiles in a column and a row of those */
    int first, tiles; /* which of all tiles are in this part */
    int shares, own; /* into how many the outputs are divided for threads, and floats of memory for each */
    size_t in, out, add, tiled, owned, weights, bias;
    struct activation activation;
};

enum { TAPS = 36, APART = 16 }; /* floats between planes, lest all of them share the same lines of a cache */

#if HALF_WEIGHTS /* transformed filters are floats */
#define FLOAT_TILE(NAME, P, V) TILE_OF(0, NAME, P, V)
EACH_TILE(FLOAT_TILE, tile_of, float_tiles)
#else
#define float_tiles tiles
#endif

INLINE ptrdiff_t tiled_pixel(const struct winograd *layer) { return (layer->inputs + LANES - 1) / LANES * LANES; }
INLINE ptrdiff_t tiled_plane(const struct winograd *layer) { return layer->tiles * tiled_pixel(layer) + APART; }

#define A (3.f / 2)
#define B (2.f / 3)

/* Six inputs for the six points. */
INLINE void inputs_at_points(const part d[6], part *out, const ptrdiff_t step)
{
    const part q = all_part(A * A + B * B);
    const part even_a = d[4] - all_part(B * B) * d[2], odd_a = all_part(A) * (d[3] - all_part(B * B) * d[1]);
    const part even_b = d[4] - all_part(A * A) * d[2], odd_b = all_part(B) * (d[3] - all_part(A * A) * d[1]);
    out[0] = d[0] - q * d[2] + d[4];
    out[step] = even_a + odd_a;
    out[2 * step] = even_a - odd_a;
    out[3 * step] = even_b + odd_b;
    out[4 * step] = even_b - odd_b;
    out[5 * step] = d[1] - q * d[3] + d[5];
}

/* A filter's three taps at the six points, over the constants by which the products have to be divided. */
INLINE void taps_at_points(part g0, part g1, part g2, part *out, const ptrdiff_t step)
{
    const float a = 1 / (2 * A * A * (A * A - B * B)), b = 1 / (2 * B * B * (B * B - A * A));
    const part even_a = all_part(a) * g0 + all_part(a * A * A) * g2;
    const part even_b = all_part(b) * g0 + all_part(b * B * B) * g2;
    out[0] = g0;
    out[step] = even_a + all_part(a * A) * g1;
    out[2 * step] = even_a - all_part(a * A) * g1;
    out[3 * step] = even_b + all_part(b * B) * g1;
    out[4 * step] = even_b - all_part(b * B) * g1;
    out[5 * step] = g2;
}

/* Four results from their six products. */
INLINE void results_of_products(const part m[6], part *out, const ptrdiff_t step)
{
    const part sum_a = m[1] + m[2], odd_a = m[1] - m[2], sum_b = m[3] + m[4], odd_b = m[3] - m[4];
    out[0] = m[0] + sum_a + sum_b;
    out[step] = all_part(A) * odd_a + all_part(B) * odd_b;
    out[2 * step] = all_part(A * A) * sum_a + all_part(B * B) * sum_b;
    out[3 * step] = all_part(A * A * A) * odd_a + all_part(B * B * B) * odd_b + m[5];
}

#undef A
#undef B

/* The first result of one of this part's tiles; those from `out_height` or `out_width` on do not exist. */
INLINE void place_of_tile(const struct winograd *layer, int t, int *y, int *x)
{
    const int number = layer->first + t, each = layer->down * layer->across, from = number / each, rest = number % each;
    *y = rest / layer->across * 4 * layer->apart + from / layer->apart;
    *x = rest % layer->across * 4 * layer->apart + from % layer->apart;
}

/* The inputs of the tile whose first tap lies at (y, x), which may be outside the map unless `inside`. */
INLINE void transform_inputs(const int inside, const struct winograd *layer, const float *map, int y, int x, float *out)
{
    static const float nothing[LANES];
    const int apart = layer->apart;
    const ptrdiff_t step = (ptrdiff_t)layer->in_pixel * apart, row = step * layer->width, plane = tiled_plane(layer);
    const float *from[6][6];
    ptrdiff_t moves[6][6]; /* all bits of a channel's number, or none */
    map += ((ptrdiff_t)y * layer->width + x) * layer->in_pixel;
    if (!inside)
        for (int i = 0; i < 6; i++)
            for (int j = 0; j < 6; j++) {
                const int down = y + i * apart, across = x + j * apart;
                const int there = down >= 0 && down < layer->height && across >= 0 && across < layer->width;
                from[i][j] = there ? map + i * row + j * step : nothing;
                moves[i][j] = there ? -1 : 0;
            }
    for (ptrdiff_t c = 0; c < layer->inputs; c += PART) {
        part down[6][6], across[6];
        const float *column = map + c;
        float *to = out + c;
        ROLLED for (int j = 0; j < 6; j++, column += step) {
            part d[6];
            UNROLL for (int i = 0; i < 6; i++)
                d[i] = part_at(inside ? column + i * row : from[i][j] + (c & moves[i][j]));
            inputs_at_points(d, &down[0][j], 6);
        }
        ROLLED for (int i = 0; i < 6; i++, to += 6 * plane) {
            inputs_at_points(down[i], across, 1);
            UNROLL for (int j = 0; j < 6; j++) *(part *)(to + j * plane) = across[j];
        }
    }
}

/* unit: tiles */
KERNEL winograd_tiles(const void *self, const struct memory *memory, int from, int to)
{
    const struct winograd *layer = self;
    for (int t = from; t < to; t++) {
        const int last = 5 * layer->apart; /* tap */
        int y, x;
        place_of_tile(layer, t, &y, &x);
        y -= layer->top;
        x -= layer->left;
        float *out = memory->work + layer->tiled + t * tiled_pixel(layer);
        if (y >= 0 && y + last < layer->height && x >= 0 && x + last < layer->width)
            transform_inputs(1, layer, memory->work + layer->in, y, x, out);
        else
            transform_inputs(0, layer, memory->work + layer->in, y, x, out);
    }
}

/* The filters of a panel for all points: (points, inputs, outputs). */
INLINE void transform_filters(const int vectors, const struct winograd *layer, const float *weights, size_t next, float *out)
{
    const ptrdiff_t width = LANES * vectors, plane = width * layer->inputs + APART;
    for (int c = 0; c < layer->inputs; c++, next += 9 * width, out += width)
        for (int v = 0; v < PARTS * vectors; v++) {
            part down[6][3], across[6];
            UNROLL for (int j = 0; j < 3; j++)
                taps_at_points(load_part(HALF_WEIGHTS, weights, next + j * width + PART * v),
                               load_part(HALF_WEIGHTS, weights, next + (3 + j) * width + PART * v),
                               load_part(HALF_WEIGHTS, weights, next + (6 + j) * width + PART * v), &down[0][j], 3);
            UNROLL for (int i = 0; i < 6; i++) {
                taps_at_points(down[i][0], down[i][1], down[i][2], across, 1);
                UNROLL for (int j = 0; j < 6; j++) *(part *)(out + (6 * i + j) * plane + PART * v) = across[j];
            }
        }
}

/* How many of a tile's four rows (columns) lie among the next `left` of the map. */
INLINE int there_of(int left, int apart) { return left > 3 * apart ? 4 : left > 0 ? (left + apart - 1) / apart : 0; }

/* A tile's results for a part of the outputs, of which `count` exist. */
INLINE void transform_products(const struct winograd *layer, const struct memory *memory, int t, int first,
                               const float *products, ptrdiff_t plane)
{
    part down[4][6], result[4][4];
    ROLLED for (int j = 0; j < 6; j++, products += plane) {
        part m[6];
        UNROLL for (int i = 0; i < 6; i++) m[i] = part_at(products + 6 * i * plane);
        results_of_products(m, &down[0][j], 6);
    }
    UNROLL for (int i = 0; i < 4; i++) results_of_products(down[i], result[i], 1);
    const part bias = part_at(memory->weights + layer->bias + first);
    int y, x;
    place_of_tile(layer, t, &y, &x);
    const int rows = there_of(layer->out_height - y, layer->apart), columns = there_of(layer->out_width - x, layer->apart);
    const int count = layer->outputs - first;
    const ptrdiff_t pixel = (ptrdiff_t)y * layer->out_width + x, row = (ptrdiff_t)layer->apart * layer->out_width;
    const float *add = memory->work + layer->add + pixel * layer->add_pixel + first;
    UNROLL for (int i = 0; i < 4; i++)
        UNROLL for (int j = 0; j < 4; j++) {
            result[i][j] += bias;
            if (layer->add_pixel && i < rows && j < columns)
                result[i][j] += part_at(add + (i * row + j * layer->apart) * layer->add_pixel);
        }
    ACTIVATE(result, 4, 4, &layer->activation)
    float *out = memory->work + layer->out + pixel * layer->out_pixel + first;
    UNROLL for (int i = 0; i < 4; i++)
        UNROLL for (int j = 0; j < 4; j++)
            if (i < rows && j < columns)
                store_part(out + (i * row + j * layer->apart) * layer->out_pixel, result[i][j], count);
}

INLINE void winograd_panel(const int vectors, const struct winograd *layer, const struct memory *memory, int first,
                           float *own)
{
    static const float no_bias[3 * LANES];
    static const int no_segment[1];
    const ptrdiff_t width = LANES * vectors, step = tiled_pixel(layer);
    const ptrdiff_t filter_plane = width * layer->inputs + APART, plane = width * layer->tiles + APART;
    const struct product sizes = {.segments = 1, .length = layer->inputs, .out_pixel = (int)width,
                                  .segment = no_segment};
    float *products = own + TAPS * filter_plane;
    transform_filters(vectors, layer, memory->weights + layer->weights, (size_t)first * 9 * layer->inputs, own);
    for (int k = 0; k < TAPS; k++) {
        const float *in = memory->work + layer->tiled + k * tiled_plane(layer);
        float *out = products + k * plane;
        for (int left = (layer->tiles + tile_pixels[vectors - 1] - 1) / tile_pixels[vectors - 1], t = 0, count; left > 0;
             left--, t += count) {
            const float *at[8];
            count = (layer->tiles - t) / left;
            for (int p = 0; p < count; p++) at[p] = in + (t + p) * step;
            float_tiles[vectors - 1][count](&sizes, at, own + k * filter_plane, no_bias, out + t * width, 0, (int)width);
        }
    }
    for (int t = 0; t < layer->tiles; t++)
        for (int v = 0; v < PARTS * vectors && first + PART * v < layer->outputs; v++)
            transform_products(layer, memory, t, first + PART * v, products + t * width + PART * v, plane);
}

/* unit: shares of the outputs */
KERNEL winograd_product(const void *self, const struct memory *memory, int from, int to)
{
    const struct winograd *layer = self;
    const int vectors = (layer->outputs + LANES - 1) / LANES, panels = vectors == 1 ? 1 : vectors / 2;
    float *own = memory->work + layer->owned + (ptrdiff_t)from * layer->own;
    for (int p = panels * from / layer->shares; p < panels * to / layer->shares; p++) {
        const int first = 2 * p + (p > 0 && vectors % 2), count = panel_vectors(vectors - first);
        if (count == 1) winograd_panel(1, layer, memory, first * LANES, own);
        else if (count == 2) winograd_panel(2, layer, memory, first * LANES, own);
        else winograd_panel(3, layer, memory, first * LANES, own);
    }
}
