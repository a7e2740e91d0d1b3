/* ---- convolutions as products of bytes ----
 *
 * Values x become bytes u with x = low + step * u. A pixel has a low and a step of its own, or all pixels of a map have
 * the same where windows are larger; both are found while the network runs. Weights are bytes with a scale for each
 * output, so that sum(w x) = scale * (low * sum(w) + step * sum(w u)), whose last sum is exact in 32 bits.
 */

/* Where four products are added in 16 bits, which would clip them, values have seven bits. */
#if defined __AVX2__ && !(defined __AVX512VNNI__ && defined __AVX512VL__) && !defined __AVXVNNI__
enum { MOST = 127, LEAST = 0, SUMS_OF_FLOATS = 0 };
#elif defined __AVX2__
enum { MOST = 255, LEAST = 0, SUMS_OF_FLOATS = 0 };
#elif defined __aarch64__ && defined __ARM_FEATURE_DOTPROD
enum { MOST = 255, LEAST = -128, SUMS_OF_FLOATS = 0 }; /* bytes with a sign */
#else
enum { MOST = 255, LEAST = 0, SUMS_OF_FLOATS = 1 };
#endif

typedef uint8_t eight_bytes __attribute__((vector_size(8), aligned(1), may_alias));
typedef uint32_t quad __attribute__((aligned(1), may_alias)); /* four bytes */

/* sums + the products of a quad and of the quads of some outputs' weights */
INLINE part_bits dot(part_bits sums, quad u, part_bits w)
{
#if defined __AVX512VNNI__ && defined __AVX512VL__
    return (part_bits)_mm256_dpbusd_epi32((__m256i)sums, _mm256_set1_epi32((int)u), (__m256i)w);
#elif defined __AVXVNNI__
    return (part_bits)_mm256_dpbusd_avx_epi32((__m256i)sums, _mm256_set1_epi32((int)u), (__m256i)w);
#elif defined __AVX2__
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi32((int)u), (__m256i)w);
    return sums + (part_bits)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#elif defined __aarch64__ && defined __ARM_FEATURE_DOTPROD
    return (part_bits)vdotq_s32((int32x4_t)sums, (int8x16_t)w, vreinterpretq_s8_u32(vdupq_n_u32(u)));
#else /* in floats; the bytes of weights become floats once for all pixels of a tile */
    const part first = __builtin_convertvector(w << 24 >> 24, part);
    const part second = __builtin_convertvector(w << 16 >> 24, part);
    const part third = __builtin_convertvector(w << 8 >> 24, part);
    const part fourth = __builtin_convertvector(w >> 24, part);
    return (part_bits)((part)sums + first * all_part(u & 255) + second * all_part(u >> 8 & 255)
                       + third * all_part(u >> 16 & 255) + fourth * all_part(u >> 24));
#endif
}

INLINE part sum_of(part_bits sums) { return SUMS_OF_FLOATS ? (part)sums : __builtin_convertvector(sums, part); }

/* What has been seen of the values that become bytes together. */
struct range {
    vector low, high, total; /* the sum tells of NaNs, which comparisons pass over */
};

INLINE struct range widened(struct range range, vector x)
{
#if defined __AVX__
    range.low = (vector)_mm256_min_ps((__m256)x, (__m256)range.low);
    range.high = (vector)_mm256_max_ps((__m256)x, (__m256)range.high);
#else
    range.low = smallest(x, range.low), range.high = largest(x, range.high);
#endif
    range.total += x;
    return range;
}

/* How values are told from bytes, and bytes from values. */
struct scale {
    float low, step, steps; /* of a byte 0; of a byte; bytes in a one */
};

INLINE struct scale scale_of(float low, float high, int are_numbers)
{
    const float span = high - low;
    return (struct scale){low, are_numbers ? span * (1.f / MOST) : NAN, span > 0 ? MOST / span : 0};
}

