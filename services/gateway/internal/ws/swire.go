package ws

import (
	"fmt"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/snowflake"
	"github.com/kalamdb/kalamdb-go/internal/strictjson"
	livev1 "github.com/kalamdb/kalamdb-go/proto/live/v1"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/ws/wsconn"
)

// seedWire is the wire of spec 4.2. Clients log in with the upgrade request.
type seedWire struct{}

// seedLastRowsMax bounds a snapshot, which this wire's clients cannot ask for in batches.
const seedLastRowsMax = 10_000

// request implements wire.
func (z seedWire) request(s *socket, m object) {
	if !s.isLoggedIn() {
		z.sessionEnded(s, dberr.New(dberr.Unauthenticated,
			"credentials are required: an Authorization header, ?token= or ?auth= on the upgrade request"))
		s.close(wsconn.ClosePolicy, "Authentication required")
		return
	}
	if err := s.countSeedSocket(); err != nil {
		z.sessionEnded(s, err)
		s.close(wsconn.ClosePolicy, "too many connections")
		return
	}
	kind := m.word("type")
	switch {
	case kind == "ping":
		s.reply(func(e *envelope) {
			e.open()
			e.field("type", "pong")
			e.close()
		})
	case kind == "unsubscribe":
		z.unsubscribe(s, m)
	case m["subscriptions"] != nil && (kind == "" || kind == "subscribe"):
		z.subscribe(s, m)
	default:
		z.fault(s, codeProtocol, "unknown message; send subscriptions, or the type unsubscribe or ping")
	}
}

// countSeedSocket counts a socket among its user's once it is known to speak S.
func (s *socket) countSeedSocket() error {
	s.mu.Lock()
	counted, user := s.seedCount, s.session.Identity.UserID
	s.mu.Unlock()
	if counted {
		return nil
	}
	if err := s.h.use(user, 0, 1); err != nil {
		return err
	}
	s.mu.Lock()
	s.seedCount = true
	s.mu.Unlock()
	return nil
}

// fault implements wire.
func (seedWire) fault(s *socket, code, message string) {
	kind := dberr.InvalidArgument
	switch code {
	case codeRateLimit:
		kind = dberr.RateLimited
	case codeTooLarge:
		kind = dberr.LimitExceeded
	}
	s.reply(func(e *envelope) { sError(e, "", string(kind), message, "") })
}

// sessionEnded implements wire.
func (seedWire) sessionEnded(s *socket, err error) {
	s.reply(func(e *envelope) { sError(e, "", sType(err), clientMessage(err), "") })
}

func (z seedWire) subscribe(s *socket, m object) {
	list, err := m.list("subscriptions")
	if err != nil {
		z.fault(s, codeProtocol, err.Error())
		return
	}
	if limit := s.h.cfg.SeedSubscriptionsPerSocket; over(len(list), limit) {
		z.fault(s, codeProtocol, fmt.Sprintf("at most %d subscriptions per connection are allowed", limit))
		return
	}
	for _, one := range list {
		asked, ok := one.(strictjson.Object)
		if !ok {
			z.fault(s, codeProtocol, "each subscription must be an object")
			continue
		}
		id := object(asked).word("query_id")
		if err := z.subscribeOne(s, id, object(asked)); err != nil {
			logFault(s, id, err)
			if dberr.Is(err, dberr.AlreadyExists) {
				id = "" // the subscription that has the id is well
			}
			s.reply(func(e *envelope) { sError(e, id, sType(err), clientMessage(err), positionOf(err)) })
		}
	}
}

func (z seedWire) subscribeOne(s *socket, id string, asked object) error {
	if wrong := checkID(id); wrong != "" {
		return dberr.New(dberr.InvalidArgument, "query_id: %s", wrong)
	}
	if s.find(id) != nil {
		return dberr.New(dberr.AlreadyExists, "query_id %s is in use on this connection", id)
	}
	w := wish{id: id, sql: asked.word("sql"), encoding: livev1.Encoding_ENCODING_SEED_JSON,
		perSocket: s.h.cfg.SeedSubscriptionsPerSocket}
	if w.sql == "" {
		return dberr.New(dberr.InvalidSQL, "the subscription has no sql")
	}
	options, err := asked.sub("options")
	if err != nil {
		return dberr.New(dberr.InvalidArgument, "%w", err)
	}
	if options != nil {
		if err := w.readOptions(options); err != nil {
			return dberr.New(dberr.InvalidArgument, "option %w", err)
		}
	}
	if w.lastRows != nil && *w.lastRows > seedLastRowsMax {
		return dberr.New(dberr.LimitExceeded, "last_rows may be at most %d", seedLastRowsMax)
	}
	return s.subscribe(z, w)
}

