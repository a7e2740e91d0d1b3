/* ---- between pixels ---- */

struct interpolation {
    int channels, width, out_height, out_width, in_pixel, out_pixel;
    size_t in, out, shares; /* of the row behind, for each row; then of the column behind, for each column */
    const int *rows, *columns; /* the one before and the one behind, for each */
};

/* unit: rows */
KERNEL interpolation(const void *self, const struct memory *memory, int from, int to)
{
    const struct interpolation *layer = self;
    const float *shares = memory->weights + layer->shares;
    const ptrdiff_t row = (ptrdiff_t)layer->width * layer->in_pixel;
    for (int y = from; y < to; y++) {
        const float *before = memory->work + layer->in + layer->rows[2 * y] * row;
        const float *behind = memory->work + layer->in + layer->rows[2 * y + 1] * row;
        float *out = memory->work + layer->out + (ptrdiff_t)y * layer->out_width * layer->out_pixel;
        const vector below = all(shares[y]), above = all(1 - shares[y]);
        for (int x = 0; x < layer->out_width; x++, out += layer->out_pixel) {
            const ptrdiff_t first = (ptrdiff_t)layer->columns[2 * x] * layer->in_pixel;
            const ptrdiff_t second = (ptrdiff_t)layer->columns[2 * x + 1] * layer->in_pixel;
            const float share = shares[layer->out_height + x];
            const vector right = all(share), left = all(1 - share);
            for (int c = 0; c < layer->channels; c += LANES)
                store(out + c,
                      above * (left * load(before + first + c) + right * load(before + second + c)) +
                          below * (left * load(behind + first + c) + right * load(behind + second + c)),
                      layer->channels - c);
        }
    }
}
