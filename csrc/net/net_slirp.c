#include <dlfcn.h>

#include "net/net_slirp.h"

static int find(const SlirpLibrary *library, const char *name, void *function, Error *error)
{
    void *symbol = dlsym(library->handle, name);
    if (!symbol)
        return error_set(error, ENOTSUP, "%s has no %s: user networking needs libslirp 4.1 or later", SLIRP_LIBRARY,
                         name);
    memcpy(function, &symbol, sizeof symbol);
    return 0;
}

int slirp_load(SlirpLibrary *library, Error *error)
{
    library->handle = dlopen(SLIRP_LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (!library->handle) {
        const char *why = dlerror();
        return error_set(
            error, ENOENT,
            "user networking needs libslirp: install libslirp0 (Debian, Ubuntu) or libslirp (Fedora): %s",
            why ? why : SLIRP_LIBRARY);
    }
    const char *(*version)(void) = NULL;
    struct {
        const char *name;
        void *function;
    } functions[] = {
        {"slirp_version_string", &version},
        {"slirp_new", &library->new},
        {"slirp_cleanup", &library->cleanup},
        {"slirp_input", &library->input},
        {"slirp_pollfds_fill", &library->pollfds_fill},
        {"slirp_pollfds_poll", &library->pollfds_poll},
        {"slirp_add_hostfwd", &library->add_hostfwd},
        {"slirp_remove_hostfwd", &library->remove_hostfwd},
        {"slirp_connection_info", &library->connection_info},
    };
    for (size_t i = 0; i < ARRAY_SIZE(functions); i++)
        if (find(library, functions[i].name, functions[i].function, error) < 0)
            return -ENOTSUP;
    library->version = version();
    if (strncmp(library->version, "4.", 2))
        return error_set(error, ENOTSUP, "%s is libslirp %s: user networking needs a 4.x of 4.1 or later",
                         SLIRP_LIBRARY, library->version);
    return 0;
}
