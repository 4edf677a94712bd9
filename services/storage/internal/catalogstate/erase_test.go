package catalogstate

import (
	"bytes"
	"fmt"
	"os"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

const secret = "MARKER-7f3a9c"

// createUser makes an account whose record tells of its user.
func createUser(i int, tell string) *catalogv1.Command {
	return &catalogv1.Command{TimeUs: 5, RequestId: fmt.Appendf(nil, "%016d", i), Command: &catalogv1.Command_CreateUser{CreateUser: &catalogv1.CreateUser{
		User: &catalogv1.User{UserId: fmt.Sprintf("user%d", i), Role: catalogv1.Role_ROLE_USER, AuthType: "password", PasswordHash: "hash " + tell,
			Email: tell + "@example.com", Metadata: fmt.Sprintf(`{"about":%q}`, tell)}}}}
}

func beginErase(i int, by string) *catalogv1.Command {
	user := fmt.Sprintf("user%d", i)
	return &catalogv1.Command{TimeUs: 7, Command: &catalogv1.Command_BeginErase{BeginErase: &catalogv1.BeginErase{UserId: user,
		Job: &catalogv1.Job{JobId: fmt.Sprintf("ER-%012x", i), Type: catalog.JobErase, IdempotencyKey: catalog.EraseKey(user), CreatedBy: by}}}}
}

func finishErase(i int) *catalogv1.Command {
	return &catalogv1.Command{TimeUs: 9, Command: &catalogv1.Command_FinishErase{FinishErase: &catalogv1.FinishErase{JobId: fmt.Sprintf("ER-%012x", i)}}}
}

// fileHas looks for a text in the bytes of the file, free pages too.
func (a *applier) fileHas(text string) bool {
	a.t.Helper()
	raw, err := os.ReadFile(a.path)
	if err != nil {
		a.t.Fatal(err)
	}
	return bytes.Contains(raw, []byte(text))
}

func (a *applier) refused(c *catalogv1.Command, code dberr.Code) {
	a.t.Helper()
	if _, err := a.apply(c); !dberr.Is(err, code) {
		a.t.Errorf("%v: got %v, want %s", c, err, code)
	}
}

func TestAnErasedAccountIsClosedAtOnceAndGoneAtTheEnd(t *testing.T) {
	a := openState(t)
	a.must(createUser(1, secret))
	a.must(createUser(2, "else"))
	a.refused(beginErase(3, "root"), dberr.UserNotFound)
	a.refused(beginErase(1, "user1"), dberr.InvalidOperation)
	if j := a.must(beginErase(1, "root")).GetJob(); j.GetJobId() != "ER-000000000001" || a.state.Erasing("user1") != j.GetJobId() || a.state.Erasing("user2") != "" {
		t.Errorf("got %v", j)
	}
	u, err := a.state.User("user1")
	if err != nil || u.GetEmail()+u.GetMetadata()+u.GetPasswordHash() != "" || u.GetDeletedAtUs() == 0 || u.GetTokenVersion() != 2 {
		t.Errorf("the record still has %v, %v", u, err)
	}
	a.refused(beginErase(1, "root"), dberr.AlreadyExists)
	a.refused(&catalogv1.Command{Command: &catalogv1.Command_RestoreUser{RestoreUser: &catalogv1.RestoreUser{UserId: "user1"}}}, dberr.InvalidOperation)
	repeated := a.must(createUser(1, secret)) // a repetition is answered, and tells nothing
	if u := repeated.GetUser(); u.GetUserId() != "user1" || u.GetEmail() != "" || u.GetPasswordHash() != "" {
		t.Errorf("a repetition is answered with %v", u)
	}
	again := createUser(1, "new")
	again.RequestId = nil
	a.refused(again, dberr.AlreadyExists)
	a.refused(&catalogv1.Command{Command: &catalogv1.Command_UpdateJob{UpdateJob: &catalogv1.UpdateJob{JobId: "ER-000000000001",
		Status: catalogv1.JobStatus_JOB_STATUS_CANCELLED}}}, dberr.InvalidOperation)
	a.refused(&catalogv1.Command{Command: &catalogv1.Command_CreateJob{CreateJob: &catalogv1.CreateJob{Job: &catalogv1.Job{JobId: "ER-000000000009",
		Type: catalog.JobErase}}}}, dberr.InvalidArgument)
	a.reopen()
	if a.state.Erasing("user1") == "" {
		t.Error("after a restart the user is not being erased")
	}
	a.must(finishErase(1))
	a.refused(finishErase(1), dberr.InvalidOperation)
	if u, err := a.state.User("user1"); u != nil || err != nil || a.state.Erasing("user1") != "" {
		t.Errorf("got %v, %v", u, err)
	}
	a.must(again)
	e, err := a.state.Erasure("ER-000000000001")
	if err != nil || e.GetUserId() != "user1" || e.GetBegunAtUs() != 7 || e.GetFinishedAtUs() != 9 || e.GetAskedBy() != "root" {
		t.Errorf("got %v, %v", e, err)
	}
}

// A job that cleans up erases only who is dropped since the time it was made for.
func TestARestoredUserIsNotCleanedUp(t *testing.T) {
	a := openState(t)
	a.must(createUser(1, "x"))
	drop := &catalogv1.Command{TimeUs: 20, Command: &catalogv1.Command_DropUser{DropUser: &catalogv1.DropUser{UserId: "user1"}}}
	a.must(drop)
	c := beginErase(1, "")
	c.GetBeginErase().DroppedAtUs = 20
	a.must(&catalogv1.Command{TimeUs: 21, Command: &catalogv1.Command_RestoreUser{RestoreUser: &catalogv1.RestoreUser{UserId: "user1"}}})
	a.refused(c, dberr.Conflict)
	drop.TimeUs = 30
	a.must(drop)
	a.refused(c, dberr.Conflict)
	c.GetBeginErase().DroppedAtUs = 30
	a.must(c)
}

// What was removed stays in the file until it is written anew.
func TestACompactedFileHasNothingOfWhatWasRemoved(t *testing.T) {
	a := openState(t)
	for i := range 300 {
		tell := "else"
		if i%2 == 0 {
			tell = secret
		}
		a.must(createUser(i, tell))
	}
	for i := 0; i < 300; i += 2 {
		a.must(beginErase(i, "root"))
	}
	if !a.fileHas(secret) {
		t.Fatal("nothing of the users is in the file before: the test shows nothing")
	}
	verify := func() string {
		a.must(&catalogv1.Command{Command: &catalogv1.Command_Verify{Verify: &catalogv1.VerifyCatalog{}}})
		sum, err := a.state.Checksum(t.Context(), a.index)
		if err != nil {
			t.Fatal(err)
		}
		a.index-- // the sum covers the index
		return fmt.Sprint(sum.Rows)
	}
	before := verify()
	a.index++
	if err := a.state.Compact(); err != nil {
		t.Fatal(err)
	}
	if a.fileHas(secret) {
		t.Error("the compacted file still has something of the users")
	}
	if got := verify(); got != before {
		t.Errorf("%s rows, before %s", got, before)
	}
	a.index++
	a.must(createUser(1000, "else"))
	a.reopen()
	if u, err := a.state.User("user1000"); u == nil || err != nil {
		t.Errorf("got %v, %v", u, err)
	}
}

func TestReceiptsAreBounded(t *testing.T) {
	a := openState(t)
	for i := range erasuresEndedMax + 5 {
		a.mustAll(createUser(i, "x"), beginErase(i, "root"), finishErase(i))
	}
	list, more, err := a.state.Erasures("", 2*erasuresEndedMax)
	if err != nil || more || len(list) != erasuresEndedMax || list[0].GetUserId() != "user5" {
		t.Errorf("%d receipts, %v, %v", len(list), more, err)
	}
}
