// Package plan turns a SELECT into a Plan: which partitions are read, what the storage role filters,
// sorts and cuts by itself, and the text that the engine runs over the rest.
//
// Planning works on PostgreSQL's parse tree. Every name in it is resolved here: base tables become
// scans, everything else that the engine could reach by name is refused. Functions, operators, types
// and kinds of expressions are on allow-lists (functions.go, rewrite_expr.go, typename.go); what is not
// listed never reaches the engine.
//
// A Plan holds no values of parameters, no identity and no time, so it is kept and used again for the
// same text (cache.go); Bind adds them.
package plan
