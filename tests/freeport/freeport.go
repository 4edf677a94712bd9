// Package freeport finds loopback addresses for servers under test.
package freeport

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
)

// Below Linux's range for outgoing connections (32768 and up): a server that is restarted must not find its
// port taken by somebody's connection.
const (
	lowest  = 20_000
	highest = 32_000
	tries   = 1000
)

var (
	mu    sync.Mutex
	given = map[int]bool{}
)

// Take returns n addresses that nobody listens on and that this process was not given before: who took them may not
// listen yet.
func Take(n int) (addrs []string, err error) {
	mu.Lock()
	defer mu.Unlock()
	for range tries {
		if len(addrs) == n {
			return addrs, nil
		}
		port := lowest + rand.IntN(highest-lowest)
		if given[port] {
			continue
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		l.Close()
		given[port] = true
		addrs = append(addrs, l.Addr().String())
	}
	return nil, errors.New("no free loopback ports")
}
