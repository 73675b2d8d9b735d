/* Which channels: the generator, the draw without replacement under a hard budget, and the norms N.
 * sampler.py is the same in Python, draw for draw. */
#include "medyate.h"
#include <string.h>

/* PCG32 (O'Neill, 2014): 64 bits of state, 32 bits a draw. */
uint32_t md_random(void)
{
    uint64_t old = md_state.random;
    md_state.random = old * 6364136223846793005ULL + 1442695040888963407ULL;
    uint32_t shifted = (uint32_t)(((old >> 18) ^ old) >> 27), turn = (uint32_t)(old >> 59);
    return (shifted >> turn) | (shifted << ((32u - turn) & 31u));
}

/* Within (0, 1], a multiple of 2^-24, which a float holds exactly. */
float md_random_unit(void) { return (float)((md_random() >> 8) + 1) * (1.0f / 16777216.0f); }

uint32_t md_channel_floats(const md_layer *l)
{
    return (uint32_t)l->kernel * l->kernel * (l->depthwise ? 1u : l->outputs);
}

/* A channel's cost in elements: its kept input and, by eq. 4, its gradient. In budget mode `device` the
 * weights count as often as the RAM holds them: the copy and, accumulating, its gradient. */
uint32_t md_channel_cost(const md_layer *l)
{
    return (uint32_t)l->height * l->width + MD_WEIGHT_COUNT * md_channel_floats(l);
}

static int earlier(const float *keys, uint16_t a, uint16_t b)
{
    return keys[a] < keys[b] || (keys[a] == keys[b] && a < b);
}

static void sift(const float *keys, uint16_t *heap, uint32_t n, uint32_t at)
{
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= n) return;
        if (child + 1 < n && earlier(keys, heap[child + 1], heap[child])) child++;
        if (!earlier(keys, heap[child], heap[at])) return;
        uint16_t swapped = heap[at];
        heap[at] = heap[child];
        heap[child] = swapped;
        at = child;
    }
}

/* Draws channels one after another in proportion to `weights` (null: alike), passing over what no longer fits;
 * the sum of their costs never exceeds `budget`. Returns how many; `order` holds them, in ascending order.
 *
 * Exponential clocks of rate w ring in the order of such draws (Efraimidis and Spirakis, 2006). Weights of 0
 * come last, in random order. `keys` and `order` are working memory of n. */
uint32_t
md_sample(const float *weights, const uint32_t *costs, uint32_t n, uint32_t budget, float *keys, uint16_t *order)
{
    uint32_t used = 0, cheapest = UINT32_MAX, left = n, count = 0;
    float largest = 0.0f;
    for (uint32_t i = 0; weights && i < n; i++)
        if (weights[i] > largest) largest = weights[i];
    for (uint32_t i = 0; i < n; i++) {
        float unit = md_random_unit(), clock = -md_log(unit);
        if (weights && largest > 0.0f) {
            if (weights[i] > 0.0f) {
                float share = weights[i] / largest;
                clock /= share > 1e-30f ? share : 1e-30f;
            } else {
                clock = 2e37f + unit * 1e37f;
            }
        }
        keys[i] = clock;
        order[i] = (uint16_t)i;
        if (costs[i] < cheapest) cheapest = costs[i];
    }
    for (uint32_t i = n / 2; i-- > 0;) sift(keys, order, n, i);
    while (left > 0 && used + cheapest <= budget) {
        uint16_t next = order[0];
        order[0] = order[--left];
        sift(keys, order, left, 0);
        if (used + costs[next] <= budget) {
            used += costs[next];
            keys[next] = -1.0f; /* taken */
        }
    }
    for (uint32_t i = 0; i < n; i++)
        if (keys[i] < 0.0f) order[count++] = (uint16_t)i;
    return count;
}

/* Whether a channel is chosen, and its place among the layer's chosen ones. */
int md_is_chosen(const md_layer *l, uint32_t channel, uint32_t *rank)
{
    if (l->searched == MD_FROZEN) return 0;
    uint32_t begin = md_state.start[l->searched], low = begin, high = md_state.start[l->searched + 1];
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (md_state.chosen[middle] < channel)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == md_state.start[l->searched + 1] || md_state.chosen[low] != channel) return 0;
    *rank = low - begin;
    return 1;
}

