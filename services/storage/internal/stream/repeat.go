package stream

import (
	"slices"

	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/command"
)

const (
	// repeatsMax and repeatBytesMax bound the requests remembered, and the rows in their answers: the last few
	// seconds of a busy shard.
	repeatsMax     = 16_384
	repeatBytesMax = 8 << 20
)

// repeats are the answers of the last requests that had an id, so that another attempt is answered as the first.
// They are as lasting as the rows: gone when this node no longer leads.
type repeats struct {
	answers map[string]*storagev1.TableWriteResult
	order   []string // oldest first
	bytes   int
}

// repeatKey is a request's id and whose request it is: an answer may hold rows. Empty without an id.
func repeatKey(id []byte, user string) string {
	if len(id) == 0 {
		return ""
	}
	return string(id) + user
}

func (r *repeats) get(key string) *storagev1.TableWriteResult { return r.answers[key] }

func (r *repeats) put(key string, answer *storagev1.TableWriteResult) {
	if key == "" {
		return
	}
	if r.answers == nil {
		r.answers = map[string]*storagev1.TableWriteResult{}
	}
	r.answers[key] = answer
	r.order = append(r.order, key)
	r.bytes += answerBytes(answer)
	for len(r.order) > repeatsMax || r.bytes > repeatBytesMax {
		oldest := r.order[0]
		r.order[0] = "" // the slice moves on, the text must not wait for it
		r.order = r.order[1:]
		r.bytes -= answerBytes(r.answers[oldest])
		delete(r.answers, oldest)
	}
}

// forgetUser forgets the answers to a user.
func (r *repeats) forgetUser(user string) {
	r.order = slices.DeleteFunc(r.order, func(key string) bool {
		if key[command.RequestIDBytes:] != user {
			return false
		}
		r.bytes -= answerBytes(r.answers[key])
		delete(r.answers, key)
		return true
	})
}

func (r *repeats) reset() { *r = repeats{} }

// answerOverhead is what an answer costs besides what is in it.
const answerOverhead = 160

func answerBytes(a *storagev1.TableWriteResult) int {
	n := answerOverhead + 8*len(a.GetSeqs())
	for _, row := range a.GetRows() {
		n += len(row)
	}
	return n
}
