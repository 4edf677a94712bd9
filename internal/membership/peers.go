package membership

import (
	"net"
	"strconv"
	"strings"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// peer is one entry of cluster.peers. Where its clients connect and what it is called is the node's own to say
// when it registers, so these parts are checked and not kept.
type peer struct {
	id  uint16
	rpc string
}

// parsePeers reads "2@host:9090@http://host:8080@name;3@…": the last two parts may be absent, empty entries are
// skipped, and no number or address may stand there twice.
func parsePeers(text string) ([]peer, error) {
	var out []peer
	for _, entry := range strings.Split(text, ";") {
		if entry = strings.TrimSpace(entry); entry == "" {
			continue
		}
		p, err := parsePeer(entry)
		if err != nil {
			return nil, err
		}
		for _, o := range out {
			if o.id == p.id || o.rpc == p.rpc {
				return nil, dberr.New(dberr.InvalidArgument, "cluster.peers: %q repeats the number or address of %d@%s", entry, o.id, o.rpc)
			}
		}
		out = append(out, p)
	}
	return out, nil
}

func parsePeer(entry string) (peer, error) {
	parts := strings.Split(entry, "@")
	if len(parts) < 2 || len(parts) > 4 {
		return peer{}, dberr.New(dberr.InvalidArgument, "cluster.peers: %q is not id@host:port@http://host:port", entry)
	}
	id, err := strconv.ParseUint(parts[0], 10, 16)
	if err != nil || id == 0 || id > NodeMax {
		return peer{}, dberr.New(dberr.InvalidArgument, "cluster.peers: %q does not start with a number from 1 to %d", entry, NodeMax)
	}
	if host, port, err := net.SplitHostPort(parts[1]); err != nil || host == "" || port == "" {
		return peer{}, dberr.New(dberr.InvalidArgument, "cluster.peers: %q has no host:port as its second part", entry)
	}
	if len(parts) > 2 && parts[2] != "" && !strings.HasPrefix(parts[2], "http://") && !strings.HasPrefix(parts[2], "https://") {
		return peer{}, dberr.New(dberr.InvalidArgument, "cluster.peers: %q has no http address as its third part", entry)
	}
	return peer{id: uint16(id), rpc: parts[1]}, nil
}