/* A channel's weights where they are kept between epochs. */
static const float *at_rest(const md_layer *l, uint32_t channel)
{
    uint16_t unit = l->searched == MD_FROZEN ? 0 : md_state.stored[md_search_start[l->searched] + channel];
    return unit ? md_store_at(unit) : md_weights + l->weight + channel * md_channel_floats(l);
}

const float *md_channel_weights(const md_layer *l, uint32_t channel)
{
    uint32_t rank;
    if (md_is_chosen(l, channel, &rank))
        return md_arena + md_state.copies[l->searched] + rank * md_channel_floats(l);
    return at_rest(l, channel);
}

/* Makes these channels the chosen ones and fetches their weights. `channels` may lie in the arena. */
void md_set_chosen(const uint16_t *channels, uint32_t n)
{
    uint32_t at = 0, copies = 0;
    md_assert(n <= MD_MAX_CHOSEN);
    md_state.first = MD_LAYERS;
    for (uint32_t s = 0; s < MD_SEARCHED; s++) {
        const md_layer *l = &md_layers[md_searched[s]];
        md_state.start[s] = (uint16_t)at;
        md_state.copies[s] = copies;
        for (; at < n && channels[at] < md_search_start[s + 1]; at++)
            md_state.chosen[at] = (uint16_t)(channels[at] - md_search_start[s]);
        md_state.start[s + 1] = (uint16_t)at;
        copies += (at - md_state.start[s]) * md_channel_floats(l);
        if (at > md_state.start[s] && md_state.first == MD_LAYERS) md_state.first = md_searched[s];
    }
    md_state.copy_floats = copies;
    for (uint32_t s = 0; s < MD_SEARCHED; s++) {
        const md_layer *l = &md_layers[md_searched[s]];
        float *copy = md_arena + md_state.copies[s];
        for (uint32_t i = md_state.start[s]; i < md_state.start[s + 1]; i++, copy += md_channel_floats(l))
            memcpy(copy, at_rest(l, md_state.chosen[i]), md_channel_floats(l) * sizeof(float));
    }
}

/* The epoch's channels. Between epochs the copies are in the store: the arena is free to draw in. */
void md_choose(void)
{
#if MD_STRATEGY == MD_FIXED
    md_set_chosen(md_fixed, MD_MAX_CHOSEN);
#else
    float *keys = md_arena;
    uint32_t *costs = (uint32_t *)(keys + MD_CHANNELS);
    uint16_t *order = (uint16_t *)(costs + MD_CHANNELS);
    const float *weights = 0;
#if MD_STRATEGY == MD_MEDYATE
    if (md_state.epoch > 0) weights = md_state.norms;
#endif
    for (uint32_t s = 0; s < MD_SEARCHED; s++)
        for (uint32_t i = md_search_start[s]; i < md_search_start[s + 1]; i++)
            costs[i] = md_channel_cost(&md_layers[md_searched[s]]);
    md_set_chosen(order, md_sample(weights, costs, MD_CHANNELS, MD_BUDGET, keys, order));
#endif
}

/* At an epoch's end, lines 6 to 10 of Algorithm 1: the norms of the chosen channels' last gradients; after the
 * first epoch every channel that was not chosen gets the largest of them. */
void md_norms_seen(void)
{
#if MD_NORMS
    float largest = 0.0f;
    for (uint32_t s = 0; s < MD_SEARCHED; s++) {
        uint32_t begin = md_state.start[s], n = md_channel_floats(&md_layers[md_searched[s]]);
        for (uint32_t i = begin; i < md_state.start[s + 1]; i++) {
            float *norm = &md_state.norms[md_search_start[s] + md_state.chosen[i]];
#if MD_ACCUMULATE
            const float *g = md_arena + md_state.copy_floats + md_state.copies[s] + (i - begin) * n;
            *norm = md_inner(g, g, n);
#else
            (void)n; /* md_give has summed the squares */
#endif
            *norm = md_sqrt(*norm);
            if (*norm > largest) largest = *norm;
        }
    }
    if (md_state.epoch > 0) return;
    for (uint32_t s = 0; s < MD_SEARCHED; s++)
        for (uint32_t i = md_search_start[s], channel = 0, rank; i < md_search_start[s + 1]; i++, channel++)
            if (!md_is_chosen(&md_layers[md_searched[s]], channel, &rank)) md_state.norms[i] = largest;
#endif
}
