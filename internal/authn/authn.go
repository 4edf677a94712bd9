// Package authn is what proves who somebody is, without any state: signed tokens (one scheme, HS256)
// and password hashes (bcrypt). Whether the account behind a proof is still good is the gateway's
// question to the catalog.
package authn
