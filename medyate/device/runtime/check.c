/* Compares one batch with reference.bin: losses, logits and gradients of the exporting library's float64. */
#include "medyate.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static FILE *file;
static double largest;
static int tensors;

static void need(void *data, size_t bytes)
{
    if (fread(data, 1, bytes, file) != bytes) {
        fprintf(stderr, "reference.bin ends too early\n");
        exit(2);
    }
}

static uint32_t need_whole(void)
{
    uint32_t value;
    need(&value, sizeof value);
    return value;
}

/* The next tensor of the reference beside ours: largest difference over largest value. */
static void compare(const float *ours)
{
    char name[48];
    double difference = 0, size = 0;
    need(name, sizeof name);
    uint32_t n = need_whole();
    for (uint32_t i = 0; i < n; i++) {
        float theirs;
        need(&theirs, sizeof theirs);
        difference = fmax(difference, fabs((double)ours[i] - theirs));
        size = fmax(size, fabs((double)theirs));
        if (isnan(ours[i])) difference = INFINITY;
    }
    double relative = size > 0 ? difference / size : difference;
    printf("%-40s %7u values  %.2e\n", name, (unsigned)n, relative);
    largest = fmax(largest, relative);
    tensors++;
}

int main(void)
{
    /* In place the weights themselves move. So far down the gradient that what they were is lost in rounding
     * nowhere but where the gradient is nothing beside the tensor's largest; a power of two rounds nothing. */
    const float far = 1048576.0f;
    static float before[MD_ARENA_FLOATS], classifier[MD_CLASSIFIER_FLOATS];
    static uint16_t chosen[MD_AT_LEAST_ONE(MD_MAX_CHOSEN)];
    static uint8_t image[MD_IMAGE_BYTES];
    md_options options = {0};

    file = fopen("reference.bin", "rb");
    if (!file) {
        fprintf(stderr, "reference.bin is not here\n");
        return 2;
    }
    if (need_whole() != MD_REFERENCE_MAGIC) {
        fprintf(stderr, "reference.bin is of another kind\n");
        return 2;
    }
    uint32_t images = need_whole(), count = need_whole();
    if (count > MD_MAX_CHOSEN) return 2;
    need(chosen, count * sizeof *chosen);
    md_start(&options);
    md_set_chosen(chosen, count);
    memcpy(before, md_arena, md_state.copy_floats * sizeof(float));
    memcpy(classifier, md_state.classifier, sizeof classifier);
    md_state.rate = -far;
    md_begin_batch();
    for (uint32_t i = 0; i < images; i++) {
        uint32_t label = need_whole();
        need(image, sizeof image);
        memcpy(md_image(), image, sizeof image);
        md_forward(1);
        compare(md_logits());
        md_backward(label, 1.0f / (float)images);
    }
    float loss = md_state.loss / (float)images;
    compare(&loss);
#if MD_ACCUMULATE
    const float *gradient = md_arena + md_state.copy_floats;
    memcpy(classifier, md_state.classifier_gradient, sizeof classifier);
#else
    float *gradient = before;
    for (uint32_t i = 0; i < md_state.copy_floats; i++)
        gradient[i] = (float)(((double)md_arena[i] - before[i]) / far);
    for (uint32_t i = 0; i < MD_CLASSIFIER_FLOATS; i++)
        classifier[i] = (float)(((double)md_state.classifier[i] - classifier[i]) / far);
#endif
    compare(classifier);
    for (uint32_t s = 0; s < MD_SEARCHED; s++)
        if (md_state.start[s + 1] > md_state.start[s]) compare(gradient + md_state.copies[s]);
    printf("checked: %d tensors, largest relative difference %.2e\n", tensors, largest);
    return largest < MD_TOLERANCE ? 0 : 1;
}
