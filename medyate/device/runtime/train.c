/* Algorithm 1: epochs of choosing, training and testing; the same program natively and on a device. */
#include "medyate.h"
#include <string.h>

/* --- text, without the C library's printf, which needs a heap */

typedef struct {
    char text[160];
    uint32_t length;
} line_t;

static void say(line_t *line, const char *text)
{
    while (*text && line->length + 1 < sizeof line->text) line->text[line->length++] = *text++;
    line->text[line->length] = 0;
}

static void say_whole(line_t *line, uint32_t value, uint32_t base, uint32_t digits)
{
    char text[12];
    uint32_t at = sizeof text - 1;
    text[at] = 0;
    do {
        text[--at] = "0123456789abcdef"[value % base];
        value /= base;
    } while (value || sizeof text - 1 - at < digits);
    say(line, text + at);
}

static void say_number(line_t *line, float value, uint32_t decimals)
{
    uint32_t factor = 1;
    for (uint32_t i = 0; i < decimals; i++) factor *= 10;
    if (!(value >= 0.0f && value < 4.0e9f / (float)factor)) {
        say(line, value < 0.0f ? "negative" : "too large");
        return;
    }
    uint32_t scaled = (uint32_t)(value * (float)factor + 0.5f);
    say_whole(line, scaled / factor, 10, 1);
    say(line, ".");
    say_whole(line, scaled % factor, 10, decimals);
}

/* --- the loop */

/* Linear warm-up from 0, then a cosine to 0, step by step; `step` counts from 0 (Sec. 4.1). */
float md_rate(uint32_t step, uint32_t steps, const md_options *options)
{
    uint32_t warmup = options->warmup * steps;
    if (step < warmup) return options->rate * ((float)step / (float)warmup);
    float share = (float)(step - warmup) / (float)((options->epochs - options->warmup) * steps);
    return options->rate * (0.5f * (1.0f + md_cos(3.14159265f * share)));
}

/* The state of a training that has not begun. */
void md_start(const md_options *options)
{
    memset(&md_state, 0, sizeof md_state);
    md_state.random = options->seed;
    md_random();
    md_state.first = MD_LAYERS;
    memcpy(md_state.classifier, md_weights + MD_CLASSIFIER, sizeof md_state.classifier);
}

