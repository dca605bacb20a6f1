/* What the parts of the file server share; the interface is p9_server.h. */
#ifndef PYVMM_P9_INTERNAL_H
#define PYVMM_P9_INTERNAL_H

#include <sys/stat.h>
#include <sys/types.h>

#include "p9/p9_server.h"
#include "p9/p9_wire.h"

#define P9_MAX_FIDS        65536u
#define P9_FID_BUCKETS     1024u
#define P9_MAX_MSIZE       (1u << 20)
#define P9_MIN_MSIZE       4096u
#define P9_MAX_WALK        16u
#define P9_XATTR_MAX       65536u     /* XATTR_SIZE_MAX and XATTR_LIST_MAX */
#define P9_XATTR_BYTES_MAX (8u << 20) /* of all fids that hold one */
#define P9_FOLDER_BYTES    65536u     /* of folder entries in one reply */
#define P9_NO_ID           UINT32_MAX /* no uid or gid is given */

/* ---- Files on the host: p9_node.c --------------------------------------------------------------------------- */

/* Something in the shared folder, by an O_PATH descriptor. */
typedef struct P9Node {
    uint32_t refs;
    int fd;
    mode_t type; /* S_IFMT of the host's file */
    dev_t dev;
    ino_t ino;
    struct P9Node *parent; /* where it was found, and as what: for rename and remove by fid; NULL: the root */
    char name[];
} P9Node;

/* What the client is told of a file. */
typedef struct P9Attr {
    uint32_t mode, uid, gid;
    dev_t dev, rdev;
    uint64_t ino, nlink, size, blksize, blocks;
    struct timespec atime, mtime, ctime, btime;
    bool has_btime;
} P9Attr;

/* The file behind a descriptor, as a path that any call takes: a link of /proc that leads to it and nowhere else.
 */
typedef struct P9Path {
    char text[32];
} P9Path;

P9Path p9_path(int fd);
/* A name beneath a folder's descriptor: a descriptor, or -errno. `flags` as of open(2). */
int p9_open_beneath(P9Server *server, int folder, const char *name, int flags, mode_t mode);
/* Open for input and output: a regular file, or a folder for its entries; nothing else. -errno. */
int p9_node_reopen(const P9Node *node, int flags);
int p9_node_root(P9Server *server, const char *path, P9Node **node);
int p9_node_find(P9Server *server, P9Node *folder, const char *name, P9Node **node);
/* Of a file that is open already, found in `folder` as `name`. */
int p9_node_of(P9Server *server, int fd, P9Node *folder, const char *name, P9Node **node);
P9Node *p9_node_ref(P9Node *node);
void p9_node_unref(P9Server *server, P9Node *node);
/* Is it still in the folder where it was found, under that name? -ENOENT, -ESTALE. */
int p9_node_check_name(const P9Node *node);

/* ---- Owner, mode and kind: p9_attr.c ------------------------------------------------------------------------ */

int p9_attr_get(P9Server *server, const P9Node *node, P9Attr *attr);
void p9_attr_put_qid(const P9Server *server, P9Writer *writer, const P9Attr *attr);
uint64_t p9_qid_path(const P9Server *server, dev_t dev, uint64_t ino);
int p9_put_qid(P9Server *server, P9Writer *writer, const P9Node *node);
int p9_attr_set_mode(P9Server *server, const P9Node *node, uint32_t mode);
int p9_attr_set_owner(P9Server *server, const P9Node *node, uint32_t uid, uint32_t gid);
/* Of a file that was made just now by this server: owner, mode with its kind, and device number. */
int p9_attr_init(P9Server *server, int fd, uint32_t mode, uint32_t uid, uint32_t gid, dev_t rdev);
/* Does the file system keep user extended attributes? */
int p9_attr_probe(int fd);

/* ---- Extended attributes: p9_xattr.c ------------------------------------------------------------------------ */

typedef struct P9Xattr {
    char name[P9_NAME_SIZE];
    uint32_t flags;
    uint32_t size;
    uint32_t filled; /* by writes so far */
    uint8_t data[];
} P9Xattr;

