package rpcnet

import (
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"
)

// A peer that is paused, or behind a network that swallows everything, closes no connection. Both ends ask for a
// sign of life, so that calls and streams that wait for it fail in seconds.
const (
	pingAfter   = 2 * time.Second
	pingTimeout = 2 * time.Second
)

var (
	clientKeepalive = keepalive.ClientParameters{Time: pingAfter, Timeout: pingTimeout}
	serverKeepalive = keepalive.ServerParameters{Time: pingAfter, Timeout: pingTimeout}
	// keepaliveAllowed lets clients ask as often as ours do.
	keepaliveAllowed = keepalive.EnforcementPolicy{MinTime: pingAfter / 2, PermitWithoutStream: true}
	// reconnect is quick: a restarted node should not wait for callers who gave it up.
	reconnect = grpc.ConnectParams{MinConnectTimeout: 2 * time.Second,
		Backoff: backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second}}
)
