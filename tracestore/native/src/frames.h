/* Chains of return addresses within a set of modules, hashed; found by rules for single frames, or by the unwinder.
 *
 * On x86-64 a return address fixes where the caller's stack pointer is and where its frame pointer was saved. These
 * rules come from outside (`tracestore_resolve`), once for each return address; a step is then one look-up and two
 * loads. Where there is no rule, and on other machines, the system's unwinder is asked. The chains are the same.
 */
#ifndef TRACESTORE_FRAMES_H
#define TRACESTORE_FRAMES_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unwind.h>

#define TRACESTORE_MOST_FRAMES 16384
#define TRACESTORE_MOST_MODULES 64
#define TRACESTORE_UNUSED __attribute__((unused))

/* How to step to the caller; Python's `_Rule` has the same layout. */
struct tracestore_rule {
    int32_t kind; /* below */
    int32_t offset;
    int32_t saved; /* frame pointer: 0 unchanged, else it is at 1 the caller's stack pointer or 2 the frame pointer */
    int32_t saved_offset; /* plus this */
};
enum {
    TRACESTORE_FROM_STACK_POINTER,
    TRACESTORE_FROM_FRAME_POINTER,
    TRACESTORE_FROM_MEMORY_AT_FRAME_POINTER,
    TRACESTORE_LAST,    /* nobody has called this frame */
    TRACESTORE_UNKNOWN, /* ask the unwinder */
    TRACESTORE_OUTSIDE, /* not in the modules */
};

/* Open addressing; keys are never 0. Readers take no lock: a table that grows is copied, and the old one is kept. */
struct tracestore_entry {
    uint64_t key;
    struct tracestore_rule rule; /* or a number, see below */
};
struct tracestore_table {
    uint64_t mask, count;
    struct tracestore_entry entries[];
};

static pthread_mutex_t tracestore_lock = PTHREAD_MUTEX_INITIALIZER;
static struct tracestore_table *tracestore_rules, *tracestore_places;
static uint64_t tracestore_modules[2 * TRACESTORE_MOST_MODULES];
static int64_t tracestore_num_modules;
static int32_t tracestore_use_rules = 1;
static int64_t tracestore_mismatches, tracestore_unwound;
static int32_t (*tracestore_resolve)(uint64_t address, struct tracestore_rule *rule);

static inline uint64_t tracestore_mix(uint64_t hash, uint64_t word)
{
    hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
    return hash ^ (hash >> 32);
}

static inline struct tracestore_entry *tracestore_find(struct tracestore_table *table, uint64_t key)
{
    if (!table)
        return 0;
    for (uint64_t i = tracestore_mix(0, key);; i++) {
        struct tracestore_entry *entry = &table->entries[i & table->mask];
        uint64_t found = __atomic_load_n(&entry->key, __ATOMIC_ACQUIRE);
        if (found == key)
            return entry;
        if (found == 0)
            return 0;
    }
}

static void tracestore_put(struct tracestore_table *table, uint64_t key, const struct tracestore_rule *rule)
{
    uint64_t i = tracestore_mix(0, key);
    while (table->entries[i & table->mask].key)
        i++;
    table->entries[i & table->mask].rule = *rule;
    table->count++;
    __atomic_store_n(&table->entries[i & table->mask].key, key, __ATOMIC_RELEASE);
}

/* Without memory for a larger table nothing is kept, and the next look-up asks again. */
static void tracestore_insert(struct tracestore_table **where, uint64_t key, const struct tracestore_rule *rule)
{
    pthread_mutex_lock(&tracestore_lock);
    struct tracestore_table *table = *where;
    if (!tracestore_find(table, key)) {
        if (!table || 2 * (table->count + 1) > table->mask) {
            uint64_t size = table ? 2 * (table->mask + 1) : 1024;
            struct tracestore_table *larger = calloc(1, sizeof *larger + size * sizeof(struct tracestore_entry));
            if (larger) {
                larger->mask = size - 1;
                for (uint64_t i = 0; table && i <= table->mask; i++)
                    if (table->entries[i].key)
                        tracestore_put(larger, table->entries[i].key, &table->entries[i].rule);
                __atomic_store_n(where, larger, __ATOMIC_RELEASE); /* the old one may still be read, and is kept */
                table = larger;
            }
        }
        if (table && table->count < table->mask)
            tracestore_put(table, key, rule);
    }
    pthread_mutex_unlock(&tracestore_lock);
}

static inline int tracestore_is_inside(uint64_t address)
{
    for (int64_t i = 0; i < tracestore_num_modules; i++)
        if (address - tracestore_modules[2 * i] < tracestore_modules[2 * i + 1] - tracestore_modules[2 * i])
            return 1;
    return 0;
}

/* A chain: its hash, its length, and, when asked for, its return addresses, innermost first. */
struct tracestore_chain {
    uint64_t hash, *addresses;
    int64_t n;
};

static inline void tracestore_add(struct tracestore_chain *chain, uint64_t address)
{
    if (chain->addresses)
        chain->addresses[chain->n] = address;
    chain->hash = tracestore_mix(chain->hash, address);
    chain->n++;
}