/* ---- Fids: p9_fid.c ----------------------------------------------------------------------------------------- */

enum P9FidKind { P9_FID_PATH, P9_FID_FILE, P9_FID_FOLDER, P9_FID_XATTR_READ, P9_FID_XATTR_WRITE };

typedef struct P9Fid {
    uint32_t id;
    uint32_t uid; /* who attached; P9_NO_ID */
    enum P9FidKind kind;
    P9Node *node;
    int io;         /* of a file or folder that is open */
    bool writable;  /* `io` */
    off_t position; /* of an open folder's descriptor; -1: not known */
    P9Xattr *xattr;
    struct P9Fid *next;
} P9Fid;

P9Fid *p9_fid_find(P9Server *server, uint32_t id);
/* Takes the reference of `node` over when it succeeds. -EEXIST, -EMFILE, -ENOMEM. */
int p9_fid_new(P9Server *server, uint32_t id, uint32_t uid, P9Node *node, P9Fid **fid);
void p9_fid_free(P9Server *server, P9Fid *fid);
void p9_fids_free(P9Server *server);
/* Room for one more descriptor? Counted until it is given back. */
int p9_take_descriptor(P9Server *server);
void p9_give_descriptor(P9Server *server);

/* ---- The server and its requests: p9_server.c --------------------------------------------------------------- */

struct P9Server {
    enum P9Security security;
    bool read_only;
    bool no_openat2;
    uint32_t msize; /* 0: no version was negotiated */
    uint32_t max_descriptors;
    uint32_t xattr_bytes;
    P9Node *root;
    P9Fid *fids[P9_FID_BUCKETS];
    P9Counters counters;
    uint8_t head[P9_REPLY_MAX];                  /* the message, or its beginning */
    _Alignas(8) uint8_t folder[P9_FOLDER_BYTES]; /* entries, from the host and for the client */
    uint8_t entries[P9_FOLDER_BYTES];
    struct iovec slice[P9_MAX_SEGMENTS];
    P9Writer reply;
};

typedef struct P9Request {
    P9Server *server;
    P9Reader in;
    P9Writer *reply;
    const struct iovec *in_iov, *out_iov;
    uint32_t in_count, out_count;
    uint64_t in_bytes;  /* of the message, as its header says */
    uint64_t out_bytes; /* room for the reply: of the buffer, and at most msize */
    size_t payload;     /* bytes that were put behind `reply` already */
} P9Request;

/* The fid that comes next in the message; NULL and the reader's error set when there is none such. */
P9Fid *p9_get_fid(P9Request *request);
int p9_check(const P9Request *request); /* 0, or -errno of what could not be read */

/* Each answers one message: 0 with the reply written, or -errno. */
typedef int (*P9Handler)(P9Request *request);
int p9_lopen(P9Request *request); /* p9_file.c */
int p9_lcreate(P9Request *request);
int p9_read(P9Request *request);
int p9_write(P9Request *request);
int p9_fsync(P9Request *request);
int p9_lock(P9Request *request);
int p9_getlock(P9Request *request);
int p9_readdir(P9Request *request); /* p9_folder.c */
int p9_mkdir(P9Request *request);
int p9_mknod(P9Request *request);
int p9_symlink(P9Request *request);
int p9_readlink(P9Request *request);
int p9_link(P9Request *request); /* p9_names.c */
int p9_rename(P9Request *request);
int p9_renameat(P9Request *request);
int p9_unlinkat(P9Request *request);
int p9_remove(P9Request *request);
int p9_getattr(P9Request *request); /* p9_attr_ops.c */
int p9_setattr(P9Request *request);
int p9_statfs(P9Request *request);
int p9_xattrwalk(P9Request *request); /* p9_xattr.c */
int p9_xattrcreate(P9Request *request);
int p9_xattr_read(P9Request *request, P9Fid *fid, uint64_t offset, uint32_t count);
int p9_xattr_write(P9Request *request, P9Fid *fid, uint64_t offset, uint32_t count);
int p9_xattr_finish(const P9Fid *fid); /* at clunk */

#endif
