package rpcnet

import (
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"
)

// A peer that is paused, or behind a network that swallows everything, closes no connection. Both ends ask for a
// sign of life, so that calls and streams that wait for it fail within fifteen seconds.
const (
	// clientPingAfter is the least that gRPC lets a client wait.
	clientPingAfter = 10 * time.Second
	serverPingAfter = 2 * time.Second
	pingTimeout     = 2 * time.Second
)

var (
	clientKeepalive = keepalive.ClientParameters{Time: clientPingAfter, Timeout: pingTimeout}
	serverKeepalive = keepalive.ServerParameters{Time: serverPingAfter, Timeout: pingTimeout}
	// keepaliveAllowed lets clients ask more often than ours do: clients of other versions may.
	keepaliveAllowed = keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}
	// reconnect is quick: a restarted node should not wait for callers who gave it up.
	reconnect = grpc.ConnectParams{MinConnectTimeout: 2 * time.Second,
		Backoff: backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second}}
)
