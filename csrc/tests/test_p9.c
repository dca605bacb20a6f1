/* The 9P2000.L file server: each message that Linux's client sends, on a folder of this host (diod's protocol.md).
 */
#include <pthread.h>

#include "p9/p9_internal.h"
#include "p9_client.h"

enum { RDONLY = 0, WRONLY = 1, RDWR = 2, EXCL = 0200, TRUNC = 01000, FOLDER = 0200000 };

static void up(Client *client, enum P9Security security)
{
    client_new(client, security, false, 0);
    client_mount(client, 0);
}

static void test_session(void)
{
    Client client;
    client_new(&client, P9_SECURITY_NONE, false, 0);
    CHECK_EQ(client_do(&client, TATTACH, 1u, UINT32_MAX, "", "", 0u), EPROTO);
    CHECK_EQ(client_do(&client, TVERSION, 8192u, "9P2000.u"), 0);
    CHECK_EQ(client_take(&client, 4), 8192);
    CHECK_EQ(memcmp(client.at, "\7\0unknown", 9), 0);
    CHECK_EQ(client_do(&client, TATTACH, 1u, UINT32_MAX, "", "", 0u), EPROTO);
    CHECK_EQ(client_do(&client, TVERSION, 100u, "9P2000.L"), EMSGSIZE);
    CHECK_EQ(client_do(&client, TVERSION, UINT32_MAX, "9P2000.L"), 0);
    CHECK_EQ(client_take(&client, 4), 1 << 20);
    client_mount(&client, 0);
    CHECK_EQ(client_do(&client, TATTACH, (uint32_t)ROOT, UINT32_MAX, "", "", 0u), EEXIST);
    CHECK_EQ(client_do(&client, TATTACH, 2u, UINT32_MAX, "", "/etc", 0u), ENOENT);
    CHECK_EQ(client_do(&client, TATTACH, UINT32_MAX, UINT32_MAX, "", "", 0u), EINVAL);
    CHECK_EQ(client_do(&client, 102, "wssw", 5u, "", "", 0u), EOPNOTSUPP); /* Tauth */
    CHECK_EQ(client_do(&client, 255, ""), EOPNOTSUPP);
    CHECK_EQ(client_do(&client, TFLUSH, 77), 0);
    CHECK_EQ(client_do(&client, TSTATFS, (uint32_t)ROOT), 0);
    CHECK_EQ(client_do(&client, TSTATFS, 99u), EBADF);
    CHECK_EQ(client_do(&client, TCLUNK, 99u), EBADF);
    client_mount(&client, 0); /* a new session has no fids: ROOT is free again */
    client_free(&client);
}

static void test_files(void)
{
    Client client;
    up(&client, P9_SECURITY_NONE);
    CHECK_EQ(client_create(&client, 2, "file", RDWR | EXCL, 0640), 0);
    CHECK_EQ(client_do(&client, TWRITE, 2u, (uint64_t)3, "hello", 5u), 0);
    CHECK_EQ(client_take(&client, 4), 5);
    CHECK_EQ(client_do(&client, TREAD, 2u, (uint64_t)0, 100u), 0);
    CHECK_EQ(client_take(&client, 4), 8);
    CHECK_EQ(memcmp(client.at, "\0\0\0hello", 8), 0);
    CHECK_EQ(client_do(&client, TREAD, 2u, (uint64_t)8, 100u), 0);
    CHECK_EQ(client_take(&client, 4), 0);
    CHECK_EQ(client_do(&client, TREAD, 2u, UINT64_MAX, 100u), EINVAL);
    CHECK_EQ(client_do(&client, TWRITE, 2u, UINT64_MAX, "x", 1u), EFBIG);
    CHECK_EQ(client_do(&client, TWRITE, 2u, (uint64_t)INT64_MAX, "x", 1u), EFBIG);
    CHECK_EQ(client_do(&client, TFSYNC, 2u, 0u), 0);
    CHECK_EQ(client_do(&client, TFSYNC, 2u, 1u), 0);
    CHECK_EQ(client_do(&client, TFSYNC, (uint32_t)ROOT, 0u), EBADF);
    CHECK_EQ(client_do(&client, TLOPEN, 2u, 0u), EBADF);
    client_clunk(&client, 2);
    CHECK_EQ(client_attr_of(&client, "file").mode, S_IFREG | 0640);
    CHECK_EQ(client_create(&client, 2, "file", RDWR | EXCL, 0600), EEXIST);
    CHECK_EQ(client_create(&client, 2, "file", RDWR | TRUNC, 0600), 0); /* there already: opened */
    CHECK_EQ(client_attr(&client, 2).size, 0);
    CHECK_EQ(client_attr(&client, 2).mode, S_IFREG | 0640);
    client_clunk(&client, 2);
    CHECK_EQ(client_open(&client, 2, "file", RDONLY), 0);
    CHECK_EQ(client_do(&client, TWRITE, 2u, (uint64_t)0, "x", 1u), EBADF);
    client_clunk(&client, 2);
    CHECK_EQ(client_open(&client, 2, "file", FOLDER), ENOTDIR);
    CHECK_EQ(client_open(&client, 2, "file", 3), EINVAL);
    CHECK_EQ(client_create(&client, 2, "ro", WRONLY, 0400), 0); /* its mode comes into force at the next open */
    CHECK_EQ(client_do(&client, TWRITE, 2u, (uint64_t)0, "once", 4u), 0);
    client_clunk(&client, 2);
    P9Counters counters;
    p9_server_counters(client.server, &counters);
    CHECK_EQ(counters.bytes_written, 9);
    CHECK_EQ(counters.bytes_read, 8);
    client_free(&client);
}

