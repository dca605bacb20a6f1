#include <stdlib.h>
#include <unistd.h>

#include "p9/p9_internal.h"

static P9Fid **bucket(P9Server *server, uint32_t id) { return &server->fids[id * 2654435761u >> 22]; }
_Static_assert(P9_FID_BUCKETS == 1u << 10, "bucket() takes 10 bits");

P9Fid *p9_fid_find(P9Server *server, uint32_t id)
{
    P9Fid *fid = *bucket(server, id);
    while (fid && fid->id != id)
        fid = fid->next;
    return fid;
}

int p9_fid_new(P9Server *server, uint32_t id, uint32_t uid, P9Node *node, P9Fid **fid)
{
    if (id == UINT32_MAX) /* NOFID */
        return -EINVAL;
    if (p9_fid_find(server, id))
        return -EEXIST;
    if (server->counters.fids >= P9_MAX_FIDS)
        return -EMFILE;
    P9Fid *made = malloc(sizeof *made);
    if (!made)
        return -ENOMEM;
    P9Fid **head = bucket(server, id);
    *made = (P9Fid){.id = id, .uid = uid, .node = node, .io = -1, .position = -1, .next = *head};
    *head = made;
    server->counters.fids++;
    if (fid)
        *fid = made;
    return 0;
}

void p9_fid_free(P9Server *server, P9Fid *fid)
{
    P9Fid **link = bucket(server, fid->id);
    while (*link != fid)
        link = &(*link)->next;
    *link = fid->next;
    if (fid->io >= 0) {
        close(fid->io);
        p9_give_descriptor(server);
    }
    if (fid->xattr) {
        server->xattr_bytes -= fid->xattr->size;
        free(fid->xattr);
    }
    p9_node_unref(server, fid->node);
    free(fid);
    server->counters.fids--;
}

void p9_fids_free(P9Server *server)
{
    for (uint32_t i = 0; i < P9_FID_BUCKETS; i++)
        while (server->fids[i])
            p9_fid_free(server, server->fids[i]);
}

int p9_take_descriptor(P9Server *server)
{
    if (server->counters.descriptors >= server->max_descriptors)
        return -EMFILE;
    server->counters.descriptors++;
    return 0;
}

void p9_give_descriptor(P9Server *server) { server->counters.descriptors--; }
