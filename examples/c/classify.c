/* A network that `ghostnet export NETWORK -o net.c --target c` wrote, in a program of its own.
 *
 *     cc -O3 -march=native classify.c net.c -lm -o classify
 *     ./classify net.bin picture.ppm
 *
 * prints the five largest outputs and the time. The picture is a binary PPM of exactly the network's size (ImageMagick:
 * convert picture.jpg -resize 224x224! picture.ppm). net.c.json says how the network wants its images: its "mean" and
 * "std" are MEAN and STD here; those below are ImageNet's.
 */

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#ifndef MEAN
#define MEAN 0.485f, 0.456f, 0.406f
#define STD 0.229f, 0.224f, 0.225f
#endif

extern const size_t network_weights, network_work, network_images, network_outputs;
void network_run(const float *weights, float *work, const float *images, float *outputs);

static void *stop(const char *why, const char *what)
{
    fprintf(stderr, "%s%s\n", why, what);
    exit(2);
}

/* Memory that begins at a line of the cache. */
static float *floats(size_t count)
{
    float *found = aligned_alloc(64, (4 * count + 63) / 64 * 64);
    return found ? found : stop("not enough memory", "");
}

static float *read_weights(const char *path)
{
    float *weights = floats(network_weights);
    FILE *file = fopen(path, "rb");
    if (!file || fread(weights, 4, network_weights, file) != network_weights) stop("no weights of this network: ", path);
    fclose(file);
    return weights;
}

/* Red, green and blue bytes of a pixel, normalised, each colour in a plane of its own. */
static float *read_picture(const char *path)
{
    static const float mean[3] = {MEAN}, std[3] = {STD};
    size_t width, height;
    FILE *file = fopen(path, "rb");
    if (!file || fscanf(file, "P6 %zu %zu 255", &width, &height) != 2) stop("no binary PPM of bytes: ", path);
    if (3 * width * height != network_images) stop("not of the network's size: ", path);
    fgetc(file); /* the one space behind the head */
    float *picture = floats(network_images);
    for (size_t pixel = 0; pixel < width * height; pixel++)
        for (int colour = 0; colour < 3; colour++) {
            const int byte = fgetc(file);
            if (byte == EOF) stop("truncated: ", path);
            picture[colour * width * height + pixel] = (byte / 255.f - mean[colour]) / std[colour];
        }
    fclose(file);
    return picture;
}

int main(int count, char **paths)
{
    if (count != 3) stop("usage: classify net.bin picture.ppm", "");
    float *weights = read_weights(paths[1]), *picture = read_picture(paths[2]);
    float *work = floats(network_work), *outputs = floats(network_outputs);
    network_run(weights, work, picture, outputs); /* once for the caches */
    struct timespec begin, end;
    timespec_get(&begin, TIME_UTC);
    network_run(weights, work, picture, outputs);
    timespec_get(&end, TIME_UTC);
    for (size_t place = 0; place < 5 && place < network_outputs; place++) {
        size_t best = 0;
        for (size_t i = 1; i < network_outputs; i++)
            if (outputs[i] > outputs[best]) best = i;
        printf("%zu %.3f\n", best, outputs[best]);
        outputs[best] = -1e30f;
    }
    fprintf(stderr, "%.2f ms\n", (end.tv_sec - begin.tv_sec) * 1e3 + (end.tv_nsec - begin.tv_nsec) / 1e6);
    return 0;
}