static void test_attributes(void)
{
    Client client;
    up(&client, P9_SECURITY_NONE);
    client_write_file(client.folder, "file", "0123456789");
    CHECK_EQ(client_walk(&client, ROOT, 2, "file"), 0);
    uint64_t none = 0;
    CHECK_EQ(client_do(&client, TSETATTR, 2u, 1u | 8u, 0751u, 0u, 0u, (uint64_t)4, none, none, none, none), 0);
    CHECK_EQ(client_attr(&client, 2).mode, S_IFREG | 0751);
    CHECK_EQ(client_attr(&client, 2).size, 4);
    CHECK_EQ(client_do(&client, TSETATTR, 2u, 0x20u | 0x100u, 0u, 0u, 0u, none, none, none, (uint64_t)12345, none),
             0);
    CHECK_EQ(client_attr(&client, 2).mtime, 12345);
    CHECK_EQ(client_do(&client, TSETATTR, 2u, 0x20u, 0u, 0u, 0u, none, none, none, none, none), 0);
    CHECK(client_attr(&client, 2).mtime > 12345);
    CHECK_EQ(client_do(&client, TSETATTR, 2u, 0x120u, 0u, 0u, 0u, none, none, none, none, UINT64_MAX), EINVAL);
    CHECK_EQ(client_do(&client, TSETATTR, 2u, 8u, 0u, 0u, 0u, UINT64_MAX, none, none, none, none), EFBIG);
    CHECK_EQ(client_do(&client, TSETATTR, (uint32_t)ROOT, 8u, 0u, 0u, 0u, none, none, none, none, none), EISDIR);
    if (geteuid() == 0) {
        CHECK_EQ(client_do(&client, TSETATTR, 2u, 6u, 0u, 1001u, 1002u, none, none, none, none, none), 0);
        CHECK_EQ(client_attr(&client, 2).uid, 1001);
        CHECK_EQ(client_attr(&client, 2).gid, 1002);
    }
    client_free(&client);
}

