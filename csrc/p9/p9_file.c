/* Files: open, create, read, write, fsync, locks. Data goes between the message's own buffers and the file. */
#include <fcntl.h>
#include <unistd.h>

#include "p9/p9_internal.h"

enum OpenFlags { /* the protocol's, which are those of Linux on x86 */
                 OPEN_ACCESS = 03,
                 OPEN_EXCL = 0200,
                 OPEN_TRUNC = 01000,
                 OPEN_APPEND = 02000,
                 OPEN_DSYNC = 010000,
                 OPEN_DIRECTORY = 0200000,
                 OPEN_SYNC = 04000000,
};

enum LockStatus { LOCK_SUCCESS = 0 };
enum LockType { LOCK_UNLCK = 2 };

/* Those that mean something to the host; -EINVAL: no access mode. */
static int host_flags(uint32_t flags)
{
    static const struct {
        uint32_t theirs;
        int ours;
    } table[] = {{OPEN_TRUNC, O_TRUNC}, {OPEN_APPEND, O_APPEND}, {OPEN_DSYNC, O_DSYNC}, {OPEN_SYNC, O_SYNC}};
    if ((flags & OPEN_ACCESS) == OPEN_ACCESS)
        return -EINVAL;
    int host = (int)(flags & OPEN_ACCESS); /* O_RDONLY 0, O_WRONLY 1, O_RDWR 2 */
    for (size_t i = 0; i < ARRAY_SIZE(table); i++)
        if (flags & table[i].theirs)
            host |= table[i].ours;
    return host;
}

static bool changes(int flags) { return (flags & O_ACCMODE) != O_RDONLY || flags & O_TRUNC; }

/* Takes `io` over. */
static int attach_io(P9Request *request, P9Fid *fid, int io, enum P9FidKind kind, bool writable)
{
    int result = p9_take_descriptor(request->server);
    if (result < 0) {
        close(io);
        return result;
    }
    fid->io = io;
    fid->kind = kind;
    fid->writable = writable;
    fid->position = kind == P9_FID_FOLDER ? 0 : -1;
    result = p9_put_qid(request->server, request->reply, fid->node);
    p9_put32(request->reply, 0); /* iounit: as much as a message holds */
    return result;
}

static int open_fid(P9Request *request, P9Fid *fid, uint32_t flags)
{
    P9Attr attr;
    int host = host_flags(flags), result = host < 0 ? host : p9_attr_get(request->server, fid->node, &attr);
    if (result < 0)
        return result;
    if (changes(host) && request->server->read_only)
        return -EROFS;
    if (S_ISDIR(attr.mode) && changes(host))
        return -EISDIR;
    if (!S_ISDIR(attr.mode) && flags & OPEN_DIRECTORY)
        return -ENOTDIR;
    if (!S_ISREG(attr.mode) && !S_ISDIR(attr.mode)) /* mapped: a regular file that stands for something else */
        return S_ISLNK(attr.mode) ? -ELOOP : -ENXIO;
    int io = p9_node_reopen(fid->node, host);
    if (io < 0)
        return io;
    return attach_io(request, fid, io, S_ISDIR(attr.mode) ? P9_FID_FOLDER : P9_FID_FILE,
                     (host & O_ACCMODE) != O_RDONLY);
}

int p9_lopen(P9Request *request)
{
    P9Fid *fid = p9_get_fid(request);
    uint32_t flags = p9_get32(&request->in);
    int result = p9_check(request);
    if (result < 0)
        return result;
    return fid->kind == P9_FID_PATH ? open_fid(request, fid, flags) : -EBADF;
}

/* A new file: nobody else's, whatever the name was before. */
static int create(P9Request *request, P9Fid *fid, const char *name, int flags, uint32_t mode, uint32_t gid)
{
    P9Server *server = request->server;
    P9Node *node;
    int io = p9_open_beneath(server, fid->node->fd, name, flags | O_CREAT | O_EXCL | O_NONBLOCK, 0600);
    if (io < 0)
        return io;
    int result = p9_attr_init(server, io, S_IFREG | (mode & 07777), fid->uid, gid, 0);
    if (result == 0)
        result = p9_node_of(server, io, fid->node, name, &node);
    if (result < 0) {
        unlinkat(fid->node->fd, name, 0);
        close(io);
        return result;
    }
    p9_node_unref(server, fid->node); /* the fid is the new file from here on */
    fid->node = node;
    return attach_io(request, fid, io, P9_FID_FILE, (flags & O_ACCMODE) != O_RDONLY);
}

static int open_existing(P9Request *request, P9Fid *fid, const char *name, uint32_t flags)
{
    P9Node *node, *folder = fid->node;
    int result = p9_node_find(request->server, folder, name, &node);
    if (result < 0)
        return result;
    fid->node = node;
    result = open_fid(request, fid, flags);
    if (result < 0)
        fid->node = folder;
    p9_node_unref(request->server, result < 0 ? node : folder);
    return result;
}

