#include "bridge.h"

#include <stdlib.h>
#include <string.h>

#include "_cgo_export.h"

typedef uint64_t idx_t;
typedef void (*delete_fn)(void *);
typedef void (*info_fn)(void *);
typedef void (*table_fn)(void *, void *);
typedef void (*scalar_fn)(void *, void *, void *);

extern void *duckdb_create_logical_type(int type);
extern void duckdb_destroy_logical_type(void **type);
extern void duckdb_logical_type_set_alias(void *type, const char *alias);
extern void *duckdb_create_table_function(void);
extern void duckdb_destroy_table_function(void **f);
extern void duckdb_table_function_set_name(void *f, const char *name);
extern void duckdb_table_function_add_parameter(void *f, void *type);
extern void duckdb_table_function_set_extra_info(void *f, void *extra, delete_fn destroy);
extern void *duckdb_bind_get_extra_info(void *info);
extern void duckdb_table_function_set_bind(void *f, info_fn bind);
extern void duckdb_table_function_set_init(void *f, info_fn init);
extern void duckdb_table_function_set_function(void *f, table_fn function);
extern void duckdb_table_function_supports_projection_pushdown(void *f, bool pushdown);
extern int duckdb_register_table_function(void *conn, void *f);
extern void *duckdb_bind_get_parameter(void *info, idx_t index);
extern int64_t duckdb_get_int64(void *value);
extern void duckdb_destroy_value(void **value);
extern void duckdb_table_function_get_client_context(void *info, void **ctx);
extern void duckdb_connection_get_client_context(void *conn, void **ctx);
extern idx_t duckdb_client_context_get_connection_id(void *ctx);
extern void duckdb_destroy_client_context(void **ctx);
extern void duckdb_bind_set_bind_data(void *info, void *data, delete_fn destroy);
extern void *duckdb_init_get_bind_data(void *info);
extern void duckdb_init_set_init_data(void *info, void *data, delete_fn destroy);
extern void *duckdb_function_get_init_data(void *info);
extern void *duckdb_create_scalar_function(void);
extern void duckdb_destroy_scalar_function(void **f);
extern void duckdb_scalar_function_set_name(void *f, const char *name);
extern void duckdb_scalar_function_set_volatile(void *f);
extern void duckdb_scalar_function_add_parameter(void *f, void *type);
extern void duckdb_scalar_function_set_return_type(void *f, void *type);
extern void duckdb_scalar_function_set_extra_info(void *f, void *extra, delete_fn destroy);
extern void *duckdb_scalar_function_get_extra_info(void *info);
extern void duckdb_scalar_function_set_init(void *f, info_fn init);
extern void duckdb_scalar_function_init_get_client_context(void *info, void **ctx);
extern void *duckdb_scalar_function_init_get_extra_info(void *info);
extern void duckdb_scalar_function_init_set_state(void *info, void *state, delete_fn destroy);
extern void *duckdb_scalar_function_get_state(void *info);
extern void duckdb_scalar_function_set_function(void *f, scalar_fn function);
extern void *duckdb_create_scalar_function_set(const char *name);
extern void duckdb_destroy_scalar_function_set(void **set);
extern int duckdb_add_scalar_function_to_set(void *set, void *f);
extern int duckdb_register_scalar_function_set(void *conn, void *set);
extern void *duckdb_schema_from_arrow(void *conn, struct ArrowSchema *schema, void **out);
extern void duckdb_destroy_arrow_converted_schema(void **schema);
extern void *duckdb_data_chunk_from_arrow(void *conn, struct ArrowArray *array, void *schema, void **out);
extern void *duckdb_data_chunk_to_arrow(void *options, void *chunk, struct ArrowArray *out);
extern void *duckdb_data_chunk_get_vector(void *chunk, idx_t index);
extern void duckdb_data_chunk_set_size(void *chunk, idx_t size);
extern void duckdb_destroy_data_chunk(void **chunk);
extern void duckdb_vector_reference_vector(void *to, void *from);
extern bool duckdb_error_data_has_error(void *error);
extern const char *duckdb_error_data_message(void *error);
extern void duckdb_destroy_error_data(void **error);

enum { type_bigint = 5 };

// take_message returns a copy of the error's text, or NULL when there is none, and destroys it.
static char *take_message(void *error) {
	char *message = NULL;
	if (duckdb_error_data_has_error(error)) {
		message = strdup(duckdb_error_data_message(error));
	}
	duckdb_destroy_error_data(&error);
	return message;
}

static void bound_destroy(void *data) { kalamScanUnbind((uintptr_t)data); }

static void scan_destroy(void *data) { kalamScanClose((uintptr_t)data); }

static uint64_t take_connection_id(void *ctx) {
	uint64_t id = duckdb_client_context_get_connection_id(ctx);
	duckdb_destroy_client_context(&ctx);
	return id;
}

static void scalar_destroy(void *data) { kalamScalarClose((uintptr_t)data); }

// scalar_init runs for each place of a statement that calls a function, in each thread.
static void scalar_init(void *info) {
	void *ctx = NULL;
	duckdb_scalar_function_init_get_client_context(info, &ctx);
	uintptr_t function = (uintptr_t)duckdb_scalar_function_init_get_extra_info(info);
	uintptr_t site = kalamScalarInit(function, take_connection_id(ctx));
	duckdb_scalar_function_init_set_state(info, (void *)site, scalar_destroy);
}

