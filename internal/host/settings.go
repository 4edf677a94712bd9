package host

import (
	"io"
	"net"
	"strconv"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/config"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/telemetry"
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
	DrainDelay      config.Duration `toml:"drain_delay" doc:"how long a gateway goes on serving after readiness is withdrawn, before it stops: load balancers need a while to notice"`
	ShutdownTimeout config.Duration `toml:"shutdown_timeout" doc:"how long a clean stop may take before what still runs is cut"`
}

// Logging is the section [logging].
type Logging struct {
	Level   string `toml:"level" env:"KALAMDB_LOG_LEVEL" doc:"debug, info, warn or error"`
	Format  string `toml:"format" env:"KALAMDB_LOG_FORMAT" doc:"text or json"`
	Path    string `toml:"logs_path" env:"KALAMDB_LOGS_DIR" doc:"folder in which the log is also written, as server.log and older files; empty means none"`
	Console bool   `toml:"log_to_console" env:"KALAMDB_LOG_TO_CONSOLE" doc:"whether the log goes to the standard error stream"`
}

// DefaultServer and DefaultLogging are the settings of a program that nobody configured.
func DefaultServer() Server {
	return Server{Host: "127.0.0.1", Port: 8080, GRPCPort: 8081, OpsHost: "127.0.0.1", OpsPort: 8082,
		ShutdownTimeout: config.Duration(30 * time.Second)}
}

// DefaultLogging logs text from info up, to the console.
func DefaultLogging() Logging { return Logging{Level: "info", Format: "text", Console: true} }

// open makes where the log goes. The closer is never nil.
func (l *Logging) open(console io.Writer) (io.Writer, io.Closer, error) {
	if l.Path == "" {
		if !l.Console {
			return nil, nil, dberr.New(dberr.InvalidArgument, "logging.log_to_console is false and logging.logs_path is empty: the log would go nowhere")
		}
		return console, io.NopCloser(nil), nil
	}
	file, err := telemetry.OpenLogFile(l.Path)
	if err != nil {
		return nil, nil, err
	}
	if l.Console {
		return telemetry.Tee{console, file}, file, nil
	}
	return file, file, nil
}

// HTTPAddr, GRPCAddr and OpsAddr are addresses to listen on.
func (s *Server) HTTPAddr() string { return address(s.Host, s.Port) }

// GRPCAddr is where gRPC and Flight SQL are served.
func (s *Server) GRPCAddr() string { return address(s.Host, s.GRPCPort) }

// OpsAddr is where operators ask.
func (s *Server) OpsAddr() string { return address(s.OpsHost, s.OpsPort) }

func address(host string, port uint16) string { return net.JoinHostPort(host, strconv.Itoa(int(port))) }
