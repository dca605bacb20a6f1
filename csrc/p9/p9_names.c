/* Names: Tlink, Trename, Trenameat, Tunlinkat, Tremove. Each is one call relative to descriptors of folders. */
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "p9/p9_internal.h"

#define UNLINK_FOLDER 0x200u /* AT_REMOVEDIR, in the protocol's flags */

int p9_link(P9Request *request)
{
    P9Fid *folder = p9_get_fid(request), *fid = p9_get_fid(request);
    char name[P9_NAME_SIZE];
    p9_get_name(&request->in, name);
    int result = p9_check(request);
    if (result < 0)
        return result;
    /* AT_EMPTY_PATH would need CAP_DAC_READ_SEARCH; the link of /proc leads to the file itself, also to a symlink.
     */
    if (linkat(AT_FDCWD, p9_path(fid->node->fd).text, folder->node->fd, name, AT_SYMLINK_FOLLOW) < 0)
        return -errno;
    return 0;
}

int p9_renameat(P9Request *request)
{
    char from[P9_NAME_SIZE], to[P9_NAME_SIZE];
    P9Fid *old_folder = p9_get_fid(request);
    p9_get_name(&request->in, from);
    P9Fid *new_folder = p9_get_fid(request);
    p9_get_name(&request->in, to);
    int result = p9_check(request);
    if (result < 0)
        return result;
    return renameat(old_folder->node->fd, from, new_folder->node->fd, to) < 0 ? -errno : 0;
}

int p9_rename(P9Request *request)
{
    char name[P9_NAME_SIZE];
    P9Fid *fid = p9_get_fid(request), *folder = p9_get_fid(request);
    p9_get_name(&request->in, name);
    int result = p9_check(request);
    if (result == 0)
        result = p9_node_check_name(fid->node);
    if (result < 0)
        return result;
    P9Node *node = fid->node, *moved;
    if (renameat(node->parent->fd, node->name, folder->node->fd, name) < 0)
        return -errno;
    /* The fid is still the file, which has another name now: found again where it went. */
    if (p9_node_find(request->server, folder->node, name, &moved) < 0)
        return 0;
    if (moved->dev == node->dev && moved->ino == node->ino && fid->kind == P9_FID_PATH) {
        fid->node = moved;
        moved = node;
    }
    p9_node_unref(request->server, moved);
    return 0;
}

int p9_unlinkat(P9Request *request)
{
    char name[P9_NAME_SIZE];
    P9Fid *folder = p9_get_fid(request);
    p9_get_name(&request->in, name);
    uint32_t flags = p9_get32(&request->in);
    int result = p9_check(request);
    if (result < 0)
        return result;
    if (flags & ~UNLINK_FOLDER)
        return -EINVAL;
    return unlinkat(folder->node->fd, name, flags ? AT_REMOVEDIR : 0) < 0 ? -errno : 0;
}

/* The fid is gone afterwards, whether the file is or not. */
int p9_remove(P9Request *request)
{
    P9Fid *fid = p9_get_fid(request);
    int result = p9_check(request);
    if (result < 0)
        return result;
    const P9Node *node = fid->node;
    result = request->server->read_only ? -EROFS : p9_node_check_name(node);
    if (result == 0 && unlinkat(node->parent->fd, node->name, node->type == S_IFDIR ? AT_REMOVEDIR : 0) < 0)
        result = -errno;
    p9_fid_free(request->server, fid);
    return result;
}
