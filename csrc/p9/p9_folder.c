/* Folders and what is made in them: Treaddir, Tmkdir, Tmknod, Tsymlink, and Treadlink. */
#include <dirent.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "p9/p9_internal.h"

#define ENTRY_BYTES 24u /* qid[13] offset[8] type[1] and the name's length[2] */

/* getdents64(2) */
typedef struct HostEntry {
    uint64_t ino;
    int64_t offset; /* of the next one: a cookie */
    uint16_t bytes;
    uint8_t type;
    char name[];
} HostEntry;

/* Mapped, only the attributes say what a file is: the client looks when it wants to know. */
static void put_entry(const P9Server *server, const P9Fid *fid, uint8_t *at, const HostEntry *entry, size_t length)
{
    bool mapped = server->security == P9_SECURITY_MAPPED;
    bool above_root =
        !strcmp(entry->name, "..") && fid->node->dev == server->root->dev && fid->node->ino == server->root->ino;
    uint64_t ino = above_root ? server->root->ino : entry->ino;
    *at = entry->type == DT_DIR ? 0x80 : entry->type == DT_LNK ? 0x02 : 0;
    store_le32(at + 1, 0);
    store_le64(at + 5, p9_qid_path(server, fid->node->dev, ino));
    store_le64(at + 13, (uint64_t)entry->offset);
    at[21] = mapped && entry->type != DT_DIR ? DT_UNKNOWN : entry->type;
    store_le16(at + 22, (uint16_t)length);
    memcpy(at + ENTRY_BYTES, entry->name, length);
}

/* As many entries as fit; those that do not are read again next time. */
static size_t put_entries(P9Server *server, P9Fid *fid, size_t host_bytes, size_t room)
{
    size_t done = 0;
    for (size_t at = 0; at < host_bytes;) {
        const HostEntry *entry = (const HostEntry *)(const void *)(server->folder + at);
        size_t length = strlen(entry->name), bytes = ENTRY_BYTES + length;
        if (bytes > room - done) {
            fid->position = -1;
            break;
        }
        put_entry(server, fid, server->entries + done, entry, length);
        fid->position = entry->offset;
        done += bytes;
        at += entry->bytes;
    }
    return done;
}

int p9_readdir(P9Request *request)
{
    P9Server *server = request->server;
    P9Fid *fid = p9_get_fid(request);
    uint64_t offset = p9_get64(&request->in);
    uint32_t count = p9_get32(&request->in);
    int result = p9_check(request);
    if (result < 0)
        return result;
    if (fid->kind != P9_FID_FOLDER)
        return fid->kind == P9_FID_FILE ? -ENOTDIR : -EBADF;
    count = (uint32_t)MIN(count, request->out_bytes - P9_HEADER_BYTES - 4);
    count = MIN(count, P9_FOLDER_BYTES);
    if (offset > INT64_MAX)
        return -EINVAL;
    if (fid->position != (off_t)offset && lseek(fid->io, (off_t)offset, SEEK_SET) < 0)
        return -errno;
    fid->position = (off_t)offset;
    long bytes = syscall(SYS_getdents64, fid->io, server->folder, MAX(count, sizeof(HostEntry) + P9_NAME_SIZE));
    if (bytes < 0)
        return -errno;
    size_t done = put_entries(server, fid, (size_t)bytes, count);
    if (bytes && !done)
        return -EINVAL; /* as getdents(2): not even one fits */
    p9_put32(request->reply, (uint32_t)done);
    request->payload =
        p9_iov_scatter(request->out_iov, request->out_count, P9_HEADER_BYTES + 4, server->entries, done);
    return 0;
}

/* The file that was made just now: give it owner and mode, and tell its qid. What is there is looked at first: the
 * host may have put something else in its place. */
static int finish(P9Request *request, P9Fid *folder, const char *name, uint32_t mode, uint32_t gid, dev_t rdev)
{
    P9Server *server = request->server;
    mode_t expected = mode & S_IFMT;
    P9Node *node;
    if (server->security == P9_SECURITY_MAPPED && !S_ISDIR(mode))
        expected = S_IFREG;
    int result = p9_node_find(server, folder->node, name, &node);
    if (result < 0)
        return result;
    result = node->type != expected ? -ESTALE : p9_attr_init(server, node->fd, mode, folder->uid, gid, rdev);
    if (result == 0)
        result = p9_put_qid(server, request->reply, node);
    p9_node_unref(server, node);
    return result;
}