static void test_names(void)
{
    Client client;
    up(&client, P9_SECURITY_NONE);
    CHECK_EQ(client_do(&client, TMKDIR, (uint32_t)ROOT, "a", 02770u, 0u), 0);
    CHECK_EQ(client_take(&client, 1), 0x80);
    CHECK_EQ(client_attr_of(&client, "a").mode, S_IFDIR | 02770);
    CHECK_EQ(client_do(&client, TMKDIR, (uint32_t)ROOT, "a", 0700u, 0u), EEXIST);
    CHECK_EQ(client_walk(&client, ROOT, 3, "a"), 0);
    CHECK_EQ(client_create(&client, 2, "one", RDWR, 0600), 0);
    client_clunk(&client, 2);
    CHECK_EQ(client_do(&client, TRENAMEAT, (uint32_t)ROOT, "one", 3u, "two"), 0);
    CHECK_EQ(client_do(&client, 110, "wwhss", (uint32_t)ROOT, 4u, 2, "a", "two"), 0);
    CHECK_EQ(client_take(&client, 2), 2);
    CHECK_EQ(client_do(&client, TLINK, (uint32_t)ROOT, 4u, "hard"), 0);
    CHECK_EQ(client_attr_of(&client, "hard").nlink, 2);
    CHECK_EQ(client_do(&client, TRENAME, 4u, (uint32_t)ROOT, "three"), 0);
    CHECK_EQ(client_do(&client, TRENAME, 4u, 3u, "four"), 0); /* from where it is now */
    CHECK_EQ(client_do(&client, TRENAME, (uint32_t)ROOT, 3u, "root"), EBUSY);
    CHECK_EQ(client_do(&client, TUNLINKAT, (uint32_t)ROOT, "a", 0x200u), ENOTEMPTY);
    CHECK_EQ(client_do(&client, TUNLINKAT, (uint32_t)ROOT, "a", 0u), EISDIR);
    CHECK_EQ(client_do(&client, TREMOVE, 4u), 0);
    CHECK_EQ(client_do(&client, TCLUNK, 4u), EBADF);
    CHECK_EQ(client_attr_of(&client, "hard").nlink, 1);
    CHECK_EQ(client_do(&client, TUNLINKAT, (uint32_t)ROOT, "a", 0x200u), 0);
    CHECK_EQ(client_do(&client, TUNLINKAT, (uint32_t)ROOT, "hard", 1u), EINVAL);
    CHECK_EQ(client_do(&client, TUNLINKAT, (uint32_t)ROOT, "hard", 0u), 0);
    CHECK_EQ(client_do(&client, TMKNOD, (uint32_t)ROOT, "pipe", S_IFIFO | 0622u, 0u, 0u, 0u), 0);
    CHECK_EQ(client_attr_of(&client, "pipe").mode, S_IFIFO | 0622);
    CHECK_EQ(client_open(&client, 2, "pipe", RDONLY), ENXIO); /* would wait for somebody on the host */
    CHECK_EQ(client_do(&client, TMKNOD, (uint32_t)ROOT, "disk", S_IFBLK | 0600u, 8u, 0u, 0u), EPERM);
    CHECK_EQ(client_do(&client, TMKNOD, (uint32_t)ROOT, "dir", S_IFDIR | 0700u, 0u, 0u, 0u), EINVAL);
    client_free(&client);
}

static void test_partial_walk(void)
{
    Client client;
    up(&client, P9_SECURITY_NONE);
    CHECK_EQ(client_do(&client, TMKDIR, (uint32_t)ROOT, "a", 0700u, 0u), 0);
    CHECK_EQ(client_do(&client, 110, "wwhss", (uint32_t)ROOT, 2u, 2, "a", "missing"), 0);
    CHECK_EQ(client_take(&client, 2), 1);
    CHECK_EQ(client_do(&client, TCLUNK, 2u), EBADF); /* it was not made */
    CHECK_EQ(client_do(&client, 110, "wwhss", (uint32_t)ROOT, 2u, 2, "missing", "a"), ENOENT);
    CHECK_EQ(client_walk(&client, ROOT, 2, "a"), 0);
    CHECK_EQ(client_walk(&client, ROOT, 2, "a"), EBADF); /* taken */
    CHECK_EQ(client_do(&client, 110, "wwh", (uint32_t)ROOT, 3u, 17), EINVAL);
    CHECK_EQ(client_do(&client, 110, "wwh", (uint32_t)ROOT, 3u, 1), EINVAL); /* its name is missing */
    CHECK_EQ(client_walk(&client, 2, 2, ""), 0);
    client_free(&client);
}

/* Every entry once, whatever fits into a reply. */
static void read_folder(Client *client, uint32_t count, uint32_t expected)
{
    uint64_t offset = 0;
    uint32_t seen = 0, bytes;
    CHECK_EQ(client_open(client, 5, "", FOLDER), 0);
    do {
        CHECK_EQ(client_do(client, TREADDIR, 5u, offset, count), 0);
        bytes = (uint32_t)client_take(client, 4);
        CHECK(bytes <= count);
        for (const uint8_t *end = client->at + bytes; client->at < end; seen++) {
            client->at += 13;
            offset = client_take(client, 8);
            client->at++;
            client->at += client_take(client, 2);
        }
    } while (bytes);
    CHECK_EQ(seen, expected);
    CHECK_EQ(client_do(client, TREADDIR, 5u, (uint64_t)0, 10u), EINVAL); /* not even one */
    CHECK_EQ(client_do(client, TREADDIR, 5u, UINT64_MAX, count), EINVAL);
    client_clunk(client, 5);
}

static void test_folders(void)
{
    Client client;
    up(&client, P9_SECURITY_NONE);
    for (uint32_t i = 0; i < 300; i++) {
        char name[200];
        snprintf(name, sizeof name, "%0*u", 1 + (int)i % 150, i);
        CHECK_EQ(client_create(&client, 2, name, WRONLY, 0600), 0);
        client_clunk(&client, 2);
    }
    uint32_t entries = 0;
    DIR *folder = opendir(client.folder);
    while (readdir(folder))
        entries++;
    closedir(folder);
    read_folder(&client, 60000, entries);
    read_folder(&client, 500, entries);
    read_folder(&client, 24 + 150, entries);
    CHECK_EQ(client_do(&client, TREADDIR, (uint32_t)ROOT, (uint64_t)0, 100u), EBADF);
    client_free(&client);
}

