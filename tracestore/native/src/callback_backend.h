/* Backend of the wrappers: Python functions in this process. Everything is set from Python through ctypes.
 *
 * Python functions are called through the stable ABI, not through callbacks of ctypes: when an exception leaves such a
 * callback, and signals raise theirs in the first instruction of a function, what it returns is not defined. Here the
 * exception is kept, and no Python function is called again until somebody has asked for it. */
#include "frames.h"
#include "wrappers.h"

#include <dlfcn.h>

#define TRACESTORE_EXPORT __attribute__((visibility("default"))) TRACESTORE_UNUSED

/* The stable ABI of Python, as far as it is needed: no headers have to be installed. */
typedef struct _object PyObject;
int PyGILState_Ensure(void);
void PyGILState_Release(int state);
void Py_IncRef(PyObject *object);
void Py_DecRef(PyObject *object);
PyObject *PyObject_CallFunctionObjArgs(PyObject *function, ...);
PyObject *PyLong_FromLongLong(long long number);
PyObject *PyLong_FromVoidPtr(void *pointer);
long long PyLong_AsLongLong(PyObject *number);
double PyFloat_AsDouble(PyObject *number);
PyObject *PyErr_Occurred(void);
void PyErr_Clear(void);
void PyErr_Fetch(PyObject **type, PyObject **value, PyObject **traceback);
void PyErr_NormalizeException(PyObject **type, PyObject **value, PyObject **traceback);
int PyException_SetTraceback(PyObject *exception, PyObject *traceback);

/* function(place, kind, pointer to arguments, number of arguments) -> float */
static PyObject *tracestore_callback;
/* naming(pointer to return addresses, number of them) -> place */
static PyObject *tracestore_naming;
/* resolving(return address, pointer to rule) */
static PyObject *tracestore_resolving;
/* keep(exception) */
static PyObject *tracestore_keep;
static int32_t tracestore_failed;
static int32_t tracestore_use_cache = 1, tracestore_use_addresses = 1;
static void *tracestore_originals[TRACESTORE_NUM_HOOKS + 1];
static const char *const tracestore_symbols[TRACESTORE_NUM_HOOKS + 1];

static void tracestore_exchange(PyObject **where, PyObject *object)
{
    PyObject *before = *where;
    if (object)
        Py_IncRef(object);
    __atomic_store_n(where, object, __ATOMIC_RELEASE);
    if (before)
        Py_DecRef(before);
}

/* These two are called with the interpreter lock held. A null function turns the wrappers off. */
TRACESTORE_EXPORT void tracestore_set_callback(PyObject *function)
{
    tracestore_exchange(&tracestore_callback, function);
}

TRACESTORE_EXPORT void tracestore_set_helpers(PyObject *naming, PyObject *resolving, PyObject *keep)
{
    tracestore_exchange(&tracestore_naming, naming);
    tracestore_exchange(&tracestore_resolving, resolving);
    tracestore_exchange(&tracestore_keep, keep);
}

/* Functions of this file call none that are exported: another library of wrappers may have the same names. */
static inline int32_t tracestore_has_failed(void) { return __atomic_load_n(&tracestore_failed, __ATOMIC_ACQUIRE); }
TRACESTORE_EXPORT void tracestore_forget_failure(void) { __atomic_store_n(&tracestore_failed, 0, __ATOMIC_RELEASE); }

static void tracestore_keep_exception(void)
{
    PyObject *type = 0, *value = 0, *traceback = 0;
    __atomic_store_n(&tracestore_failed, 1, __ATOMIC_RELEASE);
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (value && traceback)
        PyException_SetTraceback(value, traceback);
    PyObject *done = value && tracestore_keep ? PyObject_CallFunctionObjArgs(tracestore_keep, value, (void *)0) : 0;
    PyErr_Clear();
    PyObject *objects[] = {type, value, traceback, done};
    for (int i = 0; i < 4; i++)
        if (objects[i])
            Py_DecRef(objects[i]);
}

/* Call a Python function with up to four arguments, whose references are taken; null when it failed. */
static PyObject *tracestore_call(PyObject *function, PyObject *a, PyObject *b, PyObject *c, PyObject *d)
{
    PyObject *arguments[] = {a, b, c, d}, *result = 0;
    Py_IncRef(function); /* it may be replaced while it runs */
    if (a && b && (!c || d))
        result = PyObject_CallFunctionObjArgs(function, a, b, c, d, (void *)0);
    Py_DecRef(function);
    for (int i = 0; i < 4; i++)
        if (arguments[i])
            Py_DecRef(arguments[i]);
    if (!result)
        tracestore_keep_exception();
    return result;
}

static int32_t tracestore_resolve_in_python(uint64_t address, struct tracestore_rule *rule);

/* Pairs of first address and end. What was learned about other modules is forgotten. */
TRACESTORE_EXPORT int32_t tracestore_set_modules(const uint64_t *ranges, int64_t n)
{
    if (n < 0 || n > TRACESTORE_MOST_MODULES)
        return -1;
    pthread_mutex_lock(&tracestore_lock);
    tracestore_rules = tracestore_places = 0;
    memcpy(tracestore_modules, ranges, (size_t)(2 * n) * sizeof *ranges);
    tracestore_num_modules = n;
    tracestore_use_rules = 1;
    tracestore_resolve = tracestore_resolve_in_python;
    pthread_mutex_unlock(&tracestore_lock);
    return 0;
}

TRACESTORE_EXPORT void tracestore_set_original(int32_t hook, void *function)
{
    if (hook >= 0 && hook < TRACESTORE_NUM_HOOKS)
        __atomic_store_n(&tracestore_originals[hook], function, __ATOMIC_RELEASE);
}

