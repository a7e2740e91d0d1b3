/* ---- softmax ---- */

struct softmax {
    int channels, in_pixel, out_pixel, is_log;
    size_t in, out;
};

/* Eight channels, or the last few and what an exponential makes 0. */
INLINE vector logits_at(const float *from, int count)
{
    vector x = load(from);
    for (int lane = count; lane < LANES; lane++) x[lane] = -INFINITY;
    return x;
}

/* unit: pixels */
KERNEL softmax(const void *self, const struct memory *memory, int from, int to)
{
    const struct softmax *layer = self;
    const int channels = layer->channels;
    for (ptrdiff_t p = from; p < to; p++) {
        const float *in = memory->work + layer->in + p * layer->in_pixel;
        float *out = memory->work + layer->out + p * layer->out_pixel;
        vector most = all(-INFINITY), sums = all(0);
        for (int c = 0; c < channels; c += LANES) most = largest(most, logits_at(in + c, channels - c));
        float top = most[0], sum = 0;
        for (int lane = 1; lane < LANES; lane++) top = most[lane] > top ? most[lane] : top;
        for (int c = 0; c < channels; c += LANES) {
            const vector found = exponential(logits_at(in + c, channels - c) - all(top));
            sums += found;
            if (!layer->is_log) store(out + c, found, channels - c);
        }
        for (int lane = 0; lane < LANES; lane++) sum += sums[lane];
        const vector scale = all(layer->is_log ? top + logf(sum) : 1 / sum);
        for (int c = 0; c < channels; c += LANES)
            store(out + c, layer->is_log ? load(in + c) - scale : load(out + c) * scale, channels - c);
    }
}
