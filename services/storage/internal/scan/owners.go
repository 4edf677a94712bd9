package scan

import (
	"bytes"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/partition"
	exprv1 "github.com/kalamdb/kalamdb-go/proto/expr/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
)

// A scan over all users of a table reads the shard's partitions one after the other, which is the order of
// (_user_id, primary key). It looks each owner up once, and skips the partitions of owners the caller may not act
// for (the matrix of EXECUTE AS).

// authorizeAll lets roles above user read across users, in USER tables.
func authorizeAll(t *catalog.Table, req *storagev1.ScanRequest) error {
	switch role := catalog.Role(req.GetIdentity().GetRole()); {
	case t.Kind != catalog.UserTable:
		return dberr.New(dberr.InvalidOperation, "scan: %s is a %s table: only USER tables are read across users", t.QualifiedName(), t.Kind)
	case req.GetUserId() != "":
		return dberr.New(dberr.InvalidArgument, "scan: either one user's rows or those of all users")
	case role < catalog.RoleService || role > catalog.RoleSystem:
		return dberr.New(dberr.PermissionDenied, "scan: reading across users needs the role service, dba or system, not %s", role)
	}
	return nil
}

// authorizePartitioned: a scan of a partitioned table names one of its partitions, or reads all that the shard has.
func authorizePartitioned(t *catalog.Table, req *storagev1.ScanRequest) error {
	if req.GetAllUsers() && req.GetUserId() == "" {
		return nil
	}
	if _, ok := partition.Parse(t, req.GetUserId()); !ok || req.GetAllUsers() {
		return dberr.New(dberr.InvalidArgument, "scan: %s is partitioned: either one of its partitions or all of them", t.QualifiedName())
	}
	return nil
}

// mayActFor is the matrix of EXECUTE AS for a role that authorizeAll let through. An owner who is unknown or
// was dropped is the administrators' business.
func mayActFor(caller, owner catalog.Role, exists bool) bool {
	if !exists {
		return caller.Admin()
	}
	return caller == catalog.RoleSystem || owner <= caller
}

// ownedRows are the rows of partitions whose owners the caller may act for.
type ownedRows struct {
	storedOrMerged
	shards Shards
	// open reports whether a user's account is not closed for good.
	open   func(user string) bool
	caller catalog.Role
	// partition is the prefix of the current partition's keys, owner its owner.
	partition []byte
	owner     datum.Datum
}

func (o *ownedRows) next() ([]byte, keycodec.Version, bool, error) {
	for {
		key, v, ok, err := o.storedOrMerged.next()
		if err != nil || !ok || o.partition != nil && bytes.HasPrefix(key, o.partition) {
			return key, v, ok, err
		}
		allowed, err := o.enterPartition(key)
		if err != nil {
			return nil, keycodec.Version{}, false, err
		}
		if allowed {
			return key, v, true, nil
		}
	}
}

// enterPartition looks at the owner of a key's partition, and when the caller may not read it goes behind it.
func (o *ownedRows) enterPartition(key []byte) (allowed bool, err error) {
	prefix, user, err := keycodec.UserOf(key)
	if err != nil {
		return false, err
	}
	role, exists, err := o.shards.RoleOf(user)
	if err != nil {
		return false, err
	}
	o.partition = append(o.partition[:0], prefix...)
	if o.open(user) && mayActFor(o.caller, role, exists) {
		o.owner = datum.Text(user)
		return true, nil
	}
	o.skip(o.partition)
	o.partition = nil
	return false, nil
}

// user is the owner of the row last returned.
func (o *ownedRows) user() datum.Datum { return o.owner }

// byOwnerAndKey reports whether order is what keys give across users: the owner, then the primary key's
// columns, in one direction.
func (p *plan) byOwnerAndKey(order []*exprv1.OrderBy) bool {
	if len(order) == 0 {
		return true
	}
	if order[0].GetColumnId() != catalog.UserIDColumnID || !p.table.Kind.PerUser() {
		return false
	}
	for i, column := range p.table.Key() {
		if i+1 == len(order) { // ties come in ascending order of the primary key
			return !order[0].GetDescending()
		}
		o := order[i+1]
		if o.GetColumnId() != p.table.Columns[column].ID || o.GetDescending() != order[0].GetDescending() {
			return false
		}
	}
	return true
}
