/* Host files under images: see file.h. OFD locks: fcntl(2), `F_OFD_SETLK`; O_DIRECT: open(2). */
#include "block/file.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/iov.h"

enum { DIRECT_ALIGN = 4096, BOUNCE_MAX = 1 << 20 };
enum { LOCK_PERMISSION = 100, LOCK_UNSHARED = 200, PERM_READ = 0, PERM_WRITE = 1, PERM_RESIZE = 3 };

/* ---- locks ---- */

static int lock_byte(int fd, int command, short type, off_t byte, struct flock *out)
{
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    int result = fcntl(fd, command, &lock);
    if (out)
        *out = lock;
    return result < 0 ? -errno : 0;
}

/* OFD locks carry no pid (F_OFD_GETLK says -1), so look through /proc for a process that has the file open. */
static int find_holder(int fd)
{
    struct stat ours, theirs;
    DIR *proc = opendir("/proc");
    int found = 0;
    if (!proc)
        return 0;
    if (fstat(fd, &ours) < 0) {
        closedir(proc);
        return 0;
    }
    for (struct dirent *process; !found && (process = readdir(proc));) {
        int pid = atoi(process->d_name);
        if (pid <= 0 || pid == getpid())
            continue;
        char name[600];
        snprintf(name, sizeof name, "/proc/%d/fd", pid);
        DIR *fds = opendir(name);
        if (!fds)
            continue;
        for (struct dirent *entry; !found && (entry = readdir(fds));) {
            snprintf(name, sizeof name, "/proc/%d/fd/%s", pid, entry->d_name);
            if (entry->d_name[0] != '.' && stat(name, &theirs) == 0 && theirs.st_dev == ours.st_dev &&
                theirs.st_ino == ours.st_ino)
                found = pid;
        }
        closedir(fds);
    }
    closedir(proc);
    return found;
}

static int error_in_use(BlockFile *file, const char *what, Error *error)
{
    int pid = find_holder(file->fd);
    char holder[64] = "this or another process";
    if (pid)
        snprintf(holder, sizeof holder, "another process (pid %d)", pid);
    return error_set(error, EBUSY,
                     "%s: is in use by %s (no \"%s\" lock): stop that one first, or work on an overlay", file->path,
                     holder, what);
}

static int file_lock(BlockFile *file, Error *error)
{
    static const char *const names[] = {"consistent read", "write", "write unchanged", "resize"};
    const unsigned used =
        file->read_only ? 1u << PERM_READ : 1u << PERM_READ | 1u << PERM_WRITE | 1u << PERM_RESIZE;
    const unsigned unshared = 1u << PERM_WRITE | 1u << PERM_RESIZE;

    for (int n = 0; n < 4; n++) {
        int result = 0;
        if (used >> n & 1)
            result = lock_byte(file->fd, F_OFD_SETLK, F_RDLCK, LOCK_PERMISSION + n, NULL);
        if (!result && unshared >> n & 1)
            result = lock_byte(file->fd, F_OFD_SETLK, F_RDLCK, LOCK_UNSHARED + n, NULL);
        if (result == -EAGAIN || result == -EACCES)
            return error_in_use(file, names[n], error);
        if (result)
            return 0; /* a file system without locks: as without them */
    }
    for (int n = 0; n < 4; n++) {
        struct flock seen;
        if (used >> n & 1 && !lock_byte(file->fd, F_OFD_GETLK, F_WRLCK, LOCK_UNSHARED + n, &seen) &&
            seen.l_type != F_UNLCK)
            return error_in_use(file, names[n], error);
        if (unshared >> n & 1 && !lock_byte(file->fd, F_OFD_GETLK, F_WRLCK, LOCK_PERMISSION + n, &seen) &&
            seen.l_type != F_UNLCK)
            return error_in_use(file, names[n], error);
    }
    return 0;
}

/* ---- open and close ---- */

static BlockFile *file_new(int fd, const char *path, int cache, bool read_only)
{
    BlockFile *file = calloc(1, sizeof *file);
    if (!file || !(file->path = strdup(path))) {
        free(file);
        close(fd);
        return NULL;
    }
    file->fd = fd;
    file->cache = cache;
    file->read_only = read_only;
    file->regular = true;
    pthread_rwlock_init(&file->bounce, NULL);
    return file;
}

