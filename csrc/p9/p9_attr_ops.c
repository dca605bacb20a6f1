/* Tgetattr, Tsetattr, Tstatfs. */
#include <fcntl.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "p9/p9_internal.h"

enum GetattrMask { GETATTR_BASIC = 0x7ff, GETATTR_BTIME = 0x800 };

enum SetattrMask {
    SETATTR_MODE = 0x1,
    SETATTR_UID = 0x2,
    SETATTR_GID = 0x4,
    SETATTR_SIZE = 0x8,
    SETATTR_ATIME = 0x10,
    SETATTR_MTIME = 0x20,
    SETATTR_CTIME = 0x40,
    SETATTR_ATIME_SET = 0x80, /* to a time that is given; now otherwise */
    SETATTR_MTIME_SET = 0x100,
};

static void put_time(P9Writer *writer, const struct timespec *time)
{
    p9_put64(writer, (uint64_t)time->tv_sec);
    p9_put64(writer, (uint64_t)time->tv_nsec);
}

int p9_getattr(P9Request *request)
{
    P9Fid *fid = p9_get_fid(request);
    p9_get64(&request->in); /* what is asked for: all is told */
    P9Attr attr;
    int result = p9_check(request);
    if (result == 0)
        result = p9_attr_get(request->server, fid->node, &attr);
    if (result < 0)
        return result;
    P9Writer *reply = request->reply;
    p9_put64(reply, GETATTR_BASIC | (attr.has_btime ? GETATTR_BTIME : 0));
    p9_attr_put_qid(request->server, reply, &attr);
    p9_put32(reply, attr.mode);
    p9_put32(reply, attr.uid);
    p9_put32(reply, attr.gid);
    p9_put64(reply, attr.nlink);
    p9_put64(reply, attr.rdev);
    p9_put64(reply, attr.size);
    p9_put64(reply, attr.blksize);
    p9_put64(reply, attr.blocks);
    put_time(reply, &attr.atime);
    put_time(reply, &attr.mtime);
    put_time(reply, &attr.ctime);
    put_time(reply, &attr.btime);
    p9_put64(reply, 0); /* generation and data version: not told */
    p9_put64(reply, 0);
    return 0;
}

static int set_size(const P9Fid *fid, const P9Attr *attr, uint64_t size)
{
    if (!S_ISREG(attr->mode))
        return S_ISDIR(attr->mode) ? -EISDIR : -EINVAL;
    if (size > INT64_MAX)
        return -EFBIG;
    /* A file that is open for writing may have a mode that forbids it by now. */
    int result = fid->kind == P9_FID_FILE && fid->writable ? ftruncate(fid->io, (off_t)size)
                                                           : truncate(p9_path(fid->node->fd).text, (off_t)size);
    return result < 0 ? -errno : 0;
}

static struct timespec time_to_set(uint32_t valid, uint32_t change, uint32_t given, const struct timespec *time)
{
    if (!(valid & change))
        return (struct timespec){.tv_nsec = UTIME_OMIT};
    return valid & given ? *time : (struct timespec){.tv_nsec = UTIME_NOW};
}

static int set_times(const P9Node *node, uint32_t valid, const struct timespec given[2])
{
    if ((uint64_t)given[0].tv_nsec >= 1000000000u || (uint64_t)given[1].tv_nsec >= 1000000000u)
        return -EINVAL;
    struct timespec times[2] = {time_to_set(valid, SETATTR_ATIME, SETATTR_ATIME_SET, &given[0]),
                                time_to_set(valid, SETATTR_MTIME, SETATTR_MTIME_SET, &given[1])};
    return utimensat(AT_FDCWD, p9_path(node->fd).text, times, 0) < 0 ? -errno : 0;
}

int p9_setattr(P9Request *request)
{
    P9Reader *in = &request->in;
    P9Fid *fid = p9_get_fid(request);
    uint32_t valid = p9_get32(in), mode = p9_get32(in), uid = p9_get32(in), gid = p9_get32(in);
    uint64_t size = p9_get64(in);
    struct timespec times[2];
    for (int i = 0; i < 2; i++) {
        times[i].tv_sec = (time_t)p9_get64(in);
        times[i].tv_nsec = (long)p9_get64(in);
    }
    P9Attr attr;
    int result = p9_check(request);
    if (result == 0)
        result = p9_attr_get(request->server, fid->node, &attr);
    if (result == 0 && valid & SETATTR_SIZE)
        result = set_size(fid, &attr, size);
    if (result == 0 && valid & (SETATTR_UID | SETATTR_GID)) /* clears set-user-ID: the mode comes after it */
        result = p9_attr_set_owner(request->server, fid->node, valid & SETATTR_UID ? uid : P9_NO_ID,
                                   valid & SETATTR_GID ? gid : P9_NO_ID);
    if (result == 0 && valid & SETATTR_MODE)
        result = p9_attr_set_mode(request->server, fid->node, mode);
    if (result == 0 && valid & (SETATTR_ATIME | SETATTR_MTIME))
        result = set_times(fid->node, valid, times);
    return result;
}

int p9_statfs(P9Request *request)
{
    P9Fid *fid = p9_get_fid(request);
    struct statfs stat;
    int result = p9_check(request);
    if (result == 0 && fstatfs(fid->node->fd, &stat) < 0)
        result = -errno;
    if (result < 0)
        return result;
    P9Writer *reply = request->reply;
    p9_put32(reply, (uint32_t)stat.f_type);
    p9_put32(reply, (uint32_t)stat.f_bsize);
    p9_put64(reply, stat.f_blocks);
    p9_put64(reply, stat.f_bfree);
    p9_put64(reply, stat.f_bavail);
    p9_put64(reply, stat.f_files);
    p9_put64(reply, stat.f_ffree);
    p9_put64(reply, (uint64_t)(uint32_t)stat.f_fsid.__val[0] | (uint64_t)(uint32_t)stat.f_fsid.__val[1] << 32);
    p9_put32(reply, (uint32_t)MIN((uint64_t)stat.f_namelen, P9_NAME_SIZE - 1));
    return 0;
}
