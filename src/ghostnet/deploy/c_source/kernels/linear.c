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
    part sum[8 * PARTS];
    UNROLL for (int v = 0; v < 2 * PARTS * panels; v++)
        sum[v] = part_at(memory->weights + layer->bias + at + PART * v);
    for (ptrdiff_t k = 0; k < layer->inputs; k++, next += 2 * LANES) {
        part x = all_part(in[k]);
        UNROLL for (int p = 0; p < panels; p++)
            UNROLL for (int v = 0; v < 2 * PARTS; v++)
                sum[2 * PARTS * p + v] += x * load_part(HALF_WEIGHTS, weights, next + panel * p + PART * v);
    }
    UNROLL for (int v = 0; v < 2 * panels; v++)
        if (at + LANES * v < layer->outputs)
            store(memory->work + layer->out + at + LANES * v, activated(joined(&sum[PARTS * v]), &layer->activation),
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
