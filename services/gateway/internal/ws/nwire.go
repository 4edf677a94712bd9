package ws

import (
	"context"
	"encoding/json"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	livev1 "github.com/kalamdb/kalamdb-go/proto/live/v1"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/ws/wsconn"
)

// nWire is the wire of spec 4.1. This file has what clients ask, nframes.go what they are sent.
type nWire struct{}

// request implements wire.
func (n nWire) request(s *socket, m object) {
	kind := m.word("type")
	if kind == "authenticate" {
		n.authenticate(s, m)
		return
	}
	if kind == "ping" {
		return // only to be heard; there is no answer
	}
	if !s.isLoggedIn() {
		id := m.word("subscription_id")
		if sub, err := m.sub("subscription"); err == nil && sub != nil {
			id = sub.word("id")
		}
		if id == "" {
			id = idProtocol
		}
		n.problem(s, id, codeAuthRequired, "authenticate first")
		return
	}
	switch kind {
	case "subscribe":
		n.subscribe(s, m)
	case "next_batch":
		n.nextBatch(s, m)
	case "unsubscribe":
		n.unsubscribe(s, m)
	default:
		n.problem(s, idProtocol, codeProtocol, "unknown message type; it must be authenticate, subscribe, next_batch, unsubscribe or ping")
	}
}

// fault implements wire.
func (n nWire) fault(s *socket, code, message string) {
	id := idProtocol
	if code == codeRateLimit {
		id = idRateLimit
	}
	n.problem(s, id, code, message)
}

func (nWire) problem(s *socket, id, code, message string) {
	s.reply(func(e *envelope) { nError(e, id, code, message, "") })
}

// authenticate logs in by token. Later ones are answered in the same way, but can only prolong the
// session.
func (n nWire) authenticate(s *socket, m object) {
	protocol, err := m.sub("protocol")
	serialization, compression := protocol.word("serialization"), protocol.word("compression")
	again := s.isLoggedIn()
	switch {
	case again:
	case err != nil || protocol == nil:
		n.refuse(s, "a protocol object is required: {\"serialization\":\"json\",\"compression\":\"gzip\"}")
		return
	case serialization != "json" && serialization != "msgpack" || compression != "gzip" && compression != "none":
		n.refuse(s, "protocol must have serialization json or msgpack, and compression gzip or none")
		return
	case m.word("method") != "jwt":
		n.refuse(s, "the only method is jwt")
		return
	}
	session, err := s.bearer(s.h.running(), m.word("token"))
	switch {
	case again && err == nil:
		if unused := s.renew(session); unused.Release != nil {
			unused.Release()
		}
	case again: // the session there is stays as it is
	case err != nil:
		n.refuse(s, clientMessage(err))
		return
	default:
		s.setSession(session)
		s.negotiate(serialization, compression)
	}
	n.welcome(s)
}

// negotiate fixes how frames look. What the URL turned off stays off.
func (s *socket) negotiate(serialization, compression string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.packed = serialization == "msgpack"
	s.gzip = s.gzip && compression == "gzip"
}

func (n nWire) welcome(s *socket) {
	s.mu.Lock()
	identity, packed, gzip := s.session.Identity, s.packed, s.gzip
	s.mu.Unlock()
	s.replyJSON(func(e *envelope) {
		e.open()
		e.field("type", "auth_success")
		e.field("user", identity.UserID)
		e.field("role", identity.Role.String())
		e.key("protocol")
		e.open()
		e.field("serialization", choose(packed, "msgpack", "json"))
		e.field("compression", choose(gzip, "gzip", "none"))
		e.close()
		e.close()
	})
}

func choose(first bool, a, b string) string {
	if first {
		return a
	}
	return b
}

func (n nWire) refuse(s *socket, message string) {
	n.authError(s, message)
	s.close(wsconn.ClosePolicy, "Authentication failed")
}

