/* A 9P client for tests: messages are built field by field, and answered by a server in the same process. */
#ifndef PYVMM_TESTS_P9_CLIENT_H
#define PYVMM_TESTS_P9_CLIENT_H

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "check.h"
#include "p9/p9_server.h"

enum { MESSAGE_MAX = 70000 };

typedef struct Client {
    P9Server *server;
    char folder[64]; /* DIR/share; beside it DIR/secret, which must stay unseen */
    char outside[64];
    uint8_t sent[MESSAGE_MAX];
    uint8_t got[MESSAGE_MAX];
    const uint8_t *at; /* of the reply, next field */
} Client;

static inline void client_write_file(const char *folder, const char *name, const char *text)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "w");
    CHECK(file && fputs(text, file) >= 0 && fclose(file) == 0);
}

static inline void client_new(Client *client, enum P9Security security, bool read_only, uint32_t descriptors)
{
    memset(client, 0, sizeof *client);
    strcpy(client->outside, "/tmp/pyvmm-9p-XXXXXX");
    CHECK(mkdtemp(client->outside));
    snprintf(client->folder, sizeof client->folder, "%.32s/share", client->outside);
    CHECK_EQ(mkdir(client->folder, 0755), 0);
    client_write_file(client->outside, "secret", "nobody may read this");
    Error error = {0};
    P9Options options = {
        .path = client->folder, .security = security, .read_only = read_only, .max_descriptors = descriptors};
    client->server = p9_server_new(&options, &error);
    if (!client->server)
        fprintf(stderr, "%s\n", error.text);
    CHECK(client->server);
}

static inline int client_delete(const char *path, const struct stat *stat, int kind, struct FTW *ftw)
{
    (void)stat, (void)kind, (void)ftw;
    return remove(path);
}

/* Returns how many descriptors the server held at its end: none, once it has been reset. */
static inline void client_free(Client *client)
{
    P9Counters counters;
    p9_server_reset(client->server);
    p9_server_counters(client->server, &counters);
    CHECK_EQ(counters.fids, 0);
    CHECK_EQ(counters.descriptors, 1); /* the folder itself */
    p9_server_free(client->server);
    CHECK_EQ(nftw(client->outside, client_delete, 16, FTW_DEPTH | FTW_PHYS), 0);
}

/* Build a message: `format` has a letter for each field: b, h, w, q for 1, 2, 4 and 8 bytes, s for a string, and
 * d for data with a 4-byte length before it. Send it; 0, or the errno of the Rlerror. */
static inline int client_do(Client *client, uint8_t type, const char *format, ...)
{
    uint8_t *to = client->sent + P9_HEADER_BYTES;
    va_list fields;
    va_start(fields, format);
    for (; *format; format++) {
        const char *text;
        size_t length;
        switch (*format) {
        case 'b':
            *to++ = (uint8_t)va_arg(fields, int);
            break;
        case 'h':
            store_le16(to, (uint16_t)va_arg(fields, int));
            to += 2;
            break;
        case 'w':
            store_le32(to, va_arg(fields, uint32_t));
            to += 4;
            break;
        case 'q':
            store_le64(to, va_arg(fields, uint64_t));
            to += 8;
            break;
        case 's':
            text = va_arg(fields, const char *);
            length = strlen(text);
            store_le16(to, (uint16_t)length);
            memcpy(to + 2, text, length);
            to += 2 + length;
            break;
        case 'd':
            text = va_arg(fields, const char *);
            length = va_arg(fields, uint32_t);
            store_le32(to, (uint32_t)length);
            memcpy(to + 4, text, length);
            to += 4 + length;
            break;
        }
    }
    va_end(fields);
    size_t bytes = (size_t)(to - client->sent);
    store_le32(client->sent, (uint32_t)bytes);
    client->sent[4] = type;
    store_le16(client->sent + 5, 0x1234);
    /* In pieces that fall in the middle of fields. */
    struct iovec in[3] = {{client->sent, MIN(bytes, 5)},
                          {client->sent + MIN(bytes, 5), MIN(bytes, 26) - MIN(bytes, 5)},
                          {client->sent + MIN(bytes, 26), bytes - MIN(bytes, 26)}};
    struct iovec out[2] = {{client->got, 9}, {client->got + 9, sizeof client->got - 9}};
    size_t got = p9_server_handle(client->server, in, 3, out, 2);
    CHECK(got >= P9_HEADER_BYTES);
    CHECK_EQ(load_le32(client->got), got);
    CHECK_EQ(load_le16(client->got + 5), 0x1234);
    client->at = client->got + P9_HEADER_BYTES;
    if (client->got[4] == 7)
        return (int)load_le32(client->at);
    CHECK_EQ(client->got[4], type + 1);
    return 0;
}

