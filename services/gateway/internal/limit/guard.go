package limit

import (
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2"
)

// GuardConfig are the limits per client address. A zero limit is off.
type GuardConfig struct {
	RequestsPerSecond int
	LoginsPerSecond   int
	Connections       int
	// Ban is how long the first ban lasts; zero switches bans off.
	Ban time.Duration
	Now func() time.Time
}

const (
	// banScore is how many points make a ban; a request too many is one point …
	banScore = 10
	// … and a connection too many two, so that five of them ban.
	connectionScore = 2
	// banFactorMax bounds how much longer a later ban is than the first.
	banFactorMax = 6
	// forgiveAfter is how long an address must behave to start from zero again.
	forgiveAfter = time.Hour
	// offendersMax bounds the addresses remembered for misbehaving; the oldest offence goes first.
	offendersMax = 20_000
)

// Guard protects the server from single addresses before anybody is authenticated. Loopback is
// exempt. IPv6 clients are counted by /64, which is what one subscriber line has.
type Guard struct {
	cfg      GuardConfig
	requests *Rate
	logins   *Rate

	mu        sync.Mutex
	open      map[netip.Prefix]int // only addresses with open connections: as many as sockets
	offenders *lru.Cache[netip.Prefix, offender]
}

type offender struct {
	score       int
	last        time.Time
	bannedUntil time.Time
}

// NewGuard makes a guard.
func NewGuard(cfg GuardConfig) *Guard {
	offenders, err := lru.New[netip.Prefix, offender](offendersMax)
	if err != nil {
		panic(err) // only for a size below one
	}
	return &Guard{cfg: cfg, open: map[netip.Prefix]int{}, offenders: offenders,
		requests: NewRate("requests from one address", float64(cfg.RequestsPerSecond), cfg.RequestsPerSecond, cfg.Now),
		logins:   NewRate("logins from one address", float64(cfg.LoginsPerSecond), cfg.LoginsPerSecond, cfg.Now)}
}

// Request admits one request.
func (g *Guard) Request(client netip.Addr) error {
	if client.IsLoopback() {
		return nil
	}
	key := network(client)
	if err := g.banned(key); err != nil {
		return err
	}
	if err := g.requests.Take(key.String()); err != nil {
		g.offend(key, 1)
		return err
	}
	return nil
}

// Login admits one attempt to log in. Failures are cheap for us to refuse and expensive to check.
func (g *Guard) Login(client netip.Addr) error {
	if client.IsLoopback() {
		return nil
	}
	return g.logins.Take(network(client).String())
}

// Connect admits one connection; call release, once or more, when it is closed.
func (g *Guard) Connect(client netip.Addr) (release func(), err error) {
	if client.IsLoopback() || g.cfg.Connections <= 0 {
		return func() {}, nil
	}
	key := network(client)
	if err := g.banned(key); err != nil {
		return nil, err
	}
	g.mu.Lock()
	full := g.open[key] >= g.cfg.Connections
	if !full {
		g.open[key]++
	}
	g.mu.Unlock()
	if full {
		g.offend(key, connectionScore)
		return nil, limited(time.Second, "too many connections: at most %d from one address", g.cfg.Connections)
	}
	return sync.OnceFunc(func() { g.disconnect(key) }), nil
}

func (g *Guard) disconnect(key netip.Prefix) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open[key]--; g.open[key] <= 0 {
		delete(g.open, key)
	}
}

func (g *Guard) banned(key netip.Prefix) error {
	o, ok := g.offenders.Peek(key)
	if !ok {
		return nil
	}
	if wait := o.bannedUntil.Sub(g.cfg.Now()); wait > 0 {
		return limited(wait, "this address is banned for %s: it ignored the rate limit", wait.Round(time.Second))
	}
	return nil
}

func (g *Guard) offend(key netip.Prefix, points int) {
	if g.cfg.Ban <= 0 {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	o, _ := g.offenders.Get(key)
	now := g.cfg.Now()
	if now.Sub(o.last) > forgiveAfter {
		o = offender{}
	}
	before := o.score / banScore
	o.score += points
	o.last = now
	if bans := o.score / banScore; bans > before {
		o.bannedUntil = now.Add(g.cfg.Ban * time.Duration(min(bans, banFactorMax)))
	}
	g.offenders.Add(key, o)
}

// Network is what an address counts under.
func Network(a netip.Addr) netip.Prefix { return network(a) }

// network is the key an address counts under. The zero Addr (a client we cannot name) has one of its own.
func network(a netip.Addr) netip.Prefix {
	const lineBits = 64
	a = a.Unmap().WithZone("")
	if a.Is6() {
		p, _ := a.Prefix(lineBits) // only fails for a bit count out of range
		return p
	}
	return netip.PrefixFrom(a, a.BitLen())
}
