/* One training step: the walk over the stages, the head, and what becomes of a gradient.
 *
 * Tensors in passing lie at the top of the arena. A stage's output is computed below its input and then
 * moved up over it, so that never more than one stage's input, output and scratch are there. */
#include "medyate.h"
#include <string.h>

/* Sections of their own, which the linker script puts into the board's regions. */
#ifdef __APPLE__
#define IN_SECTION(name) __attribute__((aligned(8)))
#else
#define IN_SECTION(name) __attribute__((aligned(8), section(name)))
#endif
md_state_t md_state IN_SECTION(".md_state");
float md_arena[MD_ARENA_FLOATS] IN_SECTION(".md_arena");
#if MD_SPLIT /* what is in passing has a block of its own */
static float passing[MD_PASSING_FLOATS] IN_SECTION(".md_passing");
static float *const top = passing + MD_PASSING_FLOATS;
#else
static float *const top = md_arena + MD_ARENA_FLOATS;
#endif

/* The planner's sizeof(md_state_t); a mistake does not compile. */
typedef char md_state_is_as_planned[sizeof(md_state_t) == MD_STATE_BYTES ? 1 : -1];

/* The head's vectors lie below the last stage's output. */
static uint32_t last_floats(void) { return (uint32_t)md_stage_out(&md_stages[MD_STAGES - 1]); }
static float *features(void) { return top - last_floats() - MD_FEATURES; }
static float *feature_gradient(void) { return features() - MD_FEATURES; }
static float *logits(void) { return feature_gradient() - MD_CLASSES; }

const float *md_logits(void) { return logits(); }

/* `lowest`: the end of what is in passing. */
static void note_peak(const float *lowest)
{
    uint32_t transient = (uint32_t)(top - lowest), used = md_state.low + transient;
#if MD_SPLIT
    md_assert(md_state.low <= MD_ARENA_FLOATS && transient <= MD_PASSING_FLOATS);
#else
    md_assert(used <= MD_ARENA_FLOATS);
#endif
    if (used > md_state.peak) md_state.peak = used;
}

uint8_t *md_image(void) { return (uint8_t *)(top - md_stage_in(&md_stages[0])); }

static void head_forward(void)
{
    uint32_t plane = last_floats() / MD_FEATURES;
    const float *in = top - last_floats(), *bias = md_state.classifier + MD_FEATURES * MD_CLASSES;
    note_peak(logits());
    for (uint32_t f = 0; f < MD_FEATURES; f++) {
        float sum = 0.0f;
        for (uint32_t x = 0; x < plane; x++) sum += in[f * plane + x];
        features()[f] = sum / (float)plane;
    }
    for (uint32_t k = 0; k < MD_CLASSES; k++)
        logits()[k] = md_inner(md_state.classifier + k * MD_FEATURES, features(), MD_FEATURES) + bias[k];
}

/* The image at md_image() -> logits. `keep`: a backward pass will follow. */
void md_forward(int keep)
{
    md_state.low = (1 + MD_ACCUMULATE) * md_state.copy_floats;
    for (uint32_t i = 0; i < MD_STAGES; i++) {
        const md_stage *stage = &md_stages[i];
        float *in = top - md_stage_in(stage), *out = in - md_stage_out(stage);
        md_stage_forward(stage, i ? in : 0, i ? 0 : (const uint8_t *)in, out, keep);
        note_peak(out - stage->scratch);
        memmove(top - md_stage_out(stage), out, md_stage_out(stage) * sizeof(float));
    }
    head_forward();
}

uint32_t md_best_class(void)
{
    uint32_t best = 0;
    for (uint32_t k = 1; k < MD_CLASSES; k++)
        if (logits()[k] > logits()[best]) best = k;
    return best;
}

/* Logits -> their gradient, in place; adds the cross entropy to md_state.loss. */
static void softmax_back(uint32_t label, float share)
{
    float *z = logits(), largest = z[md_best_class()], own = z[label], sum = 0.0f;
    for (uint32_t k = 0; k < MD_CLASSES; k++) sum += z[k] = md_exp(z[k] - largest);
    md_state.loss += md_log(sum) - (own - largest);
    for (uint32_t k = 0; k < MD_CLASSES; k++) z[k] = (z[k] / sum - (k == label ? 1.0f : 0.0f)) * share;
}

