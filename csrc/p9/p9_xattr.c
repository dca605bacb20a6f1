/*
 * Extended attributes: Txattrwalk makes a fid that reads one (or the list of names), Txattrcreate one that is
 * written and takes effect when it is clunked.
 *
 * Passed on are user.*, and with security none security.* and the POSIX ACLs. Mapped, user.virtfs.* are the
 * server's own: they are not listed, and the POSIX ACLs are kept under them.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/xattr.h>

#include "p9/p9_internal.h"

#define OWN_PREFIX "user.virtfs."
#define ACL_PREFIX "system.posix_acl_"

enum { OWN_LENGTH = sizeof OWN_PREFIX - 1, ACL_LENGTH = sizeof ACL_PREFIX - 1 };

static bool starts_with(const char *text, const char *prefix) { return !strncmp(text, prefix, strlen(prefix)); }

/* What the host calls it. -EOPNOTSUPP: this kind is not passed on. */
static int host_name(const P9Server *server, const char *name, char host[P9_NAME_SIZE])
{
    bool mapped = server->security == P9_SECURITY_MAPPED, acl = starts_with(name, ACL_PREFIX);
    if (mapped && starts_with(name, OWN_PREFIX))
        return -EPERM;
    if (!starts_with(name, "user.") && !acl && (mapped || !starts_with(name, "security.")))
        return -EOPNOTSUPP;
    if (strlen(name) + (acl && mapped ? OWN_LENGTH : 0) >= P9_NAME_SIZE)
        return -ERANGE;
    host[0] = '\0';
    if (acl && mapped)
        strcat(host, OWN_PREFIX);
    strcat(host, name);
    return 0;
}

/* The names that the client may see, in place; returns their bytes. */
static size_t client_names(const P9Server *server, char *names, size_t bytes)
{
    size_t kept = 0;
    for (size_t at = 0; at < bytes;) {
        size_t length = strnlen(names + at, bytes - at) + 1;
        char *name = names + at;
        at += length;
        if (at > bytes)
            break;
        char host[P9_NAME_SIZE];
        if (server->security == P9_SECURITY_MAPPED && starts_with(name, OWN_PREFIX ACL_PREFIX)) {
            name += OWN_LENGTH;
            length -= OWN_LENGTH;
        }
        if (length > sizeof host || host_name(server, name, host) < 0)
            continue;
        memmove(names + kept, name, length);
        kept += length;
    }
    return kept;
}

static int xattr_new(P9Server *server, uint32_t size, P9Xattr **xattr)
{
    if (size > P9_XATTR_BYTES_MAX - server->xattr_bytes)
        return -ENOSPC;
    *xattr = calloc(1, sizeof **xattr + size);
    if (!*xattr)
        return -ENOMEM;
    (*xattr)->size = size;
    server->xattr_bytes += size;
    return 0;
}

/* The value, or the names: in server->folder. Returns the bytes. */
static ssize_t fetch(P9Server *server, const P9Node *node, const char *name)
{
    P9Path path = p9_path(node->fd);
    char *buffer = (char *)server->folder, host[P9_NAME_SIZE];
    _Static_assert(P9_FOLDER_BYTES >= P9_XATTR_MAX, "a value fits");
    if (name[0] == '\0') {
        ssize_t bytes = listxattr(path.text, buffer, P9_XATTR_MAX);
        return bytes < 0 ? -errno : (ssize_t)client_names(server, buffer, (size_t)bytes);
    }
    int result = host_name(server, name, host);
    if (result < 0)
        return result == -EPERM ? -ENODATA : result;
    ssize_t bytes = getxattr(path.text, host, buffer, P9_XATTR_MAX);
    return bytes < 0 ? -errno : bytes;
}

int p9_xattrwalk(P9Request *request)
{
    P9Server *server = request->server;
    P9Fid *fid = p9_get_fid(request), *made;
    uint32_t new_id = p9_get32(&request->in);
    char name[P9_NAME_SIZE];
    p9_get_string(&request->in, name, sizeof name);
    int result = p9_check(request);
    if (result < 0)
        return result;
    ssize_t bytes = fetch(server, fid->node, name);
    if (bytes < 0)
        return (int)bytes;
    P9Xattr *xattr;
    result = xattr_new(server, (uint32_t)bytes, &xattr);
    if (result < 0)
        return result;
    memcpy(xattr->data, server->folder, (size_t)bytes);
    result = p9_fid_new(server, new_id, fid->uid, fid->node, &made);
    if (result < 0) {
        server->xattr_bytes -= xattr->size;
        free(xattr);
        return result;
    }
    p9_node_ref(fid->node);
    made->kind = P9_FID_XATTR_READ;
    made->xattr = xattr;
    p9_put64(request->reply, (uint64_t)bytes);
    return 0;
}

int p9_xattrcreate(P9Request *request)
{
    P9Fid *fid = p9_get_fid(request);
    char name[P9_NAME_SIZE], host[P9_NAME_SIZE];
    p9_get_string(&request->in, name, sizeof name);
    uint64_t size = p9_get64(&request->in);
    uint32_t flags = p9_get32(&request->in);
    int result = p9_check(request);
    if (result == 0)
        result = host_name(request->server, name, host);
    if (result < 0)
        return result;
    if (fid->kind != P9_FID_PATH)
        return -EBADF;
    if (size > P9_XATTR_MAX)
        return -E2BIG;
    if (flags & ~(uint32_t)(XATTR_CREATE | XATTR_REPLACE))
        return -EINVAL;
    result = xattr_new(request->server, (uint32_t)size, &fid->xattr);
    if (result < 0)
        return result;
    fid->kind = P9_FID_XATTR_WRITE;
    fid->xattr->flags = flags;
    memcpy(fid->xattr->name, host, sizeof host);
    return 0;
}

int p9_xattr_read(P9Request *request, P9Fid *fid, uint64_t offset, uint32_t count)
{
    const P9Xattr *xattr = fid->xattr;
    if (offset > xattr->size)
        return -EINVAL;
    count = (uint32_t)MIN(count, xattr->size - offset);
    p9_put32(request->reply, count);
    request->payload =
        p9_iov_scatter(request->out_iov, request->out_count, P9_HEADER_BYTES + 4, xattr->data + offset, count);
    return 0;
}

int p9_xattr_write(P9Request *request, P9Fid *fid, uint64_t offset, uint32_t count)
{
    P9Xattr *xattr = fid->xattr;
    if (offset != xattr->filled || count > xattr->size - xattr->filled)
        return -EINVAL;
    P9Server *server = request->server;
    uint32_t pieces = p9_iov_slice(request->in_iov, request->in_count, P9_HEADER_BYTES + 16, count, server->slice,
                                   P9_MAX_SEGMENTS);
    xattr->filled += (uint32_t)p9_iov_gather(server->slice, pieces, xattr->data + offset, count);
    p9_put32(request->reply, count);
    return 0;
}

/* Linux's client removes one by replacing it with nothing. */
int p9_xattr_finish(const P9Fid *fid)
{
    const P9Xattr *xattr = fid->xattr;
    P9Path path = p9_path(fid->node->fd);
    if (xattr->filled != xattr->size)
        return -EINVAL;
    int result = xattr->size == 0 && xattr->flags & XATTR_REPLACE
                     ? removexattr(path.text, xattr->name)
                     : setxattr(path.text, xattr->name, xattr->data, xattr->size, (int)xattr->flags);
    return result < 0 ? -errno : 0;
}
