package catalogstate

import (
	"cmp"
	"encoding/binary"
	"slices"

	"go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

// The buckets of jobs. The first job makes them, not prepare: a catalog that never had one has the sum that programs
// from before jobs compute.
var (
	bucketJobs      = []byte("jobs")       // job id → Job
	bucketJobsOpen  = []byte("jobs_open")  // idempotency key → id of the job that has not ended
	bucketJobsEnded = []byte("jobs_ended") // index of the entry that ended it, job id → a mark
)

// Keys of bucketMeta that count the entries of the buckets: bbolt would walk them.
var (
	keyJobsOpen  = []byte("jobs_open")
	keyJobsEnded = []byte("jobs_ended")
)

const (
	// jobsEndedMax is how many ended jobs are kept, the newest: people look at what happened lately.
	jobsEndedMax = 1000
	// jobsOpenMax bounds the jobs that wait or run: a flush of every table of a large cluster.
	jobsOpenMax = 10_000
	// JobTextMax bounds each text of a job in bytes, so that an error that repeats a statement stays small.
	JobTextMax = 4096
	// jobRetriesMax bounds what a job may ask for.
	jobRetriesMax = 100
	// jobIDBytes is the length of two letters, a hyphen and 12 hex digits.
	jobIDBytes = 15
)

// endedMark is not empty, so that no reader can take it for absent.
var endedMark = []byte{1}

// jobMoves are the statuses from which a job goes to another one. A job that has ended goes nowhere.
var jobMoves = map[catalogv1.JobStatus][]catalogv1.JobStatus{
	catalogv1.JobStatus_JOB_STATUS_QUEUED: {catalogv1.JobStatus_JOB_STATUS_NEW},
	// Running again is another leader, or progress.
	catalogv1.JobStatus_JOB_STATUS_RUNNING: {catalogv1.JobStatus_JOB_STATUS_NEW, catalogv1.JobStatus_JOB_STATUS_QUEUED,
		catalogv1.JobStatus_JOB_STATUS_RETRYING, catalogv1.JobStatus_JOB_STATUS_RUNNING},
	catalogv1.JobStatus_JOB_STATUS_RETRYING:  {catalogv1.JobStatus_JOB_STATUS_RUNNING},
	catalogv1.JobStatus_JOB_STATUS_COMPLETED: {catalogv1.JobStatus_JOB_STATUS_RUNNING},
	catalogv1.JobStatus_JOB_STATUS_SKIPPED:   {catalogv1.JobStatus_JOB_STATUS_RUNNING},
	catalogv1.JobStatus_JOB_STATUS_FAILED:    {catalogv1.JobStatus_JOB_STATUS_RUNNING},
	catalogv1.JobStatus_JOB_STATUS_CANCELLED: {catalogv1.JobStatus_JOB_STATUS_NEW, catalogv1.JobStatus_JOB_STATUS_QUEUED,
		catalogv1.JobStatus_JOB_STATUS_RETRYING, catalogv1.JobStatus_JOB_STATUS_RUNNING},
}

// JobsMoved signals that a job was made or has moved to another status.
func (s *State) JobsMoved() <-chan struct{} { return s.jobs }

// OpenJobs lists the jobs that have not ended, the oldest first.
func (s *State) OpenJobs() (jobs []*catalogv1.Job, err error) {
	err = s.view(func(tx *bbolt.Tx) error {
		open := tx.Bucket(bucketJobsOpen)
		if open == nil {
			return nil
		}
		return open.ForEach(func(_, id []byte) error {
			j, err := readJob(tx, string(id))
			jobs = append(jobs, j)
			return err
		})
	})
	slices.SortFunc(jobs, func(a, b *catalogv1.Job) int {
		return cmp.Or(cmp.Compare(a.GetCreatedAtUs(), b.GetCreatedAtUs()), cmp.Compare(a.GetJobId(), b.GetJobId()))
	})
	return jobs, err
}

// Jobs returns up to limit jobs after an id, and whether there are more.
func (s *State) Jobs(after string, limit int) (jobs []*catalogv1.Job, more bool, err error) {
	s.committing.RLock() // a restore that is over has made its tables visible
	defer s.committing.RUnlock()
	err = s.view(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketJobs)
		if b == nil {
			return nil
		}
		c := b.Cursor()
		k, v := c.Seek([]byte(after))
		if k != nil && string(k) == after {
			k, v = c.Next()
		}
		for ; k != nil; k, v = c.Next() {
			if len(jobs) == limit {
				more = true
				return nil
			}
			j, err := decodeJob(v)
			if err != nil {
				return err
			}
			jobs = append(jobs, j)
		}
		return nil
	})
	return jobs, more, err
}

// readJob reads a job that a bucket names.
func readJob(tx *bbolt.Tx, id string) (*catalogv1.Job, error) {
	b := tx.Bucket(bucketJobs)
	if b == nil || b.Get([]byte(id)) == nil {
		return nil, dberr.New(dberr.Corrupt, "the catalog names a job %s that it does not have", id)
	}
	return decodeJob(b.Get([]byte(id)))
}

