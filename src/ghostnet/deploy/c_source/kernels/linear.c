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
    const float *weights = memory->weights + layer->weights, *in = memory->work + layer->in;
    size_t next = panel * first;
    const int at = 2 * LANES * first;
    vector sum[8];
    UNROLL for (int v = 0; v < 2 * panels; v++) sum[v] = load(memory->weights + layer->bias + at + LANES * v);
    for (ptrdiff_t k = 0; k < layer->inputs; k++, next += 2 * LANES) {
        vector x = all(in[k]);
        UNROLL for (int p = 0; p < panels; p++) {
            sum[2 * p] += x * load_weights(HALF_WEIGHTS, weights, next + panel * p);
            sum[2 * p + 1] += x * load_weights(HALF_WEIGHTS, weights, next + panel * p + LANES);
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
