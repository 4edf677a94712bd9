package catalog

import (
	"testing"
	"time"
)

func TestExportIDs(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 8_000_000, time.UTC)
	id := ExportID(now)
	if len(id) != len("UE-0123456789ab") {
		t.Errorf("got %s", id)
	}
	for age, good := range map[time.Duration]bool{0: true, 23 * time.Hour: true, 24 * time.Hour: false, -time.Second: true, -time.Hour: false} {
		if asked, ok := ParseExportID(id, now.Add(age)); ok != good || !asked.Equal(now) {
			t.Errorf("after %s: %v, %v", age, asked, ok)
		}
	}
	for _, bad := range []string{"", "UE-", "ER-" + id[3:], id + "0", id[:14], "UE-00000000000G", "UE-+1234567890a", "UE-0123456789AB"} {
		if _, ok := ParseExportID(bad, now); ok {
			t.Errorf("%q is taken for an export", bad)
		}
	}
}