static void test_symlinks(enum P9Security security)
{
    Client client;
    up(&client, security);
    char path[128];
    snprintf(path, sizeof path, "%s/host", client.folder);
    CHECK_EQ(symlink("../secret", path), 0);
    CHECK_EQ(client_do(&client, TSYMLINK, (uint32_t)ROOT, "guest", "/etc/passwd", 0u), 0);
    CHECK_EQ(client_take(&client, 1), 2);
    CHECK_EQ(client_attr_of(&client, "guest").mode, S_IFLNK | 0777);
    CHECK_EQ(client_attr_of(&client, "guest").size, 11);
    const char *targets[2][2] = {{"guest", "/etc/passwd"}, {"host", "../secret"}};
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(client_walk(&client, ROOT, 2, targets[i][0]), 0);
        CHECK_EQ(client_do(&client, TREADLINK, 2u), 0);
        CHECK_EQ(client_take(&client, 2), strlen(targets[i][1]));
        CHECK_EQ(memcmp(client.at, targets[i][1], strlen(targets[i][1])), 0);
        /* It is a text, and leads nowhere. */
        CHECK_EQ(client_do(&client, TLOPEN, 2u, 0u), ELOOP);
        CHECK_EQ(client_walk(&client, 2, 3, "x"), ENOTDIR);
        CHECK_EQ(client_do(&client, TSETATTR, 2u, 8u, 0u, 0u, 0u, (uint64_t)0, (uint64_t)0, (uint64_t)0,
                           (uint64_t)0, (uint64_t)0),
                 EINVAL);
        client_clunk(&client, 2);
        CHECK_EQ(client_create(&client, 2, targets[i][0], RDWR | TRUNC, 0600), ELOOP);
        CHECK_EQ(client_do(&client, 110, "wwhss", (uint32_t)ROOT, 3u, 2, targets[i][0], "x"), 0);
        CHECK_EQ(client_take(&client, 2), 1);
    }
    CHECK_EQ(client_do(&client, TREADLINK, (uint32_t)ROOT), EINVAL);
    CHECK_EQ(client_do(&client, TUNLINKAT, (uint32_t)ROOT, "host", 0u), 0);
    client_free(&client);
}

static void test_symlinks_passed_through(void) { test_symlinks(P9_SECURITY_NONE); }
static void test_symlinks_mapped(void) { test_symlinks(P9_SECURITY_MAPPED); }

/* Each message with a name: what is no single component is refused, and nothing outside is seen or changed. */
static void test_names_that_lead_out(void)
{
    static const char *const names[] = {"..", ".", "", "/", "/etc", "a/b", "../secret", "x/../../secret", "./a"};
    Client client;
    up(&client, P9_SECURITY_NONE);
    CHECK_EQ(client_create(&client, 2, "a", RDWR, 0600), 0);
    client_clunk(&client, 2);
    CHECK_EQ(client_walk(&client, ROOT, 2, "a"), 0);
    uint32_t root = ROOT;
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        const char *name = names[i];
        CHECK_EQ(client_do(&client, 110, "wwhs", root, 3u, 1, name), EINVAL);
        CHECK_EQ(client_walk(&client, ROOT, 4, ""), 0);
        CHECK_EQ(client_do(&client, TLCREATE, 4u, name, 2u, 0600u, 0u), EINVAL);
        client_clunk(&client, 4);
        CHECK_EQ(client_do(&client, TMKDIR, root, name, 0700u, 0u), EINVAL);
        CHECK_EQ(client_do(&client, TMKNOD, root, name, S_IFREG | 0600u, 0u, 0u, 0u), EINVAL);
        CHECK_EQ(client_do(&client, TSYMLINK, root, name, "a", 0u), EINVAL);
        CHECK_EQ(client_do(&client, TLINK, root, 2u, name), EINVAL);
        CHECK_EQ(client_do(&client, TRENAME, 2u, root, name), EINVAL);
        CHECK_EQ(client_do(&client, TRENAMEAT, root, "a", root, name), EINVAL);
        CHECK_EQ(client_do(&client, TRENAMEAT, root, name, root, "b"), EINVAL);
        CHECK_EQ(client_do(&client, TUNLINKAT, root, name, 0u), EINVAL);
    }
    uint8_t with_nul[] = {3, 0, 'a', 0, 'b'};
    memcpy(client.sent + 7 + 10, with_nul, sizeof with_nul);
    store_le32(client.sent, 7 + 10 + sizeof with_nul);
    client.sent[4] = 110;
    store_le32(client.sent + 7, ROOT);
    store_le32(client.sent + 11, 3);
    store_le16(client.sent + 15, 1);
    struct iovec in = {client.sent, 7 + 10 + sizeof with_nul}, out = {client.got, sizeof client.got};
    CHECK_EQ(p9_server_handle(client.server, &in, 1, &out, 1), 11);
    CHECK_EQ(load_le32(client.got + 7), EINVAL);
    char longest[300];
    memset(longest, 'n', sizeof longest);
    longest[255] = '\0';
    CHECK_EQ(client_do(&client, TMKDIR, root, longest, 0700u, 0u), 0);
    longest[255] = 'n';
    longest[256] = '\0';
    CHECK_EQ(client_do(&client, TMKDIR, root, longest, 0700u, 0u), ENAMETOOLONG);
    client_free(&client);
}

