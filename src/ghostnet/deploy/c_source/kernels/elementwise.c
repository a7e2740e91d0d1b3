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
