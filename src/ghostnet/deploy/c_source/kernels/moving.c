/* ---- moving ---- */

struct images {
    int channels, height, width, top, left, out_width; /* of the images, and where they lie in the map */
    size_t out;
};

/* The images (channels, height, width) as (height, width, channels) in a border of zeros; unit: rows of the map */
KERNEL images(const void *self, const struct memory *memory, int from, int to)
{
    const struct images *layer = self;
    const int channels = layer->channels;
    const ptrdiff_t width = layer->width, plane = width * layer->height;
    for (int y = from; y < to; y++) {
        float *restrict out = memory->work + layer->out + (ptrdiff_t)y * layer->out_width * channels;
        const int at_y = y - layer->top, inside = at_y >= 0 && at_y < layer->height;
        const int left = inside ? layer->left : layer->out_width;
        memset(out, 0, sizeof *out * left * channels);
        if (!inside) continue;
        out += left * channels;
        memset(out + width * channels, 0, sizeof *out * (layer->out_width - left - width) * channels);
        const float *restrict in = memory->images + at_y * width;
        if (channels == 3)
            for (int x = 0; x < width; x++) {
                out[3 * x] = in[x];
                out[3 * x + 1] = in[x + plane];
                out[3 * x + 2] = in[x + 2 * plane];
            }
        else
            for (int c = 0; c < channels; c++)
                for (int x = 0; x < width; x++) out[x * channels + c] = in[c * plane + x];
    }
}

struct border {
    int channels, height, width, top, left, out_width, in_pixel; /* of the map, and where it lies in the larger one */
    float value;
    size_t in, out;
};

/* A map inside a larger one; unit: rows of the larger one */
KERNEL border(const void *self, const struct memory *memory, int from, int to)
{
    const struct border *layer = self;
    const ptrdiff_t channels = layer->channels;
    for (int y = from; y < to; y++) {
        float *out = memory->work + layer->out + (ptrdiff_t)y * layer->out_width * channels;
        const int at_y = y - layer->top, inside = at_y >= 0 && at_y < layer->height;
        const ptrdiff_t left = inside ? layer->left * channels : layer->out_width * channels;
        const ptrdiff_t right = inside ? (layer->left + layer->width) * channels : left;
        for (ptrdiff_t i = 0; i < left; i++) out[i] = layer->value;
        for (ptrdiff_t i = right; i < layer->out_width * channels; i++) out[i] = layer->value;
        if (!inside) continue;
        const float *in = memory->work + layer->in + (ptrdiff_t)at_y * layer->width * layer->in_pixel;
        if (layer->in_pixel == channels)
            memcpy(out + left, in, sizeof *in * (right - left));
        else
            for (int x = 0; x < layer->width; x++)
                memcpy(out + left + x * channels, in + (ptrdiff_t)x * layer->in_pixel, sizeof *in * channels);
    }
}

struct gather {
    int channels, in_pixel, out_pixel;
    size_t in, out;
    const int *index; /* the channel that each channel is; -1: zeros */
};

/* unit: pixels */
KERNEL gather(const void *self, const struct memory *memory, int from, int to)
{
    const struct gather *layer = self;
    for (ptrdiff_t p = from; p < to; p++) {
        const float *in = memory->work + layer->in + p * layer->in_pixel;
        float *out = memory->work + layer->out + p * layer->out_pixel;
        for (int c = 0; c < layer->channels; c++) out[c] = layer->index[c] < 0 ? 0 : in[layer->index[c]];
    }
}

struct sampling {
    int channels, width, out_width, in_pixel, out_pixel;
    size_t in, out;
    const int *rows, *columns; /* which row and column each row and column is */
};

/* unit: rows */
KERNEL sampling(const void *self, const struct memory *memory, int from, int to)
{
    const struct sampling *layer = self;
    for (int y = from; y < to; y++) {
        const float *row = memory->work + layer->in + (ptrdiff_t)layer->rows[y] * layer->width * layer->in_pixel;
        float *out = memory->work + layer->out + (ptrdiff_t)y * layer->out_width * layer->out_pixel;
        for (int x = 0; x < layer->out_width; x++)
            memcpy(out + (ptrdiff_t)x * layer->out_pixel, row + (ptrdiff_t)layer->columns[x] * layer->in_pixel,
                   sizeof *out * layer->channels);
    }
}

struct planes {
    int channels, pixels, in_pixel, to_outputs;
    size_t in, out;
};

/* (pixels, channels) as (channels, pixels), what others call flat; unit: channels */
KERNEL planes(const void *self, const struct memory *memory, int from, int to)
{
    const struct planes *layer = self;
    float *out = (layer->to_outputs ? memory->outputs : memory->work) + layer->out;
    for (int begin = 0, end; begin < layer->pixels; begin = end) { /* some pixels at a time, which the cache holds */
        end = layer->pixels - begin < 64 ? layer->pixels : begin + 64;
        for (int c = from; c < to; c++)
            for (ptrdiff_t p = begin; p < end; p++)
                out[(ptrdiff_t)c * layer->pixels + p] = memory->work[layer->in + p * layer->in_pixel + c];
    }
}
