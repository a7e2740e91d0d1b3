/* Runs a network that ghostnet wrote as C: WEIGHTS.bin and the floats of one image in, the floats of its outputs out. */

#include <stdio.h>
#include <stdlib.h>

extern const size_t network_weights, network_work, network_images, network_outputs;
void network_run(const float *weights, float *work, const float *images, float *outputs);

static float *floats(size_t count, const char *path)
{
    float *found = malloc(4 * count);
    if (path && fread(found, 4, count, fopen(path, "rb")) != count) exit(1);
    return found;
}

int main(int count, char **paths)
{
    float *outputs = floats(network_outputs, 0);
    network_run(floats(network_weights, paths[1]), floats(network_work, 0), floats(network_images, paths[2]), outputs);
    return fwrite(outputs, 4, network_outputs, stdout) != network_outputs || count != 3;
}
