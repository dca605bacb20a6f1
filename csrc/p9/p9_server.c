#include <fcntl.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "p9/p9_internal.h"

enum P9Type { /* of requests; a reply's is one more */
              P9_RLERROR = 7,
              P9_TSTATFS = 8,
              P9_TLOPEN = 12,
              P9_TLCREATE = 14,
              P9_TSYMLINK = 16,
              P9_TMKNOD = 18,
              P9_TRENAME = 20,
              P9_TREADLINK = 22,
              P9_TGETATTR = 24,
              P9_TSETATTR = 26,
              P9_TXATTRWALK = 30,
              P9_TXATTRCREATE = 32,
              P9_TREADDIR = 40,
              P9_TFSYNC = 50,
              P9_TLOCK = 52,
              P9_TGETLOCK = 54,
              P9_TLINK = 70,
              P9_TMKDIR = 72,
              P9_TRENAMEAT = 74,
              P9_TUNLINKAT = 76,
              P9_TVERSION = 100,
              P9_TATTACH = 104,
              P9_TFLUSH = 108,
              P9_TWALK = 110,
              P9_TREAD = 116,
              P9_TWRITE = 118,
              P9_TCLUNK = 120,
              P9_TREMOVE = 122,
};

/* ---- Making and freeing ------------------------------------------------------------------------------------- */

/* Half of what the process may have: its images, sockets and eventfds come out of the other. */
static uint32_t default_descriptors(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return 512;
    return (uint32_t)MIN(MAX(limit.rlim_cur / 2, 16), P9_MAX_FIDS);
}

P9Server *p9_server_new(const P9Options *options, Error *error)
{
    P9Server *server = calloc(1, sizeof *server);
    if (!server) {
        error_set(error, ENOMEM, "no host memory for the share %s", options->path);
        return NULL;
    }
    server->security = options->security;
    server->read_only = options->read_only;
    server->max_descriptors = options->max_descriptors ? options->max_descriptors : default_descriptors();
    int result = p9_node_root(server, options->path, &server->root);
    if (result < 0) {
        error_set(error, -result, "share %s: %s; give a folder of this host", options->path, strerror(-result));
        free(server);
        return NULL;
    }
    if (access(p9_path(server->root->fd).text, F_OK) < 0) {
        error_set(error, ENOENT, "share %s: /proc is not mounted, which sharing a folder needs", options->path);
    } else if (server->security == P9_SECURITY_MAPPED && p9_attr_probe(server->root->fd) < 0) {
        error_set(
            error, EOPNOTSUPP,
            "share %s: its file system has no user extended attributes, where security=mapped keeps owners; use"
            " security=none, or another folder",
            options->path);
    } else {
        return server;
    }
    p9_server_free(server);
    return NULL;
}

void p9_server_reset(P9Server *server)
{
    p9_fids_free(server);
    server->msize = 0;
}

void p9_server_free(P9Server *server)
{
    if (!server)
        return;
    p9_fids_free(server);
    p9_node_unref(server, server->root);
    free(server);
}

void p9_server_counters(const P9Server *server, P9Counters *counters) { *counters = server->counters; }
uint32_t p9_server_msize(const P9Server *server) { return server->msize; }

/* ---- What requests have in common --------------------------------------------------------------------------- */

P9Fid *p9_get_fid(P9Request *request)
{
    uint32_t id = p9_get32(&request->in);
    P9Fid *fid = p9_fid_find(request->server, id);
    if (!fid && !request->in.error)
        request->in.error = EBADF;
    return fid;
}

int p9_check(const P9Request *request) { return -request->in.error; }

/* ---- The session: version, attach, walk, clunk -------------------------------------------------------------- */

static int version(P9Request *request)
{
    P9Server *server = request->server;
    uint32_t msize = p9_get32(&request->in);
    char text[16];
    p9_get_string(&request->in, text, sizeof text);
    if (request->in.error == EINVAL)
        return -EINVAL;
    bool known = !request->in.error && !strcmp(text, "9P2000.L");
    if (known && msize < P9_MIN_MSIZE)
        return -EMSGSIZE;
    p9_server_reset(server); /* a new session: no fid of the old one is left */
    msize = MIN(msize, P9_MAX_MSIZE);
    server->msize = known ? msize : 0;
    const char *answer = known ? "9P2000.L" : "unknown";
    p9_put32(request->reply, msize);
    p9_put_string(request->reply, answer, strlen(answer));
    return 0;
}

