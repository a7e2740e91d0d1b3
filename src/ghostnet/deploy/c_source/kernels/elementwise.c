/* ---- element by element ---- */

struct elementwise {
    int kind, channels;
    int a_pixel, b_pixel, out_pixel; /* 0: the same for every pixel */
    int b_spread; /* one value for all channels */
    int b_is_weight, shift; /* where the shifts lie behind the scales */
    size_t a, b, out;
    const int *index; /* which channel of a each channel takes; none: as they lie */
    struct activation activation;
};

/* Pixels [from, to) of eight channels, or of the last few. */
INLINE void combine_channels(const int kind, const int indexed, const int whole, const struct activation how,
                             const struct elementwise *layer, const struct memory *memory, int c, int from, int to)
{
    const int count = whole ? LANES : layer->channels - c;
    const float *a = memory->work + layer->a + (indexed ? 0 : c);
    const float *b = (layer->b_is_weight ? memory->weights : memory->work) + layer->b + (layer->b_spread ? 0 : c);
    float *out = memory->work + layer->out + c;
    const ptrdiff_t a_pixel = layer->a_pixel, b_pixel = layer->b_pixel, out_pixel = layer->out_pixel;
    const int b_spread = layer->b_spread;
    const vector shift = kind == SCALE_AND_SHIFT ? load(b + layer->shift) : all(0);
    ptrdiff_t index[LANES];
    if (indexed)
        UNROLL for (int lane = 0; lane < LANES; lane++) index[lane] = layer->index[c + lane];
    for (ptrdiff_t p = from; p < to; p++) {
        const float *at = a + p * a_pixel, *b_at = b + p * b_pixel;
        const vector x = indexed ? (vector){at[index[0]], at[index[1]], at[index[2]], at[index[3]],
                                            at[index[4]], at[index[5]], at[index[6]], at[index[7]]} : load(at);
        const vector y = kind == FIRST ? x : b_spread ? all(*b_at) : load(b_at);
        vector found = combined(kind, x, y);
        if (kind == SCALE_AND_SHIFT) found = x * y + shift;
        store(out + p * out_pixel, activated(found, &how), count);
    }
}

/* Some pixels at a time, whose values stay in the nearest cache while their channels are gone through. */
INLINE void combine_pixels(const int kind, const int indexed, const struct activation how,
                           const struct elementwise *layer, const struct memory *memory, int from, int to)
{
    const int some = 2048 / layer->channels + 4;
    for (int end; from < to; from = end) {
        int c = 0;
        end = to - from < some ? to : from + some;
        for (; c + LANES <= layer->channels; c += LANES)
            combine_channels(kind, indexed, 1, how, layer, memory, c, from, end);
        if (c < layer->channels) combine_channels(kind, indexed, 0, how, layer, memory, c, from, end);
    }
}

/* unit: pixels */
KERNEL elementwise(const void *self, const struct memory *memory, int from, int to)
{
    const struct elementwise *layer = self;
    const struct activation none = {NONE, 0, 0}, relu = {RELU, 0, 0};
    const int kind = layer->kind, plain = layer->activation.kind == NONE, rectified = layer->activation.kind == RELU;
    if (layer->index && kind == ADD && rectified) combine_pixels(ADD, 1, relu, layer, memory, from, to);
    else if (layer->index) combine_pixels(kind, 1, layer->activation, layer, memory, from, to);
    else if (kind == ADD && plain) combine_pixels(ADD, 0, none, layer, memory, from, to);
    else if (kind == ADD && rectified) combine_pixels(ADD, 0, relu, layer, memory, from, to);
    else if (kind == MULTIPLY && plain) combine_pixels(MULTIPLY, 0, none, layer, memory, from, to);
    else if (kind == SCALE_AND_SHIFT && plain) combine_pixels(SCALE_AND_SHIFT, 0, none, layer, memory, from, to);
    else if (kind == SCALE_AND_SHIFT && rectified) combine_pixels(SCALE_AND_SHIFT, 0, relu, layer, memory, from, to);
    else combine_pixels(kind, 0, layer->activation, layer, memory, from, to);
}