/* A folder that the host moves away, or puts a link in the place of, leads nowhere new. */
static void test_host_moves_folders(void)
{
    Client client;
    char inside[128], moved[128], link_[128];
    up(&client, P9_SECURITY_NONE);
    snprintf(inside, sizeof inside, "%s/dir", client.folder);
    snprintf(moved, sizeof moved, "%.40s/moved", client.outside);
    snprintf(link_, sizeof link_, "%s/dir", client.folder);
    CHECK_EQ(mkdir(inside, 0755), 0);
    client_write_file(inside, "file", "inside");
    CHECK_EQ(client_walk(&client, ROOT, 2, "dir"), 0);
    CHECK_EQ(rename(inside, moved), 0);
    CHECK_EQ(symlink(client.outside, link_), 0);
    CHECK_EQ(client_walk(&client, 2, 3, "file"), 0); /* the folder that was shared, wherever it is */
    client_clunk(&client, 3);
    CHECK_EQ(client_walk(&client, 2, 3, ".."), EINVAL);
    CHECK_EQ(client_do(&client, 110, "wwhss", (uint32_t)ROOT, 3u, 2, "dir", "secret"), 0);
    CHECK_EQ(client_take(&client, 2), 1); /* the link is found, nothing beneath it */
    CHECK_EQ(client_do(&client, TREMOVE, 2u), ESTALE);
    CHECK_EQ(access(moved, F_OK), 0);
    client_free(&client);
}

typedef struct Swapper {
    char real[128], decoy[128];
    bool stop;
} Swapper;

/* A folder and a link to what lies outside change places, as fast as they can. */
static void *swap(void *opaque)
{
    Swapper *swapper = opaque;
    while (!__atomic_load_n(&swapper->stop, __ATOMIC_ACQUIRE))
        CHECK_EQ(renameat2(AT_FDCWD, swapper->real, AT_FDCWD, swapper->decoy, RENAME_EXCHANGE), 0);
    return NULL;
}

static void swapped(bool no_openat2)
{
    Client client;
    Swapper swapper = {.stop = false};
    pthread_t thread;
    uint32_t found = 0, refused = 0;
    up(&client, P9_SECURITY_NONE);
    client.server->no_openat2 = no_openat2;
    snprintf(swapper.real, sizeof swapper.real, "%s/dir", client.folder);
    snprintf(swapper.decoy, sizeof swapper.decoy, "%s/decoy", client.folder);
    CHECK_EQ(mkdir(swapper.real, 0755), 0);
    client_write_file(swapper.real, "secret", "what may be read");
    CHECK_EQ(symlink(client.outside, swapper.decoy), 0);
    CHECK_EQ(pthread_create(&thread, NULL, swap, &swapper), 0);
    for (uint32_t i = 0; i < 20000; i++) {
        CHECK_EQ(client_do(&client, 110, "wwhss", (uint32_t)ROOT, 2u, 2, "dir", "secret"), 0);
        if (client_take(&client, 2) == 2) {
            CHECK_EQ(client_do(&client, TLOPEN, 2u, 0u), 0);
            CHECK_EQ(client_do(&client, TREAD, 2u, (uint64_t)0, 100u), 0);
            CHECK_EQ(client_take(&client, 4), 16);
            CHECK_EQ(memcmp(client.at, "what may be read", 16), 0);
            client_clunk(&client, 2);
            found++;
        } else {
            refused++;
        }
        if (client_walk(&client, ROOT, 3, "dir") ==
            0) { /* what is made there is made in the folder, or not at all */
            int result = client_do(&client, TMKDIR, 3u, "made", 0700u, 0u);
            CHECK(result == 0 || result == ENOTDIR || result == EEXIST);
            client_clunk(&client, 3);
        }
    }
    __atomic_store_n(&swapper.stop, true, __ATOMIC_RELEASE);
    pthread_join(thread, NULL);
    CHECK(found && refused);
    char made[128];
    snprintf(made, sizeof made, "%.40s/made", client.outside);
    CHECK(access(made, F_OK) < 0);
    client_free(&client);
}