static int attach(P9Request *request)
{
    P9Server *server = request->server;
    P9Reader *in = &request->in;
    char user[P9_NAME_SIZE], name[P9_TARGET_SIZE];
    uint32_t id = p9_get32(in);
    p9_get32(in); /* afid: nobody has one */
    p9_get_string(in, user, sizeof user);
    p9_get_string(in, name, sizeof name);
    uint32_t uid = p9_get32(in);
    int result = p9_check(request);
    if (result < 0)
        return result;
    if (name[0] && strcmp(name, "/"))
        return -ENOENT;
    result = p9_put_qid(server, request->reply, server->root);
    if (result == 0)
        result = p9_fid_new(server, id, uid, server->root, NULL);
    if (result == 0)
        p9_node_ref(server->root);
    return result;
}

/* As many of the names as can be found: the reply has a qid for each. `node` is the last one. */
static int walk_names(P9Request *request, P9Node *from, uint16_t count, char names[][P9_NAME_SIZE], P9Node **node)
{
    uint16_t found = 0;
    int result = 0;
    *node = p9_node_ref(from);
    p9_put16(request->reply, 0);
    while (found < count) {
        P9Node *next;
        result = p9_node_find(request->server, *node, names[found], &next);
        if (result < 0)
            break;
        p9_node_unref(request->server, *node);
        *node = next;
        result = p9_put_qid(request->server, request->reply, next);
        if (result < 0)
            break;
        found++;
    }
    store_le16(request->reply->data + P9_HEADER_BYTES, found);
    if (found == count)
        return 0;
    p9_node_unref(request->server, *node);
    *node = NULL;
    return found ? 0 : result; /* some were found: the client sees how many, and there is no new fid */
}

static int walk(P9Request *request)
{
    P9Server *server = request->server;
    char names[P9_MAX_WALK][P9_NAME_SIZE];
    P9Fid *fid = p9_get_fid(request);
    uint32_t new_id = p9_get32(&request->in);
    uint16_t count = p9_get16(&request->in);
    if (count > P9_MAX_WALK)
        return -EINVAL;
    for (uint16_t i = 0; i < count; i++)
        p9_get_name(&request->in, names[i]);
    int result = p9_check(request);
    if (result < 0)
        return result;
    if (fid->id == new_id ? fid->kind != P9_FID_PATH : p9_fid_find(server, new_id) != NULL)
        return -EBADF;
    P9Node *node;
    result = walk_names(request, fid->node, count, names, &node);
    if (result < 0 || !node)
        return result;
    if (fid->id == new_id) {
        p9_node_unref(server, fid->node);
        fid->node = node;
        return 0;
    }
    result = p9_fid_new(server, new_id, fid->uid, node, NULL);
    if (result < 0)
        p9_node_unref(server, node);
    return result;
}

static int clunk(P9Request *request)
{
    P9Fid *fid = p9_get_fid(request);
    int result = p9_check(request);
    if (result < 0)
        return result;
    if (fid->kind == P9_FID_XATTR_WRITE)
        result = p9_xattr_finish(fid);
    p9_fid_free(request->server, fid);
    return result;
}

/* Every request before this one has been answered. */
static int flush(P9Request *request)
{
    p9_get16(&request->in);
    return p9_check(request);
}

/* ---- Dispatch ----------------------------------------------------------------------------------------------- */

typedef struct P9Message {
    P9Handler handler;
    bool changes; /* the folder: EROFS when it is shared read-only */
} P9Message;

