//go:build !faults

package main

import "time"

// clock is the node's clock; nil means time.Now. The build tag faults replaces it, for tests of whole clusters.
var clock func() time.Time
