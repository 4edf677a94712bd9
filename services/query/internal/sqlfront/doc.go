// Package sqlfront turns SQL text into statements. PostgreSQL's own parser (pg_query) reads SELECT,
// INSERT, UPDATE and DELETE; our own statements are read by a small recursive-descent parser over the
// same tokens. Limits on size, depth and count are checked on the tokens first, because neither
// parser may be handed text that could exhaust its stack.
package sqlfront