int p9_lcreate(P9Request *request)
{
    P9Reader *in = &request->in;
    P9Fid *fid = p9_get_fid(request);
    char name[P9_NAME_SIZE];
    p9_get_name(in, name);
    uint32_t flags = p9_get32(in), mode = p9_get32(in), gid = p9_get32(in);
    int result = p9_check(request);
    if (result < 0)
        return result;
    if (fid->kind != P9_FID_PATH)
        return -EBADF;
    int host = host_flags(flags);
    if (host < 0)
        return host;
    result = create(request, fid, name, host & ~O_TRUNC, mode, gid);
    return result == -EEXIST && !(flags & OPEN_EXCL) ? open_existing(request, fid, name, flags) : result;
}

/* Linux takes any transfer below INT64_MAX. */
static bool is_range(uint64_t offset, uint32_t count) { return offset <= (uint64_t)INT64_MAX - count; }

int p9_read(P9Request *request)
{
    P9Server *server = request->server;
    P9Fid *fid = p9_get_fid(request);
    uint64_t offset = p9_get64(&request->in);
    uint32_t count = p9_get32(&request->in);
    int result = p9_check(request);
    if (result < 0)
        return result;
    const uint32_t head = P9_HEADER_BYTES + 4;
    count = (uint32_t)MIN(count, request->out_bytes - head);
    if (fid->kind == P9_FID_XATTR_READ)
        return p9_xattr_read(request, fid, offset, count);
    if (fid->kind != P9_FID_FILE)
        return fid->kind == P9_FID_FOLDER ? -EISDIR : -EBADF;
    if (!is_range(offset, count))
        return -EINVAL;
    uint32_t pieces =
        p9_iov_slice(request->out_iov, request->out_count, head, count, server->slice, P9_MAX_SEGMENTS);
    ssize_t done = preadv(fid->io, server->slice, (int)pieces, (off_t)offset);
    if (done < 0)
        return -errno;
    server->counters.bytes_read += (uint64_t)done;
    request->payload = (size_t)done;
    p9_put32(request->reply, (uint32_t)done);
    return 0;
}

int p9_write(P9Request *request)
{
    P9Server *server = request->server;
    P9Fid *fid = p9_get_fid(request);
    uint64_t offset = p9_get64(&request->in);
    uint32_t count = p9_get32(&request->in);
    int result = p9_check(request);
    if (result < 0)
        return result;
    const uint32_t head = P9_HEADER_BYTES + 16;
    if (count > request->in_bytes - head)
        return -EINVAL;
    if (fid->kind == P9_FID_XATTR_WRITE)
        return p9_xattr_write(request, fid, offset, count);
    if (fid->kind != P9_FID_FILE || !fid->writable)
        return -EBADF;
    if (!is_range(offset, count))
        return -EFBIG;
    uint32_t pieces = p9_iov_slice(request->in_iov, request->in_count, head, count, server->slice, P9_MAX_SEGMENTS);
    ssize_t done = pwritev(fid->io, server->slice, (int)pieces, (off_t)offset);
    if (done < 0)
        return -errno;
    server->counters.bytes_written += (uint64_t)done;
    p9_put32(request->reply, (uint32_t)done);
    return 0;
}

int p9_fsync(P9Request *request)
{
    P9Fid *fid = p9_get_fid(request);
    bool data_only = request->in.left >= 4 && p9_get32(&request->in); /* older clients do not say */
    int result = p9_check(request);
    if (result < 0)
        return result;
    if (fid->io < 0)
        return -EBADF;
    return (data_only ? fdatasync(fid->io) : fsync(fid->io)) < 0 ? -errno : 0;
}

/* See p9_server.h for what these mean. */
int p9_lock(P9Request *request)
{
    P9Reader *in = &request->in;
    char owner[P9_NAME_SIZE];
    p9_get_fid(request);
    uint8_t type = p9_get8(in);
    p9_get32(in); /* flags */
    p9_get64(in); /* start, length, process */
    p9_get64(in);
    p9_get32(in);
    p9_get_string(in, owner, sizeof owner);
    int result = p9_check(request);
    if (result < 0)
        return result;
    if (type > LOCK_UNLCK)
        return -EINVAL;
    p9_put8(request->reply, LOCK_SUCCESS);
    return 0;
}

int p9_getlock(P9Request *request)
{
    P9Reader *in = &request->in;
    char owner[P9_NAME_SIZE];
    p9_get_fid(request);
    p9_get8(in);
    uint64_t start = p9_get64(in), length = p9_get64(in);
    uint32_t process = p9_get32(in);
    p9_get_string(in, owner, sizeof owner);
    int result = p9_check(request);
    if (result < 0)
        return result;
    p9_put8(request->reply, LOCK_UNLCK);
    p9_put64(request->reply, start);
    p9_put64(request->reply, length);
    p9_put32(request->reply, process);
    p9_put_string(request->reply, owner, strlen(owner));
    return 0;
}
