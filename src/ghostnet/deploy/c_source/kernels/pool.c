/* ---- pooling ---- */

struct pool {
    int is_max, count_outside; /* whether an average counts the taps outside the map */
    int kernel_height, kernel_width, stride_y, stride_x, top, left, bottom, right;
    int height, width, out_width, channels, in_pixel, out_pixel;
    size_t in, out;
};

/* unit: rows */
KERNEL pool(const void *self, const struct memory *memory, int from, int to)
{
    const struct pool *layer = self;
    for (int y = from; y < to; y++)
        for (int x = 0; x < layer->out_width; x++) {
            int top = y * layer->stride_y - layer->top, left = x * layer->stride_x - layer->left;
            int bottom = top + layer->kernel_height, right = left + layer->kernel_width;
            /* what a window counts ends where the padding does */
            const int low = layer->height + layer->bottom, far = layer->width + layer->right;
            int counted = ((bottom < low ? bottom : low) - top) * ((right < far ? right : far) - left);
            if (top < 0) top = 0;
            if (left < 0) left = 0;
            if (bottom > layer->height) bottom = layer->height;
            if (right > layer->width) right = layer->width;
            if (!layer->count_outside) counted = (bottom - top) * (right - left);
            for (int c = 0; c < layer->channels; c += LANES) {
                const float *in = memory->work + layer->in + c;
                vector result = all(layer->is_max ? -INFINITY : 0), second = result;
                for (int at_y = top; at_y < bottom; at_y++) {
                    const float *at = in + ((ptrdiff_t)at_y * layer->width + left) * layer->in_pixel;
                    int at_x = left;
                    if (layer->is_max)
                        for (; at_x < right; at_x++, at += layer->in_pixel)
                            result = combined(MAXIMUM, result, load(at));
                    else {
                        for (; at_x + 1 < right; at_x += 2, at += 2 * layer->in_pixel)
                            result += load(at), second += load(at + layer->in_pixel);
                        if (at_x < right) result += load(at);
                    }
                }
                if (!layer->is_max) result = (result + second) * all(1.f / counted);
                store(memory->work + layer->out + ((ptrdiff_t)y * layer->out_width + x) * layer->out_pixel + c, result,
                      layer->channels - c);
            }
        }
}