static int finish_or_undo(P9Request *request, P9Fid *folder, const char *name, uint32_t mode, uint32_t gid,
                          dev_t rdev)
{
    int result = finish(request, folder, name, mode, gid, rdev);
    if (result < 0)
        unlinkat(folder->node->fd, name, S_ISDIR(mode) ? AT_REMOVEDIR : 0);
    return result;
}

int p9_mkdir(P9Request *request)
{
    P9Fid *folder = p9_get_fid(request);
    char name[P9_NAME_SIZE];
    p9_get_name(&request->in, name);
    uint32_t mode = p9_get32(&request->in), gid = p9_get32(&request->in);
    int result = p9_check(request);
    if (result < 0)
        return result;
    if (mkdirat(folder->node->fd, name, 0700) < 0)
        return -errno;
    return finish_or_undo(request, folder, name, S_IFDIR | (mode & 07777), gid, 0);
}

/* A mapped file that stands for something else: regular, with `text` in it. */
static int make_mapped(P9Request *request, P9Fid *folder, const char *name, const char *text)
{
    int fd = p9_open_beneath(request->server, folder->node->fd, name, O_WRONLY | O_CREAT | O_EXCL, 0600);
    if (fd < 0)
        return fd;
    size_t length = strlen(text);
    ssize_t written = write(fd, text, length);
    int result = written == (ssize_t)length ? 0 : written < 0 ? -errno : -ENOSPC;
    close(fd);
    if (result < 0)
        unlinkat(folder->node->fd, name, 0);
    return result;
}

int p9_mknod(P9Request *request)
{
    P9Reader *in = &request->in;
    P9Fid *folder = p9_get_fid(request);
    char name[P9_NAME_SIZE];
    p9_get_name(in, name);
    uint32_t mode = p9_get32(in), major = p9_get32(in), minor = p9_get32(in), gid = p9_get32(in);
    int result = p9_check(request);
    if (result < 0)
        return result;
    if ((mode & S_IFMT) == 0)
        mode |= S_IFREG;
    bool device = S_ISCHR(mode) || S_ISBLK(mode);
    if (!device && !S_ISREG(mode) && !S_ISFIFO(mode) && !S_ISSOCK(mode))
        return -EINVAL;
    if (request->server->security == P9_SECURITY_MAPPED)
        result = make_mapped(request, folder, name, "");
    else if (device)
        result = -EPERM; /* a device of the host's, for everybody there: only mapped */
    else if (mknodat(folder->node->fd, name, (mode & S_IFMT) | 0600, 0) < 0)
        result = -errno;
    if (result < 0)
        return result;
    return finish_or_undo(request, folder, name, mode & (S_IFMT | 07777), gid, device ? makedev(major, minor) : 0);
}

int p9_symlink(P9Request *request)
{
    P9Fid *folder = p9_get_fid(request);
    char name[P9_NAME_SIZE], target[P9_TARGET_SIZE];
    p9_get_name(&request->in, name);
    p9_get_string(&request->in, target, sizeof target);
    uint32_t gid = p9_get32(&request->in);
    int result = p9_check(request);
    if (result < 0)
        return result;
    if (request->server->security == P9_SECURITY_MAPPED)
        result = target[0] ? make_mapped(request, folder, name, target) : -ENOENT;
    else if (symlinkat(target, folder->node->fd, name) < 0)
        result = -errno;
    return result < 0 ? result : finish_or_undo(request, folder, name, S_IFLNK | 0777, gid, 0);
}

static ssize_t read_mapped_link(const P9Node *node, char *target)
{
    int fd = p9_node_reopen(node, O_RDONLY);
    if (fd < 0)
        return fd;
    ssize_t bytes = read(fd, target, P9_TARGET_SIZE - 1);
    if (bytes < 0)
        bytes = -errno;
    close(fd);
    return bytes;
}

int p9_readlink(P9Request *request)
{
    P9Fid *fid = p9_get_fid(request);
    char target[P9_TARGET_SIZE];
    P9Attr attr;
    int result = p9_check(request);
    if (result == 0)
        result = p9_attr_get(request->server, fid->node, &attr);
    if (result < 0)
        return result;
    if (!S_ISLNK(attr.mode))
        return -EINVAL;
    ssize_t bytes;
    if (fid->node->type == S_IFLNK) {
        bytes = readlinkat(fid->node->fd, "", target, sizeof target);
        if (bytes < 0)
            bytes = -errno;
    } else {
        bytes = read_mapped_link(fid->node, target);
    }
    if (bytes < 0)
        return (int)bytes;
    p9_put_string(request->reply, target, strnlen(target, (size_t)bytes));
    return 0;
}
