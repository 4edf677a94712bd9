// Package faultpoint names places in the middle of multi-step work where a test can make the program fail, or stop, or look around. It is
// compiled in by the build tag "invariants" (every test target sets it) and costs nothing otherwise.
package faultpoint