INLINE struct scale scale_of_range(struct range range)
{
#if defined __AVX__
    const __m256 low = (__m256)range.low, high = (__m256)range.high;
    __m128 ends = _mm_min_ps(_mm256_castps256_ps128(low), _mm256_extractf128_ps(low, 1));
    __m128 tops = _mm_max_ps(_mm256_castps256_ps128(high), _mm256_extractf128_ps(high, 1));
    ends = _mm_min_ps(ends, _mm_movehl_ps(ends, ends)), tops = _mm_max_ps(tops, _mm_movehl_ps(tops, tops));
    ends = _mm_min_ss(ends, _mm_movehdup_ps(ends)), tops = _mm_max_ss(tops, _mm_movehdup_ps(tops));
    const int numbers = !_mm256_movemask_ps(_mm256_cmp_ps((__m256)range.total, (__m256)range.total, _CMP_UNORD_Q));
    return scale_of(_mm_cvtss_f32(ends), _mm_cvtss_f32(tops), numbers);
#else
    float low = range.low[0], high = range.high[0];
    int numbers = 1;
    for (int lane = 0; lane < LANES; lane++) {
        low = range.low[lane] < low ? range.low[lane] : low;
        high = range.high[lane] > high ? range.high[lane] : high;
        numbers &= range.total[lane] == range.total[lane];
    }
    return scale_of(low, high, numbers);
#endif
}

/* The first `count` lanes of what lies there, and `other` in the rest. */
INLINE vector first_lanes(const float *from, int count, float other)
{
    const lanes place = {0, 1, 2, 3, 4, 5, 6, 7};
    return pick(place < (lanes){} + count, load(from), all(other));
}

INLINE void store_bytes(uint8_t *to, vector x, struct scale scale, int count)
{
    const lanes whole = __builtin_convertvector((x - all(scale.low)) * all(scale.steps) + all(.5f), lanes) + LEAST;
    const eight_bytes bytes = __builtin_convertvector(whole, eight_bytes);
    memcpy(to, &bytes, count > 4 ? 8 : 4);
}

/* The same for all channels of a pixel. */
INLINE struct range widened_by_pixel(struct range range, const float *in, int channels, float other)
{
    int c = 0;
    for (; c + LANES <= channels; c += LANES) range = widened(range, load(in + c));
    return c < channels ? widened(range, first_lanes(in + c, channels - c, other)) : range;
}
INLINE void store_pixel(uint8_t *to, const float *in, int channels, struct scale scale)
{
    for (int c = 0; c < channels; c += LANES) store_bytes(to + c, load(in + c), scale, channels - c);
}

/* Where products find the low and the step of a byte. */
INLINE void tell(float *scales, struct scale scale)
{
    scales[0] = scale.low - LEAST * scale.step, scales[1] = scale.step;
}

/* Some outputs' sums of products of values, from those of bytes; `own`: their biases, `filled` floats further their
 * scales, and as far again their sums of weights. */
INLINE part value_of(part_bits sums, const float *own, int filled, float low, float step)
{
    return part_at(own) + all_part(low) * part_at(own + 2 * filled)
           + all_part(step) * part_at(own + filled) * sum_of(sums);
}

struct bytes {
    int channels, quads, width, in_row, in_pixel; /* quads of a pixel; pixels of a row; steps in floats */
    size_t in, out, scales;
};

/* unit: pixels, each with a scale of its own */
KERNEL bytes(const void *self, const struct memory *memory, int from, int to)
{
    const struct bytes *layer = self;
    const float *row = memory->work + layer->in + (ptrdiff_t)(from / layer->width) * layer->in_row;
    for (int pixel = from, x = from % layer->width; pixel < to; pixel++) {
        const float *in = row + (ptrdiff_t)x * layer->in_pixel;
        if (++x == layer->width) x = 0, row += layer->in_row;
        uint8_t *out = (uint8_t *)(memory->work + layer->out + (ptrdiff_t)pixel * layer->quads);
        const struct range first = {all(in[0]), all(in[0]), all(0)};
        const struct scale scale = scale_of_range(widened_by_pixel(first, in, layer->channels, in[0]));
        tell(memory->work + layer->scales + 2 * pixel, scale);
        store_pixel(out, in, layer->channels, scale);
    }
}

struct byte_map {
    int channels, quads, height, width, top, left, out_width, in_pixel; /* of the map that is read, and its border */
    size_t in, out, scales, ranges;
};

/* unit: rows; the least and the largest value of each, or NaNs */
KERNEL range_of_rows(const void *self, const struct memory *memory, int from, int to)
{
    const struct byte_map *layer = self;
    for (int y = from; y < to; y++) {
        const float *in = memory->work + layer->in + (ptrdiff_t)y * layer->width * layer->in_pixel;
        struct range range = {all(0), all(0), all(0)}; /* the border's zero is one of the values */
        for (int x = 0; x < layer->width; x++, in += layer->in_pixel)
            range = widened_by_pixel(range, in, layer->channels, 0);
        const struct scale scale = scale_of_range(range);
        float *found = memory->work + layer->ranges + 2 * y;
        found[0] = scale.low, found[1] = scale.low + MOST * scale.step;
    }
}