static void test_host_swaps_a_folder_and_a_link(void) { swapped(false); }
static void test_the_same_without_openat2(void) { swapped(true); }

static void test_mapped(void)
{
    Client client;
    client_new(&client, P9_SECURITY_MAPPED, false, 0);
    client_mount(&client, 1234);
    char path[128];
    uint8_t value[8];
    struct stat stat;
    CHECK_EQ(client_create(&client, 2, "file", RDWR, 04751), 0);
    client_clunk(&client, 2);
    ClientAttr attr = client_attr_of(&client, "file");
    CHECK(attr.mode == (S_IFREG | 04751) && attr.uid == 1234 && attr.gid == 100);
    snprintf(path, sizeof path, "%s/file", client.folder);
    CHECK_EQ(lstat(path, &stat), 0);
    CHECK_EQ(stat.st_mode, S_IFREG | 0600);
    CHECK_EQ(getxattr(path, "user.virtfs.uid", value, 8), 4);
    CHECK_EQ(load_le32(value), 1234);
    CHECK_EQ(client_do(&client, TMKNOD, (uint32_t)ROOT, "disk", S_IFBLK | 0660u, 8u, 1u, 6u), 0);
    attr = client_attr_of(&client, "disk");
    CHECK(attr.mode == (S_IFBLK | 0660) && attr.gid == 6 && attr.rdev == makedev(8, 1));
    snprintf(path, sizeof path, "%s/disk", client.folder);
    CHECK_EQ(lstat(path, &stat), 0);
    CHECK_EQ(stat.st_mode, S_IFREG | 0600);
    CHECK_EQ(client_open(&client, 2, "disk", RDWR), ENXIO);
    CHECK_EQ(client_walk(&client, ROOT, 2, "file"), 0);
    uint64_t none = 0;
    CHECK_EQ(client_do(&client, TSETATTR, 2u, 7u, 0600u, 5u, 6u, none, none, none, none, none), 0);
    attr = client_attr(&client, 2);
    CHECK(attr.mode == (S_IFREG | 0600) && attr.uid == 5 && attr.gid == 6);
    /* The server's own attributes are neither seen nor set. */
    CHECK_EQ(client_do(&client, TXATTRWALK, 2u, 3u, ""), 0);
    CHECK_EQ(client_take(&client, 8), 0);
    client_clunk(&client, 3);
    CHECK_EQ(client_do(&client, TXATTRWALK, 2u, 3u, "user.virtfs.uid"), ENODATA);
    CHECK_EQ(client_do(&client, TXATTRCREATE, 2u, "user.virtfs.uid", (uint64_t)4, 0u), EPERM);
    CHECK_EQ(client_do(&client, TXATTRCREATE, 2u, "security.selinux", (uint64_t)4, 0u), EOPNOTSUPP);
    /* A folder is a folder, whatever its attribute says. */
    store_le32(value, S_IFLNK | 0777);
    CHECK_EQ(setxattr(client.folder, "user.virtfs.mode", value, 4, 0), 0);
    CHECK_EQ(client_attr(&client, ROOT).mode, S_IFDIR | 0777);
    client_free(&client);
}

