#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "p9/p9_internal.h"

P9Path p9_path(int fd)
{
    P9Path path;
    snprintf(path.text, sizeof path.text, "/proc/self/fd/%d", fd);
    return path;
}

/* openat2(2): no link is followed, and the kernel itself keeps the look-up below `folder`. The name is one
 * component, so one openat that does not follow it comes to the same where there is no openat2. */
int p9_open_beneath(P9Server *server, int folder, const char *name, int flags, mode_t mode)
{
    flags |= O_NOFOLLOW | O_CLOEXEC;
    if (!server->no_openat2) {
        struct open_how how = {.flags = (uint64_t)flags,
                               .mode = mode,
                               .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS};
        long fd = syscall(SYS_openat2, folder, name, &how, sizeof how);
        if (fd >= 0)
            return (int)fd;
        if (errno != ENOSYS)
            return -errno;
        server->no_openat2 = true;
    }
    int fd = openat(folder, name, flags, mode);
    return fd < 0 ? -errno : fd;
}

int p9_node_reopen(const P9Node *node, int flags)
{
    if (node->type != S_IFREG && node->type != S_IFDIR)
        return node->type == S_IFLNK ? -ELOOP : -ENXIO;
    int fd = open(p9_path(node->fd).text, flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    return fd < 0 ? -errno : fd;
}

/* Takes `fd` over. */
static int node_new(P9Server *server, int fd, P9Node *parent, const char *name, P9Node **node)
{
    struct stat stat;
    size_t length = strlen(name) + 1;
    int result = fstat(fd, &stat) < 0 ? -errno : p9_take_descriptor(server);
    if (result < 0) {
        close(fd);
        return result;
    }
    P9Node *made = malloc(sizeof *made + length);
    if (!made) {
        close(fd);
        p9_give_descriptor(server);
        return -ENOMEM;
    }
    *made = (P9Node){.refs = 1,
                     .fd = fd,
                     .type = stat.st_mode & S_IFMT,
                     .dev = stat.st_dev,
                     .ino = stat.st_ino,
                     .parent = parent ? p9_node_ref(parent) : NULL};
    memcpy(made->name, name, length);
    *node = made;
    return 0;
}

int p9_node_root(P9Server *server, const char *path, P9Node **node)
{
    int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? -errno : node_new(server, fd, NULL, "", node);
}

int p9_node_find(P9Server *server, P9Node *folder, const char *name, P9Node **node)
{
    int fd = p9_open_beneath(server, folder->fd, name, O_PATH, 0);
    return fd < 0 ? fd : node_new(server, fd, folder, name, node);
}

int p9_node_of(P9Server *server, int fd, P9Node *folder, const char *name, P9Node **node)
{
    int path = open(p9_path(fd).text, O_PATH | O_CLOEXEC);
    return path < 0 ? -errno : node_new(server, path, folder, name, node);
}

P9Node *p9_node_ref(P9Node *node)
{
    node->refs++;
    return node;
}

void p9_node_unref(P9Server *server, P9Node *node)
{
    while (node && --node->refs == 0) {
        P9Node *parent = node->parent;
        close(node->fd);
        p9_give_descriptor(server);
        free(node);
        node = parent;
    }
}

int p9_node_check_name(const P9Node *node)
{
    if (!node->parent)
        return -EBUSY; /* the root has no name */
    struct stat stat;
    if (fstatat(node->parent->fd, node->name, &stat, AT_SYMLINK_NOFOLLOW) < 0)
        return -errno;
    return stat.st_dev == node->dev && stat.st_ino == node->ino ? 0 : -ESTALE;
}
