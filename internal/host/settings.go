package host

import (
	"net"
	"strconv"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/config"
)

// Server is the section [server] of the settings, the same for every program: where clients and operators
// reach the process, and how it stops.
type Server struct {
	Host            string          `toml:"host" doc:"address clients connect to; 127.0.0.1 serves this machine only"`
	Port            uint16          `toml:"port" doc:"port of HTTP and WebSocket"`
	GRPCPort        uint16          `toml:"grpc_port" env:"KALAMDB_GRPC_PORT" doc:"port of gRPC and Arrow Flight SQL"`
	OpsHost         string          `toml:"ops_host" doc:"address of metrics, readiness and pprof: for operators only"`
	OpsPort         uint16          `toml:"ops_port" env:"KALAMDB_OPS_PORT" doc:"port of metrics, readiness and pprof"`
	PublicOrigin    string          `toml:"public_origin" doc:"what clients reach the server as, e.g. https://db.example"`
	Workers         int             `toml:"workers" doc:"processors the program uses; 0 means all it may"`
	DrainDelay      config.Duration `toml:"drain_delay" doc:"how long to go on serving after readiness is withdrawn, before stopping"`
	ShutdownTimeout config.Duration `toml:"shutdown_timeout" doc:"how long a clean stop may take before what still runs is cut"`
}

// Logging is the section [logging].
type Logging struct {
	Level  string `toml:"level" env:"KALAMDB_LOG_LEVEL" doc:"debug, info, warn or error"`
	Format string `toml:"format" env:"KALAMDB_LOG_FORMAT" doc:"text or json"`
}

// DefaultServer and DefaultLogging are the settings of a program that nobody configured.
func DefaultServer() Server {
	return Server{Host: "127.0.0.1", Port: 8080, GRPCPort: 8081, OpsHost: "127.0.0.1", OpsPort: 8082,
		ShutdownTimeout: config.Duration(30 * time.Second)}
}

// DefaultLogging logs text from info up.
func DefaultLogging() Logging { return Logging{Level: "info", Format: "text"} }

// HTTPAddr, GRPCAddr and OpsAddr are addresses to listen on.
func (s *Server) HTTPAddr() string { return address(s.Host, s.Port) }

// GRPCAddr is where gRPC and Flight SQL are served.
func (s *Server) GRPCAddr() string { return address(s.Host, s.GRPCPort) }

// OpsAddr is where operators ask.
func (s *Server) OpsAddr() string { return address(s.OpsHost, s.OpsPort) }

func address(host string, port uint16) string { return net.JoinHostPort(host, strconv.Itoa(int(port))) }