static inline uint64_t client_take(Client *client, size_t bytes)
{
    uint64_t value = 0;
    memcpy(&value, client->at, bytes);
    client->at += bytes;
    return value;
}

#define TSTATFS      8, "w"
#define TLOPEN       12, "ww"
#define TLCREATE     14, "wswww"
#define TSYMLINK     16, "wssw"
#define TMKNOD       18, "wswwww"
#define TRENAME      20, "wws"
#define TREADLINK    22, "w"
#define TGETATTR     24, "wq"
#define TSETATTR     26, "wwwwwqqqqq"
#define TXATTRWALK   30, "wws"
#define TXATTRCREATE 32, "wsqw"
#define TREADDIR     40, "wqw"
#define TFSYNC       50, "ww"
#define TLOCK        52, "wbwqqws"
#define TGETLOCK     54, "wbqqws"
#define TLINK        70, "wws"
#define TMKDIR       72, "wsww"
#define TRENAMEAT    74, "wsws"
#define TUNLINKAT    76, "wsw"
#define TVERSION     100, "ws"
#define TATTACH      104, "wwssw"
#define TFLUSH       108, "h"
#define TREAD        116, "wqw"
#define TWRITE       118, "wqd"
#define TCLUNK       120, "w"
#define TREMOVE      122, "w"

enum { ROOT = 1 };

/* A session whose root is fid ROOT. */
static inline void client_mount(Client *client, uint32_t uid)
{
    CHECK_EQ(client_do(client, TVERSION, 65536u, "9P2000.L"), 0);
    CHECK_EQ(client_take(client, 4), 65536);
    CHECK_EQ(client_do(client, TATTACH, (uint32_t)ROOT, UINT32_MAX, "root", "", uid), 0);
    CHECK_EQ(client_take(client, 1), 0x80);
}

/* Walk to one name, or to none ("": the same file). */
static inline int client_walk(Client *client, uint32_t from, uint32_t to, const char *name)
{
    return *name ? client_do(client, 110, "wwhs", from, to, 1, name) : client_do(client, 110, "wwh", from, to, 0);
}

static inline void client_clunk(Client *client, uint32_t fid) { CHECK_EQ(client_do(client, TCLUNK, fid), 0); }

typedef struct ClientAttr {
    uint32_t mode, uid, gid;
    uint64_t nlink, rdev, size, mtime;
} ClientAttr;

static inline ClientAttr client_attr(Client *client, uint32_t fid)
{
    CHECK_EQ(client_do(client, TGETATTR, fid, (uint64_t)0x7ff), 0);
    ClientAttr attr;
    CHECK_EQ(client_take(client, 8) & 0x7ff, 0x7ff);
    client->at += 13;
    attr.mode = (uint32_t)client_take(client, 4);
    attr.uid = (uint32_t)client_take(client, 4);
    attr.gid = (uint32_t)client_take(client, 4);
    attr.nlink = client_take(client, 8);
    attr.rdev = client_take(client, 8);
    attr.size = client_take(client, 8);
    client->at += 8 + 8 + 16; /* block size, blocks, atime */
    attr.mtime = client_take(client, 8);
    return attr;
}

/* What a name beneath ROOT is. */
static inline ClientAttr client_attr_of(Client *client, const char *name)
{
    CHECK_EQ(client_walk(client, ROOT, 900, name), 0);
    ClientAttr attr = client_attr(client, 900);
    client_clunk(client, 900);
    return attr;
}

static inline int client_open(Client *client, uint32_t fid, const char *name, uint32_t flags)
{
    CHECK_EQ(client_walk(client, ROOT, fid, name), 0);
    int result = client_do(client, TLOPEN, fid, flags);
    if (result)
        client_clunk(client, fid);
    return result;
}

static inline int client_create(Client *client, uint32_t fid, const char *name, uint32_t flags, uint32_t mode)
{
    CHECK_EQ(client_walk(client, ROOT, fid, ""), 0);
    int result = client_do(client, TLCREATE, fid, name, flags, mode, 100u);
    if (result)
        client_clunk(client, fid);
    return result;
}

#endif