bool kalam_register_scan(void *conn, const char *name, uintptr_t engine) {
	void *f = duckdb_create_table_function();
	void *type = duckdb_create_logical_type(type_bigint);
	duckdb_table_function_set_name(f, name);
	duckdb_table_function_add_parameter(f, type);
	duckdb_table_function_set_extra_info(f, (void *)engine, NULL);
	duckdb_table_function_set_bind(f, kalamScanBind);
	duckdb_table_function_set_init(f, kalamScanInit);
	duckdb_table_function_set_function(f, kalamScanNext);
	duckdb_table_function_supports_projection_pushdown(f, true);
	int state = duckdb_register_table_function(conn, f);
	duckdb_destroy_logical_type(&type);
	duckdb_destroy_table_function(&f);
	return state == 0;
}

bool kalam_register_scalar(void *conn, const char *name, uintptr_t function, bool is_volatile, int argc,
                           int overloads, const int *arg_types, int result_like, int result_type, bool json) {
	void *set = duckdb_create_scalar_function_set(name);
	bool ok = true;
	for (int i = 0; i < overloads && ok; i++) {
		void *f = duckdb_create_scalar_function();
		duckdb_scalar_function_set_name(f, name);
		for (int a = 0; a < argc; a++) {
			void *type = duckdb_create_logical_type(arg_types[i * argc + a]);
			duckdb_scalar_function_add_parameter(f, type);
			duckdb_destroy_logical_type(&type);
		}
		void *result = duckdb_create_logical_type(result_like < 0 ? result_type : arg_types[i * argc + result_like]);
		if (json) {
			duckdb_logical_type_set_alias(result, "JSON");
		}
		duckdb_scalar_function_set_return_type(f, result);
		duckdb_destroy_logical_type(&result);
		if (is_volatile) {
			duckdb_scalar_function_set_volatile(f);
		}
		duckdb_scalar_function_set_extra_info(f, (void *)function, NULL);
		duckdb_scalar_function_set_init(f, scalar_init);
		duckdb_scalar_function_set_function(f, kalamScalar);
		ok = duckdb_add_scalar_function_to_set(set, f) == 0;
		duckdb_destroy_scalar_function(&f);
	}
	ok = ok && duckdb_register_scalar_function_set(conn, set) == 0;
	duckdb_destroy_scalar_function_set(&set);
	return ok;
}

uintptr_t kalam_bind_engine(void *info) { return (uintptr_t)duckdb_bind_get_extra_info(info); }

int64_t kalam_bind_slot(void *info) {
	void *value = duckdb_bind_get_parameter(info, 0);
	if (!value) {
		return -1;
	}
	int64_t slot = duckdb_get_int64(value);
	duckdb_destroy_value(&value);
	return slot;
}

uint64_t kalam_bind_connection(void *info) {
	void *ctx = NULL;
	duckdb_table_function_get_client_context(info, &ctx);
	return take_connection_id(ctx);
}

uint64_t kalam_connection_id(void *conn) {
	void *ctx = NULL;
	duckdb_connection_get_client_context(conn, &ctx);
	return take_connection_id(ctx);
}

void kalam_bind_set(void *info, uintptr_t handle) {
	duckdb_bind_set_bind_data(info, (void *)handle, bound_destroy);
}

uintptr_t kalam_init_bind_data(void *info) { return (uintptr_t)duckdb_init_get_bind_data(info); }

void kalam_init_set(void *info, uintptr_t handle) {
	duckdb_init_set_init_data(info, (void *)handle, scan_destroy);
}

uintptr_t kalam_function_init_data(void *info) { return (uintptr_t)duckdb_function_get_init_data(info); }

uintptr_t kalam_scalar_function(void *info) { return (uintptr_t)duckdb_scalar_function_get_extra_info(info); }

uintptr_t kalam_scalar_site(void *info) { return (uintptr_t)duckdb_scalar_function_get_state(info); }

char *kalam_schema_from_arrow(void *conn, struct ArrowSchema *schema, void **out) {
	return take_message(duckdb_schema_from_arrow(conn, schema, out));
}

void kalam_schema_destroy(void *schema) { duckdb_destroy_arrow_converted_schema(&schema); }

char *kalam_fill(void *conn, void *schema, struct ArrowArray *array, void *output, uint64_t columns,
                 uint64_t rows) {
	void *chunk = NULL;
	char *message = take_message(duckdb_data_chunk_from_arrow(conn, array, schema, &chunk));
	if (message) {
		return message;
	}
	for (uint64_t i = 0; i < columns; i++) {
		duckdb_vector_reference_vector(duckdb_data_chunk_get_vector(output, i), duckdb_data_chunk_get_vector(chunk, i));
	}
	duckdb_data_chunk_set_size(output, rows);
	duckdb_destroy_data_chunk(&chunk);
	return NULL;
}

char *kalam_chunk_to_arrow(void *options, void *chunk, struct ArrowArray *out) {
	return take_message(duckdb_data_chunk_to_arrow(options, chunk, out));
}