void file_close(BlockFile *file)
{
    if (!file)
        return;
    close(file->fd);
    pthread_rwlock_destroy(&file->bounce);
    free(file->path);
    free(file);
}

static int open_fd(const char *path, int cache, bool read_only, Error *error)
{
    int mode = (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK; /* do not hang on a named pipe */
    int fd = open(path, mode | (cache == BLOCK_CACHE_NONE ? O_DIRECT : 0));
    if (fd >= 0)
        return fd;
    if (errno == EINVAL && cache == BLOCK_CACHE_NONE)
        return error_set(error, EINVAL, "%s: this file system has no O_DIRECT for cache=none: use cache=writeback",
                         path);
    if (errno == EACCES || errno == EROFS || errno == EPERM)
        return error_set(error, errno, "%s: cannot open for %s: %s%s", path, read_only ? "reading" : "writing",
                         strerror(errno), read_only ? "" : ": change its mode, or open it read-only");
    return error_set(error, errno, "%s: cannot open: %s", path, strerror(errno));
}

BlockFile *file_open(const char *path, int cache, uint32_t flags, Error *error)
{
    bool read_only = flags & BLOCK_READ_ONLY;
    int fd = open_fd(path, cache, read_only, error);
    if (fd < 0)
        return NULL;
    struct stat st;
    if (fstat(fd, &st) < 0 || !(S_ISREG(st.st_mode) || S_ISBLK(st.st_mode))) {
        error_set(error, S_ISDIR(st.st_mode) ? EISDIR : EINVAL, "%s: is %s: give a disk image or a block device",
                  path, S_ISDIR(st.st_mode) ? "a directory" : "not a regular file");
        close(fd);
        return NULL;
    }
    BlockFile *file = file_new(fd, path, cache, read_only);
    if (!file) {
        error_set(error, ENOMEM, "%s: out of memory", path);
        return NULL;
    }
    file->regular = S_ISREG(st.st_mode);
    file->direct = cache == BLOCK_CACHE_NONE;
    if (!(flags & BLOCK_NO_LOCK) && file_lock(file, error)) {
        file_close(file);
        return NULL;
    }
    return file;
}

BlockFile *file_open_temporary(const char *name, Error *error)
{
    const char *folder = getenv("TMPDIR");
    if (!folder || !*folder)
        folder = "/var/tmp";
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/pyvmm-snapshot-XXXXXX", folder);
    int fd = mkostemp(path, O_CLOEXEC);
    if (fd < 0) {
        error_set(error, errno, "%s: cannot make a temporary overlay in %s: %s: set TMPDIR", name, folder,
                  strerror(errno));
        return NULL;
    }
    unlink(path);
    BlockFile *file = file_new(fd, name, BLOCK_CACHE_UNSAFE, false);
    if (!file)
        error_set(error, ENOMEM, "%s: out of memory", name);
    return file;
}

int64_t file_size(const BlockFile *file)
{
    if (file->regular) {
        struct stat st;
        return fstat(file->fd, &st) < 0 ? -errno : st.st_size;
    }
    off_t end = lseek(file->fd, 0, SEEK_END);
    return end < 0 ? -errno : end;
}

int file_truncate(BlockFile *file, uint64_t size)
{
    if (size > INT64_MAX)
        return -EFBIG;
    if (!file->regular)
        return (uint64_t)file_size(file) >= size ? 0 : -ENOSPC;
    return ftruncate(file->fd, (off_t)size) < 0 ? -errno : 0;
}

/* ---- transfers ---- */

/* Beyond the end are zeros, unless `whole`: then somebody has cut the file. */
static int pread_all(int fd, void *data, size_t length, uint64_t offset, bool whole)
{
    char *at = data;
    while (length) {
        ssize_t got = pread(fd, at, length, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -errno;
        if (got == 0 && whole)
            return -EIO;
        if (got == 0) {
            memset(at, 0, length);
            return 0;
        }
        at += got, offset += (size_t)got, length -= (size_t)got;
    }
    return 0;
}

static int pwrite_all(int fd, const void *data, size_t length, uint64_t offset)
{
    const char *at = data;
    while (length) {
        ssize_t put = pwrite(fd, at, length, (off_t)offset);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return -errno;
        if (put == 0)
            return -EIO;
        at += put, offset += (size_t)put, length -= (size_t)put;
    }
    return 0;
}

/* One vectored call; the rare remainder of a short transfer goes on piece by piece. */
static int transfer(BlockFile *file, const struct iovec *iov, int iovcnt, uint64_t offset, bool write)
{
    ssize_t done;
    do {
        done = write ? pwritev(file->fd, iov, iovcnt, (off_t)offset) : preadv(file->fd, iov, iovcnt, (off_t)offset);
    } while (done < 0 && errno == EINTR);
    if (done < 0)
        return -errno;
    size_t skip = (size_t)done;
    for (int i = 0; i < iovcnt; i++) {
        if (skip >= iov[i].iov_len) {
            skip -= iov[i].iov_len, offset += iov[i].iov_len;
            continue;
        }
        char *at = (char *)iov[i].iov_base + skip;
        size_t rest = iov[i].iov_len - skip;
        int result = write ? pwrite_all(file->fd, at, rest, offset + skip)
                           : pread_all(file->fd, at, rest, offset + skip, file->whole);
        if (result)
            return result;
        offset += iov[i].iov_len, skip = 0;
    }
    return 0;
}

static bool is_aligned(const struct iovec *iov, int iovcnt, uint64_t offset)
{
    uint64_t all = offset;
    for (int i = 0; i < iovcnt; i++)
        all |= (uintptr_t)iov[i].iov_base | iov[i].iov_len;
    return all % DIRECT_ALIGN == 0;
}

static int bounce_read(BlockFile *file, const struct iovec *iov, int iovcnt, uint64_t offset, void *buffer)
{
    size_t total = iov_length(iov, iovcnt);
    for (size_t done = 0; done < total;) {
        uint64_t start = (offset + done) & ~(uint64_t)(DIRECT_ALIGN - 1);
        size_t head = (size_t)(offset + done - start), piece = MIN(total - done, BOUNCE_MAX - head);
        size_t span = (head + piece + DIRECT_ALIGN - 1) & ~(size_t)(DIRECT_ALIGN - 1);
        int result = pread_all(file->fd, buffer, span, start, false);
        if (result)
            return result;
        iov_from_buffer(iov, iovcnt, done, (char *)buffer + head, piece);
        done += piece;
    }
    return 0;
}

/* The last partial block of a file: written without O_DIRECT, so that the file's length stays what it should be. */
static int write_tail(BlockFile *file, const void *data, size_t length, uint64_t offset)
{
    int flags = fcntl(file->fd, F_GETFL);
    if (flags < 0 || fcntl(file->fd, F_SETFL, flags & ~O_DIRECT) < 0)
        return -errno;
    int result = pwrite_all(file->fd, data, length, offset);
    if (!result && fdatasync(file->fd) < 0)
        result = -errno;
    if (fcntl(file->fd, F_SETFL, flags) < 0 && !result)
        result = -errno;
    return result;
}

static int bounce_write(BlockFile *file, const struct iovec *iov, int iovcnt, uint64_t offset, char *buffer)
{
    size_t total = iov_length(iov, iovcnt);
    int64_t end = file_size(file);
    if (end < 0)
        return (int)end;
    for (size_t done = 0; done < total;) {
        uint64_t start = (offset + done) & ~(uint64_t)(DIRECT_ALIGN - 1);
        size_t head = (size_t)(offset + done - start), piece = MIN(total - done, BOUNCE_MAX - head);
        size_t span = (head + piece + DIRECT_ALIGN - 1) & ~(size_t)(DIRECT_ALIGN - 1);
        int result = 0;
        if (head)
            result = pread_all(file->fd, buffer, DIRECT_ALIGN, start, false);
        if (!result && head + piece < span && (!head || span > DIRECT_ALIGN))
            result =
                pread_all(file->fd, buffer + span - DIRECT_ALIGN, DIRECT_ALIGN, start + span - DIRECT_ALIGN, false);
        if (result)
            return result;
        iov_to_buffer(iov, iovcnt, done, buffer + head, piece);
        if (file->regular && start + span > (uint64_t)end && head + piece < span)
            result = write_tail(
                file, buffer,
                MAX(head + piece, (uint64_t)end > start ? (size_t)MIN((uint64_t)end - start, span) : 0), start);
        else
            result = pwrite_all(file->fd, buffer, span, start);
        if (result)
            return result;
        done += piece;
    }
    return 0;
}

static int bounce(BlockFile *file, const struct iovec *iov, int iovcnt, uint64_t offset, bool write)
{
    void *buffer;
    if (posix_memalign(&buffer, DIRECT_ALIGN, BOUNCE_MAX))
        return -ENOMEM;
    if (write)
        pthread_rwlock_wrlock(&file->bounce);
    else
        pthread_rwlock_rdlock(&file->bounce);
    int result =
        write ? bounce_write(file, iov, iovcnt, offset, buffer) : bounce_read(file, iov, iovcnt, offset, buffer);
    pthread_rwlock_unlock(&file->bounce);
    free(buffer);
    return result;
}

static int file_transfer(BlockFile *file, const struct iovec *iov, int iovcnt, uint64_t offset, bool write)
{
    if (offset > INT64_MAX)
        return write ? -EFBIG : -EIO;
    if (!file->direct)
        return transfer(file, iov, iovcnt, offset, write);
    if (!is_aligned(iov, iovcnt, offset))
        return bounce(file, iov, iovcnt, offset, write);
    pthread_rwlock_rdlock(&file->bounce);
    int result = transfer(file, iov, iovcnt, offset, write);
    pthread_rwlock_unlock(&file->bounce);
    return result;
}

int file_preadv(BlockFile *file, const struct iovec *iov, int iovcnt, uint64_t offset)
{
    return file_transfer(file, iov, iovcnt, offset, false);
}

int file_pwritev(BlockFile *file, const struct iovec *iov, int iovcnt, uint64_t offset)
{
    return file_transfer(file, iov, iovcnt, offset, true);
}

int file_pread(BlockFile *file, void *data, size_t length, uint64_t offset)
{
    struct iovec iov = {data, length};
    return file_transfer(file, &iov, 1, offset, false);
}

int file_pwrite(BlockFile *file, const void *data, size_t length, uint64_t offset)
{
    struct iovec iov = {(void *)(uintptr_t)data, length};
    return file_transfer(file, &iov, 1, offset, true);
}

int file_flush(BlockFile *file)
{
    if (file->cache == BLOCK_CACHE_UNSAFE || file->read_only)
        return 0;
    return fdatasync(file->fd) < 0 ? -errno : 0;
}

/* ---- holes ---- */

int file_punch_hole(BlockFile *file, uint64_t offset, uint64_t length)
{
    if (fallocate(file->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)length) < 0)
        return -errno;
    return 0;
}

int file_zero_range(BlockFile *file, uint64_t offset, uint64_t length, bool may_unmap)
{
    if (!length)
        return 0;
    int64_t end = file_size(file);
    bool inside = end >= 0 && offset + length <= (uint64_t)end; /* fallocate with KEEP_SIZE does not extend */
    if (inside && may_unmap && !file_punch_hole(file, offset, length))
        return 0;
    if (inside && !fallocate(file->fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)length))
        return 0;
    size_t step = (size_t)MIN(length, (uint64_t)BOUNCE_MAX);
    void *zeros;
    if (posix_memalign(&zeros, DIRECT_ALIGN, step))
        return -ENOMEM;
    memset(zeros, 0, step);
    int result = 0;
    while (length && !result) {
        size_t piece = (size_t)MIN(length, (uint64_t)step);
        result = file_pwrite(file, zeros, piece, offset);
        offset += piece, length -= piece;
    }
    free(zeros);
    return result;
}

bool file_is_data(BlockFile *file, uint64_t offset, uint64_t *length)
{
    off_t data = lseek(file->fd, (off_t)offset, SEEK_DATA);
    if (data < 0)
        return errno != ENXIO || !file->regular; /* ENXIO: a hole to the end; else the question is not understood */
    if ((uint64_t)data > offset) {
        *length = MIN(*length, (uint64_t)data - offset);
        return false;
    }
    off_t hole = lseek(file->fd, (off_t)offset, SEEK_HOLE);
    if (hole > 0 && (uint64_t)hole > offset)
        *length = MIN(*length, (uint64_t)hole - offset);
    return true;
}