static void test_xattrs(void)
{
    Client client;
    up(&client, P9_SECURITY_NONE);
    client_write_file(client.folder, "file", "");
    CHECK_EQ(client_walk(&client, ROOT, 2, "file"), 0);
    CHECK_EQ(client_walk(&client, 2, 3, ""), 0);
    CHECK_EQ(client_do(&client, TXATTRCREATE, 3u, "user.colour", (uint64_t)6, 1u), 0);
    CHECK_EQ(client_do(&client, TWRITE, 3u, (uint64_t)0, "re", 2u), 0);
    CHECK_EQ(client_do(&client, TWRITE, 3u, (uint64_t)0, "re", 2u), EINVAL);
    CHECK_EQ(client_do(&client, TWRITE, 3u, (uint64_t)2, "ddish", 5u), EINVAL);
    CHECK_EQ(client_do(&client, TWRITE, 3u, (uint64_t)2, "ddis", 4u), 0);
    client_clunk(&client, 3);
    CHECK_EQ(client_do(&client, TXATTRWALK, 2u, 3u, "user.colour"), 0);
    CHECK_EQ(client_take(&client, 8), 6);
    CHECK_EQ(client_do(&client, TREAD, 3u, (uint64_t)2, 100u), 0);
    CHECK_EQ(client_take(&client, 4), 4);
    CHECK_EQ(memcmp(client.at, "ddis", 4), 0);
    CHECK_EQ(client_do(&client, TREAD, 3u, (uint64_t)7, 100u), EINVAL);
    client_clunk(&client, 3);
    CHECK_EQ(client_do(&client, TXATTRWALK, 2u, 3u, ""), 0);
    CHECK_EQ(client_take(&client, 8), 12);
    client_clunk(&client, 3);
    CHECK_EQ(client_walk(&client, 2, 3, ""), 0);
    CHECK_EQ(client_do(&client, TXATTRCREATE, 3u, "user.colour", (uint64_t)5, 0u), 0);
    CHECK_EQ(client_do(&client, TCLUNK, 3u), EINVAL); /* not all was written: nothing is set, and the fid is gone */
    CHECK_EQ(client_walk(&client, 2, 3, ""), 0);
    CHECK_EQ(client_do(&client, TXATTRCREATE, 3u, "user.colour", (uint64_t)0, 2u), 0); /* remove */
    client_clunk(&client, 3);
    CHECK_EQ(client_do(&client, TXATTRWALK, 2u, 3u, "user.colour"), ENODATA);
    CHECK_EQ(client_do(&client, TXATTRWALK, 2u, 3u, "trusted.x"), EOPNOTSUPP);
    CHECK_EQ(client_do(&client, TXATTRCREATE, 2u, "user.big", (uint64_t)65537, 0u), E2BIG);
    for (uint32_t fid = 10; fid < 10 + 128; fid++) { /* 8 MiB of them and no more */
        CHECK_EQ(client_walk(&client, 2, fid, ""), 0);
        CHECK_EQ(client_do(&client, TXATTRCREATE, fid, "user.big", (uint64_t)65536, 0u), 0);
    }
    CHECK_EQ(client_do(&client, TXATTRCREATE, 2u, "user.big", (uint64_t)65536, 0u), ENOSPC);
    client_free(&client);
}

static void test_locks(void)
{
    Client client;
    up(&client, P9_SECURITY_NONE);
    CHECK_EQ(client_create(&client, 2, "file", RDWR, 0600), 0);
    uint64_t start = 5, length = 10;
    CHECK_EQ(client_do(&client, TLOCK, 2u, 1, 0u, start, length, 77u, "guest"), 0);
    CHECK_EQ(client_take(&client, 1), 0);
    CHECK_EQ(client_do(&client, TLOCK, 2u, 9, 0u, start, length, 77u, "guest"), EINVAL);
    CHECK_EQ(client_do(&client, TGETLOCK, 2u, 1, start, length, 77u, "guest"), 0);
    CHECK_EQ(client_take(&client, 1), 2);
    client_free(&client);
}

static void test_read_only(void)
{
    Client client;
    client_new(&client, P9_SECURITY_NONE, true, 0);
    client_write_file(client.folder, "file", "text");
    client_mount(&client, 0);
    uint32_t root = ROOT;
    uint64_t none = 0;
    CHECK_EQ(client_open(&client, 2, "file", RDONLY), 0);
    CHECK_EQ(client_do(&client, TREAD, 2u, none, 10u), 0);
    CHECK_EQ(client_do(&client, TWRITE, 2u, none, "x", 1u), EBADF);
    client_clunk(&client, 2);
    CHECK_EQ(client_open(&client, 2, "file", RDWR), EROFS);
    CHECK_EQ(client_open(&client, 2, "file", TRUNC), EROFS);
    CHECK_EQ(client_create(&client, 2, "new", RDWR, 0600), EROFS);
    CHECK_EQ(client_do(&client, TMKDIR, root, "d", 0700u, 0u), EROFS);
    CHECK_EQ(client_do(&client, TMKNOD, root, "n", S_IFIFO | 0600u, 0u, 0u, 0u), EROFS);
    CHECK_EQ(client_do(&client, TSYMLINK, root, "s", "file", 0u), EROFS);
    CHECK_EQ(client_do(&client, TRENAMEAT, root, "file", root, "f"), EROFS);
    CHECK_EQ(client_do(&client, TUNLINKAT, root, "file", 0u), EROFS);
    CHECK_EQ(client_walk(&client, ROOT, 2, "file"), 0);
    CHECK_EQ(client_do(&client, TLINK, root, 2u, "hard"), EROFS);
    CHECK_EQ(client_do(&client, TRENAME, 2u, root, "f"), EROFS);
    CHECK_EQ(client_do(&client, TSETATTR, 2u, 1u, 0777u, 0u, 0u, none, none, none, none, none), EROFS);
    CHECK_EQ(client_do(&client, TXATTRCREATE, 2u, "user.x", none, 0u), EROFS);
    CHECK_EQ(client_do(&client, TREMOVE, 2u), EROFS);
    CHECK_EQ(client_attr_of(&client, "file").size, 4);
    client_free(&client);
}