struct tracestore_walk {
    struct tracestore_chain *chain;
    uint64_t caller;
    int is_started;
};

static _Unwind_Reason_Code tracestore_visit(struct _Unwind_Context *context, void *argument)
{
    struct tracestore_walk *walk = argument;
    uint64_t address = _Unwind_GetIP(context);
    if (!walk->is_started && address != walk->caller)
        return _URC_NO_REASON; /* our own frames */
    walk->is_started = 1;
    if (!tracestore_is_inside(address) || walk->chain->n == TRACESTORE_MOST_FRAMES)
        return _URC_END_OF_STACK;
    tracestore_add(walk->chain, address);
    return _URC_NO_REASON;
}

static void tracestore_unwind(struct tracestore_chain *chain, void *caller)
{
    struct tracestore_walk walk = {chain, (uint64_t)(uintptr_t)caller, 0};
    chain->n = 0;
    chain->hash = 0;
    _Unwind_Backtrace(tracestore_visit, &walk);
    chain->hash = chain->hash ? chain->hash : 1;
}

#if defined(__x86_64__)
static __thread uintptr_t tracestore_stack_end;

static uintptr_t tracestore_find_stack_end(void)
{
    pthread_attr_t attributes;
    void *start = 0;
    size_t size = 0;
    if (pthread_getattr_np(pthread_self(), &attributes) == 0) {
        pthread_attr_getstack(&attributes, &start, &size);
        pthread_attr_destroy(&attributes);
    }
    return tracestore_stack_end = (uintptr_t)start + size;
}

static TRACESTORE_UNUSED struct tracestore_entry *tracestore_learn(uint64_t address)
{
    struct tracestore_rule rule = {TRACESTORE_UNKNOWN, 0, 0, 0};
    if (!tracestore_is_inside(address))
        rule.kind = TRACESTORE_OUTSIDE;
    else if (!tracestore_resolve || tracestore_resolve(address, &rule) != 0)
        rule.kind = TRACESTORE_UNKNOWN;
    tracestore_insert(&tracestore_rules, address, &rule);
    return tracestore_find(tracestore_rules, address);
}

/* Follow the rules; 0 when the unwinder must be asked. */
static int tracestore_follow(struct tracestore_chain *chain, void **frame, void *caller)
{
    uintptr_t end = tracestore_stack_end ? tracestore_stack_end : tracestore_find_stack_end();
    uintptr_t stack_pointer = (uintptr_t)(frame + 2), frame_pointer = (uintptr_t)frame[0];
    uint64_t address = (uint64_t)(uintptr_t)caller, hash = 0;
    int64_t n = 0;
    if ((void *)frame[1] != caller || stack_pointer >= end)
        return 0;
    while (n < TRACESTORE_MOST_FRAMES) {
        struct tracestore_entry *entry = tracestore_find(__atomic_load_n(&tracestore_rules, __ATOMIC_ACQUIRE), address);
        if (!entry && !(entry = tracestore_learn(address)))
            return 0;
        const struct tracestore_rule *rule = &entry->rule;
        uintptr_t next, place;
        if (rule->kind == TRACESTORE_OUTSIDE)
            break;
        if (chain->addresses)
            chain->addresses[n] = address;
        hash = tracestore_mix(hash, address);
        n++;
        if (rule->kind == TRACESTORE_LAST)
            break;
        if (rule->kind == TRACESTORE_FROM_STACK_POINTER) {
            next = stack_pointer + (intptr_t)rule->offset;
        } else if (rule->kind == TRACESTORE_FROM_FRAME_POINTER) {
            next = frame_pointer + (intptr_t)rule->offset;
        } else if (rule->kind == TRACESTORE_FROM_MEMORY_AT_FRAME_POINTER) {
            place = frame_pointer + (intptr_t)rule->offset;
            if (place < stack_pointer || place > end - 8 || place & 7)
                return 0;
            next = *(uintptr_t *)place;
        } else {
            return 0;
        }
        if (next <= stack_pointer || next > end || next & 7)
            return 0; /* not on this stack: a rule or the stack is unusual */
        if (rule->saved) {
            place = (rule->saved == 1 ? next : frame_pointer) + (intptr_t)rule->saved_offset;
            if (place < stack_pointer || place > end - 8 || place & 7)
                return 0;
            frame_pointer = *(uintptr_t *)place;
        }
        address = *(uint64_t *)(next - 8);
        stack_pointer = next;
        if (!address)
            break;
    }
    chain->n = n;
    chain->hash = hash ? hash : 1;
    return 1;
}
#endif

static void tracestore_trace(struct tracestore_chain *chain, void **frame, void *caller)
{
#if defined(__x86_64__)
    if (__atomic_load_n(&tracestore_use_rules, __ATOMIC_RELAXED) && tracestore_follow(chain, frame, caller))
        return;
#endif
    (void)frame;
    __atomic_add_fetch(&tracestore_unwound, 1, __ATOMIC_RELAXED);
    tracestore_unwind(chain, caller);
}

#endif
