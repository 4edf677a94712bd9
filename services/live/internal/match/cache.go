package match

import (
	"encoding/binary"
	"sync"

	"google.golang.org/protobuf/proto"

	exprv1 "github.com/kalamdb/kalamdb-go/proto/expr/v1"
)

// Cache shares shapes between equal subscriptions, of different partitions too: a hundred thousand
// users who run one query have one compiled filter. A shape lives as long as somebody uses it.
type Cache struct {
	mu     sync.Mutex
	shapes map[string]*entry
	keys   map[*Shape]string
}

type entry struct {
	shape *Shape
	users int
}

// NewCache makes an empty cache.
func NewCache() *Cache { return &Cache{shapes: map[string]*entry{}, keys: map[*Shape]string{}} }

// Get returns the shape of spec. Give it back with Release.
func (c *Cache) Get(spec Spec) (*Shape, error) {
	if !readsIdentity(spec.Filter) {
		spec.UserID, spec.Role = "", 0
	}
	key, err := spec.key()
	if err != nil {
		return nil, err
	}
	if s := c.known(key); s != nil {
		return s, nil
	}
	s, err := Compile(spec) // without the lock: compiling takes its time
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.shapes[key]; e != nil {
		e.users++
		return e.shape, nil
	}
	c.shapes[key] = &entry{shape: s, users: 1}
	c.keys[s] = key
	return s, nil
}

func (c *Cache) known(key string) *Shape {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.shapes[key]
	if e == nil {
		return nil
	}
	e.users++
	return e.shape
}

// Release gives back a shape from Get.
func (c *Cache) Release(s *Shape) {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := c.keys[s]
	e := c.shapes[key]
	if e == nil || e.shape != s {
		return
	}
	if e.users--; e.users == 0 {
		delete(c.shapes, key)
		delete(c.keys, s)
	}
}

// Len is the number of shapes in use.
func (c *Cache) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.shapes)
}

// key names all that makes two specs equal.
func (s *Spec) key() (string, error) {
	b := binary.BigEndian.AppendUint32(nil, s.Table.ID)
	b = binary.BigEndian.AppendUint32(b, s.Table.SchemaVersion)
	b = append(b, byte(s.Encoding), byte(s.Role))
	b = binary.AppendUvarint(b, uint64(len(s.UserID)))
	b = append(b, s.UserID...)
	b = binary.AppendUvarint(b, uint64(len(s.Columns)))
	for _, id := range s.Columns {
		b = binary.BigEndian.AppendUint32(b, id)
	}
	if s.Filter != nil {
		var err error
		if b, err = (proto.MarshalOptions{Deterministic: true}).MarshalAppend(append(b, 1), s.Filter); err != nil {
			return "", err
		}
	}
	return string(b), nil
}

// readsIdentity says that a filter's value depends on who subscribes.
func readsIdentity(e *exprv1.Expr) bool {
	call := e.GetCall()
	switch call.GetName() {
	case "current_user", "current_role":
		return true
	}
	for _, a := range call.GetArgs() {
		if readsIdentity(a) {
			return true
		}
	}
	return false
}