func decodeJob(raw []byte) (*catalogv1.Job, error) {
	j := &catalogv1.Job{}
	if err := proto.Unmarshal(raw, j); err != nil {
		return nil, dberr.New(dberr.Corrupt, "read job: %w", err)
	}
	return j, nil
}

func (t *transaction) createJob(c *catalogv1.CreateJob) (*catalogv1.ApplyResponse, error) {
	j := c.GetJob() // decoded from the entry: nobody else has it
	if err := t.checkJob(j); err != nil {
		return nil, err
	}
	if err := t.makeJobBuckets(); err != nil {
		return nil, err
	}
	if j.GetIdempotencyKey() == "" {
		j.IdempotencyKey = j.GetJobId() // then it is alone with it
	}
	open, meta := t.bucket(bucketJobsOpen), t.bucket(bucketMeta)
	if id := open.Get([]byte(j.GetIdempotencyKey())); id != nil {
		return nil, refuse(dberr.AlreadyExists, "job %s with the key %s has not ended", id, j.GetIdempotencyKey())
	}
	if t.bucket(bucketJobs).Get([]byte(j.GetJobId())) != nil {
		return nil, refuse(dberr.Conflict, "the id %s is that of another job", j.GetJobId())
	}
	n := number(meta, keyJobsOpen)
	if n >= jobsOpenMax {
		return nil, refuse(dberr.LimitExceeded, "%d jobs wait or run, the limit is %d (jobsOpenMax)", n, jobsOpenMax)
	}
	j.Status, j.CreatedAtUs, j.UpdatedAtUs = catalogv1.JobStatus_JOB_STATUS_NEW, t.now, t.now
	j.StartedAtUs, j.FinishedAtUs, j.RetryCount, j.NodeId, j.Progress = 0, 0, 0, 0, nil
	if err := putNumber(meta, keyJobsOpen, n+1); err != nil {
		return nil, err
	}
	if err := open.Put([]byte(j.GetIdempotencyKey()), []byte(j.GetJobId())); err != nil {
		return nil, err
	}
	return t.storeJob(j)
}

// checkJob checks a new job. Its type is the runner's affair: replicas of different versions must agree on what they
// refuse.
func (t *transaction) checkJob(j *catalogv1.Job) error {
	switch {
	case !validJobID(j.GetJobId()):
		return refuse(dberr.InvalidArgument, "%q is not the id of a job: two capital letters, a hyphen and 12 hex digits", j.GetJobId())
	case j.GetType() == "":
		return refuse(dberr.InvalidArgument, "job %s has no type", j.GetJobId())
	case j.GetMaxRetries() > jobRetriesMax:
		return refuse(dberr.LimitExceeded, "job %s asks for %d retries, the limit is %d (jobRetriesMax)", j.GetJobId(), j.GetMaxRetries(), jobRetriesMax)
	case catalog.JobErases(j.GetType()) && !t.erases:
		return refuse(dberr.InvalidArgument, "job %s of type %s is made with what it erases only", j.GetJobId(), j.GetType())
	case j.GetTableId() != 0 && t.model.tables[j.GetTableId()] == nil:
		return refuse(dberr.TableNotFound, "Table '%s.%s' does not exist", j.GetNamespace(), j.GetTableName())
	}
	return checkJobTexts(j.GetJobId(), j.GetType(), j.GetNamespace(), j.GetTableName(), j.GetParameters(), j.GetIdempotencyKey(),
		j.GetCreatedBy(), j.GetMessage(), j.GetError())
}

func checkJobTexts(id string, texts ...string) error {
	for _, text := range texts {
		if len(text) > JobTextMax {
			return refuse(dberr.LimitExceeded, "job %s has a text of %d bytes, the limit is %d (JobTextMax)", id, len(text), JobTextMax)
		}
	}
	return nil
}

func validJobID(id string) bool {
	if len(id) != jobIDBytes || id[2] != '-' {
		return false
	}
	for i, c := range []byte(id) {
		letter, digit := c >= 'A' && c <= 'Z', c >= '0' && c <= '9' || c >= 'a' && c <= 'f'
		if i < 2 && !letter || i > 2 && !digit {
			return false
		}
	}
	return true
}

func (t *transaction) makeJobBuckets() error {
	for _, name := range [][]byte{bucketJobs, bucketJobsOpen, bucketJobsEnded} {
		if _, err := t.tx.CreateBucketIfNotExists(name); err != nil {
			return err
		}
	}
	return nil
}