static const P9Message messages[] = {
    [P9_TSTATFS] = {p9_statfs, false},
    [P9_TLOPEN] = {p9_lopen, false},
    [P9_TLCREATE] = {p9_lcreate, true},
    [P9_TSYMLINK] = {p9_symlink, true},
    [P9_TMKNOD] = {p9_mknod, true},
    [P9_TRENAME] = {p9_rename, true},
    [P9_TREADLINK] = {p9_readlink, false},
    [P9_TGETATTR] = {p9_getattr, false},
    [P9_TSETATTR] = {p9_setattr, true},
    [P9_TXATTRWALK] = {p9_xattrwalk, false},
    [P9_TXATTRCREATE] = {p9_xattrcreate, true},
    [P9_TREADDIR] = {p9_readdir, false},
    [P9_TFSYNC] = {p9_fsync, false},
    [P9_TLOCK] = {p9_lock, false},
    [P9_TGETLOCK] = {p9_getlock, false},
    [P9_TLINK] = {p9_link, true},
    [P9_TMKDIR] = {p9_mkdir, true},
    [P9_TRENAMEAT] = {p9_renameat, true},
    [P9_TUNLINKAT] = {p9_unlinkat, true},
    [P9_TVERSION] = {version, false},
    [P9_TATTACH] = {attach, false},
    [P9_TFLUSH] = {flush, false},
    [P9_TWALK] = {walk, false},
    [P9_TREAD] = {p9_read, false},
    [P9_TWRITE] = {p9_write, false},
    [P9_TCLUNK] = {clunk, false},
    [P9_TREMOVE] = {p9_remove, false}, /* it looks by itself */
};

static int answer(P9Request *request, uint8_t type, uint64_t claimed, uint64_t sent)
{
    const P9Server *server = request->server;
    const P9Message *message = type < ARRAY_SIZE(messages) ? &messages[type] : NULL;
    if (!message || !message->handler)
        return -EOPNOTSUPP;
    if (claimed < P9_HEADER_BYTES || claimed > sent)
        return -EINVAL;
    if (type != P9_TVERSION && !server->msize)
        return -EPROTO;
    if (server->msize && claimed > server->msize)
        return -EMSGSIZE;
    if (message->changes && server->read_only)
        return -EROFS;
    return message->handler(request);
}

/* Header and what the handler wrote, or the error; returns the bytes of the whole reply. */
static size_t reply(P9Request *request, uint8_t type, uint16_t tag, int result)
{
    P9Server *server = request->server;
    P9Writer *writer = request->reply;
    if (result == 0 && writer->size + request->payload > request->out_bytes)
        result = -EMSGSIZE;
    server->counters.requests++;
    if (result < 0) {
        server->counters.errors++;
        writer->size = P9_HEADER_BYTES;
        request->payload = 0;
        p9_put32(writer, (uint32_t)-result);
    }
    size_t bytes = writer->size + request->payload;
    store_le32(writer->data, (uint32_t)bytes);
    writer->data[4] = result < 0 ? P9_RLERROR : (uint8_t)(type + 1);
    store_le16(writer->data + 5, tag);
    p9_iov_scatter(request->out_iov, request->out_count, 0, writer->data, writer->size);
    return bytes;
}

size_t p9_server_handle(P9Server *server, const struct iovec *in, uint32_t in_count, const struct iovec *out,
                        uint32_t out_count)
{
    uint64_t sent = p9_iov_bytes(in, in_count), room = p9_iov_bytes(out, out_count);
    if (sent < P9_HEADER_BYTES || room < P9_ERROR_BYTES)
        return 0;
    size_t head = p9_iov_gather(in, in_count, server->head, sizeof server->head);
    uint64_t claimed = load_le32(server->head);
    uint8_t type = server->head[4];
    P9Request request = {.server = server,
                         .reply = &server->reply,
                         .in_iov = in,
                         .in_count = in_count,
                         .in_bytes = claimed,
                         .out_iov = out,
                         .out_count = out_count,
                         .out_bytes = MIN(room, server->msize ? server->msize : P9_MIN_MSIZE)};
    head = (size_t)MIN(head, claimed);
    if (head > P9_HEADER_BYTES)
        request.in = (P9Reader){.data = server->head + P9_HEADER_BYTES, .left = head - P9_HEADER_BYTES};
    server->reply.size = P9_HEADER_BYTES;
    return reply(&request, type, load_le16(server->head + 5), answer(&request, type, claimed, sent));
}
