// Package archtest holds the rules of the tree as tests: who may import whom, that every package has
// a comment, that package names are unique, and how long functions and files may be.
package archtest
