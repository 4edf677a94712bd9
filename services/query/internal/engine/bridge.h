// The part of DuckDB's C API that this package calls itself, next to the Go bindings: callbacks need
// C function pointers, and the Arrow functions take structs that only C can hold. The types are
// opaque pointers there, so void * stands for all of them; the linker resolves the functions from
// the library that the bindings link.
#ifndef KALAM_ENGINE_BRIDGE_H
#define KALAM_ENGINE_BRIDGE_H

#include <stdbool.h>
#include <stdint.h>

struct ArrowSchema;
struct ArrowArray;

// kalam_register_scan registers the table function of an engine; false on failure.
bool kalam_register_scan(void *conn, const char *name, uintptr_t engine);

// kalam_register_scalar registers one overload set of a scalar function whose result has the type of
// argument result_like, or the type result_type when result_like is negative, and the alias JSON if
// asked for. arg_types holds argc types for each of the overloads.
bool kalam_register_scalar(void *conn, const char *name, uintptr_t function, bool is_volatile, int argc,
                           int overloads, const int *arg_types, int result_like, int result_type, bool json);

// kalam_bind_engine returns what kalam_register_scan was given.
uintptr_t kalam_bind_engine(void *info);
// kalam_bind_slot returns the scan's slot number; negative when the parameter is not one.
int64_t kalam_bind_slot(void *info);
// kalam_bind_connection returns the id of the connection that binds.
uint64_t kalam_bind_connection(void *info);
// kalam_connection_id returns the id that kalam_bind_connection will see.
uint64_t kalam_connection_id(void *conn);
void kalam_bind_set(void *info, uintptr_t handle);
uintptr_t kalam_init_bind_data(void *info);
void kalam_init_set(void *info, uintptr_t handle);
uintptr_t kalam_function_init_data(void *info);
// kalam_scalar_function returns what kalam_register_scalar was given.
uintptr_t kalam_scalar_function(void *info);
// kalam_scalar_site returns what kalamScalarInit made for this place of the statement and this thread.
uintptr_t kalam_scalar_site(void *info);

// kalam_schema_from_arrow converts a schema; on failure it returns a message to free.
char *kalam_schema_from_arrow(void *conn, struct ArrowSchema *schema, void **out);
void kalam_schema_destroy(void *schema);

// kalam_fill converts an Arrow batch, whose ownership it takes, and lets the first n vectors of the
// output chunk refer to it. On failure it returns a message to free.
char *kalam_fill(void *conn, void *schema, struct ArrowArray *array, void *output, uint64_t columns,
                 uint64_t rows);

// kalam_chunk_to_arrow converts a result chunk; on failure it returns a message to free.
char *kalam_chunk_to_arrow(void *options, void *chunk, struct ArrowArray *out);

#endif
