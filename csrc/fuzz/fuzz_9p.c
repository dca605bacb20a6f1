/*
 * A 9P client that does anything, in a temporary folder: the input is messages, often well formed, with names that
 * try to lead out. The server must neither crash nor hold what it was not asked for, and the files beside the
 * folder must stay as they are. What reaches them is looked for by the secret that they hold.
 */
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fuzz/input.h"
#include "p9/p9_server.h"

#define SECRET "a secret that lies outside"

typedef struct Share {
    P9Server *server;
    char outside[32], folder[48], secret[48];
    uint8_t message[4096], reply[8192];
} Share;

static void put_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    if (!file || fputs(text, file) < 0 || fclose(file))
        abort();
}

static void share_new(Share *share, uint8_t how)
{
    char path[80];
    strcpy(share->outside, "/tmp/pyvmm-fuzz-XXXXXX");
    if (!mkdtemp(share->outside))
        abort();
    snprintf(share->folder, sizeof share->folder, "%s/share", share->outside);
    snprintf(share->secret, sizeof share->secret, "%s/secret", share->outside);
    put_file(share->secret, SECRET);
    snprintf(path, sizeof path, "%s/file", share->folder);
    if (mkdir(share->folder, 0700) < 0)
        abort();
    put_file(path, "inside");
    snprintf(path, sizeof path, "%s/link", share->folder);
    if (symlink("../secret", path) < 0)
        abort();
    snprintf(path, sizeof path, "%s/up", share->folder);
    if (symlink("..", path) < 0)
        abort();
    P9Options options = {.path = share->folder,
                         .security = how & 1 ? P9_SECURITY_MAPPED : P9_SECURITY_NONE,
                         .read_only = how & 2,
                         .max_descriptors = 12};
    share->server = p9_server_new(&options, NULL);
    if (!share->server)
        abort();
}

static int remove_entry(const char *path, const struct stat *stat, int kind, struct FTW *ftw)
{
    (void)kind;
    (void)ftw;
    if (S_ISDIR(stat->st_mode) && chmod(path, 0700) < 0)
        abort();
    return remove(path);
}

static void share_free(Share *share)
{
    char text[64] = {0};
    FILE *file = fopen(share->secret, "r");
    if (!file || !fgets(text, sizeof text, file) || strcmp(text, SECRET) || fclose(file))
        abort();
    p9_server_reset(share->server);
    P9Counters counters;
    p9_server_counters(share->server, &counters);
    if (counters.fids || counters.descriptors != 1)
        abort();
    p9_server_free(share->server);
    nftw(share->outside, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

static void handle(Share *share, size_t sent, size_t cut)
{
    struct iovec in[2] = {{share->message, MIN(cut, sent)},
                          {share->message + MIN(cut, sent), sent - MIN(cut, sent)}};
    struct iovec out[2] = {{share->reply, cut}, {share->reply + cut, sizeof share->reply - cut}};
    memset(share->reply, 0, sizeof share->reply);
    size_t got = p9_server_handle(share->server, in, 2, out, 2);
    if (got > sizeof share->reply || (got && load_le32(share->reply) != got))
        abort();
    if (memmem(share->reply, sizeof share->reply, SECRET, strlen(SECRET)))
        abort();
}

static size_t put_name(uint8_t *to, Input *input)
{
    static const char *const names[] = {"file", "link", "up",  "a",         "b",      "..",       ".",
                                        "",     "/",    "a/b", "../secret", "user.x", "9P2000.L", "secret"};
    uint8_t pick = (uint8_t)take(input, 1);
    const char *name = names[pick % ARRAY_SIZE(names)];
    size_t length = strlen(name);
    store_le16(to, (uint16_t)(pick >= 0xf8 ? take(input, 2) : length));
    memcpy(to + 2, name, length);
    return 2 + length;
}

/* The fields of each message by letters, as in tests/p9_client.h; f is a fid, c a count of names. */
static const char *const shapes[128] = {
    [8] = "f",     [12] = "fw",      [14] = "fswww",      [16] = "fssw",   [18] = "fswwww", [20] = "ffs",
    [22] = "f",    [24] = "fq",      [26] = "fwwwwqqqqq", [30] = "ffs",    [32] = "fsqw",   [40] = "fqw",
    [50] = "fw",   [52] = "fbwqqws", [54] = "fbqqws",     [70] = "ffs",    [72] = "fsww",   [74] = "fsfs",
    [76] = "fsw",  [100] = "vs",     [102] = "fssw",      [104] = "ffssw", [108] = "h",     [110] = "ffcsss",
    [116] = "fqw", [118] = "fqd",    [120] = "f",         [122] = "f"};

static void step(Share *share, Input *input)
{
    uint8_t *to = share->message + 7, type = (uint8_t)take(input, 1) & 127, how = (uint8_t)take(input, 1);
    const char *shape = shapes[type] ? shapes[type] : "";
    size_t names = 3, bytes;
    for (; *shape; shape++) {
        switch (*shape) {
        case 'f':
            store_le32(to, (uint32_t)take(input, 1) % 8);
            to += 4;
            break;
        case 'c':
            store_le16(to, (uint16_t)(names = take(input, 1) % 5));
            to += 2;
            break;
        case 's':
            if (names)
                to += put_name(to, input);
            names -= names > 0;
            break;
        case 'b':
            *to++ = (uint8_t)take(input, 1);
            break;
        case 'h':
            store_le16(to, (uint16_t)take(input, 2));
            to += 2;
            break;
        case 'v':
            store_le32(to, 8192);
            to += 4;
            break;
        case 'w':
            store_le32(to, (uint32_t)take(input, how & 1 ? 4 : 2) & (type == 14 ? 0x1ffu : UINT32_MAX));
            to += 4;
            break;
        case 'q': /* short, so that files stay small */
            store_le64(to, how & 2 && type != 118 && type != 26 ? take(input, 8) : take(input, 1));
            to += 8;
            break;
        case 'd':
            bytes = take(input, 1);
            store_le32(to, (uint32_t)bytes);
            to += 4 + bytes;
            break;
        }
    }
    size_t sent = (size_t)(to - share->message);
    store_le32(share->message, (uint32_t)sent);
    share->message[4] = type;
    if (how & 4) {
        share->message[take(input, 1) % sent] ^= (uint8_t)take(input, 1);
        if (type == 26 || type == 118) /* no files of exabytes */
            return;
    }
    handle(share, sent, how >> 3);
}

static void well_formed(Share *share, const char *text, size_t bytes)
{
    memcpy(share->message, text, bytes);
    handle(share, bytes, 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char hello[] = "\x15\0\0\0\x64\0\0\0\x20\0\0\x08\0"
                                "9P2000.L";
    static const char root[] = "\x17\0\0\0\x68\0\0\1\0\0\0\xff\xff\xff\xff\0\0\0\0\0\0\0\0";
    Share share;
    Input input = {data, size};
    share_new(&share, (uint8_t)take(&input, 1));
    well_formed(&share, hello, sizeof hello - 1);
    well_formed(&share, root, sizeof root - 1);
    for (uint32_t steps = 0; input.left && steps < 200; steps++)
        step(&share, &input);
    share_free(&share);
    return 0;
}
