/* Trained weights through epochs and power cuts: an append-only log in flash.
 *
 * Two banks of units of MD_UNIT bytes. A unit is written whole, once, after its bank was erased: the rule of
 * NOR flash with error correction. A bank holds a header (unit 0) and records, one an epoch:
 *
 *     record header | channel numbers, generator, norms, classifier | weights of each channel | commit
 *
 * A record counts once its commit is there and its checksum is right. Where a bank is full, or its tail was
 * torn by a power cut, a record of *all* channels that were ever trained goes to the other bank, whose header
 * is written last. Whenever the power goes, the last complete epoch is still there. */
#include "medyate.h"
#include <stddef.h>
#include <string.h>

enum { BANK = 0x4D444231, RECORD = 0x4D445231, COMMIT = 0x4D444331 };

typedef struct {
    uint32_t magic, number, count, units; /* number: a bank's sequence, a record's epoch */
    uint32_t checksum;                    /* of what stands before it; a commit's: of the record's payload */
} mark_t;

typedef struct {
    uint32_t at; /* next unit */
    uint32_t bank, filled, crc;
    uint8_t unit[MD_UNIT];
} writer_t;

uint32_t md_crc(uint32_t crc, const void *data, uint32_t bytes)
{
    const uint8_t *p = data;
    crc = ~crc;
    while (bytes--) {
        crc ^= *p++;
        for (int bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ (0xEDB88320u & (0u - (crc & 1u)));
    }
    return ~crc;
}

static uint32_t units_of(uint32_t bytes) { return (bytes + MD_UNIT - 1) / MD_UNIT; }

static const uint8_t *unit_at(uint32_t bank, uint32_t unit)
{
    return port_store + bank * MD_BANK_BYTES + unit * MD_UNIT;
}

const float *md_store_at(uint32_t unit)
{
    return (const float *)(const void *)unit_at(md_state.store_sequence & 1, unit);
}

static int read_mark(uint32_t bank, uint32_t unit, uint32_t magic, mark_t *mark)
{
    memcpy(mark, unit_at(bank, unit), sizeof *mark);
    return mark->magic == magic &&
           (magic == COMMIT || mark->checksum == md_crc(0, mark, offsetof(mark_t, checksum)));
}

static int is_blank(uint32_t bank, uint32_t unit)
{
    for (uint32_t i = 0; i < MD_UNIT; i++)
        if (unit_at(bank, unit)[i] != 0xFF) return 0;
    return 1;
}

/* --- writing */

static void flush(writer_t *w)
{
    if (!w->filled) return;
    memset(w->unit + w->filled, 0, MD_UNIT - w->filled);
    port_program(w->bank * MD_BANK_BYTES + w->at * MD_UNIT, w->unit, MD_UNIT);
    w->at++;
    w->filled = 0;
}

static void put(writer_t *w, const void *data, uint32_t bytes)
{
    const uint8_t *p = data;
    w->crc = md_crc(w->crc, data, bytes);
    while (bytes--) {
        w->unit[w->filled++] = *p++;
        if (w->filled == MD_UNIT) flush(w);
    }
}

static void put_mark(writer_t *w, uint32_t magic, uint32_t number, uint32_t count, uint32_t units)
{
    mark_t mark = {magic, number, count, units, 0};
    mark.checksum = magic == COMMIT ? w->crc : md_crc(0, &mark, offsetof(mark_t, checksum));
    put(w, &mark, sizeof mark);
    flush(w);
    if (magic == RECORD) w->crc = 0;
}

/* Bytes between a record's header and its weights. */
static uint32_t front_bytes(uint32_t count)
{
    return ((count * 2 + 3) & ~3u) + (uint32_t)(sizeof md_state.random + sizeof md_state.classifier) +
           MD_NORMS * sizeof(float);
}

/* Calls for every channel that goes into a record: chosen ones, or `all` that were ever trained. With a writer,
 * pass 0 writes numbers, pass 1 weights. Returns how many; *units is what their weights take. */
static uint32_t walk(int all, writer_t *w, int pass, uint32_t *units)
{
    uint32_t count = 0;
    for (uint32_t s = 0; s < MD_SEARCHED; s++) {
        const md_layer *l = &md_layers[md_searched[s]];
        for (uint32_t channel = 0; channel < l->channels; channel++) {
            uint32_t rank, bytes = md_channel_floats(l) * sizeof(float);
            uint16_t number = (uint16_t)(md_search_start[s] + channel);
            if (!md_is_chosen(l, channel, &rank) && !(all && md_state.stored[number])) continue;
            count++;
            *units += units_of(bytes);
            if (!w) continue;
            if (pass == 0) {
                put(w, &number, sizeof number);
            } else {
                const float *weights = md_channel_weights(l, channel);
                md_state.stored[number] = (uint16_t)w->at;
                put(w, weights, bytes);
                flush(w);
            }
        }
    }
    return count;
}

static uint32_t record(writer_t *w, int all)
{
    static const uint16_t nothing = 0;
    uint32_t units = 0, unused = 0, count = walk(all, 0, 0, &units);
    units += 2 + units_of(front_bytes(count));
    if (!w) return units;
    put_mark(w, RECORD, md_state.epoch, count, units);
    walk(all, w, 0, &unused);
    if (count & 1) put(w, &nothing, sizeof nothing);
    put(w, &md_state.random, sizeof md_state.random);
    put(w, md_state.classifier, sizeof md_state.classifier);
    put(w, md_state.norms, MD_NORMS * sizeof(float));
    flush(w);
    walk(all, w, 1, &unused);
    put_mark(w, COMMIT, md_state.epoch, count, units);
    return units;
}

void md_store_write(void)
{
    uint32_t bank = md_state.store_sequence & 1, capacity = MD_BANK_BYTES / MD_UNIT;
    writer_t w = {md_state.store_used, bank, 0, 0, {0}};
    if (md_state.store_sequence && !md_state.store_broken && md_state.store_used + record(0, 0) <= capacity) {
        record(&w, 0);
    } else {
        md_assert(1 + record(0, 1) <= capacity);
        w.bank = !bank;
        w.at = 1;
        port_erase(w.bank);
        record(&w, 1);
        md_state.store_used = w.at;
        w.at = 0;
        put_mark(&w, BANK, md_state.store_sequence + 1, 0, 0);
        w.at = md_state.store_used;
        md_state.store_sequence++;
        md_state.store_broken = 0;
    }
    md_state.store_used = w.at;
}

/* --- reading */

/* Takes over the record at `unit`; 0 where it is not complete. */
static uint32_t read_record(uint32_t bank, uint32_t unit)
{
    mark_t mark, commit;
    uint32_t capacity = MD_BANK_BYTES / MD_UNIT;
    if (!read_mark(bank, unit, RECORD, &mark) || mark.units < 2 || unit + mark.units > capacity) return 0;
    if (!read_mark(bank, unit + mark.units - 1, COMMIT, &commit) || commit.number != mark.number) return 0;

    /* the checksum runs over what was put, not over the units' padding */
    const uint8_t *numbers = unit_at(bank, unit + 1), *front = numbers + ((mark.count * 2 + 3) & ~3u);
    uint32_t crc = md_crc(0, numbers, front_bytes(mark.count)), at = unit + 1 + units_of(front_bytes(mark.count));
    for (int apply = 0; apply < 2; apply++) {
        uint32_t next = at, s = 0;
        for (uint32_t i = 0; i < mark.count; i++) {
            uint16_t number;
            memcpy(&number, numbers + i * 2, sizeof number);
            if (number >= MD_CHANNELS) return 0;
            while (number >= md_search_start[s + 1]) s++;
            uint32_t bytes = md_channel_floats(&md_layers[md_searched[s]]) * sizeof(float);
            if (apply)
                md_state.stored[number] = (uint16_t)next;
            else
                crc = md_crc(crc, unit_at(bank, next), bytes);
            next += units_of(bytes);
        }
        if (!apply && crc != commit.checksum) return 0;
    }
    memcpy(&md_state.random, front, sizeof md_state.random);
    front += sizeof md_state.random;
    memcpy(md_state.classifier, front, sizeof md_state.classifier);
    memcpy(md_state.norms, front + sizeof md_state.classifier, MD_NORMS * sizeof(float));
    md_state.epoch = (uint16_t)mark.number;
    return mark.units;
}

int md_store_open(void)
{
    mark_t mark;
    int found = 0;
    for (uint32_t bank = 0; bank < 2; bank++)
        if (read_mark(bank, 0, BANK, &mark) && mark.number > md_state.store_sequence && (mark.number & 1) == bank) {
            md_state.store_sequence = mark.number;
            found = 1;
        }
    if (!found) return 0;
    uint32_t bank = md_state.store_sequence & 1, capacity = MD_BANK_BYTES / MD_UNIT, units;
    md_state.store_used = 1;
    while (md_state.store_used < capacity && (units = read_record(bank, md_state.store_used)) != 0)
        md_state.store_used += units;
    md_state.store_broken = md_state.store_used < capacity && !is_blank(bank, md_state.store_used);
    return 1;
}

/* Of every weight of the searched layers as it is now, and the classifier's. */
uint32_t md_checksum(void)
{
    uint32_t crc = md_crc(0, md_state.classifier, sizeof md_state.classifier);
    for (uint32_t s = 0; s < MD_SEARCHED; s++) {
        const md_layer *l = &md_layers[md_searched[s]];
        for (uint32_t channel = 0; channel < l->channels; channel++)
            crc = md_crc(crc, md_channel_weights(l, channel), md_channel_floats(l) * sizeof(float));
    }
    return crc;
}
