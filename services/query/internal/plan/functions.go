package plan

// functions is the list of functions a SELECT may call, with what the engine calls them. It is an
// allow-list: the engine has many that read files, settings or other statements, that make values of any
// size, or that mean something else than PostgreSQL's of the same name, and a new version may add more.
// What is not here, in aggregates or in specials (rewrite_call.go) does not exist.
//
// "=" keeps the name.
var functions = map[string]string{
	// Windows.
	"row_number": "=", "rank": "=", "dense_rank": "=", "percent_rank": "=", "cume_dist": "=", "ntile": "=",
	"lag": "=", "lead": "=", "first_value": "=", "last_value": "=", "nth_value": "=",

	// Text.
	"lower": "=", "upper": "=", "length": "=", "char_length": "length", "character_length": "length",
	"octet_length": "strlen", "bit_length": "=", "btrim": "trim", "trim": "=", "ltrim": "=", "rtrim": "=",
	"left": "=", "right": "=", "reverse": "=", "translate": "=", "strpos": "=", "position": "strpos", "instr": "strpos",
	"starts_with": "=", "ends_with": "=", "contains": "=", "split_part": "=", "ascii": "=",
	"chr": "=", "md5": "=", "sha256": "=", "to_hex": "=", "regexp_matches": "=", "regexp_like": "regexp_matches",
	"regexp_extract": "=", "regexp_count": "=", "unicode": "=", "nullif": "=", "coalesce": "=", "ifnull": "=", "nvl": "ifnull",

	// Numbers.
	"abs": "=", "ceil": "=", "ceiling": "ceil", "floor": "=", "round": "=", "trunc": "=", "sign": "=", "sqrt": "=", "cbrt": "=",
	"exp": "=", "ln": "=", "log": "=", "log10": "=", "log2": "=", "power": "pow", "pow": "=", "pi": "=", "sin": "=", "cos": "=",
	"tan": "=", "cot": "=", "asin": "=", "acos": "=", "atan": "=", "atan2": "=", "sinh": "=", "cosh": "=", "tanh": "=", "degrees": "=",
	"radians": "=", "random": "=", "gcd": "=", "lcm": "=", "isnan": "=", "isfinite": "=", "greatest": "=", "least": "=",

	// Time.
	"date_bin": "time_bucket", "age": "=", "to_timestamp": "=", "make_date": "=", "make_time": "=",
	"make_timestamp": "=", "date_diff": "=", "datediff": "date_diff", "strptime": "=", "year": "=",
	"month": "=", "day": "=", "hour": "=", "minute": "=", "quarter": "=", "week": "=", "dayofweek": "=", "dayofyear": "=",
	"last_day": "=", "dayname": "=", "monthname": "=", "timezone": "=", "epoch": "=", "epoch_ms": "=", "epoch_us": "=",

	// JSON.
	"json_extract": "=", "json_extract_string": "=", "json_array_length": "=",
	"jsonb_array_length": "json_array_length", "json_length": "json_array_length", "json_valid": "=", "json_type": "=",
	"json_typeof": "json_type", "jsonb_typeof": "json_type", "json_keys": "=", "json_object_keys": "json_keys",

	// Arrays.
	"array_length": "=", "cardinality": "len", "array_position": "list_position", "array_contains": "list_contains", "unnest": "=",
	"cosine_similarity": "array_cosine_similarity",

	// Ids.
	"gen_random_uuid": "uuid", "uuid": "=",
}

// tableFunctions are what FROM may call.
var tableFunctions = map[string]bool{"generate_series": true, "range": true, "unnest": true}

// aggregates are the allowed functions that make one row of many.
var aggregates = map[string]string{
	"count": "=", "sum": "=", "avg": "=", "min": "=", "max": "=", "any_value": "=", "bool_and": "=", "bool_or": "=",
	"every": "bool_and", "bit_and": "=", "bit_or": "=", "bit_xor": "=", "string_agg": "=", "array_agg": "=",
	"stddev": "=", "stddev_samp": "=", "stddev_pop": "=", "variance": "=", "var_samp": "=", "var_pop": "=",
	"corr": "=", "covar_pop": "=", "covar_samp": "=", "regr_avgx": "=", "regr_avgy": "=", "regr_count": "=",
	"regr_intercept": "=", "regr_r2": "=", "regr_slope": "=", "regr_sxx": "=", "regr_sxy": "=", "regr_syy": "=",
	"percentile_cont": "=", "percentile_disc": "=", "mode": "=", "median": "=", "approx_count_distinct": "=",
	"approx_distinct": "approx_count_distinct", "arg_min": "=", "arg_max": "=", "json_agg": "json_group_array",
	"jsonb_agg": "json_group_array", "json_object_agg": "json_group_object", "jsonb_object_agg": "json_group_object",
}