static void test_descriptors_are_bounded(void)
{
    Client client;
    client_new(&client, P9_SECURITY_NONE, false, 20);
    client_write_file(client.folder, "file", "text");
    client_mount(&client, 0);
    uint32_t fid = 10;
    while (client_walk(&client, ROOT, fid, "file") == 0)
        fid++;
    CHECK_EQ(load_le32(client.got + 7), EMFILE);
    CHECK_EQ(fid, 10 + 19);
    CHECK_EQ(client_do(&client, TLOPEN, 10u, 0u), EMFILE);
    client_clunk(&client, 11);
    CHECK_EQ(client_do(&client, TLOPEN, 10u, 0u), 0);
    CHECK_EQ(client_do(&client, TREAD, 10u, (uint64_t)0, 10u), 0);
    for (uint32_t clone = 100; clone < 200; clone++) /* the same file needs no more of them */
        CHECK_EQ(client_walk(&client, ROOT, clone, ""), 0);
    client_free(&client);
}

static void test_malformed(void)
{
    Client client;
    up(&client, P9_SECURITY_NONE);
    struct iovec in = {client.sent, 0}, out = {client.got, sizeof client.got};
    for (in.iov_len = 0; in.iov_len < 7; in.iov_len++)
        CHECK_EQ(p9_server_handle(client.server, &in, 1, &out, 1), 0);
    for (uint32_t type = 0; type < 256; type++) { /* every message without its fields, and one that claims more */
        for (uint32_t claimed = 0; claimed < 20; claimed++) {
            memset(client.sent, 0xff, 64);
            store_le32(client.sent, claimed);
            client.sent[4] = (uint8_t)type;
            if (type == 108 && claimed >= 9 && claimed <= 12)
                continue; /* a whole Tflush */
            in.iov_len = 12;
            out.iov_len = sizeof client.got;
            CHECK_EQ(p9_server_handle(client.server, &in, 1, &out, 1), 11);
            CHECK_EQ(client.got[4], 7);
        }
    }
    store_le32(client.sent, 7);
    in.iov_len = 7;
    out.iov_len = 10;
    CHECK_EQ(p9_server_handle(client.server, &in, 1, &out, 1), 0);
    /* A reply that does not fit is an error that does. */
    store_le32(client.sent, 7 + 12);
    client.sent[4] = 24;
    store_le32(client.sent + 7, ROOT);
    in.iov_len = 7 + 12;
    out.iov_len = 40;
    CHECK_EQ(p9_server_handle(client.server, &in, 1, &out, 1), 11);
    CHECK_EQ(load_le32(client.got + 7), EMSGSIZE);
    client_free(&client);
}

static void test_bad_folders(void)
{
    Error error = {0};
    P9Options options = {.path = "/tmp/pyvmm-no-such-folder"};
    CHECK(!p9_server_new(&options, &error) && error.code == ENOENT);
    options.path = "/etc/passwd";
    CHECK(!p9_server_new(&options, &error) && error.code == ENOTDIR);
    options = (P9Options){.path = "/proc", .security = P9_SECURITY_MAPPED};
    CHECK(!p9_server_new(&options, &error) && error.code == EOPNOTSUPP && strstr(error.text, "security=none"));
}

int main(void)
{
    RUN(test_session);
    RUN(test_files);
    RUN(test_attributes);
    RUN(test_names);
    RUN(test_partial_walk);
    RUN(test_folders);
    RUN(test_symlinks_passed_through);
    RUN(test_symlinks_mapped);
    RUN(test_names_that_lead_out);
    RUN(test_host_moves_folders);
    RUN(test_host_swaps_a_folder_and_a_link);
    RUN(test_the_same_without_openat2);
    RUN(test_mapped);
    RUN(test_xattrs);
    RUN(test_locks);
    RUN(test_read_only);
    RUN(test_descriptors_are_bounded);
    RUN(test_malformed);
    RUN(test_bad_folders);
    return 0;
}
