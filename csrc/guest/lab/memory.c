/*
 * Physical pages from the kernel's end to the end of RAM: a list of freed ones threaded through themselves, then
 * those that were never used. A page of a program may have several users after a fork; they are counted.
 */
#include "lab_kernel.h"

static uint64_t next_page, ram_end;
static void *free_list;
static uint8_t *users; /* by page number: how many beyond the first */

static uint64_t page_round(uint64_t value) { return (value + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1); }

void lab_memory_init(uint64_t end)
{
    ram_end = end & ~(PAGE_SIZE - 1);
    next_page = page_round((uint64_t)kernel_end);
    users = pages_alloc(page_round(ram_end / PAGE_SIZE) / PAGE_SIZE);
}

uint64_t lab_ram_end(void) { return ram_end; }

void *pages_alloc(size_t count)
{
    if (next_page > ram_end || count > (ram_end - next_page) / PAGE_SIZE)
        return NULL;
    void *pages = (void *)next_page;
    next_page += count * PAGE_SIZE;
    return memset(pages, 0, count * PAGE_SIZE);
}

void *page_alloc(void)
{
    void *page = free_list;
    if (!page)
        return pages_alloc(1);
    free_list = *(void **)page;
    return memset(page, 0, PAGE_SIZE);
}

void page_free(void *page)
{
    *(void **)page = free_list;
    free_list = page;
}

void page_share(uint64_t page) { users[page / PAGE_SIZE]++; }

bool page_shared(uint64_t page) { return users[page / PAGE_SIZE] != 0; }

void page_release(uint64_t page)
{
    if (users[page / PAGE_SIZE])
        users[page / PAGE_SIZE]--;
    else
        page_free((void *)page);
}
