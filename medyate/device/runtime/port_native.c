/* The machine at hand: images from files, the store in memory that keeps the rules of flash. */
#include "medyate.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint8_t flash[2 * MD_BANK_BYTES] __attribute__((aligned(8)));
uint8_t *const port_store = flash;

void md_failed(const char *what, const char *file, int line)
{
    fprintf(stderr, "%s:%d: not true: %s\n", file, line, what);
    abort();
}

void port_print(const char *text)
{
    fputs(text, stdout);
    fflush(stdout);
}

static FILE *images[2];
static uint32_t counts[2];

static void open_images(int test)
{
    static const char *names[2] = {"train.bin", "test.bin"};
    uint32_t head[3];
    if (images[test]) return;
    images[test] = fopen(names[test], "rb");
    if (!images[test]) return;
    if (fread(head, sizeof head, 1, images[test]) != 1 || head[0] != MD_IMAGES_MAGIC || head[2] != MD_IMAGE_BYTES) {
        fprintf(stderr, "%s holds no images of %d bytes\n", names[test], MD_IMAGE_BYTES);
        exit(2);
    }
    counts[test] = head[1];
}

uint32_t port_images(int test)
{
    open_images(test);
    return counts[test];
}

uint32_t port_image(int test, uint32_t index, uint8_t *image)
{
    uint32_t label;
    fseek(images[test], (long)(12 + (size_t)index * (4 + MD_IMAGE_BYTES)), SEEK_SET);
    if (fread(&label, sizeof label, 1, images[test]) != 1 || fread(image, MD_IMAGE_BYTES, 1, images[test]) != 1) {
        fprintf(stderr, "image %u cannot be read\n", (unsigned)index);
        exit(2);
    }
    return label;
}

/* A power cut for the tests: after so many units nothing is written any more, the last one by half. */
uint32_t port_units_until_cut = 0xFFFFFFFF;

void port_erase(uint32_t bank)
{
    if (port_units_until_cut == 0) return;
    memset(flash + bank * MD_BANK_BYTES, 0xFF, MD_BANK_BYTES);
}

void port_program(uint32_t offset, const void *data, uint32_t bytes)
{
    md_assert(offset % MD_UNIT == 0 && bytes == MD_UNIT && offset + bytes <= sizeof flash);
    if (port_units_until_cut == 0) return;
    for (uint32_t i = 0; i < bytes; i++) md_assert(flash[offset + i] == 0xFF);
    memcpy(flash + offset, data, --port_units_until_cut ? bytes : bytes / 2);
}

#ifdef MD_PROGRAM
int main(int count, char **arguments)
{
    char all[1024] = "";
    for (int i = 1; i < count; i++) {
        strncat(all, arguments[i], sizeof all - strlen(all) - 2);
        strcat(all, " ");
    }
    return md_main(all);
}
#endif
