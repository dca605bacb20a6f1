/*
 * What a file is: owner, mode and kind, the host's own or kept in extended attributes.
 *
 * Mapped, a file made by the client is a regular file (mode 0600) or a folder (0700) of the host, and
 * user.virtfs.uid, .gid, .mode (32 bits, little-endian) and .rdev (64) say what it is to the client: the names and
 * forms of QEMU's mapped-xattr. A file without them is what the host says that it is.
 */
#include <fcntl.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "p9/p9_internal.h"

#define MAPPED_UID  "user.virtfs.uid"
#define MAPPED_GID  "user.virtfs.gid"
#define MAPPED_MODE "user.virtfs.mode"
#define MAPPED_RDEV "user.virtfs.rdev"

enum QidType { QID_FOLDER = 0x80, QID_SYMLINK = 0x02, QID_FILE = 0 };

static bool get_mapped(const char *path, const char *name, uint32_t *value)
{
    uint8_t bytes[4];
    if (getxattr(path, name, bytes, sizeof bytes) != sizeof bytes)
        return false;
    *value = load_le32(bytes);
    return true;
}

static int set_mapped(const char *path, const char *name, uint32_t value)
{
    uint8_t bytes[4];
    store_le32(bytes, value);
    return setxattr(path, name, bytes, sizeof bytes, 0) < 0 ? -errno : 0;
}

/* The kind that a file of the host may stand for: a folder is one, a regular file can be any but a folder. */
static uint32_t mapped_mode(uint32_t host, uint32_t mapped)
{
    uint32_t kind = mapped & S_IFMT;
    if (!S_ISREG(host) || kind == 0 || S_ISDIR(kind))
        kind = host & S_IFMT;
    return kind | (mapped & 07777);
}

static void apply_mapped(int fd, P9Attr *attr)
{
    if (!S_ISREG(attr->mode) && !S_ISDIR(attr->mode))
        return; /* nothing else has user attributes (xattr(7)) */
    P9Path path = p9_path(fd);
    uint32_t mode;
    uint8_t rdev[8];
    get_mapped(path.text, MAPPED_UID, &attr->uid);
    get_mapped(path.text, MAPPED_GID, &attr->gid);
    if (get_mapped(path.text, MAPPED_MODE, &mode))
        attr->mode = mapped_mode(attr->mode, mode);
    if (getxattr(path.text, MAPPED_RDEV, rdev, sizeof rdev) == sizeof rdev)
        attr->rdev = load_le64(rdev);
}

static struct timespec time_of(const struct statx_timestamp *stamp)
{
    return (struct timespec){.tv_sec = stamp->tv_sec, .tv_nsec = stamp->tv_nsec};
}

static int get_attr(const P9Server *server, int fd, P9Attr *attr)
{
    struct statx stat;
    if (statx(fd, "", AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS | STATX_BTIME, &stat) < 0)
        return -errno;
    *attr = (P9Attr){.mode = stat.stx_mode,
                     .uid = stat.stx_uid,
                     .gid = stat.stx_gid,
                     .dev = makedev(stat.stx_dev_major, stat.stx_dev_minor),
                     .rdev = makedev(stat.stx_rdev_major, stat.stx_rdev_minor),
                     .ino = stat.stx_ino,
                     .nlink = stat.stx_nlink,
                     .size = stat.stx_size,
                     .blksize = stat.stx_blksize,
                     .blocks = stat.stx_blocks,
                     .atime = time_of(&stat.stx_atime),
                     .mtime = time_of(&stat.stx_mtime),
                     .ctime = time_of(&stat.stx_ctime),
                     .btime = time_of(&stat.stx_btime),
                     .has_btime = stat.stx_mask & STATX_BTIME};
    if (server->security == P9_SECURITY_MAPPED)
        apply_mapped(fd, attr);
    return 0;
}

int p9_attr_get(P9Server *server, const P9Node *node, P9Attr *attr) { return get_attr(server, node->fd, attr); }

/* A number for the file that no other has: its inode number, mixed with the file system's where another one is
 * mounted in the folder. */