/* unit: rows of the map with its border; one scale for all of it, by which a zero is a whole byte */
KERNEL byte_map(const void *self, const struct memory *memory, int from, int to)
{
    const struct byte_map *layer = self;
    const float *ranges = memory->work + layer->ranges;
    float low = 0, high = 0;
    int numbers = 1;
    for (int y = 0; y < layer->height; y++) {
        low = ranges[2 * y] < low ? ranges[2 * y] : low, high = ranges[2 * y + 1] > high ? ranges[2 * y + 1] : high;
        numbers &= ranges[2 * y + 1] == ranges[2 * y + 1];
    }
    struct scale scale = scale_of(low, high, numbers);
    /* a little under a half, so that the largest value, too, stays below a byte's end where low and high are as far
     * from zero: 127.5 rounded up would make it 256 */
    const int zero = (int)(-low * scale.steps + .499f);
    scale.low = -zero * scale.step;
    if (from == 0) tell(memory->work + layer->scales, scale);
    if (!numbers) scale.low = 0; /* the bytes do not matter */
    const int nothing = zero + LEAST;
    for (int y = from; y < to; y++) {
        uint8_t *out = (uint8_t *)(memory->work + layer->out + (ptrdiff_t)y * layer->out_width * layer->quads);
        const int in_y = y - layer->top;
        const float *in = memory->work + layer->in + (ptrdiff_t)in_y * layer->width * layer->in_pixel;
        for (int x = -layer->left; x < layer->out_width - layer->left; x++, out += 4 * layer->quads) {
            if (in_y < 0 || in_y >= layer->height || x < 0 || x >= layer->width) {
                memset(out, nothing, 4 * layer->quads);
                continue;
            }
            store_pixel(out, in, layer->channels, scale);
            in += layer->in_pixel;
        }
    }
}

struct byte_product {
    int width, outputs, segments, length; /* pixels in a row of outputs; k runs over segments of length quads */
    int in_row, in_pixel, scale_pixel; /* steps in quads, and in floats; scale_pixel 0: one scale for all */
    int out_pixel, add_pixel; /* steps in floats; add_pixel 0: nothing is added */
    int filled; /* outputs, rounded up to whole vectors: biases, scales and sums of weights lie so far apart */
    size_t in, scales, out, add, weights, bias;
    const int *segment; /* where each begins, from a pixel's first quad */
    struct activation activation;
};

/* One tile: `pixels` x `vectors` sums, which stay in registers. */
INLINE void byte_tile(const int pixels, const int vectors, const struct byte_product *layer, const quad *const *at,
                      const int8_t *weights, const float *bias, const float *scales, float *out, const float *add,
                      int outputs)
{
    part_bits count[8][3 * PARTS] = {};
    for (int s = 0; s < layer->segments; s++) {
        const quad *in[8];
        UNROLL for (int p = 0; p < pixels; p++) in[p] = at[p] + layer->segment[s];
        for (ptrdiff_t k = 0; k < layer->length; k++, weights += 4 * LANES * vectors) {
            part_bits w[3 * PARTS];
            UNROLL for (int v = 0; v < PARTS * vectors; v++) {
                w[v] = *(const part_bits *)(weights + 4 * PART * v);
                if (vectors == 3) IN_REGISTER(w[v]);
            }
            UNROLL for (int p = 0; p < pixels; p++)
                UNROLL for (int v = 0; v < PARTS * vectors; v++) count[p][v] = dot(count[p][v], in[p][k], w[v]);
        }
    }
    part sum[8][3 * PARTS];
    UNROLL for (int p = 0; p < pixels; p++) {
        const float *scale = scales + p * layer->scale_pixel;
        UNROLL for (int v = 0; v < PARTS * vectors; v++)
            sum[p][v] = value_of(count[p][v], bias + PART * v, layer->filled, scale[0], scale[1]);
    }
    finish_tile(pixels, PARTS * vectors, sum, &layer->activation, out, layer->out_pixel, add, layer->add_pixel,
                outputs);
}