/* The classifier's gradient, and that of its input back through the average to the last stage's output. */
static void head_backward(void)
{
#if MD_ACCUMULATE
    float *sums = md_state.classifier_gradient;
    const float factor = 1.0f;
#else
    float *sums = md_state.classifier; /* in place: a step down the gradient */
    const float factor = -md_state.rate;
#endif
    uint32_t plane = last_floats() / MD_FEATURES;
    float *dz = top - last_floats(), *df = feature_gradient();
    memset(df, 0, MD_FEATURES * sizeof(float));
    for (uint32_t k = 0; k < MD_CLASSES; k++) {
        float dk = logits()[k];
        for (uint32_t f = 0; f < MD_FEATURES; f++) {
            df[f] += md_state.classifier[k * MD_FEATURES + f] * dk;
            sums[k * MD_FEATURES + f] += factor * (dk * features()[f]);
        }
        sums[MD_FEATURES * MD_CLASSES + k] += factor * dk;
    }
    for (uint32_t f = 0; f < MD_FEATURES; f++)
        for (uint32_t x = 0; x < plane; x++) dz[f * plane + x] = df[f] / (float)plane;
}

/* After md_forward(1): gradients of the chosen channels and the classifier, each `share` of the image's. */
void md_backward(uint32_t label, float share)
{
    softmax_back(label, share);
    head_backward();
    for (uint32_t i = MD_STAGES; i-- > 0;) {
        const md_stage *stage = &md_stages[i];
        uint32_t first = (uint32_t)(md_stage_first(stage) - md_layers);
        uint32_t last = (uint32_t)(stage->project >= 0 ? stage->project : stage->expand);
        if (md_state.first > last) break;
        float *dz = top - md_stage_out(stage), *dx = md_state.first < first ? dz - md_stage_in(stage) : 0;
        note_peak((dx ? dx : dz) - stage->scratch);
        md_stage_backward(stage, dz, dx);
        if (dx) memmove(top - md_stage_in(stage), dx, md_stage_in(stage) * sizeof(float));
        md_state.low = md_state.masks[first]; /* what this stage kept is given back */
    }
}

void md_begin_batch(void)
{
    md_state.loss = 0.0f;
#if MD_ACCUMULATE
    memset(md_state.classifier_gradient, 0, sizeof md_state.classifier_gradient);
    memset(md_arena + md_state.copy_floats, 0, md_state.copy_floats * sizeof(float));
#elif MD_NORMS
    for (uint32_t s = 0; md_state.last_step && s < MD_SEARCHED; s++) /* md_give sums squares up */
        for (uint32_t i = md_state.start[s]; i < md_state.start[s + 1]; i++)
            md_state.norms[md_search_start[s] + md_state.chosen[i]] = 0.0f;
#endif
}

/* Takes part of a chosen channel's gradient: `n` of its weights from `offset` on. `rank` is the channel's place
 * among the layer's chosen ones. In place, the norms of an epoch's last image are summed up here. */
void md_give(const md_layer *layer, uint32_t rank, uint32_t offset, const float *gradient, uint32_t n)
{
    float *w = md_arena + md_state.copies[layer->searched] + rank * md_channel_floats(layer) + offset;
#if MD_ACCUMULATE
    w += md_state.copy_floats;
    for (uint32_t i = 0; i < n; i++) w[i] += gradient[i];
#else
    for (uint32_t i = 0; i < n; i++) w[i] -= md_state.rate * gradient[i];
#if MD_NORMS
    if (md_state.last_step) {
        uint32_t channel = md_state.chosen[md_state.start[layer->searched] + rank];
        float *norm = &md_state.norms[md_search_start[layer->searched] + channel];
        for (uint32_t i = 0; i < n; i++) *norm += gradient[i] * gradient[i];
    }
#endif
#endif
}

/* The batch's end: a step down the gradient. In place, there is nothing left to do. */
void md_update(void)
{
#if MD_ACCUMULATE
    float *w = md_arena, *g = md_arena + md_state.copy_floats;
    for (uint32_t i = 0; i < md_state.copy_floats; i++) w[i] -= md_state.rate * g[i];
    for (uint32_t i = 0; i < MD_CLASSIFIER_FLOATS; i++)
        md_state.classifier[i] -= md_state.rate * md_state.classifier_gradient[i];
#endif
}
