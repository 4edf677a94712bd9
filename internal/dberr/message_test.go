package dberr

import (
	"context"
	"fmt"
	"testing"
)

func TestMessages(t *testing.T) {
	if ToMessage(nil) != nil || FromMessage(nil) != nil {
		t.Error("no error is no message")
	}
	for _, err := range []error{
		New(PrimaryKeyViolation, "the key %q is taken", "100%d"),
		fmt.Errorf("row 3: %w", New(InvalidSQL, "no such word").At(2, 7)),
		New(NotLeader, "ask another").With(FieldLeader, "10.0.0.2:9000"),
		context.DeadlineExceeded,
		fmt.Errorf("of no kind"),
	} {
		back := FromMessage(ToMessage(err))
		if CodeOf(back) != CodeOf(err) || back.Error() != err.Error() {
			t.Errorf("%v (%v) became %v (%v)", err, CodeOf(err), back, CodeOf(back))
		}
		for _, key := range []string{FieldLine, FieldColumn, FieldLeader} {
			if FieldOf(back, key) != FieldOf(err, key) {
				t.Errorf("%v: %s was %q, is %q", err, key, FieldOf(err, key), FieldOf(back, key))
			}
		}
	}
}