typedef void byte_tile_of(const struct byte_product *, const quad *const *, const int8_t *, const float *,
                          const float *, float *, const float *, int);
#define BYTE_TILE(NAME, P, V)                                                                                          \
    static void NAME##_##P##_##V(const struct byte_product *layer, const quad *const *at, const int8_t *weights,    \
                                 const float *bias, const float *scales, float *out, const float *add, int outputs) \
    {                                                                                                               \
        byte_tile(P, V, layer, at, weights, bias, scales, out, add, outputs);                                       \
    }
EACH_TILE(BYTE_TILE, byte_tile_of, byte_tiles)

/* unit: pixels */
KERNEL byte_product(const void *self, const struct memory *memory, int from, int to)
{
    const struct byte_product *layer = self;
    const int8_t *weights = (const int8_t *)(memory->weights + layer->weights);
    const int vectors = layer->filled / LANES, depth = layer->segments * layer->length;
    for (int first = 0, count; first < vectors; first += count) {
        count = panel_vectors(vectors - first);
        const float *bias = memory->weights + layer->bias + first * LANES;
        const int tiles = (to - from + tile_pixels[count - 1] - 1) / tile_pixels[count - 1];
        const quad *row = (const quad *)(memory->work + layer->in) + (ptrdiff_t)(from / layer->width) * layer->in_row;
        int x = from % layer->width;
        for (int t = tiles, pixel = from, pixels; t > 0; t--, pixel += pixels) {
            const quad *at[8];
            pixels = (to - pixel) / t;
            for (int p = 0; p < pixels; p++) {
                at[p] = row + (ptrdiff_t)x * layer->in_pixel;
                if (++x == layer->width) x = 0, row += layer->in_row;
            }
            byte_tiles[count - 1][pixels](
                layer, at, weights, bias, memory->work + layer->scales + (ptrdiff_t)pixel * layer->scale_pixel,
                memory->work + layer->out + (ptrdiff_t)pixel * layer->out_pixel + first * LANES,
                layer->add_pixel ? memory->work + layer->add + (ptrdiff_t)pixel * layer->add_pixel + first * LANES : 0,
                layer->outputs - first * LANES);
        }
        weights += (ptrdiff_t)depth * 4 * LANES * count;
    }
}

struct byte_linear {
    int quads, outputs, filled; /* outputs, rounded up to whole panels */
    size_t in, scales, out, weights, bias;
    struct activation activation;
};

/* Several panels of 16 outputs of one pixel at once: processors fetch ahead in each of several streams. */
INLINE void byte_panels(const int panels, const struct byte_linear *layer, const struct memory *memory, int first)
{
    const ptrdiff_t width = 2 * LANES * sizeof(quad), panel = width * layer->quads;
    const int8_t *weights = (const int8_t *)(memory->weights + layer->weights) + panel * first;
    const quad *in = (const quad *)(memory->work + layer->in);
    const float *scale = memory->work + layer->scales, *bias = memory->weights + layer->bias;
    part_bits count[8 * PARTS] = {};
    for (ptrdiff_t k = 0; k < layer->quads; k++, weights += width)
        UNROLL for (int p = 0; p < panels; p++)
            UNROLL for (int v = 0; v < 2 * PARTS; v++) {
                const part_bits w = *(const part_bits *)(weights + panel * p + 4 * PART * v);
                count[2 * PARTS * p + v] = dot(count[2 * PARTS * p + v], in[k], w);
            }
    UNROLL for (int v = 0; v < 2 * panels; v++) {
        const int at = 2 * LANES * first + LANES * v;
        part sum[PARTS];
        UNROLL for (int i = 0; i < PARTS; i++)
            sum[i] = value_of(count[PARTS * v + i], bias + at + PART * i, layer->filled, scale[0], scale[1]);
        if (at < layer->outputs)
            store(memory->work + layer->out + at, activated(joined(sum), &layer->activation), layer->outputs - at);
    }
}

/* unit: panels */
KERNEL byte_linear(const void *layer, const struct memory *memory, int from, int to)
{
    for (; from + 4 <= to; from += 4) byte_panels(4, layer, memory, from);
    if (to - from == 3) byte_panels(3, layer, memory, from);
    if (to - from == 2) byte_panels(2, layer, memory, from);
    if (to - from == 1) byte_panels(1, layer, memory, from);
}