static uint32_t divisor(uint32_t a, uint32_t b)
{
    while (b) {
        uint32_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* The index of image i of `count` that are used, evenly spread over all that are there: files go class by class. */
static uint32_t spread(int test, uint32_t i, uint32_t count)
{
    uint32_t all = port_images(test);
    return i * (all / count) + i * (all % count) / count; /* no product beyond 32 bits, no division of 64 */
}

/* One epoch over `count` images; returns how many were right. Their order, a step without common divisor around
 * the ring of all images, needs no memory. */
static uint32_t train_epoch(const md_options *options, uint32_t count, float *loss)
{
    uint32_t batch = MD_ACCUMULATE ? options->batch : 1, steps = (count + batch - 1) / batch, right = 0;
    uint32_t stride = 1 + md_random() % count, image = md_random() % count;
    while (divisor(stride, count) != 1) stride++;
    *loss = 0.0f;
    for (uint32_t step = 0, done = 0; step < steps; step++) {
        uint32_t size = count - done < batch ? count - done : batch;
        md_state.rate = md_rate(md_state.epoch * steps + step, steps, options);
        md_state.last_step = step + 1 == steps;
        md_begin_batch();
        for (uint32_t i = 0; i < size; i++) {
            uint32_t label = port_image(0, spread(0, image, count), md_image());
            image = (image + stride) % count;
            md_forward(1);
            right += md_best_class() == label;
            md_backward(label, 1.0f / (float)size);
        }
        md_update();
        *loss += md_state.loss;
        done += size;
    }
    md_state.last_step = 0;
    *loss /= (float)count;
    return right;
}

static uint32_t right_of_test(uint32_t count)
{
    uint32_t right = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t label = port_image(1, spread(1, i, count), md_image());
        md_forward(0);
        right += md_best_class() == label;
    }
    return right;
}

static uint32_t budget_used(void)
{
    uint32_t used = 0;
    for (uint32_t s = 0; s < MD_SEARCHED; s++)
        used += (uint32_t)(md_state.start[s + 1] - md_state.start[s]) * md_channel_cost(&md_layers[md_searched[s]]);
    return used;
}

static void report(const md_options *options, float loss, uint32_t right, uint32_t train, uint32_t test)
{
    line_t line = {"", 0};
    say(&line, "epoch ");
    say_whole(&line, md_state.epoch, 10, 1);
    say(&line, "/");
    say_whole(&line, options->epochs, 10, 1);
    say(&line, ": ");
    say_whole(&line, md_state.start[MD_SEARCHED], 10, 1);
    say(&line, " channels, ");
    say_whole(&line, budget_used(), 10, 1);
    say(&line, " elements; loss ");
    say_number(&line, loss, 4);
    say(&line, "; train ");
    say_number(&line, 100.0f * (float)right / (float)train, 2);
    say(&line, " %");
    if (test) {
        say(&line, "; test ");
        say_number(&line, 100.0f * (float)right_of_test(test) / (float)test, 2);
        say(&line, " %");
    }
    say(&line, "\n");
    port_print(line.text);
}

void md_train(const md_options *options)
{
    uint32_t train = port_images(0), test = port_images(1);
    float loss;
    if (options->train_images && options->train_images < train) train = options->train_images;
    if (options->test_images < test) test = options->test_images;
    md_start(options);
    if (options->resume && md_store_open()) port_print("going on from the last complete epoch in the store\n");
    while (md_state.epoch < options->epochs) {
        md_choose();
        uint32_t right = train_epoch(options, train, &loss);
        if (!(loss < 1e30f)) {
            port_print("the training diverged: the loss is not finite; a smaller rate may help\n");
            return;
        }
        md_norms_seen();
        md_state.epoch++;
        md_store_write();
        report(options, loss, right, train, test);
    }
}

/* --- options: NAME=VALUE, separated by spaces */

static const char *value_of(const char *arguments, const char *name)
{
    size_t length = strlen(name);
    while (arguments && *arguments) {
        if (!strncmp(arguments, name, length) && arguments[length] == '=') return arguments + length + 1;
        while (*arguments && *arguments != ' ') arguments++;
        while (*arguments == ' ') arguments++;
    }
    return 0;
}

static float number_of(const char *arguments, const char *name, float otherwise)
{
    const char *text = value_of(arguments, name);
    float value = 0.0f, unit = 1.0f;
    if (!text) return otherwise;
    for (; *text >= '0' && *text <= '9'; text++) value = value * 10.0f + (float)(*text - '0');
    if (*text == '.')
        for (text++; *text >= '0' && *text <= '9'; text++) {
            value = value * 10.0f + (float)(*text - '0');
            unit *= 10.0f;
        }
    return value / unit;
}

static uint32_t whole_of(const char *arguments, const char *name, uint32_t otherwise)
{
    return (uint32_t)number_of(arguments, name, (float)otherwise);
}

int md_main(const char *arguments)
{
    md_options options = {
        .epochs = whole_of(arguments, "epochs", MD_EPOCHS),
        .warmup = whole_of(arguments, "warmup", MD_WARMUP),
        .batch = whole_of(arguments, "batch", MD_BATCH),
        .seed = whole_of(arguments, "seed", 0),
        .train_images = whole_of(arguments, "train", 0),
        .test_images = whole_of(arguments, "test", 0xFFFFFF),
        .rate = number_of(arguments, "rate", MD_RATE),
        .resume = whole_of(arguments, "resume", 0),
    };
    line_t line = {"checksum ", 9};
    if (options.epochs <= options.warmup || options.batch < 1 || port_images(0) < 1) {
        port_print("nothing to train: epochs must exceed warmup, batch be at least 1, and images be there\n");
        return 2;
    }
    md_train(&options);
    say_whole(&line, md_checksum(), 16, 8);
    say(&line, "; most arena in use ");
    say_whole(&line, md_state.peak * 4, 10, 1);
    say(&line, " of ");
    say_whole(&line, MD_ARENA_FLOATS * 4, 10, 1);
    say(&line, " bytes\n");
    port_print(line.text);
    return 0;
}
