// Package freeport finds loopback addresses for servers under test.
package freeport

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
)

// Below Linux's range for outgoing connections (32768 and up): a server that is restarted must not find its
// port taken by somebody's connection.
const (
	lowest  = 20_000
	highest = 32_000
	tries   = 1000
)

// Take returns n addresses that nobody listens on, all different.
func Take(n int) (addrs []string, err error) {
	for range tries {
		if len(addrs) == n {
			return addrs, nil
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", lowest+rand.IntN(highest-lowest)))
		if err != nil {
			continue
		}
		defer l.Close() // at the end, so that none is found twice
		addrs = append(addrs, l.Addr().String())
	}
	return nil, errors.New("no free loopback ports")
}
