/* ---- blocks of pixels ---- */

struct interleaving {
    int channels, block_height, block_width, width, out_width, in_pixel, out_pixel;
    size_t in, out;
};

/* unit: rows of the result */
KERNEL interleaving(const void *self, const struct memory *memory, int from, int to)
{
    const struct interleaving *layer = self;
    const int channels = layer->channels;
    for (int y = from; y < to; y++) {
        const int above = y / layer->block_height, within = y % layer->block_height;
        const float *in = memory->work + layer->in + (ptrdiff_t)above * layer->width * layer->in_pixel +
                          within * layer->block_width * channels;
        float *out = memory->work + layer->out + (ptrdiff_t)y * layer->out_width * layer->out_pixel;
        for (int x = 0; x < layer->out_width; in += layer->in_pixel)
            for (int column = 0; column < layer->block_width && x < layer->out_width; column++, x++)
                memcpy(out + (ptrdiff_t)x * layer->out_pixel, in + column * channels, sizeof *out * channels);
    }
}