func (t *transaction) updateJob(c *catalogv1.UpdateJob) (*catalogv1.ApplyResponse, error) {
	if b := t.bucket(bucketJobs); b == nil || b.Get([]byte(c.GetJobId())) == nil {
		return nil, refuse(dberr.NotFound, "there is no job %s", c.GetJobId())
	}
	j, err := readJob(t.tx, c.GetJobId())
	if err != nil {
		return nil, err
	}
	if err := checkJobMove(j, c); err != nil {
		return nil, err
	}
	if c.GetMessage() != "" {
		j.Message = c.GetMessage()
	}
	if c.GetError() != "" {
		j.Error = c.GetError()
	}
	if c.GetProgress() != nil {
		j.Progress = c.GetProgress()
	}
	switch c.GetStatus() {
	case catalogv1.JobStatus_JOB_STATUS_RUNNING:
		j.NodeId = c.GetNodeId()
		if j.GetStartedAtUs() == 0 {
			j.StartedAtUs = t.now
		}
	case catalogv1.JobStatus_JOB_STATUS_RETRYING:
		j.RetryCount++
	}
	j.Status, j.UpdatedAtUs = c.GetStatus(), t.now
	if catalog.JobEnded(j.GetStatus()) {
		return t.endJob(j)
	}
	return t.storeJob(j)
}

func checkJobMove(j *catalogv1.Job, c *catalogv1.UpdateJob) error {
	from, known := jobMoves[c.GetStatus()]
	switch {
	case !known:
		return refuse(dberr.InvalidArgument, "a job cannot be given status %d", c.GetStatus())
	case catalog.JobEnded(j.GetStatus()):
		return refuse(dberr.InvalidOperation, "job %s is %s: a job that has ended does not change", j.GetJobId(), catalog.JobStatusName(j.GetStatus()))
	case c.GetStatus() == catalogv1.JobStatus_JOB_STATUS_CANCELLED && catalog.JobErases(j.GetType()):
		return refuse(dberr.InvalidOperation, "job %s erases a user, whose account is closed for good: it cannot be cancelled", j.GetJobId())
	case !slices.Contains(from, j.GetStatus()):
		return refuse(dberr.InvalidOperation, "job %s is %s and cannot become %s", j.GetJobId(), catalog.JobStatusName(j.GetStatus()), catalog.JobStatusName(c.GetStatus()))
	case c.GetStatus() == catalogv1.JobStatus_JOB_STATUS_RETRYING && j.GetRetryCount() >= j.GetMaxRetries() && !catalog.JobErases(j.GetType()):
		return refuse(dberr.InvalidOperation, "job %s was tried %d times more, which is all it may", j.GetJobId(), j.GetRetryCount())
	}
	return checkJobTexts(c.GetJobId(), c.GetMessage(), c.GetError())
}

// storeJob writes a job. Progress wakes nobody: who runs the job knows it.
func (t *transaction) storeJob(j *catalogv1.Job) (*catalogv1.ApplyResponse, error) {
	t.wakeJobs = t.wakeJobs || j.GetStatus() != catalogv1.JobStatus_JOB_STATUS_RUNNING
	resp := changed()
	resp.Job = j
	return resp, putMessage(t.bucket(bucketJobs), []byte(j.GetJobId()), j)
}

// endJob writes a job that has ended and forgets the oldest one above jobsEndedMax: here, where every replica does it.
func (t *transaction) endJob(j *catalogv1.Job) (*catalogv1.ApplyResponse, error) {
	j.FinishedAtUs = t.now
	if j.GetType() == catalog.JobRestore { // what it has not made visible, nobody will
		if _, err := t.abandonRestore(j.GetJobId()); err != nil {
			return nil, err
		}
	}
	open, ended, meta := t.bucket(bucketJobsOpen), t.bucket(bucketJobsEnded), t.bucket(bucketMeta)
	if err := open.Delete([]byte(j.GetIdempotencyKey())); err != nil {
		return nil, err
	}
	if err := putNumber(meta, keyJobsOpen, number(meta, keyJobsOpen)-1); err != nil {
		return nil, err
	}
	mark := append(binary.BigEndian.AppendUint64(nil, t.index), j.GetJobId()...) // one entry may end several
	if err := ended.Put(mark, endedMark); err != nil {
		return nil, err
	}
	n := number(meta, keyJobsEnded) + 1
	for ; n > jobsEndedMax; n-- {
		oldest, _ := ended.Cursor().First()
		if len(oldest) <= 8 {
			return nil, dberr.New(dberr.Corrupt, "the catalog counts %d ended jobs and does not list them", n)
		}
		if err := t.bucket(bucketJobs).Delete(oldest[8:]); err != nil {
			return nil, err
		}
		if err := ended.Delete(oldest); err != nil {
			return nil, err
		}
	}
	if err := putNumber(meta, keyJobsEnded, n); err != nil {
		return nil, err
	}
	return t.storeJob(j)
}

// cancelJobs ends the jobs of a table that goes: what they would work on is not there any more.
func (t *transaction) cancelJobs(table *catalogv1.Table) error {
	open := t.bucket(bucketJobsOpen)
	if open == nil {
		return nil
	}
	var jobs []*catalogv1.Job // a bucket must not change under its cursor
	err := open.ForEach(func(_, id []byte) error {
		j, err := readJob(t.tx, string(id))
		if err == nil && j.GetTableId() == table.GetId() {
			jobs = append(jobs, j)
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, j := range jobs {
		j.Status, j.UpdatedAtUs = catalogv1.JobStatus_JOB_STATUS_CANCELLED, t.now
		j.Message = "cancelled: the table was dropped"
		if _, err := t.endJob(j); err != nil {
			return err
		}
	}
	return nil
}