/* For measurements: without addresses every place is 0; without a cache each is named anew. */
TRACESTORE_EXPORT void tracestore_configure(int32_t use_addresses, int32_t use_cache, int32_t use_rules)
{
    tracestore_use_addresses = use_addresses;
    tracestore_use_cache = use_cache;
    tracestore_use_rules = use_rules;
}

TRACESTORE_EXPORT int64_t tracestore_num_unusable(void) { return tracestore_unusable; }
TRACESTORE_EXPORT int64_t tracestore_num_unwound(void) { return tracestore_unwound; }
TRACESTORE_EXPORT int64_t tracestore_num_mismatches(void) { return tracestore_mismatches; }

static int64_t tracestore_name(uint64_t *addresses, int64_t n)
{
    int64_t place = 0;
    if (tracestore_has_failed())
        return 0;
    int state = PyGILState_Ensure();
    if (tracestore_naming) {
        PyObject *result
            = tracestore_call(tracestore_naming, PyLong_FromVoidPtr(addresses), PyLong_FromLongLong(n), 0, 0);
        if (result) {
            place = PyLong_AsLongLong(result);
            Py_DecRef(result);
            if (PyErr_Occurred())
                tracestore_keep_exception();
        }
    }
    PyGILState_Release(state);
    return place > 0 ? place : 0;
}

static int32_t tracestore_resolve_in_python(uint64_t address, struct tracestore_rule *rule)
{
    if (tracestore_has_failed())
        return -1;
    int state = PyGILState_Ensure();
    if (tracestore_resolving) {
        PyObject *result = tracestore_call(
            tracestore_resolving, PyLong_FromVoidPtr((void *)(uintptr_t)address), PyLong_FromVoidPtr(rule), 0, 0);
        if (result)
            Py_DecRef(result);
    }
    PyGILState_Release(state);
    return 0;
}

/* A chain that was not seen before. The system's unwinder has the last word; rules that contradict it are not used
 * again. */
static int64_t tracestore_new_place(void **frame, void *caller)
{
    uint64_t *addresses = malloc(TRACESTORE_MOST_FRAMES * sizeof *addresses);
    struct tracestore_chain followed = {0, 0, 0}, chain = {0, addresses, 0};
    struct tracestore_rule number;
    if (!addresses)
        return 0;
    tracestore_trace(&followed, frame, caller);
    tracestore_unwind(&chain, caller);
    if (chain.hash != followed.hash || chain.n != followed.n) {
        __atomic_add_fetch(&tracestore_mismatches, 1, __ATOMIC_RELAXED);
        tracestore_use_rules = 0;
    }
    int64_t place = tracestore_name(addresses, chain.n);
    free(addresses);
    memcpy(&number, &place, sizeof place);
    if (tracestore_use_cache && place > 0)
        tracestore_insert(&tracestore_places, chain.hash, &number);
    return place;
}

/* The place of a call from `caller`; negative when it is not in the modules, 0 when naming it failed. */
static int64_t tracestore_place(void **frame, void *caller)
{
    struct tracestore_chain chain = {0, 0, 0};
    int64_t place;
    if (!tracestore_use_addresses)
        return 0;
    tracestore_trace(&chain, frame, caller);
    if (chain.n == 0)
        return -1;
    struct tracestore_entry *entry
        = tracestore_use_cache ? tracestore_find(__atomic_load_n(&tracestore_places, __ATOMIC_ACQUIRE), chain.hash) : 0;
    if (!entry)
        return tracestore_new_place(frame, caller);
    memcpy(&place, &entry->rule, sizeof place);
    return place;
}

static int64_t tracestore_enter(int32_t hook, void **frame, void *caller)
{
    (void)hook;
    return __atomic_load_n(&tracestore_callback, __ATOMIC_ACQUIRE) ? tracestore_place(frame, caller) : -1;
}

static double tracestore_value(int64_t place, int32_t kind, const double *args, int64_t n)
{
    double value = NAN;
    if (tracestore_has_failed())
        return value;
    int state = PyGILState_Ensure();
    if (tracestore_callback) {
        PyObject *result = tracestore_call(tracestore_callback, PyLong_FromLongLong(place), PyLong_FromLongLong(kind),
            PyLong_FromVoidPtr((void *)args), PyLong_FromLongLong(n));
        if (result) {
            value = PyFloat_AsDouble(result);
            Py_DecRef(result);
            if (value == -1.0 && PyErr_Occurred()) {
                tracestore_keep_exception();
                value = NAN;
            }
        }
    }
    PyGILState_Release(state);
    return value;
}

static TRACESTORE_UNUSED void *tracestore_original(int32_t hook)
{
    void *known = __atomic_load_n(&tracestore_originals[hook], __ATOMIC_ACQUIRE);
    if (!known) {
        known = dlsym(RTLD_NEXT, tracestore_symbols[hook]);
        __atomic_store_n(&tracestore_originals[hook], known, __ATOMIC_RELEASE);
    }
    return known;
}

/* For libraries that call a function through a pointer that their user sets. */
TRACESTORE_EXPORT __attribute__((noinline)) double tracestore_uniform_double(void)
{
    int64_t place = tracestore_enter(-1, (void **)__builtin_frame_address(0), __builtin_return_address(0));
    return place >= 0 ? tracestore_uniform(place) : tracestore_unusable_value();
}

TRACESTORE_EXPORT __attribute__((noinline)) float tracestore_uniform_float(void)
{
    int64_t place = tracestore_enter(-1, (void **)__builtin_frame_address(0), __builtin_return_address(0));
    return place >= 0 ? tracestore_uniform_single(place) : (tracestore_unusable_value(), tracestore_spare_single());
}