uint64_t p9_qid_path(const P9Server *server, dev_t dev, uint64_t ino)
{
    if (dev == server->root->dev)
        return ino;
    uint64_t mixed = ((uint64_t)dev + 0x9e3779b97f4a7c15ull) * 0xbf58476d1ce4e5b9ull;
    return (mixed ^ mixed >> 31 ^ ino) | 1ull << 63;
}

void p9_attr_put_qid(const P9Server *server, P9Writer *writer, const P9Attr *attr)
{
    p9_put8(writer, S_ISDIR(attr->mode) ? QID_FOLDER : S_ISLNK(attr->mode) ? QID_SYMLINK : QID_FILE);
    p9_put32(writer, (uint32_t)((uint64_t)attr->mtime.tv_sec ^ (uint64_t)attr->mtime.tv_nsec ^ attr->size << 8));
    p9_put64(writer, p9_qid_path(server, attr->dev, attr->ino));
}

int p9_put_qid(P9Server *server, P9Writer *writer, const P9Node *node)
{
    P9Attr attr;
    int result = p9_attr_get(server, node, &attr);
    if (result == 0)
        p9_attr_put_qid(server, writer, &attr);
    return result;
}

int p9_attr_set_mode(P9Server *server, const P9Node *node, uint32_t mode)
{
    P9Path path = p9_path(node->fd);
    if (server->security == P9_SECURITY_NONE)
        return node->type == S_IFLNK ? -EOPNOTSUPP : chmod(path.text, mode & 07777) < 0 ? -errno : 0;
    P9Attr attr;
    int result = p9_attr_get(server, node, &attr);
    return result < 0 ? result : set_mapped(path.text, MAPPED_MODE, (attr.mode & S_IFMT) | (mode & 07777));
}

int p9_attr_set_owner(P9Server *server, const P9Node *node, uint32_t uid, uint32_t gid)
{
    if (server->security == P9_SECURITY_NONE)
        return fchownat(node->fd, "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
    P9Path path = p9_path(node->fd);
    int result = uid == P9_NO_ID ? 0 : set_mapped(path.text, MAPPED_UID, uid);
    return result < 0 || gid == P9_NO_ID ? result : set_mapped(path.text, MAPPED_GID, gid);
}

static int init_mapped(const char *path, uint32_t mode, uint32_t uid, uint32_t gid, dev_t rdev)
{
    static const uint32_t nobody = 65534;
    int result = set_mapped(path, MAPPED_UID, uid == P9_NO_ID ? nobody : uid);
    if (result == 0)
        result = set_mapped(path, MAPPED_GID, gid == P9_NO_ID ? nobody : gid);
    if (result == 0)
        result = set_mapped(path, MAPPED_MODE, mode);
    if (result == 0 && (S_ISCHR(mode) || S_ISBLK(mode))) {
        uint8_t bytes[8];
        store_le64(bytes, rdev);
        result = setxattr(path, MAPPED_RDEV, bytes, sizeof bytes, 0) < 0 ? -errno : 0;
    }
    return result;
}

/* Without mapping the owner is set as far as this process may: the file is the host user's own otherwise. The mode
 * comes after the owner, whose change clears set-user-ID. */
int p9_attr_init(P9Server *server, int fd, uint32_t mode, uint32_t uid, uint32_t gid, dev_t rdev)
{
    P9Path path = p9_path(fd);
    if (server->security == P9_SECURITY_MAPPED)
        return init_mapped(path.text, mode, uid, gid, rdev);
    if (fchownat(fd, "", uid, gid, AT_EMPTY_PATH) < 0 && errno != EPERM)
        return -errno;
    return S_ISLNK(mode) || chmod(path.text, mode & 07777) == 0 ? 0 : -errno;
}

int p9_attr_probe(int fd)
{
    P9Path path = p9_path(fd);
    uint8_t bytes[4];
    if (getxattr(path.text, MAPPED_MODE, bytes, sizeof bytes) < 0 && errno != ENODATA && errno != ERANGE)
        return -errno;
    return 0;
}