func (nWire) authError(s *socket, message string) {
	s.replyJSON(func(e *envelope) {
		e.open()
		e.field("type", "auth_error")
		e.field("message", message)
		e.close()
	})
}

// sessionEnded implements wire.
func (n nWire) sessionEnded(s *socket, err error) { n.authError(s, err.Error()) }

func (n nWire) subscribe(s *socket, m object) {
	asked, err := m.sub("subscription")
	if err != nil || asked == nil {
		n.problem(s, idSubscribe, codeProtocol, "subscribe needs a subscription object")
		return
	}
	id := asked.word("id")
	if wrong := checkID(id); wrong != "" {
		n.problem(s, idInvalid, codeInvalidID, wrong)
		return
	}
	if s.find(id) != nil {
		n.problem(s, idInvalid, codeInvalidID, "the subscription id is in use on this connection")
		return
	}
	w, err := n.wish(s, asked)
	if err == nil {
		err = s.subscribe(n, w)
	}
	if err != nil {
		logFault(s, id, err)
		s.reply(func(e *envelope) { nError(e, id, nCode(err), clientMessage(err), positionOf(err)) })
	}
}

func logFault(s *socket, id string, err error) {
	if dberr.Is(err, dberr.Internal) {
		s.h.cfg.Logger.ErrorContext(context.WithoutCancel(s.h.running()), "a subscription failed", "subscription", id, "error", err)
	}
}

// wish reads a subscription's SQL and options.
func (n nWire) wish(s *socket, asked object) (wish, error) {
	w := wish{id: asked.word("id"), sql: asked.word("sql"), encoding: livev1.Encoding_ENCODING_JSON, strict: true,
		perSocket: s.h.cfg.SubscriptionsPerSocket}
	s.mu.Lock()
	if s.packed {
		w.encoding = livev1.Encoding_ENCODING_MSGPACK
	}
	s.mu.Unlock()
	if w.sql == "" {
		return w, dberr.New(dberr.InvalidSQL, "the subscription has no sql")
	}
	options, err := asked.sub("options")
	if err != nil {
		return w, dberr.New(dberr.Unsupported, "%w", err)
	}
	if options == nil {
		return w, nil // no options, no snapshot
	}
	w.snapshot = true
	if err := w.readOptions(options); err != nil {
		return w, dberr.New(dberr.Unsupported, "option %w", err)
	}
	return w, nil
}

// readOptions takes the members both wires know.
func (w *wish) readOptions(o object) error {
	var err error
	if w.batchSize, _, err = o.number("batch_size"); err != nil {
		return err
	}
	if w.lastRows, _, err = o.number("last_rows"); err != nil {
		return err
	}
	var asText bool
	for _, name := range []string{"from_seq_id", "from"} { // from wins
		n, text, err := o.number(name)
		if err != nil {
			return err
		}
		if n != nil {
			w.from, asText = n, text
		}
	}
	w.domain = o.word("version_domain")
	w.textSeq = asText || w.domain != ""
	text, err := json.Marshal(o)
	if err != nil {
		return err
	}
	w.optionsJSON = string(text)
	return nil
}

func (n nWire) nextBatch(s *socket, m object) {
	id := m.word("subscription_id")
	sub := s.find(id)
	if sub == nil {
		n.unknown(s, id)
		return
	}
	if err := sub.nextBatch(); err != nil {
		n.problem(s, id, codeBatchFailed, err.Error())
	}
}

func (n nWire) unsubscribe(s *socket, m object) {
	id := m.word("subscription_id")
	sub := s.find(id)
	if sub == nil || !s.forget(sub) {
		n.unknown(s, id)
		return
	}
	sub.stop()
}

func (n nWire) unknown(s *socket, id string) {
	if wrong := checkID(id); wrong != "" {
		n.problem(s, idInvalid, codeInvalidID, wrong)
		return
	}
	n.problem(s, id, codeNotFound, "no such subscription on this connection")
}