func (z seedWire) unsubscribe(s *socket, m object) {
	list, err := m.list("query_ids")
	if err != nil || list == nil {
		z.fault(s, codeProtocol, "unsubscribe needs query_ids, an array")
		return
	}
	ended := make([]string, 0, len(list))
	for _, one := range list {
		id, _ := one.(string)
		sub := s.find(id)
		if sub == nil || !s.forget(sub) {
			s.reply(func(e *envelope) {
				sError(e, id, string(dberr.NotFound), "no such subscription on this connection", "")
			})
			continue
		}
		sub.stop()
		ended = append(ended, id)
	}
	s.reply(func(e *envelope) {
		e.open()
		e.field("type", "unsubscribed")
		e.key("query_ids")
		e.openList(len(ended))
		for _, id := range ended {
			e.element()
			e.text(id)
		}
		e.closeList()
		e.close()
	})
}

// event implements wire.
func (z seedWire) event(w *writer, sub *subscription, ev event) error {
	switch m := ev.GetEvent().(type) {
	case *livev1.ConnectResponse_Subscribed:
		e := w.begin()
		e.open()
		e.field("type", "subscribed")
		e.field("query_id", sub.id)
		writeReset(e, m.Subscribed)
		e.close()
		w.end()
	case *livev1.ConnectResponse_InitialRows:
		z.initialData(w, sub, m.InitialRows)
	case *livev1.ConnectResponse_Changed:
		return z.change(w, sub, m.Changed)
	}
	return nil
}

func (seedWire) initialData(w *writer, sub *subscription, m *livev1.InitialRows) {
	e := w.begin()
	e.open()
	e.field("type", "initial_data")
	e.field("query_id", sub.id)
	e.key("rows")
	writeRows(e, m.GetRows())
	e.key("count")
	e.integer(int64(m.GetRowCount()))
	e.close()
	w.end()
	if m.GetHasMore() {
		_ = sub.nextBatch() // fails only when the subscription has ended, which End reports
	}
}

func (seedWire) change(w *writer, sub *subscription, m *livev1.Changed) error {
	kind, data, old := "INSERT", m.GetRows(), []byte(nil)
	switch m.GetKind() {
	case livev1.Kind_KIND_INSERT:
	case livev1.Kind_KIND_UPDATE:
		kind, old = "UPDATE", m.GetOldRows()
	case livev1.Kind_KIND_DELETE:
		kind, data = "DELETE", m.GetOldRows()
	default:
		return dberr.New(dberr.Internal, "a change of unknown kind %d", m.GetKind())
	}
	row, err := onlyRow(data)
	if err != nil {
		return err
	}
	e := w.begin()
	e.open()
	e.field("type", kind)
	e.field("query_id", sub.id)
	e.key("data")
	e.raw(row)
	if old != nil {
		before, err := onlyRow(old)
		if err != nil {
			return err
		}
		e.key("old_values")
		e.raw(before)
	}
	e.field("timestamp", snowflake.Time(m.GetSeq(), snowflake.SeqEpoch).UTC().Format(time.RFC3339Nano))
	e.close()
	w.end()
	return nil
}

// onlyRow takes the row out of an array of one.
func onlyRow(rows []byte) ([]byte, error) {
	if n := len(rows); n >= 4 && rows[0] == '[' && rows[1] == '{' && rows[n-2] == '}' && rows[n-1] == ']' {
		return rows[1 : n-1], nil
	}
	return nil, dberr.New(dberr.Internal, "a change without its row")
}

// ended implements wire.
func (seedWire) ended(w *writer, sub *subscription, err error) {
	e := w.begin()
	sError(e, sub.id, sType(err), clientMessage(err), positionOf(err))
	w.end()
}

// sError writes an error frame; query_id is left out when no subscription is concerned.
func sError(e *envelope, id, kind, message, position string) {
	e.open()
	e.field("type", "error")
	if id != "" {
		e.field("query_id", id)
	}
	if position != "" {
		message += " (last position " + position + ")"
	}
	e.field("error", message)
	e.field("error_type", kind)
	if position != "" {
		e.field("position", position)
	}
	e.close()
}
